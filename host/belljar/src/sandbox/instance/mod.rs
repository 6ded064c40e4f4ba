//! One instance of the guest: its linear memory, its exports, and calls to them. Every address and
//! length that it returns must be checked before use.

mod imports;

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use belljar_abi::clock::IMPORT as CLOCK;
use belljar_abi::{Reply, decode_reply};
use wasmtime::{
    Caller, Engine, Extern, InstancePre, Linker, Memory, Module, ModuleExport, Store, Trap,
    TypedFunc, WasmParams, WasmResults,
};

use super::failure::{Failure, Limit};
use super::guest::data_segments;
use super::limits::{Limiter, SandboxLimits};
use super::slot::{Returned, Slot, with_slot};
use super::{Call, Cost, Payload};
use belljar_confine::process::no_process;
use belljar_kernels::{InstructionSet, Refused, ScratchPool, Watch};

use imports::{Counts, Log, State, clock, compute, log_line, matmul_f32};

/// Length of the guest's own stack in linear memory, as the build sets it.
const GUEST_STACK: u64 = 4 << 20;

/// Length of the parts in which a file is passed in. It bounds the memory for each, and the cost of
/// a call of the guest is small compared with copying so many bytes.
const PART: u64 = 1 << 20;

/// The guest, ready to be instantiated.
#[derive(Clone)]
pub(super) struct Template {
    pre: InstancePre<State>,
    exports: Exports,
    limits: SandboxLimits,
    watch: Watch,
    profiles: bool,
}

/// The exports that every instance needs, resolved once because lookups by name are slower.
#[derive(Clone)]
struct Exports {
    memory: ModuleExport,
    alloc: ModuleExport,
    run: ModuleExport,
}

impl Exports {
    fn of(module: &Module) -> Result<Exports, Failure> {
        let find = |name: &str| {
            let missing = || Failure::Protocol(format!("the guest lacks the export {name:?}"));
            module.get_export_index(name).ok_or_else(missing)
        };
        let (run, _) = Call::Run.export();
        Ok(Exports { memory: find("memory")?, alloc: find("belljar_alloc")?, run: find(run)? })
    }
}

/// The initial memory of a new instance.
pub(super) enum Start {
    /// Empty: the guest's data segments are written to it, and the guest initialises itself.
    Fresh,
    /// The snapshot that the slot maps, which contains everything.
    Snapshot,
}

/// An instance of the guest.
pub(super) struct Instance {
    store: Store<State>,
    memory: Memory,
    alloc: TypedFunc<u32, u32>,
    run: TypedFunc<(u32, u32), u64>,
    instance: wasmtime::Instance,
    limits: SandboxLimits,
    returned: Returned,
}

/// When a call must end, for code that checks its deadline itself.
pub(super) struct Deadline {
    /// Ticks of the engine's epoch from now.
    pub(super) ticks: u64,
    /// The corresponding time, for native kernels.
    pub(super) until: Instant,
    /// The failure to report after the deadline.
    pub(super) exceeded: Failure,
}

fn host(err: impl std::fmt::Display) -> Failure {
    Failure::Host(format!("{err:#}"))
}

impl Template {
    /// For requests, without a clock.
    pub(super) fn new(
        engine: &Engine,
        module: &Module,
        limits: SandboxLimits,
    ) -> Result<Template, Failure> {
        Template::linked(module, limits, Linker::new(engine), false)
    }

    /// For profiled runs, with a clock. The module must import it.
    pub(super) fn profiling(
        engine: &Engine,
        module: &Module,
        limits: SandboxLimits,
    ) -> Result<Template, Failure> {
        let [from, name] = CLOCK;
        if !module.imports().any(|import| import.module() == from && import.name() == name) {
            return Err(Failure::Host("the profiling guest does not import the clock".into()));
        }
        let mut linker = Linker::new(engine);
        let started = Instant::now();
        let read = move |caller: Caller<'_, State>, address: u32| clock(caller, address, started);
        linker.func_wrap(from, name, read).map_err(host)?;
        Template::linked(module, limits, linker, true)
    }

    fn linked(
        module: &Module,
        limits: SandboxLimits,
        mut linker: Linker<State>,
        profiles: bool,
    ) -> Result<Template, Failure> {
        linker.func_wrap("belljar", "log", log_line).map_err(host)?;
        linker.func_wrap("belljar", "matmul_f32", matmul_f32).map_err(host)?;
        linker.func_wrap("belljar", "compute", compute).map_err(host)?;
        let watch = Watch::new(InstructionSet::best(), limits.threads).map_err(|err| {
            let source = std::error::Error::source(&err);
            let why = match source.and_then(|source| source.downcast_ref::<std::io::Error>()) {
                Some(err) => no_process(err),
                None => err.to_string(),
            };
            Failure::Host(format!(
                "cannot start the {} threads of `compute.threads`: {why}",
                limits.threads
            ))
        })?;
        let pre = linker.instantiate_pre(module).map_err(host)?;
        Ok(Template { pre, exports: Exports::of(module)?, limits, watch, profiles })
    }

