//! `belljar new-policy`: writes a policy with limits fitted to measured runs of a model, or a
//! policy that pins a guest program and grants nothing.

mod side_files;

use std::io::{Write, stdout};
use std::path::Path;
use std::time::{Duration, Instant};

use super::args::{InputArgs, IsolationArg, NewPolicy};
use super::failure::Failure;
use super::host::{Store, host, read_model};
use super::outputs::write_file;
use super::policy::record::folder;
use super::random_inputs;
use super::terminal::Terminal;
use belljar::Error;
use belljar::internals::SideFile;
use belljar::{Description, Host, Model, ModelBytes};
#[cfg(feature = "programs")]
use belljar_policy::starting_program_policy;
use belljar_policy::units::{format_size, parse_size};
use belljar_policy::write as text;
use belljar_policy::{
    Compute, FileGrant, MEASURED, Measured, Policy, STARTING_COMPUTE, bounds, starting_head,
    starting_limits,
};
use belljar_tensor::Tensor;
use belljar_text::Escaped;

/// Number of measured runs; the slowest sets the limits.
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
    for (table, rules) in [("inputs", &base.inputs), ("outputs", &base.outputs)] {
        rules.iter().for_each(|rule| out.push_str(&text::rule(table, rule)));
    }
    out.push_str(&starting_limits(found, &base.limits));
    out.push_str(&compute(&base.compute));
    out
}

fn compute(base: &Compute) -> String {
    match *base == Compute::default() {
        true => STARTING_COMPUTE.to_owned(),
        false => text::compute(base),
    }
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

/// What a model needed, and on which inputs.
pub(super) struct Seen {
    pub(super) found: Measured,
    pub(super) inputs: Vec<(String, Tensor)>,
    pub(super) outputs: Vec<(String, Tensor)>,
    /// Shapes that differ from the model's declaration, already escaped.
    differences: Vec<String>,
    /// The model's description of itself.
    pub(super) description: Description,
    /// The granted files that it needed.
    pub(super) files: Vec<FileGrant>,
}

/// Runs a model under a policy, which is pinned to this file first.
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
    let (given, needed) = random_inputs::read_or_random(inputs, &model)?;
    let tensors = given.iter().map(|(_, tensor)| tensor.byte_len());
    // An image may be larger as a file than as a tensor.
    let input_bytes = tensors.sum::<u64>().saturating_add(needed.bytes);
    let prepare_time =
        load_time + terminal.progress("preparing the model", || model.prepare(&given))?;
    let (mut run_time, mut peak_memory, mut found) = (needed.time, needed.memory, Vec::new());
    let mut differences = Vec::new();
    for _ in 0..RUNS {
        let outputs = terminal.progress("running", || model.run(&given))?.validate()?;
        run_time = run_time.max(outputs.cost().run);
        peak_memory = peak_memory.max(outputs.cost().memory);
        differences = outputs.shape_differences().iter().map(ToString::to_string).collect();
        found = outputs.into_tensors();
    }
    let output_bytes = found.iter().map(|(_, tensor)| tensor.byte_len()).sum();
    let measured = Measured {
        model_name: name,
        sha256,
        model_size: size.saturating_add(model.side_files_size()),
        peak_memory,
        prepare_time,
        run_time,
        input_bytes,
        output_bytes,
    };
    let (description, files) = (model.description().clone(), model.side_files());
    Ok(Seen { found: measured, inputs: given, outputs: found, differences, description, files })
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
