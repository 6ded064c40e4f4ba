//! Operators of ours in the place of tract's, where tract's compute otherwise than ONNX says: they
//! forget a NaN, take 64-bit integers through 32 bits, read indices outside of what they index, or
//! lose precision. They are put into tract's public registry, so that neither the optimiser nor
//! its evaluation of constants ever meets the others.

mod activations;
mod agree;
mod algebra;
mod arrange;
mod attention;
mod binary;
mod causal_conv;
mod choice;
mod gated;
mod guards;
mod indices;
mod late;
mod legacy;
mod linear_attention;
mod losses;
mod matrices;
mod mend;
mod ml;
mod numbers;
mod one_hot;
mod own;
mod padding;
mod pooling;
mod quantize;
mod quantized;
mod ranks;
mod recurrent;
mod reduce;
mod regions;
mod repeat;
mod resample;
mod scatter;
mod shapes;
mod small;
mod small_quantize;
mod spectrum;
mod strings;
mod training;
mod unique;
mod windows;

use std::collections::HashMap;
use std::sync::OnceLock;

use tract_onnx::model::{OnnxOpRegister, ParsingContext};
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::infer::InferenceOp;
use tract_onnx::tract_hir::internal::*;

pub(crate) use binary::{Div, Max, Min};
pub(crate) use mend::keep_products;
pub(crate) use pooling::keep_nan as keep_nan_in_pools;
pub(crate) use reduce::{Extreme, Fold};

/// What a builder gives to tract: the operator, and the outer values that it reads.
type Built = TractResult<(Box<dyn InferenceOp>, Vec<String>)>;
type Builder = fn(&ParsingContext, &NodeProto) -> Built;

/// An operator with parts that tract analyses, and that is other nodes once these are translated.
macro_rules! only_until_translated {
    ($op:ident) => {
        impl PartialEq for $op {
            fn eq(&self, _: &Self) -> bool {
                false
            }
        }

        impl Eq for $op {}

        impl Op for $op {
            fn name(&self) -> StaticName {
                stringify!($op).into()
            }

            not_a_typed_op!();
        }

        impl EvalOp for $op {
            fn eval_out_of_plan(&self, _: TVec<TValue>) -> TractResult<Option<TVec<TValue>>> {
                Ok(None)
            }

            fn eval(&self, _ctx: &EvalContext, _: TVec<TValue>) -> TractResult<TVec<TValue>> {
                bail!("{} was not translated", stringify!($op))
            }
        }
    };
}
use only_until_translated;

/// tract's own builders.
fn originals() -> &'static HashMap<String, Builder> {
    static ALL: OnceLock<HashMap<String, Builder>> = OnceLock::new();
    ALL.get_or_init(|| tract_onnx::onnx().op_register.0)
}

/// Puts our operators into tract's registry.
pub(crate) fn register(registry: &mut OnnxOpRegister) {
    activations::register(registry);
    agree::register(registry);
    algebra::register(registry);
    arrange::register(registry);
    attention::register(registry);
    binary::register(registry);
    causal_conv::register(registry);
    choice::register(registry);
    gated::register(registry);
    guards::register(registry);
    indices::register(registry);
    linear_attention::register(registry);
    losses::register(registry);
    ml::register(registry);
    quantize::register(registry);
    ranks::register(registry);
    reduce::register(registry);
    repeat::register(registry);
    scatter::register(registry);
    shapes::register(registry);
    small::register(registry);
    small_quantize::register(registry);
    strings::register(registry);
    unique::register(registry);
    windows::register(registry);
    legacy::register(registry);
    matrices::register(registry);
    one_hot::register(registry);
    quantized::register(registry);
    recurrent::register(registry);
    regions::register(registry);
    spectrum::register(registry);
}

/// How one of ours is put into a typed model.
type Wire = fn(&Ours, &str, &mut TypedModel, &[OutletId]) -> TractResult<TVec<OutletId>>;

/// An operator with tract's rules for types and shapes, and with our way of computing it.
#[derive(Clone)]
struct Ours {
    /// tract's.
    original: Box<dyn Expansion>,
    node: NodeProto,
    version: i64,
    wire: Wire,
    /// From which input on all must be constants, or the operator is made at run time.
    constant_from: usize,
}

impl std::fmt::Debug for Ours {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.node.op_type)
    }
}

impl Ours {
    fn build(context: &ParsingContext, node: &NodeProto, wire: Wire) -> Built {
        Ours::build_late(context, node, usize::MAX, wire)
    }

    /// An operator that wants the inputs from this one on as constants.
    fn build_late(
        context: &ParsingContext,
        node: &NodeProto,
        constant_from: usize,
        wire: Wire,
    ) -> Built {
        let Some(builder) = originals().get(&node.op_type) else {
            bail!("{} is not implemented", node.op_type)
        };
        let (original, outer) = builder(context, node)?;
        let Some(original) = original.as_op().downcast_ref::<Box<dyn Expansion>>() else {
            bail!("{} is not implemented this way", node.op_type)
        };
        let (original, node) = (original.clone(), node.clone());
        let version = context.onnx_operator_set_version;
        Ok((expand(Ours { original, node, version, wire, constant_from }), outer))
    }

