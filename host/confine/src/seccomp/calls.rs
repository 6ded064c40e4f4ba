//! The types of the filter tables: system calls with their numbers, and conditions on arguments.

use seccompiler::TargetArch;

/// A system call, with its number on each architecture that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) name: &'static str,
    x86_64: Option<i64>,
    aarch64: Option<i64>,
}

impl Call {
    /// The numbers are those of Linux's `syscall_64.tbl` and `asm-generic/unistd.h`.
    pub(super) const fn new(name: &'static str, x86_64: i64, aarch64: i64) -> Call {
        Call { name, x86_64: Some(x86_64), aarch64: Some(aarch64) }
    }

    /// A call that only x86-64 has; other architectures only have its newer replacement.
    pub(super) const fn x86_64(name: &'static str, number: i64) -> Call {
        Call { name, x86_64: Some(number), aarch64: None }
    }

    pub(super) fn number(self, arch: TargetArch) -> Option<i64> {
        match arch {
            TargetArch::x86_64 => self.x86_64,
            TargetArch::aarch64 => self.aarch64,
            TargetArch::riscv64 => None,
        }
    }
}

/// What an argument must be for a rule to apply.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Condition {
    /// The argument's index, from 0.
    pub(super) position: u8,
    /// Its name in the manual page.
    pub(super) name: &'static str,
    /// Whether the kernel uses all 64 bits of it, or only the lower 32.
    pub(super) wide: bool,
    pub(super) test: Test,
}

/// A number with the name that C gives it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Value(pub &'static str, pub u64);

/// The check of a condition.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Test {
    /// It is exactly this number.
    Is(Value),
    /// All of the first bits are set; of the others, only the second ones may be set.
    Bits(&'static [Value], &'static [Value]),
    /// It is this number or greater.
    AtLeast(Value),
    /// This bit is set, whatever the others are.
    Has(Value),
    /// This bit is not set, whatever the others are.
    Lacks(Value),
    /// It is this process's pid.
    IsThisProcess,
    /// It is not this process's pid.
    IsOtherProcess,
}

/// A condition on an argument of which the kernel uses 32 bits.
pub(super) const fn int(position: u8, name: &'static str, test: Test) -> Condition {
    Condition { position, name, wide: false, test }
}

/// A condition on an argument of which the kernel uses 64 bits.
pub(crate) const fn long(position: u8, name: &'static str, test: Test) -> Condition {
    Condition { position, name, wide: true, test }
}

/// The union of the bits of several values.
pub(super) fn union(values: &[Value]) -> u64 {
    values.iter().fold(0, |all, value| all | value.1)
}
