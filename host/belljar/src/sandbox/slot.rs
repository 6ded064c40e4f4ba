//! Slots: reserved address space for linear memories, used by one instance after the other.
//!
//! A slot maps a snapshot of a memory, copy-on-write. After its instance has ended, a reset undoes
//! all writes: every page that differs from the snapshot is copied back, and everything beyond it
//! becomes zero and inaccessible. The next instance must not see anything of the previous one, not
//! even its size.
//!
//! All unsafe code for linear memories is here. Nothing else may hold a pointer into a slot while
//! it contains no instance.

use std::cell::RefCell;
use std::io;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};
use serde::{Deserialize, Serialize};
use wasmtime::{LinearMemory, MemoryCreator, MemoryType};

use super::dirty_pages::DirtyPages;
use super::snapshot::Snapshot;

/// The address space of 32-bit code, and wasmtime's reservation for it.
const RESERVED: usize = 4 << 30;

/// Inaccessible memory after the reservation, so that an address plus a small offset needs no
/// check. wasmtime's default.
const GUARD: usize = 32 << 20;

const WASM_PAGE: usize = 64 << 10;

/// Bytes without content that are worth a mapping of their own. Their number is limited per
/// process.
const LARGE_ZEROS: usize = 1 << 20;

/// Address space for one linear memory.
pub(super) struct Slot {
    base: NonNull<u8>,
    snapshot: Option<Arc<Snapshot>>,
    /// Bytes from the base that instances may use: the size of the memory.
    size: usize,
    /// Bytes from the base that have been accessible at any time since the snapshot was mapped.
    touched: usize,
    written: Option<DirtyPages>,
    how: ResetMethod,
    kept: KeptPages,
}

/// Decides whether a slot keeps the pages that its runs have written, which saves the next run from
/// faulting them in. After a run that wrote far more than usual they are returned to the kernel
/// instead: the slot would keep them, and copy all of them back after every later run.
#[derive(Debug, Default)]
struct KeptPages {
    /// Bytes of written pages after the last run whose pages were kept.
    usual: Option<usize>,
    /// How many runs since then wrote more.
    larger: u32,
}

impl KeptPages {
    /// More bytes than usual that are always kept.
    const SPARE: usize = 2 << 20;

    /// After so many successive runs that wrote more, that is the usual.
    const PATIENCE: u32 = 4;

    /// Bytes of written pages that are kept. After the first run it is unknown what is usual.
    fn most(&self) -> usize {
        match self.usual {
            Some(_) if self.larger + 1 >= KeptPages::PATIENCE => usize::MAX,
            Some(usual) => usual.saturating_add(usual / 8).saturating_add(KeptPages::SPARE),
            None => 0,
        }
    }

    /// Records how many bytes of written pages there were after a run.
    fn found(&mut self, bytes: usize) {
        if self.usual.is_none() || bytes <= self.most() {
            (self.usual, self.larger) = (Some(bytes), 0);
        } else {
            self.larger += 1;
        }
    }
}

/// How a sandbox's memory is reset before another run. Belljar uses the cheapest method that the
/// machine allows, and never skips the reset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ResetMethod {
    /// Written pages are found through `/proc/self/pagemap` and copied back from the snapshot.
    DirtyPages,
    /// The snapshot is mapped again, and every page that a run touches is faulted in again.
    #[default]
    NewMapping,
}

// SAFETY: a slot owns its address space; the pointer is not tied to a thread.
unsafe impl Send for Slot {}
// SAFETY: a shared reference to a slot gives no access to its memory.
unsafe impl Sync for Slot {}

impl Slot {
    /// Address space of a slot, in bytes.
    pub(super) const RESERVES: u64 = (RESERVED + GUARD) as u64;

