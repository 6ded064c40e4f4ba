//! Functions of one number for which tract loses precision. Its Erf, Sigmoid and Tanh have an
//! absolute error of about 1e-7, which is large near zero; Elu and similar functions subtract one
//! from a power, and Softplus adds one, so that small results vanish. Its Asinh and Acosh are those
//! of the standard library, some versions of which return infinity for half of the largest numbers.
//!
//! tract's own LSTM and GRU cells also use Sigmoid and Tanh. They look them up in tract's registry
//! of routines, where those of this crate take precedence.

use tract_linalg::element_wise::ElementWiseKer;
use tract_linalg::isa::{Arch, IsaReq};
use tract_linalg::routines::{Func, Routine, RoutineFactory, factory_of};
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::ops::element_wise::{ElementWiseMiniOp, ElementWiseOp};
use tract_onnx::tract_core::tract_linalg;
use tract_onnx::tract_hir::internal::*;
use tract_onnx::tract_hir::ops::element_wise::ElementWiseIntoHir;

use crate::elementwise::{approximations, double};
use crate::framework::errors::ensure;
use crate::framework::registration::{Registration, own};
use crate::framework::upstream::BuildResult;

/// A function that is applied to each element.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Function {
    Erf,
    Sigmoid,
    Tanh,
    Acosh,
    Asinh,
    Atanh,
    Softplus,
    Mish,
    Gelu,
    GeluByTanh,
    /// Elu with `gamma` 1, and Selu.
    Elu {
        alpha: f32,
        gamma: f32,
    },
    Celu {
        alpha: f32,
    },
}

impl Eq for Function {}

pub(crate) const OPERATORS: &[Registration] = &[
    own("Erf", |_, _| Ok((Function::Erf.op().into_hir(), vec![]))),
    own("Sigmoid", |_, _| Ok((Function::Sigmoid.op().into_hir(), vec![]))),
    own("Tanh", |_, _| Ok((Function::Tanh.op().into_hir(), vec![]))),
    own("Acosh", |_, _| Ok((Function::Acosh.op().into_hir(), vec![]))),
    own("Asinh", |_, _| Ok((Function::Asinh.op().into_hir(), vec![]))),
    own("Atanh", |_, _| Ok((Function::Atanh.op().into_hir(), vec![]))),
    own("Softplus", |_, _| Ok((Function::Softplus.op().into_hir(), vec![]))),
    own("Mish", |_, _| Ok((Function::Mish.op().into_hir(), vec![]))),
    own("Gelu", build_gelu),
    own("Elu", build_elu),
    own("Selu", build_selu),
    own("Celu", build_celu),
];

fn build_gelu(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    let by_tanh = node.get_attr_opt("approximate")? == Some("tanh");
    let function = if by_tanh { Function::GeluByTanh } else { Function::Gelu };
    Ok((function.op().into_hir(), vec![]))
}

fn build_elu(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    let alpha = node.get_attr_opt("alpha")?.unwrap_or(1.0);
    Ok((Function::Elu { alpha, gamma: 1.0 }.op().into_hir(), vec![]))
}

fn build_selu(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    let alpha = node.get_attr_opt("alpha")?.unwrap_or(1.673_263_2);
    let gamma = node.get_attr_opt("gamma")?.unwrap_or(1.050_701);
    Ok((Function::Elu { alpha, gamma }.op().into_hir(), vec![]))
}

fn build_celu(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    let alpha = node.get_attr_opt("alpha")?.unwrap_or(1.0);
    ensure!(alpha > 0.0, "an \"alpha\" of {alpha} is not implemented");
    Ok((Function::Celu { alpha }.op().into_hir(), vec![]))
}

impl Function {
    pub(crate) fn op(self) -> ElementWiseOp {
        ElementWiseOp(Box::new(self), None)
    }

