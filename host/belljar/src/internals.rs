//! What Belljar's own command line uses beyond the public interface. It changes without notice.

pub use crate::audit::{Decision, Subject, Verdict};
pub use crate::dirs::{cache_folder, state_folder};
pub use crate::model::{PictureError, ProfiledRun, external_data_paths};
#[cfg(feature = "programs")]
pub use crate::program::{Spent, is_component};
pub use crate::sandbox::support;
pub use crate::trust::{SideFile, SideFileError, signature};

use crate::{Error, Host};

/// Fails if the folder for what cannot be made again is not usable.
pub fn check_state(host: &Host) -> Result<(), Error> {
    host.inner.check_state()
}

/// Fails if the folder for compiled code is not usable.
pub fn check_cache(host: &Host) -> Result<(), Error> {
    host.inner.check_cache()
}

/// Writes a decision of the caller's into the host's log of decisions.
pub fn decide(host: &Host, decision: &Decision<'_>) -> Result<(), Error> {
    host.inner.decide(decision).map_err(Error::new)
}

/// Runs a sequence of file operations of a guest program, as `bytes` choose them, below `base`. For
/// fuzzing.
#[cfg(all(fuzzing, feature = "programs"))]
pub fn run_file_operations(bytes: &[u8], base: &std::path::Path) {
    crate::program::run_file_operations(bytes, base);
}
