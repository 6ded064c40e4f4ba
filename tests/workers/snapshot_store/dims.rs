//! Named dimensions that the caller fixes (`Model::with_dims`): what they refuse, and which plans
//! are made and used for them.

use crate::support;

use belljar::{DimError, ErrorKind, InputShape, Isolation, Model, Policy, Tensor};
use support::ISOLATIONS;
use support::onnx::{Dim, FLOAT, Graph, node, relu, value};

use super::{Folders, load};

/// Relu of `[batch, n]`, of ones.
fn run(model: &Model, shape: [usize; 2]) -> Result<(), belljar::Error> {
    let x = Tensor::new(vec![1.0f32; shape[0] * shape[1]], &shape).unwrap();
    let outputs = model.run(&[("x", x)])?.validate()?;
    assert_eq!(outputs.tensors()[0].1.shape(), shape);
    Ok(())
}

fn batches() -> Graph {
    relu(&[Dim::Symbol("batch"), Dim::Symbol("n")])
}

#[test]
fn fixed_dimensions_are_fixed_in_the_plan_and_others_stay_open() {
    for isolation in ISOLATIONS {
        let folders = Folders::new();
        let (host, seen) = folders.host(isolation);
        let model = load(&host, &batches().bytes(), &Policy::default()).unwrap();
        let fixed = model.with_dims(&[("batch", 4)]).unwrap();
        // One plan for all lengths of four rows.
        for n in [7, 3, 100] {
            run(&fixed, [4, n]).unwrap();
        }
        assert_eq!(fixed.calls().prepare, 1);
        // The model without fixed dimensions uses that plan, and one of its own for other batches.
        run(&model, [4, 9]).unwrap();
        assert_eq!(model.calls().prepare, 1);
        run(&model, [5, 9]).unwrap();
        run(&model, [6, 8]).unwrap();
        assert_eq!(model.calls().prepare, 2);
        // A plan that leaves the dimension open is not used where it is fixed.
        let seven = model.with_dims(&[("batch", 7)]).unwrap();
        run(&seven, [7, 9]).unwrap();
        assert_eq!(model.calls().prepare, 3);
        host.snapshot_store().finish();
        assert_eq!(folders.files(".snapshot").len(), 3);
        drop((model, fixed, seven, host));

        // The same from the store, in any order.
        let (host, _) = folders.host(isolation);
        let model = load(&host, &batches().bytes(), &Policy::default()).unwrap();
        let fixed = model.with_dims(&[("batch", 7)]).unwrap();
        run(&fixed, [7, 50]).unwrap();
        run(&model, [9, 50]).unwrap();
        run(&model.with_dims(&[("batch", 4)]).unwrap(), [4, 50]).unwrap();
        assert_eq!(model.calls().prepare, 0);
        run(&model.with_dims(&[("batch", 9), ("n", 50)]).unwrap(), [9, 50]).unwrap();
        assert_eq!(model.calls().prepare, 1);
        assert!(seen.refused().is_empty() && seen.not_stored().is_empty());
    }
}

#[test]
fn inputs_of_another_size_than_the_fixed_one_reach_no_sandbox() {
    let folders = Folders::new();
    let (host, _) = folders.host(Isolation::Process);
    let model = load(&host, &batches().bytes(), &Policy::default()).unwrap();
    let model = model.with_dims(&[("n", 3)]).unwrap();
    run(&model, [2, 3]).unwrap();
    let calls = model.calls();
    for n in [0, 1, 2, 4, 1000] {
        let shape = InputShape { name: "x".into(), dims: vec![2, n as u64] };
        let x = [("x", Tensor::new(vec![1.0f32; 2 * n], &[2, n]).unwrap())];
        for err in [
            run(&model, [2, n]).unwrap_err(),
            model.bind(&x).map(drop).unwrap_err(),
            model.prepare_for(std::slice::from_ref(&shape)).map(drop).unwrap_err(),
            model.examine_for(&[shape]).map(drop).unwrap_err(),
        ] {
            assert!(matches!(err.kind(), ErrorKind::InputDim { axis: 1, fixed: 3, .. }), "{err}");
            assert_eq!(err.exit_code(), 4);
            let text = format!("input x: dimension 1, \"n\", is {n}, but it is fixed to 3");
            assert!(err.to_string().ends_with(&text), "{err}");
        }
    }
    assert_eq!(model.calls(), calls);
    // Another rank is refused as without fixed dimensions.
    let flat = Tensor::new(vec![1.0f32; 3], &[3]).unwrap();
    let err = model.run(&[("x", flat)]).map(drop).unwrap_err();
    assert!(err.to_string().contains("the model declares x: f32 [batch, n]"), "{err}");
}

