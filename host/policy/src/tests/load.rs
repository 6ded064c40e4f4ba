use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};

use super::*;
use sha2::{Digest as _, Sha256};

const TEXT: &str = "version = 1\n[limits]\nstack = \"1 MiB\"\n";

/// A folder of our own, with a policy in it. It lies in the system's temporary folder, which is
/// the sticky kind.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        place.chmod("", 0o755);
        place.write("policy.toml", TEXT.as_bytes());
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).unwrap();
        self.chmod(name, 0o644);
    }

    fn folder(&self, name: &str) {
        fs::create_dir(self.path(name)).unwrap();
        self.chmod(name, 0o755);
    }

    fn chmod(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn load(&self, name: &str) -> Result<LoadedPolicy, PolicyError> {
        Policy::load(&self.path(name))
    }

    #[track_caller]
    fn refuses(&self, name: &str, parts: &[&str]) -> PolicyError {
        let error = self.load(name).expect_err("it was accepted");
        let text = error.to_string();
        assert!((1..=3).contains(&text.lines().count()), "{text}");
        assert_says(&text, parts);
        error
    }
}

#[track_caller]
fn refuses(path: impl AsRef<Path>, parts: &[&str]) -> PolicyError {
    let error = Policy::load(path.as_ref()).expect_err("it was accepted");
    assert_says(&error.to_string(), parts);
    error
}

/// Whether the tests may give files away. Says so when they may not.
fn is_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped {test}: only root can give files to somebody else");
    }
    root
}

#[test]
fn loads_and_says_where_from() {
    let place = Place::new();
    let loaded = place.load("policy.toml").unwrap();
    assert_eq!(loaded.policy.limits.stack, 1 << 20);
    assert_eq!(loaded.source.path, place.path("policy.toml").canonicalize().unwrap());
    assert_eq!(loaded.source.sha256, <[u8; 32]>::from(Sha256::digest(TEXT)));

    place.chmod("policy.toml", 0o400);
    place.load("policy.toml").unwrap();
    // A second name for the file is harmless in a folder of one's own.
    fs::hard_link(place.path("policy.toml"), place.path("other.toml")).unwrap();
    place.load("other.toml").unwrap();
}

#[test]
fn odd_but_harmless_paths() {
    let place = Place::new();
    place.folder("sub");
    let real = place.path("policy.toml").canonicalize().unwrap();
    for name in
        ["./policy.toml", "sub/../policy.toml", ".//sub//..///policy.toml", "sub/./../policy.toml"]
    {
        assert_eq!(place.load(name).unwrap().source.path, real, "{name}");
    }
    let up = format!("{}/policy.toml", "/..".repeat(50));
    refuses(up, &["/policy.toml cannot be read"]);
}

#[test]
fn relative_paths_start_at_the_current_folder() {
    // The current folder belongs to the whole process, so it is only looked at here.
    let cwd = std::env::current_dir().unwrap();
    let here = refuses("no-such-policy.toml", &["cannot be read"]);
    let PolicyError::Read { what, source, .. } = here else { panic!("{here}") };
    assert_eq!(*what, *cwd.join("no-such-policy.toml").to_string_lossy());
    assert_eq!(source.kind(), std::io::ErrorKind::NotFound);
}

#[test]
fn paths_that_name_no_file() {
    let place = Place::new();
    refuses("", &["the path is empty"]);
    refuses("a\0b", &["NUL byte", "a\\0b"]);
    refuses(std::ffi::OsStr::from_bytes(b"/x\xff\0"), &["NUL byte"]);
    refuses("x".repeat(5000), &["longer than 4095 bytes"]);
    refuses("/".repeat(5000), &["longer than 4095 bytes"]);
    refuses(format!("/{}", "x".repeat(300)), &["cannot be read"]);
    refuses("/", &["ends in a slash"]);
    refuses("/.", &["it is a folder"]);
    refuses("..", &["it is a folder"]);
    place.refuses("policy.toml/", &["ends in a slash"]);
    place.refuses("policy.toml/.", &["cannot be read", "Not a directory"]);
    place.refuses("policy.toml/../policy.toml", &["Not a directory"]);
    place.refuses("policy.toml/x", &["Not a directory"]);
    place.refuses("missing/../policy.toml", &["No such file"]);
    place.refuses("", &["ends in a slash"]);
    place.folder("folder");
    place.refuses("folder", &["it is a folder, and a policy must be a regular file"]);
    place.refuses("none\u{1b}\n\u{202e}", &["none\\u{1b}\\n\\u{202e}", "No such file"]);
}

