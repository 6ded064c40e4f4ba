//! `belljar prepare`: stores snapshots of a model before its first run.

use std::io::{BufWriter, Write, stdout};
use std::time::Duration;

use serde_json::json;

use super::args::{Format, Prepare};
use super::failure::Failure;
use super::host::{Store, load};
use super::json;
use super::random_inputs::parse_shape;
use super::table::Table;
use super::terminal::Terminal;
use belljar::Error;
use belljar::{Description, Dim, InputShape, PlanShapes, SizeRange, ValueInfo};
use belljar_text::Escaped;

/// One snapshot, and how long it took.
struct Prepared {
    shapes: Vec<InputShape>,
    time: Duration,
    /// Whether it was already in the store.
    stored: bool,
}

pub(super) fn prepare(arguments: &Prepare, terminal: &Terminal) -> Result<(), Failure> {
    let given = given_shapes(&arguments.input_shapes)?;
    let loaded = load(&arguments.model, Store::Filled, terminal)?;
    let (model, store) = (&loaded.model, loaded.host.snapshot_store());
    // An unusable store must fail here, before the model is prepared.
    store.remove_leftovers().map_err(Error::new)?;
    let mut description = model.description().clone();
    let rules = &model.policy().inputs;
    let fixed = |name: &str| rules.iter().any(|rule| rule.name == name && rule.value.is_some());
    description.inputs.retain(|input| !fixed(&input.name));
    let combinations = combinations(&description, &given)?;
    let max = model.policy().limits.snapshots;
    if combinations.len() as u64 > u64::from(max) {
        let count = combinations.len();
        return Err(Failure::usage(format!("{count} snapshots, but the policy allows {max}"))
            .hint("raise `limits.snapshots` in the policy"));
    }
    let mut prepared = Vec::new();
    for shapes in combinations {
        let before = model.calls().prepare;
        let time = terminal.progress("preparing the model", || model.prepare_for(&shapes))?;
        prepared.push(Prepared { shapes, time, stored: model.calls().prepare == before });
    }
    store.finish();
    let digest = model.digest();
    let kept = store.list().map_err(Error::new)?;
    for Prepared { shapes, .. } in &prepared {
        let wanted = model.plan_shapes(shapes)?;
        let is_kept = kept.iter().any(|stored| {
            let good = stored.current && stored.broken.is_none();
            good && stored.model == Some(digest) && stored.plan.accepts(&wanted)
        });
        if !is_kept {
            let shapes = shapes_text(shapes);
            return Err(Failure::failed(format!("the snapshot for {shapes} was not stored"))
                .hint("--verbose shows why; BELLJAR_STORE_SIZE sets the size of the store"));
        }
    }
    let mut out = BufWriter::new(stdout().lock());
    match arguments.format {
        Format::Table => {
            let mut table = Table::default().right(2);
            for Prepared { shapes, time, stored } in &prepared {
                let what = if *stored { "already in the store" } else { "prepared" };
                let time = format!("{:.1} ms", time.as_secs_f64() * 1e3);
                table.row([what.to_owned(), shapes_text(shapes), time]);
            }
            table.print(&mut out, 0)
        }
        Format::Json => {
            let snapshots = prepared.iter().map(|prepared| {
                json!({
                    "shapes": shapes_json(&prepared.shapes),
                    "was_stored": prepared.stored,
                    "prepare_ms": prepared.time.as_secs_f64() * 1e3,
                })
            });
            let answer = json!({
                "model": { "sha256": digest.to_string(), "bytes": loaded.size },
                "snapshots": snapshots.collect::<Vec<_>>(),
            });
            json::print(&answer, &mut out)
        }
    }
    .and_then(|()| out.flush())
    .map_err(Failure::output)
}

/// Parses the shapes given with --input-shape.
pub(super) fn given_shapes(texts: &[String]) -> Result<Vec<InputShape>, Failure> {
    let shape = |text: &String| {
        let (name, dims) = parse_shape("--input-shape", text)?;
        Ok(InputShape { name, dims: dims.iter().map(|dim| *dim as u64).collect() })
    };
    texts.iter().map(shape).collect()
}

/// `snapshot 1×3×224×224, mask 1×224`; names are escaped.
pub(super) fn shapes_text(shapes: &[InputShape]) -> String {
    let shapes = shapes.iter().map(|shape| {
        let dims: Vec<String> = shape.dims.iter().map(ToString::to_string).collect();
        let dims = if dims.is_empty() { "scalar".to_owned() } else { dims.join("×") };
        format!("{} {dims}", Escaped::cut(&shape.name, 60))
    });
    shapes.collect::<Vec<_>>().join(", ")
}

/// As [`shapes_text`], with `1..512` or `1..` for a dimension that may have several sizes.
pub(super) fn plan_text(plan: &PlanShapes) -> String {
    let of = |(name, dims): (&str, Vec<SizeRange>)| {
        let dims: Vec<String> = dims.into_iter().map(range_text).collect();
        let dims = if dims.is_empty() { "scalar".to_owned() } else { dims.join("×") };
        format!("{} {dims}", Escaped::cut(name, 60))
    };
    plan.ranges().into_iter().map(of).collect::<Vec<_>>().join(", ")
}

