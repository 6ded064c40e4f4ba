//! `belljar doctor`: which protection layers work on this machine, which are missing, and what is
//! lost without them.

use std::io::{self, BufWriter, Write, stdout};

use serde_json::{Value, json};

use super::args::{Doctor, Format};
use super::failure::Failure;
use super::json;
use super::table::Table;
use belljar::internals::support::{self as sandbox, Trial, try_worker};
use belljar::internals::{cache_folder, state_folder};
use belljar::{Error, ErrorKind};
use belljar_confine::layers::{Confinement, Layer, MissingLayer};
use belljar_confine::memory_group;
use belljar_confine::process::{Namespaces, WorkerProgram};
use belljar_confine::role::Role;
use belljar_confine::support::{self as kernel, Finding};
use belljar_policy::Limits;
use belljar_text::Escaped;

pub(super) fn doctor(command: &Doctor) -> Result<(), Failure> {
    let (cache, state) = (cache_folder()?, state_folder()?);
    let diagnosis = Diagnosis {
        workers: Role::ALL.map(Examined::new).into(),
        machine: [
            kernel::findings(),
            vec![memory_for_sandboxes()],
            sandbox::findings(),
            sandbox::folders(cache.as_deref(), state.as_deref()),
        ]
        .concat(),
    };
    let mut out = BufWriter::new(stdout().lock());
    match command.format {
        Format::Table => diagnosis.print(&mut out),
        Format::Json => json::print(&diagnosis.to_json(), &mut out),
    }
    .and_then(|()| out.flush())
    .map_err(Failure::output)?;
    diagnosis.verdict()
}

/// Whether the number of sandboxes that one model keeps by default fits into available memory, each
/// with the default limit.
fn memory_for_sandboxes() -> Finding {
    let sandboxes = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let each = Limits::default().memory;
    let text = format!("{sandboxes} sandboxes of {} MiB (`limits.memory`)", each >> 20);
    let found = match memory_group::available() {
        None => Err(format!("{text}; the amount of memory cannot be read from the kernel")),
        Some(there) => {
            let text = format!("{text} of {} MiB ({})", there.bytes >> 20, there.what);
            if sandboxes.saturating_mul(each) <= there.bytes { Ok(text) } else { Err(text) }
        }
    };
    Finding::new(
        "memory for sandboxes",
        found,
        "the kernel kills workers when memory runs out: lower `limits.memory`, send fewer requests \
         at a time, or provide more memory",
    )
}

/// What was found.
struct Diagnosis {
    workers: Vec<Examined>,
    machine: Vec<Finding>,
}

/// A worker that was started to examine it.
struct Examined {
    trial: Trial,
    /// All layers that it lacks. A strict worker exits at the first missing layer that it needs, so
    /// the others come from a second, best-effort worker.
    missing: Vec<MissingLayer>,
}

impl Examined {
    fn new(role: Role) -> Examined {
        let program = WorkerProgram::CurrentProgram;
        let trial = try_worker(&program, role, Confinement::Strict);
        let missing = match &trial.result {
            Ok(missing) => missing.clone(),
            Err(_) => {
                try_worker(&program, role, Confinement::BestEffort).result.unwrap_or_default()
            }
        };
        Examined { trial, missing }
    }

    fn error(&self) -> Option<String> {
        self.trial.result.clone().err()
    }

    fn milliseconds(&self) -> f64 {
        (self.trial.time.as_secs_f64() * 1e5).round() / 1e2
    }
}

impl Diagnosis {
    /// Layers that some worker lacks, each once.
    fn missing(&self) -> Vec<&MissingLayer> {
        let mut missing: Vec<&MissingLayer> = Vec::new();
        for lacks in self.workers.iter().flat_map(|worker| &worker.missing) {
            if missing.iter().all(|before| before.layer != lacks.layer) {
                missing.push(lacks);
            }
        }
        missing
    }

    fn absent(&self) -> impl Iterator<Item = &Finding> {
        self.machine.iter().filter(|finding| !finding.present)
    }

