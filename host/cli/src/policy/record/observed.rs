//! What a program requested: every decision of a run, sorted. The process that reports it may be
//! compromised, so its amount is bounded, and it must never grant anything by itself.

use std::collections::{BTreeMap, BTreeSet};

use belljar::internals::{Decision, Verdict};
use belljar_policy::{Peer, Protocol};

/// Maximum number of different entries of one kind.
const MAX_ENTRIES: usize = 1000;

/// A peer that the program tried to connect to.
pub(super) type Asked = (String, u16, Protocol);

/// What was requested, and whether it was ever allowed.
#[derive(Clone, Debug, Default)]
pub(super) struct Observed {
    /// Keys of `[program]`.
    pub(super) keys: BTreeMap<String, bool>,
    /// Paths as the program sees them.
    pub(super) read: BTreeMap<String, bool>,
    pub(super) written: BTreeMap<String, bool>,
    pub(super) peers: BTreeMap<Asked, bool>,
    /// Names that the program tried to resolve.
    pub(super) names: BTreeMap<String, bool>,
    /// SHA-256 of models that were loaded.
    pub(super) models: BTreeSet<String>,
    /// Names of requested models that were not granted.
    pub(super) missing_models: BTreeSet<String>,
    /// Requests that no policy can grant.
    pub(super) others: BTreeSet<String>,
    /// Whether it has printed to standard output and standard error.
    pub(super) printed: [bool; 2],
}

impl Observed {
    pub(super) fn add(&mut self, decision: &Decision<'_>) {
        let Decision { subject, resource, access, verdict, rule } = *decision;
        let allowed = verdict == Verdict::Allowed;
        match (resource, access) {
            ("model", "load") if allowed => {
                keep(&mut self.models, subject.model.map(|digest| digest.to_string()));
            }
            ("model" | "program", "load" | "run") => {}
            (key, "use") if key.starts_with("program.") => {
                note(&mut self.keys, key.trim_start_matches("program.").to_owned(), allowed);
            }
            (name, "load") => {
                let name = name.strip_prefix("model ").filter(|_| !allowed);
                keep(&mut self.missing_models, name.map(str::to_owned));
            }
            (path, "read") if path.starts_with('/') => {
                self.path(path, false, allowed, rule);
            }
            (path, "write") if path.starts_with('/') => {
                self.path(path, true, allowed, rule);
            }
            ("folders", "read") => {}
            (name, "resolve") => note(&mut self.names, name.to_owned(), allowed),
            (peer, "connect") => {
                let protocol = match rule.ends_with("protocol = \"udp\"") {
                    true => Protocol::Udp,
                    false => Protocol::Tcp,
                };
                let parts = peer.rsplit_once(" port ");
                let port = parts.and_then(|(_, port)| port.parse().ok());
                if let (Some((host, _)), Some(port)) = (parts, port) {
                    note(&mut self.peers, (host.to_owned(), port, protocol), allowed);
                }
            }
            (_, "use more") => {}
            _ if allowed => {}
            (what, access) => keep(&mut self.others, Some(format!("{access} {what}: {rule}"))),
        }
    }

    fn path(&mut self, path: &str, write: bool, allowed: bool, rule: &str) {
        // Refused by a rule that no grant changes: links, hard links, special files.
        if !allowed && !rule.starts_with("[[filesystem]]") {
            let access = if write { "write" } else { "read" };
            keep(&mut self.others, Some(format!("{access} {path}: {rule}")));
            return;
        }
        let to = if write { &mut self.written } else { &mut self.read };
        note(to, path.to_owned(), allowed);
    }

    /// The union of what two runs requested.
    pub(super) fn and(mut self, other: Observed) -> Observed {
        fn join<K: Ord>(to: &mut BTreeMap<K, bool>, from: BTreeMap<K, bool>) {
            from.into_iter().for_each(|(key, allowed)| note(to, key, allowed));
        }
        join(&mut self.keys, other.keys);
        join(&mut self.read, other.read);
        join(&mut self.written, other.written);
        join(&mut self.peers, other.peers);
        join(&mut self.names, other.names);
        for (to, from) in [
            (&mut self.models, other.models),
            (&mut self.missing_models, other.missing_models),
            (&mut self.others, other.others),
        ] {
            from.into_iter().for_each(|each| keep(to, Some(each)));
        }
        let [out, err] = other.printed;
        self.printed = [self.printed[0] || out, self.printed[1] || err];
        self
    }

    /// Names that were refused and could be granted.
    pub(super) fn refused_names(&self) -> impl Iterator<Item = Peer> {
        let refused = self.names.iter().filter(|(_, allowed)| !**allowed);
        let peers = refused.filter_map(|(name, _)| Peer::parse(name).ok());
        peers.filter(|peer| matches!(peer, Peer::Name(_)))
    }
}

/// Adds an entry; it counts as allowed if it was allowed once.
fn note<K: Ord>(to: &mut BTreeMap<K, bool>, key: K, allowed: bool) {
    if to.len() < MAX_ENTRIES || to.contains_key(&key) {
        *to.entry(key).or_default() |= allowed;
    }
}

fn keep(to: &mut BTreeSet<String>, text: Option<String>) {
    if let Some(text) = text.filter(|_| to.len() < MAX_ENTRIES) {
        to.insert(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use belljar::internals::Subject;

    #[test]
    fn decisions_are_sorted_and_bounded() {
        let mut observed = Observed::default();
        let mut add = |resource: &str, access: &str, verdict, rule: &str| {
            let subject = Subject::default();
            observed.add(&Decision { subject, resource, access, verdict, rule });
        };
        let (yes, no) = (Verdict::Allowed, Verdict::Refused);
        add("program", "run", yes, "limits");
        add("program.clocks", "use", no, "");
        add("/a", "read", no, "[[filesystem]] guest = \"/a\", access = \"read\"");
        add("/a", "read", yes, "");
        add("/b", "write", no, "links are never created");
        add("model m", "load", no, "models");
        add("h port 7", "connect", no, "[[network]] host = \"h\", port = 7, protocol = \"udp\"");
        add("h port 70000", "connect", no, "");
        add("h", "connect", no, "");
        add("h", "resolve", no, "");
        add("0.0.0.0:0", "bind", no, "never");
        for at in 0..5000 {
            add(&format!("/{at}"), "read", no, "[[filesystem]]");
        }
        assert!(!observed.keys["clocks"]);
        assert!(observed.read["/a"] && !observed.written.contains_key("/b"));
        assert_eq!(observed.peers.keys().collect::<Vec<_>>(), [&("h".into(), 7, Protocol::Udp)]);
        assert_eq!(observed.missing_models.first().unwrap(), "m");
        assert_eq!(observed.others.len(), 2, "{:?}", observed.others);
        assert_eq!(observed.read.len(), MAX_ENTRIES);
        assert_eq!(observed.refused_names().count(), 1);
    }
}
