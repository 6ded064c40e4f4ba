//! `belljar new-policy`: writes a policy with limits fitted to measured runs of a model, or a
//! policy that pins a guest program and grants nothing.

mod observed;
mod side_files;

use std::fmt::Write as _;
use std::io::{Write as _, stdout};
use std::path::Path;
use std::time::{Duration, Instant};

use super::args::{InputArgs, IsolationArg, NewPolicy};
use super::failure::Failure;
use super::host::{Store, host, read_model};
use super::outputs::write_file;
use super::policy::record::folder;
use super::random_inputs::{Runs, read_runs};
use super::terminal::Terminal;
use belljar::Error;
use belljar::internals::SideFile;
use belljar::{Description, Host, Model, ModelBytes};
#[cfg(feature = "programs")]
use belljar_policy::starting_program_policy;
use belljar_policy::units::{format_size, parse_size};
use belljar_policy::write as text;
use belljar_policy::{
    Compute, FileGrant, MEASURED, Measured, Policy, STARTING_COMPUTE, ValueRule, bounds,
    starting_head, starting_limits,
};
use belljar_text::Escaped;

pub(super) use observed::Observed;

/// Number of measured runs on each set of inputs; the slowest sets the limits.
const RUNS: usize = 3;

pub(super) fn new_policy(arguments: &NewPolicy, terminal: &Terminal) -> Result<(), Failure> {
    #[cfg(feature = "programs")]
    if super::program::is_program(&arguments.model) {
        if arguments.policy.is_some() || arguments.memory.is_some() {
            let text =
                "--policy and --memory apply only to models: a guest program is not measured";
            return Err(Failure::usage(text));
        }
        let bytes = read_model(&arguments.model, Policy::default().limits.model_size)?;
        let text = starting_program_policy(bytes.label(), &bytes.digest().to_string());
        return write(&text, arguments.output.as_deref(), arguments.force);
    }
    let base = base(arguments)?;
    let more = |failure: Failure| match failure.is_limit() {
        true => failure.hint(
            "raise the limits for the measurement: use --memory \"4 GiB\", or --policy with a \
             policy that allows more",
        ),
        false => failure,
    };
    let folder = folder(arguments.output.as_deref(), arguments.force)?;
    let bytes = read_model(&arguments.model, base.limits.model_size).map_err(more)?;
    let loaded = load(bytes, base.clone(), terminal).map_err(more)?;
    let text = match side_files::ungranted(&loaded, &arguments.model)?.as_slice() {
        [] => {
            let seen = run(loaded, &arguments.inputs, terminal).map_err(more)?;
            measured(&seen, &base, &folder)
        }
        files => {
            files
                .iter()
                .filter_map(side_files::File::problem)
                .for_each(|text| terminal.remark(&text));
            terminal.remark(
                "limits were not measured: the model keeps data in files that are not granted yet; \
                 uncomment the grants in the new policy, and measure with --policy",
            );
            side_files::unmeasured(&loaded, files, &base, &folder)
        }
    };
    write(&text, arguments.output.as_deref(), arguments.force)
}

/// The policy that the model is measured under.
fn base(arguments: &NewPolicy) -> Result<Policy, Failure> {
    let mut policy = match &arguments.policy {
        Some(path) => Policy::load(path).map_err(Error::from)?.policy,
        None => Policy::default(),
    };
    if policy.program.is_some() {
        return Err(Failure::usage("--policy: this policy is for a guest program, not a model"));
    }
    if let Some(text) = &arguments.memory {
        let wrong = |why: String| {
            let (min, max) = (format_size(bounds::MEMORY.min), format_size(bounds::MEMORY.max));
            Failure::usage(format!("--memory {}: {why}", Escaped::cut(text, 60)))
                .hint(format!("give a size from \"{min}\" to \"{max}\""))
        };
        let memory = parse_size(text).map_err(|err| wrong(err.to_string()))?;
        if !(bounds::MEMORY.min..=bounds::MEMORY.max).contains(&memory) {
            return Err(wrong("out of range".into()));
        }
        policy.limits.memory = memory;
        policy.limits.model_size = policy.limits.model_size.max(memory);
    }
    Ok(policy)
}

