//! Attempts to use more memory than a worker may, each with a different kind of memory. All of it
//! is touched: memory that is only reserved costs nothing.

use std::cell::Cell;
use std::ffi::{c_int, c_long};

use super::calls::{call, mapped};
use super::{AttemptResult, Try, World};

/// Bytes that an attempt must take to succeed: more than the limits of a worker in these tests
/// allow.
const TAKE: u64 = TAKEN_AT_MOST + MARGIN;

/// The sum of the memory limits of a worker in these tests, in bytes: private memory, the first
/// thread's stack, and the one file that it may write.
pub const TAKEN_AT_MOST: u64 = PRIVATE + FIRST_STACK + FILE;

/// Private memory of a worker in these tests, in bytes.
pub const PRIVATE: u64 = 128 << 20;

/// Longest file of a worker in these tests, in bytes.
pub const FILE: u64 = 64 << 20;

const FIRST_STACK: u64 = 8 << 20;

/// Memory that a process has before it is confined, and the kernel's rounding, in bytes.
const MARGIN: u64 = 32 << 20;

const PIECE: usize = 8 << 20;
const PAGE: usize = 4 << 10;
const WRITABLE: c_int = libc::PROT_READ | libc::PROT_WRITE;
const PLAIN: c_int = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;

pub(super) const ATTEMPTS: &[(&str, Try)] = &[
    ("take more private memory", |_| taken(|| written(WRITABLE, PLAIN).map(|_| PIECE as u64))),
    ("take more private memory", |_| taken(grown_heap)),
    ("take more private memory", |_| {
        let mut size = PAGE;
        let mut at = mapped(size, WRITABLE, PLAIN, -1)?;
        taken(|| {
            let larger = size + PIECE;
            let (from, to) = (size as c_long, larger as c_long);
            at = call(libc::SYS_mremap, [at, from, to, libc::MREMAP_MAYMOVE.into(), 0])?;
            touch(at + from, PIECE);
            size = larger;
            Ok(PIECE as u64)
        })
    }),
    ("take shared memory", |_| {
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        taken(|| written(WRITABLE, flags).map(|_| PIECE as u64))
    }),
    ("take memory as a stack that grows by itself", |_| {
        taken(|| written(WRITABLE, PLAIN | libc::MAP_GROWSDOWN).map(|_| PIECE as u64))
    }),
    ("make memory read-only, and take more", |_| taken(|| uncounted(libc::PROT_READ))),
    ("make memory inaccessible, and take more", |_| taken(|| uncounted(libc::PROT_NONE))),
    ("take memory as files", |_| {
        taken(|| {
            let file = call(libc::SYS_memfd_create, [c"x".as_ptr() as c_long, 0, 0, 0, 0])?;
            write_at(file, 0)
        })
    }),
    ("take memory as files", |_| {
        let file = call(libc::SYS_memfd_create, [c"x".as_ptr() as c_long, 0, 0, 0, 0])?;
        call(libc::SYS_fallocate, [file, 0, 0, TAKE as c_long, 0]).map(drop)
    }),
    ("write more into the file it is given", |_| {
        let room = super::held()?.room;
        let mut at = 0;
        taken(|| {
            let written = write_at(room, at)?;
            at += written as c_long;
            Ok(written)
        })
    }),
    ("write more into the file it is given", |_| {
        let room = super::held()?.room;
        call(libc::SYS_fallocate, [room, 0, 0, TAKE as c_long, 0]).map(drop)
    }),
    ("lengthen the file it is given", |_| {
        call(libc::SYS_ftruncate, [super::held()?.room, TAKE as c_long, 0, 0, 0]).map(drop)
    }),
    ("take a segment of shared memory", |_| {
        let flags = libc::IPC_CREAT | 0o600;
        let wanted = [libc::IPC_PRIVATE.into(), TAKE as c_long, flags.into(), 0, 0];
        let segment = call(libc::SYS_shmget, wanted)?;
        let at = call(libc::SYS_shmat, [segment, 0, 0, 0, 0]);
        let _ = call(libc::SYS_shmctl, [segment, libc::IPC_RMID.into(), 0, 0, 0]);
        touch(at?, TAKE as usize);
        Ok(())
    }),
    ("fill the buffers of pipes", |_| {
        const MAX_FILLED: c_long = 64 << 20;
        let mut filled = 0;
        while filled < MAX_FILLED {
            let mut ends = [0 as c_int; 2];
            call(libc::SYS_pipe2, [ends.as_mut_ptr() as c_long, 0, 0, 0, 0])?;
            let writes: c_long = ends[1].into();
            // An unprivileged user's pipes may hold 64 MiB in total, then only small buffers.
            let size = call(libc::SYS_fcntl, [writes, libc::F_SETPIPE_SZ.into(), 1 << 20, 0, 0]);
            let size = size.unwrap_or(PAGE as c_long);
            let block = vec![1u8; size as usize];
            filled += call(libc::SYS_write, [writes, block.as_ptr() as c_long, size, 0, 0])?;
        }
        Ok(())
    }),
    ("fill the kernel's tables of pages", |_| {
        // One page table for each 2 MiB of addresses, which all map the zero page.
        const SPAN: usize = 2 << 20;
        let pages = (TAKE / PAGE as u64) as usize;
        let at = mapped(pages * SPAN, libc::PROT_READ, PLAIN | libc::MAP_NORESERVE, -1)?;
        for page in 0..pages {
            let at = std::ptr::with_exposed_provenance::<u8>(at as usize + page * SPAN);
            // SAFETY: a readable mapping of that size begins at `at`.
            std::hint::black_box(unsafe { at.read_volatile() });
        }
        Ok(())
    }),
    (EVERYTHING, everything),
];

