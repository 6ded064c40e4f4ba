//! The labels of classes: integers or strings.

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::attributes::{ints, texts};
use crate::framework::errors::ensure;
use crate::strings::from_strings;

/// The largest number of classes.
pub(crate) const MAX_CLASSES: usize = 1 << 16;

#[derive(Debug)]
pub(crate) enum Labels {
    Numbers(Vec<i64>),
    Texts(Vec<String>),
}

impl Labels {
    /// The classes of a node, at least two.
    pub(crate) fn of(node: &NodeProto, numbers: &str) -> TractResult<Labels> {
        let (plain, named) = (ints(node, numbers), texts(node, "classlabels_strings")?);
        ensure!(plain.is_empty() || named.is_empty(), "classes have both numbers and names");
        let labels = match named.is_empty() {
            true => Labels::Numbers(plain.to_vec()),
            false => Labels::Texts(named.into_iter().map(str::to_owned).collect()),
        };
        let count = labels.count();
        ensure!((2..=MAX_CLASSES).contains(&count), "{count} classes are not implemented");
        Ok(labels)
    }

    pub(crate) fn count(&self) -> usize {
        match self {
            Labels::Numbers(labels) => labels.len(),
            Labels::Texts(labels) => labels.len(),
        }
    }

    pub(crate) fn dtype(&self) -> DatumType {
        match self {
            Labels::Numbers(_) => i64::datum_type(),
            Labels::Texts(_) => String::datum_type(),
        }
    }

    /// The labels of these classes.
    pub(crate) fn tensor(&self, classes: &[usize]) -> TractResult<Tensor> {
        let known = |class: &usize| {
            ensure!(
                *class < self.count(),
                "class {class} is out of range for {} classes",
                self.count()
            );
            Ok(*class)
        };
        let classes = classes.iter().map(known).collect::<TractResult<Vec<usize>>>()?;
        let shape = [classes.len()];
        match self {
            Labels::Numbers(labels) => {
                let labels: Vec<i64> = classes.iter().map(|class| labels[*class]).collect();
                Tensor::from_shape(&shape, &labels)
            }
            Labels::Texts(labels) => {
                from_strings(&shape, classes.iter().map(|class| labels[*class].clone()).collect())
            }
        }
    }
}
