//! Turns an error of tract into a message for users: which node of the model, why, and what to do.
//! tract's own message must never reach a user, because it is about tract's internals; with
//! `--verbose` it is in the log. A [`UserError`] is passed on as it is.

use std::collections::{HashMap, HashSet};

use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{GraphProto, ModelProto, NodeProto, type_proto};
use tract_onnx::prelude::TractError;

use crate::gate::{self, shown};
use onnx_ops::framework::errors::UserError;

/// When a failure happened.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    Preparing,
    Running,
}

/// The nodes of a model, including those of bodies, by the names and operators of the model file.
#[derive(Default)]
pub(crate) struct Nodes {
    all: Vec<Named>,
    /// Indices of the nodes that are not in a body.
    outermost: Vec<u32>,
}

pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) operator: String,
}

impl Nodes {
    /// The nodes of a model that has passed the gate, after which every node has a name.
    pub(crate) fn of(proto: &ModelProto) -> Nodes {
        let mut nodes = Nodes::default();
        proto.graph.iter().for_each(|graph| nodes.add(graph, true));
        nodes
    }

    /// The nodes that are not in a body, in the model's order.
    pub(crate) fn outermost(&self) -> impl Iterator<Item = &Named> {
        self.outermost.iter().filter_map(|at| self.all.get(*at as usize))
    }

    fn add(&mut self, graph: &GraphProto, outermost: bool) {
        for node in &graph.node {
            if outermost {
                self.outermost.push(self.all.len() as u32);
            }
            self.all.push(Named { name: node.name.clone(), operator: gate::operator_of(node) });
            let bodies = node.attribute.iter().filter_map(|attribute| attribute.g.as_ref());
            bodies.for_each(|body| self.add(body, false));
        }
    }

    /// The node of the model that a node of a plan comes from. Plans name their nodes after those
    /// of the model, with a suffix if there are several.
    pub(crate) fn find(&self, start: &str) -> Option<&Named> {
        let fits = |node: &&Named| {
            let rest = start.strip_prefix(&*node.name);
            !node.name.is_empty()
                && rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_alphanumeric()))
        };
        self.all.iter().filter(fits).max_by_key(|node| node.name.len())
    }

    /// The innermost node that an error names.
    fn of_error(&self, error: &TractError) -> Option<&Named> {
        let texts: Vec<String> = error.chain().map(ToString::to_string).collect();
        texts
            .iter()
            .rev()
            .find_map(|text| node_names(text).into_iter().find_map(|at| self.find(at)))
    }

    /// The node whose body contains the failed node, if it is in a body.
    fn enclosing(&self, error: &TractError, inner: Option<&Named>) -> Option<&Named> {
        let texts = error.chain().map(ToString::to_string);
        let mut named =
            texts.filter_map(|text| node_names(&text).into_iter().find_map(|at| self.find(at)));
        let outer = named.find(|node| ["If", "Loop", "Scan"].contains(&&*node.operator))?;
        inner.is_some_and(|inner| inner.name != outer.name).then_some(outer)
    }

    /// The message for users.
    pub(crate) fn explain(
        &self,
        error: &TractError,
        when: When,
        sources: Option<&Sources>,
    ) -> String {
        log::info!("{error:#}");
        let node = self.of_error(error);
        let (why, late) = match node {
            // tract only reports that one of its own conditions failed.
            Some(node)
                if node.operator == "If" && when == When::Preparing && !is_user_error(error) =>
            {
                let why = "its branches make values of different sizes, and the branch is only \
                           known when the model runs";
                (why.into(), true)
            }
            _ => why(error, when),
        };
        let name = node.map(|node| &*node.name);
        let mut text = match node {
            Some(node) => format!("node {}: {}: {why}", shown(&node.name), node.operator),
            None => why,
        };
        if let Some(outer) = self.enclosing(error, node) {
            text = format!("node {}: {}: {text}", shown(&outer.name), outer.operator);
        }
        if let Some(hint) = hint(error, when, late, sources.zip(name)) {
            text.push_str(". ");
            text.push_str(&hint);
        }
        text
    }
}

/// Whether an error has a message for users.
pub(crate) fn is_user_error(error: &TractError) -> bool {
    error.chain().any(|cause| cause.is::<UserError>())
}

/// The parts of tract's message that may start with the name of a node.
fn node_names(text: &str) -> Vec<&str> {
    const BEFORE: [&str; 5] =
        ["Building node ", "Wiring node \"", "invocation for ", "const-folding ", "node \""];
    let after = |before: &str| text.find(before).map(|at| &text[at + before.len()..]);
    let mut names: Vec<&str> = BEFORE.into_iter().filter_map(after).collect();
    // tract formats a node as `#7 "its name" Operator`.
    for (at, _) in text.match_indices('#') {
        let rest = text[at + 1..].trim_start_matches(|c: char| c.is_ascii_digit());
        names.extend(rest.strip_prefix(" \""));
    }
    names
}

/// The reason of an error, and whether it needs a value that is only known when the model runs.
fn why(error: &TractError, when: When) -> (String, bool) {
    if let Some(message) = error.chain().find_map(|cause| cause.downcast_ref::<UserError>()) {
        let message = plain_sizes(&message.to_string());
        let late = message.contains("only known when");
        return (message, late);
    }
    let root = error.root_cause().to_string();
    if root.contains("Undetermined symbol") {
        let why = match when {
            When::Preparing => "it needs a size that is only known when the model runs",
            When::Running => "it needs a size that does not follow from the inputs of this run",
        };
        return (why.into(), when == When::Preparing);
    }
    let disagree = ["unify", "broadcast", "ncompatible", "shape", "rank"];
    let why = match when {
        _ if sizes(&root).is_some() => {
            let (one, other) = sizes(&root).unwrap_or_default();
            format!("the shapes of its inputs do not match: a dimension is both {one} and {other}")
        }
        _ if disagree.iter().any(|word| root.contains(word)) => {
            "the shapes or element types of its inputs do not match".into()
        }
        When::Preparing => "it cannot be prepared for inputs of these shapes".into(),
        When::Running => "it cannot be computed on the values of this run".into(),
    };
    (why, false)
}