/// The new policy for a model that was measured under `base`.
fn measured(seen: &Seen, base: &Policy, folder: &Path) -> String {
    let found = &seen.found;
    let differs = seen.differences.iter().map(|text| format!("# Measured: {text}.\n"));
    let comments = [MEASURED.to_owned()].into_iter().chain(differs).collect::<String>();
    let mut out = starting_head(&found.model_name, &found.sha256, &comments, &text::settings(base));
    for file in &seen.files {
        out.push('\n');
        out.push_str(&text::granted_file(file, &file.reason, folder));
    }
    out.push_str(&input_rules(seen, base));
    base.outputs.iter().for_each(|rule| out.push_str(&text::rule("outputs", rule)));
    out.push_str(&starting_limits(found, &base.limits));
    out.push_str(&compute(&base.compute, &seen.description));
    out
}

/// The rules of `base` for inputs, with the sizes that open dimensions have had.
fn input_rules(seen: &Seen, base: &Policy) -> String {
    let mut out = String::new();
    let declared = &seen.description.inputs;
    let mut bounded = Vec::new();
    for one in seen.inputs.iter().filter(|one| one.chosen) {
        // A rule needs a declared type.
        let declared = declared.iter().find(|value| value.name == one.name);
        let declared = declared.filter(|value| value.dtype().is_some());
        let of_base = base.inputs.iter().find(|rule| rule.name == one.name);
        let Some(sizes) = declared.and_then(|declared| one.up_to_sizes(declared)) else { continue };
        if of_base.is_some_and(|rule| rule.shape.is_some()) {
            continue;
        }
        let mut rule = of_base.cloned().unwrap_or_else(|| {
            let mut rule = ValueRule::new(&one.name);
            rule.finite = one.finite;
            rule
        });
        rule.shape = Some(sizes);
        let comment = match one.runs() {
            1 => {
                "# The sizes of the measured run. The model leaves some of them open: these may be\n\
                 # smaller than measured, and inputs that are larger are refused.\n"
            }
            _ => {
                "# The sizes of the measured runs: inputs that are larger are refused. An open size\n\
                 # that was the same in all runs may be smaller.\n"
            }
        };
        let rule = text::rule("inputs", &rule);
        let _ = write!(out, "\n{comment}{}", rule.trim_start());
        bounded.push(&one.name);
    }
    for rule in base.inputs.iter().filter(|rule| !bounded.contains(&&rule.name)) {
        out.push_str(&text::rule("inputs", rule));
    }
    out
}

fn compute(base: &Compute, description: &Description) -> String {
    let mut out = match *base == Compute::default() {
        true => STARTING_COMPUTE.to_owned(),
        false => text::compute(base),
    };
    if description.random_nodes > 0 && base.seed.is_none() {
        out.push_str(
            "seed = 0                     # of random numbers, unless a run has another\n",
        );
    }
    out
}

/// A model that was loaded to be measured.
struct Loaded {
    host: Host,
    model: Model,
    name: String,
    sha256: String,
    /// Size of the model file, in bytes.
    size: u64,
    load_time: Duration,
}

/// What a model needed, on which inputs and with which outputs.
pub(super) struct Seen {
    pub(super) found: Measured,
    pub(super) inputs: Vec<Observed>,
    pub(super) outputs: Vec<Observed>,
    /// Number of sets of inputs.
    pub(super) runs: usize,
    /// Shapes that differ from the model's declaration, already escaped.
    differences: Vec<String>,
    /// The model's description of itself.
    pub(super) description: Description,
    /// The granted files that it needed.
    pub(super) files: Vec<FileGrant>,
}

/// Runs a model under a policy, which is pinned to this file first, on one or more sets of inputs.
pub(super) fn measure(
    bytes: ModelBytes,
    policy: Policy,
    inputs: &InputArgs,
    terminal: &Terminal,
) -> Result<Seen, Failure> {
    run(load(bytes, policy, terminal)?, inputs, terminal)
}

