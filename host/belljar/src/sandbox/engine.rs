//! The wasmtime engines and their settings.
//!
//! Every WebAssembly proposal that the guest does not need is disabled, so that a model never
//! reaches the code that implements it.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use wasmtime::{Config, Engine, EngineWeak, Module, OptLevel, RegallocAlgorithm, WasmFeatures};

use super::code_cache::{CodeCache, CodeCacheError};
use super::slot::SlotCreator;
use belljar_confine::layers::Confinement;

/// A compiled form of the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Variant {
    /// Whether the code checks its deadline itself. Code in a worker process does not: there the
    /// supervisor kills the process, and the checks would cost up to half the speed.
    pub(crate) epochs: bool,
    /// Whether every result has the same bits on every machine.
    pub(crate) deterministic: bool,
}

impl Variant {
    pub(crate) const ALL: [Variant; 4] = [
        Variant { epochs: false, deterministic: false },
        Variant { epochs: true, deterministic: false },
        Variant { epochs: false, deterministic: true },
        Variant { epochs: true, deterministic: true },
    ];

    pub(crate) fn name(self) -> &'static str {
        match (self.epochs, self.deterministic) {
            (false, false) => "plain",
            (true, false) => "epoch-checked",
            (false, true) => "deterministic",
            (true, true) => "deterministic, epoch-checked",
        }
    }
}

/// The proposals beyond WebAssembly 1.0 that Rust's compiler uses for the guest.
const NEEDED: WasmFeatures = WasmFeatures::WASM1
    .difference(WasmFeatures::GC_TYPES)
    .union(WasmFeatures::BULK_MEMORY)
    .union(WasmFeatures::CALL_INDIRECT_OVERLONG)
    .union(WasmFeatures::MULTI_VALUE)
    .union(WasmFeatures::SIGN_EXTENSION)
    .union(WasmFeatures::SATURATING_FLOAT_TO_INT)
    .union(WasmFeatures::SIMD)
    .union(WasmFeatures::RELAXED_SIMD);

fn config(variant: Variant, stack: usize) -> Config {
    let mut config = Config::new();
    config.wasm_features(WasmFeatures::all(), false);
    config.wasm_features(NEEDED, true);
    config.shared_memory(false);
    config.cranelift_opt_level(OptLevel::Speed);
    config.cranelift_regalloc_algorithm(RegallocAlgorithm::Backtracking);
    config.epoch_interruption(variant.epochs);
    config.relaxed_simd_deterministic(variant.deterministic);
    config.cranelift_nan_canonicalization(variant.deterministic);
    // Every linear memory is placed in one of our slots.
    config.with_host_memory(Arc::new(SlotCreator));
    config.memory_may_move(false);
    config.max_wasm_stack(stack);
    // Nothing here is async, but wasmtime requires the first limit to be below the second.
    config.async_stack_size(stack + (1 << 20));
    // A trap is reported by its kind and the guest's message. Frames of an optimised guest would
    // not help a user, and their tables are a third of the compiled code.
    config.wasm_backtrace_max_frames(None);
    config.generate_address_map(false);
    config.native_unwind_info(false);
    config
}

/// The interval at which running code checks its deadline.
const TICK: Duration = Duration::from_millis(5);

/// The engines of one host: one for each variant and stack size, created on first use.
#[derive(Default)]
pub(crate) struct Engines {
    made: Mutex<HashMap<(Variant, u64), (Engine, Module)>>,
    ticker: Ticker,
}

impl Engines {
    /// An engine without a module.
    pub(crate) fn new_engine(variant: Variant, stack: u64) -> wasmtime::Result<Engine> {
        Engine::new(&config(variant, usize::try_from(stack)?))
    }

    /// An engine that compiles on one thread.
    pub(super) fn new_serial_engine(variant: Variant) -> wasmtime::Result<Engine> {
        let mut config = config(variant, 1 << 20);
        config.parallel_compilation(false);
        Engine::new(&config)
    }

