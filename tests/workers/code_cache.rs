//! The cache of native code: a file that Belljar did not write is never used.

use crate::support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use belljar::{Error, Event, Host, Isolation};
use support::onnx::{fixed, relu};

struct Folders {
    _root: tempfile::TempDir,
    cache: PathBuf,
    state: PathBuf,
}

/// A copy of the shared cache, to be damaged.
fn copied() -> Folders {
    support::host(Isolation::Thread).kernels().unwrap();
    let root = tempfile::tempdir().unwrap();
    let (cache, state) = (root.path().join("cache"), root.path().join("state"));
    let copy = |from: &Path, to: &Path| {
        fs::create_dir_all(to).unwrap();
        fs::set_permissions(to, fs::Permissions::from_mode(0o700)).unwrap();
        for entry in fs::read_dir(from).unwrap().filter_map(Result::ok) {
            // Skips temporary files of other tests.
            let unnamed = entry.file_name().to_string_lossy().starts_with('.');
            // Skips files about models.
            if unnamed || entry.path().is_dir() {
                continue;
            }
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    };
    copy(&support::cache_dir().join("code"), &cache.join("code"));
    copy(&support::state_dir(), &state);
    Folders { _root: root, cache, state }
}

impl Folders {
    fn code(&self) -> Vec<PathBuf> {
        let mut files: Vec<_> = fs::read_dir(self.cache.join("code"))
            .unwrap()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect();
        files.sort();
        files
    }

    /// Runs a model without compiling, and returns the result and the refused files.
    fn try_it(&self) -> (Result<(), Error>, Vec<PathBuf>) {
        let (result, refused, compiled) = self.try_compiling(false);
        assert!(!compiled);
        (result, refused)
    }

    fn try_compiling(&self, allowed: bool) -> (Result<(), Error>, Vec<PathBuf>, bool) {
        let events = Arc::new(Mutex::new((Vec::new(), false)));
        let seen = Arc::clone(&events);
        let host = Host::builder()
            .isolation(Isolation::Thread)
            .cache_dir(&self.cache)
            .state_dir(&self.state)
            .may_compile(allowed)
            .on_event(move |event| match event {
                Event::CodeRefused { path, .. } => seen.lock().unwrap().0.push(path),
                Event::Compiling { .. } => seen.lock().unwrap().1 = true,
                _ => {}
            })
            .build()
            .unwrap();
        let result = support::load(&host, &relu(&fixed(&[2])).bytes()).map(drop);
        let (refused, compiled) = events.lock().unwrap().clone();
        (result, refused, compiled)
    }
}

#[track_caller]
fn assert_refused(folders: &Folders, what: &str) {
    let (result, refused) = folders.try_it();
    let err = result.err().unwrap_or_else(|| panic!("{what}: accepted"));
    assert_eq!(err.exit_code(), 7, "{what}: {err}");
    assert!(err.to_string().contains("belljar warm"), "{what}: {err}");
    assert_eq!(refused.len(), 1, "{what}");
}

#[test]
fn unchanged_code_is_used() {
    let (result, refused) = copied().try_it();
    result.unwrap();
    assert!(refused.is_empty());
}

#[test]
fn changed_code_is_refused_and_replaced() {
    let folders = copied();
    for file in folders.code() {
        let mut bytes = fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&file, bytes).unwrap();
    }
    assert_refused(&folders, "one bit flipped");
    let (result, refused, compiled) = folders.try_compiling(true);
    result.unwrap();
    assert!(refused.len() == 1 && compiled);
    let (result, refused) = folders.try_it();
    result.unwrap();
    assert!(refused.is_empty(), "the replacement is good");
}

#[test]
fn missing_code_stops_a_host_that_may_not_compile() {
    let folders = copied();
    folders.code().iter().for_each(|file| fs::remove_file(file).unwrap());
    let (result, refused) = folders.try_it();
    assert_eq!(result.unwrap_err().exit_code(), 7);
    assert!(refused.is_empty());
}

#[test]
fn code_from_elsewhere_is_refused() {
    let folders = copied();
    // The same files, but sealed with another secret, as a user who can write to the cache but not
    // read the secret could create them.
    fs::write(folders.state.join("seal.key"), [1; 32]).unwrap();
    assert_refused(&folders, "another secret");
}

#[test]
fn valid_code_under_another_name_is_refused() {
    // Makes sure that there are two variants, then swaps them.
    support::host(Isolation::Process).kernels().unwrap();
    let folders = copied();
    let files = folders.code();
    assert!(files.len() >= 2, "{files:?}");
    let contents: Vec<_> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    for (at, file) in files.iter().enumerate() {
        fs::write(file, &contents[(at + 1) % contents.len()]).unwrap();
    }
    assert_refused(&folders, "names exchanged");
}

#[test]
fn truncated_and_empty_files_are_refused() {
    for len in [0, 31, 32, 33, 100_000] {
        let folders = copied();
        for file in folders.code() {
            let bytes = fs::read(&file).unwrap();
            fs::write(&file, &bytes[..len]).unwrap();
        }
        assert_refused(&folders, "cut");
    }
}

#[test]
fn symlinks_and_open_permissions_are_errors() {
    type Damage = fn(&Folders);
    let damage: [(&str, Damage); 7] = [
        ("a file that others may read", |folders| {
            for file in folders.code() {
                fs::set_permissions(file, fs::Permissions::from_mode(0o644)).unwrap();
            }
        }),
        ("a folder that others may write", |folders| {
            let mode = fs::Permissions::from_mode(0o770);
            fs::set_permissions(folders.cache.join("code"), mode).unwrap();
        }),
        ("a folder above the code that others may write", |folders| {
            fs::set_permissions(&folders.cache, fs::Permissions::from_mode(0o775)).unwrap();
        }),
        ("a folder above the secret that others may write", |folders| {
            let above = folders.state.parent().unwrap();
            fs::set_permissions(above, fs::Permissions::from_mode(0o757)).unwrap();
        }),
        ("a symlink to good code", |folders| {
            for file in folders.code() {
                let aside = folders.cache.join(file.file_name().unwrap());
                fs::rename(&file, &aside).unwrap();
                symlink(&aside, &file).unwrap();
            }
        }),
        ("a secret that others may read", |folders| {
            let mode = fs::Permissions::from_mode(0o604);
            fs::set_permissions(folders.state.join("seal.key"), mode).unwrap();
        }),
        ("a folder in place of the code", |folders| {
            for file in folders.code() {
                fs::remove_file(&file).unwrap();
                fs::create_dir(&file).unwrap();
            }
        }),
    ];
    for (what, damage) in damage {
        let folders = copied();
        damage(&folders);
        let (result, _, compiled) = folders.try_compiling(true);
        let err = result.err().unwrap_or_else(|| panic!("{what}: accepted"));
        assert!(!compiled, "{what}");
        assert_eq!(err.exit_code(), 7, "{what}: {err}");
    }
}
