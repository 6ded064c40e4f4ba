//! Describes a model from the decoded file, without tract, so that a model that cannot run can
//! still be inspected.

use std::collections::{HashMap, HashSet};

use belljar_abi::{
    Description, Dim, ExternalData, FunctionInfo, OperatorCount, OpsetImport, ValueInfo, ValueType,
};
use tract_onnx::pb::tensor_proto::DataLocation;
use tract_onnx::pb::tensor_shape_proto::dimension::Value as DimValue;
use tract_onnx::pb::{
    FunctionProto, GraphProto, NodeProto, TensorProto, ValueInfoProto, type_proto,
};

use crate::load::{Declared, Loaded};
use crate::{Refusal, gate};

/// Describes a loaded model.
pub(crate) fn describe(loaded: &Loaded) -> Result<Description, Refusal> {
    let Loaded { proto, types, .. } = loaded;
    let versions = gate::versions(proto);
    let mut tally = Tally {
        functions: gate::names_of(&proto.functions),
        operators: HashMap::new(),
        nodes: 0,
        random_nodes: 0,
        parameters: 0,
        external: Vec::new(),
    };
    let mut description = Description {
        ir_version: proto.ir_version,
        producer_name: proto.producer_name.clone(),
        producer_version: proto.producer_version.clone(),
        domain: proto.domain.clone(),
        model_version: proto.model_version,
        doc_string: proto.doc_string.clone(),
        ..Description::default()
    };
    for import in &proto.opset_import {
        let (domain, version) = (import.domain.clone(), import.version);
        description.opset_imports.push(OpsetImport { domain, version });
    }
    for entry in &proto.metadata_props {
        description.metadata.push((entry.key.clone(), entry.value.clone()));
    }
    if let Some(graph) = &proto.graph {
        description.graph_name = graph.name.clone();
        description.inputs = infos(&graph.input, graph, &types.inputs);
        description.outputs = infos(&graph.output, graph, &types.outputs);
        tally.graph(graph, versions.as_ref().map_err(String::as_str));
    }
    for function in &proto.functions {
        description.functions.push(function_info(function));
        let versions = versions.as_ref().map(|versions| versions.within(function));
        tally.nodes(&function.node, &[], versions.as_ref().map_err(|why| why.as_str()));
    }
    description.nodes = tally.nodes;
    description.random_nodes = tally.random_nodes;
    description.parameters = tally.parameters;
    description.external_data = tally.external;
    description.operators = tally
        .operators
        .into_iter()
        .map(|((domain, op_type), (count, refused))| OperatorCount {
            domain: domain.into(),
            op_type: op_type.into(),
            count,
            refused,
        })
        .collect();
    description.operators.sort_by(|a, b| {
        b.count.cmp(&a.count).then_with(|| (&a.domain, &a.op_type).cmp(&(&b.domain, &b.op_type)))
    });
    Ok(description)
}

/// Inputs or outputs, with the types of those that are not tensors.
fn infos(
    values: &[ValueInfoProto],
    graph: &GraphProto,
    types: &HashMap<String, Declared>,
) -> Vec<ValueInfo> {
    values.iter().map(|value| value_info(value, graph, types.get(&value.name))).collect()
}

fn value_info(value: &ValueInfoProto, graph: &GraphProto, other: Option<&Declared>) -> ValueInfo {
    let tensor = value
        .r#type
        .as_ref()
        .and_then(|ty| ty.value.as_ref())
        .map(|type_proto::Value::TensorType(tensor)| tensor);
    let shape = match other {
        Some(declared) => declared.shape.as_ref(),
        None => tensor.and_then(|tensor| tensor.shape.as_ref()),
    };
    ValueInfo {
        name: value.name.clone(),
        elem_type: tensor.map_or(0, |tensor| u32::try_from(tensor.elem_type).unwrap_or(0)),
        value_type: other.map_or(ValueType::Tensor, |declared| declared.value_type),
        shape: shape.map(|shape| {
            shape
                .dim
                .iter()
                .map(|dim| match &dim.value {
                    Some(DimValue::DimValue(size)) => {
                        u64::try_from(*size).map_or(Dim::Unknown, Dim::Fixed)
                    }
                    Some(DimValue::DimParam(name)) if !name.is_empty() && name != "?" => {
                        Dim::Symbol(name.clone())
                    }
                    _ => Dim::Unknown,
                })
                .collect()
        }),
        has_default: graph.initializer.iter().any(|tensor| tensor.name == value.name),
    }
}

fn function_info(function: &FunctionProto) -> FunctionInfo {
    FunctionInfo {
        domain: function.domain.clone().unwrap_or_default(),
        name: function.name.clone().unwrap_or_default(),
        nodes: function.node.len() as u64,
    }
}

