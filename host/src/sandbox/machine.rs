//! The life of a sandbox: a first instance loads, describes and prepares the model; its memory then
//! becomes an image, and every run has an instance of its own that starts from it.
//!
//! No run may see what another one left: a slot is used again only after it was reset, and is
//! thrown away when that fails. What a run needs is made once the one before it is over, while
//! nobody waits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use belljar_abi::{Reply, decode_reply, encode_ok};

use super::failure::{Failure, Limit};
use super::image::Image;
use super::instance::{Deadline, Instance, Start, Template};
use super::slot::{ResetMethod, Slot};
use super::{Call, Cost, Payload};

/// A sandbox without its thread or process.
pub(super) struct Machine {
    template: Template,
    stage: Stage,
    log: Vec<String>,
    /// What the last reset took; told with the next answer.
    reset: Duration,
}

enum Stage {
    /// The first instance, once it is needed.
    First(Option<Box<Instance>>),
    /// The model is prepared.
    Prepared { image: Arc<Image>, slot: SlotState },
}

/// What there is for the next run.
enum SlotState {
    /// An instance of which nothing has run, in a pristine slot.
    Ready(Box<Ready>),
    Used(Slot),
    None,
}

/// An instance for one run.
struct Ready {
    instance: Instance,
    /// How its memory was made pristine.
    method: ResetMethod,
    /// What making it took.
    took: Duration,
}

