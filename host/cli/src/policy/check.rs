//! `belljar policy check`: checks whether policies can be used on this machine.

use std::fmt::Write as _;
use std::io::stdout;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::super::args::TextFormat;
use super::super::failure::{Failure, shown};
use super::super::json;
use super::unused::Uses;
use super::warnings::warnings;
use belljar::Digest;
use belljar::{Error, ErrorKind};
use belljar_policy::{Ceilings, Policy, PolicyError};

/// The severity of a finding.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Severity {
    /// The policy cannot be used.
    Error,
    /// A ceiling reduces it.
    Cut,
    /// It can be used, but allows more than most models need.
    Warning,
}

impl Severity {
    fn name(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Cut => "cut",
            Severity::Warning => "warning",
        }
    }
}

struct Finding {
    severity: Severity,
    position: Option<(usize, usize)>,
    message: String,
    hint: Option<String>,
}

struct Checked {
    path: String,
    /// Digest of the file, if it could be read.
    sha256: Option<Digest>,
    findings: Vec<Finding>,
}

pub(super) fn check(
    files: &[PathBuf],
    strict: bool,
    log: Option<&Path>,
    format: TextFormat,
) -> Result<(), Failure> {
    let uses = log.map(Uses::read).transpose()?;
    let ceilings = Ceilings::read(&[], false).map_err(|err| Error::new(ErrorKind::Ceiling(err)))?;
    let checked: Vec<Checked> =
        files.iter().map(|file| one(file, &ceilings, uses.as_ref())).collect();
    let is_bad = |checked: &&Checked| {
        checked.findings.iter().any(|finding| strict || finding.severity == Severity::Error)
    };
    let bad = checked.iter().filter(is_bad).count();
    match format {
        TextFormat::Text => super::print(&text(&checked))?,
        TextFormat::Json => {
            json::print(&to_json(&checked, bad), stdout().lock()).map_err(Failure::output)?;
        }
    }
    match bad {
        0 => Ok(()),
        _ => Err(Failure::refused(format!("{bad} of {} policies cannot be used", checked.len()))),
    }
}

fn one(file: &Path, ceilings: &Ceilings, uses: Option<&Uses>) -> Checked {
    let path = shown(file);
    let loaded = match Policy::load(file) {
        Ok(loaded) => loaded,
        Err(err) => return Checked { path, sha256: None, findings: vec![error(&err)] },
    };
    let finding = |severity, message: String, hint: &str| Finding {
        severity,
        position: None,
        message,
        hint: (!hint.is_empty()).then(|| hint.to_owned()),
    };
    let mut findings = Vec::new();
    match ceilings.admit(&loaded.policy) {
        Ok(effective) => findings
            .extend(effective.cuts().iter().map(|cut| finding(Severity::Cut, cut.to_string(), ""))),
        Err(refused) => {
            let message = format!("the operator's ceiling refuses it: {refused}");
            findings.push(finding(Severity::Error, message, "reduce what the policy requests"));
        }
    }
    let warned = warnings(&loaded).into_iter();
    findings.extend(warned.map(|(message, hint)| finding(Severity::Warning, message, hint)));
    let unused = uses.map(|uses| uses.unused(&loaded));
    let unused = unused.map(|unused| {
        unused.unwrap_or_else(|| {
            let missing = "the log of decisions contains no run under this policy".to_owned();
            vec![(missing, "the policy may have changed since; run it again with --decisions")]
        })
    });
    let unused = unused.into_iter().flatten();
    findings.extend(unused.map(|(message, hint)| finding(Severity::Warning, message, hint)));
    Checked { path, sha256: Some(loaded.source.sha256.into()), findings }
}

fn error(err: &PolicyError) -> Finding {
    Finding {
        severity: Severity::Error,
        position: err.position(),
        message: err.message(),
        hint: err.hint().map(str::to_owned),
    }
}

fn text(checked: &[Checked]) -> String {
    let mut out = String::new();
    for Checked { path, findings, .. } in checked {
        if findings.is_empty() {
            let _ = writeln!(out, "{path}: good");
        }
        for Finding { severity, position, message, hint } in findings {
            let place =
                position.map_or_else(String::new, |(line, column)| format!(":{line}:{column}"));
            let _ = writeln!(out, "{path}{place}: {}: {message}", severity.name());
            if let Some(hint) = hint {
                let _ = writeln!(out, "  hint: {hint}");
            }
        }
    }
    out
}

fn to_json(checked: &[Checked], bad: usize) -> Value {
    let finding = |finding: &Finding| {
        json!({
            "severity": finding.severity.name(),
            "line": finding.position.map(|(line, _)| line),
            "column": finding.position.map(|(_, column)| column),
            "message": finding.message,
            "hint": finding.hint,
        })
    };
    let file = |checked: &Checked| {
        json!({
            "path": checked.path,
            "sha256": checked.sha256.map(|digest| digest.to_string()),
            "findings": checked.findings.iter().map(finding).collect::<Value>(),
        })
    };
    json!({ "good": bad == 0, "files": checked.iter().map(file).collect::<Value>() })
}
