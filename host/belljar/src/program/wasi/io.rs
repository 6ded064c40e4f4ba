//! `wasi:io`: streams and polling, on the calling thread.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use wasmtime::component::Resource;
use wasmtime_wasi::p2::bindings::io::error;
use wasmtime_wasi::p2::bindings::sync::io::poll::{self, Pollable};
use wasmtime_wasi::p2::bindings::sync::io::streams::{self, InputStream, OutputStream};
use wasmtime_wasi::p2::{StreamError, StreamResult};

use super::WasiState;
use super::sockets::Connection;
use super::streams::{Input, MAX_PIECE, Output, Sinks};

/// Maximum number of pollables in one call.
const MAX_WAITED: usize = 1024;

/// A pollable of a program.
pub(super) enum Ready {
    Now,
    At(Instant),
    /// A time beyond the range of the clock.
    Never,
    ToRead(Arc<Connection>),
    ToWrite(Arc<Connection>),
}

impl WasiState {
    /// Waits until at least one pollable is ready, and returns the ready ones.
    fn wait(&self, handles: &[Resource<Pollable>], block: bool) -> wasmtime::Result<Vec<u32>> {
        if handles.len() > MAX_WAITED {
            wasmtime::bail!(
                "{} pollables in one call, but the maximum is {MAX_WAITED}",
                handles.len()
            );
        }
        loop {
            let mut ready = Vec::new();
            let mut sockets = Vec::new();
            let mut until: Option<Instant> = None;
            let now = Instant::now();
            for (at, handle) in (0u32..).zip(handles) {
                match self.table.get::<_, Ready>(handle)? {
                    Ready::Now => ready.push(at),
                    Ready::At(time) if *time <= now => ready.push(at),
                    Ready::At(time) => until = Some(until.map_or(*time, |until| until.min(*time))),
                    Ready::Never => {}
                    Ready::ToRead(connection) => sockets.push((at, connection, PollFlags::IN)),
                    Ready::ToWrite(connection) => sockets.push((at, connection, PollFlags::OUT)),
                }
            }
            let wait = match (block && ready.is_empty(), until) {
                (false, _) => Some(Duration::ZERO),
                (true, Some(until)) => Some(until.saturating_duration_since(now)),
                (true, None) => None,
            };
            let mut fds: Vec<PollFd<'_>> = sockets
                .iter()
                .map(|(_, connection, flags)| PollFd::from_borrowed_fd(connection.as_fd(), *flags))
                .collect();
            wait_for(&mut fds, wait)?;
            for ((at, ..), fd) in sockets.iter().zip(&fds) {
                if !fd.revents().is_empty() {
                    ready.push(*at);
                }
            }
            if !ready.is_empty() || !block {
                ready.sort_unstable();
                return Ok(ready);
            }
        }
    }

    fn read(&mut self, handle: &Resource<InputStream>, len: u64) -> StreamResult<Vec<u8>> {
        let input = self.table.get_mut::<_, Input>(handle).map_err(StreamError::Trap)?;
        input.read(len, &mut self.budget)
    }

    fn blocking_read(&mut self, handle: &Resource<InputStream>, len: u64) -> StreamResult<Vec<u8>> {
        loop {
            let bytes = self.read(handle, len)?;
            if !bytes.is_empty() || len == 0 {
                return Ok(bytes);
            }
            let input = self.table.get::<_, Input>(handle).map_err(StreamError::Trap)?;
            if let Some(connection) = input.waits_for() {
                connection.wait(PollFlags::IN).map_err(|err| StreamError::Trap(err.into()))?;
            }
        }
    }

    fn permitted(&mut self, handle: &Resource<OutputStream>) -> StreamResult<usize> {
        let output = self.table.get::<_, Output>(handle).map_err(StreamError::Trap)?;
        output.permitted(&self.budget)
    }

    fn write(&mut self, handle: &Resource<OutputStream>, bytes: &[u8]) -> StreamResult<()> {
        let WasiState { table, budget, printer, outside, .. } = self;
        let output = table.get_mut::<_, Output>(handle).map_err(StreamError::Trap)?;
        output.write(bytes, Sinks { budget, printer, outside: &mut **outside })
    }
}

/// Waits until one of these is ready, or until the time is over; without a time, forever.
pub(super) fn wait_for(fds: &mut [PollFd<'_>], wait: Option<Duration>) -> Result<(), Errno> {
    let wait = wait.map(|wait| Timespec {
        tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: wait.subsec_nanos().into(),
    });
    match rustix::event::poll(fds, wait.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno),
    }
}

impl poll::Host for WasiState {
    fn poll(&mut self, handles: Vec<Resource<Pollable>>) -> wasmtime::Result<Vec<u32>> {
        if handles.is_empty() {
            wasmtime::bail!("poll without pollables");
        }
        self.wait(&handles, true)
    }
}

impl poll::HostPollable for WasiState {
    fn ready(&mut self, handle: Resource<Pollable>) -> wasmtime::Result<bool> {
        Ok(!self.wait(&[handle], false)?.is_empty())
    }

    fn block(&mut self, handle: Resource<Pollable>) -> wasmtime::Result<()> {
        self.wait(&[handle], true).map(drop)
    }

