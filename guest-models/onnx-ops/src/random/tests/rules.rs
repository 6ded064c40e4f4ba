//! What the numbers of a node depend on: the seed, the node, and the iterations of the loops around
//! it; and that no pass computes them before a run.

use tract_onnx::prelude::{DatumType, Tensor};

use crate::testing::{Case, Graph, case, graph, row, scalar, tensor};

const F32: DatumType = DatumType::F32;

/// A node whose data are all given at run time, or all constants.
fn every_operator() -> Vec<(&'static str, Case)> {
    let data = || tensor(&[4, 8], &[0.5f32; 32]);
    let dropout = case("Dropout").input(data()).input(scalar(0.5f32)).input(scalar(true));
    vec![
        ("RandomNormal", case("RandomNormal").ints("shape", &[4, 8])),
        ("RandomUniform", case("RandomUniform").ints("shape", &[4, 8])),
        ("RandomNormalLike", case("RandomNormalLike").input(data())),
        ("RandomUniformLike", case("RandomUniformLike").input(data())),
        ("Bernoulli", case("Bernoulli").input(data())),
        ("Multinomial", case("Multinomial").int("sample_size", 32).input(data())),
        ("Dropout", dropout),
        ("Loop", loops(noise("noise"), 3)),
        (
            "If",
            case("If")
                .graph("then_branch", noise_of_branch())
                .graph("else_branch", noise_of_branch())
                .input(scalar(true)),
        ),
        ("Scan", scan(4)),
    ]
}

/// A body of a Loop that draws 8 numbers in each iteration.
fn noise(output: &str) -> Graph {
    let body = graph(&[("at", DatumType::I64), ("go", DatumType::Bool)], &["going", output]);
    let body = body.node("Identity", &["go"], "going").node("RandomUniform", &[], output);
    body.last_ints("shape", &[8])
}

fn noise_of_branch() -> Graph {
    graph(&[], &["noise"]).node("RandomNormal", &[], "noise").last_ints("shape", &[8])
}

fn loops(body: Graph, iterations: i64) -> Case {
    case("Loop").graph("body", body).input(scalar(iterations)).input(scalar(true))
}

fn scan(iterations: usize) -> Case {
    let body = graph(&[("x", F32)], &["noise"]).node("RandomUniformLike", &["x"], "noise");
    let x = tensor(&[iterations, 8], &vec![0f32; iterations * 8]);
    case("Scan").graph("body", body).int("num_scan_inputs", 1).input(x)
}

fn bytes(outputs: &[Tensor]) -> Vec<Vec<u8>> {
    outputs.iter().map(|output| output.as_bytes().to_vec()).collect()
}

#[test]
fn numbers_follow_from_the_seed_of_the_run_however_a_node_is_prepared() {
    for (name, node) in every_operator() {
        let runs = [usize::MAX, 1, 0].map(|at_run_time| {
            node.outputs_with_seeds(at_run_time, &[0, 1, 0, u32::MAX])
                .iter()
                .map(|outputs| bytes(outputs))
                .collect::<Vec<_>>()
        });
        for run in &runs {
            assert!(run[0] == run[2], "{name}: two runs with the same seed differ");
            let all = [&run[0], &run[1], &run[3]];
            assert!(all[0] != all[1] && all[1] != all[2], "{name} was computed before its run");
            assert!(*run == runs[0], "{name} depends on which inputs are constants");
        }
    }
}

#[test]
fn nodes_of_one_kind_with_the_same_input_differ() {
    for name in ["RandomNormalLike", "RandomUniformLike", "Bernoulli"] {
        let body = |seed: Option<f32>| {
            let with = |body: Graph| match seed {
                Some(seed) => body.last_float("seed", seed),
                None => body,
            };
            let body = graph(&[], &["one", "other"]);
            let body = with(body.node(name, &["x"], "one"));
            with(body.node(name, &["x"], "other"))
        };
        let pair = |seed| {
            let node = case("If").graph("then_branch", body(seed)).graph("else_branch", body(seed));
            let node = node.outputs(2).input(scalar(true)).around("x", row(&[0.5f32; 64]));
            [usize::MAX, 0].map(|at_run_time| {
                let outputs = node.outputs_with_seeds(at_run_time, &[9]).remove(0);
                (bytes(&outputs[..1]), bytes(&outputs[1..]))
            })
        };
        for (one, other) in pair(None) {
            assert!(one != other, "{name}: two nodes draw the same numbers");
        }
        // As in onnxruntime.
        for (one, other) in pair(Some(3.0)) {
            assert!(one == other, "{name}: two nodes with the same seed differ");
        }
    }
}

