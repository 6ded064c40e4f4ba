//! The measurements as a table and as JSON. The keys are documented in the command's help.

use std::io::{self, Write};
use std::time::Duration;

use serde_json::{Value, json};

use super::resident::Resident;
use super::{Inputs, Sample, Start, Sustained};
use crate::args::{Bench, IsolationArg};
use crate::dims;
use crate::host::Loaded;
use crate::run::policy_json;
use crate::table::{Table, number};
use belljar::ResetMethod;
use belljar_tensor::Tensor;

pub(super) struct Report<'a> {
    pub(super) arguments: &'a Bench,
    /// Requested number of measured requests in each part.
    pub(super) iterations: u32,
    pub(super) loaded: &'a Loaded,
    pub(super) inputs: &'a Inputs,
    pub(super) warm_up: u32,
    pub(super) start: Start,
    pub(super) resident: Resident,
    pub(super) alone: Vec<Sample>,
    pub(super) sustained: Sustained,
}

/// Percentiles of times, in the unit of the report.
struct Percentiles {
    sorted: Vec<f64>,
}

const PERCENTS: [(&str, usize); 4] = [("p50", 50), ("p90", 90), ("p95", 95), ("p99", 99)];

impl Percentiles {
    /// `None` without times.
    fn new(times: impl Iterator<Item = Duration>, unit: Duration) -> Option<Percentiles> {
        let mut sorted: Vec<f64> = times.map(|time| rounded(time, unit)).collect();
        sorted.sort_by(f64::total_cmp);
        (!sorted.is_empty()).then_some(Percentiles { sorted })
    }

    /// The percentile by the nearest-rank method.
    fn at(&self, percent: usize) -> f64 {
        let rank = self.sorted.len().saturating_mul(percent).div_ceil(100).max(1);
        self.sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
    }

    fn entries(&self) -> [(&'static str, f64); 7] {
        let [p50, p90, p95, p99] = PERCENTS.map(|(name, percent)| (name, self.at(percent)));
        let mean = self.sorted.iter().sum::<f64>() / self.sorted.len() as f64;
        let mean = (mean * 1e3).round() / 1e3;
        [p50, p90, p95, p99, ("min", self.at(0)), ("max", self.at(100)), ("mean", mean)]
    }

    fn json(&self) -> Value {
        self.entries().iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect()
    }
}

/// A time in units, rounded to three decimals.
fn rounded(time: Duration, unit: Duration) -> f64 {
    (time.as_secs_f64() / unit.as_secs_f64() * 1e3).round() / 1e3
}

const MS: Duration = Duration::from_millis(1);
const US: Duration = Duration::from_micros(1);

/// The fractions of a warm run and its reset, which sum to 1.
struct Share {
    kernels: f64,
    guest: f64,
    crossing: f64,
    reset: f64,
}

impl Share {
    fn of(samples: &[Sample]) -> Share {
        let sum = |part: fn(&Sample) -> Duration| -> f64 {
            samples.iter().map(|sample| part(sample).as_secs_f64()).sum()
        };
        let (latency, reset) = (sum(|s| s.latency), sum(|s| s.cost.reset));
        let (guest, kernels) = (sum(|s| s.cost.guest), sum(|s| s.cost.kernels));
        // Clocks that are read one after the other may differ slightly.
        let part = |time: f64| (time.max(0.0) / (latency + reset).max(f64::MIN_POSITIVE)).min(1.0);
        Share {
            kernels: part(kernels),
            guest: part(guest - kernels),
            crossing: part(latency - guest),
            reset: part(reset),
        }
    }

    fn entries(&self) -> [(&'static str, f64); 4] {
        [
            ("kernels", self.kernels),
            ("guest", self.guest),
            ("crossing", self.crossing),
            ("reset", self.reset),
        ]
    }
}

impl Report<'_> {
    fn warm(&self) -> Option<Percentiles> {
        Percentiles::new(self.alone.iter().map(|sample| sample.latency), MS)
    }

