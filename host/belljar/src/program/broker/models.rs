//! The models of a program: loaded once, and run on the program's tensors.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use belljar_abi::{decode_tensors, encode_tensors};

use super::{Broker, Kept, Reason, Source, denied};
use crate::error::{Error, ErrorKind};
use crate::model::Model;
use crate::program::protocol::{Code, Denied};
use crate::trust::ModelBytes;
use belljar_confine::memory::SharedBuffer;
use belljar_policy::ModelGrant;
use belljar_tensor::Tensor;
use belljar_text::Escaped;

/// Maximum number of model requests in one run, because each answer is stored.
const MAX_MODELS: usize = 10_000;

impl Broker {
    /// The model of this name, if the policy grants it and has its path.
    pub(in crate::program) fn named(&mut self, name: &str) -> Result<u32, Denied> {
        let grant = self.policy.models.iter().find(|grant| grant.name == name).cloned();
        let resource = format!("model {}", Escaped::cut(name, 100));
        let Some(grant) = grant else {
            let missing = format!(
                "the model {:?}: add [[models]] with name = {:?}, its sha256 and its path",
                Escaped::cut(name, 100).to_string(),
                Escaped::cut(name, 100).to_string(),
            );
            return Err(self.not_granted(&resource, "models", missing));
        };
        // Checked even if another run provided its bytes: runs must not depend on each other.
        let Some(path) = grant.path.clone() else {
            let missing = format!(
                "the file of the model {:?}, only its bytes: add path to its [[models]] entry",
                grant.name
            );
            return Err(self.not_granted(&resource, "models.path", missing));
        };
        match self.known(&grant.name)? {
            Some(number) => Ok(number),
            None => {
                let source = Source::Named(grant.name.clone());
                self.load(&grant, source, move |limit| ModelBytes::open(&path, limit))
            }
        }
    }

    /// The model whose `len` bytes are in the buffer, if the policy grants their digest.
    pub(in crate::program) fn brought(
        &mut self,
        buffer: &Arc<SharedBuffer>,
        len: u64,
    ) -> Result<u32, Denied> {
        let reader = Reader { buffer: Arc::clone(buffer), at: 0, end: len, until: self.deadline() };
        let bytes = match self.within(Duration::ZERO, move || ModelBytes::read(reader, len))? {
            Ok(bytes) => bytes,
            Err(err) => return Err(self.failed(self.error(ErrorKind::Unreadable(err)))),
        };
        let digest = bytes.digest();
        let found = self.policy.models.iter().find(|grant| grant.sha256 == *digest.as_bytes());
        let Some(grant) = found.cloned() else {
            let missing = format!(
                "the model that the program provides, with SHA-256 {digest}: add [[models]] with a \
                 name and this sha256"
            );
            return Err(self.not_granted(&format!("model {digest}"), "models.sha256", missing));
        };
        match self.known(&grant.name)? {
            Some(number) => Ok(number),
            None => self.load(&grant, Source::Brought(digest), move |_| Ok(bytes)),
        }
    }

    /// The number of a model that this or another run loaded.
    fn known(&mut self, name: &str) -> Result<Option<u32>, Denied> {
        if self.loaded.len() >= MAX_MODELS {
            return Err(Denied::new(
                Code::TooLarge,
                format!("the program requested more than {MAX_MODELS} models"),
            ));
        }
        if let Some(at) = self.loaded.iter().position(|(known, _)| known == name) {
            return Ok(u32::try_from(at).ok());
        }
        let models = self.models.lock().unwrap_or_else(PoisonError::into_inner);
        let known = models.get(name).cloned();
        drop(models);
        Ok(known.map(|model| self.number(name, model)))
    }

    fn number(&mut self, name: &str, model: Model) -> u32 {
        self.loaded.push((name.to_owned(), model));
        // The maximum number of models is smaller.
        u32::try_from(self.loaded.len() - 1).unwrap_or(u32::MAX)
    }

    /// Loads a model, or returns the failure of an earlier attempt in this run.
    fn load(
        &mut self,
        grant: &ModelGrant,
        source: Source,
        bytes: impl FnOnce(u64) -> Result<ModelBytes, crate::ModelBytesError> + Send + 'static,
    ) -> Result<u32, Denied> {
        if let Some(Kept { denied, .. }) = self.failures.get(&source) {
            let denied = denied.clone();
            self.failure = Some(Reason::Kept(source));
            return Err(denied);
        }
        let label = format!("{}: model {}", self.label, grant.name);
        let policy = self.policy.for_model(grant);
        let host = self.host.clone();
        let work = move || -> Result<Model, Error> {
            let error = |kind| Error::for_model(&label, kind);
            let policy = policy.ok_or_else(|| {
                error(ErrorKind::Host(
                    "the policy file of its [[models]] entry was not loaded".into(),
                ))
            })?;
            let bytes = bytes(policy.limits.model_size);
            let bytes = bytes.map_err(|err| error(ErrorKind::Unreadable(err)))?;
            host.load(bytes.labelled(&label), &policy)
        };
        match self.preparing(&grant.name, work)? {
            Ok(model) => {
                let mut models = self.models.lock().unwrap_or_else(PoisonError::into_inner);
                models.insert(grant.name.clone(), model.clone());
                drop(models);
                Ok(self.number(&grant.name, model))
            }
            Err(err) => {
                let denied = denied(&err);
                let kept = Kept { denied: denied.clone(), error: Some(err) };
                self.failures.insert(source.clone(), kept);
                self.failure = Some(Reason::Kept(source));
                Err(denied)
            }
        }
    }

