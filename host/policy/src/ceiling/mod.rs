//! The operator's ceiling: the most that any policy can grant on this machine.
//!
//! The ceiling is a file at a fixed path. Where an administrator has put one there, no flag,
//! variable or program can bypass it. More ceilings can be named, which can only restrict further:
//! a policy has to fit all of them. [`Ceilings::admit`] is the only way from a [`Policy`] to an
//! [`Effective`] one, which a host obeys.
//!
//! A ceiling grants nothing. What it does not mention cannot be granted, except limits, which have
//! their own bounds. A ceiling that exists but cannot be read, or that other users could have
//! written, stops everything.

mod apply;
mod file;

use std::ops::{Deref, RangeInclusive};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::address::AddressKind;
use super::source::read_trusted;
use super::{
    Access, Confinement, DeclaredShapes, Kernels, Limits, Peer, Policy, PolicyError, Protocol,
    Quotas, Source,
};

/// Where an administrator puts the ceiling of a machine.
pub const OPERATORS_CEILING: &str = "/etc/belljar/ceiling.toml";

/// Names another ceiling, for tests and for users who want to restrict themselves.
const VARIABLE: &str = "BELLJAR_CEILING";

/// The most that a policy can grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ceiling {
    /// What happens to a policy that asks for more.
    pub excess: Excess,
    /// Whether a policy must pin its model or program, and every file that a model keeps data in.
    pub require_pin: bool,
    /// The minimum confinement that a policy must demand.
    pub confinement: Confinement,
    /// The minimum that a policy must demand of declared shapes.
    pub declared_shapes: DeclaredShapes,
    /// The maximum limits.
    pub limits: Limits,
    /// The maximum quotas.
    pub quotas: Quotas,
    /// Whether native kernels may be used.
    pub kernels: Kernels,
    /// The maximum number of threads of one run.
    pub threads: u32,
    /// What programs may be granted; `None` allows no programs.
    pub program: Option<ProgramCeiling>,
    /// Roots below which files may be granted.
    pub filesystem: Vec<Root>,
    /// Peers that may be granted.
    pub network: Vec<PeerCeiling>,
}

/// What happens to a policy that asks for more than the ceiling allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Excess {
    /// It is cut down to what is allowed, and the cuts are reported.
    #[default]
    Cut,
    /// Nothing runs under it.
    Refuse,
}

/// Which process resources a program may be granted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProgramCeiling {
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// Clocks.
    pub clocks: bool,
    /// Randomness.
    pub randomness: bool,
    /// Arguments.
    pub arguments: bool,
    /// Names of environment variables.
    pub environment: Vec<String>,
}

/// A root below which files may be granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// An absolute path without `..`. A path that contains a symbolic link never matches, because
    /// grants contain no symbolic links.
    pub path: PathBuf,
    /// The maximum access.
    pub access: Access,
}

/// Peers that may be granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCeiling {
    /// Which hosts.
    pub hosts: Hosts,
    /// Which ports.
    pub ports: Vec<RangeInclusive<u16>>,
    /// The transport protocol.
    pub protocol: Protocol,
    /// Kinds of addresses that may be reached.
    pub reaches: Vec<AddressKind>,
}

/// Which hosts may be granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hosts {
    /// Any host: `*`.
    Any,
    /// All names below this one, but not the name itself: `*.example.com`.
    Below(String),
    /// Exactly this host.
    One(Peer),
}

/// Something that a policy asks for and a ceiling does not allow. The texts are safe to print.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The key with its table, such as `limits.memory`, and the entry if it is in a list.
    pub key: String,
    /// The value in the policy.
    pub asked: String,
    /// What remains of it.
    pub left: String,
}

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} = {} is more than the ceiling allows: {}", self.key, self.asked, self.left)
    }
}