    fn instantiate(&self) -> Option<Percentiles> {
        Percentiles::new(self.alone.iter().map(|sample| sample.cost.instantiate), US)
    }

    fn reset(&self) -> Option<Percentiles> {
        // After the warm-up runs, each run reports the reset of the previous one.
        Percentiles::new(self.alone.iter().map(|sample| sample.cost.reset), MS)
    }

    fn loaded_latency(&self) -> Option<Percentiles> {
        Percentiles::new(self.sustained.latencies.iter().copied(), MS)
    }

    /// `None` without requests.
    fn per_second(&self) -> Option<f64> {
        let answered = Some(self.sustained.latencies.len()).filter(|answered| *answered > 0)?;
        let seconds = self.sustained.whole.as_secs_f64().max(f64::MIN_POSITIVE);
        Some((answered as f64 / seconds * 1e3).round() / 1e3)
    }

    fn linear_memory(&self) -> u64 {
        let samples = self.alone.iter().chain([&self.start.first]);
        samples.map(|sample| sample.cost.memory).max().unwrap_or(0)
    }

    fn reset_method(&self) -> &'static str {
        match self.alone.last().map(|sample| sample.cost.reset_method).unwrap_or_default() {
            ResetMethod::DirtyPages => "written-pages",
            ResetMethod::NewMapping => "new-mapping",
        }
    }

    pub(super) fn json(&self) -> Value {
        let percentiles = |found: Option<Percentiles>| found.map(|found| found.json());
        let ms = |time| json!(rounded(time, MS));
        let round = |part: f64| (part * 1e4).round() / 1e4;
        let share: Value = Share::of(&self.alone)
            .entries()
            .iter()
            .map(|(name, part)| ((*name).to_owned(), json!(round(*part))))
            .collect();
        json!({
            "model": {
                "path": self.arguments.model.model.to_string_lossy(),
                "sha256": self.loaded.model.digest().to_string(),
                "bytes": self.loaded.size,
            },
            "policy": policy_json(self.loaded.policy.as_ref()),
            "dims": dims::to_json(&self.loaded.model),
            "isolation": self.isolation(),
            "iterations": self.iterations,
            "measured": {
                "alone": self.alone.len(),
                "sustained": self.sustained.latencies.len(),
            },
            "warm_up": self.warm_up,
            "concurrency": self.arguments.concurrency,
            "inputs": inputs_json(self.inputs),
            "start_ms": ms(self.start.whole),
            "start": {
                "code_ms": ms(self.start.code),
                "read_ms": ms(self.start.read),
                "load_ms": ms(self.start.load),
                "prepare_ms": ms(self.start.prepare),
                "first_run_ms": ms(self.start.first.latency),
            },
            "warm_ms": percentiles(self.warm()),
            "instantiate_us": percentiles(self.instantiate()),
            "reset_ms": percentiles(self.reset()),
            "reset_method": self.reset_method(),
            "share": share,
            "sustained": {
                "per_second": self.per_second(),
                "latency_ms": percentiles(self.loaded_latency()),
            },
            "rss_bytes": self.resident.rss,
            "pss_bytes": self.resident.pss,
            "workers": self.resident.workers,
            "linear_memory_bytes": self.linear_memory(),
        })
    }

