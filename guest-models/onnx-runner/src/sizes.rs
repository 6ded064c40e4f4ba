//! The sizes of a plan's tensors. A plan may have symbols for dimensions of its inputs; their sizes
//! are only known when it runs.

use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::{Outlet, ShapeFact, SymbolValues};

use crate::native::Unplanned;

/// The sizes of a plan's tensors, in the order in which they are computed.
pub(crate) struct Sizes {
    nodes: Vec<Node>,
    /// The shapes of each node's outputs, by its index in the plan, for the sizes that the model was
    /// prepared with.
    example: Vec<Vec<TVec<usize>>>,
}

struct Node {
    outputs: Vec<(ShapeFact, usize)>,
    /// The nodes whose outputs are not read after this one.
    freed: Vec<usize>,
}

impl Sizes {
    pub(crate) fn of(model: &TypedModel, example: &SymbolValues) -> TractResult<Sizes> {
        let mut readers: Vec<usize> = Vec::with_capacity(model.nodes.len());
        for node in &model.nodes {
            readers.push(node.outputs.iter().map(|output| output.successors.len()).sum());
        }
        let order = model.eval_order()?;
        let mut place = vec![usize::MAX; model.nodes.len()];
        let mut nodes = Vec::with_capacity(order.len());
        for (at, id) in order.into_iter().enumerate() {
            place[id] = at;
            let node = model.node(id);
            let constant = node.outputs.iter().all(|output| output.fact.konst.is_some());
            let outputs = node.outputs.iter().filter(|_| !constant);
            let outputs =
                outputs.map(|output| (output.fact.shape.clone(), output.fact.datum_type.size_of()));
            let mut freed = Vec::new();
            for input in &node.inputs {
                readers[input.node] = readers[input.node].saturating_sub(1);
                if readers[input.node] == 0 && !freed.contains(&place[input.node]) {
                    freed.push(place[input.node]);
                }
            }
            nodes.push(Node { outputs: outputs.collect(), freed });
        }
        let shape = |output: &Outlet<TypedFact>| {
            output.fact.shape.iter().map(|dim| size(dim, example)).collect::<Option<TVec<usize>>>()
        };
        let shapes = |node: &TypedNode| {
            let shapes: Option<Vec<TVec<usize>>> = node.outputs.iter().map(shape).collect();
            shapes.unwrap_or_default()
        };
        Ok(Sizes { nodes, example: model.nodes.iter().map(shapes).collect() })
    }

    /// The peak size of a run's tensors in bytes, plus one half for the temporary memory of
    /// operators. Fails if the size of a tensor in bytes does not fit 32 bits, where it would wrap
    /// around. Tensors whose sizes follow from values do not count.
    pub(crate) fn working_set(&self, symbols: &SymbolValues) -> TractResult<usize> {
        let mut sizes = Vec::with_capacity(self.nodes.len());
        let (mut now, mut most) = (0usize, 0usize);
        for node in &self.nodes {
            let mut size = 0usize;
            for (shape, element) in &node.outputs {
                size = size.saturating_add(bytes(shape, *element, symbols)?);
            }
            sizes.push(size);
            now = now.saturating_add(size);
            most = most.max(now);
            for freed in &node.freed {
                now = now.saturating_sub(sizes.get(*freed).copied().unwrap_or(0));
            }
        }
        Ok(most.saturating_add(most / 2))
    }

    /// Checks that outputs have the shapes that the plan gives them for these sizes. tract itself
    /// checks it only in debug builds.
    pub(crate) fn check_outputs(
        &self,
        node: &TypedNode,
        outputs: &[TValue],
        symbols: &SymbolValues,
        is_example: bool,
    ) -> TractResult<()> {
        if is_example
            && let Some(shapes) = self.example.get(node.id).filter(|shapes| !shapes.is_empty())
        {
            let same = shapes.iter().zip(outputs).all(|(shape, output)| **shape == *output.shape());
            return if same { Ok(()) } else { Err(unexpected(node, outputs)) };
        }
        for (output, value) in node.outputs.iter().zip(outputs) {
            let shape = &output.fact.shape;
            let fits = |(dim, found): (&TDim, &usize)| {
                let known = dim.as_i64().or_else(|| dim.maybe_eval_to_i64(symbols));
                known.is_none_or(|known| usize::try_from(known).ok() == Some(*found))
            };
            if shape.rank() != value.rank() || !shape.iter().zip(value.shape()).all(fits) {
                return Err(unexpected(node, outputs));
            }
        }
        Ok(())
    }
}

/// A dimension for sizes of the symbols.
fn size(dim: &TDim, symbols: &SymbolValues) -> Option<usize> {
    let size = dim.as_i64().or_else(|| dim.maybe_eval_to_i64(symbols))?;
    usize::try_from(size).ok()
}

fn unexpected(node: &TypedNode, outputs: &[TValue]) -> TractError {
    let shapes: Vec<_> = outputs.iter().map(|output| output.shape()).collect();
    Unplanned::error(format_args!("the outputs of {node} have the shapes {shapes:?}"))
}

/// The size of a tensor in bytes; 0 if it follows from values.
fn bytes(shape: &ShapeFact, element: usize, symbols: &SymbolValues) -> TractResult<usize> {
    let (mut size, mut bound) = (element, element);
    for dim in shape.iter() {
        let known = dim.as_i64().or_else(|| dim.maybe_eval_to_i64(symbols));
        let Some(known) = known else { return Ok(0) };
        let known = usize::try_from(known)
            .map_err(|_| Unplanned::error(format_args!("the dimension {dim} is {known}")))?;
        let larger = bound.checked_mul(known.max(1)).filter(|bound| *bound <= isize::MAX as usize);
        bound =
            larger.ok_or_else(|| Unplanned::error("a tensor is larger than a sandbox can hold"))?;
        size *= known;
    }
    Ok(size)
}
