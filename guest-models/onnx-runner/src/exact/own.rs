//! A frame for operators that are all ours: two functions, one that says what the outputs are and
//! one that computes them. Both are given the inputs at the places that ONNX numbers them by.
//! Nothing here relies on what a model declares: the shapes that come are the ones that are checked.

use std::fmt::Debug;

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::guards::MOST;
use super::late;

/// What is known of an input before the model runs.
#[derive(Clone)]
pub(super) struct Known {
    pub(super) dtype: DatumType,
    pub(super) shape: TVec<TDim>,
    pub(super) value: Option<Arc<Tensor>>,
}

impl Known {
    pub(super) fn rank(&self) -> usize {
        self.shape.len()
    }

    /// The integers of a constant.
    pub(super) fn ints(&self) -> TractResult<Option<Vec<i64>>> {
        self.value.as_deref().map(ints).transpose()
    }
}

/// What is known of an output: its element type and its dimensions, of which those that follow
/// from the values of inputs are known when it runs.
pub(super) type Said = (DatumType, TVec<Option<TDim>>);

/// An output of the type and shape of an input.
pub(super) fn like(input: &Known) -> Said {
    (input.dtype, input.shape.iter().cloned().map(Some).collect())
}

/// Known dimensions.
pub(super) fn sized(dtype: DatumType, dims: impl IntoIterator<Item = TDim>) -> Said {
    (dtype, dims.into_iter().map(Some).collect())
}

/// The dimensions of an output that are not known yet.
pub(super) fn unknown(dtype: DatumType, rank: usize) -> Said {
    (dtype, tvec![None; rank])
}

/// An operator of ours.
pub(super) trait Own: Debug + Send + Sync + 'static {
    fn name(&self) -> &'static str;

    /// Says what the outputs are, or why there are none.
    fn outputs(&self, inputs: &[Option<Known>]) -> TractResult<TVec<Said>>;

    /// Computes the outputs. What `outputs` has checked of shapes holds here, of known values only.
    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>>;
}

/// What a builder gives to tract.
pub(super) fn built<O: Own>(op: O, node: &NodeProto) -> super::Built {
    Ok((expand(frame(op, node)), vec![]))
}

fn frame<O: Own>(op: O, node: &NodeProto) -> Frame {
    let given = node.input.iter().map(|name| !name.is_empty()).collect();
    let named: TVec<bool> = node.output.iter().map(|name| !name.is_empty()).collect();
    Frame { op: Arc::new(op), given, named }
}

/// Puts an operator into a typed model at once.
pub(super) fn wired<O: Own>(
    op: O,
    node: &NodeProto,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    frame(op, node).wire(prefix, model, inputs)
}

/// The frame around an operator of any kind: compiled once, not for each of them.
#[derive(Clone, Debug)]
struct Frame {
    op: Arc<dyn Own>,
    /// Which inputs are there.
    given: TVec<bool>,
    /// Which outputs have names: tract knows of no others.
    named: TVec<bool>,
}

impl PartialEq for Frame {
    fn eq(&self, other: &Frame) -> bool {
        Arc::ptr_eq(&self.op, &other.op)
            && (&self.given, &self.named) == (&other.given, &other.named)
    }
}

impl Eq for Frame {}

impl Frame {
    fn placed<T>(&self, inputs: impl IntoIterator<Item = T>) -> Vec<Option<T>> {
        let mut inputs = inputs.into_iter();
        self.given.iter().map(|given| if *given { inputs.next() } else { None }).collect()
    }

    fn count(&self) -> usize {
        self.named.iter().filter(|named| **named).count()
    }

    /// The outputs that have names.
    fn chosen<T>(&self, outputs: TVec<T>) -> TractResult<TVec<T>> {
        let named = self.named.iter().zip(outputs).filter(|(named, _)| **named);
        let chosen: TVec<T> = named.map(|(_, output)| output).collect();
        ensure!(chosen.len() == self.count(), "more outputs than it has");
        Ok(chosen)
    }

    fn said(&self, inputs: Vec<Known>) -> TractResult<TVec<Said>> {
        self.chosen(self.op.outputs(&self.placed(inputs))?)
    }
}

impl Expansion for Frame {
    fn name(&self) -> StaticName {
        self.op.name().into()
    }

