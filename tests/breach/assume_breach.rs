//! Simulates an attacker who has broken out of WebAssembly: native code inside a confined worker of
//! each role makes the attempts of `host/confine/src/breach`, with all layers of confinement and
//! with single ones. The table in SECURITY.md is the result of this test; `BELLJAR_BLESS=1`
//! rewrites it.
//!
//! Needs the feature `test-hooks`:
//! `cargo test --release -p belljar-cli --features test-hooks --test breach assume_breach`.

use crate::support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use belljar::test_hooks::{Attempt, Ended, FORMS, World, attack, attempts, roles, unmounts};
use belljar::{Layer, WorkerProgram};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use super::known::{ALONE, BLIND, NEVER, OPEN, UNSEEN, WITHOUT_NAMESPACES};

/// The columns of the table: sets of layers.
const COLUMNS: &[(&str, &[Layer])] = &[
    ("none", &[]),
    ("namespaces", &[Layer::Namespaces]),
    ("rights and limits", &[Layer::Privileges, Layer::ResourceLimits]),
    ("Landlock", &[Layer::Landlock]),
    ("seccomp", &[Layer::Seccomp]),
    (
        WITHOUT_NAMESPACES,
        &[Layer::Privileges, Layer::ResourceLimits, Layer::Landlock, Layer::Seccomp],
    ),
    ("all", &Layer::ALL),
];

/// The columns with a single layer.
fn single() -> &'static [(&'static str, &'static [Layer])] {
    &COLUMNS[1..COLUMNS.len() - 2]
}

/// The columns in which every attempt must be refused.
fn whole() -> &'static [(&'static str, &'static [Layer])] {
    &COLUMNS[COLUMNS.len() - 2..]
}

type Found = BTreeMap<String, BTreeMap<String, BTreeMap<String, Ended>>>;

/// The targets of an attacker.
struct Scene {
    world: World,
    program: WorkerProgram,
    _listeners: (TcpListener, [UdpSocket; 2], UnixListener, UnixListener),
    _folder: tempfile::TempDir,
}

impl Scene {
    fn new(program: &Path) -> Scene {
        let folder = tempfile::tempdir().unwrap();
        let open_to_all = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        open_to_all(folder.path(), 0o777);
        let file = |name: &str| {
            let path = folder.path().join(name);
            fs::write(&path, "secret").unwrap();
            open_to_all(&path, 0o666);
            path.to_str().unwrap().to_owned()
        };
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let other_udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let granted = folder.path().join("granted");
        fs::create_dir(&granted).unwrap();
        open_to_all(&granted, 0o777);
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("home", &link).unwrap();
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let path = folder.path().join("socket");
        let unix = UnixListener::bind(&path).unwrap();
        open_to_all(&path, 0o777);
        let name = format!("belljar-breach-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let abstract_socket = UnixListener::bind_addr(&address).unwrap();
        let world = World {
            supervisor: i32::try_from(std::process::id()).unwrap(),
            home: file("home"),
            model: file("other.onnx"),
            store: file("store.snapshot"),
            log: file("audit.log"),
            tcp: tcp.local_addr().unwrap().port(),
            udp: udp.local_addr().unwrap().port(),
            socket: text(&path),
            abstract_socket: name,
            granted: text(&granted),
            link: text(&link),
            made: text(&folder.path().join("made")),
            other_udp: other_udp.local_addr().unwrap().port(),
            role: String::new(),
            form: 0,
        };
        let _listeners = (tcp, [udp, other_udp], unix, abstract_socket);
        Scene {
            world,
            program: WorkerProgram::Path(program.to_owned()),
            _listeners,
            _folder: folder,
        }
    }

    fn attack(&self, role: &str, layers: &[Layer], number: usize, form: usize) -> Ended {
        self.clean_up();
        let world = World { role: role.to_owned(), form, ..self.world.clone() };
        attack(&self.program, role, layers, Attempt { number, world }).unwrap_or_else(|why| {
            let name = attempts().get(number).copied().unwrap_or("unmount");
            panic!("{name}, form {form}, in {role} with {layers:?}: {why}")
        })
    }

    /// Removes files that an attempt may have left.
    fn clean_up(&self) {
        let _ = fs::remove_file(format!("{}.new", self.world.log));
        for left in ["breach", "moved", "stolen"] {
            let _ = fs::remove_file(Path::new(&self.world.granted).join(left));
            let _ = fs::remove_dir(Path::new(&self.world.granted).join(left));
        }
        let _ = fs::remove_file(&self.world.made);
        let _ = fs::remove_dir(&self.world.made);
        if !Path::new(&self.world.log).exists() {
            fs::write(&self.world.log, "secret").unwrap();
            fs::set_permissions(&self.world.log, fs::Permissions::from_mode(0o666)).unwrap();
        }
    }

    /// Makes all attempts, in all roles, with the layers of these columns. If several attempts have
    /// the same name, a successful one counts.
    fn all(&self, columns: &[(&str, &[Layer])]) -> Found {
        let mut found = Found::new();
        for (number, name) in attempts().into_iter().enumerate() {
            let forms = if name.contains("granted folder") { FORMS } else { 1 };
            for (column, layers) in columns {
                // Only one role is granted anything.
                let granted = name.contains("granted");
                for role in roles().into_iter().filter(|r| !granted || *r == "granted-program") {
                    for form in 0..forms {
                        let ended = self.attack(role, layers, number, form);
                        let cell = found.entry(name.to_owned()).or_default();
                        let cell = cell.entry((*column).to_owned()).or_default();
                        match cell.get(role) {
                            Some(Ended::Allowed) => {}
                            _ => drop(cell.insert(role.to_owned(), ended)),
                        }
                    }
                }
            }
        }
        found
    }
}

/// The names of all attempts, each once, in order.
fn names() -> Vec<&'static str> {
    let mut names = attempts();
    names.dedup();
    names
}

