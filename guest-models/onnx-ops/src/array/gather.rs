//! Gather and GatherND (ONNX). Indices that are out of range are refused, where tract would read
//! other memory.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::ops::array::GatherNd;
use tract_onnx::tract_core::ops::cast::cast;
use tract_onnx::tract_hir::infer::InferenceRulesOp;
use tract_onnx::tract_hir::internal::*;

use crate::framework::checks::BoundsCheck;
use crate::framework::dims::index;
use crate::framework::errors::ensure;
use crate::framework::registration::{Registration, own, wrapped};
use crate::framework::tensors::ints;
use crate::framework::upstream::BuildResult;
use crate::framework::wrapped::{Wrapped, Wrapping};

pub(crate) const OPERATORS: &[Registration] =
    &[wrapped("Gather", Wrapping::new(along_axis)), own("GatherND", build_gather_nd)];

fn build_gather_nd(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    let batch = node.get_attr_opt::<usize>("batch_dims")?.unwrap_or(0);
    Ok((expand(Gather(GatherNd::new(batch))), vec![]))
}

/// Indices along one axis.
fn along_axis(
    op: &Wrapped,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let fact = model.outlet_fact(inputs[0])?;
    let axis = op.axis("axis", 0, fact.rank())?;
    let mut checked: TVec<OutletId> = inputs.into();
    let name = format!("{prefix}.check");
    checked[1] = match fact.shape[axis].as_i64() {
        Some(size) => {
            let bounds = BoundsCheck { min: -size, max: size - 1, what: "the index" };
            bounds.check_input(name, model, inputs[1])?
        }
        None => model.wire_node(name, CheckIndices { axis }, inputs)?[0],
    };
    op.wire_original(prefix, model, &checked)
}

/// Passes on indices along an axis whose size is known when the model runs, if they are in range.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct CheckIndices {
    axis: usize,
}

impl Op for CheckIndices {
    fn name(&self) -> StaticName {
        "CheckIndices".into()
    }

    op_as_typed_op!();
}

impl EvalOp for CheckIndices {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, mut inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let size = inputs[0].shape()[self.axis];
        for at in ints(&inputs[1])? {
            index(at, size)?;
        }
        Ok(tvec!(inputs.remove(1)))
    }
}

impl TypedOp for CheckIndices {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(inputs[1].without_value()))
    }

    as_op!();
}

#[derive(Clone, Debug)]
struct Gather(GatherNd);

impl Expansion for Gather {
    fn name(&self) -> StaticName {
        "GatherND".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        s.given(&inputs[1].rank, move |s, rank| {
            // tract would count down from this number of dimensions.
            ensure!(rank > 0, "the indices are a scalar, but need a dimension");
            InferenceRulesOp::rules(&self.0, s, inputs, outputs)
        })
    }

    fn wire(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        let shape = model.outlet_fact(inputs[0])?.shape.to_tvec();
        let batch = self.0.batch_dims;
        ensure!(
            batch < shape.len(),
            "batch_dims is {batch}, but the input has {} dimensions",
            shape.len()
        );
        let indices = model.outlet_fact(inputs[1])?.shape.to_tvec();
        let fits = batch < indices.len() && indices[..batch] == shape[..batch];
        ensure!(
            fits,
            "indices of the shape {indices:?} do not match {batch} batch dimensions of the shape {shape:?}"
        );
        ensure!(indices[indices.len() - 1].as_i64() != Some(0), "the indices address no dimension");
        let sizes: Option<Vec<i64>> = shape[batch..].iter().map(TDim::as_i64).collect();
        // com.microsoft's operator also takes indices of 32 bits.
        let mut inputs: TVec<OutletId> = inputs.into();
        if model.outlet_fact(inputs[1])?.datum_type != DatumType::I64 {
            let wide = cast(DatumType::I64);
            inputs[1] = model.wire_node(format!("{prefix}.indices"), wide, &inputs[1..])?[0];
        }
        let mut resolved = inputs.clone();
        let name = format!("{prefix}.check");
        resolved[1] = match (model.outlet_fact(inputs[1])?.konst.clone(), sizes) {
            (Some(konst), Some(sizes)) => {
                model.add_const(name, ResolveIndices { sizes }.resolved(&konst)?)?
            }
            (None, Some(sizes)) => {
                model.wire_node(name, ResolveIndices { sizes }, &inputs[1..])?[0]
            }
            (_, None) => model.wire_node(name, ResolveIndicesOf { batch }, &inputs)?[0],
        };
        model.wire_node(prefix, self.0.clone(), &resolved)
    }
}

