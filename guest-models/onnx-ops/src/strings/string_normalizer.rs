//! StringNormalizer (operator set 10): removes stop words and changes the case of the others.

use std::collections::HashSet;

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::{from_strings, strings};
use crate::framework::errors::{bail, ensure};
use crate::framework::facts::{InputFact, OutputFact, required};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::upstream::BuildResult;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    Keep,
    Lower,
    Upper,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Normalizer {
    case: Case,
    sensitive: bool,
    /// The stop words, in lower case unless the comparison is case-sensitive.
    stop: HashSet<String>,
    /// The stop words as they are written.
    words: HashSet<String>,
}

pub(crate) const OPERATORS: &[Registration] = &[own("StringNormalizer", build_string_normalizer)];

fn build_string_normalizer(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    let case = match node.get_attr_opt::<&str>("case_change_action")? {
        Some("LOWER") => Case::Lower,
        Some("UPPER") => Case::Upper,
        _ => Case::Keep,
    };
    let sensitive = node.get_attr_opt::<i64>("is_case_sensitive")?.unwrap_or(0) != 0;
    let words: Vec<String> = node.get_attr_opt_vec("stopwords")?.unwrap_or_default();
    ensure!(
        words.iter().all(|word| word.is_ascii()),
        "stop words that are not ASCII are not implemented"
    );
    // Implementations disagree on whether such words are removed from the middle of a string.
    ensure!(
        words.iter().all(|word| !word.contains(' ')),
        "a stop word has a space, which is not implemented"
    );
    let key = |word: String| if sensitive { word } else { word.to_ascii_lowercase() };
    let stop = words.iter().cloned().map(key).collect();
    let words = words.into_iter().collect();
    built(Normalizer { case, sensitive, stop, words }, node)
}

impl Normalizer {
    /// The normalized string, or `None` if it is removed.
    fn one(&self, text: &str) -> TractResult<Option<String>> {
        ensure!(text.is_ascii(), "text that is not ASCII is not implemented");
        // ONNX's reference implementation removes stop words from within strings, and drops empty
        // strings.
        let agreed = self.stop.is_empty() || !text.contains(' ');
        ensure!(agreed, "removing stop words from text of several words is not implemented");
        ensure!(!text.is_empty(), "an empty text is not implemented");
        let stop = match self.sensitive {
            true => self.stop.contains(text),
            false => self.stop.contains(&text.to_ascii_lowercase()),
        };
        // Without a case change ONNX's reference implementation compares case-sensitively anyway.
        let exact = self.case != Case::Keep || self.sensitive || self.words.contains(text);
        ensure!(
            !stop || exact,
            "a stop word that differs in case only is not implemented without a case change"
        );
        Ok((!stop).then(|| match self.case {
            Case::Keep => text.to_owned(),
            Case::Lower => text.to_ascii_lowercase(),
            Case::Upper => text.to_ascii_uppercase(),
        }))
    }
}

impl Operator for Normalizer {
    fn name(&self) -> &'static str {
        "StringNormalizer"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let input = required(inputs, 0)?;
        let dims = match &*input.shape {
            [_] => tvec![None],
            [one, _] if one.as_i64().is_none_or(|one| one == 1) => tvec![Some(1.to_dim()), None],
            other => bail!("the input has the shape {other:?}, expected [C] or [1, C]"),
        };
        Ok(tvec!((input.dtype, dims)))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let tensor = *required(inputs, 0)?;
        let kept = strings(tensor)?.iter().filter_map(|text| self.one(text).transpose());
        let mut kept = kept.collect::<TractResult<Vec<String>>>()?;
        if kept.is_empty() {
            kept.push(String::new());
        }
        let shape = if tensor.rank() == 2 { vec![1, kept.len()] } else { vec![kept.len()] };
        Ok(tvec!(from_strings(&shape, kept)?))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{case, texts};

    #[test]
    fn string_normalizer_removes_stop_words_and_changes_case() {
        let normalizer = |action| {
            let case = case("StringNormalizer").text("case_change_action", action);
            case.texts("stopwords", &["monday"]).input(texts(&["Monday", "Tuesday", "monday"]))
        };
        normalizer("LOWER").gives(texts(&["tuesday"]));
        normalizer("UPPER").gives(texts(&["TUESDAY"]));
        let sensitive = normalizer("LOWER").int("is_case_sensitive", 1);
        sensitive.gives(texts(&["monday", "tuesday"]));
    }

    #[test]
    fn string_normalizer_of_only_stop_words_gives_one_empty_string() {
        let node = case("StringNormalizer").int("is_case_sensitive", 1);
        let node = node.texts("stopwords", &["a"]).input(texts(&["a", "a"]));
        node.gives(texts(&[""]));
        let row = texts(&["B", "a"]).into_shape(&[1, 2]).unwrap();
        case("StringNormalizer").input(row.clone()).gives(row);
    }
}
