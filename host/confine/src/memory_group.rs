//! The memory that this process and its workers share: how much is available, and whether the
//! kernel has killed a process because it ran out.
//!
//! Both come from the control group of this process, in either version of control groups. If no
//! group is visible, the machine's numbers are used.

use std::fs;
use std::path::{Path, PathBuf};

/// Files of a control group, by version.
#[derive(Clone, Copy, Debug)]
struct Names {
    limit: &'static str,
    /// The file with a line `oom_kill COUNT`.
    events: &'static str,
}

const VERSION_1: Names = Names { limit: "memory.limit_in_bytes", events: "memory.oom_control" };
const VERSION_2: Names = Names { limit: "memory.max", events: "memory.events" };

/// The total memory of a set of processes, and what limits it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Available {
    pub bytes: u64,
    pub what: String,
}

/// The memory of the machine, or of the control group where that has less.
pub fn available() -> Option<Available> {
    let physical = fs::read_to_string("/proc/meminfo").ok().and_then(|text| physical(&text));
    let physical =
        physical.map(|bytes| Available { bytes, what: "the memory of this machine".to_owned() });
    [limit(), physical].into_iter().flatten().min_by_key(|available| available.bytes)
}

/// The lowest limit of this process's control group and its ancestors.
pub fn limit() -> Option<Available> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let files = groups.lines().filter_map(group).flat_map(|(folder, group, names)| {
        // In a container the path may be relative to the machine's root, so missing files are
        // skipped.
        group.ancestors().map(|group| folder.join(group).join(names.limit)).collect::<Vec<_>>()
    });
    let limits = files.filter_map(|file| {
        let bytes: u64 = fs::read_to_string(&file).ok()?.trim().parse().ok()?;
        // Version 1 uses a huge number for "no limit".
        (bytes < 1 << 62).then(|| Available { bytes, what: file.display().to_string() })
    });
    limits.min_by_key(|available| available.bytes)
}

/// The kernel's count of processes that it has killed because memory ran out, at some time.
#[derive(Debug)]
pub(super) struct OomKills {
    file: PathBuf,
    count: u64,
}

impl OomKills {
    /// The count of this process's control group, or of the machine; `None` if the kernel shows
    /// neither. Workers are in the same group.
    pub(super) fn now() -> Option<OomKills> {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let of_groups = groups.lines().filter_map(group).flat_map(|(folder, group, names)| {
            group.ancestors().map(|group| folder.join(group).join(names.events)).collect::<Vec<_>>()
        });
        let files = of_groups.chain([PathBuf::from("/proc/vmstat")]);
        files.into_iter().find_map(|file| Some(OomKills { count: count(&file)?, file }))
    }

    /// Whether the kernel has killed a process since; `None` if the count can no longer be read.
    pub(super) fn have_grown(&self) -> Option<bool> {
        count(&self.file).map(|count| count > self.count)
    }

    #[cfg(test)]
    fn in_file(file: &Path) -> Option<OomKills> {
        Some(OomKills { count: count(file)?, file: file.to_owned() })
    }
}

fn count(file: &Path) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

/// Bytes of memory, from the text of `/proc/meminfo`.
fn physical(text: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Where the files for a line of `/proc/self/cgroup` are, if the line covers memory: version 2 has
/// one line for everything, version 1 has one for each controller.
fn group(line: &str) -> Option<(&'static Path, &Path, Names)> {
    let (_, rest) = line.split_once(':')?;
    let (controllers, path) = rest.split_once(':')?;
    let path = Path::new(path.strip_prefix('/')?);
    match controllers {
        "" => Some((Path::new("/sys/fs/cgroup"), path, VERSION_2)),
        "memory" => Some((Path::new("/sys/fs/cgroup/memory"), path, VERSION_1)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_groups_are_found() {
        let found = |line| {
            group(line).map(|(folder, path, names)| {
                let path = folder.join(path);
                [names.limit, names.events].map(|name| path.join(name).display().to_string())
            })
        };
        let second = ["/sys/fs/cgroup/a/b/memory.max", "/sys/fs/cgroup/a/b/memory.events"];
        assert_eq!(found("0::/a/b").unwrap(), second);
        let first = [
            "/sys/fs/cgroup/memory/a/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/a/memory.oom_control",
        ];
        assert_eq!(found("4:memory:/a").unwrap(), first);
        assert_eq!(found("3:cpuset:/a"), None);
        assert_eq!(found("nonsense"), None);
    }

    #[test]
    fn new_out_of_memory_kills_are_detected_in_every_format() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("events");
        for text in [
            "low 0\nhigh 0\nmax 7\noom 9\noom_kill N\noom_group_kill 0\n",
            "oom_kill_disable 0\nunder_oom 0\noom_kill N\n",
            "nr_free_pages 3\noom_kill N\n",
        ] {
            fs::write(&file, text.replace('N', "3")).unwrap();
            let before = OomKills::in_file(&file).unwrap();
            assert_eq!(before.have_grown(), Some(false));
            fs::write(&file, text.replace('N', "4")).unwrap();
            assert_eq!(before.have_grown(), Some(true));
            fs::remove_file(&file).unwrap();
            assert_eq!(before.have_grown(), None);
        }
    }

    #[test]
    fn the_memory_of_this_machine_is_found() {
        assert_eq!(physical("MemTotal:       24 kB\nMemFree: 1 kB\n"), Some(24 << 10));
        assert_eq!(physical("MemFree: 1 kB\n"), None);
        assert!(available().is_some_and(|available| available.bytes > 1 << 20));
    }
}
