//! Quotas are checked before an operation.

use std::fs;

use super::{Bench, folder};
use belljar_policy::Access;

#[test]
fn bytes_written_are_counted() {
    let (_kept, path) = folder();
    let mut bench = Bench::new().grant(&path, "/data", Access::Write);
    bench.quotas.bytes_written = 2500;
    bench.check(
        "open a /data a write create => ok
         fill a 10000 => 2000 then quota
         open b /data b write create => ok
         write b 0 x => 1
         append b xx => ok
         size b 1000 => error quota
         write b 100000000000 x => error quota
         write-stream b 0123456789 => ok
         size b 1 => ok
         fill b 10000 => 0 then quota",
    );
    bench.refused("write /data/b: [quotas] bytes-written");
    assert_eq!(fs::metadata(path.join("a")).unwrap().len(), 2000);
    assert_eq!(fs::metadata(path.join("b")).unwrap().len(), 1);
}

#[test]
fn stream_reports_an_exhausted_quota() {
    let (_kept, path) = folder();
    let mut bench = Bench::new().grant(&path, "/data", Access::Write);
    bench.quotas.bytes_written = 3;
    bench.check(
        "open a /data a write create => ok
         write-stream a four => error quota
         append a four => error quota
         write-stream a two => ok",
    );
}

#[test]
fn created_files_and_folders_are_counted() {
    let (_kept, path) = folder();
    let mut bench = Bench::new().grant(&path, "/data", Access::Write);
    bench.quotas.files_created = 5;
    bench.check(
        "mkdir /data sub => ok
         mkdir /data sub => error exist
         make-many 10 /data sub/file => 4 then quota
         mkdir /data more => error quota
         open a /data sub/file0 write create => ok
         unlink /data sub/file0 => ok
         open a /data sub/file0 write create => error quota",
    );
    bench.refused("write /data/more: [quotas] files-created");
    assert_eq!(fs::read_dir(path.join("sub")).unwrap().count(), 3);
}

#[test]
fn handles_are_counted_and_released() {
    let (_kept, path) = folder();
    fs::write(path.join("a"), "").unwrap();
    let mut bench = Bench::new().grant(&path, "/data", Access::Read);
    bench.quotas.open_handles = 8;
    bench.check(
        "open-many 100 /data a => 8 then quota
         open-many 100 /data . => 8 then quota
         open a /data a read => ok
         open-many 100 /data a => 7 then quota
         close a => ok
         open-many 8 /data a => 8",
    );
    bench.refused("read /data/a: [quotas] open-handles");
}

#[test]
fn total_number_of_handles_is_limited() {
    let (_kept, path) = folder();
    let mut bench = Bench::new().grant(&path, "/data", Access::Read);
    bench.quotas.open_handles = 512;
    // A quota of 0 is valid.
    bench.quotas.bytes_written = 0;
    bench.quotas.files_created = 0;
    let found = bench.run("open-many 100000 /data .");
    assert_eq!(found, ["512 then quota"]);
}

#[test]
fn extreme_numbers_do_not_bypass_a_quota() {
    let (_kept, path) = folder();
    let mut bench = Bench::new().grant(&path, "/data", Access::Write);
    bench.quotas.bytes_written = 100;
    bench.check(
        "open a /data a write create => ok
         size a 18446744073709551615 => error quota
         write a 18446744073709551615 x => error file-too-large
         write a 18446744073709551614 x => error quota
         write a 9223372036854775807 x => error quota
         size a 50 => ok
         size a 0 => ok
         size a 51 => error quota
         size a 50 => ok
         write a 0 x => error quota",
    );
    // Bytes that the kernel does not accept are returned to the quota, and no more.
    bench.quotas.bytes_written = u64::MAX;
    let found = bench.run(
        "open a /data b write create
         size a 18446744073709551615
         write a 9223372036854775808 x
         write a 18446744073709551614 x
         size a 10",
    );
    assert!(found[1..4].iter().all(|line| line.starts_with("error ")), "{found:?}");
    assert_eq!(found[4], "ok");
    assert_eq!(fs::metadata(path.join("b")).unwrap().len(), 10);
}
