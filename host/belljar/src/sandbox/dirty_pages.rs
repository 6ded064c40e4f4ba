//! Finds the written pages of a private mapping: those that are private copies and no longer belong
//! to the file.
//!
//! `PAGEMAP_SCAN` (Linux 6.7, see its Documentation/admin-guide/mm/pagemap.rst) returns exactly the
//! dirty pages. On older kernels, `/proc/self/pagemap` is read page by page. `unsafe` is needed for
//! the call.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, opcode};
use rustix::thread::{CapabilitySet, CapabilitySets};

pub(super) const PAGE: usize = 4 << 10;

const PATH: &str = "/proc/self/pagemap";

/// Finds dirty pages of this process.
pub(super) struct DirtyPages {
    pagemap: &'static File,
    scans: bool,
}

static PAGEMAP: OnceLock<Option<File>> = OnceLock::new();

/// Opens this process's pagemap, once for all of its slots; `None` if it is not available. A worker
/// must call this before it is confined, because it cannot open files afterwards.
pub(super) fn pagemap() -> Option<&'static File> {
    PAGEMAP.get_or_init(|| open().ok()).as_ref()
}

/// Marks the pagemap as unavailable, for a worker that does not need it.
pub(super) fn no_pagemap() {
    let _ = PAGEMAP.set(None);
}

/// Opens it without the capability to see physical addresses. The kernel checks the capabilities of
/// the process that opened the file, not of the one that reads it.
fn open() -> io::Result<File> {
    let rights = rustix::thread::capabilities(None)?;
    let fewer = rights.effective.difference(CapabilitySet::SYS_ADMIN);
    if fewer == rights.effective {
        return File::open(PATH);
    }
    rustix::thread::set_capabilities(None, CapabilitySets { effective: fewer, ..rights })?;
    let opened = File::open(PATH);
    rustix::thread::set_capabilities(None, rights)?;
    opened
}

impl DirtyPages {
    /// `None` if the pagemap is not available.
    pub(super) fn new() -> Option<DirtyPages> {
        pagemap().map(|pagemap| DirtyPages { pagemap, scans: true })
    }

    /// Whether the kernel supports `PAGEMAP_SCAN`.
    pub(super) fn scans(&self) -> bool {
        let here = &raw const *self as usize / PAGE * PAGE;
        self.scan(here, here + PAGE, &mut |_, _| Ok(())).is_ok()
    }

    /// Calls `found` with the start and end of every run of dirty pages between two addresses.
    pub(super) fn each_run(
        &mut self,
        start: usize,
        end: usize,
        mut found: impl FnMut(usize, usize) -> io::Result<()>,
    ) -> io::Result<()> {
        if self.scans {
            match self.scan(start, end, &mut found) {
                // An older kernel, or a filter that denies the call.
                Err(err) if is_unknown(&err) => self.scans = false,
                other => return other,
            }
        }
        self.read(start, end, &mut found)
    }

    fn scan(
        &self,
        start: usize,
        end: usize,
        found: &mut impl FnMut(usize, usize) -> io::Result<()>,
    ) -> io::Result<()> {
        const FILE: u64 = 1 << 2;
        const PRESENT: u64 = 1 << 3;
        const SWAPPED: u64 = 1 << 4;
        let mut regions = [Region::default(); 256];
        let mut at = start as u64;
        while at < end as u64 {
            let scan = Scan {
                size: size_of::<Scan>() as u64,
                start: at,
                end: end as u64,
                vec: regions.as_mut_ptr() as u64,
                vec_len: regions.len() as u64,
                // Not backed by a file, and either present or swapped out.
                category_inverted: FILE,
                category_mask: FILE,
                category_anyof_mask: PRESENT | SWAPPED,
                return_mask: PRESENT | SWAPPED,
                ..Scan::default()
            };
            // SAFETY: the kernel writes to `scan`, and to at most `vec_len` regions at `vec`,
            // which lives until then.
            let (count, walk_end) = unsafe { rustix::ioctl::ioctl(self.pagemap, scan) }?;
            for region in regions.iter().take(count) {
                found(region.start as usize, region.end as usize)?;
            }
            if walk_end <= at {
                return Err(io::Error::other("PAGEMAP_SCAN made no progress"));
            }
            at = walk_end;
        }
        Ok(())
    }