    /// Reserves address space. It uses no memory until it is written.
    pub(super) fn new() -> io::Result<Slot> {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                RESERVED + GUARD,
                ProtFlags::empty(),
                flags,
            )?
        };
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let written = DirtyPages::new();
        let how = match &written {
            Some(_) => ResetMethod::DirtyPages,
            None => ResetMethod::NewMapping,
        };
        let kept = KeptPages::default();
        Ok(Slot { base, snapshot: None, size: 0, touched: 0, written, how, kept })
    }

    /// How this slot is reset.
    pub(super) fn reset_method(&self) -> ResetMethod {
        self.how
    }

    /// Maps a snapshot, so that the next instance starts from it.
    pub(super) fn map(&mut self, snapshot: &Arc<Snapshot>) -> io::Result<()> {
        self.unmap()?;
        let len = snapshot.len();
        if len > RESERVED || !len.is_multiple_of(WASM_PAGE) {
            return Err(io::Error::other(format!(
                "the snapshot has an invalid size of {len} bytes"
            )));
        }
        if len > 0 {
            let prot = ProtFlags::READ | ProtFlags::WRITE;
            let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
            // SAFETY: replaces the first `len` bytes of this slot's own reservation, which contains
            // no instance. The snapshot is sealed, so it can neither change nor become shorter.
            unsafe {
                rustix::mm::mmap(self.base.as_ptr().cast(), len, prot, flags, snapshot.bytes(), 0)?;
            }
            self.map_zeros(snapshot)?;
        }
        (self.size, self.touched) = (len, len);
        self.snapshot = Some(Arc::clone(snapshot));
        Ok(())
    }

    /// Replaces the large parts of the mapping that have no content by anonymous memory. A write to
    /// the file's mapping would first allocate a page of the file, which is never used again.
    fn map_zeros(&self, snapshot: &Snapshot) -> io::Result<()> {
        let mut at = 0;
        let end = snapshot.len()..snapshot.len();
        for part in snapshot.content()?.iter().chain([&end]) {
            if part.start.saturating_sub(at) >= LARGE_ZEROS {
                self.give_back(at, part.start)?;
                self.make_writable(at, part.start)?;
            }
            at = part.end;
        }
        Ok(())
    }

    /// Returns all memory to the kernel and drops the snapshot.
    fn unmap(&mut self) -> io::Result<()> {
        self.give_back(0, self.touched)?;
        (self.snapshot, self.size, self.touched) = (None, 0, 0);
        Ok(())
    }

    /// Undoes all writes of the last instance. Returns whether its pages were returned to the kernel
    /// because there were more than usual. If it fails, the slot must not be used again.
    pub(super) fn reset(&mut self) -> io::Result<bool> {
        let Some(snapshot) = self.snapshot.clone() else { return self.unmap().map(|()| false) };
        let restored = match (self.how, self.written.take()) {
            (ResetMethod::DirtyPages, Some(mut written)) => {
                let restored = self.restore(&snapshot, &mut written);
                self.written = Some(written);
                restored
            }
            _ => Err(io::ErrorKind::Unsupported.into()),
        };
        if let Ok(true) = restored {
            return Ok(false);
        }
        if restored.is_err() {
            self.how = ResetMethod::NewMapping;
        }
        self.map(&snapshot)?;
        Ok(restored.is_ok())
    }

    /// Copies written pages back from the snapshot, and clears the memory beyond it. Returns whether
    /// all were copied back, which is not the case if there are more than the slot keeps.
    fn restore(&mut self, snapshot: &Snapshot, written: &mut DirtyPages) -> io::Result<bool> {
        let base = self.base.as_ptr() as usize;
        let (len, end) = (snapshot.len(), self.size);
        let (most, mut found) = (self.kept.most(), 0);
        written.each_run(base, base + len, |from, to| {
            let offset = from - base;
            found += to - from;
            if found > most {
                return Ok(());
            }
            // SAFETY: `from..to` is inside the snapshot's mapping, which is readable and writable,
            // and the slot contains no instance, so nothing else refers to these bytes.
            let pages = unsafe {
                std::slice::from_raw_parts_mut(self.base.as_ptr().add(offset), to - from)
            };
            snapshot.restore(pages, offset)
        })?;
        self.kept.found(found);
        if found > most {
            return Ok(false);
        }
        self.give_back(len, end)?;
        (self.size, self.touched) = (len, len);
        Ok(true)
    }

    /// Returns the memory between two offsets to the kernel and makes it inaccessible. `mprotect`
    /// alone would keep the memory without counting it against any limit, so a worker's filter
    /// forbids that.
    fn give_back(&self, start: usize, end: usize) -> io::Result<()> {
        if start >= end {
            return Ok(());
        }
        let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
        // SAFETY: replaces part of this slot's own reservation, which contains no instance.
        unsafe {
            let start_at = self.base.as_ptr().add(start).cast();
            rustix::mm::mmap_anonymous(start_at, end - start, ProtFlags::empty(), flags)?;
        }
        Ok(())
    }

    /// Makes anonymous memory between two offsets accessible.
    fn make_writable(&self, start: usize, end: usize) -> io::Result<()> {
        let flags = MprotectFlags::READ | MprotectFlags::WRITE;
        // SAFETY: `start..end` is inside this slot's own reservation and contains no instance, or is
        // beyond the instance's memory; it is zero, and only wasmtime, which knows the size, uses it.
        unsafe {
            let start_at = self.base.as_ptr().add(start).cast();
            rustix::mm::mprotect(start_at, end - start, flags)?;
        }
        Ok(())
    }

    /// Makes the memory `size` bytes large.
    fn grow_to(&mut self, size: usize) -> io::Result<()> {
        let start = self.size;
        if start > size || size > RESERVED {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if start < size {
            self.make_writable(start, size)?;
        }
        (self.size, self.touched) = (size, self.touched.max(size));
        Ok(())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // SAFETY: the reservation belongs to this slot, and contains no instance: an instance's
        // memory owns its slot.
        let unmapped = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), RESERVED + GUARD) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}

