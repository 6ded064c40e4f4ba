//! Belljar's own performance targets, and whether this run met them. They are reported, never
//! asserted: machines differ, and a missed target is not a failure.

use serde_json::{Value, json};

use crate::report::{Table, digits, geometric_mean, line, rule};

/// Models that take native tract less than this, in ms, are judged by a difference: a ratio would
/// measure the cost of crossing into the sandbox.
const SMALL: f64 = 2.0;

/// Whether one model, or all together, met one target.
pub(crate) struct Verdict {
    target: String,
    model: String,
    /// The measured value, compared with the bound.
    found: f64,
    bound: f64,
    /// Whether more is better.
    at_least: bool,
    unit: &'static str,
}

impl Verdict {
    fn met(&self) -> bool {
        match self.at_least {
            true => self.found >= self.bound,
            false => self.found <= self.bound,
        }
    }

    fn text(&self) -> String {
        if self.met() {
            return "met".into();
        }
        match (self.found - self.bound).abs() {
            off if self.unit.is_empty() => {
                format!("missed by {} %", digits(off / self.bound * 100.0))
            }
            off => format!("missed by {} {}", digits(off), self.unit),
        }
    }
}

/// Judges the tables of runs and of instantiation and reset.
pub(crate) fn verdicts(run: &Table, around: &Table) -> Vec<Verdict> {
    let mut found = Vec::new();
    let mut add = |target: &str, model: &str, value: f64, bound: f64, unit: &'static str| {
        if value.is_finite() {
            let (target, model) = (target.to_owned(), model.to_owned());
            let at_least = target.starts_with("at least");
            found.push(Verdict { target, model, found: value, bound, at_least, unit });
        }
    };
    const ALL: &str = "geometric mean";
    let large = |model: &str| run.median(model, "tract") >= SMALL;
    let models = || run.rows.iter().map(|(model, _)| model.as_str());
    for model in models().filter(|model| large(model)) {
        let ratio = run.ratio_of(model, "Belljar", "tract");
        add("at most native tract", model, ratio, 1.0, "");
    }
    for model in models().filter(|model| !large(model)) {
        let more = run.median(model, "Belljar") - run.median(model, "tract");
        add("at most 0.3 ms above native tract", model, more, 0.3, "ms");
    }
    let mean = |ours: &str, its: &str| {
        let ratios = models().filter(|model| large(model)).map(|m| run.ratio_of(m, ours, its));
        geometric_mean(&ratios.collect::<Vec<_>>())
    };
    add("at most 1.5 × onnxruntime", ALL, mean("Belljar", "onnxruntime"), 1.5, "");
    for model in models().filter(|model| large(model)) {
        let ratio = run.ratio_of(model, "Belljar", "onnxruntime");
        add("at most 2 × onnxruntime", model, ratio, 2.0, "");
    }
    let target = "at least 2 × as fast as onnxruntime-web";
    add(target, ALL, mean("onnxruntime-web", "Belljar"), 2.0, "");
    for model in models().filter(|model| large(model)) {
        add(target, model, run.ratio_of(model, "onnxruntime-web", "Belljar"), 2.0, "");
    }
    for model in models() {
        let bound = (run.median(model, "Belljar") * 0.05).max(0.3);
        let reset = around.median(model, "Belljar: reset") / 1e3;
        add("reset at most 5 % of a run or 0.3 ms", model, reset, bound, "ms");
    }
    for model in models() {
        let instantiate = around.median(model, "Belljar: instantiate");
        add("instantiate at most 15 µs", model, instantiate, 15.0, "µs");
    }
    found
}

/// Judges the tables about workers.
pub(crate) fn of_workers(start: &Table, crossing: &Table) -> Vec<Verdict> {
    let judge = |target: &str, model: &str, found: f64, bound: f64, unit| {
        let (target, model) = (target.to_owned(), model.to_owned());
        Verdict { target, model, found, bound, at_least: false, unit }
    };
    let ready = start.rows.iter().map(|(row, _)| {
        judge("a worker ready in 15 ms", row, start.median(row, "Belljar"), 15.0, "ms")
    });
    let small = crossing.rows.iter().min_by(|(a, _), (b, _)| {
        let of = |row: &str| crossing.median(row, "Belljar");
        of(a).total_cmp(&of(b))
    });
    let added = small.map(|(row, _)| {
        let added = crossing.median(row, "added by the worker");
        judge("at most 50 µs added to a small request", row, added, 50.0, "µs")
    });
    ready.chain(added).collect()
}

