//! Tests that the guest with a clock serves no requests, and that no other guest gets a clock.

use std::sync::Arc;

use belljar_abi::clock::{self, Reading};

use super::engine::{Engines, Variant};
use super::failure::Failure;
use super::instance::Template;
use super::limits::SandboxLimits;
use super::machine::Machine;
use super::snapshot::Snapshot;
use super::{Call, Payload};

const PAGE: usize = 64 << 10;

/// The addresses of the message and the answer of the guest below.
const MESSAGE: i64 = 1024;
const ANSWER: i64 = 2048;

const LIMITS: SandboxLimits = SandboxLimits {
    memory: 1 << 20,
    stack: 1 << 20,
    log: 1 << 10,
    answer: 1 << 10,
    native_kernels: true,
    threads: 1,
};

/// A guest that imports the clock. A profiled run writes a reading to the address in its message.
fn with_clock() -> Vec<u8> {
    let name = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
    let section = |number: u8, body: Vec<u8>| {
        assert!(body.len() < 128, "a length of one byte");
        [vec![number, body.len() as u8], body].concat()
    };
    let constant = |opcode: u8, mut value: i64| {
        let mut bytes = vec![opcode];
        while !(0..64).contains(&value) {
            bytes.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
        bytes
    };
    let function = |code: Vec<u8>| {
        let body = [vec![0], code, vec![0x0b]].concat();
        [vec![body.len() as u8], body].concat()
    };
    let answer = || constant(0x42, (Reading::LEN as i64) << 32 | ANSWER);
    let read_clock = vec![0x20, 0, 0x28, 2, 0, 0x10, 0];
    let export = |text: &str, kind: u8, index: u8| [name(text), vec![kind, index]].concat();
    let exports = [
        export("memory", 2, 0),
        export("belljar_alloc", 0, 1),
        export("belljar_run", 0, 2),
        export("belljar_profile", 0, 3),
    ];
    [
        b"\0asm\x01\0\0\0".to_vec(),
        section(1, vec![3, 0x60, 1, 0x7f, 1, 0x7f, 0x60, 2, 0x7f, 0x7f, 1, 0x7e, 0x60, 1, 0x7f, 0]),
        section(2, [vec![1], name("belljar"), name("clock"), vec![0, 2]].concat()),
        section(3, vec![3, 0, 1, 1]),
        section(5, vec![1, 0, 1]),
        section(7, [vec![exports.len() as u8], exports.concat()].concat()),
        section(
            10,
            [
                vec![3],
                function(constant(0x41, MESSAGE)),
                function(answer()),
                function([read_clock, answer()].concat()),
            ]
            .concat(),
        ),
    ]
    .concat()
}

/// A sandbox of this guest that starts from a snapshot of zeros.
fn machine(module: &[u8], profiles: bool) -> Result<Machine, Failure> {
    let engine = Engines::new_engine(Variant::default(), LIMITS.stack).unwrap();
    let module = wasmtime::Module::new(&engine, module).unwrap();
    let template = match profiles {
        true => Template::profiling(&engine, &module, LIMITS)?,
        false => Template::new(&engine, &module, LIMITS)?,
    };
    let mut machine = Machine::new(template);
    let snapshot = Arc::new(Snapshot::capture(&[0; PAGE]).unwrap());
    machine.call(Call::Adopt, &Payload::Snapshot(snapshot), None, |_| Ok(()))?;
    Ok(machine)
}

/// The answer to a call whose message is one number.
fn call(machine: &mut Machine, call: Call, number: u32) -> Result<Reading, Failure> {
    let payload = Payload::Bytes(number.to_le_bytes().to_vec());
    let answer = |message: &[u8]| Ok(message.first_chunk().map(Reading::decode));
    machine.call(call, &payload, None, answer).map(|(reading, _)| reading.unwrap())
}

#[test]
fn a_serving_sandbox_rejects_a_guest_that_imports_the_clock() {
    let Err(Failure::Host(why)) = machine(&with_clock(), false) else { panic!("it got a clock") };
    assert!(why.contains("clock"), "{why}");
}

#[test]
fn a_profiling_sandbox_rejects_a_guest_without_the_clock() {
    let without = clock::remove(&with_clock()).unwrap();
    assert!(matches!(
        machine(&without, true),
        Err(Failure::Host(why)) if why.contains("not import the clock")
    ));
}

#[test]
fn profiling_and_serving_guests_reject_each_others_calls() {
    let mut profiling = machine(&with_clock(), true).unwrap();
    let mut serving = machine(&clock::remove(&with_clock()).unwrap(), false).unwrap();
    let calls =
        [Call::Load, Call::Describe, Call::External, Call::Prepare, Call::Run, Call::Kernels];
    for refused in calls {
        let failed = call(&mut profiling, refused, 0).unwrap_err().to_string();
        assert!(failed.contains("profiled runs need the profiling guest"), "{refused:?}: {failed}");
    }
    let failed = call(&mut serving, Call::Profile, 0).unwrap_err().to_string();
    assert!(failed.contains("profiled runs need the profiling guest"), "{failed}");
    call(&mut serving, Call::Run, 0).unwrap();
}

#[test]
fn the_clock_advances_and_writes_only_inside_the_sandbox() {
    let mut machine = machine(&with_clock(), true).unwrap();
    let mut last = 0;
    for _ in 0..3 {
        let reading = call(&mut machine, Call::Profile, ANSWER as u32).unwrap();
        assert!(reading.nanoseconds > last, "{reading:?} after {last}");
        let nothing = Reading { nanoseconds: reading.nanoseconds, ..Reading::default() };
        assert_eq!(reading, nothing, "no kernel has computed anything");
        last = reading.nanoseconds;
    }
    call(&mut machine, Call::Profile, (PAGE - Reading::LEN) as u32).unwrap();
    for outside in [PAGE - Reading::LEN + 1, PAGE, u32::MAX as usize] {
        let failed = call(&mut machine, Call::Profile, outside as u32).unwrap_err();
        assert!(matches!(failed, Failure::Trapped(_)), "{failed:?}");
    }
}
