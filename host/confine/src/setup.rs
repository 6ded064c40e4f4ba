//! Confines a worker before it gets a model: applies the layers in an order in which no layer
//! forbids what a later one needs.
//!
//! Namespaces come first, because an empty root needs privileges that are dropped next; seccomp
//! comes last, because it forbids nearly everything that happens here. Descriptors that the worker
//! needs later are opened before. It must have only one thread until the end: Landlock and
//! capabilities apply to a single thread.

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

/// How a worker must confine itself, as sent by its supervisor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    pub role: Role,
    pub confinement: Confinement,
    /// The namespaces it was started in.
    pub namespaces: Namespaces,
    /// Why it was started in none, if so.
    pub no_namespaces: Option<String>,
    pub limits: ProcessLimits,
    /// The layers to apply: all of them, except in tests of single layers.
    #[cfg(feature = "test-hooks")]
    pub layers: Vec<Layer>,
    /// Faults to inject, in tests.
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

    /// Removes the calls that the role may make only before it handles untrusted data.
    /// Call it when all threads of the process have been started. Without a filter it does nothing.
    pub fn narrow(&self) -> io::Result<()> {
        if FILTERED.load(Ordering::Relaxed) { seccomp::narrow(self.role) } else { Ok(()) }
    }
}

/// The kernel's limits on a worker.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct ProcessLimits {
    /// Writable private memory, in bytes. This does not limit the address space, of which
    /// WebAssembly reserves much more than it uses.
    pub data: u64,
    /// Additional address space, in bytes: reservations for sandboxes, and memory files. This
    /// bounds the kernel's own memory for the process's page tables.
    pub reserved: u64,
    /// Length of a memory file that it writes, in bytes.
    pub file: u64,
    /// Seconds of processor time, the sum of all its threads.
    pub cpu: u64,
    /// Threads, including the first.
    pub threads: u64,
    /// Descriptors of its grants, in addition to its own.
    pub handles: u64,
}

/// A file or folder that a policy grants to the worker, already open.
#[cfg_attr(not(feature = "programs"), allow(dead_code, reason = "without guest programs"))]
#[derive(Clone, Copy)]
pub struct Granted<'a> {
    pub descriptor: BorrowedFd<'a>,
    /// Whether it may be changed as well as read.
    pub write: bool,
}

/// Whether the filter of this process's role is installed.
static FILTERED: AtomicBool = AtomicBool::new(false);

/// Descriptors that a worker may have open at once.
const DESCRIPTORS: u64 = 32;

/// Stack of a worker's first thread, in bytes. The kernel grows it automatically, and counts it
/// against no other limit.
const FIRST_STACK: u64 = 8 << 20;

/// Address space in addition to the limits, in bytes: guard pages, and the rounding of allocators.
const MARGIN: u64 = 256 << 20;

/// Applies all layers, and returns those that are missing. After this the process can start the
/// threads of its role, and do little else.
///
/// # Errors
/// A missing layer that is required. The worker must end then.
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
    // The kernel counts processes per user, both in this namespace and on the whole machine.
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
    // Landlock and seccomp require it too.
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

/// Makes the kernel kill this process when its supervisor ends. Changing the user or its
/// capabilities resets this.
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
    let pages = pages.ok_or_else(|| io::Error::other("cannot parse /proc/self/statm"))?;
    Ok(pages.saturating_mul(rustix::param::page_size() as u64))
}

/// Sets the limits of a process with `mapped` bytes of address space. `counted_alone` means that
/// its user has no other processes, which the kernel would count too.
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
    // Otherwise only the narrower filter bounds the threads: it allows no new ones.
    if counted_alone {
        all.push((Resource::Nproc, limits.threads));
    }
    for (resource, limit) in all {
        // Never raises a lower limit.
        let before = rustix::process::getrlimit(resource).maximum.unwrap_or(u64::MAX);
        let limit = Some(limit.min(before));
        rustix::process::setrlimit(resource, Rlimit { current: limit, maximum: limit })?;
    }
    Ok(())
}