/// Whether the kernel refused the attempt in every role.
fn refused(cell: &BTreeMap<String, Ended>) -> bool {
    cell.values().all(|ended| *ended != Ended::Allowed)
}

#[track_caller]
fn assert_no_hole(found: &Found, who: &str) {
    for (column, _) in whole() {
        let open = |columns: &BTreeMap<String, BTreeMap<String, Ended>>| {
            let cell = columns[*column].iter().filter(|(_, ended)| **ended == Ended::Allowed);
            cell.map(|(role, _)| role.clone()).collect::<Vec<_>>()
        };
        let holes: Vec<_> = found
            .iter()
            .map(|(name, columns)| (name, open(columns)))
            .filter(|(name, roles)| !roles.is_empty() && !OPEN.contains(&(name.as_str(), *column)))
            .collect();
        assert!(holes.is_empty(), "as {who}, with {column}: {holes:?}");
    }
    assert_eq!(found.len(), names().len());
}

#[test]
fn all_layers_together_refuse_every_attempt() {
    let _alone = alone();
    let scene = Scene::new(support::BELLJAR.as_ref());
    let found = scene.all(COLUMNS);
    assert_no_hole(&found, "this user");
    let root = rustix::process::geteuid().is_root();
    for name in found.keys() {
        let columns = &found[name];
        // An attempt that always fails would prove nothing.
        let open = !refused(&columns["none"]);
        let never = NEVER.contains(&name.as_str());
        assert!(open || !root || never, "{name}: {:?}", columns["none"]);
        // seccomp sees every call, and allows only those of the role.
        let unseen = UNSEEN.contains(&name.as_str());
        assert!(unseen || refused(&columns["seccomp"]), "{name}: {:?}", columns["seccomp"]);
    }
    if !root {
        return;
    }
    let table = table(&found);
    let path = support::repository().join("SECURITY.md");
    let text = fs::read_to_string(&path).unwrap();
    let (start, end) = ("<!-- assume-breach: start -->\n", "<!-- assume-breach: end -->");
    let (before, rest) = text.split_once(start).unwrap();
    let (old, after) = rest.split_once(end).unwrap();
    if std::env::var_os("BELLJAR_BLESS").is_some() {
        fs::write(&path, format!("{before}{start}{table}{end}{after}")).unwrap();
    } else {
        assert_eq!(old, table, "SECURITY.md is out of date; BELLJAR_BLESS=1 writes the table anew");
    }
}

/// The table of SECURITY.md.
fn table(found: &Found) -> String {
    let mut text = String::from("| attempt |");
    let note = |column: &str| BLIND.iter().position(|(layer, _)| *layer == column);
    for (column, _) in COLUMNS {
        let _ = write!(text, " {column} |");
    }
    let _ = writeln!(text, "\n| --- |{}", " --- |".repeat(COLUMNS.len()));
    let mut alone = Vec::new();
    for name in names() {
        let _ = write!(text, "| {name} |");
        for (column, _) in COLUMNS {
            let cell = &found[name][*column];
            let open: Vec<&str> = cell
                .iter()
                .filter(|(_, ended)| **ended == Ended::Allowed)
                .map(|(role, _)| role.as_str())
                .collect();
            let shown = match (open.len(), note(column)) {
                (0, _) => "refused".to_owned(),
                (all, note) => {
                    let number = note.map(|at| format!(" ({})", at + 1)).unwrap_or_default();
                    let some = match all == roles().len() {
                        true => String::new(),
                        false => format!(" in {}", open.join(", ")),
                    };
                    format!("allowed{some}{number}")
                }
            };
            let _ = write!(text, " {shown} |");
        }
        text.push('\n');
        let by: Vec<_> =
            single().iter().filter(|(column, _)| refused(&found[name][*column])).collect();
        if by.len() == 1 {
            alone.push(name);
        }
    }
    text.push('\n');
    for (at, (_, why)) in BLIND.iter().enumerate() {
        let _ = writeln!(text, "({}) {why}.  ", at + 1);
    }
    let _ = writeln!(text, "\nRefused by a single layer:\n");
    let explained: Vec<_> = ALONE.iter().map(|(name, _)| *name).collect();
    assert_eq!(alone, explained, "attempts that a single layer refuses must be explained");
    for (name, why) in ALONE {
        let _ = writeln!(text, "- *{name}*: {why}.");
    }
    text
}

