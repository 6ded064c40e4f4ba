//! Attacks from inside a worker. Only in test builds.

use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::process::Signal;

use super::engine::Variant;
use super::guest::GuestInfo;
use super::setup::{Ready, Setup, Work};
use super::slot::Slot;
use crate::test_hooks::Ended;
use belljar_confine::breach::{Attempt, AttemptResult, World, memory};
use belljar_confine::channel::{Channel, Received};
use belljar_confine::ended::WorkerEnd;
use belljar_confine::layers::{Confinement, Layer};
use belljar_confine::memory::SealedWriter;
use belljar_confine::process::{WorkerProcess, WorkerProgram};
use belljar_confine::role::Role;
use belljar_confine::setup::ProcessLimits;

/// Time limit of an attempt.
const MAX_TIME: Duration = Duration::from_secs(20);

/// Makes an attempt in a worker with these layers.
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
    let limits = ProcessLimits {
        data: memory::PRIVATE,
        reserved: Slot::RESERVES,
        file: memory::FILE,
        cpu: 600,
        threads: 3,
        handles: 0,
    };
    let World { granted, udp, .. } = &attempt.world;
    let folder = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder =
        rustix::fs::open(granted, folder, Mode::empty()).map_err(|err| text(err.into()))?;
    let socket = UdpSocket::bind("127.0.0.1:0").map_err(text)?;
    socket.connect(("127.0.0.1", *udp)).map_err(text)?;
    let room = SealedWriter::room("belljar-test").map_err(text)?;
    let mut plan = process.plan(role, Confinement::Strict, limits);
    plan.layers = layers.to_vec();
    let guest = GuestInfo::embedded().sha256.to_owned();
    let setup =
        Setup { plan, variant: Variant::default(), guest, work: Work::Breach(Box::new(attempt)) };
    channel.send(&setup, &[]).map_err(text)?;
    channel.send(&(), &[folder.as_fd(), socket.as_fd(), room.as_fd()]).map_err(text)?;
    match channel.receive::<Ready>(Some(MAX_TIME)).map_err(text)? {
        Received::Message(Ok(missing), _) if missing.is_empty() => {}
        Received::Message(Ok(missing), _) => {
            return Err(format!("layers of confinement are missing: {missing:?}"));
        }
        Received::Message(Err(missing), _) => return Err(missing.to_string()),
        Received::Closed | Received::Unread => return Err(process.ended().to_string()),
        Received::TimedOut => return Err("the worker did not become ready in time".into()),
    }
    match channel.receive::<AttemptResult>(Some(MAX_TIME)).map_err(text)? {
        Received::Message(Ok(()), _) => Ok(Ended::Allowed),
        Received::Message(Err(errno), _) => Ok(Ended::Refused(errno)),
        Received::Closed | Received::Unread => match process.ended() {
            // It executed another program, which exited.
            WorkerEnd::Exit(0) => Ok(Ended::Allowed),
            WorkerEnd::Signal(signal) if signal == Signal::SYS.as_raw() => Ok(Ended::Killed),
            // The file size limit.
            WorkerEnd::Signal(signal) if signal == Signal::XFSZ.as_raw() => {
                Ok(Ended::Refused(libc::EFBIG))
            }
            how => Err(how.to_string()),
        },
        Received::TimedOut => Err(format!("the attempt did not end within {MAX_TIME:?}")),
    }
}
