//! The entries of the table, and the functions that write them. An entry describes an operator over
//! a range of versions: its inputs, outputs, element types, attributes and their accepted values.

use crate::types::Types;

/// The newest version of the ONNX operator set that the table was checked against.
pub const NEWEST: i64 = 28;

/// The domain of ONNX's operators for classical models: trees, linear models, support vectors.
pub const ML: &str = "ai.onnx.ml";

/// The newest version of the operator set of [`ML`] that the table was checked against.
pub const NEWEST_ML: i64 = 5;

/// The domain of onnxruntime's own operators, which its optimiser and quantisation write into
/// models.
pub const MICROSOFT: &str = "com.microsoft";

/// The only version of the operator set of [`MICROSOFT`].
pub const NEWEST_MICROSOFT: i64 = 1;

/// One operator over a range of versions of the operator set.
#[derive(Clone, Copy)]
pub struct Operator {
    /// Empty for the ONNX operator set, otherwise [`ML`] or [`MICROSOFT`].
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
    /// Minimum number of outputs of a node.
    pub fewest_outputs: usize,
    /// Whether the last output may be repeated.
    pub many_outputs: bool,
    pub attributes: &'static [Attribute],
    /// A further check of its attributes and inputs.
    pub check: Option<Check>,
}

/// A check of several attributes together, which the gate performs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// All window attributes have a number for each dimension, and only one of them sets the
    /// padding.
    Windows,
    /// As `Windows`, without combinations that implementations compute differently.
    Pooling,
    /// Cubic interpolation only with zeros outside of the image.
    GridSample,
    /// A permutation of the dimensions.
    Permutation,
    /// Exactly one value attribute.
    Constant,
    /// `starts`, `ends` and `axes` of the same length.
    Slice1,
    /// An odd `size`.
    OddSize,
    /// The implemented combinations of masks and past keys.
    Attention,
    /// An implemented equation.
    Equation,
    /// More than one output only in training mode.
    Training,
    /// Scales or sizes.
    Resize,
    /// No lengths of sequences, and a direction for each scan input.
    Scan8,
    /// An axis for each scan input and scan output.
    Scan,
}

/// An input: its allowed types, and the inputs and outputs with the same type.
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
    /// The type that an attribute names.
    Attr(&'static str, Types),
    /// The type that an attribute names, or without it that of the inputs with this letter.
    AttrOr(&'static str, Types, char),
    /// The type that an attribute names, or without it the last one.
    AttrOrIs(&'static str, Types, Types),
    /// The type for the first of these attributes that is present: if there are several, the element
    /// type of a tensor, or the type whose number the attribute is. The last is for a node with none
    /// of the attributes.
    With(&'static [(&'static str, Types)], Types),
    /// The first type, or the second where this attribute is 0.
    Unless(&'static str, Types, Types),
    /// The type for the text of an attribute. The last is for a node without it.
    ByText(&'static str, &'static [(&'static str, Types)], Types),
    /// Strings for integers, and integers for strings.
    Swapped,
    /// The type of a constant, or of the outputs of the bodies of a node.
    Special,
}

/// An attribute and its implemented values.
#[derive(Clone, Copy)]
pub struct Attribute {
    pub name: &'static str,
    pub values: Values,
    pub required: bool,
}

#[derive(Clone, Copy)]
pub enum Values {
    /// An integer in this range, inclusive.
    Int(i64, i64),
    /// Integers in this range, inclusive.
    Ints(i64, i64),
    /// Any number of any integers; the operator checks them.
    AnyInts,
    /// Any finite number.
    Float,
    AnyFloat,
    /// This number only.
    Exactly(f32),
    Floats,
    /// One of these strings.
    Text(&'static [&'static str]),
    AnyText,
    /// Exactly these strings, repeated any number of times.
    Texts(&'static [&'static str]),
    AnyTexts,
    /// The number of an element type.
    Type(Types),
    /// The number of an element type, or 0 if it is given elsewhere.
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

    /// Sets the minimum number of outputs.
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

/// An operator since this version, with one output of the type of its inputs.
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

/// An input whose type is independent of the others.
pub(crate) const fn any(types: Types) -> Input {
    Input { types, letter: '-' }
}

pub(crate) const fn attr(name: &'static str, values: Values) -> Attribute {
    Attribute { name, values, required: false }
}

pub(crate) const fn must(name: &'static str, values: Values) -> Attribute {
    Attribute { name, values, required: true }
}

/// An attribute for an axis, within the maximum number of dimensions.
pub(crate) const fn axis(name: &'static str) -> Attribute {
    attr(name, Values::Int(-32, 31))
}

pub(crate) const fn flag(name: &'static str) -> Attribute {
    attr(name, Values::Int(0, 1))
}

/// An attribute that may only have this value.
pub(crate) const fn only(name: &'static str, value: i64) -> Attribute {
    attr(name, Values::Int(value, value))
}