    fn single(self, values: &mut [f32]) {
        // One loop per function, so that each is vectorized.
        fn each(values: &mut [f32], function: impl Fn(f32) -> f32) {
            values.iter_mut().for_each(|value| *value = function(*value));
        }
        match self {
            Function::Erf => each(values, approximations::erf),
            Function::Sigmoid => each(values, approximations::sigmoid),
            Function::Tanh => each(values, approximations::tanh),
            Function::Acosh => each(values, |x| double::acosh(f64::from(x)) as f32),
            Function::Asinh => each(values, |x| double::asinh(f64::from(x)) as f32),
            Function::Atanh => each(values, approximations::atanh),
            Function::Softplus => each(values, approximations::softplus),
            Function::Mish => each(values, approximations::mish),
            Function::Gelu => each(values, approximations::gelu),
            Function::GeluByTanh => each(values, approximations::gelu_by_tanh),
            Function::Elu { alpha, gamma } => {
                each(values, |x| gamma * approximations::elu(x, alpha))
            }
            Function::Celu { alpha } => each(values, |x| approximations::celu(x, alpha)),
        }
    }

    /// The same in float64.
    fn double(self, x: f64) -> f64 {
        match self {
            Function::Erf => double::erf(x),
            Function::Sigmoid => double::sigmoid(x),
            Function::Tanh => x.tanh(),
            Function::Acosh => double::acosh(x),
            Function::Asinh => double::asinh(x),
            Function::Atanh => double::atanh(x),
            Function::Softplus => double::softplus(x),
            Function::Mish => double::mish(x),
            Function::Gelu => double::gelu(x),
            Function::GeluByTanh => double::gelu_by_tanh(x),
            Function::Elu { alpha, gamma } => {
                f64::from(gamma) * if x > 0.0 { x } else { f64::from(alpha) * x.exp_m1() }
            }
            Function::Celu { .. } if x > 0.0 => x,
            Function::Celu { alpha } => f64::from(alpha) * (x / f64::from(alpha)).exp_m1(),
        }
    }
}

impl ElementWiseMiniOp for Function {
    fn name(&self) -> String {
        match self {
            Function::Erf => "Erf",
            Function::Sigmoid => "Sigmoid",
            Function::Tanh => "Tanh",
            Function::Acosh => "Acosh",
            Function::Asinh => "Asinh",
            Function::Atanh => "Atanh",
            Function::Softplus => "Softplus",
            Function::Mish => "Mish",
            Function::Gelu | Function::GeluByTanh => "Gelu",
            Function::Elu { .. } => "Elu",
            Function::Celu { .. } => "Celu",
        }
        .into()
    }

    fn eval_in_place(&self, tensor: &mut Tensor, _: Option<DatumType>) -> TractResult<()> {
        let dtype = tensor.datum_type();
        let mut plain = tensor.try_as_plain_ram_mut()?;
        if dtype == f32::datum_type() {
            self.single(plain.as_slice_mut()?);
            return Ok(());
        }
        // float16 and bfloat16 are computed in float32 (gate/narrow.rs).
        ensure!(
            dtype == f64::datum_type(),
            "{} of element type {dtype:?} is not implemented",
            ElementWiseMiniOp::name(self)
        );
        plain.as_slice_mut::<f64>()?.iter_mut().for_each(|value| *value = self.double(*value));
        Ok(())
    }
}

/// Registers a function in place of tract's routine for WebAssembly.
macro_rules! routine {
    ($Name:ident, $func:ident, $function:path) => {
        #[derive(Clone, Debug)]
        struct $Name;

        impl ElementWiseKer<f32> for $Name {
            fn name() -> &'static str {
                stringify!($Name)
            }

            fn alignment_items() -> usize {
                1
            }

            fn nr() -> usize {
                1
            }

            fn run(values: &mut [f32], _: ()) {
                $function.single(values);
            }
        }

        inventory::submit!(Routine {
            func: Func::$func,
            arch: Some(Arch::Wasm32Simd128),
            isa: IsaReq::ANY,
            boost: isize::MAX / 2,
            round_trip: false,
            factory: RoutineFactory::F32(factory_of::<$Name, f32, ()>),
        });
    };
}

