//! Writes a commented starting policy from what a model was measured to need.
//!
//! The model's name comes from outside. It goes into a comment, and must not be able to leave it.

use std::fmt::Write as _;
use std::time::Duration;

use super::text::shown;
use super::units::{format_duration, format_size};
use super::{Bounds, FORMAT_VERSION, Limits, bounds};

/// What one model was measured to need.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The model's name, as hostile as the model.
    pub model_name: String,
    /// The model file's SHA-256 in hexadecimal.
    pub sha256: String,
    /// The size in bytes of the model file, and of the files beside it that the model keeps data in.
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

/// Memory grows in steps as operators allocate: round up to what looks like a decision.
const MEMORY_STEP: u64 = 16 << 20;

/// Smallest size proposed: below this a limit says nothing about safety.
const MIN_SIZE: u64 = 64 << 10;

/// A policy file for one model: the measured values with room to spare, each with a comment that
/// says what was measured. [`Policy::parse`](super::Policy::parse) accepts the result.
#[must_use]
pub fn starting_policy(spec: &Measured) -> String {
    let mut out = starting_head(&spec.model_name, &spec.sha256, MEASURED, "");
    out.push_str(&starting_limits(spec, &Limits::default()));
    out.push_str(STARTING_COMPUTE);
    out
}

/// The first comment of a policy whose limits were measured.
pub const MEASURED: &str =
    "# A starting point: measured values with room to spare. Read it, then tighten it.\n";

/// How a model is computed, in a policy that starts from nothing.
pub const STARTING_COMPUTE: &str = "
[compute]
deterministic = false        # true: bit-identical on every machine, but slower
";

/// The beginning of a policy: its comments, the keys of the top level and the pin. `comments` and
/// `settings` are whole lines, and go into it as they are.
pub fn starting_head(name: &str, sha256: &str, comments: &str, settings: &str) -> String {
    let mut out = format!("# Policy for {}\n{comments}version = {FORMAT_VERSION}\n", shown(name));
    out.push_str(settings);
    if !settings.contains("declared-shapes") {
        out.push_str(
            "# declared-shapes = \"strict\"   # refuse outputs of another shape than the model declares\n",
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

/// The table of limits: what was measured with room to spare, and what was not as `base` has it.
pub fn starting_limits(spec: &Measured, base: &Limits) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_limits(&mut out, spec, base, &Limits::most());
    out
}

/// The table of limits of a model that was not run: it and the files it keeps data in have so many
/// bytes. What that does not tell is as `base` has it.
pub fn unmeasured_limits(model_size: u64, base: &Limits) -> String {
    let Limits {
        memory: base_memory,
        run_time,
        prepare_time,
        // It is known.
        model_size: _,
        input_size,
        output_size,
        log_size,
        stack,
        snapshots,
    } = base;
    // A model lies in the sandbox as a file, as tensors, and in the layout that kernels read.
    let memory = model_size.saturating_mul(4).checked_next_multiple_of(MEMORY_STEP);
    let memory = clamp(memory, bounds::MEMORY).max(*base_memory);
    let size = size_with_room(model_size, bounds::MODEL_SIZE, bounds::MODEL_SIZE.max);
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

/// Twice as much, rounded up to a power of two, within bounds.
fn size_with_room(bytes: u64, bounds: Bounds<u64>, most: u64) -> String {
    let doubled = bytes.saturating_mul(2).max(MIN_SIZE);
    format_size(clamp(doubled.checked_next_power_of_two(), bounds).min(most))
}

/// The table of limits alone: none above that of `base`, and what is not measured as it has it.
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
    // A limit that is added needs a line here.
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
    let run = clamp(with_room(spec.run_time, 1), bounds::RUN_TIME).min(most.run_time);
    let prepare = clamp(with_room(spec.prepare_time, 5), bounds::PREPARE_TIME);
    let prepare = prepare.min(most.prepare_time);
    let size = size_with_room;
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

/// A policy file for one guest program (its name, hostile, and its SHA-256 in hexadecimal): it gets its
/// inputs and nothing else, and what could be granted stands there as comments.
#[cfg(feature = "programs")]
#[must_use]
pub fn starting_program_policy(program_name: &str, sha256: &str) -> String {
    let name = shown(program_name);
    format!(
        r#"# Policy for {name}
# A starting point: the program gets its inputs and nothing else. A run that is refused something names
# the line that would allow it. Grant what is needed, and say why.
version = {FORMAT_VERSION}

[program]
# The only file this policy accepts.
sha256 = "{sha256}"
# stdout = true
# stderr = true
# clocks = true            # this and what follows needs a reason = "…"
# randomness = true
# arguments = true
# environment = {{ LANG = "C" }}

[limits]
memory = "256 MiB"
run-time = "10 s"         # its models' runs included

# A model that it may load, by the name it asks for:
# [[models]]
# name = "…"
# path = "model.onnx"      # relative to this file
# sha256 = "…"             # as sha256sum prints it

# A file or folder that it may use:
# [[filesystem]]
# host = "data"            # relative to this file
# guest = "/data"          # where the program sees it
# access = "read"          # or "write"
# reason = "…"

# A peer that it may talk to:
# [[network]]
# host = "features.example.com"
# port = 6379
# protocol = "tcp"
# reason = "…"
"#
    )
}

/// Ten times as long, since the next machine is slower and busier, rounded up to a round number.
fn with_room(measured: Duration, least_secs: u64) -> Option<Duration> {
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

/// Into the bounds; a value too large to compute is the maximum.
fn clamp<T: Copy + Ord>(value: Option<T>, bounds: Bounds<T>) -> T {
    value.map_or(bounds.max, |v| v.clamp(bounds.min, bounds.max))
}
