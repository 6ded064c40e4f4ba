//! Arithmetic with integers that depend on sizes: the operators of which graphs make shapes, bounds
//! and counts, on values with symbols.

use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::{AttributeProto, NodeProto};
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;

use super::{MAX_FOLLOWED, MAX_TERMS, terms};
use crate::framework::assumptions;

/// Integers or booleans that may depend on symbols.
#[derive(Clone, Debug)]
pub(crate) struct Value {
    /// The shape of the tensor; at most one dimension.
    shape: TVec<usize>,
    pub(super) dims: Vec<TDim>,
}

impl Value {
    pub(super) fn of(tensor: &Tensor) -> Option<Value> {
        if tensor.rank() > 1 || tensor.len() > MAX_FOLLOWED || !tensor.is_plain() {
            return None;
        }
        let dims = match tensor.datum_type() {
            DatumType::TDim => tensor.try_as_plain_ram().ok()?.as_slice::<TDim>().ok()?.to_vec(),
            // tract's own conversion to dimensions goes through 32 bits.
            DatumType::I64 | DatumType::I32 => {
                let ints = tensor.cast_to::<i64>().ok()?;
                let ints = ints.try_as_plain_ram().ok()?.as_slice::<i64>().ok()?.to_vec();
                ints.into_iter().map(TDim::from).collect()
            }
            DatumType::Bool => {
                let bools = tensor.try_as_plain_ram().ok()?;
                bools.as_slice::<bool>().ok()?.iter().map(|b| i64::from(*b).to_dim()).collect()
            }
            _ => return None,
        };
        Some(Value { shape: tensor.shape().into(), dims })
    }

    fn list(dims: Vec<TDim>) -> Value {
        Value { shape: tvec![dims.len()], dims }
    }

    /// The value as dimensions.
    pub(super) fn tensor(&self) -> TractResult<Tensor> {
        tensor1(&self.dims).into_shape(&self.shape)
    }

    /// The value as a tensor of integers or booleans, if no symbol is in it.
    pub(super) fn concrete(&self, dtype: DatumType) -> Option<TractResult<Tensor>> {
        let known = matches!(dtype, DatumType::I64 | DatumType::I32 | DatumType::Bool);
        let ints = self.ints().filter(|_| known)?;
        let cast = || Ok(Tensor::from_shape(&self.shape, &ints)?.cast_to_dt(dtype)?.into_owned());
        Some(cast())
    }

    fn ints(&self) -> Option<Vec<i64>> {
        self.dims.iter().map(TDim::as_i64).collect()
    }

    pub(super) fn one(&self) -> Option<&TDim> {
        match &*self.dims {
            [one] => Some(one),
            _ => None,
        }
    }
}

/// The shape that a `Reshape` of this input makes, without 0 for a dimension of the input and -1 for
/// the one that is left.
pub(super) fn completed(target: &Value, from: &[TDim], allow_zero: i64) -> Option<Value> {
    let mut dims = target.dims.clone();
    if allow_zero == 0 {
        for (at, dim) in dims.iter_mut().enumerate() {
            if dim.as_i64() == Some(0) {
                *dim = from.get(at)?.clone();
            }
        }
    }
    let product = |dims: &mut dyn Iterator<Item = &TDim>| {
        dims.fold(1.to_dim(), |product, dim| (product * dim).reduce())
    };
    let mut missing = dims.iter().enumerate().filter(|(_, dim)| dim.as_i64() == Some(-1));
    let (at, more) = (missing.next().map(|(at, _)| at), missing.next());
    if more.is_some() {
        return None;
    }
    if let Some(at) = at {
        let rest = product(&mut dims.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, d)| d));
        let all = product(&mut from.iter());
        let (quotient, remainder) = all.maybe_div(&rest).ok()?;
        if remainder != 1 || (quotient.clone() * &rest).reduce() != all {
            return None;
        }
        dims[at] = quotient;
    }
    Some(Value::list(dims))
}

