//! Operators of com.microsoft that do what an operator of ONNX does in one of its versions, perhaps
//! with fewer inputs or outputs: Trilu, GatherND, GridSample, Range and Unique.

use belljar_operators::MICROSOFT;
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::{AttributeProto, NodeProto};
use tract_onnx::tract_hir::internal::*;

use super::cubic_sample::CubicSample;
use crate::framework::dims::MAX_DIM;
use crate::framework::errors::ensure;
use crate::framework::facts::{InputFact, OutputFact, required, unknown_dims, with_dims};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::{floats, from_floats, from_ints, ints};
use crate::framework::upstream::BuildResult;
use crate::registry;

pub(crate) const OPERATORS: &[Registration] = &[
    own("Trilu", |context, node| build_as(context, node, 14)).of(MICROSOFT),
    own("GatherND", |context, node| build_as(context, node, 13)).of(MICROSOFT),
    own("GridSample", build_grid_sample).of(MICROSOFT),
    own("Range", build_range).of(MICROSOFT),
    own("Unique", build_unique).of(MICROSOFT),
];

/// Builds a node as ONNX's operator of the same name, in this version.
fn build_as(context: &ParsingContext, node: &NodeProto, version: i64) -> BuildResult {
    let node = NodeProto { domain: String::new(), ..node.clone() };
    let context = ParsingContext { onnx_operator_set_version: version, ..context.clone() };
    registry::build(&context, &node)
}

fn build_grid_sample(context: &ParsingContext, node: &NodeProto) -> BuildResult {
    match CubicSample::of(node)? {
        Some(op) => built(op, node),
        None => build_as(context, node, 16),
    }
}

/// Its second output is the third of ONNX's operator, and its numbers keep their order.
fn build_unique(context: &ParsingContext, node: &NodeProto) -> BuildResult {
    let mut node = node.clone();
    node.output.insert(1.min(node.output.len()), String::new());
    node.attribute = vec![AttributeProto {
        name: "sorted".into(),
        r#type: AttributeType::Int as i32,
        ..AttributeProto::default()
    }];
    build_as(context, &node, 11)
}

fn build_range(context: &ParsingContext, node: &NodeProto) -> BuildResult {
    match node.input.get(2) {
        Some(delta) if !delta.is_empty() => build_as(context, node, 27),
        _ => built(Range, node),
    }
}

/// The numbers from a start up to a limit, in steps of one.
#[derive(Debug)]
struct Range;

impl Range {
    fn values(start: &Tensor, limit: &Tensor) -> TractResult<Tensor> {
        let one = |tensor: &Tensor| tensor.rank() <= 1 && tensor.len() == 1;
        ensure!(one(start) && one(limit), "start and limit must be one number each");
        let dtype = start.datum_type();
        if dtype.is_integer() {
            let (start, limit) = (ints(start)?[0], ints(limit)?[0]);
            let count = (i128::from(limit) - i128::from(start)).max(0);
            ensure!(count <= i128::from(MAX_DIM / 16), "a range of {count} numbers is too long");
            let numbers: Vec<i64> = (start..).take(count as usize).collect();
            return Ok(from_ints(&[numbers.len()], &numbers)?.cast_to_dt(dtype)?.into_owned());
        }
        let (start, limit) = (floats(start)?[0], floats(limit)?[0]);
        ensure!(start.is_finite() && limit.is_finite(), "start and limit must be finite");
        let count = (limit - start).ceil().max(0.0);
        ensure!(count <= (MAX_DIM / 16) as f64, "a range of {count} numbers is too long");
        let numbers: Vec<f64> = (0..count as u32).map(|at| start + f64::from(at)).collect();
        from_floats(dtype, &[numbers.len()], &numbers)
    }
}

impl Operator for Range {
    fn name(&self) -> &'static str {
        "Range"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let (start, limit) = (required(inputs, 0)?, required(inputs, 1)?);
        Ok(tvec!(match (&start.value, &limit.value) {
            (Some(start), Some(limit)) => {
                let count = Range::values(start, limit)?.len();
                with_dims(start.datum_type(), [count.to_dim()])
            }
            _ => unknown_dims(start.dtype, 1),
        }))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        Ok(tvec!(Range::values(required(inputs, 0)?, required(inputs, 1)?)?))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{counting, microsoft, row, scalar, tensor};

