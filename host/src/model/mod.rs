//! A loaded model: its description, and runs of it.

mod contract;
mod outputs;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use belljar_abi::{
    Description, GuestErrorCode, InputShape, Reply, decode_reply, encode_shapes, encode_tensors,
};

use crate::error::{Error, ErrorKind, Phase};
use crate::host::{Event, Host, Inner};
use crate::policy::Policy;
use crate::sandbox::{
    Answer, Call, CallLimit, Image, Limit, Payload, ResetMethod, Sandbox, TimeKey,
};
use crate::tensor::Tensor;
use crate::trust::{Digest, ModelBytes};

use contract::{Bound, Contract};
pub use outputs::{Outputs, UncheckedOutputs};

/// What a run has cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunCost {
    /// Time spent on getting a sandbox that is prepared for these input shapes; next to nothing
    /// if one was waiting.
    pub prepare: Duration,
    /// Time of the run itself, tensors crossing included.
    pub run: Duration,
    /// Time inside the sandbox; part of `run`.
    pub guest: Duration,
    /// Time inside native kernels; part of `guest`.
    pub kernels: Duration,
    /// Size of the sandbox's memory after the run, in bytes.
    pub memory: u64,
    /// Time to make the instance that served this run from the prepared image; part of `run`.
    pub instantiate: Duration,
    /// Time that making memory pristine took after the run before in the same sandbox; zero for
    /// the first. It happens while nobody waits.
    pub reset: Duration,
    /// How memory is made pristine.
    pub reset_method: ResetMethod,
}

/// A model that was loaded under a policy. Cheap to clone; clones share their sandboxes. Any
/// number of threads may run it at once: each run has a sandbox to itself.
#[derive(Clone)]
pub struct Model {
    shared: Arc<Shared>,
}

struct Shared {
    host: Arc<Inner>,
    bytes: ModelBytes,
    label: String,
    policy: Policy,
    description: Description,
    contract: Arc<Contract>,
    waiting: Mutex<Waiting>,
}

/// Sandboxes that wait for work.
#[derive(Default)]
struct Waiting {
    /// Holds the decoded model, prepared for no shapes yet: left from the description.
    loaded: Option<Box<dyn Sandbox>>,
    /// Prepared for these shapes; the least recently used first.
    prepared: Vec<(Vec<InputShape>, Box<dyn Sandbox>)>,
    /// The memory of prepared sandboxes, from which others for the same shapes start; the least
    /// recently made first.
    images: Vec<(Vec<InputShape>, Arc<Image>)>,
}

/// Most images that a model keeps: one for each combination of shapes lately seen.
const MAX_IMAGES: usize = 4;

impl Model {
    pub(crate) fn load(host: &Host, bytes: ModelBytes, policy: &Policy) -> Result<Model, Error> {
        let label = bytes.label().to_owned();
        let named = |kind: ErrorKind| Error::for_model(&label, kind);
        let found = bytes.digest();
        if let Some(pinned) = policy.model.sha256.map(Digest::from)
            && pinned != found
        {
            return Err(named(ErrorKind::Pin { found, pinned }));
        }
        if bytes.size() > policy.limits.model_size {
            return Err(named(Limit::ModelSize { limit: policy.limits.model_size }.into()));
        }
        let mut shared = Shared {
            host: Arc::clone(&host.inner),
            bytes,
            label: label.clone(),
            policy: policy.clone(),
            description: Description::default(),
            contract: Arc::default(),
            waiting: Mutex::default(),
        };
        let mut sandbox = shared.loaded_sandbox().map_err(named)?;
        let answer = shared
            .call(&mut *sandbox, Call::Describe, Payload::Empty, Phase::Prepare)
            .map_err(named)?;
        shared.description = match reply(&answer, Phase::Prepare).map_err(named)? {
            Reply::Description(description) => description,
            _ => return Err(named(unexpected())),
        };
        shared.contract = Arc::new(Contract::new(&shared.description));
        shared.waiting = Mutex::new(Waiting { loaded: Some(sandbox), ..Waiting::default() });
        Ok(Model { shared: Arc::new(shared) })
    }

    /// What the model says about itself. All text in it is hostile: print it through
    /// [`crate::text::Hostile`].
    pub fn description(&self) -> &Description {
        &self.shared.description
    }

    /// SHA-256 of the model's bytes.
    pub fn digest(&self) -> Digest {
        self.shared.bytes.digest()
    }

    /// The policy the model was loaded under.
    pub fn policy(&self) -> &Policy {
        &self.shared.policy
    }

    /// Prepares a sandbox for inputs of these shapes and keeps it for a later run.
    ///
    /// # Errors
    /// As [`Model::run`].
    pub fn prepare<N: AsRef<str>>(&self, inputs: &[(N, Tensor)]) -> Result<Duration, Error> {
        let start = Instant::now();
        let bound = self.shared.contract.bind(inputs).map_err(|kind| self.error(kind))?;
        let sandbox =
            self.shared.prepared_sandbox(&bound.shapes).map_err(|kind| self.error(kind))?;
        self.shared.put_back(bound.shapes, sandbox);
        Ok(start.elapsed())
    }

