//! Creates the nodes that replace operators of sequences.

use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{AttributeProto, NodeProto, TensorProto};

use super::{MAX_ELEMENTS, Resolver};
use crate::gate::text::shown;

impl Resolver<'_> {
    /// Concatenates tensors along an axis, or stacks them along a new one.
    pub(super) fn joined(
        &mut self,
        list: &[String],
        axis: i64,
        new: bool,
        nodes: &mut Vec<NodeProto>,
    ) -> Result<String, String> {
        if list.is_empty() {
            return Err("a sequence without elements cannot be concatenated".into());
        }
        let mut each = Vec::with_capacity(list.len());
        for name in list {
            each.push(if new {
                self.axes("Unsqueeze", name.clone(), axis, nodes)
            } else {
                name.clone()
            });
        }
        let all = self.name();
        nodes.push(operation("Concat", each, all.clone(), vec![attribute("axis", axis)]));
        Ok(all)
    }

    /// Adds or removes one dimension of a tensor with `Unsqueeze` or `Squeeze`.
    pub(super) fn axes(
        &mut self,
        name: &str,
        of: String,
        axis: i64,
        nodes: &mut Vec<NodeProto>,
    ) -> String {
        let made = self.name();
        if self.versions.onnx.is_some_and(|version| version >= 13) {
            let axes = self.name();
            self.constant(axes.clone(), vec![1], vec![axis], nodes);
            nodes.push(operation(name, vec![of, axes], made.clone(), Vec::new()));
        } else {
            nodes.push(operation(name, vec![of], made.clone(), vec![list("axes", vec![axis])]));
        }
        made
    }

    pub(super) fn reshaped_to_scalar(&mut self, of: String, nodes: &mut Vec<NodeProto>) -> String {
        let (shape, made) = (self.name(), self.name());
        self.constant(shape.clone(), vec![0], Vec::new(), nodes);
        nodes.push(operation("Reshape", vec![of, shape], made.clone(), Vec::new()));
        made
    }

    pub(super) fn constant(
        &mut self,
        name: String,
        dims: Vec<i64>,
        values: Vec<i64>,
        nodes: &mut Vec<NodeProto>,
    ) {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        nodes.push(constant(&name, DataType::Int64, dims.clone(), bytes));
        self.integers.insert(name, (dims.is_empty(), values));
    }

    /// Splits a tensor into parts, whose sizes must be known.
    pub(super) fn split(
        &mut self,
        source: String,
        split: Option<String>,
        axis: i64,
        keep: bool,
        nodes: &mut Vec<NodeProto>,
    ) -> Result<Vec<String>, String> {
        let size = || -> Result<i64, String> {
            let Some(dims) = self.sizes.get(&source) else {
                return Err("the number of parts is only known when the model runs, which is not \
                            implemented"
                    .into());
            };
            let rank = dims.len() as i64;
            let at = if axis < 0 { axis + rank } else { axis };
            let size = usize::try_from(at).ok().and_then(|at| dims.get(at));
            let size = size.and_then(|size| i64::try_from(*size).ok());
            size.ok_or_else(|| format!("axis {axis} is out of range for {rank} dimensions"))
        };
        let parts: Vec<i64> = match &split {
            None => {
                vec![
                    1;
                    usize::try_from(size()?)
                        .ok()
                        .filter(|n| *n <= MAX_ELEMENTS)
                        .ok_or_else(|| format!("more than {MAX_ELEMENTS} parts"))?
                ]
            }
            Some(name) => match self.integers.get(name) {
                Some((true, values)) => {
                    let (size, part) = (size()?, values.first().copied().unwrap_or(0));
                    if part < 1 || size / part > MAX_ELEMENTS as i64 {
                        return Err(format!(
                            "{size} elements cannot be split into parts of {part}"
                        ));
                    }
                    (0..size).step_by(part as usize).map(|from| part.min(size - from)).collect()
                }
                Some((false, values)) => values.clone(),
                None => {
                    return Err(format!(
                        "the parts {} are only known when the model runs, which is not implemented",
                        shown(name)
                    ));
                }
            },
        };
        let names: Vec<String> = parts.iter().map(|_| self.name()).collect();
        match &*names {
            [] => {}
            // A single part is split as well, so that its size is checked.
            _ => {
                let mut node =
                    operation("Split", vec![source], String::new(), vec![attribute("axis", axis)]);
                node.output.clone_from(&names);
                if self.versions.onnx.is_some_and(|version| version >= 13) {
                    let sizes = self.name();
                    self.constant(sizes.clone(), vec![parts.len() as i64], parts, nodes);
                    node.input.push(sizes);
                } else {
                    node.attribute.push(list("split", parts));
                }
                nodes.push(node);
            }
        }
        if keep || split.is_some() {
            return Ok(names);
        }
        Ok(names.into_iter().map(|name| self.axes("Squeeze", name, axis, nodes)).collect())
    }
}

pub(in crate::gate) fn operation(
    op_type: &str,
    input: Vec<String>,
    output: String,
    attribute: Vec<AttributeProto>,
) -> NodeProto {
    NodeProto {
        op_type: op_type.into(),
        input,
        output: vec![output],
        attribute,
        ..NodeProto::default()
    }
}

pub(super) fn identity(from: String, to: String) -> NodeProto {
    operation("Identity", vec![from], to, Vec::new())
}

pub(super) fn attribute(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        r#type: AttributeType::Int as i32,
        i: value,
        ..AttributeProto::default()
    }
}

pub(in crate::gate) fn list(name: &str, values: Vec<i64>) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        r#type: AttributeType::Ints as i32,
        ints: values,
        ..AttributeProto::default()
    }
}

pub(super) fn constant(
    name: &str,
    dtype: DataType,
    dims: Vec<i64>,
    raw_data: Vec<u8>,
) -> NodeProto {
    let tensor = TensorProto { dims, data_type: dtype as i32, raw_data, ..TensorProto::default() };
    let value = AttributeProto {
        name: "value".into(),
        r#type: AttributeType::Tensor as i32,
        t: Some(tensor),
        ..AttributeProto::default()
    };
    operation("Constant", Vec::new(), name.to_owned(), vec![value])
}
