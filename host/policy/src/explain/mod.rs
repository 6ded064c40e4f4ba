//! Plain sentences on what a policy allows, and the layers that enforce each.
//!
//! The layers named here are those of SECURITY.md and SPECIFICATION.md. Every sentence must name
//! one, because a sentence without a layer would be a promise that nothing enforces.

mod limits;

use belljar_files::Digest;
use belljar_text::Escaped;

use crate::units::{format_duration, format_size};
use crate::{
    Access, Confinement, DeclaredShapes, FileGrant, LoadedPolicy, ModelGrant, NetworkGrant, Policy,
    Program, ValueRule,
};

use limits::{explain_compute, explain_limits, explain_quotas};

const DIGEST: &str = "digest checked before parsing";
const WASM: &str = "WebAssembly";
const LIMITER: &str = "memory limiter";
const RLIMITS: &str = "kernel resource limits";
const DEADLINE: &str = "deadline that kills the worker";
const SIZES: &str = "sizes checked at the sandbox boundary";
const STUBS: &str = "imports that are missing or that refuse";
const BROKER: &str = "broker that opens files and connections";
const NAMESPACES: &str = "namespaces with an empty root";
const LANDLOCK: &str = "Landlock";
const SECCOMP: &str = "seccomp";
const SIDE_FILES: &str = "read before the model is prepared, without following links";
const SHAPES_IN: &str = "ranks and fixed sizes checked before inputs enter the sandbox";
const VALUES_IN: &str = "values checked before they enter the sandbox";
const VALUES_OUT: &str = "values checked before they are returned";
const FIXED: &str = "value fixed when the model is prepared";
const QUOTA: &str = "quota counted by the host";

/// One thing that is allowed or refused.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sentence {
    /// The heading that it belongs under.
    pub about: &'static str,
    /// The sentence, printable.
    pub text: String,
    /// The layers that enforce it.
    pub enforced_by: Vec<&'static str>,
}

/// Collects sentences.
#[derive(Default)]
struct Sentences(Vec<Sentence>);

impl Sentences {
    fn say(&mut self, about: &'static str, text: String, enforced_by: &[&'static str]) {
        self.0.push(Sentence { about, text, enforced_by: enforced_by.to_vec() });
    }
}

/// What this policy allows and refuses, in plain sentences.
pub fn explain(loaded: &LoadedPolicy) -> Vec<Sentence> {
    let policy = &loaded.policy;
    let Policy {
        // `which` explains the pin.
        model: _,
        limits,
        compute,
        confinement,
        // `shapes` does.
        declared_shapes: _,
        program,
        models,
        filesystem,
        network,
        // With the grants that they are about.
        quotas: _,
        inputs,
        outputs,
        // The head of the text has the file's digest.
        origin: _,
    } = policy;
    let mut to = Sentences::default();
    which(policy, &mut to);
    if let Some(program) = program {
        process(program, &mut to);
    }
    for grant in models {
        explain_model(grant, loaded, &mut to);
    }
    for grant in filesystem {
        file(grant, loaded, &mut to);
    }
    for grant in network {
        peer(grant, &mut to);
    }
    shapes(policy, &mut to);
    for (rules, of_inputs) in [(inputs, true), (outputs, false)] {
        rules.iter().for_each(|rule| values(rule, of_inputs, &mut to));
    }
    explain_limits(limits, *confinement, &mut to);
    if program.is_some() {
        explain_quotas(policy, &mut to);
    }
    explain_compute(compute, &mut to);
    around(policy, &mut to);
    nothing_else(policy, &mut to);
    to.0
}

fn which(policy: &Policy, to: &mut Sentences) {
    let (what, pin) = match &policy.program {
        Some(program) => ("program", program.sha256),
        None => ("model", policy.model.sha256),
    };
    match pin {
        Some(pin) => {
            let text = format!("Only the {what} with SHA-256 {}.", Digest::from(pin));
            to.say("Identity", text, &[DIGEST]);
        }
        None => {
            let text = format!("Any {what}: the policy does not pin one by SHA-256.");
            to.say("Identity", text, &["nothing"]);
        }
    }
}

