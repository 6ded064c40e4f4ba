//! The process around a sandbox: how a worker is started, confined, talked to and killed. What a
//! worker does with a model is not known here.

pub(crate) mod channel;
pub(crate) mod heap;
#[cfg(feature = "test-hooks")]
pub(crate) mod hooks;
pub(crate) mod memory;
pub(crate) mod process;
pub(crate) mod role;
pub(crate) mod seccomp;
