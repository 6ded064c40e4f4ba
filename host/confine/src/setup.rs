//! What a worker does to itself before it gets a model: layer after layer, in an order in which
//! none forbids what a later one needs.
//!
//! Namespaces come first, as an empty root takes rights that are given up next; seccomp comes last,
//! as it forbids nearly everything that is done here. What a worker needs and could not open any
//! more is opened before. It has one thread until the end: Landlock and capabilities are a
//! thread's own.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, Dir, Mode, OFlags};
use rustix::process::{DumpableBehavior, Resource, Rlimit, Signal};
use serde::{Deserialize, Serialize};

#[cfg(feature = "test-hooks")]
use super::fault_injection::Injection;
use super::layers::{Confinement, Layer, MissingLayer};
use super::role::Role;
use super::spawn::Namespaces;
use super::{heap, landlock, namespaces, privileges, seccomp, ways};

/// What a worker is to become; from its supervisor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    pub role: Role,
    pub confinement: Confinement,
    /// The namespaces it was started in.
    pub namespaces: Namespaces,
    /// Why it was started in none, if so.
    pub no_namespaces: Option<String>,
    pub limits: ProcessLimits,
    /// The layers to put on: all of them, but in tests that look at single ones.
    #[cfg(feature = "test-hooks")]
    pub layers: Vec<Layer>,
    /// What else is different about it, in tests.
    #[cfg(feature = "test-hooks")]
    pub injection: Option<Injection>,
}

impl Plan {
    #[cfg(not(feature = "test-hooks"))]
    fn wants(&self, _: Layer) -> bool {
        true
    }

    #[cfg(feature = "test-hooks")]
    fn wants(&self, layer: Layer) -> bool {
        self.layers.contains(&layer)
    }

    #[cfg(not(feature = "test-hooks"))]
    fn filter(&self) -> io::Result<()> {
        seccomp::install(self.role)
    }

    #[cfg(feature = "test-hooks")]
    fn filter(&self) -> io::Result<()> {
        self.injection.as_ref().map_or_else(|| seccomp::install(self.role), Injection::install)
    }

    /// Takes away what the role could do only until the hostile part of its work begins. To be called
    /// when all threads of the process have been started. Where there is no filter, there is nothing to
    /// take away.
    pub fn narrow(&self) -> io::Result<()> {
        if FILTERED.load(Ordering::Relaxed) { seccomp::narrow(self.role) } else { Ok(()) }
    }
}

/// Limits of the kernel on a worker.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct ProcessLimits {
    /// Private memory that it can write to, in bytes. Not the address space: WebAssembly reserves
    /// much more of that than it uses.
    pub data: u64,
    /// Address space beyond that, in bytes: what is reserved for sandboxes, and files in memory. It
    /// bounds what the kernel keeps about a process's memory.
    pub reserved: u64,
    /// Length of a memory file that it writes, in bytes.
    pub file: u64,
    /// Seconds of processor time, of all its threads together.
    pub cpu: u64,
    /// Threads, the first among them.
    pub threads: u64,
    /// Descriptors of what it is granted, beside its own.
    pub handles: u64,
}

/// A file or folder that a policy grants to the worker, which holds it already.
#[cfg_attr(not(feature = "programs"), allow(dead_code, reason = "without guest programs"))]
#[derive(Clone, Copy)]
pub struct Granted<'a> {
    pub descriptor: BorrowedFd<'a>,
    /// Whether it may be changed, and not only read.
    pub write: bool,
}

/// Whether this process is under the filter of its role.
static FILTERED: AtomicBool = AtomicBool::new(false);

/// Descriptors that a worker may have open at once.
const DESCRIPTORS: u64 = 32;

/// Stack of a worker's first thread, in bytes: the kernel lets it grow by itself, and counts it
/// against no other limit.
const FIRST_STACK: u64 = 8 << 20;

/// Address space beside what the limits speak of, in bytes: guard pages, and what the allocators
/// round up.
const MARGIN: u64 = 256 << 20;

