//! Bounds the writes to the store of prepared models. Clients choose the shapes of inputs, and each
//! new combination creates a new snapshot: without a bound, one client could wear out a disk with
//! snapshots that are never used again.
//!
//! Each write raises two levels, which fall over time: one for each model, in snapshots, and one
//! for the whole store, in bytes. A snapshot that would raise a level above its limit is not
//! written; each process that needs it then prepares the model. The levels are stored in a file, so
//! that all processes share them and restarts do not reset them.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::private::{PrivateError, PrivateFolder};

/// Snapshots of one model that can be written at once, as a multiple of the number that is kept.
/// After that, the kept number can be written in each hour.
pub(super) const SNAPSHOTS_AT_ONCE: u64 = 4;
const HOUR: u64 = 3600;

/// Bytes that can be written at once, as a multiple of the size of the store. After that, its size
/// can be written in each day.
pub(super) const SIZES_AT_ONCE: u64 = 2;
const DAY: u64 = 24 * HOUR;

/// Maximum number of models whose level is stored.
const MAX_MODELS: usize = 1024;

/// Maximum size of the file, in bytes: slightly more than that number of models needs.
const MAX_FILE: u64 = 1 << 20;

const NAME: &str = "levels.json";

/// The amount by which a snapshot raises a model's level, so that the level can fall by fractions.
const SNAPSHOT: u64 = 1000;

/// A snapshot to write.
#[derive(Clone, Copy, Debug)]
pub(super) struct Writing<'a> {
    pub(super) model: &'a str,
    pub(super) bytes: u64,
    /// Number of snapshots of this model that are kept; at least 1.
    pub(super) snapshots_kept: u64,
    /// Size of the store in bytes.
    pub(super) store_size: u64,
}

/// The levels of recent writes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Levels {
    bytes: Level,
    models: BTreeMap<String, Level>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Level {
    level: u64,
    /// Time of the last change, in seconds since 1970.
    at: u64,
}

impl Level {
    /// The current level, which falls by `fall` in each `period` seconds.
    fn now(self, now: u64, fall: u64, period: u64) -> u64 {
        let fallen = u128::from(now.saturating_sub(self.at)) * u128::from(fall);
        let fallen = u64::try_from(fallen / u128::from(period)).unwrap_or(u64::MAX);
        self.level.saturating_sub(fallen)
    }
}

/// The time until a level has fallen by `by`.
fn wait(by: u64, fall: u64, period: u64) -> Duration {
    let seconds = u128::from(by) * u128::from(period) / u128::from(fall.max(1));
    Duration::from_secs(u64::try_from(seconds).unwrap_or(u64::MAX).saturating_add(1))
}

impl Levels {
    /// Raises the levels, unless one would exceed its limit: then returns the reason. `anyway`
    /// raises them regardless.
    fn raise(&mut self, write: &Writing<'_>, now: u64, anyway: bool) -> Result<(), String> {
        let mark = write.store_size.saturating_mul(SIZES_AT_ONCE);
        // The store may have been larger before: a level above the limit is reduced to it.
        let of_all = self.bytes.now(now, write.store_size, DAY).min(mark);
        let of_all = of_all.saturating_add(write.bytes);
        if of_all > mark && !anyway {
            let wait = wait(of_all - mark, write.store_size, DAY);
            return Err(format!(
                "the store's write limit is reached for {}; the limit is twice the store's size at \
                 once, and its size in each day (`BELLJAR_STORE_SIZE`)",
                minutes(wait)
            ));
        }
        let before = self.models.get(write.model).copied().unwrap_or_default();
        let fall = write.snapshots_kept.saturating_mul(SNAPSHOT);
        let mark = fall.saturating_mul(SNAPSHOTS_AT_ONCE);
        let level = before.now(now, fall, HOUR).min(mark).saturating_add(SNAPSHOT);
        if level > mark && !anyway {
            let wait = wait(level - mark, fall, HOUR);
            return Err(format!(
                "the write limit for snapshots of this model is reached for {}; the limit is {} at \
                 once, and {} in each hour (`limits.snapshots`)",
                minutes(wait),
                write.snapshots_kept.saturating_mul(SNAPSHOTS_AT_ONCE),
                write.snapshots_kept,
            ));
        }
        self.models.insert(write.model.to_owned(), Level { level, at: now });
        self.forget(write.model, now, fall);
        self.bytes = Level { level: of_all, at: now };
        Ok(())
    }

    /// Bounds the number of models, to keep lookups fast. Removes the lowest levels first.
    fn forget(&mut self, but: &str, now: u64, fall: u64) {
        while self.models.len() > MAX_MODELS {
            let others = self.models.iter().filter(|(model, _)| *model != but);
            let lowest = others.min_by_key(|(_, level)| level.now(now, fall, HOUR));
            let Some(lowest) = lowest.map(|(model, _)| model.clone()) else { return };
            self.models.remove(&lowest);
        }
    }
}

