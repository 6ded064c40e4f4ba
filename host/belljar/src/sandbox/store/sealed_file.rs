//! Sealed files: a file is used only if this user's Belljar wrote it, under the same name.
//!
//! A file is a seal, a head and data. The head holds metadata and the hash of each part of the
//! data; the seal is a hash of the file's name and the head. All hashes are BLAKE3 in keyed mode.
//! The content must not be parsed before the seal was verified. Several threads then copy the data
//! part by part into private memory, and hash each part from the copy.
//!
//! ```text
//! seal: 32 bytes | length of the head: u32 | head | data
//! head: format: u32 | about: length u32, bytes | table: length u32, bytes
//!       | length of the data: u64 | hash of each part: 32 bytes each
//! ```

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use blake3::{Hash, OUT_LEN};

use belljar_confine::file_size;

/// Version of the layout: a file of another format is not used.
pub(in crate::sandbox) const FORMAT: u32 = 1;

/// Size of a part of the data, in bytes: small enough to stay in the processor's cache between
/// hashing and writing, and large enough to make the cost of system calls negligible.
const PART: usize = 256 << 10;

/// Maximum length of a file's metadata: twice what a snapshot needs if every second page is empty,
/// which makes its table of runs the longest.
const MAX_HEAD: u64 = 16 << 20;

/// Maximum number of threads that read one file, and the minimum number of parts for each thread.
const MAX_THREADS: usize = 4;
const PARTS_PER_THREAD: usize = 8;

/// The keys for seals of one kind of file, so that valid code is not a valid snapshot.
pub(in crate::sandbox) struct Keys {
    seal: [u8; 32],
    part: [u8; 32],
}

/// The kind of a sealed file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sandbox) enum Kind {
    Code,
    Description,
    Snapshot,
}

impl Keys {
    pub(in crate::sandbox) fn new(secret: &[u8; 32], kind: Kind) -> Keys {
        let (seal, part) = match kind {
            Kind::Code => ("belljar 2026 code seal", "belljar 2026 code part"),
            Kind::Description => ("belljar 2026 description seal", "belljar 2026 description part"),
            Kind::Snapshot => ("belljar 2026 snapshot seal", "belljar 2026 snapshot part"),
        };
        Keys { seal: blake3::derive_key(seal, secret), part: blake3::derive_key(part, secret) }
    }

    /// The seal covers the name too, so valid content under another name is refused.
    fn seal(&self, name: &str, head: &[u8]) -> Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.seal);
        hasher.update(&(name.len() as u64).to_le_bytes());
        hasher.update(name.as_bytes());
        hasher.update(head);
        hasher.finalize()
    }
}

/// The metadata of a file: a description of the data, and a table of where it belongs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::sandbox) struct About {
    pub(in crate::sandbox) about: Vec<u8>,
    pub(in crate::sandbox) table: Vec<u8>,
}

