//! What the functions of `wasi:filesystem` in `host` share: they look up a handle, log a decision
//! before it takes effect, and only then change anything.

use wasmtime::component::Resource;
use wasmtime_wasi::p2::bindings::sync::filesystem::types::Descriptor;
use wasmtime_wasi::p2::{FsError, FsResult};

use super::super::{Asked, AtName, WasiState};
use super::Node;
use super::change::Change;
use super::refusal::{Code, Fail, Why};
use belljar_policy::Access;
use belljar_text::Escaped;

/// Maximum length of a logged path, in characters.
const MAX_SHOWN: usize = 1024;

impl WasiState {
    pub(super) fn node(&self, handle: &Resource<Descriptor>) -> Result<Node, FsError> {
        Ok(self.table.get::<_, Node>(handle).map_err(FsError::trap)?.clone())
    }

    /// Logs the decision about an operation, and converts its failure. Must be called after all
    /// checks and before the operation takes effect: if the decision cannot be logged, the run ends
    /// here.
    pub(super) fn decide<V>(
        &mut self,
        node: &Node,
        path: &str,
        access: Access,
        result: Result<V, Fail>,
    ) -> FsResult<V> {
        let place = node.place_of(path);
        let (granted, guest) = self.files.rule(node);
        let (allowed, rule) = match &result {
            Err(Fail::Refused(why)) => (false, why.rule(&place, guest)),
            Ok(_) | Err(Fail::Failed(_)) => (true, granted),
        };
        let shown = Escaped::cut(&place, MAX_SHOWN).to_string();
        let (resource, access) = (shown.as_str(), access.name());
        let asked = Asked { resource, access, allowed, rule: &rule };
        self.outside.decided(&asked).map_err(FsError::trap)?;
        result.map_err(|fail| fail.code().into())
    }

    /// Like `decide`, for operations that the handle allows or that are already logged: only a
    /// refusal is logged.
    pub(super) fn finish<V>(&mut self, node: &Node, result: Result<V, Fail>) -> FsResult<V> {
        match result {
            Err(Fail::Refused(_)) => self.decide(node, "", Access::Write, result),
            result => result.map_err(|fail| fail.code().into()),
        }
    }

    /// The same change, unless the supervisor finds a mount on the name that it removes, or cannot
    /// check the name.
    pub(super) fn unless_mounted(
        &mut self,
        node: &Node,
        path: &str,
        change: Result<Change, Fail>,
    ) -> FsResult<Result<Change, Fail>> {
        let Ok(change) = change else { return Ok(change) };
        let below = match self.files.below(node, path) {
            Ok(below) => below,
            Err(fail) => return Ok(Err(fail)),
        };
        Ok(match self.outside.look(&below).map_err(FsError::trap)? {
            AtName::Free => Ok(change),
            AtName::Mounted => Err(Why::MountPoint.into()),
            AtName::Unseen => Err(Fail::Failed(Code::Busy)),
        })
    }

    /// Logs a change, and makes it if it is allowed.
    pub(super) fn change(
        &mut self,
        node: &Node,
        path: &str,
        change: Result<Change, Fail>,
    ) -> FsResult<()> {
        let change = self.decide(node, path, Access::Write, change)?;
        let made = change.make(&mut self.budget);
        self.finish(node, made)
    }

    pub(super) fn push<Wire: 'static, Native: Send + 'static>(
        &mut self,
        value: Native,
    ) -> FsResult<Resource<Wire>> {
        self.table.push(value).map_err(FsError::trap)
    }
}
