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
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags};
use sha2::{Digest as _, Sha256};
use wasmtime::{Engine, Module};

use super::engine::{Engines, Variant};
use super::guest::{CODE, GuestInfo};
use crate::confine::memory::{SealedBytes, SealedWriter};
use crate::trust::Digest;

/// Largest file of compiled code that is read. The guest's code is a tenth of this.
const MAX_CODE: u64 = 512 << 20;

const SEAL_LEN: usize = blake3::OUT_LEN;

/// Why the guest's native code could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodeCacheError {
    /// The folder or a file in it is open to others.
    #[error(
        "{path} must belong to you and be closed to others, or anybody could put native code \
         into Belljar ({why}); `chmod -R go-rwx` it, or name another folder with {variable}"
    )]
    NotPrivate {
        /// The folder or file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
        /// The environment variable that moves the folder.
        variable: &'static str,
    },
    /// A folder could not be used.
    #[error("{path}: {source}; name a folder you can write to with {variable}")]
    Io {
        /// The folder or file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
        /// The environment variable that moves the folder.
        variable: &'static str,
    },
    /// The code is not there, and compiling it here is not allowed.
    #[error("{path}: {why}, and this host may not compile it; run `belljar warm` first")]
    NotCompiled {
        /// The file.
        path: PathBuf,
        /// Why it is not used.
        why: String,
    },
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
    secret: PathBuf,
    may_compile: bool,
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
        may_compile: bool,
        listener: Listener,
    ) -> CodeCache {
        let (code, secret) = (cache.join("code"), state.join("seal.key"));
        CodeCache { code, secret, may_compile, listener }
    }

    /// Where the code is.
    pub(crate) fn folder(&self) -> &Path {
        &self.code
    }

    /// The compiled guest, from the cache if it is there.
    pub(crate) fn get(&self, variant: Variant) -> Result<VerifiedCode, CodeCacheError> {
        let secret = self.secret()?;
        // The stack size is no part of the compiled code.
        let engine = Engines::new_engine(variant, 1 << 20).map_err(CodeCacheError::compiler)?;
        let name = format!("{}.code", cache_key(&engine, variant));
        let folder = private_folder(&self.code, "BELLJAR_CACHE_DIR")?;
        let path = self.code.join(&name);
        let why = match read_sealed(&folder, &path, &name, &secret) {
            Ok(code) => return Ok(code),
            Err(Unusable::Failed(err)) => return Err(err),
            Err(Unusable::Missing) => "there is no compiled code".to_owned(),
            Err(Unusable::Refused(why)) => {
                (self.listener)(CodeNotice::Refused { path: path.clone(), why: why.clone() });
                why
            }
        };
        if !self.may_compile {
            return Err(CodeCacheError::NotCompiled { path, why });
        }
        (self.listener)(CodeNotice::Compiling { variant: variant.name() });
        let compiled = engine.precompile_module(CODE).map_err(CodeCacheError::compiler);
        (self.listener)(CodeNotice::Compiled);
        let compiled = compiled?;
        self.store(&folder, &name, &secret, &compiled)?;
        let in_memory = |source| self.io(source);
        let mut writer = SealedWriter::new("belljar-code").map_err(in_memory)?;
        writer.write(&compiled).map_err(in_memory)?;
        Ok(VerifiedCode { sealed: writer.seal().map_err(in_memory)? })
    }

    fn io(&self, source: io::Error) -> CodeCacheError {
        CodeCacheError::Io { path: self.code.clone(), source, variable: "BELLJAR_CACHE_DIR" }
    }

    /// Writes a file whole or not at all.
    fn store(
        &self,
        folder: &File,
        name: &str,
        secret: &[u8; 32],
        code: &[u8],
    ) -> Result<(), CodeCacheError> {
        let failed = |source| self.io(source);
        let temporary = format!(".{}-{}", std::process::id(), random_name().map_err(failed)?);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let written = (|| {
            let mut file = File::from(rustix::fs::openat(folder, &*temporary, flags, mode)?);
            file.write_all(seal(secret, name, code).as_bytes())?;
            file.write_all(code)?;
            file.sync_all()?;
            rustix::fs::renameat(folder, &*temporary, folder, name)?;
            Ok(())
        })();
        if written.is_err() {
            // Best effort: what is left over has a name that is never read.
            let _ = rustix::fs::unlinkat(folder, &*temporary, AtFlags::empty());
        }
        written.map_err(failed)
    }

    /// The secret that seals are made with, made at first use.
    fn secret(&self) -> Result<[u8; 32], CodeCacheError> {
        let variable = "BELLJAR_STATE_DIR";
        let failed = |source| CodeCacheError::Io { path: self.secret.clone(), source, variable };
        let parent = self.secret.parent().unwrap_or(Path::new("/"));
        let folder = private_folder(parent, variable)?;
        let name = "seal.key";
        for _ in 0..2 {
            if let Some(file) = open_private(&folder, &self.secret, name, variable)? {
                let mut secret = [0; 32];
                (&file).read_exact(&mut secret).map_err(failed)?;
                return Ok(secret);
            }
            // Written aside and linked into place, so that two processes agree on one secret and
            // nobody reads half of it.
            let mut secret = [0; 32];
            rustix::rand::getrandom(&mut secret, rustix::rand::GetRandomFlags::empty())
                .map_err(|err| failed(err.into()))?;
            let temporary = format!(".{}-{}", std::process::id(), random_name().map_err(failed)?);
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let made = (|| {
                let fd = rustix::fs::openat(&folder, &*temporary, flags, Mode::RUSR | Mode::WUSR)?;
                File::from(fd).write_all(&secret)?;
                match rustix::fs::linkat(&folder, &*temporary, &folder, name, AtFlags::empty()) {
                    Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
                    Err(err) => Err(io::Error::from(err)),
                }
            })();
            let _ = rustix::fs::unlinkat(&folder, &*temporary, AtFlags::empty());
            made.map_err(failed)?;
        }
        Err(failed(io::ErrorKind::NotFound.into()))
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
    hasher.write(GuestInfo::embedded().sha256.as_bytes());
    variant.hash(&mut hasher);
    engine.precompile_compatibility_hash().hash(&mut hasher);
    Digest::finish(hasher.0)
}

