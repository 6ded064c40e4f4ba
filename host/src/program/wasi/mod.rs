//! What a guest program reaches of WASI 0.2: what its policy grants, and stubs that refuse.

use std::os::fd::OwnedFd;

use wasmtime::component::Linker;

use crate::policy::{Access, NetworkGrant, Peer, Program, Protocol, Quotas};

/// Everything that was granted to one program for one run, opened and ready.
pub(crate) struct Resources {
    pub(crate) program: Program,
    /// What reaches the program if `program.arguments` says so.
    pub(crate) arguments: Vec<String>,
    pub(crate) files: Vec<OpenedGrant>,
    pub(crate) network: Vec<NetworkGrant>,
    pub(crate) quotas: Quotas,
    pub(crate) outside: Box<dyn Outside>,
}

/// A `[[filesystem]]` grant that the supervisor has opened: never opened by its path again.
pub(crate) struct OpenedGrant {
    pub(crate) descriptor: OwnedFd,
    /// Where the program sees it.
    pub(crate) guest: String,
    pub(crate) access: Access,
}

/// What the program's process asks of the supervisor during a run.
pub(crate) trait Outside: Send + 'static {
    /// A connection to a granted peer: connected, checked, and not to be made by this process.
    fn connect(&mut self, host: &Peer, port: u16, protocol: Protocol) -> Result<OwnedFd, Refusal>;

    /// One line that the program printed, bounded and escaped.
    fn print(&mut self, stream: Stream, line: &str);

    /// Something that was asked for, and whether the policy grants it.
    fn decided(&mut self, asked: &Asked<'_>);
}

/// Why something granted did not come about; or that it is not granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal(pub(crate) String);

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) enum Stream {
    Out,
    Err,
}

/// One thing that a program asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    /// A path as the program sees it, a peer, a key of the policy.
    pub(crate) resource: &'a str,
    /// `read`, `write`, `connect`, `resolve`, …
    pub(crate) access: &'a str,
    pub(crate) allowed: bool,
    /// The line of policy that decided, or that would have allowed it.
    pub(crate) rule: &'a str,
}

/// A program's side of WASI: part of its store's data.
pub(crate) struct WasiState {
    _resources: Resources,
}

impl WasiState {
    pub(crate) fn new(resources: Resources) -> WasiState {
        WasiState { _resources: resources }
    }
}

/// Data of a store that has a [`WasiState`].
pub(crate) trait HasWasi: Send + 'static {
    fn wasi(&mut self) -> &mut WasiState;
}

/// Gives a linker every interface of WASI 0.2 that programs of ordinary toolchains import.
pub(crate) fn add_to_linker<T: HasWasi>(_linker: &mut Linker<T>) -> wasmtime::Result<()> {
    Ok(())
}