/// Whether a node draws random numbers, or may do so: a Dropout does in training mode, which may be
/// known only when the model runs. `off` are the values that are constants of zeros.
fn draws(node: &NodeProto, off: &HashSet<&str>) -> bool {
    match gate::onnx_operator(node) {
        "RandomNormal" | "RandomNormalLike" | "RandomUniform" | "RandomUniformLike"
        | "Bernoulli" | "Multinomial" => true,
        "Dropout" => {
            node.input.get(2).is_some_and(|mode| !mode.is_empty() && !off.contains(&**mode))
        }
        _ => false,
    }
}

/// The constants of a graph that are a single zero.
fn zeros<'a>(nodes: &'a [NodeProto], constants: &'a [TensorProto]) -> HashSet<&'a str> {
    let is_zero = |tensor: &TensorProto| {
        let stored = tensor.data_location != Some(DataLocation::External as i32);
        let (bytes, numbers) = (&tensor.raw_data, &tensor.int32_data);
        let zeros =
            bytes.iter().all(|byte| *byte == 0) && numbers.iter().all(|number| *number == 0);
        stored && bytes.len() + numbers.len() == 1 && zeros
    };
    let initializers = constants.iter().map(|tensor| (&*tensor.name, Some(tensor)));
    let nodes = nodes.iter().filter(|node| gate::onnx_operator(node) == "Constant");
    let made = nodes
        .filter_map(|node| Some((&**node.output.first()?, node.attribute.first()?.t.as_ref())));
    let all = initializers.chain(made);
    all.filter(|(_, tensor)| tensor.is_some_and(is_zero)).map(|(name, _)| name).collect()
}

/// The operator set versions for some nodes, or why they are unknown.
type KnownVersions<'v> = Result<&'v gate::Versions, &'v str>;

/// Counts over a graph and everything nested in it. The protobuf decoder limits the nesting.
struct Tally<'a> {
    functions: HashSet<(&'a str, &'a str)>,
    /// The count of each operator, and why the first node that is not implemented is refused.
    operators: HashMap<(&'a str, &'a str), (u64, String)>,
    nodes: u64,
    random_nodes: u64,
    parameters: u64,
    external: Vec<ExternalData>,
}

impl<'a> Tally<'a> {
    fn graph(&mut self, graph: &'a GraphProto, versions: KnownVersions<'_>) {
        for tensor in &graph.initializer {
            self.tensor(tensor);
        }
        for values in graph.sparse_initializer.iter().filter_map(|tensor| tensor.values.as_ref()) {
            self.tensor(values);
        }
        self.nodes(&graph.node, &graph.initializer, versions);
    }

    /// Counts the nodes of a graph with these initializers.
    fn nodes(
        &mut self,
        nodes: &'a [NodeProto],
        constants: &'a [TensorProto],
        versions: KnownVersions<'_>,
    ) {
        let zeros = zeros(nodes, constants);
        for node in nodes {
            self.nodes += 1;
            self.random_nodes += u64::from(draws(node, &zeros));
            // `ai.onnx` is the long name of the default domain.
            let domain = if node.domain == "ai.onnx" { "" } else { &*node.domain };
            let (count, refused) = self.operators.entry((domain, &node.op_type)).or_default();
            *count += 1;
            if refused.is_empty() && !self.functions.contains(&(domain, &*node.op_type)) {
                *refused = match versions {
                    Ok(versions) => gate::refusal(node, versions).unwrap_or_default(),
                    Err(why) => why.to_owned(),
                };
            }
            for attribute in &node.attribute {
                attribute.t.iter().chain(&attribute.tensors).for_each(|t| self.tensor(t));
                attribute.g.iter().chain(&attribute.graphs).for_each(|g| self.graph(g, versions));
            }
        }
    }

    fn tensor(&mut self, tensor: &TensorProto) {
        let elements = tensor
            .dims
            .iter()
            .fold(1u64, |count, dim| count.saturating_mul(u64::try_from(*dim).unwrap_or(0)));
        self.parameters = self.parameters.saturating_add(elements);
        if tensor.data_location == Some(DataLocation::External as i32) {
            let entry = |key: &str| {
                tensor.external_data.iter().find(|entry| entry.key == key).map(|e| e.value.clone())
            };
            self.external.push(ExternalData {
                tensor: tensor.name.clone(),
                location: entry("location").unwrap_or_default(),
                offset: entry("offset").unwrap_or_else(|| "0".into()),
                length: entry("length").unwrap_or_default(),
            });
        }
    }
}
