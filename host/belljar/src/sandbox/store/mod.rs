//! Files on disk: the store of prepared models (`snapshot_store`, `key`, `stored`, `runs`,
//! `write_budget`), and what it shares with the cache of compiled code: private folders and files
//! (`private`) in a sealed format (`sealed_file`), under a secret key (`secret`).

mod key;
pub(super) mod private;
mod runs;
pub(super) mod sealed_file;
pub(super) mod secret;
mod snapshot_store;
mod stored;
mod write_budget;

pub(crate) use key::SnapshotKey;
pub use snapshot_store::SnapshotStore;
pub(crate) use snapshot_store::StoreNotice;
pub use stored::{StoredKind, StoredModel};
