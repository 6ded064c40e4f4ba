//! Cuts a policy down to a ceiling. Nothing here may make a policy allow more than it did.

use std::path::{Component, Path};

use super::super::limits::Quantity;
use super::super::text::{quote, shown};
use super::super::{
    Access, AddressKind, Compute, Confinement, FileGrant, Kernels, Limits, NetworkGrant, Peer,
    Policy, Program, Quotas,
};
use super::{Ceiling, Cut, Hosts, PeerCeiling, ProgramCeiling, Refused};

const NOTHING: &str = "not granted";

impl Ceiling {
    /// Cuts a policy down to what this ceiling allows, and returns what was cut.
    ///
    /// # Errors
    /// When the policy has to be refused instead of cut.
    pub(super) fn apply(&self, name: &str, policy: &mut Policy) -> Result<Vec<Cut>, Refused> {
        let ceiling = || name.to_owned();
        let (what, pin) = match &policy.program {
            Some(program) => ("program", program.sha256),
            None => ("model", policy.model.sha256),
        };
        if policy.program.is_some() && self.program.is_none() {
            return Err(Refused::NoPrograms { ceiling: ceiling() });
        }
        if self.require_pin && pin.is_none() {
            return Err(Refused::NoPin { ceiling: ceiling(), what });
        }
        let mut cuts = Vec::new();
        self.cut_basics("", policy, &mut cuts);
        for (number, grant) in policy.models.iter_mut().enumerate() {
            if let Some(rules) = &mut grant.rules {
                let of = format!("models[{}].policy ", number.saturating_add(1));
                self.cut_basics(&of, &mut rules.policy, &mut cuts);
                rules.policy.filesystem.retain_mut(|grant| self.cut_file(&of, grant, &mut cuts));
            }
        }
        if let (Some(program), Some(most)) = (&mut policy.program, &self.program) {
            cut_program(program, most, &mut cuts);
            cut_quotas(&mut policy.quotas, &self.quotas, &mut cuts);
        }
        policy.filesystem.retain_mut(|grant| self.cut_file("", grant, &mut cuts));
        let alone = policy.program.is_none().then_some(&policy.filesystem);
        let of_models = policy.models.iter().filter_map(|grant| grant.rules.as_ref());
        let of_models = of_models.map(|rules| &rules.policy.filesystem);
        let mut files = alone.into_iter().chain(of_models).flatten();
        if self.require_pin
            && let Some(grant) = files.find(|grant| grant.sha256.is_none())
        {
            return Err(Refused::NoFilePin { ceiling: ceiling(), guest: shown(&grant.guest) });
        }
        policy.network.retain_mut(|grant| self.cut_peer(grant, &mut cuts));
        Ok(cuts)
    }

    /// Cuts what every policy has. `of` names the policy in the reported keys.
    fn cut_basics(&self, of: &str, policy: &mut Policy, cuts: &mut Vec<Cut>) {
        let Policy {
            limits,
            compute,
            confinement,
            declared_shapes,
            // Grants, which `apply` cuts.
            program: _,
            models: _,
            filesystem: _,
            network: _,
            quotas: _,
            // A pin and value rules only restrict.
            model: _,
            inputs: _,
            outputs: _,
            origin: _,
        } = policy;
        cut_limits(of, limits, &self.limits, cuts);
        let native = compute.native_kernels();
        // A seed grants nothing.
        let Compute { deterministic: _, kernels, threads, seed: _ } = compute;
        cut_one(&format!("{of}compute.threads"), threads, self.threads, cuts);
        if native && self.kernels == Kernels::Sandbox {
            *kernels = Kernels::Sandbox;
            cuts.push(Cut {
                key: format!("{of}compute.kernels"),
                asked: "\"native\"".to_owned(),
                left: "\"sandbox\"".to_owned(),
            });
        }
        if *declared_shapes < self.declared_shapes {
            cuts.push(Cut {
                key: format!("{of}declared-shapes"),
                asked: format!("\"{}\"", declared_shapes.name()),
                left: format!("\"{}\"", self.declared_shapes.name()),
            });
            *declared_shapes = self.declared_shapes;
        }
        let weaker = *confinement == Confinement::BestEffort;
        if weaker && self.confinement == Confinement::Strict {
            *confinement = Confinement::Strict;
            cuts.push(Cut {
                key: format!("{of}confinement"),
                asked: "\"best-effort\"".to_owned(),
                left: "\"strict\"".to_owned(),
            });
        }
    }

    /// Cuts a file grant; `false` if nothing is left of it. `of` names the policy it belongs to.
    fn cut_file(&self, of: &str, grant: &mut FileGrant, cuts: &mut Vec<Cut>) -> bool {
        let FileGrant { host, guest: _, access: wanted, sha256: _, reason: _ } = grant;
        let greatest = greatest_access(self, host);
        if greatest.is_some_and(|greatest| greatest >= *wanted) {
            return true;
        }
        let (asked, key) = (quote(&host.to_string_lossy()), format!("{of}filesystem.host"));
        let left = match greatest {
            Some(access) => {
                *wanted = access;
                "only to be read".to_owned()
            }
            None => NOTHING.to_owned(),
        };
        cuts.push(Cut { key, asked, left });
        greatest.is_some()
    }

