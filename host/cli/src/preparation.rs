//! The part of `belljar inspect` that checks whether a model can be prepared.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::failure::Failure;
use super::prepare::{shapes_json, shapes_text};
use super::table::Table;
use belljar::Error;
use belljar::{Description, Dim, Examined, InputShape, Missing, Model, Preparation, ValueInfo};
use belljar_text::Escaped;

/// Sizes assumed for open dimensions without --input-shape and --dim: a batch of one, an image of common
/// size, a short text.
const BATCH: u64 = 1;
const SIDE: u64 = 224;
const LENGTH: u64 = 16;

/// The result of preparing a model.
pub(super) struct Judgement {
    /// The shapes that it was prepared for.
    shapes: Vec<InputShape>,
    /// Whether sizes were assumed for open dimensions.
    assumed: bool,
    examined: Examined,
}

/// Prepares the model for the given shapes and the declared shapes of the other inputs.
pub(super) fn judge(model: &Model, given: &[InputShape]) -> Result<Judgement, Failure> {
    let rules = &model.policy().inputs;
    let fixed = |name: &str| rules.iter().any(|rule| rule.name == name && rule.value.is_some());
    let (shapes, assumed) = shapes(model.description(), given, &fixed)?;
    let examined = model.examine_for(&shapes)?;
    Ok(Judgement { shapes, assumed, examined })
}

/// Like [`Judgement::json`], for a model that is refused before it is prepared for any shapes.
pub(super) fn refused(error: &str, exit_code: u8) -> Value {
    json!({
        "verdict": "refused",
        "shapes": [],
        "assumed": false,
        "prepared": false,
        "error": error,
        "exit_code": exit_code,
        "undecided": [],
        "more": false,
    })
}

/// A shape for every input that needs one, and whether sizes were assumed.
fn shapes(
    description: &Description,
    given: &[InputShape],
    fixed: &dyn Fn(&str) -> bool,
) -> Result<(Vec<InputShape>, bool), Failure> {
    let inputs = &description.inputs;
    for (at, shape) in given.iter().enumerate() {
        let name = Escaped::cut(&shape.name, 60);
        if !inputs.iter().any(|input| input.name == shape.name) {
            return Err(Failure::usage(format!("--input-shape: the model has no input {name}"))
                .hint("`belljar inspect` without --input-shape lists the inputs"));
        }
        if given[..at].iter().any(|other| other.name == shape.name) {
            return Err(Failure::usage(format!("duplicate --input-shape for input {name}")));
        }
    }
    // A symbol has the same size in all inputs.
    let mut symbols: Vec<Symbol<'_>> = Vec::new();
    for (input, shape) in inputs
        .iter()
        .filter_map(|input| Some((input, given.iter().find(|shape| shape.name == input.name)?)))
    {
        for (dim, size) in input.shape.iter().flatten().zip(&shape.dims) {
            if let Dim::Symbol(name) = dim {
                symbols.push(Symbol { name, size: *size, assumed: false });
            }
        }
    }
    let (mut shapes, mut assumed) = (given.to_vec(), false);
    for input in inputs.iter().filter(|input| !input.has_default && !fixed(&input.name)) {
        if !given.iter().any(|shape| shape.name == input.name) {
            shapes.push(InputShape {
                name: input.name.clone(),
                dims: dims(input, &mut symbols, &mut assumed),
            });
        }
    }
    Ok((shapes, assumed))
}

/// The size of a symbolic dimension.
struct Symbol<'d> {
    name: &'d str,
    size: u64,
    assumed: bool,
}

fn dims<'d>(input: &'d ValueInfo, symbols: &mut Vec<Symbol<'d>>, assumed: &mut bool) -> Vec<u64> {
    let Some(declared) = &input.shape else {
        *assumed = true;
        return vec![BATCH, LENGTH];
    };
    let usual = |axis: usize| match axis {
        0 => BATCH,
        _ if declared.len() >= 4 && axis >= 2 => SIDE,
        _ => LENGTH,
    };
    let mut size = |(axis, dim): (usize, &'d Dim)| match dim {
        Dim::Fixed(size) => *size,
        Dim::Symbol(name) => match symbols.iter().find(|symbol| symbol.name == name) {
            Some(symbol) => {
                *assumed |= symbol.assumed;
                symbol.size
            }
            None => {
                *assumed = true;
                symbols.push(Symbol { name, size: usual(axis), assumed: true });
                usual(axis)
            }
        },
        Dim::Unknown => {
            *assumed = true;
            usual(axis)
        }
    };
    declared.iter().enumerate().map(&mut size).collect()
}

