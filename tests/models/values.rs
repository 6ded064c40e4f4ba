//! Sequences, maps and optionals as inputs and outputs of models.

use crate::support;

use belljar::policy::{Scalar, ValueRule};
use belljar::{DType, Error, Isolation, Map, Model, Policy, Tensor, Value, ValueType};
use support::onnx::{
    BOOL, Dim, FLOAT, Graph, INT64, Message, STRING, classical_node, fixed, graph_attribute,
    int_attribute, ints_attribute, map_type, maps_type, node, optional_type, sequence_type,
    string_attribute, strings_attribute, tensor_attribute, tensor_f32, tensor_type, value,
    value_of_any_shape, value_of_type,
};
use support::{host, load, load_under};

fn floats(values: &[f32]) -> Tensor {
    Tensor::new(values.to_vec(), &[values.len()]).unwrap()
}

fn texts(values: &[&str]) -> Tensor {
    let texts: Vec<String> = values.iter().map(|text| (*text).to_owned()).collect();
    Tensor::new(texts, &[values.len()]).unwrap()
}

fn tensor(values: &[f32], shape: &[usize]) -> Tensor {
    Tensor::new(values.to_vec(), shape).unwrap()
}

fn loaded(graph: &Graph) -> Model {
    load(&host(Isolation::Thread), &graph.classical(3)).unwrap()
}

/// The outputs of a run.
fn run(model: &Model, inputs: &[(&str, Value)]) -> Result<Vec<Value>, Error> {
    let outputs = model.run_values(inputs)?.validate()?.into_values();
    Ok(outputs.into_iter().map(|(_, value)| value).collect())
}

#[track_caller]
fn refused(result: Result<impl std::fmt::Debug, Error>, says: &str) {
    let text = result.unwrap_err().to_string();
    assert!(text.contains(says), "{says:?} is not in {text:?}");
}

/// The end of a classifier as converters export it: labels, and a map of scores for each row.
fn zip_map(attribute: Message, key: i64) -> Graph {
    Graph {
        nodes: vec![
            node("Identity", &["scores"], &["kept"], &[]),
            classical_node("ZipMap", &["kept"], &["probabilities"], &[attribute]),
            node("ArgMax", &["scores"], &["label"], &[int_attribute("axis", 1)]),
        ],
        inputs: vec![value("scores", FLOAT, &[Dim::Symbol("N"), Dim::Fixed(2)])],
        outputs: vec![
            value_of_any_shape("label", INT64),
            value_of_type("probabilities", maps_type(key, FLOAT)),
        ],
        ..Graph::default()
    }
}

#[test]
fn scores_of_a_classifier_are_a_map_for_each_row() {
    let keys = [
        (strings_attribute("classlabels_strings", &["no", "yes"]), STRING, texts(&["no", "yes"])),
        (
            ints_attribute("classlabels_int64s", &[4, -1]),
            INT64,
            Tensor::new(vec![4i64, -1], &[2]).unwrap(),
        ),
    ];
    for (attribute, key, keys) in keys {
        let model = loaded(&zip_map(attribute, key));
        let declared = model.description().outputs[1].value_type;
        assert_eq!(declared, ValueType::SequenceOfMaps(keys.dtype(), DType::F32));
        for rows in [3, 2, 7] {
            let scores: Vec<f32> = (0..2 * rows).map(|at| at as f32).collect();
            let scores = tensor(&scores, &[rows, 2]);
            // Tensors as inputs need no other function, whatever the outputs are.
            let outputs = model.run(&[("scores", scores)]).unwrap().validate().unwrap();
            assert_eq!(outputs.tensors().len(), 1);
            let map = |row: usize| {
                let values = floats(&[2.0 * row as f32, 2.0 * row as f32 + 1.0]);
                Map::new(keys.clone(), values).unwrap()
            };
            let expected = Value::Maps((0..rows).map(map).collect());
            assert_eq!(outputs.value("probabilities").as_deref(), Some(&expected));
            assert_eq!(outputs.others().collect::<Vec<_>>(), [("probabilities", &expected)]);
            assert_eq!(outputs.into_values()[1], ("probabilities".to_owned(), expected));
        }
        // One plan is for all numbers of rows.
        assert_eq!(model.calls().prepare, 1);
    }
}

