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
    crate::policy::units::parse_size(&text).map_err(wrong)
}

/// A folder of the user's: what `own` says, else `belljar` in what `xdg` says or in the home folder.
pub(crate) fn default_folder(own: &str, xdg: &str, in_home: &str) -> Result<PathBuf, Error> {
    let absolute =
        |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    if let Some(path) = std::env::var_os(own).filter(|path| !path.is_empty()) {
        return std::path::absolute(Path::new(&path))
            .map_err(|err| Error::new(ErrorKind::Host(format!("{own}: {err}"))));
    }
    absolute(xdg)
        .or_else(|| absolute("HOME").map(|home| home.join(in_home)))
        .map(|folder| folder.join("belljar"))
        .ok_or_else(|| {
            let why = format!("no folder of your own to keep files in: set {own} or HOME");
            Error::new(ErrorKind::Host(why))
        })
}
