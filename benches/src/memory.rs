//! Peak memory of a process and of those it starts, read from `/proc` while they run.
//!
//! What is read is `VmHWM`, the most memory a process has had resident: the kernel keeps it, so
//! that looking once a millisecond misses nothing but growth in the last one. Peaks of several
//! processes are added up although they may be at different times, and pages that two of them share
//! count twice: the sum is an upper bound. Starts that are looked at are not timed.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Peak resident memory in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Peak {
    /// Of the process that was started.
    pub(crate) first: u64,
    /// Of all its descendants together.
    pub(crate) others: u64,
}

impl Peak {
    pub(crate) fn sum(self) -> u64 {
        self.first.saturating_add(self.others)
    }
}

/// Runs the command to its end and looks at its memory.
pub(crate) fn peak(mut command: Command) -> Result<Peak> {
    let mut child = command.stdout(Stdio::null()).spawn()?;
    let first = child.id();
    let mut peaks = BTreeMap::new();
    let status = loop {
        look(first, &[], &mut peaks);
        if let Some(status) = child.try_wait()? {
            break status;
        }
        thread::sleep(Duration::from_millis(1));
    };
    if !status.success() {
        bail!("it ended with {status}");
    }
    let first = peaks.remove(&first).context("it ended before its memory could be looked at")?;
    Ok(Peak { first, others: peaks.values().sum() })
}

/// Notes the peak of the process and its descendants; those that have ended keep their last one.
fn look(process: u32, parent: &[u8], peaks: &mut BTreeMap<u32, u64>) {
    let Ok(command_line) = fs::read(format!("/proc/{process}/cmdline")) else { return };
    // Between fork and exec a child has its parent's memory, and its arguments too.
    if command_line == parent {
        return;
    }
    if let Some(bytes) = high_water_mark(process) {
        let peak = peaks.entry(process).or_default();
        *peak = bytes.max(*peak);
    }
    for child in children(process) {
        look(child, &command_line, peaks);
    }
}

fn high_water_mark(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    parse_high_water_mark(&status)
}

/// Nothing for a process that has ended and was not waited for yet.
fn parse_high_water_mark(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// A child belongs to the thread that started it.
fn children(process: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{process}/task")) else { return Vec::new() };
    let lists = threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists.flat_map(|list| parse_ids(&list)).collect()
}

fn parse_ids(list: &str) -> Vec<u32> {
    list.split_ascii_whitespace().filter_map(|id| id.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_read() {
        let status = "Name:\tx\nVmPeak:\t  99 kB\nVmHWM:\t    1500 kB\n";
        assert_eq!(parse_high_water_mark(status), Some(1500 * 1024));
        assert_eq!(parse_high_water_mark("Name:\tx\nState:\tZ (zombie)\n"), None);
        assert_eq!(parse_ids("12 345 \n"), [12, 345]);
    }

    #[test]
    fn a_child_of_a_child_is_counted() {
        let mut shell = Command::new("sh");
        shell.args(["-c", "sleep 0.2; true"]);
        let peak = peak(shell).expect("sh runs everywhere");
        assert!(peak.first > 0 && peak.others > 0, "{peak:?}");
    }
}