/// As CatBoost exports classifiers.
#[test]
fn a_model_that_imports_only_classical_operators_makes_maps() {
    let keys = strings_attribute("classlabels_strings", &["no", "yes"]);
    let graph = Graph {
        nodes: vec![classical_node("ZipMap", &["scores"], &["maps"], &[keys])],
        inputs: vec![value("scores", FLOAT, &[Dim::Symbol("N"), Dim::Fixed(2)])],
        outputs: vec![value_of_type("maps", maps_type(STRING, FLOAT))],
        ..Graph::default()
    };
    let import = Message::new().bytes(1, support::onnx::ML).int(2, 2);
    let model = Message::new().int(1, 8).message(7, graph.message()).message(8, import);
    let model = load(&host(Isolation::Thread), &model.finish()).unwrap();
    let found = run(&model, &[("scores", tensor(&[0.25, 0.75], &[1, 2]).into())]).unwrap();
    let map = Map::new(texts(&["no", "yes"]), floats(&[0.25, 0.75])).unwrap();
    assert_eq!(found, [Value::Maps(vec![map])]);
}

#[test]
fn a_map_becomes_a_row_in_the_order_of_a_vocabulary_and_of_its_keys() {
    let graph = Graph {
        nodes: vec![
            classical_node(
                "DictVectorizer",
                &["words"],
                &["row"],
                &[strings_attribute("string_vocabulary", &["a", "b", "c"])],
            ),
            classical_node(
                "CastMap",
                &["places"],
                &["cast"],
                &[string_attribute("cast_to", "TO_INT64")],
            ),
        ],
        inputs: vec![
            value_of_type("words", map_type(STRING, FLOAT)),
            value_of_type("places", map_type(INT64, FLOAT)),
        ],
        outputs: vec![value_of_any_shape("row", FLOAT), value_of_any_shape("cast", INT64)],
        ..Graph::default()
    };
    let model = loaded(&graph);
    let places = |keys: &[i64], values: &[f32]| {
        let keys = Tensor::new(keys.to_vec(), &[keys.len()]).unwrap();
        Value::Map(Map::new(keys, floats(values)).unwrap())
    };
    let words =
        |keys: &[&str], values: &[f32]| Value::Map(Map::new(texts(keys), floats(values)).unwrap());
    let both = |words, places| run(&model, &[("words", words), ("places", places)]);
    let found = both(words(&["c", "a"], &[3.0, 1.0]), places(&[9, 2], &[0.5, 7.5])).unwrap();
    assert_eq!(found[0], tensor(&[1.0, 0.0, 3.0], &[1, 3]).into());
    assert_eq!(found[1], Tensor::new(vec![7i64, 0], &[1, 2]).unwrap().into());
    let found = both(words(&[], &[]), places(&[1], &[2.0])).unwrap();
    assert_eq!(found[0], tensor(&[0.0; 3], &[1, 3]).into());
    assert_eq!(model.calls().prepare, 1);
    refused(both(words(&["d"], &[1.0]), places(&[], &[])), "not in the vocabulary");
    refused(both(words(&["a"], &[1.0]), words(&["a"], &[1.0])), "map(int64, float)");
}

/// Inserts a tensor into a sequence, and joins the result.
fn inserts() -> Graph {
    Graph {
        nodes: vec![
            node("SequenceInsert", &["s", "x"], &["t"], &[]),
            node("SequenceLength", &["s"], &["n"], &[]),
        ],
        inputs: vec![
            value_of_type("s", sequence_type(FLOAT)),
            value("x", FLOAT, &[Dim::Symbol("k")]),
        ],
        outputs: vec![value_of_type("t", sequence_type(FLOAT)), value_of_any_shape("n", INT64)],
        ..Graph::default()
    }
}

