//! Gives memory back: ends sandboxes that nobody has needed for a while. What stays of each is its
//! snapshot, which all sandboxes of a model share, and from which the next request starts another.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::shared::Shared;
use belljar_confine::heap;

/// Most seldom and most often that sandboxes are looked at.
const SELDOM: Duration = Duration::from_secs(5);
const OFTEN: Duration = Duration::from_millis(20);

/// The models of one host, and the thread that looks after them while there are any.
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
    /// Has a model's sandboxes ended once they have waited for `time`.
    pub(super) fn look_after(&self, model: &Arc<Shared>, time: Duration) {
        let mut models = self.models.lock().unwrap_or_else(PoisonError::into_inner);
        models.known.push(Arc::downgrade(model));
        if models.watched {
            return;
        }
        let shared = Arc::clone(&self.models);
        let watch = thread::Builder::new().name("belljar-idle".into()).spawn(move || {
            while end_idle(&shared, time) {
                thread::sleep((time / 4).clamp(OFTEN, SELDOM));
            }
        });
        // Without the thread memory is kept, which is no reason not to run a model.
        models.watched = watch.is_ok();
    }
}

/// Looks at all models once. Answers whether there are any left.
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
        // Ending a sandbox takes a while: nobody has to wait for the lock meanwhile.
        drop(idle);
    }
    if ended {
        heap::give_back();
    }
    true
}
