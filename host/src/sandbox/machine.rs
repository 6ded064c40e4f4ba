//! The life of a sandbox: a first instance loads, describes and prepares the model; its memory then
//! becomes an image, and every run has an instance of its own that starts from it.
//!
//! No run may see what another one left: a slot is used again only after it was reset, and is
//! thrown away when that fails.

use std::sync::Arc;
use std::time::Instant;

use belljar_abi::{Reply, decode_reply};

use super::failure::{Failure, Limit};
use super::image::Image;
use super::instance::{Deadline, Instance, Start, Template};
use super::slot::Slot;
use super::{Call, Cost, Payload};

/// A sandbox without its thread or process.
pub(super) struct Machine {
    template: Template,
    stage: Stage,
    log: Vec<String>,
    /// What the last reset took; told with the next answer.
    reset: std::time::Duration,
}

enum Stage {
    /// The first instance, once it is needed.
    First(Option<Box<Instance>>),
    /// The model is prepared. The slot is pristine, used, or lost.
    Prepared { image: Arc<Image>, slot: SlotState },
}

enum SlotState {
    Pristine(Slot),
    Used(Slot),
    None,
}

impl Machine {
    pub(super) fn new(template: Template) -> Machine {
        Machine { template, stage: Stage::First(None), log: Vec::new(), reset: Default::default() }
    }

    /// Makes one call. `answer` gets the guest's message while it still lies in linear memory.
    pub(super) fn call<T>(
        &mut self,
        call: Call,
        payload: &Payload,
        deadline: Option<&Deadline>,
        answer: impl FnOnce(&[u8]) -> Result<T, Failure>,
    ) -> Result<(T, Cost), Failure> {
        match call {
            Call::Run => self.run(payload, deadline, answer),
            Call::Prepare => self.prepare(payload, deadline, answer),
            Call::Load | Call::Describe | Call::Kernels => {
                let instance = self.first_instance(deadline)?;
                let result = instance.call(call, payload, deadline, answer);
                let log = instance.take_log();
                self.log.extend(log);
                result
            }
        }
    }

    /// The log lines since the last time.
    pub(super) fn take_log(&mut self) -> Vec<String> {
        std::mem::take(&mut self.log)
    }

    /// Makes the slot pristine ahead of the next run. Best called while nobody waits.
    pub(super) fn recycle(&mut self) {
        if let Stage::Prepared { slot, .. } = &mut self.stage
            && let SlotState::Used(mut used) = std::mem::replace(slot, SlotState::None)
        {
            let start = Instant::now();
            if used.reset().is_ok() {
                *slot = SlotState::Pristine(used);
            }
            self.reset = start.elapsed();
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
            let prepared = matches!(decode_reply(message), Ok(Reply::Ok));
            Ok((answer(message)?, prepared))
        });
        let log = instance.take_log();
        self.log.extend(log);
        let ((answer, prepared), cost) = result?;
        if prepared {
            self.keep_image()?;
        }
        Ok((answer, cost))
    }

    /// Turns the memory of the first instance into the image for all others.
    fn keep_image(&mut self) -> Result<(), Failure> {
        let failed = |err: std::io::Error| Failure::Host(format!("no image could be made: {err}"));
        let Stage::First(Some(instance)) =
            std::mem::replace(&mut self.stage, Stage::First(None))
        else {
            return Err(Failure::Host("there is nothing to make an image of".into()));
        };
        let image = Arc::new(Image::capture(instance.memory()).map_err(failed)?);
        // The first instance's slot goes with it: its memory is now in the image.
        drop(instance);
        self.stage = Stage::Prepared { image, slot: SlotState::None };
        Ok(())
    }

    fn run<T>(
        &mut self,
        payload: &Payload,
        deadline: Option<&Deadline>,
        answer: impl FnOnce(&[u8]) -> Result<T, Failure>,
    ) -> Result<(T, Cost), Failure> {
        self.recycle();
        let Stage::Prepared { image, slot } = &mut self.stage else {
            return Err(Failure::Host("the model is not prepared".into()));
        };
        let limit = self.template.limits().memory;
        if image.len() as u64 > limit {
            return Err(Failure::Limit(Limit::Memory { limit }));
        }
        let pristine = match std::mem::replace(slot, SlotState::None) {
            SlotState::Pristine(slot) => slot,
            SlotState::Used(_) | SlotState::None => {
                let mut slot = new_slot()?;
                slot.map(image).map_err(|err| Failure::Host(format!("no memory: {err}")))?;
                slot
            }
        };
        let start = Instant::now();
        let mut instance = self.template.instantiate(pristine, Start::Image, deadline)?;
        let instantiate = start.elapsed();
        let result = instance.call(Call::Run, payload, deadline, answer);
        self.log.extend(instance.take_log());
        if let Some(used) = instance.end() {
            *slot = SlotState::Used(used);
        }
        let (answer, cost) = result?;
        let reset = std::mem::take(&mut self.reset);
        Ok((answer, Cost { instantiate, reset, ..cost }))
    }
}

fn new_slot() -> Result<Slot, Failure> {
    Slot::new().map_err(|err| Failure::Host(format!("no address space for a sandbox: {err}")))
}
