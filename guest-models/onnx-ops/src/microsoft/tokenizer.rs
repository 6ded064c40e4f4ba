//! Tokenizer: splits strings at separators, or into the parts that match an expression, or into
//! characters. Every match is as long as possible, as in onnxruntime.

use belljar_operators::MICROSOFT;
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use crate::framework::dims::volume;
use crate::framework::errors::{OrUserError, bail, ensure};
use crate::framework::facts::{InputFact, OutputFact, required};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::upstream::BuildResult;
use crate::strings::regex_full_match::FullMatch;
use crate::strings::{from_strings, strings};

pub(crate) const OPERATORS: &[Registration] = &[own("Tokenizer", build).of(MICROSOFT)];

/// What is put before and behind the tokens of a string if they are marked.
const START: &str = "\u{2}";
const END: &str = "\u{3}";

/// The largest number of separators.
const MAX_SEPARATORS: usize = 64;

fn build(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    let separators = node.get_attr_opt_vec::<String>("separators")?;
    let expression = node.get_attr_opt::<String>("tokenexp")?;
    let tokens = match (separators.as_deref(), expression.as_deref()) {
        (None, Some(".")) => Tokens::Characters,
        (None, Some(expression)) => Tokens::Matches(FullMatch::of_parts(expression)?),
        (Some([]), None) => bail!("the attribute \"separators\" is empty"),
        (Some([one]), None) if one.is_empty() => Tokens::Characters,
        (Some(separators), None) => {
            let count = separators.len();
            ensure!(
                count <= MAX_SEPARATORS,
                "{count} separators are more than {MAX_SEPARATORS}; join some of them with |"
            );
            let patterns = separators.iter().map(|separator| FullMatch::of_parts(separator));
            Tokens::Between(patterns.collect::<TractResult<_>>()?)
        }
        _ => bail!(
            "expected one of the attributes \"separators\" and \"tokenexp\", found both or neither"
        ),
    };
    let shortest = node.get_attr::<i64>("mincharnum")?;
    let shortest = usize::try_from(shortest).ok().filter(|shortest| *shortest > 0);
    let op = Tokenizer {
        tokens,
        mark: node.get_attr::<i64>("mark")? != 0,
        filling: node.get_attr("pad_value")?,
        shortest: shortest.or_user_error("the attribute \"mincharnum\" is not positive")?,
    };
    built(op, node)
}

#[derive(Debug)]
enum Tokens {
    Characters,
    /// The parts that match.
    Matches(FullMatch),
    /// What is left between matches, when each pattern splits the results of the one before it.
    Between(Vec<FullMatch>),
}

#[derive(Debug)]
struct Tokenizer {
    tokens: Tokens,
    mark: bool,
    /// What rows are filled with.
    filling: String,
    /// The smallest number of characters of a token.
    shortest: usize,
}

impl Tokenizer {
    fn tokens<'t>(&self, text: &'t str) -> Vec<&'t str> {
        let mut tokens = match &self.tokens {
            Tokens::Characters => {
                text.char_indices().map(|(at, c)| &text[at..at + c.len_utf8()]).collect()
            }
            Tokens::Matches(pattern) => {
                pattern.parts(text).into_iter().map(|part| &text[part]).collect()
            }
            Tokens::Between(patterns) => patterns.iter().fold(vec![text], |pieces, pattern| {
                pieces.into_iter().flat_map(|piece| between(piece, pattern)).collect()
            }),
        };
        // A token has at least as many characters as this, and so is not empty.
        tokens.retain(|token| token.chars().take(self.shortest).count() == self.shortest);
        tokens
    }
}

/// The parts of a text before, between and after those that match.
fn between<'t>(text: &'t str, pattern: &FullMatch) -> Vec<&'t str> {
    let (mut pieces, mut start) = (Vec::new(), 0);
    for part in pattern.parts(text) {
        pieces.push(&text[start..part.start]);
        start = part.end;
    }
    pieces.push(&text[start..]);
    pieces
}

