//! The integers that a graph computes from the sizes of its inputs, such as the shape that a
//! `Reshape` reads. tract infers them only if all sizes are numbers. Here they are followed with
//! symbols; operators that read a shape get it as a constant of dimensions, and the shapes of their
//! outputs follow.

mod arithmetic;

use std::collections::HashMap;

use tract_onnx::pb::{GraphProto, NodeProto};
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::infer::Factoid;
use tract_onnx::tract_hir::internal::*;

use self::arithmetic::{completed, evaluated, fits, int};
use crate::control_flow;
use crate::framework::assumptions;
use crate::framework::inference::{Refined, complete, infer_node};

pub(crate) use self::arithmetic::Value;

/// Maximum number of elements of a tensor that is followed.
const MAX_FOLLOWED: usize = 64;

/// Operators that read a shape, bounds or counts, and the inputs that hold them.
const READERS: &[(&str, &[usize])] = &[
    ("Reshape", &[1]),
    ("Expand", &[1]),
    ("ConstantOfShape", &[0]),
    ("Tile", &[1]),
    ("Slice", &[1, 2]),
];

/// The nodes of a graph that may compute with sizes, by name.
#[derive(Debug, Default)]
pub struct Computing(HashMap<String, NodeProto>);

/// The values of outputs that are followed.
pub(crate) type Values = HashMap<OutletId, Value>;

impl Computing {
    /// The nodes of a graph that has passed the gate.
    pub fn of(graph: &GraphProto) -> Computing {
        let small = |node: &&NodeProto| {
            node.attribute.iter().all(|attribute| {
                attribute.g.is_none() && attribute.t.as_ref().is_none_or(|t| t.raw_data.len() < 64)
            })
        };
        let plain = graph.node.iter().filter(|node| node.domain.is_empty()).filter(small);
        Computing(plain.map(|node| (node.name.clone(), node.clone())).collect())
    }

    /// Infers all shapes of a model, following integers that depend on symbols.
    ///
    /// # Errors
    /// If inference fails, or depends on the relation of several sizes.
    pub fn infer(&self, model: &mut InferenceModel) -> TractResult<()> {
        self.infer_from(model, Values::new()).map(|_| ())
    }

    /// As [`Computing::infer`], for a graph in which some values are known already. Returns all that
    /// were followed.
    pub(crate) fn infer_from(
        &self,
        model: &mut InferenceModel,
        mut values: Values,
    ) -> TractResult<Values> {
        let mut refined = Refined::Outputs;
        for id in model.eval_order()? {
            let node = self.0.get(&model.nodes[id].name);
            if let Some(node) = node {
                give_sizes(model, id, node, &values)?;
            }
            if !infer_bodies(model, id, &mut values)? {
                let of_inputs = infer_node(model, id)? == Refined::Inputs;
                refined = if of_inputs { Refined::Inputs } else { refined };
            }
            check_terms(model, id)?;
            let Some(node) = node else { continue };
            if let Some(value) = value_of(model, id, node, &values)? {
                let outlet = OutletId::new(id, 0);
                // A value without symbols holds for all readers.
                let fact = model.outlet_fact(outlet)?;
                let dtype = fact.datum_type.concretize();
                if let Some(tensor) = dtype.and_then(|dtype| value.concrete(dtype)) {
                    let mut fact = fact.clone();
                    fact.value = tensor?.into_arc_tensor().into();
                    model.set_outlet_fact(outlet, fact)?;
                }
                values.insert(outlet, value);
            }
            if node.op_type == "Range" {
                set_length(model, id, &values)?;
            }
        }
        match refined {
            Refined::Outputs => complete(model)?,
            Refined::Inputs => drop(model.analyse(false)?),
        }
        Ok(values)
    }
}

/// Maximum number of terms of a dimension. tract's simplification of products of sums takes time
/// that grows exponentially with them.
const MAX_TERMS: usize = 64;

/// Refuses dimensions of too many terms.
fn check_terms(model: &InferenceModel, id: usize) -> TractResult<()> {
    for output in &model.nodes[id].outputs {
        for dim in output.fact.shape.concretize().iter().flatten() {
            if terms(dim) > MAX_TERMS {
                return Err(TractError::msg("a dimension depends on too many sizes"));
            }
        }
    }
    Ok(())
}

fn terms(dim: &TDim) -> usize {
    match dim {
        TDim::Val(_) | TDim::Sym(_) => 1,
        TDim::Add(of) | TDim::Mul(of) | TDim::Min(of) | TDim::Max(of) | TDim::Broadcast(of) => {
            of.iter().map(terms).sum()
        }
        TDim::MulInt(_, of) | TDim::Div(of, _) => terms(of),
        TDim::Ge(a, b) | TDim::Eq(a, b) => terms(a) + terms(b),
    }
}

