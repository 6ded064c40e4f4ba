//! `wasi:nn` for programs. A model is only a number here, because the supervisor runs it. Tensors
//! count towards the program's memory.
#![allow(unreachable_pub, reason = "the generated bindings re-export their resources' types")]

use belljar_abi::{DType, MAX_NAME, TensorView, decode_tensors, encode_tensors, fixed_data_len};
use wasmtime::component::Resource;

use super::bindings::nn::errors::{self, ErrorCode};
use super::bindings::nn::tensor::{self, TensorType};
use super::bindings::nn::{graph, inference};
use super::execute::State;
use super::link::{AskWith, Got};
use super::protocol::{Code, Denied, cut};

/// A model.
pub struct Graph {
    model: u32,
}

/// An execution context of a model.
pub struct Context {
    model: u32,
}

/// A tensor from the program, or from the outputs of a model.
pub struct Tensor {
    dimensions: Vec<u32>,
    ty: TensorType,
    data: Vec<u8>,
}

/// Why a call failed.
pub struct Error {
    denied: Denied,
}

type Answer<T> = wasmtime::Result<Result<T, Resource<Error>>>;

/// Memory of a tensor in addition to its elements, in bytes.
const OVERHEAD: u64 = 256;

impl Tensor {
    fn memory(&self) -> u64 {
        let dimensions = 4 * self.dimensions.len() as u64;
        OVERHEAD.saturating_add(dimensions).saturating_add(self.data.len() as u64)
    }
}

impl State {
    /// Creates a host resource for the program, which uses `bytes` of memory.
    fn give<T: Send + 'static>(&mut self, memory: u64, thing: T) -> wasmtime::Result<Resource<T>> {
        self.limiter.charge(memory)?;
        Ok(self.table.push(thing)?)
    }

    fn deny<T>(&mut self, denied: Denied) -> Answer<T> {
        let denied = Denied { text: cut(&denied.text), ..denied };
        let memory = OVERHEAD + denied.text.len() as u64;
        Ok(Err(self.give(memory, Error { denied })?))
    }

    fn model(&mut self, ask: AskWith<'_>) -> Answer<Resource<Graph>> {
        match self.link.ask(ask)? {
            Ok(Got::Model(model)) => Ok(Ok(self.give(OVERHEAD, Graph { model })?)),
            Ok(Got::Computed(_) | Got::Connected(_) | Got::Seen(_)) => {
                Err(wasmtime::Error::msg("unexpected response from the supervisor"))
            }
            Err(denied) => self.deny(denied),
        }
    }

    fn take(&mut self, tensor: Resource<Tensor>) -> wasmtime::Result<Tensor> {
        let tensor = self.table.delete(tensor)?;
        self.limiter.free(tensor.memory());
        Ok(tensor)
    }
}

impl graph::Host for State {
    fn load(
        &mut self,
        builders: Vec<Vec<u8>>,
        encoding: graph::GraphEncoding,
        target: graph::ExecutionTarget,
    ) -> Answer<Resource<Graph>> {
        use graph::{ExecutionTarget, GraphEncoding};
        let unsupported = |text: &str| Denied::new(Code::UnsupportedOperation, text);
        if !matches!(encoding, GraphEncoding::Onnx | GraphEncoding::Autodetect) {
            return self.deny(unsupported("only ONNX models are supported"));
        }
        if target != ExecutionTarget::Cpu {
            return self.deny(unsupported("only the CPU is supported"));
        }
        match &builders[..] {
            [bytes] => self.model(AskWith::Brought(bytes)),
            _ => self.deny(unsupported("an ONNX model must be a single buffer")),
        }
    }

    fn load_by_name(&mut self, name: String) -> Answer<Resource<Graph>> {
        self.model(AskWith::Named(&name))
    }
}

impl graph::HostGraph for State {
    fn init_execution_context(&mut self, graph: Resource<Graph>) -> Answer<Resource<Context>> {
        let model = self.table.get(&graph)?.model;
        Ok(Ok(self.give(OVERHEAD, Context { model })?))
    }

    fn drop(&mut self, graph: Resource<Graph>) -> wasmtime::Result<()> {
        self.table.delete(graph)?;
        self.limiter.free(OVERHEAD);
        Ok(())
    }
}

impl inference::Host for State {}

impl inference::HostGraphExecutionContext for State {
    fn compute(
        &mut self,
        context: Resource<Context>,
        inputs: Vec<(String, Resource<Tensor>)>,
    ) -> Answer<Vec<(String, Resource<Tensor>)>> {
        let model = self.table.get(&context)?.model;
        let mut tensors = Vec::with_capacity(inputs.len());
        for (name, tensor) in inputs {
            tensors.push((name, self.take(tensor)?));
        }
        let message = match encoded(&tensors) {
            Ok(message) => message,
            Err(denied) => return self.deny(denied),
        };
        drop(tensors);
        let outputs = match self.link.ask(AskWith::Compute(model, &message))? {
            Ok(Got::Computed(message)) => decoded(&message),
            Ok(Got::Model(_) | Got::Connected(_) | Got::Seen(_)) => {
                Err(Denied::new(Code::RuntimeError, "unexpected response from the supervisor"))
            }
            Err(denied) => Err(denied),
        };
        match outputs {
            Ok(outputs) => {
                let mut named = Vec::with_capacity(outputs.len());
                for (name, tensor) in outputs {
                    named.push((name, self.give(tensor.memory(), tensor)?));
                }
                Ok(Ok(named))
            }
            Err(denied) => self.deny(denied),
        }
    }

