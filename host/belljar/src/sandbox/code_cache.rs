//! Native code of the guest, compiled once and kept on disk.
//!
//! Whoever can put a file here runs native code in the host, so nothing is believed about a file
//! because of where it lies: the folder and the file must be the caller's alone, the bytes are
//! copied into sealed memory before they are looked at, and they must carry a seal (keyed BLAKE3)
//! made with a secret that lies in another folder. A file that fails is never used.
//!
//! Processes that find no code compile it once: the first holds a lock on the folder, the others wait
//! for it and then use what it has made. The kernel gives the lock up for a process that dies. Where
//! no folder can be used at all, because there is none or nothing can be written, the code is
//! compiled for this process and not kept. A folder that is open to others is not such a case: it
//! stops the start.
//!
//! `unsafe` is here because wasmtime cannot check code that is handed to it.

use std::fs::File;
use std::hash::{Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use wasmtime::{Engine, Module};

use super::compile::{Compiler, LONGEST, MAX_CODE};
use super::engine::{Engines, Variant};
use super::guest::{GuestInfo, GuestKind};
use super::store::private::{PrivateError, PrivateFolder, secret};
use super::store::sealed_file::{self, About, Keys, Kind, SealedFile};
use crate::trust::Digest;
use belljar_confine::file_size;
use belljar_confine::layers::{Confinement, MissingLayer};
use belljar_confine::memory::{SealedBytes, SealedWriter};

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
    /// Another process compiles the guest, and this one waits for it.
    Waiting,
    /// What was compiled is not kept, for this reason: the next process compiles it again.
    NotKept {
        /// Why.
        why: String,
    },
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
    /// The folders, as far as any can be told.
    code: Option<PathBuf>,
    state: Option<PathBuf>,
    /// What compiles the guest, if that is allowed.
    compiler: Option<Compiler>,
    listener: Listener,
}

/// Compiled code whose seal was good, in memory that can no longer change.
pub(crate) struct VerifiedCode {
    sealed: SealedBytes,
}

/// Code of the profiling variant. It is a type of its own so that nothing that answers requests can be
/// given it.
pub(crate) struct ProfilingCode(pub(super) VerifiedCode);

impl CodeCache {
    /// `cache` holds the code, `state` the secret. Neither need exist yet.
    pub(crate) fn new(
        cache: Option<&Path>,
        state: Option<&Path>,
        compiler: Option<Compiler>,
        listener: Listener,
    ) -> CodeCache {
        let (code, state) = (cache.map(|cache| cache.join("code")), state.map(Path::to_owned));
        CodeCache { code, state, compiler, listener }
    }

    /// Where the code is, if anywhere.
    pub(crate) fn folder(&self) -> Option<&Path> {
        self.code.as_deref()
    }

    /// Whether what is compiled can be kept.
    pub(crate) fn check(&self) -> Result<(), CodeCacheError> {
        self.shelf(GuestKind::Serving, Variant::ALL[0]).map(drop)
    }

    /// The compiled guest, from the cache if it is there. If a worker must compile it, this much of
    /// its confinement must be there.
    pub(crate) fn get(
        &self,
        variant: Variant,
        confinement: Confinement,
    ) -> Result<VerifiedCode, CodeCacheError> {
        self.get_kind(GuestKind::Serving, variant, confinement)
    }

    /// The compiled profiling variant, as [`CodeCache::get`].
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
        let shelf = match self.shelf(guest, variant) {
            Ok(shelf) => shelf,
            // What has no place is compiled and not kept.
            Err(CodeCacheError::Private(err))
                if !err.is_open_to_others() && err.is_lasting() && self.compiler.is_some() =>
            {
                return self.compiled_and_not_kept(guest, variant, confinement, &err.to_string());
            }
            Err(err) => return Err(err),
        };
        let why = match shelf.find()? {
            Found::Code(code) => return Ok(code),
            Found::Nothing => "there is no compiled code".to_owned(),
            Found::Damaged(why) => {
                (self.listener)(CodeNotice::Refused { path: shelf.path(), why: why.clone() });
                why
            }
        };
        let Some(compiler) = &self.compiler else {
            return Err(CodeCacheError::NotCompiled { path: shelf.path(), why });
        };
        shelf.folder.lock(LONGEST, || (self.listener)(CodeNotice::Waiting));
        // The one that had the lock has made it, unless it has failed.
        if let Found::Code(code) = shelf.find()? {
            return Ok(code);
        }
        let sealed = self.compile(compiler, guest, variant, confinement)?;
        let written = shelf.folder.write_file(&shelf.name, |file| {
            let about = About::default();
            let read = |at, part: &mut [u8]| sealed.read_at(part, at);
            sealed_file::write(file, &shelf.keys, &shelf.name, &about, sealed.len(), read)
        });
        // A full disk is no reason to do without what is here.
        if let Err(err) = written {
            (self.listener)(CodeNotice::NotKept { why: err.to_string() });
        }
        Ok(VerifiedCode { sealed })
    }

    /// The place of a variant's code.
    fn shelf(&self, guest: GuestKind, variant: Variant) -> Result<Shelf, CodeCacheError> {
        const VARIABLE: &str = "BELLJAR_CACHE_DIR";
        let code = self.code.as_ref().ok_or(PrivateError::Nowhere { variable: VARIABLE })?;
        let keys = Keys::new(&secret(self.state.as_deref())?, Kind::Code);
        // The stack size is no part of the compiled code.
        let engine = Engines::new_engine(variant, 1 << 20).map_err(CodeCacheError::compiler)?;
        let name = format!("{}.code", cache_key(&engine, guest, variant));
        Ok(Shelf { folder: PrivateFolder::open(code, VARIABLE)?, keys, name })
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
            GuestKind::Profiling => "for profiles",
        };
        (self.listener)(CodeNotice::Compiling { variant: name });
        let told = |missing| (self.listener)(CodeNotice::Missing(missing));
        let compiled = compiler.compile(guest, variant, confinement, told);
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

/// Where the code of one variant is, and what it is sealed with.
struct Shelf {
    folder: PrivateFolder,
    keys: Keys,
    name: String,
}

enum Found {
    Code(VerifiedCode),
    Nothing,
    /// A file that is not to be used, for this reason.
    Damaged(String),
}

impl Shelf {
    fn find(&self) -> Result<Found, CodeCacheError> {
        let Some(file) = self.folder.open_file(&self.name)? else { return Ok(Found::Nothing) };
        // Code that this process may not copy is not spoilt by that.
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
fn cache_key(engine: &Engine, guest: GuestKind, variant: Variant) -> Digest {
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
    if guest == GuestKind::Profiling {
        hasher.write(b"profiling");
    }
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
