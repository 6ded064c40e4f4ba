//! Writes a commented starting policy from the measured needs of a model.
//!
//! The model's name is untrusted. It is written into a comment and must not be able to leave it.

use std::fmt::Write as _;
use std::time::Duration;

use super::text::shown;
use super::units::{format_duration, format_size};
use super::{Bounds, FORMAT_VERSION, Limits, bounds};

/// The measured needs of one model.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The model's name, untrusted.
    pub model_name: String,
    /// The model file's SHA-256 in hexadecimal.
    pub sha256: String,
    /// The size in bytes of the model file and its external data files.
    pub model_size: u64,
    /// Highest size of the sandbox's memory, in bytes.
    pub peak_memory: u64,
    /// Wall time of load, describe and optimise.
    pub prepare_time: Duration,
    /// Wall time of the slowest run.
    pub run_time: Duration,
    /// All inputs of a run together, in bytes.
    pub input_bytes: u64,
    /// All outputs of a run together, in bytes.
    pub output_bytes: u64,
}

/// Memory grows in steps as operators allocate: round up to a readable number.
const MEMORY_STEP: u64 = 16 << 20;

/// Smallest size proposed: a lower limit adds no safety.
const MIN_SIZE: u64 = 64 << 10;

/// A policy file for one model: the measured values plus headroom, each with a comment that gives
/// the measurement. [`Policy::parse`](super::Policy::parse) accepts the result.
#[must_use]
pub fn starting_policy(spec: &Measured) -> String {
    let mut out = starting_head(&spec.model_name, &spec.sha256, MEASURED, "");
    out.push_str(&starting_limits(spec, &Limits::default()));
    out.push_str(STARTING_COMPUTE);
    out
}

/// The first comment of a policy with measured limits.
pub const MEASURED: &str =
    "# A starting point: measured values with room to spare. Read it, then tighten it.\n";

/// The `[compute]` table of a starting policy.
pub const STARTING_COMPUTE: &str = "
[compute]
deterministic = false        # true: bit-identical on every machine, but slower
";

/// The beginning of a policy: its comments, the top-level keys and the pin. `comments` and
/// `settings` are whole lines and are written unchanged.
pub fn starting_head(name: &str, sha256: &str, comments: &str, settings: &str) -> String {
    let mut out = format!("# Policy for {}\n{comments}version = {FORMAT_VERSION}\n", shown(name));
    out.push_str(settings);
    if !settings.contains("declared-shapes") {
        out.push_str(
            "# declared-shapes = \"strict\"   # refuse outputs whose shape differs from the declaration\n",
        );
    }
    out.push_str("\n[model]\n");
    // Writing to a String cannot fail.
    let _ = if sha256.len() == 64 && sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
        let sha256 = sha256.to_ascii_lowercase();
        writeln!(out, "# The only file this policy accepts.\nsha256 = \"{sha256}\"")
    } else {
        writeln!(
            out,
            "# No digest was known: pin the file with sha256 = \"…\" before relying on this."
        )
    };
    out
}

/// The table of limits: measured values plus headroom, and unmeasured ones from `base`.
pub fn starting_limits(spec: &Measured, base: &Limits) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_limits(&mut out, spec, base, &Limits::maximum());
    out
}

/// The table of limits of a model that was not run, whose files have `model_size` bytes together.
/// Limits that do not follow from the size come from `base`.
pub fn unmeasured_limits(model_size: u64, base: &Limits) -> String {
    let Limits {
        memory: base_memory,
        run_time,
        prepare_time,
        // Computed from the argument.
        model_size: _,
        input_size,
        output_size,
        log_size,
        stack,
        snapshots,
    } = base;
    // The sandbox holds a model as a file, as tensors, and in the layout that kernels read.
    let memory = model_size.saturating_mul(4).checked_next_multiple_of(MEMORY_STEP);
    let memory = clamp(memory, bounds::MEMORY).max(*base_memory);
    let size = size_with_headroom(model_size, bounds::MODEL_SIZE, bounds::MODEL_SIZE.max);
    let model = format_size(model_size);
    let mut out = "\n[limits]\n".to_owned();
    let mut line = |key: &str, value: String, comment: &str| {
        let _ = writeln!(out, "{:<28} # {comment}", format!("{key} = \"{value}\""));
    };
    line("memory", format_size(memory), "not measured");
    line("run-time", format_duration(*run_time), "not measured");
    line("prepare-time", format_duration(*prepare_time), "not measured");
    line("model-size", size, &format!("all files together: {model}"));
    line("input-size", format_size(*input_size), "not measured");
    line("output-size", format_size(*output_size), "not measured");
    line("log-size", format_size(*log_size), "not measured");
    line("stack", format_size(*stack), "not measured");
    let snapshots = format!("snapshots = {snapshots}");
    let _ = writeln!(out, "{snapshots:<28} # input shapes it is kept prepared for");
    out
}

/// Twice the size, rounded up to a power of two, within bounds.
fn size_with_headroom(bytes: u64, bounds: Bounds<u64>, most: u64) -> String {
    let doubled = bytes.saturating_mul(2).max(MIN_SIZE);
    format_size(clamp(doubled.checked_next_power_of_two(), bounds).min(most))
}

