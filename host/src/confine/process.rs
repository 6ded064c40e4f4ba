//! Starting and ending worker processes.
//!
//! A worker is a child of this process that runs [`WorkerProgram`] with nothing: an empty
//! environment, `/` as its folder, no standard output, its socket as standard input and no other
//! descriptor; in namespaces of its own, where the kernel allows them. It dies with the thread that
//! started it, so one thread that never ends starts them all.
//!
//! `unsafe` is here to close descriptors that somebody else left open.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Signal, WaitId, WaitIdOptions};

use super::ended::WorkerEnd;
use super::layers::{Confinement, Layer, MissingLayer};
use super::outside::{Status, own_filters};
use super::role::Role;
use super::setup::{Plan, ProcessLimits, die_with_supervisor};
pub(crate) use super::spawn::Namespaces;
use super::spawn::{Program, spawn, unblock_signals};

/// First argument of a worker.
const WORKER_ARGUMENT: &CStr = c"__belljar-worker";

/// The program that becomes a worker.
#[derive(Clone, Debug, Default)]
pub enum WorkerProgram {
    /// This very program, which calls [`crate::become_worker_if_asked`] at the start of `main`.
    #[default]
    CurrentProgram,
    /// Another program that does so: usually an installed `belljar`.
    Path(PathBuf),
}

/// Whether this program has shown that it becomes a worker when it is asked to.
static CAN_BE_WORKER: AtomicBool = AtomicBool::new(false);

/// Whether this process was started as a worker. Asking also notes that this program asks: one
/// that does not would, started again, just do its own work again, and start itself again.
pub(crate) fn asked_to_be_worker() -> bool {
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
            // The kernel's own name of the running program: renaming or replacing the file on disk
            // does not change what it opens.
            WorkerProgram::CurrentProgram => PathBuf::from("/proc/self/exe"),
            WorkerProgram::Path(path) => path.clone(),
        })
    }
}

/// A running worker; killed when dropped.
pub(crate) struct WorkerProcess {
    /// Refers to this very process, also when its number is somebody else's by now.
    pidfd: OwnedFd,
    namespaces: Namespaces,
    no_namespaces: Option<String>,
    /// What the kernel shows of it, until that was looked at.
    status: Option<io::Result<Status>>,
    /// Filters of system calls that it was started under.
    filters: Option<u32>,
    /// How it came to its end, once that was waited for.
    ended: Option<WorkerEnd>,
}

impl WorkerProcess {
    /// Starts a worker whose standard input is `socket`.
    pub(crate) fn spawn(program: &WorkerProgram, socket: OwnedFd) -> io::Result<WorkerProcess> {
        WorkerProcess::spawn_in(program, socket, ways())
    }

    /// As [`WorkerProcess::spawn`], in the namespaces of this process.
    #[cfg(feature = "test-hooks")]
    pub(crate) fn spawn_without_namespaces(
        program: &WorkerProgram,
        socket: OwnedFd,
    ) -> io::Result<WorkerProcess> {
        WorkerProcess::spawn_in(program, socket, &[])
    }

    /// Starts a worker in the first kind of namespaces that can be had, or in none.
    fn spawn_in(
        program: &WorkerProgram,
        socket: OwnedFd,
        ways: &'static [Namespaces],
    ) -> io::Result<WorkerProcess> {
        let (answer, answered) = channel();
        let program = CString::new(program.path()?.as_os_str().as_bytes())?;
        let order = Order { program, socket, ways, answer };
        let spawner = spawner()?.lock().unwrap_or_else(PoisonError::into_inner);
        spawner.send(order).map_err(|_| io::Error::other("the spawning thread has ended"))?;
        drop(spawner);
        answered.recv().map_err(|_| io::Error::other("the spawning thread has ended"))?
    }

    /// What this worker is to become.
    pub(crate) fn plan(&self, role: Role, confinement: Confinement, limits: ProcessLimits) -> Plan {
        Plan {
            role,
            confinement,
            namespaces: self.namespaces,
            no_namespaces: self.no_namespaces.clone(),
            limits,
            #[cfg(feature = "test-hooks")]
            layers: super::layers::Layer::ALL.to_vec(),
            #[cfg(feature = "test-hooks")]
            spoilt: super::spoil::Spoilt::from_environment(role),
        }
    }

    /// The namespaces that it was started in.
    pub(crate) fn namespaces(&self) -> Namespaces {
        self.namespaces
    }

    /// Layers that the kernel does not show of this worker, which says that it is confined. To be
    /// asked once.
    pub(crate) fn lacks_from_outside(&mut self) -> Vec<MissingLayer> {
        let seen = self.status.take().unwrap_or_else(|| Err(io::ErrorKind::NotFound.into()));
        seen.and_then(|status| status.lacks(self.filters)).unwrap_or_else(|err| {
            vec![MissingLayer::new(Layer::Privileges, format!("unseen in /proc: {err}"))]
        })
    }

