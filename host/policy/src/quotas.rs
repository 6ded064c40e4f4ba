//! How much one run of a guest program may do with what it was granted: defaults and hard bounds.
//!
//! As with limits, a quota is a number, always. Zero is one: a grant may be there without the part of
//! it that a quota counts.

use serde::{Deserialize, Serialize};

use super::{Bounds, PolicyError};

/// How much one run of a guest program may do. Sizes in bytes. Every field is within
/// [`quota_bounds`] when it came from a file; check quotas made by hand with [`Quotas::check`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Quotas {
    /// Written to granted files, all together; standard output and error count too.
    pub bytes_written: u64,
    /// Files and folders that are made.
    pub files_created: u32,
    /// Files, folders and sockets that are open at once.
    pub open_handles: u32,
    /// Connections that are made; for UDP, peers that are sent to.
    pub connections: u32,
    /// Sent over all connections together.
    pub bytes_sent: u64,
    /// Received over all connections together.
    pub bytes_received: u64,
}

/// Bounds of each quota.
pub mod quota_bounds {
    use super::Bounds;

    const MIB: u64 = 1 << 20;
    const TIB: u64 = 1 << 40;

    /// Results are small beside models; a disk is filled by accident more often than on purpose.
    pub const BYTES_WRITTEN: Bounds<u64> = Bounds { min: 0, default: 64 * MIB, max: TIB };
    /// Inodes run out before bytes do.
    pub const FILES_CREATED: Bounds<u32> = Bounds { min: 0, default: 100, max: 1_000_000 };
    /// Each is a descriptor of the host's; the usual limit of a process is 1,024.
    pub const OPEN_HANDLES: Bounds<u32> = Bounds { min: 0, default: 64, max: 512 };
    /// More than there are ports on one side would be a scan.
    pub const CONNECTIONS: Bounds<u32> = Bounds { min: 0, default: 16, max: 65_535 };
    /// What is sent is what can leak.
    pub const BYTES_SENT: Bounds<u64> = Bounds { min: 0, default: 16 * MIB, max: TIB };
    /// As much as all inputs of a run by default.
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
    /// The most that any policy can say: where a ceiling begins.
    pub(super) fn most() -> Quotas {
        Quotas {
            bytes_written: quota_bounds::BYTES_WRITTEN.max,
            files_created: quota_bounds::FILES_CREATED.max,
            open_handles: quota_bounds::OPEN_HANDLES.max,
            connections: quota_bounds::CONNECTIONS.max,
            bytes_sent: quota_bounds::BYTES_SENT.max,
            bytes_received: quota_bounds::BYTES_RECEIVED.max,
        }
    }

    /// Checks quotas that were set by a program: each must be within its [`quota_bounds`].
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
