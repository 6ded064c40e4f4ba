//! Snapshots: the linear memory of a sandbox that has prepared its model, from which other
//! sandboxes start.
//!
//! `unsafe` is needed to map a snapshot for reading. That is sound because it is sealed: see
//! `confine::memory`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::mm::{MapFlags, ProtFlags};

use belljar_confine::memory::{SealedBytes, SealedWriter};

/// The address space of 32-bit code.
const MAX_LEN: usize = 4 << 30;

const WASM_PAGE: usize = 64 << 10;

/// The memory of a prepared sandbox, sealed.
#[derive(Debug)]
pub(crate) struct Snapshot {
    bytes: SealedBytes,
    len: usize,
    /// Created on the first read.
    mapping: OnceLock<Option<Mapping>>,
    /// The state of each page.
    pages: Box<[AtomicU8]>,
}

/// A page that has not been read yet.
const UNKNOWN: u8 = 0;
/// A page of zeros.
const ZEROS: u8 = 1;
/// Any other page.
const CONTENT: u8 = 2;

const PAGE: usize = 4 << 10;

impl Snapshot {
    /// Copies a linear memory. Pages of zeros use no memory.
    pub(super) fn capture(memory: &[u8]) -> io::Result<Snapshot> {
        let mut writer = SealedWriter::new("belljar-snapshot")?;
        Snapshot::copy(memory, &mut writer)?;
        Snapshot::checked(writer.seal()?)
    }

    /// Like [`Snapshot::capture`], into a file that the supervisor created and takes over. No run
    /// in this process starts from it.
    pub(super) fn capture_in(room: OwnedFd, memory: &[u8]) -> io::Result<Snapshot> {
        let mut writer = SealedWriter::into_room(room);
        Snapshot::copy(memory, &mut writer)?;
        Snapshot::checked(writer.hand_over()?)
    }

    fn copy(memory: &[u8], writer: &mut SealedWriter) -> io::Result<()> {
        // Writes adjacent pages in one system call, up to this many bytes.
        const MAX_WRITE: usize = 256 * PAGE;
        let mut pages = memory.chunks(PAGE).peekable();
        let mut at = 0;
        while let Some(page) = pages.next() {
            let (start, mut end) = (at, at + page.len());
            if page.iter().all(|byte| *byte == 0) {
                writer.skip(page.len() as u64);
            } else {
                let more = |next: &&[u8]| next.iter().any(|byte| *byte != 0);
                while end - start < MAX_WRITE
                    && let Some(next) = pages.next_if(more)
                {
                    end += next.len();
                }
                writer.write(memory.get(start..end).unwrap_or_default())?;
            }
            at = end;
        }
        Ok(())
    }

    /// Takes over a snapshot from the supervisor.
    pub(super) fn adopt(fd: OwnedFd) -> io::Result<Snapshot> {
        Snapshot::checked(SealedBytes::adopt(fd)?)
    }

    /// Takes over a snapshot from a worker. A hostile worker can put anything into it, so it must
    /// only be used for the model that this worker received. `max` is the memory limit of a sandbox
    /// of this model, in bytes.
    pub(super) fn take_over(fd: OwnedFd, max: u64) -> io::Result<Snapshot> {
        let size = u64::try_from(rustix::fs::fstat(&fd)?.st_size).unwrap_or(u64::MAX);
        if size > max {
            let text = format!("its {size} bytes exceed the sandbox's memory of {max} bytes");
            return Err(io::Error::other(text));
        }
        // If the worker extends it after this check, `checked` still bounds it.
        Snapshot::checked(SealedBytes::take_over(fd)?)
    }

    /// Checks the size of sealed bytes, and makes them a snapshot.
    pub(super) fn checked(bytes: SealedBytes) -> io::Result<Snapshot> {
        match usize::try_from(bytes.len()) {
            Ok(len) if len <= MAX_LEN && len.is_multiple_of(WASM_PAGE) => {
                let pages = (0..len / PAGE).map(|_| AtomicU8::new(UNKNOWN)).collect();
                Ok(Snapshot { bytes, len, mapping: OnceLock::new(), pages })
            }
            _ => Err(io::Error::other(format!("invalid size of {} bytes", bytes.len()))),
        }
    }

    /// Size of the memory in bytes.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn bytes(&self) -> BorrowedFd<'_> {
        self.bytes.as_fd()
    }

    /// Copies from the snapshot, at an offset in bytes.
    pub(super) fn read_at(&self, buffer: &mut [u8], offset: usize) -> io::Result<()> {
        // Reads from a mapping if possible, or by system calls, which take twice as long.
        let mapped = self.mapping.get_or_init(|| Mapping::new(&self.bytes, self.len).ok());
        match mapped {
            Some(mapping) => {
                let from = mapping.bytes().get(offset..).and_then(|rest| rest.get(..buffer.len()));
                buffer.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
            None => self.bytes.read_at(buffer, offset as u64),
        }
    }

    /// Like [`Snapshot::read_at`], for whole pages that are read repeatedly: pages that are known
    /// to be zero are not read. Many pages that a run writes were unused before.
    pub(super) fn restore(&self, buffer: &mut [u8], offset: usize) -> io::Result<()> {
        let (mut rest, mut offset) = (buffer, offset);
        while !rest.is_empty() {
            let states = self.pages.get(offset / PAGE..).unwrap_or_default();
            let state = states.first().ok_or(io::ErrorKind::UnexpectedEof)?.load(Ordering::Relaxed);
            // A known state never changes; adjacent pages of the same state are restored together.
            let alike = states.iter().take_while(|page| page.load(Ordering::Relaxed) == state);
            let count =
                if state == UNKNOWN { 1 } else { alike.take(rest.len().div_ceil(PAGE)).count() };
            let (pages, after) = rest.split_at_mut((count.max(1) * PAGE).min(rest.len()));
            match state {
                ZEROS => pages.fill(0),
                CONTENT => self.read_at(pages, offset)?,
                _ => {
                    self.read_at(pages, offset)?;
                    let zeros = pages.len() == PAGE && pages.iter().all(|byte| *byte == 0);
                    if let Some(state) = states.first() {
                        state.store(if zeros { ZEROS } else { CONTENT }, Ordering::Relaxed);
                    }
                }
            }
            offset += pages.len();
            rest = after;
        }
        Ok(())
    }
}

/// A read-only mapping of the snapshot.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping is never written to, so any thread may read it.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(bytes: &SealedBytes, len: usize) -> io::Result<Mapping> {
        let (prot, flags) = (ProtFlags::READ, MapFlags::SHARED);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, prot, flags, bytes, 0)? };
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Mapping { start, len })
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping is readable and `len` bytes long; its memory is sealed, so it neither
        // changes nor becomes shorter.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this value owns the mapping, and `bytes` can no longer be borrowed.
        let unmapped = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}
