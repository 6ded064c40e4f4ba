//! The store: prepared models on disk, so that another process need not prepare them again.
//!
//! For each model there is what it says about itself, and an image for each combination of input
//! shapes. Both came out of a sandbox that this model was in, and are used for this model only; a
//! description from the store is decoded as one from the sandbox is.
//!
//! A file that fails is not used: the caller does without and makes it anew. No failure of the
//! store keeps anybody from an answer.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use belljar_abi::{ABI_VERSION, InputShape, encode_shapes};
use sha2::{Digest as _, Sha256};

use super::super::guest::GuestInfo;
use super::super::image::Image;
use super::private::{PrivateError, PrivateFolder, secret};
use super::runs::Runs;
use super::sealed_file::{self, About, Keys, Kind, SealedFile};
use super::stored::Label;
use crate::confine::memory::SealedWriter;
use crate::tensor::Tensor;
use crate::trust::Digest;

/// Largest description: its texts and lists are bounded one by one, to less than this.
const MAX_DESCRIPTION: u64 = 32 << 20;

/// What 32-bit code can address.
const MAX_IMAGE: u64 = 4 << 30;

/// Files that may wait to be written. When there are more, models are prepared faster than they
/// can be stored, and the next ones are not stored.
const MAX_WAITING: usize = 8;

/// What the store has to say while it works.
#[derive(Clone, Debug)]
pub(crate) enum StoreNotice {
    /// A file or the folder is not what it should be, and was not used.
    Refused { path: PathBuf, why: String },
    /// Something could not be stored.
    NotStored { path: PathBuf, why: String },
    /// Something was stored.
    Stored { path: PathBuf },
}

type Listener = Arc<dyn Fn(StoreNotice) + Send + Sync>;

/// Prepared models on disk.
pub struct ImageStore {
    pub(super) place: Arc<Place>,
    writing: Mutex<Vec<JoinHandle<()>>>,
}

/// Where a store is, and how much it may hold.
pub(super) struct Place {
    pub(super) folder: PathBuf,
    state: PathBuf,
    limit: u64,
    listener: Listener,
    /// One file is written at a time.
    turn: Mutex<()>,
}

/// What an image depends on besides the guest.
pub(crate) struct ImageKey<'a> {
    pub(crate) model: Digest,
    /// Of the files in which it keeps data, in the order of their use.
    pub(crate) side_files: Vec<Digest>,
    pub(crate) deterministic: bool,
    pub(crate) native_kernels: bool,
    /// In the order of the model's declaration.
    pub(crate) shapes: &'a [InputShape],
    /// Inputs whose values it was prepared with.
    pub(crate) fixed: &'a [(String, Tensor)],
}

impl ImageKey<'_> {
    /// What the guest is told to prepare for.
    pub(crate) fn encoded(&self) -> Vec<u8> {
        let wires: Vec<_> = self.fixed.iter().map(|(_, tensor)| tensor.to_wire()).collect();
        let fixed = self.fixed.iter().zip(&wires);
        let views: Vec<_> = fixed.map(|((name, tensor), wire)| tensor.view(name, wire)).collect();
        encode_shapes(self.shapes, &views)
    }

    /// The model, a digest of everything else but the shapes, and a digest of everything.
    fn name(&self) -> String {
        let mut hasher = Sha256::new();
        hasher.update(common());
        hasher.update([self.deterministic.into(), self.native_kernels.into()]);
        hasher.update(self.model.as_bytes());
        // What follows without any begins otherwise than with such a word.
        if !self.side_files.is_empty() {
            hasher.update(b"side files");
            hasher.update((self.side_files.len() as u64).to_le_bytes());
            self.side_files.iter().for_each(|digest| hasher.update(digest.as_bytes()));
        }
        let set = Digest::finish(hasher.clone());
        hasher.update(self.encoded());
        format!("{}.{:.16}.{}.image", self.model, set.to_string(), Digest::finish(hasher))
    }
}

fn description_name(model: Digest) -> String {
    let mut hasher = Sha256::new();
    hasher.update(common());
    format!("{model}.{:.16}.description", Digest::finish(hasher).to_string())
}

