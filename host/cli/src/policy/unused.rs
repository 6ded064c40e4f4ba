//! `belljar policy check --unused LOG`: finds grants of a policy that no recorded run has used.
//!
//! A log of decisions has a line for each use of a grant, with the rule that allowed it. Only lines
//! of runs under exactly this policy are counted.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde::Deserialize;

use super::super::failure::{Failure, shown};
use belljar::Digest;
use belljar_policy::{Access, LoadedPolicy, ModelGrant, key_rule};
use belljar_text::Escaped;

/// Maximum length of a line: three texts of a thousand characters, each of which may be escaped.
const MAX_LINE: usize = 1 << 16;

/// The fields of a line that are used here.
#[derive(Deserialize)]
struct Line {
    model: Option<String>,
    policy: Option<String>,
    resource: String,
    access: String,
    verdict: String,
    rule: String,
}

/// What was allowed in the recorded runs, under all policies.
#[derive(Default)]
pub(super) struct Uses {
    /// By the digest of the policy: the rule, and the access.
    rules: HashSet<(String, String, String)>,
    /// By the digest of the policy: models that were loaded.
    models: HashSet<(String, String)>,
    /// Policies under which a model or program has run.
    runs: HashSet<String>,
}

impl Uses {
    pub(super) fn read(path: &Path) -> Result<Uses, Failure> {
        let bad = |why: &dyn std::fmt::Display| Failure::usage(format!("{}: {why}", shown(path)));
        let mut reader = BufReader::new(File::open(path).map_err(|err| bad(&err))?);
        let mut uses = Uses::default();
        for number in 1u64.. {
            let mut line = Vec::new();
            let mut bounded = std::io::Read::take(&mut reader, MAX_LINE as u64);
            if bounded.read_until(b'\n', &mut line).map_err(|err| bad(&err))? == 0 {
                break;
            }
            let line: Line = serde_json::from_slice(&line).map_err(|_| {
                bad(&format_args!("line {number} is not an entry of a log of decisions"))
            })?;
            uses.add(line);
        }
        Ok(uses)
    }

    fn add(&mut self, line: Line) {
        let (Some(policy), "allowed") = (line.policy, &*line.verdict) else { return };
        match (&*line.resource, &*line.access, line.model) {
            ("model", "load", Some(model)) => {
                self.models.insert((policy, model));
            }
            ("model" | "program", "run", _) => {
                self.runs.insert(policy);
            }
            _ => {
                self.rules.insert((policy, line.rule, line.access));
            }
        }
    }

    /// Each unused grant, with a hint. `None` if no run used this policy.
    pub(super) fn unused(&self, loaded: &LoadedPolicy) -> Option<Vec<(String, &'static str)>> {
        const DROP: &str = "remove it, unless rare runs need it";
        let digest = Digest::from(loaded.source.sha256).to_string();
        if !self.runs.contains(&digest) {
            return None;
        }
        let used_under = |policy: &str, rule: &str, access: &str| {
            self.rules.contains(&(policy.to_owned(), rule.to_owned(), access.to_owned()))
        };
        let used = |rule: &str, access: &str| used_under(&digest, rule, access);
        let policy = &loaded.policy;
        let mut found = Vec::new();
        for key in policy.program.iter().flat_map(|program| program.asked_for()) {
            if !used(&key_rule("program", key), "use") {
                found.push((format!("never used: program.{key}"), DROP));
            }
        }
        for grant in &policy.models {
            if !self.loaded(&digest, grant) {
                let name = Escaped::new(&grant.name);
                found.push((format!("never used: the model {name}"), DROP));
            }
            // Uses of the grants of the model's own policy are logged under that policy.
            let Some(own) = &grant.rules else { continue };
            let own = Digest::from(own.source.sha256).to_string();
            for file in grant.files() {
                if !used_under(&own, &file.rule(), "read") {
                    let (name, guest) = (Escaped::new(&grant.name), Escaped::new(&file.guest));
                    found.push((format!("never used: {guest} of the model {name}"), DROP));
                }
            }
        }
        for grant in &policy.filesystem {
            let rule = grant.rule();
            let guest = Escaped::new(&grant.guest);
            match (used(&rule, "read"), used(&rule, "write"), grant.access) {
                (false, false, _) => found.push((format!("never used: {guest}"), DROP)),
                (true, false, Access::Write) => found.push((
                    format!("never written to: {guest}"),
                    "set access = \"read\", unless rare runs write",
                )),
                _ => {}
            }
        }
        for grant in &policy.network {
            if !used(&grant.rule(), "connect") {
                let peer = format!("{} port {}", grant.host, grant.port);
                found.push((format!("never used: {peer}"), DROP));
            }
        }
        Some(found)
    }

    /// Whether a model was loaded: under the policy, or under its own.
    fn loaded(&self, digest: &str, grant: &ModelGrant) -> bool {
        let own = grant.rules.as_ref().map(|rules| Digest::from(rules.source.sha256).to_string());
        let policy = own.unwrap_or_else(|| digest.to_owned());
        self.models.contains(&(policy, Digest::from(grant.sha256).to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uses(lines: &[&str]) -> Result<Uses, Failure> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), lines.join("\n")).unwrap();
        Uses::read(file.path())
    }

    #[test]
    fn invalid_line_of_a_log_is_reported_with_its_number() {
        let line = r#"{"time":"","model":null,"policy":null,"resource":"model","access":"run","verdict":"allowed","rule":"limits"}"#;
        assert!(uses(&[]).is_ok());
        assert!(uses(&[line, line]).is_ok());
        let long = format!("{}{}", " ".repeat(MAX_LINE), line);
        for bad in ["", "{}", "[]", "allowed", "{\"policy\": 3}", &long] {
            let failure = uses(&[line, bad, line]).err();
            assert!(failure.is_some_and(|err| err.to_string().contains("line 2")), "{bad:.20}");
        }
    }
}
