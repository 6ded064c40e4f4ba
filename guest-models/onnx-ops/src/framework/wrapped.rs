//! tract's operators with checks, rules or wiring of this crate. Each operator describes in its own
//! file what it replaces, as a [`Wrapping`].

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use crate::framework::axes::{distinct, resolve};
use crate::framework::deferred;
use crate::framework::errors::bail;
use crate::framework::tensors::ints;
use crate::framework::upstream::{BuildResult, originals};

/// Puts an operator into a typed model.
pub(crate) type Wire =
    fn(&Wrapped, &str, &mut TypedModel, &[OutletId]) -> TractResult<TVec<OutletId>>;

/// Checks the inputs, of which there is at least one, before tract's rules see them.
pub(crate) type Check =
    for<'r> fn(&'r Wrapped, &mut Solver<'r>, &'r [TensorProxy]) -> InferenceResult;

/// Relates the types and shapes of inputs and outputs.
pub(crate) type Rules = for<'r> fn(
    &'r Wrapped,
    &mut Solver<'r>,
    &'r [TensorProxy],
    &'r [TensorProxy],
) -> InferenceResult;

/// The number of dimensions of a deferred operator's output, from that of its first input and from
/// the number of elements of its second one.
pub(crate) type DeferredRank = fn(&Wrapped, usize, usize) -> TractResult<Option<usize>>;

/// What the axes of an operator count, which its attributes `axis` and `axes` hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AxisSpace {
    /// The dimensions of the first input.
    Input,
    /// The dimensions of the first input; the number of them is an axis as well.
    InputAndEnd,
    /// The dimensions of the output, which are one more than those of the input for each axis.
    Output,
}

/// Which parts of tract's operator are replaced, and by what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wrapping {
    wire: Wire,
    constant_from: usize,
    axes: AxisSpace,
    axes_input: bool,
    check: Option<Check>,
    rules: Option<Rules>,
    deferred_rank: Option<DeferredRank>,
}

impl Wrapping {
    /// tract's wiring and rules, with checks of the axes that are attributes.
    pub(crate) const TRACT: Wrapping = Wrapping::new(Wrapped::wire_original);

    /// This wiring and tract's rules, with checks of the axes that are attributes.
    pub(crate) const fn new(wire: Wire) -> Wrapping {
        Wrapping {
            wire,
            constant_from: usize::MAX,
            axes: AxisSpace::Input,
            axes_input: false,
            check: None,
            rules: None,
            deferred_rank: None,
        }
    }

    /// The inputs from this one on must be constants: if one is not, the operator is built anew for
    /// each run.
    pub(crate) const fn constant_from(mut self, input: usize) -> Wrapping {
        self.constant_from = input;
        self
    }

    /// What the axes count.
    pub(crate) const fn axes_of(mut self, axes: AxisSpace) -> Wrapping {
        self.axes = axes;
        self
    }

    /// The second input holds axes.
    pub(crate) const fn axes_input(mut self) -> Wrapping {
        self.axes_input = true;
        self
    }

    /// Checks the inputs before any rules.
    pub(crate) const fn check(mut self, check: Check) -> Wrapping {
        self.check = Some(check);
        self
    }

    /// Replaces tract's rules.
    pub(crate) const fn rules(mut self, rules: Rules) -> Wrapping {
        self.rules = Some(rules);
        self
    }

    /// Gives the number of dimensions of an output whose shape is only known when the model runs.
    pub(crate) const fn deferred_rank(mut self, rank: DeferredRank) -> Wrapping {
        self.deferred_rank = Some(rank);
        self
    }

    /// Builds tract's operator with this wrapping.
    pub(crate) fn build(self, context: &ParsingContext, node: &NodeProto) -> BuildResult {
        let Some(builder) = originals().get(&node.op_type) else {
            bail!("{} is not implemented", node.op_type)
        };
        let (original, outer) = builder(context, node)?;
        let Some(original) = original.as_op().downcast_ref::<Box<dyn Expansion>>() else {
            bail!("{} is not implemented this way", node.op_type)
        };
        let (original, node) = (original.clone(), node.clone());
        Ok((expand(Wrapped { original, node, wrapping: self }), outer))
    }
}

/// One of tract's operators with a [`Wrapping`].
#[derive(Clone)]
pub(crate) struct Wrapped {
    /// tract's operator.
    pub(crate) original: Box<dyn Expansion>,
    pub(crate) node: NodeProto,
    wrapping: Wrapping,
}

