//! `belljar quarantine`: the models that are refused because their workers kept dying, and the way
//! out.

use std::io::{BufWriter, Write, stdout};
use std::path::Path;
use std::time::SystemTime;

use serde_json::{Value, json};

use super::args::{Format, IsolationArg, Quarantine};
use super::failure::Failure;
use super::host::{Store, host, read_model};
use super::json;
use super::snapshots::ago;
use super::table::Table;
use super::terminal::Terminal;
use belljar::{Digest, Quarantined};
use belljar_text::Escaped;

/// Largest model that is read for its digest, in bytes: what a policy can allow.
const MAX_MODEL: u64 = 4 << 30;

pub(super) fn quarantine(command: &Quarantine, terminal: &Terminal) -> Result<(), Failure> {
    let host = host(IsolationArg::Process, Store::Unused, 1, terminal)?;
    let list = host.quarantined()?;
    match command {
        Quarantine::List { format } => print(&list, *format),
        Quarantine::Release { models } => {
            // All are found before the first is released.
            let digests =
                models.iter().map(|name| find(name, &list)).collect::<Result<Vec<_>, _>>()?;
            for digest in digests {
                let was_in = host.release(digest)?;
                let what = if was_in { "released" } else { "was not in quarantine" };
                writeln!(stdout(), "{digest}  {what}").map_err(Failure::output)?;
            }
            Ok(())
        }
    }
}

/// The model that a person means.
fn find(name: &str, list: &[Quarantined]) -> Result<Digest, Failure> {
    if let Ok(digest) = name.parse() {
        return Ok(digest);
    }
    // A few digits fit many a digest.
    let start = name.to_ascii_lowercase();
    let fits = |one: &&Quarantined| {
        (name.len() >= 8 && one.model.to_string().starts_with(&start)) || one.label == name
    };
    let mut fitting = list.iter().filter(fits);
    match (fitting.next(), fitting.next()) {
        (Some(one), None) => Ok(one.model),
        (Some(_), Some(_)) => Err(Failure::usage(format!(
            "{}: several models in quarantine are called so",
            Escaped::new(name)
        ))
        .hint("give the SHA-256 that `belljar quarantine list --format json` shows")),
        (None, _) if Path::new(name).is_file() => {
            Ok(read_model(Path::new(name), MAX_MODEL)?.digest())
        }
        (None, _) => Err(Failure::usage(format!(
            "{}: no file, and no model in quarantine is called so",
            Escaped::new(name)
        ))
        .hint("`belljar quarantine list` shows all")),
    }
}

fn print(list: &[Quarantined], format: Format) -> Result<(), Failure> {
    let mut out = BufWriter::new(stdout().lock());
    match format {
        Format::Json => {
            let list: Value = list.iter().map(to_json).collect();
            json::print(&list, &mut out)
        }
        Format::Table if list.is_empty() => writeln!(out, "nothing is in quarantine"),
        Format::Table => {
            let mut table = Table::default().right(2);
            table.row(["model", "SHA-256", "deaths", "since", "the last one"].map(str::to_owned));
            list.iter().for_each(|one| table.row(row(one)));
            table.print(&mut out, 0)
        }
    }
    .and_then(|()| out.flush())
    .map_err(Failure::output)
}

fn row(one: &Quarantined) -> [String; 5] {
    [
        Escaped::cut(&one.label, 40).to_string(),
        one.model.to_string().chars().take(12).collect(),
        one.deaths.to_string(),
        one.since.map(ago).unwrap_or_default(),
        Escaped::cut(&one.why, 200).to_string(),
    ]
}

fn to_json(one: &Quarantined) -> Value {
    let since = one.since.and_then(|since| since.duration_since(SystemTime::UNIX_EPOCH).ok());
    json!({
        "label": one.label,
        "sha256": one.model.to_string(),
        "deaths": one.deaths,
        "why": one.why,
        "since": since.map(|since| since.as_secs()),
    })
}
