//! The policy: what one model, or one guest program, may use. A policy file becomes a checked
//! [`Policy`] here.
//!
//! [`Policy::load`] reads a file that only the operator could have written; [`Policy::parse`] reads
//! text whose origin the caller vouches for. Both are strict: an unknown key, a value without a
//! unit or a limit out of bounds is an error, because a policy that is silently misread protects
//! nobody.
//!
//! This module must never turn an absent key into "unlimited", never accept a file that users other
//! than root and the caller could have changed, and never print the file's text unescaped.
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
    Admissible, Ceiling, Cut, Effective, Excess, Hosts, OPERATORS_CEILING, PeerCeiling,
    ProgramCeiling, Refused, Root,
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
pub use values::{Scalar, Sizes, ValueRule};

/// The only version of the policy format that this build supports.
pub const FORMAT_VERSION: u32 = 1;

/// What one model, or one guest program, may use. The default grants nothing and limits everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Policy {
    /// Which model the policy is for.
    pub model: ModelPin,
    /// The resources it may use.
    pub limits: Limits,
    /// How it is computed.
    pub compute: Compute,
    /// Whether all protection layers around worker processes are required.
    pub confinement: Confinement,
    /// What happens when the shapes of a run differ from the model's declaration.
    pub declared_shapes: DeclaredShapes,
    /// The process resources of a guest program. Without it the policy is for a model, and can
    /// grant only files to read.
    pub program: Option<Program>,
    /// The models that the program may load.
    pub models: Vec<ModelGrant>,
    /// Files and folders that are granted.
    pub filesystem: Vec<FileGrant>,
    /// Network peers that are granted.
    pub network: Vec<NetworkGrant>,
    /// How much one run of the program may use its grants.
    pub quotas: Quotas,
    /// Rules for the values of inputs. An input without a rule may have any values of its declared
    /// type, including NaN.
    pub inputs: Vec<ValueRule>,
    /// Rules for the values of outputs, and how much of the outputs is returned.
    pub outputs: Vec<ValueRule>,
    /// The file the policy was read from, if any.
    pub origin: Origin,
}

/// The file that a policy was read from.
#[derive(Clone, Debug, Default)]
pub struct Origin(Option<Arc<AsRead>>);

#[derive(Debug)]
struct AsRead {
    sha256: [u8; 32],
    /// The policy in the file; it has no origin itself.
    policy: Policy,
}

/// Origins are equal if the files are: policies with equal content from different files differ.
impl PartialEq for Origin {
    fn eq(&self, other: &Origin) -> bool {
        let digest = |origin: &Origin| origin.0.as_ref().map(|read| read.sha256);
        digest(self) == digest(other)
    }
}

impl Eq for Origin {}

impl Policy {
    /// The same policy with another confinement.
    #[must_use]
    pub fn with_confinement(mut self, confinement: Confinement) -> Policy {
        self.confinement = confinement;
        self
    }

    /// The same policy with another check of declared shapes.
    #[must_use]
    pub fn with_declared_shapes(mut self, declared_shapes: DeclaredShapes) -> Policy {
        self.declared_shapes = declared_shapes;
        self
    }

    /// SHA-256 of the file that the policy was read from, for the decision log. `None` if it came
    /// from no file, or was changed after it was read.
    #[must_use]
    pub fn file_sha256(&self) -> Option<[u8; 32]> {
        let read = self.origin.0.as_deref()?;
        let now = Policy { origin: Origin::default(), ..self.clone() };
        (now == read.policy).then_some(read.sha256)
    }

    /// Records that the file with this digest contains this policy.
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
    /// SHA-256 of the only model file the policy accepts. `None` accepts any model and is meant for
    /// experiments: the limits still hold, but nothing proves that the model is the intended one.
    pub sha256: Option<[u8; 32]>,
}

impl ModelPin {
    /// Whether the policy accepts a model with this digest.
    #[must_use]
    pub fn accepts(&self, sha256: &[u8; 32]) -> bool {
        self.sha256.as_ref().is_none_or(|pinned| pinned == sha256)
    }
}

/// What happens when the shapes of a run differ from the model's declaration: an output of another
/// shape, or a symbol with two sizes. The rank and the fixed sizes of an input are always enforced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeclaredShapes {
    /// The outputs are returned, and the difference is reported once for each loaded model and
    /// input or output: a model's declaration of its own outputs protects nobody.
    #[default]
    Report,
    /// The run fails.
    Strict,
}

impl DeclaredShapes {
    /// The value's name in a policy.
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
    /// Bit-identical outputs on every machine, but slower. Default: `false`.
    pub deterministic: bool,
    /// Where matrix products and adjacent operators are computed.
    pub kernels: Kernels,
    /// Maximum number of threads that one run computes with; only native kernels use more than one.
    /// Default: 1.
    pub threads: u32,
    /// The seed of a model's random numbers, in runs that are given no other. Default: none, which
    /// means 0.
    pub seed: Option<u32>,
}

impl Default for Compute {
    fn default() -> Compute {
        Compute { deterministic: false, kernels: Kernels::default(), threads: 1, seed: None }
    }
}

impl Compute {
    /// Whether the host computes operators: the policy allows it, and does not require
    /// bit-identical outputs on every machine.
    pub fn native_kernels(&self) -> bool {
        self.kernels == Kernels::Native && !self.deterministic
    }
}

/// Where matrix products and adjacent operators are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kernels {
    /// In the host, with this machine's instructions, on checked ranges of the sandbox's memory:
    /// two to four times as fast.
    #[default]
    Native,
    /// In the sandbox: except for wasmtime's, no native code works on a model's data.
    Sandbox,
}
