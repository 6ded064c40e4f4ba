//! What a policy can grant to a guest program beyond computing: models, files, connections, and
//! process resources. This is checked data for the code that enforces it; nothing here opens or
//! connects.
//!
//! Everything is off until it is granted. A grant is exact: one path, or one host and port. There
//! are no patterns, so that a reader sees exactly what a policy allows.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::address::{AddressKind, Peer, address_kind, canonical_address};
use super::{Confinement, LoadedPolicy, ModelPin, Policy};

/// The maximum number of entries in one list of grants: nobody reviews more.
pub const MAX_GRANTS: usize = 256;

/// The process resources of a guest program. Only a policy with this table can be used for one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Program {
    /// SHA-256 of the only program the policy accepts; `None` accepts any.
    pub sha256: Option<[u8; 32]>,
    /// Whether its output reaches standard output.
    pub stdout: bool,
    /// Whether its output reaches standard error.
    pub stderr: bool,
    /// Whether it has the wall clock and the monotonic clock.
    pub clocks: bool,
    /// Whether it has randomness.
    pub randomness: bool,
    /// Whether arguments given on the command line reach it.
    pub arguments: bool,
    /// Its whole environment: no variable of the host is inherited.
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

    /// The granted keys that programs use only when they need them. All programs open standard
    /// output and error at their start, so these are not listed.
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
    /// The policy file whose limits apply to this model; without one, those of the program's
    /// policy. Absolute under the same condition as `path`.
    pub policy: Option<PathBuf>,
    /// That file's content, once [`Policy::load`] has read it.
    pub rules: Option<Box<LoadedPolicy>>,
}

impl ModelGrant {
    /// A grant of the model with this SHA-256, which the program brings itself.
    #[must_use]
    pub fn new(name: impl Into<String>, sha256: [u8; 32]) -> ModelGrant {
        ModelGrant { name: name.into(), path: None, sha256, policy: None, rules: None }
    }

    /// The files that the model may keep data in, from the model's own policy file.
    pub fn files(&self) -> &[FileGrant] {
        self.rules.as_ref().map_or(&[], |rules| &rules.policy.filesystem)
    }
}

/// How a file or folder may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Access {
    /// Open for reading, and list.
    #[default]
    Read,
    /// Also change, create and remove.
    Write,
}

impl Access {
    /// The access's name in a policy.
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
    /// The path on the host: without `..`, and without symbolic links when the policy came from
    /// [`Policy::load`], which also makes it absolute. As files change, the code that opens it must
    /// enforce both again: `openat2` with `RESOLVE_NO_SYMLINKS`, and without `O_NOFOLLOW`, which
    /// with `O_PATH` would open a link itself.
    pub host: PathBuf,
    /// The path at which the program sees it: absolute and normalised; grants do not overlap.
    pub guest: String,
    /// How it may be used.
    pub access: Access,
    /// For a file in which a model keeps data: SHA-256 of the only content accepted. `None` accepts
    /// any content, as a grant of a folder does.
    pub sha256: Option<[u8; 32]>,
    /// Why it is needed.
    pub reason: String,
}

/// The transport protocol of a network grant.
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
    /// The protocol's name in a policy.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        }
    }
}

/// A peer that the program may communicate with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct NetworkGrant {
    /// The host: a name or an address.
    pub host: Peer,
    /// The port, never 0.
    pub port: u16,
    /// The transport protocol.
    pub protocol: Protocol,
    /// The kinds of addresses that the host may have: sorted, not empty, without
    /// [`AddressKind::Never`].
    pub reaches: Vec<AddressKind>,
    /// Why it is needed.
    pub reason: String,
}

impl FileGrant {
    /// A grant of a file or folder with any content. Nothing is checked here; reading a policy from
    /// a file checks its grants.
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

    /// The rule as it is written in logs and error messages.
    pub fn rule(&self) -> String {
        file_rule(&self.guest, self.access)
    }
}

/// The policy entry that grants this path.
pub fn file_rule(guest: &str, access: Access) -> String {
    let guest = belljar_text::Escaped::new(guest);
    format!("[[filesystem]] guest = \"{guest}\", access = \"{}\"", access.name())
}

/// The policy entry that grants this peer.
pub fn peer_rule(host: &Peer, port: u16, protocol: Protocol) -> String {
    let protocol = protocol.name();
    format!("[[network]] host = \"{host}\", port = {port}, protocol = \"{protocol}\"")
}

/// A key with its table, as it is written in logs and error messages.
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

    /// The rule as it is written in logs and error messages.
    pub fn rule(&self) -> String {
        peer_rule(&self.host, self.port, self.protocol)
    }

    /// Whether the grant allows connections to an address: the granted address, or, for a name, any
    /// address of a granted kind. The caller must have resolved the name to it.
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
    /// Makes paths absolute that are relative to the policy's folder. [`Policy::load`] calls this;
    /// after [`Policy::parse`], the caller passes the folder.
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

    /// The policy for a model that this policy grants to its program: with the model pinned, the
    /// limits of the model's own policy file or of this one, and the stricter confinement of both.
    /// Only the model's own policy grants files in which the model keeps data; the program's files
    /// are not the model's. `None` if a policy file is named but was not read.
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
