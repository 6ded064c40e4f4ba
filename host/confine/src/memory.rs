//! Memory that two processes can share without trusting each other.
//!
//! It must only be read and written through system calls, never mapped: the other side may change
//! shared memory at any moment, which Rust references do not permit, and accessing a mapping of a
//! file that was truncated kills the process.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{MemfdFlags, SealFlags};

use super::file_size;

/// Seals that make the content final. `FUTURE_WRITE` does not affect existing writable mappings,
/// but the writer here never creates any. `WRITE` excludes those too, but waits until the kernel
/// has released every page, and sometimes fails with `EBUSY`.
const FINAL: SealFlags =
    SealFlags::FUTURE_WRITE.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::SEAL);

/// Seals that fix the size and leave the content writable.
const SIZED: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

fn create(name: &str) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // NOEXEC_SEAL (since Linux 6.3) keeps the file from ever becoming executable.
    match rustix::fs::memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        Err(rustix::io::Errno::INVAL) => Ok(rustix::fs::memfd_create(name, flags)?),
        other => Ok(other?),
    }
}

fn read_exact_at(fd: BorrowedFd<'_>, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        match rustix::io::pread(fd, &mut *buffer, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                buffer = buffer.get_mut(count..).unwrap_or_default();
                offset += count as u64;
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(err) => return Err(err.into()),
        }
    }
    Ok(())
}

fn write_all_at(fd: BorrowedFd<'_>, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(fd, bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                bytes = bytes.get(count..).unwrap_or_default();
                offset += count as u64;
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(err) => return Err(err.into()),
        }
    }
    Ok(())
}

/// A memory file that is being written, and sealed when it is complete.
pub struct SealedWriter {
    fd: OwnedFd,
    len: u64,
    /// The end of the last written byte, without skipped bytes after it.
    filled: u64,
    /// The kernel serializes writes in any case, and sleeping here costs less than contending for
    /// its lock.
    turn: Mutex<()>,
}

impl SealedWriter {
    /// `name` only appears in `/proc/…/maps`.
    pub fn new(name: &str) -> io::Result<SealedWriter> {
        Ok(SealedWriter { fd: create(name)?, len: 0, filled: 0, turn: Mutex::default() })
    }

    /// An empty file for [`SealedWriter::into_room`] in a worker, which may not create files. The
    /// file size limit bounds what the worker can write to it.
    pub fn room(name: &str) -> io::Result<OwnedFd> {
        create(name)
    }

    /// Writes to a file that the supervisor created, and seals after the worker returns it.
    pub fn into_room(fd: OwnedFd) -> SealedWriter {
        SealedWriter { fd, len: 0, filled: 0, turn: Mutex::default() }
    }

    /// Completes the file, for the supervisor to take over.
    pub fn hand_over(self) -> io::Result<SealedBytes> {
        // Writing the last byte extends the file over the skipped bytes.
        if self.filled < self.len {
            write_all_at(self.fd.as_fd(), &[0], self.len - 1)?;
        }
        Ok(SealedBytes { fd: self.fd, len: self.len })
    }

    /// A file of fixed length, written in any order; bytes that are not written are zero. For a
    /// supervisor.
    pub fn with_len(name: &str, len: u64) -> io::Result<SealedWriter> {
        file_size::check(len)?;
        let fd = create(name)?;
        rustix::fs::ftruncate(&fd, len)?;
        Ok(SealedWriter { fd, len, filled: len, turn: Mutex::default() })
    }

    /// Writes at an offset below the length, from any thread.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if offset.checked_add(bytes.len() as u64).is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        write_all_at(self.fd.as_fd(), bytes, offset)
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        write_all_at(self.fd.as_fd(), bytes, self.len)?;
        self.len += bytes.len() as u64;
        self.filled = self.len;
        Ok(())
    }

    /// Skips bytes, which are then zero.
    pub fn skip(&mut self, len: u64) {
        self.len += len;
    }

    pub fn seal(self) -> io::Result<SealedBytes> {
        // Extends the file over skipped bytes at the end.
        rustix::fs::ftruncate(&self.fd, self.len)?;
        rustix::fs::fcntl_add_seals(&self.fd, FINAL)?;
        Ok(SealedBytes { fd: self.fd, len: self.len })
    }
}

