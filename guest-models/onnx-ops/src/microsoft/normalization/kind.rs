//! What the operators of this family differ in.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Simplified,
    Skip,
    SkipSimplified,
}

/// What an output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Output,
    Mean,
    Inverse,
    Sum,
}

impl Kind {
    /// The number of inputs that are required.
    pub(super) fn required(self) -> usize {
        if self == Kind::Simplified { 2 } else { 3 }
    }

    /// The positions of the scale, of the shift after it, and of the bias before the normalization.
    pub(super) fn parameters(self) -> (usize, Option<usize>, Option<usize>) {
        match self {
            Kind::Simplified => (1, None, None),
            Kind::Skip => (2, Some(3), Some(4)),
            Kind::SkipSimplified => (2, None, Some(3)),
        }
    }

    pub(super) fn outputs(self) -> &'static [Part] {
        match self {
            Kind::Simplified => &[Part::Output, Part::Inverse],
            _ => &[Part::Output, Part::Mean, Part::Inverse, Part::Sum],
        }
    }
}
