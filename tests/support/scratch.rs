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

    /// A folder that a program's process can use: if Belljar runs as root, the process runs as
    /// another user.
    pub(crate) fn shared() -> Scratch {
        let folder = Scratch::new();
        folder.mode("", 0o755);
        folder
    }

    pub(crate) fn folder(&self) -> &Path {
        self.0.path()
    }

    /// The folder without links in its path, as policies name it.
    pub(crate) fn real_path(&self) -> PathBuf {
        self.folder().canonicalize().unwrap()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.real_path().join(name)
    }

    /// The path of a name as a string.
    pub(crate) fn at(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Writes a file that only its owner can change, as policies must be.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), content).unwrap();
        self.mode(name, 0o644);
        self.at(name)
    }

    /// Makes a folder that only its owner can change.
    pub(crate) fn make(&self, name: &str) -> String {
        fs::create_dir_all(self.path(name)).unwrap();
        self.mode(name, 0o755);
        self.at(name)
    }

    pub(crate) fn mode(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
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
