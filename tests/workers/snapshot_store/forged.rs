//! A file that Belljar did not write, or wrote for another purpose, is never used; the answer is
//! still correct, and an event reports the file.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use belljar::{Isolation, Policy};

use super::{Folders, answer, assert_from_store, flip, head_len, load, product};

#[test]
fn every_region_of_a_snapshot_is_sealed() {
    let folders = Folders::filled();
    let mut seen = 0;
    // A recreated snapshot may be a page longer or shorter than the previous one.
    while let Some((what, at)) = regions(&fs::read(folders.snapshot()).unwrap()).get(seen) {
        flip(&folders.snapshot(), *at);
        folders.assert_recreated(what);
        seen += 1;
    }
    assert_eq!(seen, 12);
}

/// The name and offset of a byte in every region of a snapshot's file.
fn regions(file: &[u8]) -> [(&'static str, usize); 12] {
    assert!(file.len() > 1 << 20);
    let head = head_len(file);
    let about = u32::from_le_bytes(file[40..44].try_into().unwrap()) as usize;
    let parts = (file.len() - 36 - head).div_ceil(256 << 10);
    [
        ("the seal", 0),
        ("the end of the seal", 31),
        ("the length of the head", 32),
        ("the length of the head, far off", 35),
        ("the format", 36),
        ("the label", 36 + 20),
        ("the table", 44 + about + 4),
        ("the first hash of a part", 36 + head - 32 * parts),
        ("a hash of a part", 36 + head - 1),
        ("the first page", 36 + head),
        ("a page in the middle", (36 + head + file.len()) / 2),
        ("the last byte", file.len() - 1),
    ]
}

#[test]
fn every_region_of_a_description_is_sealed() {
    let folders = Folders::filled();
    let file = folders.files(".description")[0].clone();
    let len = fs::read(&file).unwrap().len();
    for at in [0, 33, 36, 60, len / 2, len - 1] {
        flip(&file, at);
        folders.assert_recreated(&format!("byte {at} of the description"));
    }
}

#[test]
fn truncated_and_extended_files_are_refused() {
    let folders = Folders::filled();
    let good = fs::read(folders.snapshot()).unwrap();
    for len in [0, 1, 31, 32, 35, 36, 100, good.len() / 2, good.len() - 1] {
        fs::write(folders.snapshot(), &good[..len]).unwrap();
        folders.assert_recreated(&format!("cut to {len}"));
    }
    let mut longer = File::options().append(true).open(folders.snapshot()).unwrap();
    longer.write_all(&[0]).unwrap();
    folders.assert_recreated("lengthened");
    // Sparse, and larger than any snapshot.
    File::options().write(true).open(folders.snapshot()).unwrap().set_len(1 << 40).unwrap();
    folders.assert_recreated("a terabyte");
}

#[test]
fn valid_snapshots_under_other_names_are_refused() {
    let folders = Folders::filled();
    let (host, _) = folders.host(Isolation::Thread);
    let own = folders.snapshot();
    // Another model of the same shapes, whose snapshot would run without an error.
    assert_eq!(answer(&load(&host, &product(5.0), &Policy::default()).unwrap(), 3), [35.0; 3]);
    host.snapshot_store().finish();
    let other = folders.files(".snapshot").into_iter().find(|path| *path != own).unwrap();
    fs::copy(&other, &own).unwrap();
    folders.assert_recreated("another model's snapshot");

    // The same model for another shape.
    let model = load(&host, &product(2.0), &Policy::default()).unwrap();
    assert_eq!(answer(&model, 2).len(), 2);
    host.snapshot_store().finish();
    fs::remove_file(&other).unwrap();
    let two = folders.files(".snapshot").into_iter().find(|path| *path != own).unwrap();
    fs::copy(&two, &own).unwrap();
    folders.assert_recreated("a snapshot for another shape");

    // A snapshot in place of each description.
    for description in folders.files(".description") {
        fs::copy(&own, &description).unwrap();
    }
    folders.assert_recreated("a snapshot as a description");
}

#[test]
fn snapshots_sealed_with_another_secret_are_refused() {
    let folders = Folders::filled();
    let state = folders.root.path().join("state");
    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(state.join("seal.key"), [9; 32]).unwrap();
    fs::set_permissions(state.join("seal.key"), fs::Permissions::from_mode(0o600)).unwrap();
    let (builder, seen) = folders.builder(Isolation::Thread);
    // The code is sealed with the old secret too, so it is compiled again.
    let host = builder.state_dir(&state).build().unwrap();
    let list = host.snapshot_store().list().unwrap();
    assert!(list.len() == 2 && list.iter().all(|stored| stored.broken.is_some()), "{list:?}");
    assert!(seen.refused().is_empty());
}

#[test]
fn files_that_are_not_private_are_refused() {
    type Damage = fn(&Path, &Path);
    let damage: [(&str, Damage); 6] = [
        ("others may read it", |file, _| {
            fs::set_permissions(file, fs::Permissions::from_mode(0o644)).unwrap();
        }),
        ("a symlink to a good snapshot", |file, aside| {
            fs::rename(file, aside).unwrap();
            symlink(aside, file).unwrap();
        }),
        ("a hard link", |file, aside| {
            let _ = fs::remove_file(aside);
            fs::hard_link(file, aside).unwrap();
        }),
        ("a FIFO", |file, _| {
            fs::remove_file(file).unwrap();
            let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o600));
            rustix::fs::mknodat(rustix::fs::CWD, file, kind, mode, 0).unwrap();
        }),
        ("a socket", |file, _| {
            fs::remove_file(file).unwrap();
            // The path is too long for a socket's address.
            let before = tempfile::tempdir().unwrap();
            let short = before.path().join("s");
            drop(std::os::unix::net::UnixListener::bind(&short).unwrap());
            fs::rename(short, file).unwrap();
        }),
        ("owned by another user", |file, _| {
            // Only root can change the owner, so only root can be attacked this way.
            if rustix::process::geteuid().is_root() {
                std::os::unix::fs::chown(file, Some(12_345), Some(12_345)).unwrap();
            } else {
                fs::set_permissions(file, fs::Permissions::from_mode(0o606)).unwrap();
            }
        }),
    ];
    let folders = Folders::filled();
    for (what, damage) in damage {
        damage(&folders.snapshot(), &folders.root.path().join("aside"));
        folders.assert_recreated(what);
        let metadata = fs::symlink_metadata(folders.snapshot()).unwrap();
        assert!(metadata.is_file() && metadata.mode() & 0o7777 == 0o600, "{what}");
        assert_eq!(metadata.uid(), rustix::process::geteuid().as_raw());
    }
}

