//! SVMClassifier and SVMRegressor: kernels between rows and support vectors, as libsvm has them.

use tract_onnx::model::OnnxOpRegister;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::super::own::{Known as Given, Own, Said, built, sized, volume};
use super::Known;
use super::attributes::{floats, int, ints, text, wide};
use super::labels::Labels;
use super::linear::dot;
use super::rows::{Rows, of_width};
use super::scores::{Transform, logistic, matrix};

/// Most classes that are compared in pairs.
const CLASSES: usize = 128;

pub(super) fn register(registry: &mut OnnxOpRegister) {
    registry.insert("SVMClassifier", |_, node| built(Classifier::new(node)?, node));
    registry.insert("SVMRegressor", |_, node| built(Regressor::new(node)?, node));
}

#[derive(Clone, Copy, Debug)]
enum Kernel {
    Linear,
    Poly { gamma: f64, plus: f64, degree: i32 },
    Rbf { gamma: f64 },
    Sigmoid { gamma: f64, plus: f64 },
}

impl Kernel {
    fn of(node: &NodeProto) -> TractResult<Kernel> {
        let parameters = wide(floats(node, "kernel_params"), "kernel_params")?;
        let (gamma, plus, degree) = match *parameters {
            [] => (0.0, 0.0, 0.0),
            [gamma, plus, degree] => (gamma, plus, degree),
            _ => bail!("{} kernel_params, not 3", parameters.len()),
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
struct Vectors {
    kernel: Kernel,
    count: usize,
    features: usize,
    values: Vec<f64>,
}

impl Vectors {
    fn new(kernel: Kernel, count: usize, values: &[f32]) -> TractResult<Vectors> {
        let values = wide(values, "a support vector")?;
        let whole = count > 0 && !values.is_empty() && values.len() % count == 0;
        ensure!(whole, "{} numbers are no {count} support vectors", values.len());
        Ok(Vectors { kernel, count, features: values.len() / count, values })
    }

    fn kernels(&self, row: &[f64]) -> Vec<f64> {
        let vectors = self.values.chunks_exact(self.features);
        vectors.map(|vector| self.kernel.between(row, vector)).collect()
    }
}

#[derive(Debug)]
struct Regression {
    vectors: Vectors,
    coefficients: Vec<f64>,
    rho: f64,
    one_class: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Regressor {
    svm: Known<Regression>,
}

impl Regressor {
    fn new(node: &NodeProto) -> TractResult<Regressor> {
        let coefficients = floats(node, "coefficients");
        let rho = wide(floats(node, "rho"), "rho")?;
        let [rho] = *rho else { bail!("rho has {} numbers, not 1", rho.len()) };
        let one_class = int(node, "one_class", 0) != 0;
        let count = usize::try_from(int(node, "n_supports", 0))?;
        let (vectors, coefficients) = if count == 0 {
            // The coefficients are the one vector there is.
            (Vectors::new(Kernel::Linear, 1, coefficients)?, vec![1.0])
        } else {
            let vectors = Vectors::new(Kernel::of(node)?, count, floats(node, "support_vectors"))?;
            let coefficients = wide(coefficients, "a coefficient")?;
            let found = coefficients.len();
            ensure!(found == count, "{found} coefficients for {count} support vectors");
            (vectors, coefficients)
        };
        Ok(Regressor { svm: Known::new(Regression { vectors, coefficients, rho, one_class }) })
    }
}

impl Own for Regressor {
    fn name(&self) -> &'static str {
        "SVMRegressor"
    }

    fn outputs(&self, inputs: &[Option<Given>]) -> TractResult<TVec<Said>> {
        let count = of_width(inputs, self.svm.vectors.features)?;
        Ok(tvec!(sized(f32::datum_type(), [count, 1.to_dim()])))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let rows = Rows::of(inputs)?;
        let mut all = Vec::with_capacity(volume(&[rows.count])?);
        for at in 0..rows.count {
            let kernels = self.svm.vectors.kernels(rows.row(at));
            let score = dot(&kernels, &self.svm.coefficients) + self.svm.rho;
            ensure!(!self.svm.one_class || !score.is_nan(), "what is no number is in no class");
            all.push(match self.svm.one_class {
                true if score > 0.0 => 1.0,
                true => -1.0,
                false => score,
            });
        }
        Ok(tvec!(matrix(rows.count, 1, &all)?))
    }
}

#[derive(Debug)]
struct Classification {
    vectors: Vectors,
    /// The first vector of each class, and the end of the last.
    starts: Vec<usize>,
    /// For each class but one, a number for each vector.
    coefficients: Vec<f64>,
    rho: Vec<f64>,
    probabilities: Option<(Vec<f64>, Vec<f64>)>,
    transform: Transform,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Classifier {
    svm: Known<Classification>,
    labels: Known<Labels>,
}

impl Classifier {
    fn new(node: &NodeProto) -> TractResult<Classifier> {
        let labels = Labels::of(node, "classlabels_ints")?;
        let classes = labels.count();
        ensure!(classes <= CLASSES, "{classes} classes to compare in pairs are above {CLASSES}");
        let per_class = ints(node, "vectors_per_class");
        ensure!(per_class.len() == classes, "vectors of {} classes", per_class.len());
        let mut starts = vec![0usize];
        for count in per_class {
            let count = usize::try_from(*count).ok().filter(|count| *count < 1 << 24);
            let count = count.context("a class has no such number of vectors")?;
            starts.push(starts[starts.len() - 1] + count);
        }
        let count = starts[classes];
        let vectors = Vectors::new(Kernel::of(node)?, count, floats(node, "support_vectors"))?;
        let coefficients = wide(floats(node, "coefficients"), "a coefficient")?;
        ensure!(
            Some(coefficients.len()) == count.checked_mul(classes - 1),
            "{} coefficients for {count} vectors of {classes} classes",
            coefficients.len()
        );
        let pairs = classes * (classes - 1) / 2;
        let list = |name: &'static str| wide(floats(node, name), name);
        let (rho, a, b) = (list("rho")?, list("prob_a")?, list("prob_b")?);
        ensure!(rho.len() == pairs, "rho has {} numbers for {pairs} pairs", rho.len());
        let probable = !a.is_empty() || !b.is_empty();
        ensure!(
            !probable || a.len() == pairs && b.len() == pairs,
            "prob_a and prob_b are not of {pairs} pairs"
        );
        let transform = Transform::of(node)?;
        if classes == 2 && !probable {
            // What is said of one score for two classes is not the same everywhere.
            let plain = transform == Transform::None;
            ensure!(plain, "{} of one score for two classes is not implemented", transform.name());
            let positive = coefficients.iter().all(|coefficient| *coefficient >= 0.0);
            ensure!(!positive, "coefficients none of which is negative are not implemented");
        }
        let probabilities = probable.then_some((a, b));
        let svm = Classification { vectors, starts, coefficients, rho, probabilities, transform };
        Ok(Classifier { svm: Known::new(svm), labels: Known::new(labels) })
    }

    /// How many scores there are for a row.
    fn width(&self) -> usize {
        let classes = self.labels.count();
        match self.svm.probabilities {
            None if classes > 2 => classes * (classes - 1) / 2,
            _ => classes,
        }
    }

    /// The class that wins most comparisons, and the scores.
    fn row(&self, row: &[f64]) -> TractResult<(usize, Vec<f64>)> {
        let ours = &*self.svm;
        let classes = self.labels.count();
        let kernels = ours.vectors.kernels(row);
        let part = |line: usize, class: usize| {
            let (from, to) = (ours.starts[class], ours.starts[class + 1]);
            let line = &ours.coefficients[line * ours.vectors.count..][..ours.vectors.count];
            dot(&line[from..to], &kernels[from..to])
        };
        let mut pairs = Vec::with_capacity(ours.rho.len());
        let mut won = vec![0usize; classes];
        for i in 0..classes {
            for j in i + 1..classes {
                let score = part(j - 1, i) + part(i, j) + ours.rho[pairs.len()];
                ensure!(!score.is_nan(), "a score is no number");
                won[if score > 0.0 { i } else { j }] += 1;
                pairs.push(score);
            }
        }
        let mut class = 0;
        for at in 0..classes {
            if won[at] > won[class] {
                class = at;
            }
        }
        let mut scores = match &ours.probabilities {
            Some((a, b)) => probabilities(classes, &pairs, a, b)?,
            None if classes == 2 => vec![-pairs[0], pairs[0]],
            None => pairs,
        };
        ours.transform.apply(&mut scores)?;
        Ok((class, scores))
    }
}

/// Probabilities of classes from those of pairs: the second method of T.-F. Wu, C.-J. Lin and
/// R. C. Weng, "Probability Estimates for Multi-class Classification by Pairwise Coupling" (2004),
/// in 32 bits, with libsvm's end of the iteration.
fn probabilities(classes: usize, pairs: &[f64], a: &[f64], b: &[f64]) -> TractResult<Vec<f64>> {
    let mut of_pair = vec![0f32; classes * classes];
    let mut at = 0;
    for i in 0..classes {
        for j in i + 1..classes {
            let score = f64::from(pairs[at] as f32);
            let first = 1.0 - logistic(score * a[at] + b[at]) as f32;
            let first = first.clamp(1e-7, 1.0 - 1e-7);
            of_pair[i * classes + j] = first;
            of_pair[j * classes + i] = 1.0 - first;
            at += 1;
        }
    }
    let r = |i: usize, j: usize| of_pair[i * classes + j];
    let mut q = vec![0f32; classes * classes];
    for i in 0..classes {
        for j in (0..classes).filter(|j| *j != i) {
            q[i * classes + i] += r(j, i) * r(j, i);
            q[i * classes + j] = -r(j, i) * r(i, j);
        }
    }
    let mut p = vec![1.0 / classes as f32; classes];
    let enough = 0.005 / classes as f32;
    for _ in 0..100 {
        let mut qp: Vec<f32> = (0..classes)
            .map(|i| p.iter().zip(&q[i * classes..]).map(|(p, q)| q * p).sum())
            .collect();
        let mut pqp: f32 = p.iter().zip(&qp).map(|(p, qp)| p * qp).sum();
        if qp.iter().all(|qp| (qp - pqp).abs() < enough) {
            break;
        }
        for i in 0..classes {
            let own = q[i * classes + i];
            let step = (pqp - qp[i]) / own;
            p[i] += step;
            pqp = (pqp + step * (step * own + 2.0 * qp[i])) / (1.0 + step) / (1.0 + step);
            for j in 0..classes {
                qp[j] = (qp[j] + step * q[i * classes + j]) / (1.0 + step);
                p[j] /= 1.0 + step;
            }
        }
    }
    ensure!(p.iter().all(|p| p.is_finite()), "the probabilities are no numbers");
    Ok(p.into_iter().map(f64::from).collect())
}

impl Own for Classifier {
    fn name(&self) -> &'static str {
        "SVMClassifier"
    }

    fn outputs(&self, inputs: &[Option<Given>]) -> TractResult<TVec<Said>> {
        let count = of_width(inputs, self.svm.vectors.features)?;
        Ok(tvec!(
            sized(self.labels.dtype(), [count.clone()]),
            sized(f32::datum_type(), [count, self.width().to_dim()])
        ))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let rows = Rows::of(inputs)?;
        let mut all = Vec::with_capacity(volume(&[rows.count, self.width()])?);
        let mut classes = Vec::with_capacity(rows.count);
        for at in 0..rows.count {
            let (class, scores) = self.row(rows.row(at))?;
            classes.push(class);
            all.extend(scores);
        }
        Ok(tvec!(self.labels.tensor(&classes)?, matrix(rows.count, self.width(), &all)?))
    }
}
