//! Sequences whose lengths or positions are only known when the model runs. The gate of the guest
//! represents each by two tensors: the elements of all its tensors one after another, and a row for
//! each tensor with its shape. A row is as long as the most dimensions of a tensor; that of a tensor
//! with fewer dimensions ends in -1.

use tract_onnx::tract_hir::internal::*;

use crate::framework::axes::resolve;
use crate::framework::dims::volume;
use crate::framework::errors::{OrUserError, bail, ensure};
use crate::framework::facts::{InputFact, OutputFact, optional, required, unknown_dims};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::{from_ints, ints};

pub(crate) const OPERATORS: &[Registration] = &[
    own("BelljarSequenceConstruct", |_, node| built(Construct, node)),
    own("BelljarSequenceInsert", |_, node| built(Insert, node)),
    own("BelljarSequenceErase", |_, node| built(Erase, node)),
    own("BelljarSequenceAt", |_, node| built(At, node)),
    own("BelljarConcatFromSequence", |_, node| {
        let axis = node.get_attr_opt("axis")?.unwrap_or(0);
        let new = node.get_attr_opt::<i64>("new_axis")?.unwrap_or(0) != 0;
        built(Join { axis, new }, node)
    }),
];

/// The element type without tract's own type for sizes.
fn plain(dtype: DatumType) -> DatumType {
    if dtype == TDim::datum_type() { i64::datum_type() } else { dtype }
}

/// The facts of a sequence of tensors with this number of dimensions.
pub(super) fn sequence(dtype: DatumType, rank: Option<TDim>) -> TVec<OutputFact> {
    tvec!((plain(dtype), tvec!(None)), (i64::datum_type(), tvec!(None, rank)))
}

/// The most dimensions of a tensor of a sequence.
fn most(shapes: &InputFact) -> Option<TDim> {
    shapes.shape.get(1).cloned()
}

/// The number of dimensions of the tensors of a sequence, if it is known.
fn rank_of(shapes: &InputFact) -> TractResult<usize> {
    let rank = most(shapes).and_then(|rank| rank.to_usize().ok());
    rank.or_user_error(
        "the number of dimensions of its tensors is only known when the model runs, which is not \
         implemented here",
    )
}

/// A part of a tensor, which may be empty.
pub(super) fn part(tensor: &Tensor, axis: usize, start: usize, end: usize) -> TractResult<Tensor> {
    if start < end {
        return tensor.slice(axis, start, end);
    }
    let mut shape: TVec<usize> = tensor.shape().into();
    shape[axis] = 0;
    Tensor::zero_dt(tensor.datum_type(), &shape)
}

/// Splits a sequence into its tensors.
fn unpacked(inputs: &[Option<&Tensor>]) -> TractResult<Vec<Tensor>> {
    let (data, shapes) = (required(inputs, 0)?, required(inputs, 1)?);
    let &[count, rank] = shapes.shape() else { bail!("the sequence is malformed") };
    let sizes = ints(shapes)?;
    let mut tensors = Vec::with_capacity(count);
    let mut start = 0;
    for at in 0..count {
        let row = &sizes[at * rank..(at + 1) * rank];
        let length = row.iter().position(|size| *size == -1).unwrap_or(rank);
        ensure!(row[length..].iter().all(|size| *size == -1), "the sequence is malformed");
        let shape = row[..length].iter().map(|size| usize::try_from(*size));
        let shape = shape.collect::<Result<Vec<usize>, _>>();
        let shape = shape.or_user_error("the sequence is malformed")?;
        let end = start + volume(&shape)?;
        ensure!(end <= data.len(), "the sequence is malformed");
        tensors.push(part(data, 0, start, end)?.into_shape(&shape)?);
        start = end;
    }
    ensure!(start == data.len(), "the sequence is malformed");
    Ok(tensors)
}

/// Checks that all of these tensors have as many dimensions as rows have sizes.
fn check_ranks(tensors: &[Tensor], shapes: &Tensor) -> TractResult<()> {
    let rank = shapes.shape()[1];
    match tensors.iter().map(Tensor::rank).find(|other| *other != rank) {
        Some(other) => bail!(
            "the tensors of the sequence have {other} and {rank} dimensions, which is not \
             implemented here"
        ),
        None => Ok(()),
    }
}

