//! A backend for [`wasmtime_wasi_nn`] that keeps every model in its own sandbox, for programs that
//! embed wasmtime.
//!
//! `wasi:nn` lets a WebAssembly program ask its host for inference. Other backends hand the model's
//! bytes, which may come from that program, to a native engine in the host's process. This one
//! hands them to a [`Host`]: they are parsed, optimised and executed inside WebAssembly again,
//! isolated from the program's own instance, and under a policy.
//!
//! ```no_run
//! use belljar::wasi_nn::{Backend, Models};
//! use belljar::{Host, Policy};
//! use wasmtime_wasi_nn::wit::WasiNnCtx;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let policy = Policy::load("magika.toml".as_ref())?.policy; // names the model by its digest
//! let mut backend = Backend::new(&Host::new()?);
//! backend.allow(policy)?; // the program may bring the bytes of this model, and of no other
//! let context = WasiNnCtx::new([backend.into()], Models::new().into());
//! # Ok(())
//! # }
//! ```
//!
//! Either interface works: components (`wit::add_to_linker`) and core modules
//! (`witx::add_to_linker`). Models that the embedder has loaded are found by name through
//! [`Models`].
//!
//! # What the embedder still has to limit
//!
//! `wasmtime-wasi-nn` keeps a program's tensors in the embedder's memory. The capacity of a
//! component's `ResourceTable` limits their number (`set_max_capacity`), and
//! `Store::set_hostcall_fuel` limits the size that one call may pass. For core modules, this module
//! limits the inputs to `limits.input-size`. A core module that passes an address outside of its
//! memory makes `wasmtime-wasi-nn` 48 panic: call it under `catch_unwind`, or in a separate
//! process.

mod context;
mod tensors;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use wasmtime_wasi_nn::backend::{BackendError, BackendFromDir, BackendInner};
use wasmtime_wasi_nn::wit::{ExecutionTarget, GraphEncoding};
use wasmtime_wasi_nn::{Graph, GraphRegistry, Registry};

use crate::error::Error;
use crate::host::Host;
use crate::model::Model;
use crate::trust::{Digest, ModelBytes};
use belljar_policy::Policy;

/// Runs ONNX models for programs that use `wasi:nn`, each in its own sandbox.
pub struct Backend {
    host: Host,
    /// Policies of models that may be loaded from bytes, by digest.
    allowed: HashMap<Digest, Policy>,
    /// Models loaded from bytes; a program that passes the same bytes again gets the same model.
    loaded: HashMap<Digest, Model>,
    failures: Failures,
}

/// A policy passed to [`Backend::allow`] pins no model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a policy for models that a program passes must pin the model (`model.sha256`); otherwise the \
     program could pass any model"
)]
pub struct NotPinned;

impl Backend {
    /// A backend that allows no models yet.
    pub fn new(host: &Host) -> Backend {
        Backend {
            host: host.clone(),
            allowed: HashMap::new(),
            loaded: HashMap::new(),
            failures: Failures::default(),
        }
    }

    /// Lets programs load the model that this policy pins, from bytes that they pass.
    ///
    /// # Errors
    /// When the policy pins no model.
    pub fn allow(&mut self, policy: Policy) -> Result<(), NotPinned> {
        let digest = Digest::from(policy.model.sha256.ok_or(NotPinned)?);
        self.allowed.insert(digest, policy);
        Ok(())
    }

    /// The reasons of failed inferences, most of which `wasi:nn` cannot express.
    pub fn failures(&self) -> Failures {
        self.failures.clone()
    }

    fn model(&mut self, builders: &[&[u8]]) -> Result<Model, Refusal> {
        let [bytes] = *builders else {
            return Err(Refusal::Builders(builders.len()));
        };
        let digest = Digest::of(bytes);
        if let Some(model) = self.loaded.get(&digest) {
            return Ok(model.clone());
        }
        let policy = self.allowed.get(&digest).ok_or(Refusal::NotAllowed(digest))?;
        let bytes = ModelBytes::read(bytes, policy.limits.model_size)
            .map_err(|err| Error::new(crate::ErrorKind::Unreadable(err)))?;
        let model = self.host.load(bytes.labelled(&format!("model {digest}")), policy)?;
        self.loaded.insert(digest, model.clone());
        Ok(model)
    }
}