    /// Runs a model on the tensors in the buffer, which have `len` bytes, and writes its outputs
    /// there. Returns their number of bytes.
    pub(in crate::program) fn compute(
        &mut self,
        model: u32,
        buffer: &Arc<SharedBuffer>,
        len: u64,
    ) -> Result<u64, Denied> {
        let found = usize::try_from(model).ok().and_then(|at| self.loaded.get(at)).cloned();
        let Some((name, model)) = found else {
            return Err(Denied::new(Code::InvalidArgument, "unknown model number"));
        };
        let (from, of) = (Arc::clone(buffer), model.clone());
        let inputs = match self.within(Duration::ZERO, move || inputs(&of, &from, len))? {
            Ok(inputs) => Arc::new(inputs),
            Err(Unfit::Input(why)) => return Err(Denied::new(Code::InvalidArgument, why)),
            Err(Unfit::Message(why)) => {
                self.broken.get_or_insert(ErrorKind::Sandbox(why.clone()));
                return Err(Denied::new(Code::InvalidArgument, why));
            }
        };
        // Once for each model, so that a program cannot gain time by requesting many different
        // shapes.
        if !self.prepared.contains(&name) {
            self.prepared.push(name.clone());
            let (of, with) = (model.clone(), Arc::clone(&inputs));
            let prepared = self.preparing(&name, move || of.prepare(&with))?;
            self.allowances.insert(name, Duration::ZERO);
            if let Err(err) = prepared {
                return Err(self.failed(err));
            }
        }
        let to = Arc::clone(buffer);
        match self.within(Duration::ZERO, move || outputs(&model, &inputs, &to))? {
            Ok(Some(len)) => Ok(len),
            Ok(None) => Err(Denied::new(
                Code::TooLarge,
                "the outputs of the model are larger than the program's `limits` allow",
            )),
            Err(err) => Err(self.failed(err)),
        }
    }
}

/// Why tensors cannot be inputs of a model.
enum Unfit {
    Input(String),
    /// They are malformed, so the process that sent them violates the protocol.
    Message(String),
}

/// Reads the inputs of a model from the buffer, where they have `len` bytes.
fn inputs(model: &Model, buffer: &SharedBuffer, len: u64) -> Result<Vec<(String, Tensor)>, Unfit> {
    let malformed = |err: &dyn std::fmt::Display| {
        Unfit::Message(format!("the inputs of a model are malformed: {err}"))
    };
    let message = buffer.read(len).map_err(|err| malformed(&err))?;
    let views = decode_tensors(&message).map_err(|err| malformed(&err))?;
    let declared = &model.description().inputs;
    let mut inputs = Vec::with_capacity(views.len());
    for mut view in views {
        // `wasi:nn` has no scalars.
        let scalar = declared.iter().any(|input| {
            input.name == view.name && input.shape.as_ref().is_some_and(Vec::is_empty)
        });
        if scalar && view.dims == [1] {
            view.dims.clear();
        }
        let tensor = Tensor::from_view(&view).map_err(|err| Unfit::Input(err.to_string()))?;
        inputs.push((view.name.to_owned(), tensor));
    }
    Ok(inputs)
}

/// Runs a model and writes its outputs to the buffer. Returns their number of bytes, or `None` if
/// they do not fit.
fn outputs(
    model: &Model,
    inputs: &[(String, Tensor)],
    buffer: &SharedBuffer,
) -> Result<Option<u64>, Error> {
    let outputs = model.run_for_tensors(inputs)?;
    let wires: Vec<_> = outputs.iter().map(|(_, tensor)| tensor.to_wire()).collect();
    let views = outputs.iter().zip(&wires).map(|((name, tensor), wire)| tensor.view(name, wire));
    let message = encode_tensors(&views.collect::<Vec<_>>());
    Ok(buffer.write(&message).ok().map(|()| message.len() as u64))
}

/// Reads the first bytes of a buffer, each only once, until the run has no time left.
struct Reader {
    buffer: Arc<SharedBuffer>,
    at: u64,
    end: u64,
    until: Instant,
}

impl io::Read for Reader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if Instant::now() >= self.until {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let left = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let most = into.len().min(left);
        let into = into.get_mut(..most).unwrap_or_default();
        let read = rustix::io::pread(self.buffer.as_fd(), into, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}
