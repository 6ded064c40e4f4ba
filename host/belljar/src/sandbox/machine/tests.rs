//! Tests of a sandbox's life cycle, most of them of resets: a request must find the memory, and the
//! scratch memory of native kernels, as if it were the first.

use belljar_abi::{DType, InputShape, TensorView, encode_run, encode_shapes};

use super::super::engine::{Engines, Variant};
use super::super::guest::CODE;
use super::super::limits::SandboxLimits;
use super::*;
use crate::error::{Error, ErrorKind, Phase};

#[test]
fn a_slot_is_reused_after_its_reset() {
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

/// The instance is created before the request that it serves arrives.
#[test]
fn an_instance_created_in_advance_equals_the_snapshot() {
    const SIZE: usize = 1 << 16;
    let mut machine = prepared(&onnx::relu(&onnx::fixed(&[SIZE as i64])), "x", &[SIZE as u64]);
    let clean = run(&mut machine, &[SIZE as u64], &vec![1.0; SIZE]).memory;
    run(&mut machine, &[SIZE as u64], &vec![5.5; SIZE]);
    machine.recycle();
    let Stage::Prepared { snapshot, slot } = &machine.stage else { unreachable!() };
    let SlotState::Ready(ready) = slot else { panic!("no instance was created") };
    let mut expected = vec![0; snapshot.len()];
    snapshot.read_at(&mut expected, 0).unwrap();
    assert!(ready.instance.memory() == expected, "every byte is that of the snapshot");
    // The deadline of the run applies, not one from the time when the instance was created.
    let data = vec![0; 4 * SIZE];
    let view = TensorView { name: "x", dtype: DType::F32, dims: vec![SIZE as u64], data: &data };
    let payload = Payload::Bytes(encode_run(0, &[view]));
    let exceeded = Failure::Limit(Limit::RunTime { limit: Duration::ZERO });
    let deadline = Deadline { ticks: 0, until: Instant::now(), exceeded };
    let failed = machine.call(Call::Run, &payload, Some(&deadline), |_| Ok(()));
    assert!(matches!(failed, Err(Failure::Limit(Limit::RunTime { .. }))), "{failed:?}");
    // The interrupted run is undone like any other.
    assert_eq!(run(&mut machine, &[SIZE as u64], &vec![1.0; SIZE]).memory, clean);
}

#[test]
fn a_panic_of_the_guest_is_reported_with_its_message() {
    let mut machine = Machine::new(template());
    let failed = machine.call(Call::Panic, &Payload::Empty, None, |_| Ok(()));
    let Err(failure @ Failure::Panicked(_)) = failed else { unreachable!("{failed:?}") };
    assert!(failure.to_string().contains("panicked: on demand"), "{failure}");
    for (phase, code) in [(Phase::Prepare, 4), (Phase::Run, 6)] {
        let failure = Failure::Panicked("on demand".into());
        let error = Error::new(ErrorKind::from_failure(failure, phase));
        assert_eq!(error.exit_code(), code, "{error}");
    }
    // The next sandbox works.
    let mut machine = prepared(&onnx::relu(&onnx::fixed(&[4])), "x", &[4]);
    run(&mut machine, &[4], &[1.0; 4]);
}

/// All tests of this module share the code, because compiling is slow.
pub(super) fn template() -> Template {
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
            let done = matches!(decode_reply(message), Ok(Reply::Ok | Reply::Prepared(_)));
            assert!(done, "{message:?}");
            Ok(())
        };
        machine.call(call, &Payload::Bytes(bytes), None, check).unwrap();
    };
    call(Call::Load, graph.bytes());
    let shape = InputShape { name: name.into(), dims: dims.to_vec() };
    call(Call::Prepare, encode_shapes(&[shape], &[], &[]));
    machine
}