/// Puts the tensors of a sequence together, in rows for at least so many dimensions.
pub(super) fn packed(
    dtype: DatumType,
    tensors: &[Tensor],
    least: usize,
) -> TractResult<TVec<Tensor>> {
    let dtype = plain(dtype);
    let rank = tensors.iter().map(Tensor::rank).fold(least, usize::max);
    let mut sizes: Vec<i64> = Vec::with_capacity(tensors.len() * rank);
    let mut flat = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        sizes.extend(tensor.shape().iter().map(|size| *size as i64));
        sizes.extend(std::iter::repeat_n(-1, rank - tensor.rank()));
        flat.push(tensor.cast_to_dt(dtype)?.into_owned().into_shape(&[tensor.len()])?);
    }
    let data = match &*flat {
        [] => Tensor::zero_dt(dtype, &[0])?,
        flat => Tensor::stack_tensors(0, flat)?,
    };
    Ok(tvec!(data, from_ints(&[tensors.len(), rank], &sizes)?))
}

/// A position, which may be negative to count from the end.
fn place(
    position: Option<&Tensor>,
    length: usize,
    places: usize,
    default: i64,
) -> TractResult<usize> {
    let at = match position {
        None => default,
        Some(position) => match *ints(position)? {
            [at] => at,
            ref all => bail!("expected one position, found {}", all.len()),
        },
    };
    let from_start = if at < 0 { at.saturating_add(length as i64) } else { at };
    let from_start = usize::try_from(from_start).ok().filter(|at| *at < places);
    from_start
        .or_user_error(format_args!("the position {at} is out of range for a sequence of {length}"))
}

#[derive(Debug)]
struct Construct;

impl Operator for Construct {
    fn name(&self) -> &'static str {
        "SequenceConstruct"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let first = required(inputs, 0)?;
        let most = inputs.iter().flatten().map(InputFact::rank).max().unwrap_or(0);
        let mut outputs = sequence(first.dtype, Some(most.to_dim()));
        outputs[1].1[0] = Some(inputs.len().to_dim());
        Ok(outputs)
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let first = required(inputs, 0)?.datum_type();
        let tensors: Vec<Tensor> = inputs.iter().flatten().map(|one| (*one).clone()).collect();
        packed(first, &tensors, 0)
    }
}

#[derive(Debug)]
struct Insert;

impl Operator for Insert {
    fn name(&self) -> &'static str {
        "SequenceInsert"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let (shapes, added) = (required(inputs, 1)?, required(inputs, 2)?.rank());
        let most = most(shapes).and_then(|most| most.to_usize().ok());
        Ok(sequence(required(inputs, 0)?.dtype, most.map(|most| most.max(added).to_dim())))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let mut tensors = unpacked(inputs)?;
        let length = tensors.len();
        let at = place(optional(inputs, 3).copied(), length, length + 1, length as i64)?;
        tensors.insert(at, (*required(inputs, 2)?).clone());
        packed(required(inputs, 0)?.datum_type(), &tensors, required(inputs, 1)?.shape()[1])
    }
}

#[derive(Debug)]
struct Erase;

impl Operator for Erase {
    fn name(&self) -> &'static str {
        "SequenceErase"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        Ok(sequence(required(inputs, 0)?.dtype, most(required(inputs, 1)?)))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let mut tensors = unpacked(inputs)?;
        let length = tensors.len();
        tensors.remove(place(optional(inputs, 2).copied(), length, length, length as i64 - 1)?);
        packed(required(inputs, 0)?.datum_type(), &tensors, required(inputs, 1)?.shape()[1])
    }
}

#[derive(Debug)]
struct At;

impl Operator for At {
    fn name(&self) -> &'static str {
        "SequenceAt"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let (data, shapes) = (required(inputs, 0)?, required(inputs, 1)?);
        Ok(tvec!(unknown_dims(plain(data.dtype), rank_of(shapes)?)))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let mut tensors = unpacked(inputs)?;
        let length = tensors.len();
        let at = place(optional(inputs, 2).copied(), length, length, 0)?;
        let found = tensors.swap_remove(at);
        check_ranks(std::slice::from_ref(&found), required(inputs, 1)?)?;
        Ok(tvec!(found))
    }
}

#[derive(Debug)]
struct Join {
    axis: i64,
    new: bool,
}

impl Operator for Join {
    fn name(&self) -> &'static str {
        "ConcatFromSequence"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let (data, shapes) = (required(inputs, 0)?, required(inputs, 1)?);
        let rank = rank_of(shapes)? + usize::from(self.new);
        resolve(self.axis, rank)?;
        Ok(tvec!(unknown_dims(plain(data.dtype), rank)))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let mut tensors = unpacked(inputs)?;
        let Some(first) = tensors.first() else {
            bail!("a sequence without elements cannot be concatenated")
        };
        check_ranks(&tensors, required(inputs, 1)?)?;
        let axis = resolve(self.axis, first.rank() + usize::from(self.new))?;
        if self.new {
            tensors.iter_mut().try_for_each(|tensor| tensor.insert_axis(axis))?;
        }
        let shape = |tensor: &Tensor| {
            let mut shape: TVec<usize> = tensor.shape().into();
            shape[axis] = 1;
            shape
        };
        let same = tensors.iter().all(|tensor| shape(tensor) == shape(&tensors[0]));
        ensure!(same, "the tensors have different shapes along other axes than {axis}");
        Ok(tvec!(Tensor::stack_tensors(axis, &tensors)?))
    }
}

