//! What a policy can grant to a guest program beyond computing: models, files, connections, and the
//! small things of a process. Checked data for whoever enforces it; nothing here opens or connects.
//!
//! Everything is off until it is granted. A grant is exact: one path, one host and port. There are no
//! patterns, so that what a policy allows can be read off it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::address::{AddressKind, Peer, address_kind, canonical_address};
use super::{Confinement, LoadedPolicy, ModelPin, Policy};

/// Most entries in one list of grants: more than anybody reads is more than anybody approves.
pub const MAX_GRANTS: usize = 256;

/// A guest program: what of a process it has. Only a policy that has this table can be used for one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Program {
    /// SHA-256 of the only program the policy accepts; `None` accepts any.
    pub sha256: Option<[u8; 32]>,
    /// Whether what it prints reaches standard output.
    pub stdout: bool,
    /// Whether what it prints reaches standard error.
    pub stderr: bool,
    /// Whether it has the wall clock and the monotonic clock.
    pub clocks: bool,
    /// Whether it has randomness.
    pub randomness: bool,
    /// Whether arguments given on the command line reach it.
    pub arguments: bool,
    /// Its environment, whole: nothing of the host's is in it.
    pub environment: BTreeMap<String, String>,
    /// Why it needs clocks, randomness, arguments or an environment.
    pub reason: Option<String>,
}

impl Program {
    /// Whether a program with this digest is one the policy accepts.
    #[must_use]
    pub fn accepts(&self, sha256: &[u8; 32]) -> bool {
        self.sha256.as_ref().is_none_or(|pinned| pinned == sha256)
    }

    /// The keys of what it grants and programs ask for when they need it. Where they print to, they
    /// all ask for at their start.
    pub fn asked_for(&self) -> impl Iterator<Item = &'static str> {
        let granted = [
            ("clocks", self.clocks),
            ("randomness", self.randomness),
            ("arguments", self.arguments),
            ("environment", !self.environment.is_empty()),
        ];
        granted.into_iter().filter(|(_, granted)| *granted).map(|(key, _)| key)
    }
}

/// A model that a guest program may load.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ModelGrant {
    /// The name it asks for (`load-by-name` of `wasi:nn`).
    pub name: String,
    /// The file; without one the program brings the bytes. Absolute when the policy came from
    /// [`Policy::load`], else as it was written.
    pub path: Option<PathBuf>,
    /// SHA-256 of the only file accepted.
    pub sha256: [u8; 32],
    /// The policy file whose limits hold for this model; without one, those of the program's policy.
    /// Absolute as `path` is.
    pub policy: Option<PathBuf>,
    /// What that file says, once [`Policy::load`] has read it.
    pub rules: Option<Box<LoadedPolicy>>,
}

impl ModelGrant {
    /// A grant of the model with this SHA-256, which the program brings itself.
    #[must_use]
    pub fn new(name: impl Into<String>, sha256: [u8; 32]) -> ModelGrant {
        ModelGrant { name: name.into(), path: None, sha256, policy: None, rules: None }
    }

    /// What the model's own policy file grants of files that it may keep data in.
    pub fn files(&self) -> &[FileGrant] {
        self.rules.as_ref().map_or(&[], |rules| &rules.policy.filesystem)
    }
}

/// How a file or folder may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Access {
    /// Opened for reading, listed.
    #[default]
    Read,
    /// Also changed, made and removed.
    Write,
}

impl Access {
    /// The access as a policy names it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Access::Read => "read",
            Access::Write => "write",
        }
    }
}

/// A file or folder that is granted, with everything below it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileGrant {
    /// Where it is: without `..`, and without symbolic links when the policy came from
    /// [`Policy::load`], which also makes it absolute. Whoever opens it must make sure of both once
    /// more, as files change: `openat2` with `RESOLVE_NO_SYMLINKS`, and without `O_NOFOLLOW`, which
    /// with `O_PATH` would open a link itself.
    pub host: PathBuf,
    /// Where the program sees it: absolute and normalised; no two are the same or nested.
    pub guest: String,
    /// How it may be used.
    pub access: Access,
    /// For a file in which a model keeps data: SHA-256 of the only content accepted. `None` accepts
    /// any, and so does a grant of a folder.
    pub sha256: Option<[u8; 32]>,
    /// Why.
    pub reason: String,
}

/// How one talks to a peer.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum Protocol {
    /// Connections.
    #[default]
    Tcp,
    /// Datagrams.
    Udp,
}

impl Protocol {
    /// The protocol as a policy names it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        }
    }
}

