//! SVMClassifier and SVMRegressor: sums of kernels between rows and support vectors, as in libsvm.

use belljar_operators::ML;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::Parameters;
use super::attributes::{floats, int, ints, wide};
use super::labels::Labels;
use super::linear::dot;
use super::rows::{Rows, of_width};
use super::scores::{Transform, logistic, matrix};
use super::support_vectors::{Kernel, Vectors};
use crate::framework::dims::volume;
use crate::framework::errors::{OrUserError, bail, ensure};
use crate::framework::facts::{InputFact, OutputFact, with_dims};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};

/// Maximum number of classes that are compared in pairs.
const MAX_PAIRED_CLASSES: usize = 128;

pub(crate) const OPERATORS: &[Registration] = &[
    own("SVMClassifier", |_, node| built(Classifier::new(node)?, node)).of(ML),
    own("SVMRegressor", |_, node| built(Regressor::new(node)?, node)).of(ML),
];

#[derive(Debug)]
struct Regression {
    vectors: Vectors,
    coefficients: Vec<f64>,
    rho: f64,
    one_class: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Regressor {
    svm: Parameters<Regression>,
}

impl Regressor {
    fn new(node: &NodeProto) -> TractResult<Regressor> {
        let coefficients = floats(node, "coefficients");
        let rho = wide(floats(node, "rho"), "rho")?;
        let [rho] = *rho else { bail!("rho has {} numbers, expected 1", rho.len()) };
        let one_class = int(node, "one_class", 0) != 0;
        let count = usize::try_from(int(node, "n_supports", 0))?;
        let (vectors, coefficients) = if count == 0 {
            // The coefficients are the only vector.
            (Vectors::new(Kernel::Linear, 1, coefficients)?, vec![1.0])
        } else {
            let vectors = Vectors::new(Kernel::of(node)?, count, floats(node, "support_vectors"))?;
            let coefficients = wide(coefficients, "a coefficient")?;
            let found = coefficients.len();
            ensure!(found == count, "{found} coefficients do not match {count} support vectors");
            (vectors, coefficients)
        };
        Ok(Regressor { svm: Parameters::new(Regression { vectors, coefficients, rho, one_class }) })
    }
}

impl Operator for Regressor {
    fn name(&self) -> &'static str {
        "SVMRegressor"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let count = of_width(inputs, self.svm.vectors.features)?;
        Ok(tvec!(with_dims(f32::datum_type(), [count, 1.to_dim()])))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let rows = Rows::of(inputs)?;
        let mut all = Vec::with_capacity(volume(&[rows.count])?);
        for at in 0..rows.count {
            let kernels = self.svm.vectors.kernels(rows.row(at));
            let score = dot(&kernels, &self.svm.coefficients) + self.svm.rho;
            ensure!(
                !self.svm.one_class || !score.is_nan(),
                "a score is NaN, which belongs to no class"
            );
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
    /// One coefficient for each vector and each other class.
    coefficients: Vec<f64>,
    rho: Vec<f64>,
    probabilities: Option<(Vec<f64>, Vec<f64>)>,
    transform: Transform,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Classifier {
    svm: Parameters<Classification>,
    labels: Parameters<Labels>,
}

impl Classifier {
    fn new(node: &NodeProto) -> TractResult<Classifier> {
        let labels = Labels::of(node, "classlabels_ints")?;
        let classes = labels.count();
        ensure!(
            classes <= MAX_PAIRED_CLASSES,
            "{classes} classes exceed the limit of {MAX_PAIRED_CLASSES} for comparisons in pairs"
        );
        let per_class = ints(node, "vectors_per_class");
        ensure!(
            per_class.len() == classes,
            "vectors_per_class has {} numbers, which do not match the classes",
            per_class.len()
        );
        let mut starts = vec![0usize];
        for count in per_class {
            let count = usize::try_from(*count).ok().filter(|count| *count < 1 << 24);
            let count = count.or_user_error("vectors_per_class has an invalid number")?;
            starts.push(starts[starts.len() - 1] + count);
        }
        let count = starts[classes];
        let vectors = Vectors::new(Kernel::of(node)?, count, floats(node, "support_vectors"))?;
        let coefficients = wide(floats(node, "coefficients"), "a coefficient")?;
        ensure!(
            Some(coefficients.len()) == count.checked_mul(classes - 1),
            "{} coefficients do not match {count} support vectors of {classes} classes",
            coefficients.len()
        );
        let pairs = classes * (classes - 1) / 2;
        let list = |name: &'static str| wide(floats(node, name), name);
        let (rho, a, b) = (list("rho")?, list("prob_a")?, list("prob_b")?);
        ensure!(
            rho.len() == pairs,
            "rho has {} numbers, expected one for each of {pairs} pairs",
            rho.len()
        );
        let probable = !a.is_empty() || !b.is_empty();
        ensure!(
            !probable || a.len() == pairs && b.len() == pairs,
            "prob_a and prob_b do not match {pairs} pairs"
        );
        let transform = Transform::of(node)?;
        if classes == 2 && !probable {
            // Implementations disagree on transforms of one score for two classes.
            let plain = transform == Transform::None;
            ensure!(plain, "{} of one score for two classes is not implemented", transform.name());
            let positive = coefficients.iter().all(|coefficient| *coefficient >= 0.0);
            ensure!(!positive, "a model without negative coefficients is not implemented");
        }
        let probabilities = probable.then_some((a, b));
        let svm = Classification { vectors, starts, coefficients, rho, probabilities, transform };
        Ok(Classifier { svm: Parameters::new(svm), labels: Parameters::new(labels) })
    }

    /// The number of scores for a row.
    fn width(&self) -> usize {
        let classes = self.labels.count();
        match self.svm.probabilities {
            None if classes > 2 => classes * (classes - 1) / 2,
            _ => classes,
        }
    }

    /// The class that wins most comparisons, and the scores.
    fn row(&self, row: &[f64]) -> TractResult<(usize, Vec<f64>)> {
        let op = &*self.svm;
        let classes = self.labels.count();
        let kernels = op.vectors.kernels(row);
        let part = |line: usize, class: usize| {
            let (from, to) = (op.starts[class], op.starts[class + 1]);
            let line = &op.coefficients[line * op.vectors.count..][..op.vectors.count];
            dot(&line[from..to], &kernels[from..to])
        };
        let mut pairs = Vec::with_capacity(op.rho.len());
        let mut won = vec![0usize; classes];
        for i in 0..classes {
            for j in i + 1..classes {
                let score = part(j - 1, i) + part(i, j) + op.rho[pairs.len()];
                ensure!(!score.is_nan(), "a score is NaN");
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
        let mut scores = match &op.probabilities {
            Some((a, b)) => probabilities(classes, &pairs, a, b)?,
            None if classes == 2 => vec![-pairs[0], pairs[0]],
            None => pairs,
        };
        op.transform.apply(&mut scores)?;
        Ok((class, scores))
    }
}

/// Probabilities of classes from those of pairs: the second method of T.-F. Wu, C.-J. Lin and
/// R. C. Weng, "Probability Estimates for Multi-class Classification by Pairwise Coupling" (2004),
/// in 32 bits, with libsvm's stopping criterion.
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
    ensure!(p.iter().all(|p| p.is_finite()), "the probabilities are not finite");
    Ok(p.into_iter().map(f64::from).collect())
}

impl Operator for Classifier {
    fn name(&self) -> &'static str {
        "SVMClassifier"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let count = of_width(inputs, self.svm.vectors.features)?;
        Ok(tvec!(
            with_dims(self.labels.dtype(), [count.clone()]),
            with_dims(f32::datum_type(), [count, self.width().to_dim()])
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

#[cfg(test)]
mod tests {
    use crate::testing::{Case, case, row, tensor};

    fn regressor(kernel: &str) -> Case {
        let case = case("SVMRegressor").text("kernel_type", kernel).int("n_supports", 2);
        let case = case.floats("support_vectors", &[1.0, 0.0, 0.0, 2.0]).floats("rho", &[0.25]);
        let case = case.floats("coefficients", &[2.0, -1.0]);
        case.floats("kernel_params", &[0.5, 1.0, 3.0]).input(tensor(&[1, 2], &[3f32, -1.0]))
    }

    #[test]
    fn svm_regressor_has_four_kernels() {
        // Products with the vectors are 3 and -2, squared distances 5 and 18.
        let of = |value: f64| tensor(&[1, 1], &[(value + 0.25) as f32]);
        regressor("LINEAR").gives(of(2.0 * 3.0 + 2.0));
        regressor("POLY").gives_near(of(2.0 * 2.5f64.powi(3) - 0.0), 1e-6);
        regressor("RBF").gives_near(of(2.0 * (-2.5f64).exp() - (-9f64).exp()), 1e-6);
        regressor("SIGMOID").gives_near(of(2.0 * 2.5f64.tanh() - 0f64.tanh()), 1e-6);
    }

    #[test]
    fn svm_regressor_of_one_class_gives_signs() {
        let node = |rho| {
            let case = case("SVMRegressor").floats("coefficients", &[1.0]).floats("rho", &[rho]);
            case.int("one_class", 1).input(tensor(&[2, 1], &[3f32, -1.0]))
        };
        node(0.5).gives(tensor(&[2, 1], &[1f32, -1.0]));
        node(-4.0).gives(tensor(&[2, 1], &[-1f32, -1.0]));
    }

    #[test]
    fn svm_regressor_refuses_mismatched_vectors() {
        let case = case("SVMRegressor").int("n_supports", 2).floats("rho", &[0.0]);
        let case = case.floats("coefficients", &[1.0, 1.0]);
        case.floats("support_vectors", &[1.0, 2.0, 3.0]).input(tensor(&[1, 1], &[1f32])).fails("3");
    }

    #[test]
    fn svm_classifier_votes_by_pairs_of_classes() {
        // One vector for each of three classes. For each pair of classes, the score is the sum of
        // the products with the vectors of both, by their coefficients for this pair, and of rho.
        let case = case("SVMClassifier").ints("vectors_per_class", &[1, 1, 1]).outputs(2);
        let case = case.floats("support_vectors", &[1.0, 2.0, 4.0]);
        let case = case.floats("coefficients", &[1.0, 0.5, -0.25, 1.0, -1.0, -0.5]);
        let case = case.floats("rho", &[0.5, -1.0, 0.25]).ints("classlabels_ints", &[7, 8, 9]);
        let x = 1f32;
        let first = 1.0 * x + 0.5 * 2.0 * x + 0.5;
        let second = 1.0 * x + -0.25 * 4.0 * x - 1.0;
        let third = -2.0 * x + -0.5 * 4.0 * x + 0.25;
        // Class 0 beats 1, 2 beats 0, 2 beats 1.
        assert!(first > 0.0 && second < 0.0 && third < 0.0);
        let case = case.input(tensor(&[1, 1], &[x]));
        case.gives_all(&[row(&[9i64]), tensor(&[1, 3], &[first, second, third])]);
    }
}
