//! Small algebra: CumProd (operator set 26), Det (11), AffineGrid (20), and the windows of signals
//! (17), whose length may come when the model runs.

use tract_onnx::model::OnnxOpRegister;
use tract_onnx::tract_hir::internal::*;

use super::numbers::{Number, by_number};
use super::own::{
    Known, Own, Said, built, floats, from_floats, ints, like, needed, sized, sizes, unknown, volume,
};
use super::resolve;

#[derive(Clone, Debug, PartialEq)]
enum Algebra {
    CumProd {
        exclusive: bool,
        reverse: bool,
    },
    Det,
    AffineGrid {
        align: bool,
    },
    /// A sum of cosines, by its first numbers.
    Window {
        name: &'static str,
        terms: [f64; 3],
        periodic: bool,
    },
}

// No number here is NaN.
impl Eq for Algebra {}

pub(super) fn register(registry: &mut OnnxOpRegister) {
    registry.insert("CumProd", |_, node| {
        let flag = |name| Ok::<_, TractError>(node.get_attr_opt::<i64>(name)?.unwrap_or(0) != 0);
        let (exclusive, reverse) = (flag("exclusive")?, flag("reverse")?);
        built(Algebra::CumProd { exclusive, reverse }, node)
    });
    registry.insert("Det", |_, node| built(Algebra::Det, node));
    registry.insert("AffineGrid", |_, node| {
        let align = node.get_attr_opt::<i64>("align_corners")?.unwrap_or(0) != 0;
        built(Algebra::AffineGrid { align }, node)
    });
    macro_rules! window {
        ($name:literal, $terms:expr) => {
            registry.insert($name, |_, node| {
                let periodic = node.get_attr_opt::<i64>("periodic")?.unwrap_or(1) != 0;
                built(Algebra::Window { name: $name, terms: $terms, periodic }, node)
            });
        };
    }
    window!("HannWindow", [0.5, 0.5, 0.0]);
    window!("HammingWindow", [25.0 / 46.0, 21.0 / 46.0, 0.0]);
    window!("BlackmanWindow", [0.42, 0.5, 0.08]);
}

impl Own for Algebra {
    fn name(&self) -> &'static str {
        match self {
            Algebra::CumProd { .. } => "CumProd",
            Algebra::Det => "Det",
            Algebra::AffineGrid { .. } => "AffineGrid",
            Algebra::Window { name, .. } => name,
        }
    }

    fn outputs(&self, inputs: &[Option<Known>]) -> TractResult<TVec<Said>> {
        let first = needed(inputs, 0)?;
        Ok(tvec!(match self {
            Algebra::CumProd { .. } => like(first),
            Algebra::Det => {
                ensure!(first.rank() >= 2, "a matrix of {} dimensions", first.rank());
                sized(first.dtype, first.shape[..first.rank() - 2].iter().cloned())
            }
            Algebra::AffineGrid { .. } => match needed(inputs, 1)?.ints()? {
                Some(list) => {
                    let shape = grid(&list)?;
                    sized(first.dtype, shape.into_iter().map(|dim| dim.to_dim()))
                }
                None => {
                    // As many numbers as the images have dimensions.
                    let size = &needed(inputs, 1)?.shape;
                    let rank = size.first().and_then(|dim| dim.as_i64());
                    let rank = rank.filter(|rank| [4, 5].contains(rank));
                    unknown(first.dtype, rank.context("a size of unknown length")? as usize)
                }
            },
            Algebra::Window { .. } => match &first.value {
                Some(size) => {
                    sized(f32::datum_type(), sizes(&ints(size)?)?.first().map(|size| size.to_dim()))
                }
                None => unknown(f32::datum_type(), 1),
            },
        }))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let first = *needed(inputs, 0)?;
        Ok(tvec!(match self {
            Algebra::CumProd { exclusive, reverse } => {
                let axis = ints(needed(inputs, 1)?)?;
                let [axis] = *axis else { bail!("{} axes", axis.len()) };
                let axis = resolve(axis, first.rank())?;
                let mut output = first.clone();
                by_number!(products(first.datum_type())(&mut output, axis, *exclusive, *reverse))?;
                output
            }
            Algebra::Det => determinants(first)?,
            Algebra::AffineGrid { align } => {
                affine_grid(first, &ints(needed(inputs, 1)?)?, *align)?
            }
            Algebra::Window { terms, periodic, .. } => {
                let size = sizes(&ints(first)?)?;
                let [size] = *size else { bail!("{} sizes", size.len()) };
                volume(&[size])?;
                let period = if *periodic { size } else { size.saturating_sub(1) };
                ensure!(period > 0 || size == 0, "a window of one element that is not periodic");
                let angle = |at: usize| std::f64::consts::TAU * at as f64 / period as f64;
                let value = |at: usize| {
                    terms[0] - terms[1] * angle(at).cos() + terms[2] * (2.0 * angle(at)).cos()
                };
                let values: Vec<f64> = (0..size).map(value).collect();
                from_floats(f32::datum_type(), &[size], &values)?
            }
        }))
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

/// Determinants by elimination with the greatest pivot of each column.
fn determinants(matrices: &Tensor) -> TractResult<Tensor> {
    let shape = matrices.shape();
    let [batch @ .., rows, columns] = shape else { bail!("no matrix") };
    ensure!(rows == columns, "a matrix of {rows} by {columns} has no determinant");
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
    ensure!([4, 5].contains(&size.len()), "images of {} dimensions", size.len());
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
    ensure!(theta.shape() == wanted, "matrices of {:?}, wanted are {wanted:?}", theta.shape());
    let spatial = &shape[1..=dims];
    let matrices = floats(theta)?;
    ensure!(
        !align || spatial.iter().all(|size| *size != 1),
        "aligned corners of an image one wide are not implemented"
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
            super::own::advance(&mut at, spatial);
        }
    }
    from_floats(theta.datum_type(), &shape, &values)
}
