//! Attempts to escape from a granted folder: unusual paths, links, special files, races with an
//! open.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, FileType, Mode, RenameFlags, mknodat, renameat_with};

use super::{Bench, folder};
use belljar_policy::{Access, FileGrant};

/// Creates a granted folder, and a folder with a secret next to it.
fn create_folders(path: &Path) {
    fs::create_dir(path.join("granted")).unwrap();
    fs::create_dir(path.join("granted/sub")).unwrap();
    fs::create_dir(path.join("secret")).unwrap();
    fs::write(path.join("secret/key"), "the secret").unwrap();
    fs::write(path.join("granted/file"), "granted").unwrap();
}

#[test]
fn paths_cannot_leave_the_folder() {
    let (_kept, path) = folder();
    create_folders(&path);
    let mut bench = Bench::new().grant(&path.join("granted"), "/data", Access::Write);
    let absolute = path.join("secret/key");
    for (ugly, code) in [
        ("..", "not-permitted"),
        ("../", "not-permitted"),
        ("../secret/key", "not-permitted"),
        ("./../secret/key", "not-permitted"),
        ("sub/../../secret/key", "not-permitted"),
        ("sub/..", "not-permitted"),
        ("file/..", "not-permitted"),
        ("/", "not-permitted"),
        ("//", "not-permitted"),
        ("/etc/passwd", "not-permitted"),
        ("/data/file", "not-permitted"),
        ("/proc/self/root/etc/passwd", "not-permitted"),
        ("proc/self/root", "no-entry"),
        ("/dev/null", "not-permitted"),
        (absolute.to_str().unwrap(), "not-permitted"),
        ("\\e", "no-entry"),
        ("file\\0", "illegal-byte-sequence"),
        ("\\0", "illegal-byte-sequence"),
        ("file\\0/../../secret/key", "illegal-byte-sequence"),
        ("\\L", "name-too-long"),
        ("sub/\\L", "name-too-long"),
        ("file/", "not-directory"),
        ("file/.", "not-directory"),
        ("file/x", "not-directory"),
    ] {
        for operation in [
            format!("open x /data {ugly} read"),
            format!("open x /data {ugly} read write"),
            format!("stat-at /data {ugly}"),
            format!("number /data {ugly}"),
            format!("times-at /data {ugly}"),
            format!("readlink /data {ugly}"),
        ] {
            let found = bench.run(&operation);
            assert_eq!(found, [format!("error {code}")], "of `{operation}`");
        }
        // These operations may fail with another error.
        for operation in [
            format!("open x /data {ugly} write create"),
            format!("open x /data {ugly} write create exclusive"),
            format!("mkdir /data {ugly}"),
            format!("rmdir /data {ugly}"),
            format!("unlink /data {ugly}"),
            format!("rename /data {ugly} /data new"),
            format!("rename /data file /data {ugly}"),
            format!("link /data {ugly} /data new"),
            format!("symlink /data {ugly} new"),
            format!("symlink /data file {ugly}"),
        ] {
            // Creating a new name is allowed.
            if code == "no-entry" && ugly != "\\e" {
                continue;
            }
            let found = bench.run(&operation);
            assert!(found[0].starts_with("error "), "{found:?} of `{operation}`");
        }
    }
    assert_eq!(fs::read(path.join("secret/key")).unwrap(), b"the secret");
    assert_eq!(fs::read_dir(&path).unwrap().count(), 2);
    assert_eq!(fs::read_dir(path.join("granted")).unwrap().count(), 2);
    bench.refused("read /data/../secret/key: [[filesystem]] guest = \"/data/../secret/key\", access = \"read\"");
}

