//! Mutates models: changes an attribute, operator, shape, type, weight or edge, or adds a node of
//! another model.

use crate::protobuf::{Field, Kind, Message, Value, int, put};
use crate::random::Random;

/// Parts of the seeds, for use in other models.
#[derive(Default)]
pub(crate) struct Pool {
    pub models: Vec<Message>,
    operators: Vec<String>,
    nodes: Vec<Message>,
    attributes: Vec<Message>,
    texts: Vec<Vec<u8>>,
}

impl Pool {
    pub(crate) fn add(&mut self, model: Message) {
        let mut copy = model.clone();
        copy.visit(&mut |message| match message.kind {
            Kind::Node => {
                self.operators.extend(message.texts(4));
                self.nodes.push(message.clone());
            }
            Kind::Attribute => {
                self.texts.extend(message.texts(4).map(String::into_bytes));
                self.attributes.push(message.clone());
            }
            _ => {}
        });
        self.models.push(model);
    }

    /// Removes duplicates, so that all names are equally likely.
    pub(crate) fn finish(mut self) -> Pool {
        self.operators.sort();
        self.operators.dedup();
        self.texts.sort();
        self.texts.dedup();
        self
    }
}

const INTERESTING: [i64; 24] = [
    0,
    1,
    2,
    3,
    4,
    5,
    7,
    8,
    16,
    -1,
    -2,
    -3,
    100,
    255,
    256,
    65536,
    1 << 20,
    i32::MAX as i64,
    1 << 31,
    1 << 32,
    (1 << 32) + 1,
    i32::MIN as i64,
    i64::MAX,
    i64::MIN,
];
const FLOATS: [f32; 10] =
    [0.0, -0.0, 1.0, -1.0, 0.5, 1e-30, 1e30, f32::INFINITY, f32::NAN, f32::MIN_POSITIVE];

/// Applies one to four mutations to a model.
pub(crate) fn mutate(model: &mut Message, pool: &Pool, random: &mut Random) {
    for _ in 0..1 + random.below(4) {
        match random.below(14) {
            0 | 1 => number_of_attribute(model, random),
            2 => text_of_attribute(model, pool, random),
            3 => attribute(model, pool, random),
            4 => operator(model, pool, random),
            5 | 6 => edge(model, random),
            7 => weights(model, random),
            8 => dimension(model, random),
            9 => element_type(model, random),
            10 => version(model, random),
            11 => node_from_elsewhere(model, pool, random),
            12 => order(model, random),
            _ => anything(model, random),
        }
    }
}

/// Changes a random message of a kind.
fn pick(model: &mut Message, kind: Kind, random: &mut Random, change: impl FnOnce(&mut Message)) {
    let mut count = 0;
    model.visit(&mut |message| count += usize::from(message.kind == kind));
    if count == 0 {
        return;
    }
    let (mut left, mut change) = (random.below(count), Some(change));
    model.visit(&mut |message| {
        if message.kind == kind {
            if left == 0
                && let Some(change) = change.take()
            {
                return change(message);
            }
            left = left.wrapping_sub(1);
        }
    });
}

fn interesting(random: &mut Random, old: i64) -> i64 {
    match random.below(4) {
        0 => old.wrapping_add(1),
        1 => old.wrapping_sub(1),
        _ => INTERESTING[random.below(INTERESTING.len())],
    }
}

fn number(value: &mut Value, packed: bool, random: &mut Random) {
    match value {
        Value::Int(int) => *int = interesting(random, *int as i64) as u64,
        Value::Fixed32(bytes) => *bytes = FLOATS[random.below(FLOATS.len())].to_le_bytes(),
        Value::Bytes(bytes) if packed => {
            let (mut rest, mut ints) = (&bytes[..], Vec::new());
            while let Some(int) = int(&mut rest) {
                ints.push(int);
            }
            if !ints.is_empty() {
                let at = random.below(ints.len());
                ints[at] = interesting(random, ints[at] as i64) as u64;
                bytes.clear();
                ints.iter().for_each(|int| put(bytes, *int));
            }
        }
        _ => {}
    }
}