    /// Whether its instances have a clock, and so accept profiled runs only.
    pub(super) fn profiles(&self) -> bool {
        self.profiles
    }

    pub(super) fn limits(&self) -> &SandboxLimits {
        &self.limits
    }

    /// The scratch memory of its instances' kernels.
    pub(super) fn scratch(&self) -> &ScratchPool {
        self.watch.scratch()
    }

    /// Creates an instance whose memory is in `slot`. The deadline applies to the guest code that
    /// runs during initialisation; with a snapshot there is none. Every call sets its own.
    pub(super) fn instantiate(
        &self,
        slot: Slot,
        start: Start,
        deadline: Option<&Deadline>,
    ) -> Result<Instance, Failure> {
        let limits = self.limits;
        let log_limit = usize::try_from(limits.log).unwrap_or(usize::MAX);
        let log = Log::new(log_limit);
        let state = State {
            limiter: Limiter::new(&limits, Arc::clone(self.watch.scratch())),
            log,
            memory: None,
            kernels: Duration::ZERO,
            counts: Counts::default(),
            watch: self.watch.clone(),
        };
        let mut store = Store::new(self.pre.module().engine(), state);
        store.limiter(|state| &mut state.limiter);
        store.set_epoch_deadline(deadline.map_or(u64::MAX / 2, |deadline| deadline.ticks));
        let (instance, returned) = with_slot(slot, || self.pre.instantiate(&mut store));
        let instance = match instance {
            Ok(instance) => instance,
            Err(err) => {
                let limit = store.data_mut().limiter.take_refused();
                return Err(limit.map_or_else(|| host(err), Failure::Limit));
            }
        };
        let memory = instance.get_module_export(&mut store, &self.exports.memory);
        let Some(memory) = memory.and_then(Extern::into_memory) else {
            return Err(Failure::Protocol("the guest lacks the export \"memory\"".into()));
        };
        store.data_mut().memory = Some(memory);
        let alloc = function(&instance, &mut store, &self.exports.alloc)?;
        let run = function(&instance, &mut store, &self.exports.run)?;
        let mut instance = Instance { store, memory, alloc, run, instance, limits, returned };
        if let Start::Fresh = start {
            instance.initialize(deadline)?;
        }
        Ok(instance)
    }
}

/// A function of the guest that must exist and have this type.
fn function<P: WasmParams, R: WasmResults>(
    instance: &wasmtime::Instance,
    store: &mut Store<State>,
    export: &ModuleExport,
) -> Result<TypedFunc<P, R>, Failure> {
    let found = instance.get_module_export(&mut *store, export).and_then(Extern::into_func);
    let function = found.ok_or_else(|| Failure::Protocol("the guest lacks an export".into()))?;
    function.typed(store).map_err(|err| Failure::Protocol(format!("{err:#}")))
}

impl Instance {
    /// Writes the guest's data segments to memory and calls its initialisation.
    fn initialize(&mut self, deadline: Option<&Deadline>) -> Result<(), Failure> {
        for (address, bytes) in data_segments() {
            self.memory.write(&mut self.store, address, bytes).map_err(host)?;
        }
        let protocol = |err: wasmtime::Error| Failure::Protocol(format!("{err:#}"));
        let initialize = self
            .instance
            .get_typed_func::<(), ()>(&mut self.store, "belljar_initialize")
            .map_err(protocol)?;
        let version = self
            .instance
            .get_typed_func::<(), u32>(&mut self.store, "belljar_abi_version")
            .map_err(protocol)?;
        let found = initialize
            .call(&mut self.store, ())
            .and_then(|()| version.call(&mut self.store, ()))
            .map_err(|err| self.explain(err, deadline))?;
        if found != belljar_abi::ABI_VERSION {
            let expected = belljar_abi::ABI_VERSION;
            let text = format!("the guest has interface version {found} instead of {expected}");
            return Err(Failure::Protocol(text));
        }
        let kernels = self
            .instance
            .get_typed_func::<u32, ()>(&mut self.store, "belljar_use_native_kernels")
            .map_err(protocol)?;
        kernels
            .call(&mut self.store, self.limits.native_kernels.into())
            .map_err(|err| self.explain(err, deadline))
    }

    /// The linear memory.
    pub(super) fn memory(&self) -> &[u8] {
        self.memory.data(&self.store)
    }