    fn nboutputs(&self) -> TractResult<usize> {
        Ok(self.count())
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_output_arity(outputs, self.count())?;
        let count = self.given.iter().filter(|given| **given).count();
        check_input_arity(inputs, count)?;
        let agree = |s: &mut Solver<'r>, inputs: Vec<Known>| {
            for (at, (dtype, dims)) in self.said(inputs)?.into_iter().enumerate() {
                s.equals(&outputs[at].datum_type, dtype)?;
                s.equals(&outputs[at].rank, dims.len() as i64)?;
                for (axis, dim) in dims.into_iter().enumerate() {
                    if let Some(dim) = dim {
                        s.equals(&outputs[at].shape[axis], dim)?;
                    }
                }
            }
            Ok(())
        };
        s.given_all(inputs.iter().map(|input| &input.datum_type), move |s, dtypes| {
            s.given_all(inputs.iter().map(|input| &input.shape), move |s, shapes| {
                let each = dtypes.iter().zip(&shapes);
                let known: Vec<Known> = each
                    .map(|(dtype, shape)| Known {
                        dtype: *dtype,
                        shape: shape.clone(),
                        value: None,
                    })
                    .collect();
                agree(s, known.clone())?;
                // What is not known from shapes may be known from values.
                s.given_all(inputs.iter().skip(1).map(|input| &input.value), move |s, values| {
                    let mut known = known.clone();
                    for (input, value) in known.iter_mut().skip(1).zip(values) {
                        input.value = Some(value);
                    }
                    agree(s, known)
                })
            })
        })
    }

    fn wire(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        let mut known = Vec::with_capacity(inputs.len());
        for input in inputs {
            let fact = model.outlet_fact(*input)?;
            let (dtype, shape) = (fact.datum_type, fact.shape.to_tvec());
            known.push(Known { dtype, shape, value: fact.konst.clone() });
        }
        let mut facts = tvec!();
        for (dtype, dims) in self.said(known)? {
            let dims = dims.into_iter().map(|dim| match dim {
                Some(dim) => dim,
                None => model.symbols.new_with_prefix("late").to_dim(),
            });
            facts.push(dtype.fact(dims.collect::<TVec<TDim>>()));
        }
        model.wire_node(prefix, Computed { frame: self.clone(), facts }, inputs)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Computed {
    frame: Frame,
    facts: TVec<TypedFact>,
}

impl Op for Computed {
    fn name(&self) -> StaticName {
        self.frame.op.name().into()
    }

    fn mints_runtime_symbols(&self) -> bool {
        true
    }

    op_as_typed_op!();
}

impl EvalOp for Computed {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let placed = self.frame.placed(inputs.iter().map(|input| &**input));
        let outputs = self.frame.chosen(self.frame.op.compute(&placed)?)?;
        outputs
            .iter()
            .zip(&self.facts)
            .try_for_each(|(output, fact)| late::as_said(output, fact))?;
        Ok(outputs.into_iter().map(Tensor::into_tvalue).collect())
    }
}

impl TypedOp for Computed {
    fn output_facts(&self, _inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(self.facts.clone())
    }

    as_op!();
}

/// An input that must be there.
pub(super) fn needed<T>(inputs: &[Option<T>], at: usize) -> TractResult<&T> {
    inputs.get(at).and_then(Option::as_ref).with_context(|| format!("its input {at} is missing"))
}

/// An input that may be there.
pub(super) fn optional<T>(inputs: &[Option<T>], at: usize) -> Option<&T> {
    inputs.get(at).and_then(Option::as_ref)
}

/// The integers of a tensor.
pub(super) fn ints(tensor: &Tensor) -> TractResult<Vec<i64>> {
    let wide = tensor.cast_to::<i64>()?;
    Ok(wide.try_as_plain_ram()?.as_slice::<i64>()?.to_vec())
}

/// How many elements a tensor of this shape has, if a sandbox can hold it.
pub(super) fn volume(shape: &[usize]) -> TractResult<usize> {
    let product =
        shape.iter().try_fold(1usize, |product, size| product.checked_mul((*size).max(1)));
    ensure!(
        product.is_some_and(|product| product <= (MOST / 16) as usize),
        "a tensor of the shape {shape:?} is more than a sandbox holds"
    );
    Ok(shape.iter().product())
}

/// How many elements lie between neighbours along each dimension.
pub(super) fn strides(shape: &[usize]) -> TVec<usize> {
    let mut strides: TVec<usize> = tvec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis].saturating_mul(shape[axis]);
    }
    strides
}

