//! The first message to a worker, and its answer: what the worker is for, and how it is confined.

use std::io;
#[cfg(feature = "programs")]
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::dirty_pages;
use super::engine::Variant;
#[cfg(feature = "programs")]
use super::guest::GuestInfo;
use super::guest::GuestKind;
use super::limits::SandboxLimits;
use belljar_confine::channel::Channel;
use belljar_confine::layers::MissingLayer;
use belljar_confine::role::Role;
use belljar_confine::setup::{Granted, Plan, confine};

/// The first message to a worker.
#[derive(Serialize, Deserialize)]
pub(crate) struct Setup {
    pub(crate) plan: Plan,
    pub(crate) variant: Variant,
    /// Digest of the supervisor's guest: a worker program of another build may have another guest.
    pub(crate) guest: String,
    pub(crate) work: Work,
}

#[cfg(feature = "programs")]
impl Setup {
    /// The set-up of a worker whose work does not use the guest: the default variant.
    pub(crate) fn new(plan: Plan, work: Work) -> Setup {
        let guest = GuestInfo::embedded().sha256.to_owned();
        Setup { plan, variant: Variant::default(), guest, work }
    }
}

/// The work of a worker.
#[derive(Serialize, Deserialize)]
pub(crate) enum Work {
    /// Only confine itself and end, to find out what this machine allows.
    Nothing,
    /// Compile the guest, and end.
    Compile(GuestKind),
    /// Be a sandbox. The code and the shared buffer come with the message.
    Sandbox(SandboxLimits),
    /// Be a sandbox of the profiling variant, which serves no requests. The code of that variant
    /// and the shared buffer come with the message.
    Profile(SandboxLimits),
    /// Compile a guest program, which comes once the worker is confined, and end.
    #[cfg(feature = "programs")]
    CompileProgram,
    /// Run a guest program once, which comes once the worker is confined, and end.
    #[cfg(feature = "programs")]
    Program {
        limits: ProgramLimits,
        /// Number of granted files and folders, each of which comes with a separate message.
        files: usize,
    },
    /// Make the system calls of an attacker who has taken over a worker of this role.
    #[cfg(feature = "test-hooks")]
    Breach(Box<belljar_confine::breach::Attempt>),
}

/// The answer to the set-up: the missing layers, or a missing layer that is required.
pub(crate) type Ready = Result<Vec<MissingLayer>, MissingLayer>;

/// The limits of one run of a program. Sizes are in bytes.
#[cfg(feature = "programs")]
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct ProgramLimits {
    /// All memories of the program, and the host's memory for it.
    pub(crate) memory: u64,
    /// Stack of the WebAssembly code.
    pub(crate) stack: u64,
    /// All outputs together.
    pub(crate) outputs: u64,
    /// Bytes that the program may hand over in one call.
    pub(crate) crossing: u64,
    /// Time of the program and its models' runs, without loading and preparing the models.
    pub(crate) time: Duration,
}

/// Confines this process, except for granted files and folders, and reports the result to the
/// supervisor. Returns whether to continue.
pub(crate) fn be_confined(
    channel: &mut Channel,
    plan: &Plan,
    granted: &[Granted<'_>],
) -> io::Result<bool> {
    // No file can be opened afterwards. Only runs need the pagemap; without it, memory is reset in
    // another way.
    match plan.role {
        Role::Run => drop(dirty_pages::pagemap()),
        _ => dirty_pages::no_pagemap(),
    }
    let ready: Ready = confine(plan, granted);
    channel.send(&ready, &[])?;
    Ok(ready.is_ok())
}
