//! Images: the linear memory of a sandbox that has prepared its model, kept so that others can
//! start from it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::confine::memory::{SealedBytes, SealedWriter};

/// What 32-bit code can address.
const MAX_LEN: usize = 4 << 30;

const WASM_PAGE: usize = 64 << 10;

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
        Ok(Image { bytes: writer.seal_for_handover()?, len: memory.len() })
    }

    /// Takes over an image from the supervisor.
    pub(super) fn adopt(fd: OwnedFd) -> io::Result<Image> {
        Image::checked(SealedBytes::adopt(fd)?)
    }

    /// Takes over an image from a worker. It can be whatever a hostile one makes of it, and is only
    /// ever used for the model that this worker was given.
    pub(super) fn take_over(fd: OwnedFd) -> io::Result<Image> {
        Image::checked(SealedBytes::take_over(fd)?)
    }

    fn checked(bytes: SealedBytes) -> io::Result<Image> {
        match usize::try_from(bytes.len()) {
            Ok(len) if len <= MAX_LEN && len.is_multiple_of(WASM_PAGE) => Ok(Image { bytes, len }),
            _ => Err(io::Error::other("an image has an impossible size")),
        }
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
