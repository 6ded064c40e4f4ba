//! Sentences on limits, quotas and how models are computed.

use super::{DEADLINE, LIMITER, QUOTA, RLIMITS, SIZES, Sentences, WASM};
use crate::units::{format_duration, format_size};
use crate::{Access, Compute, Confinement, Kernels, Limits, Policy, Quotas};

pub(super) fn explain_limits(limits: &Limits, confinement: Confinement, to: &mut Sentences) {
    let about = "Limits";
    let Limits {
        memory,
        run_time,
        prepare_time,
        model_size,
        input_size,
        output_size,
        log_size,
        stack,
        snapshots,
    } = *limits;
    let size = format_size;
    let mut say = |text: String, by: &[&'static str]| to.say(about, text, by);
    say(format!("At most {} of memory per sandbox.", size(memory)), &[LIMITER, RLIMITS]);
    let time = format_duration(run_time);
    let by: &[&'static str] = match confinement {
        Confinement::Strict => &[DEADLINE],
        Confinement::BestEffort => &[DEADLINE, "on a thread, code that checks the clock"],
    };
    say(format!("At most {time} for a run."), by);
    let time = format_duration(prepare_time);
    say(format!("At most {time} each to load, describe and optimise a model."), by);
    let (inputs, outputs) = (size(input_size), size(output_size));
    let model = size(model_size);
    say(
        format!("At most {model} for a model, {inputs} for inputs, {outputs} for outputs."),
        &[SIZES],
    );
    let (stack, log) = (size(stack), size(log_size));
    say(format!("At most {stack} of stack."), &[WASM]);
    say(format!("At most {log} of log."), &["further log output is dropped"]);
    say(
        format!("Prepared models are kept for at most {snapshots} combinations of input shapes."),
        &["store of prepared models"],
    );
}

pub(super) fn explain_quotas(policy: &Policy, to: &mut Sentences) {
    let Quotas {
        bytes_written,
        files_created,
        open_handles,
        connections,
        bytes_sent,
        bytes_received,
    } = policy.quotas;
    let mut parts = vec![format!("{open_handles} open at once")];
    let written = policy.filesystem.iter().any(|grant| grant.access == Access::Write);
    let prints = policy.program.as_ref().is_some_and(|program| program.stdout || program.stderr);
    if written || prints {
        parts.push(format!("{} written", format_size(bytes_written)));
    }
    if written {
        parts.push(format!("{files_created} files created"));
    }
    if !policy.network.is_empty() {
        parts.push(format!("{connections} connections"));
        parts.push(format!("{} sent", format_size(bytes_sent)));
        parts.push(format!("{} received", format_size(bytes_received)));
    }
    to.say("Limits", format!("In one run, at most {}.", parts.join(", ")), &[QUOTA]);
}

pub(super) fn explain_compute(compute: &Compute, to: &mut Sentences) {
    let about = "Computation";
    let Compute { deterministic, kernels, threads, seed } = *compute;
    if deterministic {
        let text = "Results have the same bits on every machine.".to_owned();
        to.say(about, text, &["deterministic code, without native kernels"]);
    }
    match (compute.native_kernels(), kernels) {
        (true, _) => {
            let threads = match threads {
                1 => "one thread".to_owned(),
                threads => format!("up to {threads} threads"),
            };
            let text = format!(
                "Native kernels compute in the sandbox's own memory, with \
                                {threads}."
            );
            to.say(about, text, &["every address checked", "work of a call bounded"]);
        }
        (false, Kernels::Native | Kernels::Sandbox) => {
            to.say(about, "Only WebAssembly computes, without native kernels.".to_owned(), &[WASM]);
        }
    }
    if let Some(seed) = seed {
        let text = format!("Random numbers of the model follow from the seed {seed}.");
        to.say(about, text, &[WASM]);
    }
}
