//! What a worker process does, by the work that its supervisor gives it: the one place that knows
//! both sandboxes and guest programs.

use std::io;
use std::os::fd::OwnedFd;

use belljar_confine::channel::{Channel, Received};

#[cfg(feature = "programs")]
use crate::program;
use crate::sandbox::{self, Engines, GuestInfo, GuestKind, Setup, Work, be_confined};

/// Serves the supervisor at the other end of `socket` until it closes the connection.
pub(crate) fn serve(socket: OwnedFd) -> io::Result<()> {
    let mut channel = Channel::lasting(socket);
    let Received::Message(setup, descriptors) = channel.receive::<Setup>(None)? else {
        return Ok(());
    };
    if setup.guest != GuestInfo::embedded().sha256 {
        return Err(io::Error::other(
            "the worker program is of another build than its supervisor; install both from one \
             build",
        ));
    }
    match setup.work {
        Work::Nothing => be_confined(&mut channel, &setup.plan, &[]).map(drop),
        Work::Compile(guest) => {
            // Counting processors reads files, and an engine sets signal handlers, so both come
            // before the confinement.
            let processors = processors();
            let engine = Engines::new_engine(setup.variant, 1 << 20);
            match be_confined(&mut channel, &setup.plan, &[])? {
                true => {
                    let room = sandbox::only(descriptors).map_err(io::Error::other)?;
                    sandbox::compile(&mut channel, guest, engine, &setup.plan, processors, room)
                }
                false => Ok(()),
            }
        }
        Work::Sandbox(limits) => {
            sandbox::serve(channel, setup, limits, GuestKind::Serving, descriptors)
        }
        Work::Profile(limits) => {
            sandbox::serve(channel, setup, limits, GuestKind::Profiling, descriptors)
        }
        #[cfg(feature = "programs")]
        Work::CompileProgram => {
            let processors = processors();
            let engine = program::new_engine(1 << 20);
            match be_confined(&mut channel, &setup.plan, &[])? {
                true => program::compile(&mut channel, engine, &setup.plan, processors),
                false => Ok(()),
            }
        }
        #[cfg(feature = "programs")]
        Work::Program { limits, files } => {
            let engine = program::new_engine(limits.stack);
            let files = program::receive_files(&mut channel, files)?;
            let granted = program::granted(&files);
            match be_confined(&mut channel, &setup.plan, &granted)? {
                true => {
                    drop(granted);
                    program::run(channel, engine, limits, setup.plan, files)
                }
                false => Ok(()),
            }
        }
        #[cfg(feature = "test-hooks")]
        Work::Breach(attempt) => breach(channel, &setup.plan, &attempt),
    }
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Makes the system calls of an attacker who has taken over this worker.
#[cfg(feature = "test-hooks")]
fn breach(
    mut channel: Channel,
    plan: &belljar_confine::setup::Plan,
    attempt: &belljar_confine::breach::Attempt,
) -> io::Result<()> {
    use std::os::fd::{AsFd as _, AsRawFd};

    use belljar_confine::breach::{self, Held};
    use belljar_confine::role::Role;
    use belljar_confine::setup::Granted;

    let Received::Message((), held) = channel.receive::<()>(None)? else {
        return Ok(());
    };
    let number = |at: usize| held.get(at).map_or(-1, AsRawFd::as_raw_fd).into();
    breach::hold(Held { folder: number(0), socket: number(1), room: number(2) });
    let granted = held.iter().take(usize::from(plan.role == Role::GrantedProgram));
    let granted: Vec<_> =
        granted.map(|folder| Granted { descriptor: folder.as_fd(), write: true }).collect();
    match be_confined(&mut channel, plan, &granted)? {
        true => {
            // As before the hostile part of a worker's work.
            plan.narrow()?;
            channel.send(&attempt.make(), &[])
        }
        false => Ok(()),
    }
}
