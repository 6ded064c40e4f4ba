//! What one policy allows more or less than another.
//!
//! Anything that the second policy allows and the first does not is a gain, because nobody has
//! approved it yet. A change that cannot be classified must be reported as a gain.

mod grants;

use belljar_files::Digest;
use belljar_text::Escaped;

use crate::units::{format_duration, format_size};
use crate::{
    Compute, Confinement, DeclaredShapes, Kernels, Limits, LoadedPolicy, ModelGrant, Policy,
    Program, Quotas, Scalar, ValueRule,
};

use grants::{Files, files, peers};

/// What kind of change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeKind {
    /// The second policy allows more.
    Gain,
    /// It allows less.
    Loss,
    /// Neither more nor less.
    Change,
}

impl ChangeKind {
    /// Its name, as `belljar policy diff` prints it.
    pub fn name(self) -> &'static str {
        match self {
            ChangeKind::Gain => "gain",
            ChangeKind::Loss => "loss",
            ChangeKind::Change => "change",
        }
    }
}

/// A difference between two policies.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change {
    /// Whether the second policy allows more or less.
    pub kind: ChangeKind,
    /// The key of the policy that differs.
    pub key: String,
    /// What the first policy says, printable.
    pub old: String,
    /// What the second says, printable.
    pub new: String,
}

const NOTHING: &str = "nothing";

/// Collects changes.
#[derive(Default)]
struct Changes(Vec<Change>);

impl Changes {
    fn push(
        &mut self,
        kind: ChangeKind,
        key: &str,
        old: impl Into<String>,
        new: impl Into<String>,
    ) {
        let (old, new) = (old.into(), new.into());
        self.0.push(Change { kind, key: key.to_owned(), old, new });
    }

    /// Compares an amount of which more is a gain.
    fn amount<T: PartialOrd>(&mut self, key: &str, old: T, new: T, shown: impl Fn(T) -> String) {
        if old != new {
            let kind = if new > old { ChangeKind::Gain } else { ChangeKind::Loss };
            self.push(kind, key, shown(old), shown(new));
        }
    }

    fn switch(&mut self, key: &str, old: bool, new: bool) {
        self.amount(key, old, new, |on| on.to_string());
    }

    fn pin(&mut self, key: &str, old: Option<[u8; 32]>, new: Option<[u8; 32]>) {
        let shown = |pin: Option<[u8; 32]>| {
            pin.map_or_else(|| "any file".to_owned(), |pin| Digest::from(pin).to_string())
        };
        if old != new {
            // Nobody has approved a different file.
            let kind = if old.is_none() { ChangeKind::Loss } else { ChangeKind::Gain };
            self.push(kind, key, shown(old), shown(new));
        }
    }
}

/// What the second policy allows more than the first, what less, and what else differs.
pub fn compare(old: &LoadedPolicy, new: &LoadedPolicy) -> Vec<Change> {
    let mut changes = Changes::default();
    let (a, b) = (&old.policy, &new.policy);
    // Destructured so that a new field must be compared here or in one of the functions below.
    let Policy {
        model: _,
        program: _,
        models: _,
        filesystem: _,
        network: _,
        quotas: _,
        // `basics` compares these.
        limits: _,
        compute: _,
        confinement: _,
        declared_shapes: _,
        inputs: _,
        outputs: _,
        // About the file, not about what it allows.
        origin: _,
    } = a;
    // Under a policy for a program, models run only as part of the program.
    let model = |policy: &Policy| match policy.model.sha256 {
        Some(pin) => Digest::from(pin).to_string(),
        None => "any file".to_owned(),
    };
    match (&a.program, &b.program) {
        (None, None) => changes.pin("model.sha256", a.model.sha256, b.model.sha256),
        (Some(a), Some(b)) => programs(a, b, &mut changes),
        (None, Some(b)) => {
            changes.push(ChangeKind::Loss, "model", model(a), NOTHING);
            changes.push(ChangeKind::Gain, "program", NOTHING, "a guest program");
            programs(&Program { sha256: b.sha256, ..Program::default() }, b, &mut changes);
        }
        (Some(a), None) => {
            changes.push(ChangeKind::Gain, "model", NOTHING, model(b));
            changes.push(ChangeKind::Loss, "program", "a guest program", NOTHING);
            programs(a, &Program { sha256: a.sha256, ..Program::default() }, &mut changes);
        }
    }
    models(old, new, &mut changes);
    files("filesystem", Files::of(old), Files::of(new), &mut changes);
    peers(a, b, &mut changes);
    basics("", a, b, &mut changes);
    if a.program.is_some() && b.program.is_some() {
        quotas(a, b, &mut changes);
    }
    changes.0.sort_by_key(|change| change.kind);
    changes.0
}

