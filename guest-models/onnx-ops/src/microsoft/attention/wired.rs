//! Attention as products, a softmax and additions of the plan, which the host's kernels compute. An
//! attention is only wired if all sizes that must be equal are known to be; any other is computed by
//! its operator, which checks them in each run.

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::ops::array::{Slice, TypedConcat};
use tract_onnx::tract_core::ops::einsum::EinSum;
use tract_onnx::tract_core::ops::math::{add, mul};
use tract_onnx::tract_core::ops::nn::{Softmax, SoftmaxKind};
use tract_onnx::tract_hir::internal::*;

use super::core::{from_singles, zeros};
use super::masked::{Mask, MaskSizes};
use crate::framework::assumptions::is_positive;
use crate::framework::facts::{InputFact, OutputFact, optional, required, with_dims};
use crate::framework::operator::{Operator, OperatorExpansion, expansion};
use crate::framework::tensors::Bits;
use crate::framework::upstream::BuildResult;
use crate::framework::wiring::constant_like;

/// Whether a value is of float32 and has no empty dimension.
pub(super) fn is_plain(model: &TypedModel, outlet: OutletId) -> TractResult<bool> {
    let fact = model.outlet_fact(outlet)?;
    Ok(fact.datum_type == f32::datum_type() && fact.shape.iter().all(is_positive))
}

/// Whether a bias of scores broadcasts to these dimensions.
pub(super) fn broadcasts(bias: &[TDim], wanted: &[TDim; 4]) -> bool {
    let [batch, heads, queries, keys] = bias else { return false };
    let outer = |dim: &TDim, wanted: &TDim| dim.is_one() || dim == wanted;
    outer(batch, &wanted[0])
        && outer(heads, &wanted[1])
        && (queries, keys) == (&wanted[2], &wanted[3])
}

/// An attention that adds its own nodes to a model where it can.
pub(super) trait Wires: Operator + Clone {
    fn wire(
        &self,
        whole: &OperatorExpansion,
        wiring: &mut Wiring<'_>,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>>;
}

/// Such an attention in the form that tract's registry expects.
pub(super) fn built<O: Wires>(op: O, node: &NodeProto) -> BuildResult {
    Ok((expand(Wired { whole: expansion(op.clone(), node), op }), vec![]))
}

#[derive(Clone, Debug)]
struct Wired<O> {
    /// The attention as a single operator.
    whole: OperatorExpansion,
    op: O,
}

impl<O: Wires> Expansion for Wired<O> {
    fn name(&self) -> StaticName {
        self.op.name().into()
    }

    fn nboutputs(&self) -> TractResult<usize> {
        self.whole.nboutputs()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        self.whole.rules(s, inputs, outputs)
    }

    fn wire(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        self.op.wire(&self.whole, &mut Wiring { prefix, model }, inputs)
    }
}

/// The shape of an input, if it is given.
pub(super) fn shape_of(
    model: &TypedModel,
    inputs: &[Option<OutletId>],
    at: usize,
) -> TractResult<Option<TVec<TDim>>> {
    let shape = |outlet: &OutletId| Ok(model.outlet_fact(*outlet)?.shape.to_tvec());
    optional(inputs, at).map(shape).transpose()
}

/// Adds the nodes of one attention to a model.
pub(super) struct Wiring<'a> {
    pub(super) prefix: &'a str,
    pub(super) model: &'a mut TypedModel,
}

/// What is added to the scores of an attention.
pub(super) struct Hidden {
    pub(super) causal: bool,
    /// A mask, the number that is added where it hides keys, and the name of its input.
    pub(super) mask: Option<OutletId>,
    pub(super) fill: Bits,
    pub(super) name: &'static str,
    /// Whether two numbers of the mask for each entry are ends and starts.
    pub(super) starts: bool,
    pub(super) bias: Option<OutletId>,
}