    /// Passes in a file in parts of this length.
    #[cfg(test)]
    pub(super) fn file(&mut self, call: Call, file: &[u8], part: u64) -> Vec<u8> {
        let payload = Payload::Bytes(file.to_vec());
        let reply = self.pass_in_parts(call, &payload, None, part).unwrap();
        self.message(reply).unwrap().to_vec()
    }

    /// Begins a file, whatever follows.
    #[cfg(test)]
    pub(super) fn begin(&mut self, call: Call, len: u64) -> Vec<u8> {
        let reply = self.begin_file(call, len, None).unwrap();
        self.message(reply).unwrap().to_vec()
    }

    /// Passes in a part, whether a file was begun or not.
    #[cfg(test)]
    pub(super) fn part(&mut self, bytes: &[u8]) -> Vec<u8> {
        let fill = |memory: &mut [u8]| {
            memory.copy_from_slice(bytes);
            Ok(())
        };
        let place = self.place(bytes.len() as u64, None, fill).unwrap();
        let reply = self.pass_part(place, None).unwrap();
        self.message(reply).unwrap().to_vec()
    }

    #[cfg(test)]
    pub(super) fn grow(&mut self, bytes: usize) {
        self.memory.grow(&mut self.store, (bytes as u64).div_ceil(64 << 10)).unwrap();
    }

