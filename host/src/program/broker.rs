//! The supervisor's side of a program's run: what the program asks for, held against its policy. It
//! is asked by a process that may have been broken into: names, numbers and bytes are hostile.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use belljar_abi::{decode_tensors, encode_tensors};

use super::protocol::{Code, Denied};
use super::wasi::{self, Asked, Stream};
use crate::audit::{Decision, Subject, Verdict};
use crate::error::{Error, ErrorKind};
use crate::host::{Event, Host};
use crate::model::Model;
use crate::policy::{Effective, ModelGrant, Peer, Protocol};
use crate::tensor::Tensor;
use crate::text::Hostile;
use crate::trust::{Digest, ModelBytes};

/// What programs ask for that a stub answers when it is not granted, and the line that grants it.
/// Where they print to, they all ask for.
const STUBS: [(&str, &str); 5] = [
    ("folders", "[[filesystem]]"),
    ("program.environment", "[program] environment"),
    ("program.arguments", "[program] arguments"),
    ("program.clocks", "[program] clocks"),
    ("program.randomness", "[program] randomness"),
];

/// Most different decisions that one run may cause: each may be a line in a log.
const MOST_DECISIONS: usize = 100_000;

/// Most models that one run may ask for: each answer is a number that is kept.
const MOST_MODELS: usize = 10_000;

/// Models that a program has loaded, for all of its runs: by the names of its policy.
pub(super) type Models = Arc<Mutex<HashMap<String, Model>>>;

/// Answers one run of one program.
pub(super) struct Broker {
    host: Host,
    label: String,
    policy: Arc<Effective>,
    subject: Subject,
    models: Models,
    peers: wasi::Broker,
    /// What the run's numbers stand for, with the label of each.
    loaded: Vec<(String, Model)>,
    /// Names of models that were prepared in this run.
    prepared: Vec<String>,
    /// The last refusal or failure, which is why the program then gives up, if it does.
    pub(super) failure: Option<Error>,
    /// Small things of a process that it asked for and has not: why it gives up, for want of better.
    pub(super) lacks: Vec<&'static str>,
    /// What ends the run, whatever the program makes of it.
    pub(super) broken: Option<ErrorKind>,
    /// Time for loading and preparing models, which is not the program's.
    pub(super) credit: Duration,
    /// Bytes that it may still print, and lines that were not printed.
    to_print: u64,
    unprinted: u64,
    /// What was decided before, as hashes: the same again is not written down again.
    decided: HashSet<u64>,
    hashes: RandomState,
}

impl Broker {
    pub(super) fn new(
        host: &Host,
        label: &str,
        policy: &Arc<Effective>,
        subject: Subject,
        models: &Models,
    ) -> Broker {
        Broker {
            host: host.clone(),
            label: label.to_owned(),
            policy: Arc::clone(policy),
            subject,
            models: Arc::clone(models),
            peers: wasi::Broker::new(policy.network.clone(), &policy.quotas),
            loaded: Vec::new(),
            prepared: Vec::new(),
            failure: None,
            lacks: Vec::new(),
            broken: None,
            credit: Duration::ZERO,
            to_print: policy.quotas.bytes_written,
            unprinted: 0,
            decided: HashSet::new(),
            hashes: RandomState::new(),
        }
    }

    /// The model of this name, if the policy grants it and says where it is.
    pub(super) fn named(&mut self, name: &str) -> Result<u32, Denied> {
        let grant = self.policy.models.iter().find(|grant| grant.name == name).cloned();
        let resource = format!("model {}", Hostile::cut(name, 100));
        let Some(grant) = grant else {
            let missing = format!(
                "the model {:?}: add [[models]] with name = {:?}, its sha256 and its path",
                Hostile::cut(name, 100).to_string(),
                Hostile::cut(name, 100).to_string(),
            );
            return Err(self.not_granted(&resource, "models", missing));
        };
        // Also when its bytes were brought before: what a run may do does not depend on others.
        let Some(path) = grant.path.clone() else {
            let missing = format!(
                "the file of the model {:?}, only its bytes: add path to its [[models]] entry",
                grant.name
            );
            return Err(self.not_granted(&resource, "models.path", missing));
        };
        match self.known(&grant.name)? {
            Some(number) => Ok(number),
            None => self.load(&grant, |limit| ModelBytes::open(&path, limit)),
        }
    }