/// The guest and the formats.
fn common() -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(sealed_file::FORMAT.to_le_bytes());
    hasher.update(ABI_VERSION.to_le_bytes());
    hasher.update(GuestInfo::embedded().sha256.as_bytes());
    *Digest::finish(hasher).as_bytes()
}

impl ImageStore {
    /// `cache` holds the images, `state` the secret. Neither need exist yet.
    pub(crate) fn new(cache: &Path, state: &Path, limit: u64, listener: Listener) -> ImageStore {
        let (folder, state) = (cache.join("images"), state.to_owned());
        let turn = Mutex::default();
        let place = Arc::new(Place { folder, state, limit, listener, turn });
        ImageStore { place, writing: Mutex::default() }
    }

    /// What a sandbox answered when it was asked to describe this model: as hostile as then.
    pub(crate) fn description(&self, model: Digest) -> Option<Vec<u8>> {
        let name = description_name(model);
        self.place.used(&name, Kind::Description, |file, keys| {
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

    /// The memory of a sandbox that has prepared this, if it is no larger than `most` bytes. `Err`
    /// is the size of one that is.
    pub(crate) fn image(&self, key: &ImageKey<'_>, most: u64) -> Result<Option<Image>, u64> {
        let used = self.place.used(&key.name(), Kind::Image, |file, keys| {
            let (size, runs) = image_table(file)?;
            if size > most {
                return Ok(Err(size));
            }
            let failed = |err: io::Error| err.to_string();
            let writer = SealedWriter::with_len("belljar-image", size).map_err(failed)?;
            // What is checked is what is used, whatever happens to the file meanwhile: each part
            // is hashed and written from one copy.
            file.read(keys, |at, part| {
                runs.each_piece(at, part.len() as u64, |place, range| {
                    writer.write_at(part.get(range).unwrap_or_default(), place)
                })
            })?;
            Ok(Ok(writer.seal().and_then(Image::checked).map_err(failed)?))
        });
        used.transpose()
    }

    /// Stores what a sandbox answered when it was asked to describe a model.
    pub(crate) fn keep_description(&self, model: Digest, label: &str, message: Vec<u8>) {
        let guest = GuestInfo::embedded().sha256.to_owned();
        let label = Label { label: label.to_owned(), guest, ..Label::default() };
        self.later(description_name(model), move |place, folder, name| {
            let about = About { about: label.encode(), table: Vec::new() };
            let keys = place.keys(Kind::Description)?;
            let len = message.len() as u64;
            folder.write_file(name, |file| {
                sealed_file::write(file, &keys, name, &about, len, |at, part| {
                    let from = usize::try_from(at).ok().and_then(|at| message.get(at..));
                    let from = from.and_then(|rest| rest.get(..part.len()));
                    part.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
                    Ok(())
                })
            })?;
            place.tidy(folder, name, usize::MAX)
        });
    }

    /// Stores an image. Of this model, `kept` images of the same set stay, the lately used ones.
    pub(crate) fn keep_image(
        &self,
        key: &ImageKey<'_>,
        label: &str,
        image: &Arc<Image>,
        kept: usize,
    ) {
        let shapes = key.shapes.iter().map(|s| (s.name.clone(), s.dims.clone())).collect();
        let label = Label {
            label: label.to_owned(),
            guest: GuestInfo::embedded().sha256.to_owned(),
            deterministic: key.deterministic,
            native_kernels: key.native_kernels,
            shapes,
            memory: image.len() as u64,
        };
        let image = Arc::clone(image);
        self.later(key.name(), move |place, folder, name| {
            let failed = |err| folder.error(&place.folder, err);
            let runs = Runs::of(&image).map_err(failed)?;
            if runs.len() > place.limit {
                let text = "it is larger than the whole store may be (`BELLJAR_STORE_SIZE`)";
                return Err(failed(io::Error::other(text)));
            }
            let about = About { about: label.encode(), table: runs.encode() };
            let keys = place.keys(Kind::Image)?;
            folder.write_file(name, |file| {
                sealed_file::write(file, &keys, name, &about, runs.len(), |at, part| {
                    runs.each_piece(at, part.len() as u64, |place, range| {
                        let part = part.get_mut(range).unwrap_or_default();
                        image.read_at(part, usize::try_from(place).map_err(io::Error::other)?)
                    })
                })
            })?;
            place.tidy(folder, name, kept)
        });
    }

    /// Has a file written by another thread: nobody waits for a disk before they get an answer.
    fn later(
        &self,
        name: String,
        write: impl FnOnce(&Place, &PrivateFolder, &str) -> Result<(), PrivateError> + Send + 'static,
    ) {
        let place = Arc::clone(&self.place);
        let path = place.folder.join(&name);
        let mut writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        writing.retain(|thread| !thread.is_finished());
        let not_stored = |why: String| {
            (self.place.listener)(StoreNotice::NotStored { path: path.clone(), why });
        };
        if writing.len() >= MAX_WAITING {
            return not_stored("too much is waiting to be stored".into());
        }
        let (to, thread) = (path.clone(), std::thread::Builder::new().name("belljar-store".into()));
        let thread = thread.spawn(move || {
            let _turn = place.turn.lock().unwrap_or_else(PoisonError::into_inner);
            let written = place.open().and_then(|folder| write(&place, &folder, &name));
            (place.listener)(match written {
                Ok(()) => StoreNotice::Stored { path: to },
                Err(err) => StoreNotice::NotStored { path: to, why: err.to_string() },
            });
        });
        match thread {
            Ok(thread) => writing.push(thread),
            Err(err) => not_stored(err.to_string()),
        }
    }

    /// Waits until everything that is to be stored is on disk.
    pub fn finish(&self) {
        let mut writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        for thread in writing.drain(..) {
            // A panic in it was already reported.
            let _ = thread.join();
        }
    }
}

impl Drop for ImageStore {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Size of the memory, and where the data goes in it.
pub(super) fn image_table(file: &SealedFile) -> Result<(u64, Runs), String> {
    let size = Label::decode(&file.about.about).map(|label| label.memory);
    let size = size.filter(|size| *size <= MAX_IMAGE);
    let runs = size.and_then(|size| Runs::decode(&file.about.table, size));
    let runs = runs.filter(|runs| runs.len() == file.len());
    size.zip(runs).ok_or_else(|| "what it says about itself makes no sense".to_owned())
}

impl Place {
    pub(super) fn open(&self) -> Result<PrivateFolder, PrivateError> {
        PrivateFolder::open(&self.folder, "BELLJAR_CACHE_DIR")
    }

    pub(super) fn keys(&self, kind: Kind) -> Result<Keys, PrivateError> {
        Ok(Keys::new(&secret(&self.state)?, kind))
    }

    /// Uses a file, if there is one and it is good.
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
            (self.listener)(StoreNotice::Refused { path: self.folder.join(name), why });
            None
        })
    }

    /// A file whose seal is good.
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
            return Err("it has another name too".into());
        }
        let keys = self.keys(kind).map_err(failed)?;
        let most = if kind == Kind::Image { MAX_IMAGE } else { MAX_DESCRIPTION };
        Ok(Some((SealedFile::open(file, &keys, name, most)?, keys)))
    }

    /// Removes what is too much: images of the set that `name` belongs to beyond `kept`, and
    /// whatever was not used for longest while the store is larger than it may be. A process that
    /// uses one has a copy of its own.
    fn tidy(&self, folder: &PrivateFolder, name: &str, kept: usize) -> Result<(), PrivateError> {
        let mut files: Vec<(i64, u64, u64, String)> = Vec::new();
        for file in folder.names()?.into_iter().filter(|file| super::stored::kind(file).is_some()) {
            // One that is gone meanwhile takes no room.
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
        // The lately used first; the new one stays in any case.
        for (_, _, size, file) in files.iter().rev().filter(|file| file.3 != name) {
            let of_the_set = file.ends_with(".image")
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

/// Notes that a file was used. It only decides about what is removed first.
fn touch(file: &SealedFile) {
    let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
    let times = rustix::fs::Timestamps { last_access: now, last_modification: now };
    let _ = rustix::fs::futimens(file.file(), &times);
}
