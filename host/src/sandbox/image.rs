//! Images: the linear memory of a sandbox that has prepared its model, kept so that others can
//! start from it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use crate::confine::memory::{SealedBytes, SealedWriter};

/// The memory of a prepared sandbox, sealed.
#[derive(Debug)]
pub(crate) struct Image {
    bytes: SealedBytes,
    len: usize,
}

impl Image {
    /// Copies a linear memory. Pages of zeros take no memory.
    pub(super) fn capture(memory: &[u8]) -> io::Result<Image> {
        const PAGE: usize = 4 << 10;
        // Neighbouring pages in one system call.
        const MOST: usize = 256 * PAGE;
        let mut writer = SealedWriter::new("belljar-image")?;
        let mut pages = memory.chunks(PAGE).peekable();
        let mut at = 0;
        while let Some(page) = pages.next() {
            let (start, mut end) = (at, at + page.len());
            if page.iter().all(|byte| *byte == 0) {
                writer.skip(page.len() as u64);
            } else {
                let more = |next: &&[u8]| next.iter().any(|byte| *byte != 0);
                while end - start < MOST
                    && let Some(next) = pages.next_if(more)
                {
                    end += next.len();
                }
                writer.write(memory.get(start..end).unwrap_or_default())?;
            }
            at = end;
        }
        Ok(Image { bytes: writer.seal()?, len: memory.len() })
    }

    /// Size of the memory in bytes.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn bytes(&self) -> BorrowedFd<'_> {
        self.bytes.as_fd()
    }

    pub(super) fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.bytes.read_at(buffer, offset)
    }
}
