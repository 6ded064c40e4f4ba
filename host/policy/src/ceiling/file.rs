//! Parses TOML text into a checked [`Ceiling`].

use std::ops::RangeInclusive;

use toml::de::{DeTable, DeValue};

use super::super::address::{AddressKind, Peer};
use super::super::keys::{self, Table};
use super::super::mistakes::kind;
use super::super::paths::host_path;
use super::super::reader::{Absent, Reader, Value, unsigned};
use super::super::{
    Access, Confinement, DeclaredShapes, Kernels, Limits, PolicyError, Protocol, Quotas,
};
use super::{Ceiling, Excess, Hosts, PeerCeiling, ProgramCeiling, Root};

impl Ceiling {
    /// Reads a ceiling from text. `origin` is what errors call it.
    pub fn parse(text: &str, origin: &str) -> Result<Ceiling, PolicyError> {
        let reader = Reader { text, origin, format: keys::CEILING, absent: Absent::Max };
        let document = DeTable::parse(text).map_err(|error| reader.syntax(&error))?;
        reader.ceiling(document.get_ref())
    }
}

impl Reader<'_> {
    fn ceiling(&self, document: &DeTable<'_>) -> Result<Ceiling, PolicyError> {
        self.version(document)?;
        let mut ceiling = Ceiling {
            excess: Excess::default(),
            require_pin: false,
            confinement: Confinement::BestEffort,
            declared_shapes: DeclaredShapes::Report,
            limits: Limits::maximum(),
            quotas: Quotas::maximum(),
            kernels: Kernels::Native,
            threads: keys::THREADS.max,
            program: None,
            filesystem: Vec::new(),
            network: Vec::new(),
        };
        for entry in self.entries(document, &keys::CEILING_TOP) {
            let (key, span, value) = entry?;
            let table = |home: &'static Table| self.table(home, &span, value);
            match key {
                "version" => {}
                "excess" => {
                    ceiling.excess = match self.choice("excess", value, keys::EXCESSES)? {
                        0 => Excess::Cut,
                        _ => Excess::Refuse,
                    };
                }
                "require-pin" => ceiling.require_pin = self.switch("require-pin", value)?,
                "confinement" => ceiling.confinement = self.confinement(value)?,
                "declared-shapes" => ceiling.declared_shapes = self.declared_shapes(value)?,
                "signers" => {
                    let why = "this build does not verify signatures";
                    let hint = "remove this key, or use a build that verifies signatures";
                    return Err(self.value("signers", value, why.to_owned(), hint.to_owned()));
                }
                "program" => {
                    ceiling.program = Some(self.programs(table(&keys::CEILING_PROGRAM)?)?);
                }
                "filesystem" => {
                    for (table, at) in self.tables(&keys::CEILING_FILESYSTEM, &span, value)? {
                        ceiling.filesystem.push(self.root(table, at)?);
                    }
                }
                "network" => {
                    for (table, at) in self.tables(&keys::CEILING_NETWORK, &span, value)? {
                        ceiling.network.push(self.peers(table, at)?);
                    }
                }
                "limits" => self.limits(table(&keys::LIMITS)?, &mut ceiling.limits)?,
                "quotas" => self.quotas(table(&keys::QUOTAS)?, &mut ceiling.quotas)?,
                "compute" => {
                    for entry in
                        self.entries(table(&keys::CEILING_COMPUTE)?, &keys::CEILING_COMPUTE)
                    {
                        let (key, span, value) = entry?;
                        match key {
                            "kernels" => ceiling.kernels = self.kernels(value)?,
                            "threads" => ceiling.threads = self.threads(value)?,
                            _ => return Err(self.unknown(key, &span, &keys::CEILING_COMPUTE)),
                        }
                    }
                }
                _ => return Err(self.unknown(key, &span, &keys::CEILING_TOP)),
            }
        }
        Ok(ceiling)
    }

    fn programs(&self, table: &DeTable<'_>) -> Result<ProgramCeiling, PolicyError> {
        let mut program = ProgramCeiling::default();
        for entry in self.entries(table, &keys::CEILING_PROGRAM) {
            let (key, span, value) = entry?;
            match key {
                "stdout" => program.stdout = self.switch("program.stdout", value)?,
                "stderr" => program.stderr = self.switch("program.stderr", value)?,
                "clocks" => program.clocks = self.switch("program.clocks", value)?,
                "randomness" => program.randomness = self.switch("program.randomness", value)?,
                "arguments" => program.arguments = self.switch("program.arguments", value)?,
                "environment" => {
                    let key = "program.environment";
                    let hint = "write the names of variables, for example [\"LANG\"]";
                    for name in self.list(key, value, hint)? {
                        program.environment.push(self.text(key, name, hint)?.to_owned());
                    }
                }
                _ => return Err(self.unknown(key, &span, &keys::CEILING_PROGRAM)),
            }
        }
        Ok(program)
    }

    fn root(&self, table: &DeTable<'_>, at: usize) -> Result<Root, PolicyError> {
        let (mut path, mut access) = (None, Access::default());
        for entry in self.entries(table, &keys::CEILING_FILESYSTEM) {
            let (key, span, value) = entry?;
            match key {
                "path" => {
                    let hint = "write an absolute path without `..`, for example \"/srv/models\"";
                    path = Some(self.checked("filesystem.path", value, hint, |text| {
                        let path = host_path(text)?;
                        path.is_absolute().then_some(path).ok_or("not absolute")
                    })?);
                }
                "access" => access = self.access("filesystem.access", value)?,
                _ => return Err(self.unknown(key, &span, &keys::CEILING_FILESYSTEM)),
            }
        }
        let missing = || self.missing("path", &keys::CEILING_FILESYSTEM, at);
        Ok(Root { path: path.ok_or_else(missing)?, access })
    }

    fn peers(&self, table: &DeTable<'_>, at: usize) -> Result<PeerCeiling, PolicyError> {
        let (mut hosts, mut ports) = (None, None);
        let (mut protocol, mut reaches) = (Protocol::default(), vec![AddressKind::Public]);
        for entry in self.entries(table, &keys::CEILING_NETWORK) {
            let (key, span, value) = entry?;
            match key {
                "host" => {
                    let hint = "write a name, an address, \"*.example.com\" for all names below \
                                it, or \"*\" for every host";
                    hosts = Some(self.checked("network.host", value, hint, hosts_of)?);
                }
                "ports" => ports = Some(self.ports(value)?),
                "protocol" => protocol = self.protocol("network.protocol", value)?,
                "reaches" => reaches = self.reaches("network.reaches", value)?,
                _ => return Err(self.unknown(key, &span, &keys::CEILING_NETWORK)),
            }
        }
        let missing = |key| self.missing(key, &keys::CEILING_NETWORK, at);
        Ok(PeerCeiling {
            hosts: hosts.ok_or_else(|| missing("host"))?,
            ports: ports.ok_or_else(|| missing("ports"))?,
            protocol,
            reaches,
        })
    }

    fn ports(&self, value: &Value<'_>) -> Result<Vec<RangeInclusive<u16>>, PolicyError> {
        let key = "network.ports";
        let hint = "write a list of ports, and of ranges in quotes: [443, \"8000-8100\"]";
        let one = |item: &Value<'_>| {
            let number = |text: &str| text.parse().ok().filter(|port: &u16| *port != 0);
            let range = match item.get_ref() {
                DeValue::String(text) => text
                    .split_once('-')
                    .and_then(|(first, last)| Some(number(first)?..=number(last)?)),
                _ => unsigned(item)
                    .and_then(|port| u16::try_from(port).ok())
                    .filter(|port| *port != 0)
                    .map(|port| port..=port),
            };
            range.filter(|range| !range.is_empty()).ok_or_else(|| {
                self.value(key, item, "not a port or a range of ports".to_owned(), hint.to_owned())
            })
        };
        self.list(key, value, hint)?.into_iter().map(one).collect()
    }

    fn list<'t, 'i>(
        &self,
        key: &'static str,
        value: &'t Value<'i>,
        hint: &str,
    ) -> Result<Vec<&'t Value<'i>>, PolicyError> {
        match value.get_ref() {
            DeValue::Array(items) => Ok(items.iter().collect()),
            _ => {
                let why = format!("{}, not a list", kind(value));
                Err(self.value(key, value, why, hint.to_owned()))
            }
        }
    }
}

fn hosts_of(text: &str) -> Result<Hosts, &'static str> {
    if text == "*" {
        return Ok(Hosts::Any);
    }
    match text.strip_prefix("*.") {
        None => Peer::parse(text).map(Hosts::One),
        Some(below) => match Peer::parse(below)? {
            Peer::Name(name) => Ok(Hosts::Below(name)),
            Peer::Address(_) => Err("a pattern cannot contain an address"),
        },
    }
}
