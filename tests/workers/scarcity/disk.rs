//! Full disks, limits on the size of files, and home folders that are missing or cannot be written.

use crate::support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::Resource;
use support::users::users;

use super::{assert_sentence, belljar, can, files, is_root, stderr, under};

#[test]
fn a_file_size_limit_is_reported_without_a_crash() {
    for user in users().iter() {
        let files = files(user, "length");
        let mut answered = 0;
        for max in [0, 1, 100, 4 << 10, 1 << 20, 8 << 20, 48 << 20, 100 << 20, 1 << 30] {
            for isolation in ["process", "thread"] {
                for more in [&["--no-store"][..], &[], &["-o", "/dev/null"]] {
                    let mut command = under(belljar(user), Resource::Fsize, max);
                    command.args(files.run()).args(more).args(["--isolation", isolation]);
                    let about = format!("{max} bytes, {isolation}, {more:?}");
                    let output = command.output().unwrap();
                    assert_sentence(&output, &about);
                    answered += usize::from(output.status.success());
                    // The compiled code exists, and fits within this limit.
                    let enough = max >= 100 << 20 && more != ["-o", "/dev/null"];
                    let text = stderr(&output);
                    assert!(!enough || output.status.success(), "{about}: {text}");
                    // Existing files were not considered damaged.
                    assert!(!text.contains("replaced"), "{about}: {text}");
                }
            }
        }
        assert!(answered > 0, "{}", user.who());
    }
}

#[test]
fn a_full_disk_is_reported_and_the_model_still_runs() {
    let own = ["--mount"];
    let flags = if is_root() { own.to_vec() } else { [&["--user", "-r"][..], &own].concat() };
    if !can(&flags) {
        return;
    }
    let user = &users()[0];
    let files = files(user, "full");
    let cache = user.path("full/cache");
    fs::create_dir_all(&cache).unwrap();
    user.own(&cache);
    let script = format!(
        "mount -t tmpfs -o size=1m,mode=700 none '{}' && exec \"$@\"",
        cache.to_str().unwrap()
    );
    let mut command = user.command("unshare".as_ref());
    command.args(&flags).args(["sh", "-c", &script, "sh", support::BELLJAR]).args(files.run());
    let output = command.env("BELLJAR_CACHE_DIR", &cache).output().unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("cannot cache") && text.contains("No space left"), "{text}");
}

/// Sets the home folder of a command, and removes the variables that override it.
fn at_home<'a>(command: &'a mut Command, home: Option<&Path>) -> &'a mut Command {
    for name in ["BELLJAR_CACHE_DIR", "BELLJAR_STATE_DIR", "XDG_CACHE_HOME", "XDG_STATE_HOME"] {
        command.env_remove(name);
    }
    match home {
        Some(home) => command.env("HOME", home),
        None => command.env_remove("HOME"),
    }
}

#[test]
fn without_a_home_models_run_and_a_warning_is_printed() {
    let user = users();
    let user = user.last().unwrap();
    let files = files(user, "homeless");
    let run = |more: &[&str]| {
        let mut command = belljar(user);
        at_home(&mut command, None).args(files.run()).args(more).output().unwrap()
    };
    let output = run(&["--no-store"]);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("cannot cache") && text.contains("BELLJAR_CACHE_DIR"), "{text}");
    assert!(!text.contains("cannot store prepared models"), "{text}");

    let output = run(&[]);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    for says in ["cannot store prepared models", "--no-store", "count the workers that models kill"]
    {
        assert!(text.contains(says), "{says}: {text}");
    }

    let mut command = belljar(user);
    let output = at_home(&mut command, None).arg("doctor").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(text.contains("neither BELLJAR_CACHE_DIR nor HOME is set"), "{text}");
    assert!(text.contains("each run compiles"), "{text}");

    for arguments in [&["warm"][..], &["snapshots", "list"], &["quarantine", "release", "00"]] {
        let mut command = belljar(user);
        let output = at_home(&mut command, None).args(arguments).output().unwrap();
        assert_sentence(&output, &arguments.join(" "));
        assert!(!output.status.success(), "{arguments:?}");
    }
}

#[test]
fn a_read_only_home_is_reported_and_its_files_are_used() {
    // Root can write to any folder.
    for user in users().iter().filter(|user| user.uid.is_some() || !is_root()) {
        let files = files(user, "read-only");
        let home = user.path("read-only/home");
        for (name, from) in
            [(".cache/belljar/code", "cache/code"), (".local/state/belljar", "state")]
        {
            let to = home.join(name);
            fs::create_dir_all(&to).unwrap();
            for entry in fs::read_dir(user.path(from)).unwrap().flatten() {
                if entry.file_type().unwrap().is_file() {
                    let copy = to.join(entry.file_name());
                    fs::copy(entry.path(), &copy).unwrap();
                    user.own(&copy);
                }
            }
            for folder in to.ancestors().take_while(|folder| folder.starts_with(&home)) {
                user.own(folder);
            }
        }
        let folders: Vec<PathBuf> = [
            ".cache/belljar/code",
            ".cache/belljar",
            ".cache",
            ".local/state/belljar",
            ".local",
            ".",
        ]
        .map(|name| home.join(name))
        .into();
        let mode = |mode| {
            for folder in &folders {
                fs::set_permissions(folder, fs::Permissions::from_mode(mode)).unwrap();
            }
        };
        mode(0o500);
        let run = |more: &[&str]| {
            let mut command = belljar(user);
            at_home(&mut command, Some(&home)).args(files.run()).args(more).output().unwrap()
        };
        let output = run(&["--no-store"]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert_eq!(stderr(&output), "", "the code was there");
        let output = run(&[]);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(0), "{text}");
        assert!(text.contains("not stored") && text.contains("--no-store"), "{text}");
        assert!(!text.contains("compiling"), "{text}");
        let mut command = belljar(user);
        let output = at_home(&mut command, Some(&home)).arg("doctor").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert!(text.contains("Permission denied"), "{text}");
        mode(0o700);
    }
}

#[test]
fn cold_starts_at_the_same_time_compile_once() {
    let user = users();
    let user = user.last().unwrap();
    let files = files(user, "cold");
    let cache = user.path("cold/cache");
    let start = || {
        let mut command = belljar(user);
        command.env("BELLJAR_CACHE_DIR", &cache).args(files.run());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let runs: Vec<_> = (0..8).map(|_| start()).collect();
    let (mut compiled, mut waited) = (0, 0);
    for run in runs {
        let output = run.wait_with_output().unwrap();
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(0), "{text}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("2.5"));
        compiled += usize::from(text.contains("note: compiling"));
        waited += usize::from(text.contains("waiting for another process"));
    }
    assert_eq!(compiled, 1);
    assert!(waited > 0);

    // A process that is killed while it compiles does not block others.
    fs::remove_dir_all(&cache).unwrap();
    let mut first = start();
    let lock = cache.join("code");
    while !is_locked(&lock) {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let second = start();
    std::thread::sleep(std::time::Duration::from_millis(300));
    first.kill().unwrap();
    first.wait().unwrap();
    let output = second.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("note: compiling"), "{}", stderr(&output));
}

fn is_locked(folder: &Path) -> bool {
    let Ok(folder) = fs::File::open(folder) else { return false };
    let lock = rustix::fs::FlockOperation::NonBlockingLockShared;
    rustix::fs::flock(&folder, lock) == Err(rustix::io::Errno::WOULDBLOCK)
}
