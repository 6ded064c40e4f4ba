//! The machine and the time of a measurement.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

/// The properties of the machine that affect times.
#[derive(Default)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) kernel: String,
    pub(crate) memory: u64,
    /// Seconds since 1970.
    pub(crate) time: u64,
    /// Load average of the last minute, before and after the measurement.
    pub(crate) load: Vec<f64>,
}

impl Machine {
    pub(crate) fn look() -> Machine {
        let field = |file: &str, key: &str| {
            let text = fs::read_to_string(file).unwrap_or_default();
            text.lines().find_map(|line| {
                let (found, value) = line.split_once(':')?;
                (found.trim() == key).then(|| value.trim().to_owned())
            })
        };
        let memory = field("/proc/meminfo", "MemTotal")
            .and_then(|text| text.strip_suffix("kB")?.trim().parse::<u64>().ok())
            .unwrap_or(0);
        Machine {
            cpu: field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".into()),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .map_or_else(|_| "unknown".into(), |text| text.trim().to_owned()),
            memory: memory.saturating_mul(1024),
            time: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()),
            load: load().into_iter().collect(),
        }
    }

    /// Whether products of 8-bit integers have an instruction that cannot overflow. Without it,
    /// onnxruntime's fast mode may give inexact sums.
    pub(crate) fn has_vnni() -> bool {
        let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        cfg!(not(target_arch = "x86_64"))
            || text.split_whitespace().any(|word| ["avx512_vnni", "avx_vnni"].contains(&word))
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "cpu": self.cpu,
            "cores": self.cores,
            "kernel": self.kernel,
            "memory": self.memory,
            "load": self.load,
        })
    }

    /// Records the load after the measurement.
    pub(crate) fn look_again(&mut self) {
        self.load.extend(load());
    }
}

fn load() -> Option<f64> {
    let text = fs::read_to_string("/proc/loadavg").ok()?;
    text.split_whitespace().next()?.parse().ok()
}
