//! The part of WASI 0.2 that a guest program can use: what its policy grants, and stubs that
//! refuse.
//!
//! Only the generated bindings come from wasmtime-wasi. Its implementation has an asynchronous
//! runtime with threads, and opens files by path. Here every function is synchronous, runs on the
//! thread of the program, and uses descriptors that the supervisor opened. Functions without a
//! grant exist but refuse, because programs of ordinary toolchains import most of WASI and must be
//! able to start.
//!
//! A call may block (for a peer, or for a time that the program set), and epochs do not interrupt
//! it. The supervisor ends the process at the deadline.

mod broker;
mod budget;
mod cli;
mod filesystem;
mod io;
mod print;
#[cfg(any(test, fuzzing))]
pub(crate) mod sequences;
mod sockets;
mod streams;
#[cfg(test)]
mod system_calls;
mod table;
#[cfg(test)]
mod tests;

use std::os::fd::OwnedFd;
use std::time::Instant;

use wasmtime::component::{HasSelf, Linker};
use wasmtime_wasi::p2::bindings::sync::sockets as sync_sockets;
use wasmtime_wasi::p2::bindings::sync::{filesystem as sync_filesystem, io as sync_io};
use wasmtime_wasi::p2::bindings::{
    cli as cli_bindings, clocks, random, sockets as socket_bindings,
};

use belljar_policy::{Access, NetworkGrant, Peer, Program, Protocol, Quotas, key_rule};
#[cfg(test)]
pub(crate) use broker::Resolver;
pub(crate) use broker::{Broker, Denial};
use budget::Budget;
pub use budget::Spent;
use filesystem::Files;
pub(crate) use filesystem::{AtName, Below, Views, open_grant};
use print::Printer;
use sockets::Peers;
#[allow(unused_imports, reason = "taken into use with the programs")]
#[cfg(test)]
pub(crate) use system_calls::SYSTEM_CALLS;
use table::Table;

/// Everything that is granted to one run of a program, already opened.
pub(crate) struct Resources {
    pub(crate) program: Program,
    /// Arguments, which the program gets if `program.arguments` is set.
    pub(crate) arguments: Vec<String>,
    pub(crate) files: Vec<OpenedGrant>,
    pub(crate) network: Vec<NetworkGrant>,
    pub(crate) quotas: Quotas,
    pub(crate) outside: Box<dyn Outside>,
}

/// A `[[filesystem]]` grant that the supervisor has opened. It must not be opened by its path
/// again.
pub(crate) struct OpenedGrant {
    pub(crate) descriptor: OwnedFd,
    /// Where the program sees it.
    pub(crate) guest: String,
    pub(crate) access: Access,
}

/// Requests of the program's process to the supervisor during a run.
pub(crate) trait Outside: Send + 'static {
    /// Opens a connection to a granted peer. The supervisor checks, logs and connects, because this
    /// process cannot.
    fn connect(&mut self, host: &Peer, port: u16, protocol: Protocol) -> Result<OwnedFd, Refusal>;

    /// Forwards one line that the program printed, bounded and escaped.
    fn print(&mut self, stream: Stream, line: &str);

    /// Checks a name that is about to be removed, moved or replaced for mounts, because the
    /// program's process does not see mounts that were made after it was started.
    ///
    /// # Errors
    /// If the supervisor does not answer.
    fn look(&mut self, at: &Below) -> std::io::Result<AtName>;

    /// Logs a request, and whether the policy grants it, after the last check and before it takes
    /// effect. Connections are decided and logged by the supervisor.
    ///
    /// # Errors
    /// If it cannot be logged. Then the request must have no effect.
    fn decided(&mut self, asked: &Asked<'_>) -> std::io::Result<()>;
}

/// Why a request failed or was not granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal(pub(crate) String);

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) enum Stream {
    Out,
    Err,
}

/// A request of a program.
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
    program: Program,
    arguments: Vec<String>,
    files: Files,
    peers: Peers,
    budget: Budget,
    printer: Printer,
    table: Table,
    seed: Seed,
    began: Instant,
    /// Keys of `[program]` whose use is logged.
    logged: Vec<&'static str>,
    outside: Box<dyn Outside>,
}

