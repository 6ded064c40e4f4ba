//! Checks the tables' numbers against the C library's for this architecture.

use seccompiler::TargetArch;

use super::super::calls::{Call, Test};
use super::super::denied::DENIED;
use super::super::filter::architecture;
use super::super::rules::{CLONE3, RULES};
use crate::role::Role;

macro_rules! known {
    ($($name:ident)*) => { [$((stringify!($name), libc::$name)),*] };
}

/// Calls that both architectures have.
const EVERYWHERE: &[(&str, libc::c_long)] = &known![
    SYS_mmap SYS_munmap SYS_mprotect SYS_mremap SYS_brk SYS_madvise SYS_clone SYS_clone3
    SYS_set_robust_list SYS_rseq SYS_rt_sigprocmask SYS_rt_sigaction SYS_sigaltstack SYS_prctl
    SYS_sched_getaffinity SYS_gettid SYS_getrandom SYS_futex SYS_sched_yield SYS_exit
    SYS_rt_sigreturn SYS_write SYS_getpid SYS_tgkill SYS_exit_group SYS_recvmsg SYS_sendmsg
    SYS_close SYS_fcntl SYS_fstat SYS_pread64 SYS_pwrite64 SYS_ioctl SYS_memfd_create SYS_ftruncate
    SYS_clock_gettime SYS_seccomp SYS_membarrier SYS_statx SYS_newfstatat SYS_getdents64 SYS_lseek
    SYS_pwritev2 SYS_utimensat SYS_fsync SYS_fdatasync SYS_recvfrom SYS_sendto SYS_shutdown
    SYS_ppoll
    SYS_pkey_mprotect SYS_shmat SYS_personality SYS_remap_file_pages SYS_execve SYS_execveat
    SYS_ptrace SYS_process_vm_readv SYS_process_vm_writev SYS_process_madvise SYS_pidfd_open
    SYS_pidfd_getfd SYS_pidfd_send_signal SYS_kill SYS_tkill SYS_rt_sigqueueinfo
    SYS_rt_tgsigqueueinfo SYS_prlimit64 SYS_socket SYS_socketpair SYS_connect SYS_bind SYS_openat
    SYS_openat2 SYS_open_by_handle_at SYS_open_tree SYS_truncate SYS_unlinkat SYS_renameat2
    SYS_linkat SYS_symlinkat SYS_mkdirat SYS_mknodat SYS_fchmodat SYS_fchownat SYS_setxattr
    SYS_lsetxattr SYS_removexattr SYS_lremovexattr SYS_mount SYS_umount2 SYS_pivot_root SYS_chroot
    SYS_move_mount SYS_fsopen SYS_fsconfig SYS_fsmount SYS_fspick SYS_mount_setattr SYS_unshare
    SYS_setns SYS_io_uring_setup SYS_io_uring_enter SYS_io_uring_register SYS_bpf SYS_keyctl
    SYS_add_key SYS_request_key SYS_perf_event_open SYS_userfaultfd SYS_init_module
    SYS_finit_module SYS_delete_module SYS_kexec_load SYS_kexec_file_load
];

#[cfg(target_arch = "x86_64")]
const HERE: &[(&str, libc::c_long)] = &known![
    SYS_open SYS_creat SYS_fork SYS_vfork SYS_uselib SYS_unlink SYS_rename SYS_renameat SYS_link
    SYS_symlink SYS_mkdir SYS_rmdir SYS_mknod SYS_chmod SYS_fchmodat2 SYS_chown SYS_lchown
    SYS_modify_ldt SYS_iopl SYS_ioperm
];

/// Calls that the kernel has on this architecture, but the C library's headers lack.
#[cfg(not(target_arch = "x86_64"))]
const HERE: &[(&str, libc::c_long)] = &[("SYS_renameat", 38), ("SYS_fchmodat2", 452)];

fn calls() -> impl Iterator<Item = Call> {
    let denied = DENIED.iter().flat_map(|denied| denied.calls).map(|(call, _)| *call);
    RULES.iter().map(|rule| rule.call).chain(denied).chain([CLONE3])
}

#[test]
fn numbers_are_those_of_the_c_library() {
    let arch = architecture().unwrap();
    for call in calls() {
        let Some(number) = call.number(arch) else { continue };
        let known = EVERYWHERE
            .iter()
            .chain(HERE)
            .find(|(name, _)| name.strip_prefix("SYS_") == Some(call.name));
        assert_eq!(known.map(|(_, number)| *number), Some(number), "{}", call.name);
    }
}

#[test]
fn every_rule_exists_on_both_architectures() {
    for rule in RULES {
        for arch in [TargetArch::x86_64, TargetArch::aarch64] {
            assert!(rule.call.number(arch).is_some(), "{}", rule.call.name);
        }
    }
}

#[test]
fn a_call_has_conditions_in_all_of_its_rules_or_in_none() {
    for role in Role::ALL {
        let rules: Vec<_> = RULES.iter().filter(|rule| rule.holds_for(role)).collect();
        for rule in &rules {
            let same = rules.iter().filter(|other| other.call == rule.call).count();
            assert!(same == 1 || !rule.when.is_empty(), "{} in {role:?}", rule.call.name);
        }
    }
    let denied: Vec<_> = DENIED.iter().flat_map(|denied| denied.calls).collect();
    for (call, _) in &denied {
        assert_eq!(denied.iter().filter(|(other, _)| other == call).count(), 1, "{}", call.name);
    }
}

#[test]
fn no_role_may_make_what_threads_are_denied() {
    // Temporary rules end before anything hostile runs, and grants exist only for programs, not for
    // sandboxes on threads.
    let granted = [Role::GrantedProgram];
    let rules = RULES.iter().filter(|rule| rule.until.is_none() && rule.roles != granted);
    for rule in rules {
        let denied = DENIED.iter().flat_map(|denied| denied.calls);
        let (_, when) = match denied.into_iter().find(|(call, _)| *call == rule.call) {
            Some(denied) => denied,
            None => continue,
        };
        // Both have conditions, and the role's condition excludes what is denied.
        for (ours, theirs) in rule.when.iter().zip(*when) {
            let excluded = match (ours.test, theirs.test) {
                (Test::Is(value), Test::Has(bit)) => value.1 & bit.1 == 0,
                (Test::Bits(all, some), Test::Has(bit)) => {
                    (super::super::calls::union(all) | super::super::calls::union(some)) & bit.1
                        == 0
                }
                (Test::Bits(all, _), Test::Lacks(bit)) => {
                    super::super::calls::union(all) & bit.1 != 0
                }
                (Test::IsThisProcess, Test::IsOtherProcess) => true,
                _ => false,
            };
            assert!(excluded && ours.position == theirs.position, "{}", rule.call.name);
        }
        assert!(!when.is_empty() && !rule.when.is_empty(), "{}", rule.call.name);
    }
}

#[test]
fn the_pagemap_scan_number_matches_the_size_of_its_argument() {
    let number = rustix::ioctl::opcode::read_write::<[u64; 12]>(b'f', 16);
    let rule = RULES.iter().find(|rule| rule.call.name == "ioctl").unwrap();
    assert!(matches!(rule.when[0].test, Test::Is(value) if value.1 == u64::from(number)));
}