#[test]
fn pipes_devices_and_descriptors_do_not_block() {
    // Where one did, this would never end.
    let place = Place::new();
    let mode = rustix::fs::Mode::from_raw_mode(0o644);
    rustix::fs::mknodat(rustix::fs::CWD, place.path("pipe"), rustix::fs::FileType::Fifo, mode, 0)
        .unwrap();
    place.refuses("pipe", &["it is a pipe"]);
    let _socket = std::os::unix::net::UnixListener::bind(place.path("socket")).unwrap();
    place.refuses("socket", &["it is a socket"]);
    for device in ["/dev/zero", "/dev/null", "/dev/tty"] {
        if Path::new(device).exists() {
            // On some systems /dev itself is not trustworthy; either way, refused.
            Policy::load(Path::new(device)).unwrap_err();
        }
    }

    let open = fs::File::open(place.path("policy.toml")).unwrap();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&open);
    for path in [
        format!("/proc/self/fd/{fd}"),
        format!("/proc/{}/fd/{fd}", std::process::id()),
        format!("/proc/thread-self/fd/{fd}"),
        "/proc/self/root/etc/passwd".to_owned(),
        "/proc/self/cwd/x".to_owned(),
        "/proc/cpuinfo".to_owned(),
    ] {
        refuses(path, &["is not trusted", "belongs to a process", "as a file of its own"]);
    }
    Policy::load(Path::new(&format!("/dev/fd/{fd}"))).unwrap_err();
    Policy::load(Path::new("/dev/stdin")).unwrap_err();
}

#[test]
fn writable_by_others() {
    let place = Place::new();
    for mode in [0o664, 0o646, 0o666, 0o620, 0o602] {
        place.chmod("policy.toml", mode);
        let mode = format!("mode {mode:04o}");
        place.refuses(
            "policy.toml",
            &["file", "is writable by group or world", &mode, "chmod go-w"],
        );
    }
    place.chmod("policy.toml", 0o644);

    place.folder("a");
    place.folder("a/b");
    place.write("a/b/policy.toml", TEXT.as_bytes());
    place.load("a/b/policy.toml").unwrap();
    for mode in [0o775, 0o757, 0o777] {
        place.chmod("a", mode);
        place.refuses("a/b/policy.toml", &["folder", "/a is writable by group or world"]);
        // Passing through it is enough.
        place.refuses("a/../policy.toml", &["/a is writable by group or world"]);
        place.chmod("a", 0o755);
        place.chmod("a/b", mode);
        place.refuses("a/b/policy.toml", &["/a/b is writable by group or world"]);
        place.chmod("a/b", 0o755);
    }
}

#[test]
fn sticky_folders() {
    let place = Place::new();
    place.folder("shared");
    place.write("shared/policy.toml", TEXT.as_bytes());
    place.folder("shared/mine");
    place.write("shared/mine/policy.toml", TEXT.as_bytes());
    for mode in [0o1777, 0o1775] {
        place.chmod("shared", mode);
        place.load("shared/policy.toml").unwrap();
        place.load("shared/mine/policy.toml").unwrap();
    }
    // A hard link somebody else may have put there.
    fs::hard_link(place.path("policy.toml"), place.path("shared/old.toml")).unwrap();
    place.refuses("shared/old.toml", &["2 hard links", "everybody may write to"]);
    place.chmod("shared/mine", 0o777);
    place.refuses("shared/mine/policy.toml", &["/shared/mine is writable"]);
    if is_root("sticky_folders") {
        place.chmod("shared/mine", 0o755);
        chown(place.path("shared/mine"), Some(4321), None).unwrap();
        place.refuses("shared/mine/policy.toml", &["/shared/mine belongs to uid 4321"]);
        chown(place.path("shared/policy.toml"), Some(4321), None).unwrap();
        place.refuses("shared/policy.toml", &["file", "belongs to uid 4321"]);
        chown(place.path("shared"), Some(4321), None).unwrap();
        place.refuses("shared/policy.toml", &["/shared belongs to uid 4321"]);
    }
}

#[test]
fn owned_by_others() {
    if !is_root("owned_by_others") {
        return;
    }
    let place = Place::new();
    chown(place.path("policy.toml"), Some(4321), Some(4321)).unwrap();
    place.refuses(
        "policy.toml",
        &["file", "belongs to uid 4321, not to root or the caller (uid 0)"],
    );
    chown(place.path("policy.toml"), Some(0), Some(4321)).unwrap();
    place.load("policy.toml").unwrap();

    place.folder("theirs");
    place.write("theirs/policy.toml", TEXT.as_bytes());
    chown(place.path("theirs"), Some(4321), None).unwrap();
    place.refuses("theirs/policy.toml", &["folder", "/theirs belongs to uid 4321"]);
    // Through a link of our own as well.
    symlink("theirs/policy.toml", place.path("link.toml")).unwrap();
    place.refuses("link.toml", &["/theirs belongs to uid 4321"]);
    // And a link of theirs to a file of ours.
    std::os::unix::fs::lchown(place.path("link.toml"), Some(4321), None).unwrap();
    place.refuses("link.toml", &["symbolic link", "belongs to uid 4321"]);
}

