//! Memory of idle sandboxes, for one, a hundred and a thousand of them.
//!
//! Each count is measured in a separate process, which this program starts as its child with
//! `--sandboxes N`: that process is only the supervisor.
//!
//! The figures are the PSS (`smaps_rollup`) of the supervisor and all its workers, in which a page
//! that several processes share counts once; and the memory files, mapped or not, through which
//! tensors and snapshots are passed.

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

/// Numbers of sandboxes; the last only in a full run.
const COUNTS: [usize; 3] = [1, 100, 1000];

/// The model: small, as those are of which many sandboxes are kept.
const MODEL: &str = "magika";

/// How long they have been idle when they are measured.
const IDLE: Duration = Duration::from_secs(16);

pub(crate) fn table(options: &Options) -> Result<Table> {
    let mut table = Table {
        id: "sandboxes",
        title: "Memory of idle sandboxes",
        unit: "MiB",
        note: "Memory per sandbox, for several numbers of sandboxes of one model (magika). Each \
               has served a request and then been idle for 16 seconds; Belljar frees sandboxes \
               after ten. The first figure is the PSS of the supervisor and all its workers \
               together, divided by the number of sandboxes. Memory files are the shared memory \
               in files that the supervisor holds, mapped or not, divided likewise; the mapped \
               part is also in the PSS. Settings as for the runs above.",
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
                Ok(()) => Some(measure(options, count, isolation)?),
                Err(why) => {
                    say(format!("skipped {count} sandboxes ({name}): {why}"));
                    None
                }
            };
            each = found.map(|(pss, files)| pss + files).or(each);
            let (pss, files) = found.unzip();
            cells.extend([pss, files].map(|found| Samples(found.into_iter().collect())));
        }
        say(format!("measured idle sandboxes ({name})"));
        table.rows.push((format!("{MODEL}, {name}"), cells));
    }
    Ok(table)
}

/// Whether so many may be started: other programs use this machine too. `each` is the memory of
/// each sandbox when there were fewer, in MiB.
fn allowed(options: &Options, count: usize, each: Option<f64>) -> Result<(), String> {
    if options.quick && count > 100 {
        return Err("--quick".into());
    }
    let free = available().ok_or("free memory is unknown")? as f64 / MIB;
    let need = each.unwrap_or(0.0) * count as f64;
    match need * 2.0 > free {
        true => Err(format!("they may need {need:.0} MiB, and {free:.0} MiB are free")),
        false => Ok(()),
    }
}

fn available() -> Option<u64> {
    kib(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")
}

/// PSS and memory files for each sandbox, in MiB, measured in a child process.
fn measure(options: &Options, count: usize, isolation: &str) -> Result<(f64, f64)> {
    // Each worker takes some descriptors; a shell raises the soft limit to the hard limit.
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n \"$(ulimit -Hn)\"; exec \"$0\" \"$@\""]);
    command.arg(std::env::current_exe()?);
    command.arg("--root").arg(&options.root).arg("--belljar").arg(&options.belljar);
    command.args(["--sandboxes", &count.to_string(), "--isolation", isolation]);
    let output = command.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        bail!("measuring {count} sandboxes ({isolation}) ended with {}", output.status);
    }
    let found: Value = serde_json::from_slice(&output.stdout)?;
    let mib = |key: &str| {
        let bytes = found[key].as_f64().with_context(|| format!("no {key:?} in {found}"))?;
        anyhow::Ok(bytes / MIB / count as f64)
    };
    Ok((mib("pss_bytes")?, mib("file_bytes")?))
}

/// The child's part: starts so many sandboxes, and prints their memory.
pub(crate) fn measure_in_child(
    root: &std::path::Path,
    belljar: &std::path::Path,
    wanted: &Sandboxes,
) -> Result<()> {
    let cases = inputs::cases(root, &[MODEL.to_owned()])?;
    let case: &Case = cases.first().context("no model is selected")?;
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
        bail!("{workers} workers were started, expected {}", wanted.count);
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

/// Bytes in the memory files that this process has open.
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
    fn sizes_in_kib_are_parsed() {
        let text = "55d-7ff ---p 00000000 00:00 0 [rollup]\nRss:  99 kB\nPss:   1500 kB\n";
        assert_eq!(kib(text, "Pss:"), Some(1500 * 1024));
        assert_eq!(kib(text, "Swap:"), None);
    }
}
