//! The life cycle of a sandbox: a first instance loads, describes and prepares the model. Its
//! memory then becomes a snapshot, and every run gets a new instance that starts from it.
//!
//! A run must not see data of another one: a slot is reused only after a reset, and dropped if the
//! reset fails; the scratch memory of native kernels is cleared at the same time. The next instance
//! is created after a run has ended, while no request waits.

#[cfg(test)]
mod file_tests;
#[cfg(test)]
mod tests;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use belljar_abi::{Reply, decode_reply, encode_ok};

use super::failure::{Failure, Limit};
use super::instance::{Deadline, Instance, Start, Template};
use super::slot::{ResetMethod, Slot};
use super::snapshot::Snapshot;
use super::{Call, Cost, Payload};

/// A sandbox without its thread or process.
pub(super) struct Machine {
    template: Template,
    stage: Stage,
    log: Vec<String>,
    /// Duration of the last reset; reported with the next answer.
    reset: Duration,
    /// The file for the snapshot, if this process may not create one.
    room: Option<OwnedFd>,
}

enum Stage {
    /// The first instance, created on first use.
    First(Option<Box<Instance>>),
    /// The model is prepared.
    Prepared { snapshot: Arc<Snapshot>, slot: SlotState },
}

/// The slot for the next run.
enum SlotState {
    /// An instance that has not run yet, in a clean slot.
    Ready(Box<Ready>),
    Used(Slot),
    None,
}

/// An instance for one run.
struct Ready {
    instance: Instance,
    /// How its memory was reset.
    method: ResetMethod,
    /// How long its creation took.
    took: Duration,
}

impl Ready {
    fn new(template: &Template, pristine: Slot) -> Result<Box<Ready>, Failure> {
        let (start, method) = (Instant::now(), pristine.reset_method());
        let instance = template.instantiate(pristine, Start::Snapshot, None)?;
        Ok(Box::new(Ready { instance, method, took: start.elapsed() }))
    }
}

impl Machine {
    pub(super) fn new(template: Template) -> Machine {
        let (stage, log, reset) = (Stage::First(None), Vec::new(), Duration::ZERO);
        Machine { template, stage, log, reset, room: None }
    }

    /// Sets the file for the snapshot, for a process that may not create memory files.
    pub(super) fn with_room(self, room: Option<OwnedFd>) -> Machine {
        Machine { room, ..self }
    }

    /// Makes one call. `answer` receives the guest's message while it is still in linear memory.
    pub(super) fn call<T>(
        &mut self,
        call: Call,
        payload: &Payload,
        deadline: Option<&Deadline>,
        answer: impl FnOnce(&[u8]) -> Result<T, Failure>,
    ) -> Result<(T, Cost), Failure> {
        let allowed = match call {
            Call::Adopt => true,
            Call::Profile => self.template.profiles(),
            _ => !self.template.profiles(),
        };
        if !allowed {
            let why = "profiled runs need the profiling guest, which accepts no other calls";
            return Err(Failure::Host(why.into()));
        }
        match call {
            #[cfg(test)]
            Call::Panic => self.first_instance(deadline)?.call(call, payload, deadline, answer),
            Call::Run | Call::Profile => self.run(call, payload, deadline, answer),
            Call::Prepare => self.prepare(payload, deadline, answer),
            Call::Adopt => self.adopt(payload, answer),
            Call::Load | Call::Describe | Call::External | Call::Kernels => {
                self.first_call(call, payload, deadline, answer)
            }
            Call::Picture => self.first_call(call, payload, deadline, answer),
        }
    }

    /// Makes a call to the first instance, before the model is prepared.
    fn first_call<T>(
        &mut self,
        call: Call,
        payload: &Payload,
        deadline: Option<&Deadline>,
        answer: impl FnOnce(&[u8]) -> Result<T, Failure>,
    ) -> Result<(T, Cost), Failure> {
        let instance = self.first_instance(deadline)?;
        let result = instance.call(call, payload, deadline, answer);
        let log = instance.take_log();
        self.log.extend(log);
        result
    }

    /// The snapshot that runs start from, if the model is prepared.
    pub(super) fn snapshot(&self) -> Option<&Arc<Snapshot>> {
        match &self.stage {
            Stage::Prepared { snapshot, .. } => Some(snapshot),
            Stage::First(_) => None,
        }
    }

    fn adopt<T>(
        &mut self,
        payload: &Payload,
        answer: impl FnOnce(&[u8]) -> Result<T, Failure>,
    ) -> Result<(T, Cost), Failure> {
        let (Payload::Snapshot(snapshot), Stage::First(None)) = (payload, &self.stage) else {
            return Err(Failure::Host(
                "the sandbox already has a model, and cannot start from a snapshot".into(),
            ));
        };
        self.stage = Stage::Prepared { snapshot: Arc::clone(snapshot), slot: SlotState::None };
        Ok((answer(&encode_ok())?, Cost::default()))
    }