/// Puts on all layers, and answers those that are not there. After this the process can start
/// threads of its role, and hardly anything else.
///
/// # Errors
/// The layer that a strict worker lacks. It must end then.
pub fn confine(plan: &Plan, granted: &[Granted<'_>]) -> Result<Vec<MissingLayer>, MissingLayer> {
    heap::keep_one();
    let mut missing = Vec::new();
    let mut judge = |layer: Layer, result: io::Result<()>| match result {
        Ok(()) => Ok(()),
        Err(err) => {
            let lacks = MissingLayer::new(layer, err);
            plan.confinement.accept(std::slice::from_ref(&lacks))?;
            missing.push(lacks);
            Ok(())
        }
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let proc_self = rustix::fs::openat(CWD, "/proc/self", flags, Mode::empty())
        .map_err(|err| MissingLayer::new(Layer::Privileges, format!("/proc/self: {err}")))?;
    only_one_thread(&proc_self).map_err(|err| MissingLayer::new(Layer::Privileges, err))?;
    let mapped = address_space(&proc_self);
    let mapped = mapped.map_err(|err| MissingLayer::new(Layer::ResourceLimits, err))?;

    if plan.wants(Layer::Namespaces) {
        let inside = match (plan.namespaces, &plan.no_namespaces) {
            (Namespaces::None, why) => {
                Err(io::Error::other(why.clone().unwrap_or_else(|| "not asked for".into())))
            }
            _ => namespaces::empty_root(granted),
        };
        judge(Layer::Namespaces, inside)?;
    }
    // The kernel counts the processes of a user, in this namespace and on the whole machine.
    let mut counted_alone = plan.namespaces != Namespaces::None;
    if plan.wants(Layer::Privileges) {
        let left = privileges::leave_root(plan.namespaces);
        counted_alone |= matches!(left, Ok(true));
        judge(Layer::Privileges, left.map(drop))?;
    }
    if plan.wants(Layer::Namespaces) && plan.namespaces != Namespaces::None {
        judge(Layer::Namespaces, namespaces::own_users(&proc_self))?;
    }
    drop(proc_self);
    if plan.wants(Layer::ResourceLimits) {
        judge(Layer::ResourceLimits, limit_resources(plan, mapped, counted_alone))?;
    }
    if plan.wants(Layer::Privileges) {
        judge(Layer::Privileges, privileges::drop_all())?;
        let hidden = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
        judge(Layer::Privileges, hidden.map_err(io::Error::from))?;
    }
    judge(Layer::Privileges, die_with_supervisor())?;
    // Landlock and seccomp ask for it too.
    let none_new = rustix::thread::set_no_new_privs(true).map_err(io::Error::from);
    judge(Layer::Privileges, none_new)?;
    if plan.wants(Layer::Landlock) {
        judge(Layer::Landlock, landlock::grant(granted))?;
    }
    if plan.wants(Layer::Seccomp) {
        if plan.role == Role::GrantedProgram {
            judge(Layer::Seccomp, ways::pin())?;
        }
        let filtered = plan.filter();
        FILTERED.store(filtered.is_ok(), Ordering::Relaxed);
        judge(Layer::Seccomp, filtered)?;
    }
    Ok(missing)
}

/// Has the kernel end this process when its supervisor ends. Changing the user or its rights takes
/// that back.
pub(super) fn die_with_supervisor() -> io::Result<()> {
    Ok(rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?)
}

fn only_one_thread(proc_self: &impl std::os::fd::AsFd) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let task = rustix::fs::openat(proc_self, "task", flags, Mode::empty())?;
    let mut threads = 0;
    for entry in Dir::new(task)? {
        threads += usize::from(!entry?.file_name().to_bytes().starts_with(b"."));
    }
    match threads {
        1 => Ok(()),
        many => Err(io::Error::other(format!(
            "the worker has {many} threads before it is confined; call \
             `belljar::become_worker_if_asked` first thing in `main`"
        ))),
    }
}

/// The address space of this process, in bytes.
fn address_space(proc_self: &impl std::os::fd::AsFd) -> io::Result<u64> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(proc_self, "statm", flags, Mode::empty())?;
    let mut text = [0; 256];
    let len = rustix::io::read(&file, &mut text)?;
    let pages = std::str::from_utf8(text.get(..len).unwrap_or_default()).ok();
    let pages = pages.and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
    let pages = pages.ok_or_else(|| io::Error::other("/proc/self/statm does not say its size"))?;
    Ok(pages.saturating_mul(rustix::param::page_size() as u64))
}

/// Sets the limits of a process that has so many bytes mapped, and whose user has other processes
/// that the kernel would count too, or not.
fn limit_resources(plan: &Plan, mapped: u64, counted_alone: bool) -> io::Result<()> {
    let limits = &plan.limits;
    let address_space = [limits.data, limits.reserved, FIRST_STACK, MARGIN];
    let mut all = vec![
        (Resource::Data, limits.data),
        (Resource::As, address_space.into_iter().fold(mapped, u64::saturating_add)),
        (Resource::Stack, FIRST_STACK),
        (Resource::Fsize, limits.file),
        (Resource::Cpu, limits.cpu),
        (Resource::Nofile, DESCRIPTORS.saturating_add(limits.handles)),
        (Resource::Core, 0),
        (Resource::Memlock, 0),
        (Resource::Msgqueue, 0),
        (Resource::Rtprio, 0),
        (Resource::Nice, 0),
    ];
    // Elsewhere the narrower filter alone bounds the threads: none is started under it.
    if counted_alone {
        all.push((Resource::Nproc, limits.threads));
    }
    for (resource, most) in all {
        // What was lower stays so.
        let before = rustix::process::getrlimit(resource).maximum.unwrap_or(u64::MAX);
        let most = Some(most.min(before));
        rustix::process::setrlimit(resource, Rlimit { current: most, maximum: most })?;
    }
    Ok(())
}
