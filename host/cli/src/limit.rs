//! Hints for an exceeded limit: where it is set, and how to raise it.

use std::path::Path;
use std::time::Duration;

use super::failure::shown;
use belljar::Limit;
use belljar_policy::{Limits, Policy};

/// What to do about a limit that no policy sets.
pub(super) const NO_POLICY: &str = "this limit is fixed: simplify the model, for example with \
    fewer nested subgraphs and functions";

/// What to do about an exceeded limit, under a policy or without one.
pub(super) fn hint(limit: &Limit, policy: Option<&Path>) -> String {
    let key = limit.resource();
    if !key.starts_with("limits.") {
        return NO_POLICY.to_owned();
    }
    let asked = match policy {
        Some(path) => Policy::read_for_review(path).ok().map(|loaded| loaded.policy.limits),
        None => Some(Limits::default()),
    };
    if asked.is_some_and(|asked| is_cut(limit, &asked)) {
        return format!(
            "the operator's ceiling lowers `{key}` to this value, and a policy cannot exceed it; \
             ask the operator to raise it"
        );
    }
    where_it_is_set(key, policy)
}

/// Whether the limit in effect is lower than the one that the policy requests.
fn is_cut(limit: &Limit, asked: &Limits) -> bool {
    let sizes = |held: u64, asked: u64| held < asked;
    let times = |held: Duration, asked: Duration| held < asked;
    match *limit {
        Limit::Memory { limit } => sizes(limit, asked.memory),
        Limit::Stack { limit } => sizes(limit, asked.stack),
        Limit::PrepareTime { limit } => times(limit, asked.prepare_time),
        Limit::RunTime { limit } => times(limit, asked.run_time),
        Limit::ModelSize { limit } => sizes(limit, asked.model_size),
        Limit::InputSize { limit, .. } => sizes(limit, asked.input_size),
        Limit::OutputSize { limit, .. } => sizes(limit, asked.output_size),
        _ => false,
    }
}

/// In which line of the policy a key is set, or that it has its default.
pub(super) fn where_it_is_set(key: &str, policy: Option<&Path>) -> String {
    let Some(path) = policy else {
        return format!(
            "no policy was given, so `{key}` has its default; to raise it, write a policy with \
             `belljar new-policy` and use --policy FILE"
        );
    };
    let text = Policy::text_for_review(path).map(|(text, _)| text).unwrap_or_default();
    match line_of(&text, key) {
        Some(line) => format!(
            "`{key}` is set in line {line} of {}; raise it there if you trust the model with more",
            shown(path)
        ),
        None => format!(
            "{} does not set `{key}`, so it has its default; set it there to allow more",
            shown(path)
        ),
    }
}

/// The line, from 1, in which a policy sets a key such as `limits.memory`.
fn line_of(text: &str, key: &str) -> Option<usize> {
    let (table, name) = key.split_once('.')?;
    let mut inside = "";
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(header) = line.strip_prefix('[') {
            inside = header.split(']').next().unwrap_or_default().trim();
            continue;
        }
        let Some((set, _)) = line.split_once('=') else { continue };
        let set = set.trim().trim_matches('"');
        if (inside == table && set == name) || (inside.is_empty() && set == key) {
            return Some(at + 1);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_in_their_table() {
        let text = "version = 1\n[model]\nmemory = 1\n[ limits ] # comment\nrun-time = \"1 s\"\n\
                    memory = \"1 GiB\"\n";
        assert_eq!(line_of(text, "limits.memory"), Some(6));
        assert_eq!(line_of(text, "limits.run-time"), Some(5));
        assert_eq!(line_of(text, "limits.stack"), None);
        assert_eq!(line_of("version = 1\nlimits.stack = \"1 MiB\"", "limits.stack"), Some(2));
        assert_eq!(line_of("# memory = 1\n[limits]\n# memory = 1", "limits.memory"), None);
    }

    #[test]
    fn hint_names_the_ceiling_that_lowers_a_limit() {
        let limit = Limit::Memory { limit: 64 << 20 };
        assert!(hint(&limit, None).contains("ceiling"));
        let limit = Limit::Memory { limit: Limits::default().memory };
        assert!(hint(&limit, None).contains("default"));
        assert_eq!(hint(&Limit::GuestStack { limit: 1 }, None), NO_POLICY);
    }
}
