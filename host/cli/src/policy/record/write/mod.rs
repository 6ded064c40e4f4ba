//! The text of a program's recorded policy: the used grants of the base, file by file, and comments
//! with grants that a person must decide about.

mod files;
mod peers;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use super::observed::Observed;
use belljar::internals::Spent;
use belljar_policy::units::{format_duration, format_size};
use belljar_policy::write::{commented, host, quoted};
use belljar_policy::{FORMAT_VERSION, Measured, Policy, measured_limits, quota_bounds};
use belljar_text::Escaped;

/// Maximum number of comments of one kind.
const MAX_COMMENTS: usize = 50;

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
