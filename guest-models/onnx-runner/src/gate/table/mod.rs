//! The table: every operator that is computed as ONNX says, the versions of the operator set for
//! which that was checked, its inputs and outputs with their element types, and the attributes
//! that are understood, each with the values that were checked. What is not here is refused.

mod elementwise;
mod layers;
mod shapes;

use tract_onnx::pb::NodeProto;

use super::NEWEST;
use super::types::Types;

/// One operator over a range of versions of the operator set.
#[derive(Clone, Copy)]
pub(super) struct Operator {
    pub(super) name: &'static str,
    pub(super) since: i64,
    pub(super) until: i64,
    pub(super) inputs: &'static [Input],
    /// How many of the inputs, from the end, may be missing.
    pub(super) optional: usize,
    /// Whether the last input may be repeated.
    pub(super) many: bool,
    pub(super) outputs: &'static [Output],
    /// How few outputs a node may name.
    pub(super) fewest_outputs: usize,
    /// Whether the last output may be repeated.
    pub(super) many_outputs: bool,
    pub(super) attributes: &'static [Attribute],
    /// What else must hold.
    pub(super) check: Option<fn(&NodeProto) -> Result<(), String>>,
}

/// An input: its possible types, and which other inputs have the same one.
#[derive(Clone, Copy)]
pub(super) struct Input {
    pub(super) types: Types,
    /// Inputs and outputs with the same letter have the same type; `-` has none.
    pub(super) letter: char,
}

/// The element type of an output.
#[derive(Clone, Copy)]
pub(super) enum Output {
    /// The type of the inputs with this letter.
    Like(char),
    Is(Types),
    /// What an attribute says.
    Said(&'static str, Types),
    /// That of a constant, or of the bodies of a node.
    Special,
}

/// An attribute and the values that are understood.
#[derive(Clone, Copy)]
pub(super) struct Attribute {
    pub(super) name: &'static str,
    pub(super) values: Values,
    pub(super) required: bool,
}

#[derive(Clone, Copy)]
pub(super) enum Values {
    /// An integer from the first to the second.
    Int(i64, i64),
    /// Integers, each from the first to the second.
    Ints(i64, i64),
    /// Any finite number.
    Float,
    /// This number only.
    Exactly(f32),
    Floats,
    /// One of these texts.
    Text(&'static [&'static str]),
    AnyText,
    /// Exactly these texts, once or more often.
    Texts(&'static [&'static str]),
    AnyTexts,
    /// The number of an element type.
    Type(Types),
    Tensor,
    Graph,
}

impl Operator {
    const fn until(mut self, until: i64) -> Operator {
        self.until = until;
        self
    }

    const fn optional(mut self, optional: usize) -> Operator {
        self.optional = optional;
        self
    }

    const fn many(mut self) -> Operator {
        self.many = true;
        self
    }

    const fn to(mut self, outputs: &'static [Output]) -> Operator {
        self.outputs = outputs;
        self.fewest_outputs = outputs.len();
        self
    }

    /// How few outputs there must be.
    const fn fewest(mut self, outputs: usize) -> Operator {
        self.fewest_outputs = outputs;
        self
    }

    const fn many_outputs(mut self) -> Operator {
        self.many_outputs = true;
        self
    }

    const fn with(mut self, attributes: &'static [Attribute]) -> Operator {
        self.attributes = attributes;
        self
    }

    const fn check(mut self, check: fn(&NodeProto) -> Result<(), String>) -> Operator {
        self.check = Some(check);
        self
    }
}

/// An operator that makes one tensor of the type of its inputs, from this version on.
const fn op(name: &'static str, since: i64, inputs: &'static [Input]) -> Operator {
    Operator {
        name,
        since,
        until: NEWEST,
        inputs,
        optional: 0,
        many: false,
        outputs: &[Output::Like('T')],
        fewest_outputs: 1,
        many_outputs: false,
        attributes: &[],
        check: None,
    }
}

const fn t(types: Types) -> Input {
    Input { types, letter: 'T' }
}

const fn u(types: Types) -> Input {
    Input { types, letter: 'U' }
}

/// An input whose type says nothing of others.
const fn any(types: Types) -> Input {
    Input { types, letter: '-' }
}

const fn attr(name: &'static str, values: Values) -> Attribute {
    Attribute { name, values, required: false }
}

const fn must(name: &'static str, values: Values) -> Attribute {
    Attribute { name, values, required: true }
}

/// The axes that attributes name: no tensor has more dimensions.
const fn axis(name: &'static str) -> Attribute {
    attr(name, Values::Int(-32, 31))
}

const fn flag(name: &'static str) -> Attribute {
    attr(name, Values::Int(0, 1))
}

/// An attribute that may be there with its default only.
const fn only(name: &'static str, value: i64) -> Attribute {
    attr(name, Values::Int(value, value))
}

/// The operator of this name in this version; or else what is said of it.
pub(super) fn find(name: &str, version: i64) -> Result<&'static Operator, String> {
    let all = || elementwise::OPERATORS.iter().chain(layers::OPERATORS).chain(shapes::OPERATORS);
    let named = || all().filter(|operator| operator.name == name);
    let fits = |operator: &&Operator| (operator.since..=operator.until).contains(&version);
    if let Some(found) = named().find(fits) {
        return Ok(found);
    }
    let ranges: Vec<String> = named()
        .map(|operator| match (operator.since, operator.until) {
            (since, NEWEST) => format!("from {since} on"),
            (since, until) => format!("{since} to {until}"),
        })
        .collect();
    if ranges.is_empty() {
        return Err("the operator is not implemented".into());
    }
    Err(format!("the operator is implemented as of operator set {} only", ranges.join(", ")))
}
