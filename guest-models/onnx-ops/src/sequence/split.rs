//! SplitToSequence into a number of tensors that is only known when the model runs.

use tract_onnx::tract_hir::internal::*;

use super::packed::{packed, part, sequence};
use crate::framework::axes::resolve;
use crate::framework::errors::{OrUserError, bail, ensure};
use crate::framework::facts::{InputFact, OutputFact, optional, required};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::ints;

pub(crate) const OPERATORS: &[Registration] = &[own("BelljarSplitToSequence", |_, node| {
    let axis = node.get_attr_opt("axis")?.unwrap_or(0);
    let keep = node.get_attr_opt::<i64>("keepdims")?.unwrap_or(1) != 0;
    built(Split { axis, keep }, node)
})];

#[derive(Debug)]
struct Split {
    axis: i64,
    keep: bool,
}

impl Operator for Split {
    fn name(&self) -> &'static str {
        "SplitToSequence"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let first = required(inputs, 0)?;
        let axis = resolve(self.axis, first.rank())?;
        let sizes = optional(inputs, 1);
        let gone = usize::from(!self.keep && sizes.is_none());
        let mut outputs = sequence(first.dtype, Some((first.rank() - gone).to_dim()));
        outputs[1].1[0] = match sizes {
            None => Some(first.shape[axis].clone()),
            Some(sizes) if sizes.rank() == 1 => Some(sizes.shape[0].clone()),
            Some(_) => None,
        };
        Ok(outputs)
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let first = *required(inputs, 0)?;
        let axis = resolve(self.axis, first.rank())?;
        let size = first.shape()[axis];
        let sizes: Vec<usize> = match optional(inputs, 1) {
            None => vec![1; size],
            Some(sizes) => {
                let all = ints(sizes)?.into_iter().map(usize::try_from);
                let all = all.collect::<Result<Vec<usize>, _>>();
                let all = all.or_user_error("a size is negative")?;
                match (sizes.rank(), &*all) {
                    (0, [0]) => bail!("the size is 0"),
                    (0, [part]) => {
                        (0..size).step_by(*part).map(|at| (*part).min(size - at)).collect()
                    }
                    _ => all,
                }
            }
        };
        let sum = sizes.iter().try_fold(0usize, |sum, part| sum.checked_add(*part));
        ensure!(sum == Some(size), "the sizes {sizes:?} do not sum to {size}");
        let mut tensors = Vec::with_capacity(sizes.len());
        let mut start = 0;
        for size in &sizes {
            let mut tensor = part(first, axis, start, start + size)?;
            if !self.keep && optional(inputs, 1).is_none() {
                tensor.remove_axis(axis)?;
            }
            tensors.push(tensor);
            start += size;
        }
        let gone = usize::from(!self.keep && optional(inputs, 1).is_none());
        packed(first.datum_type(), &tensors, first.rank() - gone)
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{case, row, scalar, tensor};

    #[test]
    fn tensors_are_split_by_sizes_and_by_a_size() {
        let split = || case("BelljarSplitToSequence").input(row(&[1f32, 2.0, 3.0]));
        let data = row(&[1f32, 2.0, 3.0]);
        let rows = split().int("keepdims", 0).outputs(2);
        rows.gives_all(&[data.clone(), tensor::<i64>(&[3, 0], &[])]);
        split().outputs(2).gives_all(&[data.clone(), tensor(&[3, 1], &[1i64, 1, 1])]);
        let by_two = split().input(scalar(2i64)).outputs(2);
        by_two.gives_all(&[data.clone(), tensor(&[2, 1], &[2i64, 1])]);
        let by_sizes = split().input(row(&[0i64, 3])).outputs(2);
        by_sizes.gives_all(&[data, tensor(&[2, 1], &[0i64, 3])]);
        split().input(row(&[1i64, 1])).outputs(2).fails("3");
        split().input(scalar(0i64)).outputs(2).fails("0");
    }
}
