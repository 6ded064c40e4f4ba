//! StringConcat and StringSplit (operator set 20).

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::{from_strings, strings};
use crate::framework::dims::{advance, strides, volume};
use crate::framework::errors::ensure;
use crate::framework::facts::{InputFact, OutputFact, like, required};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::from_ints;
use crate::framework::upstream::BuildResult;

pub(crate) const OPERATORS: &[Registration] =
    &[own("StringConcat", |_, node| built(Concat, node)), own("StringSplit", build_string_split)];

fn build_string_split(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    let delimiter = node.get_attr_opt::<String>("delimiter")?.unwrap_or_default();
    let max_splits = match node.get_attr_opt::<i64>("maxsplit")? {
        Some(max_splits) => usize::try_from(max_splits).unwrap_or(usize::MAX),
        None => usize::MAX,
    };
    built(Split { delimiter, max_splits }, node)
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Concat;

impl Operator for Concat {
    fn name(&self) -> &'static str {
        "StringConcat"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let (a, b) = (required(inputs, 0)?, required(inputs, 1)?);
        let shape = tract_onnx::tract_core::broadcast::multi_broadcast(&[&*a.shape, &*b.shape])?;
        Ok(tvec!((a.dtype, shape.into_iter().map(Some).collect())))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let (a, b) = (*required(inputs, 0)?, *required(inputs, 1)?);
        let shape = tract_onnx::tract_core::broadcast::multi_broadcast(&[a.shape(), b.shape()])?;
        let count = volume(&shape)?;
        let steps = |tensor: &Tensor| {
            let own = strides(tensor.shape());
            let missing = shape.len() - tensor.rank();
            let step = |axis: usize| match axis.checked_sub(missing) {
                Some(axis) if tensor.shape()[axis] != 1 => own[axis],
                _ => 0,
            };
            (0..shape.len()).map(step).collect::<Vec<usize>>()
        };
        let (of_a, of_b) = (steps(a), steps(b));
        let (a, b) = (strings(a)?, strings(b)?);
        let mut place = vec![0; shape.len()];
        let mut joined = Vec::with_capacity(count);
        for _ in 0..count {
            let at =
                |steps: &[usize]| -> usize { place.iter().zip(steps).map(|(p, s)| p * s).sum() };
            joined.push(format!("{}{}", a[at(&of_a)], b[at(&of_b)]));
            advance(&mut place, &shape);
        }
        Ok(tvec!(from_strings(&shape, joined)?))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Split {
    /// Empty for white space.
    delimiter: String,
    max_splits: usize,
}

impl Split {
    fn pieces<'t>(&self, text: &'t str) -> TractResult<Vec<&'t str>> {
        if !self.delimiter.is_empty() {
            return Ok(text.splitn(self.max_splits.saturating_add(1), &*self.delimiter).collect());
        }
        // Implementations disagree on other white space.
        let plain = |c: char| !c.is_whitespace() && !('\x1c'..='\x1f').contains(&c) || blank(c);
        ensure!(text.chars().all(plain), "white space that is not ASCII is not implemented");
        let mut rest = text.trim_start_matches(blank);
        let mut pieces = Vec::new();
        while !rest.is_empty() {
            if pieces.len() == self.max_splits {
                // Implementations disagree on whether its trailing white space is kept.
                ensure!(
                    !rest.ends_with(blank),
                    "the rest after maxsplit ends in white space, which is not implemented"
                );
                pieces.push(rest);
                break;
            }
            let end = rest.find(blank).unwrap_or(rest.len());
            pieces.push(&rest[..end]);
            rest = rest[end..].trim_start_matches(blank);
        }
        Ok(pieces)
    }
}

fn blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\x0b' | '\x0c' | '\r')
}

impl Operator for Split {
    fn name(&self) -> &'static str {
        "StringSplit"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let (dtype, mut dims) = like(required(inputs, 0)?);
        let counts = (i64::datum_type(), dims.clone());
        dims.push(None);
        Ok(tvec!((dtype, dims), counts))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let tensor = *required(inputs, 0)?;
        let split = strings(tensor)?.iter().map(|text| self.pieces(text));
        let split = split.collect::<TractResult<Vec<Vec<&str>>>>()?;
        let counts: Vec<i64> = split.iter().map(|pieces| pieces.len() as i64).collect();
        let max_splits = split.iter().map(Vec::len).max().unwrap_or(0);
        let mut shape = tensor.shape().to_vec();
        shape.push(max_splits);
        let mut all = Vec::with_capacity(volume(&shape)?);
        for pieces in split {
            let missing = max_splits - pieces.len();
            all.extend(pieces.into_iter().map(str::to_owned));
            all.extend(std::iter::repeat_n(String::new(), missing));
        }
        Ok(tvec!(from_strings(&shape, all)?, from_ints(tensor.shape(), &counts)?))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{case, row, scalar, tensor, texts};

    #[test]
    fn string_concat_broadcasts() {
        let column = texts(&["a", ""]).into_shape(&[2, 1]).unwrap();
        let expected = texts(&["ax", "ay", "x", "y"]).into_shape(&[2, 2]).unwrap();
        case("StringConcat").input(column).input(texts(&["x", "y"])).gives(expected);
        let one = case("StringConcat").input(scalar("é".to_owned())).input(texts(&["!"]));
        one.gives(texts(&["é!"]));
        case("StringConcat").input(texts(&["a", "b"])).input(texts(&["x", "y", "z"])).fails("");
    }

    #[test]
    fn string_split_pads_with_empty_strings() {
        let split = || case("StringSplit").outputs(2).input(texts(&["a,b", "c,,", ""]));
        let expected = texts(&["a", "b", "", "c", "", "", "", "", ""]).into_shape(&[3, 3]).unwrap();
        split().text("delimiter", ",").gives_all(&[expected, row(&[2i64, 3, 1])]);
        let once = split().text("delimiter", ",").int("maxsplit", 1);
        let expected = texts(&["a", "b", "c", ",", "", ""]).into_shape(&[3, 2]).unwrap();
        once.gives_all(&[expected, row(&[2i64, 2, 1])]);
    }

    #[test]
    fn string_split_without_delimiter_splits_at_white_space() {
        let split = case("StringSplit").outputs(2).input(texts(&["  a \t b ", "   "]));
        let expected = texts(&["a", "b", "", ""]).into_shape(&[2, 2]).unwrap();
        split.gives_all(&[expected, row(&[2i64, 0])]);
        let none = case("StringSplit").outputs(2).input(tensor::<String>(&[0], &[]));
        none.gives_all(&[tensor::<String>(&[0, 0], &[]), row::<i64>(&[])]);
    }
}
