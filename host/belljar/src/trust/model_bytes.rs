//! A model as the host knows it: immutable bytes with a size and a digest.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use sha2::{Digest as _, Sha256};

use crate::trust::{Digest, signature};
use belljar_confine::file_size;
use belljar_confine::memory::{SealedBytes, SealedWriter};

/// Why a model's bytes could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelBytesError {
    /// The model is larger than allowed.
    #[error("the model is larger than the limit of {limit} bytes (`limits.model-size`)")]
    TooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// The path is not a regular file.
    #[error("not a regular file")]
    NotAFile,
    /// Reading failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The sealed bytes of a model: memory that can no longer be written or resized, even by this
/// process, so the bytes that were hashed are the bytes that are parsed.
#[derive(Clone, Debug)]
pub struct ModelBytes {
    sealed: Arc<SealedBytes>,
    digest: Digest,
    label: String,
}

impl ModelBytes {
    /// Reads a model of at most `limit` bytes.
    ///
    /// # Errors
    /// [`ModelBytesError::TooLarge`] as soon as the limit is exceeded, and read errors.
    pub fn read(mut reader: impl Read, limit: u64) -> Result<ModelBytes, ModelBytesError> {
        let mut writer = SealedWriter::new("belljar-model")?;
        let mut hasher = Sha256::new();
        // Large enough to hide the cost of system calls, small enough for the cache.
        let mut chunk = vec![0; 256 << 10];
        loop {
            let count = match reader.read(&mut chunk) {
                Ok(0) => break,
                Ok(count) => count,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
                Err(err) => return Err(err.into()),
            };
            let bytes = chunk.get(..count).unwrap_or_default();
            if writer.len().saturating_add(count as u64) > limit {
                return Err(ModelBytesError::TooLarge { limit });
            }
            hasher.update(bytes);
            file_size::check(writer.len().saturating_add(count as u64))?;
            writer.write(bytes)?;
        }
        let digest = Digest::finish(hasher);
        let label = digest.to_string().chars().take(12).collect();
        Ok(ModelBytes { sealed: Arc::new(writer.seal()?), digest, label })
    }

    /// Reads a model of at most `limit` bytes from a regular file.
    ///
    /// # Errors
    /// As [`ModelBytes::read`]; [`ModelBytesError::NotAFile`] for anything else than a regular
    /// file, which is neither read nor waited for.
    pub fn open(path: &Path, limit: u64) -> Result<ModelBytes, ModelBytesError> {
        // Without NONBLOCK, opening a FIFO blocks until another process writes to it.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file =
            File::from(rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from)?);
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(ModelBytesError::NotAFile);
        }
        if metadata.len() > limit {
            return Err(ModelBytesError::TooLarge { limit });
        }
        let bytes = ModelBytes::read(file, limit)?;
        match path.file_name() {
            Some(name) => Ok(bytes.labelled(&name.to_string_lossy())),
            None => Ok(bytes),
        }
    }

    /// Sets the name of the model in error messages. By default it is the file's name, or the start
    /// of the digest.
    pub fn labelled(mut self, label: &str) -> ModelBytes {
        self.label = label.to_owned();
        self
    }

    /// The name of the model in error messages. It is untrusted, as a file's name is.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.sealed.len()
    }

    /// SHA-256 of the bytes.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The message for bytes that were refused as a model for this reason: it names the actual file
    /// type if the first bytes show it.
    pub(crate) fn refusal(&self, why: String) -> String {
        if self.size() == 0 {
            return format!("{why}. The file is empty: download it again.");
        }
        let len = usize::try_from(self.size()).unwrap_or(usize::MAX).min(signature::MAX_INSPECTED);
        let mut start = vec![0; len];
        let found = self.sealed.read_into(&mut start).ok();
        match found.and_then(|()| signature::look(&start, self.size())) {
            Some(found) => signature::not_a_model(found),
            None => why,
        }
    }

    pub(crate) fn sealed(&self) -> &Arc<SealedBytes> {
        &self.sealed
    }
}
