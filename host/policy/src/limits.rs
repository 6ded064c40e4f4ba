//! The limits of a sandbox: their defaults, and the hard bounds that every policy must respect.
//!
//! A limit is always a number: no value means "no limit".

use std::fmt::Display;
use std::time::Duration;

use super::PolicyError;
use super::units::{format_duration, format_size};

/// How much one model may use. Sizes are in bytes. Fields that come from a file are within
/// [`bounds`]; check limits set in code with [`Limits::check`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Linear memory of the sandbox and scratch memory of its native kernels (at most 64 MiB for
    /// each thread), together. Linear memory grows in pages of 64 KiB.
    pub memory: u64,
    /// Wall time of one run.
    pub run_time: Duration,
    /// Wall time of load, describe and optimise together.
    pub prepare_time: Duration,
    /// Size of the model file.
    pub model_size: u64,
    /// Size of all inputs of a run together.
    pub input_size: u64,
    /// Size of all outputs of a run together.
    pub output_size: u64,
    /// Log kept for each sandbox.
    pub log_size: u64,
    /// Native stack that WebAssembly code may use.
    pub stack: u64,
    /// Combinations of input shapes for which the prepared model is kept, in memory and on disk.
    pub snapshots: u32,
}

/// Minimum, default and maximum of one limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds<T> {
    /// The minimum a policy may set.
    pub min: T,
    /// The value when the key is absent.
    pub default: T,
    /// The maximum a policy may set.
    pub max: T,
}

/// Bounds of each limit.
pub mod bounds {
    use super::{Bounds, Duration};

    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    /// The runner's own snapshot is some 17 MiB before any model; 32-bit WebAssembly ends at 4 GiB.
    pub const MEMORY: Bounds<u64> = Bounds { min: 32 * MIB, default: GIB, max: 4 * GIB };
    /// A day is longer than anybody waits for an answer and short enough to add without overflow.
    pub const RUN_TIME: Bounds<Duration> = time(30);
    /// Optimising a large model on a slow machine takes longer than running it.
    pub const PREPARE_TIME: Bounds<Duration> = time(120);
    /// The file is copied into the sandbox, so it cannot be larger than the sandbox.
    pub const MODEL_SIZE: Bounds<u64> = Bounds { min: 1, default: 512 * MIB, max: 4 * GIB };
    /// As for the model.
    pub const INPUT_SIZE: Bounds<u64> = Bounds { min: 1, default: 256 * MIB, max: 4 * GIB };
    /// As for the model.
    pub const OUTPUT_SIZE: Bounds<u64> = Bounds { min: 1, default: 256 * MIB, max: 4 * GIB };
    /// Kept in the host's memory, once per sandbox, with content that the model controls.
    pub const LOG_SIZE: Bounds<u64> = Bounds { min: KIB, default: 64 * KIB, max: 16 * MIB };
    /// Chosen, not measured: deep graphs recurse, and every thread that runs a sandbox needs one.
    pub const STACK: Bounds<u64> = Bounds { min: 256 * KIB, default: 2 * MIB, max: 16 * MIB };
    /// A snapshot is as large as the sandbox's memory; a model that is run with ever new shapes
    /// must not fill the host's memory and disk with snapshots.
    pub const SNAPSHOTS: Bounds<u32> = Bounds { min: 1, default: 4, max: 64 };

    const fn time(default_secs: u64) -> Bounds<Duration> {
        Bounds {
            min: Duration::from_millis(1),
            default: Duration::from_secs(default_secs),
            max: Duration::from_secs(24 * 60 * 60),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: bounds::MEMORY.default,
            run_time: bounds::RUN_TIME.default,
            prepare_time: bounds::PREPARE_TIME.default,
            model_size: bounds::MODEL_SIZE.default,
            input_size: bounds::INPUT_SIZE.default,
            output_size: bounds::OUTPUT_SIZE.default,
            log_size: bounds::LOG_SIZE.default,
            stack: bounds::STACK.default,
            snapshots: bounds::SNAPSHOTS.default,
        }
    }
}

impl Limits {
    /// The maximum that any policy can set: the initial value of a ceiling.
    pub(super) fn maximum() -> Limits {
        Limits {
            memory: bounds::MEMORY.max,
            run_time: bounds::RUN_TIME.max,
            prepare_time: bounds::PREPARE_TIME.max,
            model_size: bounds::MODEL_SIZE.max,
            input_size: bounds::INPUT_SIZE.max,
            output_size: bounds::OUTPUT_SIZE.max,
            log_size: bounds::LOG_SIZE.max,
            stack: bounds::STACK.max,
            snapshots: bounds::SNAPSHOTS.max,
        }
    }

    /// Checks limits that were set in code: each must be within its [`bounds`].
    pub fn check(&self) -> Result<(), PolicyError> {
        use check_one as one;
        let Limits {
            memory,
            run_time,
            prepare_time,
            model_size,
            input_size,
            output_size,
            log_size,
            stack,
            snapshots,
        } = *self;
        one("memory", memory, bounds::MEMORY)?;
        one("run-time", run_time, bounds::RUN_TIME)?;
        one("prepare-time", prepare_time, bounds::PREPARE_TIME)?;
        one("model-size", model_size, bounds::MODEL_SIZE)?;
        one("input-size", input_size, bounds::INPUT_SIZE)?;
        one("output-size", output_size, bounds::OUTPUT_SIZE)?;
        one("log-size", log_size, bounds::LOG_SIZE)?;
        one("stack", stack, bounds::STACK)?;
        one("snapshots", snapshots, bounds::SNAPSHOTS)
    }
}

/// Checks one limit or quota that code has set; an error names its key.
pub(super) fn check_one<T: Quantity>(
    key: &'static str,
    value: T,
    bounds: Bounds<T>,
) -> Result<(), PolicyError> {
    within(value, bounds).map_err(|why| PolicyError::Limit {
        key,
        value: value.shown().to_string().into(),
        why: why.into(),
    })
}

/// Types of limits: sizes, durations and counts.
pub(super) trait Quantity: Copy + Ord + Default {
    /// The quantity with its unit, as a policy file writes it.
    fn shown(self) -> impl Display;
}

impl Quantity for u64 {
    fn shown(self) -> impl Display {
        format_size(self)
    }
}

impl Quantity for u32 {
    fn shown(self) -> impl Display {
        self
    }
}

impl Quantity for Duration {
    fn shown(self) -> impl Display {
        format_duration(self)
    }
}

/// `Err` describes a value that is out of bounds, with the bound.
pub(super) fn within<T: Quantity>(value: T, bounds: Bounds<T>) -> Result<(), String> {
    if value == T::default() && bounds.min != T::default() {
        Err(format!("zero would let nothing run; the minimum is {}", bounds.min.shown()))
    } else if value < bounds.min {
        Err(format!("below the minimum of {}", bounds.min.shown()))
    } else if value > bounds.max {
        Err(format!("above the maximum of {}", bounds.max.shown()))
    } else {
        Ok(())
    }
}