#[test]
fn granted_folder_itself_cannot_be_changed() {
    let (_kept, path) = folder();
    create_folders(&path);
    let mut bench = Bench::new().grant(&path.join("granted"), "/data", Access::Write);
    bench.check(
        "mkdir /data . => error exist
         rmdir /data . => error invalid
         unlink /data ./ => error is-directory
         rename /data . /data sub/x => error busy
         rename /data sub /data . => error busy
         rename /data sub /data sub/sub => error invalid
         open x /data . write create => error invalid",
    );
    assert!(path.join("granted/file").exists());
}

#[test]
fn links_are_neither_created_nor_followed() {
    let (_kept, path) = folder();
    create_folders(&path);
    let granted = path.join("granted");
    symlink("../secret", granted.join("folder")).unwrap();
    symlink("../secret/key", granted.join("key")).unwrap();
    symlink(path.join("secret/key"), granted.join("absolute")).unwrap();
    symlink("file", granted.join("inside")).unwrap();
    symlink("/proc/self/root", granted.join("root")).unwrap();
    symlink("/proc/self/fd", granted.join("fd")).unwrap();
    symlink("nowhere", granted.join("dangling")).unwrap();
    let mut bench = Bench::new().grant(&granted, "/data", Access::Write);
    for link in [
        "folder",
        "folder/key",
        "key",
        "absolute",
        "inside",
        "root",
        "root/etc/passwd",
        "fd/0",
        "dangling",
    ] {
        for operation in [
            format!("open x /data {link} read"),
            format!("open x /data {link} read write"),
            format!("open x /data {link} write create"),
            format!("open x /data {link} write truncate"),
            format!("stat-at /data {link}"),
            format!("times-at /data {link}"),
            format!("number /data {link}"),
            format!("readlink /data {link}"),
        ] {
            assert_eq!(bench.run(&operation), ["error loop"], "of `{operation}`");
        }
    }
    bench.check(
        "mkdir /data folder/new => error loop
         open x /data folder/new write create => error loop
         rename /data file /data folder/file => error loop
         rename /data folder/key /data got => error loop
         unlink /data folder/key => error loop
         rmdir /data folder/ => error not-directory
         open x /data key write create exclusive => error loop
         symlink /data ../secret/key mine => error not-permitted
         symlink /data file mine => error not-permitted
         link /data file /data mine => error not-permitted
         link /data folder/key /data mine => error not-permitted",
    );
    bench.refused("read /data/key: symbolic links are never followed");
    assert_eq!(fs::read(path.join("secret/key")).unwrap(), b"the secret");
    assert!(!granted.join("nowhere").exists());
    assert_eq!(fs::read_dir(path.join("secret")).unwrap().count(), 1);
}

#[test]
fn file_with_several_hard_links_is_not_opened() {
    let (_kept, path) = folder();
    create_folders(&path);
    fs::hard_link(path.join("secret/key"), path.join("granted/key")).unwrap();
    let mut bench = Bench::new().grant(&path.join("granted"), "/data", Access::Write);
    bench.check(
        "open x /data key read => error not-permitted
         open x /data key write => error not-permitted
         open x /data key write create truncate => error not-permitted
         stat-at /data key => error not-permitted
         times-at /data key => error not-permitted",
    );
    bench.refused("read /data/key: files with several hard links are never opened");
    assert_eq!(fs::read(path.join("secret/key")).unwrap(), b"the secret");
}

#[test]
fn only_files_and_folders_are_opened() {
    let (_kept, path) = folder();
    create_folders(&path);
    let granted = path.join("granted");
    let mode = Mode::from_raw_mode(0o666);
    mknodat(CWD, granted.join("fifo"), FileType::Fifo, mode, 0).unwrap();
    let _listener = UnixListener::bind(granted.join("socket")).unwrap();
    let mut special = vec!["fifo", "socket"];
    // Only root can create devices.
    let device = rustix::fs::makedev(1, 3);
    if mknodat(CWD, granted.join("null"), FileType::CharacterDevice, mode, device).is_ok() {
        special.push("null");
    }
    let mut bench = Bench::new().grant(&granted, "/data", Access::Write);
    for name in special {
        for operation in [
            format!("open x /data {name} read"),
            format!("open x /data {name} write"),
            format!("open x /data {name} write create truncate"),
            format!("stat-at /data {name}"),
            format!("times-at /data {name}"),
        ] {
            assert_eq!(bench.run(&operation), ["error not-permitted"], "of `{operation}`");
        }
        bench.refused(&format!("read /data/{name}: only files and folders are opened"));
    }
}

