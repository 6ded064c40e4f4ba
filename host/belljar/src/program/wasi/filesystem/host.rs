//! The functions of `wasi:filesystem`: each looks up its handles, calls the neighbouring modules,
//! and logs the decision.

use std::sync::Arc;

use wasmtime::component::Resource;
use wasmtime_wasi::p2::bindings::filesystem::preopens;
use wasmtime_wasi::p2::bindings::sync::filesystem::types::{
    self, Advice, Descriptor, DescriptorFlags, DescriptorStat, DescriptorType, DirectoryEntry,
    DirectoryEntryStream, ErrorCode, MetadataHashValue, NewTimestamp, OpenFlags, PathFlags,
};
use wasmtime_wasi::p2::bindings::sync::io::streams::{Error, InputStream, OutputStream};
use wasmtime_wasi::p2::{FsError, FsResult};

use super::super::streams::{Input, Output};
use super::super::{Asked, WasiState};
use super::change::{self, Position};
use super::listing::Listing;
use super::open::Wanted;
use super::refusal::{Code, Fail, Why};
use super::{Kind, Node};
use belljar_policy::Access;

/// Maximum number of bytes that one call reads, whatever the program requests.
const MAX_READ: u64 = 1 << 20;

/// The rule to log if a policy grants no files.
const FOLDERS: &str = "[[filesystem]]";

impl preopens::Host for WasiState {
    fn get_directories(&mut self) -> wasmtime::Result<Vec<(Resource<Descriptor>, String)>> {
        let nodes = self.files.preopens();
        if nodes.is_empty() && !self.logged.contains(&FOLDERS) {
            self.logged.push(FOLDERS);
            // Without granted folders, a C library makes no further requests that could be logged.
            let (access, rule) = (Access::Read.name(), FOLDERS);
            self.outside.decided(&Asked { resource: "folders", access, allowed: false, rule })?;
        }
        nodes
            .into_iter()
            .map(|node| {
                let place = node.place.clone();
                Ok((self.table.push(node)?, place))
            })
            .collect()
    }
}

impl types::Host for WasiState {
    fn convert_error_code(&mut self, err: FsError) -> wasmtime::Result<ErrorCode> {
        Ok(err.downcast()?.into())
    }

    fn filesystem_error_code(
        &mut self,
        err: Resource<Error>,
    ) -> wasmtime::Result<Option<ErrorCode>> {
        let err = self.table.get::<_, wasmtime::Error>(&err)?;
        Ok(err.downcast_ref::<Code>().copied().map(ErrorCode::from))
    }
}

impl types::HostDescriptor for WasiState {
    fn read_via_stream(
        &mut self,
        handle: Resource<Descriptor>,
        offset: u64,
    ) -> FsResult<Resource<InputStream>> {
        let node = self.node(&handle)?;
        let file = readable(&node).map(Arc::clone);
        let file = self.finish(&node, file)?;
        self.push(Input::File { file, offset })
    }

    fn write_via_stream(
        &mut self,
        handle: Resource<Descriptor>,
        offset: u64,
    ) -> FsResult<Resource<OutputStream>> {
        let node = self.node(&handle)?;
        let file = self.files.writable(&node).map(Arc::clone);
        let file = self.finish(&node, file)?;
        self.push(Output::File { file, position: Position::At(offset) })
    }

    fn append_via_stream(
        &mut self,
        handle: Resource<Descriptor>,
    ) -> FsResult<Resource<OutputStream>> {
        let node = self.node(&handle)?;
        let file = self.files.writable(&node).map(Arc::clone);
        let file = self.finish(&node, file)?;
        self.push(Output::File { file, position: Position::End })
    }

    /// Ignores advice: it is for the host's page cache.
    fn advise(&mut self, handle: Resource<Descriptor>, _: u64, _: u64, _: Advice) -> FsResult<()> {
        self.node(&handle)?.file().map_err(Fail::code)?;
        Ok(())
    }

    fn sync_data(&mut self, handle: Resource<Descriptor>) -> FsResult<()> {
        let node = self.node(&handle)?;
        let synced = self.files.writable(&node);
        let synced = synced.and_then(|file| Ok(rustix::fs::fdatasync(&file.fd)?));
        self.finish(&node, synced)
    }

    fn sync(&mut self, handle: Resource<Descriptor>) -> FsResult<()> {
        let node = self.node(&handle)?;
        let synced = self.files.writable(&node);
        let synced = synced.and_then(|file| Ok(rustix::fs::fsync(&file.fd)?));
        self.finish(&node, synced)
    }

