//! NGramRepeatBlock, MurmurHash3 and DynamicTimeWarping (com.microsoft).

use belljar_operators::MICROSOFT;
use tract_onnx::tract_hir::internal::*;

use crate::framework::assumptions;
use crate::framework::dims::shown;
use crate::framework::errors::{OrUserError, bail, ensure};
use crate::framework::facts::{InputFact, OutputFact, like, required};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::floats;

pub(crate) const OPERATORS: &[Registration] = &[
    own("NGramRepeatBlock", |_, node| {
        let size = node.get_attr::<i64>("ngram_size")?;
        let size = usize::try_from(size).ok().filter(|size| *size > 0);
        let size = size.or_user_error("the attribute \"ngram_size\" is not positive")?;
        built(NGramRepeatBlock { size }, node)
    })
    .of(MICROSOFT),
    own("MurmurHash3", |_, node| {
        let seed = node.get_attr_opt::<i64>("seed")?.unwrap_or(0);
        let seed = u32::try_from(seed).or_user_error(format_args!("the seed {seed} is invalid"))?;
        let signed = node.get_attr_opt::<i64>("positive")? == Some(0);
        built(MurmurHash3 { seed, signed }, node)
    })
    .of(MICROSOFT),
    own("DynamicTimeWarping", |_, node| built(DynamicTimeWarping, node)).of(MICROSOFT),
];

/// Gives tokens that would repeat a sequence of tokens a score of minus infinity.
#[derive(Debug)]
struct NGramRepeatBlock {
    size: usize,
}

impl Operator for NGramRepeatBlock {
    fn name(&self) -> &'static str {
        "NGramRepeatBlock"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let (ids, scores) = (required(inputs, 0)?, required(inputs, 1)?);
        for input in [ids, scores] {
            let rank = input.rank();
            ensure!(rank == 2, "expected inputs of 2 dimensions, found {rank}");
        }
        let (left, right) = (&ids.shape[0], &scores.shape[0]);
        let equal = assumptions::equal(left, right)?;
        ensure!(equal, "{left} sequences of tokens do not match {right} rows of scores");
        Ok(tvec!(like(scores)))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let ids = *required(inputs, 0)?;
        let (count, length) = (ids.shape()[0], ids.shape()[1]);
        let ids = ids.try_as_plain_ram()?;
        let ids = ids.as_slice::<i64>()?;
        let mut scores = (*required(inputs, 1)?).clone();
        let tokens = scores.shape()[1];
        let mut plain = scores.try_as_plain_ram_mut()?;
        let values = plain.as_slice_mut::<f32>()?;
        for sequence in 0..count {
            let ids = &ids[sequence * length..][..length];
            // The tokens that the next one would follow.
            let Some(start) = (length + 1).checked_sub(self.size) else { continue };
            let last = &ids[start..];
            for window in ids.windows(self.size) {
                let (before, next) = window.split_at(self.size - 1);
                if before != last {
                    continue;
                }
                let token = usize::try_from(next[0]).ok().filter(|token| *token < tokens);
                let Some(token) = token else {
                    bail!("the token {} is not between 0 and {}", next[0], tokens as i64 - 1)
                };
                values[sequence * tokens + token] = f32::NEG_INFINITY;
            }
        }
        Ok(tvec!(scores))
    }
}

/// The hash of 32 bits of each element's bytes.
#[derive(Debug)]
struct MurmurHash3 {
    seed: u32,
    /// Whether the bits of a hash are those of a signed integer.
    signed: bool,
}

/// MurmurHash3_x86_32 by Austin Appleby, who has put it into the public domain.
fn murmur(bytes: &[u8], seed: u32) -> u32 {
    let mixed =
        |part: u32| part.wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593);
    let mut hash = seed;
    let (parts, rest) = bytes.as_chunks::<4>();
    for part in parts {
        hash = (hash ^ mixed(u32::from_le_bytes(*part))).rotate_left(13);
        hash = hash.wrapping_mul(5).wrapping_add(0xe654_6b64);
    }
    let last = rest.iter().rev().fold(0u32, |last, byte| last << 8 | u32::from(*byte));
    hash ^= mixed(last);
    hash ^= bytes.len() as u32;
    hash = (hash ^ hash >> 16).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ hash >> 13).wrapping_mul(0xc2b2_ae35);
    hash ^ hash >> 16
}

