//! A temporary folder for the files of one test: closed to other users, so that policies in it are
//! trusted. It is removed when the value is dropped.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use belljar::Tensor;
use belljar::tensor::npy;

use super::onnx::{fixed, relu};

pub(crate) struct Scratch(tempfile::TempDir);

impl Scratch {
    pub(crate) fn new() -> Scratch {
        Scratch(tempfile::tempdir().unwrap())
    }

    pub(crate) fn folder(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    /// The path of a name as a string.
    pub(crate) fn at(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Writes a file that only its owner can change, as policies must be.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        fs::write(self.path(name), content).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o644)).unwrap();
        self.at(name)
    }

    /// Writes a policy or a ceiling.
    pub(crate) fn toml(&self, name: &str, text: &str) -> String {
        self.file(name, format!("version = 1\n{text}\n"))
    }

    pub(crate) fn npy(&self, name: &str, tensor: &Tensor) -> String {
        let mut bytes = Vec::new();
        npy::write(tensor, &mut bytes).unwrap();
        self.file(name, bytes)
    }

    /// A model with the input `x`, a 2 by 2 matrix.
    pub(crate) fn relu(&self) -> String {
        self.file("relu.onnx", relu(&fixed(&[2, 2])).bytes())
    }

    /// An input for that model.
    pub(crate) fn x(&self) -> String {
        self.npy("x.npy", &Tensor::new(vec![-1.0f32, 2.0, 3.5, -4.0], &[2, 2]).unwrap())
    }
}
