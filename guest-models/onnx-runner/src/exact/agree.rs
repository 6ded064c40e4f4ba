//! Sizes that have to be equal. tract compares those that it knows before a model runs; of others it
//! reads beside a tensor, or leaves something out. They are compared here when they are known.

use tract_onnx::model::OnnxOpRegister;
use tract_onnx::tract_hir::internal::*;

use super::Ours;

pub(super) fn register(registry: &mut OnnxOpRegister) {
    for name in ["MatMul", "MatMulInteger", "Gemm", "Einsum"] {
        registry.insert(name, |context, node| Ours::build(context, node, agreed));
    }
}

/// tract's own way, once the inputs agree.
pub(super) fn agreed(
    ours: &Ours,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let flag = |name| Ok::<_, TractError>(ours.int(name, 0)? != 0);
    let rank = |input: &OutletId| Ok::<_, TractError>(model.outlet_fact(*input)?.rank());
    let agreement = match &*ours.node.op_type {
        "Gemm" => Agreement::Gemm { transposed: (flag("transA")?, flag("transB")?) },
        "Einsum" => {
            let equation = ours.node.get_attr::<String>("equation")?;
            let (from, to) = equation.split_once("->").context("an equation without a result")?;
            // Without letters tract takes it for a result that is not said.
            let mut terms = from.split(',').zip(inputs);
            let number = to == "..."
                && terms.try_fold(true, |number, (term, input)| {
                    Ok::<_, TractError>(number && rank(input)? == term.replace("...", "").len())
                })?;
            ensure!(!number, "dots that stand for no dimension are not implemented");
            Agreement::Equation(equation)
        }
        "MatMulInteger" => {
            let vector = inputs.iter().take(2).map(rank).collect::<TractResult<Vec<_>>>()?;
            ensure!(
                vector.iter().all(|rank| *rank >= 2),
                "a product of vectors is not implemented"
            );
            Agreement::Product
        }
        "Concat" => {
            let shape = model.outlet_fact(inputs[0])?.shape.to_tvec();
            let axis = ours.axis("axis", 1, shape.len())?;
            // tract leaves out inputs without elements, however long they are.
            let mut beside = shape.iter().enumerate().filter(|(at, _)| *at != axis);
            ensure!(beside.all(|(_, dim)| dim.as_i64() != Some(0)), "nothing beside nothing");
            Agreement::Beside { axis }
        }
        _ => Agreement::Product,
    };
    let inputs = agreement.guard(&format!("{prefix}.agree"), model, inputs)?;
    ours.original.as_ref().wire(prefix, model, &inputs)
}

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
enum Agreement {
    /// As numpy multiplies matrices: the last dimension of the first, and the last but one of the
    /// second.
    Product,
    Gemm {
        transposed: (bool, bool),
    },
    /// All dimensions but this one.
    Beside {
        axis: usize,
    },
    /// Dimensions of the same letter.
    Equation(String),
}

impl Agreement {
    /// The dimensions that have to be equal, in pairs.
    fn pairs<D: std::fmt::Debug>(&self, shapes: &[&[D]]) -> TractResult<Vec<[Place; 2]>> {
        let mut pairs = Vec::new();
        match (self, shapes) {
            (Agreement::Product, [a, b, ..]) => {
                let numbers = a.is_empty() || b.is_empty();
                ensure!(!numbers, "a number has no product of matrices");
                pairs.push([(0, a.len() - 1), (1, b.len().saturating_sub(2))]);
            }
            (Agreement::Gemm { transposed }, [a, b, ..]) => {
                ensure!(a.len() == 2 && b.len() == 2, "Gemm takes matrices");
                pairs.push([(0, usize::from(!transposed.0)), (1, usize::from(transposed.1))]);
            }
            (Agreement::Beside { axis }, [first, rest @ ..]) => {
                for (at, other) in rest.iter().enumerate() {
                    ensure!(first.len() == other.len(), "numbers of dimensions differ: {shapes:?}");
                    let beside = (0..first.len()).filter(|dim| dim != axis);
                    pairs.extend(beside.map(|dim| [(0, dim), (at + 1, dim)]));
                }
            }
            (Agreement::Equation(equation), shapes) => {
                let operands = equation.split("->").next().unwrap_or_default();
                let operands = operands.replace(' ', "");
                let mut seen: Vec<(char, Place)> = Vec::new();
                for (input, (term, shape)) in operands.split(',').zip(shapes).enumerate() {
                    for (letter, dim) in letters(term, shape.len()) {
                        match seen.iter().find(|(other, _)| *other == letter) {
                            Some((_, other)) => pairs.push([*other, (input, dim)]),
                            None => seen.push((letter, (input, dim))),
                        }
                    }
                }
            }
            _ => {}
        }
        Ok(pairs)
    }

    fn check<D: PartialEq + std::fmt::Debug>(&self, shapes: &[&[D]]) -> TractResult<()> {
        for [a, b] in self.pairs(shapes)? {
            let (a, b) = (&shapes[a.0][a.1], &shapes[b.0][b.1]);
            ensure!(a == b, "sizes that have to be equal are {a:?} and {b:?}: {shapes:?}");
        }
        Ok(())
    }

    /// Compares what is known at once, and what is not when it is.
    fn guard(
        self,
        name: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        let mut shapes: Vec<TVec<TDim>> = Vec::new();
        for input in inputs {
            shapes.push(model.outlet_fact(*input)?.shape.to_tvec());
        }
        if shapes.iter().flatten().all(|dim| dim.as_i64().is_some()) {
            let shapes: Vec<&[TDim]> = shapes.iter().map(|shape| &shape[..]).collect();
            self.check(&shapes)?;
            return Ok(inputs.into());
        }
        model.wire_node(name, Agree(self), inputs)
    }
}

/// An input, and one of its dimensions.
type Place = (usize, usize);

/// The dimensions of a term's letters, those behind an ellipsis counted from the end.
fn letters(term: &str, rank: usize) -> impl Iterator<Item = (char, usize)> {
    let (before, behind) = term.split_once("...").unwrap_or((term, ""));
    let from = rank.saturating_sub(behind.len());
    before.chars().zip(0..rank).chain(behind.chars().zip(from..rank))
}

/// Passes its inputs on, if they agree.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct Agree(Agreement);

impl Op for Agree {
    fn name(&self) -> StaticName {
        "Agree".into()
    }

    op_as_typed_op!();
}

impl EvalOp for Agree {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let shapes: Vec<&[usize]> = inputs.iter().map(|input| input.shape()).collect();
        self.0.check(&shapes)?;
        Ok(inputs)
    }
}

impl TypedOp for Agree {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let mut facts: TVec<TypedFact> = inputs.iter().map(|input| input.without_value()).collect();
        let shapes: Vec<&[TDim]> = inputs.iter().map(|input| &*input.shape).collect();
        // What is known of one is known of the other then; tract does not come to an end with a
        // product along what is 1 here and not known there.
        for [a, b] in self.0.pairs(&shapes)? {
            for (known, other) in [(a, b), (b, a)] {
                let size = &shapes[known.0][known.1];
                if size.as_i64().is_some() {
                    facts[other.0].shape.set(other.1, size.clone());
                }
            }
        }
        Ok(facts)
    }

    as_op!();
}
