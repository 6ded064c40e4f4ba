//! `wasi:cli`, clocks and randomness. Without a grant, arguments and the environment are empty,
//! clocks stand still, and random numbers are the same in every run.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use wasmtime::component::Resource;
use wasmtime_wasi::I32Exit;
use wasmtime_wasi::p2::bindings::cli::{
    environment, exit, stderr, stdin, stdout, terminal_input, terminal_output, terminal_stderr,
    terminal_stdin, terminal_stdout,
};
use wasmtime_wasi::p2::bindings::clocks::{monotonic_clock, wall_clock};
use wasmtime_wasi::p2::bindings::random::{insecure, insecure_seed, random};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, DynPollable};

use super::io::Ready;
use super::streams::{Input, Output};
use super::{Stream, WasiState};

/// Maximum number of random bytes in one call.
const MAX_RANDOM: u64 = 1 << 20;

impl environment::Host for WasiState {
    fn get_environment(&mut self) -> wasmtime::Result<Vec<(String, String)>> {
        self.used("environment", !self.program.environment.is_empty())?;
        let variables = self.program.environment.iter();
        Ok(variables.map(|(name, value)| (name.clone(), value.clone())).collect())
    }

    fn get_arguments(&mut self) -> wasmtime::Result<Vec<String>> {
        self.used("arguments", self.program.arguments)?;
        match self.program.arguments {
            true => Ok(self.arguments.clone()),
            false => Ok(Vec::new()),
        }
    }

    fn initial_cwd(&mut self) -> wasmtime::Result<Option<String>> {
        Ok(None)
    }
}

impl exit::Host for WasiState {
    fn exit(&mut self, status: Result<(), ()>) -> wasmtime::Result<()> {
        Err(wasmtime::Error::new(I32Exit(i32::from(status.is_err()))))
    }

    fn exit_with_code(&mut self, status: u8) -> wasmtime::Result<()> {
        Err(wasmtime::Error::new(I32Exit(status.into())))
    }
}

impl stdin::Host for WasiState {
    fn get_stdin(&mut self) -> wasmtime::Result<Resource<DynInputStream>> {
        self.table.push(Input::Empty)
    }
}

impl stdout::Host for WasiState {
    fn get_stdout(&mut self) -> wasmtime::Result<Resource<DynOutputStream>> {
        self.used("stdout", self.program.stdout)?;
        self.table.push(Output::Lines(Stream::Out))
    }
}

impl stderr::Host for WasiState {
    fn get_stderr(&mut self) -> wasmtime::Result<Resource<DynOutputStream>> {
        self.used("stderr", self.program.stderr)?;
        self.table.push(Output::Lines(Stream::Err))
    }
}

/// A terminal; there is never one.
type NoTerminal<T> = wasmtime::Result<Option<Resource<T>>>;

impl terminal_input::Host for WasiState {}
impl terminal_input::HostTerminalInput for WasiState {
    fn drop(&mut self, _: Resource<terminal_input::TerminalInput>) -> wasmtime::Result<()> {
        Ok(())
    }
}

impl terminal_output::Host for WasiState {}
impl terminal_output::HostTerminalOutput for WasiState {
    fn drop(&mut self, _: Resource<terminal_output::TerminalOutput>) -> wasmtime::Result<()> {
        Ok(())
    }
}

impl terminal_stdin::Host for WasiState {
    fn get_terminal_stdin(&mut self) -> NoTerminal<terminal_input::TerminalInput> {
        Ok(None)
    }
}

impl terminal_stdout::Host for WasiState {
    fn get_terminal_stdout(&mut self) -> NoTerminal<terminal_output::TerminalOutput> {
        Ok(None)
    }
}

impl terminal_stderr::Host for WasiState {
    fn get_terminal_stderr(&mut self) -> NoTerminal<terminal_output::TerminalOutput> {
        Ok(None)
    }
}

impl WasiState {
    /// Time since the program started; always 0 without clocks.
    fn elapsed(&mut self) -> wasmtime::Result<Duration> {
        self.used("clocks", self.program.clocks)?;
        Ok(match self.program.clocks {
            true => self.began.elapsed(),
            false => Duration::ZERO,
        })
    }

    /// A pollable that is ready after this time. Without clocks it is ready at once, because
    /// waiting would take forever.
    fn after(&mut self, time: Duration) -> wasmtime::Result<Resource<DynPollable>> {
        let ready = match Instant::now().checked_add(time) {
            _ if !self.program.clocks || time.is_zero() => Ready::Now,
            Some(at) => Ready::At(at),
            None => Ready::Never,
        };
        self.table.push(ready)
    }

    fn random_bytes(&mut self, len: u64) -> wasmtime::Result<Vec<u8>> {
        self.used("randomness", self.program.randomness)?;
        if len > MAX_RANDOM {
            wasmtime::bail!("{len} random bytes in one call, but the maximum is {MAX_RANDOM}");
        }
        let mut bytes = vec![0; usize::try_from(len)?];
        if !self.program.randomness {
            self.seed.fill(&mut bytes);
            return Ok(bytes);
        }
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            filled += rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty())?;
        }
        Ok(bytes)
    }

    fn random_u64(&mut self) -> wasmtime::Result<u64> {
        let bytes = self.random_bytes(8)?;
        Ok(bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }
}

impl wall_clock::Host for WasiState {
    fn now(&mut self) -> wasmtime::Result<wall_clock::Datetime> {
        self.used("clocks", self.program.clocks)?;
        let now = match self.program.clocks {
            true => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            false => Duration::ZERO,
        };
        Ok(wall_clock::Datetime { seconds: now.as_secs(), nanoseconds: now.subsec_nanos() })
    }

    fn resolution(&mut self) -> wasmtime::Result<wall_clock::Datetime> {
        Ok(wall_clock::Datetime { seconds: 0, nanoseconds: 1 })
    }
}

impl monotonic_clock::Host for WasiState {
    fn now(&mut self) -> wasmtime::Result<u64> {
        Ok(u64::try_from(self.elapsed()?.as_nanos()).unwrap_or(u64::MAX))
    }

    fn resolution(&mut self) -> wasmtime::Result<u64> {
        Ok(1)
    }

    fn subscribe_instant(&mut self, when: u64) -> wasmtime::Result<Resource<DynPollable>> {
        let elapsed = self.elapsed()?;
        self.after(Duration::from_nanos(when).saturating_sub(elapsed))
    }

    fn subscribe_duration(&mut self, duration: u64) -> wasmtime::Result<Resource<DynPollable>> {
        self.used("clocks", self.program.clocks)?;
        self.after(Duration::from_nanos(duration))
    }
}

impl random::Host for WasiState {
    fn get_random_bytes(&mut self, len: u64) -> wasmtime::Result<Vec<u8>> {
        self.random_bytes(len)
    }

    fn get_random_u64(&mut self) -> wasmtime::Result<u64> {
        self.random_u64()
    }
}

impl insecure::Host for WasiState {
    fn get_insecure_random_bytes(&mut self, len: u64) -> wasmtime::Result<Vec<u8>> {
        self.random_bytes(len)
    }

    fn get_insecure_random_u64(&mut self) -> wasmtime::Result<u64> {
        self.random_u64()
    }
}

impl insecure_seed::Host for WasiState {
    fn insecure_seed(&mut self) -> wasmtime::Result<(u64, u64)> {
        Ok((self.random_u64()?, self.random_u64()?))
    }
}