/// A peer that may be talked to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct NetworkGrant {
    /// The host: a name or an address.
    pub host: Peer,
    /// The port, never 0.
    pub port: u16,
    /// How.
    pub protocol: Protocol,
    /// The kinds of addresses that the host may have: in order, at least one, never
    /// [`AddressKind::Never`].
    pub reaches: Vec<AddressKind>,
    /// Why.
    pub reason: String,
}

impl FileGrant {
    /// A grant of a file or folder of any content. Nothing of it is checked here: a policy that is
    /// read from a file is.
    #[must_use]
    pub fn new(
        host: impl Into<PathBuf>,
        guest: impl Into<String>,
        access: Access,
        reason: impl Into<String>,
    ) -> FileGrant {
        let (host, guest, reason) = (host.into(), guest.into(), reason.into());
        FileGrant { host, guest, access, sha256: None, reason }
    }

    /// The rule as logs and refusals name it.
    pub fn rule(&self) -> String {
        file_rule(&self.guest, self.access)
    }
}

/// The entry of a policy that grants this place.
pub fn file_rule(guest: &str, access: Access) -> String {
    let guest = belljar_text::Escaped::new(guest);
    format!("[[filesystem]] guest = \"{guest}\", access = \"{}\"", access.name())
}

/// The entry of a policy that grants this peer.
pub fn peer_rule(host: &Peer, port: u16, protocol: Protocol) -> String {
    let protocol = protocol.name();
    format!("[[network]] host = \"{host}\", port = {port}, protocol = \"{protocol}\"")
}

/// A key of a table of the policy.
pub fn key_rule(table: &str, key: &str) -> String {
    format!("[{table}] {key}")
}

impl NetworkGrant {
    /// A grant of a peer at public addresses.
    #[must_use]
    pub fn new(
        host: Peer,
        port: u16,
        protocol: Protocol,
        reason: impl Into<String>,
    ) -> NetworkGrant {
        let reaches = vec![AddressKind::Public];
        NetworkGrant { host, port, protocol, reaches, reason: reason.into() }
    }

    /// The rule as logs and refusals name it.
    pub fn rule(&self) -> String {
        peer_rule(&self.host, self.port, self.protocol)
    }

    /// Whether an address is one this grant may lead to: the address granted, or, for a name, one of
    /// a granted kind. That the name was resolved to it is for the caller to know.
    #[must_use]
    pub fn reaches(&self, address: IpAddr) -> bool {
        let same = match &self.host {
            Peer::Address(granted) => *granted == canonical_address(address),
            Peer::Name(_) => true,
        };
        same && self.reaches.contains(&address_kind(address))
    }
}

impl Policy {
    /// Makes paths absolute that were written relative to the policy's folder. [`Policy::load`] has
    /// done so; whoever reads a policy with [`Policy::parse`] says which folder is meant.
    pub fn resolve_in(&mut self, folder: &Path) {
        for grant in &mut self.models {
            for path in grant.path.iter_mut().chain(&mut grant.policy) {
                *path = folder.join(&*path);
            }
        }
        for grant in &mut self.filesystem {
            // A lone `.` is the folder itself.
            grant.host = match grant.host.as_os_str() == "." {
                true => folder.to_path_buf(),
                false => folder.join(&grant.host),
            };
        }
    }

    /// The policy under which a model runs that this one grants to its program: pinned, with the
    /// limits of the model's own policy file or of this one, and confined no less than either says.
    /// What files it may keep its data in is in its own policy only: those of the program are not
    /// the model's. `None` if a file is named and was not read.
    #[must_use]
    pub fn for_model(&self, grant: &ModelGrant) -> Option<Policy> {
        let own = match (&grant.rules, &grant.policy) {
            (Some(loaded), _) => &loaded.policy,
            (None, None) => self,
            (None, Some(_)) => return None,
        };
        let confinement = match (self.confinement, own.confinement) {
            (Confinement::BestEffort, Confinement::BestEffort) => Confinement::BestEffort,
            _ => Confinement::Strict,
        };
        let declared_shapes = self.declared_shapes.max(own.declared_shapes);
        let model = ModelPin { sha256: Some(grant.sha256) };
        let (limits, compute) = (own.limits.clone(), own.compute.clone());
        let (inputs, outputs) = (own.inputs.clone(), own.outputs.clone());
        let filesystem = grant.rules.as_ref().map(|_| own.filesystem.clone()).unwrap_or_default();
        let policy = Policy {
            model,
            limits,
            compute,
            confinement,
            declared_shapes,
            inputs,
            outputs,
            filesystem,
            ..Policy::default()
        };
        Some(policy.read_from(own.file_sha256()))
    }
}
