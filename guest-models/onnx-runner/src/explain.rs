//! What tract says when it fails, told to a user: which node of the model, why, and what to do.
//! tract's own words never reach a user. They are about its inside; with `--verbose` they are in the
//! log. Words of ours ([`UserError`]) are passed on as they are.

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

/// The nodes of a model as its author knows them: by name and operator. Those of bodies are among
/// them.
#[derive(Default)]
pub(crate) struct Nodes {
    all: Vec<Named>,
    /// Places of those that are in no body.
    outermost: Vec<u32>,
}

pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) operator: String,
}

impl Nodes {
    /// The nodes of a model that has passed the gate: every one has a name.
    pub(crate) fn of(proto: &ModelProto) -> Nodes {
        let mut nodes = Nodes::default();
        proto.graph.iter().for_each(|graph| nodes.add(graph, true));
        nodes
    }

    /// The nodes that are in no body, in the model's order.
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

    /// The node that something in a plan comes from: plans name their nodes after those of the model,
    /// with more behind the name where there are several.
    pub(crate) fn find(&self, start: &str) -> Option<&Named> {
        let fits = |node: &&Named| {
            let rest = start.strip_prefix(&*node.name);
            !node.name.is_empty()
                && rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_alphanumeric()))
        };
        self.all.iter().filter(fits).max_by_key(|node| node.name.len())
    }

    /// The innermost node that an error speaks of.
    fn of_error(&self, error: &TractError) -> Option<&Named> {
        let texts: Vec<String> = error.chain().map(ToString::to_string).collect();
        texts.iter().rev().find_map(|text| places(text).into_iter().find_map(|at| self.find(at)))
    }

    /// The node with bodies that an error comes from, if it is in a body.
    fn around(&self, error: &TractError, inner: Option<&Named>) -> Option<&Named> {
        let texts = error.chain().map(ToString::to_string);
        let mut named =
            texts.filter_map(|text| places(&text).into_iter().find_map(|at| self.find(at)));
        let outer = named.find(|node| ["If", "Loop", "Scan"].contains(&&*node.operator))?;
        inner.is_some_and(|inner| inner.name != outer.name).then_some(outer)
    }

    /// The error for a user.
    pub(crate) fn told(&self, error: &TractError, when: When, sources: Option<&Sources>) -> String {
        log::info!("{error:#}");
        let node = self.of_error(error);
        let (why, late) = match node {
            // tract says no more than that a condition of its own failed.
            Some(node) if node.operator == "If" && when == When::Preparing && !said(error) => {
                let why = "its branches make values of different sizes, and which one is taken is \
                           only known when the model runs";
                (why.into(), true)
            }
            _ => why(error, when),
        };
        let name = node.map(|node| &*node.name);
        let mut text = match node {
            Some(node) => format!("node {}: {}: {why}", shown(&node.name), node.operator),
            None => why,
        };
        if let Some(outer) = self.around(error, node) {
            text = format!("node {}: {}: {text}", shown(&outer.name), outer.operator);
        }
        if let Some(hint) = hint(error, when, late, sources.zip(name)) {
            text.push_str(". ");
            text.push_str(&hint);
        }
        text
    }
}

/// Whether an error is in words of ours.
fn said(error: &TractError) -> bool {
    error.chain().any(|cause| cause.is::<UserError>())
}

/// Where in tract's text the name of a node may start.
fn places(text: &str) -> Vec<&str> {
    const BEFORE: [&str; 5] =
        ["Building node ", "Wiring node \"", "invocation for ", "const-folding ", "node \""];
    let after = |before: &str| text.find(before).map(|at| &text[at + before.len()..]);
    let mut places: Vec<&str> = BEFORE.into_iter().filter_map(after).collect();
    // A node shows itself as `#7 "its name" Operator`.
    for (at, _) in text.match_indices('#') {
        let rest = text[at + 1..].trim_start_matches(|c: char| c.is_ascii_digit());
        places.extend(rest.strip_prefix(" \""));
    }
    places
}

/// Why, in words for a user; and whether it is for want of a value that comes with a run only.
fn why(error: &TractError, when: When) -> (String, bool) {
    if let Some(said) = error.chain().find_map(|cause| cause.downcast_ref::<UserError>()) {
        let said = plain_sizes(&said.to_string());
        let late = said.contains("only known when");
        return (said, late);
    }
    let root = error.root_cause().to_string();
    if root.contains("Undetermined symbol") {
        let why = match when {
            When::Preparing => "it needs a size that is only known when the model runs",
            When::Running => "a size that it needs does not follow from the inputs of this run",
        };
        return (why.into(), when == When::Preparing);
    }
    let disagree = ["unify", "broadcast", "ncompatible", "shape", "rank"];
    let why = match when {
        _ if sizes(&root).is_some() => {
            let (one, other) = sizes(&root).unwrap_or_default();
            format!(
                "its inputs do not fit together: a size is {one} in one place and {other} in another"
            )
        }
        _ if disagree.iter().any(|word| root.contains(word)) => {
            "the shapes or element types of its inputs do not fit together".into()
        }
        When::Preparing => "it cannot be prepared for inputs of these shapes".into(),
        When::Running => "it cannot be computed on the values of this run".into(),
    };
    (why, false)
}

/// A text with sizes as numbers and symbols as their names, which tract writes as `Val(2)` and
/// `Sym(n)`.
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

/// The two sizes that tract found to differ.
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

/// What a user can do.
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
                format!("Give the policy a value for what it depends on: {}", each.join(", "))
            }
        });
    }
    // Words of ours say enough.
    if said(error) {
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

/// Most inputs that a message names.
const NAMED: usize = 4;

/// Which inputs of a model can decide the sizes of what its nodes make.
#[derive(Default)]
pub(crate) struct Sources {
    /// For each node by its name, what it reads.
    reads: HashMap<String, Vec<String>>,
    /// For each value, the node that makes it.
    makers: HashMap<String, String>,
    /// Inputs of integers and truths, which can have one value in a policy.
    inputs: Vec<String>,
    /// The nodes that choose between branches, by name.
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

    /// What a node reads, its bodies included. The protobuf decoder has bounded the nesting.
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
                // A node of a body is found by its own name as well.
                if !inner.name.is_empty() && inner.name != name {
                    self.add(inner, &inner.name.clone());
                }
            }
        }
    }

    /// The inputs that a node depends on, or its condition if it has one, and that a policy can give a
    /// value.
    fn of_node(&self, name: &str) -> Vec<String> {
        let mut seen: HashSet<&str> = HashSet::from([name]);
        let mut next: Vec<&str> = vec![name];
        let mut found: Vec<String> = Vec::new();
        while let Some(node) = next.pop() {
            // What an `If` reads first is its condition.
            let only = if node == name && self.choices.contains(name) { 1 } else { usize::MAX };
            for value in self.reads.get(node).into_iter().flatten().take(only) {
                if self.inputs.contains(value) && !found.contains(value) && found.len() < NAMED {
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
