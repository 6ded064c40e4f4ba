//! What is kept on disk: prepared models in the store (`snapshot_store`, `stored`, `runs`,
//! `write_budget`), and what
//! that and the cache of compiled code stand on: folders and files of the user's own (`private`), in
//! a sealed format (`sealed_file`).

pub(super) mod private;
mod runs;
pub(super) mod sealed_file;
mod snapshot_store;
mod stored;
mod write_budget;

pub use snapshot_store::SnapshotStore;
pub(crate) use snapshot_store::{SnapshotKey, StoreNotice};
pub use stored::{StoredKind, StoredModel};
