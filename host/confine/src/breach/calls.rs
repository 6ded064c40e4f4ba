//! The system calls that attempts have in common, without checks.
//!
//! `unsafe` is needed because attacks are raw system calls.

use std::ffi::{CString, c_int, c_long};
use std::ptr::null_mut;

use super::AttemptResult;

pub(super) fn result(returned: c_int) -> AttemptResult {
    match returned {
        -1 => Err(last_error()),
        _ => Ok(()),
    }
}

pub(super) fn last_error() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

pub(super) fn call(number: c_long, arguments: [c_long; 5]) -> Result<c_long, i32> {
    let [a, b, c, d, e] = arguments;
    // As wide as a register, or its upper half would be undefined.
    let f: c_long = 0;
    // SAFETY: the pointers that the attempts pass are valid for the call.
    match unsafe { libc::syscall(number, a, b, c, d, e, f) } {
        -1 => Err(last_error()),
        value => Ok(value),
    }
}

pub(super) fn open(path: &str, flags: c_int) -> AttemptResult {
    let path = CString::new(path).map_err(|_| libc::EINVAL)?;
    let folder = libc::AT_FDCWD.into();
    call(libc::SYS_openat, [folder, path.as_ptr() as c_long, flags.into(), 0o600, 0]).map(drop)
}

pub(super) fn socket(family: c_int, kind: c_int, protocol: c_int) -> Result<c_long, i32> {
    call(libc::SYS_socket, [family.into(), kind.into(), protocol.into(), 0, 0])
}

pub(super) fn bind<T>(socket: c_long, address: &T) -> AttemptResult {
    let len = size_of::<T>() as c_long;
    call(libc::SYS_bind, [socket, std::ptr::from_ref(address) as c_long, len, 0, 0]).map(drop)
}

pub(super) fn connect<T>(socket: c_long, address: &T) -> AttemptResult {
    let len = size_of::<T>() as c_long;
    call(libc::SYS_connect, [socket, std::ptr::from_ref(address) as c_long, len, 0, 0]).map(drop)
}

pub(super) fn address(port: u16) -> libc::sockaddr_in {
    // SAFETY: a zeroed address of this family is a valid one.
    let mut address: libc::sockaddr_in = unsafe { std::mem::zeroed() };
    address.sin_family = libc::AF_INET as u16;
    address.sin_port = port.to_be();
    address.sin_addr.s_addr = u32::from_be_bytes([127, 0, 0, 1]).to_be();
    address
}

pub(super) fn inet(kind: c_int, port: u16) -> AttemptResult {
    let socket = socket(libc::AF_INET, kind, 0)?;
    connect(socket, &address(port))?;
    call(libc::SYS_write, [socket, c"x".as_ptr() as c_long, 1, 0, 0]).map(drop)
}

pub(super) fn unix(name: &[u8]) -> AttemptResult {
    let socket = socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)?;
    // SAFETY: a zeroed address of this family is a valid one.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as u16;
    for (to, from) in address.sun_path.iter_mut().zip(name) {
        *to = *from as _;
    }
    let len = (2 + name.len()) as c_long;
    call(libc::SYS_connect, [socket, &raw const address as c_long, len, 0, 0]).map(drop)
}

pub(super) fn map(prot: c_int, file: c_int) -> Result<c_long, i32> {
    let flags = match file {
        -1 => libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        _ => libc::MAP_PRIVATE,
    };
    mapped(4096, prot, flags, file)
}

pub(super) fn map_large(len: usize) -> Result<c_long, i32> {
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    mapped(len, prot, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)
}

pub(super) fn mapped(len: usize, prot: c_int, flags: c_int, file: c_int) -> Result<c_long, i32> {
    // SAFETY: a new mapping at an address of the kernel's choice.
    let address = unsafe { libc::mmap(null_mut(), len, prot, flags, file, 0) };
    if address == libc::MAP_FAILED { Err(last_error()) } else { Ok(address as c_long) }
}