/// Infers the outputs of a node with graphs of its own, if it is one.
fn infer_bodies(model: &mut InferenceModel, id: usize, values: &mut Values) -> TractResult<bool> {
    let inputs = &model.nodes[id].inputs;
    let known: Vec<Option<Value>> = inputs.iter().map(|input| values.get(input).cloned()).collect();
    let facts = inputs.iter().map(|input| Ok(model.outlet_fact(*input)?.clone()));
    let facts = facts.collect::<TractResult<Vec<InferenceFact>>>()?;
    let inferred = control_flow::infer(&mut model.nodes[id], &facts, &known);
    let Some((facts, known)) = inferred.transpose()? else { return Ok(false) };
    for (slot, fact) in facts.into_iter().enumerate() {
        let outlet = OutletId::new(id, slot);
        let unified = model.outlet_fact(outlet)?.unify(&fact)?;
        model.set_outlet_fact(outlet, unified)?;
    }
    for (slot, value) in known.into_iter().enumerate() {
        if let Some(value) = value {
            values.insert(OutletId::new(id, slot), value);
        }
    }
    Ok(true)
}

/// Gives a node that reads a shape, bounds or counts these as constants of dimensions.
fn give_sizes(
    model: &mut InferenceModel,
    id: usize,
    node: &NodeProto,
    values: &Values,
) -> TractResult<()> {
    let Some((_, slots)) = READERS.iter().find(|(name, _)| *name == node.op_type) else {
        return Ok(());
    };
    for slot in *slots {
        let inputs = &model.nodes[id].inputs;
        let Some(value) = inputs.get(*slot).and_then(|outlet| values.get(outlet)) else { continue };
        let value = match &*node.op_type {
            "Reshape" => {
                let from = model.outlet_fact(inputs[0])?.shape.concretize();
                let allow_zero = int(node, "allowzero", 0);
                from.zip(allow_zero).and_then(|(from, zero)| completed(value, &from, zero))
            }
            _ => Some(value.clone()),
        };
        if let Some(value) = value {
            let name = format!("{}.sizes-{slot}", node.name);
            let dims = model.add_const(name, value.tensor()?)?;
            model.add_edge(dims, InletId::new(id, *slot))?;
        }
    }
    Ok(())
}

/// Sets the length of a range with a step of 1. Its numbers are computed when the model runs.
fn set_length(model: &mut InferenceModel, id: usize, values: &Values) -> TractResult<()> {
    let one = |at: usize| {
        let outlet = model.nodes[id].inputs.get(at)?;
        match values.get(outlet) {
            Some(value) => value.one().cloned(),
            None => {
                let value = model.outlet_fact(*outlet).ok()?.value.concretize()?;
                Value::of(&value)?.one().cloned()
            }
        }
    };
    if let (Some(start), Some(end), Some(step)) = (one(0), one(1), one(2))
        && step.is_one()
        && assumptions::at_most(&start, &end)?
    {
        let mut fact = model.outlet_fact(OutletId::new(id, 0))?.clone();
        fact.shape = ShapeFactoid::from(tvec![(end - start).reduce()]);
        model.set_outlet_fact(OutletId::new(id, 0), fact)?;
    }
    Ok(())
}

/// The value of a node, if it can be followed and is not a constant already.
fn value_of(
    model: &InferenceModel,
    id: usize,
    proto: &NodeProto,
    values: &Values,
) -> TractResult<Option<Value>> {
    let node = &model.nodes[id];
    let Some(output) = node.outputs.first() else { return Ok(None) };
    if output.fact.value.concretize().is_some() {
        return Ok(None);
    }
    // The inputs by position: tract does not know those that are missing.
    let mut present = node.inputs.iter();
    let outlets: Vec<Option<OutletId>> = proto
        .input
        .iter()
        .map(|name| if name.is_empty() { None } else { present.next().copied() })
        .collect();
    let value = |at: usize| -> Option<Value> {
        let outlet = (*outlets.get(at)?)?;
        match values.get(&outlet) {
            Some(value) => Some(value.clone()),
            None => Value::of(&*model.outlet_fact(outlet).ok()?.value.concretize()?),
        }
    };
    let shape = |at: usize| model.outlet_fact((*outlets.get(at)?)?).ok()?.shape.concretize();
    let dtype = output.fact.datum_type.concretize();
    Ok(evaluated(proto, &value, &shape).filter(|made| {
        made.dims.len() <= MAX_FOLLOWED
            && made.dims.iter().all(|dim| terms(dim) <= MAX_TERMS && fits(dim, dtype))
    }))
}
