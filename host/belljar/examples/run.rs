//! Runs a model on zeros: `cargo run --release --example run -- MODEL`.
use belljar::{DType, Dim, Host, ModelBytes, Policy, Tensor};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    belljar::become_worker_if_asked();
    let path = std::env::args_os().nth(1).ok_or("name a model")?;
    let policy = Policy::default();
    let bytes = ModelBytes::open(path.as_ref(), policy.limits.model_size)?;
    let model = Host::new()?.load(bytes, &policy)?;

    let mut inputs = Vec::new();
    for input in model.description().inputs.iter().filter(|input| !input.has_default) {
        // Where the model leaves a size open: a batch of one, and of the rest enough for a window.
        let dims = input.shape.iter().flatten().enumerate();
        let size = |(axis, dim): (usize, &Dim)| match dim {
            Dim::Fixed(size) => *size as usize,
            _ if axis == 0 => 1,
            _ => 64,
        };
        let shape: Vec<usize> = dims.map(size).collect();
        let tensor = Tensor::zeros(input.dtype().unwrap_or(DType::F32), &shape)?;
        inputs.push((input.name.clone(), tensor));
    }
    for (name, tensor) in model.run(&inputs)?.validate()?.tensors() {
        println!("{name:?}: {} {:?}", tensor.dtype(), tensor.shape());
    }
    Ok(())
}
