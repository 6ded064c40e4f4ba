//! Inputs for measured runs: read from files, or generated.

use std::collections::HashSet;

use belljar_abi::element_count;

use super::args::InputArgs;
use super::failure::Failure;
use super::inputs::{self, Needed, Pictures};
use belljar::{Description, Dim, Model, Policy, ValueInfo};
use belljar_tensor::{Data, Tensor};
use belljar_text::Escaped;

/// Reads the given inputs and, with --random, generates the others.
pub(super) fn read_or_random(
    arguments: &InputArgs,
    model: &Model,
) -> Result<(Vec<(String, Tensor)>, Needed), Failure> {
    let pictures = Pictures { model, arguments: &arguments.pictures };
    let (mut given, needed) = inputs::read_all(&arguments.inputs, pictures)?;
    if arguments.random {
        let shapes = shapes(arguments, model.description())?;
        add_random(&mut given, model.description(), model.policy(), &shapes)?;
    }
    Ok((given, needed))
}

/// The inputs of several measured runs.
pub(super) struct Runs {
    /// For each run, its inputs.
    pub(super) inputs: Vec<Vec<(String, Tensor)>>,
    /// What reading images needed.
    pub(super) needed: Needed,
    /// The inputs whose sizes were chosen, by files or --shape.
    pub(super) chosen: HashSet<String>,
}

/// Reads the given inputs and, with --random, generates the others. The first file or shape of each
/// input belongs to the first run, the second to the second run.
pub(super) fn read_runs(arguments: &InputArgs, model: &Model) -> Result<Runs, Failure> {
    let pictures = Pictures { model, arguments: &arguments.pictures };
    let (read, needed) = inputs::read_for_runs(&arguments.inputs, pictures)?;
    let given = grouped(read);
    let shapes = grouped(shapes(arguments, model.description())?);
    let chosen = given.iter().map(|(name, _)| name).chain(shapes.iter().map(|(name, _)| name));
    let chosen = chosen.cloned().collect();
    let counts = given.iter().map(|(name, all)| (name, all.len(), "files"));
    let counts = counts.chain(shapes.iter().map(|(name, all)| (name, all.len(), "shapes")));
    let runs = counts.clone().map(|(_, count, _)| count).max().unwrap_or(1);
    if let Some((name, found, what)) = counts.clone().find(|(_, n, _)| *n != 1 && *n != runs) {
        let name = Escaped::cut(name, 60);
        return Err(Failure::usage(format!(
            "{found} {what} for input {name}, but {runs} for another input"
        ))
        .hint(format!("give 1 or {runs} for each input: one for all runs, or one for each run")));
    }
    let mut inputs = Vec::new();
    for run in 0..runs {
        let mut of_run = nth(&given, run);
        if arguments.random {
            add_random(&mut of_run, model.description(), model.policy(), &nth(&shapes, run))?;
        }
        inputs.push(of_run);
    }
    Ok(Runs { inputs, needed, chosen })
}

/// The values of each name, in order.
fn grouped<T>(all: Vec<(String, T)>) -> Vec<(String, Vec<T>)> {
    let mut groups: Vec<(String, Vec<T>)> = Vec::new();
    for (name, value) in all {
        match groups.iter_mut().find(|(known, _)| *known == name) {
            Some((_, values)) => values.push(value),
            None => groups.push((name, vec![value])),
        }
    }
    groups
}

/// The value of each name in a run; a single one is that of all runs.
fn nth<T: Clone>(groups: &[(String, Vec<T>)], run: usize) -> Vec<(String, T)> {
    let one = |(name, values): &(String, Vec<T>)| {
        Some((name.clone(), values.get(run).or(values.first())?.clone()))
    };
    groups.iter().filter_map(one).collect()
}

/// The shapes of --shape.
fn shapes(
    arguments: &InputArgs,
    description: &Description,
) -> Result<Vec<(String, Vec<usize>)>, Failure> {
    let shapes = arguments.shapes.iter().map(|text| parse_shape("--shape", text));
    let shapes = shapes.collect::<Result<Vec<_>, _>>()?;
    let known = |name: &str| description.inputs.iter().any(|input| input.name == name);
    match shapes.iter().find(|(name, _)| !known(name)) {
        Some((name, _)) => {
            let name = Escaped::cut(name, 60);
            Err(Failure::usage(format!("--shape: the model has no input {name}"))
                .hint("`belljar inspect` shows what the model declares"))
        }
        None => Ok(shapes),
    }
}

