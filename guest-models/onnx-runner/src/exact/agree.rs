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
    let agreement = match &*ours.node.op_type {
        "Gemm" => Agreement::Gemm { transposed: (flag("transA")?, flag("transB")?) },
        "Einsum" => Agreement::Equation(ours.node.get_attr::<String>("equation")?),
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
    fn check<D: PartialEq + std::fmt::Debug>(&self, shapes: &[&[D]]) -> TractResult<()> {
        let same = |a: &D, b: &D| {
            ensure!(a == b, "sizes that have to be equal are {a:?} and {b:?}: {shapes:?}");
            Ok(())
        };
        match (self, shapes) {
            (Agreement::Product, [a, b, ..]) => {
                let row = b.len().saturating_sub(2);
                match (a.last(), b.get(row)) {
                    (Some(a), Some(b)) => same(a, b),
                    _ => bail!("a number has no product of matrices"),
                }
            }
            (Agreement::Gemm { transposed }, [a, b, ..]) => {
                match (a.get(usize::from(!transposed.0)), b.get(usize::from(transposed.1))) {
                    (Some(a), Some(b)) => same(a, b),
                    _ => bail!("Gemm takes matrices"),
                }
            }
            (Agreement::Beside { axis }, [first, rest @ ..]) => rest.iter().try_for_each(|other| {
                ensure!(first.len() == other.len(), "numbers of dimensions differ: {shapes:?}");
                let beside = first.iter().zip(*other).enumerate().filter(|(at, _)| at != axis);
                beside.map(|(_, (a, b))| same(a, b)).collect()
            }),
            (Agreement::Equation(equation), shapes) => {
                let operands = equation.split("->").next().unwrap_or_default();
                let operands = operands.replace(' ', "");
                let mut seen: Vec<(char, &D)> = Vec::new();
                for (term, shape) in operands.split(',').zip(shapes) {
                    for (letter, size) in letters(term, shape) {
                        match seen.iter().find(|(other, _)| *other == letter) {
                            Some((_, other)) => same(other, size)?,
                            None => seen.push((letter, size)),
                        }
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
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

/// The sizes of a term's letters, those behind an ellipsis counted from the end.
fn letters<'s, D>(term: &'s str, shape: &'s [D]) -> impl Iterator<Item = (char, &'s D)> {
    let (before, behind) = term.split_once("...").unwrap_or((term, ""));
    let from = shape.len().saturating_sub(behind.len());
    before.chars().zip(shape).chain(behind.chars().zip(&shape[from..]))
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
        Ok(inputs.iter().map(|input| input.without_value()).collect())
    }

    as_op!();
}
