//! Snapshots: the linear memory of a sandbox that has prepared its model, from which other
//! sandboxes start.
//!
//! `unsafe` is needed to map a snapshot for reading. That is sound because it is sealed: see
//! `confine::memory`.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::OnceLock;

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
    /// Found on the first use.
    content: OnceLock<Vec<Range<usize>>>,
}

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
                Ok(Snapshot { bytes, len, mapping: OnceLock::new(), content: OnceLock::new() })
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

    /// The parts of the snapshot that have content, as offsets in bytes, in ascending order. All
    /// other bytes are zero, and reading them from the file would allocate memory for them.
    pub(super) fn content(&self) -> io::Result<&[Range<usize>]> {
        if let Some(content) = self.content.get() {
            return Ok(content);
        }
        let found = self.bytes.content()?;
        Ok(self.content.get_or_init(|| {
            let offset = |at: u64| usize::try_from(at).map_or(self.len, |at| at.min(self.len));
            found.into_iter().map(|part| offset(part.start)..offset(part.end)).collect()
        }))
    }

    /// Fills whole pages with the snapshot's, from an offset in bytes. Many pages that a run writes
    /// were unused before, and have no content.
    pub(super) fn restore(&self, pages: &mut [u8], offset: usize) -> io::Result<()> {
        let content = self.content()?;
        let (end, mut at, mut rest) = (offset + pages.len(), offset, pages);
        let first = content.partition_point(|part| part.end <= offset);
        for part in content.iter().skip(first).take_while(|part| part.start < end) {
            let start = part.start.max(at);
            let (zeros, after) = rest.split_at_mut(start - at);
            zeros.fill(0);
            let (copied, after) = after.split_at_mut(part.end.min(end) - start);
            self.read_at(copied, start)?;
            (at, rest) = (part.end.min(end), after);
        }
        rest.fill(0);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A memory with content in some pages, and its snapshot.
    fn sparse() -> (Vec<u8>, Snapshot) {
        let mut memory = vec![0; 8 * WASM_PAGE];
        for page in [0, 3, 4, 5, 40, 127] {
            memory[page * PAGE + page] = 1 + page as u8;
        }
        let snapshot = Snapshot::capture(&memory).unwrap();
        (memory, snapshot)
    }

    #[test]
    fn only_pages_other_than_zeros_have_content() {
        let (memory, snapshot) = sparse();
        let content = snapshot.content().unwrap();
        assert_eq!(content.first().map(|part| part.start), Some(0));
        assert_eq!(content.last().map(|part| part.end), Some(memory.len()));
        let has = |at: usize| content.iter().any(|part| part.contains(&at));
        for at in (0..memory.len()).filter(|at| memory[*at] != 0) {
            assert!(has(at), "{at}");
        }
        // A kernel may store more than one page at a time.
        assert!(!has(80 * PAGE));
        let empty = Snapshot::capture(&vec![0; WASM_PAGE]).unwrap();
        assert_eq!(empty.content().unwrap(), []);
    }

    #[test]
    fn any_pages_are_restored_and_no_memory_is_allocated_for_zeros() {
        let (memory, snapshot) = sparse();
        let allocated =
            |snapshot: &Snapshot| rustix::fs::fstat(snapshot.bytes()).unwrap().st_blocks;
        let before = allocated(&snapshot);
        for from in 0..memory.len() / PAGE {
            for count in [1, 2, 3, 50, 128] {
                let range = from * PAGE..((from + count) * PAGE).min(memory.len());
                let mut pages = vec![0xee; range.len()];
                snapshot.restore(&mut pages, range.start).unwrap();
                assert!(pages == memory[range], "{count} pages from page {from}");
            }
        }
        assert_eq!(allocated(&snapshot), before);
    }
}
