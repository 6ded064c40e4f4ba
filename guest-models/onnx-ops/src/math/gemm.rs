//! Gemm (ONNX). Up to operator set 6 the third operand has the shape of the output unless
//! `broadcast` is set. tract's factors are float32, so products of other types are wired here.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::ops::change_axes::wire_rank_broadcast;
use tract_onnx::tract_core::ops::einsum::EinSum;
use tract_onnx::tract_core::ops::math::{add, mul};
use tract_onnx::tract_hir::internal::*;

use super::integer_gemm::IntegerGemm;
use crate::framework::equal_sizes::check_equal_sizes;
use crate::framework::errors::{bail, ensure};
use crate::framework::operator::wire_operator;
use crate::framework::registration::{Registration, wrapped, wrapped_by};
use crate::framework::upstream::BuildResult;
use crate::framework::wiring::constant_like;
use crate::framework::wrapped::{Wrapped, Wrapping};

pub(crate) const OPERATORS: &[Registration] =
    &[wrapped_by("Gemm", build_1).until(6), wrapped("Gemm", GEMM).since(7)];

const GEMM: Wrapping = Wrapping::new(gemm);

fn build_1(context: &ParsingContext, node: &NodeProto) -> BuildResult {
    let (original, outer) = GEMM.build(context, node)?;
    let Some(original) = original.as_op().downcast_ref::<Box<dyn Expansion>>().cloned() else {
        bail!("{} is not implemented this way", node.op_type)
    };
    let broadcast = node.get_attr_opt::<i64>("broadcast")?.unwrap_or(0) != 0;
    Ok((expand(OldGemm { original, broadcast }), outer))
}

/// A product of matrices whose sizes match.
fn gemm(
    op: &Wrapped,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let transposed = [op.int("transA", 0)? != 0, op.int("transB", 0)? != 0];
    for input in &inputs[..2] {
        ensure!(model.outlet_fact(*input)?.rank() == 2, "both operands must be matrices");
    }
    let pairs = vec![[(0, usize::from(!transposed[0])), (1, usize::from(transposed[1]))]];
    let inputs = check_equal_sizes(pairs, prefix, model, inputs)?;
    match model.outlet_fact(inputs[0])?.datum_type {
        DatumType::F64 => double(op, transposed, prefix, model, &inputs),
        dtype if dtype.is_integer() => {
            wire_operator(IntegerGemm::new(&op.node)?, &op.node, prefix, model, &inputs)
        }
        _ => op.wire_original(prefix, model, &inputs),
    }
}

/// `alpha · a · b + beta · c` in float64.
fn double(
    op: &Wrapped,
    transposed: [bool; 2],
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let scaled = |model: &mut TypedModel, name: &str, outlet: OutletId| {
        let factor = op.float(name, 1.0)?;
        if factor == 1.0 {
            return Ok(outlet);
        }
        let factor = constant_like(model, format!("{prefix}.{name}"), factor, outlet)?;
        Ok::<_, TractError>(
            model.wire_node(format!("{prefix}.{name}-scaled"), mul(), &[outlet, factor])?[0],
        )
    };
    let axes = AxesMapping::for_numpy_matmul(2, transposed[0], transposed[1], false)?;
    let product = EinSum::new(axes, f64::datum_type());
    let product = model.wire_node(format!("{prefix}.product"), product, &inputs[..2])?[0];
    let product = scaled(model, "alpha", product)?;
    let Some(third) = inputs.get(2).filter(|_| op.float("beta", 1.0).is_ok_and(|beta| beta != 0.0))
    else {
        return Ok(tvec!(product));
    };
    let third = scaled(model, "beta", *third)?;
    let operands = wire_rank_broadcast(prefix, model, &[product, third])?;
    model.wire_node(prefix, add(), &operands)
}

#[derive(Clone, Debug)]
struct OldGemm {
    original: Box<dyn Expansion>,
    broadcast: bool,
}

impl Expansion for OldGemm {
    fn name(&self) -> StaticName {
        self.original.as_ref().name()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        self.original.as_ref().rules(s, inputs, outputs)
    }

    fn wire(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        let result = self.original.as_ref().wire(prefix, model, inputs)?;
        let shape = model.outlet_fact(result[0])?.shape.to_tvec();
        let third = model.outlet_fact(inputs[2])?.shape.to_tvec();
        ensure!(
            self.broadcast || third == shape,
            "the third operand has the shape {third:?}, expected {shape:?}"
        );
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{case, counting, row, scalar, tensor};

    #[test]
    fn gemm_transposes_scales_and_broadcasts() {
        let a = || tensor(&[2, 2], &[1f32, 2.0, 3.0, 4.0]);
        let b = || tensor(&[1, 2], &[1f32, -1.0]);
        // aᵀ · bᵀ = [1 - 3, 2 - 4]
        let gemm = || case("Gemm").int("transA", 1).int("transB", 1).input(a()).input(b());
        gemm().gives(tensor(&[2, 1], &[-2f32, -2.0]));
        let scaled = gemm().float("alpha", 0.5).float("beta", 2.0).input(scalar(10f32));
        scaled.gives(tensor(&[2, 1], &[19f32, 19.0]));
        let column = gemm().input(tensor(&[2, 1], &[1f32, 2.0]));
        column.gives(tensor(&[2, 1], &[-1f32, 0.0]));
    }

    #[test]
    fn gemm_of_float64_is_computed_in_float64() {
        let third = 1.0 / 3.0;
        let gemm = || {
            let case = case("Gemm").int("transB", 1).input(tensor(&[1, 2], &[third, 1e-12]));
            case.input(tensor(&[2, 2], &[1f64, 1.0, 3.0, 0.0]))
        };
        gemm().gives_near(tensor(&[1, 2], &[third + 1e-12, 1.0]), 1e-15);
        let (alpha, beta) = (f64::from(0.1f32), f64::from(0.7f32));
        let scaled = gemm().float("alpha", 0.1).float("beta", 0.7).input(row(&[third, 2.0]));
        let expected = [alpha * (third + 1e-12) + beta * third, alpha + beta * 2.0];
        scaled.gives_near(tensor(&[1, 2], &expected), 1e-15);
        let unused = gemm().float("beta", 0.0).input(row(&[f64::NAN; 2]));
        unused.gives_near(tensor(&[1, 2], &[third + 1e-12, 1.0]), 1e-15);
        let old = case("Gemm").opset(6).input(tensor(&[1, 1], &[third]));
        let old = old.input(tensor(&[1, 1], &[3f64])).input(tensor(&[1, 1], &[1f64]));
        old.gives_near(tensor(&[1, 1], &[2f64]), 1e-15);
    }

    #[test]
    fn gemm_before_version_7_broadcasts_only_with_its_attribute() {
        let one = || tensor(&[1, 1], &[3f32]);
        let gemm = |broadcast| {
            let case = case("Gemm").opset(6).int("broadcast", broadcast);
            case.input(one()).input(tensor(&[1, 2], &[1f32, 2.0])).input(row(&[1f32, 1.0]))
        };
        gemm(1).gives(tensor(&[1, 2], &[4f32, 7.0]));
        gemm(0).fails("");
        gemm(0).opset(7).gives(tensor(&[1, 2], &[4f32, 7.0]));
    }

    #[test]
    fn gemm_refuses_matrices_that_do_not_fit() {
        case("Gemm").input(counting(&[2, 3])).input(counting(&[2, 3])).fails("");
    }
}