fn process(program: &Program, to: &mut Sentences) {
    let Program {
        sha256: _, // `which` explains the pin.
        stdout,
        stderr,
        clocks,
        randomness,
        arguments,
        environment,
        reason,
    } = program;
    let because = reason
        .as_ref()
        .map_or_else(String::new, |reason| format!(", because: {}", Escaped::new(reason)));
    let about = "Program";
    for (granted, text) in
        [(stdout, "It prints to standard output."), (stderr, "It prints to standard error.")]
    {
        if *granted {
            to.say(about, text.to_owned(), &[QUOTA]);
        }
    }
    for (granted, text) in [
        (clocks, "It reads the wall clock and a monotonic clock"),
        (randomness, "It gets random numbers"),
        (arguments, "It gets the arguments of the command line"),
    ] {
        if *granted {
            to.say(about, format!("{text}{because}."), &[STUBS]);
        }
    }
    if !environment.is_empty() {
        let names: Vec<String> = environment
            .iter()
            .map(|(name, value)| format!("{name}={}", Escaped::cut(value, 60)))
            .collect();
        let text = format!("Its environment is {}{because}.", names.join(", "));
        to.say(about, text, &["the host's environment is not passed on"]);
    }
}

fn explain_model(grant: &ModelGrant, loaded: &LoadedPolicy, to: &mut Sentences) {
    let ModelGrant { name, path, sha256, policy, rules } = grant;
    let name = Escaped::cut(name, 60);
    let from = match path {
        Some(path) => format!("from {}", loaded.shown_path(path)),
        None => "which the program provides".to_owned(),
    };
    let digest = Digest::from(*sha256);
    let text = format!("It may load the model {name} {from}, with SHA-256 {digest}.");
    to.say("Models", text, &[DIGEST, "a separate sandbox for the model"]);
    if let (Some(path), Some(rules)) = (policy, rules) {
        let limits = &rules.policy.limits;
        let text = format!(
            "Limits of {name} are those of {}: {} of memory, {} for a run.",
            loaded.shown_path(path),
            format_size(limits.memory),
            format_duration(limits.run_time)
        );
        to.say("Models", text, &[LIMITER, DEADLINE]);
        for grant in &rules.policy.filesystem {
            side_file(&format!("The model {name}"), grant, loaded, to);
        }
    }
}

fn file(grant: &FileGrant, loaded: &LoadedPolicy, to: &mut Sentences) {
    let FileGrant { host, guest, access, sha256: _, reason } = grant;
    let verb = match access {
        Access::Read => "read",
        Access::Write => "read, change, create and remove files in",
    };
    if loaded.policy.program.is_none() {
        return side_file("The model", grant, loaded, to);
    }
    let (host, guest) = (loaded.shown_path(host), Escaped::cut(guest, 100));
    let reason = Escaped::new(reason);
    let text = format!("It may {verb} {host}, as {guest}, because: {reason}.");
    to.say("Files", text, &["handle of that file or folder", LANDLOCK]);
}

