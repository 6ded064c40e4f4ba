//! Mounts below a granted folder are kept, whatever a program does to the names that they are on.

use crate::support;

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use belljar::{Event, Isolation, Layer, Program};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use support::builder;
use support::users::users;

use super::{check, check_as, folder, grant, open_to_all, policy, program};

/// Set in the process with a separate mount namespace: whether its workers have namespaces.
const MOUNTS: &str = "BELLJAR_TEST_MOUNTS";

/// The kernel refuses to remove a mount point only in the caller's own mount namespace, and a
/// program's process is not in that of its supervisor.
#[test]
fn mounts_below_a_grant_are_kept() {
    if let Some(namespaces) = std::env::var_os(MOUNTS) {
        return attack_mounts(namespaces == "true");
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("not tried: only root mounts something");
        return;
    }
    for namespaces in [true, false] {
        let no_namespaces = without_namespaces();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "grants::mounts::mounts_below_a_grant_are_kept", "--nocapture"]);
        command.env(MOUNTS, namespaces.to_string());
        // SAFETY: between fork and exec, the child only makes system calls with prepared arguments.
        unsafe {
            command.pre_exec(move || {
                if libc::unshare(libc::CLONE_NEWNS) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
                match namespaces {
                    true => Ok(()),
                    false => seccompiler::apply_filter(&no_namespaces)
                        .map_err(|_| std::io::ErrorKind::PermissionDenied.into()),
                }
            });
        }
        match command.status() {
            Ok(status) => assert!(status.success(), "with namespaces: {namespaces}: {status}"),
            Err(err) => eprintln!("not tried: no mounts of its own: {err}"),
        }
    }
}

/// A filter that refuses to create namespaces.
fn without_namespaces() -> seccompiler::BpfProgram {
    use seccompiler::{SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition};
    let masked = |flag: i32| {
        let operator = SeccompCmpOp::MaskedEq(flag as u64);
        let has = SeccompCondition::new(0, SeccompCmpArgLen::Qword, operator, flag as u64);
        seccompiler::SeccompRule::new(vec![has.unwrap()]).unwrap()
    };
    let rules = [libc::CLONE_NEWNS, libc::CLONE_NEWUSER].map(masked).to_vec();
    let rules = [(libc::SYS_clone, rules), (libc::SYS_unshare, Vec::new())].into_iter().collect();
    let fails = SeccompAction::Errno(libc::EPERM as u32);
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let filter = seccompiler::SeccompFilter::new(rules, SeccompAction::Allow, fails, arch).unwrap();
    filter.try_into().unwrap()
}

