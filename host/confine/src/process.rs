//! Starts and ends worker processes.
//!
//! A worker is a child of this process that runs [`WorkerProgram`] with an empty environment, `/`
//! as its working directory, no standard output, its socket as standard input and no other
//! descriptor, in new namespaces where the kernel allows them. It dies with the thread that started
//! it, so a single thread that never ends starts all workers.
//!
//! This process must reap every worker: code that ends a worker waits for it, and a process that
//! exits first ends and reaps all remaining workers. A process that is killed cannot do that; its
//! workers die with it, and the first process of its PID namespace reaps them.
//!
//! `unsafe` is needed for `atexit`.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, TryLockError, Weak};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Signal, WaitId, WaitIdOptions};

use super::ended::WorkerEnd;
use super::layers::{Confinement, Layer, MissingLayer};
use super::memory_group::OomKills;
use super::namespaces;
use super::outside::{Status, own_filters};
use super::role::Role;
use super::setup::{Plan, ProcessLimits};
pub use super::spawn::Namespaces;
use super::spawn::{Program, spawn};

/// First argument of a worker.
const WORKER_ARGUMENT: &CStr = c"__belljar-worker";

/// The kernel's path to the running program.
const PROGRAM: &str = "/proc/self/exe";

/// The program that becomes a worker.
#[derive(Clone, Debug, Default)]
pub enum WorkerProgram {
    /// The running program, which calls [`crate::become_worker_if_asked`] at the start of `main`.
    #[default]
    CurrentProgram,
    /// Another program that calls it: usually an installed `belljar`.
    Path(PathBuf),
}

/// Whether this program has called [`asked_to_be_worker`].
static CAN_BE_WORKER: AtomicBool = AtomicBool::new(false);

/// Whether this process was started as a worker. The call also records that this program can be its
/// own worker: a program without this call would do its normal work in the worker process, and
/// start itself again and again.
pub fn asked_to_be_worker() -> bool {
    CAN_BE_WORKER.store(true, Ordering::Relaxed);
    let first = std::env::args_os().nth(1);
    first.is_some_and(|argument| argument.as_bytes() == WORKER_ARGUMENT.to_bytes())
}

impl WorkerProgram {
    fn path(&self) -> io::Result<PathBuf> {
        Ok(match self {
            WorkerProgram::CurrentProgram if !CAN_BE_WORKER.load(Ordering::Relaxed) => {
                return Err(io::Error::other(
                    "this program cannot be its own worker: call \
                     `belljar::become_worker_if_asked()` first thing in `main`, or name another \
                     program with `HostBuilder::worker_program`",
                ));
            }
            // This path opens the running program even after the file on disk is renamed or
            // replaced.
            WorkerProgram::CurrentProgram if Path::new(PROGRAM).symlink_metadata().is_err() => {
                return Err(io::Error::other(
                    "cannot start or confine a worker: /proc is not mounted; mount it \
                     (`mount -t proc proc /proc`)",
                ));
            }
            WorkerProgram::CurrentProgram => PathBuf::from(PROGRAM),
            WorkerProgram::Path(path) => path.clone(),
        })
    }
}

/// A running worker; killed when dropped.
pub struct WorkerProcess {
    /// Refers to this process even after its pid was reused.
    pidfd: Arc<OwnedFd>,
    namespaces: Namespaces,
    no_namespaces: Option<String>,
    /// The status in `/proc`, until [`WorkerProcess::lacks_from_outside`] reads it.
    status: Option<io::Result<Status>>,
    /// Number of seccomp filters that it inherited.
    filters: Option<u32>,
    /// The kernel's count of out-of-memory kills before it was started.
    oom_kills: Option<OomKills>,
    /// How it ended, once it has been waited for.
    ended: Option<WorkerEnd>,
}

impl WorkerProcess {
    /// Starts a worker whose standard input is `socket`.
    pub fn spawn(program: &WorkerProgram, socket: OwnedFd) -> io::Result<WorkerProcess> {
        WorkerProcess::spawn_in(program, socket, ways())
    }

    /// Like [`WorkerProcess::spawn`], in the namespaces of this process.
    #[cfg(feature = "test-hooks")]
    pub fn spawn_without_namespaces(
        program: &WorkerProgram,
        socket: OwnedFd,
    ) -> io::Result<WorkerProcess> {
        WorkerProcess::spawn_in(program, socket, &[])
    }