/// As [`shapes_json`]; a dimension that may have several sizes is a text.
pub(super) fn plan_json(plan: &PlanShapes) -> serde_json::Value {
    let dim = |range: SizeRange| match range.min == range.max {
        true => json!(range.min),
        false => json!(range_text(range)),
    };
    let of = |(name, dims): (&str, Vec<SizeRange>)| json!({ "name": name, "shape": dims.into_iter().map(dim).collect::<Vec<_>>() });
    plan.ranges().into_iter().map(of).collect()
}

/// `3`, `1..512`, `1..`, or `32..64..` for the multiples of 32.
fn range_text(range: SizeRange) -> String {
    let SizeRange { min, max, step } = range;
    if min == max {
        return min.to_string();
    }
    let step = if step > 1 { format!("{}..", min + step) } else { String::new() };
    // Larger sizes are limits of plans, not of models.
    let max = if max > MAX_SHOWN { String::new() } else { max.to_string() };
    format!("{min}..{step}{max}")
}

/// Larger bounds are not shown.
const MAX_SHOWN: u64 = 1 << 20;

pub(super) fn shapes_json(shapes: &[InputShape]) -> serde_json::Value {
    shapes.iter().map(|shape| json!({ "name": shape.name, "shape": shape.dims })).collect()
}

/// The shapes of all inputs, for each snapshot.
fn combinations(
    description: &Description,
    given: &[InputShape],
) -> Result<Vec<Vec<InputShape>>, Failure> {
    // An input with a default needs a shape only if one is given.
    let wanted = |input: &&ValueInfo| {
        !input.has_default || given.iter().any(|shape| shape.name == input.name)
    };
    let inputs: Vec<&ValueInfo> = description.inputs.iter().filter(wanted).collect();
    if let Some(unknown) = given.iter().find(|shape| !inputs.iter().any(|i| i.name == shape.name)) {
        let name = Escaped::cut(&unknown.name, 60);
        return Err(Failure::usage(format!("--input-shape: the model has no input {name}"))
            .hint("`belljar inspect` shows what the model declares"));
    }
    let of_each =
        inputs.iter().map(|input| shapes_of(input, given)).collect::<Result<Vec<_>, _>>()?;
    let count = of_each.iter().map(Vec::len).max().unwrap_or(1);
    if let Some(odd) = of_each.iter().find(|shapes| shapes.len() != 1 && shapes.len() != count) {
        let name = odd.first().map_or("", |shape| shape.name.as_str());
        let (name, found) = (Escaped::cut(name, 60), odd.len());
        return Err(Failure::usage(format!(
            "{found} shapes for {name}, but {count} for another input: give 1 or {count} for each"
        )));
    }
    let nth = |number: usize| {
        let shapes = of_each.iter().filter_map(|shapes| shapes.get(number).or(shapes.first()));
        shapes.cloned().collect()
    };
    Ok((0..count).map(nth).collect())
}

/// The given shapes of an input, or the shape it declares.
fn shapes_of(input: &ValueInfo, given: &[InputShape]) -> Result<Vec<InputShape>, Failure> {
    let given: Vec<InputShape> =
        given.iter().filter(|shape| shape.name == input.name).cloned().collect();
    if !given.is_empty() {
        return Ok(given);
    }
    let dims: Option<Vec<u64>> = input.shape.as_ref().and_then(|dims| {
        let fixed = |dim: &Dim| match dim {
            Dim::Fixed(size) => Some(*size),
            Dim::Symbol(_) | Dim::Unknown => None,
        };
        dims.iter().map(fixed).collect()
    });
    let name = Escaped::cut(&input.name, 60);
    match dims {
        Some(dims) => Ok(vec![InputShape { name: input.name.clone(), dims }]),
        None => {
            let declared = match &input.shape {
                Some(dims) => {
                    let dims: Vec<String> = dims.iter().map(ToString::to_string).collect();
                    Escaped::cut(&dims.join(","), 100).to_string()
                }
                None => "any shape".to_owned(),
            };
            Err(Failure::usage(format!("the shape of input {name} is not fixed by the model"))
                .hint(format!("give --input-shape {name}=N,N,…, or --dim NAME=N for each name; the model declares {declared}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use belljar::ValueType;

    use super::*;

    fn input(name: &str, dims: &[Dim]) -> ValueInfo {
        ValueInfo {
            name: name.into(),
            elem_type: 1,
            value_type: ValueType::Tensor,
            shape: Some(dims.to_vec()),
            has_default: false,
        }
    }

    fn shape(name: &str, dims: &[u64]) -> InputShape {
        InputShape { name: name.into(), dims: dims.to_vec() }
    }

    #[test]
    fn nth_shapes_of_all_inputs_form_the_nth_snapshot() {
        let open = Dim::Symbol("n".into());
        let description = Description {
            inputs: vec![input("x", &[open, Dim::Fixed(3)]), input("scale", &[Dim::Fixed(2)])],
            ..Description::default()
        };
        let both = |given: &[InputShape]| combinations(&description, given).ok();
        let scale = shape("scale", &[2]);
        assert_eq!(
            both(&[shape("x", &[1, 3]), shape("x", &[8, 3])]),
            Some(vec![
                vec![shape("x", &[1, 3]), scale.clone()],
                vec![shape("x", &[8, 3]), scale.clone()]
            ])
        );
        assert_eq!(both(&[]), None);
        assert_eq!(both(&[shape("x", &[1, 3]), shape("y", &[1])]), None);
        let three = [shape("x", &[1, 3]), shape("x", &[2, 3]), shape("x", &[3, 3])];
        assert_eq!(both(&[&three[..], &[scale.clone(), scale.clone()]].concat()), None);
    }
}
