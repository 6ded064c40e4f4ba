//! The user who runs the tests and, if that is root, an ordinary user: each with a folder that
//! contains compiled code.

use std::cmp::Reverse;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use belljar::{Isolation, Policy};

/// An ordinary user.
pub(crate) const NOBODY: u32 = 65534;

/// A user, and a folder that belongs to them.
pub(crate) struct User {
    pub(crate) uid: Option<u32>,
    pub(crate) folder: tempfile::TempDir,
}

/// The user who runs these tests; and, if that is root, an ordinary user. Tests that run at the
/// same time share them, as each user's compiled code is large.
pub(crate) fn users() -> Arc<Vec<User>> {
    static SHARED: Mutex<Weak<Vec<User>>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let root = rustix::process::geteuid().is_root();
        let reachable = || {
            let program = Path::new(super::BELLJAR).ancestors();
            program.into_iter().all(|path| path.metadata().unwrap().mode() & 0o001 != 0)
        };
        let uids = match root {
            true if reachable() => vec![None, Some(NOBODY)],
            true => {
                eprintln!("tested as root only: other users cannot reach {}", super::BELLJAR);
                vec![None]
            }
            false => vec![None],
        };
        let users = Arc::new(uids.into_iter().map(User::new).collect());
        *shared = Arc::downgrade(&users);
        users
    })
}

impl User {
    /// Makes a user with a copy of the compiled code, which users do not share.
    pub(crate) fn new(uid: Option<u32>) -> User {
        super::host(Isolation::Process).warm_up(&Policy::default()).unwrap();
        // Another user may not be able to read the tests' cache.
        let user = User { uid, folder: tempfile::tempdir().unwrap() };
        user.own(user.folder.path());
        user.copy(&super::cache_dir().join("code"), "cache/code");
        user.copy(&super::state_dir(), "state");
        user.own(&user.path("cache"));
        user
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn own(&self, path: &Path) {
        let mode = if path.is_dir() { 0o700 } else { 0o600 };
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        chown(path, self.uid, self.uid).unwrap();
    }

    pub(crate) fn copy(&self, from: &Path, to: &str) {
        let to = self.path(to);
        fs::create_dir_all(&to).unwrap();
        self.own(&to);
        // Other tests keep temporary files here while they write.
        let mut files: Vec<_> = fs::read_dir(from)
            .unwrap()
            .map(Result::unwrap)
            .filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'))
            .filter(|entry| entry.file_type().unwrap().is_file())
            .collect();
        // Only the latest code of each of the four variants is needed; two files of the profiling
        // guest may be newer.
        files.sort_by_key(|entry| Reverse(entry.metadata().unwrap().modified().unwrap()));
        for entry in files.iter().take(6) {
            let copy = to.join(entry.file_name());
            fs::copy(entry.path(), &copy).unwrap();
            self.own(&copy);
        }
    }

    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        self.own(path.parent().unwrap());
        fs::write(&path, content).unwrap();
        self.own(&path);
        path.to_str().unwrap().to_owned()
    }

    /// A command that runs the program as this user.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env("BELLJAR_CACHE_DIR", self.path("cache"))
            .env("BELLJAR_STATE_DIR", self.path("state"))
            .current_dir("/")
            .stdin(Stdio::null());
        if let Some(uid) = self.uid {
            command.uid(uid).gid(uid);
        }
        command
    }

    /// The user's name for messages.
    pub(crate) fn who(&self) -> String {
        self.uid.map_or("the caller".to_owned(), |uid| format!("user {uid}"))
    }
}
