//! StringNormalizer (operator set 10): stop words go, and the others get one case.

use std::collections::HashSet;

use tract_onnx::model::OnnxOpRegister;
use tract_onnx::tract_hir::internal::*;

use super::super::own::{Known, Own, Said, built, needed};
use super::{from_strings, strings};

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
    /// In lower case, unless cases are told apart.
    stop: HashSet<String>,
    /// As they are written.
    words: HashSet<String>,
}

pub(super) fn register(registry: &mut OnnxOpRegister) {
    registry.insert("StringNormalizer", |_, node| {
        let case = match node.get_attr_opt::<&str>("case_change_action")? {
            Some("LOWER") => Case::Lower,
            Some("UPPER") => Case::Upper,
            _ => Case::Keep,
        };
        let sensitive = node.get_attr_opt::<i64>("is_case_sensitive")?.unwrap_or(0) != 0;
        let words: Vec<String> = node.get_attr_opt_vec("stopwords")?.unwrap_or_default();
        ensure!(words.iter().all(|word| word.is_ascii()), "stop words outside of ASCII");
        // Whether such a word goes on its own or out of the middle of a text, nobody agrees.
        ensure!(words.iter().all(|word| !word.contains(' ')), "a stop word with a space");
        let key = |word: String| if sensitive { word } else { word.to_ascii_lowercase() };
        let stop = words.iter().cloned().map(key).collect();
        let words = words.into_iter().collect();
        built(Normalizer { case, sensitive, stop, words }, node)
    });
}

impl Normalizer {
    /// What becomes of a text, unless it goes.
    fn one(&self, text: &str) -> TractResult<Option<String>> {
        ensure!(text.is_ascii(), "a text outside of ASCII is not implemented");
        // ONNX's own implementation takes stop words out of texts, and drops the empty ones.
        let agreed = self.stop.is_empty() || !text.contains(' ');
        ensure!(agreed, "a text of several words, from which stop words go, is not implemented");
        ensure!(!text.is_empty(), "an empty text is not implemented");
        let stop = match self.sensitive {
            true => self.stop.contains(text),
            false => self.stop.contains(&text.to_ascii_lowercase()),
        };
        // Where no case is changed, ONNX's own implementation tells cases apart all the same.
        let exact = self.case != Case::Keep || self.sensitive || self.words.contains(text);
        ensure!(!stop || exact, "a stop word in another case, where no case is changed");
        Ok((!stop).then(|| match self.case {
            Case::Keep => text.to_owned(),
            Case::Lower => text.to_ascii_lowercase(),
            Case::Upper => text.to_ascii_uppercase(),
        }))
    }
}

impl Own for Normalizer {
    fn name(&self) -> &'static str {
        "StringNormalizer"
    }

    fn outputs(&self, inputs: &[Option<Known>]) -> TractResult<TVec<Said>> {
        let input = needed(inputs, 0)?;
        let dims = match &*input.shape {
            [_] => tvec![None],
            [one, _] if one.as_i64().is_none_or(|one| one == 1) => tvec![Some(1.to_dim()), None],
            other => bail!("texts of the shape {other:?}, which is neither [C] nor [1, C]"),
        };
        Ok(tvec!((input.dtype, dims)))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let tensor = *needed(inputs, 0)?;
        let kept = strings(tensor)?.iter().filter_map(|text| self.one(text).transpose());
        let mut kept = kept.collect::<TractResult<Vec<String>>>()?;
        if kept.is_empty() {
            kept.push(String::new());
        }
        let shape = if tensor.rank() == 2 { vec![1, kept.len()] } else { vec![kept.len()] };
        Ok(tvec!(from_strings(&shape, kept)?))
    }
}
