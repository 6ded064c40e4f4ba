use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};

use super::*;
use sha2::{Digest as _, Sha256};

const TEXT: &str = "version = 1\n[limits]\nstack = \"1 MiB\"\n";

/// A temporary folder with a policy in it. It is in the system's temporary folder, which has the
/// sticky bit.
struct TempFolder(tempfile::TempDir);

impl TempFolder {
    fn new() -> Self {
        let temp = Self(tempfile::tempdir().unwrap());
        temp.chmod("", 0o755);
        temp.write("policy.toml", TEXT.as_bytes());
        temp
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

/// Whether the tests may change the owner of files. Prints a note if not.
fn is_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped {test}: only root can give files to somebody else");
    }
    root
}

#[test]
fn loaded_policy_records_its_source() {
    let temp = TempFolder::new();
    let loaded = temp.load("policy.toml").unwrap();
    assert_eq!(loaded.policy.limits.stack, 1 << 20);
    assert_eq!(loaded.source.path, temp.path("policy.toml").canonicalize().unwrap());
    assert_eq!(loaded.source.sha256, <[u8; 32]>::from(Sha256::digest(TEXT)));

    temp.chmod("policy.toml", 0o400);
    temp.load("policy.toml").unwrap();
    // Another hard link is harmless in a private folder.
    fs::hard_link(temp.path("policy.toml"), temp.path("other.toml")).unwrap();
    temp.load("other.toml").unwrap();
}

#[test]
fn unusual_but_harmless_paths_are_accepted() {
    let temp = TempFolder::new();
    temp.folder("sub");
    let real = temp.path("policy.toml").canonicalize().unwrap();
    for name in
        ["./policy.toml", "sub/../policy.toml", ".//sub//..///policy.toml", "sub/./../policy.toml"]
    {
        assert_eq!(temp.load(name).unwrap().source.path, real, "{name}");
    }
    let up = format!("{}/policy.toml", "/..".repeat(50));
    refuses(up, &["/policy.toml cannot be read"]);
}

#[test]
fn relative_paths_start_at_the_current_folder() {
    // The current folder belongs to the whole process, so it is not changed here.
    let cwd = std::env::current_dir().unwrap();
    let here = refuses("no-such-policy.toml", &["cannot be read"]);
    let PolicyError::Read { what, source, .. } = here else { panic!("{here}") };
    assert_eq!(*what, *cwd.join("no-such-policy.toml").to_string_lossy());
    assert_eq!(source.kind(), std::io::ErrorKind::NotFound);
}

#[test]
fn paths_that_name_no_file_are_refused() {
    let temp = TempFolder::new();
    refuses("", &["the path is empty"]);
    refuses("a\0b", &["NUL byte", "a\\0b"]);
    refuses(std::ffi::OsStr::from_bytes(b"/x\xff\0"), &["NUL byte"]);
    refuses("x".repeat(5000), &["longer than 4095 bytes"]);
    refuses("/".repeat(5000), &["longer than 4095 bytes"]);
    refuses(format!("/{}", "x".repeat(300)), &["cannot be read"]);
    refuses("/", &["ends in a slash"]);
    refuses("/.", &["it is a folder"]);
    refuses("..", &["it is a folder"]);
    temp.refuses("policy.toml/", &["ends in a slash"]);
    temp.refuses("policy.toml/.", &["cannot be read", "Not a directory"]);
    temp.refuses("policy.toml/../policy.toml", &["Not a directory"]);
    temp.refuses("policy.toml/x", &["Not a directory"]);
    temp.refuses("missing/../policy.toml", &["No such file"]);
    temp.refuses("", &["ends in a slash"]);
    temp.folder("folder");
    temp.refuses("folder", &["it is a folder; a policy must be a regular file"]);
    temp.refuses("none\u{1b}\n\u{202e}", &["none\\u{1b}\\n\\u{202e}", "No such file"]);
}

