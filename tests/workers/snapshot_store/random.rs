//! Random numbers in runs from the store.

use belljar::tensor::Data;
use belljar::{Model, Policy, Tensor};

use super::{Folders, load};
use crate::support::ISOLATIONS;
use crate::support::onnx::noises;

/// The bits of all outputs, by name.
fn run(model: &Model, seed: u32) -> Vec<(String, Vec<u32>)> {
    let x = [("x", Tensor::new(vec![0.5f32; 6], &[6]).unwrap())];
    let outputs = model.bind(&x).unwrap().seed(seed).run().unwrap().validate().unwrap();
    let bits = |tensor: &Tensor| match tensor.data() {
        Data::F32(numbers) => numbers.iter().map(|number| number.to_bits()).collect(),
        other => panic!("{other:?}"),
    };
    outputs.tensors().iter().map(|(name, tensor)| (name.clone(), bits(tensor))).collect()
}

#[test]
fn random_numbers_follow_from_the_seed_in_every_isolation_and_from_the_store() {
    let bytes = noises().bytes();
    let mut all = Vec::new();
    for isolation in ISOLATIONS {
        let folders = Folders::new();
        for stored in [false, true] {
            let (host, _) = folders.host(isolation);
            let model = load(&host, &bytes, &Policy::default()).unwrap();
            let (first, second) = (run(&model, 7), run(&model, 8));
            // What ran before does not matter.
            assert_eq!(run(&model, 7), first);
            assert_eq!(model.calls().prepare, u64::from(!stored), "{isolation:?}");
            host.snapshot_store().finish();
            all.push((first, second));
        }
    }
    assert!(all.iter().all(|other| *other == all[0]));
    let (first, second) = &all[0];
    for ((name, one), (_, other)) in first.iter().zip(second) {
        // Only the node with a seed of its own is the same.
        assert_eq!(one == other, name == "own", "{name}");
    }
    let of = |wanted: &str| &first.iter().find(|(name, _)| name == wanted).unwrap().1;
    let rows: Vec<&[u32]> = of("loop").chunks(6).collect();
    assert!(rows.len() == 3 && rows[0] != rows[1] && rows[1] != rows[2] && rows[0] != rows[2]);
}
