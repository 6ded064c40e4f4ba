//! Starting and ending worker processes.
//!
//! A worker is a child of this process that runs [`WorkerProgram`] with nothing: an empty
//! environment, `/` as its folder, no standard output, its socket as standard input and no other
//! descriptor. It dies with the thread that started it, so one thread that never ends starts them
//! all.
//!
//! `unsafe` is here to close descriptors that somebody else left open.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use super::ended::WorkerEnd;

/// First argument of a worker.
const WORKER_ARGUMENT: &str = "__belljar-worker";

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
    std::env::args_os().nth(1).is_some_and(|argument| argument == WORKER_ARGUMENT)
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
    child: Child,
}

impl WorkerProcess {
    /// Starts a worker whose standard input is `socket`.
    pub(crate) fn spawn(program: &WorkerProgram, socket: OwnedFd) -> io::Result<WorkerProcess> {
        let (answer, answered) = channel();
        let order = Order { program: program.path()?, socket, answer };
        let spawner = spawner()?.lock().unwrap_or_else(PoisonError::into_inner);
        spawner.send(order).map_err(|_| io::Error::other("the spawning thread has ended"))?;
        drop(spawner);
        let child =
            answered.recv().map_err(|_| io::Error::other("the spawning thread has ended"))??;
        Ok(WorkerProcess { child })
    }

    /// Ends the worker at once. Already ended is as good as killed.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// How the worker came to its end, which has closed its channel. One that lives on all the same
    /// is killed.
    pub(crate) fn ended(&mut self) -> WorkerEnd {
        // The kernel closes what a process had open somewhat before it lets others know its end.
        const TRIES: u32 = 500;
        for _ in 0..TRIES {
            match self.child.try_wait() {
                Ok(Some(status)) => return WorkerEnd::new(status.signal(), status.code()),
                Ok(None) => std::thread::sleep(Duration::from_millis(1)),
                Err(_) => return WorkerEnd::Unknown,
            }
        }
        self.kill();
        WorkerEnd::HungUp
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

struct Order {
    program: PathBuf,
    socket: OwnedFd,
    answer: Sender<io::Result<Child>>,
}

/// The thread that starts workers. It lives as long as the process.
fn spawner() -> io::Result<&'static Mutex<Sender<Order>>> {
    static SPAWNER: OnceLock<Mutex<Sender<Order>>> = OnceLock::new();
    if let Some(spawner) = SPAWNER.get() {
        return Ok(spawner);
    }
    let (orders, incoming) = channel::<Order>();
    std::thread::Builder::new().name("belljar-spawner".into()).spawn(move || {
        for order in incoming {
            let child = Command::new(&order.program)
                .arg(WORKER_ARGUMENT)
                .env_clear()
                .current_dir("/")
                .stdin(Stdio::from(order.socket))
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn();
            // Whoever ordered may have given up; the child is then reaped below.
            if let Err(unwanted) = order.answer.send(child)
                && let Ok(child) = unwanted.0
            {
                drop(WorkerProcess { child });
            }
        }
    })?;
    // Two threads may race to here; the loser's spawner ends with its sender.
    Ok(SPAWNER.get_or_init(|| Mutex::new(orders)))
}

/// What a worker does first, while it has one thread: dies with its supervisor, closes whatever it
/// has inherited, and takes its socket from standard input.
pub(crate) fn enter_worker() -> io::Result<OwnedFd> {
    let parent = rustix::process::getppid();
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    // The supervisor may have ended before the line above.
    if rustix::process::getppid() != parent {
        return Err(io::Error::other("the supervisor has ended"));
    }
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
