//! The policy: what one model, or one guest program, may use. A policy file becomes a checked
//! [`Policy`] here.
//!
//! Two ways in: [`Policy::load`] reads a file only the operator could have written, and
//! [`Policy::parse`] reads text whose origin the caller vouches for. Both are strict: an unknown
//! key, a value without a unit or a limit out of bounds is an error, because a policy that was
//! silently misread protects nobody.
//!
//! This module must never turn an absent key into "unlimited", never accept a file that someone
//! other than root or the caller could have changed, and never print the file's text unescaped.
#![forbid(unsafe_code)]

mod address;
mod ceiling;
mod diff;
mod error;
mod explain;
mod file;
mod format;
mod granted;
mod grants;
mod keys;
mod limits;
mod mistakes;
mod ownership;
mod paths;
mod quotas;
mod reader;
mod schema;
mod source;
mod template;
mod text;
pub mod units;
mod values;
pub mod write;

#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use address::{AddressKind, Peer, address_kind, canonical_address};
pub use belljar_confine::layers::Confinement;
pub use ceiling::Ceilings;
pub use ceiling::{
    Ceiling, Cut, Effective, Excess, Hosts, OPERATORS_CEILING, PeerCeiling, ProgramCeiling,
    Refused, Root,
};
pub use diff::{Change, ChangeKind, compare};
pub use error::PolicyError;
pub use explain::{Sentence, explain};
pub use format::canonical;
pub use grants::file_rule;
pub use grants::key_rule;
pub use grants::peer_rule;
pub use grants::{Access, FileGrant, MAX_GRANTS, ModelGrant, NetworkGrant, Program, Protocol};
pub use limits::{Bounds, Limits, bounds};
pub use quotas::{Quotas, quota_bounds};
pub use schema::{ceiling_schema, policy_schema};
pub use source::{LoadedPolicy, MAX_POLICY_SIZE, Source};
#[cfg(feature = "programs")]
pub use template::starting_program_policy;
pub use template::{
    MEASURED, STARTING_COMPUTE, measured_limits, starting_head, starting_limits, unmeasured_limits,
};
pub use template::{Measured, starting_policy};
pub use values::{Scalar, ValueRule};

/// The one version of the policy format this build understands.
pub const FORMAT_VERSION: u32 = 1;

/// What one model, or one guest program, may use. The default grants nothing and limits everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Policy {
    /// Which model the policy is for.
    pub model: ModelPin,
    /// How much it may use.
    pub limits: Limits,
    /// How it is computed.
    pub compute: Compute,
    /// How much of the confinement of its worker processes must be there.
    pub confinement: Confinement,
    /// What becomes of a run whose shapes are not those that the model declares.
    pub declared_shapes: DeclaredShapes,
    /// For a guest program: what of a process it has. Without it the policy is for a model alone,
    /// and grants at most files to read.
    pub program: Option<Program>,
    /// The models that the program may load.
    pub models: Vec<ModelGrant>,
    /// Files and folders.
    pub filesystem: Vec<FileGrant>,
    /// Peers on the network.
    pub network: Vec<NetworkGrant>,
    /// How much one run of the program may do with its grants.
    pub quotas: Quotas,
    /// What the values of inputs must be. Inputs that are not here may be anything that the model
    /// declares, NaN included.
    pub inputs: Vec<ValueRule>,
    /// What the values of outputs must be, and how much of them is told.
    pub outputs: Vec<ValueRule>,
    /// The file that it was read from, if any.
    pub origin: Origin,
}

/// The file that a policy was read from.
#[derive(Clone, Debug, Default)]
pub struct Origin(Option<Arc<AsRead>>);

#[derive(Debug)]
struct AsRead {
    sha256: [u8; 32],
    /// What the file says; it has no origin itself.
    policy: Policy,
}

/// Two policies of different files are not the same, even if they say the same.
impl PartialEq for Origin {
    fn eq(&self, other: &Origin) -> bool {
        let digest = |origin: &Origin| origin.0.as_ref().map(|read| read.sha256);
        digest(self) == digest(other)
    }
}

impl Eq for Origin {}

impl Policy {
    /// The same policy with another demand on the confinement.
    #[must_use]
    pub fn with_confinement(mut self, confinement: Confinement) -> Policy {
        self.confinement = confinement;
        self
    }

    /// The same policy with another answer to shapes that differ from the declaration.
    #[must_use]
    pub fn with_declared_shapes(mut self, declared_shapes: DeclaredShapes) -> Policy {
        self.declared_shapes = declared_shapes;
        self
    }

    /// SHA-256 of the file that it was read from, for the decision log. `None` if it came from no
    /// file, or was changed since.
    #[must_use]
    pub fn file_sha256(&self) -> Option<[u8; 32]> {
        let read = self.origin.0.as_deref()?;
        let now = Policy { origin: Origin::default(), ..self.clone() };
        (now == read.policy).then_some(read.sha256)
    }

    /// Notes that a file with this digest says what the policy says now.
    pub fn read_from(mut self, sha256: Option<[u8; 32]>) -> Policy {
        self.origin = Origin::default();
        self.origin =
            Origin(sha256.map(|sha256| Arc::new(AsRead { sha256, policy: self.clone() })));
        self
    }
}

/// Which model a policy is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ModelPin {
    /// SHA-256 of the only model file the policy accepts. `None` accepts any model, which is for
    /// trying things out: the limits hold all the same, but nothing says the model is the one
    /// that was meant.
    pub sha256: Option<[u8; 32]>,
}

impl ModelPin {
    /// Whether a model with this digest is one the policy accepts.
    #[must_use]
    pub fn accepts(&self, sha256: &[u8; 32]) -> bool {
        self.sha256.as_ref().is_none_or(|pinned| pinned == sha256)
    }
}

/// What becomes of a run whose shapes are not those that the model declares: an output of another
/// shape, or a symbol that stands for two sizes. The rank and the fixed sizes of an input are enforced
/// either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeclaredShapes {
    /// It is answered as it was computed, and the difference is reported once for each loaded model
    /// and input or output: what a model declares about its own outputs protects nobody.
    #[default]
    Report,
    /// There is no answer.
    Strict,
}

impl DeclaredShapes {
    /// The value as a policy names it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            DeclaredShapes::Report => "report",
            DeclaredShapes::Strict => "strict",
        }
    }
}

/// How a model is computed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Compute {
    /// Bit-identical answers on every machine, at the price of speed. Default: `false`.
    pub deterministic: bool,
    /// Who computes products and what surrounds them.
    pub kernels: Kernels,
    /// Threads that one run may compute with; more than one only help native kernels. Default: 1.
    pub threads: u32,
}

impl Default for Compute {
    fn default() -> Compute {
        Compute { deterministic: false, kernels: Kernels::default(), threads: 1 }
    }
}

impl Compute {
    /// Whether the host computes operators: the policy allows it, and does not ask for the
    /// same bits on every machine.
    pub fn native_kernels(&self) -> bool {
        self.kernels == Kernels::Native && !self.deterministic
    }
}

/// Who computes products and what surrounds them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kernels {
    /// The host, with this machine's instructions, on checked ranges of the sandbox's memory: two
    /// to four times as fast.
    #[default]
    Native,
    /// The sandbox itself; no native code but wasmtime's works on a model's data.
    Sandbox,
}
