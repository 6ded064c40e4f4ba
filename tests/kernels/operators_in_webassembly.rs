//! Runs the operators' unit tests inside WebAssembly, where sizes have 32 bits and the arithmetic
//! is that of the guest's target and flags.
//!
//! `cargo xtask guest --tests` builds the module, which exports each test.

use crate::support;

use support::repository;
use wasmtime::{Config, Engine, Instance, Module, OptLevel, Store};

/// Minimum number of tests; fewer mean that exports are missing.
const MIN_TESTS: usize = 290;

fn module() -> (Engine, Module) {
    let path = repository().join("target/guest/onnx_ops_tests.wasm");
    let wasm = std::fs::read(&path)
        .unwrap_or_else(|err| panic!("{}: {err}; run `cargo xtask guest --tests`", path.display()));
    let mut config = Config::new();
    // Optimising would take longer than the tests.
    config.cranelift_opt_level(OptLevel::None);
    let engine = Engine::new(&config).unwrap();
    let module = Module::new(&engine, wasm).unwrap();
    (engine, module)
}

/// Runs one test in a new instance. `Err` has the reason of a failure.
fn run(engine: &Engine, module: &Module, name: &str) -> Result<(), String> {
    let mut store = Store::new(engine, ());
    let instance = Instance::new(&mut store, module, &[]).map_err(|err| err.to_string())?;
    let begin = instance.get_typed_func::<(), ()>(&mut store, "__wasm_call_ctors").unwrap();
    begin.call(&mut store, ()).map_err(|err| err.to_string())?;
    let test = instance.get_typed_func::<(), ()>(&mut store, name).unwrap();
    let Err(trap) = test.call(&mut store, ()) else { return Ok(()) };
    let failure = instance.get_typed_func::<(), u64>(&mut store, "failure").unwrap();
    let memory = instance.get_memory(&mut store, "memory").unwrap();
    let Ok(place) = failure.call(&mut store, ()) else { return Err(trap.to_string()) };
    let (start, len) = ((place & 0xffff_ffff) as usize, (place >> 32) as usize);
    let reason = String::from_utf8_lossy(&memory.data(&store)[start..start + len]).into_owned();
    Err(if reason.is_empty() { trap.to_string() } else { reason })
}

#[test]
fn operators_pass_their_unit_tests_inside_webassembly() {
    let (engine, module) = module();
    assert_eq!(module.imports().count(), 0, "the module has imports");
    let names: Vec<&str> = module
        .exports()
        .map(|export| export.name())
        .filter(|name| name.starts_with("test "))
        .collect();
    let failures: Vec<String> = names
        .iter()
        .filter_map(|name| {
            let reason = run(&engine, &module, name).err()?;
            Some(format!("{name}: {reason}"))
        })
        .collect();
    println!("{} tests of operators, {} failed", names.len(), failures.len());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(names.len() >= MIN_TESTS, "only {} tests", names.len());
}