#[test]
fn a_folder_that_is_open_to_others_is_not_used() {
    type Damage = fn(&Path, &Path);
    let damage: [(&str, Damage); 3] = [
        ("group may write", |folder, _| {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o770)).unwrap();
        }),
        ("a symlink", |folder, aside| {
            fs::rename(folder, aside).unwrap();
            symlink(aside, folder).unwrap();
        }),
        ("a file", |folder, _| {
            fs::remove_dir_all(folder).unwrap();
            fs::write(folder, "x").unwrap();
        }),
    ];
    for (what, damage) in damage {
        let folders = Folders::filled();
        damage(&folders.snapshots(), &folders.root.path().join("aside"));
        let (calls, seen) = folders.run();
        assert_eq!((calls.load, calls.prepare, calls.adopt), (1, 1, 1), "{what}");
        assert!(!seen.refused().is_empty() && !seen.not_stored().is_empty(), "{what}");
        let (host, _) = folders.host(Isolation::Thread);
        assert!(host.snapshot_store().list().is_err(), "{what}");
    }
}

#[test]
fn leftovers_of_dead_writers_are_never_read_and_are_removed() {
    let folders = Folders::filled();
    let bytes = fs::read(folders.snapshot()).unwrap();
    let half = folders.snapshots().join(".4711-0123456789abcdef");
    fs::write(&half, &bytes[..bytes.len() / 2]).unwrap();
    // A file that is being written.
    let live = folders.snapshots().join(".1-00");
    let writer = File::create(&live).unwrap();
    rustix::fs::flock(&writer, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let (calls, _) = folders.run();
    assert_from_store(&calls);
    // The next write removes leftovers.
    fs::remove_file(folders.snapshot()).unwrap();
    folders.run();
    assert!(!half.exists(), "the leftover was not removed");
    assert!(live.exists(), "a file that is being written was removed");
    // Unlocked rather than closed: a child that another test has just forked may still hold it.
    rustix::fs::flock(&writer, rustix::fs::FlockOperation::Unlock).unwrap();
    folders.host(Isolation::Thread).0.snapshot_store().remove_leftovers().unwrap();
    assert!(!live.exists());
}
