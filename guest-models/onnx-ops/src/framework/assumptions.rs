//! What a plan with symbols assumes of their sizes. Where the specification compares sizes, such as
//! the end of a slice with the size of its axis, a plan takes the way that is right for the sizes of
//! an example, and records the range of sizes for which it is.

use std::cell::RefCell;

use tract_onnx::tract_hir::internal::*;

use crate::framework::errors::bail;

thread_local! {
    static ASSUMED: RefCell<Assumptions> = RefCell::new(Assumptions::default());
}

/// The sizes of symbols in the example, and the ranges in which a plan holds.
#[derive(Clone, Debug, Default)]
pub struct Assumptions {
    example: SymbolValues,
    ranges: Vec<(Symbol, SizeRange)>,
    relation: Option<Relation>,
}

/// Two sizes on whose relation the plan depends. Nothing is assumed of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    pub symbols: [Symbol; 2],
    /// Whether the compared dimensions are equal in the example.
    pub equal: bool,
}

/// The smallest and the largest size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeRange {
    pub min: i64,
    pub max: i64,
}

impl Assumptions {
    /// Nothing is assumed of these symbols, except that their sizes are positive and at most `max`.
    pub fn none(symbols: &[(Symbol, i64)], max: i64) -> Assumptions {
        let mut example = SymbolValues::default();
        symbols.iter().for_each(|(symbol, size)| example.set(symbol, *size));
        let range = SizeRange { min: 1, max };
        let ranges = symbols.iter().map(|(s, _)| (s.clone(), range)).collect();
        Assumptions { example, ranges, relation: None }
    }

    /// The range of a symbol.
    pub fn range(&self, symbol: &Symbol) -> Option<SizeRange> {
        self.ranges.iter().find(|(known, _)| known == symbol).map(|(_, range)| *range)
    }

    /// The relation of two sizes that could not be decided, if one was asked for.
    pub fn relation(&self) -> Option<&Relation> {
        self.relation.as_ref()
    }

    /// Whether a dimension is greater than zero for all sizes.
    fn is_positive(&self, dim: &TDim) -> bool {
        match dim {
            TDim::Val(size) => *size > 0,
            TDim::Sym(symbol) => self.range(symbol).is_some_and(|range| range.min > 0),
            TDim::Mul(terms) | TDim::Add(terms) => terms.iter().all(|term| self.is_positive(term)),
            TDim::MulInt(factor, of) => *factor > 0 && self.is_positive(of),
            _ => false,
        }
    }

    /// Whether a dimension that depends on one symbol is at least zero in the example. Narrows the
    /// range of the symbol to the sizes for which the answer is the same.
    fn assume_not_negative(&mut self, dim: &TDim) -> TractResult<bool> {
        if self.is_positive(dim) {
            return Ok(true);
        }
        if self.is_positive(&(-dim.clone()).reduce()) {
            return Ok(false);
        }
        let symbols = dim.symbols();
        let mut symbols = symbols.into_iter();
        let (Some(symbol), None) = (symbols.next(), symbols.next()) else {
            let known = |symbol: &Symbol| self.range(symbol).is_some();
            let several: Vec<Symbol> = dim.symbols().into_iter().filter(known).collect();
            if let Ok(symbols) = <[Symbol; 2]>::try_from(several) {
                let equal = dim.maybe_eval_to_i64(&self.example) == Some(0);
                self.relation = Some(Relation { symbols, equal });
            }
            bail!("whether {dim} is negative depends on several sizes")
        };
        let known = self.ranges.iter().position(|(known, _)| *known == symbol);
        let (Some(known), Some(size)) = (known, self.example.get(&symbol)) else {
            bail!("the size {symbol} is only known in a run")
        };
        let Some(direction) = direction(dim) else {
            bail!("whether {dim} is negative does not change at one size")
        };
        let holds = |size: i64| {
            let values = SymbolValues::default().with(&symbol, size);
            dim.maybe_eval_to_i64(&values).map(|value| value >= 0)
        };
        let Some(answer) = holds(size) else { bail!("{dim} is too large") };
        let same = |size: i64| holds(size) == Some(answer);
        let range = &mut self.ranges[known].1;
        // As sizes grow in one direction the answer can only become the other one.
        if answer == (direction == Direction::Grows) {
            range.min = farthest(size, range.min, same);
        } else {
            range.max = farthest(size, range.max, same);
        }
        Ok(answer)
    }
}