/// Why a policy is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// It pins neither a model nor a program.
    #[error(
        "the ceiling {ceiling} requires policies to pin their {what}; this one does not. Add \
         `{what}.sha256`"
    )]
    NoPin {
        /// The ceiling.
        ceiling: String,
        /// `model` or `program`.
        what: &'static str,
    },
    /// It grants a model a file without pinning the file's content.
    #[error(
        "the ceiling {ceiling} requires policies to pin every file of a model, and the grant of \
         {guest} has no `sha256`"
    )]
    NoFilePin {
        /// The ceiling.
        ceiling: String,
        /// The path at which the model sees the file; safe to print.
        guest: String,
    },
    /// It is for a program, and the ceiling allows no programs.
    #[error("the ceiling {ceiling} has no [program] table, so guest programs are not allowed")]
    NoPrograms {
        /// The ceiling.
        ceiling: String,
    },
    /// It is for a program, but was given for a model on its own.
    #[error("it is for a guest program ([program]), not for a model on its own")]
    ForProgram,
    /// It is for a model, but was given for a guest program.
    #[error(
        "it is for a model on its own: a guest program needs a policy with a [program] \
         table, and requests its models by the names in [[models]]"
    )]
    ForModel,
    /// It asks for more than is allowed, and the ceiling refuses such policies.
    #[error("{}", more_than_allowed(.cuts))]
    Excess {
        /// What exceeds the ceiling.
        cuts: Vec<Cut>,
    },
}

fn more_than_allowed(cuts: &[Cut]) -> String {
    let mut lines: Vec<String> = cuts.iter().take(10).map(Cut::to_string).collect();
    if let Some(more) = cuts.len().checked_sub(10).filter(|more| *more > 0) {
        lines.push(format!("and {more} more"));
    }
    lines.join("; ")
}

/// A policy within every ceiling. Only [`Ceilings::admit`] makes one.
#[derive(Clone, Debug)]
pub struct Effective {
    policy: Policy,
    cuts: Vec<Cut>,
    file_sha256: Option<[u8; 32]>,
    /// The ceilings that made it.
    by: Identity,
}

/// Tells one set of ceilings from another; copies of a set are the same.
#[derive(Clone, Debug, Default)]
struct Identity(Arc<()>);

/// A policy that a host can admit: a [`Policy`], which is cut down to the host's ceilings, or an
/// [`Effective`] one, for which that was done. One of another host is cut down again.
pub trait Admissible: private::Sealed {
    /// This policy cut down to these ceilings, and what they cut now: nothing that was cut before.
    ///
    /// # Errors
    /// When the policy is refused.
    fn admitted_by(&self, ceilings: &Ceilings) -> Result<(Effective, Vec<Cut>), Refused>;

    /// SHA-256 of the file that it was read from, if it says what the file says.
    fn digest_of_file(&self) -> Option<[u8; 32]>;
}

mod private {
    pub trait Sealed {}
    impl Sealed for super::Policy {}
    impl Sealed for super::Effective {}
}

impl Admissible for Policy {
    fn admitted_by(&self, ceilings: &Ceilings) -> Result<(Effective, Vec<Cut>), Refused> {
        let effective = ceilings.admit(self)?;
        let cuts = effective.cuts.clone();
        Ok((effective, cuts))
    }

    fn digest_of_file(&self) -> Option<[u8; 32]> {
        self.file_sha256()
    }
}

impl Admissible for Effective {
    fn admitted_by(&self, ceilings: &Ceilings) -> Result<(Effective, Vec<Cut>), Refused> {
        if Arc::ptr_eq(&self.by.0, &ceilings.identity.0) {
            return Ok((self.clone(), Vec::new()));
        }
        let mut again = ceilings.admit(&self.policy)?;
        let cuts = again.cuts.clone();
        again.cuts.splice(..0, self.cuts.iter().cloned());
        again.file_sha256 = self.file_sha256;
        Ok((again, cuts))
    }

    fn digest_of_file(&self) -> Option<[u8; 32]> {
        self.file_sha256
    }
}

