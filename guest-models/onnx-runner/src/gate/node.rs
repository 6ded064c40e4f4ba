//! Checks one node against its entry in the table of operators.

use belljar_operators::{
    self as table, BOOL, F8E8M0, F32, I64, Operator, Output, STRING, Types, U8,
};
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{AttributeProto, NodeProto};

use super::attributes::{self, find};
use super::graph::{Scope, Totals, body};
use super::text::shown;
use super::{Versions, bounds, domain_of, onnx_operator, tensors};

/// Refuses a node that is not implemented; returns the types of its outputs.
pub(super) fn check(
    node: &NodeProto,
    scope: &Scope<'_>,
    versions: &Versions,
    totals: &mut Totals,
    depth: usize,
) -> Result<Vec<Types>, String> {
    let refusal = |why: String| {
        let name = if node.name.is_empty() { node.output.first() } else { Some(&node.name) };
        let name = shown(name.map_or("", |name| name));
        let operator = super::text::operator(&node.op_type);
        match versions.of_node(node) {
            Ok(version) if domain_of(node).is_empty() => {
                format!("node {name}: {operator} (opset {version}): {why}")
            }
            // Only known domains have versions.
            Ok(version) => {
                format!("node {name}: {}:{operator} (opset {version}): {why}", node.domain)
            }
            Err(_) => format!("node {name}: {operator}: {why}"),
        }
    };
    check_inner(node, scope, versions, totals, depth).map_err(|why| match why {
        Why::Here(why) => refusal(why),
        // The message already names the node of the body.
        Why::Within(why) => why,
    })
}

/// Why a node is not implemented, as far as that is known without the rest of the graph.
pub(crate) fn refusal(node: &NodeProto, versions: &Versions) -> Option<String> {
    if super::flex::lowered(node, versions.onnx.unwrap_or(0)) {
        return None;
    }
    alone(node, versions).err()
}

/// The entry of the table for a node.
pub(super) fn operator(node: &NodeProto, versions: &Versions) -> Result<&'static Operator, String> {
    match super::sequences::packed_operator(node) {
        Some(operator) => Ok(operator),
        None => table::find(domain_of(node), &node.op_type, versions.of_node(node)?),
    }
}

pub(super) fn alone(node: &NodeProto, versions: &Versions) -> Result<&'static Operator, String> {
    let operator = operator(node, versions)?;
    if node.attribute.len() > bounds::ATTRIBUTES {
        let found = node.attribute.len();
        return Err(format!("{found} attributes exceed the limit of {}", bounds::ATTRIBUTES));
    }
    attributes::check(node, operator)?;
    count(node, operator)?;
    outputs(node, operator)?;
    Ok(operator)
}

enum Why {
    Here(String),
    Within(String),
}

impl From<String> for Why {
    fn from(why: String) -> Why {
        Why::Here(why)
    }
}

fn check_inner(
    node: &NodeProto,
    scope: &Scope<'_>,
    versions: &Versions,
    totals: &mut Totals,
    depth: usize,
) -> Result<Vec<Types>, Why> {
    if node.name.len() > bounds::NAME {
        return Err(format!(
            "its name has {} bytes; the limit is {}",
            node.name.len(),
            bounds::NAME
        )
        .into());
    }
    let operator = alone(node, versions)?;
    let read = inputs(node, operator, &|name| scope.find(name))?;
    let special = match &*node.op_type {
        "If" => {
            let then = graph(node, "then_branch", scope, &[], versions, totals, depth)?;
            let other = graph(node, "else_branch", scope, &[], versions, totals, depth)?;
            if then != other {
                return Err("the outputs of its branches have different types".to_owned().into());
            }
            then
        }
        "Scan" => {
            let given: Vec<Types> = read.iter().map(|read| read.types).collect();
            graph(node, "body", scope, &given, versions, totals, depth)?
        }
        "Loop" => {
            let given = given_to_body(node, &read);
            let made = graph(node, "body", scope, &given, versions, totals, depth)?;
            loop_outputs(&given, &made)?;
            made_of_body(node, made)
        }
        _ => return Ok(made(node, operator, &read)?),
    };
    if special.len() != node.output.len() {
        let (named, made) = (node.output.len(), special.len());
        return Err(format!("it has {named} outputs, but its body makes {made}").into());
    }
    Ok(special)
}

/// The types of the inputs of the body of a node that reads values of these types.
pub(super) fn given_to_body(node: &NodeProto, read: &[Read]) -> Vec<Types> {
    match &*node.op_type {
        "If" => Vec::new(),
        "Loop" => {
            let carried = read.iter().filter(|read| read.at >= 2).map(|read| read.types);
            [I64, BOOL].into_iter().chain(carried).collect()
        }
        _ => read.iter().map(|read| read.types).collect(),
    }
}

/// The types of the outputs of a node, from those of its body.
pub(super) fn made_of_body(node: &NodeProto, mut made: Vec<Types>) -> Vec<Types> {
    if node.op_type == "Loop" && !made.is_empty() {
        made.remove(0);
    }
    made
}