    /// The model of these bytes, if the policy names their digest.
    pub(super) fn brought(&mut self, bytes: &[u8]) -> Result<u32, Denied> {
        let digest = Digest::of(bytes);
        let found = self.policy.models.iter().find(|grant| grant.sha256 == *digest.as_bytes());
        let Some(grant) = found.cloned() else {
            let missing = format!(
                "the model that the program brings, whose SHA-256 is {digest}: add [[models]] with \
                 a name and this sha256"
            );
            return Err(self.not_granted(&format!("model {digest}"), "models.sha256", missing));
        };
        match self.known(&grant.name)? {
            Some(number) => Ok(number),
            None => self.load(&grant, |limit| ModelBytes::read(bytes, limit)),
        }
    }

    /// The number of a model that this or another run has loaded.
    fn known(&mut self, name: &str) -> Result<Option<u32>, Denied> {
        if self.loaded.len() >= MOST_MODELS {
            return Err(Denied::new(Code::TooLarge, "the program has asked for too many models"));
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
        // There are never as many.
        u32::try_from(self.loaded.len() - 1).unwrap_or(u32::MAX)
    }

    fn load(
        &mut self,
        grant: &ModelGrant,
        bytes: impl FnOnce(u64) -> Result<ModelBytes, crate::ModelBytesError>,
    ) -> Result<u32, Denied> {
        let start = Instant::now();
        let loaded = (|| -> Result<Model, Error> {
            let label = format!("{}: model {}", self.label, grant.name);
            let error = |kind| Error::for_model(&label, kind);
            let policy = self
                .policy
                .for_model(grant)
                .ok_or_else(|| error(ErrorKind::Host("its own policy file was not read".into())))?;
            let bytes = bytes(policy.limits.model_size);
            let bytes = bytes.map_err(|err| error(ErrorKind::Unreadable(err)))?;
            self.host.load(bytes.labelled(&label), &policy)
        })();
        self.credit += start.elapsed();
        let model = loaded.map_err(|err| self.failed(err))?;
        let mut models = self.models.lock().unwrap_or_else(PoisonError::into_inner);
        models.insert(grant.name.clone(), model.clone());
        drop(models);
        Ok(self.number(&grant.name, model))
    }

    /// Runs a model on these tensors, and answers its outputs as they cross.
    pub(super) fn compute(&mut self, model: u32, message: &[u8]) -> Result<Vec<u8>, Denied> {
        let found = usize::try_from(model).ok().and_then(|at| self.loaded.get(at)).cloned();
        let Some((name, model)) = found else {
            return Err(Denied::new(Code::InvalidArgument, "there is no such model"));
        };
        let inputs = self.inputs(&model, message)?;
        let outputs = model.run(&inputs).and_then(|outputs| outputs.validate());
        let outputs = outputs.map_err(|err| self.failed(err))?;
        // Once for each model, so that a program cannot gain time by asking for ever other shapes.
        if !self.prepared.contains(&name) {
            self.credit += outputs.cost().prepare;
            self.prepared.push(name);
        }
        let outputs = outputs.into_tensors();
        let wires: Vec<_> = outputs.iter().map(|(_, tensor)| tensor.to_wire()).collect();
        let views =
            outputs.iter().zip(&wires).map(|((name, tensor), wire)| tensor.view(name, wire));
        Ok(encode_tensors(&views.collect::<Vec<_>>()))
    }

    fn inputs(&mut self, model: &Model, message: &[u8]) -> Result<Vec<(String, Tensor)>, Denied> {
        let views = match decode_tensors(message) {
            Ok(views) => views,
            Err(err) => {
                let why = format!("the inputs of a model are malformed: {err}");
                self.broken.get_or_insert(ErrorKind::Sandbox(why.clone()));
                return Err(Denied::new(Code::InvalidArgument, why));
            }
        };
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
            let tensor = Tensor::from_view(&view)
                .map_err(|err| Denied::new(Code::InvalidArgument, err.to_string()))?;
            inputs.push((view.name.to_owned(), tensor));
        }
        Ok(inputs)
    }

