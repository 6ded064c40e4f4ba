//! What measured runs have shown of one input or output, and the shape that a policy allows after
//! that.

use belljar::{Dim, ValueInfo};
use belljar_policy::Sizes;
use belljar_tensor::{DType, Data, Tensor};

/// One input or output in all measured runs.
pub(crate) struct Observed {
    pub(crate) name: String,
    pub(crate) dtype: DType,
    /// Its shape in each run.
    shapes: Vec<Vec<u64>>,
    /// Whether all of its numbers were finite.
    pub(crate) finite: bool,
    /// Whether the sizes were chosen: by a file or --shape. Other inputs are generated.
    pub(crate) chosen: bool,
}

/// Adds the tensors of one run.
pub(super) fn add(
    seen: &mut Vec<Observed>,
    tensors: &[(String, Tensor)],
    chosen: &dyn Fn(&str) -> bool,
) {
    for (name, tensor) in tensors {
        let shape: Vec<u64> = tensor.shape().iter().map(|dim| *dim as u64).collect();
        let finite = is_finite(tensor);
        match seen.iter_mut().find(|one| one.name == *name) {
            Some(one) => {
                one.finite &= finite;
                one.shapes.push(shape);
            }
            None => seen.push(Observed {
                name: name.clone(),
                dtype: tensor.dtype(),
                shapes: vec![shape],
                finite,
                chosen: chosen(name),
            }),
        }
    }
}

impl Observed {
    /// Number of runs.
    pub(crate) fn runs(&self) -> usize {
        self.shapes.len()
    }

    /// The smallest and the largest size of each dimension. `None` if the rank differs between
    /// runs, which no rule can express.
    pub(crate) fn sizes(&self) -> Option<Vec<Sizes>> {
        let (first, rest) = self.shapes.split_first()?;
        let mut bounds: Vec<(u64, u64)> = first.iter().map(|size| (*size, *size)).collect();
        for shape in rest {
            if shape.len() != bounds.len() {
                return None;
            }
            for ((least, most), size) in bounds.iter_mut().zip(shape) {
                (*least, *most) = ((*least).min(*size), (*most).max(*size));
            }
        }
        Some(bounds.into_iter().map(|(least, most)| Sizes::Range(least, most)).collect())
    }

    /// As [`Observed::sizes`]; but an open dimension that had one size may also be smaller, because
    /// a policy for one size is of little use. `None` also if the model fixes all dimensions.
    pub(crate) fn up_to_sizes(&self, declared: &ValueInfo) -> Option<Vec<Sizes>> {
        let is_open = |axis: usize| match &declared.shape {
            Some(dims) => !matches!(dims.get(axis), Some(Dim::Fixed(_))),
            None => true,
        };
        let sizes = self.sizes()?;
        if !(0..sizes.len()).any(is_open) {
            return None;
        }
        let widened = sizes.into_iter().enumerate().map(|(axis, sizes)| match sizes {
            Sizes::Range(least, most) if least == most && is_open(axis) => {
                Sizes::Range(most.min(1), most)
            }
            sizes => sizes,
        });
        Some(widened.collect())
    }
}

fn is_finite(tensor: &Tensor) -> bool {
    match tensor.data() {
        Data::F16(values) => values.iter().all(|value| value.to_f32().is_finite()),
        Data::F32(values) => values.iter().all(|value| value.is_finite()),
        Data::F64(values) => values.iter().all(|value| value.is_finite()),
        Data::BF16(values) => values.iter().all(|value| value.to_f32().is_finite()),
        // Their codes include infinities and NaN, and are not decoded here.
        Data::Coded(_) => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use belljar::ValueType;

    use super::*;

    fn seen(shapes: &[&[u64]]) -> Observed {
        let shapes = shapes.iter().map(|shape| shape.to_vec()).collect();
        let name = "x".to_owned();
        Observed { name, dtype: DType::F32, shapes, finite: true, chosen: true }
    }

    fn declared(shape: Option<&[Dim]>) -> ValueInfo {
        let shape = shape.map(<[Dim]>::to_vec);
        let (name, value_type) = ("x".into(), ValueType::Tensor);
        ValueInfo { name, elem_type: 1, value_type, shape, has_default: false }
    }

    fn shown(sizes: Option<Vec<Sizes>>) -> Option<String> {
        let sizes = sizes?.iter().map(ToString::to_string).collect::<Vec<_>>();
        Some(sizes.join(", "))
    }

    #[test]
    fn sizes_range_from_the_smallest_to_the_largest() {
        let sizes = |shapes: &[&[u64]]| shown(seen(shapes).sizes());
        assert_eq!(sizes(&[&[1, 7]]).as_deref(), Some("1, 7"));
        assert_eq!(sizes(&[&[1, 7], &[1, 3], &[1, 5]]).as_deref(), Some("1, 3..7"));
        assert_eq!(sizes(&[&[0], &[2]]).as_deref(), Some("0..2"));
        assert_eq!(sizes(&[&[]]).as_deref(), Some(""));
        assert_eq!(sizes(&[&[1, 7], &[7]]), None);
    }

    #[test]
    fn an_open_dimension_of_one_size_may_be_smaller() {
        let dims = [Dim::Symbol("n".into()), Dim::Fixed(3), Dim::Unknown];
        let sizes = |shapes: &[&[u64]]| shown(seen(shapes).up_to_sizes(&declared(Some(&dims))));
        assert_eq!(sizes(&[&[8, 3, 100]]).as_deref(), Some("1..8, 3, 1..100"));
        assert_eq!(sizes(&[&[1, 3, 0]]).as_deref(), Some("1, 3, 0"));
        assert_eq!(sizes(&[&[4, 3, 9], &[6, 3, 9]]).as_deref(), Some("4..6, 3, 1..9"));
        let of = |shape| shown(seen(&[&[2, 3]]).up_to_sizes(&declared(shape)));
        assert_eq!(of(None).as_deref(), Some("1..2, 1..3"));
        assert_eq!(of(Some(&[Dim::Fixed(2), Dim::Fixed(3)])), None);
    }
}