impl Wiring<'_> {
    pub(super) fn shape(&self, outlet: OutletId) -> TractResult<TVec<TDim>> {
        Ok(self.model.outlet_fact(outlet)?.shape.to_tvec())
    }

    fn node(
        &mut self,
        name: &str,
        op: impl Into<Box<dyn TypedOp>>,
        inputs: &[OutletId],
    ) -> TractResult<OutletId> {
        Ok(self.model.wire_node(format!("{}.{name}", self.prefix), op, inputs)?[0])
    }

    /// A part of a value along its last axis.
    pub(super) fn part(
        &mut self,
        name: &str,
        value: OutletId,
        range: std::ops::Range<usize>,
    ) -> TractResult<OutletId> {
        let axis = self.shape(value)?.len() - 1;
        self.node(&format!("{name}.part"), Slice::new(axis, range.start, range.end), &[value])
    }

    /// Heads of batch, tokens and channels, as batch, heads, tokens and width; with a bias.
    pub(super) fn heads(
        &mut self,
        name: &str,
        value: OutletId,
        bias: Option<OutletId>,
        heads: usize,
    ) -> TractResult<OutletId> {
        let mut value = value;
        if let Some(bias) = bias {
            let bias = self.node(&format!("{name}.bias.rows"), AxisOp::Add(0), &[bias])?;
            let bias = self.node(&format!("{name}.bias.batch"), AxisOp::Add(0), &[bias])?;
            value = self.node(&format!("{name}.biased"), add(), &[value, bias])?;
        }
        let all = self.shape(value)?[2].clone();
        let split = tvec!(heads.to_dim(), all.clone() / heads);
        let split = AxisOp::Reshape(2, tvec!(all), split);
        let value = self.node(&format!("{name}.heads"), split, &[value])?;
        self.node(&format!("{name}.swapped"), AxisOp::Move(2, 1), &[value])
    }

    /// Rows after those of a cache.
    pub(super) fn after(
        &mut self,
        name: &str,
        past: Option<OutletId>,
        new: OutletId,
    ) -> TractResult<OutletId> {
        match past {
            Some(past) => self.node(&format!("{name}.cache"), TypedConcat::new(2), &[past, new]),
            None => Ok(new),
        }
    }

    /// The cache of keys or values, which are first or second in a past cache of both.
    pub(super) fn half(&mut self, name: &str, past: OutletId, at: usize) -> TractResult<OutletId> {
        let half = self.node(&format!("{name}.half"), Slice::new(0, at, at + 1), &[past])?;
        self.node(&format!("{name}.past"), AxisOp::Rm(0), &[half])
    }

    /// One cache of keys and values.
    pub(super) fn both(&mut self, keys: OutletId, values: OutletId) -> TractResult<OutletId> {
        let keys = self.node("present.keys", AxisOp::Add(0), &[keys])?;
        let values = self.node("present.values", AxisOp::Add(0), &[values])?;
        self.node("present", TypedConcat::new(0), &[keys, values])
    }

    /// The attention of heads, of which `new` are the keys without those of a cache. The result is
    /// batch, tokens and channels.
    pub(super) fn attention(
        &mut self,
        [queries, keys, values]: [OutletId; 3],
        new: OutletId,
        scale: f32,
        hidden: &Hidden,
    ) -> TractResult<OutletId> {
        let scale = constant_like(self.model, format!("{}.scale", self.prefix), scale, queries)?;
        let scaled = self.node("scaled", mul(), &[queries, scale])?;
        let turned = self.node("turned", AxisOp::Move(2, 3), &[keys])?;
        let product =
            |axes: &str| Ok::<_, TractError>(EinSum::new(axes.parse()?, f32::datum_type()));
        let mut scores = self.node("scores", product("abmk,abkn->abmn")?, &[scaled, turned])?;
        if let Some(bias) = hidden.bias {
            scores = self.node("scores.biased", add(), &[scores, bias])?;
        }
        if hidden.causal || hidden.mask.is_some() {
            let op = KeyMask {
                causal: hidden.causal,
                fill: hidden.fill,
                name: hidden.name,
                starts: hidden.starts,
                rank: match hidden.mask {
                    Some(mask) => Some(self.shape(mask)?.len()),
                    None => None,
                },
            };
            let inputs: TVec<OutletId> =
                [queries, keys, new].into_iter().chain(hidden.mask).collect();
            let node = NodeProto {
                input: inputs.iter().map(|_| "input".to_owned()).collect(),
                output: vec!["output".to_owned()],
                ..Default::default()
            };
            let name = format!("{}.mask", self.prefix);
            let mask = expansion(op, &node).wire(&name, self.model, &inputs)?[0];
            scores = self.node("scores.masked", add(), &[scores, mask])?;
        }
        let softmax = Softmax { axes: tvec!(3), quant_output_dt: None, kind: SoftmaxKind::Softmax };
        let weights = self.node("weights", softmax, &[scores])?;
        let output = self.node("sums", product("abmk,abkn->abmn")?, &[weights, values])?;
        let output = self.node("joined", AxisOp::Move(1, 2), &[output])?;
        let shape = self.shape(output)?;
        let all = tvec!(shape[2].clone() * &shape[3]);
        let merge = AxisOp::Reshape(2, tvec!(shape[2].clone(), shape[3].clone()), all);
        Ok(self.model.wire_node(self.prefix, merge, &[output])?[0])
    }
}