#[test]
fn sequences_of_any_length_and_shapes_need_one_plan_for_each_number_of_dimensions() {
    let model = loaded(&inserts());
    let x = floats(&[5.0]);
    let run = |sequence: Vec<Tensor>| {
        run(&model, &[("s", sequence.into()), ("x", x.clone().into())]).unwrap()
    };
    for sequence in [
        vec![floats(&[1.0, 2.0])],
        vec![floats(&[]), floats(&[1.0]), floats(&[1.0, 2.0, 3.0])],
        vec![floats(&[0.5]); 100],
    ] {
        let length = Tensor::scalar(sequence.len() as i64);
        let mut expected = sequence.clone();
        expected.push(x.clone());
        assert_eq!(run(sequence), [expected.into(), length.into()]);
    }
    assert_eq!(model.calls().prepare, 1);
    let mixed = vec![tensor(&[1.0, 2.0], &[1, 2]), Tensor::scalar(3f32)];
    let expected = vec![mixed[0].clone(), mixed[1].clone(), x.clone()];
    assert_eq!(run(mixed)[0], expected.into());
    assert_eq!(run(vec![])[0], vec![x.clone()].into());
    assert_eq!(model.calls().prepare, 3);
}

#[test]
fn a_function_over_a_sequence_is_applied_to_each_of_its_tensors() {
    let body = Graph {
        nodes: vec![node("Add", &["one", "bias"], &["sum"], &[])],
        inputs: vec![value_of_any_shape("one", FLOAT), value_of_any_shape("bias", FLOAT)],
        outputs: vec![value_of_any_shape("sum", FLOAT)],
        ..Graph::default()
    };
    let graph = Graph {
        nodes: vec![node(
            "SequenceMap",
            &["s", "b"],
            &["t"],
            &[graph_attribute("body", body.message())],
        )],
        inputs: vec![value_of_type("s", sequence_type(FLOAT)), value("b", FLOAT, &fixed(&[1]))],
        outputs: vec![value_of_type("t", sequence_type(FLOAT))],
        ..Graph::default()
    };
    let model = loaded(&graph);
    for count in [1, 3] {
        let given: Vec<Tensor> = (1..=count).map(|size| floats(&vec![1.0; size])).collect();
        let expected: Vec<Tensor> = (1..=count).map(|size| floats(&vec![3.0; size])).collect();
        let inputs = [("s", given.into()), ("b", floats(&[2.0]).into())];
        assert_eq!(run(&model, &inputs).unwrap(), [expected.into()]);
    }
    assert_eq!(model.calls().prepare, 1);
}

#[test]
fn an_optional_input_may_be_absent() {
    for (of, given) in [
        (tensor_type(FLOAT), Value::from(floats(&[1.0, 2.0]))),
        (sequence_type(FLOAT), vec![floats(&[1.0]), floats(&[])].into()),
    ] {
        let graph = Graph {
            nodes: vec![
                node("OptionalHasElement", &["x"], &["has"], &[]),
                node("Identity", &["x"], &["y"], &[]),
            ],
            inputs: vec![value_of_type("x", optional_type(of.clone()))],
            outputs: vec![value_of_any_shape("has", BOOL), value_of_type("y", optional_type(of))],
            ..Graph::default()
        };
        let model = loaded(&graph);
        let has = |has: bool| Value::Tensor(Tensor::scalar(has));
        assert_eq!(run(&model, &[("x", given.clone())]).unwrap(), [has(true), given]);
        for absent in [&[][..], &[("x", Value::Absent)]] {
            assert_eq!(run(&model, absent).unwrap(), [has(false), Value::Absent]);
        }
    }
}

#[test]
fn a_run_decides_whether_an_optional_output_is_absent() {
    let branch = |nodes: Vec<Message>, output: &str| {
        let outputs = vec![value_of_type(output, optional_type(sequence_type(FLOAT)))];
        graph_attribute_of(Graph { nodes, outputs, ..Graph::default() })
    };
    let declared = Message::new().bytes(1, "type").message(14, sequence_type(FLOAT)).int(20, 13);
    let constant = tensor_attribute("value", tensor_f32("", &[1], &[4.0]));
    let then = branch(vec![node("Optional", &[], &["none"], &[declared])], "none");
    let other = branch(
        vec![
            node("Constant", &[], &["four"], &[constant]),
            node("SequenceConstruct", &["four"], &["list"], &[]),
            node("Optional", &["list"], &["some"], &[]),
        ],
        "some",
    );
    let graph = Graph {
        nodes: vec![node("If", &["c"], &["y"], &[then("then_branch"), other("else_branch")])],
        inputs: vec![value("c", BOOL, &[])],
        outputs: vec![value_of_type("y", optional_type(sequence_type(FLOAT)))],
        ..Graph::default()
    };
    let model = loaded(&graph);
    let run = |condition: bool| run(&model, &[("c", Tensor::scalar(condition).into())]).unwrap();
    assert_eq!(run(true), [Value::Absent]);
    assert_eq!(run(false), [vec![floats(&[4.0])].into()]);
}

