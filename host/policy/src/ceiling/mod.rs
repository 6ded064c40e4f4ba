//! The operator's ceiling: the most that any policy can grant on this machine, whoever wrote it.
//!
//! It lies at one fixed place, and where an administrator has put one there, no flag, variable or
//! program gets around it. Others may be named beside it, which can only narrow further: what a
//! policy asks for is held against each. [`Ceilings::admit`] is the one way from a [`Policy`] to what
//! a host obeys, an [`Effective`] one.
//!
//! A ceiling grants nothing. What it does not mention cannot be granted, limits excepted, which have
//! bounds of their own. A ceiling that is there and cannot be read, or that others could have
//! written, stops everything.

mod apply;
mod file;

use std::ops::{Deref, RangeInclusive};
use std::path::{Path, PathBuf};

use super::address::AddressKind;
use super::source::read_trusted;
use super::{
    Access, Confinement, DeclaredShapes, Kernels, Limits, Peer, Policy, PolicyError, Protocol,
    Quotas, Source,
};

/// Where an administrator puts the ceiling of a machine.
pub const OPERATORS_CEILING: &str = "/etc/belljar/ceiling.toml";

/// Names a ceiling for tests and for users who narrow themselves.
const VARIABLE: &str = "BELLJAR_CEILING";

/// The most that a policy can grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ceiling {
    /// What becomes of a policy that asks for more.
    pub excess: Excess,
    /// Whether a policy must pin its model or program, and every file that a model keeps data in.
    pub require_pin: bool,
    /// The least confinement that a policy can demand.
    pub confinement: Confinement,
    /// The least that a policy can demand of declared shapes.
    pub declared_shapes: DeclaredShapes,
    /// The greatest limits.
    pub limits: Limits,
    /// The greatest quotas.
    pub quotas: Quotas,
    /// Whether native kernels may be used.
    pub kernels: Kernels,
    /// Most threads of one run.
    pub threads: u32,
    /// What programs may be granted; `None` runs no programs at all.
    pub program: Option<ProgramCeiling>,
    /// Roots below which files may be granted.
    pub filesystem: Vec<Root>,
    /// Peers that may be granted.
    pub network: Vec<PeerCeiling>,
}

/// What becomes of a policy that asks for more than the ceiling allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Excess {
    /// It is cut down to what is allowed, and what was cut is told.
    #[default]
    Cut,
    /// Nothing runs under it.
    Refuse,
}

/// What of a process a program may be granted.
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
    /// Names of variables.
    pub environment: Vec<String>,
}

/// A root below which files may be granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// An absolute path without `..`. One that is reached by a symbolic link never fits, as grants
    /// are without them.
    pub path: PathBuf,
    /// The greatest access.
    pub access: Access,
}

/// Peers that may be granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCeiling {
    /// Which hosts.
    pub hosts: Hosts,
    /// Which ports.
    pub ports: Vec<RangeInclusive<u16>>,
    /// How they talk.
    pub protocol: Protocol,
    /// Kinds of addresses that may be reached.
    pub reaches: Vec<AddressKind>,
}

/// Which hosts may be granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hosts {
    /// Every one: `*`.
    Any,
    /// All names below this one, and not it: `*.example.com`.
    Below(String),
    /// This one.
    One(Peer),
}

/// Something that a policy asks for and a ceiling does not allow. The texts may be printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// What: a key with its table, such as `limits.memory`, and which entry of a list.
    pub key: String,
    /// What the policy says.
    pub asked: String,
    /// What is left of it.
    pub left: String,
}

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} = {} is more than the ceiling allows: {}", self.key, self.asked, self.left)
    }
}

