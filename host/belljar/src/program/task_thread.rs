//! Does slow work for a run of a program on a separate thread, one task after another, so that the
//! supervisor never waits longer than the run has time.
//!
//! Late work is stopped by the thread's deadline ([`RunContext`]). Work that does not observe the
//! deadline, such as access to a file system that hangs, is abandoned, and ends on its own. The
//! number of abandoned tasks in this process is limited.

use std::sync::atomic::{AtomicIsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::Instant;

use crate::host::run_context::RunContext;

/// Maximum number of threads in this process that run abandoned tasks.
const MAX_ABANDONED: isize = 64;

static ABANDONED: AtomicIsize = AtomicIsize::new(0);

const ENDED: &str = "the thread that works for the program has ended";

type Task = Box<dyn FnOnce() + Send>;

/// Counts an abandoned task until it ends.
struct Abandoned;

impl Drop for Abandoned {
    fn drop(&mut self) {
        ABANDONED.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The thread that works for one run; started with the first task.
#[derive(Default)]
pub(super) struct TaskThread {
    thread: Option<(Sender<Task>, JoinHandle<()>)>,
}

/// Why a task was not done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Undone {
    /// It takes longer than the run has time.
    Late,
    /// No thread is available.
    NoThread(String),
}

impl TaskThread {
    /// Does a task for a run, before the run's time is up.
    pub(super) fn within<T: Send + 'static>(
        &mut self,
        context: RunContext,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Undone> {
        let until = context.until;
        // A channel without a buffer, so that the thread learns if nobody waits for its result.
        let (done, doing) = sync_channel(0);
        let task = move || {
            let abandoned = Abandoned;
            if done.send(context.during(work)).is_ok() {
                std::mem::forget(abandoned);
            }
        };
        self.begin(Box::new(task))?;
        match doing.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(done) => Ok(done),
            Err(why) => {
                ABANDONED.fetch_add(1, Ordering::Relaxed);
                self.thread = None;
                Err(match why {
                    RecvTimeoutError::Timeout => Undone::Late,
                    // The thread panicked, and has printed why.
                    RecvTimeoutError::Disconnected => Undone::NoThread(ENDED.into()),
                })
            }
        }
    }

    fn begin(&mut self, task: Task) -> Result<(), Undone> {
        let (tasks, _) = match &mut self.thread {
            Some(thread) => thread,
            None => self.thread.insert(start()?),
        };
        tasks.send(task).map_err(|_| Undone::NoThread(ENDED.into()))
    }
}

fn start() -> Result<(Sender<Task>, JoinHandle<()>), Undone> {
    if ABANDONED.load(Ordering::Relaxed) >= MAX_ABANDONED {
        return Err(Undone::NoThread(format!(
            "{MAX_ABANDONED} tasks of programs whose time is up still run in this process: a file \
             system or the decision log does not respond"
        )));
    }
    let (tasks, incoming): (Sender<Task>, Receiver<Task>) = channel();
    let thread = std::thread::Builder::new()
        .name("belljar-tasks".into())
        .spawn(move || incoming.into_iter().for_each(|task| task()))
        .map_err(|err| Undone::NoThread(format!("cannot start a thread for the program: {err}")))?;
    Ok((tasks, thread))
}

impl Drop for TaskThread {
    fn drop(&mut self) {
        // The thread is idle: late tasks have been abandoned before.
        if let Some((tasks, thread)) = self.thread.take() {
            drop(tasks);
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    fn context(left: Duration) -> RunContext {
        let until = Instant::now() + left;
        RunContext { until, time: left, tally: Arc::default() }
    }

    #[test]
    fn late_task_is_abandoned_and_the_next_one_is_done() {
        let mut task_thread = TaskThread::default();
        let minute = Duration::from_secs(60);
        assert_eq!(task_thread.within(context(minute), || 1), Ok(1));
        let first = task_thread.within(context(minute), || std::thread::current().id()).unwrap();
        let (go, wait) = channel::<()>();
        let (say, said) = channel::<()>();
        let hangs = move || {
            let _ = wait.recv();
            drop(say);
        };
        assert_eq!(
            task_thread.within(context(Duration::from_millis(20)), hangs),
            Err(Undone::Late)
        );
        let second = task_thread.within(context(minute), || std::thread::current().id()).unwrap();
        assert_ne!(first, second);
        // It goes on until what it waits for has come.
        drop(go);
        assert!(said.recv_timeout(minute).is_err_and(|err| err == RecvTimeoutError::Disconnected));
        let short = move || std::thread::sleep(minute / 600);
        assert_eq!(task_thread.within(context(Duration::ZERO), short), Err(Undone::Late));
    }

    #[test]
    fn thread_works_after_a_task_panics() {
        let mut task_thread = TaskThread::default();
        let minute = Duration::from_secs(60);
        let panicked = task_thread.within(context(minute), || -> u8 { panic!("oh") });
        assert!(matches!(panicked, Err(Undone::NoThread(_))));
        assert_eq!(task_thread.within(context(minute), || 2), Ok(2));
    }
}