fn load(bytes: ModelBytes, mut policy: Policy, terminal: &Terminal) -> Result<Loaded, Failure> {
    // A ceiling may require pins.
    policy.model.sha256.get_or_insert(*bytes.digest().as_bytes());
    for grant in policy.filesystem.iter_mut().filter(|grant| grant.sha256.is_none()) {
        // If this fails, the grant is a folder, or the file is refused when the model needs it.
        let found = SideFile::digest_of(&grant.host, policy.limits.model_size);
        grant.sha256 = found.ok().map(|(digest, _)| *digest.as_bytes());
    }
    let (sha256, size) = (bytes.digest().to_string(), bytes.size());
    let name = bytes.label().to_owned();
    let host = host(IsolationArg::Process, Store::Unused, 1, terminal)?;
    // Before anything that takes time: without the state folder no model is run.
    belljar::internals::check_state(&host)?;
    let policy = host.effective(&policy)?;
    // The guest may have to be compiled first; that time is not counted as the model's.
    terminal.progress("starting a sandbox", || host.warm_up(&policy))?;
    let start = Instant::now();
    let model = terminal.progress("loading the model", || host.load(bytes, &policy))?;
    Ok(Loaded { host, model, name, sha256, size, load_time: start.elapsed() })
}

fn run(loaded: Loaded, inputs: &InputArgs, terminal: &Terminal) -> Result<Seen, Failure> {
    // The host must outlive the runs of its model.
    let Loaded { host: _host, model, name, sha256, size, load_time } = loaded;
    let Runs { inputs, needed, chosen } = read_runs(inputs, &model)?;
    let mut measured = Measured {
        model_name: name,
        sha256,
        model_size: size.saturating_add(model.side_files_size()),
        peak_memory: needed.memory,
        prepare_time: load_time,
        run_time: needed.time,
        input_bytes: 0,
        output_bytes: 0,
    };
    let (mut seen_inputs, mut seen_outputs) = (Vec::new(), Vec::new());
    let mut differences: Vec<String> = Vec::new();
    for given in &inputs {
        let tensors = given.iter().map(|(_, tensor)| tensor.byte_len());
        // An image may be larger as a file than as a tensor.
        let input_bytes = tensors.sum::<u64>().saturating_add(needed.bytes);
        measured.input_bytes = measured.input_bytes.max(input_bytes);
        let prepare = terminal.progress("preparing the model", || model.prepare(given))?;
        measured.prepare_time = measured.prepare_time.max(load_time + prepare);
        for run in 0..RUNS {
            let outputs = terminal.progress("running", || model.run(given))?.validate()?;
            measured.run_time = measured.run_time.max(outputs.cost().run);
            measured.peak_memory = measured.peak_memory.max(outputs.cost().memory);
            if run > 0 {
                continue;
            }
            let new = outputs.shape_differences().iter().map(ToString::to_string);
            let new: Vec<String> = new.filter(|text| !differences.contains(text)).collect();
            differences.extend(new);
            let found = outputs.into_tensors();
            let output_bytes = found.iter().map(|(_, tensor)| tensor.byte_len()).sum();
            measured.output_bytes = measured.output_bytes.max(output_bytes);
            observed::add(&mut seen_inputs, given, &|name| chosen.contains(name));
            observed::add(&mut seen_outputs, &found, &|_| false);
        }
    }
    Ok(Seen {
        found: measured,
        inputs: seen_inputs,
        outputs: seen_outputs,
        runs: inputs.len(),
        differences,
        description: model.description().clone(),
        files: model.side_files(),
    })
}

/// Writes a policy to `output`, or prints it.
pub(super) fn write(text: &str, output: Option<&Path>, force: bool) -> Result<(), Failure> {
    match output {
        None => stdout().write_all(text.as_bytes()).map_err(Failure::output),
        Some(path) => {
            write_file(path, force, |file| Ok(file.write_all(text.as_bytes())?))?;
            // Belljar refuses a policy file that others may write to.
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
            std::fs::set_permissions(path, mode).map_err(|err| Failure::write(path, &err))
        }
    }
}
