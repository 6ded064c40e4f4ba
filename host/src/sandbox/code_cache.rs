//! Native code of the guest, compiled once and kept on disk.
//!
//! Whoever can put a file here runs native code in the host, so nothing is believed about a file
//! because of where it lies: the folder and the file must be the caller's alone, the bytes are
//! copied into sealed memory before they are looked at, and they must carry a seal (keyed BLAKE3)
//! made with a secret that lies in another folder. A file that fails is never used.
//!
//! `unsafe` is here because wasmtime cannot check code that is handed to it.

use std::fs::File;
use std::hash::{Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use wasmtime::{Engine, Module};

use super::compile::{Compiler, MAX_CODE};
use super::engine::{Engines, Variant};
use super::guest::GuestInfo;
use super::store::private::{PrivateError, PrivateFolder, secret};
use super::store::sealed_file::{self, About, Keys, Kind, SealedFile};
use crate::confine::layers::{Confinement, MissingLayer};
use crate::confine::memory::{SealedBytes, SealedWriter};
use crate::trust::Digest;

/// Why the guest's native code could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodeCacheError {
    /// A folder or a file in it could not be used. Whoever can write there could put native code
    /// into Belljar.
    #[error(transparent)]
    Private(#[from] PrivateError),
    /// Memory for the code could not be had.
    #[error("the compiled code cannot be held in memory: {0}")]
    Memory(#[from] io::Error),
    /// The code is not there, and compiling it here is not allowed.
    #[error("{path}: {why}, and this host may not compile it; run `belljar warm` first")]
    NotCompiled {
        /// The file.
        path: PathBuf,
        /// Why it is not used.
        why: String,
    },
    /// A layer of the confinement of the worker that compiles it could not be put on.
    #[error("a protection is missing where the guest is compiled: {0}")]
    Unprotected(MissingLayer),
    /// Compiling, or loading what was compiled, failed.
    #[error("the guest could not be compiled: {0}")]
    Compiler(String),
}

impl CodeCacheError {
    pub(super) fn compiler(err: wasmtime::Error) -> CodeCacheError {
        CodeCacheError::Compiler(format!("{err:#}"))
    }
}

/// What the cache has to say while it works.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub(crate) enum CodeNotice {
    /// The guest is being compiled, which takes seconds.
    Compiling {
        /// The variant, in words.
        variant: &'static str,
    },
    /// Compiling is over.
    Compiled,
    /// The worker that compiles lacks layers of its confinement.
    Missing(Vec<MissingLayer>),
    /// A file in the cache is not what was put there; it is not used and will be replaced.
    Refused {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

type Listener = Arc<dyn Fn(CodeNotice) + Send + Sync>;

/// The cache of compiled code.
pub(crate) struct CodeCache {
    code: PathBuf,
    state: PathBuf,
    /// What compiles the guest, if that is allowed.
    compiler: Option<Compiler>,
    listener: Listener,
}

/// Compiled code whose seal was good, in memory that can no longer change.
pub(crate) struct VerifiedCode {
    sealed: SealedBytes,
}

impl CodeCache {
    /// `cache` holds the code, `state` the secret. Neither need exist yet.
    pub(crate) fn new(
        cache: &Path,
        state: &Path,
        compiler: Option<Compiler>,
        listener: Listener,
    ) -> CodeCache {
        CodeCache { code: cache.join("code"), state: state.to_owned(), compiler, listener }
    }

    /// Where the code is.
    pub(crate) fn folder(&self) -> &Path {
        &self.code
    }

    /// The compiled guest, from the cache if it is there. If a worker must compile it, this much of
    /// its confinement must be there.
    pub(crate) fn get(
        &self,
        variant: Variant,
        confinement: Confinement,
    ) -> Result<VerifiedCode, CodeCacheError> {
        let keys = Keys::new(&secret(&self.state)?, Kind::Code);
        // The stack size is no part of the compiled code.
        let engine = Engines::new_engine(variant, 1 << 20).map_err(CodeCacheError::compiler)?;
        let name = format!("{}.code", cache_key(&engine, variant));
        let folder = PrivateFolder::open(&self.code, "BELLJAR_CACHE_DIR")?;
        let path = self.code.join(&name);
        let why = match folder.open_file(&name)? {
            None => "there is no compiled code".to_owned(),
            Some(file) => match read_sealed(file, &keys, &name) {
                Ok(code) => return Ok(code),
                Err(why) => {
                    (self.listener)(CodeNotice::Refused { path: path.clone(), why: why.clone() });
                    why
                }
            },
        };
        let Some(compiler) = &self.compiler else {
            return Err(CodeCacheError::NotCompiled { path, why });
        };
        (self.listener)(CodeNotice::Compiling { variant: variant.name() });
        let told = |missing| (self.listener)(CodeNotice::Missing(missing));
        let compiled = compiler.compile(variant, confinement, told);
        (self.listener)(CodeNotice::Compiled);
        let sealed = compiled?;
        folder.write_file(&name, |file| {
            let about = About::default();
            let read = |at, part: &mut [u8]| sealed.read_at(part, at);
            sealed_file::write(file, &keys, &name, &about, sealed.len(), read)
        })?;
        Ok(VerifiedCode { sealed })
    }
}

impl VerifiedCode {
    /// Takes over code that a trusted supervisor has verified.
    pub(super) fn adopt(sealed: SealedBytes) -> VerifiedCode {
        VerifiedCode { sealed }
    }

    pub(super) fn sealed(&self) -> &SealedBytes {
        &self.sealed
    }

    /// Makes a module of the code.
    pub(crate) fn load(&self, engine: &Engine) -> Result<Module, CodeCacheError> {
        let failed = |err: io::Error| CodeCacheError::Compiler(err.to_string());
        let file = File::from(self.sealed.try_clone().map_err(failed)?);
        // SAFETY: the bytes are what `Engine::precompile_module` made: either it made them in this
        // process just now, or they carry a seal that only this user's Belljar can make, or they
        // come from the supervisor that checked so. They lie in memory sealed against writing and
        // resizing, so they cannot change while they are mapped.
        unsafe { Module::deserialize_open_file(engine, file) }.map_err(CodeCacheError::compiler)
    }
}

/// Everything that makes compiled code what it is: the guest, wasmtime, its settings and the CPU.
fn cache_key(engine: &Engine, variant: Variant) -> Digest {
    struct Sha(Sha256);
    impl Hasher for Sha {
        fn finish(&self) -> u64 {
            0 // Never asked for: the whole digest is taken below.
        }

        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
    }
    let mut hasher = Sha(Sha256::new());
    hasher.write(&sealed_file::FORMAT.to_le_bytes());
    hasher.write(GuestInfo::embedded().sha256.as_bytes());
    variant.hash(&mut hasher);
    engine.precompile_compatibility_hash().hash(&mut hasher);
    Digest::finish(hasher.0)
}

fn read_sealed(file: File, keys: &Keys, name: &str) -> Result<VerifiedCode, String> {
    let sealed = SealedFile::open(file, keys, name, MAX_CODE)?;
    // What is checked is what is used, whatever happens to the file meanwhile: each part is hashed
    // and written from one copy.
    let failed = |err: io::Error| err.to_string();
    let writer = SealedWriter::with_len("belljar-code", sealed.len()).map_err(failed)?;
    sealed.read(keys, |at, part| writer.write_at(part, at))?;
    Ok(VerifiedCode { sealed: writer.seal().map_err(failed)? })
}
