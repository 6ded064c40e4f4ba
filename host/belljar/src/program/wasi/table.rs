//! The table of the program's handles: numbers for the program, values in the host.
//!
//! The generated bindings use a type of their own crate for each resource. Only the number of such
//! a [`Resource`] is used, to look up a value of this crate's type. A handle of another type is an
//! error.

use wasmtime::component::{Resource, ResourceTable};

/// Maximum number of handles of all kinds together, which include pollables, errors and streams.
/// Handles with a descriptor have a separate quota in addition.
const MAX_HANDLES: usize = 4096;

pub(super) struct Table(ResourceTable);

impl Table {
    pub(super) fn new() -> Table {
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_HANDLES);
        Table(table)
    }

    pub(super) fn push<Wire: 'static, Native: Send + 'static>(
        &mut self,
        value: Native,
    ) -> wasmtime::Result<Resource<Wire>> {
        Ok(Resource::new_own(self.0.push(value)?.rep()))
    }

    pub(super) fn get<Wire: 'static, Native: Send + 'static>(
        &self,
        handle: &Resource<Wire>,
    ) -> wasmtime::Result<&Native> {
        Ok(self.0.get(&Resource::<Native>::new_borrow(handle.rep()))?)
    }

    pub(super) fn get_mut<Wire: 'static, Native: Send + 'static>(
        &mut self,
        handle: &Resource<Wire>,
    ) -> wasmtime::Result<&mut Native> {
        Ok(self.0.get_mut(&Resource::<Native>::new_borrow(handle.rep()))?)
    }

    pub(super) fn delete<Wire: 'static, Native: Send + 'static>(
        &mut self,
        handle: &Resource<Wire>,
    ) -> wasmtime::Result<Native> {
        Ok(self.0.delete(Resource::<Native>::new_own(handle.rep()))?)
    }
}
