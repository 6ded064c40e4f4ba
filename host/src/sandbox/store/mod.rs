//! What is kept on disk: prepared models in the store (`image_store`, `stored`, `runs`), and what
//! that and the cache of compiled code stand on: folders and files of the user's own (`private`), in
//! a sealed format (`sealed_file`).

mod image_store;
pub(super) mod private;
mod runs;
pub(super) mod sealed_file;
mod stored;

pub use image_store::ImageStore;
pub(crate) use image_store::{ImageKey, StoreNotice};
pub use stored::{StoredKind, StoredModel};