    /// An integer among the attributes.
    fn int(&self, name: &str, default: i64) -> TractResult<i64> {
        Ok(self.node.get_attr_opt::<i64>(name)?.unwrap_or(default))
    }

    fn float(&self, name: &str, default: f32) -> TractResult<f32> {
        Ok(self.node.get_attr_opt::<f32>(name)?.unwrap_or(default))
    }

    /// The place among the inputs that are given of one that may be left out.
    fn input(&self, at: usize) -> Option<usize> {
        self.node.input.get(at).filter(|name| !name.is_empty())?;
        Some(self.node.input[..at].iter().filter(|name| !name.is_empty()).count())
    }

    /// An axis among this many, counted from the end if it is negative.
    fn axis(&self, name: &str, default: i64, rank: usize) -> TractResult<usize> {
        resolve(self.int(name, default)?, rank)
    }
}

/// An axis among this many, counted from the end if it is negative.
fn resolve(axis: i64, rank: usize) -> TractResult<usize> {
    let from_start = if axis < 0 { axis.checked_add(rank as i64) } else { Some(axis) };
    match from_start.and_then(|axis| usize::try_from(axis).ok()).filter(|axis| *axis < rank) {
        Some(axis) => Ok(axis),
        None => bail!("axis {axis} of a tensor of {rank} dimensions"),
    }
}

impl Expansion for Ours {
    fn name(&self) -> StaticName {
        self.original.as_ref().name()
    }

    fn nboutputs(&self) -> TractResult<usize> {
        self.original.as_ref().nboutputs()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        if self.node.op_type == "Range" {
            // tract's divide by what may be zero.
            check_output_arity(outputs, 1)?;
            s.equals(&outputs[0].rank, 1)?;
            s.equals(&inputs[0].datum_type, &outputs[0].datum_type)?;
            return Ok(());
        }
        // Before tract's, which panic at axes that do not exist.
        self.check_axes(s, inputs)?;
        ranks::check(self, s, inputs)?;
        if self.node.op_type == "Pad" {
            return self.pad_rules(s, inputs, outputs);
        }
        if self.node.op_type == "Squeeze" {
            return self.squeeze_rules(s, inputs, outputs);
        }
        self.original.as_ref().rules(s, inputs, outputs)
    }

    fn wire(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        (self.wire)(self, prefix, model, inputs)
    }

    fn wire_with_inference_model_and_node(
        &self,
        prefix: &str,
        _: &InferenceModel,
        node: &InferenceNode,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        if late::known(model, inputs, self.constant_from)? {
            return self.wire(prefix, model, inputs);
        }
        let rank = self.late_rank(model, inputs)?;
        let expansion: Box<dyn Expansion> = Box::new(self.clone());
        late::wire(&expansion, prefix, node, model, inputs, rank)
    }
}