    /// Ends the instance. Its slot must be reset before it is used again.
    pub(super) fn end(self) -> Option<Slot> {
        drop(self.store);
        self.returned.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Makes one call. `answer` receives the guest's message while it is still in linear memory.
    pub(super) fn call<T>(
        &mut self,
        call: Call,
        payload: &Payload,
        deadline: Option<&Deadline>,
        answer: impl FnOnce(&[u8]) -> Result<T, Failure>,
    ) -> Result<(T, Cost), Failure> {
        let start = Instant::now();
        self.store.set_epoch_deadline(deadline.map_or(u64::MAX / 2, |deadline| deadline.ticks));
        self.store.data_mut().watch.until(deadline.map(|deadline| deadline.until));
        let reply = match call {
            Call::Load | Call::External => self.pass_in_parts(call, payload, deadline, PART)?,
            _ => {
                let place = match payload.len() {
                    Some(len) => {
                        Some(self.place(len, deadline, |memory| payload.read_at(memory, 0))?)
                    }
                    None => None,
                };
                self.enter(call, place).map_err(|err| self.explain(err, deadline))?
            }
        };
        // A refused allocation from which the guest recovered is not a failure.
        self.store.data_mut().limiter.take_refused();
        let message = self.message(reply)?;
        let answer = answer(message)?;
        Ok((answer, self.cost(start.elapsed())))
    }

    /// The guest's message at the location that one of its exports has returned.
    fn message(&self, reply: u64) -> Result<&[u8], Failure> {
        let (address, len) = (reply as u32 as usize, (reply >> 32) as usize);
        if len as u64 > self.limits.answer {
            return Err(Failure::Limit(Limit::OutputSize {
                found: len as u64,
                limit: self.limits.answer,
            }));
        }
        self.memory
            .data(&self.store)
            .get(address..)
            .and_then(|rest| rest.get(..len))
            .ok_or_else(|| Failure::Protocol("the answer is outside of linear memory".into()))
    }

    /// Passes in a file in parts of at most `most` bytes, so that the guest never has to hold all
    /// of it, until it is complete or the guest refuses it. Returns the location of the last answer.
    fn pass_in_parts(
        &mut self,
        call: Call,
        payload: &Payload,
        deadline: Option<&Deadline>,
        most: u64,
    ) -> Result<u64, Failure> {
        let len = payload.len().unwrap_or(0);
        if u32::try_from(len).is_err() {
            // It cannot fit into the sandbox.
            return Err(Failure::Limit(Limit::Memory { limit: self.limits.memory }));
        }
        let mut reply = self.begin_file(call, len, deadline)?;
        let mut at = 0;
        while at < len && matches!(decode_reply(self.message(reply)?), Ok(Reply::Ok)) {
            let count = most.min(len - at);
            let place = self.place(count, deadline, |memory| payload.read_at(memory, at))?;
            reply = self.pass_part(place, deadline)?;
            at += count;
        }
        Ok(reply)
    }

    /// Begins a file of `len` bytes. Returns the location of the answer.
    fn begin_file(
        &mut self,
        call: Call,
        len: u64,
        deadline: Option<&Deadline>,
    ) -> Result<u64, Failure> {
        let (name, _) = call.export();
        let begin = self.instance.get_typed_func::<u64, u64>(&mut self.store, name);
        let begin = begin.map_err(|err| Failure::Protocol(format!("{err:#}")))?;
        begin.call(&mut self.store, len).map_err(|err| self.explain(err, deadline))
    }

    /// Passes in the next part of a file, which is at this place.
    fn pass_part(
        &mut self,
        place: (u32, u32),
        deadline: Option<&Deadline>,
    ) -> Result<u64, Failure> {
        let part = self.instance.get_typed_func::<(u32, u32), u64>(&mut self.store, "belljar_part");
        let part = part.map_err(|err| Failure::Protocol(format!("{err:#}")))?;
        part.call(&mut self.store, place).map_err(|err| self.explain(err, deadline))
    }

    pub(super) fn take_log(&mut self) -> Vec<String> {
        let log = &mut self.store.data_mut().log;
        (log.left, log.full) = (log.limit, false);
        std::mem::take(&mut log.lines)
    }

    fn cost(&mut self, time: Duration) -> Cost {
        let kernels = std::mem::take(&mut self.store.data_mut().kernels);
        let memory = self.memory.data_size(&self.store) as u64;
        Cost { memory, time, kernels, ..Cost::default() }
    }

    fn enter(&mut self, call: Call, place: Option<(u32, u32)>) -> wasmtime::Result<u64> {
        let (name, _) = call.export();
        match place {
            Some(place) if call == Call::Run => self.run.call(&mut self.store, place),
            Some(place) => self
                .instance
                .get_typed_func::<(u32, u32), u64>(&mut self.store, name)?
                .call(&mut self.store, place),
            None => self
                .instance
                .get_typed_func::<(), u64>(&mut self.store, name)?
                .call(&mut self.store, ()),
        }
    }

    /// Allocates memory for a message in the guest, and fills it.
    fn place(
        &mut self,
        len: u64,
        deadline: Option<&Deadline>,
        fill: impl FnOnce(&mut [u8]) -> std::io::Result<()>,
    ) -> Result<(u32, u32), Failure> {
        // A length beyond 32 bits cannot fit into the sandbox.
        let too_large = Failure::Limit(Limit::Memory { limit: self.limits.memory });
        let len = u32::try_from(len).map_err(|_| too_large.clone())?;
        let address =
            self.alloc.call(&mut self.store, len).map_err(|err| self.explain(err, deadline))?;
        if address == 0 {
            self.store.data_mut().limiter.take_refused();
            return Err(too_large);
        }
        let memory = self
            .memory
            .data_mut(&mut self.store)
            .get_mut(address as usize..)
            .and_then(|rest| rest.get_mut(..len as usize))
            .ok_or_else(|| Failure::Protocol("the guest allocated outside of its memory".into()))?;
        fill(memory).map_err(|err| Failure::Host(format!("cannot copy the message: {err}")))?;
        Ok((address, len))
    }

    /// The failure that a trap means, given the events before it.
    fn explain(&mut self, err: wasmtime::Error, deadline: Option<&Deadline>) -> Failure {
        let trap = err.downcast_ref::<Trap>().copied();
        let state = self.store.data_mut();
        let (refused, panic) = (state.limiter.take_refused(), state.log.panic.take());
        match trap {
            Some(Trap::Interrupt) => deadline
                .map_or_else(|| Failure::Trapped("interrupted".into()), |d| d.exceeded.clone()),
            Some(Trap::StackOverflow) => Failure::Limit(Limit::Stack { limit: self.limits.stack }),
            _ if refused.is_some() => {
                refused.map_or_else(|| Failure::Trapped(String::new()), Failure::Limit)
            }
            Some(Trap::MemoryOutOfBounds) if self.guest_stack_is_exhausted() => {
                Failure::Limit(Limit::GuestStack { limit: GUEST_STACK })
            }
            _ => match (panic, trap) {
                (Some(panic), _) => Failure::Panicked(panic),
                (None, Some(trap)) => Failure::Trapped(trap.to_string()),
                (None, None) if err.downcast_ref() == Some(&Refused::Interrupted) => deadline
                    .map_or_else(|| Failure::Trapped("interrupted".into()), |d| d.exceeded.clone()),
                (None, None) if err.downcast_ref() == Some(&Refused::Memory) => {
                    Failure::Limit(Limit::Memory { limit: self.limits.memory })
                }
                (None, None) if err.is::<Refused>() => {
                    Failure::Trapped(err.root_cause().to_string())
                }
                (None, None) => Failure::Host(format!("{err:#}")),
            },
        }
    }

    /// The guest's own stack is at the start of linear memory and grows down, so after its
    /// exhaustion the stack pointer has wrapped below zero to an address far above the stack.
    fn guest_stack_is_exhausted(&mut self) -> bool {
        let pointer = self.instance.get_global(&mut self.store, "__stack_pointer");
        let pointer = pointer.and_then(|global| global.get(&mut self.store).i32());
        pointer.is_some_and(|pointer| pointer as u32 as u64 > GUEST_STACK)
    }
}
