//! `belljar quarantine`: lists and releases the models that are refused because their workers kept
//! dying.

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

/// The largest model that is read for its digest, in bytes: the largest size a policy can allow.
const MAX_MODEL: u64 = 4 << 30;

pub(super) fn quarantine(command: &Quarantine, terminal: &Terminal) -> Result<(), Failure> {
    let host = host(IsolationArg::Process, Store::Unused, 1, terminal)?;
    let list = host.quarantined()?;
    match command {
        Quarantine::List { format } => print(&list, *format),
        Quarantine::Release { models } => {
            // All names are resolved first, so that an invalid one releases no model.
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

/// The model that `name` refers to: a digest, the start of one, a label, or a file.
fn find(name: &str, list: &[Quarantined]) -> Result<Digest, Failure> {
    if let Ok(digest) = name.parse() {
        return Ok(digest);
    }
    // Fewer digits would match too many digests.
    let start = name.to_ascii_lowercase();
    let fits = |one: &&Quarantined| {
        (name.len() >= 8 && one.model.to_string().starts_with(&start)) || one.label == name
    };
    let mut fitting = list.iter().filter(fits);
    match (fitting.next(), fitting.next()) {
        (Some(one), None) => Ok(one.model),
        (Some(_), Some(_)) => Err(Failure::usage(format!(
            "{}: several models in quarantine have this name or digest",
            Escaped::new(name)
        ))
        .hint("give the full SHA-256; `belljar quarantine list --format json` shows it")),
        (None, _) if Path::new(name).is_file() => {
            Ok(read_model(Path::new(name), MAX_MODEL)?.digest())
        }
        (None, _) => Err(Failure::usage(format!(
            "{}: neither a file nor a model in quarantine",
            Escaped::new(name)
        ))
        .hint("`belljar quarantine list` lists the models in quarantine")),
    }
}

fn print(list: &[Quarantined], format: Format) -> Result<(), Failure> {
    let mut out = BufWriter::new(stdout().lock());
    match format {
        Format::Json => {
            let list: Value = list.iter().map(to_json).collect();
            json::print(&list, &mut out)
        }
        Format::Table if list.is_empty() => writeln!(out, "no models are in quarantine"),
        Format::Table => {
            let mut table = Table::default().right(2);
            table.row(["model", "SHA-256", "deaths", "since", "last death"].map(str::to_owned));
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