    /// Fails if a model under a strict policy would be refused.
    fn verdict(&self) -> Result<(), Failure> {
        let refused = self.workers.iter().find_map(|worker| {
            worker
                .error()
                .map(|why| (format!("{} worker: {why}", worker.trial.role.name()), worker))
        });
        let needed = self.absent().find(|finding| finding.needed);
        let (why, remedy) = match (refused, needed) {
            (Some((why, worker)), _) => {
                let layer = worker.missing.iter().map(|lacks| lacks.layer).find(|l| l.required());
                (why, layer.map(Layer::remedy))
            }
            (None, Some(finding)) => (format!("{}: {}", finding.what, finding.found), None),
            (None, None) => return Ok(()),
        };
        let failure = Failure::from(Error::new(ErrorKind::Unprotected(why)));
        Err(failure.hint(remedy.unwrap_or(
            "this machine refuses models under `confinement = \"strict\"`, which is the default",
        )))
    }

    fn print(&self, mut out: impl Write) -> io::Result<()> {
        let mut table = Table::new(&["worker", "strict", "ready after", "namespaces", "missing"]);
        for worker in &self.workers {
            let strict = if worker.error().is_some() { "refused" } else { "works" };
            let missing: Vec<&str> =
                worker.missing.iter().map(|lacks| lacks.layer.name()).collect();
            table.row([
                worker.trial.role.name().to_owned(),
                strict.to_owned(),
                format!("{:.2} ms", worker.milliseconds()),
                namespaces_text(worker.trial.namespaces).to_owned(),
                if missing.is_empty() { "nothing".to_owned() } else { missing.join(", ") },
            ]);
        }
        table.right(2).print(&mut out, 0)?;

        writeln!(out)?;
        let mut table = Table::new(&["this machine", "present", "needed", "details"]);
        for finding in &self.machine {
            table.row([
                finding.what.to_owned(),
                if finding.present { "yes" } else { "no" }.to_owned(),
                if finding.needed { "yes" } else { "" }.to_owned(),
                shown(&finding.found),
            ]);
        }
        table.print(&mut out, 0)?;

        if self.missing().is_empty() && self.absent().next().is_none() {
            return Ok(());
        }
        writeln!(out, "\nmissing, and what is lost without it:")?;
        for MissingLayer { layer, why } in self.missing() {
            let needed = if layer.required() { "; needed by strict policies" } else { "" };
            writeln!(out, "  {} ({}){needed}: {}", layer.name(), shown(why), layer.remedy())?;
        }
        for finding in self.absent() {
            writeln!(out, "  {}: {}", finding.what, finding.without)?;
        }
        Ok(())
    }

    fn to_json(&self) -> Value {
        let workers = self.workers.iter().map(|worker| {
            let missing = worker.missing.iter().map(|MissingLayer { layer, why }| {
                json!({
                    "layer": layer.name(),
                    "why": why,
                    "needed": layer.required(),
                    "remedy": layer.remedy(),
                })
            });
            json!({
                "role": worker.trial.role.name(),
                "strict": worker.error().is_none(),
                "error": worker.error(),
                "ready_ms": worker.milliseconds(),
                "namespaces": match worker.trial.namespaces {
                    Namespaces::WithoutUser => "without-user",
                    Namespaces::WithUser => "with-user",
                    Namespaces::None => "none",
                },
                "missing": missing.collect::<Value>(),
            })
        });
        let machine = self.machine.iter().map(|finding| {
            json!({
                "what": finding.what,
                "present": finding.present,
                "found": finding.found,
                "without": finding.without,
                "needed": finding.needed,
            })
        });
        json!({
            "strict": self.verdict().is_ok(),
            "workers": workers.collect::<Value>(),
            "machine": machine.collect::<Value>(),
        })
    }
}

fn namespaces_text(namespaces: Namespaces) -> &'static str {
    match namespaces {
        Namespaces::WithoutUser => "made as root",
        Namespaces::WithUser => "made in a user namespace",
        Namespaces::None => "none",
    }
}

fn shown(text: &str) -> String {
    Escaped::new(text).to_string()
}
