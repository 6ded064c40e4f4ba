//! What sandboxes that wait for work hold in memory, at one, a hundred and a thousand of them.
//!
//! Each count is looked at in a process of its own, which this program starts as its own child with
//! `--sandboxes N`: that one is the supervisor and nothing else.
//!
//! Counted is PSS (`smaps_rollup`), in which a page that several processes share counts once, of
//! the supervisor and all its workers; and memory files that no process need have mapped, through
//! which tensors cross and images are handed on.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::inputs::{self, Case};
use crate::measure::Samples;
use crate::memory::children;
use crate::options::{Options, Sandboxes};
use crate::peers::Peer;
use crate::peers::belljar::{Belljar, Folders, Way};
use crate::report::{Kind, Table};
use crate::{MIB, say};

/// How many; the last only in a full run.
const COUNTS: [usize; 3] = [1, 100, 1000];

/// The model, whose kind is kept in numbers: small, and one for each kind of client.
const MODEL: &str = "magika";

/// How long they have been idle when they are looked at.
const IDLE: Duration = Duration::from_secs(16);

pub(crate) fn table(options: &Options) -> Result<Table> {
    let mut table = Table {
        id: "sandboxes",
        title: "Memory of idle sandboxes",
        unit: "MiB",
        note: "For each of so many sandboxes of one model (magika), every one of which has served \
               a request and then been idle for 16 seconds, after ten of which Belljar gives \
               sandboxes back: PSS of the supervisor and all its \
               workers together, divided by their number. Memory files are what of shared memory \
               lies in files that the supervisor holds, mapped or not, divided likewise; as far as \
               they are mapped they are in the PSS too. Settings as for the runs above.",
        columns: Vec::new(),
        rows: Vec::new(),
    };
    for count in COUNTS {
        let one = if count == 1 { "1 sandbox".to_owned() } else { format!("{count} sandboxes") };
        table.columns.push((format!("{one}, each"), Kind::Detail));
        table.columns.push((format!("{one}, memory files"), Kind::Detail));
    }
    for (name, isolation) in [("worker processes", "process"), ("threads", "thread")] {
        let mut cells = Vec::new();
        let mut each = None;
        for count in COUNTS {
            let found = match allowed(options, count, each) {
                Ok(()) => Some(look_from_outside(options, count, isolation)?),
                Err(why) => {
                    say(format!("{count} sandboxes ({name}) are not looked at: {why}"));
                    None
                }
            };
            each = found.map(|(pss, files)| pss + files).or(each);
            let (pss, files) = found.unzip();
            cells.extend([pss, files].map(|found| Samples(found.into_iter().collect())));
        }
        say(format!("looked at idle sandboxes ({name})"));
        table.rows.push((format!("{MODEL}, {name}"), cells));
    }
    Ok(table)
}

/// Whether so many may be started: others use this machine too. `each` is what each took when
/// there were fewer, in MiB.
fn allowed(options: &Options, count: usize, each: Option<f64>) -> Result<(), String> {
    if options.quick && count > 100 {
        return Err("--quick".into());
    }
    let free = available().ok_or("free memory cannot be told")? as f64 / MIB;
    let need = each.unwrap_or(0.0) * count as f64;
    match need * 2.0 > free {
        true => Err(format!("they may need {need:.0} MiB, and {free:.0} MiB are free")),
        false => Ok(()),
    }
}

fn available() -> Option<u64> {
    kib(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")
}

/// PSS and memory files for each sandbox, in MiB.
fn look_from_outside(options: &Options, count: usize, isolation: &str) -> Result<(f64, f64)> {
    // Each worker takes some descriptors; a shell raises the limit as far as it may be raised.
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n \"$(ulimit -Hn)\"; exec \"$0\" \"$@\""]);
    command.arg(std::env::current_exe()?);
    command.arg("--root").arg(&options.root).arg("--belljar").arg(&options.belljar);
    command.args(["--sandboxes", &count.to_string(), "--isolation", isolation]);
    let output = command.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        bail!("looking at {count} sandboxes ({isolation}) ended with {}", output.status);
    }
    let found: Value = serde_json::from_slice(&output.stdout)?;
    let mib = |key: &str| {
        let bytes = found[key].as_f64().with_context(|| format!("no {key:?} in {found}"))?;
        anyhow::Ok(bytes / MIB / count as f64)
    };
    Ok((mib("pss_bytes")?, mib("file_bytes")?))
}

/// The child's part: has so many sandboxes, and prints what they hold.
pub(crate) fn look(
    root: &std::path::Path,
    belljar: &std::path::Path,
    wanted: &Sandboxes,
) -> Result<()> {
    let cases = inputs::cases(root, &[MODEL.to_owned()])?;
    let case: &Case = cases.first().context("there is no model")?;
    let way = match wanted.processes {
        true => Way::default(),
        false => Way::on_a_thread(),
    };
    let way = Way { idle: wanted.count, ..way };
    let mut peer = Belljar::new("Belljar", way, belljar, &Folders::of(root))?;
    peer.load(case)?;
    case.check("Belljar", &peer.outputs()?)?;
    peer.warm_up(wanted.count)?;
    let workers = children(std::process::id()).len();
    if wanted.processes && workers != wanted.count {
        bail!("{workers} workers came into being, wanted were {}", wanted.count);
    }
    thread::sleep(IDLE);
    let own = std::process::id();
    let pss = |process: u32| {
        let text = fs::read_to_string(format!("/proc/{process}/smaps_rollup"))?;
        kib(&text, "Pss:").context("no PSS in smaps_rollup")
    };
    let mut bytes = pss(own)?;
    for worker in children(own) {
        bytes += pss(worker).context("the memory of a worker")?;
    }
    println!("{}", json!({ "pss_bytes": bytes, "file_bytes": memory_files()? }));
    Ok(())
}

/// Bytes that lie in memory files which this process has open.
fn memory_files() -> Result<u64> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir("/proc/self/fd")?.flatten() {
        let name = fs::read_link(entry.path()).unwrap_or_default();
        if name.to_string_lossy().starts_with("/memfd:")
            && let Ok(file) = fs::metadata(entry.path())
        {
            files.insert(file.ino(), file.blocks() * 512);
        }
    }
    Ok(files.values().sum())
}

/// A line such as `Pss:   1500 kB`, in bytes.
fn kib(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_read() {
        let text = "55d-7ff ---p 00000000 00:00 0 [rollup]\nRss:  99 kB\nPss:   1500 kB\n";
        assert_eq!(kib(text, "Pss:"), Some(1500 * 1024));
        assert_eq!(kib(text, "Swap:"), None);
    }
}
