//! Inlines the functions that a model defines: every call is replaced by the nodes of the function
//! under new names, before anything else is checked. The growth is bounded: the number of nodes,
//! the bytes of copied constants, and the depth of calls. A function that calls itself is refused.

use std::collections::{HashMap, HashSet};

use belljar_operators::newest;
use prost::Message as _;
use tract_onnx::pb::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
};

use super::text::{set, shown};
use super::{bounds, versioned};

/// Maximum number of functions of a model.
const MAX_FUNCTIONS: usize = 4_096;

/// Maximum depth of calls.
const MAX_DEPTH: usize = 16;

/// Maximum size of all copied nodes, in bytes.
const MAX_COPIED: usize = 64 << 20;

/// The attributes with defaults of each function, in the order of the functions. tract's decoder
/// skips them.
pub(crate) type Defaults = [Vec<AttributeProto>];

/// The domains and names of a model's functions.
pub(crate) fn names_of(functions: &[FunctionProto]) -> HashSet<(&str, &str)> {
    functions.iter().map(name_of).collect()
}

fn normal(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}

fn name_of(function: &FunctionProto) -> (&str, &str) {
    let domain = normal(function.domain.as_deref().unwrap_or_default());
    (domain, function.name.as_deref().unwrap_or_default())
}

/// The version of a domain's operator set that a function imports, if it imports one.
pub(super) fn version(function: &FunctionProto, wanted: &str) -> Option<i64> {
    let of_it = function.opset_import.iter().find(|import| normal(&import.domain) == wanted);
    of_it.map(|import| import.version)
}

/// Replaces all calls in a model's graph, and removes its functions.
pub(super) fn inline(proto: &mut ModelProto, defaults: &Defaults) -> Result<(), String> {
    if proto.functions.is_empty() {
        return Ok(());
    }
    let functions = std::mem::take(&mut proto.functions);
    if functions.len() > MAX_FUNCTIONS {
        return Err(format!("{} functions exceed the limit of {MAX_FUNCTIONS}", functions.len()));
    }
    let mut known: HashMap<(String, String), usize> = HashMap::new();
    let none: &[AttributeProto] = &[];
    let defaults = |at: usize| defaults.get(at).map_or(none, |defaults| defaults);
    for (at, function) in functions.iter().enumerate() {
        check(function, defaults(at))?;
        let (domain, name) = name_of(function);
        if known.insert((domain.to_owned(), name.to_owned()), at).is_some() {
            return Err(format!("duplicate function {}", shown(name)));
        }
    }
    let Some(graph) = &proto.graph else { return Ok(()) };
    let mut prefix = String::from("in:");
    while names(graph).any(|name| name.starts_with(&prefix)) {
        prefix.push('\'');
    }
    let of_model = |wanted: &str| {
        let of_it = proto.opset_import.iter().find(|import| normal(&import.domain) == wanted);
        of_it.map(|import| import.version)
    };
    // Only the versions that differ from the model's are kept.
    let differs =
        |import: &&OperatorSetIdProto| of_model(normal(&import.domain)) != Some(import.version);
    let functions: Vec<Function<'_>> = functions
        .iter()
        .enumerate()
        .map(|(at, proto)| {
            let known = |import: &&OperatorSetIdProto| newest(normal(&import.domain)).is_some();
            let own = proto.opset_import.iter().filter(known).filter(differs);
            let own = own.map(|import| (normal(&import.domain), import.version)).collect();
            Function { proto, defaults: defaults(at), own }
        })
        .collect();
    let Some(graph) = &mut proto.graph else { return Ok(()) };
    let mut inliner =
        Inliner { functions: &functions, known, prefix, calls: 0, nodes: 0, copied: 0 };
    inliner.graph(graph, &mut Vec::new())
}

/// All names of a graph and its bodies. The protobuf decoder limits the nesting.
pub(super) fn names(graph: &GraphProto) -> Box<dyn Iterator<Item = &str> + '_> {
    let inputs = graph.input.iter().map(|value| &*value.name);
    let tensors = graph.initializer.iter().map(|tensor| &*tensor.name);
    let nodes = graph.node.iter().flat_map(|node| {
        let within = node.attribute.iter().filter_map(|attribute| attribute.g.as_ref());
        let own = node.input.iter().chain(&node.output).map(|name| &**name);
        own.chain([&*node.name]).chain(within.flat_map(names))
    });
    Box::new(inputs.chain(tensors).chain(nodes))
}

