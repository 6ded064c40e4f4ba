//! The input shapes that a prepared model accepts.

use belljar_abi::{InputShape, OpenDim, SizeRange};
use serde::{Deserialize, Serialize};

/// The input shapes that a prepared model accepts: the shapes it was prepared with, in which some
/// dimensions may have other sizes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlanShapes {
    /// The shapes it was prepared with, in the order of the model's declaration. The names are
    /// untrusted text.
    pub shapes: Vec<InputShape>,
    /// The dimensions that may have other sizes.
    pub(crate) open: Vec<OpenDim>,
    /// The sizes of each symbol of these dimensions, by its number.
    pub(crate) sizes: Vec<SizeRange>,
}

impl PlanShapes {
    /// Exactly these shapes.
    #[cfg(test)]
    pub(crate) fn exactly(shapes: &[InputShape]) -> PlanShapes {
        PlanShapes { shapes: shapes.to_vec(), ..PlanShapes::default() }
    }

    /// Whether other shapes than those it was prepared with are accepted.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// Whether inputs of these shapes are accepted.
    #[must_use]
    pub fn accepts(&self, shapes: &[InputShape]) -> bool {
        if self.shapes.len() != shapes.len() {
            return false;
        }
        let mut sizes: Vec<Option<u64>> = vec![None; self.sizes.len()];
        for (at, (shape, given)) in self.shapes.iter().zip(shapes).enumerate() {
            if shape.name != given.name || shape.dims.len() != given.dims.len() {
                return false;
            }
            for (axis, (dim, size)) in shape.dims.iter().zip(&given.dims).enumerate() {
                let Some(open) = self.open_dim(at, axis) else {
                    if dim == size {
                        continue;
                    }
                    return false;
                };
                let symbol = open.symbol as usize;
                let Some(size) = open.symbol_size(*size) else { return false };
                let in_range = self.sizes.get(symbol).is_some_and(|range| range.contains(size));
                let known = sizes.get_mut(symbol);
                let same = known.is_some_and(|known| *known.get_or_insert(size) == size);
                if !in_range || !same {
                    return false;
                }
            }
        }
        true
    }

    /// For each input: the range of sizes of each dimension.
    #[must_use]
    pub fn ranges(&self) -> Vec<(&str, Vec<SizeRange>)> {
        let range = |at: usize, axis: usize, dim: u64| {
            let exactly = SizeRange { min: dim, max: dim, step: 1 };
            let Some(open) = self.open_dim(at, axis) else { return exactly };
            let Some(range) = self.sizes.get(open.symbol as usize) else { return exactly };
            let (min, max) =
                (range.min.saturating_add(open.more), range.max.saturating_add(open.more));
            SizeRange { min, max, step: range.step }
        };
        let of = |(at, shape): (usize, &InputShape)| {
            shape.dims.iter().enumerate().map(|(axis, dim)| range(at, axis, *dim)).collect()
        };
        let names = self.shapes.iter().map(|shape| &*shape.name);
        names.zip(self.shapes.iter().enumerate().map(of)).collect()
    }

    /// The dimensions that may have other sizes: the name of the input, and the axis.
    pub(crate) fn open_dims(&self) -> impl Iterator<Item = (&str, usize)> {
        self.open.iter().filter_map(|open| {
            let shape = self.shapes.get(open.input as usize)?;
            Some((&*shape.name, open.axis as usize))
        })
    }

    fn open_dim(&self, input: usize, axis: usize) -> Option<&OpenDim> {
        let is_it = |open: &&OpenDim| (open.input as usize, open.axis as usize) == (input, axis);
        self.open.iter().find(is_it)
    }

    /// Everything that decides which shapes are accepted. The sizes of open dimensions do not.
    pub(crate) fn digested(&self) -> Vec<u8> {
        let mut stored = self.to_stored();
        for open in &self.open {
            let shape = stored.shapes.get_mut(open.input as usize);
            if let Some(dim) = shape.and_then(|shape| shape.1.get_mut(open.axis as usize)) {
                *dim = 0;
            }
        }
        // Serializing strings and numbers cannot fail.
        serde_json::to_vec(&stored).unwrap_or_default()
    }

    /// The form in which it is stored.
    pub(crate) fn to_stored(&self) -> StoredShapes {
        StoredShapes {
            shapes: self.shapes.iter().map(|s| (s.name.clone(), s.dims.clone())).collect(),
            open: self.open.iter().map(|o| (o.input, o.axis, o.symbol, o.more)).collect(),
            sizes: self.sizes.iter().map(|range| (range.min, range.max, range.step)).collect(),
        }
    }
}