/// Replaces tract's notation of sizes, `Val(2)` and `Sym(n)`, by the number or the name.
fn plain_sizes(text: &str) -> String {
    let mut plain = text.to_owned();
    for before in ["Val(", "Sym("] {
        while let Some(at) = plain.find(before) {
            let Some(end) = plain[at..].find(')') else { break };
            plain.remove(at + end);
            plain.replace_range(at..at + before.len(), "");
        }
    }
    plain
}

/// The two sizes in tract's message about different sizes.
fn sizes(root: &str) -> Option<(u64, u64)> {
    let (one, rest) = root.strip_prefix("Impossible to unify ")?.split_once(" with ")?;
    let number = |text: &str| {
        let text = text.trim_end_matches('.');
        let text = text.strip_prefix("Only(").and_then(|t| t.strip_suffix(')')).unwrap_or(text);
        let text = text.strip_prefix("Val(").and_then(|t| t.strip_suffix(')')).unwrap_or(text);
        text.parse().ok()
    };
    Some((number(one)?, number(rest)?))
}

/// What the user can do about an error.
fn hint(
    error: &TractError,
    when: When,
    late: bool,
    node: Option<(&Sources, &str)>,
) -> Option<String> {
    if late {
        let inputs = node.map(|(sources, name)| sources.of_node(name)).unwrap_or_default();
        return Some(match &*inputs {
            [] => "Export the model so that its sizes follow from the shapes of its inputs".into(),
            inputs => {
                let each = inputs.iter().map(|name| format!("[inputs.{}] value", key(name)));
                let each: Vec<String> = each.collect();
                format!("Set the inputs that it depends on in the policy: {}", each.join(", "))
            }
        });
    }
    // A message for users needs no hint.
    if is_user_error(error) {
        return None;
    }
    Some(match when {
        When::Preparing => {
            "Check the shapes of the inputs (--input-shape NAME=N,N,… for `belljar inspect`)".into()
        }
        When::Running => "Check the values and shapes of the inputs".into(),
    })
}

/// A name as a key of the policy.
fn key(name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !name.is_empty() && name.len() <= 100 && name.chars().all(bare) {
        name.to_owned()
    } else {
        shown(name)
    }
}

/// Maximum number of inputs that a message names.
const MAX_NAMED: usize = 4;

/// The inputs of a model that can decide the sizes of values.
#[derive(Default)]
pub(crate) struct Sources {
    /// For each node, by name, the values that it reads.
    reads: HashMap<String, Vec<String>>,
    /// For each value, the node that makes it.
    makers: HashMap<String, String>,
    /// Integer and boolean inputs, which a policy can set.
    inputs: Vec<String>,
    /// The names of the `If` nodes.
    choices: HashSet<String>,
}

impl Sources {
    pub(crate) fn of(proto: &ModelProto) -> Sources {
        let mut sources = Sources::default();
        let Some(graph) = &proto.graph else { return sources };
        let decides = |elem_type: i32| {
            [DataType::Int32, DataType::Int64, DataType::Bool]
                .iter()
                .any(|d| *d as i32 == elem_type)
        };
        for input in &graph.input {
            let value = input.r#type.as_ref().and_then(|value| value.value.as_ref());
            if let Some(type_proto::Value::TensorType(tensor)) = value
                && decides(tensor.elem_type)
            {
                sources.inputs.push(input.name.clone());
            }
        }
        for node in &graph.node {
            for output in &node.output {
                sources.makers.insert(output.clone(), node.name.clone());
            }
            sources.add(node, &node.name);
        }
        sources
    }

    /// Adds the values that a node and its bodies read. The protobuf decoder limits the nesting.
    fn add(&mut self, node: &NodeProto, name: &str) {
        // Shapes are known before a model runs.
        if ["Shape", "Size"].contains(&&*node.op_type) {
            return;
        }
        if node.op_type == "If" && node.name == name {
            self.choices.insert(name.to_owned());
        }
        let reads = self.reads.entry(name.to_owned()).or_default();
        reads.extend(node.input.iter().filter(|input| !input.is_empty()).cloned());
        for body in node.attribute.iter().filter_map(|attribute| attribute.g.as_ref()) {
            for inner in &body.node {
                self.add(inner, name);
                // A node of a body can be looked up by its own name as well.
                if !inner.name.is_empty() && inner.name != name {
                    self.add(inner, &inner.name.clone());
                }
            }
        }
    }

    /// The inputs that a policy can set and that a node, or the condition of an `If`, depends on.
    fn of_node(&self, name: &str) -> Vec<String> {
        let mut seen: HashSet<&str> = HashSet::from([name]);
        let mut next: Vec<&str> = vec![name];
        let mut found: Vec<String> = Vec::new();
        while let Some(node) = next.pop() {
            // The first input of an `If` is its condition.
            let only = if node == name && self.choices.contains(name) { 1 } else { usize::MAX };
            for value in self.reads.get(node).into_iter().flatten().take(only) {
                if self.inputs.contains(value) && !found.contains(value) && found.len() < MAX_NAMED
                {
                    found.push(value.clone());
                }
                if let Some(maker) = self.makers.get(value)
                    && seen.insert(maker)
                {
                    next.push(maker);
                }
            }
        }
        found
    }
}