    /// Takes the log lines since the last call of this function.
    pub(super) fn take_log(&mut self) -> Vec<String> {
        std::mem::take(&mut self.log)
    }

    /// Clears the kernels' scratch memory and resets the slot of the last run, then creates the
    /// instance for the next run. Best called while no request waits. A failure here is ignored:
    /// the next run retries and reports it.
    pub(super) fn recycle(&mut self) {
        let start = Instant::now();
        self.template.scratch().clear();
        let Stage::Prepared { slot, .. } = &mut self.stage else { return };
        // Only a used slot is taken out; a clean one stays in place.
        if matches!(slot, SlotState::Used(_))
            && let SlotState::Used(mut used) = std::mem::replace(slot, SlotState::None)
        {
            let reset = used.reset();
            if let Ok(true) = reset {
                // The scratch memory of a run that wrote more than usual is returned as well.
                self.template.scratch().release();
            }
            self.reset = start.elapsed();
            if reset.is_ok()
                && let Ok(ready) = Ready::new(&self.template, used)
            {
                *slot = SlotState::Ready(ready);
            }
        }
    }

    fn first_instance(&mut self, deadline: Option<&Deadline>) -> Result<&mut Instance, Failure> {
        let Stage::First(first) = &mut self.stage else {
            return Err(Failure::Host("the model is already prepared".into()));
        };
        match first {
            Some(instance) => Ok(instance),
            None => {
                let slot = new_slot()?;
                let instance = self.template.instantiate(slot, Start::Fresh, deadline)?;
                Ok(first.insert(Box::new(instance)))
            }
        }
    }

    fn prepare<T>(
        &mut self,
        payload: &Payload,
        deadline: Option<&Deadline>,
        answer: impl FnOnce(&[u8]) -> Result<T, Failure>,
    ) -> Result<(T, Cost), Failure> {
        let instance = self.first_instance(deadline)?;
        let result = instance.call(Call::Prepare, payload, deadline, |message| {
            let prepared = matches!(decode_reply(message), Ok(Reply::Prepared(_)));
            Ok((answer(message)?, prepared))
        });
        let log = instance.take_log();
        self.log.extend(log);
        let ((answer, prepared), cost) = result?;
        if prepared {
            self.keep_snapshot()?;
        }
        Ok((answer, cost))
    }

    /// Turns the memory of the first instance into the snapshot for all others.
    fn keep_snapshot(&mut self) -> Result<(), Failure> {
        let failed =
            |err: std::io::Error| Failure::Host(format!("cannot create the snapshot: {err}"));
        let Stage::First(Some(instance)) = std::mem::replace(&mut self.stage, Stage::First(None))
        else {
            return Err(Failure::Host("cannot create the snapshot: no model was loaded".into()));
        };
        let snapshot = match self.room.take() {
            Some(room) => Snapshot::capture_in(room, instance.memory()),
            None => Snapshot::capture(instance.memory()),
        };
        let snapshot = Arc::new(snapshot.map_err(failed)?);
        // This frees the first instance's slot too; its memory is now in the snapshot.
        drop(instance);
        self.stage = Stage::Prepared { snapshot, slot: SlotState::None };
        Ok(())
    }

    fn run<T>(
        &mut self,
        call: Call,
        payload: &Payload,
        deadline: Option<&Deadline>,
        answer: impl FnOnce(&[u8]) -> Result<T, Failure>,
    ) -> Result<(T, Cost), Failure> {
        self.recycle();
        let Stage::Prepared { snapshot, slot } = &mut self.stage else {
            return Err(Failure::Host("the model is not prepared".into()));
        };
        let limit = self.template.limits().memory;
        if snapshot.len() as u64 > limit {
            return Err(Failure::Limit(Limit::Memory { limit }));
        }
        let ready = match std::mem::replace(slot, SlotState::None) {
            SlotState::Ready(ready) => ready,
            SlotState::Used(_) | SlotState::None => {
                let mut slot = new_slot()?;
                slot.map(snapshot)
                    .map_err(|err| Failure::Host(format!("cannot map the snapshot: {err}")))?;
                Ready::new(&self.template, slot)?
            }
        };
        let Ready { mut instance, method, took: instantiate } = *ready;
        let result = instance.call(call, payload, deadline, answer);
        self.log.extend(instance.take_log());
        if let Some(used) = instance.end() {
            *slot = SlotState::Used(used);
        }
        let (answer, cost) = result?;
        let reset = std::mem::take(&mut self.reset);
        Ok((answer, Cost { instantiate, reset, method, ..cost }))
    }
}

fn new_slot() -> Result<Slot, Failure> {
    Slot::new()
        .map_err(|err| Failure::Host(format!("cannot reserve a sandbox's address space: {err}")))
}

#[cfg(test)]
#[path = "../../../../../tests/support/onnx.rs"]
pub(super) mod onnx;
