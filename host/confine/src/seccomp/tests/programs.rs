//! Checks the verdicts of the BPF programs for both architectures, with an interpreter of the few
//! instructions that they use.

use seccompiler::{BpfProgram, TargetArch};

use super::super::calls::{Call, Condition, Test, union};
use super::super::denied::DENIED;
use super::super::filter::{allow_list, deny_list};
use super::super::rules::{self, CLONE3};
use crate::role::Role;

/// The architectures' numbers in Linux's `audit.h`.
const ARCHITECTURES: [(TargetArch, u32); 2] =
    [(TargetArch::x86_64, 0xc000_003e), (TargetArch::aarch64, 0xc000_00b7)];
const I386: u32 = 0x4000_0003;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;
const MISSING: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
const REFUSED: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;

const PROCESS: u64 = 4711;

#[derive(Clone, Copy)]
struct Data {
    number: u32,
    arch: u32,
    arguments: [u64; 6],
}

impl Data {
    /// A word of `struct seccomp_data`.
    fn word(self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.arch,
            16.. => {
                let argument = self.arguments[(offset as usize - 16) / 8];
                (if offset % 8 == 4 { argument >> 32 } else { argument }) as u32
            }
            _ => panic!("unexpected load from offset {offset}"),
        }
    }
}

/// The answer of one program.
fn answer(program: &BpfProgram, data: Data) -> u32 {
    let (mut at, mut accumulator) = (0, 0);
    loop {
        let instruction = &program[at];
        let k = instruction.k;
        at += 1;
        let mut jump = |to| at += usize::from(if to { instruction.jt } else { instruction.jf });
        match u32::from(instruction.code) {
            0x20 => accumulator = data.word(k),
            0x54 => accumulator &= k,
            0x05 => at += k as usize,
            0x15 => jump(accumulator == k),
            0x25 => jump(accumulator > k),
            0x35 => jump(accumulator >= k),
            0x06 => return k,
            code => panic!("unexpected instruction {code:#x}"),
        }
    }
}

/// The answer of several programs: the strictest, which here is the lowest except for killing.
fn verdict(programs: &[BpfProgram], data: Data) -> u32 {
    let answers = programs.iter().map(|program| answer(program, data));
    answers.min_by_key(|answer| (*answer as i32) & (libc::SECCOMP_RET_ACTION_FULL as i32)).unwrap()
}

/// Arguments that meet conditions.
fn meeting(when: &[Condition]) -> [u64; 6] {
    let mut arguments = [0; 6];
    for condition in when {
        arguments[usize::from(condition.position)] = match condition.test {
            Test::Is(value) => value.1,
            Test::Bits(all, some) => union(all) | some.first().map_or(0, |bit| bit.1),
            Test::AtLeast(value) => value.1 + 1,
            Test::Has(bit) => bit.1,
            Test::Lacks(bit) => !bit.1,
            Test::IsThisProcess => PROCESS,
            Test::IsOtherProcess => PROCESS + 1,
        };
    }
    arguments
}

/// Arguments that just fail a condition.
fn failing(condition: &Condition) -> Vec<u64> {
    let mut values = match condition.test {
        Test::Is(value) => vec![value.1 ^ 1, value.1 ^ (1 << 31), !value.1],
        Test::Bits(all, some) => {
            let missing = all.iter().map(|bit| union(all) & !bit.1);
            let foreign = (0..32).map(|bit| 1 << bit).filter(|bit| bit & union(some) == 0);
            let foreign = foreign.filter(|bit| bit & union(all) == 0);
            let foreign: Vec<u64> = foreign.map(|bit| union(all) | bit).collect();
            missing.filter(|value| *value != union(all)).chain(foreign).collect()
        }
        Test::AtLeast(value) => vec![0, value.1 - 1],
        Test::Has(bit) => vec![0, !bit.1],
        Test::Lacks(bit) => vec![bit.1, u64::MAX],
        Test::IsThisProcess => vec![0, 1, PROCESS + 1, u64::MAX, PROCESS ^ (1 << 31)],
        Test::IsOtherProcess => vec![PROCESS],
    };
    if condition.wide {
        let met = meeting(std::slice::from_ref(condition))[usize::from(condition.position)];
        if !matches!(condition.test, Test::AtLeast(_) | Test::Has(_) | Test::Lacks(_)) {
            values.push(met | 1 << 40);
        }
    }
    values
}

fn data(call: Call, (arch, audit): &(TargetArch, u32), arguments: [u64; 6]) -> Option<Data> {
    let number = call.number(*arch)?;
    Some(Data { number: number as u32, arch: *audit, arguments })
}

