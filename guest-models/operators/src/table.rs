//! The table: every operator that is computed as ONNX says, the versions of the operator set for
//! which that was checked, its inputs and outputs with their element types, and the attributes
//! that are understood, each with the values that were checked. What is not here is refused.

use crate::types::Types;
use crate::{
    attention, elementwise, layers, legacy, ml, quantized, recurrent, regions, sequences, shapes,
    strings,
};

/// The newest version of ONNX's own operator set that the table was held against.
pub const NEWEST: i64 = 28;

/// The domain of ONNX's operators for classical models: trees, linear models, support vectors.
pub const ML: &str = "ai.onnx.ml";

/// The newest version of that domain's operator set that the table was held against.
pub const NEWEST_ML: i64 = 5;

/// One operator over a range of versions of the operator set.
#[derive(Clone, Copy)]
pub struct Operator {
    /// Empty for ONNX's own, else [`ML`].
    pub domain: &'static str,
    pub name: &'static str,
    pub since: i64,
    pub until: i64,
    pub inputs: &'static [Input],
    /// How many of the inputs, from the end, may be missing.
    pub optional: usize,
    /// Whether the last input may be repeated.
    pub many: bool,
    pub outputs: &'static [Output],
    /// How few outputs a node may name.
    pub fewest_outputs: usize,
    /// Whether the last output may be repeated.
    pub many_outputs: bool,
    pub attributes: &'static [Attribute],
    /// What else must hold of its attributes and inputs.
    pub check: Option<Check>,
}

/// What must hold of attributes together, as the gate checks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Windows have as many numbers of each kind as they have dimensions, and are padded one way.
    Windows,
    /// The same, and nothing that implementations round differently.
    Pooling,
    /// The same for transposed convolutions, which may say the shape of their output instead.
    Transposed,
    /// Nothing beyond an image but zeros where interpolation is cubic.
    GridSample,
    /// Every dimension once.
    Permutation,
    /// One value.
    Constant,
    /// As many starts as ends and axes.
    Slice1,
    /// An odd number of neighbours.
    OddSize,
    /// What of masks and earlier keys is implemented.
    Attention,
    /// An equation of letters.
    Equation,
    /// More than one output only where something is trained.
    Training,
    /// Factors or sizes.
    Resize,
    /// An axis for each input and output that is scanned.
    Scan,
}

/// An input: its possible types, and which other inputs have the same one.
#[derive(Clone, Copy)]
pub struct Input {
    pub types: Types,
    /// Inputs and outputs with the same letter have the same type; `-` has none.
    pub letter: char,
}

/// The element type of an output.
#[derive(Clone, Copy)]
pub enum Output {
    /// The type of the inputs with this letter.
    Like(char),
    /// The same, or that of the inputs with the second letter if none with the first is given.
    Either(char, char),
    Is(Types),
    /// What an attribute says.
    Said(&'static str, Types),
    /// The same, or if it is not there the type of the inputs with this letter.
    SaidOr(&'static str, Types, char),
    /// That which goes with the first of these attributes that is there; of a tensor its own, if it
    /// is one of these. The last is that of a node that has none of them.
    With(&'static [(&'static str, Types)], Types),
    /// Texts for integers, and integers for texts.
    Swapped,
    /// That of a constant, or of the bodies of a node.
    Special,
}

/// An attribute and the values that are understood.
#[derive(Clone, Copy)]
pub struct Attribute {
    pub name: &'static str,
    pub values: Values,
    pub required: bool,
}

#[derive(Clone, Copy)]
pub enum Values {
    /// An integer from the first to the second.
    Int(i64, i64),
    /// Integers, each from the first to the second.
    Ints(i64, i64),
    /// Integers, as many as there are: whoever takes them looks at them.
    AnyInts,
    /// Any finite number.
    Float,
    AnyFloat,
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
    /// The same, or 0 for what is said elsewhere.
    ZeroOr(Types),
    Tensor,
    Graph,
}

impl Operator {
    pub(crate) const fn until(mut self, until: i64) -> Operator {
        self.until = until;
        self
    }

    pub(crate) const fn optional(mut self, optional: usize) -> Operator {
        self.optional = optional;
        self
    }

