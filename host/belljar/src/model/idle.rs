//! Frees memory by ending sandboxes that have been idle for too long. Their snapshot is kept, which
//! all sandboxes of a model share, and the next request starts a new sandbox from it.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::shared::Shared;
use belljar_confine::heap;

/// Longest and shortest interval between checks of the sandboxes.
const MAX_INTERVAL: Duration = Duration::from_secs(5);
const MIN_INTERVAL: Duration = Duration::from_millis(20);

/// The models of one host, and the thread that watches them while there are any.
#[derive(Default)]
pub(crate) struct IdleWatch {
    models: Arc<Mutex<Models>>,
}

#[derive(Default)]
struct Models {
    known: Vec<Weak<Shared>>,
    watched: bool,
}

impl IdleWatch {
    /// Ends a model's sandboxes once they have been idle for `time`.
    pub(super) fn watch(&self, model: &Arc<Shared>, time: Duration) {
        let mut models = self.models.lock().unwrap_or_else(PoisonError::into_inner);
        models.known.push(Arc::downgrade(model));
        if models.watched {
            return;
        }
        let shared = Arc::clone(&self.models);
        let watch = thread::Builder::new().name("belljar-idle".into()).spawn(move || {
            while end_idle(&shared, time) {
                thread::sleep((time / 4).clamp(MIN_INTERVAL, MAX_INTERVAL));
            }
        });
        // Without the thread memory is not freed, but models can still run.
        models.watched = watch.is_ok();
    }
}

/// Checks all models once. Returns whether any are left.
fn end_idle(models: &Mutex<Models>, time: Duration) -> bool {
    let known: Vec<Arc<Shared>> = {
        let mut models = models.lock().unwrap_or_else(PoisonError::into_inner);
        models.known.retain(|model| model.strong_count() > 0);
        models.watched = !models.known.is_empty();
        if !models.watched {
            return false;
        }
        models.known.iter().filter_map(Weak::upgrade).collect()
    };
    let now = Instant::now();
    let mut ended = false;
    for model in known {
        let idle = model.take_idle(|since| now.saturating_duration_since(since) >= time);
        ended |= !idle.is_empty();
        // Ending a sandbox takes a while, so the lock is released first.
        drop(idle);
    }
    if ended {
        heap::give_back();
    }
    true
}
