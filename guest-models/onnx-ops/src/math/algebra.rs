//! Det (operator set 11), AffineGrid (20), and HannWindow, HammingWindow and BlackmanWindow (17),
//! whose size may be an input.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use crate::framework::dims::{sizes, volume};
use crate::framework::element_type::ElementType;
use crate::framework::errors::{OrUserError, bail, ensure};
use crate::framework::facts::{InputFact, OutputFact, required, unknown_dims, with_dims};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::{floats, from_floats, ints};
use crate::framework::upstream::BuildResult;

#[derive(Clone, Debug, PartialEq)]
enum Algebra {
    Det,
    AffineGrid {
        align: bool,
    },
    /// A sum of cosines with these coefficients.
    Window {
        name: &'static str,
        terms: [f64; 3],
        periodic: bool,
        dtype: DatumType,
    },
}

// None of the coefficients is NaN.
impl Eq for Algebra {}

pub(crate) const OPERATORS: &[Registration] = &[
    own("Det", |_, node| built(Algebra::Det, node)),
    own("AffineGrid", build_affine_grid),
    own("HannWindow", |_, node| build_window("HannWindow", [0.5, 0.5, 0.0], node)),
    own("HammingWindow", |_, node| {
        build_window("HammingWindow", [25.0 / 46.0, 21.0 / 46.0, 0.0], node)
    }),
    own("BlackmanWindow", |_, node| build_window("BlackmanWindow", [0.42, 0.5, 0.08], node)),
];

fn build_affine_grid(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    let align = node.get_attr_opt::<i64>("align_corners")?.unwrap_or(0) != 0;
    built(Algebra::AffineGrid { align }, node)
}

fn build_window(name: &'static str, terms: [f64; 3], node: &NodeProto) -> BuildResult {
    let periodic = node.get_attr_opt::<i64>("periodic")?.unwrap_or(1) != 0;
    built(Algebra::Window { name, terms, periodic, dtype: output_type(node)? }, node)
}

/// The element type that the attribute names; narrow floats are computed as float32 (gate/narrow.rs).
pub(super) fn output_type(node: &NodeProto) -> TractResult<DatumType> {
    let number = node.get_attr_opt::<i64>("output_datatype")?.unwrap_or(1);
    Ok(match ElementType::of(u32::try_from(number)?)? {
        ElementType::Plain(dtype) if dtype != DatumType::F16 => dtype,
        _ => DatumType::F32,
    })
}

impl Operator for Algebra {
    fn name(&self) -> &'static str {
        match self {
            Algebra::Det => "Det",
            Algebra::AffineGrid { .. } => "AffineGrid",
            Algebra::Window { name, .. } => name,
        }
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let first = required(inputs, 0)?;
        Ok(tvec!(match self {
            Algebra::Det => {
                let [.., rows, columns] = &*first.shape else {
                    bail!("a matrix cannot have {} dimensions", first.rank())
                };
                if let (Some(rows), Some(columns)) = (rows.as_i64(), columns.as_i64()) {
                    let square = rows == columns;
                    ensure!(
                        square,
                        "the matrix is {rows} by {columns}, but a determinant needs a square matrix"
                    );
                }
                with_dims(first.dtype, first.shape[..first.rank() - 2].iter().cloned())
            }
            Algebra::AffineGrid { .. } => match required(inputs, 1)?.ints()? {
                Some(list) => {
                    let shape = grid(&list)?;
                    with_dims(first.dtype, shape.into_iter().map(|dim| dim.to_dim()))
                }
                None => {
                    // One number for each dimension of the images.
                    let size = &required(inputs, 1)?.shape;
                    let rank = size.first().and_then(|dim| dim.as_i64());
                    let rank = rank.filter(|rank| [4, 5].contains(rank));
                    unknown_dims(
                        first.dtype,
                        rank.or_user_error("the number of sizes must be known")? as usize,
                    )
                }
            },
            Algebra::Window { dtype, .. } => match &first.value {
                Some(size) => {
                    with_dims(*dtype, sizes(&ints(size)?)?.first().map(|size| size.to_dim()))
                }
                None => unknown_dims(*dtype, 1),
            },
        }))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let first = *required(inputs, 0)?;
        Ok(tvec!(match self {
            Algebra::Det => determinants(first)?,
            Algebra::AffineGrid { align } => {
                affine_grid(first, &ints(required(inputs, 1)?)?, *align)?
            }
            Algebra::Window { terms, periodic, dtype, .. } => {
                let size = sizes(&ints(first)?)?;
                let [size] = *size else { bail!("expected one size, found {}", size.len()) };
                volume(&[size])?;
                let period = if *periodic { size } else { size.saturating_sub(1) };
                ensure!(period > 0 || size == 0, "a window of one element must be periodic");
                let angle = |at: usize| std::f64::consts::TAU * at as f64 / period as f64;
                let value = |at: usize| {
                    terms[0] - terms[1] * angle(at).cos() + terms[2] * (2.0 * angle(at)).cos()
                };
                let values: Vec<f64> = (0..size).map(value).collect();
                from_floats(*dtype, &[size], &values)?
            }
        }))
    }
}

