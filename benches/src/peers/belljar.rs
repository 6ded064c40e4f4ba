//! Belljar through its library, as a program that embeds it would use it: default policy, every
//! limit and deadline on, outputs validated.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use belljar::{Event, Host, Isolation, Model, ModelBytes, Outputs, Policy, Tensor, WorkerProgram};

use super::Peer;
use crate::inputs::{Case, floats};
use crate::say;

/// Belljar in one of its ways.
pub(crate) struct Belljar {
    name: &'static str,
    host: Host,
    policy: Policy,
    loaded: Option<Loaded>,
}

struct Loaded {
    model: Model,
    inputs: Vec<(String, Tensor)>,
    memory: u64,
}

/// The folders that compiled code is shared through.
pub(crate) struct Folders {
    pub(crate) cache: std::path::PathBuf,
    pub(crate) state: std::path::PathBuf,
}

impl Folders {
    /// Those that demo and tests use too.
    pub(crate) fn of(root: &Path) -> Folders {
        Folders { cache: root.join("target/cache"), state: root.join("target/state") }
    }
}

impl Belljar {
    /// Belljar whose workers, if it has any, are the given program.
    pub(crate) fn new(
        name: &'static str,
        isolation: Isolation,
        deterministic: bool,
        worker: &Path,
        folders: &Folders,
    ) -> Result<Belljar> {
        let host = Host::builder()
            .isolation(isolation)
            .worker_program(WorkerProgram::Path(worker.to_owned()))
            .cache_dir(&folders.cache)
            .state_dir(&folders.state)
            .on_event(|event| match event {
                Event::Compiling { variant } => {
                    say(format!("compiling the guest ({variant}), once for this machine"));
                }
                Event::CodeRefused { path, why } => {
                    say(format!("not used: {}: {why}", path.display()));
                }
                _ => {}
            })
            .build()?;
        let mut policy = Policy::default();
        policy.compute.deterministic = deterministic;
        Ok(Belljar { name, host, policy, loaded: None })
    }

    /// Compiles whatever is missing, so that no start counts it.
    pub(crate) fn warm(&self) -> Result<()> {
        self.host.warm().context("compiling the guest")
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
        self.loaded = Some(Loaded { model, inputs, memory: 0 });
        Ok(load)
    }

    fn run(&mut self, iterations: usize) -> Result<Vec<Duration>> {
        let loaded = self.loaded()?;
        let mut times = Vec::with_capacity(iterations);
        for _ in 0..iterations {
            let start = Instant::now();
            let outputs = loaded.run()?;
            times.push(start.elapsed());
            drop(outputs);
        }
        Ok(times)
    }

    fn outputs(&mut self) -> Result<Vec<Vec<f32>>> {
        let outputs = self.loaded()?.run()?;
        outputs.tensors().iter().map(|(_, tensor)| floats(tensor)).collect()
    }

    fn sandbox_memory(&self) -> Option<u64> {
        self.loaded.as_ref().map(|loaded| loaded.memory).filter(|memory| *memory > 0)
    }
}
