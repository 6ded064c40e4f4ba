//! What an attacker can do who has broken out of WebAssembly: native code inside a confined worker
//! of each role tries what `host/src/confine/breach.rs` lists, with all layers around it and with
//! single ones. The table in SECURITY.md is what this test found; `BELLJAR_BLESS=1` writes it anew.
//!
//! Needs the feature `test-hooks`: `cargo test --features test-hooks --test assume_breach`.

mod support;

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

use belljar::test_hooks::{ATTEMPTS, Attempt, Ended, World, attack, roles};
use belljar::{Layer, WorkerProgram};

/// The columns of the table: which layers are there.
const COLUMNS: &[(&str, &[Layer])] = &[
    ("none", &[]),
    ("namespaces", &[Layer::Namespaces]),
    ("rights and limits", &[Layer::Privileges, Layer::ResourceLimits]),
    ("Landlock", &[Layer::Landlock]),
    ("seccomp", &[Layer::Seccomp]),
    ("all", &Layer::ALL),
];

/// Why an attempt succeeds although a layer is there: what that layer cannot see.
const BLIND: &[(&str, &str)] = &[
    (
        "namespaces",
        "namespaces put what is outside out of reach, and do not care what a process does with \
         itself or with what only it sees",
    ),
    (
        "rights and limits",
        "it takes no right that an ordinary user lacks, and little memory; here a worker of root \
         has become a user without rights",
    ),
    (
        "Landlock",
        "Landlock (version 7) knows files, TCP ports, and signals and abstract sockets to others; \
         not UDP, other sockets, processes, memory, or what a process does with itself",
    ),
    ("seccomp", "seccomp sees each call, and not how many there were"),
];

/// Attempts that consist of calls which are allowed one by one.
const COUNTED: &[&str] = &["take more than its memory", "have a hundred threads"];

/// Attempts that only one layer refuses, and why that is enough.
const ALONE: &[(&str, &str)] = &[
    (
        "start a process",
        "seccomp; it would have the same layers around it, and would count against the limit on \
         processes",
    ),
    (
        "connect by vsock",
        "seccomp; no other layer knows this kind of socket, which reaches the host of a virtual \
         machine",
    ),
    ("map writable, executable memory", NO_GAIN),
    ("make memory executable", NO_GAIN),
    ("map a memory file executable", NO_GAIN),
    ("have memory executable by personality", NO_GAIN),
    (
        "handle page faults (userfaultfd)",
        "seccomp; without rights it handles only page faults of its own, which helps attacks on \
         the kernel",
    ),
    (
        "use the kernel's keys",
        "seccomp; the keys it can reach are its own, but the code behind them is the kernel's",
    ),
    (
        "make a user namespace",
        "seccomp; what it makes in there only it sees, but more of the kernel would be open to it",
    ),
    (
        "take more than its memory",
        "the limit on memory, beside the sandbox's own that an attacker has left behind; a cgroup \
         around the supervisor is a second one",
    ),
];

/// Executable memory gives nothing to who has native code already.
const NO_GAIN: &str = "seccomp; who runs native code gains nothing by more of it, but a fault that \
                       is not yet native code cannot become it this way";

/// Attempts that come to nothing on this machine even without a layer, for its own reasons.
const NEVER: &[&str] = &[];

type Found = BTreeMap<String, BTreeMap<String, BTreeMap<String, Ended>>>;