/// The attempt that uses every kind of memory that the role's filter allows, one after the other.
pub(super) const EVERYTHING: &str = "take all memory that it can get";

fn everything(world: &World) -> AttemptResult {
    // The prepare role may not call mremap.
    let may_move = world.role != "prepare";
    let sum = Cell::new(0);
    let add = |more: u64| -> AttemptResult {
        sum.set(sum.get() + more);
        if sum.get() > TAKE { Ok(()) } else { Err(libc::ENOMEM) }
    };
    for size in [PIECE, 1 << 20, 64 << 10, PAGE] {
        while let Ok(at) = mapped(size, WRITABLE, PLAIN, -1) {
            touch(at, size);
            if add(size as u64).is_ok() {
                return Ok(());
            }
            if size == PAGE && may_move {
                let to = 8 * PAGE as c_long;
                let grown = call(libc::SYS_mremap, [at, PAGE as c_long, to, 1, 0]);
                if let Ok(at) = grown {
                    touch(at, 8 * PAGE);
                    add(7 * PAGE as u64).ok();
                }
            }
        }
    }
    while let Ok(more) = grown_heap() {
        if add(more).is_ok() {
            return Ok(());
        }
    }
    // Up to the file size limit: one byte more ends the process.
    for at in (0..FILE).step_by(PIECE) {
        match write_at(super::held()?.room, at as c_long) {
            Ok(written) => drop(add(written)),
            Err(_) => break,
        }
    }
    // With less than half of the limits, the attempt did not test them, so it counts as a failure.
    if (TAKEN_AT_MOST / 2..=TAKE).contains(&sum.get()) { Err(libc::ENOMEM) } else { Ok(()) }
}

/// Takes pieces until they exceed [`TAKE`].
fn taken(mut piece: impl FnMut() -> Result<u64, i32>) -> AttemptResult {
    let mut sum = 0;
    while sum <= TAKE {
        sum += piece()?;
    }
    Ok(())
}

fn touch(at: c_long, len: usize) {
    for offset in (0..len).step_by(PAGE) {
        let at = std::ptr::with_exposed_provenance_mut::<u8>(at as usize + offset);
        // SAFETY: callers have just made a writable mapping of that length.
        unsafe { at.write_volatile(1) };
    }
}

/// A piece of memory that is written to.
fn written(prot: c_int, flags: c_int) -> Result<c_long, i32> {
    let at = mapped(PIECE, prot, flags, -1)?;
    touch(at, PIECE);
    Ok(at)
}

/// A written piece whose new protection would exempt it from `RLIMIT_DATA`.
fn uncounted(prot: c_int) -> Result<u64, i32> {
    let at = written(WRITABLE, PLAIN)?;
    call(libc::SYS_mprotect, [at, PIECE as c_long, prot.into(), 0, 0])?;
    Ok(PIECE as u64)
}

fn grown_heap() -> Result<u64, i32> {
    let end = call(libc::SYS_brk, [0; 5])?;
    let wanted = end + PIECE as c_long;
    // If the heap cannot grow, the kernel returns its unchanged end.
    if call(libc::SYS_brk, [wanted, 0, 0, 0, 0])? != wanted {
        return Err(libc::ENOMEM);
    }
    let first = (end as usize).next_multiple_of(PAGE) as c_long;
    touch(first, PIECE - PAGE);
    Ok(PIECE as u64)
}

fn write_at(file: c_long, at: c_long) -> Result<u64, i32> {
    static BLOCK: [u8; 1 << 20] = [1; 1 << 20];
    let mut written = 0;
    while written < PIECE as c_long {
        let from = BLOCK.as_ptr() as c_long;
        written += call(libc::SYS_pwrite64, [file, from, BLOCK.len() as c_long, at + written, 0])?;
    }
    Ok(written as u64)
}