impl std::fmt::Debug for Wrapped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.node.op_type)
    }
}

impl Wrapped {
    /// tract's own wiring.
    pub(crate) fn wire_original(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        self.original.as_ref().wire(prefix, model, inputs)
    }

    /// An integer among the attributes.
    pub(crate) fn int(&self, name: &str, default: i64) -> TractResult<i64> {
        Ok(self.node.get_attr_opt::<i64>(name)?.unwrap_or(default))
    }

    pub(crate) fn float(&self, name: &str, default: f32) -> TractResult<f32> {
        Ok(self.node.get_attr_opt::<f32>(name)?.unwrap_or(default))
    }

    /// The position of an optional input among those that are present, if it is present.
    pub(crate) fn input(&self, at: usize) -> Option<usize> {
        self.node.input.get(at).filter(|name| !name.is_empty())?;
        Some(self.node.input[..at].iter().filter(|name| !name.is_empty()).count())
    }

    /// Resolves an axis of a tensor of this rank. A negative axis counts from the end.
    pub(crate) fn axis(&self, name: &str, default: i64, rank: usize) -> TractResult<usize> {
        resolve(self.int(name, default)?, rank)
    }

    /// Checks that these are axes of an input of this rank, or of the output where the axes count
    /// its dimensions, and that no two are the same.
    pub(crate) fn check_distinct(&self, axes: &[i64], rank: i64) -> TractResult<()> {
        let more = if self.wrapping.axes == AxisSpace::Output { axes.len() } else { 0 };
        distinct(axes, usize::try_from(rank)?.saturating_add(more))
    }

    /// Checks all axes that are attributes or constants against the number of dimensions.
    fn check_axes<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
    ) -> InferenceResult {
        let Some(first) = inputs.first() else { return Ok(()) };
        let mut axes: Vec<i64> = self.node.get_attr_opt_vec("axes")?.unwrap_or_default();
        axes.extend(self.node.get_attr_opt::<i64>("axis")?);
        let space = self.wrapping.axes;
        s.given(&first.rank, move |_, rank| {
            let rank = usize::try_from(rank)?;
            axes.iter().try_for_each(|axis| {
                let count = match space {
                    AxisSpace::Input => rank,
                    // Negative axes count from the end of the input.
                    AxisSpace::InputAndEnd => rank + usize::from(*axis >= 0),
                    AxisSpace::Output => rank + axes.len(),
                };
                resolve(*axis, count).map(drop)
            })
        })?;
        let Some(second) = inputs.get(1).filter(|_| self.wrapping.axes_input) else {
            return Ok(());
        };
        s.given_2(&first.rank, &second.value, move |_, rank, axes: Arc<Tensor>| {
            self.check_distinct(&ints(&axes)?, rank)
        })
    }

    /// The number of dimensions of the result, where it follows from the number of elements of an
    /// input whose values are not known yet.
    fn deferred_rank(&self, model: &TypedModel, inputs: &[OutletId]) -> TractResult<Option<usize>> {
        let Some(deferred_rank) = self.wrapping.deferred_rank else { return Ok(None) };
        let rank = model.outlet_fact(inputs[0])?.rank();
        let Some(second) = inputs.get(1) else { return Ok(None) };
        match model.outlet_fact(*second)?.shape.volume().to_usize() {
            Ok(count) => deferred_rank(self, rank, count),
            Err(_) => Ok(None),
        }
    }
}

impl Expansion for Wrapped {
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
        // tract's own rules panic at axes that do not exist.
        self.check_axes(s, inputs)?;
        if let Some(check) = self.wrapping.check.filter(|_| !inputs.is_empty()) {
            check(self, s, inputs)?;
        }
        match self.wrapping.rules {
            Some(rules) => rules(self, s, inputs, outputs),
            None => self.original.as_ref().rules(s, inputs, outputs),
        }
    }

    fn wire(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        (self.wrapping.wire)(self, prefix, model, inputs)
    }

    fn wire_with_inference_model_and_node(
        &self,
        prefix: &str,
        _: &InferenceModel,
        node: &InferenceNode,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        if deferred::all_constant(model, inputs, self.wrapping.constant_from)? {
            return self.wire(prefix, model, inputs);
        }
        let rank = self.deferred_rank(model, inputs)?;
        let expansion: Box<dyn Expansion> = Box::new(self.clone());
        deferred::wire(&expansion, prefix, node, model, inputs, rank)
    }
}