impl BackendInner for Backend {
    fn encoding(&self) -> GraphEncoding {
        GraphEncoding::Onnx
    }

    fn load(&mut self, builders: &[&[u8]], target: ExecutionTarget) -> Result<Graph, BackendError> {
        if target != ExecutionTarget::Cpu {
            return Err(self.failures.note(Refusal::Target));
        }
        match self.model(builders) {
            Ok(model) => Ok(context::graph(model, self.failures.clone())),
            Err(refusal) => Err(self.failures.note(refusal)),
        }
    }

    fn as_dir_loadable(&mut self) -> Option<&mut dyn BackendFromDir> {
        None
    }
}

/// Models that programs load by name.
#[derive(Default)]
pub struct Models {
    graphs: HashMap<String, Graph>,
    failures: Failures,
}

impl Models {
    /// No models.
    pub fn new() -> Models {
        Models::default()
    }

    /// As [`Models::new`], with failures reported to this backend's [`Backend::failures`].
    pub fn reporting_to(backend: &Backend) -> Models {
        Models { graphs: HashMap::new(), failures: backend.failures() }
    }

    /// As [`Backend::failures`].
    pub fn failures(&self) -> Failures {
        self.failures.clone()
    }

    /// Lets programs load this model by this name, replacing an earlier model of that name.
    pub fn insert(&mut self, name: impl Into<String>, model: &Model) {
        let graph = context::graph(model.clone(), self.failures.clone());
        self.graphs.insert(name.into(), graph);
    }
}

impl GraphRegistry for Models {
    fn get(&self, name: &str) -> Option<&Graph> {
        self.graphs.get(name)
    }

    fn get_mut(&mut self, name: &str) -> Option<&mut Graph> {
        self.graphs.get_mut(name)
    }
}

impl std::fmt::Debug for Models {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.graphs.keys()).finish()
    }
}

// Lets users convert without naming the registry's type.
const _: fn(Models) -> Registry = Registry::from;

/// Why the last inference for a program failed. Clones share the failure.
#[derive(Clone, Debug, Default)]
pub struct Failures(Arc<Mutex<Option<Refusal>>>);

impl Failures {
    /// Takes the last failure, if there was one since the last call.
    pub fn take(&self) -> Option<Refusal> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Keeps the reason, and converts it to the error that the program sees.
    fn note(&self, refusal: Refusal) -> BackendError {
        let error = match &refusal {
            Refusal::Builders(found) => BackendError::InvalidNumberOfBuilders(1, *found),
            Refusal::Type(name) => BackendError::UnsupportedTensorType((*name).to_owned()),
            other => BackendError::BackendAccess(wasmtime::Error::msg(other.to_string())),
        };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(refusal);
        error
    }
}

/// Why a program's request for inference failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The program passed a model that no policy allows.
    #[error("no policy allows the program to load a model whose SHA-256 is {0}")]
    NotAllowed(Digest),
    /// The program passed several byte arrays; an ONNX model is a single one.
    #[error("the program passed a model as {0} byte arrays; an ONNX model is a single one")]
    Builders(usize),
    /// The program asked for an execution target other than the CPU.
    #[error("the program asked for an execution target other than the CPU")]
    Target,
    /// The model has no such input or output, or the tensor does not fit.
    #[error("{0}")]
    Tensor(String),
    /// An element type that `wasi:nn` or Belljar does not support.
    #[error("tensors of type {0} are not supported")]
    Type(&'static str),
    /// The model could not be loaded or run.
    #[error(transparent)]
    Model(#[from] Error),
}
