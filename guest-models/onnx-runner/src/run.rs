//! One inference: tensors in, tensors out.

use belljar_abi::{DType, GuestErrorCode, TensorView, TensorsWriter, decode_tensors, encoded_len};
use onnx_ops::framework::dtypes::{from_tract, to_tract};
use tract_onnx::prelude::*;

use crate::Refusal;
use crate::explain::When;
use crate::memory::Message;
use crate::prepare::{Prepared, PreparedInput};

/// Runs the plan on the tensors in `message` and encodes its outputs.
pub(crate) fn run(prepared: &Prepared, message: Message) -> Result<Vec<u8>, Refusal> {
    with(prepared, message, |inputs| prepared.plan.run(inputs))
}

/// Runs the plan with `compute` on the tensors in `message`, and encodes its outputs.
pub(crate) fn with(
    prepared: &Prepared,
    message: Message,
    compute: impl FnOnce(TVec<TValue>) -> TractResult<TVec<TValue>>,
) -> Result<Vec<u8>, Refusal> {
    let views = decode_tensors(&message)
        .map_err(|err| Refusal::new(GuestErrorCode::Protocol, format!("inputs: {err}")))?;
    if views.len() != prepared.inputs.len() {
        let (given, wanted) = (views.len(), prepared.inputs.len());
        let text = format!("expected {wanted} inputs, found {given}");
        return Err(Refusal::new(GuestErrorCode::BadInput, text));
    }
    let inputs = prepared
        .inputs
        .iter()
        .map(|input| read_input(input, &views))
        .collect::<Result<TVec<TValue>, _>>()
        .map_err(|why| Refusal::new(GuestErrorCode::BadInput, why))?;
    // The inputs have been copied.
    drop(views);
    drop(message);
    let failed = |text: String| Refusal::new(GuestErrorCode::RunFailed, text);
    let explain = |err: TractError| failed(prepared.nodes.explain(&err, When::Running, None));
    let outputs = compute(inputs).map_err(explain)?;
    encode(prepared, outputs).map_err(failed)
}

fn read_input(input: &PreparedInput, views: &[TensorView<'_>]) -> Result<TValue, String> {
    let name = &input.name;
    let view = views
        .iter()
        .find(|view| view.name == name)
        .ok_or_else(|| format!("input {name:?} is missing"))?;
    let fits = match input.carried {
        Some(carried) => view.dtype == carried,
        None => to_tract(view.dtype) == Some(input.dtype),
    };
    if !fits {
        let wanted = input.carried.map_or(format!("{:?}", input.dtype), |dtype| dtype.to_string());
        return Err(format!("input {name:?} is {}, expected {wanted}", view.dtype));
    }
    if !view.dims.iter().copied().eq(input.dims.iter().map(|dim| *dim as u64)) {
        let (given, dims) = (&view.dims, &input.dims);
        return Err(format!(
            "input {name:?} has the shape {given:?}, but the model was prepared for {dims:?}"
        ));
    }
    let tensor = if view.dtype == DType::String {
        let strings: Vec<String> = view.strings().map(String::from).collect();
        tract_ndarray::ArrayD::from_shape_vec(&*input.dims, strings)
            .map_err(|_| format!("input {name:?} cannot be read as a tensor"))?
            .into_tensor()
    } else {
        // SAFETY: the decoder has checked that the length of the data matches dtype and dims, and
        // that bools are 0 or 1; every bit pattern of the other types is valid. Codes have the size
        // of the type that carries them.
        unsafe { Tensor::from_raw_dt(input.dtype, &input.dims, view.data) }
            .map_err(|_| format!("input {name:?} cannot be read as a tensor"))?
    };
    Ok(tensor.into_tvalue())
}

fn encode(prepared: &Prepared, outputs: TVec<TValue>) -> Result<Vec<u8>, String> {
    if outputs.len() != prepared.outputs.len() {
        return Err("the plan and the model have different numbers of outputs".into());
    }
    // The views below borrow from these tensors.
    let mut plain = Vec::with_capacity(outputs.len());
    for (prepared, output) in prepared.outputs.iter().zip(outputs) {
        let name = &prepared.name;
        let mut output = Plain::new(output).map_err(|why| format!("output {name:?}: {why}"))?;
        if let Some(carried) = prepared.carried {
            output.dtype = carried;
        }
        plain.push((name, output));
    }
    let views: Vec<TensorView<'_>> = plain.iter().map(|(name, plain)| plain.view(name)).collect();
    let mut writer = TensorsWriter::new(views.len(), encoded_len(&views));
    for view in &views {
        writer.push(view);
    }
    Ok(writer.finish())
}

/// The message for an output whose elements cannot be read.
fn unreadable(err: TractError) -> String {
    log::info!("{err:#}");
    "its elements cannot be read after the run".into()
}

/// An output in a form that can be encoded.
struct Plain {
    dtype: DType,
    tensor: TValue,
    /// The elements of a string tensor, length-prefixed.
    strings: Vec<u8>,
}

impl Plain {
    fn new(tensor: TValue) -> Result<Plain, String> {
        // tract computes shapes in an internal type; in ONNX they are i64.
        let tensor = if tensor.datum_type() == TDim::datum_type() {
            tensor.cast_to::<i64>().map_err(unreadable)?.into_owned().into_tvalue()
        } else {
            tensor
        };
        let dtype = from_tract(tensor.datum_type().unquantized())
            .ok_or_else(|| format!("a tensor of {:?} cannot be an output", tensor.datum_type()))?;
        let mut strings = Vec::new();
        if dtype == DType::String {
            let view = tensor.to_plain_array_view::<String>().map_err(unreadable)?;
            for string in view.iter() {
                strings.extend_from_slice(&(string.len() as u32).to_le_bytes());
                strings.extend_from_slice(string.as_bytes());
            }
        }
        Ok(Plain { dtype, tensor, strings })
    }

    fn view<'a>(&'a self, name: &'a str) -> TensorView<'a> {
        TensorView {
            name,
            dtype: self.dtype,
            dims: self.tensor.shape().iter().map(|dim| *dim as u64).collect(),
            data: match self.dtype {
                DType::String => &self.strings,
                _ => self.tensor.as_bytes(),
            },
        }
    }
}
