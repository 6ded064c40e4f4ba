//! Native code of the guest, compiled once and kept on disk.
//!
//! A user who can write a valid file here can run native code in the host. So the folder and the
//! file must be private to the caller, the bytes are copied into sealed memory before they are
//! checked, and they must have a seal (keyed BLAKE3) made with a secret in another folder. An
//! invalid file is never used.
//!
//! If there is no code, only one process compiles it: it holds a lock on the folder, and the others
//! wait for the lock and then use the result. The kernel releases the lock of a process that dies.
//! If no folder can be used, because none is named or it is not writable, the code is compiled for
//! this process and not kept. A folder that is open to others is an error instead.
//!
//! `unsafe` is needed because wasmtime cannot validate native code.

use std::fs::File;
use std::hash::{Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use wasmtime::{Engine, Module};

use super::compile::{Compiler, MAX_CODE, MAX_TIME};
use super::engine::{Engines, Variant};
use super::guest::{GuestInfo, GuestKind};
use super::store::private::{PrivateError, PrivateFolder};
use super::store::sealed_file::{self, About, Keys, Kind, SealedFile};
use super::store::secret::secret;
use crate::trust::Digest;
use belljar_confine::file_size;
use belljar_confine::layers::{Confinement, MissingLayer};
use belljar_confine::memory::{SealedBytes, SealedWriter};

/// Why the guest's native code is not available.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodeCacheError {
    /// A folder or a file in it could not be used. Users who can write there could run native code
    /// in Belljar.
    #[error(transparent)]
    Private(#[from] PrivateError),
    /// Memory for the code could not be allocated.
    #[error("cannot hold the compiled code in memory: {0}")]
    Memory(#[from] io::Error),
    /// The code does not exist, and this host may not compile it.
    #[error("{path}: {why}, and this host may not compile it; run `belljar warm` first")]
    NotCompiled {
        /// The file.
        path: PathBuf,
        /// Why it is not used.
        why: String,
    },
    /// A layer of the compile worker's confinement could not be applied.
    #[error("a layer of confinement is missing where the guest is compiled: {0}")]
    Unprotected(MissingLayer),
    /// Compiling, or loading the compiled code, failed.
    #[error("cannot compile the guest: {0}")]
    Compiler(String),
}

impl CodeCacheError {
    pub(super) fn compiler(err: wasmtime::Error) -> CodeCacheError {
        CodeCacheError::Compiler(format!("{err:#}"))
    }
}

/// Events of the cache.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub(crate) enum CodeNotice {
    /// The guest is being compiled, which takes seconds.
    Compiling {
        /// The name of the variant.
        variant: &'static str,
    },
    /// Compiling has ended.
    Compiled,
    /// Another process is compiling the guest, and this one waits for it.
    Waiting,
    /// The compiled code is not kept, so the next process compiles it again.
    NotKept {
        /// Why.
        why: String,
    },
    /// The compile worker lacks layers of its confinement.
    Missing(Vec<MissingLayer>),
    /// A file in the cache is invalid; it is not used and will be replaced.
    Refused {
        /// The file.
        path: PathBuf,
        /// The reason.
        why: String,
    },
}

type Listener = Arc<dyn Fn(CodeNotice) + Send + Sync>;

/// The cache of compiled code.
pub(crate) struct CodeCache {
    /// The folders, if the environment or the caller names them.
    code: Option<PathBuf>,
    state: Option<PathBuf>,
    /// How the guest is compiled, if that is allowed.
    compiler: Option<Compiler>,
    listener: Listener,
}

/// Compiled code with a valid seal, in memory that can no longer change.
pub(crate) struct VerifiedCode {
    sealed: SealedBytes,
}

/// Code of the profiling variant. The separate type keeps it out of sandboxes that serve requests.
pub(crate) struct ProfilingCode(pub(super) VerifiedCode);

impl CodeCache {
    /// `cache` holds the code, `state` the secret. They need not exist yet.
    pub(crate) fn new(
        cache: Option<&Path>,
        state: Option<&Path>,
        compiler: Option<Compiler>,
        listener: Listener,
    ) -> CodeCache {
        let (code, state) = (cache.map(|cache| cache.join("code")), state.map(Path::to_owned));
        CodeCache { code, state, compiler, listener }
    }

    /// The folder of the code, if there is one.
    pub(crate) fn folder(&self) -> Option<&Path> {
        self.code.as_deref()
    }

    /// Checks whether compiled code can be kept.
    pub(crate) fn check(&self) -> Result<(), CodeCacheError> {
        self.entry(GuestKind::Serving, Variant::ALL[0]).map(drop)
    }

    /// The compiled guest, from the cache if possible. `confinement` is what is required of a
    /// worker that compiles it.
    pub(crate) fn get(
        &self,
        variant: Variant,
        confinement: Confinement,
    ) -> Result<VerifiedCode, CodeCacheError> {
        self.get_kind(GuestKind::Serving, variant, confinement)
    }

    /// Like [`CodeCache::get`], for the profiling variant.
    pub(crate) fn get_profiling(
        &self,
        variant: Variant,
        confinement: Confinement,
    ) -> Result<ProfilingCode, CodeCacheError> {
        self.get_kind(GuestKind::Profiling, variant, confinement).map(ProfilingCode)
    }

    fn get_kind(
        &self,
        guest: GuestKind,
        variant: Variant,
        confinement: Confinement,
    ) -> Result<VerifiedCode, CodeCacheError> {
        let entry = match self.entry(guest, variant) {
            Ok(entry) => entry,
            // Without a usable folder, the code is compiled and not kept.
            Err(CodeCacheError::Private(err))
                if !err.is_open_to_others() && err.is_lasting() && self.compiler.is_some() =>
            {
                return self.compiled_and_not_kept(guest, variant, confinement, &err.to_string());
            }
            Err(err) => return Err(err),
        };
        let why = match entry.find()? {
            Found::Code(code) => return Ok(code),
            Found::Nothing => "there is no compiled code".to_owned(),
            Found::Damaged(why) => {
                (self.listener)(CodeNotice::Refused { path: entry.path(), why: why.clone() });
                why
            }
        };
        let Some(compiler) = &self.compiler else {
            return Err(CodeCacheError::NotCompiled { path: entry.path(), why });
        };
        entry.folder.lock(MAX_TIME, || (self.listener)(CodeNotice::Waiting));
        // The process that held the lock has written it, unless it failed.
        if let Found::Code(code) = entry.find()? {
            return Ok(code);
        }
        let sealed = self.compile(compiler, guest, variant, confinement)?;
        let written = entry.folder.write_file(&entry.name, |file| {
            let about = About::default();
            let read = |at, part: &mut [u8]| sealed.read_at(part, at);
            sealed_file::write(file, &entry.keys, &entry.name, &about, sealed.len(), read)
        });
        // The code is usable even if the disk is full.
        if let Err(err) = written {
            (self.listener)(CodeNotice::NotKept { why: err.to_string() });
        }
        Ok(VerifiedCode { sealed })
    }

    /// The cache entry of a variant.
    fn entry(&self, guest: GuestKind, variant: Variant) -> Result<CacheEntry, CodeCacheError> {
        const VARIABLE: &str = "BELLJAR_CACHE_DIR";
        let code = self.code.as_ref().ok_or(PrivateError::Nowhere { variable: VARIABLE })?;
        let keys = Keys::new(&secret(self.state.as_deref())?, Kind::Code);
        // The compiled code does not depend on the stack size.
        let engine = Engines::new_engine(variant, 1 << 20).map_err(CodeCacheError::compiler)?;
        let name = format!("{}.code", cache_key(&engine, guest, variant));
        Ok(CacheEntry { folder: PrivateFolder::open(code, VARIABLE)?, keys, name })
    }

    fn compile(
        &self,
        compiler: &Compiler,
        guest: GuestKind,
        variant: Variant,
        confinement: Confinement,
    ) -> Result<SealedBytes, CodeCacheError> {
        let name = match guest {
            GuestKind::Serving => variant.name(),
            GuestKind::Profiling => "profiling",
        };
        (self.listener)(CodeNotice::Compiling { variant: name });
        let report = |missing| (self.listener)(CodeNotice::Missing(missing));
        let compiled = compiler.compile(guest, variant, confinement, report);
        (self.listener)(CodeNotice::Compiled);
        compiled
    }

    fn compiled_and_not_kept(
        &self,
        guest: GuestKind,
        variant: Variant,
        confinement: Confinement,
        why: &str,
    ) -> Result<VerifiedCode, CodeCacheError> {
        let Some(compiler) = &self.compiler else {
            return Err(CodeCacheError::Compiler(why.to_owned()));
        };
        (self.listener)(CodeNotice::NotKept { why: why.to_owned() });
        Ok(VerifiedCode { sealed: self.compile(compiler, guest, variant, confinement)? })
    }
}

/// The file of one variant's code, and the keys of its seal.
struct CacheEntry {
    folder: PrivateFolder,
    keys: Keys,
    name: String,
}

enum Found {
    Code(VerifiedCode),
    Nothing,
    /// A file that must not be used, for this reason.
    Damaged(String),
}

impl CacheEntry {
    fn find(&self) -> Result<Found, CodeCacheError> {
        let Some(file) = self.folder.open_file(&self.name)? else { return Ok(Found::Nothing) };
        // A file that exceeds this process's file size limit is not damaged.
        file_size::check(file.metadata()?.len())?;
        Ok(match read_sealed(file, &self.keys, &self.name) {
            Ok(code) => Found::Code(code),
            Err(why) => Found::Damaged(why),
        })
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join(&self.name)
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

    /// Loads the code as a module.
    pub(crate) fn load(&self, engine: &Engine) -> Result<Module, CodeCacheError> {
        let failed = |err: io::Error| CodeCacheError::Compiler(err.to_string());
        let file = File::from(self.sealed.try_clone().map_err(failed)?);
        // SAFETY: the bytes were produced by `Engine::precompile_module`: either in this process
        // just now, or they have a seal that only this user's Belljar can make, or they come from
        // the supervisor, which checked that. They are in memory that is sealed against writing and
        // resizing, so they cannot change while they are mapped.
        unsafe { Module::deserialize_open_file(engine, file) }.map_err(CodeCacheError::compiler)
    }
}

/// A digest of everything that compiled code depends on: the guest, wasmtime, its settings and the
/// CPU.
fn cache_key(engine: &Engine, guest: GuestKind, variant: Variant) -> Digest {
    struct Sha(Sha256);
    impl Hasher for Sha {
        fn finish(&self) -> u64 {
            0 // Never called: the whole digest is taken below.
        }

        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
    }
    let mut hasher = Sha(Sha256::new());
    hasher.write(&sealed_file::FORMAT.to_le_bytes());
    hasher.write(GuestInfo::embedded().sha256.as_bytes());
    if guest == GuestKind::Profiling {
        hasher.write(b"profiling");
    }
    variant.hash(&mut hasher);
    engine.precompile_compatibility_hash().hash(&mut hasher);
    Digest::finish(hasher.0)
}

fn read_sealed(file: File, keys: &Keys, name: &str) -> Result<VerifiedCode, String> {
    let sealed = SealedFile::open(file, keys, name, MAX_CODE)?;
    // Each part is hashed and written from one copy, so a concurrent change of the file cannot
    // replace verified data.
    let failed = |err: io::Error| err.to_string();
    let writer = SealedWriter::with_len("belljar-code", sealed.len()).map_err(failed)?;
    sealed.read(keys, |at, part| writer.write_at(part, at))?;
    Ok(VerifiedCode { sealed: writer.seal().map_err(failed)? })
}
