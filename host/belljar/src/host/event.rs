//! What a host has to tell.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::model::ShapeDifference;
use crate::supervise::Quarantined;
use belljar_confine::layers::{Layer, MissingLayer};
use belljar_policy::Cut;

/// Something a program may want to tell its user.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The guest is being compiled to native code, once for this machine. It takes some seconds.
    Compiling {
        /// Which variant of the code.
        variant: &'static str,
    },
    /// Compiling is over.
    Compiled,
    /// Another process compiles the guest, and this one waits for what it makes.
    WaitingForCompiler,
    /// The compiled guest is not kept: the next process compiles it again, which takes some seconds.
    CodeNotKept {
        /// Why not, and what to do.
        why: String,
    },
    /// There is no folder to keep anything in: neither compiled code, nor prepared models, nor which
    /// models killed their workers. All of that is known in this process only.
    NothingKept {
        /// Why not, and what to do.
        why: String,
    },
    /// The sandboxes of all loaded models may take more memory together than there is. When that comes
    /// to pass, the kernel kills worker processes. Told once, until they fit again.
    MemoryOvercommitted {
        /// What they may take, in bytes: for each model `limits.memory` times
        /// [`HostBuilder::idle_sandboxes`](crate::HostBuilder::idle_sandboxes).
        claimed: u64,
        /// What there is, in bytes.
        there: u64,
        /// What limits it: the machine, or a file of its control group.
        what: String,
    },
    /// A file with native code was not what Belljar had put there. It was not used.
    CodeRefused {
        /// The file.
        path: PathBuf,
        /// What was wrong with it.
        why: String,
    },
    /// A file of the store of prepared models, or its folder, was not what Belljar had put there. It
    /// was not used.
    SnapshotRefused {
        /// The file.
        path: PathBuf,
        /// What was wrong with it.
        why: String,
    },
    /// Something was put into the store of prepared models.
    SnapshotStored {
        /// The file.
        path: PathBuf,
    },
    /// Something could not be put into the store of prepared models; the next process prepares it
    /// again.
    SnapshotNotStored {
        /// The file.
        path: PathBuf,
        /// Why not.
        why: String,
        /// Whether nothing can be stored there at all, because the folder cannot be used or written.
        unusable: bool,
    },
    /// A layer around the worker processes is missing on this machine, and nothing demands it. Told
    /// once for each layer.
    LayerMissing {
        /// Which.
        layer: Layer,
        /// What the kernel said.
        why: String,
    },
    /// A policy asks for more than a ceiling allows, and this was cut.
    PolicyCut(Cut),
    /// So many workers of a model have died that it is refused until [`Host::release`].
    Quarantined(Quarantined),
    /// The deaths of a model's workers could not be written down: they count in this process only.
    QuarantineNotStored {
        /// Why not.
        why: String,
    },
    /// A guest program printed a line, as its policy lets it. Untrusted text: print it through
    /// [`belljar_text::Escaped`].
    Printed {
        /// The program's label.
        program: String,
        /// Whether it is meant for standard error.
        error: bool,
        /// The line.
        line: String,
    },
    /// An input or output has another shape than the model declares, and the policy does not enforce
    /// that (`declared-shapes`): the model was run, and the answer is as it was computed. Reported once
    /// for each loaded model and input or output.
    ShapeDiffers {
        /// The model's label.
        model: String,
        /// What differs.
        difference: ShapeDifference,
    },
    /// The sandboxed runner logged a line about a model. Untrusted text: print it through
    /// [`belljar_text::Escaped`].
    Log {
        /// The model's label.
        model: String,
        /// The line.
        line: String,
    },
}

pub(super) type Listener = Arc<dyn Fn(Event) + Send + Sync>;

/// Tells which layers are missing.
pub(super) struct Missing {
    /// Layers whose absence was told.
    pub(super) told: Mutex<Vec<Layer>>,
    pub(super) listener: Listener,
}

impl Missing {
    /// Tells what a worker lacks, once for each layer.
    pub(super) fn tell(&self, missing: Vec<MissingLayer>) {
        for MissingLayer { layer, why } in missing {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            if told.contains(&layer) {
                continue;
            }
            told.push(layer);
            drop(told);
            (self.listener)(Event::LayerMissing { layer, why });
        }
    }
}
