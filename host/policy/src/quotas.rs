//! How much one run of a guest program may use its grants: defaults and hard bounds.
//!
//! A quota is always a number, as a limit is. It may be zero, which disables the use it counts
//! although it is granted.

use serde::{Deserialize, Serialize};

use super::{Bounds, PolicyError};

/// How much one run of a guest program may do. Sizes are in bytes. Quotas that come from a file
/// are within [`quota_bounds`]; check quotas set in code with [`Quotas::check`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Quotas {
    /// Bytes written to all granted files, to standard output and to standard error together.
    pub bytes_written: u64,
    /// Files and folders created.
    pub files_created: u32,
    /// Files, folders and sockets open at once.
    pub open_handles: u32,
    /// Connections made; for UDP, peers sent to.
    pub connections: u32,
    /// Bytes sent over all connections together.
    pub bytes_sent: u64,
    /// Bytes received over all connections together.
    pub bytes_received: u64,
}

/// Bounds of each quota.
pub mod quota_bounds {
    use super::Bounds;

    const MIB: u64 = 1 << 20;
    const TIB: u64 = 1 << 40;

    /// Results are small compared to models; most disks are filled by accident.
    pub const BYTES_WRITTEN: Bounds<u64> = Bounds { min: 0, default: 64 * MIB, max: TIB };
    /// Inodes run out before bytes do.
    pub const FILES_CREATED: Bounds<u32> = Bounds { min: 0, default: 100, max: 1_000_000 };
    /// Each is a file descriptor of the host; the usual limit of a process is 1,024.
    pub const OPEN_HANDLES: Bounds<u32> = Bounds { min: 0, default: 64, max: 512 };
    /// More than the number of ports would be a port scan.
    pub const CONNECTIONS: Bounds<u32> = Bounds { min: 0, default: 16, max: 65_535 };
    /// Data that is sent can be leaked data.
    pub const BYTES_SENT: Bounds<u64> = Bounds { min: 0, default: 16 * MIB, max: TIB };
    /// By default as much as all inputs of a run.
    pub const BYTES_RECEIVED: Bounds<u64> = Bounds { min: 0, default: 256 * MIB, max: TIB };
}

impl Default for Quotas {
    fn default() -> Quotas {
        Quotas {
            bytes_written: quota_bounds::BYTES_WRITTEN.default,
            files_created: quota_bounds::FILES_CREATED.default,
            open_handles: quota_bounds::OPEN_HANDLES.default,
            connections: quota_bounds::CONNECTIONS.default,
            bytes_sent: quota_bounds::BYTES_SENT.default,
            bytes_received: quota_bounds::BYTES_RECEIVED.default,
        }
    }
}

impl Quotas {
    /// The maximum that any policy can set: the initial value of a ceiling.
    pub(super) fn maximum() -> Quotas {
        Quotas {
            bytes_written: quota_bounds::BYTES_WRITTEN.max,
            files_created: quota_bounds::FILES_CREATED.max,
            open_handles: quota_bounds::OPEN_HANDLES.max,
            connections: quota_bounds::CONNECTIONS.max,
            bytes_sent: quota_bounds::BYTES_SENT.max,
            bytes_received: quota_bounds::BYTES_RECEIVED.max,
        }
    }

    /// Checks quotas that were set in code: each must be within its [`quota_bounds`].
    pub fn check(&self) -> Result<(), PolicyError> {
        use super::limits::check_one as one;
        let Quotas {
            bytes_written,
            files_created,
            open_handles,
            connections,
            bytes_sent,
            bytes_received,
        } = *self;
        one("bytes-written", bytes_written, quota_bounds::BYTES_WRITTEN)?;
        one("files-created", files_created, quota_bounds::FILES_CREATED)?;
        one("open-handles", open_handles, quota_bounds::OPEN_HANDLES)?;
        one("connections", connections, quota_bounds::CONNECTIONS)?;
        one("bytes-sent", bytes_sent, quota_bounds::BYTES_SENT)?;
        one("bytes-received", bytes_received, quota_bounds::BYTES_RECEIVED)
    }
}
