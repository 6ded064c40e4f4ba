//! A loaded model: its description, and runs of it.

mod contract;
mod outputs;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use belljar_abi::{
    Description, GuestErrorCode, InputShape, Reply, decode_reply, encode_shapes, encode_tensors,
};

use crate::error::{Error, ErrorKind, Phase};
use crate::host::{Event, Host, Inner};
use crate::policy::Policy;
use crate::sandbox::{
    Answer, Call, CallLimit, Image, ImageKey, Limit, Payload, ResetMethod, Sandbox, TimeKey,
};
use crate::tensor::Tensor;
use crate::trust::{Digest, ModelBytes};

use contract::Contract;
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

/// How often sandboxes were asked to do something with a model, since it was loaded and by all of
/// its clones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Calls {
    /// Decode the model.
    pub load: u64,
    /// Describe it.
    pub describe: u64,
    /// Type and optimise it for some input shapes.
    pub prepare: u64,
    /// Start from the memory of another one that was prepared.
    pub adopt: u64,
    /// Run it.
    pub run: u64,
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
    /// One for each field of [`Calls`].
    calls: [AtomicU64; 5],
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
            calls: Default::default(),
        };
        let stored = shared.host.store().and_then(|store| store.description(found));
        // One that does not decode was stored by a build that this one does not understand.
        let described = stored.and_then(|message| description(&message).ok());
        let (described, loaded) = match described {
            Some(described) => (described, None),
            None => shared.described_sandbox().map_err(named)?,
        };
        shared.contract = Arc::new(Contract::new(&described));
        shared.description = described;
        shared.waiting = Mutex::new(Waiting { loaded, ..Waiting::default() });
        Ok(Model { shared: Arc::new(shared) })
    }

    /// How often sandboxes were asked to do something with this model. Next to no call but `adopt`
    /// and `run` means that its preparation came from the store.
    pub fn calls(&self) -> Calls {
        let [load, describe, prepare, adopt, run] =
            self.shared.calls.each_ref().map(|count| count.load(Ordering::Relaxed));
        Calls { load, describe, prepare, adopt, run }
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

    /// Prepares a sandbox for inputs of these shapes and keeps it for a later run. One shape for
    /// each input without a value of its own is needed.
    ///
    /// # Errors
    /// As [`Model::run`].
    pub fn prepare_for(&self, shapes: &[InputShape]) -> Result<Duration, Error> {
        let start = Instant::now();
        let shapes = self.shared.contract.bind_shapes(shapes).map_err(|kind| self.error(kind))?;
        let sandbox = self.shared.prepared_sandbox(&shapes).map_err(|kind| self.error(kind))?;
        self.shared.put_back(shapes, sandbox);
        Ok(start.elapsed())
    }

    /// Prepares a sandbox for these inputs and keeps it for a later run.
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

    fn run_inner<N: AsRef<str>>(
        &self,
        inputs: &[(N, Tensor)],
    ) -> Result<UncheckedOutputs, ErrorKind> {
        let shared = &*self.shared;
        let bound = shared.contract.bind(inputs)?;
        let limit = shared.policy.limits.input_size;
        let found = inputs.iter().fold(0u64, |sum, (_, t)| sum.saturating_add(t.byte_len()));
        if found > limit {
            return Err(Limit::InputSize { found, limit }.into());
        }
        let start = Instant::now();
        let mut sandbox = shared.prepared_sandbox(&bound.shapes)?;
        let prepare = start.elapsed();

        let start = Instant::now();
        let wires: Vec<_> = inputs.iter().map(|(_, tensor)| tensor.to_wire()).collect();
        let views: Vec<_> = inputs
            .iter()
            .zip(&wires)
            .map(|((name, tensor), wire)| tensor.view(name.as_ref(), wire))
            .collect();
        let payload = Payload::Bytes(encode_tensors(&views));
        let answer = shared.call(&mut *sandbox, Call::Run, payload, Phase::Run)?;
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
    fn call(
        &self,
        sandbox: &mut dyn Sandbox,
        call: Call,
        payload: Payload,
        phase: Phase,
    ) -> Result<Answer, ErrorKind> {
        let [load, describe, prepare, adopt, run] = &self.calls;
        let count = match call {
            Call::Load => Some(load),
            Call::Describe => Some(describe),
            Call::Prepare => Some(prepare),
            Call::Adopt => Some(adopt),
            Call::Run => Some(run),
            Call::Kernels => None,
        };
        count.map(|count| count.fetch_add(1, Ordering::Relaxed));
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

    /// What the model says about itself, and the sandbox that it said so in.
    fn described_sandbox(&self) -> Result<(Description, Option<Box<dyn Sandbox>>), ErrorKind> {
        let mut sandbox = self.loaded_sandbox()?;
        let answer = self.call(&mut *sandbox, Call::Describe, Payload::Empty, Phase::Prepare)?;
        let described = description(&answer.message)?;
        if let Some(store) = self.host.store() {
            store.keep_description(self.bytes.digest(), &self.label, answer.message);
        }
        Ok((described, Some(sandbox)))
    }

    /// The memory of a sandbox that was prepared for these shapes, if the store has it.
    fn stored_image(&self, shapes: &[InputShape]) -> Result<Option<Arc<Image>>, ErrorKind> {
        let Some(store) = self.host.store() else { return Ok(None) };
        let limit = self.policy.limits.memory;
        match store.image(&self.image_key(shapes), limit) {
            Ok(image) => Ok(image.map(Arc::new)),
            Err(_) => Err(Limit::Memory { limit }.into()),
        }
    }

    fn image_key<'a>(&self, shapes: &'a [InputShape]) -> ImageKey<'a> {
        ImageKey {
            model: self.bytes.digest(),
            deterministic: self.policy.compute.deterministic,
            native_kernels: self.policy.compute.native_kernels(),
            shapes,
        }
    }

    /// How many images are kept, in memory and in the store.
    fn max_images(&self) -> usize {
        usize::try_from(self.policy.limits.images).unwrap_or(usize::MAX)
    }

    /// Keeps an image for other sandboxes.
    fn share(&self, shapes: &[InputShape], image: Arc<Image>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.images.retain(|(for_, _)| for_ != shapes);
        waiting.images.push((shapes.to_vec(), image));
        let surplus = waiting.images.len().saturating_sub(self.max_images());
        waiting.images.drain(..surplus);
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
        let image = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(at) = waiting.prepared.iter().rposition(|(for_, _)| for_ == shapes) {
                return Ok(waiting.prepared.remove(at).1);
            }
            let image = waiting.images.iter().find(|(for_, _)| for_ == shapes);
            image.map(|(_, image)| Arc::clone(image))
        };
        let image = match image {
            Some(image) => Some(image),
            None => self.stored_image(shapes)?.inspect(|image| {
                self.share(shapes, Arc::clone(image));
            }),
        };
        if let Some(image) = image {
            let mut sandbox = self.host.sandbox(&self.policy)?;
            self.call(&mut *sandbox, Call::Adopt, Payload::Image(image), Phase::Prepare)?;
            return Ok(sandbox);
        }
        let loaded = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).loaded.take();
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
            if let Some(store) = self.host.store() {
                let key = self.image_key(shapes);
                store.keep_image(&key, &self.label, &image, self.max_images());
            }
            self.share(shapes, image);
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

fn unexpected() -> ErrorKind {
    ErrorKind::Sandbox("the sandbox gave an answer to another question".into())
}

/// Decodes what a sandbox said about a model, now or before it was stored.
fn description(message: &[u8]) -> Result<Description, ErrorKind> {
    match decoded(message, Phase::Prepare)? {
        Reply::Description(description) => Ok(description),
        _ => Err(unexpected()),
    }
}

fn reply(answer: &Answer, phase: Phase) -> Result<Reply<'_>, ErrorKind> {
    decoded(&answer.message, phase)
}

/// Decodes an answer; a refusal becomes an error.
fn decoded(message: &[u8], phase: Phase) -> Result<Reply<'_>, ErrorKind> {
    let refusal = match decode_reply(message) {
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
