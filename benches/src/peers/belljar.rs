//! Belljar through its library, as a program that embeds it would use it: default policy, every
//! limit and deadline on, outputs validated.

use std::path::Path;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use belljar::{
    Event, Host, Isolation, Model, ModelBytes, Outputs, Policy, RunCost, Tensor, WorkerProgram,
};

use super::Peer;
use crate::inputs::{Case, floats};
use crate::say;

/// Belljar in one of its configurations.
pub(crate) struct Belljar {
    name: &'static str,
    host: Host,
    policy: Policy,
    loaded: Option<Loaded>,
}

/// A configuration.
#[derive(Clone, Copy)]
pub(crate) struct Way<'a> {
    pub(crate) isolation: Isolation,
    /// The text of the policy.
    pub(crate) policy: &'a str,
    /// Sandboxes that it keeps: as many as clients.
    pub(crate) idle: usize,
}

impl Way<'_> {
    /// On a thread, which serves no strict policy.
    pub(crate) fn on_a_thread() -> Self {
        let policy = "version = 1\nconfinement = \"best-effort\"\n";
        Way { isolation: Isolation::Thread, policy, ..Way::default() }
    }
}

impl Default for Way<'_> {
    fn default() -> Self {
        Way { isolation: Isolation::Process, policy: "version = 1", idle: 1 }
    }
}

struct Loaded {
    model: Model,
    inputs: Vec<(String, Tensor)>,
    memory: u64,
    costs: Vec<RunCost>,
}

/// The folders of compiled code, shared by all builds here.
#[derive(Clone)]
pub(crate) struct Folders {
    pub(crate) cache: std::path::PathBuf,
    pub(crate) state: std::path::PathBuf,
}

impl Folders {
    /// The folders that demo and tests use too.
    pub(crate) fn of(root: &Path) -> Folders {
        Folders { cache: root.join("target/cache"), state: root.join("target/state") }
    }
}

impl Belljar {
    /// Belljar with the given program for its worker processes.
    pub(crate) fn new(
        name: &'static str,
        way: Way<'_>,
        worker: &Path,
        folders: &Folders,
    ) -> Result<Belljar> {
        let host = Host::builder()
            .isolation(way.isolation)
            .idle_sandboxes(way.idle)
            .worker_program(WorkerProgram::Path(worker.to_owned()))
            .cache_dir(&folders.cache)
            .state_dir(&folders.state)
            .on_event(|event| match event {
                Event::Compiling { variant } => {
                    say(format!("compiling the guest ({variant}), once for this machine"));
                }
                Event::CodeRefused { path, why } => {
                    say(format!("compiled code not used: {}: {why}", path.display()));
                }
                _ => {}
            })
            .build()?;
        let policy = Policy::parse(way.policy, name)?;
        Ok(Belljar { name, host, policy, loaded: None })
    }

    /// Compiles what is missing, so that no start includes it.
    pub(crate) fn warm(&self) -> Result<()> {
        self.host.warm().context("compiling the guest")
    }

    /// Starts one more sandbox, without a model, and returns the time that it took.
    pub(crate) fn start(&self) -> Result<Duration> {
        Ok(self.host.time_to_ready(&self.policy)?)
    }

    /// Starts so many sandboxes, each of which serves a request.
    pub(crate) fn warm_up(&mut self, sandboxes: usize) -> Result<()> {
        let loaded = self.loaded()?;
        Ok(loaded.model.warm_up(&loaded.inputs, sandboxes)?)
    }

    fn loaded(&mut self) -> Result<&mut Loaded> {
        self.loaded.as_mut().context("no model is loaded")
    }
}

impl Loaded {
    fn run(&mut self) -> Result<Outputs> {
        let outputs = self.model.run(&self.inputs)?.validate()?;
        self.memory = outputs.cost().memory;
        Ok(outputs)
    }
}

impl Peer for Belljar {
    fn name(&self) -> &str {
        self.name
    }

    fn version(&self) -> &str {
        env!("CARGO_PKG_VERSION")
    }

    fn load(&mut self, case: &Case) -> Result<Duration> {
        self.loaded = None;
        let start = Instant::now();
        let bytes = ModelBytes::open(&case.model, self.policy.limits.model_size)?;
        let model = self.host.load(bytes, &self.policy)?;
        let inputs: Vec<_> =
            case.inputs.iter().map(|input| (input.name.clone(), input.tensor.clone())).collect();
        model.prepare(&inputs)?;
        let load = start.elapsed();
        self.loaded = Some(Loaded { model, inputs, memory: 0, costs: Vec::new() });
        Ok(load)
    }

    fn run(&mut self, iterations: usize) -> Result<Vec<Duration>> {
        let loaded = self.loaded()?;
        loaded.costs.clear();
        let mut times = Vec::with_capacity(iterations);
        for _ in 0..iterations {
            let start = Instant::now();
            let outputs = loaded.run()?;
            times.push(start.elapsed());
            loaded.costs.push(outputs.cost());
        }
        Ok(times)
    }

    fn rate(&mut self, clients: usize, time: Duration) -> Result<f64> {
        let loaded = self.loaded()?;
        let begin = Barrier::new(clients);
        let client = || -> Result<(u32, Duration)> {
            begin.wait();
            let (start, mut runs) = (Instant::now(), 0);
            loop {
                loaded.model.run(&loaded.inputs)?.validate()?;
                runs += 1;
                if start.elapsed() >= time {
                    return Ok((runs, start.elapsed()));
                }
            }
        };
        let results: Vec<_> = thread::scope(|scope| {
            let clients: Vec<_> = (0..clients).map(|_| scope.spawn(client)).collect();
            clients.into_iter().map(|client| client.join()).collect()
        });
        let (mut runs, mut whole) = (0, Duration::ZERO);
        for result in results {
            let (its, took) = result.map_err(|_| anyhow!("a client panicked"))??;
            (runs, whole) = (runs + its, whole.max(took));
        }
        Ok(f64::from(runs) / whole.as_secs_f64())
    }

    fn outputs(&mut self) -> Result<Vec<Vec<f32>>> {
        let outputs = self.loaded()?.run()?;
        outputs.tensors().iter().map(|(_, tensor)| floats(tensor)).collect()
    }

    fn costs(&self) -> &[RunCost] {
        self.loaded.as_ref().map_or(&[], |loaded| &loaded.costs)
    }

    fn sandbox_memory(&self) -> Option<u64> {
        self.loaded.as_ref().map(|loaded| loaded.memory).filter(|memory| *memory > 0)
    }
}
