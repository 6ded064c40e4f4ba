//! The store: prepared models on disk, so that another process need not prepare them again.
//!
//! It holds the description of each model, and its snapshots: each is for some input shapes.
//! Both come from a sandbox that contained the model, so they must only be used for that model, and
//! a stored description is decoded as untrusted data, like one from a sandbox.
//!
//! An invalid file is not used: the caller prepares the model again. A failure of the store must
//! never fail a request. The rate of writes is bounded (`write_budget`).

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::super::guest::GuestInfo;
use super::super::plan::PlanShapes;
use super::super::snapshot::Snapshot;
use super::key::{SnapshotKey, description_name};
use super::private::{PrivateError, PrivateFolder};
use super::runs::Runs;
use super::sealed_file::{self, About, Keys, Kind, SealedFile};
use super::secret::secret;
use super::stored::{Label, StoredKind};
use super::write_budget::{self, NotWritten, Writing};
use crate::trust::Digest;
use belljar_confine::memory::SealedWriter;

/// Maximum size of a description: the limits on its texts and lists add up to less than this.
const MAX_DESCRIPTION: u64 = 32 << 20;

/// The address space of 32-bit code.
const MAX_SNAPSHOT: u64 = 4 << 30;

/// The environment variable that moves the store.
const VARIABLE: &str = "BELLJAR_CACHE_DIR";

/// Maximum number of files that wait to be written. Further files are not stored, because models
/// are then prepared faster than they can be stored.
const MAX_WAITING: usize = 8;

/// Events of the store.
#[derive(Clone, Debug)]
pub(crate) enum StoreNotice {
    /// A file or the folder is invalid, and was not used.
    Refused { path: PathBuf, why: String },
    /// Something could not be stored.
    NotStored {
        path: PathBuf,
        why: String,
        /// Whether the reason is that the folder cannot be used or written.
        unusable: bool,
    },
    /// Something was stored.
    Stored { path: PathBuf },
}

type Listener = Arc<dyn Fn(StoreNotice) + Send + Sync>;

/// Prepared models on disk.
pub struct SnapshotStore {
    pub(super) inner: Arc<Inner>,
    writing: Mutex<Vec<JoinHandle<()>>>,
}

/// The location and the limits of a store.
pub(super) struct Inner {
    pub(super) folder: Option<PathBuf>,
    /// The folder of the write budget.
    writes: Option<PathBuf>,
    state: Option<PathBuf>,
    limit: u64,
    /// Whether the rate of writes is bounded.
    metered: bool,
    listener: Listener,
    /// Held while a file is written: one at a time.
    turn: Mutex<()>,
}

impl SnapshotStore {
    /// `cache` holds the snapshots, `state` the secret. They need not exist yet.
    pub(crate) fn new(
        cache: Option<&Path>,
        state: Option<&Path>,
        limit: u64,
        metered: bool,
        listener: Listener,
    ) -> SnapshotStore {
        let [folder, writes] =
            ["snapshots", "writes"].map(|name| cache.map(|cache| cache.join(name)));
        let (state, turn) = (state.map(Path::to_owned), Mutex::default());
        let inner = Arc::new(Inner { folder, writes, state, limit, metered, listener, turn });
        SnapshotStore { inner, writing: Mutex::default() }
    }

    /// The answer of a sandbox that was asked to describe this model. It is still untrusted.
    pub(crate) fn description(&self, model: Digest) -> Option<Vec<u8>> {
        let name = description_name(model);
        self.inner.used(&name, Kind::Description, |file, keys| {
            let message = Mutex::new(vec![0; usize::try_from(file.len()).unwrap_or(0)]);
            file.read(keys, |at, part| {
                let mut message = message.lock().unwrap_or_else(PoisonError::into_inner);
                let to = usize::try_from(at).ok().and_then(|at| message.get_mut(at..));
                let to = to.and_then(|rest| rest.get_mut(..part.len()));
                to.ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(part);
                Ok(())
            })?;
            Ok(message.into_inner().unwrap_or_else(PoisonError::into_inner))
        })
    }

