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

    /// Whether a strict worker can do without it.
    pub fn required(self) -> bool {
        self != Layer::Namespaces
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
    pub(crate) fn new(layer: Layer, why: impl fmt::Display) -> MissingLayer {
        MissingLayer { layer, why: why.to_string() }
    }
}

impl fmt::Display for MissingLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.layer.name(), self.why)
    }
}
