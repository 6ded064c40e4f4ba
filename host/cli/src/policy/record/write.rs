//! The text of a program's recorded policy: the used grants of the base, file by file, and comments
//! with grants that a person must decide about.

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

/// Maximum number of files of one grant that are granted individually, and of comments of one kind.
const MAX_FILES: usize = 64;
const MAX_COMMENTS: usize = 50;

/// Folders of system files, which are risky to read even if they were granted.
const SYSTEM_FOLDERS: [&str; 8] =
    ["/boot", "/dev", "/etc", "/proc", "/root", "/run", "/sys", "/var/run"];

/// The results of all runs.
pub(super) struct Recorded<'a> {
    /// The program's name; untrusted.
    pub(super) name: &'a str,
    pub(super) sha256: String,
    pub(super) runs: u32,
    /// The policy of --within, which bounds the new policy.
    pub(super) base: &'a Policy,
    /// What the last run used, and what all runs requested.
    pub(super) used: &'a Observed,
    pub(super) asked: &'a Observed,
    /// Keys of `[program]` that the program needs to succeed.
    pub(super) allowed: &'a BTreeSet<&'static str>,
    /// The folder of the new policy.
    pub(super) folder: &'a Path,
    /// Measurements, if the last run succeeded.
    pub(super) measured: Option<(Measured, Spent)>,
}

/// The policy, and how many commented grants the run may depend on.
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
    /// The program's name, escaped.
    name: String,
}