    /// A snapshot whose plan is accepted, with the plan, if it has at most `max` bytes. `Err` is the
    /// size of a larger one.
    pub(crate) fn snapshot(
        &self,
        key: &SnapshotKey<'_>,
        accepts: impl Fn(&PlanShapes) -> bool,
        max: u64,
    ) -> Result<Option<(PlanShapes, Snapshot)>, u64> {
        let Some((name, plan)) = self.inner.accepted(key, accepts) else { return Ok(None) };
        let used = self.inner.used(&name, Kind::Snapshot, |file, keys| {
            let (size, runs) = snapshot_table(file)?;
            if size > max {
                return Ok(Err(size));
            }
            let failed = |err: io::Error| err.to_string();
            let writer = SealedWriter::with_len("belljar-snapshot", size).map_err(failed)?;
            // Each part is hashed and written from one copy, so a concurrent change of the file
            // cannot replace verified data.
            file.read(keys, |at, part| {
                runs.each_piece(at, part.len() as u64, |offset, range| {
                    writer.write_at(part.get(range).unwrap_or_default(), offset)
                })
            })?;
            Ok(Ok(writer.seal().and_then(Snapshot::checked).map_err(failed)?))
        });
        Ok(used.transpose()?.map(|snapshot| (plan, snapshot)))
    }

    /// Stores the answer of a sandbox that was asked to describe a model.
    pub(crate) fn keep_description(&self, model: Digest, label: &str, message: Vec<u8>) {
        let guest = GuestInfo::embedded().sha256.to_owned();
        let label = Label { label: label.to_owned(), guest, ..Label::default() };
        self.later(description_name(model), move |inner, folder, name| {
            let about = About { about: label.encode(), table: Vec::new() };
            let keys = inner.keys(Kind::Description)?;
            let len = message.len() as u64;
            // Not counted in the write budget: it is written when a model is loaded, which requests
            // cannot trigger.
            folder.write_file(name, |file| {
                sealed_file::write(file, &keys, name, &about, len, |at, part| {
                    let from = usize::try_from(at).ok().and_then(|at| message.get(at..));
                    let from = from.and_then(|rest| rest.get(..part.len()));
                    part.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
                    Ok(())
                })
            })?;
            Ok(inner.tidy(folder, name, usize::MAX)?)
        });
    }

    /// Stores a snapshot. Of this model's snapshots of the same set, the `kept` most recently used
    /// ones are kept.
    pub(crate) fn keep_snapshot(
        &self,
        key: &SnapshotKey<'_>,
        label: &str,
        plan: &PlanShapes,
        snapshot: &Arc<Snapshot>,
        kept: usize,
    ) {
        let label = Label {
            label: label.to_owned(),
            guest: GuestInfo::embedded().sha256.to_owned(),
            deterministic: key.deterministic,
            native_kernels: key.native_kernels,
            plan: plan.to_stored(),
            memory: snapshot.len() as u64,
        };
        let snapshot = Arc::clone(snapshot);
        self.later(key.name(plan), move |inner, folder, name| {
            let runs = Runs::of(&snapshot).map_err(|err| folder.error(folder.path(), err))?;
            if runs.len() > inner.limit {
                return Err(NotWritten::TooMuch(format!(
                    "its {} bytes exceed the size limit of the whole store, {} bytes \
                     (`BELLJAR_STORE_SIZE`)",
                    runs.len(),
                    inner.limit
                )));
            }
            let about = About { about: label.encode(), table: runs.encode() };
            let keys = inner.keys(Kind::Snapshot)?;
            inner.charge(name, sealed_file::file_len(&about, runs.len()), kept)?;
            folder.write_file(name, |file| {
                sealed_file::write(file, &keys, name, &about, runs.len(), |at, part| {
                    runs.each_piece(at, part.len() as u64, |offset, range| {
                        let part = part.get_mut(range).unwrap_or_default();
                        snapshot.read_at(part, usize::try_from(offset).map_err(io::Error::other)?)
                    })
                })
            })?;
            Ok(inner.tidy(folder, name, kept)?)
        });
    }