/// A mask as numbers that are added to scores. Its inputs are queries, all keys, new keys, of which
/// it reads the shapes alone, and the mask, if there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct KeyMask {
    causal: bool,
    fill: Bits,
    name: &'static str,
    starts: bool,
    /// The number of dimensions of the mask.
    rank: Option<usize>,
}

impl KeyMask {
    /// Whether each query has a mask of its own.
    fn is_by_query(&self) -> bool {
        self.causal || self.rank == Some(3)
    }
}

impl Operator for KeyMask {
    fn name(&self) -> &'static str {
        // Lengths may be refused; any other mask is accepted.
        if self.rank == Some(1) { "AttentionLengths" } else { "AttentionMask" }
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let (queries, keys) = (required(inputs, 0)?, required(inputs, 1)?);
        let batch = if self.rank.is_some() { queries.shape[0].clone() } else { 1.to_dim() };
        let rows = if self.is_by_query() { queries.shape[2].clone() } else { 1.to_dim() };
        let dims = [batch, 1.to_dim(), rows, keys.shape[2].clone()];
        Ok(tvec!(with_dims(f32::datum_type(), dims)))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let shape = |at| Ok::<_, TractError>(required(inputs, at)?.shape());
        let (queries, keys, new) = (shape(0)?, shape(1)?, shape(2)?);
        let sizes = MaskSizes {
            batch: queries[0],
            queries: queries[2],
            keys: keys[2],
            starts: self.starts,
        };
        let past = keys[2] - new[2];
        let mask = match optional(inputs, 3) {
            Some(mask) => sizes.read(mask, self.name)?,
            None => Mask::None,
        };
        let batch = if self.rank.is_some() { sizes.batch } else { 1 };
        let rows = if self.is_by_query() { sizes.queries } else { 1 };
        let shape = [batch, 1, rows, sizes.keys];
        let mut values = zeros(&shape)?;
        for (at, row) in values.chunks_exact_mut(sizes.keys.max(1)).enumerate() {
            let (batch, query) = (at / rows, at % rows);
            let end = if self.causal { sizes.keys.min(past + query + 1) } else { sizes.keys };
            row[end..].fill(f32::NEG_INFINITY);
            let sees = |key: usize| mask.sees(&sizes, batch, query, key);
            // Softmax is the same if the same number is added to all scores, and more precise
            // without it.
            if (0..end).any(sees) {
                let keys = row[..end].iter_mut().enumerate();
                let hidden = keys.filter(|(key, _)| !sees(*key));
                hidden.for_each(|(_, value)| *value = self.fill.get());
            }
        }
        Ok(tvec!(from_singles(f32::datum_type(), &shape, values)?))
    }
}
