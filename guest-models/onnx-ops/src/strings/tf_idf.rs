//! TfIdfVectorizer (operator set 9): how often each known sequence of tokens is there.

use std::collections::HashMap;

use tract_onnx::model::OnnxOpRegister;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::super::own::{Known, Own, Said, built, ints, needed, sized, volume};
use super::strings;

/// Most columns of the answer.
const COLUMNS: i64 = 1 << 24;

pub(super) fn register(registry: &mut OnnxOpRegister) {
    registry.insert("TfIdfVectorizer", |_, node| built(Vectorizer::new(node)?, node));
}

/// A token by its number: what is no part of a sequence has none.
#[derive(Debug)]
enum Tokens {
    Texts(HashMap<String, usize>),
    Numbers(HashMap<i64, usize>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Counts,
    There,
    Weighted,
}

#[derive(Debug)]
struct Vocabulary {
    tokens: Tokens,
    /// From a place in the tree of sequences, by the next token, to the next place; 0 is the root.
    next: HashMap<(usize, usize), usize>,
    /// The column of a sequence that ends at a place.
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

/// Gives numbers to tokens, in the order in which they come.
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
        ensure!(shortest <= longest, "sequences from {shortest} to {longest} long");
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
            _ => bail!("there are not tokens of exactly one kind"),
        };
        let starts: Vec<i64> = node.get_attr_vec("ngram_counts")?;
        let columns: Vec<i64> = node.get_attr_vec("ngram_indexes")?;
        let weights: Vec<f32> = node.get_attr_opt_vec("weights")?.unwrap_or_default();
        let mode = match node.get_attr::<&str>("mode")? {
            "IDF" => Mode::There,
            "TFIDF" => Mode::Weighted,
            _ => Mode::Counts,
        };
        let vocabulary =
            vocabulary(tokens, &pool, &starts, &columns, weights, (shortest, longest))?;
        let numbered = columns.iter().copied().eq(0..columns.len() as i64);
        let even = vocabulary.weights.windows(2).all(|pair| pair[0] == pair[1]);
        // By the specification weights are those of sequences; implementations take them by column.
        let agreed = mode == Mode::Counts || even || numbered;
        ensure!(agreed, "weights of sequences whose columns are in another order");
        let vocabulary = Arc::new(vocabulary);
        Ok(Vectorizer { mode, shortest, longest, skips, vocabulary })
    }

    /// Counts the sequences in one row of tokens.
    fn count(&self, row: &[Option<usize>], counts: &mut [f32]) {
        let ours = &*self.vocabulary;
        for skip in 1..=self.skips + 1 {
            // Single tokens have nothing to skip: they are counted once.
            let shortest = if skip > 1 { self.shortest.max(2) } else { self.shortest };
            if shortest > self.longest {
                break;
            }
            for start in 0..row.len() {
                let tokens = row[start..].iter().step_by(skip).take(self.longest);
                let mut place = 0;
                for (at, token) in tokens.enumerate() {
                    let next = token.and_then(|token| ours.next.get(&(place, token)));
                    let Some(next) = next else { break };
                    place = *next;
                    if let Some(column) = ours.columns[place].filter(|_| at + 1 >= shortest) {
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
    let most = columns.iter().copied().max().context("there are no ngram_indexes")?;
    let sound = columns.iter().all(|column| (0..COLUMNS).contains(column));
    ensure!(sound, "ngram_indexes are not all in 0 to {}", COLUMNS - 1);
    ensure!(starts.len() >= longest, "ngram_counts has no start of sequences of {longest}");
    ensure!(starts.len() <= 64, "ngram_counts has {} starts", starts.len());
    ensure!(starts[0] == 0, "the first of ngram_counts is {}, not 0", starts[0]);
    ensure!(
        [0, columns.len()].contains(&weights.len()),
        "weights and ngram_indexes differ in length"
    );
    ensure!(weights.iter().all(|weight| weight.is_finite()), "a weight is no number");
    let mut made = Vocabulary {
        tokens,
        next: HashMap::new(),
        columns: vec![None],
        width: most as usize + 1,
        weights,
    };
    let mut id = 0;
    for (at, start) in starts.iter().enumerate() {
        let length = at + 1;
        let end = starts.get(length).copied().unwrap_or(pool.len() as i64);
        let range = usize::try_from(*start).ok().zip(usize::try_from(end).ok());
        let part = range.and_then(|(start, end)| pool.get(start..end));
        let part = part.with_context(|| format!("ngram_counts has {start} before {end}"))?;
        ensure!(part.len() % length == 0, "{} tokens make no sequences of {length}", part.len());
        for sequence in part.chunks_exact(length) {
            let column = *columns.get(id).context("there are more sequences than ngram_indexes")?;
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
            ensure!(column.is_none(), "a sequence is there twice");
        }
    }
    ensure!(id == columns.len(), "{id} sequences have {} ngram_indexes", columns.len());
    Ok(made)
}

impl Own for Vectorizer {
    fn name(&self) -> &'static str {
        "TfIdfVectorizer"
    }

    fn outputs(&self, inputs: &[Option<Known>]) -> TractResult<TVec<Said>> {
        let input = needed(inputs, 0)?;
        let text = input.dtype == String::datum_type();
        let of_texts = matches!(self.vocabulary.tokens, Tokens::Texts(_));
        ensure!(text == of_texts, "tokens of another type than the input");
        let width = self.vocabulary.width.to_dim();
        match &*input.shape {
            [_] => Ok(tvec!(sized(f32::datum_type(), [width]))),
            [rows, _] => Ok(tvec!(sized(f32::datum_type(), [rows.clone(), width]))),
            other => bail!("tokens of {} dimensions, not 1 or 2", other.len()),
        }
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let tensor = *needed(inputs, 0)?;
        let ours = &*self.vocabulary;
        let tokens: Vec<Option<usize>> = match &ours.tokens {
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
            _ => bail!("tokens of {} dimensions", tensor.rank()),
        };
        let mut counts = vec![0f32; volume(&[rows, ours.width])?];
        for row in 0..rows {
            let counts = &mut counts[row * ours.width..][..ours.width];
            self.count(&tokens[row * long..][..long], counts);
            for (column, count) in counts.iter_mut().enumerate() {
                // With equal weights a column that no sequence has the number of has that weight.
                let weight = ours.weights.get(column).or(ours.weights.first());
                let weight = weight.copied().unwrap_or(1.0);
                *count = match self.mode {
                    Mode::Counts => *count,
                    Mode::There if *count > 0.0 => weight,
                    Mode::There => 0.0,
                    Mode::Weighted => *count * weight,
                };
            }
        }
        let shape = match tensor.rank() {
            1 => vec![ours.width],
            _ => vec![rows, ours.width],
        };
        Ok(tvec!(Tensor::from_shape(&shape, &counts)?))
    }
}