impl Writer<'_> {
    fn answered(&self) -> bool {
        self.recorded.measured.is_some()
    }

    /// The reason of a grant.
    fn reason(&self, did: &str) -> String {
        quoted(&format!("recorded: {did} by a run of {}", self.name))
    }

    /// Writes a grant as a comment, with an explanation.
    fn aside(&mut self, sentence: &str, entry: &str, counts: bool) {
        self.decisions += usize::from(counts);
        let _ = write!(self.out, "\n# {sentence}\n{}", commented(entry));
    }

    fn head(&mut self) {
        let runs = match self.recorded.runs {
            1 => "1 run".to_owned(),
            runs => format!("{runs} runs"),
        };
        let _ = write!(
            self.out,
            "# Policy for {}, recorded from {runs}, with a margin in its limits.\n\
             # Commented entries were requested, but not granted: uncomment what you accept.\n\
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
                let without = if self.answered() { ", but not needed" } else { "" };
                let _ = writeln!(self.out, "# {key} = true   # requested{without}");
            }
        }
        if used.keys.get("environment") == Some(&true) {
            let variables = granted.environment.iter();
            let variables = variables.map(|(name, value)| format!("{name} = {}", quoted(value)));
            let variables = variables.collect::<Vec<_>>().join(", ");
            let _ = writeln!(
                self.out,
                "# The program read its environment. It can send secrets in it to any granted \
                 peer.\n\
                 # environment = {{ {variables} }}"
            );
            self.decisions += 1;
            reason = true;
        } else if asked.keys.contains_key("environment") {
            self.out.push_str("# environment = { NAME = \"…\" }   # requested\n");
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
        for name in asked.missing_models.iter().take(MAX_COMMENTS) {
            let entry =
                format!("[[models]]\nname = {}\npath = \"…\"\nsha256 = \"…\"", quoted(name));
            self.aside("The program requested a model by this name or SHA-256.", &entry, counts);
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

    /// Writes the used parts of each file grant of the base.
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
                    true => "The program wrote here, to a temporary copy.",
                    false => "The program tried to write here, and was refused.",
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
            // An escaped or shortened path is not the file's path.
            match is_file(&grant.host, rest).filter(|_| is_plain(path)) {
                Some(true) => files.push((grant.host.join(rest), path)),
                Some(false) => whole = true,
                None => {}
            }
        }
        if files.len() > MAX_FILES {
            (files, whole) = (Vec::new(), true);
        }
        for (path, guest) in &files {
            // If the grant is the file itself, use its path.
            let path = if below(&grant.guest, guest) == Some("") { &grant.host } else { path };
            let entry = self.file(&host(path, folder), guest, Access::Read, "read");
            match SYSTEM_FOLDERS.iter().any(|of| path.starts_with(of)) {
                true => self.aside("The program read this system file.", &entry, true),
                false => {
                    let _ = write!(self.out, "\n{entry}");
                }
            }
        }
        if whole {
            let sentence = match files.is_empty() {
                true => "The program listed this folder.",
                false => {
                    "The program listed this folder. To allow that, grant it instead of the files \
                     in it."
                }
            };
            let entry = self.file(place, &grant.guest, Access::Read, "listed");
            self.aside(sentence, &entry, true);
        }
    }

    /// Writes requests for paths that are not granted.
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
        // A grant of a folder includes the folders in it.
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
        for path in most.iter().take(MAX_COMMENTS) {
            let sentence = "The program tried to write to this path, which is not granted: set \
                            `host`.";
            let entry = self.file("\"…\"", path, Access::Write, "written to");
            self.aside(sentence, &entry, true);
        }
        for path in read.iter().take(MAX_COMMENTS) {
            let sentence = "The program tried to read this path, which is not granted: set `host`.";
            let entry = self.file("\"…\"", path, Access::Read, "read");
            self.aside(sentence, &entry, counts);
        }
        for more in [most.len(), read.len()] {
            if more > MAX_COMMENTS {
                let _ = writeln!(self.out, "\n# And {} more paths.", more - MAX_COMMENTS);
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
                    let why = risk(&grant.reaches);
                    self.aside(&format!("The program connected to this peer: {why}"), &entry, true);
                }
            }
        }
        let counts = !self.answered();
        let refused = asked.peers.keys().filter(|peer| granted(peer).is_none());
        for (host, port, protocol) in refused.take(MAX_COMMENTS) {
            let Ok(peer) = Peer::parse(host) else {
                let host = Escaped::cut(host, 100);
                let _ = writeln!(
                    self.out,
                    "\n# The program requested {host} port {port}, which no policy can grant."
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
                    "\n# The program requested {peer} port {port}, which no policy can grant."
                );
                continue;
            }
            let (port, protocol) = (*port, *protocol);
            let why = risk(&[kind]);
            let mut grant = NetworkGrant::new(peer, port, protocol, "");
            grant.reaches = vec![kind];
            let entry = self.peer(&grant);
            let sentence = format!("The program tried to connect to this peer: {why}");
            self.aside(&sentence, &entry, counts);
        }
        let connected = |name: &str| asked.peers.keys().any(|(host, ..)| host == name);
        for peer in asked.refused_names().filter(|peer| !connected(&peer.to_string())) {
            let sentence = "The program looked up this name, and did not connect.";
            let entry = format!(
                "[[network]]\nhost = {}\nport = …\nreason = {}\n",
                quoted(&peer.to_string()),
                self.reason("looked up")
            );
            self.aside(sentence, &entry, counts);
        }
    }

    /// Writes requests that no policy can grant.
    fn never(&mut self) {
        let others = &self.recorded.asked.others;
        if !others.is_empty() {
            self.out.push_str("\n# The program also made requests that no policy can grant:\n");
        }
        for other in others.iter().take(MAX_COMMENTS) {
            let _ = writeln!(self.out, "#   {}", Escaped::cut(other, 200));
        }
    }

    fn limits(&mut self) {
        let base = self.recorded.base;
        let Some((measured, spent)) = &self.recorded.measured else {
            let limits = &base.limits;
            let _ = write!(
                self.out,
                "\n[limits]\n# Not measured, because the program failed.\nmemory = \"{}\"\n\
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

/// Whether a path was reported unchanged: neither escaped nor shortened.
fn is_plain(path: &str) -> bool {
    !path.contains(['\\', '…'])
}

/// Why a peer is risky.
fn risk(reaches: &[AddressKind]) -> &'static str {
    if reaches.contains(&AddressKind::LinkLocal) {
        "cloud machines get their credentials from link-local addresses."
    } else if reaches.contains(&AddressKind::Private) {
        "a machine of the local network, which may trust other machines in it."
    } else if reaches.contains(&AddressKind::Public) {
        "a machine on the internet, which can keep any data sent to it."
    } else {
        "a service on this machine."
    }
}
