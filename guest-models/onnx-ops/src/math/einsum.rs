//! Einsum (ONNX, operator set 12). tract computes it, except for diagonals, implicit results and
//! scalar results.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::ops::nn::{Reduce, Reducer};
use tract_onnx::tract_hir::internal::*;

use super::contraction::Contraction;
use crate::framework::equal_sizes::{Pair, Place, check_equal_sizes};
use crate::framework::errors::{OrUserError, bail, ensure};
use crate::framework::operator::{built, wire_operator};
use crate::framework::registration::{Registration, wrapped_by};
use crate::framework::upstream::BuildResult;
use crate::framework::wrapped::{Wrapped, Wrapping};

pub(crate) const OPERATORS: &[Registration] = &[wrapped_by("Einsum", build_einsum)];

const EINSUM: Wrapping = Wrapping::new(einsum);

fn build_einsum(context: &ParsingContext, node: &NodeProto) -> BuildResult {
    let (from, to) = equation(node)?;
    let repeated = |term: &str| term.chars().any(|c| c != '.' && term.matches(c).count() > 1);
    if !from.contains(',') && (repeated(&from) || to.is_empty() || to == "...") {
        return built(Contraction::new(&from, &to), node);
    }
    match to.is_empty() {
        true => Total::build(context, node, &from),
        false => EINSUM.build(context, &with_equation(node, &from, &to)),
    }
}

/// tract's own wiring, with dimensions of the same letter that are equal.
fn einsum(
    op: &Wrapped,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let equation = op.node.get_attr::<String>("equation")?;
    let (from, to) = equation.split_once("->").or_user_error("the equation has no result")?;
    let from = from.replace(' ', "");
    if is_integer(model, inputs)? {
        return wire_operator(Contraction::new(&from, to), &op.node, prefix, model, inputs);
    }
    let mut ranks = Vec::with_capacity(inputs.len());
    for input in inputs {
        ranks.push(model.outlet_fact(*input)?.rank());
    }
    // tract treats a result without letters as an implicit one.
    let mut terms = from.split(',').zip(&ranks);
    let number = to == "..." && terms.all(|(term, rank)| *rank == term.replace("...", "").len());
    ensure!(!number, "an ellipsis that stands for no dimension is not implemented");
    let inputs = check_equal_sizes(pairs(&from, &ranks), prefix, model, inputs)?;
    op.wire_original(prefix, model, &inputs)
}

/// Whether the operands are integers, of which tract sums no products.
fn is_integer(model: &TypedModel, inputs: &[OutletId]) -> TractResult<bool> {
    let first = inputs.first().or_user_error("the operands are missing")?;
    Ok(!model.outlet_fact(*first)?.datum_type.is_float())
}

/// Pairs of dimensions with the same letter.
fn pairs(operands: &str, ranks: &[usize]) -> Vec<Pair> {
    let mut pairs = Vec::new();
    let mut seen: Vec<(char, Place)> = Vec::new();
    for (input, (term, rank)) in operands.split(',').zip(ranks).enumerate() {
        for (letter, dim) in letters(term, *rank) {
            match seen.iter().find(|(other, _)| *other == letter) {
                Some((_, other)) => pairs.push([*other, (input, dim)]),
                None => seen.push((letter, (input, dim))),
            }
        }
    }
    pairs
}

/// The dimension of each letter of a term. Letters after an ellipsis count from the end.
fn letters(term: &str, rank: usize) -> impl Iterator<Item = (char, usize)> {
    let (before, behind) = term.split_once("...").unwrap_or((term, ""));
    let from = rank.saturating_sub(behind.len());
    before.chars().zip(0..rank).chain(behind.chars().zip(from..rank))
}

/// The operands of an Einsum and its result. An implicit result is the ellipsis, then the letters
/// that occur once, in alphabetical order.
fn equation(node: &NodeProto) -> TractResult<(String, String)> {
    let equation: String = node.get_attr("equation")?;
    let equation = equation.replace(' ', "");
    if let Some((from, to)) = equation.split_once("->") {
        return Ok((from.into(), to.into()));
    }
    let once = |c: &char| c.is_ascii_alphabetic() && equation.matches(*c).count() == 1;
    let mut letters: Vec<char> = equation.chars().filter(once).collect();
    letters.sort_unstable();
    let dots = if equation.contains("...") { "..." } else { "" };
    let to = dots.chars().chain(letters).collect();
    Ok((equation, to))
}

fn with_equation(node: &NodeProto, from: &str, to: &str) -> NodeProto {
    let mut node = node.clone();
    for attribute in node.attribute.iter_mut().filter(|attribute| attribute.name == "equation") {
        attribute.s = format!("{from}->{to}").into_bytes();
    }
    node
}

/// An Einsum with a scalar result. tract treats a result without letters as an implicit one, so the
/// result keeps one letter, and a sum over it follows.
#[derive(Clone, Debug)]
struct Total {
    product: Box<dyn Expansion>,
    node: NodeProto,
    /// The operands of the equation.
    from: String,
    /// The number of letters of each operand.
    ranks: Vec<usize>,
}