/// Whether a number does not wrap around in its type, for all sizes that are assumed.
pub(super) fn fits(dim: &TDim, dtype: Option<DatumType>) -> bool {
    let within = |min: i64, max: i64| {
        let least = assumptions::at_most(&min.to_dim(), dim).unwrap_or(false);
        least && assumptions::at_most(dim, &max.to_dim()).unwrap_or(false)
    };
    match dtype {
        Some(DatumType::I32) => within(i64::from(i32::MIN), i64::from(i32::MAX)),
        _ => assumptions::fits_64_bits(dim),
    }
}

/// Maximum length of the period of a number with divisions that is computed with.
const MAX_PERIOD: i64 = 4_096;

/// Whether a dimension is the result of an operation on two others for all sizes. tract takes twice
/// the half of an odd number for the number, so a result with divisions is compared with that of
/// numbers. It grows evenly from period to period, so two of them decide.
fn is_result(made: &TDim, a: &TDim, b: &TDim, of: fn(i64, i64) -> Option<i64>) -> bool {
    let periods = [a, b, made].map(period);
    let [Some(first), Some(second), Some(third)] = periods else { return false };
    if [first, second, third] == [1; 3] {
        return true;
    }
    let length = first.max(1).saturating_mul(second).saturating_mul(third);
    let mut symbols = a.symbols();
    symbols.extend(b.symbols());
    symbols.extend(made.symbols());
    let mut symbols = symbols.into_iter();
    let (Some(symbol), None) = (symbols.next(), symbols.next()) else { return false };
    length <= MAX_PERIOD
        && (1..=2 * length + 1).all(|size| {
            let values = SymbolValues::default().with(&symbol, size);
            let at = |dim: &TDim| dim.maybe_eval_to_i64(&values);
            let expected = at(a).zip(at(b)).and_then(|(a, b)| of(a, b));
            expected.is_some() && at(made) == expected
        })
}

/// The number of sizes after which a dimension grows as before; 1 without divisions. `None` for
/// minima and broadcasts.
fn period(dim: &TDim) -> Option<i64> {
    match dim {
        TDim::Val(_) | TDim::Sym(_) => Some(1),
        TDim::Mul(terms) if terms.iter().all(|term| period(term) == Some(1)) => Some(1),
        TDim::Add(terms) => terms.iter().try_fold(1i64, |all, term| all.checked_mul(period(term)?)),
        TDim::MulInt(_, of) => period(of),
        TDim::Div(of, by) => period(of)?.checked_mul(i64::try_from(*by).ok()?),
        _ => None,
    }
}

fn attribute<'n>(node: &'n NodeProto, name: &str) -> Option<&'n AttributeProto> {
    node.attribute.iter().find(|attribute| attribute.name == name)
}

pub(super) fn int(node: &NodeProto, name: &str, default: i64) -> Option<i64> {
    match attribute(node, name) {
        Some(attribute) if attribute.r#type == AttributeType::Int as i32 => Some(attribute.i),
        Some(_) => None,
        None => Some(default),
    }
}

fn ints(node: &NodeProto, name: &str) -> Option<Vec<i64>> {
    attribute(node, name).map(|attribute| attribute.ints.clone())
}

/// A place in a list, counted from its end if negative.
fn place(at: i64, len: usize) -> i64 {
    if at < 0 { at.saturating_add(len as i64) } else { at }
}

