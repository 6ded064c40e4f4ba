//! The content of the store, for its maintenance: listing, checking seals, and removal.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::super::guest::GuestInfo;
use super::super::plan::{PlanShapes, StoredShapes};
use super::private::PrivateError;
use super::sealed_file::Kind;
use super::snapshot_store::{SnapshotStore, snapshot_table};
use crate::trust::Digest;

/// The metadata of a file, which its seal covers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Label {
    pub(super) label: String,
    pub(super) guest: String,
    pub(super) deterministic: bool,
    pub(super) native_kernels: bool,
    pub(super) plan: StoredShapes,
    /// Size of the memory.
    pub(super) memory: u64,
}

impl Label {
    pub(super) fn encode(&self) -> Vec<u8> {
        // Serializing strings and numbers cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Label> {
        serde_json::from_slice(bytes).ok()
    }
}

/// The kind of a file by its name; `None` for a file that does not belong to the store.
pub(super) fn kind(name: &str) -> Option<StoredKind> {
    match name.rsplit_once('.')? {
        ("", _) => None,
        (_, "snapshot") => Some(StoredKind::Snapshot),
        (_, "description") => Some(StoredKind::Description),
        _ => None,
    }
}

/// The kinds of stored files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredKind {
    /// The description of the model.
    Description,
    /// The memory of a sandbox that has prepared the model.
    Snapshot,
}

/// A file of the store.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StoredModel {
    /// The kind of the file.
    pub kind: StoredKind,
    /// The path of the file.
    pub path: PathBuf,
    /// SHA-256 of the model; `None` if the file's name does not contain it.
    pub model: Option<Digest>,
    /// Size of the file in bytes.
    pub size: u64,
    /// When it was last used.
    pub last_used: SystemTime,
    /// The model's name when it was stored. Untrusted text: print it through
    /// [`belljar_text::Escaped`].
    pub label: String,
    /// The input shapes it is prepared for. The names are untrusted text too.
    pub plan: PlanShapes,
    /// Whether it is for deterministic runs.
    pub deterministic: bool,
    /// Whether it is for runs with native kernels.
    pub native_kernels: bool,
    /// Bytes of memory that a sandbox starts with.
    pub memory: u64,
    /// Whether it was written for this build of Belljar, the only one that uses it.
    pub current: bool,
    /// Why the file is invalid, if it is; the fields above may then be empty.
    pub broken: Option<String>,
    name: String,
}

impl SnapshotStore {
    /// The folder of the store; `None` if neither the caller nor the environment names one.
    pub fn folder(&self) -> Option<&std::path::Path> {
        self.inner.folder.as_deref()
    }

    /// All files, the most recently used first. Seals are checked, but not the snapshots
    /// themselves: see [`SnapshotStore::verify`].
    ///
    /// # Errors
    /// If the folder cannot be used.
    pub fn list(&self) -> Result<Vec<StoredModel>, PrivateError> {
        let folder = self.inner.open()?;
        let mut list = Vec::new();
        for name in folder.names()? {
            let Some(kind) = kind(&name) else { continue };
            // Skips files that were removed in the meantime.
            let Ok(stat) = folder.stat(&name) else { continue };
            let since = Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or(0));
            let since = since + Duration::from_nanos(stat.st_mtime_nsec);
            let opened = match self.inner.open_sealed(&name, kind.into()) {
                Ok(None) => continue,
                Ok(Some((file, _))) => Label::decode(&file.about.about)
                    .ok_or_else(|| "its metadata is invalid".to_owned()),
                Err(why) => Err(why),
            };
            let broken = opened.as_ref().err().cloned();
            let label = opened.unwrap_or_default();
            list.push(StoredModel {
                kind,
                path: folder.path().join(&name),
                model: name.split('.').next().and_then(|digest| digest.parse().ok()),
                size: u64::try_from(stat.st_size).unwrap_or(0),
                last_used: SystemTime::UNIX_EPOCH + since,
                label: label.label,
                plan: label.plan.into(),
                deterministic: label.deterministic,
                native_kernels: label.native_kernels,
                memory: label.memory,
                current: label.guest == GuestInfo::embedded().sha256,
                broken,
                name,
            });
        }
        list.sort_by(|a, b| b.last_used.cmp(&a.last_used).then_with(|| a.name.cmp(&b.name)));
        Ok(list)
    }

    /// Reads a whole file and checks it against its seal.
    ///
    /// # Errors
    /// The reason, if the file is not what Belljar wrote.
    pub fn verify(&self, stored: &StoredModel) -> Result<(), String> {
        let Some((file, keys)) = self.inner.open_sealed(&stored.name, stored.kind.into())? else {
            return Ok(());
        };
        if stored.kind == StoredKind::Snapshot {
            snapshot_table(&file)?;
        }
        file.read(&keys, |_, _| Ok(()))
    }

    /// Removes a file. Processes that use it have their own copy.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn remove(&self, stored: &StoredModel) -> Result<(), PrivateError> {
        self.inner.open()?.remove(&stored.name)
    }

    /// Removes the temporary files of writers that have ended.
    ///
    /// # Errors
    /// If the folder cannot be used.
    pub fn remove_leftovers(&self) -> Result<(), PrivateError> {
        self.inner.open()?.remove_leftovers();
        Ok(())
    }
}

impl From<StoredKind> for Kind {
    fn from(kind: StoredKind) -> Kind {
        match kind {
            StoredKind::Description => Kind::Description,
            StoredKind::Snapshot => Kind::Snapshot,
        }
    }
}