    /// A connection to a peer, if the policy grants it.
    pub(super) fn connect(
        &mut self,
        host: &Peer,
        port: u16,
        protocol: Protocol,
    ) -> Result<OwnedFd, Denied> {
        self.peers.connect(host, port, protocol).map_err(|refusal| {
            self.failure = Some(self.error(ErrorKind::Host(refusal.0.clone())));
            Denied::new(Code::RuntimeError, refusal.0)
        })
    }

    /// A line that the program has printed.
    pub(super) fn print(&mut self, stream: Stream, line: &str) {
        let granted = self.policy.program.as_ref().is_some_and(|program| match stream {
            Stream::Out => program.stdout,
            Stream::Err => program.stderr,
        });
        // A line takes room even when there is nothing on it.
        let len = line.len() as u64 + 1;
        match self.to_print.checked_sub(len) {
            Some(left) if granted => {
                self.to_print = left;
                self.tell(stream, line.to_owned());
            }
            _ => self.unprinted = self.unprinted.saturating_add(1),
        }
    }

    fn tell(&self, stream: Stream, line: String) {
        let (program, error) = (self.label.clone(), stream == Stream::Err);
        (self.host.inner.listener)(Event::Printed { program, error, line });
    }

    /// Something that the program's process has decided by itself.
    pub(super) fn decided(&mut self, asked: &Asked<'_>) {
        let Asked { resource, access, allowed, rule } = *asked;
        // What a stub answers is seldom a reason to give up: ordinary programs ask for clocks and the
        // like without a need.
        let stub = resource.starts_with("program.") || resource == "folders";
        if !allowed && stub {
            let lacks = STUBS.iter().find(|(of, _)| *of == resource).map(|(_, lacks)| *lacks);
            if let Some(lacks) = lacks.filter(|lacks| !self.lacks.contains(lacks)) {
                self.lacks.push(lacks);
            }
        }
        if !allowed && !stub {
            let missing = format!("{access} {resource}: {rule}");
            self.failure = Some(self.error(ErrorKind::NotGranted(missing)));
        }
        let verdict = if allowed { Verdict::Allowed } else { Verdict::Refused };
        self.decide(resource, access, verdict, rule);
    }

    /// The end of the run.
    pub(super) fn end(&mut self) {
        let unprinted = std::mem::take(&mut self.unprinted);
        if unprinted > 0 {
            let key = "quotas.bytes-written";
            self.tell(Stream::Err, format!("({unprinted} more lines were not printed: `{key}`)"));
        }
    }

    /// Writes a decision down; what cannot be written down ends the run.
    fn decide(&mut self, resource: &str, access: &str, verdict: Verdict, rule: &str) {
        let hash = self.hashes.hash_one((resource, access, rule, verdict == Verdict::Allowed));
        if !self.decided.insert(hash) {
            return;
        }
        if self.decided.len() > MOST_DECISIONS {
            let why = format!("the program asked for more than {MOST_DECISIONS} different things");
            self.broken.get_or_insert(ErrorKind::Sandbox(why));
            return;
        }
        let decision = Decision { subject: self.subject, resource, access, verdict, rule };
        let written = self.host.inner.decide(&decision);
        if let (Err(kind), Verdict::Allowed) = (written, verdict) {
            self.broken.get_or_insert(kind);
        }
    }

    fn not_granted(&mut self, resource: &str, rule: &str, missing: String) -> Denied {
        self.decide(resource, "load", Verdict::Refused, rule);
        let kind = ErrorKind::NotGranted(missing);
        let denied = Denied::new(Code::NotFound, kind.to_string());
        self.failure = Some(self.error(kind));
        denied
    }

    /// Keeps the reason, and makes of it what is said to the program.
    fn failed(&mut self, err: Error) -> Denied {
        let code = match err.kind() {
            ErrorKind::Input { .. } => Code::InvalidArgument,
            ErrorKind::Limit(_) => Code::TooLarge,
            ErrorKind::Pin { .. } | ErrorKind::Refused(_) => Code::Security,
            _ => Code::RuntimeError,
        };
        let denied = Denied::new(code, err.kind().to_string());
        self.failure = Some(err);
        denied
    }

    fn error(&self, kind: ErrorKind) -> Error {
        Error::for_model(&self.label, kind)
    }
}
