//! Shapes that differ from the model's declaration.

use std::fmt;

use belljar_abi::Dim;

use belljar_text::Escaped;

/// An input or output whose shape differs from the model's declaration.
///
/// Models often declare wrong output shapes, and the declaration comes from the model itself, so
/// enforcing it protects nobody. Therefore an output with another shape is returned as computed,
/// and so are the outputs of a run that uses one symbol for two sizes; the difference is reported.
/// A policy with `declared-shapes = "strict"` refuses both
/// ([`DeclaredShapes`](belljar_policy::DeclaredShapes)).
///
/// The rank and the fixed sizes of an input are always enforced.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShapeDifference {
    /// Whether it is an input. Inputs differ only in the size of a symbol.
    pub is_input: bool,
    /// The name of the input or output. Untrusted text.
    pub name: String,
    /// The declared shape. Symbols are untrusted text.
    pub declared: Vec<Dim>,
    /// The shape of the tensor.
    pub found: Vec<usize>,
    /// A symbol that has another size elsewhere, and that size. `None` if the rank or a fixed size
    /// differs.
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
