//! A core module that uses the unmodified `wasi-nn` crate of the registry. The embedder writes a
//! model and the bytes of one input into buffers, and reads one output.
//!
//! It does not print, so that it only imports inference.

use std::cell::RefCell;

use wasi_nn::{ExecutionTarget, GraphBuilder, GraphEncoding, TensorType};

thread_local! {
    static BUFFERS: RefCell<[Vec<u8>; 3]> = const { RefCell::new([Vec::new(), Vec::new(), Vec::new()]) };
}

/// The buffer of the model, the input or the output; `which` is 0, 1 or 2.
#[unsafe(no_mangle)]
extern "C" fn buffer(which: usize, len: usize) -> *mut u8 {
    BUFFERS.with_borrow_mut(|buffers| {
        let buffer = &mut buffers[which];
        *buffer = vec![0; len];
        buffer.as_mut_ptr()
    })
}

/// Loads the model of the first buffer, or the one called `model` if that is empty, runs it on the
/// second buffer as 32-bit integers of shape `[1, n]`, and puts its first output into the third.
/// Answers 0, or 1 if the host refuses.
#[unsafe(no_mangle)]
extern "C" fn infer() -> i32 {
    BUFFERS.with_borrow_mut(|[model, input, output]| i32::from(run(model, input, output).is_err()))
}

fn run(model: &[u8], input: &[u8], output: &mut [u8]) -> Result<(), wasi_nn::Error> {
    let builder = GraphBuilder::new(GraphEncoding::Onnx, ExecutionTarget::CPU);
    let graph = match model {
        [] => builder.build_from_cache("model")?,
        model => builder.build_from_bytes([model])?,
    };
    let mut context = graph.init_execution_context()?;
    context.set_input(0, TensorType::I32, &[1, input.len() / 4], input)?;
    context.compute()?;
    context.get_output(0, output)?;
    Ok(())
}
