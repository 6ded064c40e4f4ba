//! The parsers of policies and ceilings.
#![no_main]

use belljar_policy::{Ceiling, Peer, Policy, PolicyError, canonical};
use libfuzzer_sys::fuzz_target;

/// No message is long, and none can draw on a terminal.
fn harmless(error: &PolicyError) {
    let text = error.to_string();
    assert!((1..=3).contains(&text.lines().count()), "{text:?}");
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
    assert!(text.len() < 10_000, "{text:?}");
    assert!(error.message().lines().count() <= 2);
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Err(error) = Ceiling::parse(text, "fuzz") {
        harmless(&error);
    }
    let policy = match Policy::parse(text, "fuzz") {
        Ok(policy) => policy,
        Err(error) => return harmless(&error),
    };
    policy.limits.check().expect("limits are within their bounds");
    policy.quotas.check().expect("quotas are within their bounds");
    if policy.program.is_none() {
        assert!(policy.models.is_empty() && policy.network.is_empty());
    }
    for (at, grant) in policy.filesystem.iter().enumerate() {
        let parent = std::path::Component::ParentDir;
        assert!(grant.host.components().all(|part| part != parent), "{grant:?}");
        assert!(grant.guest.starts_with('/') && !grant.guest.contains("//"), "{grant:?}");
        assert!(!grant.reason.is_empty());
        assert!(policy.filesystem[..at].iter().all(|other| other.guest != grant.guest));
    }
    for grant in &policy.network {
        assert!(grant.port != 0 && !grant.reaches.is_empty() && !grant.reason.is_empty());
        if let Peer::Address(address) = grant.host {
            assert!(grant.reaches(address), "{grant:?}");
        }
    }
    // The canonical order has the same meaning, and is stable.
    let ordered = canonical(text, "fuzz").expect("a policy can be ordered");
    assert_eq!(Policy::parse(&ordered, "fuzz").expect("it still is one"), policy);
    assert_eq!(canonical(&ordered, "fuzz").expect("again"), ordered);
});
