//! StringConcat and StringSplit (operator set 20).

use tract_onnx::model::OnnxOpRegister;
use tract_onnx::tract_hir::internal::*;

use super::super::own::{
    Known, Own, Said, advance, built, from_ints, like, needed, strides, volume,
};
use super::{from_strings, strings};

pub(super) fn register(registry: &mut OnnxOpRegister) {
    registry.insert("StringConcat", |_, node| built(Concat, node));
    registry.insert("StringSplit", |_, node| {
        let delimiter = node.get_attr_opt::<String>("delimiter")?.unwrap_or_default();
        let most = match node.get_attr_opt::<i64>("maxsplit")? {
            Some(most) => usize::try_from(most).unwrap_or(usize::MAX),
            None => usize::MAX,
        };
        built(Split { delimiter, most }, node)
    });
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Concat;

impl Own for Concat {
    fn name(&self) -> &'static str {
        "StringConcat"
    }

    fn outputs(&self, inputs: &[Option<Known>]) -> TractResult<TVec<Said>> {
        let (a, b) = (needed(inputs, 0)?, needed(inputs, 1)?);
        let shape = tract_onnx::tract_core::broadcast::multi_broadcast(&[&*a.shape, &*b.shape])?;
        Ok(tvec!((a.dtype, shape.into_iter().map(Some).collect())))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let (a, b) = (*needed(inputs, 0)?, *needed(inputs, 1)?);
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
    most: usize,
}

impl Split {
    fn pieces<'t>(&self, text: &'t str) -> TractResult<Vec<&'t str>> {
        if !self.delimiter.is_empty() {
            return Ok(text.splitn(self.most.saturating_add(1), &*self.delimiter).collect());
        }
        // What is white space besides differs from one implementation to another.
        let plain = |c: char| !c.is_whitespace() && !('\x1c'..='\x1f').contains(&c) || blank(c);
        ensure!(text.chars().all(plain), "white space outside of ASCII is not implemented");
        let mut rest = text.trim_start_matches(blank);
        let mut pieces = Vec::new();
        while !rest.is_empty() {
            if pieces.len() == self.most {
                // Its trailing white space is kept by some, and by others not.
                ensure!(!rest.ends_with(blank), "what is left behind maxsplit ends in white space");
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

impl Own for Split {
    fn name(&self) -> &'static str {
        "StringSplit"
    }

    fn outputs(&self, inputs: &[Option<Known>]) -> TractResult<TVec<Said>> {
        let (dtype, mut dims) = like(needed(inputs, 0)?);
        let counts = (i64::datum_type(), dims.clone());
        dims.push(None);
        Ok(tvec!((dtype, dims), counts))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let tensor = *needed(inputs, 0)?;
        let split = strings(tensor)?.iter().map(|text| self.pieces(text));
        let split = split.collect::<TractResult<Vec<Vec<&str>>>>()?;
        let counts: Vec<i64> = split.iter().map(|pieces| pieces.len() as i64).collect();
        let most = split.iter().map(Vec::len).max().unwrap_or(0);
        let mut shape = tensor.shape().to_vec();
        shape.push(most);
        let mut all = Vec::with_capacity(volume(&shape)?);
        for pieces in split {
            let missing = most - pieces.len();
            all.extend(pieces.into_iter().map(str::to_owned));
            all.extend(std::iter::repeat_n(String::new(), missing));
        }
        Ok(tvec!(from_strings(&shape, all)?, from_ints(tensor.shape(), &counts)?))
    }
}