    fn drop(&mut self, context: Resource<Context>) -> wasmtime::Result<()> {
        self.table.delete(context)?;
        self.limiter.free(OVERHEAD);
        Ok(())
    }
}

impl tensor::Host for State {}

impl tensor::HostTensor for State {
    fn new(
        &mut self,
        dimensions: Vec<u32>,
        ty: TensorType,
        data: Vec<u8>,
    ) -> wasmtime::Result<Resource<Tensor>> {
        let tensor = Tensor { dimensions, ty, data };
        self.give(tensor.memory(), tensor)
    }

    fn dimensions(&mut self, tensor: Resource<Tensor>) -> wasmtime::Result<Vec<u32>> {
        Ok(self.table.get(&tensor)?.dimensions.clone())
    }

    fn ty(&mut self, tensor: Resource<Tensor>) -> wasmtime::Result<TensorType> {
        Ok(self.table.get(&tensor)?.ty)
    }

    fn data(&mut self, tensor: Resource<Tensor>) -> wasmtime::Result<Vec<u8>> {
        Ok(self.table.get(&tensor)?.data.clone())
    }

    fn drop(&mut self, tensor: Resource<Tensor>) -> wasmtime::Result<()> {
        self.take(tensor).map(drop)
    }
}

impl errors::Host for State {}

impl errors::HostError for State {
    fn code(&mut self, error: Resource<Error>) -> wasmtime::Result<ErrorCode> {
        Ok(match self.table.get(&error)?.denied.code {
            Code::InvalidArgument => ErrorCode::InvalidArgument,
            Code::NotFound => ErrorCode::NotFound,
            Code::RuntimeError => ErrorCode::RuntimeError,
            Code::Security => ErrorCode::Security,
            Code::TooLarge => ErrorCode::TooLarge,
            Code::UnsupportedOperation => ErrorCode::UnsupportedOperation,
        })
    }

    fn data(&mut self, error: Resource<Error>) -> wasmtime::Result<String> {
        Ok(self.table.get(&error)?.denied.text.clone())
    }

    fn drop(&mut self, error: Resource<Error>) -> wasmtime::Result<()> {
        let error = self.table.delete(error)?;
        self.limiter.free(OVERHEAD + error.denied.text.len() as u64);
        Ok(())
    }
}

/// Encodes inputs. Their shapes and sizes are checked first, because the supervisor treats a
/// malformed message as an attack.
fn encoded(tensors: &[(String, Tensor)]) -> Result<Vec<u8>, Denied> {
    let wrong = |text: String| Denied::new(Code::InvalidArgument, text);
    if tensors.len() > belljar_abi::MAX_TENSORS {
        return Err(wrong(format!(
            "{} inputs; the maximum is {}",
            tensors.len(),
            belljar_abi::MAX_TENSORS
        )));
    }
    let mut views = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let dtype = dtype(tensor.ty);
        if name.len() > MAX_NAME || tensor.dimensions.len() > belljar_abi::MAX_RANK {
            let (len, rank) = (name.len(), tensor.dimensions.len());
            return Err(wrong(format!(
                "an input has a name of {len} bytes and {rank} dimensions; the maximums are \
                 {MAX_NAME} bytes and {} dimensions",
                belljar_abi::MAX_RANK
            )));
        }
        let dims: Vec<u64> = tensor.dimensions.iter().map(|dim| u64::from(*dim)).collect();
        if fixed_data_len(dtype, &dims) != Some(tensor.data.len() as u64) {
            let (len, name) = (tensor.data.len(), dtype.name());
            return Err(wrong(format!(
                "a tensor of shape {dims:?} and type {name} cannot have {len} bytes"
            )));
        }
        views.push(TensorView { name, dtype, dims, data: &tensor.data });
    }
    Ok(encode_tensors(&views))
}

fn decoded(message: &[u8]) -> Result<Vec<(String, Tensor)>, Denied> {
    let failed = |text: String| Denied::new(Code::RuntimeError, text);
    let views = decode_tensors(message).map_err(|err| failed(err.to_string()))?;
    let tensor = |view: TensorView<'_>| {
        let ty = tensor_type(view.dtype).ok_or_else(|| {
            let text = format!("`wasi:nn` has no tensors of type {}", view.dtype.name());
            Denied::new(Code::UnsupportedOperation, text)
        })?;
        let dimensions = view.dims.iter().map(|dim| u32::try_from(*dim));
        let mut dimensions = dimensions
            .collect::<Result<Vec<u32>, _>>()
            .map_err(|_| failed("an output is too large for `wasi:nn`".into()))?;
        // `wasi:nn` has no scalars.
        if dimensions.is_empty() {
            dimensions.push(1);
        }
        Ok((view.name.to_owned(), Tensor { dimensions, ty, data: view.data.to_vec() }))
    };
    views.into_iter().map(tensor).collect()
}

fn dtype(ty: TensorType) -> DType {
    match ty {
        TensorType::Fp16 => DType::F16,
        TensorType::Fp32 => DType::F32,
        TensorType::Fp64 => DType::F64,
        TensorType::U8 => DType::U8,
        TensorType::I32 => DType::I32,
        TensorType::I64 => DType::I64,
        TensorType::Bf16 => DType::BF16,
    }
}

fn tensor_type(dtype: DType) -> Option<TensorType> {
    Some(match dtype {
        DType::F16 => TensorType::Fp16,
        DType::F32 => TensorType::Fp32,
        DType::F64 => TensorType::Fp64,
        DType::U8 => TensorType::U8,
        DType::I32 => TensorType::I32,
        DType::I64 => TensorType::I64,
        DType::BF16 => TensorType::Bf16,
        _ => return None,
    })
}
