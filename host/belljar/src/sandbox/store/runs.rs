//! The runs of nonzero pages of a snapshot. Only those are stored.

use std::io;

use super::super::snapshot::Snapshot;

/// Page size of the file format, independent of the machine's.
const PAGE: usize = 4 << 10;

/// Number of bytes scanned at a time.
const CHUNK: usize = 64 * PAGE;

/// Runs of nonzero pages, in ascending order.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Runs {
    runs: Vec<Run>,
    /// Total bytes of all runs.
    len: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    /// Offset of the run in the snapshot, in bytes.
    offset: u64,
    /// Offset of the run in the data of all runs, in bytes.
    start: u64,
    /// Its length in bytes.
    len: u64,
}

impl Runs {
    /// Scans a snapshot.
    pub(super) fn of(snapshot: &Snapshot) -> io::Result<Runs> {
        let mut runs = Runs { runs: Vec::new(), len: 0 };
        let mut chunk = vec![0; CHUNK.min(snapshot.len())];
        let mut at = 0;
        while at < snapshot.len() {
            let len = CHUNK.min(snapshot.len() - at);
            let chunk = chunk.get_mut(..len).unwrap_or_default();
            snapshot.read_at(chunk, at)?;
            for (number, page) in chunk.chunks(PAGE).enumerate() {
                if page.iter().any(|byte| *byte != 0) {
                    runs.push((at + number * PAGE) as u64, page.len() as u64);
                }
            }
            at += len;
        }
        Ok(runs)
    }

    fn push(&mut self, offset: u64, len: u64) {
        match self.runs.last_mut() {
            Some(last) if last.offset + last.len == offset => last.len += len,
            _ => self.runs.push(Run { offset, start: self.len, len }),
        }
        self.len += len;
    }

    /// Total bytes of all runs.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// The table in the file format: index of the first page and number of pages of each run, both
    /// `u32`, little-endian.
    pub(super) fn encode(&self) -> Vec<u8> {
        let pages = |bytes: u64| ((bytes / PAGE as u64) as u32).to_le_bytes();
        self.runs.iter().flat_map(|run| [pages(run.offset), pages(run.len)]).flatten().collect()
    }

    /// Reads a table; `None` unless its runs are in order and inside a snapshot of `size` bytes.
    pub(super) fn decode(table: &[u8], size: u64) -> Option<Runs> {
        let mut runs = Runs { runs: Vec::with_capacity(table.len() / 8), len: 0 };
        let mut end = 0;
        for entry in table.chunks(8) {
            let (first, count) = entry.split_at_checked(4)?;
            let pages = |bytes: &[u8]| {
                Some(u64::from(u32::from_le_bytes(bytes.try_into().ok()?)) * PAGE as u64)
            };
            let (offset, len) = (pages(first)?, pages(count)?);
            if len == 0 || offset < end || offset + len > size {
                return None;
            }
            end = offset + len;
            runs.push(offset, len);
        }
        Some(runs)
    }

    /// Calls `piece` for each contiguous part of the snapshot that the `len` bytes of data from
    /// `start` on belong to, with its offset in the snapshot and its range relative to `start`.
    pub(super) fn each_piece(
        &self,
        start: u64,
        len: u64,
        mut piece: impl FnMut(u64, std::ops::Range<usize>) -> io::Result<()>,
    ) -> io::Result<()> {
        let end = start + len;
        let first = self.runs.partition_point(|run| run.start + run.len <= start);
        for run in self.runs.iter().skip(first).take_while(|run| run.start < end) {
            let (from, to) = (run.start.max(start), (run.start + run.len).min(end));
            let range = (from - start) as usize..(to - start) as usize;
            piece(run.offset + (from - run.start), range)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonzero_pages_are_found_and_restored() {
        let mut memory = vec![0u8; 64 << 10 << 4];
        for at in [0, 5000, 9000, 300_000, 400_000, 700_000, (64 << 10 << 4) - 1] {
            memory[at] = 1;
        }
        memory[262_144 - 5000..262_144 + 5000].fill(7);
        let snapshot = Snapshot::capture(&memory).unwrap();
        let runs = Runs::of(&snapshot).unwrap();
        assert_eq!(Runs::decode(&runs.encode(), memory.len() as u64), Some(runs));
        let runs = Runs::of(&snapshot).unwrap();
        let mut copy = vec![0u8; memory.len()];
        // Steps that align with neither pages nor runs.
        for start in (0..runs.len()).step_by(5001) {
            let len = 5001.min(runs.len() - start);
            let mut seen = 0;
            runs.each_piece(start, len, |offset, range| {
                assert_eq!(range.start, seen);
                seen = range.end;
                let offset = offset as usize;
                copy[offset..offset + range.len()]
                    .copy_from_slice(&memory[offset..offset + range.len()]);
                Ok(())
            })
            .unwrap();
            assert_eq!(seen as u64, len);
        }
        assert_eq!(copy, memory);
        assert!(runs.len() < memory.len() as u64 / 4);
    }

    #[test]
    fn invalid_tables_are_refused() {
        let table = |entries: &[(u32, u32)]| -> Vec<u8> {
            entries.iter().flat_map(|(a, b)| [a.to_le_bytes(), b.to_le_bytes()]).flatten().collect()
        };
        let size = 16 * PAGE as u64;
        assert!(Runs::decode(&table(&[(0, 1), (1, 2), (15, 1)]), size).is_some());
        for entries in [
            &[(0, 0)][..],
            &[(0, 17)],
            &[(16, 1)],
            &[(u32::MAX, u32::MAX)],
            &[(2, 2), (3, 1)],
            &[(4, 1), (2, 1)],
        ] {
            assert_eq!(Runs::decode(&table(entries), size), None, "{entries:?}");
        }
        assert_eq!(Runs::decode(&[0; 7], size), None);
    }
}
