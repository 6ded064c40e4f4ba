//! Removes the clock import from the guest module, and restores it for the profiling variant.
//!
//! The guest's sources import one function more than the guest that serves requests: `clock`, as
//! the last import. `cargo xtask guest` replaces it by an added first function of the same type
//! that does nothing ([`remove`]); the resulting module is the guest. The profiling variant is made
//! from it by the reverse change ([`restore`]). Every other function keeps its index, so the two
//! modules only differ in this import, and a memory snapshot prepared by one is valid for the
//! other.

use alloc::vec::Vec;
use core::fmt;

/// Module and name of the import.
pub const IMPORT: [&str; 2] = ["belljar", "clock"];

/// A reading of the clock, which the host writes to an address of the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Nanoseconds since the worker has started.
    pub nanoseconds: u64,
    /// Nanoseconds that native kernels took since the call of the guest began.
    pub kernel_nanoseconds: u64,
    /// Whole operators that native kernels computed since then.
    pub operators: u32,
    /// Tiles of matrix products that native kernels computed since then.
    pub tiles: u32,
    /// Number of the last operator ([`Kernel::number`](crate::kernel::Kernel::number)); 0 for none.
    pub last_operator: u32,
}

impl Reading {
    /// Bytes of a reading.
    pub const LEN: usize = 28;

    /// Encodes the fields in order, little-endian.
    pub fn encode(&self) -> [u8; Reading::LEN] {
        let mut bytes = [0; Reading::LEN];
        bytes[..8].copy_from_slice(&self.nanoseconds.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.kernel_nanoseconds.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.operators.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.tiles.to_le_bytes());
        bytes[24..].copy_from_slice(&self.last_operator.to_le_bytes());
        bytes
    }

    /// Decodes a reading.
    pub fn decode(bytes: &[u8; Reading::LEN]) -> Reading {
        let long = |at: usize| {
            let mut number = [0; 8];
            number.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(number)
        };
        let short = |at: usize| {
            let mut number = [0; 4];
            number.copy_from_slice(&bytes[at..at + 4]);
            u32::from_le_bytes(number)
        };
        Reading {
            nanoseconds: long(0),
            kernel_nanoseconds: long(8),
            operators: short(16),
            tiles: short(20),
            last_operator: short(24),
        }
    }
}

/// Why a module cannot be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotChanged(&'static str);

impl fmt::Display for NotChanged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl core::error::Error for NotChanged {}

fn refuse<T>(why: &'static str) -> Result<T, NotChanged> {
    Err(NotChanged(why))
}

const IMPORTS: u8 = 2;
const FUNCTIONS: u8 = 3;
const CODE: u8 = 10;

/// A function that does nothing: its length, no local variables, the end.
const NOTHING: [u8; 3] = [2, 0, 0x0b];

const INCOMPLETE: &str = "it lacks imports, functions or code";

/// Replaces the clock, which must be the last import, by a function that does nothing.
///
/// # Errors
/// When the module does not import the clock, or not last, or not as a function of one address.
pub fn remove(module: &[u8]) -> Result<Vec<u8>, NotChanged> {
    let mut kind = None;
    let changed = change(module, |section, body| {
        Ok(Some(match section {
            IMPORTS => {
                let (rest, found) = without_last_import(body)?;
                kind = Some(found);
                rest
            }
            FUNCTIONS => {
                let Some(kind) = kind else { return refuse("it has no imports before functions") };
                with_first(body, &leb(kind))?
            }
            CODE => with_first(body, &NOTHING)?,
            _ => return Ok(None),
        }))
    })?;
    match changed {
        (module, 3) => Ok(module),
        _ => refuse(INCOMPLETE),
    }
}

/// Replaces the function that [`remove`] has added by the import of the clock.
///
/// # Errors
/// When the first function of the module is not the one that does nothing.
pub fn restore(module: &[u8]) -> Result<Vec<u8>, NotChanged> {
    let Some(kind) = first_kind(module)? else { return refuse("it has no functions") };
    let changed = change(module, |section, body| {
        Ok(Some(match section {
            IMPORTS => {
                let mut reader = Bytes(body);
                let count = reader.leb()?;
                let mut longer = leb(count.saturating_add(1));
                longer.extend_from_slice(reader.0);
                for name in IMPORT {
                    longer.extend(leb(name.len() as u32));
                    longer.extend_from_slice(name.as_bytes());
                }
                longer.push(0); // A function.
                longer.extend(leb(kind));
                longer
            }
            FUNCTIONS => without_first(body, &leb(kind))?,
            CODE => without_first(body, &NOTHING)?,
            _ => return Ok(None),
        }))
    })?;
    match changed {
        (module, 3) => Ok(module),
        _ => refuse(INCOMPLETE),
    }
}

/// The new body of a section, if it changes.
type Changed = Result<Option<Vec<u8>>, NotChanged>;

/// Replaces the bodies of some sections of a module; also returns their number.
fn change(
    module: &[u8],
    mut body_of: impl FnMut(u8, &[u8]) -> Changed,
) -> Result<(Vec<u8>, usize), NotChanged> {
    let mut reader = Bytes(module);
    let mut count = 0;
    let mut changed = Vec::with_capacity(module.len() + 64);
    changed.extend_from_slice(reader.take(8)?);
    while !reader.0.is_empty() {
        let start = reader.0;
        let section = reader.byte()?;
        let len = reader.leb()? as usize;
        let body = reader.take(len)?;
        match body_of(section, body)? {
            Some(body) => {
                count += 1;
                changed.push(section);
                changed.extend(leb(body.len() as u32));
                changed.extend(body);
            }
            None => changed.extend_from_slice(&start[..start.len() - reader.0.len()]),
        }
    }
    Ok((changed, count))
}

