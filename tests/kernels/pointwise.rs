//! Programs of elementwise steps: random graphs.

use proptest::collection::vec;
use proptest::prelude::*;

use crate::compare::{Net, cases};

const BINARY: [&str; 6] = ["Add", "Sub", "Mul", "Div", "Min", "Max"];
const UNARY: [&str; 9] =
    ["Sqrt", "Abs", "Neg", "Exp", "Tanh", "Sigmoid", "Reciprocal", "Relu", "Erf"];

#[derive(Clone, Debug)]
enum Node {
    /// The operator, and the indices of its operands among the previous values.
    Binary(usize, prop::sample::Index, prop::sample::Index),
    Unary(usize, prop::sample::Index),
}

#[derive(Clone, Debug)]
struct Leaf {
    constant: bool,
    /// The dimensions, from the last, along which it has one element.
    repeated: u8,
    rank: usize,
}

fn leaf() -> impl Strategy<Value = Leaf> {
    (prop::bool::weighted(0.3), prop_oneof![2 => Just(0u8), 3 => 0..16u8], 0..5usize)
        .prop_map(|(constant, repeated, rank)| Leaf { constant, repeated, rank })
}

fn nodes(max: usize) -> impl Strategy<Value = Vec<Node>> {
    let index = any::<prop::sample::Index>;
    let node = prop_oneof![
        3 => (0..BINARY.len(), index(), index()).prop_map(|(op, a, b)| Node::Binary(op, a, b)),
        2 => (0..UNARY.len(), index()).prop_map(|(op, a)| Node::Unary(op, a)),
    ];
    vec(node, 1..max)
}

/// Adds a node whose result is between −1 and 1, so that rounding errors stay small: divisors and
/// radicands are at least a half, and large results are clipped.
fn add(net: &mut Net, values: &[String], node: &Node) -> String {
    let value = |index: &prop::sample::Index| values[index.index(values.len())].clone();
    let positive = |net: &mut Net, value: &str| {
        let half = net.constant_of(&[], &[0.5]);
        let absolute = net.op("Abs", &[value], &[]);
        net.op("Add", &[&absolute, &half], &[])
    };
    let (result, grows) = match node {
        Node::Binary(op, a, b) => {
            let (op, a, mut b) = (BINARY[*op], value(a), value(b));
            if op == "Div" {
                b = positive(net, &b);
            }
            (net.op(op, &[&a, &b], &[]), !matches!(op, "Mul" | "Min" | "Max"))
        }
        Node::Unary(op, a) => {
            let (op, mut a) = (UNARY[*op], value(a));
            if matches!(op, "Sqrt" | "Reciprocal") {
                a = positive(net, &a);
            }
            (net.op(op, &[&a], &[]), matches!(op, "Sqrt" | "Exp" | "Reciprocal"))
        }
    };
    if !grows {
        return result;
    }
    let (low, high) = (net.constant_of(&[], &[-1.0]), net.constant_of(&[1], &[1.0]));
    let result = net.op("Max", &[&result, &low], &[]);
    net.op("Min", &[&result, &high], &[])
}

fn graph(dims: &[i64], leaves: &[Leaf], nodes: &[Node], outputs: &[bool]) -> Net {
    let mut net = Net::new();
    let mut values = vec![net.input(dims)];
    for leaf in leaves {
        let missing = dims.len() - leaf.rank.min(dims.len());
        let dims: Vec<i64> = dims[missing..]
            .iter()
            .rev()
            .enumerate()
            .map(|(at, dim)| if leaf.repeated >> at & 1 == 1 { 1 } else { *dim })
            .collect::<Vec<i64>>()
            .into_iter()
            .rev()
            .collect();
        let leaf = if leaf.constant { net.constant(&dims) } else { net.input(&dims) };
        values.push(leaf);
    }
    for (at, node) in nodes.iter().enumerate() {
        let result = add(&mut net, &values, node);
        if outputs.get(at).is_some_and(|output| *output) {
            net.output(&result);
        }
        values.push(result);
    }
    // The remaining values are added up in the last output.
    let mut last = values[0].clone();
    for value in &values[1..] {
        last = net.op("Add", &[&last, value], &[]);
    }
    net.output(&last);
    net
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn any_graph(
        dims in vec(prop_oneof![1 => Just(1i64), 4 => 2..9i64, 1 => 15..40i64], 1..5),
        leaves in vec(leaf(), 0..6),
        nodes in nodes(14),
        outputs in vec(prop::bool::weighted(0.15), 14),
    ) {
        graph(&dims, &leaves, &nodes, &outputs).agrees(&[]);
    }
}

