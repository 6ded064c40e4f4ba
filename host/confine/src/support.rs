//! Reports which features the kernel of this machine has, to explain why something is refused or
//! slow. No decision may depend on it: each worker reports its own layers.
//!
//! `unsafe` is needed for system calls without a safe wrapper.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, ResolveFlags, SealFlags};
use rustix::process::Resource;

use super::memory_group;

/// A feature that is present or not.
#[derive(Clone, Debug)]
pub struct Finding {
    pub what: &'static str,
    pub present: bool,
    /// Details of the feature, or why it is missing.
    pub found: String,
    /// The consequence if it is missing.
    pub without: &'static str,
    /// Whether a strict policy refuses models without it.
    pub needed: bool,
}

impl Finding {
    pub fn new(
        what: &'static str,
        found: Result<String, impl ToString>,
        without: &'static str,
    ) -> Finding {
        let present = found.is_ok();
        let found = found.unwrap_or_else(|err| err.to_string());
        Finding { what, present, found, without, needed: false }
    }

    pub fn needed(self) -> Finding {
        Finding { needed: true, ..self }
    }
}

/// All findings about the kernel.
pub fn findings() -> Vec<Finding> {
    let mut all = vec![Finding::new("Linux", version(), "")];
    all.extend(landlock());
    all.extend(seccomp());
    all.push(namespaces());
    all.extend(memory_files());
    all.push(Finding::new("openat2", openat2(), "guest programs cannot open granted files"));
    all.push(Finding::new(
        "userfaultfd",
        userfaultfd(),
        "nothing: Belljar does not use it, and denies it to sandboxes",
    ));
    all.push(Finding::new(
        "RLIMIT_DATA",
        data_limit(),
        "only the sandbox's own limiter bounds its memory",
    ));
    all.push(Finding::new(
        "memory limit (cgroup)",
        memory_limit(),
        "the total memory of all sandboxes has no limit",
    ));
    all.push(Finding::new(
        "out-of-memory kills",
        out_of_memory_count(),
        "every SIGKILL of a worker is assumed to be one, and none counts towards quarantine",
    ));
    let processors = std::thread::available_parallelism();
    let processors = processors.map(|count| count.to_string());
    all.push(Finding::new("processors", processors, "one is assumed"));
    all
}

fn version() -> io::Result<String> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    Ok(format!("{}, {}", release.trim(), std::env::consts::ARCH))
}

/// The version of Landlock's ABI, from 1.
fn landlock_abi() -> io::Result<i64> {
    const VERSION: libc::c_uint = 1 << 0;
    let none = std::ptr::null::<libc::c_void>();
    // SAFETY: with this flag the call reads no memory and creates nothing; it returns a number.
    let abi = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0_usize, VERSION) };
    match abi {
        ..=0 => Err(io::Error::last_os_error()),
        abi => Ok(abi),
    }
}

fn landlock() -> Vec<Finding> {
    let abi = landlock_abi().map_err(|err| match err.raw_os_error() {
        Some(libc::ENOSYS) => "this kernel, or the layer that emulates it, lacks it".to_owned(),
        Some(libc::EOPNOTSUPP) => {
            "it is not enabled (add it to `lsm=` on the kernel's command line)".to_owned()
        }
        _ => err.to_string(),
    });
    // The versions, as the kernel's Documentation/userspace-api/landlock.rst numbers them.
    let parts = [
        (4, "Landlock: TCP ports", "connections are refused by seccomp and namespaces only"),
        (5, "Landlock: ioctl on devices", "seccomp and the empty root remain"),
        (
            6,
            "Landlock: signals, abstract sockets",
            "signals to other processes are refused by seccomp and namespaces only",
        ),
    ];
    let all = Finding::new(
        "Landlock",
        abi.clone().map(|abi| format!("ABI version {abi}")),
        "access to files is restricted by seccomp and namespaces only",
    );
    let has = |since: i64| match &abi {
        Ok(abi) if *abi >= since => Ok(format!("since ABI version {since}")),
        _ => Err(format!("needs ABI version {since}")),
    };
    let parts = parts.map(|(since, what, without)| Finding::new(what, has(since), without));
    std::iter::once(all.needed()).chain(parts).collect()
}