/// The geometric means of a whole run, over the models that are not small.
pub(crate) fn means(run: &Table) -> Vec<(String, f64)> {
    let pairs = [("Belljar", "onnxruntime"), ("Belljar", "tract"), ("onnxruntime-web", "Belljar")];
    let mut means = Vec::new();
    for (ours, its) in pairs {
        let models = run.rows.iter().map(|(model, _)| model.as_str());
        let large = models.filter(|model| run.median(model, "tract") >= SMALL);
        let ratios: Vec<f64> = large.map(|model| run.ratio_of(model, ours, its)).collect();
        let mean = geometric_mean(&ratios);
        if mean.is_finite() {
            means.push((format!("{ours} ÷ {its}"), mean));
        }
    }
    means
}

pub(crate) fn markdown(verdicts: &[Verdict], means: &[(String, f64)]) -> String {
    let mut text = String::from("## Targets\n\n");
    for (what, mean) in means {
        text += &format!("Geometric mean of {what}: {mean:.2}.\n");
    }
    text += &format!("\nOver models that take native tract {SMALL} ms or more.\n\n");
    let head = ["target", "model", "measured", "bound", ""].map(str::to_owned);
    text += &line(head.into_iter());
    text += &rule(4);
    for verdict in verdicts {
        let figure = |value: f64| format!("{} {}", digits(value), verdict.unit).trim().to_owned();
        let cells = [
            verdict.target.clone(),
            verdict.model.clone(),
            figure(verdict.found),
            figure(verdict.bound),
            verdict.text(),
        ];
        text += &line(cells.into_iter());
    }
    text
}

pub(crate) fn json(verdicts: &[Verdict], means: &[(String, f64)]) -> Value {
    let means: serde_json::Map<String, Value> =
        means.iter().map(|(what, mean)| (what.clone(), json!(mean))).collect();
    let verdicts: Vec<Value> = verdicts
        .iter()
        .map(|verdict| {
            json!({
                "target": verdict.target,
                "model": verdict.model,
                "found": verdict.found,
                "bound": verdict.bound,
                "unit": verdict.unit,
                "met": verdict.met(),
            })
        })
        .collect();
    json!({ "geometric_means": means, "targets": verdicts })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Samples;
    use crate::report::Kind;

    fn table(columns: &[&str], rows: &[(&str, &[f64])]) -> Table {
        let samples = |values: &[f64]| values.iter().map(|v| Samples(vec![*v])).collect();
        Table {
            id: "run",
            title: "Run",
            unit: "ms",
            note: "",
            columns: columns.iter().map(|name| ((*name).to_owned(), Kind::Detail)).collect(),
            rows: rows.iter().map(|(name, row)| ((*name).to_owned(), samples(row))).collect(),
        }
    }

    #[test]
    fn verdicts_say_by_how_much_a_target_was_missed() {
        let peers = ["Belljar", "tract", "onnxruntime", "onnxruntime-web"];
        let rows: [(&str, &[f64]); 2] =
            [("large", &[12.0, 10.0, 8.0, 30.0]), ("small", &[0.5, 0.1, 0.1, 1.0])];
        let run = table(&peers, &rows);
        let columns = ["Belljar: instantiate", "Belljar: reset"];
        let around = table(&columns, &[("large", &[10.0, 700.0]), ("small", &[20.0, 100.0])]);
        let found = verdicts(&run, &around);
        let text = |target: &str, model: &str| {
            let one = found.iter().find(|v| v.target.starts_with(target) && v.model == model);
            one.map(Verdict::text)
        };
        let is = |text: &str| Some(text.to_owned());
        assert_eq!(text("at most native tract", "large"), is("missed by 20.0 %"));
        assert_eq!(text("at most native tract", "small"), None);
        assert_eq!(text("at most 0.3 ms above", "small"), is("missed by 0.10 ms"));
        assert_eq!(text("at most 1.5 ×", "geometric mean"), is("met"));
        assert_eq!(text("at least 2 ×", "geometric mean"), is("met"));
        assert_eq!(text("reset", "large"), is("missed by 0.10 ms"));
        assert_eq!(text("reset", "small"), is("met"));
        assert_eq!(text("instantiate", "small"), is("missed by 5.00 µs"));
        assert_eq!(means(&run)[0], ("Belljar ÷ onnxruntime".to_owned(), 1.5));
    }

    #[test]
    fn unmeasured_models_have_no_verdict() {
        let run = table(&["Belljar"], &[("model", &[1.0])]);
        assert!(verdicts(&run, &table(&[], &[])).is_empty());
        assert!(means(&run).is_empty());
    }
}