/// Refuses functions that cannot be inlined without changing their meaning.
fn check(function: &FunctionProto, defaults: &[AttributeProto]) -> Result<(), String> {
    let (own, name) = name_of(function);
    let refuse = |why: &str| Err(format!("the function {}: {why}", shown(name)));
    if own.is_empty() {
        return refuse("a function in the ONNX domain is not implemented");
    }
    for (at, import) in function.opset_import.iter().enumerate() {
        let (wanted, version) = (normal(&import.domain), import.version);
        let mut earlier = function.opset_import[..at].iter();
        let twice = earlier.find(|other| normal(&other.domain) == wanted);
        if let Some(other) = twice.filter(|other| other.version != version) {
            return refuse(&format!(
                "duplicate import of {} with the versions {} and {version}",
                set(wanted),
                other.version
            ));
        }
        // Operators of other domains are refused when a node uses one.
        if let Some(newest) = newest(wanted).filter(|newest| !(1..=*newest).contains(&version)) {
            return refuse(&format!(
                "version {version} of {} is not implemented; use 1 to {newest}",
                set(wanted)
            ));
        }
    }
    let mut inputs = HashSet::new();
    if !function.input.iter().all(|input| !input.is_empty() && inputs.insert(input)) {
        return refuse("an input has no name, or the same name as another input");
    }
    if function.attribute.len() + defaults.len() > bounds::ATTRIBUTES {
        return refuse(&format!("more than {} attributes", bounds::ATTRIBUTES));
    }
    let mut attributes: HashSet<&String> = function.attribute.iter().collect();
    for default in defaults {
        let name = shown(&default.name);
        if !attributes.insert(&default.name) {
            return refuse(&format!("duplicate attribute {name}"));
        }
        if !default.ref_attr_name.is_empty() {
            return refuse(&format!(
                "the default of the attribute {name} is a reference, not a value"
            ));
        }
    }
    Ok(())
}

/// A function, with its defaults and imports.
struct Function<'m> {
    proto: &'m FunctionProto,
    defaults: &'m [AttributeProto],
    /// The versions of the domains that it imports in another version than the model does.
    own: HashMap<&'m str, i64>,
}

impl Function<'_> {
    fn has_attribute(&self, name: &String) -> bool {
        self.proto.attribute.contains(name)
            || self.defaults.iter().any(|default| default.name == *name)
    }
}

struct Inliner<'m> {
    functions: &'m [Function<'m>],
    /// The index of each function, by domain and name.
    known: HashMap<(String, String), usize>,
    /// No name of the model starts with this.
    prefix: String,
    calls: usize,
    nodes: usize,
    copied: usize,
}

impl Inliner<'_> {
    fn graph(&mut self, graph: &mut GraphProto, within: &mut Vec<usize>) -> Result<(), String> {
        let mut nodes = Vec::with_capacity(graph.node.len());
        for mut node in std::mem::take(&mut graph.node) {
            for attribute in &mut node.attribute {
                if let Some(body) = &mut attribute.g {
                    self.graph(body, within)?;
                }
            }
            self.node(node, within, &mut nodes)?;
        }
        graph.node = nodes;
        Ok(())
    }

    /// Adds a node, or the nodes of the function that it calls.
    fn node(
        &mut self,
        node: NodeProto,
        within: &mut Vec<usize>,
        nodes: &mut Vec<NodeProto>,
    ) -> Result<(), String> {
        let name = (normal(&node.domain).to_owned(), node.op_type.clone());
        let Some(called) = self.known.get(&name).copied() else {
            self.nodes += 1;
            if self.nodes > bounds::NODES {
                return Err(format!(
                    "the model has more than {} nodes after inlining its functions",
                    bounds::NODES
                ));
            }
            nodes.push(node);
            return Ok(());
        };
        let function = &self.functions[called];
        let refusal = |why: String| format!("a call of the function {}: {why}", shown(&name.1));
        if within.contains(&called) {
            return Err(refusal("the function calls itself".into()));
        }
        if within.len() >= MAX_DEPTH {
            return Err(refusal(format!("calls are nested deeper than {MAX_DEPTH}")));
        }
        self.calls += 1;
        let call = Call::new(&node, function, format!("{}{}/", self.prefix, self.calls));
        let (call, passed) = call.map_err(refusal)?;
        within.push(called);
        for inner in &function.proto.node {
            let mut inner = call.node(inner).map_err(refusal)?;
            self.copied = self.copied.saturating_add(inner.encoded_len());
            if self.copied > MAX_COPIED {
                return Err(refusal("the inlined functions exceed 64 MiB".into()));
            }
            for attribute in &mut inner.attribute {
                if let Some(body) = &mut attribute.g {
                    self.graph(body, within)?;
                }
            }
            self.node(inner, within, nodes)?;
        }
        within.pop();
        nodes.extend(passed);
        Ok(())
    }
}

/// One call, with the values that the names of the function stand for.
struct Call<'c> {
    call: &'c NodeProto,
    function: &'c Function<'c>,
    values: HashMap<&'c str, String>,
    prefix: String,
}