    /// Ends the worker at once, and says how it ended. Already ended is as good as killed.
    pub(crate) fn kill(&mut self) -> WorkerEnd {
        let pidfd = self.pidfd.as_fd();
        self.ended
            .get_or_insert_with(|| {
                let _ = rustix::process::pidfd_send_signal(pidfd, Signal::KILL);
                loop {
                    match rustix::process::waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED) {
                        Err(rustix::io::Errno::INTR) => {}
                        // Also when this program ignores SIGCHLD: the kernel waits for its end all
                        // the same.
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

    /// Whether the worker has come to its end, or does so now: the kernel takes away what a process
    /// had, its files and its filters, somewhat before it lets others know its end.
    pub(crate) fn ends_in_a_moment(&self) -> bool {
        const MOMENT: Timespec = Timespec { tv_sec: 0, tv_nsec: 500_000_000 };
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        loop {
            match rustix::event::poll(&mut fds, Some(&MOMENT)) {
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return true,
                Ok(count) => return count > 0,
            }
        }
    }

    /// How the worker came to its end, which has closed its channel. One that lives on all the same
    /// is killed.
    pub(crate) fn ended(&mut self) -> WorkerEnd {
        let lives_on = !self.ends_in_a_moment();
        let end = self.kill();
        // Where the machine is busy, an end takes long to be told, and is no other one for that.
        if lives_on && end.is_kill() { WorkerEnd::HungUp } else { end }
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

struct Order {
    program: CString,
    socket: OwnedFd,
    ways: &'static [Namespaces],
    answer: Sender<io::Result<WorkerProcess>>,
}

/// The thread that starts workers. It lives as long as the process.
fn spawner() -> io::Result<&'static Mutex<Sender<Order>>> {
    static SPAWNER: OnceLock<Mutex<Sender<Order>>> = OnceLock::new();
    if let Some(spawner) = SPAWNER.get() {
        return Ok(spawner);
    }
    let (orders, incoming) = channel::<Order>();
    std::thread::Builder::new().name("belljar-spawner".into()).spawn(move || {
        let filters = own_filters();
        for order in incoming {
            let process = start(&order, filters);
            // The worker must be the only one with this end, to see when the other is closed.
            drop(order.socket);
            // Whoever ordered may have given up; the worker then ends with what is returned.
            let _ = order.answer.send(process);
        }
    })?;
    // Two threads may race to here; the loser's spawner ends with its sender.
    Ok(SPAWNER.get_or_init(|| Mutex::new(orders)))
}

/// The ways to namespaces, best first. Root has no need of a user namespace to make the others, and
/// what it makes without one it can then give up for good.
fn ways() -> &'static [Namespaces] {
    match rustix::process::geteuid().is_root() {
        true => &[Namespaces::WithoutUser, Namespaces::WithUser],
        false => &[Namespaces::WithUser],
    }
}

/// Starts a worker, in namespaces of its own if that can be.
fn start(order: &Order, filters: Option<u32>) -> io::Result<WorkerProcess> {
    let arguments = [c"belljar", WORKER_ARGUMENT];
    let program =
        Program { path: &order.program, arguments: &arguments, input: order.socket.as_fd() };
    let started = |pidfd: OwnedFd, namespaces, no_namespaces| {
        let status = Some(Status::open(pidfd.as_fd()));
        WorkerProcess { pidfd, namespaces, no_namespaces, status, filters, ended: None }
    };
    let mut no_namespaces = None;
    for way in order.ways {
        match spawn(&program, *way) {
            Ok(pidfd) => return Ok(started(pidfd, *way, None)),
            Err(err) => no_namespaces = Some(err.to_string()),
        }
    }
    Ok(started(spawn(&program, Namespaces::None)?, Namespaces::None, no_namespaces))
}

/// What a worker does first, while it has one thread: dies with its supervisor, closes whatever it
/// has inherited, and takes its socket from standard input.
pub(crate) fn enter_worker() -> io::Result<OwnedFd> {
    let parent = rustix::process::getppid();
    die_with_supervisor()?;
    // The supervisor may have ended before the line above. From within a PID namespace it cannot be
    // seen, but then the socket says so.
    if rustix::process::getppid() != parent {
        return Err(io::Error::other("the supervisor has ended"));
    }
    unblock_signals();
    close_inherited()?;
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    let kind = rustix::net::sockopt::socket_type(&socket)?;
    if kind != rustix::net::SocketType::SEQPACKET {
        return Err(io::Error::other("a worker is started by belljar, not by hand"));
    }
    Ok(socket)
}

/// Closes every descriptor but the three standard ones. A program that embeds the host, or the
/// shell it was started from, may have left others open for its children.
fn close_inherited() -> io::Result<()> {
    let mut numbers: Vec<i32> = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        // What is not a number is no descriptor.
        numbers.extend(entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    for number in numbers.into_iter().filter(|number| *number > 2) {
        // SAFETY: this runs first thing in a process that exists for this, so nothing in it owns a
        // descriptor yet. One of the numbers was that of the folder just read; it is closed
        // already, and closing a number that is not open does nothing.
        unsafe { rustix::io::close(number) };
    }
    Ok(())
}
