//! Default folders and sizes of storage, from the environment.

use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind};

/// The default maximum size of the store of prepared models.
pub(crate) fn default_store_size() -> Result<u64, Error> {
    const VARIABLE: &str = "BELLJAR_STORE_SIZE";
    const DEFAULT: u64 = 2 << 30;
    let Some(text) = std::env::var_os(VARIABLE).filter(|text| !text.is_empty()) else {
        return Ok(DEFAULT);
    };
    let text = text.to_string_lossy();
    let wrong = |why| {
        Error::new(ErrorKind::Host(format!("{VARIABLE}={text}: {why}; write a size such as 2 GiB")))
    };
    belljar_policy::units::parse_size(&text).map_err(wrong)
}

/// The folder for data that can be recreated: compiled code and prepared models.
pub fn cache_folder() -> Result<Option<PathBuf>, Error> {
    default_folder("BELLJAR_CACHE_DIR", "XDG_CACHE_HOME", ".cache")
}

/// The folder for data that cannot be recreated: the secret of seals, and models in quarantine.
pub fn state_folder() -> Result<Option<PathBuf>, Error> {
    default_folder("BELLJAR_STATE_DIR", "XDG_STATE_HOME", ".local/state")
}

/// A folder of the user: the value of `own`, else `belljar` in the folder `xdg` or in the home
/// folder. `None` if no variable is set.
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