/// The last number on the way from one number to another for which a condition holds, if it holds
/// for the first one and does not hold again once it does not.
fn farthest(from: i64, to: i64, holds: impl Fn(i64) -> bool) -> i64 {
    if holds(to) {
        return to;
    }
    let (mut good, mut bad) = (from, to);
    while good.abs_diff(bad) > 1 {
        let middle = good + (bad - good) / 2;
        if holds(middle) {
            good = middle;
        } else {
            bad = middle;
        }
    }
    good
}

/// How a dimension changes when its symbol grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Stays,
    Grows,
    Shrinks,
}

/// The direction of a dimension, if it is the same everywhere.
fn direction(dim: &TDim) -> Option<Direction> {
    use Direction::{Grows, Shrinks, Stays};
    match dim {
        TDim::Val(_) => Some(Stays),
        TDim::Sym(_) => Some(Grows),
        TDim::MulInt(factor, of) => Some(match (direction(of)?, factor.signum()) {
            (Stays, _) | (_, 0) => Stays,
            (Grows, 1) | (Shrinks, -1) => Grows,
            _ => Shrinks,
        }),
        // A division by a positive number rounds towards zero, which keeps the order.
        TDim::Div(of, _) => direction(of),
        TDim::Add(terms) | TDim::Min(terms) | TDim::Max(terms) => {
            terms.iter().try_fold(Stays, |all, term| match (all, direction(term)?) {
                (all, Stays) => Some(all),
                (Stays, one) => Some(one),
                (all, one) if all == one => Some(all),
                _ => None,
            })
        }
        _ => None,
    }
}

/// Whether the plan that is being made has symbols for sizes of the model's inputs.
pub fn has_symbols() -> bool {
    ASSUMED.with_borrow(|assumed| !assumed.ranges.is_empty())
}

/// Does work under assumptions, and returns them with what the work added.
pub fn under<T>(assumptions: Assumptions, work: impl FnOnce() -> T) -> (T, Assumptions) {
    let before = ASSUMED.replace(assumptions);
    let done = work();
    (done, ASSUMED.replace(before))
}

/// The size of a dimension in the example, if it is known before the model runs.
pub fn size(dim: &TDim) -> Option<usize> {
    let size = match dim.as_i64() {
        Some(size) => size,
        None => ASSUMED.with_borrow(|assumed| dim.maybe_eval_to_i64(&assumed.example))?,
    };
    usize::try_from(size).ok()
}

/// Whether a dimension is neither a number nor a size of the example: it follows from values.
pub(crate) fn is_known_in_runs_only(dim: &TDim) -> bool {
    dim.as_i64().is_none() && size(dim).is_none() && !dim.symbols().is_empty()
}

/// Whether a dimension is greater than zero. Of symbols, this is assumed if it holds for the
/// example.
pub fn is_positive(dim: &TDim) -> bool {
    at_most(&1.to_dim(), dim).unwrap_or(false)
}

/// Whether a dimension fits 64 bits for the largest sizes that are assumed.
pub fn fits_64_bits(dim: &TDim) -> bool {
    let largest = ASSUMED.with_borrow(|assumed| {
        let mut largest = SymbolValues::default();
        assumed.ranges.iter().for_each(|(symbol, range)| largest.set(symbol, range.max));
        largest
    });
    dim.as_i64().is_some() || dim.maybe_eval_to_i64(&largest).is_some()
}

/// Whether `a` is at most `b`. Of symbols, the answer for the example is assumed.
///
/// # Errors
/// If the answer is not a range of sizes of one symbol.
pub fn at_most(a: &TDim, b: &TDim) -> TractResult<bool> {
    if let (Some(a), Some(b)) = (a.as_i64(), b.as_i64()) {
        return Ok(a <= b);
    }
    let difference = (b.clone() - a).reduce();
    if let Some(difference) = difference.as_i64() {
        return Ok(difference >= 0);
    }
    ASSUMED.with_borrow_mut(|assumed| assumed.assume_not_negative(&difference))
}

/// Whether two dimensions are equal. Of symbols, the answer for the example is assumed.
///
/// # Errors
/// As [`at_most`].
pub fn equal(a: &TDim, b: &TDim) -> TractResult<bool> {
    if a == b {
        return Ok(true);
    }
    Ok(at_most(a, b)? && at_most(b, a)?)
}