    fn get_flags(&mut self, handle: Resource<Descriptor>) -> FsResult<DescriptorFlags> {
        let node = self.node(&handle)?;
        let mut flags = DescriptorFlags::empty();
        if node.readable {
            flags |= DescriptorFlags::READ;
        }
        if node.writable {
            flags |= match node.kind {
                Kind::File(_) => DescriptorFlags::WRITE,
                Kind::Folder(_) | Kind::Gathered => DescriptorFlags::MUTATE_DIRECTORY,
            };
        }
        Ok(flags)
    }

    fn get_type(&mut self, handle: Resource<Descriptor>) -> FsResult<DescriptorType> {
        Ok(match self.node(&handle)?.kind {
            Kind::File(_) => DescriptorType::RegularFile,
            Kind::Folder(_) | Kind::Gathered => DescriptorType::Directory,
        })
    }

    fn set_size(&mut self, handle: Resource<Descriptor>, size: u64) -> FsResult<()> {
        let node = self.node(&handle)?;
        let done = self.files.set_size(&node, size, &mut self.budget);
        self.finish(&node, done)
    }

    fn set_times(
        &mut self,
        handle: Resource<Descriptor>,
        accessed: NewTimestamp,
        modified: NewTimestamp,
    ) -> FsResult<()> {
        let node = self.node(&handle)?;
        let change = self.files.set_times(&node, accessed, modified);
        self.change(&node, "", change)
    }

    fn read(
        &mut self,
        handle: Resource<Descriptor>,
        len: u64,
        offset: u64,
    ) -> FsResult<(Vec<u8>, bool)> {
        let node = self.node(&handle)?;
        let file = readable(&node).map_err(Fail::code)?;
        let mut bytes = vec![0; len.min(MAX_READ) as usize];
        let read = rustix::io::pread(&file.fd, &mut bytes[..], offset);
        let read = read.map_err(|errno| Fail::from(errno).code())?;
        bytes.truncate(read);
        Ok((bytes, read == 0 && len > 0))
    }

    fn write(
        &mut self,
        handle: Resource<Descriptor>,
        bytes: Vec<u8>,
        offset: u64,
    ) -> FsResult<u64> {
        let node = self.node(&handle)?;
        let file = self.files.writable(&node);
        let written = file
            .and_then(|file| change::write(file, &bytes, Position::At(offset), &mut self.budget));
        Ok(self.finish(&node, written)? as u64)
    }

    fn read_directory(
        &mut self,
        handle: Resource<Descriptor>,
    ) -> FsResult<Resource<DirectoryEntryStream>> {
        let node = self.node(&handle)?;
        let listing = self.files.list(&node, &self.budget);
        let listing = self.decide(&node, "", Access::Read, listing)?;
        self.push(listing)
    }

    fn create_directory_at(&mut self, handle: Resource<Descriptor>, path: String) -> FsResult<()> {
        let node = self.node(&handle)?;
        let change = self.files.make_folder(&node, &path, &self.budget);
        self.change(&node, &path, change)
    }

    fn stat(&mut self, handle: Resource<Descriptor>) -> FsResult<DescriptorStat> {
        let node = self.node(&handle)?;
        let stat = self.files.stat(&node, self.program.clocks);
        self.finish(&node, stat)
    }

    fn stat_at(
        &mut self,
        handle: Resource<Descriptor>,
        _: PathFlags,
        path: String,
    ) -> FsResult<DescriptorStat> {
        let node = self.node(&handle)?;
        let stat = self.files.stat_at(&node, &path, self.program.clocks);
        self.decide(&node, &path, Access::Read, stat)
    }

    fn set_times_at(
        &mut self,
        handle: Resource<Descriptor>,
        _: PathFlags,
        path: String,
        accessed: NewTimestamp,
        modified: NewTimestamp,
    ) -> FsResult<()> {
        let node = self.node(&handle)?;
        let change = self.files.set_times_at(&node, &path, accessed, modified, &self.budget);
        self.change(&node, &path, change)
    }

    fn link_at(
        &mut self,
        handle: Resource<Descriptor>,
        _: PathFlags,
        path: String,
        _: Resource<Descriptor>,
        _: String,
    ) -> FsResult<()> {
        let node = self.node(&handle)?;
        self.decide(&node, &path, Access::Write, Err(Why::MakeLink.into()))
    }

