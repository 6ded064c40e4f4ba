//! Compares the memory that the sandboxes of all loaded models may use with the available memory:
//! the kernel kills workers when memory runs out, so an operator is warned when that can happen.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::Event;
use super::event::Listener;
use belljar_confine::memory_group::{Available, available};

/// The memory budget of one host's models.
pub(crate) struct MemoryBudget {
    listener: Listener,
    available: OnceLock<Option<Available>>,
    asked: Mutex<Asked>,
}

#[derive(Default)]
struct Asked {
    bytes: u64,
    /// The excess was reported.
    reported: bool,
}

/// The memory that one loaded model may use; released when dropped.
pub(crate) struct Claim {
    budget: Arc<MemoryBudget>,
    bytes: u64,
}

impl MemoryBudget {
    pub(super) fn new(listener: Listener) -> Arc<MemoryBudget> {
        let (available, asked) = (OnceLock::new(), Mutex::default());
        Arc::new(MemoryBudget { listener, available, asked })
    }

    #[cfg(test)]
    fn of(listener: Listener, bytes: u64) -> Arc<MemoryBudget> {
        let available = Some(Available { bytes, what: "a test".into() });
        let available = OnceLock::from(available);
        Arc::new(MemoryBudget { listener, available, asked: Mutex::default() })
    }

    /// Claims memory for a number of sandboxes. If all claims together exceed the available
    /// memory, that is reported once until they fit again.
    pub(crate) fn claim(self: &Arc<Self>, sandboxes: usize, each: u64) -> Claim {
        let bytes = each.saturating_mul(sandboxes.max(1) as u64);
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.bytes = asked.bytes.saturating_add(bytes);
        let claimed = asked.bytes;
        let too_much = match self.available.get_or_init(available) {
            Some(available) if claimed > available.bytes && !asked.reported => Some(available),
            _ => None,
        };
        asked.reported |= too_much.is_some();
        drop(asked);
        if let Some(Available { bytes: there, what }) = too_much {
            let (there, what) = (*there, what.clone());
            (self.listener)(Event::MemoryOvercommitted { claimed, there, what });
        }
        Claim { budget: Arc::clone(self), bytes }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut asked = self.budget.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.bytes = asked.bytes.saturating_sub(self.bytes);
        let fits = |available: &Available| asked.bytes <= available.bytes;
        if self.budget.available.get().and_then(Option::as_ref).is_none_or(fits) {
            asked.reported = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overcommitted_memory_is_reported_once() {
        let (sender, events) = std::sync::mpsc::channel();
        let budget = MemoryBudget::of(Arc::new(move |event| drop(sender.send(event))), 100);
        let reported = || match events.try_recv() {
            Ok(Event::MemoryOvercommitted { claimed, there, what }) => {
                assert_eq!((there, what.as_str()), (100, "a test"));
                Some(claimed)
            }
            _ => None,
        };
        let first = budget.claim(2, 50);
        assert_eq!(reported(), None);
        let second = budget.claim(1, 1);
        assert_eq!(reported(), Some(101));
        let third = budget.claim(0, 1);
        assert_eq!(reported(), None);
        drop((second, third));
        drop(budget.claim(1, 1));
        assert_eq!(reported(), Some(101));
        drop(first);
        drop(budget.claim(100, u64::MAX));
        assert_eq!(reported(), Some(u64::MAX));
    }
}
