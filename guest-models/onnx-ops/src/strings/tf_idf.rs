//! TfIdfVectorizer (operator set 9): counts the known sequences of tokens.

use std::collections::HashMap;

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::strings;
use crate::framework::dims::volume;
use crate::framework::errors::{OrUserError, bail, ensure};
use crate::framework::facts::{InputFact, OutputFact, required, with_dims};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::ints;

/// The largest number of output columns.
const MAX_COLUMNS: i64 = 1 << 24;

pub(crate) const OPERATORS: &[Registration] =
    &[own("TfIdfVectorizer", |_, node| built(Vectorizer::new(node)?, node))];

/// A token as its number, or `None` if no sequence contains it.
#[derive(Debug)]
enum Tokens {
    Texts(HashMap<String, usize>),
    Numbers(HashMap<i64, usize>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Counts,
    Presence,
    Weighted,
}

#[derive(Debug)]
struct Vocabulary {
    tokens: Tokens,
    /// The edges of the trie of sequences, by node and next token. Node 0 is the root.
    next: HashMap<(usize, usize), usize>,
    /// The column of the sequence that ends at each node.
    columns: Vec<Option<usize>>,
    width: usize,
    weights: Vec<f32>,
}

#[derive(Clone, Debug)]
struct Vectorizer {
    mode: Mode,
    shortest: usize,
    longest: usize,
    skips: usize,
    vocabulary: Arc<Vocabulary>,
}

impl PartialEq for Vectorizer {
    fn eq(&self, other: &Vectorizer) -> bool {
        Arc::ptr_eq(&self.vocabulary, &other.vocabulary)
    }
}

impl Eq for Vectorizer {}

/// Numbers tokens in the order of their appearance.
fn numbered<T: std::hash::Hash + Eq + Clone>(pool: &[T]) -> (HashMap<T, usize>, Vec<usize>) {
    let mut known = HashMap::new();
    let mut numbers = Vec::with_capacity(pool.len());
    for token in pool {
        let next = known.len();
        numbers.push(*known.entry(token.clone()).or_insert(next));
    }
    (known, numbers)
}

impl Vectorizer {
    fn new(node: &NodeProto) -> TractResult<Vectorizer> {
        let size =
            |name: &str| -> TractResult<usize> { Ok(node.get_attr::<i64>(name)?.try_into()?) };
        let (shortest, longest) = (size("min_gram_length")?, size("max_gram_length")?);
        ensure!(
            shortest <= longest,
            "min_gram_length is {shortest}, above max_gram_length {longest}"
        );
        let skips = size("max_skip_count")?;
        let texts: Option<Vec<String>> = node.get_attr_opt_vec("pool_strings")?;
        let numbers: Option<Vec<i64>> = node.get_attr_opt_vec("pool_int64s")?;
        let (tokens, pool) = match (texts, numbers) {
            (Some(texts), None) => {
                let (known, pool) = numbered(&texts);
                (Tokens::Texts(known), pool)
            }
            (None, Some(numbers)) => {
                let (known, pool) = numbered(&numbers);
                (Tokens::Numbers(known), pool)
            }
            _ => bail!("expected tokens of exactly one kind"),
        };
        let starts: Vec<i64> = node.get_attr_vec("ngram_counts")?;
        let columns: Vec<i64> = node.get_attr_vec("ngram_indexes")?;
        let weights: Vec<f32> = node.get_attr_opt_vec("weights")?.unwrap_or_default();
        let mode = match node.get_attr::<&str>("mode")? {
            "IDF" => Mode::Presence,
            "TFIDF" => Mode::Weighted,
            _ => Mode::Counts,
        };
        let vocabulary =
            vocabulary(tokens, &pool, &starts, &columns, weights, (shortest, longest))?;
        let numbered = columns.iter().copied().eq(0..columns.len() as i64);
        let even = vocabulary.weights.windows(2).all(|pair| pair[0] == pair[1]);
        // The specification gives weights by sequence; implementations use them by column.
        let agreed = mode == Mode::Counts || even || numbered;
        ensure!(agreed, "weights with ngram_indexes out of order are not implemented");
        let vocabulary = Arc::new(vocabulary);
        Ok(Vectorizer { mode, shortest, longest, skips, vocabulary })
    }