    /// Starts a worker in the first kind of namespaces that the kernel allows, or in none.
    fn spawn_in(
        program: &WorkerProgram,
        socket: OwnedFd,
        ways: &'static [Namespaces],
    ) -> io::Result<WorkerProcess> {
        let (answer, answered) = channel();
        let program = CString::new(program.path()?.as_os_str().as_bytes())?;
        let order = SpawnRequest { program, socket, ways, answer };
        let spawner = spawner()?.lock().unwrap_or_else(PoisonError::into_inner);
        spawner
            .send(order)
            .map_err(|_| io::Error::other("the thread that starts workers has ended"))?;
        drop(spawner);
        answered.recv().map_err(|_| io::Error::other("the thread that starts workers has ended"))?
    }

    /// The confinement plan for this worker.
    pub fn plan(&self, role: Role, confinement: Confinement, limits: ProcessLimits) -> Plan {
        Plan {
            role,
            confinement,
            namespaces: self.namespaces,
            no_namespaces: self.no_namespaces.clone(),
            limits,
            #[cfg(feature = "test-hooks")]
            layers: super::layers::Layer::ALL.to_vec(),
            #[cfg(feature = "test-hooks")]
            injection: super::fault_injection::Injection::from_environment(role),
        }
    }

    /// The namespaces that it was started in.
    pub fn namespaces(&self) -> Namespaces {
        self.namespaces
    }

    /// The layers that are missing according to `/proc`, for a worker that reported that it is
    /// confined. Call it once.
    pub fn lacks_from_outside(&mut self) -> Vec<MissingLayer> {
        let seen = self.status.take().unwrap_or_else(|| Err(io::ErrorKind::NotFound.into()));
        seen.and_then(|status| status.missing_layers(self.filters)).unwrap_or_else(|err| {
            let why = format!("cannot read the worker's status in /proc: {err}");
            vec![MissingLayer::new(Layer::Privileges, why)]
        })
    }

    /// Kills the worker, unless it has ended already, and returns how it ended.
    pub fn kill(&mut self) -> WorkerEnd {
        let pidfd = self.pidfd.as_fd();
        self.ended
            .get_or_insert_with(|| {
                let _ = rustix::process::pidfd_send_signal(pidfd, Signal::KILL);
                loop {
                    match rustix::process::waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED) {
                        Err(rustix::io::Errno::INTR) => {}
                        // Also reached if this program ignores SIGCHLD: the kernel then reaps the
                        // worker itself.
                        Err(_) | Ok(None) => return WorkerEnd::Unknown,
                        Ok(Some(status)) => {
                            let (signal, code) =
                                (status.terminating_signal(), status.exit_status());
                            return WorkerEnd::new(signal, code);
                        }
                    }
                }
            })
            .clone()
    }

    /// Whether the worker has ended, or ends within half a second: the kernel closes the files of a
    /// process shortly before it reports its end.
    pub fn ends_in_a_moment(&self) -> bool {
        const MOMENT: Timespec = Timespec { tv_sec: 0, tv_nsec: 500_000_000 };
        ends_within(self.pidfd.as_fd(), &MOMENT)
    }

    /// How a worker ended that has closed its channel. If it is still running, it is killed.
    pub fn ended(&mut self) -> WorkerEnd {
        let lives_on = !self.ends_in_a_moment();
        let end = self.kill();
        // On a busy machine the worker may have ended by itself after the wait above.
        match (end.is_kill(), lives_on) {
            (false, _) => end,
            (true, true) => WorkerEnd::HungUp,
            // Another process or the kernel killed it.
            (true, false) => match self.oom_kills.as_ref().map(OomKills::have_grown) {
                Some(Some(true)) => WorkerEnd::OutOfMemory { counted: true },
                Some(Some(false)) => end,
                Some(None) | None => WorkerEnd::OutOfMemory { counted: false },
            },
        }
    }
}

/// Whether a process ends within this time.
fn ends_within(pidfd: BorrowedFd<'_>, time: &Timespec) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
    loop {
        match rustix::event::poll(&mut fds, Some(time)) {
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return true,
            Ok(count) => return count > 0,
        }
    }
}