/// Checks the outputs of the body of a loop: its condition, and the types of the carried values.
fn loop_outputs(given: &[Types], made: &[Types]) -> Result<(), String> {
    if made.first() != Some(&BOOL) {
        return Err("the first output of its body is not a bool".into());
    }
    let carried = given.get(2..).unwrap_or_default();
    match made.get(1..).unwrap_or_default().get(..carried.len()) {
        Some(on) if on == carried => Ok(()),
        _ => Err("its body changes the type of a carried value".into()),
    }
}

/// The types of the outputs of a node without bodies, which reads values of these types.
pub(super) fn made(
    node: &NodeProto,
    operator: &Operator,
    read: &[Read],
) -> Result<Vec<Types>, String> {
    let mut made = Vec::with_capacity(node.output.len());
    for at in 0..node.output.len() {
        let last = operator.outputs.len().saturating_sub(1);
        made.push(match onnx_operator(node) {
            "Constant" => constant(node)?,
            "ConstantOfShape" => filler(node)?,
            "QuantizeLinear" => quantized(node, read)?,
            "DequantizeLinear" => dequantized(node, read)?,
            _ => output(node, operator.outputs[at.min(last)], read)?,
        });
    }
    Ok(made)
}

/// The element type that an attribute names.
fn named_type(node: &NodeProto, name: &str) -> Option<Types> {
    find(node, name).and_then(|attribute| Types::of(i32::try_from(attribute.i).ok()?))
}

fn quantized(node: &NodeProto, read: &[Read]) -> Result<Types, String> {
    let zero = read.iter().find(|read| read.at == 2).map(|read| read.types);
    match (zero, named_type(node, "output_dtype")) {
        (Some(zero), Some(output)) if zero != output => {
            let (zero, output) = (zero.names(), output.names());
            Err(format!("its zero point is {zero}, but \"output_dtype\" is {output}"))
        }
        (Some(types), _) | (None, Some(types)) => Ok(types),
        (None, None) => Ok(U8),
    }
}

fn dequantized(node: &NodeProto, read: &[Read]) -> Result<Types, String> {
    let scale = read.iter().find(|read| read.at == 1).map(|read| read.types);
    match named_type(node, "output_dtype").or(scale) {
        Some(F8E8M0) => {
            Err("an output of float8e8m0 is not implemented; set \"output_dtype\"".into())
        }
        Some(types) => Ok(types),
        None => Err("its scale is missing".into()),
    }
}

/// The number of names up to the last one that is not empty.
pub(super) fn named(names: &[String]) -> usize {
    names.iter().rposition(|name| !name.is_empty()).map_or(0, |last| last + 1)
}

/// Checks the number of inputs of a node.
fn count(node: &NodeProto, operator: &Operator) -> Result<(), String> {
    let given = named(&node.input);
    let most = if operator.many { bounds::VALUES } else { operator.inputs.len() };
    let fewest = operator.inputs.len() - operator.optional;
    if !(fewest..=most).contains(&given) {
        let wanted = match (fewest, most) {
            _ if operator.many => format!("{fewest} or more"),
            (fewest, most) if fewest == most => fewest.to_string(),
            (fewest, most) => format!("{fewest} to {most}"),
        };
        return Err(format!("{given} inputs, expected {wanted}"));
    }
    Ok(())
}

/// An input that is given: its index, its type variable in the table, and its type in the graph.
pub(super) struct Read {
    pub(super) at: usize,
    pub(super) letter: char,
    pub(super) types: Types,
}

/// The given inputs of a node, checked against the table.
pub(super) fn inputs(
    node: &NodeProto,
    operator: &Operator,
    type_of: &dyn Fn(&str) -> Option<Types>,
) -> Result<Vec<Read>, String> {
    let fewest = operator.inputs.len() - operator.optional;
    let mut read: Vec<Read> = Vec::with_capacity(node.input.len());
    for (at, name) in node.input.iter().enumerate() {
        let input = operator.inputs[at.min(operator.inputs.len() - 1)];
        if name.is_empty() {
            if at < fewest {
                return Err(format!("input {at} is missing"));
            }
            continue;
        }
        let Some(types) = type_of(name) else {
            return Err(format!("no node, input or initializer makes the value {}", shown(name)));
        };
        if !input.types.has(types) {
            let (types, wanted) = (types.names(), input.types.names());
            return Err(format!("the input {} is {types}; implemented is {wanted}", shown(name)));
        }
        let other = read.iter().find(|other| other.letter == input.letter && other.letter != '-');
        if let Some(other) = other
            && other.types != types
        {
            let (types, other) = (types.names(), other.types.names());
            return Err(format!(
                "the input {} is {types}, but another input is {other}",
                shown(name)
            ));
        }
        read.push(Read { at, letter: input.letter, types });
    }
    Ok(read)
}

