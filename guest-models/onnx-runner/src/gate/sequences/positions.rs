//! Positions in sequences that are known before the model runs.

use super::Resolver;
use crate::gate::text::shown;

impl Resolver<'_> {
    /// The index for a position, which may be negative to count from the end of `length` elements.
    /// It must be less than `places`.
    pub(super) fn place(
        &self,
        position: Option<&str>,
        length: usize,
        places: usize,
        default: usize,
    ) -> Result<usize, String> {
        let at = match position {
            None => default as i64,
            Some(name) => match self.integers.get(name) {
                Some((_, values)) if values.len() == 1 => values[0],
                _ => {
                    return Err(format!(
                        "the position {} is only known when the model runs, which is not \
                         implemented",
                        shown(name)
                    ));
                }
            },
        };
        let from_start = if at < 0 { at.saturating_add(length as i64) } else { at };
        match usize::try_from(from_start).ok().filter(|at| *at < places) {
            Some(at) => Ok(at),
            None => Err(format!("the position {at} is out of range for a sequence of {length}")),
        }
    }
}
