//! SkipLayerNormalization and SkipSimplifiedLayerNormalization (com.microsoft), which normalize the
//! sum of an input, a skipped value and a bias, and SimplifiedLayerNormalization, which onnxruntime
//! has in ONNX's own domain. The simplified ones divide by the root of the mean square and subtract
//! no mean.

mod kind;

use belljar_operators::MICROSOFT;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::ops::cast::cast;
use tract_onnx::tract_core::ops::math::{add, mul, sqrt, square, sub};
use tract_onnx::tract_hir::internal::*;

use self::kind::{Kind, Part};
use crate::elementwise::binary::{self, Div};
use crate::framework::axes::resolve;
use crate::framework::equal_sizes::{Pair, check_equal_sizes, shapes_of};
use crate::framework::errors::{OrUserError, ensure};
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::Bits;
use crate::framework::upstream::BuildResult;
use crate::framework::wiring::constant_like;
use crate::math::reduce::mean;

pub(crate) const OPERATORS: &[Registration] = &[
    own("SimplifiedLayerNormalization", |_, node| build(Kind::Simplified, node)),
    own("SkipLayerNormalization", |_, node| build(Kind::Skip, node)).of(MICROSOFT),
    own("SkipSimplifiedLayerNormalization", |_, node| build(Kind::SkipSimplified, node))
        .of(MICROSOFT),
];

fn build(kind: Kind, node: &NodeProto) -> BuildResult {
    let least = if kind == Kind::Simplified { 1e-5 } else { 1e-12 };
    let epsilon = Bits::of(node, "epsilon", least)?;
    ensure!(epsilon.get() >= 0.0, "an \"epsilon\" of {} is negative", epsilon.get());
    let axis = node.get_attr_opt::<i64>("axis")?.unwrap_or(-1);
    let present: TVec<bool> = node.input.iter().map(|name| !name.is_empty()).collect();
    let required = present.iter().take(kind.required()).filter(|present| **present).count();
    ensure!(required == kind.required(), "a required input is missing");
    let named = node.output.iter().zip(kind.outputs()).filter(|(name, _)| !name.is_empty());
    let outputs = named.map(|(_, part)| *part).collect();
    Ok((expand(Normalization { kind, epsilon, axis, present, outputs }), vec![]))
}

#[derive(Clone, Debug)]
struct Normalization {
    kind: Kind,
    epsilon: Bits,
    axis: i64,
    /// Which inputs are present.
    present: TVec<bool>,
    /// The outputs that have names. tract knows no others.
    outputs: TVec<Part>,
}

impl Normalization {
    /// The index among the inputs that are present.
    fn index(&self, at: usize) -> Option<usize> {
        let present = self.present.get(at).is_some_and(|present| *present);
        present.then(|| self.present[..at].iter().filter(|present| **present).count())
    }

    /// Checks the shapes; of sizes that are not known yet, when the model runs.
    fn check(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        let shapes = shapes_of(model, inputs)?;
        let rank = shapes[0].len();
        let mut pairs = vec![];
        if self.kind == Kind::Simplified {
            pairs.extend(broadcast_pairs(&shapes, 1)?);
        } else {
            ensure!([2, 3].contains(&rank), "expected an input of 3 dimensions, found {rank}");
            pairs.extend(broadcast_pairs(&shapes, 1)?);
            for (at, shape) in shapes.iter().enumerate().skip(2) {
                let found = shape.len();
                ensure!(found == 1, "expected parameters of one dimension, found {found}");
                pairs.push([(0, rank - 1), (at, 0)]);
            }
        }
        check_equal_sizes(pairs, prefix, model, inputs)
    }
}

/// The dimensions that have to be equal for an input to be broadcast to the shape of the first.
fn broadcast_pairs(shapes: &[TVec<TDim>], at: usize) -> TractResult<Vec<Pair>> {
    let (rank, of_it) = (shapes[0].len(), shapes[at].len());
    let above = rank.checked_sub(of_it);
    let above = above.or_user_error(format_args!(
        "input {at} has {of_it} dimensions, more than the {rank} of input 0"
    ))?;
    let broadcast = |axis: &usize| shapes[at][*axis].is_one();
    let axes = (0..of_it).filter(|axis| !broadcast(axis));
    Ok(axes.map(|axis| [(0, above + axis), (at, axis)]).collect())
}