    /// Runs the model on named tensors. Every declared input must be there, with its declared
    /// element type and a shape that fits.
    ///
    /// # Errors
    /// When an input does not fit what the model declares, when the model asks for something that
    /// is not implemented, when a limit is hit, and when the sandbox traps. Whatever happens, the
    /// model can be run again.
    pub fn run<N: AsRef<str>>(&self, inputs: &[(N, Tensor)]) -> Result<UncheckedOutputs, Error> {
        self.run_inner(inputs).map_err(|kind| self.error(kind))
    }

    /// Has so many sandboxes waiting that have served these inputs once, so that as many requests
    /// at a time wait neither for a sandbox nor for its memory to be touched the first time. No more
    /// are kept than [`HostBuilder::idle_sandboxes`](crate::HostBuilder::idle_sandboxes) says.
    ///
    /// # Errors
    /// As [`Model::run`].
    pub fn warm_up<N: AsRef<str>>(
        &self,
        inputs: &[(N, Tensor)],
        sandboxes: usize,
    ) -> Result<(), Error> {
        let shared = &*self.shared;
        let mut served = Vec::new();
        let mut serve = || -> Result<(), ErrorKind> {
            let bound = shared.bind(inputs)?;
            let mut sandbox = shared.prepared_sandbox(&bound.shapes)?;
            let answer = shared.call(&mut *sandbox, Call::Run, payload(inputs), Phase::Run)?;
            reply(&answer, Phase::Run)?;
            served.push((bound.shapes, sandbox));
            Ok(())
        };
        // All are held until the last has served: one that waits would be taken again.
        let result = (0..sandboxes.min(shared.host.idle)).try_for_each(|_| serve());
        for (shapes, sandbox) in served {
            shared.put_back(shapes, sandbox);
        }
        result.map_err(|kind| self.error(kind))
    }

    fn run_inner<N: AsRef<str>>(
        &self,
        inputs: &[(N, Tensor)],
    ) -> Result<UncheckedOutputs, ErrorKind> {
        let shared = &*self.shared;
        let bound = shared.bind(inputs)?;
        let start = Instant::now();
        let mut sandbox = shared.prepared_sandbox(&bound.shapes)?;
        let prepare = start.elapsed();

        let start = Instant::now();
        let answer = shared.call(&mut *sandbox, Call::Run, payload(inputs), Phase::Run)?;
        let tensors = match reply(&answer, Phase::Run)? {
            Reply::Tensors(views) => views,
            _ => return Err(unexpected()),
        };
        let limit = shared.policy.limits.output_size;
        let found = tensors.iter().fold(0u64, |sum, t| sum.saturating_add(t.data.len() as u64));
        if found > limit {
            return Err(Limit::OutputSize { found, limit }.into());
        }
        let tensors = tensors
            .iter()
            .map(|view| Ok((view.name.to_owned(), Tensor::from_view(view)?)))
            .collect::<Result<Vec<_>, crate::tensor::TensorError>>()
            .map_err(|err| ErrorKind::Sandbox(err.to_string()))?;
        let cost = RunCost {
            prepare,
            run: start.elapsed(),
            guest: answer.cost.time,
            kernels: answer.cost.kernels,
            memory: answer.cost.memory,
            instantiate: answer.cost.instantiate,
            reset: answer.cost.reset,
            reset_method: answer.cost.method,
        };
        shared.put_back(bound.shapes, sandbox);
        let (label, contract) = (shared.label.clone(), Arc::clone(&shared.contract));
        Ok(UncheckedOutputs::new(label, contract, bound.symbols, tensors, cost))
    }

    fn error(&self, kind: ErrorKind) -> Error {
        Error::for_model(&self.shared.label, kind)
    }
}

impl Shared {
    /// Holds inputs against the declaration and the limit of their size.
    fn bind<N: AsRef<str>>(&self, inputs: &[(N, Tensor)]) -> Result<Bound, ErrorKind> {
        let bound = self.contract.bind(inputs)?;
        let limit = self.policy.limits.input_size;
        let found = inputs.iter().fold(0u64, |sum, (_, t)| sum.saturating_add(t.byte_len()));
        if found > limit {
            return Err(Limit::InputSize { found, limit }.into());
        }
        Ok(bound)
    }

    fn call(
        &self,
        sandbox: &mut dyn Sandbox,
        call: Call,
        payload: Payload,
        phase: Phase,
    ) -> Result<Answer, ErrorKind> {
        let limits = &self.policy.limits;
        let limit = match phase {
            Phase::Prepare => CallLimit { time: limits.prepare_time, key: TimeKey::Prepare },
            Phase::Run => CallLimit { time: limits.run_time, key: TimeKey::Run },
        };
        let answer = sandbox.call(call, payload, limit);
        for line in sandbox.take_log() {
            (self.host.listener)(Event::Log { model: self.label.clone(), line });
        }
        answer.map_err(|failure| ErrorKind::from_failure(failure, phase))
    }

