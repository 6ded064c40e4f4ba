//! What is in the store, for people who look after it: a list, a check of every seal, removal.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use belljar_abi::InputShape;
use serde::{Deserialize, Serialize};

use super::super::guest::GuestInfo;
use super::private::PrivateError;
use super::sealed_file::Kind;
use super::snapshot_store::{SnapshotStore, snapshot_table};
use crate::trust::Digest;

/// What a file says about itself, under its seal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Label {
    pub(super) label: String,
    pub(super) guest: String,
    pub(super) deterministic: bool,
    pub(super) native_kernels: bool,
    pub(super) shapes: Vec<(String, Vec<u64>)>,
    /// Size of the memory.
    pub(super) memory: u64,
}

impl Label {
    pub(super) fn encode(&self) -> Vec<u8> {
        // Strings and numbers can always be written.
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Label> {
        serde_json::from_slice(bytes).ok()
    }
}

/// Which kind of file a name is for; `None` for one that is not the store's.
pub(super) fn kind(name: &str) -> Option<StoredKind> {
    match name.rsplit_once('.')? {
        ("", _) => None,
        (_, "snapshot") => Some(StoredKind::Snapshot),
        (_, "description") => Some(StoredKind::Description),
        _ => None,
    }
}

/// What is stored of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredKind {
    /// What it says about itself.
    Description,
    /// The memory of a sandbox that has prepared it.
    Snapshot,
}

/// A file of the store.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StoredModel {
    /// What it holds.
    pub kind: StoredKind,
    /// The file.
    pub path: PathBuf,
    /// SHA-256 of the model; `None` if the file's name does not say.
    pub model: Option<Digest>,
    /// Size of the file in bytes.
    pub size: u64,
    /// When it was last used.
    pub last_used: SystemTime,
    /// The model's name when it was stored. Untrusted text: print it through
    /// [`belljar_text::Escaped`].
    pub label: String,
    /// The input shapes it is prepared for. The names are hostile text too.
    pub shapes: Vec<InputShape>,
    /// Whether it is for deterministic runs.
    pub deterministic: bool,
    /// Whether it is for runs with native kernels.
    pub native_kernels: bool,
    /// Bytes of memory that a sandbox starts with.
    pub memory: u64,
    /// Whether this build of Belljar made it: another one never uses it.
    pub current: bool,
    /// What is wrong with it, if anything; then all that was said above may be empty.
    pub broken: Option<String>,
    name: String,
}

impl SnapshotStore {
    /// Where it is; `None` if no folder was named and the environment names none either.
    pub fn folder(&self) -> Option<&std::path::Path> {
        self.place.folder.as_deref()
    }

    /// Everything in it, the lately used first. Seals are checked, but not the snapshots themselves:
    /// see [`SnapshotStore::verify`].
    ///
    /// # Errors
    /// When the folder cannot be used.
    pub fn list(&self) -> Result<Vec<StoredModel>, PrivateError> {
        let folder = self.place.open()?;
        let mut list = Vec::new();
        for name in folder.names()? {
            let Some(kind) = kind(&name) else { continue };
            // What is gone meanwhile is not in it.
            let Ok(stat) = folder.stat(&name) else { continue };
            let since = Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or(0));
            let since = since + Duration::from_nanos(stat.st_mtime_nsec);
            let opened = match self.place.open_sealed(&name, kind.into()) {
                Ok(None) => continue,
                Ok(Some((file, _))) => Label::decode(&file.about.about)
                    .ok_or_else(|| "what it says about itself makes no sense".to_owned()),
                Err(why) => Err(why),
            };
            let broken = opened.as_ref().err().cloned();
            let label = opened.unwrap_or_default();
            let shapes = label.shapes.into_iter().map(|(name, dims)| InputShape { name, dims });
            list.push(StoredModel {
                kind,
                path: folder.path().join(&name),
                model: name.split('.').next().and_then(|digest| digest.parse().ok()),
                size: u64::try_from(stat.st_size).unwrap_or(0),
                last_used: SystemTime::UNIX_EPOCH + since,
                label: label.label,
                shapes: shapes.collect(),
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

    /// Reads all of a file and holds it against its seal. `Err` says what is wrong.
    ///
    /// # Errors
    /// When the file is not what Belljar wrote there.
    pub fn verify(&self, stored: &StoredModel) -> Result<(), String> {
        let Some((file, keys)) = self.place.open_sealed(&stored.name, stored.kind.into())? else {
            return Ok(());
        };
        if stored.kind == StoredKind::Snapshot {
            snapshot_table(&file)?;
        }
        file.read(&keys, |_, _| Ok(()))
    }

    /// Removes a file. Whoever runs from it has a copy.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(&self, stored: &StoredModel) -> Result<(), PrivateError> {
        self.place.open()?.remove(&stored.name)
    }

    /// Removes what writers that are gone left half-written.
    ///
    /// # Errors
    /// When the folder cannot be used.
    pub fn remove_leftovers(&self) -> Result<(), PrivateError> {
        self.place.open()?.remove_leftovers();
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
