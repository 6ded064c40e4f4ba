//! The names of stored files. A name has a digest of everything that its content depends on, so
//! that a file made for anything else is never found.

use belljar_abi::{ABI_VERSION, InputShape, OpenDim, encode_shapes};
use sha2::{Digest as _, Sha256};

use super::super::guest::GuestInfo;
use super::sealed_file;
use crate::trust::Digest;
use belljar_tensor::Tensor;

/// Everything that a snapshot depends on in addition to the guest.
pub(crate) struct SnapshotKey<'a> {
    pub(crate) model: Digest,
    /// Digests of its external data files, in the order of their use.
    pub(crate) side_files: Vec<Digest>,
    pub(crate) deterministic: bool,
    pub(crate) native_kernels: bool,
    /// In the order of the model's declaration.
    pub(crate) shapes: &'a [InputShape],
    /// The dimensions for which it was asked to accept other sizes.
    pub(crate) open: &'a [OpenDim],
    /// Inputs whose values it was prepared with.
    pub(crate) fixed: &'a [(String, Tensor)],
}

impl SnapshotKey<'_> {
    /// The message with which the guest is asked to prepare.
    pub(crate) fn encoded(&self) -> Vec<u8> {
        self.encoded_with(self.shapes)
    }

    fn encoded_with(&self, shapes: &[InputShape]) -> Vec<u8> {
        let wires: Vec<_> = self.fixed.iter().map(|(_, tensor)| tensor.to_wire()).collect();
        let fixed = self.fixed.iter().zip(&wires);
        let views: Vec<_> = fixed.map(|((name, tensor), wire)| tensor.view(name, wire)).collect();
        encode_shapes(shapes, self.open, &views)
    }

    /// The file name: the model, a digest of everything except the shapes, and a digest of
    /// everything. The sizes of open dimensions do not count.
    pub(super) fn name(&self) -> String {
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
        let mut shapes = self.shapes.to_vec();
        for open in self.open {
            let shape = shapes.get_mut(open.input as usize);
            if let Some(dim) = shape.and_then(|shape| shape.dims.get_mut(open.axis as usize)) {
                *dim = 0;
            }
        }
        hasher.update(self.encoded_with(&shapes));
        format!("{}.{:.16}.{}.snapshot", self.model, set.to_string(), Digest::finish(hasher))
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
