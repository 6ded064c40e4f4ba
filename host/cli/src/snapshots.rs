//! `belljar snapshots`: lists, prunes and verifies the store of prepared models.

use std::io::{BufWriter, Write, stdout};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::args::{Format, IsolationArg, Snapshots};
use super::failure::{Failure, shown};
use super::host::{Store, host};
use super::json;
use super::prepare::{plan_json, plan_text};
use super::table::Table;
use super::terminal::Terminal;
use belljar::Error;
use belljar::{SnapshotStore, StoredKind, StoredModel};
use belljar_policy::units::{UnitError, format_size, parse_duration, parse_size};
use belljar_text::Escaped;

pub(super) fn snapshots(command: &Snapshots, terminal: &Terminal) -> Result<(), Failure> {
    let host = host(IsolationArg::Process, Store::Used, 1, terminal)?;
    let store = host.snapshot_store();
    match command {
        Snapshots::List { format } => {
            let list = store.list().map_err(Error::new)?;
            print(&list, *format, "no snapshots are stored")
        }
        Snapshots::Prune { model, older_than, max_size, format } => {
            let which = Which::new(model.as_deref(), older_than.as_deref(), max_size.as_deref())?;
            prune(store, &which, *format)
        }
        Snapshots::Verify { remove, format } => verify(store, *remove, *format),
    }
}

/// Which snapshots to remove.
struct Which<'a> {
    model: Option<&'a str>,
    older_than: Option<Duration>,
    max_size: Option<u64>,
}

impl Which<'_> {
    fn new<'a>(
        model: Option<&'a str>,
        older_than: Option<&str>,
        max_size: Option<&str>,
    ) -> Result<Which<'a>, Failure> {
        fn quantity<T>(
            flag: &str,
            text: Option<&str>,
            parse: impl Fn(&str) -> Result<T, UnitError>,
            hint: &str,
        ) -> Result<Option<T>, Failure> {
            let wrong = |text, err| {
                Failure::usage(format!("{flag} {}: {err}", Escaped::new(text))).hint(hint)
            };
            text.map(|text| parse(text).map_err(|err| wrong(text, err))).transpose()
        }
        Ok(Which {
            model,
            older_than: quantity("--older-than", older_than, parse_duration, "write \"72 h\"")?,
            max_size: quantity("--max-size", max_size, parse_size, "write \"500 MiB\"")?,
        })
    }

    /// Selects from a list that starts with the most recently used.
    fn choose(&self, list: Vec<StoredModel>) -> Vec<StoredModel> {
        let now = SystemTime::now();
        let mut left = 0u64;
        let chosen = |stored: &StoredModel| {
            let age = now.duration_since(stored.last_used).unwrap_or_default();
            let of_the_model = self.model.is_none_or(|model| {
                let digest = stored.model.map(|digest| digest.to_string()).unwrap_or_default();
                // Fewer digits would match too many digests.
                let start = model.len() >= 8 && digest.starts_with(&model.to_ascii_lowercase());
                start || (!stored.label.is_empty() && stored.label == model)
            });
            let old = self.older_than.is_none_or(|limit| age >= limit);
            if !(of_the_model && old) {
                left = left.saturating_add(stored.size);
                return false;
            }
            let fits = self.max_size.is_some_and(|max| left.saturating_add(stored.size) <= max);
            left = left.saturating_add(if fits { stored.size } else { 0 });
            !fits
        };
        list.into_iter().filter(chosen).collect()
    }
}

fn prune(store: &SnapshotStore, which: &Which<'_>, format: Format) -> Result<(), Failure> {
    let chosen = which.choose(store.list().map_err(Error::new)?);
    for stored in &chosen {
        store.remove(stored).map_err(Error::new)?;
    }
    store.remove_leftovers().map_err(Error::new)?;
    print(&chosen, format, "nothing to remove")
}