/// Adds generated tensors for the inputs that were not given.
fn add_random(
    given: &mut Vec<(String, Tensor)>,
    description: &Description,
    policy: &Policy,
    shapes: &[(String, Vec<usize>)],
) -> Result<(), Failure> {
    let limit = policy.limits.input_size;
    // All inputs share one limit.
    let mut left = given.iter().fold(limit, |left, (_, t)| left.saturating_sub(t.memory_len()));
    let mut seed = 1;
    for input in description.inputs.iter().filter(|input| !input.has_default) {
        let fixed =
            policy.inputs.iter().any(|rule| rule.name == input.name && rule.value.is_some());
        if fixed || given.iter().any(|(name, _)| *name == input.name) {
            continue;
        }
        let named = shapes.iter().find(|(name, _)| *name == input.name);
        let shape = named.map_or_else(|| declared_shape(input), |(_, shape)| shape.clone());
        let failed = |why: String| {
            Failure::usage(format!(
                "--random: cannot generate input {}: {why}",
                Escaped::cut(&input.name, 60)
            ))
        };
        let dtype = input.dtype().ok_or_else(|| failed("unsupported element type".into()))?;
        let dims: Vec<u64> = shape.iter().map(|dim| *dim as u64).collect();
        // Empty strings use memory too.
        left = element_count(&dims)
            .and_then(|count| count.checked_mul(dtype.size().unwrap_or(24) as u64))
            .and_then(|len| left.checked_sub(len))
            .ok_or_else(|| failed(format!("all inputs would exceed {limit} bytes")))?;
        let zeros = Tensor::zeros(dtype, &shape).map_err(|err| failed(err.to_string()))?;
        // Integers are often indices, and only 0 is always in range.
        let tensor = zeros.changed(|_, data| {
            if let Data::F32(values) = data {
                values.iter_mut().for_each(|value| *value = uniform(&mut seed));
            }
        });
        given.push((input.name.clone(), tensor));
    }
    Ok(())
}

/// A number between -1 and 1 (Marsaglia's xorshift).
fn uniform(seed: &mut u64) -> f32 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    (*seed >> 40) as f32 / (1 << 23) as f32 - 1.0
}

fn declared_shape(input: &ValueInfo) -> Vec<usize> {
    let dims = input.shape.iter().flatten();
    dims.map(|dim| match dim {
        Dim::Fixed(size) => usize::try_from(*size).unwrap_or(usize::MAX),
        Dim::Symbol(_) | Dim::Unknown => 1,
    })
    .collect()
}

/// Parses `NAME=1,3,224,224`; `NAME=` is a scalar.
pub(super) fn parse_shape(flag: &str, text: &str) -> Result<(String, Vec<usize>), Failure> {
    let wrong = || {
        let text = Escaped::new(text);
        Failure::usage(format!("{flag} {text}: expected a shape such as NAME=1,3,224,224"))
    };
    let (name, dims) = text.rsplit_once('=').ok_or_else(wrong)?;
    let dims = dims.split(',').filter(|dim| !dim.trim().is_empty());
    let dims: Result<Vec<usize>, _> = dims.map(|dim| dim.trim().parse()).collect();
    Ok((name.to_owned(), dims.map_err(|_| wrong())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_parsed() {
        let parsed = |text| parse_shape("--shape", text).ok();
        assert_eq!(parsed("x=1,3, 4"), Some(("x".into(), vec![1, 3, 4])));
        assert_eq!(parsed("a=b=2"), Some(("a=b".into(), vec![2])));
        assert_eq!(parsed("x="), Some(("x".into(), vec![])));
        assert_eq!(parsed("x"), None);
        assert_eq!(parsed("x=1,-3"), None);
    }

    #[test]
    fn repeated_inputs_belong_to_several_runs() {
        let all = [("x", 1), ("mask", 5), ("x", 2), ("x", 3)];
        let groups = grouped(all.map(|(name, value)| (name.to_owned(), value)).to_vec());
        let run = |at| nth(&groups, at).into_iter().map(|(_, value)| value).collect::<Vec<_>>();
        assert_eq!([run(0), run(1), run(2)], [[1, 5], [2, 5], [3, 5]]);
    }

    #[test]
    fn random_numbers_are_small_and_differ() {
        let mut seed = 1;
        let numbers: Vec<f32> = (0..1000).map(|_| uniform(&mut seed)).collect();
        assert!(numbers.iter().all(|number| (-1.0..=1.0).contains(number)));
        assert!(numbers.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
