//! A loaded model: its description, and its runs.

mod answers;
mod bound;
mod contract;
mod dims;
mod examine;
mod idle;
mod outputs;
mod picture;
mod preparation;
mod profile;
mod shapes;
mod shared;
mod side_files;
mod values;

use std::borrow::Borrow;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use belljar_abi::{DType, Description, InputShape, Reply, TensorView, decode_reply, encode_run};

use crate::audit::{Decision, Subject, Verdict};
use crate::error::{Error, ErrorKind, Phase};
use crate::host::Host;
use crate::sandbox::{Call, CallLimit, Limit, Payload, ResetMethod, TimeKey};
use crate::trust::{Digest, ModelBytes};
use belljar_confine::layers::Confinement;
use belljar_confine::role::Role;
use belljar_policy::FileGrant;
use belljar_policy::{Effective, Policy, Refused};
use belljar_tensor::{ELEMENT_MEMORY, Tensor, Value, string_memory};

use answers::{description, reply, unexpected};
pub use bound::BoundInputs;
use bound::TAKEN_BY_VALUES;
use contract::{Bound, Contract};
pub use dims::DimError;
pub use examine::Examined;
pub(crate) use idle::IdleWatch;
pub use outputs::{Outputs, UncheckedOutputs};
pub use picture::PictureError;
pub use profile::ProfiledRun;
pub use shapes::ShapeDifference;
use shared::{Served, Shared, Waiting};
pub use side_files::external_data_paths;

/// The cost of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunCost {
    /// Time to get a sandbox that is prepared for these input shapes; almost zero if one was idle.
    pub prepare: Duration,
    /// Time of the run, including the transfer of tensors.
    pub run: Duration,
    /// Time inside the sandbox; part of `run`.
    pub guest: Duration,
    /// Time inside native kernels; part of `guest`.
    pub kernels: Duration,
    /// Size of the sandbox's memory after the run, in bytes.
    pub memory: u64,
    /// Time to create the instance that served this run from the prepared snapshot. From the second
    /// run of a sandbox on, the instance is created ahead, and `run` does not include this time.
    pub instantiate: Duration,
    /// Time to restore clean memory after the previous run in the same sandbox; zero for the first.
    /// No request waits for it.
    pub reset: Duration,
    /// How clean memory is restored.
    pub reset_method: ResetMethod,
}

/// Numbers of calls to sandboxes since the model was loaded, by all of its clones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Calls {
    /// Calls that decode the model.
    pub load: u64,
    /// Calls that describe it.
    pub describe: u64,
    /// Calls that type and optimise it for some input shapes.
    pub prepare: u64,
    /// Calls that start from the memory of another, prepared sandbox.
    pub adopt: u64,
    /// Calls that run it.
    pub run: u64,
}

/// A model that was loaded under a policy. Cheap to clone; clones share their sandboxes. Any
/// number of threads may run it concurrently: each run has its own sandbox.
#[derive(Clone)]
pub struct Model {
    shared: Arc<Shared>,
    description: Arc<Description>,
    contract: Arc<Contract>,
}

impl Model {
    pub(crate) fn load(host: &Host, bytes: ModelBytes, policy: Effective) -> Result<Model, Error> {
        let label = bytes.label().to_owned();
        let found = bytes.digest();
        let subject = subject(found, &policy);
        let named = |kind: ErrorKind| Error::for_model(&label, host.inner.refused(subject, kind));
        host.inner.check(&policy).map_err(named)?;
        // Such a policy pins the program. The models of a program have their own policies
        // (`Policy::for_model`).
        if policy.program.is_some() {
            return Err(named(Refused::ForProgram.into()));
        }
        if let Some(pinned) = policy.model.sha256.map(Digest::from)
            && pinned != found
        {
            return Err(named(ErrorKind::Pin { found, pinned }));
        }
        if bytes.size() > policy.limits.model_size {
            return Err(named(Limit::ModelSize { limit: policy.limits.model_size }.into()));
        }
        let record = host.inner.supervision.record(found).map_err(|reason| named(reason.into()))?;
        // Logged after all checks, because a model in quarantine is not allowed.
        let rule = if policy.model.sha256.is_some() { "model.sha256" } else { "no pin" };
        let (resource, access, verdict) = ("model", "load", Verdict::Allowed);
        let decision = Decision { subject, resource, access, verdict, rule };
        host.inner.decide(&decision).map_err(named)?;
        let memory = host.inner.memory.claim(host.inner.idle, policy.limits.memory);
        let mut shared = Shared {
            host: Arc::clone(&host.inner),
            bytes,
            label: label.clone(),
            policy,
            side_files: Vec::new(),
            fixed: Vec::new(),
            waiting: Mutex::default(),
            record,
            _memory: memory,
            calls: Default::default(),
            useless_plans: Default::default(),
        };
        let stored = shared.host.store().and_then(|store| store.description(found));
        // A description that does not decode was stored by an incompatible build.
        let described = stored.and_then(|message| description(&message).ok());
        let (described, loaded) = match described {
            Some(described) => (described, None),
            None => shared.retried(|| shared.described_sandbox()).map_err(|kind| {
                named(match kind {
                    ErrorKind::Model(why) => ErrorKind::Model(shared.bytes.refusal(why)),
                    other => other,
                })
            })?,
        };
        let contract = Contract::new(&described).under(&shared.policy).map_err(named)?;
        shared.fixed = contract.fixed().to_vec();
        let (size, policy) = (shared.bytes.size(), &shared.policy);
        let side_files = side_files::read(&host.inner, subject, policy, &described, size);
        let side_files = side_files.map_err(named)?;
        shared.side_files = side_files;
        shared.waiting = Mutex::new(Waiting { loaded, ..Waiting::default() });
        let shared = Arc::new(shared);
        if let Some(time) = shared.host.idle_time {
            shared.host.idle_watch.watch(&shared, time);
        }
        Ok(Model { shared, description: Arc::new(described), contract: Arc::new(contract) })
    }

