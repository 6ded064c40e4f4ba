//! Operators of maps. A map becomes two tensors, its keys and its values, and a sequence of maps also
//! the number of entries of each. The operators on these are in onnx-ops (`ml/maps.rs`).

use belljar_operators::ML;
use tract_onnx::pb::NodeProto;

use super::packed::marked;
use super::{Known, Resolver, Value, tensor, value};
use crate::gate::node;

pub(super) fn is_of_maps(node: &NodeProto) -> bool {
    node.domain == ML && ["ZipMap", "DictVectorizer", "CastMap"].contains(&&*node.op_type)
}

impl Resolver<'_> {
    /// An operator that makes or reads maps.
    pub(super) fn of_maps(
        &mut self,
        node: &NodeProto,
        known: &mut Known,
        nodes: &mut Vec<NodeProto>,
    ) -> Result<(), String> {
        node::alone(node, self.versions)?;
        let input = node.input.first().map_or("", |name| name);
        let output = node.output.first().cloned().unwrap_or_default();
        let (given, made) = match &*node.op_type {
            "ZipMap" => {
                let (keys, values, lengths) = (self.name(), self.name(), self.name());
                let made = vec![keys.clone(), values.clone(), lengths.clone()];
                known.insert(output, Value::Maps(keys, values, lengths));
                (vec![tensor(known, input)?], made)
            }
            _ => match value(known, input) {
                Value::Map(keys, values) => (vec![keys, values], vec![output]),
                other => return Err(format!("its input is {}, expected a map", other.what())),
            },
        };
        let attributes = node.attribute.clone();
        let replacement = marked(&node.op_type, given, made, attributes);
        let (name, domain) = (node.name.clone(), node.domain.clone());
        nodes.push(NodeProto { name, domain, ..replacement });
        Ok(())
    }
}