/// Mounts a file system and a file below a granted folder, which a program's process sees in one
/// run and not in the other, and lets the program remove, move and replace them in all ways.
fn attack_mounts(namespaces: bool) {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).unwrap();
    let granted = folder();
    let at = |name: &str| granted.path().join(name);
    for name in ["mnt", "empty", "sub", "sub/mnt"] {
        fs::create_dir(at(name)).unwrap();
        open_to_all(&at(name));
    }
    for name in ["pin", "file", "source"] {
        fs::write(at(name), name).unwrap();
        open_to_all(&at(name));
    }
    let lacks = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&lacks);
    let place = granted.path().to_owned();
    let listener = move |event| match event {
        Event::LayerMissing { layer, .. } => heard.lock().unwrap().push(layer),
        Event::Printed { .. } => LATE.into_iter().for_each(|name| mount(&place, name)),
        _ => {}
    };
    let host = builder(Isolation::Process).on_event(listener).build().unwrap();
    let tables = format!("[program]\nstdout = true\n{}", grant(granted.path(), "/data", "write"));
    let program = program(&host, "attacks", &policy(&tables));
    assert_eq!(lacks.lock().unwrap().contains(&Layer::Namespaces), !namespaces);
    // The process of the first run is started before anything is mounted.
    for name in ["mnt", "sub/mnt", "pin"] {
        mount(granted.path(), name);
    }
    for _ in 0..2 {
        check(
            &program,
            "rmdir /data mnt => error busy
             rmdir /data mnt/ => error busy
             rmdir /data ./sub/mnt => error busy
             unlink /data mnt => error busy
             unlink /data pin => error busy
             rename /data mnt /data moved => error busy
             rename /data pin /data moved => error busy
             rename /data empty /data mnt => error busy
             rename /data file /data pin => error busy
             rename /data file /data mnt => error busy
             rename /data pin /data file => error busy
             rename /data mnt /data mnt => error busy
             mkdir /data mnt => error exist
             open a /data pin write truncate => error cross-device
             open a /data pin write create => error cross-device
             open a /data mnt folder => error cross-device
             open a /data mnt/kept read => error cross-device
             unlink /data mnt/kept => error cross-device
             times-at /data mnt => error cross-device
             open s /data sub mutate folder => ok
             rmdir s mnt => error busy
             rename s mnt /data moved => error busy
             rename /data empty s mnt => error busy",
        );
        for name in ["mnt", "sub/mnt"] {
            assert_eq!(fs::read_to_string(at(name).join("kept")).unwrap(), "kept", "{name}");
        }
        assert_eq!(fs::read_to_string(at("pin")).unwrap(), "source");
    }
    for user in users().iter() {
        check_as(
            user,
            &[(granted.path(), "/data")],
            "rmdir /data mnt => error busy
             unlink /data pin => error busy
             rename /data mnt /data moved => error busy
             rename /data empty /data sub/mnt => error busy
             open a /data mnt/kept read => error cross-device",
        );
    }
    // Other names can be changed as usual, and moving a folder moves the mounts in it.
    check(
        &program,
        "rename /data empty /data other => ok
         rmdir /data other => ok
         unlink /data file => ok
         rename /data sub /data moved => ok
         rmdir /data moved => error not-empty",
    );
    assert_eq!(fs::read_to_string(at("moved/mnt/kept")).unwrap(), "kept");
    attack_late_mounts(&program, granted.path(), namespaces);
    for name in ["mnt", "moved/mnt", "pin"].into_iter().chain(LATE) {
        rustix::mount::unmount(at(name), UnmountFlags::DETACH).unwrap();
    }
    assert_eq!(fs::read_to_string(at("pin")).unwrap(), "pin");
}

/// Mounts that are made while a program runs, when it prints a line.
const LATE: [&str; 4] = ["late", "deep/late", "late-pin", "cover"];

/// Mounts a file system on a folder, or the file `source` on another file.
fn mount(granted: &Path, name: &str) {
    let place = granted.join(name);
    if place.is_file() {
        return rustix::mount::mount_bind(granted.join("source"), place).unwrap();
    }
    let (flags, options) = (MountFlags::empty(), c"mode=0777");
    rustix::mount::mount("none", &place, "tmpfs", flags, options).unwrap();
    fs::write(place.join("kept"), "kept").unwrap();
}

/// The same with mounts that are made after the program's process was started: with namespaces,
/// only its supervisor can see them.
fn attack_late_mounts(program: &Program, granted: &Path, namespaces: bool) {
    let at = |name: &str| granted.join(name);
    for name in ["late", "deep", "deep/late", "cover", "cover/inner", "spare"] {
        fs::create_dir(at(name)).unwrap();
        open_to_all(&at(name));
    }
    for name in ["late-pin", "spare-file"] {
        fs::write(at(name), name).unwrap();
        open_to_all(&at(name));
    }
    let on_the_way = if namespaces { "busy" } else { "cross-device" };
    check(
        program,
        &format!(
            "open s /data deep mutate folder => ok
             print now\\n => ok
             rmdir /data late => error busy
             rmdir /data deep/late => error busy
             rmdir s late => error busy
             unlink /data late-pin => error busy
             rename /data late /data gone => error busy
             rename /data late-pin /data gone => error busy
             rename /data spare /data late => error busy
             rename /data spare-file /data late-pin => error busy
             rename s late /data gone => error busy
             rename /data spare s late => error busy
             rmdir /data cover/inner => error {on_the_way}
             rename /data spare /data other => ok
             rename /data deep /data moved-deep => ok
             rmdir s late => error busy
             rename /data moved-deep /data deep => ok
             rmdir s late => error busy
             rmdir /data other => ok"
        ),
    );
    for name in ["late", "deep/late", "cover"] {
        assert_eq!(fs::read_to_string(at(name).join("kept")).unwrap(), "kept", "{name}");
    }
    assert_eq!(fs::read_to_string(at("late-pin")).unwrap(), "source");
}