/// The seal covers the name too: good code under the name of other code is refused.
fn seal(secret: &[u8; 32], name: &str, code: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_keyed(secret);
    hasher.update(&(name.len() as u64).to_le_bytes());
    hasher.update(name.as_bytes());
    hasher.update(code);
    hasher.finalize()
}

enum Unusable {
    Missing,
    Refused(String),
    Failed(CodeCacheError),
}

fn read_sealed(
    folder: &File,
    path: &Path,
    name: &str,
    secret: &[u8; 32],
) -> Result<VerifiedCode, Unusable> {
    let refused = |err: io::Error| Unusable::Refused(err.to_string());
    let variable = "BELLJAR_CACHE_DIR";
    let mut file = match open_private(folder, path, name, variable) {
        Ok(Some(file)) => file,
        Ok(None) => return Err(Unusable::Missing),
        Err(err) => return Err(Unusable::Failed(err)),
    };
    let size = file.metadata().map_err(refused)?.len();
    if size > MAX_CODE || size < SEAL_LEN as u64 {
        return Err(Unusable::Refused(format!("its size is {size} bytes")));
    }
    let mut found = [0; SEAL_LEN];
    file.read_exact(&mut found).map_err(refused)?;
    // Copied and hashed chunk by chunk: what is checked is what is used, whatever happens to the
    // file meanwhile.
    let mut writer = SealedWriter::new("belljar-code").map_err(refused)?;
    let mut hasher = blake3::Hasher::new_keyed(secret);
    hasher.update(&(name.len() as u64).to_le_bytes());
    hasher.update(name.as_bytes());
    let mut chunk = vec![0; 1 << 20];
    while writer.len() <= MAX_CODE {
        let count = file.read(&mut chunk).map_err(refused)?;
        let bytes = chunk.get(..count).unwrap_or_default();
        if bytes.is_empty() {
            break;
        }
        hasher.update(bytes);
        writer.write(bytes).map_err(refused)?;
    }
    // Comparing BLAKE3 hashes takes the same time wherever they differ.
    if hasher.finalize() != blake3::Hash::from_bytes(found) {
        return Err(Unusable::Refused("its seal does not match its content".into()));
    }
    Ok(VerifiedCode { sealed: writer.seal().map_err(refused)? })
}

/// Opens a folder of the caller's own, making it when it is missing.
fn private_folder(path: &Path, variable: &'static str) -> Result<File, CodeCacheError> {
    use std::os::unix::fs::DirBuilderExt;
    let failed = |source| CodeCacheError::Io { path: path.to_owned(), source, variable };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|err| failed(err.into()))?;
    let folder = File::from(fd);
    check_private(&folder, path, variable)?;
    Ok(folder)
}

/// Opens a regular file of the caller's own; `None` if there is none.
fn open_private(
    folder: &File,
    path: &Path,
    name: &str,
    variable: &'static str,
) -> Result<Option<File>, CodeCacheError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(folder, name, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(rustix::io::Errno::LOOP) => {
            let path = path.to_owned();
            return Err(CodeCacheError::NotPrivate { path, why: "it is a symlink", variable });
        }
        Err(err) => {
            return Err(CodeCacheError::Io { path: path.to_owned(), source: err.into(), variable });
        }
    };
    check_private(&file, path, variable)?;
    Ok(Some(file))
}

fn check_private(file: &File, path: &Path, variable: &'static str) -> Result<(), CodeCacheError> {
    use std::os::unix::fs::MetadataExt;
    let metadata = file.metadata().map_err(|source| CodeCacheError::Io {
        path: path.to_owned(),
        source,
        variable,
    })?;
    let why = if metadata.uid() != rustix::process::geteuid().as_raw() {
        "it belongs to somebody else"
    } else if metadata.mode() & 0o077 != 0 {
        "its mode lets others in"
    } else if !metadata.is_dir() && !metadata.is_file() {
        "it is not a regular file"
    } else {
        return Ok(());
    };
    Err(CodeCacheError::NotPrivate { path: path.to_owned(), why, variable })
}

fn random_name() -> io::Result<String> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(format!("{:016x}", u64::from_le_bytes(bytes)))
}