    /// Counts the sequences in one row of tokens.
    fn count(&self, row: &[Option<usize>], counts: &mut [f32]) {
        let vocabulary = &*self.vocabulary;
        for skip in 1..=self.skips + 1 {
            // Single tokens have no skips, and are counted once.
            let shortest = if skip > 1 { self.shortest.max(2) } else { self.shortest };
            if shortest > self.longest {
                break;
            }
            for start in 0..row.len() {
                let tokens = row[start..].iter().step_by(skip).take(self.longest);
                let mut place = 0;
                for (at, token) in tokens.enumerate() {
                    let next = token.and_then(|token| vocabulary.next.get(&(place, token)));
                    let Some(next) = next else { break };
                    place = *next;
                    if let Some(column) = vocabulary.columns[place].filter(|_| at + 1 >= shortest) {
                        counts[column] += 1.0;
                    }
                }
            }
        }
    }
}

fn vocabulary(
    tokens: Tokens,
    pool: &[usize],
    starts: &[i64],
    columns: &[i64],
    weights: Vec<f32>,
    (shortest, longest): (usize, usize),
) -> TractResult<Vocabulary> {
    let last = columns.iter().copied().max().or_user_error("ngram_indexes is empty")?;
    let sound = columns.iter().all(|column| (0..MAX_COLUMNS).contains(column));
    ensure!(sound, "ngram_indexes must be between 0 and {}", MAX_COLUMNS - 1);
    ensure!(starts.len() >= longest, "ngram_counts has no entry for sequences of {longest}");
    ensure!(starts.len() <= 64, "ngram_counts has {} entries, which are too many", starts.len());
    ensure!(starts[0] == 0, "ngram_counts starts with {}, expected 0", starts[0]);
    ensure!(
        [0, columns.len()].contains(&weights.len()),
        "weights and ngram_indexes differ in length"
    );
    ensure!(weights.iter().all(|weight| weight.is_finite()), "a weight is not finite");
    let mut made = Vocabulary {
        tokens,
        next: HashMap::new(),
        columns: vec![None],
        width: last as usize + 1,
        weights,
    };
    let mut id = 0;
    for (at, start) in starts.iter().enumerate() {
        let length = at + 1;
        let end = starts.get(length).copied().unwrap_or(pool.len() as i64);
        let range = usize::try_from(*start).ok().zip(usize::try_from(end).ok());
        let part = range.and_then(|(start, end)| pool.get(start..end));
        let part = part.or_user_error(format_args!(
            "ngram_counts has {start} before {end}, which is not ascending or past the end"
        ))?;
        ensure!(
            part.len() % length == 0,
            "{} tokens cannot be divided into sequences of {length}",
            part.len()
        );
        for sequence in part.chunks_exact(length) {
            let column = *columns
                .get(id)
                .or_user_error("ngram_indexes has fewer entries than there are sequences")?;
            id += 1;
            if !(shortest..=longest).contains(&length) {
                continue;
            }
            let mut place = 0;
            for token in sequence {
                let new = made.columns.len();
                place = *made.next.entry((place, *token)).or_insert(new);
                if place == new {
                    made.columns.push(None);
                }
            }
            let column = made.columns[place].replace(column as usize);
            ensure!(column.is_none(), "duplicate sequence");
        }
    }
    ensure!(id == columns.len(), "{id} sequences do not match {} ngram_indexes", columns.len());
    Ok(made)
}

impl Operator for Vectorizer {
    fn name(&self) -> &'static str {
        "TfIdfVectorizer"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let input = required(inputs, 0)?;
        let text = input.dtype == String::datum_type();
        let of_texts = matches!(self.vocabulary.tokens, Tokens::Texts(_));
        ensure!(text == of_texts, "the tokens have another element type than the input");
        let width = self.vocabulary.width.to_dim();
        match &*input.shape {
            [_] => Ok(tvec!(with_dims(f32::datum_type(), [width]))),
            [rows, _] => Ok(tvec!(with_dims(f32::datum_type(), [rows.clone(), width]))),
            other => bail!("the input has {} dimensions, expected 1 or 2", other.len()),
        }
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let tensor = *required(inputs, 0)?;
        let vocabulary = &*self.vocabulary;
        let tokens: Vec<Option<usize>> = match &vocabulary.tokens {
            Tokens::Texts(known) => {
                strings(tensor)?.iter().map(|token| known.get(token).copied()).collect()
            }
            Tokens::Numbers(known) => {
                ints(tensor)?.iter().map(|token| known.get(token).copied()).collect()
            }
        };
        let (rows, long) = match *tensor.shape() {
            [long] => (1, long),
            [rows, long] => (rows, long),
            _ => bail!("the input has {} dimensions, expected 1 or 2", tensor.rank()),
        };
        let mut counts = vec![0f32; volume(&[rows, vocabulary.width])?];
        for row in 0..rows {
            let counts = &mut counts[row * vocabulary.width..][..vocabulary.width];
            self.count(&tokens[row * long..][..long], counts);
            for (column, count) in counts.iter_mut().enumerate() {
                // With equal weights, columns without a sequence have that weight too.
                let weight = vocabulary.weights.get(column).or(vocabulary.weights.first());
                let weight = weight.copied().unwrap_or(1.0);
                *count = match self.mode {
                    Mode::Counts => *count,
                    Mode::Presence if *count > 0.0 => weight,
                    Mode::Presence => 0.0,
                    Mode::Weighted => *count * weight,
                };
            }
        }
        let shape = match tensor.rank() {
            1 => vec![vocabulary.width],
            _ => vec![rows, vocabulary.width],
        };
        Ok(tvec!(Tensor::from_shape(&shape, &counts)?))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Case, case, row, tensor, texts};