/// The stored form of [`PlanShapes`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredShapes {
    shapes: Vec<(String, Vec<u64>)>,
    open: Vec<(u32, u32, u32, u64)>,
    sizes: Vec<(u64, u64, u64)>,
}

impl From<StoredShapes> for PlanShapes {
    fn from(stored: StoredShapes) -> PlanShapes {
        let shapes = stored.shapes.into_iter().map(|(name, dims)| InputShape { name, dims });
        let open = stored.open.into_iter();
        PlanShapes {
            shapes: shapes.collect(),
            open: open
                .map(|(input, axis, symbol, more)| OpenDim { input, axis, symbol, more })
                .collect(),
            sizes: stored
                .sizes
                .into_iter()
                .map(|(min, max, step)| SizeRange { min, max, step: step.max(1) })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shapes(of: &[&[u64]]) -> Vec<InputShape> {
        let shape = |(at, dims): (usize, &&[u64])| InputShape {
            name: format!("input{at}"),
            dims: dims.to_vec(),
        };
        of.iter().enumerate().map(shape).collect()
    }

    fn open(input: u32, axis: u32, symbol: u32) -> OpenDim {
        OpenDim { input, axis, symbol, more: 0 }
    }

    #[test]
    fn open_dimensions_accept_sizes_in_their_range_that_agree() {
        let plan = PlanShapes {
            shapes: shapes(&[&[1, 7], &[1, 7, 3]]),
            open: vec![open(0, 1, 0), open(1, 1, 0)],
            sizes: vec![SizeRange { min: 2, max: 100, step: 1 }],
        };
        assert!(plan.is_open());
        let accepts = |of: &[&[u64]]| plan.accepts(&shapes(of));
        assert!(accepts(&[&[1, 7], &[1, 7, 3]]));
        assert!(accepts(&[&[1, 2], &[1, 2, 3]]));
        assert!(accepts(&[&[1, 100], &[1, 100, 3]]));
        // Too small, too large, unequal, another fixed size, another rank, another number.
        assert!(!accepts(&[&[1, 1], &[1, 1, 3]]));
        assert!(!accepts(&[&[1, 101], &[1, 101, 3]]));
        assert!(!accepts(&[&[1, 7], &[1, 8, 3]]));
        assert!(!accepts(&[&[1, 7], &[1, 7, 4]]));
        assert!(!accepts(&[&[1, 7, 1], &[1, 7, 3]]));
        assert!(!accepts(&[&[1, 7]]));
        assert!(!accepts(&[]));
    }

    #[test]
    fn a_plan_without_open_dimensions_accepts_exactly_its_shapes() {
        let plan = PlanShapes::exactly(&shapes(&[&[1, 7]]));
        assert!(!plan.is_open());
        assert!(plan.accepts(&shapes(&[&[1, 7]])));
        assert!(!plan.accepts(&shapes(&[&[1, 8]])));
        let mut renamed = shapes(&[&[1, 7]]);
        renamed[0].name = "other".into();
        assert!(!plan.accepts(&renamed));
    }

    #[test]
    fn open_dimensions_may_be_multiples() {
        let plan = PlanShapes {
            shapes: shapes(&[&[64]]),
            open: vec![open(0, 0, 0)],
            sizes: vec![SizeRange { min: 32, max: 320, step: 32 }],
        };
        let accepts = |size| plan.accepts(&shapes(&[&[size]]));
        assert!(accepts(32) && accepts(96) && accepts(320));
        assert!(!accepts(0) && !accepts(33) && !accepts(352));
    }

    #[test]
    fn open_dimensions_may_be_larger_than_their_symbol() {
        let plan = PlanShapes {
            shapes: shapes(&[&[5], &[6]]),
            open: vec![open(0, 0, 0), OpenDim { more: 1, ..open(1, 0, 0) }],
            sizes: vec![SizeRange { min: 2, max: 9, step: 1 }],
        };
        let accepts = |cache, mask| plan.accepts(&shapes(&[&[cache], &[mask]]));
        assert!(accepts(2, 3) && accepts(9, 10));
        assert!(!accepts(1, 2) && !accepts(10, 11) && !accepts(5, 5) && !accepts(5, 7));
        assert!(!plan.accepts(&shapes(&[&[2], &[0]])));
        let ranges = plan.ranges();
        assert_eq!(ranges[1].1, [SizeRange { min: 3, max: 10, step: 1 }]);
    }

    #[test]
    fn symbols_without_a_range_accept_nothing() {
        let open = vec![open(0, 0, 3)];
        let plan = PlanShapes { shapes: shapes(&[&[7]]), open, sizes: Vec::new() };
        assert!(!plan.accepts(&shapes(&[&[7]])));
    }
}