/// Goes on to the next place in row-major order; false when there is none.
pub(super) fn advance(place: &mut [usize], shape: &[usize]) -> bool {
    for axis in (0..place.len()).rev() {
        place[axis] += 1;
        if place[axis] < shape[axis] {
            return true;
        }
        place[axis] = 0;
    }
    false
}

/// An index from 0 on, of one that counts from the end if it is negative.
pub(super) fn index(index: i64, size: usize) -> TractResult<usize> {
    let from_start = if index < 0 { index.saturating_add(size as i64) } else { index };
    match usize::try_from(from_start).ok().filter(|at| *at < size) {
        Some(at) => Ok(at),
        None => bail!("the index {index} is not in {} to {}", -(size as i64), size as i64 - 1),
    }
}

/// A tensor of plain elements from their bytes.
pub(super) fn from_bytes(dtype: DatumType, shape: &[usize], bytes: &[u8]) -> TractResult<Tensor> {
    ensure!(dtype.is_copy(), "{dtype:?} is not implemented here");
    ensure!(
        bytes.len() == volume(shape)?.saturating_mul(dtype.size_of()),
        "bytes for another shape"
    );
    let whole = dtype != DatumType::Bool || bytes.iter().all(|byte| *byte <= 1);
    ensure!(dtype.is_copy() && whole, "bytes that are no {dtype:?}");
    let mut tensor = Tensor::zero_dt(dtype, shape)?;
    tensor.as_bytes_mut().copy_from_slice(bytes);
    Ok(tensor)
}

/// The numbers of a tensor of floats, in 64 bits.
pub(super) fn floats(tensor: &Tensor) -> TractResult<Vec<f64>> {
    let wide = tensor.cast_to::<f64>()?;
    Ok(wide.try_as_plain_ram()?.as_slice::<f64>()?.to_vec())
}

/// A tensor of floats from numbers in 64 bits.
pub(super) fn from_floats(
    dtype: DatumType,
    shape: &[usize],
    values: &[f64],
) -> TractResult<Tensor> {
    Ok(Tensor::from_shape(shape, values)?.cast_to_dt(dtype)?.into_owned())
}

/// A tensor of integers of 64 bits.
pub(super) fn from_ints(shape: &[usize], values: &[i64]) -> TractResult<Tensor> {
    Tensor::from_shape(shape, values)
}

/// A number in 64 bits, rounded to what an element type holds.
pub(super) fn rounded(dtype: DatumType, value: f64) -> f64 {
    match dtype {
        DatumType::F16 => f16::from_f64(value).to_f64(),
        DatumType::F32 => f64::from(value as f32),
        _ => value,
    }
}

/// A number among the attributes, kept so that operators can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bits(u32);

impl Bits {
    pub(super) fn of(node: &NodeProto, name: &str, default: f32) -> TractResult<Bits> {
        Ok(Bits(node.get_attr_opt::<f32>(name)?.unwrap_or(default).to_bits()))
    }

    pub(super) fn get(self) -> f32 {
        f32::from_bits(self.0)
    }
}

/// Sizes that are known before the model runs.
pub(super) fn concrete(shape: &[TDim]) -> Option<Vec<usize>> {
    shape.iter().map(|dim| dim.as_i64().and_then(|dim| usize::try_from(dim).ok())).collect()
}

/// The shapes of all inputs, if they are all known before the model runs.
pub(super) fn known_shapes(inputs: &[Option<Known>]) -> Option<Vec<Option<Vec<usize>>>> {
    let shape = |input: &Option<Known>| match input {
        Some(input) => concrete(&input.shape).map(Some),
        None => Some(None),
    };
    inputs.iter().map(shape).collect()
}

/// The shapes of all inputs.
pub(super) fn shapes(inputs: &[Option<&Tensor>]) -> Vec<Option<Vec<usize>>> {
    inputs.iter().map(|input| input.map(|input| input.shape().to_vec())).collect()
}

/// A list of integers as sizes, none of them beyond a sandbox.
pub(super) fn sizes(list: &[i64]) -> TractResult<Vec<usize>> {
    let size = |size: &i64| {
        ensure!((0..=MOST / 16).contains(size), "a size of {size}");
        Ok(*size as usize)
    };
    list.iter().map(size).collect()
}