/// What an attacker may reach for.
struct Scene {
    world: World,
    program: WorkerProgram,
    _listeners: (TcpListener, UdpSocket, UnixListener, UnixListener),
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
            store: file("store.image"),
            log: file("audit.log"),
            tcp: tcp.local_addr().unwrap().port(),
            udp: udp.local_addr().unwrap().port(),
            socket: path.to_str().unwrap().to_owned(),
            abstract_socket: name,
        };
        let _listeners = (tcp, udp, unix, abstract_socket);
        Scene {
            world,
            program: WorkerProgram::Path(program.to_owned()),
            _listeners,
            _folder: folder,
        }
    }

    fn attack(&self, role: &str, layers: &[Layer], name: &str) -> Ended {
        // An attempt may have left a file.
        let _ = fs::remove_file(format!("{}.new", self.world.log));
        let attempt = Attempt { name: name.to_owned(), world: self.world.clone() };
        attack(&self.program, role, layers, attempt)
            .unwrap_or_else(|why| panic!("{name} in {role} with {layers:?}: {why}"))
    }

    /// All attempts, in all roles, with the layers of these columns.
    fn all(&self, columns: &[(&str, &[Layer])]) -> Found {
        let mut found = Found::new();
        for (name, _) in ATTEMPTS {
            for (column, layers) in columns {
                for role in roles() {
                    let ended = self.attack(role, layers, name);
                    let cell = found.entry((*name).to_owned()).or_default();
                    let cell = cell.entry((*column).to_owned()).or_default();
                    cell.insert(role.to_owned(), ended);
                }
            }
        }
        found
    }
}

/// Whether the kernel refused it in every role.
fn refused(cell: &BTreeMap<String, Ended>) -> bool {
    cell.values().all(|ended| *ended != Ended::Allowed)
}

#[track_caller]
fn assert_no_hole(found: &Found, who: &str) {
    let holes: Vec<_> = found
        .iter()
        .filter(|(_, columns)| !refused(&columns["all"]))
        .map(|(name, _)| name)
        .collect();
    assert!(holes.is_empty(), "as {who}, with all layers: {holes:?}");
    assert_eq!(found.len(), ATTEMPTS.len());
}

#[test]
fn with_all_layers_every_attempt_is_refused_and_each_layer_does_its_part() {
    let _alone = alone();
    let scene = Scene::new(support::BELLJAR.as_ref());
    let found = scene.all(COLUMNS);
    assert_no_hole(&found, "this user");
    let root = rustix::process::geteuid().is_root();
    for name in found.keys() {
        let columns = &found[name];
        // An attempt that comes to nothing in any case would show nothing.
        let open = !refused(&columns["none"]);
        let never = NEVER.contains(&name.as_str());
        assert!(open || !root || never, "{name}: {:?}", columns["none"]);
        // seccomp sees every call, and knows which ones a role needs.
        let counted = COUNTED.contains(&name.as_str());
        assert!(counted || refused(&columns["seccomp"]), "{name}: {:?}", columns["seccomp"]);
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
    for (name, _) in ATTEMPTS {
        let _ = write!(text, "| {name} |");
        for (column, _) in COLUMNS {
            let cell = &found[*name][*column];
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
        let by: Vec<_> = COLUMNS[1..COLUMNS.len() - 1]
            .iter()
            .filter(|(column, _)| refused(&found[*name][*column]))
            .collect();
        if by.len() == 1 {
            alone.push(*name);
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

/// An ordinary user's workers are made in another way than root's: the same must hold.
#[test]
fn an_ordinary_users_workers_are_as_confined_as_roots() {
    if !rustix::process::geteuid().is_root() {
        return; // The test above has run as one.
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
        .args(["--exact", "as_whoever_runs_this", "--ignored", "--nocapture"])
        .env(PROGRAM, folder.path().join("belljar"))
        .env("TMPDIR", "/tmp")
        .current_dir("/")
        .uid(65_533)
        .gid(65_533)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("1 passed"), "{said}");
}

/// One test at a time: a program that is being copied cannot be started, and a worker that another
/// test starts meanwhile holds the copy open for a moment.
fn alone() -> std::sync::MutexGuard<'static, ()> {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Where the worker's program is, for a test that cannot reach the usual one.
const PROGRAM: &str = "BELLJAR_BREACH_PROGRAM";

#[test]
#[ignore = "run by the test above, as an ordinary user"]
fn as_whoever_runs_this() {
    let program = std::env::var_os(PROGRAM).unwrap();
    let scene = Scene::new(program.as_ref());
    assert_no_hole(&scene.all(&COLUMNS[COLUMNS.len() - 1..]), "an ordinary user");
}
