//! What the environment says about where files are kept, and how much.

use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind};

/// How large the store of prepared models may be.
pub(crate) fn default_store_size() -> Result<u64, Error> {
    const VARIABLE: &str = "BELLJAR_STORE_SIZE";
    const DEFAULT: u64 = 2 << 30;
    let Some(text) = std::env::var_os(VARIABLE).filter(|text| !text.is_empty()) else {
        return Ok(DEFAULT);
    };
    let text = text.to_string_lossy();
    let wrong = |why| Error::new(ErrorKind::Host(format!("{VARIABLE}={text}: {why}; write 2 GiB")));
    belljar_policy::units::parse_size(&text).map_err(wrong)
}

/// The folder for what can be made again: compiled code and prepared models.
pub fn cache_folder() -> Result<Option<PathBuf>, Error> {
    default_folder("BELLJAR_CACHE_DIR", "XDG_CACHE_HOME", ".cache")
}

/// The folder for what cannot: the secret of seals, and models in quarantine.
pub fn state_folder() -> Result<Option<PathBuf>, Error> {
    default_folder("BELLJAR_STATE_DIR", "XDG_STATE_HOME", ".local/state")
}

/// A folder of the user's: what `own` says, else `belljar` in what `xdg` says or in the home folder.
/// `None` if none of them says anything.
fn default_folder(own: &str, xdg: &str, in_home: &str) -> Result<Option<PathBuf>, Error> {
    let absolute =
        |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    if let Some(path) = std::env::var_os(own).filter(|path| !path.is_empty()) {
        return std::path::absolute(Path::new(&path))
            .map(Some)
            .map_err(|err| Error::new(ErrorKind::Host(format!("{own}: {err}"))));
    }
    let folder = absolute(xdg).or_else(|| absolute("HOME").map(|home| home.join(in_home)));
    Ok(folder.map(|folder| folder.join("belljar")))
}