fn graph_attribute_of(graph: Graph) -> impl Fn(&str) -> Message {
    move |name| graph_attribute(name, graph.message())
}

#[test]
fn values_that_do_not_fit_are_refused_by_name() {
    let model = loaded(&inserts());
    let x = || ("x", Value::from(floats(&[1.0])));
    let tensors = [("s", floats(&[1.0])), ("x", floats(&[1.0]))];
    refused(model.run(&tensors).map(drop), "`Model::run_values` takes such inputs");
    refused(
        run(&model, &[("s", floats(&[1.0]).into()), x()]),
        "seq(tensor(float)), and it is a tensor",
    );
    refused(run(&model, &[x()]), "input s: not given");
    refused(run(&model, &[("s", Value::Absent), x()]), "absent");
    let wrong = vec![Tensor::scalar(1i64)];
    refused(run(&model, &[("s", wrong.into()), x()]), "its tensors are i64");
    let none = || Value::Sequence(Vec::new());
    let twice = [("s", none()), ("s", none()), x()];
    refused(run(&model, &twice), "given twice");
    refused(run(&model, &[("s", Value::Text("a".into())), x()]), "a text");
}

#[test]
fn rules_apply_to_the_elements_of_a_sequence() {
    let rule = |change: &dyn Fn(&mut ValueRule)| {
        let mut rule = ValueRule::new("s");
        change(&mut rule);
        let mut policy = Policy::default();
        policy.inputs.push(rule);
        load_under(&host(Isolation::Thread), &inserts().classical(3), &policy)
    };
    let model = rule(&|rule| rule.max = Some(Scalar::Float(2.0))).unwrap();
    let given = |values: &[f32]| {
        let sequence = vec![floats(&[1.0]), floats(values)];
        run(&model, &[("s", sequence.into()), ("x", floats(&[9.0]).into())])
    };
    assert!(given(&[2.0]).is_ok());
    refused(given(&[0.0, 3.0]), "`inputs.s.max`");
    refused(rule(&|rule| rule.shape = Some(vec![])).map(drop), "applies to tensors");
    refused(rule(&|rule| rule.value = Some(Scalar::Int(1))).map(drop), "applies to tensors");
    refused(rule(&|rule| rule.dtype = Some(DType::I64)).map(drop), "f32");
}

#[test]
fn sequences_count_towards_the_limits() {
    let mut policy = Policy::default();
    policy.limits.input_size = 4096;
    policy.limits.output_size = 4096;
    let model = load_under(&host(Isolation::Thread), &inserts().classical(3), &policy).unwrap();
    let given = |count: usize, size: usize| {
        let sequence = vec![floats(&vec![0.0; size]); count];
        run(&model, &[("s", sequence.into()), ("x", floats(&[]).into())])
    };
    assert!(given(10, 10).is_ok());
    refused(given(2, 1000), "limits.input-size");
    // Tensors without elements take memory too.
    refused(given(100, 0), "limits.output-size");
}

#[test]
fn other_types_are_refused_by_name() {
    let nested = Message::new().message(4, Message::new().message(1, sequence_type(FLOAT)));
    let graph = Graph {
        nodes: vec![node("Identity", &["x"], &["y"], &[])],
        inputs: vec![value_of_type("x", nested.clone())],
        outputs: vec![value_of_type("y", nested)],
        ..Graph::default()
    };
    let model = loaded(&graph);
    assert_eq!(model.description().inputs[0].value_type, ValueType::Other);
    refused(run(&model, &[("x", Value::Sequence(Vec::new()))]), "declares an unsupported type");
}