#[test]
fn only_files_and_folders_can_be_granted() {
    let (_kept, path) = folder();
    create_folders(&path);
    symlink("secret", path.join("link")).unwrap();
    mknodat(CWD, path.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o666), 0).unwrap();
    for (name, why) in
        [("link/key", "symbolic"), ("link", "symbolic"), ("fifo", "neither"), ("no", "")]
    {
        let grant = FileGrant::new(path.join(name), "/data", Access::Read, "");
        let err = super::open_grant(&grant).err().expect("it is refused").to_string();
        assert!(err.contains(why) && err.contains("[[filesystem]]"), "{err}");
    }
}

#[test]
fn other_file_systems_below_a_grant_are_not_entered() {
    let mut bench = Bench::new().grant(Path::new("/"), "/all", Access::Read);
    bench.check(
        "open x /all proc/self/status read => error cross-device
         open x /all proc folder => error cross-device
         stat-at /all proc/self/environ => error cross-device",
    );
    bench.refused("read /all/proc: another file system below a grant needs a separate grant");
}

struct EndsRace<'a>(&'a AtomicBool);

impl Drop for EndsRace<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The host swaps a file and a link to a secret as fast as it can, while a program opens it.
#[test]
fn swapping_a_file_and_a_link_during_open_reveals_nothing() {
    let (_kept, path) = folder();
    create_folders(&path);
    let granted = path.join("granted");
    symlink("../secret/key", granted.join("link")).unwrap();
    symlink("../secret", granted.join("way")).unwrap();
    fs::write(granted.join("sub/key"), "granted").unwrap();
    let mut bench = Bench::new().grant(&granted, "/data", Access::Write);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Also when this thread panics: the scope waits for the other one.
        let _ends = EndsRace(&over);
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                for (a, b) in [("link", "file"), ("way", "sub")] {
                    let (a, b) = (granted.join(a), granted.join(b));
                    let _ = renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE);
                }
            }
        });
        let mut read = 0;
        let script = "open a /data file read\nread a 0 20\nclose a\n\
                      open b /data sub/key read\nread b 0 20\nclose b\n\
                      open c /data file write\nwrite c 0 granted\nclose c\n\
                      open d /data sub/made write create\nclose d\n"
            .repeat(200);
        let found = bench.run(&script);
        for line in &found {
            assert!(!line.contains("secret"), "{line}");
            read += usize::from(line == "granted");
        }
        // Otherwise the race did not happen.
        assert!(read > 0 || found.iter().any(|line| line == "error loop"), "{found:?}");
    });
    assert_eq!(fs::read(path.join("secret/key")).unwrap(), b"the secret");
    assert_eq!(fs::read_dir(path.join("secret")).unwrap().count(), 1);
}

#[test]
fn two_programs_do_not_see_each_others_files() {
    let (_kept, path) = folder();
    fs::create_dir(path.join("one")).unwrap();
    fs::create_dir(path.join("two")).unwrap();
    let mut one = Bench::new().grant(&path.join("one"), "/data", Access::Write);
    let mut two = Bench::new().grant(&path.join("two"), "/data", Access::Write);
    one.check(
        "open a /data mine write create => ok
         write a 0 secret => 6",
    );
    two.check(
        "open a /data mine read => error no-entry
         open a /data ../one/mine read => error not-permitted
         symlink /data ../one/mine link => error not-permitted",
    );
    assert_eq!(two.run("list /data"), [""]);
}