/// Bytes that no process can change, truncate or extend.
#[derive(Debug)]
pub struct SealedBytes {
    fd: OwnedFd,
    len: u64,
}

impl SealedBytes {
    /// Takes over a descriptor from a supervisor, if it is sealed. Do not use it for descriptors
    /// from a worker, which may have kept a writable mapping.
    pub fn adopt(fd: OwnedFd) -> io::Result<SealedBytes> {
        if !rustix::fs::fcntl_get_seals(&fd)?.contains(FINAL) {
            return Err(io::Error::other(
                "a file in memory is not sealed, so its content may change",
            ));
        }
        let len = u64::try_from(rustix::fs::fstat(&fd)?.st_size).unwrap_or(0);
        Ok(SealedBytes { fd, len })
    }

    /// Takes over a descriptor from a worker, and seals it. A hostile worker may have kept a
    /// writable mapping, so this includes the `WRITE` seal, which the kernel refuses while there is
    /// one.
    pub fn take_over(fd: OwnedFd) -> io::Result<SealedBytes> {
        // The kernel also refuses for a short time while it uses a page itself.
        const TRIES: u32 = 20;
        for attempt in 0.. {
            match rustix::fs::fcntl_add_seals(&fd, FINAL | SealFlags::WRITE) {
                Err(rustix::io::Errno::BUSY) if attempt < TRIES => {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
                Err(err) => return Err(err.into()),
                Ok(()) => break,
            }
        }
        SealedBytes::adopt(fd)
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    /// Fills `buffer`, which must not be longer than the bytes.
    pub fn read_into(&self, buffer: &mut [u8]) -> io::Result<()> {
        read_exact_at(self.fd.as_fd(), buffer, 0)
    }

    /// Fills `buffer` from the bytes at `offset`.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        read_exact_at(self.fd.as_fd(), buffer, offset)
    }

    /// The parts that have been written, as offsets in bytes, in ascending order. The bytes between
    /// them are zero and use no memory.
    pub fn content(&self) -> io::Result<Vec<Range<u64>>> {
        use rustix::fs::{SeekFrom, seek};
        let (mut parts, mut at) = (Vec::new(), 0);
        while at < self.len {
            let start = match seek(&self.fd, SeekFrom::Data(at)) {
                // No more until the end.
                Err(rustix::io::Errno::NXIO) => break,
                other => other?,
            };
            let end = seek(&self.fd, SeekFrom::Hole(start))?;
            if end <= start {
                return Err(io::Error::other("the kernel found a part without an end"));
            }
            parts.push(start..end);
            at = end;
        }
        Ok(parts)
    }

    pub fn try_clone(&self) -> io::Result<OwnedFd> {
        self.fd.try_clone()
    }
}

impl AsFd for SealedBytes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A buffer of fixed size that both sides read and write, one after the other.
#[derive(Debug)]
pub struct SharedBuffer {
    fd: OwnedFd,
    len: u64,
}

impl SharedBuffer {
    /// A buffer of `len` bytes, or of the file size limit of this process if that is lower. Bytes
    /// use memory only once they are written. For a supervisor.
    pub fn new(len: u64) -> io::Result<SharedBuffer> {
        let len = file_size::limit().map_or(len, |limit| len.min(limit));
        let fd = create("belljar-tensors")?;
        rustix::fs::ftruncate(&fd, len)?;
        rustix::fs::fcntl_add_seals(&fd, SIZED)?;
        Ok(SharedBuffer { fd, len })
    }

    /// Takes over a descriptor from another process, if its size is fixed.
    pub fn adopt(fd: OwnedFd) -> io::Result<SharedBuffer> {
        if !rustix::fs::fcntl_get_seals(&fd)?.contains(SIZED) {
            return Err(io::Error::other(
                "the shared memory file is not sealed, so its size may change",
            ));
        }
        let len = u64::try_from(rustix::fs::fstat(&fd)?.st_size).unwrap_or(0);
        Ok(SharedBuffer { fd, len })
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    /// Copies the first `len` bytes out, or all if the buffer is shorter. Only validate the copy:
    /// the other side may change the buffer at any time.
    pub fn read(&self, len: u64) -> io::Result<Vec<u8>> {
        let len = usize::try_from(len.min(self.len)).map_err(io::Error::other)?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len)?;
        while bytes.len() < len {
            let at = bytes.len() as u64;
            match rustix::io::pread(&self.fd, rustix::buffer::spare_capacity(&mut bytes), at) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(err) => return Err(err.into()),
            }
        }
        bytes.truncate(len);
        Ok(bytes)
    }