/// Removes the last import, which must be the clock; also returns its type.
fn without_last_import(body: &[u8]) -> Result<(Vec<u8>, u32), NotChanged> {
    let mut reader = Bytes(body);
    let count = reader.leb()?;
    let imports = reader.0;
    let mut last = None;
    for _ in 0..count {
        let start = imports.len() - reader.0.len();
        let len = reader.leb()? as usize;
        let module = reader.take(len)?;
        let len = reader.leb()? as usize;
        let name = reader.take(len)?;
        if reader.byte()? != 0 {
            return refuse("it imports something that is not a function");
        }
        let clock = module == IMPORT[0].as_bytes() && name == IMPORT[1].as_bytes();
        last = Some((clock, start, reader.leb()?));
    }
    match last {
        Some((true, start, kind)) => {
            let mut rest = leb(count - 1);
            rest.extend_from_slice(&imports[..start]);
            Ok((rest, kind))
        }
        _ => refuse("its last import is not the clock"),
    }
}

/// The type of the module's first function.
fn first_kind(module: &[u8]) -> Result<Option<u32>, NotChanged> {
    let mut kind = None;
    change(module, |section, body| {
        if section == FUNCTIONS {
            let mut reader = Bytes(body);
            reader.leb()?;
            kind = Some(reader.leb()?);
        }
        Ok(None)
    })?;
    Ok(kind)
}

/// Adds an entry at the start of a list.
fn with_first(body: &[u8], entry: &[u8]) -> Result<Vec<u8>, NotChanged> {
    let mut reader = Bytes(body);
    let mut longer = leb(reader.leb()?.saturating_add(1));
    longer.extend_from_slice(entry);
    longer.extend_from_slice(reader.0);
    Ok(longer)
}

/// Removes the first entry of a list, which must be this one.
fn without_first(body: &[u8], entry: &[u8]) -> Result<Vec<u8>, NotChanged> {
    let mut reader = Bytes(body);
    let count = reader.leb()?;
    match (count.checked_sub(1), reader.0.strip_prefix(entry)) {
        (Some(count), Some(rest)) => {
            let mut shorter = leb(count);
            shorter.extend_from_slice(rest);
            Ok(shorter)
        }
        _ => refuse("its first function is not the one that stands for the clock"),
    }
}

/// Encodes a number in LEB128.
fn leb(mut value: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(5);
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], NotChanged> {
        let Some((taken, rest)) = self.0.split_at_checked(len) else {
            return refuse("it is cut off");
        };
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, NotChanged> {
        Ok(self.take(1)?[0])
    }

    fn leb(&mut self) -> Result<u32, NotChanged> {
        let mut value = 0_u64;
        for shift in (0..35).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                let value = u32::try_from(value);
                return value.or_else(|_| refuse("it has a number above 32 bits"));
            }
        }
        refuse("it has a number that is too long")
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;
    use alloc::vec;

    use super::*;

    fn section(number: u8, body: &[u8]) -> Vec<u8> {
        [&[number][..], &leb(body.len() as u32), body].concat()
    }

    fn import(module: &str, name: &str, kind: u8) -> Vec<u8> {
        let name_of = |text: &str| [&leb(text.len() as u32), text.as_bytes()].concat();
        [name_of(module), name_of(name), vec![0, kind]].concat()
    }

    /// A module with these imports and one function, which calls function 1.
    fn module(imports: &[Vec<u8>]) -> Vec<u8> {
        let imports = [leb(imports.len() as u32), imports.concat()].concat();
        [
            b"\0asm\x01\0\0\0".to_vec(),
            section(1, &[2, 0x60, 0, 0, 0x60, 1, 0x7f, 0]),
            section(IMPORTS, &imports),
            section(FUNCTIONS, &[1, 0]),
            section(CODE, &[1, 6, 0, 0x41, 0, 0x10, 1, 0x0b]),
        ]
        .concat()
    }

    #[test]
    fn restore_reverses_remove() {
        let whole = module(&[import("belljar", "log", 0), import("belljar", "clock", 1)]);
        let without = remove(&whole).unwrap();
        assert!(!without.windows(5).any(|bytes| bytes == b"clock"));
        assert_ne!(without, whole);
        assert_eq!(restore(&without).unwrap(), whole);
    }

    #[test]
    fn only_the_last_import_is_removed_and_only_if_it_is_the_clock() {
        let clock_first = module(&[import("belljar", "clock", 1), import("belljar", "log", 0)]);
        for refused in [clock_first, module(&[import("other", "clock", 1)]), module(&[])] {
            assert!(remove(&refused).unwrap_err().to_string().contains("last import"));
        }
        assert!(remove(b"\0asm\x01\0\0\0").is_err());
    }

    #[test]
    fn restore_refuses_a_module_without_the_added_function() {
        let never = module(&[import("belljar", "log", 0)]);
        assert!(restore(&never).unwrap_err().to_string().contains("stands for the clock"));
        assert!(restore(b"\0asm\x01\0\0\0").is_err());
    }

    #[test]
    fn truncated_modules_are_refused() {
        let whole = module(&[import("belljar", "log", 0), import("belljar", "clock", 1)]);
        let without = remove(&whole).unwrap();
        for (bytes, change) in [(&whole, remove as fn(&[u8]) -> _), (&without, restore)] {
            let shorter = (0..bytes.len()).filter(|len| change(&bytes[..*len]).is_ok()).count();
            assert_eq!(shorter, 0);
        }
    }

    #[test]
    fn reading_round_trips() {
        let reading = Reading {
            nanoseconds: 1 << 40,
            kernel_nanoseconds: 7,
            operators: 3,
            tiles: 2,
            last_operator: 6,
        };
        assert_eq!(Reading::decode(&reading.encode()), reading);
    }
}