    // The expected numbers are those of onnxruntime 1.32 and of the documentation.

    #[test]
    fn trilu_keeps_one_triangle() {
        let node = || microsoft("Trilu").input(counting(&[3, 3]));
        let upper = [0f32, 1.0, 2.0, 0.0, 0.0, 5.0, 0.0, 0.0, 0.0];
        node().input(scalar(1i64)).gives(tensor(&[3, 3], &upper));
        let lower = [0f32, 0.0, 0.0, 3.0, 4.0, 0.0, 6.0, 7.0, 8.0];
        node().int("upper", 0).gives(tensor(&[3, 3], &lower));
        microsoft("Trilu").input(row(&[1f32])).fails("1");
    }

    #[test]
    fn gather_nd_has_no_batches() {
        let data = || microsoft("GatherND").input(counting(&[2, 2]));
        data().input(tensor(&[2, 2], &[0i32, 0, 1, 1])).gives(row(&[0f32, 3.0]));
        let rows = tensor(&[2, 2], &[2f32, 3.0, 0.0, 1.0]);
        data().input(tensor(&[2, 1], &[1i64, 0])).gives(rows);
        data().input(tensor(&[1, 1], &[-1i64])).gives(tensor(&[1, 2], &[2f32, 3.0]));
        data().input(tensor(&[1, 1], &[2i64])).fails("2");
    }

    #[test]
    fn grid_sample_has_the_modes_of_onnxs_first_version() {
        let grid = [0f32, 0.0, 0.5, -0.25, 1.5, 0.0, -1.0, -1.0];
        for (mode, expected) in [
            ("bilinear", [4f32, 3.625, 0.0, 0.0]),
            ("nearest", [4.0, 5.0, 0.0, 0.0]),
            ("bicubic", [4.0, 3.909_637_5, -0.527_343_75, -0.1875]),
        ] {
            let node = microsoft("GridSample").text("mode", mode);
            let node = node.input(counting(&[1, 1, 3, 3])).input(tensor(&[1, 2, 2, 2], &grid));
            node.gives_within(tensor(&[1, 1, 2, 2], &expected), 1e-6);
        }
    }

    #[test]
    fn range_has_a_step_of_one_by_default() {
        let range = || microsoft("Range");
        let three = range().input(scalar(1f32)).input(scalar(2.2f32)).input(scalar(0.5f32));
        three.gives(row(&[1f32, 1.5, 2.0]));
        let down = range().input(scalar(5i64)).input(scalar(1i64)).input(scalar(-3i64));
        down.gives(row(&[5i64, 2]));
        range().input(row(&[1i16])).input(row(&[5i16])).gives(row(&[1i16, 2, 3, 4]));
        range().input(scalar(0.5f64)).input(scalar(2.6f64)).gives(row(&[0.5f64, 1.5, 2.5]));
        range().input(scalar(2i32)).input(scalar(-2i32)).gives(row::<i32>(&[]));
        range().input(row(&[1i64, 2])).input(scalar(5i64)).fails("one number");
        range().input(scalar(0f32)).input(scalar(f32::INFINITY)).fails("finite");
        range().input(scalar(i64::MIN)).input(scalar(i64::MAX)).fails("too long");
        range().input(scalar(5i64)).input(scalar(1i64)).input(scalar(0i64)).fails("0");
    }

    #[test]
    fn unique_keeps_the_order_of_the_input() {
        let node = |numbers: &[f32]| microsoft("Unique").input(row(numbers)).outputs(3);
        let (indices, counts) = (row(&[0i64, 1, 1, 2, 3, 2]), row(&[1i64, 2, 2, 1]));
        let expected = [row(&[2f32, 1.0, 3.0, 4.0]), indices, counts];
        node(&[2.0, 1.0, 1.0, 3.0, 4.0, 3.0]).gives_all(&expected);
        let unread = node(&[2.0, 1.0, 1.0, 3.0, 4.0, 3.0]).without_output(1);
        let [numbers, _, counts] = expected;
        unread.gives_all(&[numbers, counts]);
        node(&[]).gives_all(&[row::<f32>(&[]), row::<i64>(&[]), row::<i64>(&[])]);
    }
}
