//! `belljar policy diff`: what one policy allows more than another, and what less.

use std::fmt::Write as _;
use std::io::stdout;
use std::path::Path;

use belljar_policy::{Change, ChangeKind, compare};
use serde_json::{Value, json};

use super::super::args::TextFormat;
use super::super::failure::Failure;
use super::super::json;
use super::review;

pub(super) fn diff(old: &Path, new: &Path, format: TextFormat) -> Result<(), Failure> {
    let changes = compare(&review(old)?, &review(new)?);
    let gains = changes.iter().filter(|change| change.kind == ChangeKind::Gain).count();
    match format {
        TextFormat::Text => super::print(&text(&changes))?,
        TextFormat::Json => {
            let change = |change: &Change| {
                json!({
                    "kind": change.kind.name(),
                    "key": change.key,
                    "old": change.old,
                    "new": change.new,
                })
            };
            let changes: Value = changes.iter().map(change).collect();
            let answer = json!({ "gains": gains, "changes": changes });
            json::print(&answer, stdout().lock()).map_err(Failure::output)?;
        }
    }
    match gains {
        0 => Ok(()),
        1 => Err(Failure::refused("the second policy allows something that the first does not")),
        _ => Err(Failure::refused(format!(
            "the second policy allows {gains} things that the first does not"
        ))),
    }
}

fn text(changes: &[Change]) -> String {
    let mut out = String::new();
    if changes.is_empty() {
        out.push_str("the two policies allow the same\n");
    }
    for Change { kind, key, old, new, .. } in changes {
        let _ = writeln!(out, "{:<6}  {key}: {old} -> {new}", kind.name());
    }
    out
}
