//! Stores deaths and quarantine on disk, so that they persist across processes: the command line is
//! a new process for each run.
//!
//! The private folder `quarantine` in the state folder holds a file for each model in quarantine,
//! named after the model's digest. Its existence alone means quarantine, even if it cannot be read.
//! A file of the digest and `.strikes` counts the deaths so far; an invalid one means quarantine
//! too. A model without files has no deaths. A folder that is open to others is an error, because
//! other users could release a model.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::sandbox::{PrivateError, PrivateFolder};
use crate::trust::Digest;
use belljar_text::Escaped;

const VARIABLE: &str = "BELLJAR_STATE_DIR";
const FOLDER: &str = "quarantine";
const STRIKES: &str = ".strikes";

/// Maximum size of a file, in bytes.
const MAX_FILE: u64 = 8 << 10;

/// Maximum number of models whose deaths are stored; models in quarantine have no maximum.
const MAX_STRIKES: usize = 1024;

/// A model in quarantine.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Quarantined {
    /// SHA-256 of the model.
    pub model: Digest,
    /// The model's name in errors. Untrusted text: print it through [`belljar_text::Escaped`].
    pub label: String,
    /// How its last worker ended. Untrusted text, too.
    pub why: String,
    /// How many of its workers died.
    pub deaths: u32,
    /// When it was put into quarantine, if known.
    pub since: Option<SystemTime>,
}

impl Quarantined {
    pub(super) fn new(model: Digest, label: &str, why: String, deaths: u32) -> Quarantined {
        let label = label.chars().take(200).collect();
        Quarantined { model, label, why, deaths, since: Some(SystemTime::now()) }
    }
}

impl std::fmt::Display for Quarantined {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Quarantined { model, why, deaths, .. } = self;
        let why = Escaped::cut(why, 250);
        write!(f, "it is in quarantine: {deaths} of its worker processes died; the last ")?;
        write!(
            f,
            "{why}; after you have found the cause, release it with \
             `belljar quarantine release {model}` "
        )?;
        f.write_str("(or `Host::release`)")
    }
}

/// Deaths of a model that is not in quarantine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Strikes {
    pub(super) deaths: u32,
    /// Answers since the last death.
    pub(super) answers: u32,
}

pub(super) enum Standing {
    Strikes(Strikes),
    Quarantined(Quarantined),
}

/// The content of the file of a model in quarantine.
#[derive(Serialize, Deserialize)]
struct Entry {
    label: String,
    why: String,
    deaths: u32,
    /// Seconds since 1970.
    since: u64,
}

/// The folder of these files.
pub(super) struct Ledger {
    /// The state folder, if there is one.
    state: Option<PathBuf>,
}

/// Blocks other processes while it is held.
pub(super) struct Turn {
    _folder: Option<PrivateFolder>,
}

impl Ledger {
    pub(super) fn new(state: Option<&Path>) -> Ledger {
        Ledger { state: state.map(Path::to_owned) }
    }

    /// The folder, if it exists.
    pub(super) fn folder(&self) -> Result<Option<PrivateFolder>, PrivateError> {
        let Some(state) = &self.state else { return Ok(None) };
        match PrivateFolder::open_existing(state, VARIABLE)? {
            Some(_) => PrivateFolder::open_existing(&state.join(FOLDER), VARIABLE),
            None => Ok(None),
        }
    }

    fn made_folder(&self) -> Result<PrivateFolder, PrivateError> {
        let nowhere = PrivateError::Nowhere { variable: VARIABLE };
        let state = self.state.as_ref().ok_or(nowhere)?;
        PrivateFolder::open(state, VARIABLE)?;
        PrivateFolder::open(&state.join(FOLDER), VARIABLE)
    }

    /// Prevents changes by other processes between reading and writing.
    pub(super) fn turn(&self) -> Turn {
        // Without a lock, the worst case is that a death is not counted.
        let folder = self.made_folder().ok();
        Turn { _folder: folder.inspect(PrivateFolder::lock_for_a_moment) }
    }

    /// The standing of a model.
    pub(super) fn read(&self, model: Digest) -> Result<Standing, PrivateError> {
        match self.folder()? {
            Some(folder) => read(&folder, model),
            None => Ok(Standing::Strikes(Strikes::default())),
        }
    }

