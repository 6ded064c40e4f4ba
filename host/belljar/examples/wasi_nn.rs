//! An embedder of wasmtime whose programs ask for inference, each model in a sandbox of its own:
//! `cargo run --release --example wasi_nn -- MODEL PROGRAM FILE`, with
//! `target/models/magika.onnx` and `target/guest/programs/file-type.wasm` (`cargo xtask programs`).
use belljar::wasi_nn::Models;
use belljar::{Host, ModelBytes, Policy};
use wasmtime::component::{Component, Linker, ResourceTable};
use wasmtime::{Engine, Store};
use wasmtime_wasi_nn::wit::{self, WasiNnCtx, WasiNnView};

mod program {
    #![allow(missing_docs)] // They are in the WIT file.
    wasmtime::component::bindgen!({ path: "../../guest-models/wit", world: "belljar:program/program" });
}
use program::belljar::program::values::Value;

struct State {
    nn: WasiNnCtx,
    table: ResourceTable,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    belljar::become_worker_if_asked();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, path, file] = &arguments[..] else { return Err("see the first lines".into()) };

    // The model: behind the program's sandbox there is another one.
    let policy = Policy::default();
    let bytes = ModelBytes::open(model.as_ref(), policy.limits.model_size)?;
    let mut models = Models::new();
    models.insert("magika", &Host::new()?.load(bytes, &policy)?);
    let failures = models.failures();

    // The program, in an engine of the embedder's own.
    let engine = Engine::default();
    let mut linker = Linker::new(&engine);
    wit::add_to_linker(&mut linker, |state: &mut State| {
        WasiNnView::new(&mut state.table, &mut state.nn)
    })?;
    let nn = WasiNnCtx::new([], models.into());
    let mut store = Store::new(&engine, State { nn, table: ResourceTable::new() });
    let component = Component::from_file(&engine, path)?;
    let program = program::Program::instantiate(&mut store, &component, &linker)?;

    let inputs = [("file".to_owned(), Value::Bytes(std::fs::read(file)?))];
    let outputs = program.call_run(&mut store, &inputs)?.map_err(|said| match failures.take() {
        Some(reason) => format!("{said} ({reason})"),
        None => said,
    })?;
    for (name, value) in outputs {
        if let Value::Tensor(tensor) = value {
            println!("{name}: {:?} {:?}", tensor.element_type, tensor.shape);
        }
    }
    Ok(())
}
