//! The shapes of products of matrices, as numpy.matmul has them.

use tract_onnx::tract_hir::internal::*;

use crate::framework::dims::{advance, strides, volume};
use crate::framework::errors::{bail, ensure};
use crate::framework::facts::concrete;

/// A product of batches of matrices.
#[derive(Debug, PartialEq)]
pub(crate) struct Product {
    pub(crate) shape: Vec<usize>,
    pub(crate) rows: usize,
    pub(crate) depth: usize,
    pub(crate) columns: usize,
    /// For each product of two matrices, which of the left and which of the right ones it takes.
    pub(crate) pairs: Vec<(usize, usize)>,
}

impl Product {
    pub(crate) fn of(a: &[usize], b: &[usize]) -> TractResult<Product> {
        let unfit = || format!("matrices of the shapes {a:?} and {b:?} cannot be multiplied");
        let (left, right) = match (a, b) {
            ([], _) | (_, []) => bail!("{}", unfit()),
            ([depth], [_]) => (vec![1, *depth], [b, &[1]].concat()),
            ([depth], _) => (vec![1, *depth], b.to_vec()),
            (_, [_]) => (a.to_vec(), [b, &[1]].concat()),
            _ => (a.to_vec(), b.to_vec()),
        };
        let (a_batch, &[rows, depth]) = left.split_at(left.len() - 2) else { bail!("{}", unfit()) };
        let (b_batch, &[of, columns]) = right.split_at(right.len() - 2) else {
            bail!("{}", unfit())
        };
        ensure!(depth == of, "{}", unfit());
        let rank = a_batch.len().max(b_batch.len());
        let mut shape = Vec::with_capacity(rank + 2);
        for at in 0..rank {
            let dim =
                |batch: &[usize]| (at + batch.len()).checked_sub(rank).map_or(1, |at| batch[at]);
            let (one, other) = (dim(a_batch), dim(b_batch));
            ensure!(one == other || one == 1 || other == 1, "{}", unfit());
            shape.push(if one == 1 { other } else { one });
        }
        let batch = shape.clone();
        shape.extend((a.len() > 1).then_some(rows));
        shape.extend((b.len() > 1).then_some(columns));
        volume(&shape)?;
        volume(&left)?;
        volume(&right)?;
        if b_batch.is_empty() {
            // One matrix on the right: all rows on the left are those of one matrix.
            let rows = rows * a_batch.iter().product::<usize>();
            return Ok(Product { shape, rows, depth, columns, pairs: vec![(0, 0)] });
        }
        let mut pairs = Vec::new();
        let mut place = vec![0; batch.len()];
        let which = |of: &[usize], place: &[usize]| -> usize {
            let place = &place[place.len() - of.len()..];
            let each = place.iter().zip(of).zip(strides(of));
            each.map(|((at, size), stride)| if *size == 1 { 0 } else { at * stride }).sum()
        };
        if !batch.contains(&0) {
            loop {
                pairs.push((which(a_batch, &place), which(b_batch, &place)));
                if !advance(&mut place, &batch) {
                    break;
                }
            }
        }
        Ok(Product { shape, rows, depth, columns, pairs })
    }

    /// The sizes of each product: rows, depth and columns.
    pub(crate) fn sizes(&self) -> [usize; 3] {
        [self.rows, self.depth, self.columns]
    }
}

/// The dimensions of a product, as far as they are known before the model runs.
pub(crate) fn product_dims(a: &[TDim], b: &[TDim]) -> TractResult<TVec<Option<TDim>>> {
    if let (Some(a), Some(b)) = (concrete(a), concrete(b)) {
        let shape = Product::of(&a, &b)?.shape;
        return Ok(shape.into_iter().map(|size| Some(size.to_dim())).collect());
    }
    ensure!(!a.is_empty() && !b.is_empty(), "a number without dimensions cannot be multiplied");
    let depth = [&a[a.len() - 1], &b[b.len().saturating_sub(2)]];
    if let [Some(one), Some(other)] = depth.map(|dim| dim.as_i64()) {
        ensure!(one == other, "matrices of the shapes {a:?} and {b:?} cannot be multiplied");
    }
    let [a_batch, b_batch] = [a, b].map(|shape| &shape[..shape.len().saturating_sub(2)]);
    let mut dims = broadcast_dims(&[a_batch, b_batch])?;
    dims.extend((a.len() > 1).then(|| Some(a[a.len() - 2].clone())));
    dims.extend((b.len() > 1).then(|| Some(b[b.len() - 1].clone())));
    Ok(dims)
}

/// The dimensions that several shapes have together, as numpy broadcasts them, as far as they are
/// known before the model runs.
pub(crate) fn broadcast_dims(shapes: &[&[TDim]]) -> TractResult<TVec<Option<TDim>>> {
    let rank = shapes.iter().map(|shape| shape.len()).max().unwrap_or(0);
    let mut dims = tvec!();
    for at in 0..rank {
        let each =
            shapes.iter().filter_map(|shape| shape.get((at + shape.len()).checked_sub(rank)?));
        let mut others: Vec<&TDim> = each.filter(|dim| !dim.is_one()).collect();
        others.dedup();
        let known: Vec<i64> = others.iter().filter_map(|dim| dim.as_i64()).collect();
        let agree = known.windows(2).all(|pair| pair[0] == pair[1]);
        ensure!(agree, "the shapes {shapes:?} do not match each other");
        // A number other than one decides, and so does a symbol that is alone.
        dims.push(match (known.first(), &others[..]) {
            (Some(size), _) => Some(size.to_dim()),
            (None, []) => Some(1.to_dim()),
            (None, [one]) => Some((*one).clone()),
            (None, _) => None,
        });
    }
    Ok(dims)
}