fn seccomp() -> [Finding; 2] {
    let supports = |action: u32| {
        // SAFETY: the kernel reads the one number that the pointer refers to.
        let answer = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_GET_ACTION_AVAIL,
                0_usize,
                &raw const action,
            )
        };
        match answer {
            0 => Ok("available".to_owned()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    [
        Finding::new(
            "seccomp: kill the process",
            supports(libc::SECCOMP_RET_KILL_PROCESS),
            "native code in a worker may make any system call",
        )
        .needed(),
        Finding::new(
            "seccomp: return an error",
            supports(libc::SECCOMP_RET_ERRNO),
            "workers cannot start threads under a filter",
        )
        .needed(),
    ]
}

/// Which namespaces the kernel has. Whether it allows them only shows when a worker is started.
fn namespaces() -> Finding {
    let kinds = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"];
    let exists = |kind: &&str| Path::new("/proc/self/ns").join(kind).exists();
    let (here, missing): (Vec<&str>, Vec<&str>) = kinds.into_iter().partition(exists);
    // Settings with which distributions deny them to ordinary users.
    let forbid = [
        ("kernel/apparmor_restrict_unprivileged_userns", "1"),
        ("kernel/unprivileged_userns_clone", "0"),
        ("user/max_user_namespaces", "0"),
    ];
    let forbidden = forbid.into_iter().find(|(name, value)| {
        let text = std::fs::read_to_string(Path::new("/proc/sys").join(name));
        text.is_ok_and(|text| text.trim() == *value)
    });
    let found = match forbidden {
        _ if !missing.is_empty() => Err(format!("the kernel lacks {}", missing.join(", "))),
        Some((name, value)) if !rustix::process::geteuid().is_root() => {
            Err(format!("/proc/sys/{name} is {value}"))
        }
        _ => Ok(format!("the kernel has {}", here.join(", "))),
    };
    Finding::new(
        "namespaces",
        found,
        "workers have no empty root and no separate network: Landlock and seccomp remain",
    )
}

fn memory_files() -> [Finding; 2] {
    let plain = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let sealed = || {
        let fd = rustix::fs::memfd_create("belljar-doctor", plain)?;
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(fd.as_fd(), seals)
    };
    let never_run = rustix::fs::memfd_create("belljar-doctor", plain | MemfdFlags::NOEXEC_SEAL);
    [
        Finding::new(
            "memory files with seals",
            sealed().map(|()| "no writes, fixed size".to_owned()),
            "models and snapshots cannot be passed to workers",
        )
        .needed(),
        Finding::new(
            "memory files: not executable",
            never_run.map(|_| "MFD_NOEXEC_SEAL".to_owned()),
            "only seccomp and Landlock keep workers from executing one",
        ),
    ]
}

fn openat2() -> io::Result<String> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(CWD, ".", flags, Mode::empty(), resolve)?;
    Ok("below a folder, without links".into())
}

fn userfaultfd() -> io::Result<String> {
    const USER_MODE_ONLY: libc::c_int = 1;
    // SAFETY: the call reads no memory; the new descriptor is closed at once, unused.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | USER_MODE_ONLY) };
    let fd = match libc::c_int::try_from(fd) {
        Ok(fd) if fd >= 0 => fd,
        _ => return Err(io::Error::last_os_error()),
    };
    // SAFETY: the kernel has just made this descriptor for us.
    drop(unsafe { <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(fd) });
    Ok("for faults in user mode".into())
}

fn at_most(bytes: u64) -> String {
    format!("at most {} MiB", bytes >> 20)
}

fn data_limit() -> io::Result<String> {
    let limit = rustix::process::getrlimit(Resource::Data);
    Ok(match limit.maximum {
        Some(bytes) => at_most(bytes),
        None => "set for each worker".into(),
    })
}

/// The lowest memory limit of this process's control group and its ancestors.
fn memory_limit() -> Result<String, &'static str> {
    memory_group::limit().map(|limit| at_most(limit.bytes)).ok_or("none")
}

/// Whether the kernel counts the processes that it kills because memory ran out.
fn out_of_memory_count() -> Result<String, &'static str> {
    let counts = memory_group::OomKills::now();
    counts.map(|_| "the kernel counts them".to_owned()).ok_or("the kernel shows no count")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finding_has_details_and_a_consequence() {
        let findings = findings();
        for finding in &findings {
            assert!(!finding.found.is_empty(), "{finding:?}");
            assert!(!finding.without.is_empty() || finding.what == "Linux", "{finding:?}");
        }
        let needed: Vec<_> = findings.iter().filter(|finding| finding.needed).collect();
        assert_eq!(needed.len(), 4, "{needed:?}");
    }
}
