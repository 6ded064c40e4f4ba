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

mod address;
mod ceiling;
mod error;
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

#[cfg(test)]
mod tests;

pub use crate::confine::layers::Confinement;
pub use address::{AddressKind, Peer, address_kind, canonical_address};
pub(crate) use ceiling::Ceilings;
pub use ceiling::{
    Ceiling, Cut, Effective, Excess, Hosts, OPERATORS_CEILING, PeerCeiling, ProgramCeiling,
    Refused, Root,
};
pub use error::PolicyError;
pub use format::canonical;
pub(crate) use grants::file_rule;
#[cfg(any(feature = "cli", feature = "programs"))]
pub(crate) use grants::key_rule;
#[cfg(feature = "programs")]
pub(crate) use grants::peer_rule;
pub use grants::{Access, FileGrant, MAX_GRANTS, ModelGrant, NetworkGrant, Program, Protocol};
pub use limits::{Bounds, Limits, bounds};
pub use quotas::{Quotas, quota_bounds};
pub use schema::{ceiling_schema, policy_schema};
pub use source::{LoadedPolicy, MAX_POLICY_SIZE, Source};
#[cfg(feature = "cli")]
pub(crate) use template::measured_limits;
#[cfg(feature = "programs")]
pub use template::starting_program_policy;
pub use template::{Measured, starting_policy};
pub use values::{Scalar, ValueRule};

/// The one version of the policy format this build understands.
pub const FORMAT_VERSION: u32 = 1;

/// What one model, or one guest program, may use. The default grants nothing and limits everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Which model the policy is for.
    pub model: ModelPin,
    /// How much it may use.
    pub limits: Limits,
    /// How it is computed.
    pub compute: Compute,
    /// How much of the confinement of its worker processes must be there.
    pub confinement: Confinement,
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
    /// SHA-256 of the file it was read from, for the decision log; `None` if it came from no file.
    /// Whoever changes a policy that was loaded takes it out.
    pub file_sha256: Option<[u8; 32]>,
}

/// Which model a policy is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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

/// How a model is computed.
#[derive(Clone, Debug, PartialEq, Eq)]
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
