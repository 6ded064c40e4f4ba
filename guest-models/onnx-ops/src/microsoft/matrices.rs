//! TransposeMatMul, Inverse and CDist (com.microsoft).

use belljar_operators::MICROSOFT;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;
use tract_onnx::tract_hir::ops::matmul::{MatMulInference, compute_shapes};

use crate::framework::assumptions;
use crate::framework::dims::volume;
use crate::framework::equal_sizes::check_equal_sizes;
use crate::framework::errors::ensure;
use crate::framework::facts::{InputFact, OutputFact, like, required, with_dims};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::{floats, from_floats};
use crate::framework::upstream::BuildResult;
use crate::framework::wiring::{two_of_one_type, wire_times};

pub(crate) const OPERATORS: &[Registration] = &[
    own("TransposeMatMul", |_, node| build_matmul(node)).of(MICROSOFT),
    own("Inverse", |_, node| built(Inverse, node)).of(MICROSOFT),
    own("CDist", |_, node| {
        let root = node.get_attr_opt::<&str>("metric")? == Some("euclidean");
        built(CDist { root }, node)
    })
    .of(MICROSOFT),
];

fn build_matmul(node: &NodeProto) -> BuildResult {
    let flag = |name| Ok::<_, TractError>(node.get_attr_opt::<i64>(name)?.unwrap_or(0) != 0);
    let transposed = [flag("transA")?, flag("transB")?];
    let alpha = node.get_attr_opt::<f32>("alpha")?.unwrap_or(1.0);
    Ok((expand(TransposeMatMul { transposed, alpha }), vec![]))
}

/// A product of two tensors, whose last two dimensions may be exchanged, times a number.
#[derive(Clone, Debug)]
struct TransposeMatMul {
    transposed: [bool; 2],
    alpha: f32,
}

impl TransposeMatMul {
    /// Which operands of these ranks are transposed: vectors are not.
    fn of_ranks(&self, ranks: [usize; 2]) -> TractResult<[bool; 2]> {
        ensure!(
            ranks.iter().all(|rank| *rank > 0),
            "matrix multiplication needs operands with at least one dimension"
        );
        ensure!(ranks != [1, 1], "a product of two vectors is not implemented");
        Ok([0, 1].map(|at| self.transposed[at] && ranks[at] > 1))
    }
}

impl Expansion for TransposeMatMul {
    fn name(&self) -> StaticName {
        "TransposeMatMul".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        two_of_one_type(s, inputs, outputs)?;
        s.given_2(&inputs[0].shape, &inputs[1].shape, move |s, a, b| {
            let [a_trans, b_trans] = self.of_ranks([a.len(), b.len()])?;
            let (_, _, _, shape) = compute_shapes(a, b, a_trans, b_trans, false)?;
            s.equals(&outputs[0].shape, shape)
        })
    }

    fn wire(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        let ranks = [model.outlet_fact(inputs[0])?.rank(), model.outlet_fact(inputs[1])?.rank()];
        let [a_trans, b_trans] = self.of_ranks(ranks)?;
        let summed = [
            if a_trans { ranks[0] - 2 } else { ranks[0] - 1 },
            if b_trans { ranks[1] - 1 } else { ranks[1].saturating_sub(2) },
        ];
        let pairs = vec![[(0, summed[0]), (1, summed[1])]];
        let inputs = check_equal_sizes(pairs, prefix, model, inputs)?;
        let product = MatMulInference { a_trans, b_trans, c_trans: false };
        wire_times(&product, self.alpha, prefix, model, &inputs)
    }
}

#[derive(Debug)]
struct Inverse;

/// Inverts a matrix by elimination with the largest pivots, in float64.
fn invert(matrix: &mut [f64], size: usize) -> TractResult<()> {
    let mut inverse = vec![0f64; size * size];
    (0..size).for_each(|at| inverse[at * size + at] = 1.0);
    for column in 0..size {
        let above = |a: &usize, b: &usize| {
            let size_of = |row: usize| matrix[row * size + column].abs();
            size_of(*a).total_cmp(&size_of(*b))
        };
        let pivot = (column..size).max_by(above).unwrap_or(column);
        let value = matrix[pivot * size + column];
        ensure!(value.is_finite() && value != 0.0, "a matrix cannot be inverted");
        for at in 0..size {
            matrix.swap(pivot * size + at, column * size + at);
            inverse.swap(pivot * size + at, column * size + at);
        }
        for at in 0..size {
            matrix[column * size + at] /= value;
            inverse[column * size + at] /= value;
        }
        for row in (0..size).filter(|row| *row != column) {
            let factor = matrix[row * size + column];
            if factor == 0.0 {
                continue;
            }
            for at in 0..size {
                matrix[row * size + at] -= factor * matrix[column * size + at];
                inverse[row * size + at] -= factor * inverse[column * size + at];
            }
        }
    }
    matrix.copy_from_slice(&inverse);
    Ok(())
}

impl Operator for Inverse {
    fn name(&self) -> &'static str {
        "Inverse"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let input = required(inputs, 0)?;
        let rank = input.rank();
        ensure!(rank >= 2, "expected matrices, found {rank} dimensions");
        let (rows, columns) = (&input.shape[rank - 2], &input.shape[rank - 1]);
        let square = assumptions::equal(rows, columns)?;
        ensure!(square, "expected square matrices, found {rows} rows and {columns} columns");
        Ok(tvec!(like(input)))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let input = *required(inputs, 0)?;
        let size = input.shape()[input.rank() - 1];
        let mut values = floats(input)?;
        for matrix in values.chunks_exact_mut((size * size).max(1)) {
            invert(matrix, size)?;
        }
        Ok(tvec!(from_floats(input.datum_type(), input.shape(), &values)?))
    }
}