fn minutes(wait: Duration) -> String {
    match wait.as_secs().div_ceil(60) {
        0 | 1 => "a minute".to_owned(),
        minutes @ 2..120 => format!("{minutes} minutes"),
        minutes => format!("{} hours", minutes.div_ceil(60)),
    }
}

/// Why a file was not written.
#[derive(Debug)]
pub(super) enum NotWritten {
    /// It exceeds a limit; this is the reason.
    TooMuch(String),
    /// The folder cannot be used, or written.
    Folder(PrivateError),
}

impl From<PrivateError> for NotWritten {
    fn from(err: PrivateError) -> NotWritten {
        NotWritten::Folder(err)
    }
}

/// Charges the budget for a write, if it is permitted. Call it before the write, because a write
/// that fails halfway has worn the disk too.
pub(super) fn charge(place: &Path, write: &Writing<'_>, anyway: bool) -> Result<(), NotWritten> {
    let folder = PrivateFolder::open(place, "BELLJAR_CACHE_DIR")?;
    folder.lock_for_a_moment();
    let mut levels = read(&folder)?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    levels.raise(write, now.as_secs(), anyway).map_err(NotWritten::TooMuch)?;
    folder.write_file(NAME, |file| file.write_all(&serde_json::to_vec(&levels)?))?;
    Ok(())
}

/// The stored levels. An invalid file counts as missing: a user who could damage it can also write
/// to the disk directly.
fn read(folder: &PrivateFolder) -> Result<Levels, PrivateError> {
    let Some(file) = folder.open_file(NAME)? else { return Ok(Levels::default()) };
    let mut bytes = Vec::new();
    let read = file.take(MAX_FILE).read_to_end(&mut bytes);
    read.map_err(|err| folder.error(&folder.path().join(NAME), err))?;
    Ok(serde_json::from_slice(&bytes).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(model: &str, bytes: u64) -> Writing<'_> {
        Writing { model, bytes, snapshots_kept: 4, store_size: 1 << 30 }
    }

    #[test]
    fn snapshots_of_one_model_are_bounded_at_once_and_in_each_hour() {
        let mut levels = Levels::default();
        let start = 1_800_000_000;
        // A request in each second of ten hours.
        let mut written = Vec::new();
        for second in 0..36_000 {
            if levels.raise(&snapshot("m", 1 << 10), start + second, false).is_ok() {
                written.push(second);
            }
        }
        assert_eq!(written.iter().filter(|at| **at < 60).count(), 16);
        assert_eq!(written.len(), 16 + 40 - 1);
        // Another model has its own level.
        levels.raise(&snapshot("n", 1 << 10), start + 36_000, false).unwrap();
        // The level falls to zero in an idle period.
        let later = start + 36_000 + 5 * HOUR;
        let at_once = (0..100).filter(|_| levels.raise(&snapshot("m", 1), later, false).is_ok());
        assert_eq!(at_once.count(), 16);
    }

    #[test]
    fn bytes_of_all_models_are_bounded_at_once_and_in_each_day() {
        let mut levels = Levels::default();
        let start = 1_800_000_000;
        let (mut written, mut refused) = (0_u64, 0);
        for second in 0..4 * DAY / 60 {
            let model = format!("{second}");
            let write = Writing { store_size: 1 << 30, ..snapshot(&model, 100 << 20) };
            match levels.raise(&write, start + second * 60, false) {
                Ok(()) => written += write.bytes,
                Err(why) => {
                    assert!(why.contains("BELLJAR_STORE_SIZE"), "{why}");
                    refused += 1;
                }
            }
            assert!(levels.models.len() <= MAX_MODELS);
        }
        assert!(refused > 0);
        assert!(written <= (2 + 4) << 30, "{written}");
        assert!(written > 5 << 30, "{written}");
    }

    #[test]
    fn a_clock_that_goes_back_neither_resets_nor_blocks_the_budget() {
        let mut levels = Levels::default();
        let start = 1_800_000_000;
        while levels.raise(&snapshot("m", 1), start, false).is_ok() {}
        assert!(levels.raise(&snapshot("m", 1), start - DAY, false).is_err());
        assert!(levels.raise(&snapshot("m", 1), start + HOUR, false).is_ok());
        // An unmetered write is charged, and permitted in any case.
        while levels.raise(&snapshot("n", 1), start, false).is_ok() {}
        levels.raise(&snapshot("n", 1), start, true).unwrap();
    }

    #[test]
    fn levels_are_stored_and_an_invalid_file_counts_as_missing() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("writes");
        let charge = || charge(&folder, &snapshot("m", 1), false);
        assert_eq!((0..40).filter(|_| charge().is_ok()).count(), 16);
        assert!(
            matches!(charge(), Err(NotWritten::TooMuch(why)) if why.contains("limits.snapshots"))
        );
        std::fs::write(folder.join(NAME), b"{").unwrap();
        charge().unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        std::fs::write(&folder, b"in the way").unwrap();
        assert!(matches!(charge(), Err(NotWritten::Folder(_))));
    }
}
