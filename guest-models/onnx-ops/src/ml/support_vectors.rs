//! Support vectors, and the kernels between them and rows.

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::attributes::{floats, text, wide};
use super::linear::dot;
use crate::framework::errors::{bail, ensure};

#[derive(Clone, Copy, Debug)]
pub(super) enum Kernel {
    Linear,
    Poly { gamma: f64, plus: f64, degree: i32 },
    Rbf { gamma: f64 },
    Sigmoid { gamma: f64, plus: f64 },
}

impl Kernel {
    pub(super) fn of(node: &NodeProto) -> TractResult<Kernel> {
        let parameters = wide(floats(node, "kernel_params"), "kernel_params")?;
        let (gamma, plus, degree) = match *parameters {
            [] => (0.0, 0.0, 0.0),
            [gamma, plus, degree] => (gamma, plus, degree),
            _ => bail!("kernel_params has {} numbers, expected 3", parameters.len()),
        };
        Ok(match text(node, "kernel_type", "LINEAR")? {
            "POLY" => {
                let whole = degree.fract() == 0.0 && (0.0..=1000.0).contains(&degree);
                ensure!(whole, "a polynomial of degree {degree} is not implemented");
                Kernel::Poly { gamma, plus, degree: degree as i32 }
            }
            "RBF" => Kernel::Rbf { gamma },
            "SIGMOID" => Kernel::Sigmoid { gamma, plus },
            _ => Kernel::Linear,
        })
    }

    fn between(self, a: &[f64], b: &[f64]) -> f64 {
        match self {
            Kernel::Linear => dot(a, b),
            Kernel::Poly { gamma, plus, degree } => (gamma * dot(a, b) + plus).powi(degree),
            Kernel::Rbf { gamma } => {
                let square: f64 = a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum();
                (-gamma * square).exp()
            }
            Kernel::Sigmoid { gamma, plus } => (gamma * dot(a, b) + plus).tanh(),
        }
    }
}

/// Vectors, one after the other, and the kernel between them and rows.
#[derive(Debug)]
pub(super) struct Vectors {
    kernel: Kernel,
    pub(super) count: usize,
    pub(super) features: usize,
    values: Vec<f64>,
}

impl Vectors {
    pub(super) fn new(kernel: Kernel, count: usize, values: &[f32]) -> TractResult<Vectors> {
        let values = wide(values, "a support vector")?;
        let whole = count > 0 && !values.is_empty() && values.len() % count == 0;
        ensure!(whole, "{} numbers cannot be divided into {count} support vectors", values.len());
        Ok(Vectors { kernel, count, features: values.len() / count, values })
    }

    pub(super) fn kernels(&self, row: &[f64]) -> Vec<f64> {
        let vectors = self.values.chunks_exact(self.features);
        vectors.map(|vector| self.kernel.between(row, vector)).collect()
    }
}