/// Checks indices into several dimensions, and resolves negative ones.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct ResolveIndices {
    sizes: Vec<i64>,
}

impl ResolveIndices {
    fn resolved(&self, indices: &Tensor) -> TractResult<Tensor> {
        let deep = indices.shape().last().copied().unwrap_or(0);
        ensure!(
            deep <= self.sizes.len(),
            "the indices address {deep} dimensions, more than the data has"
        );
        let mut indices = indices.clone();
        let mut all = indices.try_as_plain_ram_mut()?;
        for position in all.as_slice_mut::<i64>()?.chunks_mut(deep.max(1)) {
            for (index, size) in position.iter_mut().zip(&self.sizes) {
                ensure!(
                    (-size..*size).contains(index),
                    "the index {index} is not between -{size} and {}",
                    size - 1
                );
                if *index < 0 {
                    *index += size;
                }
            }
        }
        Ok(indices)
    }
}

impl Op for ResolveIndices {
    fn name(&self) -> StaticName {
        "ResolveIndices".into()
    }

    op_as_typed_op!();
}

impl EvalOp for ResolveIndices {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        Ok(tvec!(self.resolved(&inputs[0])?.into_tvalue()))
    }
}

impl TypedOp for ResolveIndices {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(inputs[0].without_value()))
    }

    as_op!();
}

/// The same for data whose sizes are known when the model runs.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct ResolveIndicesOf {
    batch: usize,
}

impl Op for ResolveIndicesOf {
    fn name(&self) -> StaticName {
        "ResolveIndices".into()
    }

    op_as_typed_op!();
}

impl EvalOp for ResolveIndicesOf {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let sizes = inputs[0].shape().iter().skip(self.batch).map(|size| *size as i64).collect();
        Ok(tvec!(ResolveIndices { sizes }.resolved(&inputs[1])?.into_tvalue()))
    }
}

impl TypedOp for ResolveIndicesOf {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(inputs[1].without_value()))
    }

    as_op!();
}

#[cfg(test)]
mod tests {
    use crate::testing::{case, counting, row, scalar, tensor, texts};

    #[test]
    fn gather_takes_scalars_and_negative_indices() {
        let data = || counting(&[2, 3]);
        case("Gather").int("axis", -1).input(data()).input(scalar(-1i64)).gives(row(&[2f32, 5.0]));
        let square = case("Gather").input(data()).input(tensor(&[1, 2], &[1i32, -2]));
        square.gives(tensor(&[1, 2, 3], &[3f32, 4.0, 5.0, 0.0, 1.0, 2.0]));
        let none = case("Gather").input(data()).input(row::<i64>(&[]));
        none.gives(tensor::<f32>(&[0, 3], &[]));
    }

    #[test]
    fn gather_and_gather_nd_refuse_indices_outside_of_the_tensor() {
        for index in [2, -3, 1 << 32, i64::MIN] {
            let text = index.to_string();
            case("Gather").input(row(&[1f32, 2.0])).input(scalar(index)).fails(&text);
            case("GatherND").input(row(&[1f32, 2.0])).input(row(&[index])).fails(&text);
        }
    }

    #[test]
    fn gather_nd_refuses_scalar_indices() {
        let case = case("GatherND").input(counting(&[5, 5, 1])).input(scalar(1i64));
        case.fails("scalar");
    }

    #[test]
    fn gather_nd_takes_strings() {
        let words = || texts(&["a", "b", "c", ""]).into_shape(&[2, 2]).unwrap();
        let case = case("GatherND").input(words());
        case.clone().input(tensor(&[2, 2], &[0i64, 1, -1, 0])).gives(texts(&["b", "c"]));
        case.clone().input(row(&[1i64])).gives(texts(&["c", ""]));
        case.input(row(&[0i64, 0])).gives(texts(&["a"]).into_shape(&[]).unwrap());
    }

    #[test]
    fn gather_nd_takes_slices_and_batches() {
        let data = || counting(&[2, 2, 2]);
        let slices = case("GatherND").input(data()).input(tensor(&[2, 1], &[-1i64, 0]));
        slices.gives(tensor(&[2, 2, 2], &[4f32, 5.0, 6.0, 7.0, 0.0, 1.0, 2.0, 3.0]));
        let batches = case("GatherND").int("batch_dims", 1).input(data());
        let batches = batches.input(tensor(&[2, 1], &[1i64, 0]));
        batches.gives(tensor(&[2, 2], &[2f32, 3.0, 4.0, 5.0]));
        case("GatherND")
            .int("batch_dims", 1)
            .input(data())
            .input(tensor(&[1, 1], &[0i64]))
            .fails("");
    }
}
