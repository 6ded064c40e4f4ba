//! Gelu, QuickGelu, BiasGelu and FastGelu (com.microsoft). The last two add a bias of one dimension,
//! the last, before the activation.

use belljar_operators::MICROSOFT;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::ops::math::add;
use tract_onnx::tract_hir::internal::*;
use tract_onnx::tract_hir::ops::element_wise::ElementWiseIntoHir;

use crate::elementwise::functions::Function;
use crate::elementwise::swish;
use crate::framework::equal_sizes::check_equal_sizes;
use crate::framework::errors::ensure;
use crate::framework::registration::{Registration, own};
use crate::framework::upstream::BuildResult;
use crate::framework::wiring::two_of_one_type;

pub(crate) const OPERATORS: &[Registration] = &[
    own("Gelu", |_, _| Ok((Function::Gelu.op().into_hir(), vec![]))).of(MICROSOFT),
    own("QuickGelu", |_, node| swish::build_with_slope(node, 1.702)).of(MICROSOFT),
    own("BiasGelu", |_, node| build_biased(Function::Gelu, node)).of(MICROSOFT),
    own("FastGelu", |_, node| build_biased(Function::GeluByTanh, node)).of(MICROSOFT),
];

fn build_biased(function: Function, node: &NodeProto) -> BuildResult {
    match node.input.len() {
        1 => Ok((function.op().into_hir(), vec![])),
        _ => Ok((expand(Biased { function }), vec![])),
    }
}

/// A function of the sum of the input and a bias.
#[derive(Clone, Debug)]
struct Biased {
    function: Function,
}

impl Expansion for Biased {
    fn name(&self) -> StaticName {
        "Biased".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        two_of_one_type(s, inputs, outputs)?;
        s.equals(&outputs[0].shape, &inputs[0].shape)
    }

    fn wire(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        let ranks = (model.outlet_fact(inputs[0])?.rank(), model.outlet_fact(inputs[1])?.rank());
        ensure!(ranks.0 > 0, "the input has no dimensions");
        ensure!(ranks.1 == 1, "expected a bias of one dimension, found {}", ranks.1);
        let pairs = vec![[(0, ranks.0 - 1), (1, 0)]];
        let inputs = check_equal_sizes(pairs, prefix, model, inputs)?;
        let biased = wire_with_rank_broadcast(format!("{prefix}.biased"), model, add(), &inputs)?;
        model.wire_node(prefix, self.function.op(), &biased)
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{microsoft, row, scalar, tensor};

    // The expected numbers are those of onnxruntime 1.32 and of the documented formulas in float64,
    // rounded to float32, which
    // agree to 1e-6, and to 4e-5 where FastGelu is close to 0.

    #[test]
    fn gelu_is_exact_and_quick_gelu_has_a_slope_of_its_own() {
        let numbers = || row(&[-3f32, -1.0, -1e-10, 0.5, 2.0, f32::NAN]);
        let exact = [-0.004_049_694, -0.158_655_25, -5e-11, 0.345_731_23, 1.954_499_7, f32::NAN];
        microsoft("Gelu").input(numbers()).gives_near(row(&exact), 1e-6);
        let quick = [-0.018_071_31, -0.154_204_23, -5e-11, 0.350_388_44, 1.935_658_6, f32::NAN];
        microsoft("QuickGelu").input(numbers()).gives_near(row(&quick), 1e-6);
        let swish = [-0.142_277_62, -0.268_941_42, -5e-11, 0.311_229_67, 1.761_594_2, f32::NAN];
        let unit = microsoft("QuickGelu").float("alpha", 1.0).input(numbers());
        unit.gives_near(row(&swish), 1e-6);
    }

    #[test]
    fn activations_of_float64_are_computed_in_float64() {
        // By Python's math.erfc and math.tanh.
        let one = || row(&[-1f64]);
        microsoft("Gelu").input(one()).gives_near(row(&[-0.158_655_253_931_457_07]), 1e-15);
        let slope = f64::from(1.702f32);
        let quick = row(&[-1.0 / (1.0 + slope.exp())]);
        microsoft("QuickGelu").input(one()).gives_near(quick, 1e-15);
        let biased = microsoft("BiasGelu").input(row(&[-3f64])).input(row(&[2f64]));
        biased.gives_near(row(&[-0.158_655_253_931_457_07]), 1e-15);
        let fast = microsoft("FastGelu").input(row(&[-3f64])).input(row(&[2f64]));
        fast.gives_near(row(&[-0.158_808_009_391_723_24]), 1e-14);
    }

    #[test]
    fn biases_are_added_to_the_last_dimension() {
        let data = || tensor(&[2, 1, 3], &[-1f32, 0.0, 1.0, 2.0, -2.0, 0.5]);
        let bias = || row(&[0.5f32, -1.0, 0.25]);
        let exact = [
            -0.154_268_77f32,
            -0.158_655_25,
            1.117_937_8,
            2.484_475_8,
            -0.004_049_694,
            0.580_029_5,
        ];
        microsoft("BiasGelu")
            .input(data())
            .input(bias())
            .gives_near(tensor(&[2, 1, 3], &exact), 1e-6);
        let fast =
            [-0.154_286_f32, -0.158_808_01, 1.117_714_2, 2.484_915_7, -0.003_637_392, 0.579_960_6];
        microsoft("FastGelu")
            .input(data())
            .input(bias())
            .gives_near(tensor(&[2, 1, 3], &fast), 1e-6);
        let alone = [-0.158_808_01f32, 0.0, 0.841_192, 1.954_597_7, -0.045_402_306, 0.345_714];
        microsoft("FastGelu").input(data()).gives_near(tensor(&[2, 1, 3], &alone), 1e-6);
    }

    #[test]
    fn biases_of_other_shapes_are_refused() {
        let node = |bias| microsoft("BiasGelu").input(tensor(&[2, 3], &[0f32; 6])).input(bias);
        node(row(&[1f32; 2])).fails("2");
        node(row(&[1f32])).fails("1");
        node(tensor(&[1, 3], &[1f32; 3])).fails("2");
        microsoft("FastGelu").input(scalar(1f32)).input(row(&[1f32])).fails("dimensions");
    }
}
