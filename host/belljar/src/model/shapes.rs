//! Shapes that differ from what the model declares.

use std::fmt;

use belljar_abi::Dim;

use belljar_text::Escaped;

/// An input or output whose shape is not the one that the model declares.
///
/// What a model declares about the shapes of its outputs is often wrong, and it is only the model's
/// own word: it protects nobody. So an output of another shape is answered as it was computed, and so
/// is the run of a model that uses one symbol for two sizes; the difference is reported. A policy with
/// `declared-shapes = "strict"` refuses both ([`DeclaredShapes`](belljar_policy::DeclaredShapes)).
///
/// The rank and the fixed sizes of an input are always enforced.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShapeDifference {
    /// Whether it is an input. An input differs only in the size that a symbol stands for.
    pub is_input: bool,
    /// The name of the input or output. Untrusted text.
    pub name: String,
    /// The shape that the model declares. Symbols are hostile text.
    pub declared: Vec<Dim>,
    /// The shape that the tensor has.
    pub found: Vec<usize>,
    /// A symbol that stands for another size elsewhere, and that size. `None` where the rank or a
    /// fixed size differs.
    pub symbol: Option<(String, u64)>,
}

/// Safe to print: names from the model are escaped and cut.
impl fmt::Display for ShapeDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_input { "input" } else { "output" };
        let declared: Vec<String> = self.declared.iter().map(ToString::to_string).collect();
        write!(
            f,
            "{kind} {} has the shape {:?}, but the model declares [{}]",
            Escaped::cut(&self.name, 100),
            self.found,
            Escaped::cut(&declared.join(", "), 200)
        )?;
        if let Some((symbol, size)) = &self.symbol {
            write!(f, ", and {} is {size} elsewhere", Escaped::cut(symbol, 100))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_one_printable_line() {
        let difference = ShapeDifference {
            is_input: false,
            name: "y\u{1b}[2J\n".repeat(100),
            declared: vec![Dim::Symbol("n\r\n\u{202e}".repeat(1000)), Dim::Fixed(2), Dim::Unknown],
            found: vec![3, 2, 4],
            symbol: Some(("n\r\n\u{202e}".repeat(1000), 5)),
        };
        let text = difference.to_string();
        assert!(text.chars().all(|c| !c.is_control() && c != '\u{202e}'), "{text:?}");
        assert!(text.chars().count() < 2000, "{text}");
        let plain = ShapeDifference {
            is_input: false,
            name: "y".into(),
            declared: vec![Dim::Fixed(800), Dim::Fixed(2)],
            found: vec![128, 2],
            symbol: None,
        };
        assert_eq!(
            plain.to_string(),
            "output y has the shape [128, 2], but the model declares [800, 2]"
        );
        let scalar = ShapeDifference { declared: vec![Dim::Fixed(1)], found: vec![], ..plain };
        assert_eq!(scalar.to_string(), "output y has the shape [], but the model declares [1]");
    }
}
