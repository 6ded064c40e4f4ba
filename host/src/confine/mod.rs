//! The process around a sandbox: how a worker is started, confined, talked to and killed. What a
//! worker does with a model is not known here.

pub(crate) mod channel;
pub(crate) mod ended;
pub(crate) mod memory;
pub(crate) mod process;
#[expect(dead_code, reason = "workers do not have roles yet")]
pub(crate) mod role;
