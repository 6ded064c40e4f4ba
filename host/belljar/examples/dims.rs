//! Runs a model on zeros, with sizes for its named dimensions:
//! `cargo run --release --example dims -- MODEL batch=1 sequence=128`.
use std::error::Error;

use belljar::{DType, Dim, Host, ModelBytes, Policy, Tensor};

fn main() -> Result<(), Box<dyn Error>> {
    belljar::become_worker_if_asked();
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("name a model")?;
    let mut dims = Vec::new();
    for argument in arguments {
        let (name, size) = argument.rsplit_once('=').ok_or("write NAME=N")?;
        dims.push((name.to_owned(), size.parse()?));
    }
    for (name, shape) in output_shapes(&Host::new()?, &path, &dims)? {
        println!("{name:?}: {shape:?}");
    }
    Ok(())
}

/// Shapes by name.
pub(crate) type Shapes = Vec<(String, Vec<usize>)>;

/// The shapes of the outputs.
pub(crate) fn output_shapes(
    host: &Host,
    path: &str,
    dims: &[(String, u64)],
) -> Result<Shapes, Box<dyn Error>> {
    let policy = Policy::default();
    let bytes = ModelBytes::open(path.as_ref(), policy.limits.model_size)?;
    let model = host.load(bytes, &policy)?.with_dims(dims)?;

    let mut inputs = Vec::new();
    for input in model.description().inputs.iter().filter(|input| !input.has_default) {
        // The description has the sizes in place of the names.
        let size = |dim: &Dim| match dim {
            Dim::Fixed(size) => Ok(*size as usize),
            _ => Err(format!("{:?}: give a size for each of {:?}", input.name, input.shape)),
        };
        let shape = input.shape.iter().flatten().map(size).collect::<Result<Vec<_>, _>>()?;
        let tensor = Tensor::zeros(input.dtype().unwrap_or(DType::F32), &shape)?;
        inputs.push((input.name.clone(), tensor));
    }
    let outputs = model.run(&inputs)?.validate()?.into_tensors();
    Ok(outputs.into_iter().map(|(name, tensor)| (name, tensor.shape().to_vec())).collect())
}