fn side_file(model: &str, grant: &FileGrant, loaded: &LoadedPolicy, to: &mut Sentences) {
    // A model reads its files, whatever the access.
    let FileGrant { host, guest, access: _, sha256, reason } = grant;
    let (host, guest) = (loaded.shown_path(host), Escaped::cut(guest, 100));
    let reason = Escaped::new(reason);
    let (pin, by): (_, &[&'static str]) = match *sha256 {
        Some(pin) => (format!("with SHA-256 {}", Digest::from(pin)), &[SIDE_FILES, DIGEST]),
        None => ("with any content".to_owned(), &[SIDE_FILES]),
    };
    let text = format!("{model} may read data from {host}, as {guest}, {pin}, because: {reason}.");
    to.say("Files", text, by);
}

fn peer(grant: &NetworkGrant, to: &mut Sentences) {
    let NetworkGrant { host, port, protocol, reaches, reason } = grant;
    let kinds: Vec<&str> = reaches.iter().map(|kind| kind.name()).collect();
    let text = format!(
        "It may talk to {} on port {port} by {}, at {} addresses, because: {}.",
        Escaped::cut(&host.to_string(), 100),
        protocol.name().to_uppercase(),
        kinds.join(" and "),
        Escaped::new(reason)
    );
    to.say("Network", text, &["address checked after it is resolved", BROKER, SECCOMP]);
}

/// Explains the shape checks of a model or of the models of a program.
fn shapes(policy: &Policy, to: &mut Sentences) {
    if policy.program.is_some() && policy.models.is_empty() {
        return;
    }
    let (text, by) = match policy.declared_shapes {
        DeclaredShapes::Report => {
            ("An output may differ from its declared shape; the difference is reported.", SHAPES_IN)
        }
        DeclaredShapes::Strict => (
            "Inputs and outputs must have their declared shapes; otherwise the run fails.",
            VALUES_OUT,
        ),
    };
    to.say("Shapes", text.to_owned(), &[by]);
}

fn values(rule: &ValueRule, of_inputs: bool, to: &mut Sentences) {
    let ValueRule {
        name,
        value,
        dtype,
        shape,
        min,
        max,
        finite,
        max_norm,
        allowed,
        decimals,
        top_k,
    } = rule;
    let name = Escaped::cut(name, 60);
    let (about, what) = match of_inputs {
        true => ("Inputs", "input"),
        false => ("Outputs", "output"),
    };
    let mut say = |text: String, by: &'static str| to.say(about, text, &[by]);
    let before = if of_inputs { VALUES_IN } else { VALUES_OUT };
    if let Some(value) = value {
        say(format!("The {what} {name} is always {value}."), FIXED);
    }
    let mut must = Vec::new();
    must.extend(dtype.map(|dtype| format!("of type {dtype}")));
    must.extend(shape.as_ref().map(|shape| {
        let sizes = shape.iter().map(ToString::to_string);
        format!("of shape [{}]", sizes.collect::<Vec<_>>().join(", "))
    }));
    must.extend(min.map(|min| format!("at least {min}")));
    must.extend(max.map(|max| format!("at most {max}")));
    must.extend(finite.then(|| "finite".to_owned()));
    must.extend(max_norm.map(|norm| format!("of norm at most {norm}")));
    if !allowed.is_empty() {
        must.push(format!("one of {} values", allowed.len()));
    }
    if !must.is_empty() {
        say(format!("The {what} {name} must be {}.", must.join(", ")), before);
    }
    if let Some(k) = top_k {
        say(
            format!("Only the {k} greatest values of each row of {name} are returned."),
            VALUES_OUT,
        );
    }
    if let Some(decimals) = decimals {
        say(format!("Values of {name} are rounded to {decimals} decimals."), VALUES_OUT);
    }
}

fn around(policy: &Policy, to: &mut Sentences) {
    let (text, by): (_, &[&'static str]) = match policy.confinement {
        Confinement::Strict => (
            "No model is read if a kernel protection layer other than namespaces is missing.",
            &["supervisor, before anything is sent to a worker"],
        ),
        Confinement::BestEffort => (
            "Kernel protection layers may be missing; missing layers are reported.",
            &["the layers that the kernel supports"],
        ),
    };
    to.say("Confinement", text.to_owned(), by);
}

fn nothing_else(policy: &Policy, to: &mut Sentences) {
    let mut refused = vec!["start programs", "see other processes"];
    let granted = policy.program.as_ref();
    for (off, what) in [
        (policy.filesystem.is_empty() || granted.is_none(), "open files"),
        (policy.network.is_empty(), "use the network"),
        (granted.is_none_or(|program| !program.clocks), "read a clock"),
        (granted.is_none_or(|program| !program.randomness), "get random numbers"),
        (granted.is_none_or(|program| program.environment.is_empty()), "see an environment"),
        (granted.is_none_or(|program| !program.arguments), "see arguments"),
        (granted.is_none_or(|p| !p.stdout && !p.stderr), "print"),
    ] {
        if off {
            refused.push(what);
        }
    }
    let last = refused.pop().unwrap_or_default();
    let text = format!("It cannot {} or {last}.", refused.join(", "));
    to.say("Refused", text, &[STUBS, NAMESPACES, LANDLOCK, SECCOMP]);
}