fn run(machine: &mut Machine, dims: &[u64], values: &[f32]) -> Cost {
    let data: &[u8] = bytemuck::cast_slice(values);
    let view = TensorView { name: "x", dtype: DType::F32, dims: dims.to_vec(), data };
    let payload = Payload::Bytes(encode_run(0, &[view]));
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

/// Tests both reset methods: a machine without a pagemap uses the other one.
#[test]
fn reset_clears_all_memory_written_by_previous_request() {
    const SIZE: usize = 1 << 20;
    let secret = f32::from_bits(0x4b5e_c3e7);
    let needle = [secret; 4];
    let needle: &[u8] = bytemuck::cast_slice(&needle);
    let dims = [SIZE as u64];
    for force in [None, Some(super::super::slot::ResetMethod::NewMapping)] {
        let mut machine = prepared(&onnx::relu(&onnx::fixed(&[SIZE as i64])), "x", &dims);
        let clean = run(&mut machine, &dims, &vec![1.0; SIZE]).memory;
        run(&mut machine, &dims, &vec![secret; SIZE]);

        // The secret is in memory before the reset, so the search below is meaningful.
        let Stage::Prepared { snapshot, slot } = &mut machine.stage else { unreachable!() };
        let SlotState::Used(mut used) = std::mem::replace(slot, SlotState::None) else {
            panic!("the slot is not the used one")
        };
        assert!(count(used.memory(), needle) > 1000);
        let snapshot_len = snapshot.len();
        if let Some(method) = force {
            used.force(method);
        }
        used.reset().unwrap();
        assert_eq!(used.memory().len(), snapshot_len, "its size is that of the snapshot");
        assert_eq!(count(used.memory(), needle), 0);
        let mut expected = vec![0; snapshot_len];
        snapshot.read_at(&mut expected, 0).unwrap();
        assert!(used.memory() == expected, "every byte is that of the snapshot");

        // The memory into which the next instance can grow is zero, too.
        let mut instance = machine.template.instantiate(used, Start::Snapshot, None).unwrap();
        instance.grow(4 * SIZE);
        assert_eq!(count(instance.memory(), needle), 0);
        assert!(instance.memory()[snapshot_len..].iter().all(|byte| *byte == 0));
        let Stage::Prepared { slot, .. } = &mut machine.stage else { unreachable!() };
        *slot = SlotState::Used(instance.end().unwrap());
        assert_eq!(run(&mut machine, &dims, &vec![1.0; SIZE]).memory, clean);
    }
}

/// Convolutions by products and by channel, pooling, products and pointwise programs:
/// everything that native kernels use scratch memory for.
fn with_native_kernels() -> onnx::Graph {
    let kernel = [
        onnx::ints_attribute("kernel_shape", &[3, 3]),
        onnx::ints_attribute("pads", &[1, 1, 1, 1]),
    ];
    let pool = [onnx::ints_attribute("kernel_shape", &[2, 2])];
    let by_channel = [&kernel[..], &[onnx::int_attribute("group", 4)]].concat();
    onnx::Graph {
        nodes: vec![
            onnx::node("Conv", &["x", "w"], &["c"], &kernel),
            onnx::node("Conv", &["x", "d"], &["e"], &by_channel),
            onnx::node("MaxPool", &["x"], &["p"], &pool),
            onnx::node("MatMul", &["x", "x"], &["m"], &[]),
            onnx::node("Tanh", &["m"], &["t"], &[]),
            onnx::node("Add", &["t", "c"], &["s"], &[]),
            onnx::node("Add", &["s", "e"], &["y"], &[]),
        ],
        initializers: vec![
            onnx::tensor_f32("w", &[4, 4, 3, 3], &[0.5; 144]),
            onnx::tensor_f32("d", &[4, 1, 3, 3], &[0.5; 36]),
        ],
        inputs: vec![onnx::value("x", onnx::FLOAT, &onnx::fixed(&[1, 4, 20, 20]))],
        outputs: vec![
            onnx::value("y", onnx::FLOAT, &onnx::fixed(&[1, 4, 20, 20])),
            onnx::value("p", onnx::FLOAT, &onnx::fixed(&[1, 4, 19, 19])),
        ],
    }
}

/// The scratch memory of native kernels is outside of the sandbox's memory. The reset at the
/// end of a run, and before the next one, must clear it too.
#[test]
fn reset_clears_scratch_memory_written_by_previous_request() {
    const DIMS: [u64; 4] = [1, 4, 20, 20];
    let secret = f32::from_bits(0x4b5e_c3e7);
    let mut machine = prepared(&with_native_kernels(), "x", &DIMS);
    for _ in 0..2 {
        run(&mut machine, &DIMS, &[secret; 1600]);
        let is_secret = |value: f32| value.to_bits() == secret.to_bits();
        assert!(machine.template.scratch().any(is_secret), "kernels have read the input");
        machine.recycle();
        assert!(machine.template.scratch().is_clear());
    }
    run(&mut machine, &DIMS, &[secret; 1600]);
    run(&mut machine, &DIMS, &[0.0; 1600]);
    // Without a reset after the last run, scratch memory contains only its own values: zeros,
    // weights of 0.5, and the padding of the pool.
    let foreign = |value: f32| !matches!(value, 0.0 | 0.5 | f32::NEG_INFINITY);
    assert!(!machine.template.scratch().any(foreign));
}

#[test]
fn ten_thousand_runs_that_grow_memory_start_at_the_same_size() {
    // The memory that it needs depends on its input.
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
    let Stage::Prepared { snapshot, .. } = &machine.stage else { unreachable!() };
    let start = snapshot.len() as u64;
    let values = [0.0, 600_000.0];
    let first = run(&mut machine, &[2], &values).memory;
    assert!(first > start, "the model does not grow its memory: {start} to {first}");
    for _ in 0..10_000 {
        assert_eq!(run(&mut machine, &[2], &values).memory, first);
    }
}