#[test]
fn seed_of_a_node_is_stronger_than_that_of_the_run() {
    let of = |node: Case| {
        let runs = node.outputs_with_seeds(0, &[0, 1]);
        assert_eq!(bytes(&runs[0]), bytes(&runs[1]));
        bytes(&runs[0])
    };
    let normal = |seed| case("RandomNormal").ints("shape", &[8]).float("seed", seed);
    assert_ne!(of(normal(1.0)), of(normal(2.0)));
    let data = || row(&[0.5f32; 64]);
    let bernoulli = |seed| case("Bernoulli").float("seed", seed).input(data());
    assert_ne!(of(bernoulli(1.0)), of(bernoulli(2.0)));
    let dropout = |seed| {
        let node = case("Dropout").int("seed", seed).input(data());
        node.input(scalar(0.5f32)).input(scalar(true))
    };
    // All 64 bits count.
    assert_ne!(of(dropout(1)), of(dropout(1 + (1 << 32))));
    let multinomial = |seed| {
        let node = case("Multinomial").float("seed", seed).int("sample_size", 64);
        node.input(tensor(&[1, 4], &[0f32; 4]))
    };
    assert_ne!(of(multinomial(1.0)), of(multinomial(2.0)));
}

#[test]
fn iterations_of_loops_draw_different_numbers() {
    for (node, count) in [(loops(noise("noise"), 3), 3), (scan(4), 4)] {
        for at_run_time in [usize::MAX, 0] {
            let rows = node.outputs_with_seeds(at_run_time, &[5]).remove(0).remove(0);
            let mut rows: Vec<&[u8]> =
                rows.as_bytes().chunks(rows.as_bytes().len() / count).collect();
            rows.sort_unstable();
            rows.dedup();
            assert_eq!(rows.len(), count);
        }
    }
}

#[test]
fn iterations_draw_different_numbers_in_nested_loops_and_branches() {
    let inner = graph(&[("at", DatumType::I64), ("go", DatumType::Bool)], &["going", "made"]);
    let branch = || noise_of_branch();
    let inner = inner.node("Identity", &["go"], "going").node("If", &["outer_go"], "made");
    let inner = inner.last_graph("then_branch", branch()).last_graph("else_branch", branch());
    let outer = graph(&[("at", DatumType::I64), ("outer_go", DatumType::Bool)], &["going", "all"]);
    let outer = outer.node("Identity", &["outer_go"], "going");
    let outer = outer.constant("three", &scalar(3i64)).node("Loop", &["three", "outer_go"], "all");
    let node = loops(outer.last_graph("body", inner), 2);
    let all = node.outputs_with_seeds(usize::MAX, &[5]).remove(0).remove(0);
    assert_eq!(all.shape(), [2, 3, 8]);
    let mut rows: Vec<&[u8]> = all.as_bytes().chunks(8 * 4).collect();
    rows.sort_unstable();
    rows.dedup();
    assert_eq!(rows.len(), 6);
}

#[test]
fn sizes_that_are_known_in_runs_only_do_not_change_the_numbers() {
    // The positions of the numbers that are not zero.
    let body = graph(&[], &["noise"]).node("NonZero", &["x"], "places");
    let body = body.node("RandomNormalLike", &["places"], "noise").last_int("dtype", 1);
    let other = graph(&[], &["none"]).constant("none", &tensor(&[1, 0], &[0f32; 0]));
    let node = case("If").graph("then_branch", body).graph("else_branch", other);
    let of = |x: &[f32]| {
        let node = node.clone().input(scalar(true)).around("x", row(x));
        node.outputs_with_seeds(usize::MAX, &[1]).remove(0).remove(0)
    };
    let (long, short) = (of(&[1.0, 0.0, 2.0, 3.0, 4.0, 5.0]), of(&[1.0, 2.0, 0.0]));
    assert_eq!((long.shape(), short.shape()), (&[1, 5][..], &[1, 2][..]));
    assert_eq!(long.as_bytes()[..8], *short.as_bytes());
}

#[test]
fn plans_with_symbols_draw_the_same_numbers_as_exact_ones() {
    let data = || tensor(&[5, 3], &[0.25f32; 15]);
    for name in ["RandomNormalLike", "RandomUniformLike", "Bernoulli"] {
        let node = || case(name).input(data());
        let exact = node().outputs_at_run_time();
        node().gives_open(&[(0, 0, "n")], &["n,3"], &exact, 0.0);
    }
    let node = || case("Multinomial").int("sample_size", 7).input(data());
    let exact = node().outputs_at_run_time();
    node().gives_open(&[(0, 0, "n")], &["n,7"], &exact, 0.0);
    let node =
        || case("Dropout").outputs(2).input(data()).input(scalar(0.5f32)).input(scalar(true));
    let exact = node().outputs_at_run_time();
    node().gives_open(&[(0, 0, "n")], &["n,3", "n,3"], &exact, 0.0);
}