    fn drop(&mut self, handle: Resource<Pollable>) -> wasmtime::Result<()> {
        self.table.delete::<_, Ready>(&handle).map(drop)
    }
}

impl error::Host for WasiState {}

impl error::HostError for WasiState {
    fn to_debug_string(&mut self, handle: Resource<error::Error>) -> wasmtime::Result<String> {
        Ok(self.table.get::<_, wasmtime::Error>(&handle)?.to_string())
    }

    fn drop(&mut self, handle: Resource<error::Error>) -> wasmtime::Result<()> {
        self.table.delete::<_, wasmtime::Error>(&handle).map(drop)
    }
}

impl streams::Host for WasiState {
    fn convert_stream_error(&mut self, err: StreamError) -> wasmtime::Result<streams::StreamError> {
        match err {
            StreamError::Closed => Ok(streams::StreamError::Closed),
            StreamError::LastOperationFailed(err) => {
                Ok(streams::StreamError::LastOperationFailed(self.table.push(err)?))
            }
            StreamError::Trap(err) => Err(err),
        }
    }
}

impl streams::HostInputStream for WasiState {
    fn read(&mut self, handle: Resource<InputStream>, len: u64) -> StreamResult<Vec<u8>> {
        WasiState::read(self, &handle, len)
    }

    fn blocking_read(&mut self, handle: Resource<InputStream>, len: u64) -> StreamResult<Vec<u8>> {
        WasiState::blocking_read(self, &handle, len)
    }

    fn skip(&mut self, handle: Resource<InputStream>, len: u64) -> StreamResult<u64> {
        Ok(WasiState::read(self, &handle, len)?.len() as u64)
    }

    fn blocking_skip(&mut self, handle: Resource<InputStream>, len: u64) -> StreamResult<u64> {
        Ok(WasiState::blocking_read(self, &handle, len)?.len() as u64)
    }

    fn subscribe(&mut self, handle: Resource<InputStream>) -> wasmtime::Result<Resource<Pollable>> {
        let input = self.table.get::<_, Input>(&handle)?;
        let ready = input.waits_for().map_or(Ready::Now, Ready::ToRead);
        self.table.push(ready)
    }

    fn drop(&mut self, handle: Resource<InputStream>) -> wasmtime::Result<()> {
        self.table.delete::<_, Input>(&handle).map(drop)
    }
}

impl streams::HostOutputStream for WasiState {
    fn check_write(&mut self, handle: Resource<OutputStream>) -> StreamResult<u64> {
        Ok(self.permitted(&handle)? as u64)
    }

    fn write(&mut self, handle: Resource<OutputStream>, bytes: Vec<u8>) -> StreamResult<()> {
        if bytes.len() > MAX_PIECE {
            return Err(StreamError::trap("more bytes than check-write permits"));
        }
        WasiState::write(self, &handle, &bytes)
    }

    fn blocking_write_and_flush(
        &mut self,
        handle: Resource<OutputStream>,
        bytes: Vec<u8>,
    ) -> StreamResult<()> {
        streams::HostOutputStream::write(self, handle, bytes)
    }

    fn flush(&mut self, _: Resource<OutputStream>) -> StreamResult<()> {
        Ok(())
    }

    fn blocking_flush(&mut self, _: Resource<OutputStream>) -> StreamResult<()> {
        Ok(())
    }

    fn subscribe(
        &mut self,
        handle: Resource<OutputStream>,
    ) -> wasmtime::Result<Resource<Pollable>> {
        let output = self.table.get::<_, Output>(&handle)?;
        let ready = output.waits_for().map_or(Ready::Now, Ready::ToWrite);
        self.table.push(ready)
    }

    fn write_zeroes(&mut self, handle: Resource<OutputStream>, len: u64) -> StreamResult<()> {
        match usize::try_from(len) {
            Ok(len) if len <= MAX_PIECE => WasiState::write(self, &handle, &vec![0; len]),
            _ => Err(StreamError::trap("more bytes than check-write permits")),
        }
    }

    fn blocking_write_zeroes_and_flush(
        &mut self,
        handle: Resource<OutputStream>,
        len: u64,
    ) -> StreamResult<()> {
        streams::HostOutputStream::write_zeroes(self, handle, len)
    }

    fn splice(
        &mut self,
        handle: Resource<OutputStream>,
        from: Resource<InputStream>,
        len: u64,
    ) -> StreamResult<u64> {
        let permitted = self.permitted(&handle)? as u64;
        let bytes = WasiState::read(self, &from, len.min(permitted))?;
        WasiState::write(self, &handle, &bytes)?;
        Ok(bytes.len() as u64)
    }

    fn blocking_splice(
        &mut self,
        handle: Resource<OutputStream>,
        from: Resource<InputStream>,
        len: u64,
    ) -> StreamResult<u64> {
        let bytes = WasiState::blocking_read(self, &from, len)?;
        WasiState::write(self, &handle, &bytes)?;
        Ok(bytes.len() as u64)
    }

    fn drop(&mut self, handle: Resource<OutputStream>) -> wasmtime::Result<()> {
        self.table.delete::<_, Output>(&handle).map(drop)
    }
}
