//! The resource limits of a sandbox, enforced while it runs.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use wasmtime::ResourceLimiter;

use super::failure::Limit;
use belljar_kernels::ScratchPool;

/// Maximum number of elements of the guest's only table of functions, which has about ten thousand.
const MAX_TABLE: usize = 200_000;

/// The limits of one sandbox. Sizes are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SandboxLimits {
    /// Linear memory and the scratch memory of native kernels, together.
    pub(crate) memory: u64,
    /// Stack of the WebAssembly code.
    pub(crate) stack: u64,
    /// Log lines that are kept until they are taken.
    pub(crate) log: u64,
    /// The answer of a call.
    pub(crate) answer: u64,
    /// Whether native kernels of the host may compute operators for the sandbox.
    pub(crate) native_kernels: bool,
    /// Threads that one call may compute with.
    pub(crate) threads: u32,
}

/// Refuses growth beyond the limits, and remembers the refusal, because the guest only sees a
/// failed allocation.
pub(super) struct Limiter {
    memory: u64,
    /// Scratch memory of kernels, which counts against the memory limit.
    scratch: Arc<ScratchPool>,
    refused: Option<Limit>,
}

impl Limiter {
    pub(super) fn new(limits: &SandboxLimits, scratch: Arc<ScratchPool>) -> Limiter {
        Limiter { memory: limits.memory, scratch, refused: None }
    }

    /// The memory that remains for the scratch memory of kernels, given this much linear memory.
    pub(super) fn room(&self, linear: usize) -> u64 {
        self.memory.saturating_sub(linear as u64)
    }

    /// Takes the refusal since the last call of this function.
    pub(super) fn take_refused(&mut self) -> Option<Limit> {
        self.refused.take()
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let allowed = desired as u64 <= self.memory;
        if !allowed {
            self.refused = Some(Limit::Memory { limit: self.memory });
        } else if self.scratch.bytes() as u64 > self.room(desired) {
            // No kernel runs while the guest allocates memory, so all scratch memory is free.
            self.scratch.release();
        }
        Ok(allowed)
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        // Also called when the module's own maximum, or the 4 GiB of 32-bit addresses, is reached.
        self.refused.get_or_insert(Limit::Memory { limit: self.memory });
        Ok(())
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let allowed = desired <= MAX_TABLE;
        if !allowed {
            self.refused = Some(Limit::Table { found: desired as u64, limit: MAX_TABLE as u64 });
        }
        Ok(allowed)
    }

    fn instances(&self) -> usize {
        1
    }

    fn tables(&self) -> usize {
        1
    }

    fn memories(&self) -> usize {
        1
    }
}

#[cfg(test)]
mod tests {
    use wasmtime::{Linker, Module, Store};

    use super::*;
    use crate::sandbox::slot::{Slot, with_slot};
    use crate::sandbox::{Engines, Variant};

    /// Instantiates a module of the given sections under a limit of one page of memory.
    fn instantiate(sections: &[u8]) -> Result<(), Option<Limit>> {
        let engine = Engines::new_engine(Variant::default(), 1 << 20).unwrap();
        let module = Module::new(&engine, [b"\0asm\x01\0\0\0", sections].concat()).unwrap();
        let limits = SandboxLimits {
            memory: 1 << 16,
            stack: 1 << 20,
            log: 0,
            answer: 0,
            native_kernels: false,
            threads: 1,
        };
        let scratch = Arc::new(ScratchPool::new(1));
        let mut store = Store::new(&engine, Limiter::new(&limits, scratch));
        store.limiter(|limiter| limiter);
        let instantiate = || Linker::new(&engine).instantiate(&mut store, &module);
        match with_slot(Slot::new().unwrap(), instantiate).0 {
            Ok(_) => Ok(()),
            Err(_) => Err(store.data_mut().take_refused()),
        }
    }

    #[test]
    fn memory_and_tables_are_limited_from_the_start() {
        assert_eq!(instantiate(&[5, 3, 1, 0, 1]), Ok(()), "one page");
        let memory = Limit::Memory { limit: 1 << 16 };
        assert_eq!(instantiate(&[5, 3, 1, 0, 2]), Err(Some(memory)), "two pages");
        // 200,000 and 200,001 elements, in LEB128.
        assert_eq!(instantiate(&[4, 6, 1, 0x70, 0, 0xc0, 0x9a, 0x0c]), Ok(()));
        let table = Limit::Table { found: 200_001, limit: 200_000 };
        assert_eq!(instantiate(&[4, 6, 1, 0x70, 0, 0xc1, 0x9a, 0x0c]), Err(Some(table)));
    }
}