    const TOKENS: [i64; 12] = [1, 1, 3, 3, 3, 7, 8, 6, 7, 5, 6, 8];

    /// The vocabulary of the specification's example: four sequences of one token, three of two.
    fn vectorizer(mode: &str, skips: i64, from: i64) -> Case {
        let case = case("TfIdfVectorizer").text("mode", mode).int("max_skip_count", skips);
        let case = case.int("min_gram_length", from).int("max_gram_length", 2);
        let case = case.ints("ngram_counts", &[0, 4]).ints("ngram_indexes", &[0, 1, 2, 3, 4, 5, 6]);
        case.ints("pool_int64s", &[2, 3, 5, 4, 5, 6, 7, 8, 6, 7])
    }

    #[test]
    fn sequences_are_counted_with_skipped_tokens() {
        let of = |skips, from| vectorizer("TF", skips, from).input(row(&TOKENS));
        of(0, 2).gives(row(&[0f32, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0]));
        of(5, 2).gives(row(&[0f32, 0.0, 0.0, 0.0, 1.0, 3.0, 1.0]));
        of(0, 1).gives(row(&[0f32, 3.0, 1.0, 0.0, 1.0, 1.0, 1.0]));
    }

    #[test]
    fn idf_weighs_presence_and_tfidf_weighs_counts() {
        let weights = [2f32, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
        let of = |mode| vectorizer(mode, 0, 1).floats("weights", &weights).input(row(&TOKENS));
        of("IDF").gives(row(&[0f32, 3.0, 4.0, 0.0, 6.0, 7.0, 8.0]));
        of("TFIDF").gives(row(&[0f32, 9.0, 4.0, 0.0, 6.0, 7.0, 8.0]));
    }

    #[test]
    fn each_row_of_a_matrix_is_counted_separately() {
        let rows = tensor(&[2, 2], &[5i64, 6, 7, 5]);
        let expected = [0f32, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        vectorizer("TF", 0, 2).input(rows).gives(tensor(&[2, 7], &expected));
        vectorizer("TF", 0, 2).input(texts(&["5", "6"])).fails("");
    }
}