/// Compares the keys that every policy has. `of` is the prefix of the reported keys.
fn basics(of: &str, a: &Policy, b: &Policy, to: &mut Changes) {
    let key = |name: &str| format!("{of}{name}");
    let size = format_size;
    let weak = |policy: &Policy| policy.confinement == Confinement::BestEffort;
    to.amount(&key("confinement"), weak(a), weak(b), |weak| {
        if weak { "best-effort" } else { "strict" }.to_owned()
    });
    let open = |policy: &Policy| policy.declared_shapes == DeclaredShapes::Report;
    to.amount(&key("declared-shapes"), open(a), open(b), |open| {
        if open { DeclaredShapes::Report } else { DeclaredShapes::Strict }.name().to_owned()
    });
    let new = &b.limits;
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
    } = a.limits;
    to.amount(&key("limits.memory"), memory, new.memory, size);
    to.amount(&key("limits.run-time"), run_time, new.run_time, format_duration);
    to.amount(&key("limits.prepare-time"), prepare_time, new.prepare_time, format_duration);
    to.amount(&key("limits.model-size"), model_size, new.model_size, size);
    to.amount(&key("limits.input-size"), input_size, new.input_size, size);
    to.amount(&key("limits.output-size"), output_size, new.output_size, size);
    to.amount(&key("limits.log-size"), log_size, new.log_size, size);
    to.amount(&key("limits.stack"), stack, new.stack, size);
    to.amount(&key("limits.snapshots"), snapshots, new.snapshots, |n| n.to_string());
    let Compute { deterministic, kernels, threads, seed } = a.compute;
    to.amount(&key("compute.threads"), threads, b.compute.threads, |n| n.to_string());
    let native = |kernels| kernels == Kernels::Native;
    to.amount(&key("compute.kernels"), native(kernels), native(b.compute.kernels), |native| {
        if native { "native" } else { "sandbox" }.to_owned()
    });
    rules(&key("inputs"), &a.inputs, &b.inputs, to);
    rules(&key("outputs"), &a.outputs, &b.outputs, to);
    if deterministic != b.compute.deterministic {
        let (old, new) = (deterministic.to_string(), b.compute.deterministic.to_string());
        to.push(ChangeKind::Change, &key("compute.deterministic"), old, new);
    }
    if seed != b.compute.seed {
        let shown = |seed: Option<u32>| seed.map_or("none".to_owned(), |seed| seed.to_string());
        to.push(ChangeKind::Change, &key("compute.seed"), shown(seed), shown(b.compute.seed));
    }
}

