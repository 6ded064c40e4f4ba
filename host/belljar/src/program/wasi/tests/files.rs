//! File access with and without grants.

use std::fs;

use super::{Bench, folder};
use belljar_policy::Access;

#[test]
fn program_without_grants_has_no_folders() {
    let mut bench = Bench::new();
    bench.check("open a / etc/passwd read => error not held");
    assert_eq!(bench.run("folders"), [""]);
}

#[test]
fn granted_folder_can_be_read() {
    let (_kept, path) = folder();
    fs::create_dir(path.join("sub")).unwrap();
    fs::write(path.join("labels.txt"), "cat").unwrap();
    fs::write(path.join("sub/more"), "dog").unwrap();
    let mut bench = Bench::new().grant(&path, "/data", Access::Read);
    bench.check(
        "folders => /data
         list /data => labels.txt sub
         open a /data labels.txt read => ok
         read-stream a => cat
         open b /data sub/more read => ok
         read b 1 10 => og
         read b 3 10 => end
         read b 18446744073709551615 10 => error invalid
         open c /data sub folder => ok
         list c => more
         open d c more read => ok
         stat d => DescriptorType::RegularFile 3 bytes, 1 links, no times
         stat c => DescriptorType::Directory 0 bytes, 1 links, no times
         stat-at /data ./sub//more => DescriptorType::RegularFile 3 bytes, 1 links, no times
         same b d => true
         same a b => false
         number /data sub/more => 1 0
         number /data labels.txt => 2 0
         number c more => 1 0
         open e /data sub/./more read => ok
         open f /data . folder => ok
         open g /data ./ => ok
         readlink /data labels.txt => error invalid
         open h /data none read => error no-entry
         open h /data labels.txt/ read => error not-directory
         open h /data labels.txt folder => error not-directory
         open h a x read => error not-directory
         list a => error not-directory
         read /data 0 1 => error is-directory",
    );
}

#[test]
fn file_times_are_visible_only_with_clocks() {
    let (_kept, path) = folder();
    fs::write(path.join("a"), "").unwrap();
    let mut bench = Bench::new().grant(&path, "/data", Access::Read);
    bench.program.clocks = true;
    bench.check("stat-at /data a => DescriptorType::RegularFile 0 bytes, 1 links, times");
}

#[test]
fn read_grant_allows_no_changes() {
    let (_kept, path) = folder();
    fs::create_dir(path.join("sub")).unwrap();
    fs::write(path.join("a"), "as it was").unwrap();
    let before = fs::metadata(path.join("a")).unwrap();
    let mut bench = Bench::new().grant(&path, "/data", Access::Read);
    bench.check(
        "open a /data a read => ok
         open b /data a write => error read-only
         open b /data a read write => error read-only
         open b /data a read truncate => error read-only
         open b /data a read create => error read-only
         open b /data new write create => error read-only
         open b /data new write create exclusive => error read-only
         open b /data sub mutate => error read-only
         write a 0 x => error read-only
         write-stream a x => error read-only
         append a x => error read-only
         size a 0 => error read-only
         size a 100 => error read-only
         times a => error read-only
         sync a => error read-only
         times /data => error read-only
         times-at /data a => error read-only
         mkdir /data new => error read-only
         rmdir /data sub => error read-only
         unlink /data a => error read-only
         rename /data a /data b => error read-only
         link /data a /data b => error not-permitted
         symlink /data a b => error not-permitted
         open s /data sub folder => ok
         mkdir s new => error read-only
         rename /data a s a => error read-only
         read a 0 100 => as it was",
    );
    bench.refused("write /data/a: [[filesystem]] guest = \"/data\", access = \"write\"");
    let after = fs::metadata(path.join("a")).unwrap();
    assert_eq!(before.modified().unwrap(), after.modified().unwrap());
    assert_eq!(fs::read(path.join("a")).unwrap(), b"as it was");
    assert_eq!(fs::read_dir(&path).unwrap().count(), 2);
}

#[test]
fn write_grant_allows_changes() {
    let (_kept, path) = folder();
    fs::write(path.join("old"), "a longer text").unwrap();
    let mut bench = Bench::new().grant(&path, "/data", Access::Write);
    bench.check(
        "open a /data new write create => ok
         write a 0 hello => 5
         write-stream a HE => ok
         append a ! => ok
         size a 5 => ok
         sync a => ok
         times a => ok
         read a 0 1 => error bad-descriptor
         open b /data old read write truncate => ok
         read b 0 100 => end
         write b 2 x => 1
         open b /data old write create exclusive => error exist
         mkdir /data sub => ok
         mkdir /data sub => error exist
         mkdir /data sub/deeper/ => ok
         rename /data new /data sub/deeper/moved => ok
         open s /data sub/deeper mutate => ok
         list s => moved
         rename s moved /data back => ok
         rmdir /data sub => error not-empty
         rmdir /data sub/deeper/ => ok
         rmdir /data sub => ok
         times-at /data back => ok
         unlink /data old => ok
         unlink /data old => error no-entry
         list /data => back",
    );
    assert_eq!(fs::read(path.join("back")).unwrap(), b"HEllo");
    assert!(bench.seen.lock().unwrap().denied.is_empty());
}

