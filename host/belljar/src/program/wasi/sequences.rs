//! Sequences of file operations with unusual names, and checks of what must hold after them, for a
//! property test and the fuzz target `files`.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::time::SystemTime;

use wasmtime::component::Resource;
use wasmtime_wasi::p2::bindings::filesystem::preopens::Host as _;
use wasmtime_wasi::p2::bindings::sync::filesystem::types::{
    Descriptor, DescriptorFlags, HostDescriptor as Calls, HostDirectoryEntryStream as _,
    NewTimestamp, OpenFlags, PathFlags,
};
use wasmtime_wasi::p2::bindings::sync::io::streams::{HostInputStream as _, HostOutputStream as _};

use super::{Asked, AtName, Below, Outside, Refusal, Resources, Stream, WasiState, open_grant};
use belljar_policy::{Access, FileGrant, Peer, Program, Protocol, Quotas};

/// Names that operations use.
const NAMES: [&str; 32] = [
    "a",
    "b",
    "sub",
    "sub/c",
    "sub/deep",
    "new",
    "new/x",
    "fifo",
    "hard",
    "link",
    "link/secret",
    "up",
    "up/outside/secret",
    "..",
    "../",
    "../outside/secret",
    "sub/..",
    "sub/../../outside/secret",
    ".",
    "./",
    "",
    "/",
    "//",
    "/etc/passwd",
    "/proc/self/root",
    "a/",
    "a/.",
    "sub/",
    "sub/./c",
    "a\0b",
    "sub//c",
    "...",
];

/// Content of files that the program must not read or change.
const SECRET: &[u8] = b"a secret of the host";

const MAX_FILES: u32 = 12;
const MAX_BYTES: u64 = 5000;

struct Silent;

impl Outside for Silent {
    fn connect(&mut self, _: &Peer, _: u16, _: Protocol) -> Result<std::os::fd::OwnedFd, Refusal> {
        panic!("nothing on the network was granted");
    }

    fn look(&mut self, _: &Below) -> std::io::Result<AtName> {
        Ok(AtName::Free)
    }

    fn print(&mut self, _: Stream, _: &str) {}

    fn decided(&mut self, asked: &Asked<'_>) -> std::io::Result<()> {
        assert!(!asked.rule.is_empty());
        assert!(!asked.resource.chars().any(char::is_control), "{:?}", asked.resource);
        Ok(())
    }
}

/// All files of a folder: path, modification time, and content or link target.
type Tree = Vec<(String, SystemTime, Vec<u8>)>;

fn tree(folder: &Path) -> Tree {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let of = fs::symlink_metadata(&path).expect("what it is");
            let content = match of.file_type() {
                kind if kind.is_symlink() => {
                    fs::read_link(&path).expect("a link").into_os_string().into_encoded_bytes()
                }
                kind if kind.is_file() => fs::read(&path).expect("a file"),
                kind if kind.is_dir() => {
                    folders.push(path.clone());
                    Vec::new()
                }
                _ => Vec::new(),
            };
            let name = path.to_string_lossy().into_owned();
            found.push((name, of.modified().expect("a time"), content));
        }
    }
    found.sort();
    found
}

/// Creates a writable folder, a readable folder and a readable file, and files without a grant.
fn create_files(base: &Path) {
    fs::create_dir(base.join("outside")).expect("a folder");
    fs::write(base.join("outside/secret"), SECRET).expect("a file");
    for granted in ["write", "read"] {
        let folder = base.join(granted);
        fs::create_dir_all(folder.join("sub")).expect("a folder");
        fs::write(folder.join("a"), "granted").expect("a file");
        fs::write(folder.join("sub/c"), "granted").expect("a file");
        symlink("../outside", folder.join("link")).expect("a link");
        symlink("..", folder.join("up")).expect("a link");
        fs::hard_link(base.join("outside/secret"), folder.join("hard")).expect("a link");
        let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o600));
        rustix::fs::mknodat(rustix::fs::CWD, folder.join("fifo"), kind, mode, 0).expect("a pipe");
    }
    fs::write(base.join("single"), "granted").expect("a file");
}