/// Only the table of limits: none above that of `base`, and unmeasured ones from `base`.
pub fn measured_limits(spec: &Measured, base: &Limits) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_limits(&mut out, spec, base, base);
    out
}

fn write_limits(
    out: &mut String,
    spec: &Measured,
    base: &Limits,
    most: &Limits,
) -> std::fmt::Result {
    let default = Limits::default();
    // A new limit needs a line here.
    let Limits {
        // Measured.
        memory: _,
        run_time: _,
        prepare_time: _,
        model_size: _,
        input_size: _,
        output_size: _,
        log_size,
        stack,
        snapshots,
    } = base;
    let not_measured = |same| match same {
        true => "not measured: the default".to_owned(),
        false => "not measured".to_owned(),
    };
    let memory = spec.peak_memory.saturating_mul(2);
    let memory = clamp(memory.checked_next_multiple_of(MEMORY_STEP), bounds::MEMORY);
    let memory = memory.min(most.memory);
    let run = clamp(with_headroom(spec.run_time, 1), bounds::RUN_TIME).min(most.run_time);
    let prepare = clamp(with_headroom(spec.prepare_time, 5), bounds::PREPARE_TIME);
    let prepare = prepare.min(most.prepare_time);
    let size = size_with_headroom;
    let measured_size = |bytes| format!("measured: {}", format_size(bytes));
    let measured_time = |time| format!("measured: {}", format_duration(time));

    writeln!(out, "\n[limits]")?;
    let mut line = |key: &str, value: String, comment: String| {
        writeln!(out, "{:<28} # {comment}", format!("{key} = \"{value}\""))
    };
    line("memory", format_size(memory), measured_size(spec.peak_memory))?;
    line("run-time", format_duration(run), measured_time(spec.run_time))?;
    line("prepare-time", format_duration(prepare), measured_time(spec.prepare_time))?;
    line(
        "model-size",
        size(spec.model_size, bounds::MODEL_SIZE, most.model_size),
        measured_size(spec.model_size),
    )?;
    line(
        "input-size",
        size(spec.input_bytes, bounds::INPUT_SIZE, most.input_size),
        measured_size(spec.input_bytes),
    )?;
    line(
        "output-size",
        size(spec.output_bytes, bounds::OUTPUT_SIZE, most.output_size),
        measured_size(spec.output_bytes),
    )?;
    let comment = not_measured(*log_size == default.log_size);
    line("log-size", format_size(*log_size), comment)?;
    line("stack", format_size(*stack), not_measured(*stack == default.stack))?;

    let default = if *snapshots == default.snapshots { ": the default" } else { "" };
    let snapshots = format!("snapshots = {snapshots}");
    writeln!(out, "{snapshots:<28} # input shapes it is kept prepared for{default}")
}

/// A policy file for one guest program (its untrusted name, and its SHA-256 in hexadecimal): it
/// grants only inputs, and lists possible grants as comments.
#[cfg(feature = "programs")]
#[must_use]
pub fn starting_program_policy(program_name: &str, sha256: &str) -> String {
    let name = shown(program_name);
    format!(
        r#"# Policy for {name}
# A starting point: the program gets only its inputs. A run that is refused something reports the line
# that would allow it. Grant what is needed, and give the reason.
version = {FORMAT_VERSION}

[program]
# The only file this policy accepts.
sha256 = "{sha256}"
# stdout = true
# stderr = true
# clocks = true            # this and the following keys need a reason = "…"
# randomness = true
# arguments = true
# environment = {{ LANG = "C" }}

[limits]
memory = "256 MiB"
run-time = "10 s"         # including its models' runs

# A model that it may load, by the name it requests:
# [[models]]
# name = "…"
# path = "model.onnx"      # relative to this file
# sha256 = "…"             # as sha256sum prints it

# A file or folder that it may access:
# [[filesystem]]
# host = "data"            # relative to this file
# guest = "/data"          # the path in the program
# access = "read"          # or "write"
# reason = "…"

# A peer that it may communicate with:
# [[network]]
# host = "features.example.com"
# port = 6379
# protocol = "tcp"
# reason = "…"
"#
    )
}

/// Ten times the duration, because the next machine may be slower and busier, rounded up.
fn with_headroom(measured: Duration, least_secs: u64) -> Option<Duration> {
    let tenfold = measured.checked_mul(10)?;
    let secs = tenfold.as_secs().checked_add(u64::from(tenfold.subsec_nanos() > 0))?;
    let secs = secs.max(least_secs);
    let step = match secs {
        0..=10 => 1,
        11..=60 => 5,
        61..=3600 => 60,
        _ => 3600,
    };
    Some(Duration::from_secs(secs.checked_next_multiple_of(step)?))
}

/// Clamps to the bounds; a value that overflowed is the maximum.
fn clamp<T: Copy + Ord>(value: Option<T>, bounds: Bounds<T>) -> T {
    value.map_or(bounds.max, |v| v.clamp(bounds.min, bounds.max))
}