impl Total {
    fn build(context: &ParsingContext, node: &NodeProto, from: &str) -> BuildResult {
        let Some(letter) = from.chars().find(char::is_ascii_alphabetic) else {
            bail!("an equation without letters is not implemented")
        };
        let product = with_equation(node, from, letter.encode_utf8(&mut [0; 4]));
        let (product, outer) = EINSUM.build(context, &product)?;
        let Some(product) = product.as_op().downcast_ref::<Box<dyn Expansion>>() else {
            bail!("Einsum is not implemented this way")
        };
        let ranks = from.split(',').map(str::len).collect();
        let (product, node, from) = (product.clone(), node.clone(), from.to_owned());
        Ok((expand(Total { product, node, from, ranks }), outer))
    }
}

impl Expansion for Total {
    fn name(&self) -> StaticName {
        "Einsum".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, self.ranks.len())?;
        check_output_arity(outputs, 1)?;
        s.equals(&outputs[0].rank, 0)?;
        for (input, rank) in inputs.iter().zip(&self.ranks) {
            s.equals(&input.datum_type, &outputs[0].datum_type)?;
            s.equals(&input.rank, *rank as i64)?;
        }
        Ok(())
    }

    fn wire(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        if is_integer(model, inputs)? {
            let sum = Contraction::new(&self.from, "");
            return wire_operator(sum, &self.node, prefix, model, inputs);
        }
        let product = self.product.wire(&format!("{prefix}.product"), model, inputs)?;
        let sum = Reduce::new(tvec!(0), Reducer::Sum);
        let sum = model.wire_node(format!("{prefix}.sum"), sum, &product)?;
        model.wire_node(prefix, AxisOp::Rm(0), &sum)
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{case, row, scalar, tensor};

    #[test]
    fn einsum_has_diagonals_totals_and_implicit_results() {
        let square = || tensor(&[2, 2], &[1f32, 2.0, 3.0, 4.0]);
        let einsum = |equation| case("Einsum").text("equation", equation);
        einsum("ii->i").input(square()).gives(row(&[1f32, 4.0]));
        einsum("ii").input(square()).gives(scalar(5f32));
        einsum("ij->").input(square()).gives(scalar(10f32));
        einsum("ij -> ji").input(square()).gives(tensor(&[2, 2], &[1f32, 3.0, 2.0, 4.0]));
        let pair = |equation| einsum(equation).input(square()).input(square());
        pair("ij,jk->ik").gives(tensor(&[2, 2], &[7f32, 10.0, 15.0, 22.0]));
        pair("ij,jk").gives(tensor(&[2, 2], &[7f32, 10.0, 15.0, 22.0]));
        // Without a result, letters are sorted: here the result is transposed.
        pair("kj,ji").gives(tensor(&[2, 2], &[7f32, 15.0, 10.0, 22.0]));
        pair("ij,ij->").gives(scalar(30f32));
    }

    #[test]
    fn einsum_broadcasts_its_ellipsis_and_refuses_sizes_that_differ() {
        let einsum = case("Einsum").text("equation", "...ij,...j->...i");
        let batch = tensor(&[2, 1, 2], &[1f32, 2.0, 3.0, 4.0]);
        einsum.input(batch).input(row(&[10f32, 1.0])).gives(tensor(&[2, 1], &[12f32, 34.0]));
        let wrong = case("Einsum").text("equation", "i,i->i").input(row(&[1f32, 2.0]));
        wrong.input(row(&[1f32, 2.0, 3.0])).fails("");
    }

    #[test]
    fn einsum_of_integers_wraps_around() {
        let wide = (1i64 << 53) + 1;
        let square = || tensor(&[2, 2], &[wide, 2, 3, i64::MAX]);
        let einsum = |equation| case("Einsum").text("equation", equation).input(square());
        einsum("ii->i").gives(row(&[wide, i64::MAX]));
        einsum("ij->").gives(scalar((wide + 5).wrapping_add(i64::MAX)));
        einsum("ij->ji").gives(tensor(&[2, 2], &[wide, 3, 2, i64::MAX]));
        let pair = |equation| einsum(equation).input(tensor(&[2, 2], &[1i64, 0, 2, 3]));
        let last = i64::MAX.wrapping_mul(2).wrapping_add(3);
        let product = [wide + 4, 6, last, i64::MAX.wrapping_mul(3)];
        pair("ij,jk->ik").gives(tensor(&[2, 2], &product));
        pair("...j,jk->...k").gives(tensor(&[2, 2], &product));
        let total = product.iter().fold(0i64, |sum, value| sum.wrapping_add(*value));
        pair("ij,jk->").gives(scalar(total));
        let bytes = case("Einsum").text("equation", "...i,...i->...");
        let bytes = bytes.input(tensor(&[2, 1, 2], &[200u8, 1, 2, 3])).input(row(&[2u8, 1]));
        bytes.gives(tensor(&[2, 1], &[145u8, 7]));
        let wrong = case("Einsum").text("equation", "i,i->i").input(row(&[1i32, 2]));
        wrong.input(row(&[1i32, 2, 3])).fails("");
    }

    #[test]
    fn einsum_of_integers_keeps_open_dimensions() {
        let case = case("Einsum").text("equation", "ij,jk->ik");
        let case = case.input(tensor(&[2, 2], &[1i32, 2, 3, 4])).constants();
        let case = case.input(tensor(&[2, 1], &[10i32, 1]));
        case.gives_open(&[(0, 0, "n")], &["n,1"], &[tensor(&[2, 1], &[12i32, 34])], 0.0);
    }
}
