//! Resident memory of this process and its workers, as the kernel counts it.
//!
//! Any process may read the RSS of another one; it counts a shared page in each process. PSS counts
//! a shared page proportionally, but the kernel may deny access to the PSS of another process.

use std::fs;
use std::path::Path;

use crate::args::IsolationArg;

/// Resident memory in bytes; `None` if it could not be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Resident {
    pub(super) rss: Option<u64>,
    pub(super) pss: Option<u64>,
    pub(super) workers: usize,
}

impl Resident {
    /// Reads the memory of this process and its workers. All children of this process are workers.
    pub(super) fn look(isolation: IsolationArg) -> Resident {
        let children = match isolation {
            IsolationArg::Process => children(),
            IsolationArg::Thread => Some(Vec::new()),
        };
        // If the kernel does not list children, a sum without them would be wrong.
        let Some(children) = children else { return Resident::default() };
        let own = std::process::id();
        let all = || std::iter::once(own).chain(children.iter().copied());
        Resident {
            rss: all().map(|id| field(id, "status", "VmRSS:")).sum(),
            pss: all().map(|id| field(id, "smaps_rollup", "Pss:")).sum(),
            workers: children.len(),
        }
    }
}

/// The children of all threads, because a child belongs to the thread that started it. `None` if
/// the kernel does not list them.
fn children() -> Option<Vec<u32>> {
    let mut found = Vec::new();
    for thread in fs::read_dir("/proc/self/task").ok()?.flatten() {
        // A thread that has just ended passed its children to another thread, which may have been
        // read already. No result is better than a wrong sum.
        found.extend(parse_ids(&fs::read_to_string(thread.path().join("children")).ok()?));
    }
    Some(found)
}

fn parse_ids(list: &str) -> impl Iterator<Item = u32> + '_ {
    list.split_ascii_whitespace().filter_map(|id| id.parse().ok())
}

fn field(process: u32, file: &str, key: &str) -> Option<u64> {
    let path = Path::new("/proc").join(process.to_string()).join(file);
    parse_field(&fs::read_to_string(path).ok()?, key)
}

/// A line such as `VmRSS:     1500 kB`, in bytes.
fn parse_field(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_read() {
        let status = "Name:\tx\nVmHWM:\t  99 kB\nVmRSS:\t    1500 kB\n";
        assert_eq!(parse_field(status, "VmRSS:"), Some(1500 * 1024));
        assert_eq!(parse_field("State:\tZ (zombie)\n", "VmRSS:"), None);
        assert_eq!(parse_field("VmRSS: 99999999999999999999 kB\n", "VmRSS:"), None);
        assert_eq!(parse_ids("12 345 \n").collect::<Vec<_>>(), [12, 345]);
    }

    #[test]
    fn this_process_is_resident() {
        let resident = Resident::look(IsolationArg::Thread);
        assert!(resident.rss.is_some_and(|rss| rss > 1 << 20), "{resident:?}");
        assert_eq!(resident.workers, 0);
    }
}
