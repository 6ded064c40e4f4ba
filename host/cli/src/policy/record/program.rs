//! The recorded policy of a guest program: several runs, each of which uses what the previous ones
//! revealed.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::super::super::failure::Failure;
use super::super::super::host::{Store, builder, host, read_model, report};
use super::super::super::new_policy;
use super::super::super::program::{Named, read_all};
use super::super::super::terminal::Terminal;
use super::observed::Observed;
use super::scratch::{self, Scratch};
use super::write::{self, Recorded};
use super::{folder, ordered, parsed, within};
use crate::args::IsolationArg;
use crate::args::Record;
use belljar::internals::Spent;
use belljar::{Error, ErrorKind};
use belljar::{Event, ModelBytes, Value};
use belljar_policy::{
    Access, AddressKind, FileGrant, Measured, NetworkGrant, Peer, Policy, Protocol, Refused,
};

/// Maximum number of runs. Each must reveal something new, or recording stops.
const MAX_RUNS: u32 = 8;

/// Maximum number of learnt names, and of learnt folders.
const MAX_LEARNT: usize = 64;

pub(super) fn record(arguments: &Record, terminal: &Terminal) -> Result<(), Failure> {
    let failed = |err| Failure::failed(format!("cannot set up signal handling: {err}"));
    scratch::clean_up_on_signals().map_err(failed)?;
    let given = &arguments.inputs;
    if given.random || !given.shapes.is_empty() {
        return Err(Failure::usage(
            "--random is for models: a program does not declare its inputs",
        )
        .hint("give inputs with --input"));
    }
    given.pictures.refuse_for_program()?;
    let folder = folder(arguments.output.as_deref(), arguments.force)?;
    let mut base = within(arguments)?;
    if arguments.within.is_some() && base.program.is_none() {
        return Err(Error::new(ErrorKind::Refused(Refused::ForModel)).into());
    }
    let bytes = read_model(&arguments.model, base.limits.model_size)?;
    let program = base.program.get_or_insert_default();
    program.sha256.get_or_insert(*bytes.digest().as_bytes());
    program.arguments |= !arguments.arguments.is_empty();
    // Ceilings apply to the original grants, before copies replace them.
    let host = host(IsolationArg::Process, Store::Unused, 1, terminal)?;
    belljar::internals::check_state(&host)?;
    let effective = host.effective(&base)?;
    let base: Policy = (*effective).clone();
    let inputs = read_all(&given.inputs, base.limits.input_size)?;

    let mut learnt = Learnt::default();
    let mut asked = Observed::default();
    let mut runs = 0;
    let last = loop {
        let run = terminal.progress("recording", || {
            attempt(&bytes, &base, &learnt, &inputs, &arguments.arguments, terminal)
        })?;
        runs += 1;
        asked = asked.and(run.observed.clone());
        if !learnt.from(&run, &base) || runs == MAX_RUNS {
            break run;
        }
    };
    let recorded = Recorded {
        name: bytes.label(),
        sha256: bytes.digest().to_string(),
        runs,
        base: &base,
        used: &last.observed,
        asked: &asked,
        allowed: &learnt.keys,
        folder: &folder,
        measured: last.answered.as_ref().ok().map(|answered| {
            let Answered { spent, load, run, outputs } = *answered;
            let measured = Measured {
                model_name: String::new(),
                sha256: String::new(),
                model_size: bytes.size(),
                peak_memory: spent.memory,
                prepare_time: load,
                run_time: run,
                input_bytes: inputs.iter().map(|(_, value)| value.byte_len()).sum(),
                output_bytes: outputs,
            };
            (measured, spent)
        }),
    };
    let (text, decisions) = write::policy(&recorded);
    let text = ordered(&text)?;
    let policy = parsed(&text, &folder, &base)?;
    new_policy::write(&text, arguments.output.as_deref(), arguments.force)?;
    if let Err(err) = last.answered {
        return Err(Failure::from(err).hint(
            "the policy was written, with the program's requests as comments; uncomment those that \
             you accept, and record again with --within that policy",
        ));
    }
    match decisions {
        // Checks that the program succeeds under the recorded policy.
        0 => check(&bytes, &policy, &inputs, &arguments.arguments, terminal),
        1 => {
            terminal.warn("1 grant is commented out: decide whether to accept it");
            Ok(())
        }
        many => {
            let text = format!("{many} grants are commented out: decide which to accept");
            terminal.warn(&text);
            Ok(())
        }
    }
}

fn check(
    bytes: &ModelBytes,
    policy: &Policy,
    inputs: &Named<Value>,
    arguments: &[String],
    terminal: &Terminal,
) -> Result<(), Failure> {
    let listening = terminal.clone();
    let host = builder(IsolationArg::Process, Store::Unused, 1, terminal)
        .on_event(move |event| match event {
            Event::Printed { .. } => {}
            other => report(other, &listening),
        })
        .build()?;
    let program = host.load_program(bytes.clone(), policy)?;
    match program.run_with_arguments(inputs, arguments) {
        Ok(_) => Ok(()),
        Err(err) => Err(Failure::from(err).hint(
            "the policy was written, but the program fails under it: it may request different \
             things in each run",
        )),
    }
}

