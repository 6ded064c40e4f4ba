//! Compiles the tables to BPF programs and installs them.
//!
//! A process gets two filters, of which the stricter verdict counts: the first returns ENOSYS for
//! calls that glibc must consider missing, the second kills the process on any call that is not on
//! the list. Calls with another architecture's numbers kill the process in either.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};

use super::calls::{Call, Condition, Test, union};
use super::denied::DENIED;
use super::rules::{self, CLONE3};
use crate::role::Role;

/// Permanently confines this thread, and every thread it starts from now on, to the calls of a
/// role. The process must have set `no_new_privs` before.
pub fn install(role: Role) -> io::Result<()> {
    install_rules(rules::of(role))
}

/// Removes, for all threads of the process, the calls that its role may make only at the start:
/// starting threads, and, for a program, executable memory. A call is allowed if every filter
/// allows it.
pub fn narrow(role: Role) -> io::Result<()> {
    // The first filter's ENOSYS for clone3 stays in effect.
    let [_, program] = allow_list(rules::lasting(role), architecture()?, process())?;
    seccompiler::apply_filter_all_threads(&program).map_err(failed)
}

/// Like [`install`], without one of the role's rules.
#[cfg(feature = "test-hooks")]
pub fn install_without(role: Role, without: usize) -> io::Result<()> {
    let rules = rules::of(role).enumerate().filter(|(at, _)| *at != without);
    install_rules(rules.map(|(_, rule)| rule))
}

fn install_rules<'a>(rules: impl Iterator<Item = &'a rules::Rule>) -> io::Result<()> {
    if !rustix::thread::no_new_privs()? {
        return Err(io::Error::other(
            "cannot install a seccomp filter: the process can still gain new privileges",
        ));
    }
    let programs = allow_list(rules, architecture()?, process())?;
    programs.iter().try_for_each(apply)
}

/// Denies this thread, and every thread it starts from now on, the calls that a sandbox on a thread
/// of an embedding program does not need. They fail with EPERM rather than kill the process, which
/// does not belong to us. Only this thread sets `no_new_privs`.
pub fn install_on_thread() -> io::Result<()> {
    let programs = deny_list(architecture()?, process())?;
    rustix::thread::set_no_new_privs(true)?;
    programs.iter().try_for_each(apply)
}

/// The architecture that this program was compiled for.
pub(super) fn architecture() -> io::Result<TargetArch> {
    TargetArch::try_from(std::env::consts::ARCH)
        .ok()
        .filter(|arch| rules::CLONE3.number(*arch).is_some())
        .ok_or_else(|| {
            io::Error::other(format!(
                "Belljar has no seccomp filter for the architecture {}",
                std::env::consts::ARCH
            ))
        })
}

fn process() -> u64 {
    rustix::process::getpid().as_raw_nonzero().get().unsigned_abs().into()
}

fn apply(program: &BpfProgram) -> io::Result<()> {
    seccompiler::apply_filter(program).map_err(failed)
}

fn failed(err: seccompiler::Error) -> io::Error {
    match err {
        seccompiler::Error::Prctl(err) | seccompiler::Error::Seccomp(err) => err,
        err => io::Error::other(err),
    }
}

fn errno(errno: rustix::io::Errno) -> SeccompAction {
    SeccompAction::Errno(errno.raw_os_error().unsigned_abs())
}

/// The filters of a process that may make only the calls of these rules.
pub(super) fn allow_list<'a>(
    rules: impl Iterator<Item = &'a rules::Rule>,
    arch: TargetArch,
    process: u64,
) -> io::Result<[BpfProgram; 2]> {
    let calls = rules.map(|rule| (rule.call, rule.when));
    // The second filter must allow clone3, or it would kill the process despite the first filter.
    let calls = calls.chain([(CLONE3, &[] as &[Condition])]);
    Ok([
        without_clone3(&arch)?,
        program(calls, SeccompAction::Allow, SeccompAction::KillProcess, &arch, process)?,
    ])
}

/// The filters of a thread that may make all calls that are not denied.
pub(super) fn deny_list(arch: TargetArch, process: u64) -> io::Result<[BpfProgram; 2]> {
    let calls = DENIED.iter().flat_map(|denied| denied.calls).copied();
    let refused = errno(rustix::io::Errno::PERM);
    let mut list = program(calls, refused.clone(), SeccompAction::Allow, &arch, process)?;
    if arch == TargetArch::x86_64 {
        refuse_x32(&mut list, refused);
    }
    Ok([without_clone3(&arch)?, list])
}

fn without_clone3(arch: &TargetArch) -> io::Result<BpfProgram> {
    let missing = errno(rustix::io::Errno::NOSYS);
    program([(CLONE3, &[] as &[Condition])].into_iter(), missing, SeccompAction::Allow, arch, 0)
}

/// The x32 ABI has the architecture value of x86-64 and other numbers for the same calls. An allow
/// list excludes them; a deny list must refuse them explicitly.
fn refuse_x32(program: &mut BpfProgram, refused: SeccompAction) {
    const X32: u32 = 1 << 30;
    // The first three instructions check the architecture, and jump only to the fourth.
    let instruction = |code, jf, k| sock_filter { code, jt: 0, jf, k };
    let check = [
        // The number.
        instruction((libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, 0, 0),
        instruction((libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16, 1, X32),
        instruction((libc::BPF_RET | libc::BPF_K) as u16, 0, refused.into()),
    ];
    program.splice(3..3, check);
}

fn program<'a>(
    calls: impl Iterator<Item = (Call, &'a [Condition])>,
    listed: SeccompAction,
    others: SeccompAction,
    arch: &TargetArch,
    process: u64,
) -> io::Result<BpfProgram> {
    let mut map: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for (call, when) in calls {
        let Some(number) = call.number(*arch) else { continue };
        let chain = map.entry(number).or_default();
        // A call without conditions has no rules, and occurs once in its table.
        if !when.is_empty() {
            let conditions = when.iter().map(|one| condition(one, process));
            let conditions = conditions.collect::<Result<_, _>>().map_err(io::Error::other)?;
            chain.push(SeccompRule::new(conditions).map_err(io::Error::other)?);
        }
    }
    let filter = SeccompFilter::new(map, others, listed, *arch).map_err(io::Error::other)?;
    filter.try_into().map_err(io::Error::other)
}

fn condition(
    condition: &Condition,
    process: u64,
) -> Result<SeccompCondition, seccompiler::BackendError> {
    let (operator, value) = match condition.test {
        Test::Is(value) => (SeccompCmpOp::Eq, value.1),
        Test::Bits(all, some) => (SeccompCmpOp::MaskedEq(!union(some)), union(all)),
        Test::AtLeast(value) => (SeccompCmpOp::Ge, value.1),
        Test::Has(bit) => (SeccompCmpOp::MaskedEq(bit.1), bit.1),
        Test::Lacks(bit) => (SeccompCmpOp::MaskedEq(bit.1), 0),
        Test::IsThisProcess => (SeccompCmpOp::Eq, process),
        Test::IsOtherProcess => (SeccompCmpOp::Ne, process),
    };
    let len = if condition.wide { SeccompCmpArgLen::Qword } else { SeccompCmpArgLen::Dword };
    SeccompCondition::new(condition.position, len, operator, value)
}