    /// Writes a file on another thread, so that no request waits for the disk.
    fn later(
        &self,
        name: String,
        write: impl FnOnce(&Inner, &PrivateFolder, &str) -> Result<(), NotWritten> + Send + 'static,
    ) {
        let inner = Arc::clone(&self.inner);
        let path = inner.path(&name);
        let mut writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        writing.retain(|thread| !thread.is_finished());
        let not_stored = |why: String| {
            let (path, unusable) = (path.clone(), false);
            (self.inner.listener)(StoreNotice::NotStored { path, why, unusable });
        };
        if writing.len() >= MAX_WAITING {
            return not_stored(format!("{MAX_WAITING} other files are waiting to be written"));
        }
        let (to, thread) = (path.clone(), std::thread::Builder::new().name("belljar-store".into()));
        let thread = thread.spawn(move || {
            let _turn = inner.turn.lock().unwrap_or_else(PoisonError::into_inner);
            let folder = inner.open().map_err(NotWritten::from);
            (inner.listener)(match folder.and_then(|folder| write(&inner, &folder, &name)) {
                Ok(()) => StoreNotice::Stored { path: to },
                Err(NotWritten::TooMuch(why)) => {
                    StoreNotice::NotStored { path: to, why, unusable: false }
                }
                Err(NotWritten::Folder(err)) => {
                    StoreNotice::NotStored { path: to, why: err.to_string(), unusable: true }
                }
            });
        });
        match thread {
            Ok(thread) => writing.push(thread),
            Err(err) => not_stored(err.to_string()),
        }
    }

    /// Waits until all pending files are on disk.
    pub fn finish(&self) {
        let mut writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        for thread in writing.drain(..) {
            // A panic of the thread was already reported.
            let _ = thread.join();
        }
    }
}

impl Drop for SnapshotStore {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Size of the memory, and the runs of data in it.
pub(super) fn snapshot_table(file: &SealedFile) -> Result<(u64, Runs), String> {
    let size = Label::decode(&file.about.about).map(|label| label.memory);
    let size = size.filter(|size| *size <= MAX_SNAPSHOT);
    let runs = size.and_then(|size| Runs::decode(&file.about.table, size));
    let runs = runs.filter(|runs| runs.len() == file.len());
    size.zip(runs).ok_or_else(|| "its metadata is invalid".to_owned())
}

impl Inner {
    pub(super) fn open(&self) -> Result<PrivateFolder, PrivateError> {
        let nowhere = PrivateError::Nowhere { variable: VARIABLE };
        PrivateFolder::open(self.folder.as_ref().ok_or(nowhere)?, VARIABLE)
    }

    pub(super) fn keys(&self, kind: Kind) -> Result<Keys, PrivateError> {
        Ok(Keys::new(&secret(self.state.as_deref())?, kind))
    }

    /// The path of a file, for messages.
    fn path(&self, name: &str) -> PathBuf {
        self.folder.as_deref().unwrap_or(Path::new("")).join(name)
    }

    /// Charges the write budget for a snapshot of this name and length. `kept` is the number of
    /// snapshots that are kept of its model.
    fn charge(&self, name: &str, bytes: u64, kept: usize) -> Result<(), NotWritten> {
        let nowhere = PrivateError::Nowhere { variable: VARIABLE };
        let writes = self.writes.as_ref().ok_or(nowhere)?;
        let model = name.split('.').next().unwrap_or_default();
        let writing =
            Writing { model, bytes, snapshots_kept: kept.max(1) as u64, store_size: self.limit };
        write_budget::charge(writes, &writing, !self.metered)
    }

