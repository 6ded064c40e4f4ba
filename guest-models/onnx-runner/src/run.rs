//! One inference: tensors in, tensors out.

use belljar_abi::{DType, GuestErrorCode, TensorView, TensorsWriter, decode_tensors, encoded_len};
use tract_onnx::prelude::*;

use crate::Refusal;
use crate::memory::Message;
use crate::prepare::{Prepared, PreparedInput};

/// Runs the plan on the tensors in `message` and encodes its outputs.
pub(crate) fn run(prepared: &Prepared, message: Message) -> Result<Vec<u8>, Refusal> {
    let views = decode_tensors(&message)
        .map_err(|err| Refusal::new(GuestErrorCode::Protocol, format!("inputs: {err}")))?;
    if views.len() != prepared.inputs.len() {
        let (given, wanted) = (views.len(), prepared.inputs.len());
        let text = format!("{given} inputs were given, the model has {wanted}");
        return Err(Refusal::new(GuestErrorCode::BadInput, text));
    }
    let inputs = prepared
        .inputs
        .iter()
        .map(|input| read_input(input, &views))
        .collect::<Result<TVec<TValue>, _>>()
        .map_err(|why| Refusal::new(GuestErrorCode::BadInput, why))?;
    // The tensors are copies by now.
    drop(views);
    drop(message);
    let failed = |text: String| Refusal::new(GuestErrorCode::RunFailed, text);
    let outputs = prepared.plan.run(inputs).map_err(|err| failed(format!("{err:#}")))?;
    encode(prepared, outputs).map_err(failed)
}

fn read_input(input: &PreparedInput, views: &[TensorView<'_>]) -> Result<TValue, String> {
    let name = &input.name;
    let view = views
        .iter()
        .find(|view| view.name == name)
        .ok_or_else(|| format!("input {name:?} was not given"))?;
    let fits = match input.carried {
        Some(carried) => view.dtype == carried,
        None => to_tract(view.dtype) == Some(input.dtype),
    };
    if !fits {
        let wanted = input.carried.map_or(format!("{:?}", input.dtype), |dtype| dtype.to_string());
        return Err(format!("input {name:?} is {}, the model wants {wanted}", view.dtype));
    }
    if !view.dims.iter().copied().eq(input.dims.iter().map(|dim| *dim as u64)) {
        let (given, dims) = (&view.dims, &input.dims);
        return Err(format!("input {name:?} has shape {given:?}, prepared was {dims:?}"));
    }
    let tensor = if view.dtype == DType::String {
        let strings: Vec<String> = view.strings().map(String::from).collect();
        tract_ndarray::ArrayD::from_shape_vec(&*input.dims, strings)
            .map_err(|err| format!("input {name:?}: {err}"))?
            .into_tensor()
    } else {
        // SAFETY: the decoder has checked that the data has the length that dtype and dims ask
        // for, and that bools are 0 or 1; every other bit pattern is a number. Codes have the size
        // of what carries them.
        unsafe { Tensor::from_raw_dt(input.dtype, &input.dims, view.data) }
            .map_err(|err| format!("input {name:?}: {err:#}"))?
    };
    Ok(tensor.into_tvalue())
}

fn encode(prepared: &Prepared, outputs: TVec<TValue>) -> Result<Vec<u8>, String> {
    if outputs.len() != prepared.outputs.len() {
        return Err("the plan made another number of outputs than the model declares".into());
    }
    // Plain tensors first, so that the views below have something to borrow from.
    let mut plain = Vec::with_capacity(outputs.len());
    for (said, output) in prepared.outputs.iter().zip(outputs) {
        let name = &said.name;
        let mut output = Plain::new(output).map_err(|why| format!("output {name:?}: {why}"))?;
        if let Some(carried) = said.carried {
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

/// An output in a form that can cross.
struct Plain {
    dtype: DType,
    tensor: TValue,
    /// The elements of a string tensor, length-prefixed.
    strings: Vec<u8>,
}

impl Plain {
    fn new(tensor: TValue) -> Result<Plain, String> {
        // tract computes shapes in a type of its own; in ONNX they are i64.
        let tensor = if tensor.datum_type() == TDim::datum_type() {
            tensor.cast_to::<i64>().map_err(|err| format!("{err:#}"))?.into_owned().into_tvalue()
        } else {
            tensor
        };
        let dtype = from_tract(tensor.datum_type().unquantized())
            .ok_or_else(|| format!("a tensor of {:?} cannot cross", tensor.datum_type()))?;
        let mut strings = Vec::new();
        if dtype == DType::String {
            let view = tensor.to_plain_array_view::<String>().map_err(|err| format!("{err:#}"))?;
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

const DTYPES: [(DType, DatumType); 13] = [
    (DType::F16, DatumType::F16),
    (DType::F32, DatumType::F32),
    (DType::F64, DatumType::F64),
    (DType::I8, DatumType::I8),
    (DType::I16, DatumType::I16),
    (DType::I32, DatumType::I32),
    (DType::I64, DatumType::I64),
    (DType::U8, DatumType::U8),
    (DType::U16, DatumType::U16),
    (DType::U32, DatumType::U32),
    (DType::U64, DatumType::U64),
    (DType::Bool, DatumType::Bool),
    (DType::String, DatumType::String),
];

pub(crate) fn to_tract(dtype: DType) -> Option<DatumType> {
    DTYPES.iter().find(|(ours, _)| *ours == dtype).map(|(_, theirs)| *theirs)
}

fn from_tract(dtype: DatumType) -> Option<DType> {
    DTYPES.iter().find(|(_, theirs)| *theirs == dtype).map(|(ours, _)| *ours)
}