impl Effective {
    /// What the ceilings cut from the policy.
    #[must_use]
    pub fn cuts(&self) -> &[Cut] {
        &self.cuts
    }

    /// SHA-256 of the file that the policy was read from, before anything was cut from it.
    #[must_use]
    pub fn file_sha256(&self) -> Option<[u8; 32]> {
        self.file_sha256
    }

    /// The same policy for a sandbox that decodes a file into an input: its output is an input.
    #[doc(hidden)]
    pub fn for_pictures(&self) -> Effective {
        let mut effective = self.clone();
        let limits = &mut effective.policy.limits;
        limits.output_size = limits.input_size;
        limits.prepare_time = limits.prepare_time.max(limits.run_time);
        // A model under it would have to be within the ceilings again.
        effective.by = Identity::default();
        effective
    }
}

impl Deref for Effective {
    type Target = Policy;

    fn deref(&self) -> &Policy {
        &self.policy
    }
}

/// All ceilings that apply to a host.
#[derive(Clone, Debug, Default)]
pub struct Ceilings {
    all: Vec<(String, Ceiling)>,
    /// Refuse a policy that asks for more, even if the ceiling would cut it.
    strict: bool,
    identity: Identity,
}

impl Ceilings {
    #[cfg(test)]
    pub(super) fn of(ceilings: Vec<Ceiling>, strict: bool) -> Ceilings {
        let all = ceilings.into_iter().map(|ceiling| ("test".to_owned(), ceiling)).collect();
        Ceilings { all, strict, identity: Identity::default() }
    }

    /// Reads the machine's ceiling, the one named in the environment, and those named by a
    /// program.
    ///
    /// # Errors
    /// When one of them is invalid, or other users could have written it.
    pub fn read(named: &[PathBuf], strict: bool) -> Result<Ceilings, PolicyError> {
        let mut all = Vec::new();
        let mut read = |path: &Path| -> Result<(), PolicyError> {
            let (ceiling, source) = Ceiling::load(path)?;
            all.push((super::text::shown(&source.path.to_string_lossy()), ceiling));
            Ok(())
        };
        let fixed = Path::new(OPERATORS_CEILING);
        // Anything at the path counts, even a dangling link; only an absent entry means no ceiling.
        match std::fs::symlink_metadata(fixed) {
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => {}
            Ok(_) | Err(_) => read(fixed)?,
        }
        if let Some(path) = std::env::var_os(VARIABLE).filter(|path| !path.is_empty()) {
            read(Path::new(&path))?;
        }
        for path in named {
            read(path)?;
        }
        Ok(Ceilings { all, strict, identity: Identity::default() })
    }

    /// The policy cut down to all ceilings.
    ///
    /// # Errors
    /// When the policy is refused.
    pub fn admit(&self, policy: &Policy) -> Result<Effective, Refused> {
        let mut effective = Effective {
            policy: policy.clone(),
            cuts: Vec::new(),
            file_sha256: policy.file_sha256(),
            by: self.identity.clone(),
        };
        // Ceilings that refuse come first, so that they see the original policy and not what
        // another ceiling left of it.
        let refuses = |ceiling: &Ceiling| self.strict || ceiling.excess == Excess::Refuse;
        let (first, then): (Vec<_>, Vec<_>) = self.all.iter().partition(|(_, c)| refuses(c));
        for (name, ceiling) in first.into_iter().chain(then) {
            let cuts = ceiling.apply(name, &mut effective.policy)?;
            if refuses(ceiling) && !cuts.is_empty() {
                return Err(Refused::Excess { cuts });
            }
            effective.cuts.extend(cuts);
        }
        Ok(effective)
    }
}

impl Ceiling {
    /// Reads a ceiling, after checking that only root and the caller could have written it, as
    /// [`Policy::load`] does.
    pub fn load(path: &Path) -> Result<(Ceiling, Source), PolicyError> {
        let (text, source) = read_trusted(path)?;
        Ok((Ceiling::parse(&text, &path.to_string_lossy())?, source))
    }
}