fn outputs(node: &NodeProto, operator: &Operator) -> Result<(), String> {
    let most = if operator.many_outputs { bounds::VALUES } else { operator.outputs.len() };
    // Where the number of outputs has a meaning, unnamed outputs count.
    let found = if operator.many_outputs { node.output.len() } else { named(&node.output) };
    let fewest = operator.fewest_outputs.max(1);
    let given = if operator.many_outputs { found } else { node.output.len() };
    if found > most || given < fewest || named(&node.output) == 0 {
        return Err(format!("{found} outputs, expected {fewest} to {most}"));
    }
    Ok(())
}

fn output(node: &NodeProto, output: Output, read: &[Read]) -> Result<Types, String> {
    let like = |letter| read.iter().find(|other| other.letter == letter).map(|other| other.types);
    let unknown = || "the element type of its output is unknown".into();
    match output {
        Output::Is(types) => Ok(types),
        Output::Like(letter) => like(letter).ok_or_else(unknown),
        Output::Either(first, second) => like(first).or_else(|| like(second)).ok_or_else(unknown),
        Output::AttrOr(name, types, letter) if find(node, name).is_none() => {
            let found = like(letter).ok_or_else(unknown)?;
            match types.has(found) {
                true => Ok(found),
                false => Err(format!(
                    "its output would be {}, like its input; set the attribute {name:?}",
                    found.names()
                )),
            }
        }
        Output::AttrOrIs(name, _, otherwise) if find(node, name).is_none() => Ok(otherwise),
        Output::Attr(name, types)
        | Output::AttrOr(name, types, _)
        | Output::AttrOrIs(name, types, _) => find(node, name)
            .and_then(|attribute| i32::try_from(attribute.i).ok())
            .and_then(Types::of)
            .filter(|dtype| types.has(*dtype))
            .ok_or_else(|| format!("the attribute {name:?} is not an implemented element type")),
        Output::With(attributes, otherwise) => {
            let given =
                attributes.iter().find_map(|(name, types)| Some((find(node, name)?, types)));
            match given {
                None => Ok(otherwise),
                Some((AttributeProto { t: Some(tensor), .. }, types)) => {
                    Types::of(tensor.data_type)
                        .filter(|dtype| types.has(*dtype))
                        .ok_or_else(|| "the element type of its value is not implemented".into())
                }
                Some((_, types)) if types.number().is_some() => Ok(*types),
                Some((attribute, types)) => i32::try_from(attribute.i)
                    .ok()
                    .and_then(Types::of)
                    .filter(|dtype| types.has(*dtype))
                    .ok_or_else(|| {
                        format!(
                            "the attribute {:?} is not an implemented element type",
                            attribute.name
                        )
                    }),
            }
        }
        Output::Unless(name, types, where_zero) => {
            let zero = find(node, name).is_some_and(|attribute| attribute.i == 0);
            Ok(if zero { where_zero } else { types })
        }
        Output::ByText(name, types, otherwise) => Ok(find(node, name)
            .and_then(|attribute| types.iter().find(|(text, _)| text.as_bytes() == attribute.s))
            .map_or(otherwise, |(_, types)| *types)),
        Output::Swapped => match read.first() {
            Some(read) if read.types == STRING => Ok(I64),
            _ => Ok(STRING),
        },
        Output::Special => Err("the element type of its output is unknown".into()),
    }
}

fn graph(
    node: &NodeProto,
    name: &str,
    scope: &Scope<'_>,
    given: &[Types],
    versions: &Versions,
    totals: &mut Totals,
    depth: usize,
) -> Result<Vec<Types>, Why> {
    let Some(graph) = find(node, name).and_then(|attribute| attribute.g.as_ref()) else {
        return Err(format!("the attribute {name:?} is missing").into());
    };
    if graph.input.len() != given.len() {
        let (found, wanted) = (graph.input.len(), given.len());
        return Err(format!("its {name} has {found} inputs, expected {wanted}").into());
    }
    body(graph, Some(scope), given, versions, totals, depth + 1).map_err(Why::Within)
}

fn constant(node: &NodeProto) -> Result<Types, String> {
    let Some(attribute) = node.attribute.first() else { return Err("it has no value".into()) };
    Ok(match &*attribute.name {
        "value" => {
            let tensor = attribute.t.as_ref().ok_or("it has no value")?;
            tensors::check(tensor).map_err(|why| format!("its value {why}"))?
        }
        "value_int" | "value_ints" => I64,
        "value_float" | "value_floats" => F32,
        _ => STRING,
    })
}

fn filler(node: &NodeProto) -> Result<Types, String> {
    let Some(tensor) = find(node, "value").and_then(|attribute| attribute.t.as_ref()) else {
        return Ok(F32);
    };
    let types = tensors::check(tensor).map_err(|why| format!("its value {why}"))?;
    if tensor.dims.iter().product::<i64>() != 1 || tensor.data_type == DataType::String as i32 {
        return Err("its value must be one number".into());
    }
    Ok(types)
}
