//! The names of stored files. A name has a digest of everything that its content depends on, so
//! that a file made for anything else is never found.

use belljar_abi::{ABI_VERSION, InputShape, OpenDim, encode_shapes};
use sha2::{Digest as _, Sha256};

use super::super::guest::GuestInfo;
use super::super::plan::PlanShapes;
use super::sealed_file;
use crate::trust::Digest;
use belljar_tensor::Tensor;

/// Everything that a snapshot depends on in addition to the guest and the shapes of the inputs.
pub(crate) struct SnapshotKey<'a> {
    pub(crate) model: Digest,
    /// Digests of its external data files, in the order of their use.
    pub(crate) side_files: Vec<Digest>,
    pub(crate) deterministic: bool,
    pub(crate) native_kernels: bool,
    /// Inputs whose values it was prepared with.
    pub(crate) fixed: &'a [(String, Tensor)],
}

impl SnapshotKey<'_> {
    /// The message with which the guest is asked to prepare for these shapes, in the order of the
    /// model's declaration, and for other sizes of the open dimensions.
    pub(crate) fn message(&self, shapes: &[InputShape], open: &[OpenDim]) -> Vec<u8> {
        let wires: Vec<_> = self.fixed.iter().map(|(_, tensor)| tensor.to_wire()).collect();
        let fixed = self.fixed.iter().zip(&wires);
        let views: Vec<_> = fixed.map(|((name, tensor), wire)| tensor.view(name, wire)).collect();
        encode_shapes(shapes, open, &views)
    }

    /// The start of the names of all files for this key: the model, a digest of everything except
    /// the fixed inputs, and a digest of those.
    pub(super) fn prefix(&self) -> String {
        let mut hasher = Sha256::new();
        hasher.update(common());
        hasher.update([self.deterministic.into(), self.native_kernels.into()]);
        hasher.update(self.model.as_bytes());
        // Without side files, the following data does not begin with these bytes.
        if !self.side_files.is_empty() {
            hasher.update(b"side files");
            hasher.update((self.side_files.len() as u64).to_le_bytes());
            self.side_files.iter().for_each(|digest| hasher.update(digest.as_bytes()));
        }
        let set = Digest::finish(hasher.clone());
        hasher.update(self.message(&[], &[]));
        let all = Digest::finish(hasher);
        format!("{}.{:.16}.{:.16}-", self.model, set.to_string(), all.to_string())
    }

    /// The name of the file for inputs of these shapes.
    pub(super) fn name(&self, plan: &PlanShapes) -> String {
        let mut hasher = Sha256::new();
        hasher.update(plan.digested());
        format!("{}{:.40}.snapshot", self.prefix(), Digest::finish(hasher).to_string())
    }
}

pub(super) fn description_name(model: Digest) -> String {
    let mut hasher = Sha256::new();
    hasher.update(common());
    format!("{model}.{:.16}.description", Digest::finish(hasher).to_string())
}

/// A digest of the guest and the formats.
fn common() -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(sealed_file::FORMAT.to_le_bytes());
    hasher.update(ABI_VERSION.to_le_bytes());
    hasher.update(GuestInfo::embedded().sha256.as_bytes());
    *Digest::finish(hasher).as_bytes()
}
