//! How an operator says who computes it: one registration for each of its versions, beside its
//! implementation.

use std::ops::RangeInclusive;

pub use belljar_operators::Source;
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;

use crate::framework::errors::bail;
use crate::framework::upstream::{self, Builder, Built};
use crate::framework::wrapped::Wrapping;

/// An operator over a range of versions of its domain's operator set.
#[derive(Clone, Debug)]
pub struct Registration {
    /// Empty for ONNX's own.
    pub domain: &'static str,
    /// The operator's name.
    pub name: &'static str,
    /// The versions of the operator set that it is for.
    pub versions: RangeInclusive<i64>,
    /// Who computes it.
    pub source: Source,
    implementation: Implementation,
}

#[derive(Clone, Copy, Debug)]
enum Implementation {
    Built(Builder),
    Wrapped(Wrapping),
    Lowered,
}

const fn registration(
    name: &'static str,
    source: Source,
    implementation: Implementation,
) -> Registration {
    Registration { domain: "", name, versions: 1..=i64::MAX, source, implementation }
}

/// An operator that this crate computes.
pub(crate) const fn own(name: &'static str, build: Builder) -> Registration {
    registration(name, Source::Own, Implementation::Built(build))
}

/// An operator that tract computes, with checks, rules or wiring of this crate.
pub(crate) const fn wrapped(name: &'static str, wrapping: Wrapping) -> Registration {
    registration(name, Source::Wrapped, Implementation::Wrapped(wrapping))
}

/// An operator that tract computes for some nodes, with checks, rules or wiring of this crate: the
/// builder chooses.
pub(crate) const fn wrapped_by(name: &'static str, build: Builder) -> Registration {
    registration(name, Source::Wrapped, Implementation::Built(build))
}

/// An operator that tract computes as the specification says.
pub(crate) const fn upstream(name: &'static str) -> Registration {
    registration(name, Source::Upstream, Implementation::Built(upstream::build))
}

/// An operator that the gate replaces by other nodes before tract sees the model.
pub(crate) const fn lowered(name: &'static str) -> Registration {
    registration(name, Source::Lowered, Implementation::Lowered)
}

impl Registration {
    /// The same operator in another domain.
    pub(crate) const fn of(mut self, domain: &'static str) -> Registration {
        self.domain = domain;
        self
    }

    /// Makes the operator of a node.
    pub(crate) fn build(&self, context: &ParsingContext, node: &NodeProto) -> Built {
        match self.implementation {
            Implementation::Built(build) => build(context, node),
            Implementation::Wrapped(wrapping) => wrapping.build(context, node),
            Implementation::Lowered => bail!("{} is not implemented", node.op_type),
        }
    }
}