impl Ours {
    /// Holds all axes that are attributes or constants against the number of dimensions.
    fn check_axes<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
    ) -> InferenceResult {
        let Some(first) = inputs.first() else { return Ok(()) };
        let name = &*self.node.op_type;
        let mut axes: Vec<i64> = self.node.get_attr_opt_vec("axes")?.unwrap_or_default();
        axes.extend(self.node.get_attr_opt::<i64>("axis")?);
        // There may be one more, or as many more as are put in.
        let more = match name {
            "Flatten" | "OneHot" => 1,
            "Unsqueeze" => axes.len(),
            _ => 0,
        };
        let flatten = name == "Flatten";
        s.given(&first.rank, move |_, rank| {
            let rank = usize::try_from(rank)?;
            axes.iter().try_for_each(|axis| {
                // What is counted from the end of the input is counted from that end.
                let more = if flatten && *axis < 0 { 0 } else { more };
                resolve(*axis, rank + more).map(drop)
            })
        })?;
        if name == "Resize"
            && self.version > 10
            && let (Some(scales), sizes) = (self.input(2), self.input(3))
        {
            // tract takes the sizes where there are no factors, and there must be some.
            let sizes = sizes.is_some();
            s.given(&inputs[scales].shape, move |_, scales| {
                let none = scales.iter().any(|dim| dim.as_i64() == Some(0));
                ensure!(sizes || !none, "neither factors nor sizes are given");
                ensure!(!sizes || none, "both factors and sizes are given");
                Ok(())
            })?;
        }
        if name == "Resize"
            && let (None, Some(sizes)) = (self.input(2), self.input(3))
        {
            // tract takes no sizes at all for factors, which are not there.
            s.given(&inputs[sizes].shape, move |_, sizes| {
                ensure!(sizes.iter().all(|dim| dim.as_i64() != Some(0)), "no sizes are given");
                Ok(())
            })?;
        }
        let of_input = name.starts_with("Reduce") || ["Squeeze", "Unsqueeze"].contains(&name);
        let Some(second) = inputs.get(1).filter(|_| of_input) else { return Ok(()) };
        s.given_2(&first.rank, &second.value, move |_, rank, axes: Arc<Tensor>| {
            self.distinct(&own::ints(&axes)?, rank)
        })
    }

    /// That these are axes of a tensor of this rank, or of the result where they are new, and none
    /// of them is there twice.
    fn distinct(&self, axes: &[i64], rank: i64) -> TractResult<()> {
        ensure!(axes.len() <= 64, "{} axes", axes.len());
        let more = if self.node.op_type == "Unsqueeze" { axes.len() } else { 0 };
        let rank = usize::try_from(rank)? + more;
        let mut seen = vec![false; rank];
        for axis in axes {
            let at = resolve(*axis, rank)?;
            ensure!(!seen[at], "axis {axis} is there twice");
            seen[at] = true;
        }
        Ok(())
    }

    /// Pads as tract has them, but for the value beyond, which may have a dimension of its own.
    fn pad_rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_output_arity(outputs, 1)?;
        s.equals(&inputs[0].datum_type, &outputs[0].datum_type)?;
        s.equals(&inputs[0].rank, &outputs[0].rank)?;
        s.equals(&inputs[1].rank, 1)?;
        let axes = self.input(3);
        s.given_2(&inputs[0].shape, &inputs[1].value, move |s, shape, pads| {
            let padded = move |axes: Option<&Tensor>| -> TractResult<TVec<TDim>> {
                let axes = match axes {
                    Some(axes) => own::ints(axes)?,
                    None => (0..shape.len() as i64).collect(),
                };
                let pads = own::ints(&pads)?;
                ensure!(pads.len() == 2 * axes.len(), "{} pads of {} axes", pads.len(), axes.len());
                let mut shape = shape.clone();
                for (at, axis) in axes.iter().enumerate() {
                    let axis = resolve(*axis, shape.len())?;
                    let both = pads[at].checked_add(pads[at + axes.len()]).context("large pads")?;
                    shape[axis] = shape[axis].clone() + both;
                }
                Ok(shape)
            };
            match axes {
                None => s.equals(&outputs[0].shape, ShapeFactoid::from(padded(None)?)),
                Some(at) => s.given(&inputs[at].value, move |s, axes: Arc<Tensor>| {
                    s.equals(&outputs[0].shape, ShapeFactoid::from(padded(Some(&axes))?))
                }),
            }
        })
    }

    /// Axes in any order: tract takes them away in the order in which they come.
    fn squeeze_rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_output_arity(outputs, 1)?;
        s.equals(&inputs[0].datum_type, &outputs[0].datum_type)?;
        let squeezed = |shape: &[TDim], axes: &[i64]| -> TractResult<ShapeFactoid> {
            let mut gone = vec![false; shape.len()];
            for axis in axes {
                let at = resolve(*axis, shape.len())?;
                ensure!(shape[at].is_one(), "axis {axis} is {} wide, not 1", shape[at]);
                gone[at] = true;
            }
            let kept = shape.iter().zip(gone).filter(|(_, gone)| !gone);
            Ok(kept.map(|(dim, _)| dim.clone()).collect::<TVec<TDim>>().into())
        };
        if let Some(axes) = inputs.get(1) {
            return s.given_2(&inputs[0].shape, &axes.value, move |s, shape, axes: Arc<Tensor>| {
                s.equals(&outputs[0].shape, squeezed(&shape, &own::ints(&axes)?)?)
            });
        }
        match self.node.get_attr_opt_vec::<i64>("axes")? {
            Some(axes) => s.given(&inputs[0].shape, move |s, shape| {
                s.equals(&outputs[0].shape, squeezed(&shape, &axes)?)
            }),
            None => self.original.as_ref().rules(s, inputs, outputs),
        }
    }

    /// The number of dimensions of the result, where it follows from how many numbers there are in
    /// an input that is not known yet.
    fn late_rank(&self, model: &TypedModel, inputs: &[OutletId]) -> TractResult<Option<usize>> {
        let rank = model.outlet_fact(inputs[0])?.rank();
        let Some(second) = inputs.get(1) else { return Ok(None) };
        let numbers = model.outlet_fact(*second)?.shape.volume().to_usize().ok();
        let Some(numbers) = numbers else { return Ok(None) };
        Ok(match &*self.node.op_type {
            "Reshape" => Some(numbers),
            "Expand" => Some(rank.max(numbers)),
            "Unsqueeze" => Some(rank + numbers),
            "Squeeze" => rank.checked_sub(numbers),
            reduce if reduce.starts_with("Reduce") => match self.int("keepdims", 1)? {
                0 if numbers == 0 => None,
                0 => rank.checked_sub(numbers),
                _ => Some(rank),
            },
            _ => None,
        })
    }
}

/// A constant of one element, in the type and rank of another value.
fn scalar(
    model: &mut TypedModel,
    name: String,
    value: f32,
    like: OutletId,
) -> TractResult<OutletId> {
    let fact = model.outlet_fact(like)?;
    let (dtype, rank) = (fact.datum_type, fact.rank());
    ensure!(
        dtype != f16::datum_type() || f16::from_f32(value).is_finite(),
        "{value} is too large for float16"
    );
    let tensor = tensor0(value).cast_to_dt(dtype)?.into_owned().broadcast_into_rank(rank)?;
    model.add_const(name, tensor)
}