fn verify(store: &SnapshotStore, remove: bool, format: Format) -> Result<(), Failure> {
    let list = store.list().map_err(Error::new)?;
    let count = list.len();
    let mut bad = Vec::new();
    for mut stored in list {
        if let Err(why) = store.verify(&stored) {
            stored.broken = Some(why);
            if remove {
                store.remove(&stored).map_err(Error::new)?;
            }
            bad.push(stored);
        }
    }
    if bad.is_empty() && format == Format::Table {
        return writeln!(stdout(), "verified {count} files: all unchanged")
            .map_err(Failure::output);
    }
    print(&bad, format, "")?;
    if bad.is_empty() {
        return Ok(());
    }
    let what = if remove {
        "they were removed"
    } else {
        "Belljar does not use them; remove them with --remove"
    };
    let files = bad.iter().map(|stored| shown(&stored.path)).collect::<Vec<_>>().join(", ");
    Err(Failure::failed(format!("{} of {count} files have been changed: {files}", bad.len()))
        .hint(what))
}

fn print(list: &[StoredModel], format: Format, none: &str) -> Result<(), Failure> {
    let mut out = BufWriter::new(stdout().lock());
    match format {
        Format::Json => {
            let list: Value = list.iter().map(to_json).collect();
            json::print(&list, &mut out)
        }
        Format::Table if list.is_empty() => writeln!(out, "{none}"),
        Format::Table => {
            let mut table = Table::default().right(3);
            let heads = ["model", "SHA-256", "what", "size", "last used", ""];
            table.row(heads.map(str::to_owned));
            list.iter().for_each(|stored| table.row(row(stored)));
            table.print(&mut out, 0)
        }
    }
    .and_then(|()| out.flush())
    .map_err(Failure::output)
}

fn row(stored: &StoredModel) -> [String; 6] {
    let digest = stored.model.map(|digest| digest.to_string()).unwrap_or_default();
    let mut what = match (stored.kind, &stored.broken) {
        (StoredKind::Description, _) => "description".to_owned(),
        (StoredKind::Snapshot, Some(_)) => "snapshot".to_owned(),
        (StoredKind::Snapshot, None) => plan_text(&stored.plan),
    };
    if stored.deterministic {
        what.push_str(", deterministic");
    } else if stored.kind == StoredKind::Snapshot
        && stored.broken.is_none()
        && !stored.native_kernels
    {
        what.push_str(", without native kernels");
    }
    let state = match (&stored.broken, stored.current) {
        (Some(why), _) => Escaped::new(why).to_string(),
        (None, false) => "from another build".to_owned(),
        (None, true) => String::new(),
    };
    [
        Escaped::cut(&stored.label, 40).to_string(),
        digest.chars().take(12).collect(),
        what,
        size_text(stored.size),
        ago(stored.last_used),
        state,
    ]
}

fn size_text(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    if bytes < MIB { format_size(bytes) } else { format!("{:.1} MiB", bytes as f64 / MIB as f64) }
}

pub(super) fn ago(time: SystemTime) -> String {
    let seconds = SystemTime::now().duration_since(time).unwrap_or_default().as_secs();
    match seconds {
        0..=59 => format!("{seconds} s ago"),
        60..=3599 => format!("{} min ago", seconds / 60),
        3600..=172_799 => format!("{} h ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

fn to_json(stored: &StoredModel) -> Value {
    let seconds = stored.last_used.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    json!({
        "kind": match stored.kind {
            StoredKind::Description => "description",
            StoredKind::Snapshot => "snapshot",
        },
        "path": stored.path.to_string_lossy(),
        "model": { "label": stored.label, "sha256": stored.model.map(|digest| digest.to_string()) },
        "shapes": plan_json(&stored.plan),
        "deterministic": stored.deterministic,
        "native_kernels": stored.native_kernels,
        "bytes": stored.size,
        "memory": stored.memory,
        "last_used": seconds.as_secs(),
        "current": stored.current,
        "broken": stored.broken,
    })
}
