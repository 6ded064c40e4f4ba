//! Lossless storage of scalars whose element type is not known yet, in about ten bytes each.

use super::lexer::Scalar;

/// The kind of a stored scalar, which determines the meaning of its 64 bits.
#[derive(Clone, Copy)]
enum Kind {
    Int,
    Uint,
    Bool,
    /// The bits are an index into the texts.
    Text,
    /// The bits are the nearest `f64`; `narrow` is the position of the nearest `f32`.
    Float {
        integral: bool,
        narrow: Narrow,
    },
}

/// The nearest `f32` of a number, relative to its nearest `f64` rounded again.
#[derive(Clone, Copy)]
enum Narrow {
    Same,
    Above,
    Below,
}

/// Scalars in their original order.
#[derive(Default)]
pub(crate) struct Open {
    kinds: Vec<Kind>,
    bits: Vec<u64>,
    texts: Vec<String>,
}

impl Open {
    pub(super) fn push(&mut self, scalar: Scalar) {
        let (kind, bits) = match scalar {
            Scalar::Int(value) => (Kind::Int, value.cast_unsigned()),
            Scalar::Uint(value) => (Kind::Uint, value),
            Scalar::Bool(value) => (Kind::Bool, value.into()),
            Scalar::Text(text) => {
                self.texts.push(text);
                (Kind::Text, self.texts.len() as u64 - 1)
            }
            Scalar::Float { wide, narrow, integral } => {
                let again = wide as f32;
                let narrow = match () {
                    () if narrow > again => Narrow::Above,
                    () if narrow < again => Narrow::Below,
                    () => Narrow::Same,
                };
                (Kind::Float { integral, narrow }, wide.to_bits())
            }
        };
        self.kinds.push(kind);
        self.bits.push(bits);
    }

    pub(super) fn len(&self) -> usize {
        self.kinds.len()
    }

    /// Returns the scalar at a valid index; a string is moved out.
    pub(super) fn take(&mut self, at: usize) -> Option<Scalar> {
        let (kind, bits) = (*self.kinds.get(at)?, *self.bits.get(at)?);
        Some(match kind {
            Kind::Int => Scalar::Int(bits.cast_signed()),
            Kind::Uint => Scalar::Uint(bits),
            Kind::Bool => Scalar::Bool(bits != 0),
            Kind::Text => {
                let text = usize::try_from(bits).ok().and_then(|at| self.texts.get_mut(at));
                Scalar::Text(text.map(std::mem::take).unwrap_or_default())
            }
            Kind::Float { integral, narrow } => {
                let wide = f64::from_bits(bits);
                let again = wide as f32;
                let narrow = match narrow {
                    Narrow::Same => again,
                    Narrow::Above => again.next_up(),
                    Narrow::Below => again.next_down(),
                };
                Scalar::Float { wide, narrow, integral }
            }
        })
    }

    /// Whether two scalars are both bools, both strings, or both numbers.
    pub(super) fn is_like(&self, at: usize, other: usize) -> bool {
        let kind = |at: usize| {
            let kind = self.kinds.get(at);
            (matches!(kind, Some(Kind::Bool)), matches!(kind, Some(Kind::Text)))
        };
        kind(at) == kind(other)
    }

    pub(super) fn is_bool(&self, at: usize) -> bool {
        matches!(self.kinds.get(at), Some(Kind::Bool))
    }

    pub(super) fn is_text(&self, at: usize) -> bool {
        matches!(self.kinds.get(at), Some(Kind::Text))
    }

    /// Whether any number has a fraction or an exponent.
    pub(super) fn has_fractions(&self) -> bool {
        self.kinds.iter().any(|kind| matches!(kind, Kind::Float { integral: false, .. }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_round_trip_exactly(text in "-?[0-9]{1,25}(\\.[0-9]{1,40})?(e-?[0-9]{1,2})?") {
            let scalar = Scalar::Float {
                wide: text.parse().unwrap(),
                narrow: text.parse().unwrap(),
                integral: text.len() % 2 == 0,
            };
            let mut open = Open::default();
            open.push(scalar.clone());
            prop_assert_eq!(open.take(0), Some(scalar));
        }
    }

    #[test]
    fn every_kind_of_scalar_round_trips_in_place() {
        let scalars = [
            Scalar::Int(i64::MIN),
            Scalar::Text("NaN".into()),
            Scalar::Uint(u64::MAX),
            Scalar::Bool(true),
            Scalar::Text(String::new()),
            // Half-way between two floats except for its last digit: double rounding changes it.
            Scalar::Float {
                wide: 1.0 + 2f64.powi(-24),
                narrow: 1.0 + f32::EPSILON,
                integral: false,
            },
            Scalar::Float { wide: f64::INFINITY, narrow: f32::INFINITY, integral: true },
        ];
        let mut open = Open::default();
        scalars.iter().cloned().for_each(|scalar| open.push(scalar));
        assert_eq!(open.len(), scalars.len());
        for (at, scalar) in scalars.into_iter().enumerate() {
            assert_eq!(open.take(at), Some(scalar));
        }
        assert!(size_of::<Kind>() <= 2 && open.take(99).is_none());
    }
}
