//! The confinement layers of a worker process, and how missing layers are handled.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How much of the confinement is required.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Confinement {
    /// Every layer except namespaces, which are used where the kernel allows them. If another layer
    /// is missing, no model is read.
    #[default]
    Strict,
    /// Whatever the kernel offers; what is missing is reported.
    BestEffort,
}

impl Confinement {
    /// Checks the missing layers against what is required.
    ///
    /// # Errors
    /// The first missing layer that is required.
    pub fn accept(self, missing: &[MissingLayer]) -> Result<(), MissingLayer> {
        let strict = self == Confinement::Strict;
        let needed = missing.iter().find(|missing| strict && missing.layer.required());
        needed.map_or(Ok(()), |missing| Err(missing.clone()))
    }
}

/// One layer of the confinement, in the order in which they are applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Layer {
    /// Private namespaces: users, mounts with an empty root, processes, network, IPC, host name.
    Namespaces,
    /// Kernel limits on memory, time, files, descriptors and processes (`setrlimit`).
    ResourceLimits,
    /// No capability, not uid 0, not dumpable, and no way to gain privileges by starting a program.
    Privileges,
    /// Landlock: no files, no TCP ports, no signals or abstract sockets beyond the process.
    Landlock,
    /// seccomp: only the system calls on the list of the worker's role.
    Seccomp,
}

impl Layer {
    /// All layers, in the order in which they are applied.
    pub const ALL: [Layer; 5] = [
        Layer::Namespaces,
        Layer::ResourceLimits,
        Layer::Privileges,
        Layer::Landlock,
        Layer::Seccomp,
    ];

    /// The layer's name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Layer::Namespaces => "namespaces",
            Layer::ResourceLimits => "resource limits",
            Layer::Privileges => "privileges",
            Layer::Landlock => "Landlock",
            Layer::Seccomp => "seccomp",
        }
    }

    /// Whether [`Confinement::Strict`] requires the layer.
    pub fn required(self) -> bool {
        self != Layer::Namespaces
    }

    /// What an administrator can do if the layer is missing.
    pub fn remedy(self) -> &'static str {
        match self {
            Layer::Namespaces => {
                "allow unprivileged user namespaces (`sysctl user.max_user_namespaces`, \
                 `kernel.apparmor_restrict_unprivileged_userns`), or in a container the system \
                 calls clone, unshare, mount and pivot_root"
            }
            Layer::ResourceLimits => "let the process lower its limits: the system call prlimit64",
            Layer::Privileges => {
                "let the process give up rights: the system calls capset, setresuid and prctl; \
                 and mount /proc"
            }
            Layer::Landlock => {
                "run Linux 5.13 or newer with `landlock` in its list of security modules (`lsm=` \
                 on the kernel's command line), and in a container allow the system calls 444 to \
                 446"
            }
            Layer::Seccomp => {
                "run a kernel with CONFIG_SECCOMP_FILTER, and in a container allow the system \
                 calls seccomp and prctl"
            }
        }
    }
}

/// A layer that could not be applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingLayer {
    /// The layer.
    pub layer: Layer,
    /// The reason, usually the kernel's error.
    pub why: String,
}

impl MissingLayer {
    pub fn new(layer: Layer, why: impl fmt::Display) -> MissingLayer {
        MissingLayer { layer, why: why.to_string() }
    }
}

impl fmt::Display for MissingLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.layer.name(), self.why)
    }
}
