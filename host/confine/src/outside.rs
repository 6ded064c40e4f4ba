//! What the kernel shows of a worker to everybody: held against what the worker says of itself.
//!
//! This sees capabilities, new privileges and filters of system calls. Landlock and limits the
//! kernel does not show, or not to everybody.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use super::layers::{Layer, MissingLayer};

/// Longest that the kernel's text about a process is taken to be, in bytes.
const LONGEST: usize = 8 << 10;

/// The status of one process, which no other one can take the place of.
pub(super) struct Status {
    file: File,
}

impl Status {
    /// Of the process of this descriptor. To be asked before the process hides itself: where `/proc`
    /// is mounted with `hidepid`, it is not found later.
    pub(super) fn open(pidfd: BorrowedFd<'_>) -> io::Result<Status> {
        // The number that the process has where `/proc` was mounted, which need not be here.
        let about = File::open(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
        let pid: i32 = number(&read(&about)?, "Pid").ok_or(io::ErrorKind::NotFound)?;
        Ok(Status { file: File::open(format!("/proc/{pid}/status"))? })
    }

    /// Layers that a confined process must show, and this one does not. `filters` is how many
    /// filters of system calls its supervisor is under itself.
    pub(super) fn lacks(&self, filters: Option<u32>) -> io::Result<Vec<MissingLayer>> {
        Ok(lacks(&read(&self.file)?, filters))
    }
}

/// How many filters of system calls this thread is under, and what it starts from now on.
pub(super) fn own_filters() -> Option<u32> {
    filters(&read(&File::open("/proc/thread-self/status").ok()?).ok()?)
}

/// Linux says so since 5.9.
fn filters(status: &str) -> Option<u32> {
    number(status, "Seccomp_filters")
}

fn lacks(status: &str, filters_before: Option<u32>) -> Vec<MissingLayer> {
    let mut lacks = Vec::new();
    let mut lack = |layer, what: &str| {
        lacks.push(MissingLayer::new(layer, format!("seen from outside, {what}")));
    };
    if number(status, "NoNewPrivs") != Some(1) {
        lack(Layer::Privileges, "the worker can gain privileges by starting a program");
    }
    let none = |name| field(status, name).and_then(|set| u64::from_str_radix(set, 16).ok());
    if ["CapInh", "CapPrm", "CapEff", "CapAmb"].into_iter().any(|name| none(name) != Some(0)) {
        lack(Layer::Privileges, "the worker has capabilities");
    }
    // Mode 2 is a filter. Whatever its supervisor runs under, a worker is under more of them.
    let more = match (filters(status), filters_before) {
        (Some(now), Some(before)) => now > before,
        _ => true,
    };
    if number(status, "Seccomp") != Some(2) || !more {
        lack(Layer::Seccomp, "the worker is under no filter of system calls of its own");
    }
    lacks
}

fn read(file: &File) -> io::Result<String> {
    let mut bytes = vec![0; LONGEST];
    let mut len = 0;
    while let Some(rest) = bytes.get_mut(len..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, len as u64)? {
            0 => break,
            count => len += count,
        }
    }
    bytes.truncate(len);
    // A process may have any name.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The value of the line of this name. The kernel escapes line breaks in what a process chooses.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let value = |line: &'a str| line.strip_prefix(name)?.strip_prefix(':');
    text.lines().find_map(value).map(str::trim)
}

fn number<T: std::str::FromStr>(text: &str, name: &str) -> Option<T> {
    field(text, name)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFINED: &str = "Name:\tbell\\nSeccomp:\t0\nCapInh:\t0000000000000000\n\
        CapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t000001ffffffffff\n\
        CapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t3\n";

    fn layers(status: &str, before: Option<u32>) -> Vec<Layer> {
        lacks(status, before).into_iter().map(|missing| missing.layer).collect()
    }

    #[test]
    fn what_a_confined_process_shows_is_enough() {
        for before in [None, Some(0), Some(1)] {
            assert_eq!(layers(CONFINED, before), []);
        }
        let old = CONFINED.replace("Seccomp_filters:\t3\n", "");
        assert_eq!(layers(&old, None), []);
    }

    #[test]
    fn each_thing_that_is_missing_is_seen() {
        let without = |from: &str, to: &str| CONFINED.replace(from, to);
        let privileges = [
            without("NoNewPrivs:\t1", "NoNewPrivs:\t0"),
            without("NoNewPrivs:\t1\n", ""),
            without("CapEff:\t0000000000000000", "CapEff:\t0000000000000001"),
            without("CapPrm:\t0000000000000000", "CapPrm:\t000001ffffffffff"),
            without("CapInh:\t0000000000000000", "CapInh:\tnonsense"),
            without("CapAmb:\t0000000000000000\n", ""),
        ];
        for status in &privileges {
            assert_eq!(layers(status, Some(0)), [Layer::Privileges], "{status}");
        }
        for status in [without("\nSeccomp:\t2", "\nSeccomp:\t0"), without("\nSeccomp:\t2", "")] {
            assert_eq!(layers(&status, None), [Layer::Seccomp], "{status}");
        }
        // Its supervisor's own filters are not the worker's.
        assert_eq!(layers(CONFINED, Some(3)), [Layer::Seccomp]);
        assert_eq!(layers("", None).len(), 3);
    }

    #[test]
    fn this_process_is_seen_as_it_is() {
        let pid = rustix::process::getpid();
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
        let status = Status::open(std::os::fd::AsFd::as_fd(&pidfd)).unwrap();
        // Whatever runs the tests, it is under no filter that it does not know of.
        let lacks = status.lacks(own_filters()).unwrap();
        assert!(lacks.iter().any(|missing| missing.layer == Layer::Seccomp), "{lacks:?}");
    }
}
