//! Belljar runs untrusted ONNX models.
//!
//! A model is parsed, optimised and executed inside its own WebAssembly sandbox. To this library
//! and to the program that embeds it, a model is bytes with a size and a digest; all other facts
//! about it come from the sandbox and are checked.
//!
//! ```no_run
//! use belljar::{Host, ModelBytes, Policy, Tensor};
//!
//! let host = Host::new()?;
//! let policy = Policy::default(); // grants nothing, limits everything
//! let bytes = ModelBytes::open("model.onnx".as_ref(), policy.limits.model_size)?;
//! let model = host.load(bytes, &policy)?;
//!
//! let input = Tensor::new(vec![0.0f32; 3 * 224 * 224], &[1, 3, 224, 224])?;
//! let outputs = model.run(&[("image", input)])?.validate()?;
//! println!("{:?}", outputs.tensors()[0].1.shape());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A request passes through these modules and crates in this order: [`policy`] (the crate
//! `belljar-policy`) defines what a model may use, `trust` reads its bytes, `sandbox` runs it, the
//! crate `belljar-confine` isolates the process around it, and [`tensor`] (`belljar-tensor`) holds
//! inputs and outputs.
//!
//! # Isolation
//!
//! By default every sandbox is in its own worker process ([`Isolation::Process`]): a program that
//! embeds this library must call [`become_worker_if_asked`] first in `main`, or name another
//! program that does with [`HostBuilder::worker_program`].

mod audit;
mod dirs;
mod error;
mod host;
mod model;
#[cfg(feature = "programs")]
mod program;
mod roles;
mod sandbox;
mod supervise;
#[cfg(feature = "test-hooks")]
pub mod test_hooks;
mod trust;
#[cfg(feature = "wasi-nn")]
pub mod wasi_nn;

#[doc(hidden)]
pub mod internals;

pub use belljar_abi::{
    Description, Dim, ExternalData, FunctionInfo, InputShape, Missing, OperatorCount, OpsetImport,
    Preparation, SizeRange, Undecided, ValueInfo, ValueType,
};
pub use belljar_confine::ended::WorkerEnd;
pub use belljar_confine::layers::{Confinement, Layer, MissingLayer};
pub use belljar_confine::process::WorkerProgram;
pub use belljar_policy::{self as policy, Policy};
pub use belljar_tensor::{self as tensor, DType, Map, Tensor, Value};
pub use belljar_text as text;
pub use error::{Error, ErrorKind};
pub use host::{Event, Host, HostBuilder, Isolation, become_worker_if_asked};
pub use model::{
    BoundInputs, Calls, DimError, Examined, Model, Outputs, RunCost, ShapeDifference,
    UncheckedOutputs,
};
#[cfg(feature = "programs")]
pub use program::Program;
pub use sandbox::{
    CodeCacheError, GuestInfo, Limit, PlanShapes, PrivateError, ResetMethod, SnapshotStore,
    StoredKind, StoredModel, WorkerLoss,
};
pub use supervise::Quarantined;
pub use trust::{Digest, ModelBytes, ModelBytesError};
