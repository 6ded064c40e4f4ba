//! The text of a program's recorded policy: what was used of the base, file by file, and in comments
//! what somebody has to decide about.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use super::observed::Observed;
use super::program::below;
use super::scratch::is_file;
use belljar::internals::Spent;
use belljar_policy::units::{format_duration, format_size};
use belljar_policy::write::{commented, host, quoted};
use belljar_policy::{
    Access, AddressKind, FORMAT_VERSION, FileGrant, Measured, NetworkGrant, Peer, Policy, Protocol,
    address_kind, measured_limits, quota_bounds,
};
use belljar_text::Escaped;

/// Most files of one grant that are granted one by one, and most things of one kind that are told.
const MOST_FILES: usize = 64;
const MOST_TOLD: usize = 50;

/// Where files are the system's: to read them is risky, whoever granted it.
const OF_THE_SYSTEM: [&str; 8] =
    ["/boot", "/dev", "/etc", "/proc", "/root", "/run", "/sys", "/var/run"];

/// All that is known after the last run.
pub(super) struct Recorded<'a> {
    /// The program's name, hostile.
    pub(super) name: &'a str,
    pub(super) sha256: String,
    pub(super) runs: u32,
    /// What was granted, and to what it comes back.
    pub(super) base: &'a Policy,
    /// What the last run has shown, and what all of them have.
    pub(super) used: &'a Observed,
    pub(super) asked: &'a Observed,
    /// Keys of `[program]` without which it gave no answer.
    pub(super) allowed: &'a BTreeSet<&'static str>,
    /// Where the policy will lie.
    pub(super) folder: &'a Path,
    /// If it has answered.
    pub(super) measured: Option<(Measured, Spent)>,
}

/// The policy, and how many grants stand in comments without which the run may not be what it was.
pub(super) fn policy(recorded: &Recorded<'_>) -> (String, usize) {
    let mut writer =
        Writer { recorded, out: String::new(), decisions: 0, name: quoted_name(recorded.name) };
    writer.head();
    writer.program();
    writer.models();
    writer.files();
    writer.other_files();
    writer.peers();
    writer.never();
    writer.limits();
    (writer.out, writer.decisions)
}

fn quoted_name(name: &str) -> String {
    Escaped::cut(name, 100).to_string()
}

struct Writer<'a> {
    recorded: &'a Recorded<'a>,
    out: String,
    decisions: usize,
    /// The program's, as it may be shown.
    name: String,
}

