//! Registrations: which code computes an operator, for each range of its versions. They are next to
//! the implementations.

use std::ops::RangeInclusive;

pub use belljar_operators::Source;
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;

use crate::framework::errors::bail;
use crate::framework::upstream::{self, BuildResult, Builder};
use crate::framework::wrapped::Wrapping;

/// An operator over a range of versions of its domain's operator set. Without [`since`] and
/// [`until`] it is the implementation of every version.
///
/// [`since`]: Registration::since
/// [`until`]: Registration::until
#[derive(Clone, Debug)]
pub struct Registration {
    /// The domain; empty for the ONNX operator set.
    pub domain: &'static str,
    /// The name of the operator.
    pub name: &'static str,
    /// The versions of the operator set that it applies to.
    pub versions: RangeInclusive<i64>,
    /// Which code computes it.
    pub source: Source,
    implementation: Implementation,
}

#[derive(Clone, Copy, Debug)]
enum Implementation {
    Builder(Builder),
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
    registration(name, Source::Own, Implementation::Builder(build))
}

/// An operator that tract computes, with checks, rules or wiring of this crate.
pub(crate) const fn wrapped(name: &'static str, wrapping: Wrapping) -> Registration {
    registration(name, Source::Wrapped, Implementation::Wrapped(wrapping))
}

/// An operator that tract computes for some nodes, with checks, rules or wiring of this crate: the
/// builder chooses.
pub(crate) const fn wrapped_by(name: &'static str, build: Builder) -> Registration {
    registration(name, Source::Wrapped, Implementation::Builder(build))
}

/// An operator that tract computes as the specification says.
pub(crate) const fn upstream(name: &'static str) -> Registration {
    registration(name, Source::Upstream, Implementation::Builder(upstream::build))
}

/// An operator that the gate replaces by other nodes before tract sees the model.
pub(crate) const fn lowered(name: &'static str) -> Registration {
    registration(name, Source::Lowered, Implementation::Lowered)
}

impl Registration {
    /// The same implementation, for this version of the operator set and newer ones.
    pub(crate) const fn since(mut self, version: i64) -> Registration {
        self.versions = RangeInclusive::new(version, *self.versions.end());
        self
    }

    /// The same implementation, up to this version of the operator set.
    pub(crate) const fn until(mut self, version: i64) -> Registration {
        self.versions = RangeInclusive::new(*self.versions.start(), version);
        self
    }

    /// The same operator in another domain.
    pub(crate) const fn of(mut self, domain: &'static str) -> Registration {
        self.domain = domain;
        self
    }

    /// Makes the operator of a node.
    pub(crate) fn build(&self, context: &ParsingContext, node: &NodeProto) -> BuildResult {
        match self.implementation {
            Implementation::Builder(build) => build(context, node),
            Implementation::Wrapped(wrapping) => wrapping.build(context, node),
            Implementation::Lowered => bail!("{} is not implemented", node.op_type),
        }
    }
}
