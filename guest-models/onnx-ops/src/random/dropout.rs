//! Dropout (ONNX). Outside of training, its output is its input, which tract computes. In training
//! mode (operator set 12) elements are dropped at random, and the others scaled.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::ops::identity::Identity;
use tract_onnx::tract_hir::internal::*;

use super::filled;
use crate::framework::errors::{bail, ensure};
use crate::framework::facts::{InputFact, OutputFact, like, optional, required};
use crate::framework::operator::{Operator, OperatorExpansion, expansion};
use crate::framework::randomness::{Distribution, Numbers, Source};
use crate::framework::registration::{Registration, upstream, wrapped_by};
use crate::framework::tensors::floats;
use crate::framework::upstream::{self as tract, BuildResult};

pub(crate) const OPERATORS: &[Registration] =
    &[upstream("Dropout").until(11), wrapped_by("Dropout", build).since(12)];

/// The position of the input that says whether the node is in training mode.
const TRAINING: usize = 2;

fn build(context: &ParsingContext, node: &NodeProto) -> BuildResult {
    if node.input.get(TRAINING).is_none_or(String::is_empty) {
        return tract::build(context, node);
    }
    let seed = node.get_attr_opt::<i64>("seed")?.map(|seed| seed as u64);
    let op = Dropout { source: Source::of(node, Distribution::Dropout, seed) };
    let named = |at: usize| node.output.get(at).is_some_and(|name| !name.is_empty());
    let outputs = [named(0), named(1)];
    Ok((expand(TrainedOrNot { trained: expansion(op, node), outputs }), vec![]))
}

/// A Dropout with an input for the mode, which is often a constant.
#[derive(Clone, Debug, PartialEq, Eq)]
struct TrainedOrNot {
    trained: OperatorExpansion,
    /// Which outputs have names.
    outputs: [bool; 2],
}

impl Expansion for TrainedOrNot {
    fn name(&self) -> StaticName {
        "Dropout".into()
    }

    fn nboutputs(&self) -> TractResult<usize> {
        self.trained.nboutputs()
    }

    fn runs_out_of_plan(&self) -> bool {
        false
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        self.trained.rules(s, inputs, outputs)
    }

    fn wire(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        // The mode is the last input.
        let mode = inputs.last().map(|mode| model.outlet_fact(*mode)).transpose()?;
        let trains = mode.and_then(|fact| fact.konst.as_deref()).map(is_set).transpose()?;
        if trains != Some(false) {
            return self.trained.wire(prefix, model, inputs);
        }
        let mut made = tvec!();
        if self.outputs[0] {
            made.extend(model.wire_node(prefix, Identity, &inputs[..1])?);
        }
        if self.outputs[1] {
            let fact = model.outlet_fact(inputs[0])?.clone();
            let kept = bool::datum_type().fact(fact.shape.to_tvec());
            made.extend(model.wire_node(format!("{prefix}.mask"), AllKept(kept), &inputs[..1])?);
        }
        Ok(made)
    }
}

/// The one value of the input for the mode.
fn is_set(mode: &Tensor) -> TractResult<bool> {
    ensure!(mode.len() == 1, "training_mode has {} elements, expected 1", mode.len());
    mode.cast_to_scalar::<bool>()
}

/// The mask of a Dropout that keeps everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct AllKept(TypedFact);

impl Op for AllKept {
    fn name(&self) -> StaticName {
        "DropoutMask".into()
    }

    op_as_typed_op!();
}

impl EvalOp for AllKept {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        Ok(tvec!(filled(inputs[0].shape(), |_| [true])?.into_tvalue()))
    }
}

impl TypedOp for AllKept {
    fn output_facts(&self, _inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(self.0.clone()))
    }

    as_op!();
}

#[derive(Clone, Debug)]
struct Dropout {
    source: Source,
}

impl Operator for Dropout {
    fn name(&self) -> &'static str {
        "Dropout"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let data = like(required(inputs, 0)?);
        if let Some(ratio) = optional(inputs, 1).and_then(|ratio| ratio.value.as_deref()) {
            valid_ratio(ratio)?;
        }
        let mask = (bool::datum_type(), data.1.clone());
        Ok(tvec!(data, mask))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let data = *required(inputs, 0)?;
        let ratio = optional(inputs, 1).map_or(Ok(0.5), |ratio| valid_ratio(ratio))?;
        if !is_set(required(inputs, TRAINING)?)? {
            return Ok(tvec!(data.clone(), filled(data.shape(), |_| [true])?));
        }
        let mask = mask(self.source.numbers(), data.shape(), ratio)?;
        let mut output = data.clone();
        match data.datum_type() {
            DatumType::F32 => scale::<f32>(&mut output, &mask, (1.0 / (1.0 - ratio)) as f32)?,
            DatumType::F64 => scale::<f64>(&mut output, &mask, 1.0 / (1.0 - ratio))?,
            other => bail!("element type {other:?} is not implemented"),
        }
        Ok(tvec!(output, mask))
    }

    fn draws(&self) -> bool {
        true
    }
}

/// The ratio of dropped elements.
fn valid_ratio(ratio: &Tensor) -> TractResult<f64> {
    let [ratio] = *floats(ratio)? else {
        bail!("the ratio has {} elements, expected 1", ratio.len())
    };
    ensure!((0.0..1.0).contains(&ratio), "the ratio is {ratio}, expected at least 0 and below 1");
    Ok(ratio)
}

/// Which elements are kept.
fn mask(numbers: Numbers, shape: &[usize], ratio: f64) -> TractResult<Tensor> {
    filled(shape, |at| numbers.halves(at).map(|number| number >= ratio))
}

/// Multiplies by the mask, as ONNX specifies: a dropped NaN or infinity becomes NaN.
fn scale<T: Datum + Copy + std::ops::Mul<Output = T> + From<u8>>(
    data: &mut Tensor,
    mask: &Tensor,
    scale: T,
) -> TractResult<()> {
    let kept = mask.try_as_plain_ram()?;
    let mut data = data.try_as_plain_ram_mut()?;
    for (value, kept) in data.as_slice_mut::<T>()?.iter_mut().zip(kept.as_slice::<bool>()?) {
        *value = scale * *value * T::from(u8::from(*kept));
    }
    Ok(())
}
