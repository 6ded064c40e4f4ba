//! Peak memory of a process and of those it starts, read from `/proc` while they run.
//!
//! It reads `VmHWM`, the peak resident memory of a process. The kernel maintains it, so that
//! sampling once a millisecond misses only growth in the last millisecond. Peaks of several
//! processes are added up although they may be at different times, and pages that two of them share
//! count twice: the sum is an upper bound. Starts that are sampled are not timed.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cold::Starter;
use crate::inputs::Case;
use crate::measure::Samples;
use crate::options::Options;
use crate::report::{Kind, Table};
use crate::{MIB, say};

/// Rounds: memory varies least.
const MEMORY: usize = 3;

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

/// Peak memory of cold starts.
pub(crate) fn table(
    options: &Options,
    cases: &[Case],
    starters: &[Starter],
    linear_memory: &[Samples],
) -> Result<Table> {
    let mut columns: Vec<_> = starters.iter().map(Starter::column).collect();
    let details = ["Belljar's supervisor", "Belljar's worker", "linear memory", "model file"];
    columns.extend(details.map(|detail| (detail.to_owned(), Kind::Detail)));
    let mut rows = Vec::new();
    for (at, case) in cases.iter().enumerate() {
        // Empty if runs were not measured.
        let linear = linear_memory.get(at).cloned().unwrap_or_default();
        let mut sums = vec![Samples::default(); starters.len()];
        let (mut supervisor, mut worker) = (Samples::default(), Samples::default());
        for _ in 0..options.rounds(MEMORY) {
            for (starter, samples) in starters.iter().zip(&mut sums) {
                let named = || format!("{} on {}", starter.name(), case.name);
                let peak = peak(starter.command(case)?).with_context(named)?;
                samples.0.push(peak.sum() as f64 / MIB);
                if starter.name() == "Belljar" {
                    supervisor.0.push(peak.first as f64 / MIB);
                    worker.0.push(peak.others as f64 / MIB);
                }
            }
        }
        let file = Samples(vec![case.model_size()? as f64 / MIB]);
        sums.extend([supervisor, worker, linear, file]);
        rows.push((case.name.clone(), sums));
    }
    say("measured peak memory");
    Ok(Table {
        id: "memory",
        title: "Peak memory of a cold start",
        unit: "MiB",
        note: "Peak resident memory (VmHWM) of the processes of a cold start; for Belljar the \
               peaks of supervisor and worker added up, so that pages they share count twice. It \
               excludes memory files that no process maps, such as Belljar's file with the \
               model's bytes. Linear memory is the size of the sandbox's memory; the touched part \
               of it counts in the worker.",
        columns,
        rows,
    })
}

/// Runs the command to its end and samples its memory.
pub(crate) fn peak(mut command: Command) -> Result<Peak> {
    let mut child = command.stdout(Stdio::null()).spawn()?;
    let first = child.id();
    let mut peaks = BTreeMap::new();
    let status = loop {
        sample(first, &[], &mut peaks);
        if let Some(status) = child.try_wait()? {
            break status;
        }
        thread::sleep(Duration::from_millis(1));
    };
    if !status.success() {
        bail!("the process ended with {status}");
    }
    let first =
        peaks.remove(&first).context("the process ended before its memory could be sampled")?;
    Ok(Peak { first, others: peaks.values().sum() })
}

/// Records the peak of the process and its descendants; those that have ended keep their last one.
fn sample(process: u32, parent: &[u8], peaks: &mut BTreeMap<u32, u64>) {
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
        sample(child, &command_line, peaks);
    }
}

fn high_water_mark(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    parse_high_water_mark(&status)
}

/// `None` for a process that has ended and was not waited for yet.
fn parse_high_water_mark(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// A child belongs to the thread that started it.
pub(crate) fn children(process: u32) -> Vec<u32> {
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
    fn high_water_mark_and_child_ids_are_parsed() {
        let status = "Name:\tx\nVmPeak:\t  99 kB\nVmHWM:\t    1500 kB\n";
        assert_eq!(parse_high_water_mark(status), Some(1500 * 1024));
        assert_eq!(parse_high_water_mark("Name:\tx\nState:\tZ (zombie)\n"), None);
        assert_eq!(parse_ids("12 345 \n"), [12, 345]);
    }

    #[test]
    fn memory_of_grandchildren_is_counted() {
        let mut shell = Command::new("sh");
        shell.args(["-c", "sleep 0.2; true"]);
        let peak = peak(shell).expect("sh runs everywhere");
        assert!(peak.first > 0 && peak.others > 0, "{peak:?}");
    }
}
