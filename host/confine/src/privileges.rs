//! Permanently drops the privileges of the user who started Belljar.

use std::io;

use rustix::process::{Gid, Uid};
use rustix::thread::{CapabilitiesSecureBits, CapabilitySet, CapabilitySets};

use super::namespaces::{NOBODY, has_one_user};
use super::spawn::Namespaces;

/// First of the user ids for root's workers, outside the ranges that systems assign. Each worker
/// gets its own id, so that it has no access to the others.
const FIRST_USER: u32 = 1_887_000_000;

/// Stops being the real root. In a user namespace uid 0 is already an ordinary user outside. If it
/// is the only user, as in some containers, there is no other user to switch to, and all that
/// remains of root are capabilities, which are dropped next. Returns whether this process is now
/// the only one of its user.
pub(super) fn leave_root(namespaces: Namespaces) -> io::Result<bool> {
    let ordinary = namespaces == Namespaces::WithUser || !rustix::process::geteuid().is_root();
    if ordinary || has_one_user() {
        return Ok(false);
    }
    rustix::thread::set_thread_groups(&[])?;
    // In a PID namespace every worker has pid 1, so the inode of its socket identifies it.
    let socket = rustix::fs::fstat(rustix::stdio::stdin())?.st_ino;
    let own = FIRST_USER + (socket % 100_000_000) as u32;
    // Inside a container, only few user ids may exist.
    become_user(own).map(|()| true).or_else(|_| become_user(NOBODY).map(|()| false))
}

fn become_user(id: u32) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    Ok(rustix::thread::set_thread_res_uid(uid, uid, uid)?)
}

/// Drops every capability, and every way to get one back.
pub(super) fn drop_all() -> io::Result<()> {
    for number in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << number);
        match rustix::thread::remove_capability_from_bounding_set(one) {
            Ok(()) => {}
            // Beyond the last capability of this kernel.
            Err(rustix::io::Errno::INVAL) => break,
            // A process that may not drop them has none, and no_new_privs keeps it so.
            Err(rustix::io::Errno::PERM) => break,
            Err(err) => return Err(err.into()),
        }
    }
    let locked = CapabilitiesSecureBits::NO_ROOT
        | CapabilitiesSecureBits::NO_ROOT_LOCKED
        | CapabilitiesSecureBits::NO_SETUID_FIXUP
        | CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED
        | CapabilitiesSecureBits::KEEP_CAPS_LOCKED
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED;
    match rustix::thread::set_capabilities_secure_bits(locked) {
        Ok(()) | Err(rustix::io::Errno::PERM) => {}
        Err(err) => return Err(err.into()),
    }
    rustix::thread::clear_ambient_capability_set()?;
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    rustix::thread::set_capabilities(None, sets)?;
    let left = rustix::thread::capabilities(None)?;
    match left.effective.is_empty() && left.permitted.is_empty() {
        true => Ok(()),
        false => Err(io::Error::other("the kernel did not drop all capabilities")),
    }
}
