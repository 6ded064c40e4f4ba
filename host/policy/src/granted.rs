//! Parses TOML tables into checked grants: `[program]`, `[[models]]`, `[[filesystem]]`,
//! `[[network]]`, and checks the rules between them.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::address::{AddressKind, Peer, address_kind};
use super::keys;
use super::mistakes::kind;
use super::paths::{check_guest_path, host_path, overlap};
use super::reader::{Reader, Value, in_order, unsigned};
use super::text::{is_invisible, quote};
use super::{Access, FileGrant, ModelGrant, NetworkGrant, Policy, PolicyError, Program, Protocol};

/// Longest reason in characters; people read it as one line.
const MAX_REASON: usize = 500;
/// Longest name under which a program asks for a model, in bytes.
const MAX_NAME: usize = 255;
/// The maximum number of variables in an environment, and of bytes in a value.
const MAX_VARIABLES: usize = 128;
const MAX_VARIABLE: usize = 4096;

const HOST_PATH: &str = "write the path of a file or folder, absolute or relative to the policy's \
                         folder, without `..`, for example \"labels\" or \"/srv/labels\"";
const GUEST_PATH: &str = "write the path at which the program sees it, for example \"/labels\"";
const PEER: &str = "write a name such as \"features.example.com\", or an address such as \
                    \"203.0.114.7\" or \"2a00::7\"";