#[cfg(test)]
mod tests {
    use tract_onnx::prelude::Tensor;

    use crate::testing::{Case, case, row, scalar, tensor};

    /// Two tensors, of two rows and of one.
    fn two(operator: &str) -> Case {
        let data = row(&[1f32, 2.0, 3.0, 4.0, 5.0, 6.0]);
        match operator {
            "insert" => case("BelljarSequenceInsert").input(data),
            "erase" => case("BelljarSequenceErase").input(data),
            "at" => case("BelljarSequenceAt").input(data),
            _ => case("BelljarConcatFromSequence").input(data),
        }
        .input(tensor(&[2, 2], &[2i64, 2, 1, 2]))
    }

    fn empty() -> [Tensor; 2] {
        [row::<f32>(&[]), tensor::<i64>(&[0, 0], &[])]
    }

    #[test]
    fn a_sequence_has_the_elements_and_the_shapes_of_its_tensors() {
        let (one, other) = (tensor(&[2, 2], &[1f32, 2.0, 3.0, 4.0]), tensor(&[1, 2], &[5f32, 6.0]));
        let expected = [row(&[1f32, 2.0, 3.0, 4.0, 5.0, 6.0]), tensor(&[2, 2], &[2i64, 2, 1, 2])];
        let made = case("BelljarSequenceConstruct").input(one).input(other).outputs(2);
        made.gives_all(&expected);
        let mixed = case("BelljarSequenceConstruct").input(row(&[1i64])).input(scalar(2i64));
        mixed.outputs(2).gives_all(&[row(&[1i64, 2]), tensor(&[2, 1], &[1i64, -1])]);
    }

    #[test]
    fn tensors_are_inserted_at_positions_from_both_ends_and_erased() {
        let shapes = |rows: &[i64]| tensor(&[rows.len() / 2, 2], rows);
        let seventh = || two("insert").input(tensor(&[1, 1], &[7f32])).outputs(2);
        let last = [row(&[1f32, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]), shapes(&[2, 2, 1, 2, 1, 1])];
        seventh().gives_all(&last);
        seventh().input(scalar(2i64)).gives_all(&last);
        let middle = [row(&[1f32, 2.0, 3.0, 4.0, 7.0, 5.0, 6.0]), shapes(&[2, 2, 1, 1, 1, 2])];
        seventh().input(scalar(-1i64)).gives_all(&middle);
        seventh().input(scalar(3i64)).fails("3");
        let shorter = [row(&[1f32, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]), shapes(&[2, 2, 1, 2, 1, -1])];
        two("insert").input(row(&[7f32])).outputs(2).gives_all(&shorter);
        let [data, none] = empty();
        let into_empty = case("BelljarSequenceInsert").input(data).input(none);
        into_empty
            .input(row(&[7f32]))
            .outputs(2)
            .gives_all(&[row(&[7f32]), tensor(&[1, 1], &[1i64])]);
        let erased = two("erase").input(scalar(0i64)).outputs(2);
        erased.gives_all(&[row(&[5f32, 6.0]), shapes(&[1, 2])]);
        two("erase").outputs(2).gives_all(&[row(&[1f32, 2.0, 3.0, 4.0]), shapes(&[2, 2])]);
        two("erase").input(scalar(-3i64)).outputs(2).fails("-3");
    }

    #[test]
    fn a_tensor_of_a_sequence_is_read_by_its_position() {
        two("at").input(scalar(-1i64)).gives(tensor(&[1, 2], &[5f32, 6.0]));
        two("at").input(scalar(0i64)).gives(tensor(&[2, 2], &[1f32, 2.0, 3.0, 4.0]));
        two("at").input(scalar(2i64)).fails("2");
    }

    #[test]
    fn sequences_are_joined_along_an_axis_or_a_new_one() {
        two("join").gives(tensor(&[3, 2], &[1f32, 2.0, 3.0, 4.0, 5.0, 6.0]));
        two("join").int("axis", 1).fails("1");
        let same = case("BelljarConcatFromSequence").input(row(&[1f32, 2.0, 3.0, 4.0]));
        let same = same.input(tensor(&[2, 1], &[2i64, 2])).int("axis", 1).int("new_axis", 1);
        same.gives(tensor(&[2, 2], &[1f32, 3.0, 2.0, 4.0]));
        let [data, none] = empty();
        case("BelljarConcatFromSequence").input(data).input(none).fails("");
    }
}