/// The distances between the rows of two matrices.
#[derive(Debug)]
struct CDist {
    /// Whether they are distances, and not their squares.
    root: bool,
}

impl Operator for CDist {
    fn name(&self) -> &'static str {
        "CDist"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let (a, b) = (required(inputs, 0)?, required(inputs, 1)?);
        for input in [a, b] {
            let rank = input.rank();
            ensure!(rank == 2, "expected matrices, found {rank} dimensions");
        }
        let (left, right) = (&a.shape[1], &b.shape[1]);
        let equal = assumptions::equal(left, right)?;
        ensure!(equal, "the rows of the matrices have different lengths, {left} and {right}");
        Ok(tvec!(with_dims(a.dtype, [a.shape[0].clone(), b.shape[0].clone()])))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let (a, b) = (*required(inputs, 0)?, *required(inputs, 1)?);
        let (shape, length) = ([a.shape()[0], b.shape()[0]], a.shape()[1]);
        volume(&shape)?;
        let (left, right) = (floats(a)?, floats(b)?);
        let row = |values: &[f64], at: usize| values[at * length..][..length].to_vec();
        let mut distances = Vec::with_capacity(shape[0] * shape[1]);
        for i in 0..shape[0] {
            let x = row(&left, i);
            for j in 0..shape[1] {
                let y = &right[j * length..][..length];
                let square: f64 = x.iter().zip(y).map(|(x, y)| (x - y) * (x - y)).sum();
                distances.push(if self.root { square.sqrt() } else { square });
            }
        }
        Ok(tvec!(from_floats(a.datum_type(), &shape, &distances)?))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{counting, microsoft, row, tensor};
    use tract_onnx::tract_hir::internal::Tensor;

    // The expected numbers are those of onnxruntime 1.32 and of numpy.

    fn three() -> Tensor {
        tensor(&[3, 2], &[1f32, 2.0, 3.0, -1.0, 0.0, 0.5])
    }

    #[test]
    fn transpose_mat_mul_exchanges_the_last_two_dimensions() {
        let node = |a, b| microsoft("TransposeMatMul").input(a).input(b);
        let other = tensor(&[2, 3], &[1f32, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let both = node(three(), other).int("transA", 1).int("transB", 1).float("alpha", 0.5);
        both.gives(tensor(&[2, 2], &[3.5f32, 9.5, 0.75, 3.0]));
        let batch = node(counting(&[2, 2, 3]), counting(&[2, 3])).int("transA", 1);
        let expected = [
            9f32, 12.0, 15.0, 12.0, 17.0, 22.0, 15.0, 22.0, 29.0, 27.0, 42.0, 57.0, 30.0, 47.0,
            64.0, 33.0, 52.0, 71.0,
        ];
        batch.gives(tensor(&[2, 3, 3], &expected));
        let square = || tensor(&[2, 2], &[1f32, 2.0, 3.0, 4.0]);
        // Vectors are not transposed.
        let vector = node(row(&[1f32, 2.0]), square()).int("transA", 1);
        vector.gives(row(&[7f32, 10.0]));
        node(row(&[1f32, 2.0]), square()).int("transB", 1).gives(row(&[5f32, 11.0]));
        node(three(), square()).int("transA", 1).fails("");
        node(row(&[1f32]), row(&[1f32])).fails("two vectors");
    }

    #[test]
    fn inverse_is_of_each_matrix_and_refuses_singular_ones() {
        let data = tensor(&[2, 2, 2], &[2f32, 1.0, 1.0, 3.0, 0.0, 2.0, -1.0, 5.0]);
        let expected = [0.6f32, -0.2, -0.2, 0.4, 2.5, -1.0, 0.5, 0.0];
        microsoft("Inverse").input(data).gives_within(tensor(&[2, 2, 2], &expected), 1e-7);
        // Every matrix must be invertible; onnxruntime gives infinities.
        let singular = tensor(&[2, 2], &[1f64, 2.0, 2.0, 4.0]);
        microsoft("Inverse").input(singular).fails("cannot be inverted");
        microsoft("Inverse").input(tensor(&[1, 1], &[f32::NAN])).fails("cannot be inverted");
        microsoft("Inverse").input(three()).fails("square");
        microsoft("Inverse").input(row(&[1f32])).fails("1");
        let none = tensor::<f32>(&[0, 2, 2], &[]);
        microsoft("Inverse").input(none.clone()).gives(none);
    }

    #[test]
    fn c_dist_is_the_distance_of_each_pair_of_rows() {
        let node = || {
            let node = microsoft("CDist").input(three());
            node.input(tensor(&[2, 2], &[1f32, 0.0, -2.0, 2.0]))
        };
        let squares = || tensor(&[3, 2], &[4f32, 9.0, 5.0, 34.0, 1.25, 6.25]);
        node().gives(squares());
        node().text("metric", "sqeuclidean").gives(squares());
        let roots = [2f32, 3.0, 2.236_068, 5.830_951_7, 1.118_034, 2.5];
        node().text("metric", "euclidean").gives_near(tensor(&[3, 2], &roots), 1e-6);
        let other = microsoft("CDist").input(three()).input(tensor(&[2, 3], &[0f32; 6]));
        other.fails("2 and 3");
    }
}
