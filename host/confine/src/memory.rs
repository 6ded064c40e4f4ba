//! Memory that two processes can share without trusting each other.
//!
//! It is only ever read and written through system calls, never mapped: the other side may change
//! shared memory at any moment, which a Rust reference must not see, and a mapping of something
//! that was cut short kills whoever touches it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{MemfdFlags, SealFlags};

use super::file_size;

/// Seals that make the content final. `FUTURE_WRITE` leaves mappings alone that were writable
/// before, and whoever collects bytes here never maps them; `WRITE`, which ends those too, waits
/// until the kernel itself has let go of every page, and now and then gives up (`EBUSY`).
const FINAL: SealFlags =
    SealFlags::FUTURE_WRITE.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::SEAL);

/// Seals that fix the size and leave the content open.
const SIZED: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

fn create(name: &str) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // NOEXEC_SEAL is younger (Linux 6.3): such memory can then never be made executable as a file.
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

/// Bytes being collected, to be sealed when they are complete.
pub struct SealedWriter {
    fd: OwnedFd,
    len: u64,
    /// Where the last written byte ends, not counting what was skipped.
    filled: u64,
    /// Threads write one after the other in any case: to sleep costs less than the kernel's
    /// waiting for its lock.
    turn: Mutex<()>,
}

impl SealedWriter {
    /// `name` is shown in `/proc/…/maps` and means nothing.
    pub fn new(name: &str) -> io::Result<SealedWriter> {
        Ok(SealedWriter { fd: create(name)?, len: 0, filled: 0, turn: Mutex::default() })
    }

    /// An empty file for [`SealedWriter::into_room`] of a worker, which may make none of its own: the
    /// limit on files bounds what it can write there.
    pub fn room(name: &str) -> io::Result<OwnedFd> {
        create(name)
    }

    /// Collects bytes in a file that the supervisor has made, and seals when it gets it back.
    pub fn into_room(fd: OwnedFd) -> SealedWriter {
        SealedWriter { fd, len: 0, filled: 0, turn: Mutex::default() }
    }

    /// The file with all of its bytes, for the supervisor to take over.
    pub fn hand_over(self) -> io::Result<SealedBytes> {
        // A byte at the end makes what was skipped count.
        if self.filled < self.len {
            write_all_at(self.fd.as_fd(), &[0], self.len - 1)?;
        }
        Ok(SealedBytes { fd: self.fd, len: self.len })
    }

    /// Room for bytes that are written in any order; what is not written is zero. For a supervisor.
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

    /// Leaves out bytes that are zero.
    pub fn skip(&mut self, len: u64) {
        self.len += len;
    }

    pub fn seal(self) -> io::Result<SealedBytes> {
        // What was skipped at the end counts too.
        rustix::fs::ftruncate(&self.fd, self.len)?;
        rustix::fs::fcntl_add_seals(&self.fd, FINAL)?;
        Ok(SealedBytes { fd: self.fd, len: self.len })
    }
}

/// Bytes that nobody can change, shorten or lengthen.
#[derive(Debug)]
pub struct SealedBytes {
    fd: OwnedFd,
    len: u64,
}

impl SealedBytes {
    /// Takes over a descriptor from a supervisor, if it is sealed. Not for one from a worker, who
    /// may have kept a writable mapping.
    pub fn adopt(fd: OwnedFd) -> io::Result<SealedBytes> {
        if !rustix::fs::fcntl_get_seals(&fd)?.contains(FINAL) {
            return Err(io::Error::other("memory that should be sealed is not"));
        }
        let len = u64::try_from(rustix::fs::fstat(&fd)?.st_size).unwrap_or(0);
        Ok(SealedBytes { fd, len })
    }

    /// Takes over a descriptor from a worker, which may have lied about its seals and kept a
    /// writable mapping: seals it against that too, which the kernel refuses while there is one.
    pub fn take_over(fd: OwnedFd) -> io::Result<SealedBytes> {
        // The kernel also refuses for as long as it holds on to a page itself, which is not long.
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
    /// A buffer of `len` bytes, which take memory only once they are written; or of as many as this
    /// process may write to a file. For a supervisor.
    pub fn new(len: u64) -> io::Result<SharedBuffer> {
        let len = file_size::most().map_or(len, |most| len.min(most));
        let fd = create("belljar-tensors")?;
        rustix::fs::ftruncate(&fd, len)?;
        rustix::fs::fcntl_add_seals(&fd, SIZED)?;
        Ok(SharedBuffer { fd, len })
    }

    /// Takes over a descriptor from another process, if its size is fixed.
    pub fn adopt(fd: OwnedFd) -> io::Result<SharedBuffer> {
        if !rustix::fs::fcntl_get_seals(&fd)?.contains(SIZED) {
            return Err(io::Error::other("shared memory whose size should be fixed is not"));
        }
        let len = u64::try_from(rustix::fs::fstat(&fd)?.st_size).unwrap_or(0);
        Ok(SharedBuffer { fd, len })
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    /// Copies the first `len` bytes out, at most as many as there are; the copy is the only thing to
    /// look at.
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

    /// As [`SharedBuffer::read`], into a place that is there already and not longer than the buffer.
    pub fn read_into(&self, buffer: &mut [u8]) -> io::Result<()> {
        read_exact_at(self.fd.as_fd(), buffer, 0)
    }

    /// Copies `bytes` to the start of the buffer.
    pub fn write(&self, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() as u64 > self.len {
            let text = format!("{} bytes are more than the {} that cross", bytes.len(), self.len);
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
    fn what_a_worker_hands_over_cannot_be_changed_by_it_any_more() {
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

        // Memory that its maker sealed in no way at all, and has mapped to write to it later.
        let open = create("test").unwrap();
        rustix::fs::ftruncate(&open, 8192).unwrap();
        use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice, of memory that has this size.
        let mapping =
            unsafe { mmap(std::ptr::null_mut(), 8192, prot, MapFlags::SHARED, &open, 0) }.unwrap();
        assert!(SealedBytes::take_over(open.try_clone().unwrap()).is_err());
        // SAFETY: the mapping made above, which nothing refers to.
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
        assert!(buffer.read_into(&mut [0; 65]).is_err());
        assert_eq!(buffer.read(3).unwrap(), [1; 3]);
        assert_eq!(buffer.read(65).unwrap(), [1; 64]);
    }
}
