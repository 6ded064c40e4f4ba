//! CumSum and CumProd (ONNX, operator set 26).

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use crate::framework::axes::resolve;
use crate::framework::errors::bail;
use crate::framework::facts::{InputFact, OutputFact, like, required};
use crate::framework::numbers::{Number, by_number};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own, wrapped};
use crate::framework::tensors::ints;
use crate::framework::upstream::BuildResult;
use crate::framework::wiring::constant_ints;
use crate::framework::wrapped::{Wrapped, Wrapping};

pub(crate) const OPERATORS: &[Registration] =
    &[wrapped("CumSum", Wrapping::new(cum_sum).constant_from(1)), own("CumProd", build_cum_prod)];

fn cum_sum(
    op: &Wrapped,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let rank = model.outlet_fact(inputs[0])?.rank();
    for axis in constant_ints(model, inputs[1], "the axes")? {
        resolve(axis, rank)?;
    }
    op.wire_original(prefix, model, inputs)
}

fn build_cum_prod(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    let flag = |name| Ok::<_, TractError>(node.get_attr_opt::<i64>(name)?.unwrap_or(0) != 0);
    let (exclusive, reverse) = (flag("exclusive")?, flag("reverse")?);
    built(CumProd { exclusive, reverse }, node)
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct CumProd {
    exclusive: bool,
    reverse: bool,
}

impl Operator for CumProd {
    fn name(&self) -> &'static str {
        "CumProd"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        Ok(tvec!(like(required(inputs, 0)?)))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let first = *required(inputs, 0)?;
        let axis = ints(required(inputs, 1)?)?;
        let [axis] = *axis else { bail!("expected one axis, found {}", axis.len()) };
        let axis = resolve(axis, first.rank())?;
        let mut output = first.clone();
        let CumProd { exclusive, reverse } = *self;
        by_number!(products(first.datum_type())(&mut output, axis, exclusive, reverse))?;
        Ok(tvec!(output))
    }
}

fn products<T: Number>(
    output: &mut Tensor,
    axis: usize,
    exclusive: bool,
    reverse: bool,
) -> TractResult<()> {
    let shape: TVec<usize> = output.shape().into();
    let (outer, long) = (shape[..axis].iter().product::<usize>(), shape[axis]);
    let inner: usize = shape[axis + 1..].iter().product();
    let one = tensor0(1i64).cast_to::<T>()?.cast_to_scalar::<T>()?;
    let mut output = output.try_as_plain_ram_mut()?;
    let values = output.as_slice_mut::<T>()?;
    for (start, offset) in (0..outer).flat_map(|start| (0..inner).map(move |at| (start, at))) {
        let mut product = one;
        for step in 0..long {
            let step = if reverse { long - 1 - step } else { step };
            let value = &mut values[(start * long + step) * inner + offset];
            let next = product.times(*value);
            *value = if exclusive { product } else { next };
            product = next;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::testing::{case, row, scalar, tensor};

    #[test]
    fn cum_prod_is_exclusive_and_reversed() {
        let node = || case("CumProd").input(tensor(&[2, 3], &[1f32, 2.0, 3.0, 4.0, 5.0, 6.0]));
        let expected = |numbers: &[f32]| tensor(&[2, 3], numbers);
        node().input(scalar(-1i64)).gives(expected(&[1.0, 2.0, 6.0, 4.0, 20.0, 120.0]));
        let exclusive = node().int("exclusive", 1).input(scalar(1i64));
        exclusive.gives(expected(&[1.0, 1.0, 2.0, 1.0, 4.0, 20.0]));
        let reverse = node().int("reverse", 1).input(scalar(0i64));
        reverse.gives(expected(&[4.0, 10.0, 18.0, 4.0, 5.0, 6.0]));
        node().input(scalar(2i64)).fails("2");
    }

    #[test]
    fn cum_prod_of_no_elements_has_none() {
        let case = case("CumProd").input(tensor::<i32>(&[0, 2], &[])).input(scalar(0i64));
        case.gives(tensor::<i32>(&[0, 2], &[]));
    }

    #[test]
    fn cumulative_sums_and_products_of_unsigned_integers_have_all_bits() {
        let sum = case("CumSum").input(row(&[u64::MAX - 1, 1, 0])).input(scalar(0i64));
        sum.gives(row(&[u64::MAX - 1, u64::MAX, u64::MAX]));
        let product = case("CumProd").input(row(&[u32::MAX, 2])).input(scalar(0i64));
        product.gives(row(&[u32::MAX, u32::MAX - 1]));
    }

    #[test]
    fn cum_sum_is_exclusive_and_reversed() {
        let sum = || case("CumSum").input(row(&[1i64 << 40, 2, 3]));
        let of = |numbers: [i64; 3]| row(&numbers);
        let first = 1i64 << 40;
        sum().input(scalar(-1i64)).gives(of([first, first + 2, first + 5]));
        sum().int("exclusive", 1).input(scalar(0i32)).gives(of([0, first, first + 2]));
        sum().int("reverse", 1).input(scalar(0i64)).gives(of([first + 5, 5, 3]));
        let both = sum().int("reverse", 1).int("exclusive", 1).input(scalar(0i64));
        both.gives(of([5, 3, 0]));
        sum().input(scalar(1i64)).fails("1");
    }
}