    /// The numbers of calls to sandboxes. If almost all calls are `adopt` and `run`, the prepared
    /// model came from the store.
    pub fn calls(&self) -> Calls {
        let [load, describe, prepare, adopt, run] =
            self.shared.calls.each_ref().map(|count| count.load(Ordering::Relaxed));
        Calls { load, describe, prepare, adopt, run }
    }

    /// The model's description of itself. All text in it is untrusted: print it through
    /// [`belljar_text::Escaped`].
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// SHA-256 of the model's bytes.
    pub fn digest(&self) -> Digest {
        self.shared.bytes.digest()
    }

    /// For each external data file, the smallest grant that would have been enough.
    #[doc(hidden)]
    pub fn side_files(&self) -> Vec<FileGrant> {
        self.shared.side_files.iter().map(|granted| granted.least.clone()).collect()
    }

    /// Total size of the external data files in bytes.
    #[doc(hidden)]
    pub fn side_files_size(&self) -> u64 {
        let sizes = self.shared.side_files.iter().map(|granted| granted.file.len());
        sizes.fold(0, u64::saturating_add)
    }

    /// The policy the model was loaded under, cut down to the ceilings.
    pub fn policy(&self) -> &Policy {
        &self.shared.policy
    }

    /// Prepares a sandbox for inputs of these shapes and keeps it for a later run. One shape is
    /// needed for each input without a default or a value from the policy.
    ///
    /// # Errors
    /// As [`Model::run`].
    pub fn prepare_for(&self, shapes: &[InputShape]) -> Result<Duration, Error> {
        let start = Instant::now();
        let shapes = self.contract.bind_shapes(shapes).map_err(|kind| self.error(kind))?;
        let (plan, sandbox) = self
            .shared
            .retried(|| self.shared.prepared_sandbox(&self.contract, &shapes))
            .map_err(|kind| self.error(kind))?;
        self.shared.put_back(&plan, sandbox);
        Ok(start.elapsed())
    }

    /// The shapes that a plan for inputs of these shapes has: a sequence or a map consists of several
    /// tensors.
    ///
    /// # Errors
    /// When a shape does not fit the model's declaration.
    #[doc(hidden)]
    pub fn plan_shapes(&self, shapes: &[InputShape]) -> Result<Vec<InputShape>, Error> {
        self.contract.bind_shapes(shapes).map_err(|kind| self.error(kind))
    }

    /// Prepares a sandbox for these inputs and keeps it for a later run.
    ///
    /// # Errors
    /// As [`Model::run`].
    pub fn prepare<N: AsRef<str>>(&self, inputs: &[(N, Tensor)]) -> Result<Duration, Error> {
        self.bind(inputs)?.prepare()
    }

    /// As [`Model::run`], for inputs that may also be sequences, maps and optionals. An optional is
    /// omitted, or [`Value::Absent`], or its element.
    ///
    /// # Errors
    /// As [`Model::run`].
    pub fn run_values<N: AsRef<str>>(
        &self,
        inputs: &[(N, Value)],
    ) -> Result<UncheckedOutputs, Error> {
        self.bind_values(inputs)?.run()
    }

    /// Runs the model on named tensors. Every declared input must be given, with its declared
    /// element type and a shape of the declared rank and fixed sizes. Two inputs may have different
    /// sizes for the same symbol, unless the policy says `declared-shapes = "strict"`, because
    /// exporters use one symbol for unrelated sizes.
    ///
    /// # Errors
    /// When an input does not fit the model's declaration, when the model needs something that is
    /// not implemented, when a limit is hit, and when the sandbox traps. After any error, the model
    /// can be run again. [`Model::run_values`] takes sequences and maps.
    pub fn run<N: AsRef<str>>(&self, inputs: &[(N, Tensor)]) -> Result<UncheckedOutputs, Error> {
        self.bind(inputs)?.run()
    }