    /// Cuts a network grant; `false` if nothing is left of it.
    fn cut_peer(&self, grant: &mut NetworkGrant, cuts: &mut Vec<Cut>) -> bool {
        let fitting: Vec<&PeerCeiling> =
            self.network.iter().filter(|peers| peers.fits(grant)).collect();
        let NetworkGrant { host, port, protocol, reaches, reason: _ } = grant;
        let allowed = |kind: &AddressKind| fitting.iter().any(|p| p.reaches.contains(kind));
        let kept: Vec<AddressKind> = reaches.iter().copied().filter(allowed).collect();
        if kept.len() == reaches.len() {
            return true;
        }
        let peer = format!("{host}:{port}/{}", protocol.name());
        let kinds = |kinds: &[AddressKind]| {
            kinds.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(", ")
        };
        let asked = format!("{} (reaches {})", shown(&peer), kinds(reaches));
        let left = match kept.is_empty() {
            true => NOTHING.to_owned(),
            false => format!("reaches only {}", kinds(&kept)),
        };
        cuts.push(Cut { key: "network.host".to_owned(), asked, left });
        *reaches = kept;
        !reaches.is_empty()
    }
}

/// The greatest access to a path that the roots above it allow.
fn greatest_access(ceiling: &Ceiling, path: &Path) -> Option<Access> {
    // A policy built by a program may have paths that no file could; they are below no root.
    let plain = path.is_absolute() && path.components().all(|c| c != Component::ParentDir);
    let above = ceiling.filesystem.iter().filter(|root| plain && path.starts_with(&root.path));
    above.map(|root| root.access).max()
}

impl PeerCeiling {
    /// Whether the grant's host, port and protocol are within this entry.
    fn fits(&self, grant: &NetworkGrant) -> bool {
        let host = match (&self.hosts, &grant.host) {
            (Hosts::Any, _) => true,
            (Hosts::One(one), host) => one == host,
            (Hosts::Below(above), Peer::Name(name)) => name
                .strip_suffix(above.as_str())
                .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
            (Hosts::Below(_), Peer::Address(_)) => false,
        };
        let port = self.ports.iter().any(|ports| ports.contains(&grant.port));
        host && port && self.protocol == grant.protocol
    }
}

/// Cuts one number.
fn cut_one<T: Quantity>(key: &str, asked: &mut T, most: T, cuts: &mut Vec<Cut>) {
    if *asked > most {
        cuts.push(Cut {
            key: key.to_owned(),
            asked: asked.shown().to_string(),
            left: most.shown().to_string(),
        });
        *asked = most;
    }
}

fn cut_limits(of: &str, asked: &mut Limits, most: &Limits, cuts: &mut Vec<Cut>) {
    let key = |name: &str| format!("{of}limits.{name}");
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
    } = asked;
    cut_one(&key("memory"), memory, most.memory, cuts);
    cut_one(&key("run-time"), run_time, most.run_time, cuts);
    cut_one(&key("prepare-time"), prepare_time, most.prepare_time, cuts);
    cut_one(&key("model-size"), model_size, most.model_size, cuts);
    cut_one(&key("input-size"), input_size, most.input_size, cuts);
    cut_one(&key("output-size"), output_size, most.output_size, cuts);
    cut_one(&key("log-size"), log_size, most.log_size, cuts);
    cut_one(&key("stack"), stack, most.stack, cuts);
    cut_one(&key("snapshots"), snapshots, most.snapshots, cuts);
}

fn cut_quotas(asked: &mut Quotas, most: &Quotas, cuts: &mut Vec<Cut>) {
    let Quotas {
        bytes_written,
        files_created,
        open_handles,
        connections,
        bytes_sent,
        bytes_received,
    } = asked;
    cut_one("quotas.bytes-written", bytes_written, most.bytes_written, cuts);
    cut_one("quotas.files-created", files_created, most.files_created, cuts);
    cut_one("quotas.open-handles", open_handles, most.open_handles, cuts);
    cut_one("quotas.connections", connections, most.connections, cuts);
    cut_one("quotas.bytes-sent", bytes_sent, most.bytes_sent, cuts);
    cut_one("quotas.bytes-received", bytes_received, most.bytes_received, cuts);
}

fn cut_program(program: &mut Program, most: &ProgramCeiling, cuts: &mut Vec<Cut>) {
    let Program {
        sha256: _,
        stdout,
        stderr,
        clocks,
        randomness,
        arguments,
        environment,
        reason: _,
    } = program;
    let switches = [
        ("program.stdout", stdout, most.stdout),
        ("program.stderr", stderr, most.stderr),
        ("program.clocks", clocks, most.clocks),
        ("program.randomness", randomness, most.randomness),
        ("program.arguments", arguments, most.arguments),
    ];
    for (key, asked, allowed) in switches {
        if *asked && !allowed {
            *asked = false;
            let (key, asked, left) = (key.to_owned(), "true".to_owned(), NOTHING.to_owned());
            cuts.push(Cut { key, asked, left });
        }
    }
    environment.retain(|name, _| {
        let allowed = most.environment.contains(name);
        if !allowed {
            let (key, left) = ("program.environment".to_owned(), NOTHING.to_owned());
            cuts.push(Cut { key, asked: quote(name), left });
        }
        allowed
    });
}
