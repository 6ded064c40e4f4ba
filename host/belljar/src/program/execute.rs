//! Runs a program in this process: a new instance in a new store, with a clock and limits.

use wasmtime::component::{Component, HasSelf, Linker, ResourceTable, ResourceTableError};
use wasmtime::{Engine, Store, Trap};

use super::bindings::{NamedValue, Runner, RunnerPre};
use super::clock::Clock;
use super::limiter::Limiter;
use super::link::Link;
use super::protocol::{About, NotLoaded, Unanswered, cut};
use super::wasi::{self, HasWasi, OpenedGrant, Resources, Spent, WasiState};
use super::wire;
use crate::sandbox::ProgramLimits;
use crate::sandbox::{Failure, Limit};

/// Maximum number of host resources that a program can hold at the same time.
const MAX_RESOURCES: usize = 100_000;

/// A program that is ready to run.
#[derive(Clone)]
pub(super) struct Loaded {
    engine: Engine,
    pre: RunnerPre<State>,
}

/// The state of one run.
pub(super) struct State {
    wasi: WasiState,
    pub(super) link: Link,
    pub(super) table: ResourceTable,
    pub(super) limiter: Limiter,
}

impl HasWasi for State {
    fn wasi(&mut self) -> &mut WasiState {
        &mut self.wasi
    }
}

impl Loaded {
    /// Checks the imports and exports of the component.
    pub(super) fn new(engine: &Engine, component: &Component) -> Result<Loaded, NotLoaded> {
        let refused = |err: wasmtime::Error| NotLoaded::Refused(cut(&format!("{err:#}")));
        let host = |err: wasmtime::Error| NotLoaded::Failed(Failure::Host(format!("{err:#}")));
        let mut linker = Linker::<State>::new(engine);
        wasi::add_to_linker(&mut linker).map_err(host)?;
        super::bindings::nn::graph::add_to_linker::<_, HasSelf<State>>(&mut linker, |s| s)
            .and_then(|()| {
                super::bindings::nn::inference::add_to_linker::<_, HasSelf<State>>(
                    &mut linker,
                    |s| s,
                )
            })
            .and_then(|()| {
                super::bindings::nn::tensor::add_to_linker::<_, HasSelf<State>>(&mut linker, |s| s)
            })
            .and_then(|()| {
                super::bindings::nn::errors::add_to_linker::<_, HasSelf<State>>(&mut linker, |s| s)
            })
            .map_err(host)?;
        let pre = linker.instantiate_pre(component).and_then(RunnerPre::new).map_err(refused)?;
        Ok(Loaded { engine: engine.clone(), pre })
    }

    /// Runs the program on encoded inputs. Returns encoded outputs, and the resources that it used.
    pub(super) fn run(
        &self,
        limits: &ProgramLimits,
        about: About,
        files: Vec<OpenedGrant>,
        inputs: &[u8],
        link: &Link,
        clock: &Clock,
    ) -> Result<(Vec<u8>, Spent), Unanswered> {
        let host = |why: String| Unanswered::Failed(Failure::Host(why));
        let inputs = wire::for_program(inputs).map_err(host)?;
        let About { program, arguments, network, quotas } = about;
        let resources = Resources {
            program,
            arguments,
            files,
            network,
            quotas,
            outside: Box::new(link.clone()),
        };
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_RESOURCES);
        let limiter = Limiter::new(limits.memory);
        let state = State { wasi: WasiState::new(resources), link: link.clone(), table, limiter };
        let mut store = Store::new(&self.engine, state);
        store.limiter(|state| &mut state.limiter);
        store.set_hostcall_fuel(usize::try_from(limits.crossing).unwrap_or(usize::MAX));
        // The epoch advances once, when the time is up.
        store.set_epoch_deadline(1);
        let called = self
            .pre
            .instantiate(&mut store)
            .and_then(|program: Runner| program.call_run(&mut store, &inputs));
        clock.end();
        drop(inputs);
        let refused = store.data_mut().limiter.take_refused();
        let outputs: Vec<NamedValue> = match called {
            Ok(Ok(outputs)) => outputs,
            // A refused allocation is the cause, whatever error the program returns.
            Ok(Err(_)) if let Some(limit) = refused => return Err(limited(limit)),
            Ok(Err(text)) => return Err(Unanswered::GaveUp(cut(&text))),
            Err(_) if let Some(limit) = refused => return Err(limited(limit)),
            Err(err) => return Err(Unanswered::Failed(failure(&err, limits))),
        };
        let state = store.data();
        let spent = Spent { memory: state.limiter.most(), ..state.wasi.spent() };
        drop(store);
        Ok((wire::from_program(&outputs, limits.outputs)?, spent))
    }
}

fn limited(limit: Limit) -> Unanswered {
    Unanswered::Failed(Failure::Limit(limit))
}

/// Classifies an error of wasmtime.
fn failure(err: &wasmtime::Error, limits: &ProgramLimits) -> Failure {
    if let Some(err) = err.downcast_ref::<std::io::Error>() {
        return Failure::Host(err.to_string());
    }
    if let Some(exit) = err.downcast_ref::<wasmtime_wasi::I32Exit>() {
        return Failure::Protocol(format!("the program ended itself with exit code {}", exit.0));
    }
    if let Some(ResourceTableError::Full) = err.downcast_ref() {
        let limit = MAX_RESOURCES as u64;
        return Failure::Limit(Limit::Table { found: limit + 1, limit });
    }
    match err.downcast_ref::<Trap>() {
        Some(Trap::Interrupt) => Failure::Limit(Limit::RunTime { limit: limits.time }),
        Some(Trap::StackOverflow) => Failure::Limit(Limit::Stack { limit: limits.stack }),
        Some(trap) => Failure::Trapped(trap.to_string()),
        None => {
            let text = format!("{err:#}");
            // This error has no separate type.
            match text.contains("fuel allocated for hostcalls") {
                true => Failure::Limit(Limit::Crossing { limit: limits.crossing }),
                false => Failure::Trapped(cut(&text)),
            }
        }
    }
}
