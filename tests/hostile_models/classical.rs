//! Hostile classical models: invalid trees, mismatched lists, NaN, and operators in the wrong
//! domain.

use belljar::Tensor;

use crate::support::onnx::{
    FLOAT, Graph, INT64, ML, Message, fixed, floats_attribute, int_attribute, ints_attribute, node,
    string_attribute, strings_attribute, tensor_attribute, tensor_f32, value, value_of_any_shape,
};
use crate::{host_still_answers, ones, refused, run};

/// A model of one operator of the domain on a matrix.
fn classical(op: &str, outputs: &[(&str, i64)], version: i64, attributes: &[Message]) -> Vec<u8> {
    let names: Vec<&str> = outputs.iter().map(|(name, _)| *name).collect();
    Graph {
        nodes: vec![node(op, &["x"], &names, attributes).bytes(7, ML)],
        inputs: vec![value("x", FLOAT, &fixed(&[2, 3]))],
        outputs: outputs.iter().map(|(name, dtype)| value_of_any_shape(name, *dtype)).collect(),
        ..Graph::default()
    }
    .classical(version)
}

const SCORES: [(&str, i64); 1] = [("y", FLOAT)];
const CLASSES: [(&str, i64); 2] = [("label", INT64), ("y", FLOAT)];

fn x() -> [(&'static str, Tensor); 1] {
    [("x", ones(&[2, 3]))]
}

/// The attributes of a tree of three nodes with the results 0.5 and 2.
#[derive(Clone)]
struct Tree {
    trees: Vec<i64>,
    ids: Vec<i64>,
    features: Vec<i64>,
    modes: Vec<&'static str>,
    thresholds: Vec<f32>,
    pass: Vec<i64>,
    fail: Vec<i64>,
    missing: Vec<i64>,
    vote_nodes: Vec<i64>,
    vote_ids: Vec<i64>,
    weights: Vec<f32>,
}

fn tree() -> Tree {
    Tree {
        trees: vec![0; 3],
        ids: vec![0, 1, 2],
        features: vec![2, 0, 0],
        modes: vec!["BRANCH_LEQ", "LEAF", "LEAF"],
        thresholds: vec![0.5, 0.0, 0.0],
        pass: vec![1, 0, 0],
        fail: vec![2, 0, 0],
        missing: vec![],
        vote_nodes: vec![1, 2],
        vote_ids: vec![0, 0],
        weights: vec![0.5, 2.0],
    }
}

fn regressor(tree: &Tree, more: &[Message]) -> Vec<u8> {
    regressor_of(tree, 1, more)
}

fn regressor_of(tree: &Tree, targets: i64, more: &[Message]) -> Vec<u8> {
    let mut attributes = vec![
        ints_attribute("nodes_treeids", &tree.trees),
        ints_attribute("nodes_nodeids", &tree.ids),
        ints_attribute("nodes_featureids", &tree.features),
        strings_attribute("nodes_modes", &tree.modes),
        floats_attribute("nodes_values", &tree.thresholds),
        ints_attribute("nodes_truenodeids", &tree.pass),
        ints_attribute("nodes_falsenodeids", &tree.fail),
        ints_attribute("nodes_missing_value_tracks_true", &tree.missing),
        ints_attribute("target_treeids", &vec![0; tree.vote_nodes.len()]),
        ints_attribute("target_nodeids", &tree.vote_nodes),
        ints_attribute("target_ids", &tree.vote_ids),
        floats_attribute("target_weights", &tree.weights),
        int_attribute("n_targets", targets),
    ];
    attributes.extend_from_slice(more);
    classical("TreeEnsembleRegressor", &SCORES, 3, &attributes)
}

#[test]
fn a_valid_tree_is_computed() {
    let outputs = run(&regressor(&tree(), &[]), &x()).unwrap();
    assert_eq!(outputs[0].1.as_slice::<f32>().unwrap(), [2.0, 2.0]);
    let x = Tensor::new(vec![0.0, 0.0, 0.5, 0.0, 0.0, f32::NAN], &[2, 3]).unwrap();
    let outputs = run(&regressor(&tree(), &[]), &[("x", x.clone())]).unwrap();
    assert_eq!(outputs[0].1.as_slice::<f32>().unwrap(), [0.5, 2.0]);
    let shared = Tree { pass: vec![2, 0, 0], ..tree() };
    let outputs = run(&regressor(&shared, &[]), &[("x", x.clone())]).unwrap();
    assert_eq!(outputs[0].1.as_slice::<f32>().unwrap(), [2.0, 2.0]);
    let missing = Tree { missing: vec![1, 0, 0], ..tree() };
    let outputs = run(&regressor(&missing, &[]), &[("x", x)]).unwrap();
    assert_eq!(outputs[0].1.as_slice::<f32>().unwrap(), [0.5, 0.5]);
}

/// Implementations disagree on transforms of missing scores.
#[test]
fn post_transforms_of_targets_without_votes_are_refused() {
    let outputs = run(&regressor_of(&tree(), 2, &[]), &x()).unwrap();
    assert_eq!(outputs[0].1.as_slice::<f32>().unwrap(), [2.0, 0.0, 2.0, 0.0]);
    for name in ["SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT"] {
        let transform = string_attribute("post_transform", name);
        refused(&regressor_of(&tree(), 2, &[transform]), &x(), "on which no leaf votes");
    }
}

#[test]
fn invalid_trees_are_refused() {
    let wrong: [(Tree, &str); 17] = [
        (Tree { pass: vec![0, 0, 0], ..tree() }, "leads back to itself"),
        (Tree { pass: vec![7, 0, 0], ..tree() }, "which does not exist"),
        (Tree { pass: vec![-1, 0, 0], ..tree() }, "which does not exist"),
        (Tree { fail: vec![i64::MAX, 0, 0], ..tree() }, "which does not exist"),
        (Tree { ids: vec![0, 1, 1], ..tree() }, "duplicate node 1 of tree 0"),
        (Tree { trees: vec![0, 0, 1], ..tree() }, "which does not exist"),
        (Tree { trees: vec![0, 1, 0], ..tree() }, "which does not exist"),
        (Tree { features: vec![3, 0, 0], ..tree() }, "the trees read 4 features"),
        (Tree { features: vec![-1, 0, 0], ..tree() }, "reads feature -1"),
        (Tree { features: vec![1 << 40, 0, 0], ..tree() }, "reads feature"),
        (Tree { thresholds: vec![f32::NAN, 0.0, 0.0], ..tree() }, "a threshold is NaN"),
        (Tree { thresholds: vec![0.0; 2], ..tree() }, "have different lengths"),
        (Tree { modes: vec!["BRANCH_UP", "LEAF", "LEAF"], ..tree() }, "BRANCH_UP"),
        (Tree { vote_nodes: vec![1, 9], ..tree() }, "a vote belongs to node 9"),
        (Tree { vote_ids: vec![0, 1], ..tree() }, "a vote is for target 1"),
        (Tree { weights: vec![0.5; 3], ..tree() }, "have different lengths"),
        (Tree { weights: vec![0.5, f32::INFINITY], ..tree() }, "a weight has a inf"),
    ];
    for (tree, why) in &wrong {
        refused(&regressor(tree, &[]), &x(), why);
    }
    let leaves = Tree {
        trees: vec![0, 1, 0],
        modes: vec!["LEAF"; 3],
        vote_nodes: vec![0],
        vote_ids: vec![0],
        weights: vec![0.5],
        ..tree()
    };
    refused(&regressor(&leaves, &[]), &x(), "the nodes of tree 0 are not listed together");
    let missing = Tree { missing: vec![1], ..tree() };
    refused(&regressor(&missing, &[]), &x(), "does not match the number of nodes");
    let missing = Tree { missing: vec![7, 0, 0], ..tree() };
    refused(&regressor(&missing, &[]), &x(), "has the value 7");
    let no_vote = Tree { vote_nodes: vec![1, 1], ..tree() };
    refused(&regressor(&no_vote, &[]), &x(), "a leaf has no vote");
    let base = floats_attribute("base_values", &[1.0, 2.0]);
    refused(&regressor(&tree(), &[base]), &x(), "2 base values do not match 1 targets");
    let transform = string_attribute("post_transform", "LOGISTIC");
    refused(&regressor(&tree(), &[transform]), &x(), "LOGISTIC of one target");
    let wide = Message::new().int(1, 3).int(2, 11).bytes(9, [0u8; 24]);
    let twice = tensor_attribute("nodes_values_as_tensor", wide);
    refused(&regressor(&tree(), &[twice]), &x(), "both nodes_values and");
    // A cycle of branches without a leaf.
    let round = Tree {
        modes: vec!["BRANCH_LEQ"; 3],
        pass: vec![1, 2, 1],
        fail: vec![2, 1, 2],
        vote_nodes: vec![],
        vote_ids: vec![],
        weights: vec![],
        ..tree()
    };
    refused(&regressor(&round, &[]), &x(), "leads back to itself");
    host_still_answers();
}

/// A chain of branches, evaluated without recursion.
#[test]
fn a_deep_tree_is_evaluated() {
    let deep = 200_000i64;
    let leaf = |at: i64| if at == deep { deep } else { at + deep + 1 };
    let mut tree = Tree {
        trees: vec![0; 2 * deep as usize + 1],
        ids: (0..=2 * deep).collect(),
        features: vec![0; 2 * deep as usize + 1],
        modes: vec!["BRANCH_GT"; deep as usize],
        thresholds: vec![0.0; 2 * deep as usize + 1],
        pass: (1..=deep).collect(),
        fail: (0..deep).map(leaf).collect(),
        missing: vec![],
        vote_nodes: (deep..=2 * deep).collect(),
        vote_ids: vec![0; deep as usize + 1],
        weights: vec![0.0; deep as usize + 1],
    };
    tree.modes.resize(2 * deep as usize + 1, "LEAF");
    tree.pass.resize(2 * deep as usize + 1, 0);
    tree.fail.resize(2 * deep as usize + 1, 0);
    tree.weights[0] = 7.0;
    let outputs = run(&regressor(&tree, &[]), &x()).unwrap();
    assert_eq!(outputs[0].1.as_slice::<f32>().unwrap(), [7.0, 7.0]);
}

#[test]
fn invalid_indexed_trees_are_refused() {
    let tensor = |dtype: i64, bytes: Vec<u8>, count: i64| {
        Message::new().int(1, count).int(2, dtype).bytes(9, bytes)
    };
    let floats = |values: &[f32]| {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        tensor(FLOAT, bytes, values.len() as i64)
    };
    let model = |roots: &[i64], pass: &[i64], pass_leaf: &[i64], mode: u8, members: &[f32]| {
        let mut attributes = vec![
            ints_attribute("tree_roots", roots),
            ints_attribute("nodes_featureids", &[0, 1]),
            tensor_attribute("nodes_splits", floats(&[0.5, 0.5])),
            tensor_attribute("nodes_modes", tensor(2, vec![mode; 2], 2)),
            ints_attribute("nodes_truenodeids", pass),
            ints_attribute("nodes_trueleafs", pass_leaf),
            ints_attribute("nodes_falsenodeids", &[0, 1]),
            ints_attribute("nodes_falseleafs", &[1, 1]),
            ints_attribute("leaf_targetids", &[0, 0]),
            tensor_attribute("leaf_weights", floats(&[1.0, 3.0])),
            int_attribute("n_targets", 1),
        ];
        if !members.is_empty() {
            attributes.push(tensor_attribute("membership_values", floats(members)));
        }
        classical("TreeEnsemble", &SCORES, 5, &attributes)
    };
    let outputs = run(&model(&[0], &[1, 1], &[0, 1], 3, &[]), &x()).unwrap();
    assert_eq!(outputs[0].1.as_slice::<f32>().unwrap(), [3.0, 3.0]);
    // Trees may share their nodes.
    let outputs = run(&model(&[0, 0], &[1, 1], &[0, 1], 3, &[]), &x()).unwrap();
    assert_eq!(outputs[0].1.as_slice::<f32>().unwrap(), [6.0, 6.0]);
    for (roots, pass, leaf, why) in [
        (&[0][..], [0, 1], [0, 1], "leads back to itself"),
        (&[0], [1, 0], [0, 0], "leads back to itself"),
        (&[7], [1, 1], [0, 1], "leads to node 7"),
        (&[-1], [1, 1], [0, 1], "leads to node -1"),
        (&[0], [1, 9], [0, 1], "leads to leaf 9"),
        (&[0], [1, 1], [0, 2], "a leaf flag is 2"),
        (&[], [1, 1], [0, 1], "the model has no trees"),
    ] {
        refused(&model(roots, &pass, &leaf, 0, &[]), &x(), why);
    }
    refused(&model(&[0], &[1, 1], &[0, 1], 9, &[]), &x(), "the node mode 9");
    refused(&model(&[0], &[1, 1], &[0, 1], 6, &[]), &x(), "no membership_values");
    let short = model(&[0], &[1, 1], &[0, 1], 6, &[1.0, f32::NAN]);
    refused(&short, &x(), "no membership_values");
    let long = model(&[0], &[1, 1], &[0, 1], 0, &[1.0, f32::NAN]);
    refused(&long, &x(), "membership_values has more sets");
    let open = model(&[0], &[1, 1], &[0, 1], 6, &[f32::NAN, f32::NAN, 1.0]);
    refused(&open, &x(), "does not end with a NaN");
}

#[test]
fn mismatched_linear_models_and_support_vectors_are_refused() {
    let labels = ints_attribute("classlabels_ints", &[3, 4]);
    let linear = |coefficients: &[f32], intercepts: &[f32], transform: &str| {
        let attributes = [
            floats_attribute("coefficients", coefficients),
            floats_attribute("intercepts", intercepts),
            string_attribute("post_transform", transform),
            labels.clone(),
        ];
        classical("LinearClassifier", &CLASSES, 1, &attributes)
    };
    let outputs = run(&linear(&[1.0; 6], &[0.0, 1.0], "NONE"), &x()).unwrap();
    assert_eq!(outputs[0].1.as_slice::<i64>().unwrap(), [4, 4]);
    refused(&linear(&[1.0; 5], &[0.0, 1.0], "NONE"), &x(), "5 coefficients do not match 2 targets");
    refused(&linear(&[1.0; 8], &[0.0, 1.0], "NONE"), &x(), "but the model has 4");
    refused(&linear(&[1.0; 6], &[0.0; 3], "NONE"), &x(), "3 intercepts do not match 2");
    refused(&linear(&[f32::NAN; 6], &[0.0; 2], "NONE"), &x(), "has a NaN");
    refused(&linear(&[1.0; 3], &[0.0], "SOFTMAX"), &x(), "one score for two classes");
    refused(&linear(&[1.0; 6], &[0.0; 2], "PROBIT"), &x(), "not between 0 and 1");
    refused(&linear(&[1.0; 6], &[0.0; 2], "FAST"), &x(), "has the value \"FAST\"");
    let svm = |per_class: &[i64], vectors: usize, coefficients: usize, more: &[Message]| {
        let mut attributes = vec![
            floats_attribute("coefficients", &vec![-1.0; coefficients]),
            floats_attribute("support_vectors", &vec![1.0; vectors]),
            ints_attribute("vectors_per_class", per_class),
            floats_attribute("rho", &[0.5]),
            labels.clone(),
        ];
        attributes.extend_from_slice(more);
        classical("SVMClassifier", &CLASSES, 1, &attributes)
    };
    assert!(run(&svm(&[1, 1], 6, 2, &[]), &x()).is_ok());
    refused(&svm(&[1], 6, 2, &[]), &x(), "vectors_per_class has 1 numbers");
    refused(&svm(&[-1, 3], 6, 2, &[]), &x(), "vectors_per_class has an invalid number");
    refused(&svm(&[i64::MAX, 1], 6, 2, &[]), &x(), "vectors_per_class has an invalid number");
    refused(&svm(&[0, 0], 6, 2, &[]), &x(), "cannot be divided into 0 support vectors");
    refused(&svm(&[1, 1], 7, 2, &[]), &x(), "7 numbers cannot be divided into 2 support vectors");
    refused(&svm(&[1, 1], 6, 3, &[]), &x(), "3 coefficients do not match 2 support vectors");
    refused(&svm(&[1, 1], 6, 2, &[floats_attribute("prob_a", &[1.0])]), &x(), "prob_a and prob_b");
    let degree = [
        floats_attribute("kernel_params", &[1.0, 1.0, 2.5]),
        string_attribute("kernel_type", "POLY"),
    ];
    refused(&svm(&[1, 1], 6, 2, &degree), &x(), "degree 2.5");
}

#[test]
fn mismatched_lookups_and_columns_are_refused() {
    let keys = ints_attribute("keys_int64s", &[1, 2]);
    let encoder = |attributes: &[Message]| {
        Graph {
            nodes: vec![node("LabelEncoder", &["x"], &["y"], attributes).bytes(7, ML)],
            inputs: vec![value("x", INT64, &fixed(&[2]))],
            outputs: vec![value_of_any_shape("y", INT64)],
            ..Graph::default()
        }
        .classical(2)
    };
    let x64 = || [("x", Tensor::new(vec![2i64, 7], &[2]).unwrap())];
    let values = ints_attribute("values_int64s", &[5, 6]);
    let outputs = run(&encoder(&[keys.clone(), values.clone()]), &x64()).unwrap();
    assert_eq!(outputs[0].1.as_slice::<i64>().unwrap(), [6, -1]);
    let short = ints_attribute("values_int64s", &[5]);
    refused(&encoder(&[keys.clone(), short]), &x64(), "2 keys do not match 1 values");
    refused(&encoder(std::slice::from_ref(&keys)), &x64(), "one list of values, found 0");
    let twice = ints_attribute("keys_int64s", &[1, 1]);
    refused(&encoder(&[twice, values.clone()]), &x64(), "duplicate key");
    let both = [keys, values, floats_attribute("keys_floats", &[1.0, 2.0])];
    refused(&encoder(&both), &x64(), "one list of keys, found 2");
    // Only version 4 specifies that a NaN among the keys stands for every NaN.
    let floats = |version: i64, keys: &[Message]| {
        let values = ints_attribute("values_int64s", &[5, 6]);
        Graph {
            nodes: vec![
                node("LabelEncoder", &["x"], &["y"], &[keys, &[values]].concat()).bytes(7, ML),
            ],
            inputs: vec![value("x", FLOAT, &fixed(&[2]))],
            outputs: vec![value_of_any_shape("y", INT64)],
            ..Graph::default()
        }
        .classical(version)
    };
    let other_nan = f32::from_bits(f32::NAN.to_bits() ^ 1 << 31 | 1);
    let with_nan = || [("x", Tensor::new(vec![other_nan, 2.0], &[2]).unwrap())];
    let keys = tensor_f32("keys", &[2], &[f32::NAN, 2.0]);
    let outputs = run(&floats(4, &[tensor_attribute("keys_tensor", keys)]), &with_nan()).unwrap();
    assert_eq!(outputs[0].1.as_slice::<i64>().unwrap(), [5, 6]);
    let keys = floats_attribute("keys_floats", &[f32::NAN, 2.0]);
    for x in [with_nan(), [("x", Tensor::new(vec![f32::NAN, 2.0], &[2]).unwrap())]] {
        refused(
            &floats(2, std::slice::from_ref(&keys)),
            &x,
            "implementations disagree on whether this NaN",
        );
    }
    let scaler = |offset: &[f32], scale: &[f32]| {
        let attributes = [floats_attribute("offset", offset), floats_attribute("scale", scale)];
        classical("Scaler", &SCORES, 1, &attributes)
    };
    assert!(run(&scaler(&[1.0], &[2.0]), &x()).is_ok());
    refused(&scaler(&[1.0; 2], &[2.0; 2]), &x(), "2 values do not match 3 columns");
    refused(&scaler(&[1.0; 3], &[2.0; 2]), &x(), "offset and scale");
    let wide = ints_attribute("inputdimensions", &[4]);
    refused(&classical("FeatureVectorizer", &SCORES, 1, &[wide]), &x(), "inputdimensions says 4");
    let huge = ints_attribute("inputdimensions", &[i64::MAX]);
    refused(
        &classical("FeatureVectorizer", &SCORES, 1, &[huge]),
        &x(),
        "inputdimensions has an invalid number",
    );
}

#[test]
fn an_operator_of_another_domain_or_version_is_refused() {
    refused(
        &classical("Relu", &SCORES, 3, &[]),
        &x(),
        "ai.onnx.ml:Relu (opset 3): the operator is not",
    );
    let foreign = |domain: &str, op: &str| Graph {
        nodes: vec![node(op, &["x"], &["y"], &[]).bytes(7, domain)],
        ..crate::support::onnx::relu(&fixed(&[2, 3]))
    };
    for domain in ["ai.onnx.ml2", "AI.ONNX.ML", "ai.onnx.ml ", "com.evil", "ai.onnx.preview"] {
        refused(&foreign(domain, "Normalizer").classical(3), &x(), "the domain");
    }
    // Without an import, without the domain, and with unknown versions.
    refused(&foreign(ML, "Normalizer").bytes(), &x(), "does not import");
    refused(&foreign("", "Normalizer").classical(3), &x(), "Normalizer (opset 17)");
    refused(&classical("Normalizer", &SCORES, 6, &[]), &x(), "version 6 of the operator set");
    refused(&classical("Normalizer", &SCORES, 0, &[]), &x(), "version 0 of the operator set");
    let new = classical("TreeEnsemble", &SCORES, 3, &[]);
    refused(&new, &x(), "operator set 5 and newer");
    let only = |domain: &str, op: &str| {
        let graph = foreign(domain, op).message();
        let import = Message::new().bytes(1, ML).int(2, 1);
        Message::new().int(1, 8).message(7, graph).message(8, import).finish()
    };
    assert!(run(&only(ML, "Normalizer"), &x()).is_ok());
    refused(&only("", "Relu"), &x(), "does not import a version");
}
