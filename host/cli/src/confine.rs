//! `belljar confine`: which system calls the kernel allows Belljar's processes, and why.

use std::io::{self, BufWriter, Write, stdout};

use clap::ValueEnum;
use serde_json::{Value, json};

use super::args::{Confine, RoleArg, TextFormat};
use super::failure::Failure;
use super::json;
use super::table::Table;
use belljar_confine::role::Role;
use belljar_confine::seccomp::{RuleWords, Words, of_role, of_thread};

pub(super) fn confine(command: &Confine) -> Result<(), Failure> {
    let Confine::Show { role, format } = command;
    let mut out = BufWriter::new(stdout().lock());
    match (role, format) {
        (None, TextFormat::Text) => print_roles(&mut out),
        (None, TextFormat::Json) => {
            let roles: Value = RoleArg::value_variants().iter().map(|role| head(*role)).collect();
            json::print(&roles, &mut out)
        }
        (Some(role), TextFormat::Text) => print(*role, &filter(*role), &mut out),
        (Some(role), TextFormat::Json) => json::print(&to_json(*role), &mut out),
    }
    .and_then(|()| out.flush())
    .map_err(Failure::output)
}

fn name_and_purpose(role: RoleArg) -> (&'static str, &'static str) {
    match role.into() {
        Some(role) => (Role::name(role), Role::purpose(role)),
        None => (
            "thread",
            "A sandbox on a thread of the program that embeds it. This filter makes an attack \
             harder, but it is not a security boundary.",
        ),
    }
}

fn filter(role: RoleArg) -> Words {
    Option::<Role>::from(role).map_or_else(of_thread, of_role)
}

impl From<RoleArg> for Option<Role> {
    fn from(role: RoleArg) -> Option<Role> {
        match role {
            RoleArg::Compile => Some(Role::Compile),
            RoleArg::Prepare => Some(Role::Prepare),
            RoleArg::Run => Some(Role::Run),
            #[cfg(feature = "programs")]
            RoleArg::CompileProgram => Some(Role::CompileProgram),
            #[cfg(feature = "programs")]
            RoleArg::Program => Some(Role::Program),
            #[cfg(feature = "programs")]
            RoleArg::GrantedProgram => Some(Role::GrantedProgram),
            RoleArg::Thread => None,
        }
    }
}

fn head(role: RoleArg) -> Value {
    let (name, purpose) = name_and_purpose(role);
    json!({ "role": name, "purpose": purpose })
}

fn to_json(role: RoleArg) -> Value {
    let (mut value, filter) = (head(role), json!(filter(role)));
    if let (Some(value), Value::Object(filter)) = (value.as_object_mut(), filter) {
        value.extend(filter);
    }
    value
}

fn print_roles(out: &mut impl Write) -> io::Result<()> {
    let mut table = Table::default();
    for role in RoleArg::value_variants() {
        let (name, purpose) = name_and_purpose(*role);
        table.row([name.to_owned(), purpose.to_owned()]);
    }
    table.print(out, 0)
}

fn print(role: RoleArg, filter: &Words, out: &mut impl Write) -> io::Result<()> {
    let (name, purpose) = name_and_purpose(role);
    writeln!(out, "{name}: {purpose}\n")?;
    writeln!(out, "{}, on {}", filter.verdict, filter.architecture)?;
    print_rules(&filter.rules, out)?;
    writeln!(out, "\nfails as if the kernel did not implement it (ENOSYS)")?;
    print_rules(&filter.not_implemented, out)?;
    writeln!(out, "\nevery other call: {}", filter.otherwise)
}

fn print_rules(rules: &[RuleWords], out: &mut impl Write) -> io::Result<()> {
    let mut table = Table::default();
    for rule in rules {
        let mut why = rule.why.to_owned();
        for when in rule.sometimes.iter().chain(&rule.until) {
            why += "; ";
            why += when;
        }
        table.row([rule.call.to_owned(), why]);
        for (at, condition) in rule.when.iter().enumerate() {
            let word = if at == 0 { "if" } else { "and" };
            table.row([String::new(), format!("  {word} {condition}")]);
        }
    }
    table.print(out, 2)
}
