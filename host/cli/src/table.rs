//! Tables for people: columns as wide as their widest cell.

use std::io::{self, Write};

/// A table without lines around it.
#[derive(Default)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
    right: Vec<usize>,
}

impl Table {
    pub(super) fn new(header: &[&str]) -> Table {
        Table { rows: vec![header.iter().map(ToString::to_string).collect()], right: Vec::new() }
    }

    /// Aligns a column to the right, for numbers.
    pub(super) fn right(mut self, column: usize) -> Table {
        self.right.push(column);
        self
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub(super) fn print(&self, mut out: impl Write, indent: usize) -> io::Result<()> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.rows {
            let mut line = " ".repeat(indent);
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                if column > 0 {
                    line.push_str("  ");
                }
                let padding = " ".repeat(width - cell.chars().count());
                if self.right.contains(&column) {
                    line.push_str(&padding);
                    line.push_str(cell);
                } else {
                    line.push_str(cell);
                    line.push_str(&padding);
                }
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// A shape as people write it: `1×3×224×224`, or `scalar`.
pub(super) fn shape(dims: &[usize]) -> String {
    if dims.is_empty() {
        return "scalar".into();
    }
    let dims: Vec<String> = dims.iter().map(ToString::to_string).collect();
    dims.join("×")
}

/// A number with six significant digits, which is what a table has room for.
pub(super) fn number(value: f64) -> String {
    if value == 0.0 || !value.is_finite() || (1e-4..1e9).contains(&value.abs()) {
        let digits = value.abs().log10().floor();
        let places = if value == 0.0 || !digits.is_finite() { 0.0 } else { 5.0 - digits };
        let text = format!("{value:.*}", places.clamp(0.0, 9.0) as usize);
        return match text.contains('.') {
            true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
            false => text,
        };
    }
    format!("{value:.5e}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&["name", "n"]).right(1);
        table.row(["Grüße".to_owned(), "7".to_owned()]);
        table.row(["x".to_owned(), "1234".to_owned()]);
        let mut out = Vec::new();
        table.print(&mut out, 1).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), " name      n\n Grüße     7\n x      1234\n");
    }

    #[test]
    fn numbers_have_six_digits() {
        let cases = [
            (0.0, "0"),
            (1.0, "1"),
            (0.123_456_789, "0.123457"),
            (-12.5, "-12.5"),
            (123_456_789.0, "123456789"),
            (1.0e-9, "1.00000e-9"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-inf"),
        ];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
    }
}