    fn read(
        &self,
        start: usize,
        end: usize,
        found: &mut impl FnMut(usize, usize) -> io::Result<()>,
    ) -> io::Result<()> {
        const PRESENT: u64 = 1 << 63;
        const SWAPPED: u64 = 1 << 62;
        const FILE: u64 = 1 << 61;
        const BATCH: usize = 4096;
        let mut entries = vec![0; 8 * BATCH.min((end - start) / PAGE)];
        let mut run: Option<(usize, usize)> = None;
        let mut at = start;
        while at < end {
            let count = BATCH.min((end - at) / PAGE);
            let batch = entries.get_mut(..8 * count).unwrap_or_default();
            self.pagemap.read_exact_at(batch, 8 * (at / PAGE) as u64)?;
            for entry in batch.as_chunks::<8>().0 {
                let entry = u64::from_le_bytes(*entry);
                let written = entry & SWAPPED != 0 || (entry & PRESENT != 0 && entry & FILE == 0);
                run = match (run, written) {
                    (Some((from, _)), true) => Some((from, at + PAGE)),
                    (None, true) => Some((at, at + PAGE)),
                    (Some((from, to)), false) => {
                        found(from, to)?;
                        None
                    }
                    (None, false) => None,
                };
                at += PAGE;
            }
        }
        run.map_or(Ok(()), |(from, to)| found(from, to))
    }

    #[cfg(test)]
    fn without_scan(mut self) -> DirtyPages {
        self.scans = false;
        self
    }
}

fn is_unknown(err: &io::Error) -> bool {
    use rustix::io::Errno;
    let unknown = [Errno::NOTTY, Errno::INVAL, Errno::NOSYS, Errno::PERM, Errno::ACCESS];
    err.raw_os_error().is_some_and(|code| unknown.iter().any(|one| one.raw_os_error() == code))
}

/// `struct page_region` of Linux.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

/// `struct pm_scan_arg` of Linux.
#[repr(C)]
#[derive(Default)]
struct Scan {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    /// Written by the kernel: where the scan stopped.
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

// SAFETY: the number is that of `PAGEMAP_SCAN`, `_IOWR('f', 16, struct pm_scan_arg)`, and `Scan` is
// that struct. The code that creates one is responsible for its pointers.
unsafe impl Ioctl for Scan {
    type Output = (usize, u64);

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        opcode::read_write::<Scan>(b'f', 16)
    }

    fn as_ptr(&mut self) -> *mut rustix::ffi::c_void {
        std::ptr::from_mut(self).cast()
    }

    unsafe fn output_from_ptr(
        count: IoctlOutput,
        scan: *mut rustix::ffi::c_void,
    ) -> rustix::io::Result<(usize, u64)> {
        // SAFETY: rustix passes the pointer that `as_ptr` returned.
        let walk_end = unsafe { (*scan.cast::<Scan>()).walk_end };
        Ok((count as usize, walk_end))
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

    use super::*;
    use belljar_confine::memory::SealedWriter;

    #[test]
    fn both_methods_find_exactly_the_written_pages() {
        const PAGES: usize = 5000;
        let mut writer = SealedWriter::new("test").unwrap();
        writer.write(&vec![3; PAGES * PAGE]).unwrap();
        let file = writer.seal().unwrap();
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let len = PAGES * PAGE;
        // SAFETY: a new private mapping of a file of this size, at the kernel's choice.
        let base = unsafe {
            mmap(std::ptr::null_mut(), len, prot, MapFlags::PRIVATE, file.as_fd(), 0).unwrap()
        };
        // SAFETY: the mapping just created, readable and writable, with no other reference to it.
        let memory = unsafe { std::slice::from_raw_parts_mut(base.cast::<u8>(), len) };
        // Reading makes pages present without making them private copies.
        assert!(memory.iter().step_by(PAGE).all(|byte| *byte == 3));
        let written =
            |page: usize| page.is_multiple_of(7) || (1000..1500).contains(&page) || page == 4999;
        for page in (0..PAGES).filter(|page| written(*page)) {
            memory[page * PAGE + page % PAGE] = 1;
        }
        let start = base as usize;
        let ways = [DirtyPages::new(), DirtyPages::new().map(DirtyPages::without_scan)];
        for way in ways {
            let mut found = vec![false; PAGES];
            way.unwrap()
                .each_run(start, start + len, |from, to| {
                    found[(from - start) / PAGE..(to - start) / PAGE].fill(true);
                    Ok(())
                })
                .unwrap();
            assert!((0..PAGES).all(|page| found[page] == written(page)));
        }
        // SAFETY: the mapping made above; `memory` is not used any more.
        unsafe { munmap(base, len) }.unwrap();
    }
}