impl Ready {
    fn new(template: &Template, pristine: Slot) -> Result<Box<Ready>, Failure> {
        let (start, method) = (Instant::now(), pristine.reset_method());
        let instance = template.instantiate(pristine, Start::Image, None)?;
        Ok(Box::new(Ready { instance, method, took: start.elapsed() }))
    }
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
            #[cfg(test)]
            Call::Panic => self.first_instance(deadline)?.call(call, payload, deadline, answer),
            Call::Run => self.run(payload, deadline, answer),
            Call::Prepare => self.prepare(payload, deadline, answer),
            Call::Adopt => self.adopt(payload, answer),
            Call::Load | Call::Describe | Call::External | Call::Kernels => {
                let instance = self.first_instance(deadline)?;
                let result = instance.call(call, payload, deadline, answer);
                let log = instance.take_log();
                self.log.extend(log);
                result
            }
        }
    }

    /// The image that runs start from, once there is one.
    pub(super) fn image(&self) -> Option<&Arc<Image>> {
        match &self.stage {
            Stage::Prepared { image, .. } => Some(image),
            Stage::First(_) => None,
        }
    }

    fn adopt<T>(
        &mut self,
        payload: &Payload,
        answer: impl FnOnce(&[u8]) -> Result<T, Failure>,
    ) -> Result<(T, Cost), Failure> {
        let (Payload::Image(image), Stage::First(None)) = (payload, &self.stage) else {
            return Err(Failure::Host("an image came where none was expected".into()));
        };
        self.stage = Stage::Prepared { image: Arc::clone(image), slot: SlotState::None };
        Ok((answer(&encode_ok())?, Cost::default()))
    }

    /// The log lines since the last time.
    pub(super) fn take_log(&mut self) -> Vec<String> {
        std::mem::take(&mut self.log)
    }

    /// Makes the slot pristine and an instance in it, ahead of the next run. Best called while nobody
    /// waits. What fails here is tried again, and reported, by the run.
    pub(super) fn recycle(&mut self) {
        let Stage::Prepared { slot, .. } = &mut self.stage else { return };
        // Only a used slot is taken out: a pristine one waits where it is.
        if matches!(slot, SlotState::Used(_))
            && let SlotState::Used(mut used) = std::mem::replace(slot, SlotState::None)
        {
            let start = Instant::now();
            let pristine = used.reset().is_ok();
            self.reset = start.elapsed();
            if pristine && let Ok(ready) = Ready::new(&self.template, used) {
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
        let Stage::First(Some(instance)) = std::mem::replace(&mut self.stage, Stage::First(None))
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
        let ready = match std::mem::replace(slot, SlotState::None) {
            SlotState::Ready(ready) => ready,
            SlotState::Used(_) | SlotState::None => {
                let mut slot = new_slot()?;
                slot.map(image).map_err(|err| Failure::Host(format!("no memory: {err}")))?;
                Ready::new(&self.template, slot)?
            }
        };
        let Ready { mut instance, method, took: instantiate } = *ready;
        let result = instance.call(Call::Run, payload, deadline, answer);
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
    Slot::new().map_err(|err| Failure::Host(format!("no address space for a sandbox: {err}")))
}

#[cfg(test)]
#[path = "../../../tests/support/onnx.rs"]
pub(super) mod onnx;

#[cfg(test)]
mod tests {
    use belljar_abi::{DType, InputShape, TensorView, encode_shapes, encode_tensors};

    use super::super::engine::{Engines, Variant};
    use super::super::guest::CODE;
    use super::super::limits::SandboxLimits;
    use super::*;
    use crate::error::{Error, ErrorKind, Phase};

    #[test]
    fn a_slot_that_was_made_pristine_is_used_again() {
        let graph = onnx::relu(&onnx::fixed(&[4]));
        let mut machine = prepared(&graph, "x", &[4]);
        for _ in 0..3 {
            run(&mut machine, &[4], &[1.0; 4]);
            // At the end of one run and at the start of the next.
            machine.recycle();
            machine.recycle();
            let Stage::Prepared { slot, .. } = &machine.stage else { unreachable!() };
            assert!(matches!(slot, SlotState::Ready(_)));
        }
    }

    /// What lies ready was made before anybody knew of the request that it serves.
    #[test]
    fn an_instance_made_ahead_is_as_good_as_new() {
        const SIZE: usize = 1 << 16;
        let mut machine = prepared(&onnx::relu(&onnx::fixed(&[SIZE as i64])), "x", &[SIZE as u64]);
        let clean = run(&mut machine, &[SIZE as u64], &vec![1.0; SIZE]).memory;
        run(&mut machine, &[SIZE as u64], &vec![5.5; SIZE]);
        machine.recycle();
        let Stage::Prepared { image, slot } = &machine.stage else { unreachable!() };
        let SlotState::Ready(ready) = slot else { panic!("nothing lies ready") };
        let mut expected = vec![0; image.len()];
        image.read_at(&mut expected, 0).unwrap();
        assert!(ready.instance.memory() == expected, "every byte is that of the image");
        // A deadline that has passed when the run begins holds for it, however old the instance is.
        let data = vec![0; 4 * SIZE];
        let view =
            TensorView { name: "x", dtype: DType::F32, dims: vec![SIZE as u64], data: &data };
        let payload = Payload::Bytes(encode_tensors(&[view]));
        let exceeded = Failure::Limit(Limit::RunTime { limit: Duration::ZERO });
        let deadline = Deadline { ticks: 0, until: Instant::now(), exceeded };
        let failed = machine.call(Call::Run, &payload, Some(&deadline), |_| Ok(()));
        assert!(matches!(failed, Err(Failure::Limit(Limit::RunTime { .. }))), "{failed:?}");
        // What is left of it is undone like anything else.
        assert_eq!(run(&mut machine, &[SIZE as u64], &vec![1.0; SIZE]).memory, clean);
    }

    #[test]
    fn a_panic_of_the_guest_is_a_message() {
        let mut machine = Machine::new(template());
        let failed = machine.call(Call::Panic, &Payload::Empty, None, |_| Ok(()));
        let Err(failure @ Failure::Panicked(_)) = failed else { unreachable!("{failed:?}") };
        assert!(failure.to_string().contains("panicked: on demand"), "{failure}");
        for (phase, code) in [(Phase::Prepare, 4), (Phase::Run, 6)] {
            let failure = Failure::Panicked("on demand".into());
            let error = Error::new(ErrorKind::from_failure(failure, phase));
            assert_eq!(error.exit_code(), code, "{error}");
        }
        // The next one goes on.
        let mut machine = prepared(&onnx::relu(&onnx::fixed(&[4])), "x", &[4]);
        run(&mut machine, &[4], &[1.0; 4]);
    }

    /// Compiling takes a while, so all tests of this module share the code.
    fn template() -> Template {
        static CODE_FILE: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
        let engine = Engines::new_engine(Variant::default(), 2 << 20).unwrap();
        let code = CODE_FILE.get_or_init(|| engine.precompile_module(CODE).unwrap());
        // SAFETY: the bytes were made by `precompile_module` of an engine with these settings.
        let module = unsafe { wasmtime::Module::deserialize(&engine, code) }.unwrap();
        let limits = SandboxLimits {
            memory: 1 << 30,
            stack: 2 << 20,
            log: 1 << 16,
            answer: 1 << 28,
            native_kernels: true,
            threads: 1,
        };
        Template::new(&engine, &module, limits).unwrap()
    }

    fn prepared(graph: &onnx::Graph, name: &str, dims: &[u64]) -> Machine {
        let mut machine = Machine::new(template());
        let mut call = |call, bytes: Vec<u8>| {
            let check = |message: &[u8]| {
                assert!(matches!(decode_reply(message), Ok(Reply::Ok)), "{message:?}");
                Ok(())
            };
            machine.call(call, &Payload::Bytes(bytes), None, check).unwrap();
        };
        call(Call::Load, graph.bytes());
        let shape = InputShape { name: name.into(), dims: dims.to_vec() };
        call(Call::Prepare, encode_shapes(&[shape], &[]));
        machine
    }

    fn run(machine: &mut Machine, dims: &[u64], values: &[f32]) -> Cost {
        let data: &[u8] = bytemuck::cast_slice(values);
        let view = TensorView { name: "x", dtype: DType::F32, dims: dims.to_vec(), data };
        let payload = Payload::Bytes(encode_tensors(&[view]));
        machine
            .call(Call::Run, &payload, None, |message| {
                assert!(matches!(decode_reply(message), Ok(Reply::Tensors(_))));
                Ok(())
            })
            .unwrap()
            .1
    }

    fn count(memory: &[u8], secret: &[u8]) -> usize {
        memory.windows(secret.len()).filter(|window| *window == secret).count()
    }

    /// Both ways of making memory pristine: a machine without a pagemap falls back to the other.
    #[test]
    fn a_secret_of_one_request_is_nowhere_in_the_next() {
        const SIZE: usize = 1 << 20;
        let secret = f32::from_bits(0x4b5e_c3e7);
        let needle = [secret; 4];
        let needle: &[u8] = bytemuck::cast_slice(&needle);
        let dims = [SIZE as u64];
        for force in [None, Some(super::super::slot::ResetMethod::NewMapping)] {
            let mut machine = prepared(&onnx::relu(&onnx::fixed(&[SIZE as i64])), "x", &dims);
            let clean = run(&mut machine, &dims, &vec![1.0; SIZE]).memory;
            run(&mut machine, &dims, &vec![secret; SIZE]);

            // The secret is there before the reset, so that looking for it means something.
            let Stage::Prepared { image, slot } = &mut machine.stage else { unreachable!() };
            let SlotState::Used(mut used) = std::mem::replace(slot, SlotState::None) else {
                panic!("the slot is not the used one")
            };
            assert!(count(used.memory(), needle) > 1000);
            let image_len = image.len();
            if let Some(method) = force {
                used.force(method);
            }
            used.reset().unwrap();
            assert_eq!(used.memory().len(), image_len, "its size is that of the image");
            assert_eq!(count(used.memory(), needle), 0);
            let mut expected = vec![0; image_len];
            image.read_at(&mut expected, 0).unwrap();
            assert!(used.memory() == expected, "every byte is that of the image");

            // What the next instance can grow into is zero, too.
            let mut instance = machine.template.instantiate(used, Start::Image, None).unwrap();
            instance.grow(4 * SIZE);
            assert_eq!(count(instance.memory(), needle), 0);
            assert!(instance.memory()[image_len..].iter().all(|byte| *byte == 0));
            let Stage::Prepared { slot, .. } = &mut machine.stage else { unreachable!() };
            *slot = SlotState::Used(instance.end().unwrap());
            assert_eq!(run(&mut machine, &dims, &vec![1.0; SIZE]).memory, clean);
        }
    }

    #[test]
    fn ten_thousand_runs_that_grow_memory_start_at_the_same_size() {
        // How much memory it needs is in its input: nobody knows ahead.
        let scalar = |name, value| onnx::tensor_f32(name, &[], &[value]);
        let graph = onnx::Graph {
            nodes: vec![
                onnx::node("ReduceMax", &["x"], &["end"], &[onnx::int_attribute("keepdims", 0)]),
                onnx::node("Range", &["zero", "end", "one"], &["r"], &[]),
                onnx::node("ReduceMax", &["r"], &["y"], &[onnx::int_attribute("keepdims", 0)]),
            ],
            initializers: vec![scalar("zero", 0.0), scalar("one", 1.0)],
            inputs: vec![onnx::value("x", onnx::FLOAT, &onnx::fixed(&[2]))],
            outputs: vec![onnx::value("y", onnx::FLOAT, &[])],
        };
        let mut machine = prepared(&graph, "x", &[2]);
        let Stage::Prepared { image, .. } = &machine.stage else { unreachable!() };
        let start = image.len() as u64;
        let values = [0.0, 600_000.0];
        let first = run(&mut machine, &[2], &values).memory;
        assert!(first > start, "the model does not grow its memory: {start} to {first}");
        for _ in 0..10_000 {
            assert_eq!(run(&mut machine, &[2], &values).memory, first);
        }
    }
}
