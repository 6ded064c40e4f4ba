//! The results, as Markdown for people and as JSON for programs.

use serde_json::{Value, json};

use crate::machine::Machine;
use crate::measure::Samples;
use crate::verdict::{self, Verdict};

/// Version of the JSON: raised when a key changes its meaning or is removed.
const FORMAT: u32 = 1;

/// How a column takes part in ratios.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The numerator.
    Belljar,
    /// The denominator.
    Reference,
    /// In no ratio.
    Detail,
}

/// One figure of every model for every peer.
pub(crate) struct Table {
    /// Its name in the JSON.
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    pub(crate) unit: &'static str,
    /// What was measured, and how.
    pub(crate) note: &'static str,
    pub(crate) columns: Vec<(String, Kind)>,
    /// A model's name, and samples in the order of the columns; empty if not measured.
    pub(crate) rows: Vec<(String, Vec<Samples>)>,
}

/// All results of a run.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    /// Programs and their versions.
    pub(crate) versions: Vec<(String, String)>,
    pub(crate) quick: bool,
    pub(crate) tables: Vec<Table>,
    pub(crate) verdicts: Vec<Verdict>,
    pub(crate) means: Vec<(String, f64)>,
}

impl Table {
    fn samples(&self, model: &str, column: &str) -> Option<&Samples> {
        let at = self.columns.iter().position(|(name, _)| name == column)?;
        self.rows.iter().find(|(name, _)| name == model)?.1.get(at)
    }

    /// NaN if it was not measured.
    pub(crate) fn median(&self, model: &str, column: &str) -> f64 {
        self.samples(model, column).map_or(f64::NAN, Samples::median)
    }

    /// The median of the ratios within each round; NaN if one was not measured.
    pub(crate) fn ratio_of(&self, model: &str, ours: &str, its: &str) -> f64 {
        match (self.samples(model, ours), self.samples(model, its)) {
            (Some(ours), Some(its)) => ours.ratio(its),
            _ => f64::NAN,
        }
    }

    /// The indices of all pairs of columns that form a ratio.
    fn pairs(&self) -> Vec<(usize, usize)> {
        let of = |kind| {
            let columns = self.columns.iter().enumerate();
            columns.filter(move |(_, column)| column.1 == kind).map(|(at, _)| at)
        };
        of(Kind::Belljar).flat_map(|ours| of(Kind::Reference).map(move |its| (ours, its))).collect()
    }

    fn markdown(&self) -> String {
        let mut text = format!("## {}\n\n{}\n\n", self.title, self.note);
        let heads = self.columns.iter().map(|(name, _)| format!("{name} ({})", self.unit));
        text += &line(std::iter::once("model".to_owned()).chain(heads));
        text += &rule(self.columns.len());
        for (model, cells) in &self.rows {
            let cells = cells.iter().map(cell);
            text += &line(std::iter::once(model.clone()).chain(cells));
        }
        let pairs = self.pairs();
        if pairs.is_empty() {
            return text;
        }
        text += "\nRatios, each the median of the ratios within each round:\n\n";
        let name = |at: usize| self.columns.get(at).map_or("", |column| column.0.as_str());
        let heads = pairs.iter().map(|(ours, its)| format!("{} ÷ {}", name(*ours), name(*its)));
        text += &line(std::iter::once("model".to_owned()).chain(heads));
        text += &rule(pairs.len());
        let mut columns: Vec<Vec<f64>> = vec![Vec::new(); pairs.len()];
        for (model, cells) in &self.rows {
            let ratios: Vec<f64> = pairs.iter().map(|pair| ratio(cells, *pair)).collect();
            columns.iter_mut().zip(&ratios).for_each(|(column, ratio)| column.push(*ratio));
            let ratios = ratios.iter().map(|ratio| format!("{ratio:.2}"));
            text += &line(std::iter::once(model.clone()).chain(ratios));
        }
        if self.rows.len() > 1 {
            let means = columns.iter().map(|column| format!("{:.2}", geometric_mean(column)));
            text += &line(std::iter::once("geometric mean".to_owned()).chain(means));
        }
        text
    }

    fn json(&self) -> Value {
        let mut results = Vec::new();
        for (model, cells) in &self.rows {
            for ((name, kind), samples) in self.columns.iter().zip(cells) {
                if samples.0.is_empty() {
                    continue;
                }
                let mut ratios = serde_json::Map::new();
                let references = self.columns.iter().zip(cells);
                for ((other, _), its) in
                    references.filter(|((_, kind), _)| *kind == Kind::Reference)
                {
                    if *kind == Kind::Belljar {
                        ratios.insert(other.clone(), json!(figure(samples.ratio(its))));
                    }
                }
                results.push(json!({
                    "model": model,
                    "peer": name,
                    "median": figure(samples.median()),
                    "min": figure(samples.min()),
                    "max": figure(samples.max()),
                    "rounds": samples.0.iter().map(|value| figure(*value)).collect::<Vec<_>>(),
                    "ratios": ratios,
                }));
            }
        }
        json!({ "unit": self.unit, "what": self.note, "results": results })
    }
}