impl Writer<'_> {
    fn answered(&self) -> bool {
        self.recorded.measured.is_some()
    }

    /// `run of NAME`, for reasons.
    fn reason(&self, did: &str) -> String {
        quoted(&format!("recorded: {did} by a run of {}", self.name))
    }

    /// A grant that is not given: a sentence, and the entry as a comment.
    fn aside(&mut self, sentence: &str, entry: &str, counts: bool) {
        self.decisions += usize::from(counts);
        let _ = write!(self.out, "\n# {sentence}\n{}", commented(entry));
    }

    fn head(&mut self) {
        let runs = match self.recorded.runs {
            1 => "a run has".to_owned(),
            runs => format!("{runs} runs have"),
        };
        let _ = write!(
            self.out,
            "# Policy for {}, recorded: what {runs} used, with room to spare in its limits.\n\
             # What stands in comments was asked for and is not granted: each needs a decision.\n\
             version = {FORMAT_VERSION}\n",
            self.name
        );
        if self.recorded.base.confinement == belljar::Confinement::BestEffort {
            self.out.push_str("confinement = \"best-effort\"\n");
        }
    }

    fn program(&mut self) {
        let Recorded { base, used, asked, sha256, allowed, .. } = self.recorded;
        let _ = write!(self.out, "\n[program]\nsha256 = {}\n", quoted(sha256));
        for (key, printed) in [("stdout", used.printed[0]), ("stderr", used.printed[1])] {
            if printed {
                let _ = writeln!(self.out, "{key} = true");
            }
        }
        let granted = base.program.clone().unwrap_or_default();
        let mut reason = false;
        for (key, granted) in [
            ("clocks", granted.clocks),
            ("randomness", granted.randomness),
            ("arguments", granted.arguments),
        ] {
            let had = granted || allowed.contains(key);
            if had && used.keys.get(key) == Some(&true) {
                let _ = writeln!(self.out, "{key} = true");
                reason = true;
            } else if asked.keys.contains_key(key) {
                let without = if self.answered() { ", and it answered without" } else { "" };
                let _ = writeln!(self.out, "# {key} = true   # asked for{without}");
            }
        }
        if used.keys.get("environment") == Some(&true) {
            let variables = granted.environment.iter();
            let variables = variables.map(|(name, value)| format!("{name} = {}", quoted(value)));
            let variables = variables.collect::<Vec<_>>().join(", ");
            let _ = writeln!(
                self.out,
                "# It has read its environment. A program that has a secret can send it wherever it \
                 may.\n# environment = {{ {variables} }}"
            );
            self.decisions += 1;
            reason = true;
        } else if asked.keys.contains_key("environment") {
            self.out.push_str("# environment = { NAME = \"…\" }   # asked for\n");
        }
        if reason {
            let reason = self.reason("used");
            let _ = writeln!(self.out, "reason = {reason}");
        }
    }

    fn models(&mut self) {
        let Recorded { base, used, asked, folder, .. } = self.recorded;
        let digest = |sha256: [u8; 32]| belljar::Digest::from(sha256).to_string();
        for grant in base.models.iter().filter(|grant| used.models.contains(&digest(grant.sha256)))
        {
            let name = quoted(&grant.name);
            let _ = write!(
                self.out,
                "\n# recorded: loaded by a run of {}\n[[models]]\nname = {name}\n",
                self.name
            );
            if let Some(path) = &grant.path {
                let _ = writeln!(self.out, "path = {}", host(path, folder));
            }
            let _ = writeln!(self.out, "sha256 = {}", quoted(&digest(grant.sha256)));
            if let Some(path) = &grant.policy {
                let _ = writeln!(self.out, "policy = {}", host(path, folder));
            }
        }
        let counts = !self.answered();
        for name in asked.missing_models.iter().take(MOST_TOLD) {
            let entry =
                format!("[[models]]\nname = {}\npath = \"…\"\nsha256 = \"…\"", quoted(name));
            self.aside("It has asked for a model by this name, or this SHA-256.", &entry, counts);
        }
    }

    fn file(&self, host: &str, guest: &str, access: Access, did: &str) -> String {
        format!(
            "[[filesystem]]\nhost = {host}\nguest = {}\naccess = \"{}\"\nreason = {}\n",
            quoted(guest),
            access.name(),
            self.reason(did)
        )
    }

    /// Of each folder or file of the base, what was used.
    fn files(&mut self) {
        let Recorded { base, used, asked, folder, .. } = self.recorded;
        for grant in &base.filesystem {
            let place = host(&grant.host, folder);
            let inside = |path: &&String| below(&grant.guest, path).is_some();
            if let Some(allowed) =
                asked.written.iter().filter(|(path, _)| inside(path)).map(|(_, a)| *a).max()
            {
                let entry = self.file(&place, &grant.guest, Access::Write, "written to");
                let sentence = match allowed {
                    true => "It has written there, to a copy that is gone.",
                    false => "It has asked to write there, and was refused.",
                };
                self.aside(sentence, &entry, allowed || !self.answered());
                if allowed {
                    continue;
                }
            }
            self.read(grant, &place, &used.read);
        }
    }

    fn read(&mut self, grant: &FileGrant, place: &str, read: &BTreeMap<String, bool>) {
        let folder = self.recorded.folder;
        let (mut files, mut whole) = (Vec::new(), false);
        for path in read.iter().filter(|(_, allowed)| **allowed).map(|(path, _)| path) {
            let Some(rest) = below(&grant.guest, path) else { continue };
            // Escaped or cut, it is another name.
            match is_file(&grant.host, rest).filter(|_| is_plain(path)) {
                Some(true) => files.push((grant.host.join(rest), path)),
                Some(false) => whole = true,
                None => {}
            }
        }
        if files.len() > MOST_FILES {
            (files, whole) = (Vec::new(), true);
        }
        for (path, guest) in &files {
            // The file itself, if that was granted.
            let path = if below(&grant.guest, guest) == Some("") { &grant.host } else { path };
            let entry = self.file(&host(path, folder), guest, Access::Read, "read");
            match OF_THE_SYSTEM.iter().any(|of| path.starts_with(of)) {
                true => self.aside("It has read this, a file of the system.", &entry, true),
                false => {
                    let _ = write!(self.out, "\n{entry}");
                }
            }
        }
        if whole {
            let sentence = match files.is_empty() {
                true => "It has looked at this whole folder.",
                false => {
                    "It has looked at this whole folder: for that, grant it in the place of the \
                     files in it."
                }
            };
            let entry = self.file(place, &grant.guest, Access::Read, "listed");
            self.aside(sentence, &entry, true);
        }
    }

    /// What it looked for where nothing of this machine was.
    fn other_files(&mut self) {
        let Recorded { base, asked, .. } = self.recorded;
        let other = |path: &&String| {
            *path != "/" && base.filesystem.iter().all(|grant| below(&grant.guest, path).is_none())
        };
        let (mut written, mut read) = (BTreeSet::new(), BTreeSet::new());
        for path in asked.written.keys().filter(other) {
            let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
            written.insert(if parent.is_empty() { path.clone() } else { parent.to_owned() });
        }
        // A folder inside another one goes with it.
        let outer = |path: &str, all: &BTreeSet<String>| {
            all.iter().any(|other| other != path && below(other, path).is_some())
        };
        let most: BTreeSet<String> =
            written.iter().filter(|path| !outer(path, &written)).cloned().collect();
        for path in asked.read.keys().filter(other) {
            let made = most.contains(path) || outer(path, &most);
            let on_the_way = most.iter().any(|folder| below(path, folder).is_some());
            if !made && !on_the_way {
                read.insert(path.clone());
            }
        }
        let counts = !self.answered();
        for path in most.iter().take(MOST_TOLD) {
            let sentence = "It has asked to write here, where nothing is granted: say where on this \
                            machine.";
            let entry = self.file("\"…\"", path, Access::Write, "written to");
            self.aside(sentence, &entry, true);
        }
        for path in read.iter().take(MOST_TOLD) {
            let sentence = "It has asked to read this, and nothing grants it: say where on this \
                            machine it is.";
            let entry = self.file("\"…\"", path, Access::Read, "read");
            self.aside(sentence, &entry, counts);
        }
        for more in [most.len(), read.len()] {
            if more > MOST_TOLD {
                let _ = writeln!(self.out, "\n# And {} more places.", more - MOST_TOLD);
            }
        }
    }

    fn peer(&self, grant: &NetworkGrant) -> String {
        let reaches = grant.reaches.iter().map(|kind| quoted(kind.name()));
        format!(
            "[[network]]\nhost = {}\nport = {}\nprotocol = \"{}\"\nreaches = [{}]\nreason = {}\n",
            quoted(&grant.host.to_string()),
            grant.port,
            grant.protocol.name(),
            reaches.collect::<Vec<_>>().join(", "),
            self.reason("connected to")
        )
    }

    fn peers(&mut self) {
        let Recorded { base, used, asked, .. } = self.recorded;
        let granted = |(host, port, protocol): &(String, u16, Protocol)| {
            base.network.iter().find(|grant| {
                (grant.host.to_string(), grant.port, grant.protocol)
                    == (host.clone(), *port, *protocol)
            })
        };
        for (peer, _) in used.peers.iter().filter(|(_, allowed)| **allowed) {
            let Some(grant) = granted(peer) else { continue };
            let entry = self.peer(grant);
            match grant.reaches == [AddressKind::Loopback] {
                true => {
                    let _ = write!(self.out, "\n{entry}");
                }
                false => {
                    let why = beyond(&grant.reaches);
                    self.aside(&format!("It has connected there: {why}"), &entry, true);
                }
            }
        }
        let counts = !self.answered();
        let refused = asked.peers.keys().filter(|peer| granted(peer).is_none());
        for (host, port, protocol) in refused.take(MOST_TOLD) {
            let Ok(peer) = Peer::parse(host) else {
                let host = Escaped::cut(host, 100);
                let _ = writeln!(
                    self.out,
                    "\n# It has asked for {host} port {port}, which no policy can grant."
                );
                continue;
            };
            let kind = match &peer {
                Peer::Address(address) => address_kind(*address),
                Peer::Name(name) if name == "localhost" || name.ends_with(".localhost") => {
                    AddressKind::Loopback
                }
                Peer::Name(_) => AddressKind::Public,
            };
            if kind == AddressKind::Never || *port == 0 {
                let _ = writeln!(
                    self.out,
                    "\n# It has asked for {peer} port {port}, which no policy can grant."
                );
                continue;
            }
            let (port, protocol) = (*port, *protocol);
            let why = beyond(&[kind]);
            let mut grant = NetworkGrant::new(peer, port, protocol, "");
            grant.reaches = vec![kind];
            let entry = self.peer(&grant);
            self.aside(&format!("It has asked to connect there: {why}"), &entry, counts);
        }
        let connected = |name: &str| asked.peers.keys().any(|(host, ..)| host == name);
        for peer in asked.refused_names().filter(|peer| !connected(&peer.to_string())) {
            let sentence = "It has looked this name up, and did not go on to connect.";
            let entry = format!(
                "[[network]]\nhost = {}\nport = …\nreason = {}\n",
                quoted(&peer.to_string()),
                self.reason("looked up")
            );
            self.aside(sentence, &entry, counts);
        }
    }

    /// What no policy grants.
    fn never(&mut self) {
        let others = &self.recorded.asked.others;
        if !others.is_empty() {
            self.out
                .push_str("\n# It has also asked for what is refused whatever a policy says:\n");
        }
        for other in others.iter().take(MOST_TOLD) {
            let _ = writeln!(self.out, "#   {}", Escaped::cut(other, 200));
        }
    }

    fn limits(&mut self) {
        let base = self.recorded.base;
        let Some((measured, spent)) = &self.recorded.measured else {
            let limits = &base.limits;
            let _ = write!(
                self.out,
                "\n[limits]\n# Not measured, as there was no answer.\nmemory = \"{}\"\n\
                 run-time = \"{}\"\nprepare-time = \"{}\"\nmodel-size = \"{}\"\n\
                 input-size = \"{}\"\noutput-size = \"{}\"\n",
                format_size(limits.memory),
                format_duration(limits.run_time),
                format_duration(limits.prepare_time),
                format_size(limits.model_size),
                format_size(limits.input_size),
                format_size(limits.output_size),
            );
            return;
        };
        self.out.push_str(&measured_limits(measured, &base.limits));
        let most = &base.quotas;
        let bytes = |spent: u64, most: u64| {
            let room = match spent {
                0 => 0,
                spent => {
                    spent.saturating_mul(2).max(4096).checked_next_power_of_two().unwrap_or(most)
                }
            };
            format_size(room.min(most))
        };
        let count = |spent: u32, most: u32| spent.saturating_mul(2).min(most);
        let handles = spent.open_handles.max(4);
        let _ = write!(
            self.out,
            "\n[quotas]\nbytes-written = \"{}\"\nfiles-created = {}\nopen-handles = {}\n\
             connections = {}\nbytes-sent = \"{}\"\nbytes-received = \"{}\"\n",
            bytes(spent.bytes_written, most.bytes_written),
            count(spent.files_created, most.files_created),
            count(handles, most.open_handles.min(quota_bounds::OPEN_HANDLES.max)),
            count(spent.connections, most.connections),
            bytes(spent.bytes_sent, most.bytes_sent),
            bytes(spent.bytes_received, most.bytes_received),
        );
    }
}

/// Whether a path is written as it is: neither escaped nor cut.
fn is_plain(path: &str) -> bool {
    !path.contains(['\\', '…'])
}

/// Why a peer is risky.
fn beyond(reaches: &[AddressKind]) -> &'static str {
    if reaches.contains(&AddressKind::LinkLocal) {
        "link-local addresses are where clouds hand out a machine's credentials."
    } else if reaches.contains(&AddressKind::Private) {
        "a machine of this network, which may trust whoever is in it."
    } else if reaches.contains(&AddressKind::Public) {
        "a machine outside, where what it is told is known from then on."
    } else {
        "a service on this machine."
    }
}