impl WasiState {
    pub(crate) fn new(resources: Resources) -> WasiState {
        let Resources { program, arguments, files, network, quotas, mut outside } = resources;
        WasiState {
            files: Files::new(files, &mut *outside),
            peers: Peers::new(network),
            budget: Budget::new(&quotas),
            printer: Printer::new(&program),
            table: Table::new(),
            seed: Seed::new(),
            began: Instant::now(),
            logged: Vec::new(),
            program,
            arguments,
            outside,
        }
    }

    /// What the run has used so far.
    pub(crate) fn spent(&self) -> Spent {
        self.budget.spent()
    }

    /// Logs the first use of a key of `[program]`.
    fn used(&mut self, key: &'static str, allowed: bool) -> std::io::Result<()> {
        if self.logged.contains(&key) {
            return Ok(());
        }
        self.logged.push(key);
        let (resource, rule) = (format!("program.{key}"), key_rule("program", key));
        self.outside.decided(&Asked { resource: &resource, access: "use", allowed, rule: &rule })
    }
}

impl Drop for WasiState {
    fn drop(&mut self) {
        self.printer.flush(&mut *self.outside);
    }
}

/// The source of random numbers without a grant: the same bytes in every run.
struct Seed(blake3::OutputReader);

impl Seed {
    fn new() -> Seed {
        Seed(blake3::Hasher::new().update(b"belljar: no randomness was granted").finalize_xof())
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        self.0.fill(bytes);
    }
}

/// The data of a store, which has a [`WasiState`].
pub(crate) trait HasWasi: Send + 'static {
    fn wasi(&mut self) -> &mut WasiState;
}

/// Adds the interfaces of WASI 0.2 that programs of ordinary toolchains import to a linker.
pub(crate) fn add_to_linker<T: HasWasi>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    type Data = HasSelf<WasiState>;
    let (l, wasi) = (linker, T::wasi);

    wasmtime_wasi::p2::bindings::io::error::add_to_linker::<T, Data>(l, wasi)?;
    sync_io::poll::add_to_linker::<T, Data>(l, wasi)?;
    sync_io::streams::add_to_linker::<T, Data>(l, wasi)?;

    cli_bindings::environment::add_to_linker::<T, Data>(l, wasi)?;
    cli_bindings::exit::add_to_linker::<T, Data>(l, wasi)?;
    cli_bindings::stdin::add_to_linker::<T, Data>(l, wasi)?;
    cli_bindings::stdout::add_to_linker::<T, Data>(l, wasi)?;
    cli_bindings::stderr::add_to_linker::<T, Data>(l, wasi)?;
    cli_bindings::terminal_input::add_to_linker::<T, Data>(l, wasi)?;
    cli_bindings::terminal_output::add_to_linker::<T, Data>(l, wasi)?;
    cli_bindings::terminal_stdin::add_to_linker::<T, Data>(l, wasi)?;
    cli_bindings::terminal_stdout::add_to_linker::<T, Data>(l, wasi)?;
    cli_bindings::terminal_stderr::add_to_linker::<T, Data>(l, wasi)?;
    clocks::wall_clock::add_to_linker::<T, Data>(l, wasi)?;
    clocks::monotonic_clock::add_to_linker::<T, Data>(l, wasi)?;
    random::random::add_to_linker::<T, Data>(l, wasi)?;
    random::insecure::add_to_linker::<T, Data>(l, wasi)?;
    random::insecure_seed::add_to_linker::<T, Data>(l, wasi)?;

    wasmtime_wasi::p2::bindings::filesystem::preopens::add_to_linker::<T, Data>(l, wasi)?;
    sync_filesystem::types::add_to_linker::<T, Data>(l, wasi)?;

    let options = socket_bindings::network::LinkOptions::default();
    socket_bindings::network::add_to_linker::<T, Data>(l, &options, wasi)?;
    socket_bindings::instance_network::add_to_linker::<T, Data>(l, wasi)?;
    socket_bindings::ip_name_lookup::add_to_linker::<T, Data>(l, wasi)?;
    socket_bindings::tcp_create_socket::add_to_linker::<T, Data>(l, wasi)?;
    sync_sockets::tcp::add_to_linker::<T, Data>(l, wasi)?;
    sync_sockets::udp::add_to_linker::<T, Data>(l, wasi)?;
    sync_sockets::udp_create_socket::add_to_linker::<T, Data>(l, wasi)
}