/// What the runs have revealed, and the next run gets.
#[derive(Default)]
struct Learnt {
    /// Keys of `[program]` that a failed run was refused.
    keys: BTreeSet<&'static str>,
    /// Names that are resolved, but cannot be connected to.
    names: Vec<Peer>,
    /// Folders that exist, and are empty.
    folders: BTreeSet<String>,
}

impl Learnt {
    /// Learns from a run, and returns whether there was anything new.
    fn from(&mut self, run: &Attempt, base: &Policy) -> bool {
        let observed = &run.observed;
        let before = (self.keys.len(), self.names.len(), self.folders.len());
        if run.answered.is_err() {
            let refused = |key: &&str| observed.keys.get(*key) == Some(&false);
            self.keys.extend(["clocks", "randomness"].into_iter().filter(refused));
        }
        for name in observed.refused_names() {
            if !self.names.contains(&name) && self.names.len() < MAX_LEARNT {
                self.names.push(name);
            }
        }
        for path in observed.written.keys() {
            let granted = base.filesystem.iter().any(|grant| below(&grant.guest, path).is_some());
            let parent = Path::new(path).parent().and_then(Path::to_str).unwrap_or("/");
            let plain = !parent.contains(['\\', '…']) && parent.len() < 512 && parent != "/";
            if !granted && plain && self.folders.len() < MAX_LEARNT {
                self.folders.insert(parent.to_owned());
            }
        }
        before != (self.keys.len(), self.names.len(), self.folders.len())
    }

    /// The policy of the next run: the grants of the base, with copies of writable folders,
    /// resolvable names, and an empty folder at `/`.
    fn policy(&self, base: &Policy, scratch: &mut Scratch) -> Result<Policy, Failure> {
        let failed = |what: &Path, err: std::io::Error| {
            let what = super::super::super::failure::shown(what);
            Failure::failed(format!("cannot copy {what}: {err}"))
                .hint("grant less write access in the policy of --within")
        };
        let mut policy = base.clone();
        let program = policy.program.get_or_insert_default();
        (program.stdout, program.stderr) = (true, true);
        program.clocks |= self.keys.contains("clocks");
        program.randomness |= self.keys.contains("randomness");
        for grant in policy.filesystem.iter_mut().filter(|grant| grant.access == Access::Write) {
            grant.host = scratch.copy(&grant.host).map_err(|err| failed(&grant.host, err))?;
        }
        if !policy.filesystem.iter().any(|grant| grant.guest == "/") {
            let host = scratch.root();
            for folder in &self.folders {
                scratch.folder(folder).map_err(|err| failed(Path::new(folder), err))?;
            }
            policy.filesystem.push(FileGrant::new(host, "/", Access::Write, ""));
        }
        for name in &self.names {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                // Port 0 allows the name to be resolved, but no connection.
                let mut grant = NetworkGrant::new(name.clone(), 0, protocol, "");
                grant.reaches = vec![AddressKind::Never];
                policy.network.push(grant);
            }
        }
        Ok(policy)
    }
}

/// The part of a path after a grant's path, if the grant includes it.
pub(super) fn below<'a>(granted: &str, path: &'a str) -> Option<&'a str> {
    let rest = path.strip_prefix(granted.trim_end_matches('/'))?;
    match rest.strip_prefix('/') {
        Some(rest) => Some(rest),
        None if rest.is_empty() => Some(rest),
        None => None,
    }
}

/// One run.
struct Attempt {
    answered: Result<Answered, Error>,
    observed: Observed,
}

#[derive(Clone, Copy)]
struct Answered {
    spent: Spent,
    load: Duration,
    run: Duration,
    /// Total size of all outputs, in bytes.
    outputs: u64,
}

fn attempt(
    bytes: &ModelBytes,
    base: &Policy,
    learnt: &Learnt,
    inputs: &Named<Value>,
    arguments: &[String],
    terminal: &Terminal,
) -> Result<Attempt, Failure> {
    let failed =
        |err: std::io::Error| Failure::failed(format!("cannot create a scratch folder: {err}"));
    let mut scratch = Scratch::new().map_err(failed)?;
    let policy = learnt.policy(base, &mut scratch)?;
    let observed = Arc::new(Mutex::new(Observed::default()));
    let (decided, heard, terminal) =
        (Arc::clone(&observed), Arc::clone(&observed), terminal.clone());
    let host = builder(IsolationArg::Process, Store::Unused, 1, &terminal)
        .observer(move |decision| {
            decided.lock().unwrap_or_else(PoisonError::into_inner).add(decision);
        })
        .on_event(move |event| match event {
            Event::Printed { error, .. } => {
                let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
                heard.printed[usize::from(error)] = true;
            }
            other => report(other, &terminal),
        })
        .build()?;
    let start = Instant::now();
    let program = host.load_program(bytes.clone(), &policy)?;
    let load = start.elapsed();
    let start = Instant::now();
    let answered = program.run_measured(inputs, arguments).map(|(outputs, spent)| {
        let outputs = outputs.iter().map(|(_, value)| value.byte_len()).sum();
        Answered { spent, load, run: start.elapsed(), outputs }
    });
    let observed = observed.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok(Attempt { answered, observed })
}