fn number_of_attribute(model: &mut Message, random: &mut Random) {
    let mut own = Random(random.next());
    pick(model, Kind::Attribute, random, |attribute| {
        // f, i, floats, ints
        let numbers: Vec<usize> = (0..attribute.fields.len())
            .filter(|at| [2, 3, 7, 8].contains(&attribute.fields[*at].number))
            .collect();
        let Some(at) = own.one(&numbers).copied() else { return };
        match own.below(6) {
            // A list grows, or shrinks.
            0 if attribute.fields[at].number >= 7 => {
                let copy = attribute.fields[at].clone();
                attribute.fields.insert(at, copy);
            }
            1 if attribute.fields[at].number >= 7 => drop(attribute.fields.remove(at)),
            _ => {
                let packed = attribute.fields[at].number == 8;
                number(&mut attribute.fields[at].value, packed, &mut own);
            }
        }
    });
}

fn text_of_attribute(model: &mut Message, pool: &Pool, random: &mut Random) {
    let mut own = Random(random.next());
    pick(model, Kind::Attribute, random, |attribute| {
        let text = attribute.fields.iter_mut().find(|field| field.number == 4);
        if let (Some(field), Some(text)) = (text, own.one(&pool.texts)) {
            field.value = Value::Bytes(text.clone());
        }
    });
}

/// Adds an attribute of another node, or removes one.
fn attribute(model: &mut Message, pool: &Pool, random: &mut Random) {
    let mut own = Random(random.next());
    pick(model, Kind::Node, random, |node| {
        let own_ones: Vec<usize> =
            (0..node.fields.len()).filter(|at| node.fields[*at].number == 5).collect();
        if own.below(3) == 0 {
            if let Some(at) = own.one(&own_ones) {
                node.fields.remove(*at);
            }
            return;
        }
        // Preferably one that this operator has.
        let operator = node.texts(4).next();
        let alike: Vec<&Message> = pool
            .nodes
            .iter()
            .filter(|other| other.texts(4).next() == operator)
            .flat_map(|other| other.children(Kind::Attribute))
            .collect();
        let chosen = match own.below(4) {
            0 => own.one(&pool.attributes),
            _ => own.one(&alike).copied(),
        };
        let Some(chosen) = chosen.cloned() else { return };
        let name = chosen.texts(1).next();
        node.fields.retain(|field| match &field.value {
            Value::Message(message) => message.texts(1).next() != name,
            _ => true,
        });
        node.fields.push(Field { number: 5, value: Value::Message(chosen) });
    });
}

fn operator(model: &mut Message, pool: &Pool, random: &mut Random) {
    let mut own = Random(random.next());
    pick(model, Kind::Node, random, |node| {
        let name = node.fields.iter_mut().find(|field| field.number == 4);
        if let (Some(field), Some(name)) = (name, own.one(&pool.operators)) {
            field.value = Value::Bytes(name.clone().into_bytes());
        }
    });
}

/// The names of all values of a graph.
fn values(graph: &Message) -> Vec<String> {
    let nodes = graph.children(Kind::Node).flat_map(|node| node.texts(2).collect::<Vec<_>>());
    let inputs = graph.children(Kind::ValueInfo).flat_map(|value| value.texts(1));
    let weights = graph.children(Kind::Tensor).flat_map(|tensor| tensor.texts(8));
    nodes.chain(inputs).chain(weights).collect()
}

/// Changes, duplicates or removes an input or output of a node.
fn edge(model: &mut Message, random: &mut Random) {
    let mut own = Random(random.next());
    pick(model, Kind::Graph, random, |graph| {
        let mut names = values(graph);
        names.push(String::new());
        pick(graph, Kind::Node, &mut Random(own.next()), |node| {
            let ends: Vec<usize> = (0..node.fields.len())
                .filter(|at| node.fields[*at].number == 1 || node.fields[*at].number == 2)
                .collect();
            let Some(at) = own.one(&ends).copied() else { return };
            match own.below(5) {
                0 => drop(node.fields.remove(at)),
                1 => {
                    let copy = node.fields[at].clone();
                    node.fields.insert(at, copy);
                }
                _ if node.fields[at].number == 1 => {
                    let name = own.one(&names).cloned().unwrap_or_default();
                    node.fields[at].value = Value::Bytes(name.into_bytes());
                }
                _ => {}
            }
        });
    });
}

fn weights(model: &mut Message, random: &mut Random) {
    let mut own = Random(random.next());
    pick(model, Kind::Tensor, random, |tensor| {
        let at = own.below(tensor.fields.len());
        let Some(field) = tensor.fields.get_mut(at) else { return };
        match (field.number, &mut field.value) {
            (1, value) => number(value, true, &mut own),
            (2, Value::Int(dtype)) => *dtype = own.below(24) as u64,
            (_, Value::Bytes(bytes)) => {
                if !bytes.is_empty() {
                    let place = own.below(bytes.len());
                    match own.below(3) {
                        0 => bytes[place] = own.next() as u8,
                        1 => bytes.truncate(place),
                        _ => bytes[place..].fill(0xff),
                    }
                }
            }
            (_, value) => number(value, false, &mut own),
        }
    });
}