    fn isolation(&self) -> &'static str {
        match self.arguments.model.isolation {
            IsolationArg::Process => "process",
            IsolationArg::Thread => "thread",
        }
    }

    pub(super) fn table(&self, out: &mut impl Write) -> io::Result<()> {
        let head = ["", "p50", "p90", "p95", "p99", "min", "max", "mean"];
        let mut times = (1..head.len()).fold(Table::new(&head), Table::right);
        let clients = match self.arguments.concurrency {
            1 => "without a pause, 1 client (ms)".to_owned(),
            n => format!("without a pause, {n} clients (ms)"),
        };
        for (what, found) in [
            ("warm run (ms)", self.warm()),
            ("instantiation (µs)", self.instantiate()),
            ("reset after run (ms)", self.reset()),
            (&clients, self.loaded_latency()),
        ] {
            let Some(found) = found else { continue };
            let cells = found.entries().map(|(_, value)| digits(value));
            times.row(std::iter::once(what.to_owned()).chain(cells));
        }
        times.print(&mut *out, 0)?;
        writeln!(out)?;

        let mut rest = Table::default().right(1);
        let mut row = |what: &str, value: String, unit: &str, means: String| {
            rest.row([what.to_owned(), value, unit.to_owned(), means]);
        };
        let ms = |time| digits(rounded(time, MS));
        let start = &self.start;
        let parts = format!(
            "from model file to first answer: code {}, read {}, load {}, prepare {}, first run {}",
            ms(start.code),
            ms(start.read),
            ms(start.load),
            ms(start.prepare),
            ms(start.first.latency),
        );
        row("start", ms(start.whole), "ms", parts);
        if let Some(rate) = self.per_second() {
            row("rate", digits(rate), "/s", "requests without a pause, including resets".into());
        }
        if let Some(rss) = self.resident.rss {
            let workers = self.resident.workers;
            let pss = self.resident.pss.map_or_else(String::new, |pss| {
                format!("; {} MiB if shared pages count once", mib(pss))
            });
            let means = match workers {
                0 => format!("resident in this process{pss}"),
                1 => format!("resident in this process and its worker{pss}"),
                n => format!("resident in this process and its {n} workers{pss}"),
            };
            row("memory", mib(rss), "MiB", means);
        }
        row("sandbox", mib(self.linear_memory()), "MiB", "largest linear memory".into());
        let means = [
            "of a warm run and its reset: native kernels",
            "other WebAssembly",
            "everything else, such as crossing the sandbox boundary",
            "memory reset",
        ];
        let share = Share::of(&self.alone).entries();
        for ((name, part), means) in share.iter().zip(means).filter(|_| !self.alone.is_empty()) {
            row(name, format!("{:.1}", part * 100.0), "%", means.into());
        }
        rest.print(out, 0)
    }
}

/// The inputs of the measured runs, without their values.
pub(super) fn inputs_json(inputs: &Inputs) -> Value {
    let input = |(name, tensor): &(String, Tensor)| {
        json!({
            "name": name,
            "dtype": tensor.dtype().to_string(),
            "shape": tensor.shape(),
        })
    };
    inputs.iter().map(input).collect()
}

pub(super) fn digits(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => number((value * 1e3).round() / 1e3),
    }
}

fn mib(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / 1048576.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let times = (1..=20).rev().map(Duration::from_millis);
        let found = Percentiles::new(times, MS).unwrap();
        assert_eq!(PERCENTS.map(|(_, percent)| found.at(percent)), [10.0, 18.0, 19.0, 20.0]);
        assert_eq!(found.entries().map(|(_, value)| value)[4..], [1.0, 20.0, 10.5]);
        let single = Percentiles::new(std::iter::once(US), MS).unwrap();
        assert!(single.entries().iter().all(|(_, value)| *value == 0.001));
        assert!(Percentiles::new(std::iter::empty(), MS).is_none());
    }

    #[test]
    fn shares_add_up_to_everything() {
        let ms = Duration::from_millis;
        let cost = belljar::RunCost {
            guest: ms(7),
            kernels: ms(4),
            reset: ms(10),
            ..belljar::RunCost::default()
        };
        let share = Share::of(&[Sample { latency: ms(10), cost }; 3]);
        let parts = share.entries().map(|(_, part)| (part * 100.0).round());
        assert_eq!(parts, [20.0, 15.0, 15.0, 50.0]);
        assert!(Share::of(&[]).entries().iter().all(|(_, part)| *part == 0.0));
    }
}