/// Determinants by elimination with the greatest pivot of each column.
fn determinants(matrices: &Tensor) -> TractResult<Tensor> {
    let shape = matrices.shape();
    let [batch @ .., rows, columns] = shape else { bail!("expected a matrix") };
    ensure!(
        rows == columns,
        "the matrix is {rows} by {columns}, but a determinant needs a square matrix"
    );
    let size = *rows;
    let mut values = floats(matrices)?;
    let count: usize = batch.iter().product();
    let mut determinants = vec![1.0; count];
    for (result, m) in determinants.iter_mut().zip(values.chunks_mut((size * size).max(1))) {
        for column in 0..size {
            let mut pivot = column;
            for row in column + 1..size {
                if m[row * size + column].abs() > m[pivot * size + column].abs() {
                    pivot = row;
                }
            }
            if pivot != column {
                (0..size).for_each(|at| m.swap(pivot * size + at, column * size + at));
                *result = -*result;
            }
            let lead = m[column * size + column];
            *result *= lead;
            if lead == 0.0 {
                break;
            }
            for row in column + 1..size {
                let factor = m[row * size + column] / lead;
                for at in column..size {
                    m[row * size + at] -= factor * m[column * size + at];
                }
            }
        }
    }
    from_floats(matrices.datum_type(), batch, &determinants)
}

/// The shape of a grid for images of this size.
fn grid(size: &[i64]) -> TractResult<Vec<usize>> {
    let size = sizes(size)?;
    ensure!([4, 5].contains(&size.len()), "images cannot have {} dimensions", size.len());
    let mut shape = vec![size[0]];
    shape.extend(&size[2..]);
    shape.push(size.len() - 2);
    volume(&shape)?;
    Ok(shape)
}

fn affine_grid(theta: &Tensor, size: &[i64], align: bool) -> TractResult<Tensor> {
    let shape = grid(size)?;
    let dims = shape.len() - 2;
    let wanted = [shape[0], dims, dims + 1];
    ensure!(
        theta.shape() == wanted,
        "theta has the shape {:?}, expected {wanted:?}",
        theta.shape()
    );
    let spatial = &shape[1..=dims];
    let matrices = floats(theta)?;
    ensure!(
        !align || spatial.iter().all(|size| *size != 1),
        "align_corners with an image of one pixel is not implemented"
    );
    let coordinate = |at: usize, size: usize| match align {
        true => -1.0 + 2.0 * at as f64 / (size - 1) as f64,
        false => (2.0 * at as f64 + 1.0) / size as f64 - 1.0,
    };
    let mut values = Vec::with_capacity(volume(&shape)?);
    for matrix in matrices.chunks(dims * (dims + 1)).take(shape[0]) {
        let mut at = vec![0; dims];
        for _ in 0..spatial.iter().product::<usize>() {
            // The last dimension of an image is the first coordinate.
            let point: Vec<f64> =
                (0..dims).rev().map(|axis| coordinate(at[axis], spatial[axis])).collect();
            for row in matrix.chunks(dims + 1) {
                let sum: f64 = row.iter().zip(&point).map(|(a, b)| a * b).sum();
                values.push(sum + row[dims]);
            }
            crate::framework::dims::advance(&mut at, spatial);
        }
    }
    from_floats(theta.datum_type(), &shape, &values)
}