/// `z = x + y`, both of `[n, 2]`, and `w`, which is declared as `[n]` and is not.
fn sums() -> Graph {
    let dims = [Dim::Symbol("n"), Dim::Fixed(2)];
    Graph {
        nodes: vec![
            node("Add", &["x", "y"], &["z"], &[]),
            node("Flatten", &["x"], &["w"], &[support::onnx::int_attribute("axis", 0)]),
        ],
        inputs: vec![value("x", FLOAT, &dims), value("y", FLOAT, &dims)],
        outputs: vec![
            value("z", FLOAT, &dims),
            value("w", FLOAT, &[Dim::Fixed(1), Dim::Symbol("n")]),
        ],
        ..Graph::default()
    }
}

#[test]
fn a_name_is_fixed_in_every_input_and_compared_with_outputs() {
    let folders = Folders::new();
    let (host, _) = folders.host(Isolation::Thread);
    let model = load(&host, &sums().bytes(), &Policy::default()).unwrap();
    let fixed = model.with_dims(&[("n", 3)]).unwrap();
    let ones = |n: usize| Tensor::new(vec![1.0f32; 2 * n], &[n, 2]).unwrap();
    let outputs = fixed.run(&[("x", ones(3)), ("y", ones(3))]).unwrap().validate().unwrap();
    let [difference] = outputs.shape_differences() else { panic!("{outputs:?}") };
    assert_eq!(difference.symbol, Some(("n".to_owned(), 3)), "{difference}");
    for (x, y, name) in [(4, 3, "x"), (3, 4, "y"), (4, 4, "x")] {
        let err = fixed.run(&[("x", ones(x)), ("y", ones(y))]).map(drop).unwrap_err();
        assert!(err.to_string().contains(&format!("input {name}: dimension 0")), "{err}");
    }
    // The description has the sizes in place of the names; that of the model is unchanged.
    let shapes = |model: &Model| {
        let d = model.description();
        let shapes = d.inputs.iter().chain(&d.outputs).map(|value| {
            let dims = value.shape.iter().flatten();
            dims.map(ToString::to_string).collect::<Vec<_>>().join(" ")
        });
        shapes.collect::<Vec<_>>()
    };
    assert_eq!(shapes(&fixed), ["3 2", "3 2", "3 2", "1 3"]);
    assert_eq!(shapes(&model), ["n 2", "n 2", "n 2", "1 n"]);
    assert_eq!((fixed.dims(), model.dims()), (&[("n".to_owned(), 3)][..], &[][..]));
}