    /// Keeps a number of sandboxes idle that have served these inputs once, so that as many
    /// concurrent requests wait neither for a sandbox nor for the first touch of its memory. At
    /// most [`HostBuilder::idle_sandboxes`](crate::HostBuilder::idle_sandboxes) are kept.
    ///
    /// # Errors
    /// As [`Model::run`].
    pub fn warm_up<N: AsRef<str>>(
        &self,
        inputs: &[(N, Tensor)],
        sandboxes: usize,
    ) -> Result<(), Error> {
        let (shared, contract) = (&*self.shared, &*self.contract);
        let mut served = Vec::new();
        let mut serve = || -> Result<(), ErrorKind> {
            contract.check_takes_tensors(TAKEN_BY_VALUES)?;
            let bound = shared.bind(contract, inputs)?;
            let payload = || payload(inputs, contract, shared.seed());
            let one = shared.served(contract, &bound.shapes, payload)?;
            reply(&one.answer, Phase::Run)?;
            shared.answered();
            served.push((one.plan, one.sandbox));
            Ok(())
        };
        // All are held until the last has served, because an idle one would be reused.
        let result = (0..sandboxes.min(shared.host.idle)).try_for_each(|_| serve());
        for (plan, sandbox) in served {
            shared.put_back(&plan, sandbox);
        }
        result.map_err(|kind| self.error(kind))
    }

    fn run_bound<N: AsRef<str>, T: Borrow<Tensor>>(
        &self,
        inputs: &[(N, T)],
        bound: &Bound,
        seed: u32,
    ) -> Result<UncheckedOutputs, ErrorKind> {
        let (shared, contract) = (&*self.shared, &*self.contract);
        let Served { sandbox, plan, answer, prepare, begin } =
            shared.served(contract, &bound.shapes, || payload(inputs, contract, seed))?;
        let tensors = match reply(&answer, Phase::Run)? {
            Reply::Tensors(views) => views,
            _ => return Err(unexpected()),
        };
        let limit = shared.policy.limits.output_size;
        // A string takes more memory in this process than in the message.
        let memory = |view: &TensorView<'_>| {
            let len = view.data.len() as u64;
            match view.dtype {
                DType::String => view.strings().map(string_memory).sum::<u64>().max(len),
                _ => len,
            }
        };
        let elements = ELEMENT_MEMORY.saturating_mul(contract.elements(&tensors));
        let found = tensors.iter().map(memory).fold(elements, u64::saturating_add);
        if found > limit {
            return Err(Limit::OutputSize { found, limit }.into());
        }
        let tensors = tensors
            .iter()
            .map(|view| Ok((view.name.to_owned(), Tensor::from_view(view)?)))
            .collect::<Result<Vec<_>, belljar_tensor::TensorError>>()
            .map_err(|err| ErrorKind::Sandbox(err.to_string()))?;
        shared.answered();
        let cost = RunCost {
            prepare,
            run: begin.elapsed(),
            guest: answer.cost.time,
            kernels: answer.cost.kernels,
            memory: answer.cost.memory,
            instantiate: answer.cost.instantiate,
            reset: answer.cost.reset,
            reset_method: answer.cost.method,
        };
        shared.put_back(&plan, sandbox);
        let (label, contract) = (shared.label.clone(), Arc::clone(&self.contract));
        let (host, subject) = (Arc::clone(&shared.host), shared.subject());
        let (symbols, inputs) = (bound.symbols.clone(), bound.differences.clone());
        let declared = outputs::Declared { label, contract, symbols, inputs, host, subject };
        Ok(UncheckedOutputs::new(declared, tensors, cost))
    }

    fn error(&self, kind: ErrorKind) -> Error {
        let shared = &self.shared;
        Error::for_model(&shared.label, shared.host.refused(shared.subject(), kind))
    }
}

/// The subject of decisions about a model.
fn subject(model: Digest, policy: &Policy) -> Subject {
    Subject { model: Some(model), policy: policy.file_sha256().map(Digest::from) }
}

/// What is sent to the guest for a run: the seed, and the inputs that it does not already have.
fn payload<N: AsRef<str>, T: Borrow<Tensor>>(
    inputs: &[(N, T)],
    contract: &Contract,
    seed: u32,
) -> Payload {
    let sent = inputs.iter().map(|(name, tensor)| (name.as_ref(), tensor.borrow()));
    let sent: Vec<(&str, &Tensor)> = sent.filter(|(name, _)| contract.is_sent(name)).collect();
    let wires: Vec<_> = sent.iter().map(|(_, tensor)| tensor.to_wire()).collect();
    let views: Vec<_> =
        sent.iter().zip(&wires).map(|((name, tensor), wire)| tensor.view(name, wire)).collect();
    Payload::Bytes(encode_run(seed, &views))
}

/// Lists the kernels of a sandbox without a model.
pub(crate) fn kernels(host: &Host) -> Result<String, Error> {
    let policy = Policy::default().with_confinement(Confinement::BestEffort);
    let policy = host.effective(&policy)?;
    let mut sandbox = host.inner.sandbox(&policy, Role::Prepare).map_err(Error::new)?;
    let limit = CallLimit { time: policy.limits.prepare_time, key: TimeKey::Prepare };
    let answer = sandbox
        .call(Call::Kernels, Payload::Empty, limit)
        .map_err(|failure| Error::new(ErrorKind::from_failure(failure, Phase::Prepare)))?;
    match decode_reply(&answer.message) {
        Ok(Reply::Error(list)) => Ok(list.text),
        _ => Err(Error::new(unexpected())),
    }
}
