//! Files and folders: their digests, who can replace them, and how they are opened.
#![forbid(unsafe_code)]
#![allow(missing_docs, reason = "only for Belljar's own crates")]

mod digest;
pub mod ownership;

pub use digest::{Digest, ParseDigestError};