/// The first output of a node. `None` if the operator is not followed.
pub(super) fn evaluated(
    node: &NodeProto,
    value: &dyn Fn(usize) -> Option<Value>,
    shape: &dyn Fn(usize) -> Option<TVec<TDim>>,
) -> Option<Value> {
    let pairs = |of: &dyn Fn(&TDim, &TDim) -> Option<TDim>| {
        let (a, b) = (value(0)?, value(1)?);
        let (long, count) = match (a.dims.len(), b.dims.len()) {
            (one, other) if one == other => {
                (if a.shape.len() < b.shape.len() { &b } else { &a }, one)
            }
            (1, other) => (&b, other),
            (one, 1) => (&a, one),
            _ => return None,
        };
        let at = |value: &Value, at: usize| {
            value.dims[if value.dims.len() == 1 { 0 } else { at }].clone()
        };
        let few = |value: &Value| value.dims.iter().all(|dim| terms(dim) <= MAX_TERMS / 4);
        if !few(&a) || !few(&b) {
            return None;
        }
        let dims = (0..count).map(|index| of(&at(&a, index), &at(&b, index)));
        Some(Value { shape: long.shape.clone(), dims: dims.collect::<Option<_>>()? })
    };
    let truth = |truth: bool| Some(i64::from(truth).to_dim());
    match &*node.op_type {
        "Shape" => {
            let shape = shape(0)?;
            let clamp = |at: i64| place(at, shape.len()).clamp(0, shape.len() as i64) as usize;
            let start = clamp(int(node, "start", 0)?);
            let end = clamp(int(node, "end", shape.len() as i64)?).max(start);
            Some(Value::list(shape[start..end].to_vec()))
        }
        "Size" => {
            let size = shape(0)?.iter().fold(1.to_dim(), |product, dim| product * dim);
            Some(Value { shape: tvec![], dims: vec![size] })
        }
        "Identity" => value(0),
        // To 64-bit and 32-bit integers.
        "Cast" if matches!(int(node, "to", 0)?, 6 | 7) => value(0),
        "Unsqueeze" | "Squeeze" | "Reshape" => {
            let from = value(0)?;
            let rank = match &*node.op_type {
                "Unsqueeze" => from.shape.len() + axes(node, value)?.len(),
                // Without axes all dimensions of 1 are removed.
                "Squeeze" if node.input.len() < 2 && node.attribute.is_empty() => {
                    usize::from(from.dims.len() != 1)
                }
                "Squeeze" => from.shape.len().checked_sub(axes(node, value)?.len())?,
                _ => match (value(1)?.ints()?.as_slice(), from.dims.len()) {
                    ([], 1) => 0,
                    ([-1], _) => 1,
                    ([count], len) if usize::try_from(*count).ok() == Some(len) => 1,
                    _ => return None,
                },
            };
            match rank {
                0 if from.dims.len() == 1 => Some(Value { shape: tvec![], ..from }),
                1 => Some(Value::list(from.dims)),
                _ => None,
            }
        }
        "Gather" if int(node, "axis", 0)? == 0 => {
            let (from, at) = (value(0)?, value(1)?);
            let count = from.dims.len();
            if from.shape.len() != 1 {
                return None;
            }
            let pick = |at: i64| from.dims.get(usize::try_from(place(at, count)).ok()?).cloned();
            let dims = at.ints()?.into_iter().map(pick).collect::<Option<_>>()?;
            Some(Value { shape: at.shape, dims })
        }
        "Slice" => {
            let from = value(0)?;
            let count = from.dims.len();
            if from.shape.len() != 1 {
                return None;
            }
            let bound = |name: &str, at: usize| match ints(node, name) {
                Some(ints) => Some(ints),
                None => value(at)?.ints(),
            };
            let (starts, ends) = (bound("starts", 1)?, bound("ends", 2)?);
            let ([start], [end]) = (&*starts, &*ends) else { return None };
            let stepped = node.input.get(4).is_some_and(|name| !name.is_empty());
            if stepped && value(4)?.one()?.as_i64() != Some(1) {
                return None;
            }
            let clamp = |at: i64| place(at, count).clamp(0, count as i64) as usize;
            let (start, end) = (clamp(*start), clamp(*end));
            Some(Value::list(from.dims[start..end.max(start)].to_vec()))
        }
        "Concat" => {
            let mut dims = Vec::new();
            for at in 0..node.input.len() {
                let part = value(at)?;
                if part.shape.len() != 1 {
                    return None;
                }
                dims.extend(part.dims);
            }
            Some(Value::list(dims))
        }
        "Add" => pairs(&|a, b| {
            let sum = (a.clone() + b).reduce();
            is_result(&sum, a, b, i64::checked_add).then_some(sum)
        }),
        "Sub" => pairs(&|a, b| {
            let difference = (a.clone() - b).reduce();
            is_result(&difference, a, b, i64::checked_sub).then_some(difference)
        }),
        "Mul" => pairs(&|a, b| {
            let product = (a.clone() * b).reduce();
            is_result(&product, a, b, i64::checked_mul).then_some(product)
        }),
        "Div" => pairs(&|a, b| {
            let divisor = u64::try_from(b.as_i64()?).ok().filter(|divisor| *divisor > 0)?;
            let quotient = (a.clone() / divisor).reduce();
            // Integer division rounds towards zero in both.
            let exact = || (quotient.clone() * divisor as i64).reduce() == *a;
            let holds = is_result(&quotient, a, b, i64::checked_div)
                && (period(&quotient) != Some(1) || period(a) != Some(1) || exact());
            holds.then_some(quotient)
        }),
        "Neg" => {
            let mut of = value(0)?;
            of.dims.iter_mut().for_each(|dim| *dim = (-dim.clone()).reduce());
            Some(of)
        }
        "Min" | "Max" if node.input.len() == 2 => pairs(&|a, b| {
            let first = assumptions::at_most(a, b).ok()? == (node.op_type == "Min");
            Some(if first { a.clone() } else { b.clone() })
        }),
        "Equal" => pairs(&|a, b| truth(assumptions::equal(a, b).ok()?)),
        "Less" => pairs(&|a, b| truth(!assumptions::at_most(b, a).ok()?)),
        "LessOrEqual" => pairs(&|a, b| truth(assumptions::at_most(a, b).ok()?)),
        "Greater" => pairs(&|a, b| truth(!assumptions::at_most(a, b).ok()?)),
        "GreaterOrEqual" => pairs(&|a, b| truth(assumptions::at_most(b, a).ok()?)),
        "Not" => {
            let mut of = value(0)?;
            for dim in &mut of.dims {
                *dim = (1 - dim.as_i64()?).to_dim();
            }
            Some(of)
        }
        "Where" => {
            let (condition, a, b) = (value(0)?, value(1)?, value(2)?);
            let count = condition.dims.len().max(a.dims.len()).max(b.dims.len());
            let all = [&condition, &a, &b];
            if all.iter().any(|of| of.dims.len() != 1 && of.dims.len() != count) {
                return None;
            }
            let rank = all.iter().map(|of| of.shape.len()).max()?;
            let at =
                |of: &Value, at: usize| of.dims[if of.dims.len() == 1 { 0 } else { at }].clone();
            let pick = |index: usize| {
                let chosen = at(&condition, index).as_i64()? != 0;
                Some(at(if chosen { &a } else { &b }, index))
            };
            let dims = (0..count).map(pick).collect::<Option<Vec<_>>>()?;
            Some(Value { shape: if rank == 0 { tvec![] } else { tvec![count] }, dims })
        }
        "ReduceProd" if int(node, "keepdims", 1)? == 0 => {
            let from = value(0)?;
            let product = from.dims.iter().fold(1.to_dim(), |product, dim| product * dim);
            (from.shape.len() == 1).then(|| Value { shape: tvec![], dims: vec![product.reduce()] })
        }
        _ => None,
    }
}

/// The axes of a node, from its attribute or its second input.
fn axes(node: &NodeProto, value: &dyn Fn(usize) -> Option<Value>) -> Option<Vec<i64>> {
    match ints(node, "axes") {
        Some(axes) => Some(axes),
        None => value(1)?.ints(),
    }
}
