//! GlobalLpPool (ONNX, since operator set 2): the norm of each channel, summed in 64 bits.

use tract_onnx::tract_hir::internal::*;

use crate::framework::dims::volume;
use crate::framework::errors::ensure;
use crate::framework::facts::{InputFact, OutputFact, required, with_dims};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::{floats, from_floats};

pub(crate) const OPERATORS: &[Registration] = &[own("GlobalLpPool", |_, node| {
    built(GlobalLpPool { p: node.get_attr_opt("p")?.unwrap_or(2) }, node)
})];

#[derive(Clone, Debug, PartialEq, Eq)]
struct GlobalLpPool {
    p: i64,
}

impl Operator for GlobalLpPool {
    fn name(&self) -> &'static str {
        "GlobalLpPool"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let data = required(inputs, 0)?;
        ensure!(
            data.rank() > 2,
            "an input of {} dimensions has no spatial dimensions",
            data.rank()
        );
        let kept = data.shape.iter().take(2).cloned();
        let ones = (2..data.rank()).map(|_| 1.to_dim());
        Ok(tvec!(with_dims(data.dtype, kept.chain(ones))))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let data = *required(inputs, 0)?;
        let mut to = data.shape().to_vec();
        to[2..].fill(1);
        let (values, width) = (floats(data)?, data.shape()[2..].iter().product::<usize>());
        let p = self.p as f64;
        let norm = |channel: usize| {
            let values = values[channel * width..][..width].iter();
            let sum = |of: fn(f64, f64) -> f64| values.fold(0.0, |sum, value| sum + of(*value, p));
            match self.p {
                1 => sum(|value, _| value.abs()),
                2 => sum(|value, _| value * value).sqrt(),
                _ => sum(|value, p| value.abs().powf(p)).powf(1.0 / p),
            }
        };
        let norms: Vec<f64> = (0..volume(&to)?).map(norm).collect();
        Ok(tvec!(from_floats(data.datum_type(), &to, &norms)?))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{case, row, tensor};

    #[test]
    fn global_lp_pool_is_the_norm_of_each_channel() {
        let pool = || {
            let data = tensor(&[1, 2, 2, 1], &[3f32, -4.0, f32::NAN, 1.0]);
            case("GlobalLpPool").input(data)
        };
        let expected = |first: f32| tensor(&[1, 2, 1, 1], &[first, f32::NAN]);
        pool().gives(expected(5.0));
        pool().int("p", 1).gives(expected(7.0));
        pool().int("p", 3).gives_near(expected(91f32.cbrt()), 1e-6);
        case("GlobalLpPool")
            .input(tensor::<f32>(&[1, 1, 0], &[]))
            .gives(tensor(&[1, 1, 1], &[0f32]));
        case("GlobalLpPool").input(row(&[1f32])).fails("1");
    }

    #[test]
    fn global_lp_pool_keeps_open_dimensions() {
        let pool = case("GlobalLpPool").input(tensor(&[1, 1, 2], &[3f32, 4.0]));
        let open = [(0, 0, "b"), (0, 2, "n")];
        pool.gives_open(&open, &["b,1,1"], &[tensor(&[1, 1, 1], &[5f32])], 0.0);
    }
}