impl Operator for Tokenizer {
    fn name(&self) -> &'static str {
        "Tokenizer"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let input = required(inputs, 0)?;
        let rank = input.rank();
        ensure!(rank == 1 || rank == 2, "expected an input of 1 or 2 dimensions, found {rank}");
        let known = input.shape.iter().cloned().map(Some);
        Ok(tvec!((input.dtype, known.chain([None]).collect())))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let input = *required(inputs, 0)?;
        let rows: Vec<Vec<&str>> = strings(input)?.iter().map(|text| self.tokens(text)).collect();
        let longest = rows.iter().map(Vec::len).max().unwrap_or(0);
        // Without any token there are no marks either.
        let mark = self.mark && longest > 0;
        let width = longest + if mark { 2 } else { 0 };
        let mut shape = input.shape().to_vec();
        shape.push(width);
        let mut output: Vec<String> = Vec::with_capacity(volume(&shape)?);
        for row in rows {
            let end = output.len() + width;
            output.extend(mark.then(|| START.to_owned()));
            output.extend(row.into_iter().map(str::to_owned));
            output.extend(mark.then(|| END.to_owned()));
            output.resize(end, self.filling.clone());
        }
        Ok(tvec!(from_strings(&shape, output)?))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Case, microsoft, row, texts};

    // The expected tokens follow from the documentation.

    fn node(strings: &[&str]) -> Case {
        let node = microsoft("Tokenizer").int("mark", 0).int("mincharnum", 1);
        node.text("pad_value", "#").input(texts(strings))
    }

    #[track_caller]
    fn gives(case: Case, rows: usize, expected: &[&str]) {
        let expected = texts(expected).into_shape(&[rows, expected.len() / rows]).unwrap();
        case.gives(expected);
    }

    #[test]
    fn strings_are_split_at_separators_one_after_the_other() {
        let two = node(&["one,two;three", " a  b"]).texts("separators", &["[ ;]", ","]);
        gives(two, 2, &["one", "two", "three", "a", "b", "#"]);
        gives(node(&["xaby"]).texts("separators", &["a|ab"]), 1, &["x", "y"]);
        let marked = node(&["", "ab c"]).texts("separators", &[" "]).int("mark", 1);
        gives(marked, 2, &["\u{2}", "\u{3}", "#", "#", "\u{2}", "ab", "c", "\u{3}"]);
        let long = node(&["a bcd"]).texts("separators", &[" "]).int("mincharnum", 2);
        gives(long, 1, &["bcd"]);
    }

    #[test]
    fn an_expression_gives_the_longest_matches_from_left_to_right() {
        gives(node(&["xaby"]).text("tokenexp", "a|ab"), 1, &["ab"]);
        gives(node(&["xy1ab"]).text("tokenexp", "[a-z]+"), 1, &["xy", "ab"]);
        gives(node(&["na\u{ef}ve"]).text("tokenexp", r"\w+"), 1, &["na", "ve"]);
    }

    #[test]
    fn strings_are_split_into_characters() {
        let parts = ["n", "a", "\u{ef}", "b", "#", "#"];
        gives(node(&["na\u{ef}", "b"]).text("tokenexp", "."), 2, &parts);
        gives(node(&["na\u{ef}", "b"]).texts("separators", &[""]), 2, &parts);
        let none = node(&["", ""]).int("mark", 1).texts("separators", &[""]);
        none.gives(texts(&[]).into_shape(&[2, 0]).unwrap());
    }

    #[test]
    fn expressions_that_are_ambiguous_are_refused() {
        node(&["a"]).fails("both or neither");
        node(&["a"]).text("tokenexp", "a").texts("separators", &["b"]).fails("both or neither");
        node(&["a"]).text("tokenexp", "a*").fails("matches empty text");
        node(&["a"]).text("tokenexp", "^a").fails("has ^");
        node(&["a"]).text("tokenexp", "(a").fails("");
        node(&["a"]).texts("separators", &["a", ""]).fails("matches empty text");
        node(&["a"]).texts("separators", &[]).fails("");
        let shaped = microsoft("Tokenizer").int("mark", 0).int("mincharnum", 1);
        let shaped = shaped.text("pad_value", "").text("tokenexp", ".");
        shaped.input(row(&["a".to_owned()]).into_shape(&[1, 1, 1]).unwrap()).fails("3");
        node(&["a"]).text("tokenexp", ".").int("mincharnum", 0).fails("mincharnum");
    }
}