impl Expansion for Normalization {
    fn name(&self) -> StaticName {
        match self.kind {
            Kind::Simplified => "SimplifiedLayerNormalization",
            Kind::Skip => "SkipLayerNormalization",
            Kind::SkipSimplified => "SkipSimplifiedLayerNormalization",
        }
        .into()
    }

    fn nboutputs(&self) -> TractResult<usize> {
        Ok(self.outputs.len())
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, self.present.iter().filter(|present| **present).count())?;
        check_output_arity(outputs, self.outputs.len())?;
        let like = if self.kind == Kind::Simplified { 1 } else { 0 };
        for (output, part) in outputs.iter().zip(&self.outputs) {
            match part {
                Part::Output => s.equals(&output.datum_type, &inputs[like].datum_type)?,
                Part::Sum => s.equals(&output.datum_type, &inputs[0].datum_type)?,
                Part::Mean | Part::Inverse => s.equals(&output.datum_type, DatumType::F32)?,
            }
            if [Part::Output, Part::Sum].contains(part) {
                s.equals(&output.shape, &inputs[0].shape)?;
                continue;
            }
            s.given(&inputs[0].shape, move |s, mut shape| {
                let axis = resolve(self.axis, shape.len())?;
                shape[axis..].iter_mut().for_each(|dim| *dim = 1.to_dim());
                s.equals(&output.shape, shape)
            })?;
        }
        Ok(())
    }

    fn wire(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        let name = |part: &str| format!("{prefix}.{part}");
        let axis = resolve(self.axis, model.outlet_fact(inputs[0])?.rank())?;
        let inputs = self.check(prefix, model, inputs)?;
        let (scale, shift, bias) = self.kind.parameters();
        let input = |at: usize| self.index(at).map(|at| inputs[at]);
        let scale = input(scale).or_user_error("the scale is missing")?;
        let mut x = inputs[0];
        if self.kind != Kind::Simplified {
            x = wire_with_rank_broadcast(name("skipped"), model, add(), &[x, inputs[1]])?[0];
            if let Some(bias) = bias.and_then(input) {
                x = wire_with_rank_broadcast(name("biased"), model, add(), &[x, bias])?[0];
            }
        }
        let axes: TVec<usize> = (axis..model.outlet_fact(x)?.rank()).collect();
        let simplified = self.kind != Kind::Skip;
        let needs_mean = !simplified || self.outputs.contains(&Part::Mean);
        let middle = match needs_mean {
            true => Some(mean(&name("mean"), model, x, axes.clone())?),
            false => None,
        };
        let apart = match middle.filter(|_| !simplified) {
            Some(middle) => model.wire_node(name("apart"), sub(), &[x, middle])?[0],
            None => x,
        };
        let squares = model.wire_node(name("squares"), square(), &[apart])?[0];
        let variance = mean(&name("variance"), model, squares, axes)?;
        let least = constant_like(model, name("least"), self.epsilon.get(), variance)?;
        let above = model.wire_node(name("above"), add(), &[variance, least])?;
        let deviation = model.wire_node(name("deviation"), sqrt(), &above)?[0];
        let one = constant_like(model, name("one"), 1.0, deviation)?;
        let inverse = binary::wire(&name("inverse"), model, Div, &[one, deviation])?;
        let mut result = model.wire_node(name("normal"), mul(), &[apart, inverse])?[0];
        let to = model.outlet_fact(scale)?.datum_type;
        if to != model.outlet_fact(result)?.datum_type {
            result = model.wire_node(name("cast"), cast(to), &[result])?[0];
        }
        result = wire_with_rank_broadcast(name("scaled"), model, mul(), &[result, scale])?[0];
        if let Some(shift) = shift.and_then(input) {
            result = wire_with_rank_broadcast(name("shifted"), model, add(), &[result, shift])?[0];
        }
        let mut made = tvec!();
        for part in &self.outputs {
            let statistic = |model: &mut TypedModel, of: OutletId| {
                Ok::<_, TractError>(match model.outlet_fact(of)?.datum_type {
                    DatumType::F32 => of,
                    _ => {
                        model.wire_node(name(&format!("{part:?}")), cast(DatumType::F32), &[of])?[0]
                    }
                })
            };
            made.push(match part {
                Part::Output => result,
                Part::Sum => x,
                Part::Inverse => statistic(model, inverse)?,
                Part::Mean => statistic(
                    model,
                    middle.or_user_error("the operator has no output for the mean")?,
                )?,
            });
        }
        Ok(made)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, case, microsoft, row, scalar, tensor};

    // The expected numbers are those of onnxruntime 1.32 and of the definitions in float64, which
    // agree to 1e-6.

    const SHAPE: [usize; 3] = [2, 2, 3];
    const DATA: [f32; 12] = [1.0, 2.0, 4.0, -1.0, 0.0, 3.0, 5.0, 5.0, 6.0, -2.0, 7.0, 0.5];
    const SKIP: [f32; 6] = [0.5, -1.0, 0.0, 2.0, 1.0, -3.0];
    const SUM: [f32; 12] = [1.6, 1.2, 4.3, 1.1, 1.2, 0.3, 5.6, 4.2, 6.3, 0.1, 8.2, -2.2];

    fn data(case: Case) -> Case {
        case.float("epsilon", 0.01).input(tensor(&SHAPE, &DATA))
    }

    fn gamma() -> Tensor {
        row(&[1f32, 2.0, -1.0])
    }

    #[test]
    fn skip_layer_normalization_adds_before_it_normalizes() {
        let expected = [
            -0.055_387_1,
            -1.690_308_5,
            -1.650_541_3,
            1.062_253_5,
            1.606_438_7,
            1.115_472_9,
            0.765_525,
            -2.655_251_3,
            -1.312_100_6,
            0.066_669_18,
            2.764_351_8,
            0.698_845_1f32,
        ];
        let node = |skip: Tensor| {
            let case = data(microsoft("SkipLayerNormalization")).input(skip).input(gamma());
            case.input(row(&[0.5f32, 0.0, -0.25])).input(row(&[0.1f32, 0.2, 0.3]))
        };
        let expected = || tensor(&SHAPE, &expected);
        // A skipped value may be the same for all sequences.
        for shape in [&[2, 3][..], &[1, 2, 3]] {
            node(tensor(shape, &SKIP)).gives_near(expected(), 2e-6);
        }
        let twice = node(tensor(&SHAPE, &[SKIP, SKIP].concat())).outputs(4);
        let sum = tensor(&SHAPE, &SUM);
        let outputs = [expected(), sum];
        twice.clone().without_output(1).without_output(2).gives_all_near(&outputs, 2e-6);
        let mean = [2.366_666_7, 0.866_666_7, 5.366_667, 2.033_333_3f32];
        let inverse = [0.724_417_9, 2.409_658, 1.137_964_7, 0.224_136_64f32];
        let [expected, sum] = outputs;
        let (mean, inverse) = (tensor(&[2, 2, 1], &mean), tensor(&[2, 2, 1], &inverse));
        twice.gives_all_near(&[expected, mean, inverse, sum], 2e-6);
    }

    #[test]
    fn skip_simplified_layer_normalization_subtracts_no_mean() {
        let expected = [
            0.583_977_9,
            0.875_966_86,
            -1.569_440_6,
            1.144_757_3,
            2.497_652_3,
            -0.312_206_54,
            1.029_764_4,
            1.544_646_6,
            -1.158_485,
            0.020_395_426,
            3.344_849_8,
            0.448_699_38f32,
        ];
        let skip = tensor(&SHAPE, &[SKIP, SKIP].concat());
        let node = data(microsoft("SkipSimplifiedLayerNormalization")).input(skip).input(gamma());
        let node = node.input(row(&[0.1f32, 0.2, 0.3]));
        node.clone().gives_near(tensor(&SHAPE, &expected), 2e-6);
        let outputs = node.outputs(4).without_output(1).without_output(2);
        outputs.gives_all_near(&[tensor(&SHAPE, &expected), tensor(&SHAPE, &SUM)], 2e-6);
        // Rows without a batch, and without a bias. The default epsilon is small.
        let rows = microsoft("SkipSimplifiedLayerNormalization");
        let rows = rows.input(tensor(&[1, 2], &[3f32, 0.0])).input(tensor(&[1, 2], &[0f32, 4.0]));
        let root = 12.5f32.sqrt();
        let rows = rows.input(row(&[1f32, 1.0]));
        rows.gives_near(tensor(&[1, 2], &[3.0 / root, 4.0 / root]), 1e-6);
    }

    #[test]
    fn simplified_layer_normalization_is_over_the_axes_from_the_first() {
        let expected = [
            0.377_694_8,
            1.510_779_1,
            -1.510_779_1,
            -0.546_902_8,
            0.0,
            -1.640_708_5,
            0.933_696_4,
            1.867_392_7,
            -1.120_435_6,
            -0.474_579,
            3.322_053,
            -0.118_644_75f32,
        ];
        let inverse = tensor(&[2, 2, 1], &[0.377_694_8, 0.546_902_8, 0.186_739_27, 0.237_289_5f32]);
        let node = || data(case("SimplifiedLayerNormalization"));
        let outputs = [tensor(&SHAPE, &expected), inverse];
        node().input(gamma()).outputs(2).gives_all_near(&outputs, 1e-6);
        let [_, inverse] = outputs;
        node().input(gamma()).outputs(2).without_output(0).gives_near(inverse, 1e-6);
        let expected = [
            0.439_516_2,
            1.758_064_8,
            -1.758_064_8,
            -0.219_758_1,
            0.0,
            3.955_646,
            1.037_658_6,
            2.075_317_2,
            -1.245_190_3,
            -0.207_531_72,
            1.452_722,
            0.311_297_58f32,
        ];
        let scale = tensor(&[2, 3], &[1f32, 2.0, -1.0, 0.5, 1.0, 3.0]);
        let both = node().int("axis", 1).input(scale);
        both.gives_near(tensor(&SHAPE, &expected), 1e-6);
    }

    #[test]
    fn simplified_layer_normalization_takes_a_scale_of_another_type() {
        let node = |x: Tensor| case("SimplifiedLayerNormalization").float("epsilon", 0.0).input(x);
        let root = 12.5f64.sqrt();
        let exact = [3.0 / root, 8.0 / root];
        let single = exact.map(|value| value as f32);
        node(row(&[3f64, 4.0])).input(row(&[1f64, 2.0])).gives_near(row(&exact), 1e-14);
        node(row(&[3f64, 4.0])).input(row(&[1f32, 2.0])).gives_near(row(&single), 1e-6);
        let both = node(row(&[3f64, 4.0])).input(row(&[1f32, 2.0])).outputs(2);
        both.gives_all_near(&[row(&single), row(&[1.0 / 12.5f32.sqrt()])], 1e-6);
    }

    #[test]
    fn normalizations_refuse_parameters_of_other_shapes() {
        let skip = |shape: &[usize]| {
            let count = shape.iter().product();
            data(microsoft("SkipLayerNormalization")).input(tensor(shape, &vec![0f32; count]))
        };
        skip(&[2, 2, 3]).input(row(&[1f32, 2.0])).fails("2");
        skip(&[2, 2, 3]).input(tensor(&[1, 3], &[0f32; 3])).fails("2");
        skip(&[3, 3]).input(gamma()).fails("3");
        skip(&[1, 2, 2, 3]).input(gamma()).fails("4");
        skip(&[2, 2, 3]).input(gamma()).input(row(&[1f32])).fails("1");
        let vector = microsoft("SkipLayerNormalization").input(gamma()).input(gamma());
        vector.input(gamma()).fails("found 1");
        let simplified = || data(case("SimplifiedLayerNormalization"));
        simplified().input(row(&[1f32, 2.0])).fails("2");
        simplified().int("axis", 3).input(gamma()).fails("3");
        simplified().float("epsilon", -1.0).input(gamma()).fails("-1");
        let scalar_input = case("SimplifiedLayerNormalization").input(scalar(1f32));
        scalar_input.input(gamma()).fails("0");
        microsoft("SkipLayerNormalization")
            .input(gamma())
            .missing()
            .input(gamma())
            .fails("missing");
    }
}