    pub(crate) const fn many(mut self) -> Operator {
        self.many = true;
        self
    }

    pub(crate) const fn to(mut self, outputs: &'static [Output]) -> Operator {
        self.outputs = outputs;
        self.fewest_outputs = outputs.len();
        self
    }

    /// How few outputs there must be.
    pub(crate) const fn fewest(mut self, outputs: usize) -> Operator {
        self.fewest_outputs = outputs;
        self
    }

    pub(crate) const fn many_outputs(mut self) -> Operator {
        self.many_outputs = true;
        self
    }

    pub(crate) const fn with(mut self, attributes: &'static [Attribute]) -> Operator {
        self.attributes = attributes;
        self
    }

    pub(crate) const fn check(mut self, check: Check) -> Operator {
        self.check = Some(check);
        self
    }
}

/// An operator that makes one tensor of the type of its inputs, from this version on.
pub(crate) const fn op(name: &'static str, since: i64, inputs: &'static [Input]) -> Operator {
    Operator {
        domain: "",
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

pub(crate) const fn t(types: Types) -> Input {
    Input { types, letter: 'T' }
}

pub(crate) const fn u(types: Types) -> Input {
    Input { types, letter: 'U' }
}

/// An input whose type says nothing of others.
pub(crate) const fn any(types: Types) -> Input {
    Input { types, letter: '-' }
}

pub(crate) const fn attr(name: &'static str, values: Values) -> Attribute {
    Attribute { name, values, required: false }
}

pub(crate) const fn must(name: &'static str, values: Values) -> Attribute {
    Attribute { name, values, required: true }
}

/// The axes that attributes name: no tensor has more dimensions.
pub(crate) const fn axis(name: &'static str) -> Attribute {
    attr(name, Values::Int(-32, 31))
}

pub(crate) const fn flag(name: &'static str) -> Attribute {
    attr(name, Values::Int(0, 1))
}

/// An attribute that may be there with its default only.
pub(crate) const fn only(name: &'static str, value: i64) -> Attribute {
    attr(name, Values::Int(value, value))
}

/// Every operator, in the order of the files.
pub fn all() -> impl Iterator<Item = &'static Operator> {
    let files = [
        elementwise::OPERATORS,
        attention::OPERATORS,
        layers::OPERATORS,
        recurrent::OPERATORS,
        quantized::OPERATORS,
        regions::OPERATORS,
        legacy::OPERATORS,
        shapes::OPERATORS,
        sequences::OPERATORS,
        strings::OPERATORS,
        ml::OPERATORS,
    ];
    files.into_iter().flatten()
}

/// The newest version of a domain's operator set, of the domains that are known.
pub fn newest(domain: &str) -> Option<i64> {
    match domain {
        "" => Some(NEWEST),
        ML => Some(NEWEST_ML),
        _ => None,
    }
}

/// The operator of this name in this version of a domain; or else what is said of it.
pub fn find(domain: &str, name: &str, version: i64) -> Result<&'static Operator, String> {
    let named = || all().filter(|operator| operator.domain == domain && operator.name == name);
    let fits = |operator: &&Operator| (operator.since..=operator.until).contains(&version);
    if let Some(found) = named().find(fits) {
        return Ok(found);
    }
    if domain == ML && ["ZipMap", "CastMap", "DictVectorizer"].contains(&name) {
        return Err(maps(name));
    }
    let ranges: Vec<String> = named()
        .map(|operator| match (operator.since, operator.until) {
            (since, until) if Some(until) == newest(domain) => format!("from {since} on"),
            (since, until) => format!("{since} to {until}"),
        })
        .collect();
    if ranges.is_empty() {
        return Err("the operator is not implemented".into());
    }
    Err(format!("the operator is implemented as of operator set {} only", ranges.join(", ")))
}

/// Why what makes or takes maps is refused, and how to do without.
fn maps(name: &str) -> String {
    let why = "maps are not implemented, tensors alone are";
    match name {
        "ZipMap" => format!(
            "{why}; export the model with its scores as a tensor, which for skl2onnx is the option \
             zipmap=False"
        ),
        _ => format!("{why}; export the model with a matrix as its input"),
    }
}
