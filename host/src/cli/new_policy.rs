//! `belljar new-policy`: a starting policy, fitted to one measured run; for a guest program one that
//! pins it and grants nothing.

use std::io::{Write, stdout};
use std::path::Path;
use std::time::{Duration, Instant};

use super::args::{InputArgs, IsolationArg, NewPolicy};
use super::failure::Failure;
use super::host::{Store, host, read_model};
use super::made_up;
use super::outputs::write_file;
use super::terminal::Terminal;
#[cfg(feature = "programs")]
use crate::policy::starting_program_policy;
use crate::policy::{FileGrant, Measured, Policy, starting_policy};
use crate::tensor::Tensor;
use crate::{Description, ModelBytes};

/// Runs that are measured; the slowest counts.
const RUNS: usize = 3;

pub(super) fn new_policy(arguments: &NewPolicy, terminal: &Terminal) -> Result<(), Failure> {
    #[cfg(feature = "programs")]
    if super::program::is_program(&arguments.model) {
        let bytes = read_model(&arguments.model, Policy::default().limits.model_size)?;
        let text = starting_program_policy(bytes.label(), &bytes.digest().to_string());
        return write(&text, arguments.output.as_deref(), arguments.force);
    }
    let bytes = read_model(&arguments.model, Policy::default().limits.model_size)?;
    let text =
        starting_policy(&measure(bytes, Policy::default(), &arguments.inputs, terminal)?.found);
    write(&text, arguments.output.as_deref(), arguments.force)
}

/// What a model was seen to need, and on what.
pub(super) struct Seen {
    pub(super) found: Measured,
    pub(super) inputs: Vec<(String, Tensor)>,
    pub(super) outputs: Vec<(String, Tensor)>,
    /// What it says of itself.
    pub(super) description: Description,
    /// What of the policy's files it has needed.
    pub(super) files: Vec<FileGrant>,
}

/// Runs a model under a policy, which becomes one for this very file.
pub(super) fn measure(
    bytes: ModelBytes,
    mut policy: Policy,
    inputs: &InputArgs,
    terminal: &Terminal,
) -> Result<Seen, Failure> {
    // So that a ceiling that demands pins is content.
    policy.model.sha256.get_or_insert(*bytes.digest().as_bytes());
    let (sha256, model_size) = (bytes.digest().to_string(), bytes.size());
    let model_name = bytes.label().to_owned();
    let host = host(IsolationArg::Process, Store::Unused, 1, terminal)?;
    let policy = host.effective(&policy)?;
    // The guest may have to be compiled first, which is no part of the model's time.
    terminal.progress("starting a sandbox", || host.warm_up(&policy))?;
    let start = Instant::now();
    let model = terminal.progress("loading the model", || host.load(bytes, &policy))?;
    let load_time = start.elapsed();
    let given = made_up::read_or_make_up(inputs, model.description(), model.policy())?;
    let input_bytes = given.iter().map(|(_, tensor)| tensor.byte_len()).sum();
    let prepare_time =
        load_time + terminal.progress("preparing the model", || model.prepare(&given))?;
    let (mut run_time, mut peak_memory, mut found) = (Duration::ZERO, 0, Vec::new());
    for _ in 0..RUNS {
        let outputs = terminal.progress("running", || model.run(&given))?.validate()?;
        run_time = run_time.max(outputs.cost().run);
        peak_memory = peak_memory.max(outputs.cost().memory);
        found = outputs.into_tensors();
    }
    let output_bytes = found.iter().map(|(_, tensor)| tensor.byte_len()).sum();
    let measured = Measured {
        model_name,
        sha256,
        model_size,
        peak_memory,
        prepare_time,
        run_time,
        input_bytes,
        output_bytes,
    };
    let (description, files) = (model.description().clone(), model.side_files());
    Ok(Seen { found: measured, inputs: given, outputs: found, description, files })
}

/// Writes a policy where a person wants it, or prints it.
pub(super) fn write(text: &str, output: Option<&Path>, force: bool) -> Result<(), Failure> {
    match output {
        None => stdout().write_all(text.as_bytes()).map_err(Failure::output),
        Some(path) => {
            write_file(path, force, |file| Ok(file.write_all(text.as_bytes())?))?;
            // A policy that others may write to would be refused when it is used.
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
            std::fs::set_permissions(path, mode).map_err(|err| Failure::write(path, &err))
        }
    }
}