impl Operator for MurmurHash3 {
    fn name(&self) -> &'static str {
        "MurmurHash3"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let (_, dims) = like(required(inputs, 0)?);
        let dtype = if self.signed { i32::datum_type() } else { u32::datum_type() };
        Ok(tvec!((dtype, dims)))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let input = *required(inputs, 0)?;
        let hashes: Vec<u32> = match input.datum_type() {
            DatumType::String => {
                let plain = input.try_as_plain_ram()?;
                let texts = plain.as_slice::<String>()?;
                texts.iter().map(|text| murmur(text.as_bytes(), self.seed)).collect()
            }
            dtype => {
                let elements = input.as_bytes().chunks_exact(dtype.size_of());
                elements.map(|bytes| murmur(bytes, self.seed)).collect()
            }
        };
        if self.signed {
            let hashes: Vec<i32> = hashes.into_iter().map(u32::cast_signed).collect();
            return Ok(tvec!(Tensor::from_shape(input.shape(), &hashes)?));
        }
        Ok(tvec!(Tensor::from_shape(input.shape(), &hashes)?))
    }
}

/// The cheapest path through a matrix of costs, from the first element to the last.
#[derive(Debug)]
struct DynamicTimeWarping;

impl Operator for DynamicTimeWarping {
    fn name(&self) -> &'static str {
        "DynamicTimeWarping"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let input = required(inputs, 0)?;
        let rank = input.rank();
        let one = rank == 2 || rank == 3 && assumptions::equal(&input.shape[0], &1.to_dim())?;
        ensure!(one, "expected one matrix of costs, found the shape {}", shown(&input.shape));
        for dim in &input.shape {
            ensure!(assumptions::is_positive(dim), "the matrix of costs is empty");
        }
        Ok(tvec!((i32::datum_type(), tvec![Some(2.to_dim()), None])))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let input = *required(inputs, 0)?;
        let [.., rows, columns] = *input.shape() else { bail!("expected a matrix of costs") };
        let costs = floats(input)?;
        ensure!(costs.iter().all(|cost| !cost.is_nan()), "a cost is not a number");
        // The cost of the cheapest path to each element. Of equal ones, the path that is shorter
        // or advances both is taken.
        let mut totals = vec![0f64; costs.len()];
        let before = |totals: &[f64], row: usize, column: usize| {
            let step = |down: usize, right: usize| {
                let (row, column) = (row.checked_sub(down)?, column.checked_sub(right)?);
                Some((row, column, totals[row * columns + column]))
            };
            let steps = [step(1, 1), step(1, 0), step(0, 1)];
            steps
                .into_iter()
                .flatten()
                .reduce(|best, step| if step.2 < best.2 { step } else { best })
        };
        for row in 0..rows {
            for column in 0..columns {
                let so_far = before(&totals, row, column).map_or(0.0, |(_, _, total)| total);
                totals[row * columns + column] = so_far + costs[row * columns + column];
            }
        }
        let mut path = vec![(rows - 1, columns - 1)];
        let (mut row, mut column) = (rows - 1, columns - 1);
        while let Some((above, left, _)) = before(&totals, row, column) {
            (row, column) = (above, left);
            path.push((row, column));
        }
        let steps = path.iter().rev();
        let places =
            steps.clone().map(|(row, _)| *row as i32).chain(steps.map(|(_, at)| *at as i32));
        let places: Vec<i32> = places.collect();
        Ok(tvec!(Tensor::from_shape(&[2, path.len()], &places)?))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{counting, microsoft, row, tensor, texts};

    // The expected numbers are those of onnxruntime 1.32 and of the documentation.

