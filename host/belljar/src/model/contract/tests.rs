//! Tests of the contract with small descriptions, under policies that enforce declared shapes and
//! that only report differences.

use belljar_abi::{Dim, ValueType};

use super::*;

fn value(name: &str, elem_type: u32, dims: &[Dim]) -> ValueInfo {
    let shape = Some(dims.to_vec());
    ValueInfo {
        name: name.into(),
        elem_type,
        value_type: ValueType::Tensor,
        shape,
        has_default: false,
    }
}

fn symbol(name: &str) -> Dim {
    Dim::Symbol(name.into())
}

fn contract() -> Contract {
    under(DeclaredShapes::Report)
}

fn under(declared_shapes: DeclaredShapes) -> Contract {
    let mut fixed = value("weight", 1, &[Dim::Fixed(1)]);
    fixed.has_default = true;
    let contract = Contract::new(&Description {
        inputs: vec![
            value("x", 1, &[symbol("n"), Dim::Fixed(2)]),
            fixed,
            value("len", 7, &[symbol("n")]),
        ],
        outputs: vec![value("y", 1, &[symbol("n"), symbol("m"), symbol("m")])],
        ..Description::default()
    });
    contract.under(&Policy::default().with_declared_shapes(declared_shapes)).unwrap()
}

fn f32s(shape: &[usize]) -> Tensor {
    Tensor::new(vec![0.0f32; shape.iter().product()], shape).unwrap()
}

fn i64s(count: usize) -> Tensor {
    Tensor::new(vec![0i64; count], &[count]).unwrap()
}

#[test]
fn fitting_inputs_are_bound_in_declared_order() {
    let bound = contract().bind(&[("len", i64s(3)), ("x", f32s(&[3, 2]))]).unwrap();
    assert_eq!(bound.symbols["n"], [3]);
    assert_eq!(bound.differences, []);
    let names: Vec<_> = bound.shapes.iter().map(|shape| shape.name.as_str()).collect();
    assert_eq!(names, ["x", "len"]);
}

#[test]
fn an_input_with_a_default_may_be_given_or_left_out() {
    let names = |inputs: &[(&str, Tensor)]| -> Vec<String> {
        let bound = contract().bind(inputs).unwrap();
        bound.shapes.into_iter().map(|shape| shape.name).collect()
    };
    let (x, len) = (("x", f32s(&[3, 2])), ("len", i64s(3)));
    assert_eq!(names(&[x.clone(), len.clone()]), ["x", "len"]);
    assert_eq!(names(&[len, ("weight", f32s(&[1])), x]), ["x", "weight", "len"]);
    let shape = |name: &str, dims: &[u64]| InputShape { name: name.into(), dims: dims.into() };
    let needed = [shape("x", &[3, 2]), shape("len", &[3])];
    assert_eq!(contract().bind_shapes(&needed).unwrap().len(), 2);
    let all = [&needed[..], &[shape("weight", &[1])]].concat();
    assert_eq!(contract().bind_shapes(&all).unwrap().len(), 3);
}

#[test]
fn output_declared_without_a_type_accepts_any_type() {
    let untyped = ValueInfo { shape: None, ..value("h", 0, &[]) };
    let with_shape = ValueInfo { shape: Some(vec![Dim::Fixed(2)]), ..untyped.clone() };
    for (output, differences) in [(untyped, [0, 0]), (with_shape, [1, 0])] {
        let outputs = vec![output];
        let contract = Contract::new(&Description { outputs, ..Description::default() });
        for (tensor, differences) in [f32s(&[2, 3]), i64s(2)].into_iter().zip(differences) {
            let outputs = [("h".to_owned(), tensor)];
            let found = contract.check_outputs(Symbols::new(), &outputs).unwrap();
            assert_eq!(found.len(), differences);
        }
    }
}

#[test]
fn inputs_that_no_tensor_can_satisfy_are_refused_before_a_run() {
    let unacceptable = |elem_type, dims: &[u64], limit| {
        let open = vec![Dim::Unknown; dims.len()];
        let inputs = vec![value("x", elem_type, &open)];
        let contract = Contract::new(&Description { inputs, ..Description::default() });
        let shapes = [InputShape { name: "x".into(), dims: dims.to_vec() }];
        contract.unacceptable(&shapes, limit).map(|one| (one.kind.to_string(), one.for_all_shapes))
    };
    assert_eq!(unacceptable(1, &[2, 3], 24), None);
    assert_eq!(unacceptable(8, &[1 << 40], 24), None, "strings");
    let (text, for_all) = unacceptable(1, &[2, 3], 23).unwrap();
    assert!(text.contains("limits.input-size") && !for_all, "{text}");
    let (text, _) = unacceptable(11, &[1 << 40, 1 << 40], 4 << 30).unwrap();
    assert!(text.contains("limits.input-size"), "{text}");
    for elem_type in [0, 14, 99] {
        let (text, for_all) = unacceptable(elem_type, &[1], 24).unwrap();
        assert!(text.contains("input x") && text.contains("not supported") && for_all, "{text}");
    }
}

