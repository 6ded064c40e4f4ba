//! Models whose named dimensions are fixed.

use std::sync::Arc;

use belljar_abi::{Description, Dim};

use super::Model;
use super::contract::Contract;
use crate::error::Error;
use belljar_text::Escaped;

/// Largest size of a dimension in ONNX.
const MAX_SIZE: u64 = i64::MAX as u64;

/// Maximum number of names in a message.
const MAX_LISTED: usize = 10;

/// Why dimensions cannot be fixed to the given sizes ([`Model::with_dims`]).
///
/// Its message is safe to print: names from the model are escaped and cut.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DimError {
    /// No input of the model has a dimension of this name.
    #[error("no input has a dimension named {}; {}", shown(.name), listed(.known))]
    Unknown {
        /// The name. An empty one never names a dimension.
        name: String,
        /// The names of the dimensions of its inputs, each once. Untrusted text.
        known: Vec<String>,
    },
    /// A dimension has two sizes.
    #[error(
        "the dimension {} cannot be both {} and {}; give it one size",
        shown(.name), .sizes[0], .sizes[1]
    )]
    TwoSizes {
        /// The name.
        name: String,
        /// The first two sizes.
        sizes: [u64; 2],
    },
    /// A size is larger than ONNX allows.
    #[error("the dimension {} cannot be {size}: the largest size is {MAX_SIZE}", shown(.name))]
    TooLarge {
        /// The name.
        name: String,
        /// The size.
        size: u64,
    },
    /// The policy refuses inputs of this size.
    #[error("the dimension {} cannot be {size}: {why} ({key})", shown(.name))]
    Excluded {
        /// The name.
        name: String,
        /// The size.
        size: u64,
        /// The rule, by its key in the policy, which contains the name of the input.
        key: String,
        /// What it allows.
        why: String,
    },
}

fn shown(name: &str) -> String {
    format!("\"{}\"", Escaped::cut(name, 60))
}

fn listed(known: &[String]) -> String {
    if known.is_empty() {
        return "none of its dimensions has a name".to_owned();
    }
    let names: Vec<String> = known.iter().take(MAX_LISTED).map(|name| shown(name)).collect();
    let more = match known.len().saturating_sub(MAX_LISTED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("the names are {}{more}", names.join(", "))
}

impl Model {
    /// This model with sizes for named dimensions of its inputs. Each dimension that the ONNX file
    /// declares with one of these names (`dim_param`) then has exactly this size, in every input:
    /// inputs of other sizes are refused, and the model is prepared for this size alone, even if a
    /// plan for several sizes exists. Dimensions that are not named here stay as they are.
    ///
    /// Use it where every request should have the same size, or to have one model for each of a few
    /// sizes. The new model shares the sandboxes and limits of this one, which can still be used. Its
    /// [`description`](Model::description) has the sizes in place of the names. Sizes add up:
    /// `model.with_dims(a)?.with_dims(b)?` has those of both.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use belljar::{Host, ModelBytes, Policy, Tensor};
    /// # let policy = Policy::default();
    /// # let bytes = ModelBytes::open("model.onnx".as_ref(), policy.limits.model_size)?;
    /// # let model = Host::new()?.load(bytes, &policy)?;
    /// let model = model.with_dims(&[("batch", 1), ("sequence", 128)])?;
    /// let tokens = Tensor::new(vec![0i64; 128], &[1, 128])?;
    /// let outputs = model.run(&[("tokens", tokens)])?.validate()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Dim`](crate::ErrorKind::Dim) when no input has a dimension of that name, when a
    /// name has two sizes, and when the policy refuses inputs of that size.
    pub fn with_dims<N: AsRef<str>>(&self, dims: &[(N, u64)]) -> Result<Model, Error> {
        let contract = self.contract.with_dims(dims).map_err(|err| self.error(err.into()))?;
        let description = Arc::new(with_sizes(&self.description, &contract));
        let (shared, contract) = (Arc::clone(&self.shared), Arc::new(contract));
        Ok(Model { shared, description, contract })
    }

    /// The dimensions that [`Model::with_dims`] has fixed, and their sizes. Names are untrusted text.
    pub fn dims(&self) -> &[(String, u64)] {
        self.contract.fixed_dims()
    }
}

/// A description with the sizes of fixed dimensions in place of their names.
fn with_sizes(description: &Description, contract: &Contract) -> Description {
    let mut description = description.clone();
    let values = description.inputs.iter_mut().chain(&mut description.outputs);
    for dim in values.flat_map(|value| value.shape.iter_mut().flatten()) {
        if let Some(size) = contract.fixed_size(dim) {
            *dim = Dim::Fixed(size);
        }
    }
    description
}

/// Adds sizes to those that are already fixed.
pub(super) fn added<N: AsRef<str>>(
    fixed: &[(String, u64)],
    dims: &[(N, u64)],
    known: &[&str],
) -> Result<Vec<(String, u64)>, DimError> {
    let mut all = fixed.to_vec();
    for (name, size) in dims {
        let (name, size) = (name.as_ref(), *size);
        if !known.contains(&name) {
            let known = known.iter().map(|name| (*name).to_owned()).collect();
            return Err(DimError::Unknown { name: name.to_owned(), known });
        }
        if size > MAX_SIZE {
            return Err(DimError::TooLarge { name: name.to_owned(), size });
        }
        match all.iter().find(|(other, _)| other == name) {
            Some((_, other)) if *other != size => {
                let sizes = [*other, size];
                return Err(DimError::TwoSizes { name: name.to_owned(), sizes });
            }
            Some(_) => {}
            None => all.push((name.to_owned(), size)),
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_one_printable_line_however_names_look() {
        let ugly = "n\u{1b}[2J\r\n\u{202e}".repeat(1000);
        let known = vec![ugly.clone(); 1000];
        for error in [
            DimError::Unknown { name: ugly.clone(), known },
            DimError::TwoSizes { name: ugly.clone(), sizes: [1, 2] },
            DimError::TooLarge { name: ugly.clone(), size: u64::MAX },
        ] {
            let text = error.to_string();
            assert!(text.chars().all(|c| !c.is_control() && c != '\u{202e}'), "{text:?}");
            assert!(text.chars().count() < 6000, "{text}");
        }
        let names = |known: &[&str]| {
            let known = known.iter().map(|name| (*name).to_owned()).collect();
            DimError::Unknown { name: "m".into(), known }.to_string()
        };
        assert_eq!(
            names(&["a b", "n=2"]),
            "no input has a dimension named \"m\"; the names are \"a b\", \"n=2\""
        );
        assert_eq!(
            names(&[]),
            "no input has a dimension named \"m\"; none of its dimensions has a name"
        );
        assert!(names(&["n"; 25]).ends_with("\"n\" and 15 more"), "{}", names(&["n"; 25]));
    }
}
