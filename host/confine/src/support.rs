//! What the kernel of this machine offers, for people who ask why something is refused or slow.
//! Nothing is decided by it: a worker that is started tells for itself.
//!
//! `unsafe` is here for questions that have no function of their own.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, ResolveFlags, SealFlags};
use rustix::process::Resource;

use super::memory_group;

/// One thing that is there or not.
#[derive(Clone, Debug)]
pub struct Finding {
    pub what: &'static str,
    pub present: bool,
    /// What there is of it, or why there is none.
    pub found: String,
    /// What is lost without it.
    pub without: &'static str,
    /// Whether a model under a strict policy is refused without it.
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

/// All that the kernel can be asked.
pub fn findings() -> Vec<Finding> {
    let mut all = vec![Finding::new("Linux", version(), "")];
    all.extend(landlock());
    all.extend(seccomp());
    all.push(namespaces());
    all.extend(memory_files());
    all.push(Finding::new("openat2", openat2(), "nothing yet: no model is granted files"));
    all.push(Finding::new(
        "userfaultfd",
        userfaultfd(),
        "nothing: Belljar does not use it, and refuses it to sandboxes",
    ));
    all.push(Finding::new(
        "RLIMIT_DATA",
        data_limit(),
        "nothing but its own limiter bounds a sandbox's memory",
    ));
    all.push(Finding::new(
        "memory limit (cgroup)",
        memory_limit(),
        "nothing bounds the memory of all sandboxes together",
    ));
    all.push(Finding::new(
        "kills for want of memory",
        out_of_memory_count(),
        "every SIGKILL of a worker is taken for one, and none counts towards quarantine",
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

/// The version of Landlock's interface, from 1.
fn landlock_abi() -> io::Result<i64> {
    const VERSION: libc::c_uint = 1 << 0;
    let none = std::ptr::null::<libc::c_void>();
    // SAFETY: with this flag the call looks at no memory and makes nothing; it answers a number.
    let abi = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0_usize, VERSION) };
    match abi {
        ..=0 => Err(io::Error::last_os_error()),
        abi => Ok(abi),
    }
}

fn landlock() -> Vec<Finding> {
    let abi = landlock_abi().map_err(|err| match err.raw_os_error() {
        Some(libc::ENOSYS) => "this kernel, or what it runs under, has none".to_owned(),
        Some(libc::EOPNOTSUPP) => "it is not switched on (`lsm=` on the command line)".to_owned(),
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
        abi.clone().map(|abi| format!("version {abi} of its interface")),
        "no layer that knows paths stands behind seccomp",
    );
    let has = |since: i64| match &abi {
        Ok(abi) if *abi >= since => Ok(format!("since version {since}")),
        _ => Err(format!("since version {since}")),
    };
    let parts = parts.map(|(since, what, without)| Finding::new(what, has(since), without));
    std::iter::once(all.needed()).chain(parts).collect()
}

fn seccomp() -> [Finding; 2] {
    let knows = |action: u32| {
        // SAFETY: the kernel reads the one number that the pointer is to.
        let answer = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_GET_ACTION_AVAIL,
                0_usize,
                &raw const action,
            )
        };
        match answer {
            0 => Ok("filters can".to_owned()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    [
        Finding::new(
            "seccomp: kill the process",
            knows(libc::SECCOMP_RET_KILL_PROCESS),
            "native code in a worker may make any system call",
        )
        .needed(),
        Finding::new(
            "seccomp: answer an error",
            knows(libc::SECCOMP_RET_ERRNO),
            "workers cannot start threads under a filter",
        )
        .needed(),
    ]
}

/// Which of them the kernel knows. Whether they are allowed is seen when a worker is started.
fn namespaces() -> Finding {
    let kinds = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"];
    let known = |kind: &&str| Path::new("/proc/self/ns").join(kind).exists();
    let (here, missing): (Vec<&str>, Vec<&str>) = kinds.into_iter().partition(known);
    // Distributions' ways of keeping them from ordinary users.
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
        _ => Ok(format!("the kernel knows {}", here.join(", "))),
    };
    Finding::new(
        "namespaces",
        found,
        "no empty root and no network of its own: Landlock and seccomp remain",
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
            "models and snapshots cannot be handed to workers",
        )
        .needed(),
        Finding::new(
            "memory files: never a program",
            never_run.map(|_| "MFD_NOEXEC_SEAL".to_owned()),
            "only seccomp and Landlock refuse to start one as a program",
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
    // SAFETY: the call looks at no memory; what it makes is closed at once, unused.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | USER_MODE_ONLY) };
    let fd = match libc::c_int::try_from(fd) {
        Ok(fd) if fd >= 0 => fd,
        _ => return Err(io::Error::last_os_error()),
    };
    // SAFETY: the kernel has just made this descriptor for us.
    drop(unsafe { <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(fd) });
    Ok("for faults of programs".into())
}

fn at_most(bytes: u64) -> String {
    format!("at most {} MiB", bytes >> 20)
}

fn data_limit() -> io::Result<String> {
    let limit = rustix::process::getrlimit(Resource::Data);
    Ok(match limit.maximum {
        Some(most) => at_most(most),
        None => "as low as each worker needs".into(),
    })
}

/// The least of the limits on the memory of this process's control group and those above it.
fn memory_limit() -> Result<String, &'static str> {
    memory_group::limit().map(|limit| at_most(limit.bytes)).ok_or("none")
}

/// Whether the kernel counts the processes that it kills for want of memory.
fn out_of_memory_count() -> Result<String, &'static str> {
    let counts = memory_group::OomKills::now();
    counts.map(|_| "the kernel counts them".to_owned()).ok_or("the kernel shows no count")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_question_has_an_answer_and_a_cost() {
        let findings = findings();
        for finding in &findings {
            assert!(!finding.found.is_empty(), "{finding:?}");
            assert!(!finding.without.is_empty() || finding.what == "Linux", "{finding:?}");
        }
        let needed: Vec<_> = findings.iter().filter(|finding| finding.needed).collect();
        assert_eq!(needed.len(), 4, "{needed:?}");
    }
}