#[test]
fn only_listed_calls_are_allowed() {
    for role in Role::ALL {
        for arch in &ARCHITECTURES {
            let programs = allow_list(rules::of(role), arch.0, PROCESS).unwrap();
            let listed: Vec<_> =
                rules::of(role).filter_map(|rule| rule.call.number(arch.0)).collect();
            for number in (0..1024).chain([u32::MAX, 1 << 31]) {
                let data = Data { number, arch: arch.1, arguments: [0; 6] };
                let answer = verdict(&programs, data);
                if i64::from(number) == CLONE3.number(arch.0).unwrap() {
                    assert_eq!(answer, MISSING);
                } else if !listed.contains(&i64::from(number)) {
                    assert_eq!(answer, KILL, "{number} in {role:?}");
                }
                // The same number of the x32 ABI, and of other architectures.
                let x32 = Data { number: number | 1 << 30, ..data };
                assert_eq!(verdict(&programs, x32), KILL, "{number} in {role:?}");
                for other in ARCHITECTURES.map(|arch| arch.1).into_iter().chain([I386, 0]) {
                    if other != arch.1 {
                        assert_eq!(verdict(&programs, Data { arch: other, ..data }), KILL);
                    }
                }
            }
        }
    }
}

#[test]
fn conditions_on_arguments_are_enforced() {
    for role in Role::ALL {
        for arch in &ARCHITECTURES {
            let programs = allow_list(rules::of(role), arch.0, PROCESS).unwrap();
            for rule in rules::of(role) {
                let met = data(rule.call, arch, meeting(rule.when)).unwrap();
                assert_eq!(verdict(&programs, met), ALLOW, "{} in {role:?}", rule.call.name);
                for condition in rule.when {
                    for value in failing(condition) {
                        let mut failed = met;
                        failed.arguments[usize::from(condition.position)] = value;
                        // Another rule of the same call may allow it.
                        let other = rules::of(role).any(|other| {
                            other.call == rule.call
                                && !std::ptr::eq(other, rule)
                                && other.when.iter().all(|condition| holds(condition, &failed))
                        });
                        let expected = if other { ALLOW } else { KILL };
                        let answer = verdict(&programs, failed);
                        assert_eq!(answer, expected, "{} {value:#x}", rule.call.name);
                    }
                }
            }
        }
    }
}

/// An independent implementation of conditions.
fn holds(condition: &Condition, data: &Data) -> bool {
    let value = data.arguments[usize::from(condition.position)];
    let value = if condition.wide { value } else { value & u64::from(u32::MAX) };
    match condition.test {
        Test::Is(expected) => value == expected.1,
        Test::Bits(all, some) => value & !union(some) == union(all),
        Test::AtLeast(least) => value >= least.1,
        Test::Has(bit) => value & bit.1 != 0,
        Test::Lacks(bit) => value & bit.1 == 0,
        Test::IsThisProcess => value == PROCESS,
        Test::IsOtherProcess => value != PROCESS,
    }
}

#[test]
fn only_denied_calls_are_refused() {
    for arch in &ARCHITECTURES {
        let programs = deny_list(arch.0, PROCESS).unwrap();
        let denied: Vec<_> = DENIED.iter().flat_map(|denied| denied.calls).collect();
        for (call, when) in &denied {
            let Some(met) = data(*call, arch, meeting(when)) else { continue };
            assert_eq!(verdict(&programs, met), REFUSED, "{}", call.name);
            for condition in *when {
                for value in failing(condition) {
                    let mut failed = met;
                    failed.arguments[usize::from(condition.position)] = value;
                    if !holds(condition, &failed) {
                        assert_eq!(verdict(&programs, failed), ALLOW, "{}", call.name);
                    }
                }
            }
            if arch.0 == TargetArch::x86_64 {
                let x32 = Data { number: met.number | 1 << 30, ..met };
                assert_eq!(verdict(&programs, x32), REFUSED, "{}", call.name);
            }
            assert_eq!(verdict(&programs, Data { arch: I386, ..met }), KILL, "{}", call.name);
        }
        for number in 0..600 {
            let listed = denied.iter().any(|(call, _)| call.number(arch.0) == Some(number));
            let data = Data { number: number as u32, arch: arch.1, arguments: [0; 6] };
            if Some(number) == CLONE3.number(arch.0) {
                assert_eq!(verdict(&programs, data), MISSING);
            } else if !listed {
                assert_eq!(verdict(&programs, data), ALLOW, "{number}");
            }
        }
    }
}