impl Judgement {
    /// Whether a model is prepared or refused for these shapes, or "open" if sizes were assumed and
    /// the result depends on them.
    fn verdict(&self) -> &'static str {
        match &self.examined {
            Examined::Refused { for_all_shapes: true, .. } => "refused",
            _ if self.assumed => "open",
            Examined::Prepared(_) => "prepared",
            Examined::Refused { .. } => "refused",
        }
    }

    fn error(&self) -> Option<&Error> {
        match &self.examined {
            Examined::Refused { error, .. } => Some(error),
            Examined::Prepared(_) => None,
        }
    }

    fn preparation(&self) -> Option<&Preparation> {
        match &self.examined {
            Examined::Prepared(preparation) => Some(preparation),
            Examined::Refused { .. } => None,
        }
    }

    pub(super) fn print(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "\npreparation")?;
        let shapes = shapes_text(&self.shapes);
        let shapes = if shapes.is_empty() { "no inputs".to_owned() } else { shapes };
        let error = self.error().map(|error| error.kind().to_string());
        match (self.verdict(), error) {
            ("refused", Some(error)) => writeln!(out, "  {error}")?,
            ("open", Some(error)) => {
                writeln!(out, "  depends on the shapes of the inputs")?;
                writeln!(out, "  for example, with {shapes}: {error}")?;
            }
            ("open", None) => {
                writeln!(out, "  depends on the shapes of the inputs")?;
                writeln!(out, "  for example, with {shapes}: prepared")?;
            }
            _ => writeln!(out, "  prepared for {shapes}")?,
        }
        if self.assumed && self.verdict() == "open" {
            writeln!(
                out,
                "  to check other shapes, give --input-shape NAME=N,N,… or --dim NAME=N"
            )?;
        }
        let Some(preparation) = self.preparation() else { return Ok(()) };
        if preparation.undecided.is_empty() {
            return Ok(());
        }
        writeln!(out, "\nnodes that may fail during a run, depending on values")?;
        let mut table = Table::default();
        for node in &preparation.undecided {
            table.row([
                Escaped::cut(&node.node, 60).to_string(),
                Escaped::cut(&node.operator, 60).to_string(),
                match node.missing {
                    Missing::Values => "values not known in advance".to_owned(),
                    Missing::Sizes => "sizes not known in advance".to_owned(),
                },
            ]);
        }
        table.print(&mut *out, 2)?;
        if preparation.more {
            writeln!(out, "  and more")?;
        }
        Ok(())
    }

    pub(super) fn json(&self) -> Value {
        let none = Preparation::default();
        let preparation = self.preparation().unwrap_or(&none);
        let undecided = preparation.undecided.iter().map(|node| {
            let missing = match node.missing {
                Missing::Values => "values",
                Missing::Sizes => "sizes",
            };
            json!({ "node": node.node, "operator": node.operator, "missing": missing })
        });
        json!({
            "verdict": self.verdict(),
            "shapes": shapes_json(&self.shapes),
            "assumed": self.assumed,
            "prepared": self.preparation().is_some(),
            "error": self.error().map(|error| error.kind().to_string()),
            "exit_code": self.error().map(Error::exit_code),
            "undecided": undecided.collect::<Vec<_>>(),
            "more": preparation.more,
        })
    }
}

#[cfg(test)]
mod tests {
    use belljar::ValueType;

    use super::*;

    fn input(name: &str, dims: &[Dim]) -> ValueInfo {
        let shape = Some(dims.to_vec());
        let value_type = ValueType::Tensor;
        ValueInfo { name: name.into(), elem_type: 1, value_type, shape, has_default: false }
    }

    fn shape(name: &str, dims: &[u64]) -> InputShape {
        InputShape { name: name.into(), dims: dims.to_vec() }
    }

    #[test]
    fn open_dimensions_get_assumed_sizes_and_symbols_are_consistent() {
        let symbol = |name: &str| Dim::Symbol(name.into());
        let description = Description {
            inputs: vec![
                input("image", &[symbol("n"), Dim::Fixed(3), Dim::Unknown, symbol("w")]),
                input("text", &[symbol("n"), symbol("s")]),
                ValueInfo { has_default: true, ..input("scale", &[Dim::Fixed(1)]) },
            ],
            ..Description::default()
        };
        let of = |given: &[InputShape]| shapes(&description, given, &|_| false).ok();
        let assumed = vec![shape("image", &[1, 3, 224, 224]), shape("text", &[1, 16])];
        assert_eq!(of(&[]), Some((assumed, true)));
        let given = [shape("text", &[8, 5])];
        let both = vec![shape("text", &[8, 5]), shape("image", &[8, 3, 224, 224])];
        assert_eq!(of(&given), Some((both, true)));
        let given = [shape("image", &[4, 3, 32, 32])];
        let both = vec![shape("image", &[4, 3, 32, 32]), shape("text", &[4, 16])];
        assert_eq!(of(&given), Some((both, true)));
        let all = [shape("image", &[2, 3, 4, 4]), shape("text", &[2, 7])];
        assert_eq!(of(&all), Some((all.to_vec(), false)));
        assert_eq!(of(&[shape("audio", &[1])]), None);
        assert_eq!(of(&[shape("text", &[1, 1]), shape("text", &[1, 1])]), None);
    }
}