impl<'c> Call<'c> {
    /// The call, and the `Identity` nodes for outputs that no node of the function makes directly.
    fn new(
        call: &'c NodeProto,
        function: &'c Function<'c>,
        prefix: String,
    ) -> Result<(Call<'c>, Vec<NodeProto>), String> {
        let proto = function.proto;
        if call.input.len() > proto.input.len() || call.output.len() > proto.output.len() {
            return Err("the call has more inputs or outputs than the function".into());
        }
        for (at, attribute) in call.attribute.iter().enumerate() {
            let name = shown(&attribute.name);
            if !function.has_attribute(&attribute.name) {
                return Err(format!("the function has no attribute {name}"));
            }
            if call.attribute[..at].iter().any(|other| other.name == attribute.name) {
                return Err(format!("duplicate attribute {name}"));
            }
            if !attribute.ref_attr_name.is_empty() {
                return Err(format!(
                    "the attribute {name} refers to an attribute of a function, but is not in one"
                ));
            }
        }
        let mut values = HashMap::new();
        let given = call.input.iter().map(String::as_str).chain(std::iter::repeat(""));
        for (name, given) in proto.input.iter().zip(given) {
            values.insert(&**name, given.to_owned());
        }
        let mut passed = Vec::new();
        for (name, to) in proto.output.iter().zip(&call.output) {
            if to.is_empty() {
                continue;
            }
            let made = proto.node.iter().any(|node| node.output.contains(name));
            if made && !values.contains_key(&**name) {
                values.insert(&**name, to.clone());
            } else {
                // An input that is passed on, or the same output twice.
                let from =
                    values.get(&**name).cloned().unwrap_or_else(|| format!("{prefix}{name}"));
                passed.push(NodeProto {
                    op_type: "Identity".into(),
                    input: vec![from],
                    output: vec![to.clone()],
                    ..NodeProto::default()
                });
            }
        }
        Ok((Call { call, function, values, prefix }, passed))
    }

    fn name(&self, name: &str) -> String {
        match self.values.get(name) {
            Some(here) => here.clone(),
            None if name.is_empty() => String::new(),
            None => format!("{}{name}", self.prefix),
        }
    }

    fn node(&self, node: &NodeProto) -> Result<NodeProto, String> {
        let mut attributes = Vec::with_capacity(node.attribute.len());
        for attribute in &node.attribute {
            attributes.extend(self.attribute(attribute)?);
        }
        let mut copy = NodeProto {
            input: node.input.iter().map(|name| self.name(name)).collect(),
            output: node.output.iter().map(|name| self.name(name)).collect(),
            name: format!("{}{}", self.prefix, node.name),
            op_type: node.op_type.clone(),
            domain: node.domain.clone(),
            attribute: attributes,
            ..NodeProto::default()
        };
        if let Some(version) = self.function.own.get(normal(&node.domain)) {
            versioned::note(&mut copy, *version);
        }
        Ok(copy)
    }

    /// An attribute of a node: its own, the call's, the function's default, or none if neither the
    /// call nor the function gives it.
    fn attribute(&self, attribute: &AttributeProto) -> Result<Option<AttributeProto>, String> {
        if attribute.ref_attr_name.is_empty() {
            let mut attribute = attribute.clone();
            if let Some(body) = &mut attribute.g {
                *body = self.graph(body)?;
            }
            return Ok(Some(attribute));
        }
        let wanted = &attribute.ref_attr_name;
        if !self.function.has_attribute(wanted) {
            return Err(format!(
                "a node refers to the attribute {}, but the function has no attribute of this name",
                shown(wanted)
            ));
        }
        let mut all = self.call.attribute.iter().chain(self.function.defaults);
        let Some(given) = all.find(|given| given.name == *wanted) else { return Ok(None) };
        if attribute.r#type != 0 && attribute.r#type != given.r#type {
            return Err(format!(
                "the attribute {} has another type than the node that reads it",
                shown(wanted)
            ));
        }
        if given.g.is_some() {
            return Err(format!(
                "the attribute {} is a graph, which is not implemented",
                shown(wanted)
            ));
        }
        let mut given = given.clone();
        given.name.clone_from(&attribute.name);
        Ok(Some(given))
    }

    /// A copy of the body of a node of the function.
    fn graph(&self, graph: &GraphProto) -> Result<GraphProto, String> {
        let mut copy = graph.clone();
        copy.value_info.clear();
        for value in copy.input.iter_mut().chain(&mut copy.output) {
            value.name = self.name(&value.name);
        }
        for tensor in &mut copy.initializer {
            tensor.name = self.name(&tensor.name);
        }
        copy.node = graph.node.iter().map(|node| self.node(node)).collect::<Result<_, _>>()?;
        Ok(copy)
    }
}
