//! Describes filters as text, from the same tables that they are compiled from.

use serde::Serialize;

use super::calls::{Condition, Test, Value};
use super::denied::DENIED;
use super::filter::architecture;
use super::rules::{self, CLONE3};
use crate::role::Role;

/// The description of a filter.
#[derive(Debug, Serialize)]
pub struct Words {
    /// The architecture whose calls these are.
    pub architecture: &'static str,
    /// The verdict on the calls in `rules`.
    pub verdict: &'static str,
    pub rules: Vec<RuleWords>,
    /// Calls that fail as if the kernel did not implement them, and why.
    pub not_implemented: Vec<RuleWords>,
    /// The verdict on every other call.
    pub otherwise: &'static str,
}

/// The description of a rule.
#[derive(Debug, Serialize)]
pub struct RuleWords {
    pub call: &'static str,
    /// Conditions on the arguments, which must all hold.
    pub when: Vec<String>,
    /// What the call is needed for, or why it is refused.
    pub why: &'static str,
    /// When the rule is needed, if not always.
    pub sometimes: Option<&'static str>,
    /// Until when the rule applies, if not to the end.
    pub until: Option<&'static str>,
}

/// The filter of a role's process.
pub fn of_role(role: Role) -> Words {
    let rules = rules::of(role).map(|rule| RuleWords {
        call: rule.call.name,
        when: rule.when.iter().map(condition).collect(),
        why: rule.why,
        sometimes: rule.sometimes,
        until: rule.until,
    });
    Words {
        architecture: std::env::consts::ARCH,
        verdict: "allowed",
        rules: rules.collect(),
        not_implemented: not_implemented(),
        otherwise: "the kernel kills the process",
    }
}

/// The filter of a sandbox on a thread.
pub fn of_thread() -> Words {
    let arch = architecture().ok();
    let exists =
        |call: super::calls::Call| arch.as_ref().is_some_and(|arch| call.number(*arch).is_some());
    let rules = DENIED.iter().flat_map(|denied| {
        let calls = denied.calls.iter().filter(|(call, _)| exists(*call));
        calls.map(|(call, when)| RuleWords {
            call: call.name,
            when: when.iter().map(condition).collect(),
            why: denied.why,
            sometimes: None,
            until: None,
        })
    });
    Words {
        architecture: std::env::consts::ARCH,
        verdict: "refused (EPERM)",
        rules: rules.collect(),
        not_implemented: not_implemented(),
        otherwise: "allowed",
    }
}

fn not_implemented() -> Vec<RuleWords> {
    let why = "its flags are in memory, which a filter cannot read; glibc falls back to clone";
    vec![RuleWords { call: CLONE3.name, when: Vec::new(), why, sometimes: None, until: None }]
}

fn condition(condition: &Condition) -> String {
    let name = condition.name;
    match condition.test {
        Test::Is(value) => format!("{name} is {}", value.0),
        Test::Bits([], some) => format!("{name} is 0 or {}", names(some)),
        Test::Bits(all, []) => format!("{name} is {}", names(all)),
        Test::Bits(all, some) => {
            format!("{name} is {}, with or without {}", names(all), names(some))
        }
        Test::AtLeast(value) => format!("{name} is at least {}", value.0),
        Test::Has(bit) => format!("{name} has {}", bit.0),
        Test::Lacks(bit) => format!("{name} lacks {}", bit.0),
        Test::IsThisProcess => format!("{name} is this process"),
        Test::IsOtherProcess => format!("{name} is not this process"),
    }
}

fn names(values: &[Value]) -> String {
    values.iter().map(|value| value.0).collect::<Vec<_>>().join(" | ")
}