/// Compares value rules: a new rule is a loss, a removed rule a gain. A changed rule is always a
/// gain, because rules are not compared in detail.
fn rules(key: &str, a: &[ValueRule], b: &[ValueRule], to: &mut Changes) {
    let of = |name: &str| format!("{key}.{}", Escaped::cut(name, 60));
    let shown = |rule: &ValueRule| {
        let number =
            |name: &str, value: Option<Scalar>| value.map(|value| format!("{name} {value}"));
        let ValueRule {
            name: _,
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
        let mut parts: Vec<String> = Vec::new();
        parts.extend(number("value", *value));
        parts.extend(dtype.map(|dtype| format!("dtype {dtype}")));
        parts.extend(shape.as_ref().map(|shape| {
            let sizes: Vec<String> = shape.iter().map(ToString::to_string).collect();
            format!("shape [{}]", sizes.join(", "))
        }));
        parts.extend(number("min", *min));
        parts.extend(number("max", *max));
        parts.push(format!("finite {finite}"));
        parts.extend(number("max-norm", *max_norm));
        if !allowed.is_empty() {
            let values: Vec<String> = allowed.iter().map(ToString::to_string).collect();
            parts.push(format!("allowed [{}]", values.join(", ")));
        }
        parts.extend(top_k.map(|k| format!("top-k {k}")));
        parts.extend(decimals.map(|decimals| format!("decimals {decimals}")));
        parts.join(", ")
    };
    for rule in b {
        match a.iter().find(|old| old.name == rule.name) {
            None => to.push(ChangeKind::Loss, &of(&rule.name), "anything", shown(rule)),
            Some(old) if old != rule => {
                to.push(ChangeKind::Gain, &of(&rule.name), shown(old), shown(rule));
            }
            Some(_) => {}
        }
    }
    for rule in a.iter().filter(|rule| !b.iter().any(|new| new.name == rule.name)) {
        to.push(ChangeKind::Gain, &of(&rule.name), shown(rule), "anything");
    }
}

fn quotas(a: &Policy, b: &Policy, to: &mut Changes) {
    let Quotas {
        bytes_written,
        files_created,
        open_handles,
        connections,
        bytes_sent,
        bytes_received,
    } = a.quotas;
    let new = &b.quotas;
    let count = |n: u32| n.to_string();
    to.amount("quotas.bytes-written", bytes_written, new.bytes_written, format_size);
    to.amount("quotas.files-created", files_created, new.files_created, count);
    to.amount("quotas.open-handles", open_handles, new.open_handles, count);
    to.amount("quotas.connections", connections, new.connections, count);
    to.amount("quotas.bytes-sent", bytes_sent, new.bytes_sent, format_size);
    to.amount("quotas.bytes-received", bytes_received, new.bytes_received, format_size);
}

fn programs(a: &Program, b: &Program, to: &mut Changes) {
    let Program {
        sha256,
        stdout,
        stderr,
        clocks,
        randomness,
        arguments,
        environment,
        // The reason does not change what is allowed.
        reason: _,
    } = a;
    to.pin("program.sha256", *sha256, b.sha256);
    to.switch("program.stdout", *stdout, b.stdout);
    to.switch("program.stderr", *stderr, b.stderr);
    to.switch("program.clocks", *clocks, b.clocks);
    to.switch("program.randomness", *randomness, b.randomness);
    to.switch("program.arguments", *arguments, b.arguments);
    let shown = |value: &String| Escaped::cut(value, 60).to_string();
    for (name, new) in &b.environment {
        let key = format!("program.environment.{name}");
        match environment.get(name) {
            None => to.push(ChangeKind::Gain, &key, NOTHING, shown(new)),
            Some(old) if old != new => to.push(ChangeKind::Gain, &key, shown(old), shown(new)),
            Some(_) => {}
        }
    }
    for (name, old) in environment.iter().filter(|(name, _)| !b.environment.contains_key(*name)) {
        to.push(ChangeKind::Loss, &format!("program.environment.{name}"), shown(old), NOTHING);
    }
}

fn models(old: &LoadedPolicy, new: &LoadedPolicy, to: &mut Changes) {
    let key = |grant: &ModelGrant| format!("models {}", Escaped::cut(&grant.name, 60));
    let digest = |grant: &ModelGrant| Digest::from(grant.sha256).to_string();
    for grant in &new.policy.models {
        // `path`, `policy` and `rules` are compared below, independent of the folders of the
        // policies.
        let ModelGrant { name: _, path: _, sha256: _, policy: _, rules: _ } = grant;
        let key = key(grant);
        let own = format!("{key} filesystem");
        let Some(before) = old.policy.models.iter().find(|before| before.name == grant.name) else {
            to.push(ChangeKind::Gain, &key, NOTHING, digest(grant));
            files(&own, Files::none(old), Files::of_model(grant, new), to);
            continue;
        };
        to.pin(&key, Some(before.sha256), Some(grant.sha256));
        let path = |grant: &ModelGrant, policy: &LoadedPolicy| {
            let path = grant.path.as_deref();
            path.map_or_else(|| "brought by the program".to_owned(), |path| policy.shown_path(path))
        };
        let (a, b) = (path(before, old), path(grant, new));
        if a != b {
            to.push(ChangeKind::Change, &key, a, b);
        }
        let rules = (old.policy.for_model(before), new.policy.for_model(grant));
        // Models without a policy of their own follow the program's limits, which are compared
        // already.
        if let (Some(a), Some(b)) = rules
            && (before.policy.is_some() || grant.policy.is_some())
        {
            basics(&format!("{key} "), &a, &b, to);
        }
        files(&own, Files::of_model(before, old), Files::of_model(grant, new), to);
    }
    let gone = |grant: &&ModelGrant| !new.policy.models.iter().any(|new| new.name == grant.name);
    for grant in old.policy.models.iter().filter(gone) {
        to.push(ChangeKind::Loss, &key(grant), digest(grant), NOTHING);
    }
}