#[cfg(test)]
mod tests {
    use crate::testing::{Case, case, row, scalar, tensor};

    #[test]
    fn det_exchanges_rows_and_takes_batches() {
        let node = |shape: &[usize], numbers: &[f32]| case("Det").input(tensor(shape, numbers));
        node(&[2, 2], &[1.0, 2.0, 3.0, 4.0]).gives_near(scalar(-2f32), 1e-6);
        node(&[2, 2], &[0.0, 1.0, 1.0, 0.0]).gives(scalar(-1f32));
        let batch = node(&[2, 2, 2], &[1.0, 2.0, 2.0, 4.0, 3.0, 0.0, 0.0, 2.0]);
        batch.gives_near(row(&[0f32, 6.0]), 1e-6);
        node(&[1, 2], &[1.0, 2.0]).fails("");
    }

    #[test]
    fn affine_grid_is_of_centres_unless_corners_are_aligned() {
        let identity = || tensor(&[1, 2, 3], &[1f32, 0.0, 0.0, 0.0, 1.0, 0.0]);
        let grid = |case: Case| case.input(identity()).input(row(&[1i64, 1, 1, 2]));
        let expected = |numbers: &[f32]| tensor(&[1, 1, 2, 2], numbers);
        grid(case("AffineGrid")).gives(expected(&[-0.5, 0.0, 0.5, 0.0]));
        let moved = tensor(&[1, 2, 3], &[0f32, 2.0, 1.0, 1.0, 0.0, -1.0]);
        // x = 2 y + 1, y = x - 1 at the corners (-1, -1), (1, -1), (-1, 1), (1, 1)
        let corners = case("AffineGrid").int("align_corners", 1).input(moved);
        let expected = tensor(&[1, 2, 2, 2], &[-1f32, -2.0, -1.0, 0.0, 3.0, -2.0, 3.0, 0.0]);
        corners.input(row(&[1i64, 1, 2, 2])).gives(expected);
    }

    /// A window of cosines, as the specification has it.
    fn window(terms: [f64; 3], size: i32, length: i32) -> Vec<f32> {
        let turn = |at| std::f64::consts::TAU * f64::from(at) / f64::from(length);
        let value = |at| terms[0] - terms[1] * turn(at).cos() + terms[2] * (2.0 * turn(at)).cos();
        (0..size).map(|at| value(at) as f32).collect()
    }

    #[test]
    fn windows_are_periodic_unless_symmetric_is_asked_for() {
        let check = |case: Case, terms| {
            let case = case.input(scalar(8i64));
            case.clone().gives_within(row(&window(terms, 8, 8)), 1e-7);
            case.int("periodic", 0).gives_within(row(&window(terms, 8, 7)), 1e-7);
        };
        check(case("HannWindow"), [0.5, 0.5, 0.0]);
        check(case("HammingWindow"), [25.0 / 46.0, 21.0 / 46.0, 0.0]);
        check(case("BlackmanWindow"), [0.42, 0.5, 0.08]);
    }

    #[test]
    fn windows_are_float32_by_default_and_refuse_a_negative_size() {
        let hann = case("HannWindow").input(scalar(2i64));
        hann.gives(row(&[0f32, 1.0]));
        case("HannWindow").input(scalar(0i64)).gives(row::<f32>(&[]));
        let hann = |dtype| case("HannWindow").int("output_datatype", dtype).input(scalar(3i32));
        let middle = 0.5 - 0.5 * (std::f64::consts::TAU / 3.0).cos();
        hann(11).gives_within(row(&[0f64, middle, middle]), 1e-15);
        hann(7).gives(row(&[0i64; 3]));
        // The gate rounds to bfloat16.
        hann(16).gives_within(row(&[0f32, middle as f32, middle as f32]), 1e-7);
        case("HammingWindow").input(scalar(-1i64)).fails("-1");
    }
}