#[cfg(test)]
impl Slot {
    /// The memory, while the slot contains no instance.
    pub(super) fn memory(&mut self) -> &mut [u8] {
        // SAFETY: the first `size` bytes are accessible, and the borrow keeps the slot from
        // changing.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.size) }
    }

    pub(super) fn force(&mut self, method: ResetMethod) {
        self.how = method;
    }
}

/// Receives a memory's slot when the memory is dropped.
pub(super) type Returned = Arc<Mutex<Option<Slot>>>;

thread_local! {
    static NEXT: RefCell<Option<(Slot, Returned)>> = const { RefCell::new(None) };
}

/// Runs `instantiate`, and places the next memory that it creates on this thread in `slot`. Once
/// the memory is dropped, the slot is in the returned [`Returned`].
pub(super) fn with_slot<T>(slot: Slot, instantiate: impl FnOnce() -> T) -> (T, Returned) {
    let returned = Returned::default();
    NEXT.set(Some((slot, Arc::clone(&returned))));
    let made = instantiate();
    if let Some((slot, _)) = NEXT.take() {
        *returned.lock().unwrap_or_else(PoisonError::into_inner) = Some(slot);
    }
    (made, returned)
}

/// Makes wasmtime place linear memories in slots.
pub(super) struct SlotCreator;

// SAFETY: a memory in a slot is `byte_size` accessible bytes from `as_ptr`, which never moves,
// followed by inaccessible ones up to the end of the reservation and of the guard. Its initial
// content is that of its snapshot, or zeros.
unsafe impl MemoryCreator for SlotCreator {
    fn new_memory(
        &self,
        _ty: MemoryType,
        minimum: usize,
        _maximum: Option<usize>,
        reserved: Option<usize>,
        guard: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        let (mut slot, returned) =
            NEXT.take().ok_or("no address space was reserved for this memory")?;
        if reserved.is_none_or(|reserved| reserved > RESERVED) || guard > GUARD {
            return Err("the slot is smaller than the compiled code requires".into());
        }
        if slot.snapshot.is_none() {
            slot.grow_to(minimum).map_err(|err| err.to_string())?;
        }
        if slot.size < minimum {
            return Err("the snapshot is smaller than the module's memory".into());
        }
        Ok(Box::new(SlotMemory { slot: Some(slot), returned }))
    }
}

/// A linear memory in a slot.
struct SlotMemory {
    /// `Some` until the memory is dropped.
    slot: Option<Slot>,
    returned: Returned,
}

// SAFETY: see `SlotCreator`.
unsafe impl LinearMemory for SlotMemory {
    fn byte_size(&self) -> usize {
        self.slot.as_ref().map_or(0, |slot| slot.size)
    }

    fn byte_capacity(&self) -> usize {
        RESERVED
    }

    fn grow_to(&mut self, new_size: usize) -> wasmtime::Result<()> {
        let slot = self.slot.as_mut().ok_or_else(|| wasmtime::format_err!("no slot"))?;
        Ok(slot.grow_to(new_size)?)
    }

    fn as_ptr(&self) -> *mut u8 {
        self.slot.as_ref().map_or(std::ptr::null_mut(), |slot| slot.base.as_ptr())
    }
}

