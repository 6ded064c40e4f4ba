//! Attacks from within a worker: only in builds for tests.

use std::time::Duration;

use rustix::process::Signal;

use super::engine::Variant;
use super::guest::GuestInfo;
use super::serve::{Ready, Setup, Work};
use crate::confine::breach::{Attempt, Outcome};
use crate::confine::channel::{Channel, Received};
use crate::confine::ended::WorkerEnd;
use crate::confine::layers::{Confinement, Layer};
use crate::confine::process::{WorkerProcess, WorkerProgram};
use crate::confine::role::Role;
use crate::confine::setup::ProcessLimits;
use crate::test_hooks::Ended;

/// Longest that an attempt may take.
const LONGEST: Duration = Duration::from_secs(20);

/// Has a worker with these layers make an attempt.
pub(crate) fn attack(
    program: &WorkerProgram,
    role: Role,
    layers: &[Layer],
    attempt: Attempt,
) -> Result<Ended, String> {
    let text = |err: std::io::Error| err.to_string();
    let (mut channel, theirs) = Channel::pair().map_err(text)?;
    let mut process = match layers.contains(&Layer::Namespaces) {
        true => WorkerProcess::spawn(program, theirs).map_err(text)?,
        false => WorkerProcess::spawn_without_namespaces(program, theirs).map_err(text)?,
    };
    let limits = ProcessLimits { data: 2 << 30, file: 1 << 30, cpu: 600, threads: 3, handles: 0 };
    let mut plan = process.plan(role, Confinement::Strict, limits);
    plan.layers = layers.to_vec();
    let guest = GuestInfo::embedded().sha256.to_owned();
    let setup = Setup { plan, variant: Variant::default(), guest, work: Work::Breach(attempt) };
    channel.send(&setup, &[]).map_err(text)?;
    match channel.receive::<Ready>(Some(LONGEST)).map_err(text)? {
        Received::Message(Ok(missing), _) if missing.is_empty() => {}
        Received::Message(Ok(missing), _) => return Err(format!("missing: {missing:?}")),
        Received::Message(Err(missing), _) => return Err(missing.to_string()),
        Received::Closed | Received::Unread => return Err(process.ended().to_string()),
        Received::TimedOut => return Err("the worker does not get ready".into()),
    }
    match channel.receive::<Outcome>(Some(LONGEST)).map_err(text)? {
        Received::Message(Ok(()), _) => Ok(Ended::Allowed),
        Received::Message(Err(errno), _) => Ok(Ended::Refused(errno)),
        Received::Closed | Received::Unread => match process.ended() {
            // It has become a program that came to its end.
            WorkerEnd::Exit(0) => Ok(Ended::Allowed),
            WorkerEnd::Signal(signal) if signal == Signal::SYS.as_raw() => Ok(Ended::Killed),
            how => Err(how.to_string()),
        },
        Received::TimedOut => Err("the attempt does not end".into()),
    }
}