#[test]
fn symbolic_links_are_judged_by_where_they_lead() {
    let place = Place::new();
    let real = place.path("policy.toml").canonicalize().unwrap();
    place.folder("sub");
    symlink("policy.toml", place.path("relative")).unwrap();
    symlink(&real, place.path("absolute")).unwrap();
    symlink("../relative", place.path("sub/chain")).unwrap();
    symlink("sub", place.path("to-folder")).unwrap();
    symlink("sub/", place.path("to-folder-slash")).unwrap();
    for name in [
        "relative",
        "absolute",
        "sub/chain",
        "to-folder/chain",
        "to-folder-slash/chain",
        "to-folder/../policy.toml",
    ] {
        assert_eq!(place.load(name).unwrap().source.path, real, "{name}");
    }

    symlink("policy.toml/", place.path("slash")).unwrap();
    place.refuses("slash", &["Not a directory"]);
    symlink("loop", place.path("loop")).unwrap();
    place.refuses("loop", &["cannot be read", "symbolic link"]);
    symlink("nowhere", place.path("dangling")).unwrap();
    place.refuses("dangling", &["/nowhere cannot be read", "No such file"]);
    symlink("/proc/self/fd/0", place.path("descriptor")).unwrap();
    place.refuses("descriptor", &["belongs to a process"]);

    // The link's own folder counts, and so does its target's.
    place.folder("open");
    symlink(&real, place.path("open/link")).unwrap();
    place.write("open/policy.toml", TEXT.as_bytes());
    symlink("open/policy.toml", place.path("into-open")).unwrap();
    place.chmod("open", 0o777);
    place.refuses("open/link", &["/open is writable by group or world"]);
    place.refuses("into-open", &["/open is writable by group or world"]);
}

#[test]
fn contents() {
    let place = Place::new();
    place.write("empty.toml", b"");
    place.refuses("empty.toml", &["empty.toml:1:1", "`version` is missing"]);
    place.write("binary.toml", b"version = 1\nx = \"\xff\"");
    place.refuses("binary.toml", &["binary.toml:2:6", "not UTF-8"]);
    place.write("wrong.toml", b"version = 1\n[limits]\nmemory = \"5 GiB\"");
    place.refuses("wrong.toml", &["wrong.toml:3:10: limits.memory", "4 GiB"]);

    let limit = usize::try_from(MAX_POLICY_SIZE).unwrap();
    let mut large = TEXT.as_bytes().to_vec();
    large.resize(limit, b'\n');
    place.write("large.toml", &large);
    place.load("large.toml").unwrap();
    large.push(b'\n');
    place.write("large.toml", &large);
    assert!(matches!(place.refuses("large.toml", &["1048576"]), PolicyError::TooLarge { .. }));
    // Sparse, so that only its size is large.
    let sparse = fs::File::create(place.path("sparse.toml")).unwrap();
    sparse.set_len(1 << 40).unwrap();
    place.chmod("sparse.toml", 0o644);
    place.refuses("sparse.toml", &["larger than 1048576 bytes"]);
}

#[test]
fn changed_policy_no_longer_names_the_file_it_came_from() {
    let place = Place::new();
    place.write("policy.toml", b"version = 1\n[program]\n");
    let LoadedPolicy { policy, source } = place.load("policy.toml").unwrap();
    assert_eq!(policy.file_sha256(), Some(source.sha256));
    assert_eq!(policy.clone().file_sha256(), Some(source.sha256));

    let mut changed = policy.clone();
    changed.limits.stack += 1;
    assert_eq!(changed.file_sha256(), None);
    changed.limits.stack -= 1;
    assert_eq!(changed.file_sha256(), Some(source.sha256), "it says what the file says");
    assert_eq!(policy.clone().with_confinement(Confinement::BestEffort).file_sha256(), None);
    assert_eq!(Policy::default().file_sha256(), None);

    // What a ceiling takes away does not make it another file.
    let ceiling = Ceiling::parse("version = 1\n[limits]\nmemory = \"64 MiB\"\n[program]\n", "test");
    let effective = Ceilings::of(vec![ceiling.unwrap()], false).admit(&policy).unwrap();
    assert_eq!(effective.cuts().len(), 1);
    assert_eq!(effective.file_sha256(), Some(source.sha256));
}