    #[test]
    fn n_gram_repeat_block_excludes_tokens_that_repeat_a_sequence() {
        let node = |size| {
            let ids = tensor(&[2, 5], &[1i64, 2, 3, 1, 2, 5, 5, 5, 5, 5]);
            let node = microsoft("NGramRepeatBlock").int("ngram_size", size).input(ids);
            node.input(counting(&[2, 7]))
        };
        let without = |blocked: &[usize]| {
            let mut scores: Vec<f32> = (0..14).map(|score| score as f32).collect();
            blocked.iter().for_each(|at| scores[*at] = f32::NEG_INFINITY);
            tensor(&[2, 7], &scores)
        };
        node(1).gives(without(&[1, 2, 3, 12]));
        node(2).gives(without(&[3, 12]));
        node(3).gives(without(&[3, 12]));
        node(5).gives(without(&[12]));
        node(6).gives(without(&[]));
        node(7).gives(without(&[]));
        node(0).fails("ngram_size");
        let of = |ids: [i64; 3]| {
            let node = microsoft("NGramRepeatBlock").int("ngram_size", 2);
            node.input(tensor(&[1, 3], &ids)).input(counting(&[1, 7]))
        };
        of([1, 9, 1]).fails("the token 9");
        of([1, -1, 1]).fails("the token -1");
        let rows = microsoft("NGramRepeatBlock").int("ngram_size", 2);
        rows.input(tensor(&[1, 3], &[1i64; 3])).input(counting(&[2, 7])).fails("1 sequences");
    }

    #[test]
    fn murmur_hash_is_of_the_bytes_of_each_element() {
        let hash = |input| microsoft("MurmurHash3").input(input);
        let words = || texts(&["", "a", "hello", "hello, world"]);
        hash(words()).gives(row(&[0u32, 1009084850, 613153351, 345750399]));
        let seeded = hash(words()).int("seed", 42);
        seeded.gives(row(&[142593372u32, 3001393763, 3806057185, 2127021762]));
        hash(row(&[1i32, -2])).gives(row(&[4226891818u32, 1087594050]));
        let signed = hash(row(&[1i32, -2])).int("positive", 0);
        signed.gives(row(&[-68075478i32, 1087594050]));
        let signed = hash(texts(&["a", "hello"])).int("positive", 0).int("seed", 42);
        signed.gives(row(&[-1293573533i32, -488910111]));
        hash(row(&[1i64, 1 << 40])).gives(row(&[1392991556u32, 2851483426]));
        hash(row(&[1.5f32])).gives(row(&[376679366u32]));
        hash(row(&[1.5f64])).gives(row(&[4034560987u32]));
        hash(row(&[3u64])).gives(row(&[2738575283u32]));
        hash(row(&[1i32])).int("seed", -1).fails("-1");
    }

    #[test]
    fn dynamic_time_warping_takes_the_cheapest_path() {
        let costs = [3f32, 8.0, 5.0, 1.0, 2.0, 1.0, 9.0, 4.0, 7.0, 2.0, 1.0, 3.0];
        let path = || tensor(&[2, 4], &[0i32, 1, 2, 2, 0, 1, 2, 3]);
        for shape in [&[3, 4][..], &[1, 3, 4]] {
            microsoft("DynamicTimeWarping").input(tensor(shape, &costs)).gives(path());
        }
        let ones = |shape: &[usize]| {
            let count = shape.iter().product();
            microsoft("DynamicTimeWarping").input(tensor(shape, &vec![1f32; count]))
        };
        ones(&[1, 1]).gives(tensor(&[2, 1], &[0i32, 0]));
        // Where costs are equal onnxruntime may take a longer path, which costs more; of the paths
        // with the lowest cost the documentation prefers none.
        ones(&[2, 3]).gives(tensor(&[2, 3], &[0i32, 0, 1, 0, 1, 2]));
        ones(&[3, 2]).gives(tensor(&[2, 3], &[0i32, 1, 2, 0, 0, 1]));
        ones(&[2, 2, 2]).fails("[2, 2, 2]");
        ones(&[0, 2]).fails("empty");
        microsoft("DynamicTimeWarping").input(tensor(&[1, 1], &[f32::NAN])).fails("not a number");
    }
}
