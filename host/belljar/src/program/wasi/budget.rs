//! The remaining quotas of a run. A quota must be checked before the operation that it limits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde::{Deserialize, Serialize};

use belljar_policy::Quotas;

/// An exhausted quota: its key in `[quotas]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exhausted(pub(super) &'static str);

/// What a run used, as its process reports it. Sizes are in bytes.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Spent {
    /// Peak usage of `limits.memory`.
    pub memory: u64,
    /// Written to granted files and to standard output and error.
    pub bytes_written: u64,
    /// Files and folders made.
    pub files_created: u32,
    /// Peak number.
    pub open_handles: u32,
    /// Connections made.
    pub connections: u32,
    /// Sent over all connections.
    pub bytes_sent: u64,
    /// Received over all connections.
    pub bytes_received: u64,
}

pub(super) struct Budget {
    /// The initial quotas.
    whole: Quotas,
    bytes_written: u64,
    files_created: u32,
    connections: u32,
    bytes_sent: u64,
    bytes_received: u64,
    most_handles: u32,
    handles: Arc<AtomicU32>,
    /// Peak number of open handles.
    highest: AtomicU32,
}

/// One of the `open-handles`, which is released on drop.
pub(super) struct Held(Arc<AtomicU32>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Budget {
    pub(super) fn new(quotas: &Quotas) -> Budget {
        Budget {
            whole: quotas.clone(),
            bytes_written: quotas.bytes_written,
            files_created: quotas.files_created,
            connections: quotas.connections,
            bytes_sent: quotas.bytes_sent,
            bytes_received: quotas.bytes_received,
            most_handles: quotas.open_handles,
            handles: Arc::default(),
            highest: AtomicU32::new(0),
        }
    }

    /// Takes one of the `open-handles` for an open descriptor.
    pub(super) fn hold(&self) -> Result<Held, Exhausted> {
        let more = |open| (open < self.most_handles).then_some(open + 1);
        match self.handles.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(open) => {
                self.highest.fetch_max(open + 1, Ordering::Relaxed);
                Ok(Held(Arc::clone(&self.handles)))
            }
            Err(_) => Err(Exhausted("open-handles")),
        }
    }

    /// What was used so far.
    pub(super) fn spent(&self) -> Spent {
        let Quotas {
            bytes_written, files_created, connections, bytes_sent, bytes_received, ..
        } = self.whole;
        Spent {
            memory: 0,
            bytes_written: bytes_written.saturating_sub(self.bytes_written),
            files_created: files_created.saturating_sub(self.files_created),
            open_handles: self.highest.load(Ordering::Relaxed),
            connections: connections.saturating_sub(self.connections),
            bytes_sent: bytes_sent.saturating_sub(self.bytes_sent),
            bytes_received: bytes_received.saturating_sub(self.bytes_received),
        }
    }

    /// Takes this many bytes from `bytes-written`; all or none.
    pub(super) fn write(&mut self, bytes: u64) -> Result<(), Exhausted> {
        take(&mut self.bytes_written, bytes, "bytes-written")
    }

    /// Returns bytes of a write that wrote less.
    pub(super) fn unwritten(&mut self, bytes: u64) {
        self.bytes_written = self.bytes_written.saturating_add(bytes);
    }

    /// Whether one more file or folder may be created; [`Budget::created`] takes it.
    pub(super) fn may_create(&self) -> Result<(), Exhausted> {
        match self.files_created {
            0 => Err(Exhausted("files-created")),
            _ => Ok(()),
        }
    }

    pub(super) fn created(&mut self) {
        self.files_created = self.files_created.saturating_sub(1);
    }

    /// Takes one connection. An attempt that fails counts too, because it was sent.
    pub(super) fn connect(&mut self) -> Result<(), Exhausted> {
        match self.connections.checked_sub(1) {
            Some(left) => {
                self.connections = left;
                Ok(())
            }
            None => Err(Exhausted("connections")),
        }
    }

    /// How many of these bytes may be sent.
    pub(super) fn sendable(&self, bytes: usize) -> Result<usize, Exhausted> {
        at_most(self.bytes_sent, bytes, "bytes-sent")
    }

    pub(super) fn sent(&mut self, bytes: usize) {
        self.bytes_sent = self.bytes_sent.saturating_sub(bytes as u64);
    }

    /// How many of these bytes may be received.
    pub(super) fn receivable(&self, bytes: usize) -> Result<usize, Exhausted> {
        at_most(self.bytes_received, bytes, "bytes-received")
    }

    pub(super) fn received(&mut self, bytes: usize) {
        self.bytes_received = self.bytes_received.saturating_sub(bytes as u64);
    }
}

fn take(left: &mut u64, bytes: u64, key: &'static str) -> Result<(), Exhausted> {
    *left = left.checked_sub(bytes).ok_or(Exhausted(key))?;
    Ok(())
}

fn at_most(left: u64, bytes: usize, key: &'static str) -> Result<usize, Exhausted> {
    match left {
        0 => Err(Exhausted(key)),
        left => Ok(bytes.min(usize::try_from(left).unwrap_or(usize::MAX))),
    }
}