    /// A sandbox that has decoded the model.
    fn loaded_sandbox(&self) -> Result<Box<dyn Sandbox>, ErrorKind> {
        let mut sandbox = self.host.sandbox(&self.policy)?;
        let payload = Payload::Sealed(Arc::clone(self.bytes.sealed()));
        let answer = self.call(&mut *sandbox, Call::Load, payload, Phase::Prepare)?;
        match reply(&answer, Phase::Prepare)? {
            Reply::Ok => Ok(sandbox),
            _ => Err(unexpected()),
        }
    }

    /// A sandbox that is prepared for these shapes: one that waits, or a new one.
    fn prepared_sandbox(&self, shapes: &[InputShape]) -> Result<Box<dyn Sandbox>, ErrorKind> {
        let (image, loaded) = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(at) = waiting.prepared.iter().rposition(|(for_, _)| for_ == shapes) {
                return Ok(waiting.prepared.remove(at).1);
            }
            match waiting.images.iter().find(|(for_, _)| for_ == shapes) {
                Some((_, image)) => (Some(Arc::clone(image)), None),
                None => (None, waiting.loaded.take()),
            }
        };
        if let Some(image) = image {
            let mut sandbox = self.host.sandbox(&self.policy)?;
            self.call(&mut *sandbox, Call::Adopt, Payload::Image(image), Phase::Prepare)?;
            return Ok(sandbox);
        }
        let mut sandbox = match loaded {
            Some(sandbox) => sandbox,
            None => self.loaded_sandbox()?,
        };
        let payload = Payload::Bytes(encode_shapes(shapes));
        let answer = self.call(&mut *sandbox, Call::Prepare, payload, Phase::Prepare)?;
        match reply(&answer, Phase::Prepare)? {
            Reply::Ok => {}
            _ => return Err(unexpected()),
        }
        if let Some(image) = answer.image {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.images.retain(|(for_, _)| for_ != shapes);
            waiting.images.push((shapes.to_vec(), image));
            let surplus = waiting.images.len().saturating_sub(MAX_IMAGES);
            waiting.images.drain(..surplus);
        }
        Ok(sandbox)
    }

    fn put_back(&self, shapes: Vec<InputShape>, sandbox: Box<dyn Sandbox>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.prepared.push((shapes, sandbox));
        let surplus = waiting.prepared.len().saturating_sub(self.host.idle);
        let dropped: Vec<_> = waiting.prepared.drain(..surplus).collect();
        // Ending a sandbox takes a while; nobody else should wait for it.
        drop(waiting);
        drop(dropped);
    }
}

/// Inputs as the guest takes them.
fn payload<N: AsRef<str>>(inputs: &[(N, Tensor)]) -> Payload {
    let wires: Vec<_> = inputs.iter().map(|(_, tensor)| tensor.to_wire()).collect();
    let views: Vec<_> = inputs
        .iter()
        .zip(&wires)
        .map(|((name, tensor), wire)| tensor.view(name.as_ref(), wire))
        .collect();
    Payload::Bytes(encode_tensors(&views))
}

fn unexpected() -> ErrorKind {
    ErrorKind::Sandbox("the sandbox gave an answer to another question".into())
}

/// Decodes an answer; a refusal becomes an error.
fn reply(answer: &Answer, phase: Phase) -> Result<Reply<'_>, ErrorKind> {
    let refusal = match decode_reply(&answer.message) {
        Ok(Reply::Error(refusal)) => refusal,
        Ok(reply) => return Ok(reply),
        Err(err) => {
            return Err(ErrorKind::Sandbox(format!("the sandbox's answer is malformed: {err}")));
        }
    };
    Err(match (refusal.code, phase) {
        (GuestErrorCode::NotOnnx | GuestErrorCode::ModelRefused, _) => {
            ErrorKind::Model(refusal.text)
        }
        (GuestErrorCode::BadInput | GuestErrorCode::RunFailed, Phase::Run) => {
            ErrorKind::Run(refusal.text)
        }
        (GuestErrorCode::BadInput | GuestErrorCode::RunFailed, Phase::Prepare) => {
            ErrorKind::Model(refusal.text)
        }
        _ => ErrorKind::Sandbox(refusal.text),
    })
}

/// Lists the kernels of a sandbox without a model.
pub(crate) fn kernels(host: &Host) -> Result<String, Error> {
    let policy = Policy::default();
    let mut sandbox = host.inner.sandbox(&policy).map_err(Error::new)?;
    let limit = CallLimit { time: policy.limits.prepare_time, key: TimeKey::Prepare };
    let answer = sandbox
        .call(Call::Kernels, Payload::Empty, limit)
        .map_err(|failure| Error::new(ErrorKind::from_failure(failure, Phase::Prepare)))?;
    match decode_reply(&answer.message) {
        Ok(Reply::Error(list)) => Ok(list.text),
        _ => Err(Error::new(unexpected())),
    }
}