#[test]
fn names_and_sizes_that_cannot_be_fixed_are_refused() {
    let folders = Folders::new();
    let (host, _) = folders.host(Isolation::Thread);
    let ugly = "a=b \u{1b}[2J\n";
    let unnamed = [Dim::Symbol(ugly), Dim::Symbol(""), Dim::Symbol("?"), Dim::Symbol(ugly)];
    let model = load(&host, &relu(&unnamed).bytes(), &Policy::default()).unwrap();
    let refused = |dims: &[(&str, u64)]| {
        let err = model.with_dims(dims).err().unwrap();
        assert_eq!(err.exit_code(), 2, "{err}");
        let text = err.to_string();
        assert!(text.chars().all(|c| !c.is_control()), "{text:?}");
        let ErrorKind::Dim(why) = err.kind() else { panic!("{text}") };
        (why.clone(), text)
    };
    for name in ["", "?", "n", "a", "a=b"] {
        let (why, text) = refused(&[(name, 2)]);
        let known = vec![ugly.to_owned()];
        assert_eq!(why, DimError::Unknown { name: name.into(), known }, "{text}");
    }
    let two = DimError::TwoSizes { name: ugly.into(), sizes: [2, 3] };
    assert_eq!(refused(&[(ugly, 2), (ugly, 2), (ugly, 3)]).0, two);
    let size = i64::MAX as u64 + 1;
    assert_eq!(refused(&[(ugly, size)]).0, DimError::TooLarge { name: ugly.into(), size });
    // The same size twice is one size, also of a model that has it already.
    let two = model.with_dims(&[(ugly, 2), (ugly, 2)]).unwrap();
    assert_eq!(two.with_dims(&[(ugly, 2)]).unwrap().dims().len(), 1);
    let err = two.with_dims(&[(ugly, 5)]).err().unwrap();
    assert!(matches!(err.kind(), ErrorKind::Dim(DimError::TwoSizes { sizes: [2, 5], .. })));
    let x = Tensor::new(vec![1.0f32; 4], &[2, 1, 1, 2]).unwrap();
    let outputs = two.run(&[("x", x)]).unwrap().validate().unwrap();
    assert_eq!(outputs.tensors()[0].1.shape(), [2, 1, 1, 2]);
    // An empty batch is a size, and the largest one is refused as an input, not here.
    let none = load(&host, &batches().bytes(), &Policy::default()).unwrap();
    run(&none.with_dims(&[("batch", 0)]).unwrap(), [0, 3]).unwrap();
    let vast = none.with_dims(&[("batch", i64::MAX as u64), ("n", i64::MAX as u64)]).unwrap();
    let dims = vec![i64::MAX as u64; 2];
    let examined = vast.examine_for(&[InputShape { name: "x".into(), dims }]).unwrap();
    assert!(
        matches!(examined, belljar::Examined::Refused { ref error, .. }
        if error.exit_code() == 5),
        "{examined:?}"
    );
    // A model without named dimensions says so.
    let fixed = load(&host, &relu(&[Dim::Fixed(2)]).bytes(), &Policy::default()).unwrap();
    let text = fixed.with_dims(&[("n", 2)]).err().unwrap().to_string();
    assert!(text.ends_with("none of its dimensions has a name"), "{text}");
}

#[test]
fn a_size_that_the_policy_excludes_cannot_be_fixed() {
    let folders = Folders::new();
    let (host, _) = folders.host(Isolation::Thread);
    let policy =
        "version = 1\nconfinement = \"best-effort\"\n[inputs.x]\nshape = [\"?\", \"2..8\"]\n";
    let policy = Policy::parse(policy, "test").unwrap();
    let model = load(&host, &batches().bytes(), &policy).unwrap();
    for n in [0, 1, 9, u64::MAX / 2] {
        let err = model.with_dims(&[("batch", 3), ("n", n)]).err().unwrap();
        assert_eq!(err.exit_code(), 3, "{err}");
        let why = "the policy allows 2..8 in dimension 1 (`inputs.x.shape`)";
        assert!(err.to_string().ends_with(&format!("\"n\" cannot be {n}: {why}")), "{err}");
    }
    run(&model.with_dims(&[("n", 8)]).unwrap(), [2, 8]).unwrap();
}

/// The plan of a model is shared by all policies; which sizes a run may have is decided before.
#[test]
fn two_policies_with_other_ranges_share_a_plan_and_keep_their_bounds() {
    let folders = Folders::new();
    let policy = |most: u32| {
        let text = format!(
            "version = 1\nconfinement = \"best-effort\"\n[inputs.x]\nshape = [\"1..8\", \"1..{most}\"]\n"
        );
        Policy::parse(&text, "test").unwrap()
    };
    for (first, second) in [(8, 16), (16, 8)] {
        let folders = if first == 8 { &folders } else { &Folders::new() };
        let mut prepared = 0;
        for most in [first, second, first] {
            let (host, _) = folders.host(Isolation::Thread);
            let model = load(&host, &batches().bytes(), &policy(most)).unwrap();
            for n in 2..=most as usize {
                run(&model, [2, n]).unwrap();
            }
            let calls = model.calls();
            let err = run(&model, [2, most as usize + 1]).unwrap_err();
            assert!(err.exit_code() == 4 && err.to_string().contains("inputs.x.shape"), "{err}");
            assert_eq!(model.calls(), calls);
            prepared += calls.prepare;
            host.snapshot_store().finish();
        }
        assert_eq!(prepared, 1, "one plan serves both policies");
    }
}
