//! The recorded policy of a model: its pin, the shapes and element types of its inputs and outputs,
//! and measured limits.

use std::fmt::Write as _;
use std::path::Path;

use super::super::super::failure::Failure;
use super::super::super::host::read_model;
use super::super::super::new_policy::{self, Observed, Seen};
use super::super::super::terminal::Terminal;
use super::{folder, ordered, parsed, within};
use crate::args::Record;
use belljar::Description;
use belljar_policy::{FORMAT_VERSION, Policy, ValueRule, measured_limits, write as text};
use belljar_text::Escaped;

pub(super) fn record(arguments: &Record, terminal: &Terminal) -> Result<(), Failure> {
    let base = within(arguments)?;
    if base.program.is_some() {
        return Err(Failure::usage("--within: this policy is for a guest program, not a model"));
    }
    let folder = folder(arguments.output.as_deref(), arguments.force)?;
    let bytes = read_model(&arguments.model, base.limits.model_size)?;
    let seen = new_policy::measure(bytes.clone(), base.clone(), &arguments.inputs, terminal)?;
    let text = ordered(&policy(&seen, &base, &folder))?;
    // The run is repeated under the new policy, which is written only if the run succeeds.
    let recorded = parsed(&text, &folder, &base)?;
    new_policy::measure(bytes, recorded, &arguments.inputs, terminal)?;
    new_policy::write(&text, arguments.output.as_deref(), arguments.force)
}

fn policy(seen: &Seen, base: &Policy, folder: &Path) -> String {
    let found = &seen.found;
    let runs = match seen.runs {
        1 => "a run".to_owned(),
        runs => format!("{runs} runs"),
    };
    let mut out = format!(
        "# Policy for {}, recorded from {runs}, with a margin in its limits. In a shape, write\n\
         # \"1..512\" for sizes from 1 to 512, and \"?\" for any.\nversion = {FORMAT_VERSION}\n",
        Escaped::cut(&found.model_name, 200)
    );
    out.push_str(&text::settings(base));
    let _ = write!(out, "\n[model]\nsha256 = {}\n", text::quoted(&found.sha256));
    for file in &seen.files {
        let reason = format!("recorded: {} keeps data there", Escaped::cut(&found.model_name, 100));
        let _ = write!(out, "\n{}", text::granted_file(file, &reason, folder));
    }
    let Description { inputs, outputs, .. } = &seen.description;
    for (table, rules, tensors, declared) in [
        ("inputs", &base.inputs, &seen.inputs, inputs),
        ("outputs", &base.outputs, &seen.outputs, outputs),
    ] {
        // A rule needs a declared type.
        let typed = |name: &str| {
            declared.iter().any(|value| value.name == *name && value.dtype().is_some())
        };
        for one in tensors.iter().filter(|one| typed(&one.name)) {
            let rule = rules.iter().find(|rule| rule.name == one.name).cloned();
            let rule = rule.unwrap_or_else(|| {
                let mut rule = ValueRule::new(&one.name);
                rule.finite = one.finite;
                rule
            });
            out.push_str(&text::rule(table, &narrowed(rule, one)));
        }
        // Inputs with a fixed value in the policy are not among the tensors of the run.
        let crosses = |rule: &&ValueRule| tensors.iter().any(|one| one.name == rule.name);
        for rule in rules.iter().filter(|rule| !crosses(rule)) {
            out.push_str(&text::rule(table, rule));
        }
    }
    out.push_str(&measured_limits(found, &base.limits));
    out.push_str(&text::compute(&base.compute));
    out
}

/// The rule, with the element type and the sizes of the runs.
fn narrowed(mut rule: ValueRule, seen: &Observed) -> ValueRule {
    rule.dtype = Some(seen.dtype);
    // An existing shape may leave sizes open on purpose.
    rule.shape = rule.shape.or_else(|| seen.sizes());
    rule
}
