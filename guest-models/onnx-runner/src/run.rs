//! One inference: tensors in, tensors out.

use belljar_abi::{DType, GuestErrorCode, Run, TensorView, TensorsWriter, decode_run, encoded_len};
use onnx_ops::framework::dtypes::{from_tract, to_tract};
use onnx_ops::framework::randomness;
use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::SymbolValues;
use tract_onnx::tract_core::plan;

use crate::explain::{When, is_user_error};
use crate::memory::Message;
use crate::prepare::{OpenSizes, Prepared, PreparedInput};
use crate::{Refusal, heap};

/// Runs the plan on the tensors in `message` and encodes its outputs.
pub(crate) fn run(prepared: &Prepared, message: Message) -> Result<Vec<u8>, Refusal> {
    with(prepared, message, |inputs, is_example| {
        let mut state = prepared.plan.spawn()?;
        let Some(OpenSizes { tensors, .. }) = &prepared.sizes else { return state.run(inputs) };
        state.run_plan_with_eval(inputs, |context, op_state, node, inputs| {
            let outputs = plan::eval(context, op_state, node, inputs)?;
            tensors.check_outputs(node, &outputs, context.symbols, is_example)?;
            Ok::<_, TractError>(outputs)
        })
    })
}

/// Runs the plan with `compute` on the tensors in `message`, and encodes its outputs. `compute` also
/// gets whether the inputs have the sizes that the model was prepared with.
pub(crate) fn with(
    prepared: &Prepared,
    message: Message,
    compute: impl FnOnce(TVec<TValue>, bool) -> TractResult<TVec<TValue>>,
) -> Result<Vec<u8>, Refusal> {
    let Run { seed, inputs: views } = decode_run(&message)
        .map_err(|err| Refusal::new(GuestErrorCode::Protocol, format!("inputs: {err}")))?;
    if views.len() != prepared.inputs.len() {
        let (given, wanted) = (views.len(), prepared.inputs.len());
        let text = format!("expected {wanted} inputs, found {given}");
        return Err(Refusal::new(GuestErrorCode::BadInput, text));
    }
    let failed = |text: String| Refusal::new(GuestErrorCode::RunFailed, text);
    let explain = |err: TractError| {
        let code = match prepared.sizes {
            // A plan for exactly these shapes may be able to answer.
            Some(_) if !is_user_error(&err) => GuestErrorCode::ShapesRefused,
            _ => GuestErrorCode::RunFailed,
        };
        Refusal::new(code, prepared.nodes.explain(&err, When::Running, None))
    };
    let mut is_example = true;
    if let Some(OpenSizes { tensors, example }) = &prepared.sizes {
        let symbols = symbols(prepared, &views, |symbol, size| {
            is_example &= example.get(symbol) == Some(size);
        });
        let symbols = symbols.map_err(|why| Refusal::new(GuestErrorCode::BadInput, why))?;
        if !is_example {
            // The tensors of larger inputs than the example get a region of their own.
            heap::reserve_for_larger_run(tensors.working_set(&symbols).map_err(explain)?);
        }
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
    let outputs = randomness::with_seed(seed, || compute(inputs, is_example)).map_err(explain)?;
    encode(prepared, outputs).map_err(failed)
}

/// The sizes of the open dimensions, which must be equal where their symbols are.
fn symbols(
    prepared: &Prepared,
    views: &[TensorView<'_>],
    mut each: impl FnMut(&Symbol, i64),
) -> Result<SymbolValues, String> {
    let mut symbols = SymbolValues::default();
    for input in &prepared.inputs {
        let Some(view) = views.iter().find(|view| view.name == input.name) else { continue };
        for (dim, size) in input.dims.iter().zip(&view.dims) {
            let mut of_dim = dim.symbols().into_iter();
            let Some(symbol) = of_dim.next() else { continue };
            let size = i64::try_from(*size).unwrap_or(i64::MAX);
            let Some(size) = size_of_symbol(dim, &symbol, size) else {
                let name = &input.name;
                return Err(format!("input {name:?} has a dimension of {size}, expected {dim}"));
            };
            match symbols.get(&symbol) {
                Some(other) if other != size => {
                    let name = &input.name;
                    return Err(format!(
                        "input {name:?} has a dimension of {size}, which must be {other}"
                    ));
                }
                _ => {
                    each(&symbol, size);
                    symbols.set(&symbol, size);
                }
            }
        }
    }
    Ok(symbols)
}

/// The size of the symbol of an open dimension, which is `symbol * step + more`.
fn size_of_symbol(dim: &TDim, symbol: &Symbol, dimension: i64) -> Option<i64> {
    let at = |size: i64| dim.maybe_eval_to_i64(&SymbolValues::default().with(symbol, size));
    let (none, one) = (at(0)?, at(1)?);
    let (rest, step) = (dimension.checked_sub(none)?, one.checked_sub(none)?);
    (step > 0 && rest >= 0 && rest % step == 0).then(|| rest / step)
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
    let fits = |(dim, size): (&TDim, &u64)| {
        dim.as_i64().is_none_or(|dim| u64::try_from(dim).ok() == Some(*size))
    };
    if view.dims.len() != input.dims.len() || !input.dims.iter().zip(&view.dims).all(fits) {
        let (given, dims) = (&view.dims, &input.dims);
        return Err(format!(
            "input {name:?} has the shape {given:?}, but the model was prepared for {dims:?}"
        ));
    }
    let dims: Option<Vec<usize>> = view.dims.iter().map(|dim| usize::try_from(*dim).ok()).collect();
    let dims = dims.ok_or_else(|| format!("input {name:?}: a dimension does not fit 32 bits"))?;
    let tensor = if view.dtype == DType::String {
        let strings: Vec<String> = view.strings().map(String::from).collect();
        tract_ndarray::ArrayD::from_shape_vec(&*dims, strings)
            .map_err(|_| format!("input {name:?} cannot be read as a tensor"))?
            .into_tensor()
    } else {
        // SAFETY: the decoder has checked that the length of the data matches dtype and dims, and
        // that bools are 0 or 1; every bit pattern of the other types is valid. Codes have the size
        // of the type that carries them.
        unsafe { Tensor::from_raw_dt(input.dtype, &dims, view.data) }
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