/// Tensors of several shapes with the shape that they have together.
pub(crate) struct Broadcast {
    pub(crate) shape: Vec<usize>,
    pub(crate) count: usize,
    /// For each tensor, the step from one element to the next along each dimension.
    steps: Vec<Vec<usize>>,
}

impl Broadcast {
    pub(crate) fn of(shapes: &[&[usize]]) -> TractResult<Broadcast> {
        let rank = shapes.iter().map(|shape| shape.len()).max().unwrap_or(0);
        let mut shape = vec![1; rank];
        for other in shapes {
            let from = rank - other.len();
            for (to, size) in shape[from..].iter_mut().zip(*other) {
                let fits = *to == 1 || *size == 1 || *to == *size;
                ensure!(fits, "the shapes {shapes:?} do not match each other");
                if *size != 1 {
                    *to = *size;
                }
            }
        }
        let steps = |other: &&[usize]| {
            let own = other.iter().zip(strides(other));
            let own = own.map(|(size, step)| if *size == 1 { 0 } else { step });
            std::iter::repeat_n(0, rank - other.len()).chain(own).collect()
        };
        let count = volume(&shape)?;
        Ok(Broadcast { steps: shapes.iter().map(steps).collect(), shape, count })
    }

    /// Calls a function for each run of elements whose places in all tensors are the same, or as far
    /// apart as in the result: with the places of its first element, the number of elements, and for
    /// each tensor 0 or 1.
    pub(crate) fn each_run(&self, mut run: impl FnMut(&[usize], usize, &[usize])) {
        if self.count == 0 {
            return;
        }
        let (mut outer, mut width) = (self.shape.len(), 1);
        let mut steps: Option<Vec<usize>> = None;
        while outer > 0 {
            let axis = outer - 1;
            if self.shape[axis] > 1 {
                let here: Vec<usize> = self.steps.iter().map(|steps| steps[axis]).collect();
                let continues = match &steps {
                    None => here.iter().all(|step| *step <= 1),
                    Some(inner) => {
                        here.iter().zip(inner).all(|(here, inner)| *here == inner * width)
                    }
                };
                if !continues {
                    break;
                }
                steps.get_or_insert(here);
                width *= self.shape[axis];
            }
            outer = axis;
        }
        let steps = steps.unwrap_or_else(|| vec![0; self.steps.len()]);
        let mut at = vec![0; outer];
        loop {
            let place = |of: &Vec<usize>| at.iter().zip(of).map(|(at, step)| at * step).sum();
            let places: Vec<usize> = self.steps.iter().map(place).collect();
            run(&places, width, &steps);
            if !advance(&mut at, &self.shape[..outer]) {
                break;
            }
        }
    }

    /// Calls a function for each element with its places in all tensors.
    pub(crate) fn each(&self, mut element: impl FnMut(&[usize])) {
        if self.count == 0 {
            return;
        }
        let (outer, width) = match self.shape.split_last() {
            Some((width, outer)) => (outer, *width),
            None => (&[][..], 1),
        };
        let mut at = vec![0; outer.len()];
        let mut places = vec![0; self.steps.len()];
        loop {
            for (place, steps) in places.iter_mut().zip(&self.steps) {
                *place = at.iter().zip(steps).map(|(at, step)| at * step).sum();
            }
            for _ in 0..width {
                element(&places);
                for (place, steps) in places.iter_mut().zip(&self.steps) {
                    *place += steps.last().copied().unwrap_or(0);
                }
            }
            if !advance(&mut at, outer) {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_have_the_places_of_single_elements() {
        let shapes: [[&[usize]; 2]; 7] = [
            [&[2, 3, 4], &[2, 3, 4]],
            [&[2, 3, 4], &[3, 1]],
            [&[2, 1, 4], &[1, 3, 4]],
            [&[4], &[2, 3, 1]],
            [&[], &[3]],
            [&[1, 1], &[1]],
            [&[2, 0], &[1]],
        ];
        for pair in shapes {
            let broadcast = Broadcast::of(&pair).unwrap();
            let (mut single, mut runs) = (vec![], Vec::<Vec<usize>>::new());
            broadcast.each(|places| single.push(places.to_vec()));
            broadcast.each_run(|places, count, steps| {
                for at in 0..count {
                    runs.push(
                        places.iter().zip(steps).map(|(from, step)| from + at * step).collect(),
                    );
                }
            });
            assert_eq!(single, runs, "{pair:?}");
        }
    }

    #[test]
    fn shapes_of_products_are_those_of_numpy() {
        let shape = |a: &[usize], b: &[usize]| Product::of(a, b).map(|product| product.shape).ok();
        assert_eq!(shape(&[3], &[3]), Some(vec![]));
        assert_eq!(shape(&[3], &[2, 3, 4]), Some(vec![2, 4]));
        assert_eq!(shape(&[2, 5, 3], &[3]), Some(vec![2, 5]));
        assert_eq!(shape(&[2, 1, 5, 3], &[4, 3, 6]), Some(vec![2, 4, 5, 6]));
        assert_eq!(shape(&[2, 3], &[2, 3]), None);
        assert_eq!(shape(&[2, 5, 3], &[3, 3, 6]), None);
        assert_eq!(shape(&[], &[3]), None);
        let pairs = Product::of(&[2, 1, 5, 3], &[2, 3, 6]).unwrap().pairs;
        assert_eq!(pairs, [(0, 0), (0, 1), (1, 0), (1, 1)]);
    }
}
