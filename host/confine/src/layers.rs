//! The layers around a worker process, and what was found of them on this machine.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How much of the confinement must be there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Confinement {
    /// Every layer, namespaces excepted: those are used where the kernel allows them. Where another
    /// layer is missing no model is read.
    #[default]
    Strict,
    /// Whatever the kernel offers; what is missing is reported.
    BestEffort,
}

impl Confinement {
    /// Holds the layers that are missing against what is demanded.
    ///
    /// # Errors
    /// The first without which no model may be read.
    pub fn accept(self, missing: &[MissingLayer]) -> Result<(), MissingLayer> {
        let strict = self == Confinement::Strict;
        let needed = missing.iter().find(|missing| strict && missing.layer.required());
        needed.map_or(Ok(()), |missing| Err(missing.clone()))
    }
}

/// One layer of the confinement, in the order in which they are put on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Layer {
    /// Namespaces of its own: users, mounts with an empty root, processes, network, IPC, host name.
    Namespaces,
    /// Limits of the kernel on memory, time, files, descriptors and processes (`setrlimit`).
    ResourceLimits,
    /// No capability, not uid 0, not dumpable, and no way to gain privileges by starting a program.
    Privileges,
    /// No file, no TCP port, no signal or abstract socket beyond the process, by Landlock.
    Landlock,
    /// No system call but those on the list of its role, by seccomp.
    Seccomp,
}

impl Layer {
    /// All layers, in the order in which they are put on.
    pub const ALL: [Layer; 5] = [
        Layer::Namespaces,
        Layer::ResourceLimits,
        Layer::Privileges,
        Layer::Landlock,
        Layer::Seccomp,
    ];

    /// Its name, as in messages.
    pub fn name(self) -> &'static str {
        match self {
            Layer::Namespaces => "namespaces",
            Layer::ResourceLimits => "resource limits",
            Layer::Privileges => "privileges",
            Layer::Landlock => "Landlock",
            Layer::Seccomp => "seccomp",
        }
    }

    /// Whether a strict worker needs it.
    pub fn required(self) -> bool {
        self != Layer::Namespaces
    }

    /// What an administrator can do where it is missing.
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

/// A layer that could not be put on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingLayer {
    /// Which.
    pub layer: Layer,
    /// What the kernel said.
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