#[test]
fn pipes_devices_and_descriptors_do_not_block() {
    // If one blocked, this test would never end.
    let temp = TempFolder::new();
    let mode = rustix::fs::Mode::from_raw_mode(0o644);
    rustix::fs::mknodat(rustix::fs::CWD, temp.path("pipe"), rustix::fs::FileType::Fifo, mode, 0)
        .unwrap();
    temp.refuses("pipe", &["it is a pipe"]);
    let _socket = std::os::unix::net::UnixListener::bind(temp.path("socket")).unwrap();
    temp.refuses("socket", &["it is a socket"]);
    for device in ["/dev/zero", "/dev/null", "/dev/tty"] {
        if Path::new(device).exists() {
            // On some systems /dev itself is not trusted; it is refused either way.
            Policy::load(Path::new(device)).unwrap_err();
        }
    }

    let open = fs::File::open(temp.path("policy.toml")).unwrap();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&open);
    for path in [
        format!("/proc/self/fd/{fd}"),
        format!("/proc/{}/fd/{fd}", std::process::id()),
        format!("/proc/thread-self/fd/{fd}"),
        "/proc/self/root/etc/passwd".to_owned(),
        "/proc/self/cwd/x".to_owned(),
        "/proc/cpuinfo".to_owned(),
    ] {
        refuses(
            path,
            &["is not trusted", "belongs to a process", "descriptors and pipes are not accepted"],
        );
    }
    Policy::load(Path::new(&format!("/dev/fd/{fd}"))).unwrap_err();
    Policy::load(Path::new("/dev/stdin")).unwrap_err();
}

#[test]
fn policies_writable_by_others_are_refused() {
    let temp = TempFolder::new();
    for mode in [0o664, 0o646, 0o666, 0o620, 0o602] {
        temp.chmod("policy.toml", mode);
        let mode = format!("mode {mode:04o}");
        temp.refuses(
            "policy.toml",
            &["file", "is writable by group or world", &mode, "chmod go-w"],
        );
    }
    temp.chmod("policy.toml", 0o644);

    temp.folder("a");
    temp.folder("a/b");
    temp.write("a/b/policy.toml", TEXT.as_bytes());
    temp.load("a/b/policy.toml").unwrap();
    for mode in [0o775, 0o757, 0o777] {
        temp.chmod("a", mode);
        temp.refuses("a/b/policy.toml", &["folder", "/a is writable by group or world"]);
        // A writable folder on the path is enough.
        temp.refuses("a/../policy.toml", &["/a is writable by group or world"]);
        temp.chmod("a", 0o755);
        temp.chmod("a/b", mode);
        temp.refuses("a/b/policy.toml", &["/a/b is writable by group or world"]);
        temp.chmod("a/b", 0o755);
    }
}

#[test]
fn sticky_folders() {
    let temp = TempFolder::new();
    temp.folder("shared");
    temp.write("shared/policy.toml", TEXT.as_bytes());
    temp.folder("shared/mine");
    temp.write("shared/mine/policy.toml", TEXT.as_bytes());
    for mode in [0o1777, 0o1775] {
        temp.chmod("shared", mode);
        temp.load("shared/policy.toml").unwrap();
        temp.load("shared/mine/policy.toml").unwrap();
    }
    // A hard link that another user may have put there.
    fs::hard_link(temp.path("policy.toml"), temp.path("shared/old.toml")).unwrap();
    temp.refuses("shared/old.toml", &["2 hard links", "world-writable"]);
    temp.chmod("shared/mine", 0o777);
    temp.refuses("shared/mine/policy.toml", &["/shared/mine is writable"]);
    if is_root("sticky_folders") {
        temp.chmod("shared/mine", 0o755);
        chown(temp.path("shared/mine"), Some(4321), None).unwrap();
        temp.refuses("shared/mine/policy.toml", &["/shared/mine belongs to uid 4321"]);
        chown(temp.path("shared/policy.toml"), Some(4321), None).unwrap();
        temp.refuses("shared/policy.toml", &["file", "belongs to uid 4321"]);
        chown(temp.path("shared"), Some(4321), None).unwrap();
        temp.refuses("shared/policy.toml", &["/shared belongs to uid 4321"]);
    }
}

#[test]
fn policies_owned_by_others_are_refused() {
    if !is_root("policies_owned_by_others_are_refused") {
        return;
    }
    let temp = TempFolder::new();
    chown(temp.path("policy.toml"), Some(4321), Some(4321)).unwrap();
    temp.refuses(
        "policy.toml",
        &["file", "belongs to uid 4321, not to root or the caller (uid 0)"],
    );
    chown(temp.path("policy.toml"), Some(0), Some(4321)).unwrap();
    temp.load("policy.toml").unwrap();

    temp.folder("theirs");
    temp.write("theirs/policy.toml", TEXT.as_bytes());
    chown(temp.path("theirs"), Some(4321), None).unwrap();
    temp.refuses("theirs/policy.toml", &["folder", "/theirs belongs to uid 4321"]);
    // Also through a link of the caller.
    symlink("theirs/policy.toml", temp.path("link.toml")).unwrap();
    temp.refuses("link.toml", &["/theirs belongs to uid 4321"]);
    // Another user's link to the caller's file.
    std::os::unix::fs::lchown(temp.path("link.toml"), Some(4321), None).unwrap();
    temp.refuses("link.toml", &["symbolic link", "belongs to uid 4321"]);
}

