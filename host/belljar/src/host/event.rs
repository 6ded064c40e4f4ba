//! The events that a host reports.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::model::ShapeDifference;
use crate::supervise::Quarantined;
use belljar_confine::layers::{Layer, MissingLayer};
use belljar_policy::Cut;

/// Something a program may want to report to its user.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The guest is being compiled to native code, once for this machine. It takes a few seconds.
    Compiling {
        /// The variant of the code.
        variant: &'static str,
    },
    /// Compiling has finished.
    Compiled,
    /// Another process compiles the guest, and this one waits for the result.
    WaitingForCompiler,
    /// The compiled guest is not kept: the next process compiles it again, which takes a few
    /// seconds.
    CodeNotKept {
        /// The cause, and what to do.
        why: String,
    },
    /// No folder is available for compiled code, prepared models, and records of models that killed
    /// their workers. All of that is known in this process only.
    NothingKept {
        /// The cause, and what to do.
        why: String,
    },
    /// The sandboxes of all loaded models together may use more memory than is available. If they
    /// do, the kernel kills worker processes. Reported once, until they fit again.
    MemoryOvercommitted {
        /// The memory they may use, in bytes: for each model `limits.memory` times
        /// [`HostBuilder::idle_sandboxes`](crate::HostBuilder::idle_sandboxes).
        claimed: u64,
        /// The available memory, in bytes.
        there: u64,
        /// The source of the limit: the machine, or a file of its control group.
        what: String,
    },
    /// A file with native code was not written by Belljar, or was modified. It was not used.
    CodeRefused {
        /// The file.
        path: PathBuf,
        /// What was wrong with it.
        why: String,
    },
    /// A file of the store of prepared models, or its folder, was not written by Belljar, or was
    /// modified. It was not used.
    SnapshotRefused {
        /// The file.
        path: PathBuf,
        /// What was wrong with it.
        why: String,
    },
    /// A file was added to the store of prepared models.
    SnapshotStored {
        /// The file.
        path: PathBuf,
    },
    /// A prepared model could not be stored; the next process prepares it again.
    SnapshotNotStored {
        /// The file.
        path: PathBuf,
        /// The cause.
        why: String,
        /// Whether nothing can be stored, because the folder cannot be used or written.
        unusable: bool,
    },
    /// A protection layer around the worker processes is missing on this machine, and is not
    /// required. Reported once for each layer.
    LayerMissing {
        /// The layer.
        layer: Layer,
        /// The kernel's error.
        why: String,
    },
    /// A policy asks for more than a ceiling allows, and was cut.
    PolicyCut(Cut),
    /// Too many workers of a model have died, and it is refused until [`Host::release`].
    Quarantined(Quarantined),
    /// The deaths of a model's workers could not be recorded: they count in this process only.
    QuarantineNotStored {
        /// The cause.
        why: String,
    },
    /// A guest program printed a line, as its policy allows. Untrusted text: print it through
    /// [`belljar_text::Escaped`].
    Printed {
        /// The program's label.
        program: String,
        /// Whether it was printed to standard error.
        error: bool,
        /// The line.
        line: String,
    },
    /// An input or output has another shape than the model declares, and the policy does not
    /// enforce declared shapes (`declared-shapes`). The outputs are returned as computed. Reported
    /// once for each loaded model and input or output.
    ShapeDiffers {
        /// The model's label.
        model: String,
        /// The difference.
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

/// Reports missing layers.
pub(super) struct Missing {
    /// Layers that were reported.
    pub(super) reported: Mutex<Vec<Layer>>,
    pub(super) listener: Listener,
}

impl Missing {
    /// Reports the layers that a worker lacks, once for each layer.
    pub(super) fn report(&self, missing: Vec<MissingLayer>) {
        for MissingLayer { layer, why } in missing {
            let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
            if reported.contains(&layer) {
                continue;
            }
            reported.push(layer);
            drop(reported);
            (self.listener)(Event::LayerMissing { layer, why });
        }
    }
}