/// A dimension within bounds. Of symbols, the result for the example is assumed.
///
/// # Errors
/// As [`at_most`].
pub fn clamp(dim: &TDim, min: &TDim, max: &TDim) -> TractResult<TDim> {
    if at_most(max, dim)? {
        return Ok(max.clone());
    }
    Ok(if at_most(dim, min)? { min.clone() } else { dim.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_size(size: i64, work: impl FnOnce(&TDim) -> TractResult<bool>) -> (bool, SizeRange) {
        let scope = SymbolScope::default();
        let symbol = scope.new_with_prefix("size");
        let dim = symbol.to_dim();
        let none = Assumptions::none(&[(symbol.clone(), size)], 1000);
        let (answer, assumed) = under(none, || work(&dim));
        (answer.unwrap(), assumed.range(&symbol).unwrap())
    }

    #[test]
    fn comparisons_are_those_of_the_example_and_narrow_the_range() {
        let range = |min, max| SizeRange { min, max };
        assert_eq!(with_size(7, |n| at_most(n, &512.to_dim())), (true, range(1, 512)));
        assert_eq!(with_size(700, |n| at_most(n, &512.to_dim())), (false, range(513, 1000)));
        assert_eq!(with_size(7, |n| at_most(&5.to_dim(), n)), (true, range(5, 1000)));
        assert_eq!(with_size(3, |n| at_most(&5.to_dim(), n)), (false, range(1, 4)));
        assert_eq!(with_size(7, |n| at_most(&(n.clone() * 3), &23.to_dim())), (true, range(1, 7)));
        assert_eq!(
            with_size(8, |n| at_most(&(n.clone() * 3), &23.to_dim())),
            (false, range(8, 1000))
        );
        assert_eq!(with_size(7, |n| at_most(&(n.clone() - 9), &0.to_dim())), (true, range(1, 9)));
        assert_eq!(with_size(7, |n| equal(n, &1.to_dim())), (false, range(2, 1000)));
        assert_eq!(with_size(7, |n| equal(n, &(-1).to_dim())), (false, range(1, 1000)));
        assert_eq!(with_size(7, |n| equal(n, n)), (true, range(1, 1000)));
        assert!(at_most(&3.to_dim(), &3.to_dim()).unwrap());
    }

    #[test]
    fn divisions_and_equalities_are_assumed_where_they_hold() {
        let range = |min, max| SizeRange { min, max };
        let half_up = |n: &TDim| (n.clone() + 1) / 2;
        assert_eq!(with_size(7, |n| equal(&half_up(n), &4.to_dim())), (true, range(7, 8)));
        assert_eq!(with_size(7, |n| at_most(&2.to_dim(), &half_up(n))), (true, range(3, 1000)));
        assert_eq!(with_size(2, |n| at_most(&2.to_dim(), &half_up(n))), (false, range(1, 2)));
        assert_eq!(with_size(7, |n| equal(n, &7.to_dim())), (true, range(7, 7)));
        let falling = |n: &TDim| 20.to_dim() - half_up(n);
        assert_eq!(with_size(7, |n| at_most(&0.to_dim(), &falling(n))), (true, range(1, 40)));
    }

    #[test]
    fn relations_of_two_sizes_are_not_assumed() {
        let scope = SymbolScope::default();
        let (n, m) = (scope.new_with_prefix("n"), scope.new_with_prefix("m"));
        let none = Assumptions::none(&[(n.clone(), 7), (m.clone(), 7)], 1000);
        let (refused, _) = under(none, || {
            let (n, m) = (n.to_dim(), m.to_dim());
            let mixed = n.clone() - (n.clone() / 2);
            [equal(&n, &m).is_err(), at_most(&3.to_dim(), &mixed).is_err()]
        });
        assert_eq!(refused, [true, true]);
    }

    #[test]
    fn relations_that_a_plan_depends_on_are_kept() {
        let scope = SymbolScope::default();
        let (n, m) = (scope.new_with_prefix("n"), scope.new_with_prefix("m"));
        let none = Assumptions::none(&[(n.clone(), 5), (m.clone(), 6)], 1000);
        let asked = |of: fn(&TDim, &TDim) -> TractResult<bool>| {
            let (_, assumed) = under(none.clone(), || of(&n.to_dim(), &m.to_dim()));
            assumed.relation().cloned().map(|relation| relation.equal)
        };
        assert_eq!(asked(|n, m| equal(m, &(n.clone() + 1))), Some(true));
        assert_eq!(asked(|n, m| at_most(n, m)), Some(false));
        assert_eq!(asked(|n, _| at_most(n, &9.to_dim())), None);
    }
}