#[test]
fn handle_allows_only_the_access_it_was_opened_with() {
    let (_kept, path) = folder();
    fs::create_dir(path.join("sub")).unwrap();
    fs::write(path.join("a"), "text").unwrap();
    let mut bench = Bench::new().grant(&path, "/data", Access::Write);
    bench.check(
        "open a /data a read => ok
         write a 0 x => error bad-descriptor
         append a x => error bad-descriptor
         size a 0 => error bad-descriptor
         times a => error bad-descriptor
         open s /data sub read => ok
         mkdir s x => error not-permitted
         open b s x write create => error not-permitted
         rename /data a s a => error not-permitted
         open c /data sub write create => error is-directory
         open c /data a create folder => error invalid",
    );
}

#[test]
fn individually_granted_files_are_alone_in_their_folders() {
    let (_kept, path) = folder();
    fs::write(path.join("labels"), "cat").unwrap();
    fs::write(path.join("state"), "7").unwrap();
    fs::write(path.join("secret"), "no").unwrap();
    let mut bench = Bench::new()
        .grant(&path.join("labels"), "/files/labels.txt", Access::Read)
        .grant(&path.join("state"), "/files/state", Access::Write);
    bench.check(
        "folders => /files
         list /files => labels.txt state
         open a /files labels.txt read => ok
         read a 0 10 => cat
         open b /files labels.txt write => error read-only
         open b /files labels.txt truncate => error read-only
         write a 0 x => error read-only
         open s /files state read write create => ok
         write s 0 8 => 1
         read s 0 9 => 8
         open x /files secret read => error no-entry
         open x /files labels read => error no-entry
         open x /files labels.txt/ read => error not-directory
         open x /files ../secret read => error not-permitted
         open x /files sub/labels.txt read => error no-entry
         open x /files new write create => error read-only
         mkdir /files new => error read-only
         unlink /files state => error read-only
         rename /files state /files labels.txt => error read-only
         stat-at /files . => DescriptorType::Directory 0 bytes, 1 links, no times
         stat-at /files labels.txt => DescriptorType::RegularFile 3 bytes, 1 links, no times
         stat-at /files secret => error no-entry",
    );
    assert_eq!(fs::read(path.join("state")).unwrap(), b"8");
}

#[test]
fn files_cannot_be_moved_between_grants() {
    let (_kept, path) = folder();
    fs::create_dir(path.join("a")).unwrap();
    fs::create_dir(path.join("b")).unwrap();
    fs::write(path.join("a/file"), "text").unwrap();
    let mut bench = Bench::new().grant(&path.join("a"), "/a", Access::Write).grant(
        &path.join("b"),
        "/b",
        Access::Write,
    );
    bench.check(
        "rename /a file /b file => error cross-device
         link /a file /b file => error not-permitted
         rename /a file /a ../b/file => error not-permitted
         open x /a ../b folder => error not-permitted
         stat-at /b file => error no-entry",
    );
    bench.refused("write /b/file: files cannot be moved from one grant to another");
}

/// If an allowed operation cannot be logged, the run ends before it has any effect.
#[test]
fn operation_that_cannot_be_logged_has_no_effect() {
    let (_kept, path) = folder();
    fs::write(path.join("file"), "content").unwrap();
    fs::create_dir(path.join("sub")).unwrap();
    let mut bench = Bench::new().grant(&path, "/data", Access::Write);
    bench.seen.lock().unwrap().unwritable = true;
    for operation in [
        "open a /data new write create",
        "open a /data file write truncate",
        "open a /data file read",
        "mkdir /data made",
        "rmdir /data sub",
        "unlink /data file",
        "rename /data file /data moved",
        "rename /data file /data sub/file",
        "list /data",
        "stat-at /data file",
        "stat-at /data nothing",
        "number /data file",
    ] {
        let ended = bench.try_run(operation).expect_err(operation).to_string();
        assert!(!ended.contains("content"), "{ended}");
        assert_eq!(fs::read(path.join("file")).unwrap(), b"content", "{operation}");
        assert_eq!(fs::read_dir(&path).unwrap().count(), 2, "{operation}");
        assert_eq!(fs::read_dir(path.join("sub")).unwrap().count(), 0, "{operation}");
    }
    // A refusal holds even if it cannot be logged.
    bench.check("open a /data ../x read => error not-permitted");
}
