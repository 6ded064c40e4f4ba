//! The role that compiles: its rules let the guest be compiled and the code be handed over, and
//! each of them is needed for that, or for a fault.

use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::sync::Mutex;

use super::super::filter::{install, install_without};
use super::super::rules;
use super::{process, task};
use crate::confine::channel::Channel;
use crate::confine::memory::SealedWriter;
use crate::confine::role::Role;
use crate::sandbox::{Engines, Variant, guest_code};

/// The process that compiles, with all rules or without one, and how it ends.
#[test]
fn compiling() {
    let Some(task) = task() else { return };
    let (end, without) = task.split_once(' ').unwrap();
    let (mut supervisor, there) = Channel::pair().unwrap();
    let mut here = Channel::new(there);
    supervisor.send(&"compile", &[]).unwrap();
    let engine = Engines::new_engine(Variant::default(), 1 << 20).unwrap();
    // Whoever asks for their number reads files.
    let threads = std::thread::available_parallelism().unwrap().get();
    rustix::thread::set_no_new_privs(true).unwrap();
    match without.parse() {
        Ok(rule) => install_without(Role::Compile, rule).unwrap(),
        Err(_) => install(Role::Compile).unwrap(),
    }
    match end {
        "Abort" => std::process::abort(),
        // SAFETY: nothing is ever mapped there, so the process ends here.
        "Crash" => unsafe { std::ptr::without_provenance_mut::<u64>(64).write_volatile(0) },
        "Panic" => {
            let panicked = std::thread::spawn(|| panic!("a test asked for it")).join();
            assert!(panicked.is_err());
        }
        _ => {
            here.receive::<String>(None).unwrap();
            hand_over(&mut here, b"something short, before that takes long");
            rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().unwrap();
            hand_over(&mut here, &engine.precompile_module(guest_code()).unwrap());
        }
    }
    // SAFETY: ends the process; nothing runs afterwards.
    unsafe { libc::_exit(0) }
}

fn hand_over(channel: &mut Channel, code: &[u8]) {
    let mut writer = SealedWriter::new("test").unwrap();
    writer.write(code).unwrap();
    channel.send(&code.len(), &[writer.seal_for_handover().unwrap().as_fd()]).unwrap();
}

fn ended(end: &str, without: &str) -> std::process::ExitStatus {
    process("compile::compiling", &format!("{end} {without}")).status
}

#[test]
fn the_guest_is_compiled_inside_the_filter() {
    assert_eq!(ended("Work", "none").code(), Some(0));
    assert_eq!(ended("Panic", "none").code(), Some(0));
    assert_eq!(ended("Abort", "none").signal(), Some(libc::SIGABRT));
    assert_eq!(ended("Crash", "none").signal(), Some(libc::SIGSEGV));
}

#[test]
fn every_rule_is_needed_for_compiling() {
    let waiting: Mutex<Vec<_>> = Mutex::new(rules::of(Role::Compile).enumerate().collect());
    let needless = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let Some((number, rule)) = waiting.lock().unwrap().pop() else { return };
                    let needed = ["Panic", "Abort", "Crash", "Work"]
                        .iter()
                        .any(|end| ended(end, &number.to_string()).signal() == Some(libc::SIGSYS));
                    match (needed, rule.sometimes) {
                        (true, _) => {}
                        (false, Some(when)) => println!("not here: {}: {when}", rule.call.name),
                        (false, None) => needless.lock().unwrap().push(rule),
                    }
                }
            });
        }
    });
    let needless = needless.into_inner().unwrap();
    assert!(needless.is_empty(), "{needless:#?}");
}