fn dimension(model: &mut Message, random: &mut Random) {
    let mut own = Random(random.next());
    pick(model, Kind::Dim, random, |dim| {
        let field = match own.below(5) {
            0 => Field { number: 2, value: Value::Bytes(b"n".to_vec()) },
            1 => Field { number: 1, value: Value::Int(interesting(&mut own, 2) as u64) },
            _ => Field { number: 1, value: Value::Int(own.below(7) as u64) },
        };
        dim.fields = vec![field];
    });
}

fn element_type(model: &mut Message, random: &mut Random) {
    let mut own = Random(random.next());
    pick(model, Kind::TensorType, random, |tensor| {
        if let Some(field) = tensor.fields.iter_mut().find(|field| field.number == 1) {
            field.value = Value::Int(own.below(24) as u64);
        }
    });
}

fn version(model: &mut Message, random: &mut Random) {
    let mut own = Random(random.next());
    pick(model, Kind::OperatorSet, random, |set| {
        if let Some(field) = set.fields.iter_mut().find(|field| field.number == 2) {
            field.value = Value::Int(1 + own.below(28) as u64);
        }
    });
}

/// Adds a node of another model that reads values of this one; its first output becomes the
/// model's.
fn node_from_elsewhere(model: &mut Message, pool: &Pool, random: &mut Random) {
    let mut own = Random(random.next());
    pick(model, Kind::Graph, random, |graph| {
        let Some(mut node) = own.one(&pool.nodes).cloned() else { return };
        let names = values(graph);
        let Some(Value::Message(output)) =
            graph.fields.iter_mut().find(|field| field.number == 12).map(|field| &mut field.value)
        else {
            return;
        };
        for (at, field) in node.fields.iter_mut().enumerate() {
            match (field.number, &field.value) {
                (1, Value::Bytes(name)) if !name.is_empty() => {
                    let name = own.one(&names).cloned().unwrap_or_default();
                    field.value = Value::Bytes(name.into_bytes());
                }
                (2, _) => field.value = Value::Bytes(format!("elsewhere{at}").into_bytes()),
                _ => {}
            }
        }
        let Some(made) = node.texts(2).next() else { return };
        for field in &mut output.fields {
            match &mut field.value {
                Value::Bytes(name) if field.number == 1 => *name = made.clone().into_bytes(),
                // Without a declared shape.
                Value::Message(declared) => declared.visit(&mut |message| {
                    if message.kind == Kind::TensorType {
                        message.fields.retain(|field| field.number != 2);
                    }
                }),
                _ => {}
            }
        }
        let after =
            graph.fields.iter().rposition(|field| field.number == 1).map_or(0, |last| last + 1);
        graph.fields.insert(after, Field { number: 1, value: Value::Message(node) });
    });
}

/// Swaps, duplicates or removes fields of a graph.
fn order(model: &mut Message, random: &mut Random) {
    let mut own = Random(random.next());
    pick(model, Kind::Graph, random, |graph| {
        let count = graph.fields.len();
        if count == 0 {
            return;
        }
        let (a, b) = (own.below(count), own.below(count));
        match own.below(3) {
            0 => graph.fields.swap(a, b),
            1 => drop(graph.fields.remove(a)),
            _ => graph.fields.insert(b, graph.fields[a].clone()),
        }
    });
}

/// Changes any field of any message.
fn anything(model: &mut Message, random: &mut Random) {
    let mut count = 0;
    model.visit(&mut |message| count += message.fields.len());
    let (mut left, mut own) = (random.below(count), Random(random.next()));
    model.visit(&mut |message| {
        let fields = message.fields.len();
        if left < fields {
            let field = &mut message.fields[left];
            match (&mut field.value, own.below(3)) {
                (_, 0) => field.number = 1 + own.below(26) as u64,
                (Value::Bytes(bytes), _) if !bytes.is_empty() => {
                    let at = own.below(bytes.len());
                    bytes[at] = own.next() as u8;
                }
                (value, _) => number(value, false, &mut own),
            }
            left = usize::MAX;
        } else if left != usize::MAX {
            left -= fields;
        }
    });
}