    /// Stores the deaths of a model, or removes its file if there are none.
    pub(super) fn write(&self, model: Digest, strikes: Strikes) -> Result<(), PrivateError> {
        let name = format!("{model}{STRIKES}");
        if strikes == Strikes::default() {
            return self.folder()?.map_or(Ok(()), |folder| folder.remove(&name));
        }
        let folder = self.made_folder()?;
        write_file(&folder, &name, &strikes)?;
        forget_oldest(&folder)
    }

    /// Puts a model into quarantine.
    pub(super) fn quarantine(&self, quarantined: &Quarantined) -> Result<(), PrivateError> {
        let folder = self.made_folder()?;
        let since = quarantined.since.unwrap_or(SystemTime::UNIX_EPOCH);
        let since = since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let Quarantined { model, label, why, deaths, .. } = quarantined.clone();
        let name = model.to_string();
        write_file(&folder, &name, &Entry { label, why, deaths, since })?;
        folder.remove(&format!("{name}{STRIKES}"))
    }

    /// Removes all files of a model. Returns whether it was in quarantine.
    pub(super) fn release(&self, model: Digest) -> Result<bool, PrivateError> {
        let Some(folder) = self.folder()? else { return Ok(false) };
        let was_in = matches!(read(&folder, model)?, Standing::Quarantined(_));
        folder.remove(&format!("{model}{STRIKES}"))?;
        folder.remove(&model.to_string())?;
        Ok(was_in)
    }

    pub(super) fn list(&self) -> Result<Vec<Quarantined>, PrivateError> {
        let Some(folder) = self.folder()? else { return Ok(Vec::new()) };
        let names = folder.names()?;
        let stems = names.iter().map(|name| name.strip_suffix(STRIKES).unwrap_or(name));
        let mut models: Vec<Digest> = stems.filter_map(|stem| stem.parse().ok()).collect();
        models.dedup();
        let mut list = Vec::new();
        for model in models {
            if let Standing::Quarantined(quarantined) = read(&folder, model)? {
                list.push(quarantined);
            }
        }
        Ok(list)
    }
}

fn read(folder: &PrivateFolder, model: Digest) -> Result<Standing, PrivateError> {
    let name = model.to_string();
    if exists(folder, &name)? {
        let entry: Option<Entry> = read_file(folder, &name);
        return Ok(Standing::Quarantined(match entry {
            Some(Entry { label, why, deaths, since }) => {
                let since = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(since));
                Quarantined { model, label, why, deaths, since }
            }
            None => unreadable(model),
        }));
    }
    let name = format!("{name}{STRIKES}");
    if !exists(folder, &name)? {
        return Ok(Standing::Strikes(Strikes::default()));
    }
    let strikes = read_file(folder, &name);
    // Another process may have removed it just now.
    if strikes.is_none() && !exists(folder, &name)? {
        return Ok(Standing::Strikes(Strikes::default()));
    }
    Ok(strikes.map_or_else(|| Standing::Quarantined(unreadable(model)), Standing::Strikes))
}

fn unreadable(model: Digest) -> Quarantined {
    let why = "has a record that cannot be read".to_owned();
    Quarantined { model, label: String::new(), why, deaths: 0, since: None }
}

fn exists(folder: &PrivateFolder, name: &str) -> Result<bool, PrivateError> {
    match folder.stat(name) {
        Ok(_) => Ok(true),
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(err) => Err(folder.error(&folder.path().join(name), err)),
    }
}

fn read_file<T: for<'a> Deserialize<'a>>(folder: &PrivateFolder, name: &str) -> Option<T> {
    let mut bytes = Vec::new();
    folder.open_file(name).ok()??.take(MAX_FILE).read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}

fn write_file(
    folder: &PrivateFolder,
    name: &str,
    content: &impl Serialize,
) -> Result<(), PrivateError> {
    folder.write_file(name, |file| file.write_all(&serde_json::to_vec(content)?))
}

/// Bounds the number of models with stored deaths, to keep listing fast.
fn forget_oldest(folder: &PrivateFolder) -> Result<(), PrivateError> {
    let names = folder.names()?;
    let strikes: Vec<_> = names.iter().filter(|name| name.ends_with(STRIKES)).collect();
    if strikes.len() <= MAX_STRIKES {
        return Ok(());
    }
    let age = |name: &&&String| folder.stat(name).map_or(0, |stat| stat.st_mtime);
    strikes.iter().min_by_key(age).map_or(Ok(()), |oldest| folder.remove(oldest))
}