/// Why a policy is not obeyed at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// It pins neither a model nor a program.
    #[error("the ceiling {ceiling} demands that a policy pins its {what}, and this one does not")]
    NoPin {
        /// The ceiling.
        ceiling: String,
        /// `model` or `program`.
        what: &'static str,
    },
    /// It grants a model a file whose content it does not pin.
    #[error(
        "the ceiling {ceiling} demands that a policy pins every file of a model, and the grant of \
         {guest} has no `sha256`"
    )]
    NoFilePin {
        /// The ceiling.
        ceiling: String,
        /// Where the model finds the file; may be printed.
        guest: String,
    },
    /// It is for a program, and none may run.
    #[error("the ceiling {ceiling} has no [program] table: no guest program runs here")]
    NoPrograms {
        /// The ceiling.
        ceiling: String,
    },
    /// It is for a program, and a model alone was to run under it.
    #[error("the policy is for a guest program ([program]), and not for a model alone")]
    ForProgram,
    /// It is for a model alone, and a guest program was to run under it.
    #[error(
        "it is for a model alone: a guest program runs only under a policy with a [program] table, \
         and asks for its models by the names of [[models]]"
    )]
    ForModel,
    /// It asks for more than is allowed, and is to be refused then.
    #[error("{}", more_than_allowed(.cuts))]
    Excess {
        /// What is more.
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

/// A policy as it is obeyed: within every ceiling. Only [`Ceilings::admit`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    policy: Policy,
    cuts: Vec<Cut>,
    file_sha256: Option<[u8; 32]>,
}

impl Effective {
    /// What the ceilings took from the policy.
    #[must_use]
    pub fn cuts(&self) -> &[Cut] {
        &self.cuts
    }

    /// SHA-256 of the file that the policy was read from, before anything was cut from it.
    #[must_use]
    pub fn file_sha256(&self) -> Option<[u8; 32]> {
        self.file_sha256
    }

    /// The same for a sandbox that turns a file into an input: what it answers is an input.
    pub fn for_pictures(&self) -> Effective {
        let mut effective = self.clone();
        let limits = &mut effective.policy.limits;
        limits.output_size = limits.input_size;
        limits.prepare_time = limits.prepare_time.max(limits.run_time);
        effective
    }
}

impl Deref for Effective {
    type Target = Policy;

    fn deref(&self) -> &Policy {
        &self.policy
    }
}

/// Every ceiling that holds for a host.
#[derive(Clone, Debug, Default)]
pub struct Ceilings {
    all: Vec<(String, Ceiling)>,
    /// A policy that asks for more is refused, whatever a ceiling says.
    strict: bool,
}

impl Ceilings {
    #[cfg(test)]
    pub(super) fn of(ceilings: Vec<Ceiling>, strict: bool) -> Ceilings {
        let all = ceilings.into_iter().map(|ceiling| ("test".to_owned(), ceiling)).collect();
        Ceilings { all, strict }
    }

    /// The ceiling of the machine, the one that the environment names, and those that a program
    /// names.
    ///
    /// # Errors
    /// When one of them is not a good ceiling, or others could have written it.
    pub fn read(named: &[PathBuf], strict: bool) -> Result<Ceilings, PolicyError> {
        let mut all = Vec::new();
        let mut read = |path: &Path| -> Result<(), PolicyError> {
            let (ceiling, source) = Ceiling::load(path)?;
            all.push((super::text::shown(&source.path.to_string_lossy()), ceiling));
            Ok(())
        };
        let fixed = Path::new(OPERATORS_CEILING);
        // Whatever is there counts, a link to nowhere too; only nothing at all is no ceiling.
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
        Ok(Ceilings { all, strict })
    }

    /// What is left of a policy under all ceilings.
    ///
    /// # Errors
    /// When nothing may run under it.
    pub fn admit(&self, policy: &Policy) -> Result<Effective, Refused> {
        let mut effective = Effective {
            policy: policy.clone(),
            cuts: Vec::new(),
            file_sha256: policy.file_sha256(),
        };
        // Those that refuse come first: they are to see what the policy says, and not what another
        // ceiling has left of it.
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
    /// Reads a ceiling, after checking that nobody but root and the caller could have written it, as
    /// [`Policy::load`] does.
    pub fn load(path: &Path) -> Result<(Ceiling, Source), PolicyError> {
        let (text, source) = read_trusted(path)?;
        Ok((Ceiling::parse(&text, &path.to_string_lossy())?, source))
    }
}
