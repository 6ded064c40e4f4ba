//! Checks a worker's report about its confinement against what `/proc` shows about it.
//!
//! This covers capabilities, `no_new_privs` and seccomp filters. The kernel does not show Landlock
//! and resource limits, or not to every user.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use super::layers::{Layer, MissingLayer};

/// Maximum number of bytes read from a file in `/proc`.
const MAX_LEN: usize = 8 << 10;

/// The status of one process. The open file stays bound to that process, even if its pid is reused.
pub(super) struct Status {
    file: File,
}

impl Status {
    /// Opens the status of the process of this descriptor. Call it before the process becomes
    /// non-dumpable: where `/proc` is mounted with `hidepid`, it is invisible afterwards.
    pub(super) fn open(pidfd: BorrowedFd<'_>) -> io::Result<Status> {
        // The pid in the PID namespace of the `/proc` mount, which may differ from ours.
        let about = File::open(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
        let pid: i32 = number(&read(&about)?, "Pid").ok_or(io::ErrorKind::NotFound)?;
        Ok(Status { file: File::open(format!("/proc/{pid}/status"))? })
    }

    /// The layers of a confined process that this one does not show. `filters` is the number of
    /// seccomp filters of its supervisor, which it inherits.
    pub(super) fn missing_layers(&self, filters: Option<u32>) -> io::Result<Vec<MissingLayer>> {
        Ok(missing_layers(&read(&self.file)?, filters))
    }
}

/// How many seccomp filters this thread has. Processes that it starts inherit them.
pub(super) fn own_filters() -> Option<u32> {
    filters(&read(&File::open("/proc/thread-self/status").ok()?).ok()?)
}

/// Available since Linux 5.9.
fn filters(status: &str) -> Option<u32> {
    number(status, "Seccomp_filters")
}

fn missing_layers(status: &str, filters_before: Option<u32>) -> Vec<MissingLayer> {
    let mut missing = Vec::new();
    let mut add = |layer, what: &str| {
        missing.push(MissingLayer::new(layer, format!("according to /proc, {what}")));
    };
    if number(status, "NoNewPrivs") != Some(1) {
        add(Layer::Privileges, "the worker can gain privileges by starting a program");
    }
    let set = |name| field(status, name).and_then(|set| u64::from_str_radix(set, 16).ok());
    if ["CapInh", "CapPrm", "CapEff", "CapAmb"].into_iter().any(|name| set(name) != Some(0)) {
        add(Layer::Privileges, "the worker has capabilities");
    }
    // Mode 2 is a filter. A worker must have more filters than it inherits from its supervisor.
    let more = match (filters(status), filters_before) {
        (Some(now), Some(before)) => now > before,
        _ => true,
    };
    if number(status, "Seccomp") != Some(2) || !more {
        add(Layer::Seccomp, "the worker has no seccomp filter of its own");
    }
    missing
}

fn read(file: &File) -> io::Result<String> {
    let mut bytes = vec![0; MAX_LEN];
    let mut len = 0;
    while let Some(rest) = bytes.get_mut(len..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, len as u64)? {
            0 => break,
            count => len += count,
        }
    }
    bytes.truncate(len);
    // The process name in the file may be invalid UTF-8.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The value of the line with this name. The kernel escapes line breaks in process names.
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
        missing_layers(status, before).into_iter().map(|missing| missing.layer).collect()
    }

    #[test]
    fn no_layer_is_missing_from_a_confined_process() {
        for before in [None, Some(0), Some(1)] {
            assert_eq!(layers(CONFINED, before), []);
        }
        let old = CONFINED.replace("Seccomp_filters:\t3\n", "");
        assert_eq!(layers(&old, None), []);
    }

    #[test]
    fn each_missing_layer_is_found() {
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
        // Inherited filters do not count as the worker's own.
        assert_eq!(layers(CONFINED, Some(3)), [Layer::Seccomp]);
        assert_eq!(layers("", None).len(), 3);
    }

    #[test]
    fn an_unconfined_process_lacks_its_own_seccomp_filter() {
        let pid = rustix::process::getpid();
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
        let status = Status::open(std::os::fd::AsFd::as_fd(&pidfd)).unwrap();
        // Filters that the test runner has set are counted as inherited.
        let missing = status.missing_layers(own_filters()).unwrap();
        assert!(missing.iter().any(|missing| missing.layer == Layer::Seccomp), "{missing:?}");
    }
}