/// An ordinary user's workers are started differently from root's, but must be equally confined.
#[test]
fn an_ordinary_users_workers_are_as_confined_as_roots() {
    if !rustix::process::geteuid().is_root() {
        return; // The test above has run as an ordinary user.
    }
    let _alone = alone();
    // A copy of this test that an ordinary user can run.
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copies = [("test", std::env::current_exe().unwrap()), ("belljar", support::BELLJAR.into())];
    for (name, from) in &copies {
        fs::copy(from, folder.path().join(name)).unwrap();
        fs::set_permissions(folder.path().join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let output = Command::new(folder.path().join("test"))
        .args([
            "--exact",
            "assume_breach::attempts_as_the_current_user",
            "--ignored",
            "--nocapture",
        ])
        .env(PROGRAM, folder.path().join("belljar"))
        .env("TMPDIR", "/tmp")
        .current_dir("/")
        .uid(65_533)
        .gid(65_533)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("1 passed"), "{text}");
}

/// Set in the child process with its own mount namespace.
const MOUNTS: &str = "BELLJAR_BREACH_MOUNTS";

/// The kernel refuses to remove a mount point of the caller's own namespace. That namespace
/// includes the mounts that were below a granted folder when its process was started.
#[test]
fn a_breached_program_cannot_remove_mounts_below_a_granted_folder() {
    if std::env::var_os(MOUNTS).is_some() {
        return attack_mounts();
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can mount");
        return;
    }
    let _alone = alone();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([
        "--exact",
        "assume_breach::a_breached_program_cannot_remove_mounts_below_a_granted_folder",
    ]);
    command.arg("--nocapture").env(MOUNTS, "1");
    // SAFETY: between fork and exec, the child makes one system call.
    unsafe {
        command.pre_exec(|| match libc::unshare(libc::CLONE_NEWNS) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    match command.status() {
        Ok(status) => assert!(status.success(), "{status}"),
        Err(err) => eprintln!("skipped: cannot create a mount namespace: {err}"),
    }
}

fn attack_mounts() {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).unwrap();
    let scene = Scene::new(support::BELLJAR.as_ref());
    let at = |name: &str| Path::new(&scene.world.granted).join(name);
    for name in ["mnt", "empty"] {
        fs::create_dir(at(name)).unwrap();
        fs::set_permissions(at(name), fs::Permissions::from_mode(0o777)).unwrap();
    }
    for name in ["pin", "source"] {
        fs::write(at(name), name).unwrap();
    }
    rustix::mount::mount("none", at("mnt"), "tmpfs", MountFlags::empty(), c"mode=0777").unwrap();
    fs::write(at("mnt/kept"), "kept").unwrap();
    rustix::mount::mount_bind(at("source"), at("pin")).unwrap();
    for (column, layers) in whole() {
        for number in unmounts() {
            let ended = scene.attack("granted-program", layers, number, 0);
            let busy = Ended::Refused(libc::EBUSY);
            assert_eq!(ended, busy, "way {}, with {column}", number - unmounts().start);
            assert_eq!(fs::read_to_string(at("mnt/kept")).unwrap(), "kept");
            assert_eq!(fs::read_to_string(at("pin")).unwrap(), "source");
        }
    }
    // Without the mounts, the attempts succeed.
    for name in ["mnt", "pin"] {
        rustix::mount::unmount(at(name), UnmountFlags::DETACH).unwrap();
    }
    let all = whole().last().unwrap().1;
    let last = unmounts().end - 1;
    assert_eq!(scene.attack("granted-program", all, last, 0), Ended::Allowed);
}

/// Runs one test at a time: a program cannot be executed while it is open for writing, and a worker
/// that another test starts during the copy briefly inherits the open file.
fn alone() -> std::sync::MutexGuard<'static, ()> {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The path of the worker program, for a process that cannot access the usual one.
const PROGRAM: &str = "BELLJAR_BREACH_PROGRAM";

#[test]
#[ignore = "run by the test above, as an ordinary user"]
fn attempts_as_the_current_user() {
    let program = std::env::var_os(PROGRAM).unwrap();
    let scene = Scene::new(program.as_ref());
    assert_no_hole(&scene.all(whole()), "an ordinary user");
}
