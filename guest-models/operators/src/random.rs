//! Operators that draw random numbers. Dropout, which does so in training mode, is here too.

use crate::entry::Values::{Float, Int, Ints, Type};
use crate::entry::{Attribute, Operator, Output, any, attr, must, op, t};
use crate::types::{ANY, BF16, BOOL, F32, FLOAT8, I32, INDICES, PLAIN, REALS, STORED, Types};

/// The types of an input of which only the shape is read.
const SHAPED: Types = ANY.or(STORED);
const BITS: Types = PLAIN.or(BF16);

const OF_REALS: &[Output] = &[Output::AttrOrIs("dtype", REALS, F32)];
const LIKE: &[Output] = &[Output::AttrOr("dtype", REALS, 'T')];

const NORMAL: &[Attribute] = &[
    attr("dtype", Type(REALS)),
    attr("mean", Float),
    attr("scale", Float),
    attr("seed", Float),
    must("shape", Ints(0, 1 << 30)),
];
/// The attributes without the shape.
const NORMAL_LIKE: &[Attribute] = NORMAL.split_at(4).0;

const UNIFORM: &[Attribute] = &[
    attr("dtype", Type(REALS)),
    attr("low", Float),
    attr("high", Float),
    attr("seed", Float),
    must("shape", Ints(0, 1 << 30)),
];
const UNIFORM_LIKE: &[Attribute] = UNIFORM.split_at(4).0;

#[rustfmt::skip]
pub(crate) const OPERATORS: &[Operator] = &[
    op("RandomNormal", 1, &[]).to(OF_REALS).with(NORMAL),
    op("RandomNormalLike", 1, &[t(SHAPED)]).to(LIKE).with(NORMAL_LIKE),
    op("RandomUniform", 1, &[]).to(OF_REALS).with(UNIFORM),
    op("RandomUniformLike", 1, &[t(SHAPED)]).to(LIKE).with(UNIFORM_LIKE),
    op("Bernoulli", 15, &[t(REALS)]).to(&[Output::AttrOr("dtype", BITS, 'T')])
        .with(&[attr("dtype", Type(BITS)), attr("seed", Float)]),
    op("Multinomial", 7, &[any(REALS)]).to(&[Output::AttrOrIs("dtype", INDICES, I32)])
        .with(&[attr("dtype", Type(INDICES)), attr("sample_size", Int(1, 1 << 30)), attr("seed", Float)]),
    // Up to version 9 the mask has the type of the data; tract's masks are booleans, so they cannot
    // be outputs in these versions.
    op("Dropout", 7, &[t(REALS)]).until(11).to(&[Output::Like('T'), Output::Is(BOOL)]).fewest(1).with(&[attr("ratio", Float)]),
    op("Dropout", 12, &[t(REALS.or(FLOAT8)), any(REALS.or(FLOAT8)), any(BOOL)]).optional(2)
        .to(&[Output::Like('T'), Output::Is(BOOL)]).fewest(1).with(&[attr("seed", Int(i64::MIN, i64::MAX))]),
];
