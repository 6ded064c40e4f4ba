//! Swish (ONNX, operator set 24) of any slope, and SwiGLU (28), which is a Swish times a value.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::ops::cast::cast;
use tract_onnx::tract_core::ops::math::mul;
use tract_onnx::tract_hir::internal::*;

use crate::elementwise::functions::Function;
use crate::framework::errors::ensure;
use crate::framework::registration::{Registration, own};
use crate::framework::upstream::BuildResult;

pub(crate) const OPERATORS: &[Registration] =
    &[own("Swish", build_swish), own("SwiGLU", build_swish)];

fn build_swish(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    build_with_slope(node, 1.0)
}

/// Builds a node whose slope is this one unless it has another.
pub(crate) fn build_with_slope(node: &NodeProto, slope: f32) -> BuildResult {
    let slope = node.get_attr_opt("alpha")?.unwrap_or(slope);
    Ok((expand(Swish { slope, gated: node.op_type == "SwiGLU" }), vec![]))
}

/// `a · sigmoid(slope · a)`, times `b` if there is one.
#[derive(Clone, Debug)]
struct Swish {
    slope: f32,
    gated: bool,
}

impl Expansion for Swish {
    fn name(&self) -> StaticName {
        if self.gated { "SwiGLU".into() } else { "Swish".into() }
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, 1 + usize::from(self.gated))?;
        check_output_arity(outputs, 1)?;
        for input in inputs {
            s.equals(&outputs[0].datum_type, &input.datum_type)?;
            s.equals(&outputs[0].shape, &input.shape)?;
        }
        Ok(())
    }

    fn wire(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        let fact = model.outlet_fact(inputs[0])?.clone();
        let agreed = !self.gated || model.outlet_fact(inputs[1])?.shape == fact.shape;
        ensure!(agreed, "the gate and its input have different shapes");
        // The sigmoid is computed in 32 bits at least, the rest in the type of the input.
        let double = fact.datum_type == DatumType::F64;
        let computed = if double { DatumType::F64 } else { DatumType::F32 };
        let wide = model.wire_node(format!("{prefix}.wide"), cast(computed), &inputs[..1])?;
        let sloped = if self.slope == 1.0 {
            wide
        } else {
            let slope = crate::framework::wiring::constant_like(
                model,
                format!("{prefix}.slope"),
                self.slope,
                wide[0],
            )?;
            model.wire_node(format!("{prefix}.sloped"), mul(), &[wide[0], slope])?
        };
        let gate = model.wire_node(format!("{prefix}.sigmoid"), Function::Sigmoid.op(), &sloped)?;
        let gate = model.wire_node(format!("{prefix}.gate"), cast(fact.datum_type), &gate)?[0];
        if !self.gated {
            return model.wire_node(prefix, mul(), &[inputs[0], gate]);
        }
        let swish = model.wire_node(format!("{prefix}.swish"), mul(), &[inputs[0], gate])?[0];
        model.wire_node(prefix, mul(), &[swish, inputs[1]])
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{case, row};

    fn swish(x: f32, slope: f64) -> f32 {
        let x = f64::from(x);
        (x / (1.0 + (-slope * x).exp())) as f32
    }

    #[test]
    fn swish_has_slope_one_by_default() {
        let numbers = [-20f32, -1.0, -1e-10, 0.5, 90.0, f32::NAN];
        for slope in [1.0, 1.702, -0.5] {
            let expected: Vec<f32> = numbers.iter().map(|x| swish(*x, slope)).collect();
            let case = case("Swish").float("alpha", slope as f32).input(row(&numbers));
            case.gives_near(row(&expected), 1e-5);
        }
        let expected: Vec<f32> = numbers.iter().map(|x| swish(*x, 1.0)).collect();
        case("Swish").input(row(&numbers)).gives_near(row(&expected), 1e-6);
    }

    #[test]
    fn swish_of_float64_is_computed_in_float64() {
        let slope = f64::from(1.702f32);
        let numbers = [-30f64, -1.0, 1e-200, 0.5, 700.0];
        let expected = numbers.map(|x| x / (1.0 + (-slope * x).exp()));
        let case = case("Swish").float("alpha", 1.702).input(row(&numbers));
        case.gives_near(row(&expected), 1e-14);
    }

    #[test]
    fn swiglu_is_a_swish_times_the_second_input() {
        let node = |b| case("SwiGLU").input(row(&[-1f32, 2.0])).input(b);
        let expected = row(&[3.0 * swish(-1.0, 1.0), -swish(2.0, 1.0)]);
        node(row(&[3f32, -1.0])).gives_near(expected, 1e-6);
        node(row(&[3f32, -1.0, 0.0])).fails("");
        let double = case("SwiGLU").input(row(&[-1f64, 2.0])).input(row(&[3f64, -1.0]));
        let expected = [-3.0 / (1.0 + 1f64.exp()), -2.0 / (1.0 + (-2f64).exp())];
        double.gives_near(row(&expected), 1e-15);
    }
}