    /// Like [`SharedBuffer::read`], into an existing slice, from an offset on.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        read_exact_at(self.fd.as_fd(), buffer, offset)
    }

    /// Copies `bytes` to the start of the buffer.
    pub fn write(&self, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() as u64 > self.len {
            let text =
                format!("{} bytes exceed the shared buffer of {} bytes", bytes.len(), self.len);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
        }
        write_all_at(self.fd.as_fd(), bytes, 0)
    }
}

impl AsFd for SharedBuffer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_bytes_cannot_be_changed() {
        let mut writer = SealedWriter::new("test").unwrap();
        writer.write(b"weights").unwrap();
        let sealed = writer.seal().unwrap();
        assert!(write_all_at(sealed.as_fd(), b"W", 0).is_err());
        assert!(rustix::fs::ftruncate(&sealed, 0).is_err());
        assert!(rustix::fs::ftruncate(&sealed, 1 << 20).is_err());
        let mut copy = [0; 7];
        sealed.read_into(&mut copy).unwrap();
        assert_eq!(&copy, b"weights");
        assert!(sealed.read_into(&mut [0; 8]).is_err());
    }

    #[test]
    fn only_sealed_memory_is_adopted() {
        let open = create("test").unwrap();
        assert!(SealedBytes::adopt(open.try_clone().unwrap()).is_err());
        assert!(SharedBuffer::adopt(open.try_clone().unwrap()).is_err());
        rustix::fs::fcntl_add_seals(&open, SIZED).unwrap();
        assert!(SealedBytes::adopt(open.try_clone().unwrap()).is_err());
        assert!(SharedBuffer::adopt(open).is_ok());
    }

    #[test]
    fn worker_cannot_change_memory_after_handing_it_over() {
        let made = || {
            let mut writer = SealedWriter::into_room(SealedWriter::room("test").unwrap());
            writer.write(&[7; 4096]).unwrap();
            writer.skip(4096);
            writer.hand_over().unwrap().try_clone().unwrap()
        };
        let theirs = made();
        let ours = SealedBytes::take_over(theirs.try_clone().unwrap()).unwrap();
        assert!(write_all_at(theirs.as_fd(), b"x", 0).is_err());
        assert_eq!(ours.len(), 8192);

        // An unsealed file that its creator has mapped, to write to it later.
        let open = create("test").unwrap();
        rustix::fs::ftruncate(&open, 8192).unwrap();
        use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice, of memory that has this size.
        let mapping =
            unsafe { mmap(std::ptr::null_mut(), 8192, prot, MapFlags::SHARED, &open, 0) }.unwrap();
        assert!(SealedBytes::take_over(open.try_clone().unwrap()).is_err());
        // SAFETY: the mapping created above, which nothing refers to.
        unsafe { munmap(mapping, 8192) }.unwrap();
        SealedBytes::take_over(open.try_clone().unwrap()).unwrap();
        assert!(write_all_at(open.as_fd(), b"x", 0).is_err());
        assert!(rustix::fs::ftruncate(&open, 0).is_err());
    }

    #[test]
    fn a_shared_buffer_keeps_its_size() {
        let buffer = SharedBuffer::new(64).unwrap();
        assert!(buffer.write(&[1; 65]).is_err());
        assert!(rustix::fs::ftruncate(&buffer, 0).is_err());
        buffer.write(&[1; 64]).unwrap();
        assert!(buffer.read_at(&mut [0; 65], 0).is_err());
        assert_eq!(buffer.read(3).unwrap(), [1; 3]);
        assert_eq!(buffer.read(65).unwrap(), [1; 64]);
    }
}
