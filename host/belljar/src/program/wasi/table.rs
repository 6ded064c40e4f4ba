//! The program's handles: a number on its side, a value of ours on this one.
//!
//! The generated bindings name each resource by a type of the crate they come from. Only the number
//! of such a [`Resource`] is used; what it stands for is looked up as a type of ours, and a handle of
//! another kind is an error there.

use wasmtime::component::{Resource, ResourceTable};

/// Most handles of every kind together. What costs a descriptor has a quota of its own beside this:
/// here are also pollables, errors and streams, which cost memory.
const MAX_HANDLES: usize = 4096;

pub(super) struct Table(ResourceTable);

impl Table {
    pub(super) fn new() -> Table {
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_HANDLES);
        Table(table)
    }

    pub(super) fn push<Wire: 'static, Ours: Send + 'static>(
        &mut self,
        value: Ours,
    ) -> wasmtime::Result<Resource<Wire>> {
        Ok(Resource::new_own(self.0.push(value)?.rep()))
    }

    pub(super) fn get<Wire: 'static, Ours: Send + 'static>(
        &self,
        handle: &Resource<Wire>,
    ) -> wasmtime::Result<&Ours> {
        Ok(self.0.get(&Resource::<Ours>::new_borrow(handle.rep()))?)
    }

    pub(super) fn get_mut<Wire: 'static, Ours: Send + 'static>(
        &mut self,
        handle: &Resource<Wire>,
    ) -> wasmtime::Result<&mut Ours> {
        Ok(self.0.get_mut(&Resource::<Ours>::new_borrow(handle.rep()))?)
    }

    pub(super) fn delete<Wire: 'static, Ours: Send + 'static>(
        &mut self,
        handle: &Resource<Wire>,
    ) -> wasmtime::Result<Ours> {
        Ok(self.0.delete(Resource::<Ours>::new_own(handle.rep()))?)
    }
}