/// Writes a file. `data` fills a buffer from an offset of the data, which is `len` bytes long.
pub(in crate::sandbox) fn write(
    file: &mut File,
    keys: &Keys,
    name: &str,
    about: &About,
    len: u64,
    mut data: impl FnMut(u64, &mut [u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut head = Vec::new();
    head.extend(FORMAT.to_le_bytes());
    for bytes in [&about.about, &about.table] {
        let len = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        head.extend(len.to_le_bytes());
        head.extend_from_slice(bytes);
    }
    head.extend(len.to_le_bytes());
    let hashes = head.len();
    head.resize(hashes + parts(len) * OUT_LEN, 0);
    if head.len() as u64 > MAX_HEAD {
        return Err(io::Error::other(format!(
            "its metadata of {} bytes exceeds {MAX_HEAD} bytes",
            head.len()
        )));
    }
    file_size::check(file_len(about, len))?;
    let start = (OUT_LEN + 4 + head.len()) as u64;
    let mut part = vec![0; PART];
    for (number, to) in head.get_mut(hashes..).unwrap_or_default().chunks_mut(OUT_LEN).enumerate() {
        let at = (number * PART) as u64;
        let part = part.get_mut(..part_len(len, number)).unwrap_or_default();
        data(at, part)?;
        to.copy_from_slice(blake3::keyed_hash(&keys.part, part).as_bytes());
        file.write_all_at(part, start + at)?;
    }
    let len = u32::try_from(head.len()).map_err(io::Error::other)?;
    file.write_all(keys.seal(name, &head).as_bytes())?;
    file.write_all(&len.to_le_bytes())?;
    file.write_all(&head)
}

/// Length of a file with this metadata and `len` bytes of data.
pub(in crate::sandbox) fn file_len(about: &About, len: u64) -> u64 {
    let about = (about.about.len() + about.table.len()) as u64;
    let head = 4 + 2 * 4 + about + 8 + (parts(len) * OUT_LEN) as u64;
    OUT_LEN as u64 + 4 + head + len
}

fn parts(len: u64) -> usize {
    usize::try_from(len.div_ceil(PART as u64)).unwrap_or(usize::MAX)
}

fn part_len(len: u64, number: usize) -> usize {
    let left = len.saturating_sub((number * PART) as u64);
    usize::try_from(left).unwrap_or(usize::MAX).min(PART)
}

/// A file whose seal is valid. Its data is not verified yet.
#[derive(Debug)]
pub(in crate::sandbox) struct SealedFile {
    file: File,
    pub(in crate::sandbox) about: About,
    len: u64,
    data_at: u64,
    hashes: Vec<u8>,
}

impl SealedFile {
    /// Checks the seal. `max` is the maximum length of the data in bytes. `Err` is the reason why
    /// the file must not be used.
    pub(in crate::sandbox) fn open(
        mut file: File,
        keys: &Keys,
        name: &str,
        max: u64,
    ) -> Result<SealedFile, String> {
        let io = |err: io::Error| err.to_string();
        let metadata = file.metadata().map_err(io)?;
        let size = metadata.len();
        let wrong_size = || format!("its size of {size} bytes does not match its content");
        if size < OUT_LEN as u64 + 4 {
            return Err(wrong_size());
        }
        let (mut seal, mut len) = ([0; OUT_LEN], [0; 4]);
        file.read_exact(&mut seal).and_then(|()| file.read_exact(&mut len)).map_err(io)?;
        let head_len = u64::from(u32::from_le_bytes(len));
        let data_at = OUT_LEN as u64 + 4 + head_len;
        if head_len > MAX_HEAD || data_at > size {
            return Err(format!("its metadata has an invalid length of {head_len} bytes"));
        }
        let mut head = Vec::new();
        (&mut file).take(head_len).read_to_end(&mut head).map_err(io)?;
        // Comparing BLAKE3 hashes takes the same time wherever they differ.
        if head.len() as u64 != head_len || keys.seal(name, &head) != Hash::from_bytes(seal) {
            return Err(
                "its seal does not match: it was changed, or sealed with another key. This is \
                        expected once after the state folder (BELLJAR_STATE_DIR), or the seal.key \
                        in it, was removed or replaced; otherwise find out what changed the file"
                    .into(),
            );
        }
        // This user's Belljar wrote the rest, but possibly another version of it.
        let (about, len, hashes) = parse(&head).ok_or("its format is not that of this build")?;
        if size.checked_sub(data_at) != Some(len) || len > max {
            return Err(wrong_size());
        }
        Ok(SealedFile { file, about, len, data_at, hashes })
    }

    /// Length of the data.
    pub(in crate::sandbox) fn len(&self) -> u64 {
        self.len
    }

    /// The file, to update its times.
    pub(in crate::sandbox) fn file(&self) -> &File {
        &self.file
    }

    /// Passes every part of the data with its offset to `take`, from several threads and in any
    /// order. The parts must not be used unless this returns `Ok`.
    pub(in crate::sandbox) fn read(
        &self,
        keys: &Keys,
        take: impl Fn(u64, &[u8]) -> io::Result<()> + Sync,
    ) -> Result<(), String> {
        let hashes: Vec<&[u8]> = self.hashes.chunks(OUT_LEN).collect();
        let (next, wrong) = (AtomicUsize::new(0), Mutex::new(None));
        let work = || {
            let mut buffer = vec![0; PART];
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(expected) = hashes.get(number) else { return };
                if let Err(why) = self.read_part(keys, number, expected, &mut buffer, &take) {
                    next.store(hashes.len(), Ordering::Relaxed);
                    *wrong.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(why);
                }
            }
        };
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = (hashes.len() / PARTS_PER_THREAD).min(processors).min(MAX_THREADS);
        std::thread::scope(|scope| {
            for _ in 1..threads {
                // Fewer threads only take longer.
                let _ = std::thread::Builder::new().spawn_scoped(scope, work);
            }
            work();
        });
        wrong.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).map_or(Ok(()), Err)
    }

    fn read_part(
        &self,
        keys: &Keys,
        number: usize,
        expected: &[u8],
        buffer: &mut [u8],
        take: &impl Fn(u64, &[u8]) -> io::Result<()>,
    ) -> Result<(), String> {
        let at = (number * PART) as u64;
        let part = buffer.get_mut(..part_len(self.len, number)).unwrap_or_default();
        self.file.read_exact_at(part, self.data_at + at).map_err(|err| err.to_string())?;
        let expected = <[u8; OUT_LEN]>::try_from(expected).unwrap_or_default();
        if blake3::keyed_hash(&keys.part, part) != Hash::from_bytes(expected) {
            return Err("its content does not match its seal".into());
        }
        take(at, part).map_err(|err| err.to_string())
    }
}

fn parse(head: &[u8]) -> Option<(About, u64, Vec<u8>)> {
    let number = |bytes: &[u8]| Some(u32::from_le_bytes(bytes.try_into().ok()?));
    let (format, rest) = head.split_at_checked(4)?;
    if number(format)? != FORMAT {
        return None;
    }
    let text = |rest: &'_ [u8]| -> Option<(Vec<u8>, usize)> {
        let len = number(rest.get(..4)?)? as usize;
        Some((rest.get(4..)?.get(..len)?.to_vec(), 4 + len))
    };
    let (about, taken) = text(rest)?;
    let rest = rest.get(taken..)?;
    let (table, taken) = text(rest)?;
    let (len, hashes) = rest.get(taken..)?.split_at_checked(8)?;
    let len = u64::from_le_bytes(len.try_into().ok()?);
    (hashes.len() == parts(len).checked_mul(OUT_LEN)?)
        .then(|| (About { about, table }, len, hashes.to_vec()))
}