routine!(ExactSigmoid, Sigmoid, Function::Sigmoid);
routine!(ExactTanh, Tanh, Function::Tanh);

#[cfg(test)]
mod tests {
    use std::f64::consts::FRAC_2_SQRT_PI;
    use std::f64::consts::SQRT_2;

    use crate::testing::{Case, case, row};

    /// The Maclaurin series, for numbers up to about 3. Its terms grow to 60 before they vanish, so
    /// that the error of small results is up to 1e-14.
    fn erf(x: f64) -> f64 {
        let (mut power, mut sum) = (x, x);
        for n in 1..80 {
            power *= -x * x / f64::from(n);
            sum += power / f64::from(2 * n + 1);
        }
        FRAC_2_SQRT_PI * sum
    }

    /// Asserts that a function of float32 is what this one is in float64, to a few units in the
    /// last place, and that NaN stays NaN.
    fn follows(case: Case, numbers: &[f32], function: impl Fn(f64) -> f64) {
        let mut expected: Vec<f32> =
            numbers.iter().map(|x| function(f64::from(*x)) as f32).collect();
        let mut numbers = numbers.to_vec();
        numbers.push(f32::NAN);
        expected.push(f32::NAN);
        case.input(row(&numbers)).gives_near(row(&expected), 1e-6);
    }

    #[test]
    fn erf_keeps_its_digits_near_zero() {
        follows_in_both(case("Erf"), &[1e-20, -1e-5, 0.5, -0.95, 1.25, 2.5], erf);
        case("Erf").input(row(&[f32::INFINITY, -100.0])).gives(row(&[1f32, -1.0]));
        case("Erf").input(row(&[f64::INFINITY, -100.0])).gives(row(&[1f64, -1.0]));
    }

    #[test]
    fn sigmoid_of_a_negative_number_is_small_and_not_zero() {
        follows_in_both(case("Sigmoid"), &[-80.0, -20.0, -0.5, 0.0, 3.0, 90.0], |x| {
            x.exp() / (1.0 + x.exp())
        });
        let ends = row(&[f32::NEG_INFINITY, f32::INFINITY]);
        case("Sigmoid").input(ends).gives(row(&[0f32, 1.0]));
        let ends = row(&[f64::NEG_INFINITY, -745.0, 1000.0]);
        case("Sigmoid").input(ends).gives(row(&[0f64, 5e-324, 1.0]));
    }

    /// The same, also of float64.
    fn follows_in_both(case: Case, numbers: &[f32], function: impl Fn(f64) -> f64) {
        let mut wide: Vec<f64> = numbers.iter().map(|x| f64::from(*x)).collect();
        wide.push(f64::NAN);
        let expected: Vec<f64> = wide.iter().map(|x| function(*x)).collect();
        case.clone().input(row(&wide)).gives_near(row(&expected), 1e-12);
        follows(case, numbers, function);
    }

    #[test]
    fn tanh_keeps_its_digits_near_zero() {
        follows_in_both(case("Tanh"), &[1e-20, -1e-4, 0.5, -3.0, 50.0], f64::tanh);
    }

    #[test]
    fn acosh_and_asinh_are_finite_up_to_the_largest_numbers() {
        let double = |x: f64| (x / 2.0).ln() + 4f64.ln();
        for (operator, sign) in [("Acosh", 1f64), ("Asinh", 1.0), ("Asinh", -1.0)] {
            let numbers = [1e20, 2.4e38, f32::MAX].map(|x| sign as f32 * x);
            let function = |x: f64| double(x.abs()).copysign(x);
            follows_in_both(case(operator), &numbers, function);
            let wide = [1e200, 1.2e308, f64::MAX].map(|x| sign * x);
            let expected = wide.map(function);
            case(operator).input(row(&wide)).gives_near(row(&expected), 1e-15);
        }
        let numbers = [1.0, 1.0 + 1e-7, 1.5, 20.0, 1e7, 0.999, 0.0, -1.5, -1e30, f32::INFINITY];
        follows_in_both(case("Acosh"), &numbers, f64::acosh);
        let numbers = [1e-30, -1e-4, 0.5, -20.0, 1e7, f32::NEG_INFINITY];
        follows_in_both(case("Asinh"), &numbers, f64::asinh);
        case("Asinh").input(row(&[-0f32, 0.0])).gives(row(&[-0f32, 0.0]));
    }