#[test]
fn symbolic_links_are_checked_by_their_target() {
    let temp = TempFolder::new();
    let real = temp.path("policy.toml").canonicalize().unwrap();
    temp.folder("sub");
    symlink("policy.toml", temp.path("relative")).unwrap();
    symlink(&real, temp.path("absolute")).unwrap();
    symlink("../relative", temp.path("sub/chain")).unwrap();
    symlink("sub", temp.path("to-folder")).unwrap();
    symlink("sub/", temp.path("to-folder-slash")).unwrap();
    for name in [
        "relative",
        "absolute",
        "sub/chain",
        "to-folder/chain",
        "to-folder-slash/chain",
        "to-folder/../policy.toml",
    ] {
        assert_eq!(temp.load(name).unwrap().source.path, real, "{name}");
    }

    symlink("policy.toml/", temp.path("slash")).unwrap();
    temp.refuses("slash", &["Not a directory"]);
    symlink("loop", temp.path("loop")).unwrap();
    temp.refuses("loop", &["cannot be read", "symbolic link"]);
    symlink("nowhere", temp.path("dangling")).unwrap();
    temp.refuses("dangling", &["/nowhere cannot be read", "No such file"]);
    symlink("/proc/self/fd/0", temp.path("descriptor")).unwrap();
    temp.refuses("descriptor", &["belongs to a process"]);

    // Both the link's own folder and its target's are checked.
    temp.folder("open");
    symlink(&real, temp.path("open/link")).unwrap();
    temp.write("open/policy.toml", TEXT.as_bytes());
    symlink("open/policy.toml", temp.path("into-open")).unwrap();
    temp.chmod("open", 0o777);
    temp.refuses("open/link", &["/open is writable by group or world"]);
    temp.refuses("into-open", &["/open is writable by group or world"]);
}

#[test]
fn contents() {
    let temp = TempFolder::new();
    temp.write("empty.toml", b"");
    temp.refuses("empty.toml", &["empty.toml:1:1", "`version` is missing"]);
    temp.write("binary.toml", b"version = 1\nx = \"\xff\"");
    temp.refuses("binary.toml", &["binary.toml:2:6", "not UTF-8"]);
    temp.write("wrong.toml", b"version = 1\n[limits]\nmemory = \"5 GiB\"");
    temp.refuses("wrong.toml", &["wrong.toml:3:10: limits.memory", "4 GiB"]);

    let limit = usize::try_from(MAX_POLICY_SIZE).unwrap();
    let mut large = TEXT.as_bytes().to_vec();
    large.resize(limit, b'\n');
    temp.write("large.toml", &large);
    temp.load("large.toml").unwrap();
    large.push(b'\n');
    temp.write("large.toml", &large);
    assert!(matches!(temp.refuses("large.toml", &["1048576"]), PolicyError::TooLarge { .. }));
    // Sparse, so that only its size is large.
    let sparse = fs::File::create(temp.path("sparse.toml")).unwrap();
    sparse.set_len(1 << 40).unwrap();
    temp.chmod("sparse.toml", 0o644);
    temp.refuses("sparse.toml", &["larger than 1048576 bytes"]);
}

#[test]
fn changed_policy_no_longer_has_a_file_digest() {
    let temp = TempFolder::new();
    temp.write("policy.toml", b"version = 1\n[program]\n");
    let LoadedPolicy { policy, source } = temp.load("policy.toml").unwrap();
    assert_eq!(policy.file_sha256(), Some(source.sha256));
    assert_eq!(policy.clone().file_sha256(), Some(source.sha256));

    let mut changed = policy.clone();
    changed.limits.stack += 1;
    assert_eq!(changed.file_sha256(), None);
    changed.limits.stack -= 1;
    assert_eq!(changed.file_sha256(), Some(source.sha256), "it is equal to the policy in the file");
    assert_eq!(policy.clone().with_confinement(Confinement::BestEffort).file_sha256(), None);
    assert_eq!(Policy::default().file_sha256(), None);

    // A policy cut by a ceiling still has the digest of its file.
    let ceiling = Ceiling::parse("version = 1\n[limits]\nmemory = \"64 MiB\"\n[program]\n", "test");
    let effective = Ceilings::of(vec![ceiling.unwrap()], false).admit(&policy).unwrap();
    assert_eq!(effective.cuts().len(), 1);
    assert_eq!(effective.file_sha256(), Some(source.sha256));
}