    /// The file with a snapshot whose plan is accepted, and the plan; one without open dimensions is
    /// preferred. The number of files for a key is bounded when they are written.
    fn accepted(
        &self,
        key: &SnapshotKey<'_>,
        accepts: impl Fn(&PlanShapes) -> bool,
    ) -> Option<(String, PlanShapes)> {
        let prefix = key.prefix();
        let names = match self.open().and_then(|folder| folder.names()) {
            Ok(names) => names,
            Err(err) => {
                let (path, why) = (self.path(&prefix), err.to_string());
                (self.listener)(StoreNotice::Refused { path, why });
                return None;
            }
        };
        let mut found: Option<(String, PlanShapes)> = None;
        for name in names.into_iter().filter(|name| name.starts_with(&prefix)) {
            if super::stored::kind(&name) != Some(StoredKind::Snapshot) {
                continue;
            }
            let label = match self.open_sealed(&name, Kind::Snapshot) {
                Ok(Some((file, _))) => Label::decode(&file.about.about)
                    .ok_or_else(|| "its metadata is invalid".to_owned()),
                Ok(None) => continue,
                Err(why) => Err(why),
            };
            match label {
                Ok(label) => {
                    let plan = PlanShapes::from(label.plan);
                    let better = found.as_ref().is_none_or(|(_, other)| other.is_open());
                    if better && accepts(&plan) {
                        found = Some((name, plan));
                    }
                }
                Err(why) => {
                    (self.listener)(StoreNotice::Refused { path: self.path(&name), why });
                }
            }
        }
        found
    }

    /// Reads a file, if it exists and is valid.
    fn used<T>(
        &self,
        name: &str,
        kind: Kind,
        read: impl FnOnce(&SealedFile, &Keys) -> Result<T, String>,
    ) -> Option<T> {
        let found = self.open_sealed(name, kind).and_then(|found| {
            let Some((file, keys)) = found else { return Ok(None) };
            let read = read(&file, &keys)?;
            touch(&file);
            Ok(Some(read))
        });
        found.unwrap_or_else(|why| {
            (self.listener)(StoreNotice::Refused { path: self.path(name), why });
            None
        })
    }

    /// Opens a file and checks its seal.
    pub(super) fn open_sealed(
        &self,
        name: &str,
        kind: Kind,
    ) -> Result<Option<(SealedFile, Keys)>, String> {
        let failed = |err: PrivateError| err.to_string();
        let Some(file) = self.open().and_then(|folder| folder.open_file(name)).map_err(failed)?
        else {
            return Ok(None);
        };
        if file.metadata().map_err(|err| err.to_string())?.nlink() > 1 {
            return Err("it has more than one hard link".into());
        }
        let keys = self.keys(kind).map_err(failed)?;
        let max = if kind == Kind::Snapshot { MAX_SNAPSHOT } else { MAX_DESCRIPTION };
        Ok(Some((SealedFile::open(file, &keys, name, max)?, keys)))
    }

    /// Removes snapshots of the set of `name` beyond the `kept` most recently used ones, and the
    /// least recently used files while the store exceeds its size limit. A process that uses one
    /// has its own copy.
    fn tidy(&self, folder: &PrivateFolder, name: &str, kept: usize) -> Result<(), PrivateError> {
        let mut files: Vec<(i64, u64, u64, String)> = Vec::new();
        for file in folder.names()?.into_iter().filter(|file| super::stored::kind(file).is_some()) {
            // A file that was removed in the meantime uses no space.
            if let Ok(stat) = folder.stat(&file) {
                let size = u64::try_from(stat.st_size).unwrap_or(0);
                files.push((stat.st_mtime, stat.st_mtime_nsec, size, file));
            }
        }
        files.sort_unstable();
        let set = name.rsplitn(3, '.').last().filter(|_| kept < usize::MAX);
        let mut left = kept.saturating_sub(1);
        let mut total = files.iter().find(|file| file.3 == name).map_or(0, |file| file.2);
        let mut full = false;
        // The most recently used first; the new file is always kept.
        for (_, _, size, file) in files.iter().rev().filter(|file| file.3 != name) {
            let of_the_set = file.ends_with(".snapshot")
                && set.is_some_and(|set| file.rsplitn(3, '.').last() == Some(set));
            let surplus = of_the_set && left == 0;
            left = left.saturating_sub(usize::from(of_the_set));
            full |= total.saturating_add(*size) > self.limit;
            if surplus || full {
                folder.remove(file)?;
            } else {
                total = total.saturating_add(*size);
            }
        }
        Ok(())
    }
}

/// Records that a file was used. This only affects which files are removed first.
fn touch(file: &SealedFile) {
    let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
    let times = rustix::fs::Timestamps { last_access: now, last_modification: now };
    let _ = rustix::fs::futimens(file.file(), &times);
}
