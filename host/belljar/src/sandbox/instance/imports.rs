//! The functions that the guest imports: native kernels, its log, and the clock of the profiling
//! variant. The guest chooses every argument, so each address and length must be checked.

use std::time::{Duration, Instant};

use belljar_abi::clock::Reading;
use wasmtime::{Caller, Memory};

use super::super::limits::Limiter;
use belljar_kernels::{InstructionSet, Refused, Watch};

/// Level of the log line with which the guest announces a panic.
const PANIC: u32 = 0;

/// Maximum length of a log line in bytes; longer lines are cut.
const MAX_LINE: usize = 8 << 10;

/// Cost of each log line in addition to its text, in bytes: empty lines use memory too.
const LINE_COST: usize = 64;

pub(super) struct State {
    pub(super) limiter: Limiter,
    pub(super) log: Log,
    /// Set after instantiation.
    pub(super) memory: Option<Memory>,
    /// Time of native kernels in the current call.
    pub(super) kernels: Duration,
    /// Counts that the clock of the profiling variant reports.
    pub(super) counts: Counts,
    /// The environment of native kernels.
    pub(super) watch: Watch,
}

/// The computations of native kernels in the current call.
#[derive(Default)]
pub(super) struct Counts {
    operators: u32,
    tiles: u32,
    last_operator: u32,
}

/// The guest's log lines, bounded.
pub(super) struct Log {
    pub(super) lines: Vec<String>,
    pub(super) left: usize,
    pub(super) full: bool,
    pub(super) limit: usize,
    pub(super) panic: Option<String>,
}

impl Log {
    pub(super) fn new(limit: usize) -> Self {
        Self { lines: Vec::new(), left: limit, full: false, limit, panic: None }
    }

    fn push(&mut self, level: u32, line: String) {
        if level == PANIC {
            self.panic.get_or_insert(line);
        } else if line.len().saturating_add(LINE_COST) <= self.left {
            self.left -= line.len() + LINE_COST;
            self.lines.push(line);
        } else if !self.full {
            (self.left, self.full) = (0, true);
            self.lines
                .push(format!("(the log is full: `limits.log-size` is {} bytes)", self.limit));
        }
    }
}

/// The guest's kernel call for one tile of a matrix product.
pub(super) fn matmul_f32(
    mut caller: Caller<'_, State>,
    rows: u32,
    operations: u32,
    count: u32,
) -> wasmtime::Result<i32> {
    let memory = caller.data().memory.ok_or_else(|| {
        wasmtime::format_err!("the guest called a kernel before its memory was known")
    })?;
    let start = Instant::now();
    let (data, state) = memory.data_and_store_mut(&mut caller);
    belljar_kernels::matmul_f32(InstructionSet::best(), data, rows, operations, count)?;
    state.kernels += start.elapsed();
    state.counts.tiles = state.counts.tiles.wrapping_add(1);
    Ok(0)
}

/// The guest's kernel call for a whole operator of a model.
pub(super) fn compute(
    mut caller: Caller<'_, State>,
    address: u32,
    count: u32,
) -> wasmtime::Result<()> {
    let memory = caller.data().memory.ok_or_else(|| {
        wasmtime::format_err!("the guest called a kernel before its memory was known")
    })?;
    let start = Instant::now();
    let (data, state) = memory.data_and_store_mut(&mut caller);
    state.watch.room(state.limiter.room(data.len()));
    // Reads the first word before the output can overwrite it. Invalid requests are refused below.
    let number = data.get(address as usize..).and_then(|request| request.first_chunk::<4>());
    let number = number.map_or(0, |word| u32::from_le_bytes(*word));
    belljar_kernels::compute(data, address, count, &state.watch)?;
    state.kernels += start.elapsed();
    state.counts.operators = state.counts.operators.wrapping_add(1);
    state.counts.last_operator = number;
    Ok(())
}

/// The clock of the profiling variant: writes a reading to the guest's address.
pub(super) fn clock(
    mut caller: Caller<'_, State>,
    address: u32,
    started: Instant,
) -> wasmtime::Result<()> {
    let memory = caller.data().memory.ok_or_else(|| {
        wasmtime::format_err!("the guest read the clock before its memory was known")
    })?;
    let (data, state) = memory.data_and_store_mut(&mut caller);
    let place = data.get_mut(address as usize..).and_then(|rest| rest.get_mut(..Reading::LEN));
    let place = place.ok_or(Refused::OutOfBounds)?;
    let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let Counts { operators, tiles, last_operator } = state.counts;
    let reading = Reading {
        nanoseconds: nanoseconds(started.elapsed()),
        kernel_nanoseconds: nanoseconds(state.kernels),
        operators,
        tiles,
        last_operator,
    };
    place.copy_from_slice(&reading.encode());
    Ok(())
}

/// The guest's log call. It only copies a bounded part of memory.
pub(super) fn log_line(mut caller: Caller<'_, State>, level: u32, address: u32, len: u32) {
    let Some(memory) = caller.data().memory else {
        return;
    };
    let (data, state) = memory.data_and_store_mut(&mut caller);
    let len = (len as usize).min(MAX_LINE);
    if let Some(bytes) = data.get(address as usize..).and_then(|rest| rest.get(..len)) {
        state.log.push(level, String::from_utf8_lossy(bytes).into_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_log_lines_is_bounded_even_if_they_are_empty() {
        for line in ["", "some text"] {
            let limit = 64 << 10;
            let mut log = Log::new(limit);
            for _ in 0..100_000 {
                log.push(1, line.to_owned());
            }
            assert_eq!(log.lines.len() - 1, limit / (LINE_COST + line.len()), "{line:?}");
            assert!(log.lines.last().is_some_and(|line| line.contains("the log is full")));
        }
    }
}