impl Drop for SlotMemory {
    fn drop(&mut self) {
        *self.returned.lock().unwrap_or_else(PoisonError::into_inner) = self.slot.take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(pages: usize) -> Arc<Snapshot> {
        let bytes: Vec<u8> = (0..pages * WASM_PAGE).map(|at| (at / 7) as u8).collect();
        Arc::new(Snapshot::capture(&bytes).unwrap())
    }

    #[test]
    fn a_slot_starts_from_its_snapshot_and_returns_to_it() {
        for how in [ResetMethod::DirtyPages, ResetMethod::NewMapping] {
            let snapshot = snapshot(3);
            let mut whole = vec![0; snapshot.len()];
            snapshot.read_at(&mut whole, 0).unwrap();
            let mut slot = Slot::new().unwrap();
            slot.how = how;
            slot.map(&snapshot).unwrap();
            for more in [1, 40, 0, 2, 40, 3] {
                assert_eq!(slot.memory(), whole, "{how:?}");
                slot.grow_to((3 + more) * WASM_PAGE).unwrap();
                assert!(slot.memory()[3 * WASM_PAGE..].iter().all(|b| *b == 0), "{how:?}");
                for at in [0, 4095, 4096, 100_000, 3 * WASM_PAGE - 1] {
                    slot.memory()[at] ^= 0xff;
                }
                slot.memory()[3 * WASM_PAGE..].fill(0xee);
                slot.reset().unwrap();
                assert_eq!(slot.reset_method(), how);
            }
        }
    }

    /// The bytes of written pages that the slot holds.
    fn held(slot: &mut Slot) -> usize {
        let (base, len) = (slot.base.as_ptr() as usize, slot.size);
        let mut held = 0;
        let mut written = slot.written.take().expect("the pagemap is available");
        let add = |from: usize, to: usize| {
            held += to - from;
            Ok(())
        };
        written.each_run(base, base + len, add).unwrap();
        slot.written = Some(written);
        held
    }

    #[test]
    fn reset_returns_the_pages_of_a_run_that_wrote_more_than_usual() {
        const USUAL: usize = 40 * WASM_PAGE;
        let snapshot = snapshot(400);
        let mut whole = vec![0; snapshot.len()];
        snapshot.read_at(&mut whole, 0).unwrap();
        let mut slot = Slot::new().unwrap();
        slot.map(&snapshot).unwrap();
        let mut run = |len: usize| {
            slot.memory()[..len].fill(0xee);
            let returned = slot.reset().unwrap();
            assert_eq!(slot.reset_method(), ResetMethod::DirtyPages);
            assert!(slot.memory() == whole, "every byte is that of the snapshot");
            (returned, held(&mut slot))
        };
        // After the first run it is not known what is usual.
        assert_eq!(run(300 * WASM_PAGE), (true, 0));
        for _ in 0..3 {
            assert_eq!(run(USUAL), (false, USUAL));
            assert_eq!(run(400 * WASM_PAGE), (true, 0));
        }
        // A larger size that stays is the new usual.
        let many: Vec<bool> = (0..8).map(|_| run(300 * WASM_PAGE).0).collect();
        assert_eq!(many, [true, true, false, false, false, false, false, false]);
    }

    #[test]
    fn reset_zeroes_memory_beyond_the_snapshot() {
        let mut slot = Slot::new().unwrap();
        slot.map(&snapshot(1)).unwrap();
        for _ in 0..2 {
            slot.grow_to(72 << 20).unwrap();
            assert!(slot.memory()[WASM_PAGE..].iter().all(|byte| *byte == 0));
            slot.memory()[WASM_PAGE..].fill(0x5a);
            slot.reset().unwrap();
            assert_eq!(slot.size, WASM_PAGE);
        }
    }

    #[test]
    fn a_slot_without_a_snapshot_starts_empty() {
        let mut slot = Slot::new().unwrap();
        slot.grow_to(WASM_PAGE).unwrap();
        slot.memory().fill(1);
        slot.reset().unwrap();
        assert_eq!(slot.size, 0);
        slot.grow_to(WASM_PAGE).unwrap();
        assert!(slot.memory().iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_memory_without_a_slot_is_refused() {
        let ty = MemoryType::new(1, None);
        assert!(SlotCreator.new_memory(ty, WASM_PAGE, None, Some(RESERVED), GUARD).is_err());
    }
}