    fn open_at(
        &mut self,
        handle: Resource<Descriptor>,
        _: PathFlags,
        path: String,
        open: OpenFlags,
        flags: DescriptorFlags,
    ) -> FsResult<Resource<Descriptor>> {
        let node = self.node(&handle)?;
        let wanted = Wanted::new(open, flags);
        let access = if wanted.changes() { Access::Write } else { Access::Read };
        let opening = self.files.open(&node, &path, wanted, &self.budget);
        let opening = self.decide(&node, &path, access, opening)?;
        let opened = opening.finish(&mut self.budget);
        let opened = self.finish(&node, opened)?;
        self.push(opened)
    }

    fn readlink_at(&mut self, handle: Resource<Descriptor>, path: String) -> FsResult<String> {
        // C libraries call this for each part of a path, and continue if it is not a link.
        let node = self.node(&handle)?;
        let found = self.files.stat_at(&node, &path, false);
        let found = found.and(Err(Fail::Failed(Code::Invalid)));
        self.decide(&node, &path, Access::Read, found)
    }

    fn remove_directory_at(&mut self, handle: Resource<Descriptor>, path: String) -> FsResult<()> {
        let node = self.node(&handle)?;
        let change = self.files.remove_folder(&node, &path);
        let change = self.unless_mounted(&node, &path, change)?;
        self.change(&node, &path, change)
    }

    fn rename_at(
        &mut self,
        handle: Resource<Descriptor>,
        path: String,
        new_handle: Resource<Descriptor>,
        new_path: String,
    ) -> FsResult<()> {
        let (node, new_node) = (self.node(&handle)?, self.node(&new_handle)?);
        let change = self.files.rename(&node, &path, &new_node, &new_path);
        let change = self.unless_mounted(&node, &path, change)?;
        let change = self.unless_mounted(&new_node, &new_path, change)?;
        let change = self.decide(&new_node, &new_path, Access::Write, change)?;
        self.change(&node, &path, Ok(change))
    }

    fn symlink_at(
        &mut self,
        handle: Resource<Descriptor>,
        _: String,
        path: String,
    ) -> FsResult<()> {
        let node = self.node(&handle)?;
        self.decide(&node, &path, Access::Write, Err(Why::MakeLink.into()))
    }

    fn unlink_file_at(&mut self, handle: Resource<Descriptor>, path: String) -> FsResult<()> {
        let node = self.node(&handle)?;
        let change = self.files.remove_file(&node, &path);
        let change = self.unless_mounted(&node, &path, change)?;
        self.change(&node, &path, change)
    }

    fn is_same_object(
        &mut self,
        a: Resource<Descriptor>,
        b: Resource<Descriptor>,
    ) -> wasmtime::Result<bool> {
        let (a, b) = (self.table.get::<_, Node>(&a)?, self.table.get::<_, Node>(&b)?);
        Ok(self.files.same(a, b))
    }

    fn metadata_hash(&mut self, handle: Resource<Descriptor>) -> FsResult<MetadataHashValue> {
        let node = self.node(&handle)?;
        let number = self.files.number(&node);
        self.finish(&node, number)
    }

    fn metadata_hash_at(
        &mut self,
        handle: Resource<Descriptor>,
        _: PathFlags,
        path: String,
    ) -> FsResult<MetadataHashValue> {
        let node = self.node(&handle)?;
        let number = self.files.number_at(&node, &path);
        self.decide(&node, &path, Access::Read, number)
    }

    fn drop(&mut self, handle: Resource<Descriptor>) -> wasmtime::Result<()> {
        self.table.delete::<_, Node>(&handle)?;
        Ok(())
    }
}

impl types::HostDirectoryEntryStream for WasiState {
    fn read_directory_entry(
        &mut self,
        handle: Resource<DirectoryEntryStream>,
    ) -> FsResult<Option<DirectoryEntry>> {
        let listing = self.table.get_mut::<_, Listing>(&handle).map_err(FsError::trap)?;
        Ok(listing.next().map_err(Fail::code)?)
    }

    fn drop(&mut self, handle: Resource<DirectoryEntryStream>) -> wasmtime::Result<()> {
        self.table.delete::<_, Listing>(&handle)?;
        Ok(())
    }
}

/// A file that was opened for reading.
fn readable(node: &Node) -> Result<&Arc<super::Open>, Fail> {
    match node.readable {
        true => node.file(),
        false => Err(Fail::Failed(Code::BadDescriptor)),
    }
}
