//! The memory limit of one run of a program: all its memories together, and the host's memory for
//! it.

use wasmtime::ResourceLimiter;

use crate::sandbox::Limit;

/// Maximum number of elements of all tables together. Programs have several thousand functions.
const TABLE_ELEMENTS: u64 = 200_000;

/// Maximum number of instances of core modules, of tables and of memories. A component of an
/// ordinary toolchain has a few modules; one with an interpreter has several dozen.
const INSTANCES: usize = 200;
const TABLES: usize = 200;
const MEMORIES: usize = 20;

/// Address space for all of its memories, in bytes: wasmtime reserves 4 GiB for each of them, and
/// its guard pages.
pub(super) const RESERVES: u64 = MEMORIES as u64 * (5 << 30);

/// Refuses to exceed the limits, and records the refusal: the program only sees a failed
/// allocation.
#[derive(Debug)]
pub(super) struct Limiter {
    limit: u64,
    used: u64,
    /// The peak usage.
    most: u64,
    /// What the last growth added, to subtract it if the growth fails.
    last: u64,
    elements: u64,
    refused: Option<Limit>,
}

impl Limiter {
    pub(super) fn new(memory: u64) -> Limiter {
        Limiter { limit: memory, used: 0, most: 0, last: 0, elements: 0, refused: None }
    }

    /// The refused limit.
    pub(super) fn take_refused(&mut self) -> Option<Limit> {
        self.refused.take()
    }

    /// The peak usage.
    pub(super) fn most(&self) -> u64 {
        self.most
    }

    /// Counts memory that the host keeps for the program.
    pub(super) fn charge(&mut self, bytes: u64) -> wasmtime::Result<()> {
        match self.adds(bytes) {
            true => Ok(()),
            false => Err(wasmtime::Error::msg("the program has reached its memory limit")),
        }
    }

    /// Subtracts freed memory.
    pub(super) fn free(&mut self, bytes: u64) {
        self.used = self.used.saturating_sub(bytes);
    }

    fn adds(&mut self, bytes: u64) -> bool {
        let used = self.used.saturating_add(bytes);
        let allowed = used <= self.limit;
        if allowed {
            self.used = used;
            self.most = self.most.max(used);
        } else {
            self.refused = Some(Limit::Memory { limit: self.limit });
        }
        allowed
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let more = desired.saturating_sub(current) as u64;
        let allowed = self.adds(more);
        self.last = if allowed { more } else { 0 };
        Ok(allowed)
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.used = self.used.saturating_sub(std::mem::take(&mut self.last));
        // Also called if the module's own maximum or 4 GiB is reached.
        self.refused.get_or_insert(Limit::Memory { limit: self.limit });
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let found = self.elements.saturating_add(desired.saturating_sub(current) as u64);
        let allowed = found <= TABLE_ELEMENTS;
        if allowed {
            self.elements = found;
        } else {
            self.refused = Some(Limit::Table { found, limit: TABLE_ELEMENTS });
        }
        Ok(allowed)
    }

    fn instances(&self) -> usize {
        INSTANCES
    }

    fn tables(&self) -> usize {
        TABLES
    }

    fn memories(&self) -> usize {
        MEMORIES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_memories_and_host_memory_count_together() {
        let mut limiter = Limiter::new(100);
        assert!(limiter.memory_growing(0, 40, None).unwrap());
        assert!(limiter.memory_growing(0, 40, None).unwrap());
        assert!(!limiter.memory_growing(40, 61, None).unwrap());
        assert_eq!(limiter.take_refused(), Some(Limit::Memory { limit: 100 }));
        limiter.charge(20).unwrap();
        assert!(limiter.charge(1).is_err());
        assert_eq!(limiter.most(), 100);
        limiter.free(20);
        assert!(limiter.memory_growing(40, 60, None).unwrap());
        // Growth that was allowed but failed is subtracted again.
        limiter.memory_grow_failed(wasmtime::Error::msg("no memory")).unwrap();
        assert!(limiter.memory_growing(40, 60, None).unwrap());
        assert!(!limiter.memory_growing(60, usize::MAX, None).unwrap());
        assert!(limiter.charge(u64::MAX).is_err());
    }

    #[test]
    fn elements_of_all_tables_count_together() {
        let mut limiter = Limiter::new(0);
        assert!(limiter.table_growing(0, 150_000, None).unwrap());
        assert!(!limiter.table_growing(0, 50_001, None).unwrap());
        assert!(limiter.table_growing(0, 50_000, None).unwrap());
        let expected = Limit::Table { found: 200_001, limit: 200_000 };
        assert_eq!(limiter.take_refused(), Some(expected));
    }
}