/// Runs the operations that these bytes encode in the folder, and panics if a check fails.
pub(crate) fn run(bytes: &[u8], base: &Path) {
    create_files(base);
    let kept = |name: &str| tree(&base.join(name));
    let (outside, read, written) = (kept("outside"), kept("read"), kept("write"));
    let grant = |host: &str, guest: &str, access| {
        open_grant(&FileGrant::new(base.join(host), guest, access, "")).expect("it opens")
    };
    let mut quotas = Quotas::default();
    (quotas.bytes_written, quotas.files_created, quotas.open_handles) = (MAX_BYTES, MAX_FILES, 6);
    let mut state = WasiState::new(Resources {
        program: Program::default(),
        arguments: Vec::new(),
        files: vec![
            grant("write", "/write", Access::Write),
            grant("read", "/read", Access::Read),
            grant("single", "/single/file", Access::Read),
        ],
        network: Vec::new(),
        quotas,
        outside: Box::new(Silent),
    });
    let folders = state.get_directories().expect("folders").into_iter();
    let mut handles: Vec<u32> = folders.map(|(handle, _)| handle.rep()).collect();
    let mut bytes = bytes.iter().copied();
    while let Some(operation) = bytes.next() {
        let (Some(on), Some(name), Some(more)) = (bytes.next(), bytes.next(), bytes.next()) else {
            break;
        };
        act(&mut state, &mut handles, operation, on, name, more);
    }
    drop(state);

    assert_eq!(kept("outside"), outside, "outside of every grant");
    assert_eq!(kept("read"), read, "in a grant to read");
    assert_eq!(fs::read(base.join("single")).expect("a file"), b"granted");
    assert_eq!(fs::read_dir(base).expect("a folder").count(), 4, "next to the grants");
    let now = kept("write");
    assert!(now.len() <= written.len() + MAX_FILES as usize, "{now:?}");
    let size = |tree: &Tree| tree.iter().map(|(.., content)| content.len() as u64).sum::<u64>();
    assert!(size(&now) <= size(&written) + MAX_BYTES, "{now:?}");
    let secret = fs::metadata(base.join("outside/secret")).expect("a file");
    let (mut links, mut names) = (0, 0);
    for (path, ..) in &now {
        let of = fs::symlink_metadata(path).expect("what it is");
        links += usize::from(of.file_type().is_symlink());
        names += usize::from(of.ino() == secret.ino());
    }
    assert!(links <= 2 && names <= 1, "a link was made: {now:?}");
}

fn act(state: &mut WasiState, handles: &mut Vec<u32>, operation: u8, on: u8, name: u8, more: u8) {
    let pick = |at: u8| handles.get(usize::from(at) % handles.len().max(1)).copied().unwrap_or(0);
    let on = pick(on);
    let at = |rep: u32| Resource::<Descriptor>::new_borrow(rep);
    let named = |at: u8| NAMES[usize::from(at) % NAMES.len()].to_owned();
    let (path, other) = (named(name), named(more));
    let follow = PathFlags::SYMLINK_FOLLOW;
    match operation % 16 {
        0..=3 => {
            let mut open = OpenFlags::empty();
            let mut flags = DescriptorFlags::READ;
            for (bit, wanted) in [
                (1, OpenFlags::CREATE),
                (2, OpenFlags::EXCLUSIVE),
                (4, OpenFlags::TRUNCATE),
                (8, OpenFlags::DIRECTORY),
            ] {
                if more & bit != 0 {
                    open |= wanted;
                }
            }
            if more & 16 != 0 {
                flags |= DescriptorFlags::WRITE;
            }
            if more & 32 != 0 {
                flags |= DescriptorFlags::MUTATE_DIRECTORY;
            }
            if let Ok(opened) = state.open_at(at(on), follow, path, open, flags) {
                handles.push(opened.rep());
            }
        }
        4 => drop(state.create_directory_at(at(on), path)),
        5 => drop(state.remove_directory_at(at(on), path)),
        6 => drop(state.unlink_file_at(at(on), path)),
        7 => drop(state.rename_at(at(on), path, at(pick(more.rotate_left(4))), other)),
        8 => drop(state.link_at(at(on), follow, path, at(pick(more)), other)),
        9 => drop(state.symlink_at(at(on), other, path)),
        10 => {
            let _ = state.stat_at(at(on), follow, path.clone());
            let _ = state.metadata_hash_at(at(on), follow, path.clone());
            let _ = state.readlink_at(at(on), path);
        }
        11 => {
            let _ = state.set_times_at(at(on), follow, path, NewTimestamp::Now, NewTimestamp::Now);
            let _ = state.set_times(at(on), NewTimestamp::Now, NewTimestamp::NoChange);
        }
        12 => {
            let _ = state.set_size(at(on), u64::from(more) * 30);
            let _ = Calls::write(state, at(on), vec![b'w'; name.into()], u64::from(more) * 10);
        }
        13 => {
            if let Ok(stream) = state.append_via_stream(at(on)) {
                let _ = state.blocking_write_and_flush(stream, vec![b'w'; more.into()]);
            }
        }
        14 => {
            if let Ok((found, _)) = Calls::read(state, at(on), 100, u64::from(more) % 8) {
                assert!(!found.windows(6).any(|part| part == &SECRET[2..8]), "the secret was read");
            }
            if let Ok(stream) = state.read_via_stream(at(on), 0)
                && let Ok(found) = state.blocking_read(stream, 100)
            {
                assert!(!found.windows(6).any(|part| part == &SECRET[2..8]), "the secret was read");
            }
        }
        _ => {
            if more & 1 == 0
                && let Ok(list) = state.read_directory(at(on))
            {
                let list = list.rep();
                for _ in 0..20 {
                    let _ = state.read_directory_entry(Resource::new_borrow(list));
                }
                let _ = wasmtime_wasi::p2::bindings::sync::filesystem::types::HostDirectoryEntryStream::drop(
                    state,
                    Resource::new_own(list),
                );
            } else if handles.len() > 3
                && let Some(place) = handles.iter().position(|held| *held == on)
            {
                handles.remove(place);
                let _ = Calls::drop(state, Resource::new_own(on));
            }
        }
    }
}
