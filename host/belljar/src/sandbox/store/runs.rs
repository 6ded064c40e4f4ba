//! Which pages of a snapshot are not zero: only those are stored.

use std::io;

use super::super::snapshot::Snapshot;

/// Pages are told apart at this size, whatever the machine's own is.
const PAGE: usize = 4 << 10;

/// Bytes looked at in one go.
const CHUNK: usize = 64 * PAGE;

/// Runs of pages that are not zero, in ascending order.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Runs {
    runs: Vec<Run>,
    /// Bytes in all runs together.
    len: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    /// Where the run is in the snapshot, in bytes.
    place: u64,
    /// Where it is among the data of all runs, in bytes.
    start: u64,
    /// Its length in bytes.
    len: u64,
}

impl Runs {
    /// Looks through a snapshot.
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

    fn push(&mut self, place: u64, len: u64) {
        match self.runs.last_mut() {
            Some(last) if last.place + last.len == place => last.len += len,
            _ => self.runs.push(Run { place, start: self.len, len }),
        }
        self.len += len;
    }

    /// Bytes in all runs together.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// The table that a file holds: number of the first page and count of pages of each run, both
    /// `u32`, little-endian.
    pub(super) fn encode(&self) -> Vec<u8> {
        let pages = |bytes: u64| ((bytes / PAGE as u64) as u32).to_le_bytes();
        self.runs.iter().flat_map(|run| [pages(run.place), pages(run.len)]).flatten().collect()
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
            let (place, len) = (pages(first)?, pages(count)?);
            if len == 0 || place < end || place + len > size {
                return None;
            }
            end = place + len;
            runs.push(place, len);
        }
        Some(runs)
    }

    /// Calls `piece` for each stretch of the snapshot that data from `start` on, `len` bytes of it,
    /// belongs to: its place in the snapshot, and its offset from `start` and length.
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
            piece(run.place + (from - run.start), range)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_are_not_zero_are_found_and_come_back() {
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
        // In steps that fit neither pages nor runs.
        for start in (0..runs.len()).step_by(5001) {
            let len = 5001.min(runs.len() - start);
            let mut seen = 0;
            runs.each_piece(start, len, |place, range| {
                assert_eq!(range.start, seen);
                seen = range.end;
                let place = place as usize;
                copy[place..place + range.len()]
                    .copy_from_slice(&memory[place..place + range.len()]);
                Ok(())
            })
            .unwrap();
            assert_eq!(seen as u64, len);
        }
        assert_eq!(copy, memory);
        assert!(runs.len() < memory.len() as u64 / 4);
    }

    #[test]
    fn tables_that_make_no_sense_are_refused() {
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