proptest! {
    #![proptest_config(cases(15))]

    /// More steps and inputs than one program supports.
    #[test]
    fn any_large_graph(
        dims in vec(2..7i64, 3),
        leaves in vec(leaf(), 10..20),
        nodes in nodes(60),
        outputs in vec(prop::bool::weighted(0.05), 60),
    ) {
        graph(&dims, &leaves, &nodes, &outputs).agrees(&["NativePointwise"]);
    }
}

#[test]
fn all_steps() {
    // Lengths at the boundaries of vectors and chunks.
    for len in [1, 3, 4, 8, 15, 16, 17, 511, 512, 513, 1030] {
        let mut net = Net::new();
        let (x, y) = (net.input(&[3, len]), net.input(&[3, 1]));
        for op in BINARY {
            let first = net.op(op, &[&x, &y], &[]);
            let second = net.op(op, &[&y, &first], &[]);
            let third = net.op(op, &[&second, &second], &[]);
            net.output(&first);
            net.output(&second);
            net.output(&third);
        }
        for op in UNARY {
            let positive = net.op("Abs", &[&x], &[]);
            let result = net.op(op, &[if op == "Sqrt" { &positive } else { &x }], &[]);
            net.output(&result);
        }
        net.agrees(&["NativePointwise"]);
    }
}

/// Empty tensors need no kernel.
#[test]
fn empty_tensors() {
    for dims in [&[0][..], &[2, 0, 3], &[0, 4]] {
        let mut net = Net::new();
        let (x, one) = (net.input(dims), net.constant_of(&[1], &[1.0]));
        let sum = net.op("Add", &[&x, &one], &[]);
        let result = net.op("Tanh", &[&sum], &[]);
        net.output(&result);
        let moved = net.op("Transpose", &[&result], &[]);
        net.output(&moved);
        net.agrees_exactly(&[]);
    }
    let mut net = Net::new();
    let (x, weights) = (net.input(&[0, 4]), net.constant(&[4, 3]));
    let product = net.op("MatMul", &[&x, &weights], &[]);
    net.output(&product);
    net.agrees_exactly(&[]);
    let mut net = Net::new();
    let (x, y) = (net.input(&[2, 0]), net.input(&[0, 3]));
    let product = net.op("MatMul", &[&x, &y], &[]);
    net.output(&product);
    net.agrees_exactly(&[]);
    let mut net = Net::new();
    let (x, weights) = (net.input(&[0, 2, 5, 5]), net.constant(&[3, 2, 3, 3]));
    let images = net.op("Conv", &[&x, &weights], &[]);
    net.output(&images);
    net.agrees_exactly(&[]);
}

/// Two of three equal nodes are outputs. tract's pass that merges equal nodes fails on that.
#[test]
fn equal_nodes_of_which_two_are_outputs() {
    let mut net = Net::new();
    let x = net.input(&[3]);
    let [a, b, c] = [(); 3].map(|()| net.op("Neg", &[&x], &[]));
    net.output(&a);
    net.output(&c);
    let root = net.op("Add", &[&b, &x], &[]);
    net.output(&root);
    net.agrees_exactly(&[]);
}