/// Why a process or a thread could not be started, and what to do about it.
pub fn no_process(err: &io::Error) -> String {
    match err.kind() {
        io::ErrorKind::WouldBlock => format!(
            "{err}: the limit on processes and threads is reached; raise it (`ulimit -u`, or \
             pids.max of the control group), or run fewer at a time"
        ),
        io::ErrorKind::OutOfMemory => {
            format!("{err}; give the machine or the control group more memory")
        }
        _ => err.to_string(),
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

struct SpawnRequest {
    program: CString,
    socket: OwnedFd,
    ways: &'static [Namespaces],
    answer: Sender<io::Result<WorkerProcess>>,
}

/// The workers of this process that may still run.
struct Running {
    workers: Vec<Weak<OwnedFd>>,
    /// The process is exiting, and must not start another worker.
    ending: bool,
}

static RUNNING: Mutex<Running> = Mutex::new(Running { workers: Vec::new(), ending: false });

/// The pid of the process that registered [`end_workers`]: a fork of it inherits the handler, but
/// has no workers.
static SUPERVISOR: AtomicU32 = AtomicU32::new(0);

/// Runs when this process exits: ends all workers and waits for them.
extern "C" fn end_workers() {
    if SUPERVISOR.load(Ordering::Relaxed) != std::process::id() {
        return;
    }
    // The lock may never be released, for example if `exit` was called in a signal handler.
    let start = Instant::now();
    const MAX_WAIT: Duration = Duration::from_secs(2);
    let mut running = loop {
        match RUNNING.try_lock() {
            Ok(running) => break running,
            Err(TryLockError::Poisoned(poisoned)) => break poisoned.into_inner(),
            Err(TryLockError::WouldBlock) if start.elapsed() > MAX_WAIT => return,
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(1)),
        }
    };
    running.ending = true;
    let workers: Vec<_> = running.workers.drain(..).filter_map(|one| one.upgrade()).collect();
    for pidfd in &workers {
        let _ = rustix::process::pidfd_send_signal(pidfd, Signal::KILL);
    }
    for pidfd in &workers {
        let left = MAX_WAIT.saturating_sub(start.elapsed());
        let left = Timespec { tv_sec: left.as_secs() as _, tv_nsec: left.subsec_nanos().into() };
        if ends_within(pidfd.as_fd(), &left) {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
            let _ = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), options);
        }
    }
}

/// The thread that starts workers. It lives as long as the process.
fn spawner() -> io::Result<&'static Mutex<Sender<SpawnRequest>>> {
    static SPAWNER: OnceLock<Mutex<Sender<SpawnRequest>>> = OnceLock::new();
    if let Some(spawner) = SPAWNER.get() {
        return Ok(spawner);
    }
    let (orders, incoming) = channel::<SpawnRequest>();
    let this = std::process::id();
    if SUPERVISOR.swap(this, Ordering::Relaxed) != this {
        // SAFETY: registers a function that uses only statics and does not unwind.
        unsafe { libc::atexit(end_workers) };
    }
    std::thread::Builder::new().name("belljar-spawner".into()).spawn(move || {
        let filters = own_filters();
        for order in incoming {
            let process = start(&order, filters);
            // Only the worker may hold this end, so that its close is noticed.
            drop(order.socket);
            // If the caller is gone, the returned value is dropped, which kills the worker.
            let _ = order.answer.send(process);
        }
    })?;
    // If two threads race here, the loser's spawner ends when its sender is dropped.
    Ok(SPAWNER.get_or_init(|| Mutex::new(orders)))
}

/// The kinds of namespaces to try, best first. Root can create the others without a user namespace,
/// and then drop its rights for good by becoming another user. If there is no other user, as in a
/// container with one user, root is treated like an ordinary user.
fn ways() -> &'static [Namespaces] {
    match rustix::process::geteuid().is_root() && namespaces::has_nobody() {
        true => &[Namespaces::WithoutUser, Namespaces::WithUser],
        false => &[Namespaces::WithUser],
    }
}

/// Starts a worker, in new namespaces if possible.
fn start(order: &SpawnRequest, filters: Option<u32>) -> io::Result<WorkerProcess> {
    let arguments = [c"belljar", WORKER_ARGUMENT];
    let program =
        Program { path: &order.program, arguments: &arguments, input: order.socket.as_fd() };
    let oom_kills = OomKills::now();
    let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    if running.ending {
        return Err(io::Error::other("this process is exiting"));
    }
    running.workers.retain(|worker| worker.strong_count() > 0);
    let mut no_namespaces = None;
    let mut started = None;
    for way in order.ways {
        match spawn(&program, *way) {
            Ok(pidfd) => {
                started = Some((pidfd, *way));
                break;
            }
            Err(err) => no_namespaces = Some(err.to_string()),
        }
    }
    let (pidfd, namespaces) = match started {
        Some(started) => {
            no_namespaces = None;
            started
        }
        None => (spawn(&program, Namespaces::None)?, Namespaces::None),
    };
    let pidfd = Arc::new(pidfd);
    running.workers.push(Arc::downgrade(&pidfd));
    drop(running);
    let status = Some(Status::open(pidfd.as_fd()));
    Ok(WorkerProcess { pidfd, namespaces, no_namespaces, status, filters, oom_kills, ended: None })
}