#[test]
fn inputs_that_do_not_fit_are_refused() {
    let (x, len) = (|| ("x", f32s(&[3, 2])), || ("len", i64s(3)));
    let weight = ("weight", f32s(&[2]));
    let cases = [
        (vec![x()], "not given"),
        (vec![x(), len(), ("z", i64s(1))], "no such input"),
        (vec![x(), len(), x()], "given twice"),
        (vec![x(), len(), weight], "the model declares weight: f32 [1]"),
        (vec![("x", f32s(&[3, 3])), len()], "the model declares x: f32 [n, 2]"),
        (vec![("x", f32s(&[3])), len()], "the model declares x: f32 [n, 2]"),
        (vec![("x", i64s(3)), len()], "it is i64"),
    ];
    for declared_shapes in [DeclaredShapes::Report, DeclaredShapes::Strict] {
        for (inputs, expected) in &cases {
            let err = under(declared_shapes).bind(inputs).err().map(|err| err.to_string());
            let says = err.as_ref().is_some_and(|err| err.contains(expected));
            assert!(says, "{expected}: {err:?}");
        }
    }
}

#[test]
fn a_symbol_with_two_sizes_is_refused_only_when_strict() {
    let inputs = [("x", f32s(&[3, 2])), ("len", i64s(4))];
    let err = under(DeclaredShapes::Strict).bind(&inputs).err().unwrap().to_string();
    assert!(err.contains("\"n\" is 3 elsewhere"), "{err}");
    let shapes = [
        InputShape { name: "x".into(), dims: vec![3, 2] },
        InputShape { name: "len".into(), dims: vec![4] },
    ];
    assert!(under(DeclaredShapes::Strict).bind_shapes(&shapes).is_err());
    assert!(contract().bind_shapes(&shapes).is_ok());
    let bound = contract().bind(&inputs).unwrap();
    let [difference] = &bound.differences[..] else { panic!("{:?}", bound.differences) };
    assert!(difference.is_input);
    assert_eq!((&*difference.name, &*difference.found), ("len", &[4][..]));
    assert_eq!(difference.symbol, Some(("n".to_owned(), 3)));
    // An output may have either size, without a further difference.
    for size in [3, 4] {
        let y = [("y".to_owned(), f32s(&[size, 1, 1]))];
        assert_eq!(contract().check_outputs(bound.symbols.clone(), &y), Ok(vec![]));
    }
}

#[test]
fn undeclared_outputs_are_refused() {
    let bound = Symbols::from([("n".to_owned(), vec![3])]);
    let y = |shape: &[usize]| ("y".to_owned(), f32s(shape));
    let strict = under(DeclaredShapes::Strict);
    for contract in [&contract(), &strict] {
        let check = |outputs: &[(String, Tensor)]| contract.check_outputs(bound.clone(), outputs);
        assert_eq!(check(&[y(&[3, 4, 4])]), Ok(vec![]));
        for outputs in [
            vec![],
            vec![("z".to_owned(), f32s(&[3, 4, 4]))],
            vec![y(&[3, 4, 4]), y(&[3, 4, 4])],
            vec![("y".to_owned(), i64s(3))],
        ] {
            assert!(check(&outputs).is_err(), "{outputs:?}");
        }
    }
    for shape in [&[2, 4, 4][..], &[3, 4, 5], &[3, 4], &[]] {
        assert!(strict.check_outputs(bound.clone(), &[y(shape)]).is_err(), "{shape:?}");
        let found = contract().check_outputs(bound.clone(), &[y(shape)]).unwrap();
        let [difference] = &found[..] else { panic!("{found:?}") };
        assert!(!difference.is_input && difference.found == shape, "{difference}");
    }
}

#[test]
fn each_input_and_output_is_reported_once() {
    let contract = contract();
    let difference = |is_input, name: &str| ShapeDifference {
        is_input,
        name: name.into(),
        declared: vec![],
        found: vec![1],
        symbol: None,
    };
    let (input, output) = (difference(true, "x"), difference(false, "x"));
    let both = [input.clone(), output.clone()];
    assert_eq!(contract.unreported(&both[..1]), [input]);
    assert_eq!(contract.unreported(&both), [output]);
    assert_eq!(contract.unreported(&both), []);
}