fn ratio(cells: &[Samples], (ours, its): (usize, usize)) -> f64 {
    match (cells.get(ours), cells.get(its)) {
        (Some(ours), Some(its)) => ours.ratio(its),
        _ => f64::NAN,
    }
}

pub(crate) fn geometric_mean(values: &[f64]) -> f64 {
    (values.iter().map(|value| value.ln()).sum::<f64>() / values.len() as f64).exp()
}

/// Five digits: more than the precision of any measurement, and short in a file.
fn figure(value: f64) -> f64 {
    format!("{value:.4e}").parse().unwrap_or(value)
}

/// Three significant digits, the precision of the measurements.
pub(crate) fn digits(value: f64) -> String {
    match value.abs() {
        size if size >= 99.95 => format!("{value:.0}"),
        size if size >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn cell(samples: &Samples) -> String {
    match samples.0.len() {
        0 => String::new(),
        1 => digits(samples.median()),
        _ => {
            let (min, max) = (digits(samples.min()), digits(samples.max()));
            format!("{} ({min}–{max})", digits(samples.median()))
        }
    }
}

pub(crate) fn line(cells: impl Iterator<Item = String>) -> String {
    format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "))
}

pub(crate) fn rule(columns: usize) -> String {
    format!("| --- |{}\n", " ---: |".repeat(columns))
}

impl Report {
    pub(crate) fn markdown(&self) -> String {
        let machine = &self.machine;
        let mut text = String::from(
            "# Belljar compared with native runtimes\n\n\
             Machines are noisy and differ from one another: look at the ratios. Within each round \
             all took turns, each on one thread unless a table says otherwise; a figure is the \
             median over the rounds, with minimum and maximum in brackets. Belljar ran under its \
             default policy with all limits and deadlines on. All results were compared with the \
             expected ones.\n\n",
        );
        let load: Vec<String> = machine.load.iter().map(|load| format!("{load:.1}")).collect();
        text += &format!(
            "{}, {} cores, {} GiB, Linux {}; load before and after {}",
            machine.cpu,
            machine.cores,
            (machine.memory as f64 / f64::from(1 << 30)).round(),
            machine.kernel,
            load.join(" and "),
        );
        for (name, version) in &self.versions {
            text += &format!("; {name} {version}");
        }
        text += ".\n";
        if self.quick {
            text += "\nMeasured with `--quick`: too few rounds to quote.\n";
        }
        for table in &self.tables {
            text.push('\n');
            text += &table.markdown();
        }
        if !self.verdicts.is_empty() {
            text.push('\n');
            text += &verdict::markdown(&self.verdicts, &self.means);
        }
        text
    }

    pub(crate) fn json(&self) -> Value {
        let tables: serde_json::Map<String, Value> =
            self.tables.iter().map(|table| (table.id.to_owned(), table.json())).collect();
        let versions: serde_json::Map<String, Value> =
            self.versions.iter().map(|(name, version)| (name.clone(), json!(version))).collect();
        json!({
            "format": FORMAT,
            "quick": self.quick,
            "time": self.machine.time,
            "machine": self.machine.json(),
            "versions": versions,
            "tables": tables,
            "verdicts": verdict::json(&self.verdicts, &self.means),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let samples = |values: &[f64]| Samples(values.to_vec());
        let row = vec![samples(&[2.0, 4.0, 6.0]), samples(&[1.0, 2.0, 3.0]), samples(&[])];
        Table {
            id: "warm",
            title: "Warm",
            unit: "ms",
            note: "A note.",
            columns: vec![
                ("Belljar".into(), Kind::Belljar),
                ("tract".into(), Kind::Reference),
                ("memory".into(), Kind::Detail),
            ],
            rows: vec![("magika".into(), row)],
        }
    }

    #[test]
    fn markdown_contains_figures_and_ratios() {
        let text = table().markdown();
        assert!(text.contains("| magika | 4.00 (2.00–6.00) | 2.00 (1.00–3.00) |  |"), "{text}");
        assert!(text.contains("| model | Belljar ÷ tract |"), "{text}");
        assert!(text.contains("| magika | 2.00 |"), "{text}");
    }

    #[test]
    fn json_contains_only_measured_columns() {
        let results = table().json()["results"].clone();
        assert_eq!(results.as_array().map(Vec::len), Some(2));
        assert_eq!(results[0]["ratios"]["tract"], 2.0);
        assert_eq!(results[1]["ratios"], json!({}));
    }

    #[test]
    fn figures_have_three_significant_digits() {
        assert_eq!([digits(0.1234), digits(12.34), digits(1234.5)], ["0.12", "12.3", "1234"]);
        assert!((geometric_mean(&[1.0, 4.0]) - 2.0).abs() < 1e-12);
    }
}
