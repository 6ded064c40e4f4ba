//! `belljar policy explain`: what a policy allows in plain sentences, and which layers hold each.

use std::fmt::Write as _;
use std::io::stdout;
use std::path::Path;

use belljar::Digest;
use belljar_policy::{LoadedPolicy, Policy, Sentence};
use serde_json::{Value, json};

use super::super::args::TextFormat;
use super::super::failure::{Failure, shown};
use super::super::json;
use super::review;

pub(super) fn explain(file: &Path, format: TextFormat) -> Result<(), Failure> {
    let loaded = review(file)?;
    let sentences = belljar_policy::explain(&loaded);
    match format {
        TextFormat::Text => super::print(&text(file, &loaded, &sentences)),
        TextFormat::Json => {
            let sentence = |sentence: &Sentence| {
                json!({
                    "about": sentence.about,
                    "text": sentence.text,
                    "enforced_by": sentence.enforced_by,
                })
            };
            let answer = json!({
                "path": loaded.source.path.to_string_lossy(),
                "sha256": Digest::from(loaded.source.sha256).to_string(),
                "for": subject(&loaded.policy),
                "sentences": sentences.iter().map(sentence).collect::<Value>(),
            });
            json::print(&answer, stdout().lock()).map_err(Failure::output)
        }
    }
}

fn subject(policy: &Policy) -> &'static str {
    if policy.program.is_some() { "a guest program" } else { "a model" }
}

fn text(file: &Path, loaded: &LoadedPolicy, sentences: &[Sentence]) -> String {
    let digest = Digest::from(loaded.source.sha256);
    let mut out = String::new();
    let _ = writeln!(out, "{}: a policy for {}", shown(file), subject(&loaded.policy));
    let _ = writeln!(out, "SHA-256 of the policy: {digest}");
    let mut about = "";
    for sentence in sentences {
        if sentence.about != about {
            about = sentence.about;
            let _ = writeln!(out, "\n{about}");
        }
        let _ = writeln!(out, "  {}", sentence.text);
        let _ = writeln!(out, "    enforced by: {}", sentence.enforced_by.join("; "));
    }
    out
}
