//! The dimensions of inputs that a plan may leave open: those without a declared size. What a model
//! declares is only a hint here, because the guest decides whether its plan holds for other sizes.

use std::collections::HashMap;

use belljar_abi::{Dim, InputShape, MAX_OPEN_DIMS, OpenDim};

use super::Contract;
use belljar_policy::Sizes;

/// What identifies a symbol: a declared name with its size, or one dimension without a name.
#[derive(PartialEq, Eq, Hash)]
enum Symbol<'a> {
    Named(&'a str, u64),
    Unnamed(usize, usize),
}

/// A dimension without a declared size.
struct Candidate<'a> {
    input: usize,
    axis: usize,
    size: u64,
    symbol: Symbol<'a>,
}

impl Contract {
    /// The dimensions to leave open when a model is prepared for these shapes. A dimension of 1 is
    /// left as it is, because most batches have one element, and a plan for exactly one is faster.
    /// The dimensions of an empty input are not open either: tract folds empty tensors, whatever
    /// their symbols are.
    pub(in crate::model) fn open_dims(&self, shapes: &[InputShape]) -> Vec<OpenDim> {
        numbered(self.candidates(shapes).iter().filter(|one| one.size > 1))
    }

    /// The dimensions that neither the model nor the policy nor the caller gives a size, if they are
    /// not too many.
    fn candidates(&self, shapes: &[InputShape]) -> Vec<Candidate<'_>> {
        let mut found = Vec::new();
        for (input, shape) in shapes.iter().enumerate() {
            let Some(declared) = self.inputs.iter().find(|value| value.name == shape.name) else {
                continue;
            };
            if shape.dims.contains(&0) {
                continue;
            }
            let rule = self.input_rules.iter().find(|rule| rule.name == shape.name);
            let rule = rule.and_then(|rule| rule.shape.as_deref()).unwrap_or_default();
            for (axis, size) in shape.dims.iter().copied().enumerate() {
                let dim = declared.shape.as_ref().and_then(|dims| dims.get(axis));
                let fixed_by_policy =
                    rule.get(axis).is_some_and(|sizes| *sizes == Sizes::exactly(size));
                let symbol = match dim {
                    Some(Dim::Fixed(_)) => continue,
                    Some(dim) if self.fixed_size(dim).is_some() => continue,
                    _ if fixed_by_policy => continue,
                    Some(Dim::Symbol(name)) => Symbol::Named(name, size),
                    _ => Symbol::Unnamed(input, axis),
                };
                found.push(Candidate { input, axis, size, symbol });
            }
        }
        if found.len() > MAX_OPEN_DIMS {
            found.clear();
        }
        found
    }
}

/// Numbers the symbols in the order in which they first occur.
fn numbered<'a>(candidates: impl Iterator<Item = &'a Candidate<'a>>) -> Vec<OpenDim> {
    let mut numbers: HashMap<&Symbol<'_>, u32> = HashMap::new();
    let number = |one: &'a Candidate<'a>| {
        let next = numbers.len() as u32;
        let symbol = *numbers.entry(&one.symbol).or_insert(next);
        OpenDim { input: one.input as u32, axis: one.axis as u32, symbol, more: 0 }
    };
    candidates.map(number).collect()
}