    /// The engine and compiled guest for a variant and stack size.
    pub(crate) fn get(
        &self,
        cache: &CodeCache,
        variant: Variant,
        stack: u64,
    ) -> Result<(Engine, Module), CodeCacheError> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((engine, module)) = made.get(&(variant, stack)) {
            return Ok((engine.clone(), module.clone()));
        }
        let engine = Engines::new_engine(variant, stack).map_err(CodeCacheError::compiler)?;
        // A host with its own engines compiles in this process, without a worker.
        let code = cache.get(variant, Confinement::BestEffort)?;
        let module = code.load(&engine)?;
        if variant.epochs {
            self.ticker.watch(engine.weak());
        }
        made.insert((variant, stack), (engine.clone(), module.clone()));
        Ok((engine, module))
    }

    /// Advances the engines' epochs until the returned [`Running`] is dropped, and returns in how
    /// many ticks the deadline is.
    ///
    /// # Errors
    /// If the clock thread cannot be started: no deadline would ever pass without it.
    pub(crate) fn start_clock(&self, time: Duration) -> std::io::Result<(Running, u64)> {
        let ticks = time.as_nanos().div_ceil(TICK.as_nanos());
        // One more, because the current tick has already begun.
        let ticks = u64::try_from(ticks).unwrap_or(u64::MAX / 2).saturating_add(1);
        Ok((self.ticker.start()?, ticks))
    }
}

/// Advances the engines' epochs while anything runs, and sleeps otherwise.
#[derive(Default)]
struct Ticker {
    shared: Arc<(Mutex<Ticking>, Condvar)>,
}

#[derive(Default)]
struct Ticking {
    engines: Vec<EngineWeak>,
    running: usize,
    started: bool,
    ended: bool,
}

impl Ticker {
    fn watch(&self, engine: EngineWeak) {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner).engines.push(engine);
    }

    fn start(&self) -> std::io::Result<Running> {
        let mut ticking = self.shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !ticking.started {
            let shared = Arc::clone(&self.shared);
            let clock = std::thread::Builder::new().name("belljar-clock".into());
            clock.spawn(move || tick(&shared))?;
            ticking.started = true;
        }
        ticking.running += 1;
        self.shared.1.notify_one();
        Ok(Running { shared: Arc::clone(&self.shared) })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
        self.shared.1.notify_one();
    }
}

fn tick(shared: &(Mutex<Ticking>, Condvar)) {
    loop {
        let ticking = shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = |ticking: &mut Ticking| ticking.running == 0 && !ticking.ended;
        let ticking = shared.1.wait_while(ticking, idle).unwrap_or_else(PoisonError::into_inner);
        if ticking.ended && ticking.running == 0 {
            return;
        }
        for engine in &ticking.engines {
            if let Some(engine) = engine.upgrade() {
                engine.increment_epoch();
            }
        }
        drop(ticking);
        std::thread::sleep(TICK);
    }
}

/// Keeps the epochs advancing while it exists.
pub(crate) struct Running {
    shared: Arc<(Mutex<Ticking>, Condvar)>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut ticking = self.shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        ticking.running = ticking.running.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A module that uses one proposal, in binary: header, then the given sections.
    fn module(sections: &[u8]) -> Vec<u8> {
        [b"\0asm\x01\0\0\0", sections].concat()
    }

    #[test]
    fn proposals_that_the_guest_does_not_need_are_rejected() {
        let cases: [(&str, &[u8]); 9] = [
            ("an empty module, as a check of this test", &[]),
            ("gc: a struct type", &[1, 3, 1, 0x5f, 0]),
            ("exceptions: a tag", &[1, 4, 1, 0x60, 0, 0, 13, 3, 1, 0, 0]),
            ("threads: a shared memory", &[5, 4, 1, 3, 1, 1]),
            ("multi-memory: two memories", &[5, 5, 2, 0, 1, 0, 1]),
            ("memory64: a 64-bit memory", &[5, 3, 1, 4, 1]),
            (
                "function references: a parameter of a typed reference",
                &[1, 9, 2, 0x60, 0, 0, 0x60, 1, 0x64, 0, 0],
            ),
            (
                "tail calls: a function that returns a call of itself",
                &[1, 4, 1, 0x60, 0, 0, 3, 2, 1, 0, 10, 6, 1, 4, 0, 0x12, 0, 0x0b],
            ),
            ("custom page sizes: pages of one byte", &[5, 4, 1, 8, 0, 0]),
        ];
        for variant in Variant::ALL {
            let engine = Engines::new_engine(variant, 1 << 20).unwrap();
            for (number, (what, sections)) in cases.iter().enumerate() {
                let verdict = Module::validate(&engine, &module(sections));
                assert_eq!(verdict.is_ok(), number == 0, "{what}: {verdict:?}");
            }
        }
    }
}
