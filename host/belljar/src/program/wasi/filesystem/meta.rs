//! The metadata of a file that a program can read: its type, its size and, with clocks, its times.
//! It must not learn the host's inode, device, link count or owner.

use rustix::fs::{Stat, fstat};
use wasmtime_wasi::p2::bindings::clocks::wall_clock::Datetime;
use wasmtime_wasi::p2::bindings::sync::filesystem::types::{
    DescriptorStat, DescriptorType, MetadataHashValue,
};

use super::path::GuestPath;
use super::refusal::{Code, Fail};
use super::resolve::{Found, StrictDir as _};
use super::{Files, Granted, Kind, Node};

/// Maximum number of files with a number in one run, because each uses memory.
const MAX_NUMBERS: usize = 65_536;

/// The device number of gathered folders, which no real device has.
const GATHERED: (u64, u64) = (u64::MAX, u64::MAX);

impl Files {
    pub(super) fn stat(&self, node: &Node, clocks: bool) -> Result<DescriptorStat, Fail> {
        Ok(match &node.kind {
            Kind::File(open) => answer(&fstat(&open.fd)?, Found::File, clocks),
            Kind::Folder(open) => answer(&fstat(&open.fd)?, Found::Folder, clocks),
            Kind::Gathered => only_here(),
        })
    }

    pub(super) fn stat_at(
        &self,
        base: &Node,
        path: &str,
        clocks: bool,
    ) -> Result<DescriptorStat, Fail> {
        Ok(match self.look(base, path)? {
            Some((stat, found)) => answer(&stat, found, clocks),
            None => only_here(),
        })
    }

    /// A number for a file that stays the same during the run. It is not one of the host's numbers.
    pub(super) fn number(&mut self, node: &Node) -> Result<MetadataHashValue, Fail> {
        let key = match &node.kind {
            Kind::File(open) => key(&fstat(&open.fd)?),
            Kind::Folder(open) => key(&fstat(&open.fd)?),
            Kind::Gathered => GATHERED,
        };
        self.numbered(key)
    }

    pub(super) fn number_at(&mut self, base: &Node, path: &str) -> Result<MetadataHashValue, Fail> {
        let key = self.look(base, path)?.map_or(GATHERED, |(stat, _)| key(&stat));
        self.numbered(key)
    }

    pub(super) fn same(&self, a: &Node, b: &Node) -> bool {
        let key = |node: &Node| match &node.kind {
            Kind::File(open) => fstat(&open.fd).ok().map(|stat| key(&stat)),
            Kind::Folder(open) => fstat(&open.fd).ok().map(|stat| key(&stat)),
            Kind::Gathered => None,
        };
        match (key(a), key(b)) {
            (Some(a), Some(b)) => a == b,
            (None, None) => a.place == b.place,
            _ => false,
        }
    }

    fn look(&self, base: &Node, path: &str) -> Result<Option<(Stat, Found)>, Fail> {
        let path = GuestPath::parse(path)?;
        let (stat, found) = match &base.kind {
            Kind::Folder(open) => {
                let (_, stat, found) = open.fd.look(path.plain())?;
                (stat, found)
            }
            Kind::File(_) => return Err(Fail::Failed(Code::NotDirectory)),
            Kind::Gathered => {
                let Some((folder, name)) = path.split() else { return Ok(None) };
                let found = self.gathered(&base.place).find(|(_, found)| *found == name);
                let grant = found.and_then(|(at, _)| self.grants.get(at));
                match grant.map(|grant| &grant.open) {
                    Some(Granted::File(open)) if folder == "." => (fstat(&open.fd)?, Found::File),
                    _ => return Err(Fail::Failed(Code::NoEntry)),
                }
            }
        };
        match found {
            Found::File if path.is_folder() => Err(Fail::Failed(Code::NotDirectory)),
            _ => Ok(Some((stat, found))),
        }
    }

    fn numbered(&mut self, key: (u64, u64)) -> Result<MetadataHashValue, Fail> {
        let next = self.numbers.len();
        let number = match self.numbers.get(&key) {
            Some(number) => *number,
            None if next >= MAX_NUMBERS => return Err(Fail::Failed(Code::InsufficientMemory)),
            None => {
                let number = next as u64 + 1;
                self.numbers.insert(key, number);
                number
            }
        };
        Ok(MetadataHashValue { lower: number, upper: 0 })
    }
}

#[allow(clippy::useless_conversion, reason = "their widths differ between architectures")]
fn key(stat: &Stat) -> (u64, u64) {
    (stat.st_dev.into(), stat.st_ino.into())
}

fn answer(stat: &Stat, found: Found, clocks: bool) -> DescriptorStat {
    let time = |seconds: i64, nanoseconds: u64| {
        // Without a grant of clocks, the time of a file just written would serve as a clock.
        let seconds = u64::try_from(seconds).ok().filter(|_| clocks)?;
        Some(Datetime { seconds, nanoseconds: u32::try_from(nanoseconds).unwrap_or(0) })
    };
    DescriptorStat {
        type_: match found {
            Found::File => DescriptorType::RegularFile,
            Found::Folder => DescriptorType::Directory,
        },
        link_count: 1,
        // A folder's size would only reveal details of the host's file system.
        size: match found {
            Found::File => u64::try_from(stat.st_size).unwrap_or(0),
            Found::Folder => 0,
        },
        data_access_timestamp: time(stat.st_atime, stat.st_atime_nsec),
        data_modification_timestamp: time(stat.st_mtime, stat.st_mtime_nsec),
        status_change_timestamp: time(stat.st_ctime, stat.st_ctime_nsec),
    }
}

fn only_here() -> DescriptorStat {
    DescriptorStat {
        type_: DescriptorType::Directory,
        link_count: 1,
        size: 0,
        data_access_timestamp: None,
        data_modification_timestamp: None,
        status_change_timestamp: None,
    }
}
