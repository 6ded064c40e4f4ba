//! Does what takes time for a run of a program, one thing after another, on a thread of its own: the
//! supervisor waits for it no longer than the run has time.
//!
//! What is late is told to stop by the deadline that the thread works under ([`Errand`]). What does not
//! know that deadline, such as a file of a file system that hangs, is left behind, and ends when it
//! ends; so much of it may be left behind in this process, and no more.

use std::sync::atomic::{AtomicIsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::Instant;

use crate::host::errand::Errand;

/// Most threads in this process that go on with something that nobody waits for any more.
const MOST_LEFT_BEHIND: isize = 64;

static LEFT_BEHIND: AtomicIsize = AtomicIsize::new(0);

const ENDED: &str = "the thread that works for the program has ended";

type Task = Box<dyn FnOnce() + Send>;

/// What was done and nobody waits for: it is counted when its end is not waited for any more, and not
/// from here on.
struct Unheard;

impl Drop for Unheard {
    fn drop(&mut self) {
        LEFT_BEHIND.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A thread that works for one run; started when there is something to do.
#[derive(Default)]
pub(super) struct Clerk {
    thread: Option<(Sender<Task>, JoinHandle<()>)>,
}

/// Why something was not done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Undone {
    /// It takes longer than the run has time.
    Late,
    /// There is no thread for it.
    NoThread(String),
}

impl Clerk {
    /// Has something done for a run, before the run's time is up.
    pub(super) fn within<T: Send + 'static>(
        &mut self,
        errand: Errand,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Undone> {
        let until = errand.until;
        // Without room for what is done, so that whoever did it learns that nobody waits any more.
        let (done, doing) = sync_channel(0);
        let task = move || {
            let unheard = Unheard;
            if done.send(errand.during(work)).is_ok() {
                std::mem::forget(unheard);
            }
        };
        self.begin(Box::new(task))?;
        match doing.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(done) => Ok(done),
            Err(why) => {
                LEFT_BEHIND.fetch_add(1, Ordering::Relaxed);
                self.thread = None;
                Err(match why {
                    RecvTimeoutError::Timeout => Undone::Late,
                    // It panicked, which its thread has told.
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
    if LEFT_BEHIND.load(Ordering::Relaxed) >= MOST_LEFT_BEHIND {
        return Err(Undone::NoThread(format!(
            "{MOST_LEFT_BEHIND} tasks of programs whose time is up go on in this process: a file \
             system or the decision log does not answer"
        )));
    }
    let (tasks, incoming): (Sender<Task>, Receiver<Task>) = channel();
    let thread = std::thread::Builder::new()
        .name("belljar-clerk".into())
        .spawn(move || incoming.into_iter().for_each(|task| task()))
        .map_err(|err| Undone::NoThread(format!("a thread for the program cannot start: {err}")))?;
    Ok((tasks, thread))
}

impl Drop for Clerk {
    fn drop(&mut self) {
        // It has nothing to do: what is late has been left behind before.
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

    fn errand(left: Duration) -> Errand {
        let until = Instant::now() + left;
        Errand { until, time: left, tally: Arc::default() }
    }

    #[test]
    fn what_is_late_is_left_behind_and_the_next_is_done() {
        let mut clerk = Clerk::default();
        let minute = Duration::from_secs(60);
        assert_eq!(clerk.within(errand(minute), || 1), Ok(1));
        let first = clerk.within(errand(minute), || std::thread::current().id()).unwrap();
        let (go, wait) = channel::<()>();
        let (say, said) = channel::<()>();
        let hangs = move || {
            let _ = wait.recv();
            drop(say);
        };
        assert_eq!(clerk.within(errand(Duration::from_millis(20)), hangs), Err(Undone::Late));
        let second = clerk.within(errand(minute), || std::thread::current().id()).unwrap();
        assert_ne!(first, second);
        // It goes on until what it waits for has come.
        drop(go);
        assert!(said.recv_timeout(minute).is_err_and(|err| err == RecvTimeoutError::Disconnected));
        let short = move || std::thread::sleep(minute / 600);
        assert_eq!(clerk.within(errand(Duration::ZERO), short), Err(Undone::Late));
    }

    #[test]
    fn a_panic_is_no_answer_and_not_the_end() {
        let mut clerk = Clerk::default();
        let minute = Duration::from_secs(60);
        let panicked = clerk.within(errand(minute), || -> u8 { panic!("oh") });
        assert!(matches!(panicked, Err(Undone::NoThread(_))));
        assert_eq!(clerk.within(errand(minute), || 2), Ok(2));
    }
}
