//! Files on disk: the store of prepared models (`snapshot_store`, `stored`, `runs`,
//! `write_budget`), and what it shares with the cache of compiled code: private folders and files
//! (`private`) in a sealed format (`sealed_file`).

pub(super) mod private;
mod runs;
pub(super) mod sealed_file;
mod snapshot_store;
mod stored;
mod write_budget;

pub use snapshot_store::SnapshotStore;
pub(crate) use snapshot_store::{SnapshotKey, StoreNotice};
pub use stored::{StoredKind, StoredModel};