impl Reader<'_> {
    pub(super) fn program(
        &self,
        table: &DeTable<'_>,
        at: &Range<usize>,
    ) -> Result<Program, PolicyError> {
        let mut program = Program::default();
        // The first granted key that requires a reason.
        let mut needs_reason = None;
        for entry in self.entries(table, &keys::PROGRAM) {
            let (key, span, value) = entry?;
            let mut explained = |granted: bool| {
                if granted && needs_reason.is_none() {
                    needs_reason = Some(span.start);
                }
                granted
            };
            match key {
                "sha256" => program.sha256 = Some(self.digest("program.sha256", value)?),
                "stdout" => program.stdout = self.switch("program.stdout", value)?,
                "stderr" => program.stderr = self.switch("program.stderr", value)?,
                "clocks" => program.clocks = explained(self.switch("program.clocks", value)?),
                "randomness" => {
                    program.randomness = explained(self.switch("program.randomness", value)?);
                }
                "arguments" => {
                    program.arguments = explained(self.switch("program.arguments", value)?);
                }
                "environment" => {
                    program.environment = self.environment(value)?;
                    explained(!program.environment.is_empty());
                }
                "reason" => program.reason = Some(self.reason("program.reason", value)?),
                _ => return Err(self.unknown(key, &span, &keys::PROGRAM)),
            }
        }
        match needs_reason {
            Some(granted) if program.reason.is_none() => {
                let at = granted.max(at.start);
                Err(self.missing("reason", &keys::PROGRAM, at))
            }
            _ => Ok(program),
        }
    }

    fn environment(&self, value: &Value<'_>) -> Result<BTreeMap<String, String>, PolicyError> {
        let home = "program.environment";
        let hint = "write names and values, for example { LANG = \"C\" }; a name is letters, \
                    digits and underscores and does not begin with a digit";
        let Some(table) = value.get_ref().as_table() else {
            let why = format!("{}, not a table", kind(value));
            return Err(self.value(home, value, why, hint.to_owned()));
        };
        let mut variables = BTreeMap::new();
        for (name, span, value) in in_order(table) {
            let wrong =
                |why: String| Err(self.value_at(span.start, home, value, why, hint.to_owned()));
            let mut chars = name.chars();
            let first = chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
            if !first || !chars.all(|c| c.is_ascii_alphanumeric() || c == '_') {
                return wrong(format!("{} is not a valid variable name", quote(name)));
            }
            if name.len() > MAX_NAME {
                return wrong(format!("a name of {} bytes; the maximum is {MAX_NAME}", name.len()));
            }
            let Some(text) = value.get_ref().as_str() else {
                return wrong(format!("{}, not a string", kind(value)));
            };
            if text.contains('\0') {
                return wrong("contains a NUL byte".to_owned());
            }
            if text.len() > MAX_VARIABLE {
                return wrong(format!("{} bytes; the maximum is {MAX_VARIABLE}", text.len()));
            }
            if variables.len() >= MAX_VARIABLES {
                return wrong(format!("more than {MAX_VARIABLES} variables"));
            }
            variables.insert(name.to_owned(), text.to_owned());
        }
        Ok(variables)
    }

    fn reason(&self, key: &'static str, value: &Value<'_>) -> Result<String, PolicyError> {
        let hint = "write in one line why this is needed, for the person who approves the policy";
        self.checked(key, value, hint, |text| {
            let text = text.trim();
            if text.is_empty() {
                Err("empty")
            } else if text.chars().any(is_invisible) {
                Err("contains a line break or an invisible character")
            } else if text.chars().count() > MAX_REASON {
                Err("longer than 500 characters")
            } else {
                Ok(text.to_owned())
            }
        })
    }

    pub(super) fn models(
        &self,
        key: &Range<usize>,
        value: &Value<'_>,
    ) -> Result<Vec<ModelGrant>, PolicyError> {
        let mut grants: Vec<ModelGrant> = Vec::new();
        for (table, at) in self.tables(&keys::MODELS, key, value)? {
            let (mut name, mut path, mut sha256, mut policy) = (None, None, None, None);
            for entry in self.entries(table, &keys::MODELS) {
                let (key, span, value) = entry?;
                match key {
                    "name" => name = Some(self.model_name(value, &grants)?),
                    "path" => {
                        path = Some(self.checked("models.path", value, HOST_PATH, host_path)?)
                    }
                    "sha256" => sha256 = Some(self.digest("models.sha256", value)?),
                    "policy" => {
                        policy =
                            Some(self.checked("models.policy", value, HOST_PATH, host_path)?);
                    }
                    _ => return Err(self.unknown(key, &span, &keys::MODELS)),
                }
            }
            let missing = |key| self.missing(key, &keys::MODELS, at);
            grants.push(ModelGrant {
                name: name.ok_or_else(|| missing("name"))?,
                path,
                sha256: sha256.ok_or_else(|| missing("sha256"))?,
                policy,
                rules: None,
            });
        }
        Ok(grants)
    }

    fn model_name(&self, value: &Value<'_>, others: &[ModelGrant]) -> Result<String, PolicyError> {
        let hint =
            "write the name by which the program requests the model; each name must be unique";
        self.checked("models.name", value, hint, |text| {
            if text.is_empty() {
                Err("empty")
            } else if text.len() > MAX_NAME {
                Err("longer than 255 bytes")
            } else if text.chars().any(is_invisible) {
                Err("contains an invisible character")
            } else if others.iter().any(|other| other.name == text) {
                Err("another model has this name")
            } else {
                Ok(text.to_owned())
            }
        })
    }

    pub(super) fn filesystem(
        &self,
        key: &Range<usize>,
        value: &Value<'_>,
    ) -> Result<Vec<FileGrant>, PolicyError> {
        let mut grants: Vec<FileGrant> = Vec::new();
        for (table, at) in self.tables(&keys::FILESYSTEM, key, value)? {
            let (mut host, mut guest, mut sha256, mut reason) = (None, None, None, None);
            let mut access = Access::default();
            for entry in self.entries(table, &keys::FILESYSTEM) {
                let (key, span, value) = entry?;
                match key {
                    "host" => {
                        host =
                            Some(self.checked("filesystem.host", value, HOST_PATH, host_path)?);
                    }
                    "guest" => guest = Some(self.guest_path(value, &grants)?),
                    "access" => access = self.access("filesystem.access", value)?,
                    "sha256" => sha256 = Some(self.digest("filesystem.sha256", value)?),
                    "reason" => reason = Some(self.reason("filesystem.reason", value)?),
                    _ => return Err(self.unknown(key, &span, &keys::FILESYSTEM)),
                }
            }
            let missing = |key| self.missing(key, &keys::FILESYSTEM, at);
            grants.push(FileGrant {
                host: host.ok_or_else(|| missing("host"))?,
                guest: guest.ok_or_else(|| missing("guest"))?,
                access,
                sha256,
                reason: reason.ok_or_else(|| missing("reason"))?,
            });
        }
        Ok(grants)
    }

    pub(super) fn access(
        &self,
        key: &'static str,
        value: &Value<'_>,
    ) -> Result<Access, PolicyError> {
        Ok(match self.choice(key, value, keys::ACCESSES)? {
            0 => Access::Read,
            _ => Access::Write,
        })
    }

    fn guest_path(&self, value: &Value<'_>, others: &[FileGrant]) -> Result<String, PolicyError> {
        let key = "filesystem.guest";
        let path = self.checked(key, value, GUEST_PATH, |text| {
            check_guest_path(text).map(|()| text.to_owned())
        })?;
        match others.iter().find(|other| overlap(&other.guest, &path)) {
            None => Ok(path),
            Some(other) => {
                let why = format!("overlaps the grant of {}", quote(&other.guest));
                let hint = "give each grant a separate guest path";
                Err(self.value(key, value, why, hint.to_owned()))
            }
        }
    }

    pub(super) fn network(
        &self,
        key: &Range<usize>,
        value: &Value<'_>,
    ) -> Result<Vec<NetworkGrant>, PolicyError> {
        let mut grants: Vec<NetworkGrant> = Vec::new();
        for (table, at) in self.tables(&keys::NETWORK, key, value)? {
            let (mut host, mut port, mut reason) = (None, None, None);
            let mut protocol = Protocol::default();
            let mut reaches = vec![AddressKind::Public];
            let mut host_value = None;
            for entry in self.entries(table, &keys::NETWORK) {
                let (key, span, value) = entry?;
                match key {
                    "host" => {
                        host = Some(self.checked("network.host", value, PEER, Peer::parse)?);
                        host_value = Some(value);
                    }
                    "port" => port = Some(self.port("network.port", value)?),
                    "protocol" => protocol = self.protocol("network.protocol", value)?,
                    "reaches" => reaches = self.reaches("network.reaches", value)?,
                    "reason" => reason = Some(self.reason("network.reason", value)?),
                    _ => return Err(self.unknown(key, &span, &keys::NETWORK)),
                }
            }
            let missing = |key| self.missing(key, &keys::NETWORK, at);
            let (host, value) = host.zip(host_value).ok_or_else(|| missing("host"))?;
            if let Peer::Address(address) = &host {
                let kind = address_kind(*address);
                if !reaches.contains(&kind) {
                    let why = format!("a {kind} address, and `reaches` does not list that kind");
                    let hint = format!("if it is meant, write reaches = [\"{kind}\"]");
                    return Err(self.value("network.host", value, why, hint));
                }
            }
            let grant = NetworkGrant {
                host,
                port: port.ok_or_else(|| missing("port"))?,
                protocol,
                reaches,
                reason: reason.ok_or_else(|| missing("reason"))?,
            };
            let same = |other: &NetworkGrant| {
                (&other.host, other.port, other.protocol)
                    == (&grant.host, grant.port, grant.protocol)
            };
            if grants.iter().any(same) {
                let why = "already granted with this port and protocol".to_owned();
                let hint = "keep one of the two".to_owned();
                return Err(self.value("network.host", value, why, hint));
            }
            grants.push(grant);
        }
        Ok(grants)
    }

    pub(super) fn port(&self, key: &'static str, value: &Value<'_>) -> Result<u16, PolicyError> {
        let port = unsigned(value).and_then(|port| u16::try_from(port).ok());
        port.filter(|port| *port != 0).ok_or_else(|| {
            let why = match value.get_ref().as_integer() {
                Some(_) => "not a port".to_owned(),
                None => format!("{}, not an integer", kind(value)),
            };
            self.value(key, value, why, "write a number from 1 to 65535, without quotes".to_owned())
        })
    }

    pub(super) fn protocol(
        &self,
        key: &'static str,
        value: &Value<'_>,
    ) -> Result<Protocol, PolicyError> {
        Ok(match self.choice(key, value, keys::PROTOCOLS)? {
            0 => Protocol::Tcp,
            _ => Protocol::Udp,
        })
    }

    /// Kinds of addresses, sorted in the order of the format.
    pub(super) fn reaches(
        &self,
        key: &'static str,
        value: &Value<'_>,
    ) -> Result<Vec<AddressKind>, PolicyError> {
        let hint = "write a list such as [\"public\"]; the kinds are \"public\", \"private\", \
                    \"loopback\" and \"link-local\"";
        let DeValue::Array(items) = value.get_ref() else {
            let why = format!("{}, not a list", kind(value));
            return Err(self.value(key, value, why, hint.to_owned()));
        };
        let mut found = Vec::new();
        for item in items {
            let at = self.choice(key, item, keys::REACHES)?;
            if found.contains(&at) {
                return Err(self.value(key, item, "listed twice".to_owned(), hint.to_owned()));
            }
            found.push(at);
        }
        if found.is_empty() {
            let why = "an empty list, which allows no address".to_owned();
            return Err(self.value(key, value, why, hint.to_owned()));
        }
        let kinds = AddressKind::GRANTABLE.iter().enumerate();
        Ok(kinds.filter(|(at, _)| found.contains(at)).map(|(_, kind)| *kind).collect())
    }

    /// Checks rules between tables. `seen` are the keys that depend on `[program]`.
    pub(super) fn check_whole(
        &self,
        policy: &Policy,
        seen: &[(&str, usize, &Value<'_>)],
    ) -> Result<(), PolicyError> {
        for (key, at, value) in seen {
            let (key, why, hint) = match (*key, policy.program.is_some()) {
                ("model", true) if policy.model.sha256.is_some() => (
                    "model",
                    "a policy is for a model or for a program",
                    "pin the program by `program.sha256`, and name its models in [[models]]",
                ),
                (key @ ("inputs" | "outputs"), true) => (
                    if key == "inputs" { "inputs" } else { "outputs" },
                    "value rules apply to models, and this policy is for a program",
                    "put them into the policy that `models.policy` names",
                ),
                ("models", false) => ("models", FOR_PROGRAMS, ADD_PROGRAM),
                ("network", false) => ("network", FOR_PROGRAMS, ADD_PROGRAM),
                ("quotas", false) => ("quotas", FOR_PROGRAMS, ADD_PROGRAM),
                ("filesystem", true) if policy.filesystem.iter().any(|g| g.sha256.is_some()) => (
                    "filesystem",
                    "`sha256` pins a file of a model, which is read once; a program reads its \
                     files while it runs",
                    "leave `sha256` out; the files of a model are granted in the policy that \
                     `models.policy` names",
                ),
                ("filesystem", false)
                    if policy.filesystem.iter().any(|grant| grant.access != Access::Read) =>
                {
                    (
                        "filesystem",
                        "a model without a program may only read",
                        "write access = \"read\", or add a [program] table if a program writes",
                    )
                }
                _ => continue,
            };
            return Err(self.value_at(*at, key, value, why.to_owned(), hint.to_owned()));
        }
        Ok(())
    }
}

const FOR_PROGRAMS: &str = "only guest programs can use this, and this policy is for a model";
const ADD_PROGRAM: &str = "add a [program] table, or remove this if the policy is for a model";