    #[test]
    fn atanh_is_infinite_at_one_and_nan_beyond() {
        follows_in_both(case("Atanh"), &[1e-20, -1e-4, 0.5, -0.999], f64::atanh);
        let numbers = row(&[1f32, -1.0, 1.5]);
        case("Atanh").input(numbers).gives(row(&[f32::INFINITY, f32::NEG_INFINITY, f32::NAN]));
    }

    #[test]
    fn softplus_neither_vanishes_nor_overflows() {
        follows_in_both(case("Softplus"), &[-80.0, -20.0, 0.0, 1.0, 200.0], |x| {
            x.max(0.0) + (-x.abs()).exp().ln_1p()
        });
    }

    #[test]
    fn mish_of_large_numbers_is_the_identity() {
        follows_in_both(case("Mish"), &[-80.0, -1.0, 0.5, 100.0], |x| {
            x * (x.max(0.0) + (-x.abs()).exp().ln_1p()).tanh()
        });
    }

    #[test]
    fn gelu_is_exact_unless_approximated_by_tanh() {
        let numbers = [-3.0, -1.0, -1e-10, 0.5, 2.0];
        let exact = |x: f64| 0.5 * x * (1.0 + erf(x / SQRT_2));
        follows(case("Gelu"), &numbers, exact);
        follows(case("Gelu").text("approximate", "none"), &numbers, exact);
        follows_in_both(case("Gelu").text("approximate", "tanh"), &numbers, |x| {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        });
    }

    #[test]
    fn gelu_of_float64_keeps_the_digits_of_its_tail() {
        // x * erfc(-x / sqrt(2)) / 2, by Python's math.erfc.
        let numbers = row(&[-30f64, -8.0, -2.0, -0.5, 1e-200, 1.25, 40.0]);
        let expected = [
            -1.472014178144456e-196,
            -4.976768459417427e-15,
            -0.04550026389635842,
            -0.15426876936299344,
            5e-201,
            1.117937782916431,
            40.0,
        ];
        case("Gelu").input(numbers).gives_near(row(&expected), 1e-13);
    }

    #[test]
    fn elu_keeps_its_digits_near_zero() {
        let below = |alpha: f64| move |x: f64| if x > 0.0 { x } else { alpha * x.exp_m1() };
        let numbers = [-50.0, -1e-10, 0.0, 2.0];
        follows_in_both(case("Elu"), &numbers, below(1.0));
        follows_in_both(case("Elu").float("alpha", 2.5), &numbers, below(2.5));
    }

    #[test]
    fn selu_has_the_specifications_default_attributes() {
        follows_in_both(case("Selu"), &[-50.0, -1e-10, 0.0, 2.0], |x| {
            let (alpha, gamma) = (1.673_263_192_176_818_8, 1.050_701_022_148_132_3);
            if x > 0.0 { gamma * x } else { gamma * alpha * x.exp_m1() }
        });
    }

    #[test]
    fn celu_divides_by_alpha_and_refuses_zero() {
        follows_in_both(case("Celu").float("alpha", 2.0), &[-50.0, -1e-10, 0.0, 2.0], |x| {
            if x > 0.0 { x } else { 2.0 * (x / 2.0).exp_m1() }
        });
        case("Celu").float("alpha", 0.0).input(row(&[1f32])).fails("0");
    }
}
