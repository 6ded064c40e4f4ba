//! Compares grants of files and peers.

use std::path::Path;

use belljar_files::Digest;
use belljar_text::Escaped;

use super::{ChangeKind, Changes, NOTHING};
use crate::{FileGrant, LoadedPolicy, ModelGrant, NetworkGrant, Policy};

/// The file grants of a policy, compared independent of the folder that the policy is in.
#[derive(Clone, Copy)]
pub(super) struct Files<'a> {
    grants: &'a [FileGrant],
    loaded: &'a LoadedPolicy,
}

impl<'a> Files<'a> {
    pub(super) fn of(loaded: &'a LoadedPolicy) -> Files<'a> {
        Files { grants: &loaded.policy.filesystem, loaded }
    }

    pub(super) fn of_model(grant: &'a ModelGrant, by: &'a LoadedPolicy) -> Files<'a> {
        grant.rules.as_deref().map_or(Files::none(by), Files::of)
    }

    pub(super) fn none(loaded: &'a LoadedPolicy) -> Files<'a> {
        Files { grants: &[], loaded }
    }

    /// The path relative to the policy file, if it is below its folder.
    fn path(self, grant: &'a FileGrant) -> &'a Path {
        let folder = self.loaded.source.path.parent().unwrap_or(Path::new("/"));
        grant.host.strip_prefix(folder).unwrap_or(&grant.host)
    }

    /// Whether these grants include a grant of `other`.
    fn cover(self, other: Files<'_>, grant: &FileGrant) -> bool {
        let path = other.path(grant);
        // A pinned grant allows only one content.
        let same = |own: &FileGrant| own.sha256.is_none() || own.sha256 == grant.sha256;
        let covers = |own: &FileGrant| {
            path.starts_with(self.path(own)) && own.access >= grant.access && same(own)
        };
        self.grants.iter().any(covers)
    }

    /// The grant for the same path.
    fn same(self, other: Files<'_>, grant: &FileGrant) -> Option<&'a FileGrant> {
        self.grants.iter().find(|own| self.path(own) == other.path(grant))
    }

    fn shown(self, grant: Option<&FileGrant>) -> String {
        grant.map_or_else(
            || NOTHING.to_owned(),
            |grant| {
                let FileGrant { host, guest, access, sha256, reason: _ } = grant;
                let path = self.loaded.shown_path(host);
                let guest = Escaped::cut(guest, 60);
                let pin = sha256.map(|pin| format!(" with SHA-256 {}", Digest::from(pin)));
                format!("{} {path} as {guest}{}", access.name(), pin.unwrap_or_default())
            },
        )
    }
}

pub(super) fn files(key: &str, old: Files<'_>, new: Files<'_>, to: &mut Changes) {
    for grant in new.grants {
        let before = old.same(new, grant);
        let (was, now) = (old.shown(before), new.shown(Some(grant)));
        if !old.cover(new, grant) {
            to.push(ChangeKind::Gain, key, was, now);
        } else if was != now && before.is_none_or(|before| new.cover(old, before)) {
            to.push(ChangeKind::Change, key, was, now);
        }
    }
    for grant in old.grants {
        if !new.cover(old, grant) {
            let now = new.shown(new.same(old, grant));
            to.push(ChangeKind::Loss, key, old.shown(Some(grant)), now);
        }
    }
}

pub(super) fn peers(a: &Policy, b: &Policy, to: &mut Changes) {
    let same = |x: &NetworkGrant, y: &NetworkGrant| {
        (&x.host, x.port, x.protocol) == (&y.host, y.port, y.protocol)
    };
    let find = |grant: &NetworkGrant, policy: &Policy| {
        policy.network.iter().find(|other| same(other, grant)).cloned()
    };
    let shown = |grant: &NetworkGrant| {
        let NetworkGrant { host, port, protocol, reaches, reason: _ } = grant;
        let kinds: Vec<&str> = reaches.iter().map(|kind| kind.name()).collect();
        let host = Escaped::cut(&host.to_string(), 60).to_string();
        format!("{} {host} port {port} ({})", protocol.name(), kinds.join(", "))
    };
    let less = |x: &NetworkGrant, y: Option<&NetworkGrant>| {
        y.is_none_or(|y| x.reaches.iter().any(|kind| !y.reaches.contains(kind)))
    };
    let or_nothing =
        |grant: &Option<NetworkGrant>| grant.as_ref().map_or_else(|| NOTHING.to_owned(), shown);
    for grant in &b.network {
        let before = find(grant, a);
        if less(grant, before.as_ref()) {
            to.push(ChangeKind::Gain, "network", or_nothing(&before), shown(grant));
        }
    }
    for grant in &a.network {
        let after = find(grant, b);
        if less(grant, after.as_ref()) {
            to.push(ChangeKind::Loss, "network", shown(grant), or_nothing(&after));
        }
    }
}
