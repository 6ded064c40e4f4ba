//! Writes outputs to files. A model chooses the names of its outputs, but they must never decide
//! where a file is written.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

use super::super::failure::{Failure, shown};
use super::super::terminal::Terminal;
use super::temporary::{self, Temporary};
use belljar_tensor::{Tensor, TensorError, npy, npz};
use belljar_text::Escaped;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Npz,
    Json,
    Folder,
}

/// Where outputs are written. As much as possible is checked before the model runs.
pub(crate) struct Target<'a> {
    path: &'a Path,
    force: bool,
    kind: Kind,
}

impl<'a> Target<'a> {
    pub(crate) fn new(path: &'a Path, force: bool) -> Result<Target<'a>, Failure> {
        let ends_in_slash = path.as_os_str().as_encoded_bytes().ends_with(b"/");
        let extension = path.extension().and_then(|extension| extension.to_str());
        let kind = match extension {
            _ if ends_in_slash || path.is_dir() => Kind::Folder,
            Some("npz") => Kind::Npz,
            Some("json") => Kind::Json,
            _ => {
                let text =
                    format!("--output {}: cannot infer the format from the name", shown(path));
                let hint = "use a .npz or .json file, or a folder: a path that ends in /";
                return Err(Failure::usage(text).hint(hint));
            }
        };
        if kind == Kind::Folder {
            temporary::remove_leftovers(path);
        } else {
            check_free(path, force)?;
            temporary::remove_leftovers(temporary::folder_of(path));
        }
        Ok(Target { path, force, kind })
    }

    pub(crate) fn is_folder(&self) -> bool {
        self.kind == Kind::Folder
    }

    /// Checks that outputs of these names can all be written.
    pub(crate) fn check(&self, names: &[&str]) -> Result<(), Failure> {
        match self.kind {
            Kind::Npz => self.members(names).map(drop),
            Kind::Json => Ok(()),
            Kind::Folder => self.files(names, |_| "npy").map(drop),
        }
    }

    pub(super) fn path(&self) -> &Path {
        self.path
    }

    pub(super) fn force(&self) -> bool {
        self.force
    }

    pub(super) fn is_json(&self) -> bool {
        self.kind == Kind::Json
    }

    /// Writes tensors, and returns the paths of the written files.
    #[cfg(feature = "programs")]
    pub(crate) fn write(
        &self,
        outputs: &[(String, Tensor)],
        terminal: &Terminal,
    ) -> Result<Vec<PathBuf>, Failure> {
        if self.is_json() {
            write_file(self.path, self.force, |file| {
                belljar_tensor::json::write_named(outputs, file)
            })?;
            return Ok(vec![self.path.to_owned()]);
        }
        self.write_arrays(outputs, terminal)
    }

    /// Writes arrays into an archive or a folder, and returns the paths of the written files.
    pub(super) fn write_arrays<T: Borrow<Tensor>>(
        &self,
        outputs: &[(String, T)],
        terminal: &Terminal,
    ) -> Result<Vec<PathBuf>, Failure> {
        let names: Vec<&str> = outputs.iter().map(|(name, _)| name.as_str()).collect();
        npy::check_strings(outputs.iter().map(|(_, tensor)| tensor.borrow()))
            .map_err(|err| Failure::write(self.path, &err))?;
        if self.is_folder() {
            let files = self.files(&names, |_| "npy")?;
            for (path, (_, tensor)) in files.iter().zip(outputs) {
                self.write_into(path, |file| npy::write(tensor.borrow(), file))?;
            }
            return Ok(files);
        }
        let members = self.members(&names)?;
        for (name, member) in names.iter().zip(&members).filter(|(name, new)| *name != new) {
            terminal.warn(&format!(
                "output \"{}\" is renamed to \"{}\" in {}: its own name is not safe as a path when \
                 the archive is unpacked",
                Escaped::cut(name, 60),
                Escaped::cut(member, 60),
                shown(self.path)
            ));
        }
        let tensors = outputs.iter().map(|(_, tensor)| tensor.borrow());
        let arrays = members.iter().map(String::as_str).zip(tensors);
        write_file(self.path, self.force, |file| npz::write_arrays(arrays, file))?;
        Ok(vec![self.path.to_owned()])
    }

    /// Writes one of the [`files`](Target::files) of a folder.
    pub(crate) fn write_into(
        &self,
        file: &Path,
        write: impl FnOnce(&mut BufWriter<File>) -> Result<(), TensorError>,
    ) -> Result<(), Failure> {
        fs::create_dir_all(self.path).map_err(|err| Failure::write(self.path, &err))?;
        write_file(file, self.force, write)
    }

    /// A file in the folder for each output, whatever the output's name.
    pub(crate) fn files(
        &self,
        names: &[&str],
        kind: impl Fn(usize) -> &'static str,
    ) -> Result<Vec<PathBuf>, Failure> {
        let files: Vec<String> =
            names.iter().enumerate().map(|(at, name)| file_name(name, kind(at))).collect();
        // Some file systems ignore case.
        if let Some(pair) = duplicate(&files, |name| vec![name.to_ascii_lowercase()]) {
            let hint = "write a .npz file, which keeps their names";
            return Err(self.collide(names, &files, pair).hint(hint));
        }
        let files: Vec<PathBuf> = files.iter().map(|name| self.path.join(name)).collect();
        files.iter().try_for_each(|file| check_free(file, self.force))?;
        Ok(files)
    }

    /// The name of each output in the archive.
    fn members(&self, names: &[&str]) -> Result<Vec<String>, Failure> {
        let members: Vec<String> = names.iter().map(|name| member_name(name)).collect();
        // numpy names an array after its entry, with or without `.npy`.
        let forms = |name: &str| {
            let bare = name.strip_suffix(".npy").map(str::to_owned);
            [name.to_owned(), format!("{name}.npy")].into_iter().chain(bare).collect()
        };
        match duplicate(&members, forms) {
            None => Ok(members),
            Some(pair) => {
                let hint = "write a .json file, which keeps their names";
                Err(self.collide(names, &members, pair).hint(hint))
            }
        }
    }

    fn collide(&self, names: &[&str], files: &[String], (a, b): (usize, usize)) -> Failure {
        let name = |at: usize| Escaped::cut(names.get(at).copied().unwrap_or_default(), 60);
        let file = |at: usize| Escaped::cut(files.get(at).map_or("", String::as_str), 60);
        Failure::usage(format!(
            "--output {}: two outputs would have the same name: \"{}\" as {} and \"{}\" as {}",
            shown(self.path),
            name(a),
            file(a),
            name(b),
            file(b)
        ))
    }
}

/// The positions of two names that are the same. `forms` returns a name as it is compared, and then
/// the other names that count as the same. A sequence has a name for each of up to a million
/// elements, so that names must not be compared with each other.
fn duplicate(names: &[String], forms: impl Fn(&str) -> Vec<String>) -> Option<(usize, usize)> {
    let mut seen = HashMap::new();
    names.iter().enumerate().find_map(|(b, name)| {
        let forms = forms(name);
        let first = forms.iter().filter_map(|form| seen.get(form).copied()).min();
        if let (None, Some(own)) = (first, forms.into_iter().next()) {
            seen.insert(own, b);
        }
        first.map(|a| (a, b))
    })
}

fn file_name(name: &str, kind: &str) -> String {
    const MAX_CHARS: usize = 80;
    let keep = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    let clean: String = name.chars().take(MAX_CHARS).map(keep).collect();
    let clean = clean.trim_start_matches(['.', '-']);
    let clean = if clean.is_empty() { "output" } else { clean };
    format!("{clean}.{kind}")
}

/// The name of an output in an archive: its own, unless a program that unpacks the archive would
/// write to another folder or truncate the name.
fn member_name(name: &str) -> String {
    let separator = |c: char| matches!(c, '/' | '\\');
    let drive = |name: &str| {
        let mut chars = name.chars();
        let letter = chars.next().is_some_and(|c| c.is_ascii_alphabetic());
        letter && chars.next() == Some(':') && chars.next().is_some_and(separator)
    };
    let unsafe_path = name.starts_with(separator)
        || drive(name)
        || name.split(separator).any(|part| part == "..")
        || name.chars().any(char::is_control);
    match name {
        "" => "output".to_owned(),
        name if !unsafe_path => name.to_owned(),
        name => {
            let keep = |c: char| if separator(c) || c == ':' || c.is_control() { '_' } else { c };
            name.chars().map(keep).collect::<String>().replace("..", "__")
        }
    }
}

/// Checks that a path does not exist, or may be replaced.
pub(crate) fn check_free(path: &Path, force: bool) -> Result<(), Failure> {
    let failed = |why: &'static str| Failure::write(path, &why);
    if let Ok(existing) = path.symlink_metadata() {
        if !force {
            return Err(failed("already exists"));
        }
        // A rename would replace even a device.
        if !existing.is_file() && !existing.is_symlink() {
            return Err(failed("exists and is not a regular file, so it is not replaced"));
        }
    }
    Ok(())
}

/// Writes a file atomically: first a temporary file, which is then renamed. Never follows a
/// symlink, and replaces a file only with `force`.
pub(crate) fn write_file(
    path: &Path,
    force: bool,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<(), TensorError>,
) -> Result<(), Failure> {
    let failed = |err: &dyn std::fmt::Display| Failure::write(path, err);
    check_free(path, force)?;
    path.file_name().ok_or_else(|| failed(&"not a file name"))?;
    let written = (|| {
        let mut temporary = Temporary::new(temporary::folder_of(path))?;
        let mut file = BufWriter::new(temporary.file().try_clone()?);
        write(&mut file)?;
        file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        temporary.keep(path, force)?;
        Ok::<(), TensorError>(())
    })();
    written.map_err(|err| failed(&err))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn file_names_of_outputs_stay_in_the_folder() {
        for (name, expected) in [
            ("../../etc/passwd", "_.._etc_passwd.npy"),
            ("/abs", "_abs.npy"),
            ("", "output.npy"),
            ("..", "output.npy"),
            (".hidden", "hidden.npy"),
            ("a b", "a_b.npy"),
            ("-rf", "rf.npy"),
            ("x\0y\n", "x_y_.npy"),
        ] {
            assert_eq!(file_name(name, "npy"), expected);
        }
        assert_eq!(file_name(&"n".repeat(5000), "npy").len(), 84);
    }

    #[test]
    fn outputs_that_would_share_a_file_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let target = Target::new(folder.path(), false).unwrap();
        for names in [&["out:0", "out_0"][..], &["x", "A", "a"], &["", ".."], &["a/b", "a b"]] {
            let err = target.check(names).unwrap_err();
            assert_eq!(err.exit_code(), 2, "{err}");
            assert!(err.to_string().contains("would have the same name"), "{err}");
        }
        target.check(&["out:0", "out_1", "b"]).unwrap();
        let npz = folder.path().join("x.npz");
        let target = Target::new(&npz, false).unwrap();
        target.check(&["out:0", "out_0", "A", "a", "a/b", "a b"]).unwrap();
        for names in [&["a", "a.npy"][..], &["../x", "__/x", "___x"], &["", "output"]] {
            target.check(names).unwrap_err();
        }
        let json = folder.path().join("x.json");
        Target::new(&json, false).unwrap().check(&["a", "a.npy", "", ".."]).unwrap();
    }

    #[test]
    fn names_in_archives_are_kept_unless_they_are_unsafe_paths() {
        for kept in [
            "Identity:0",
            "gpu_0/softmax_1",
            "a..b",
            "x.npy",
            "é 世界",
            "a\\b",
            "StatefulCall:1",
            "c:x",
            ".",
            "./x",
            "a/",
        ] {
            assert_eq!(member_name(kept), kept);
        }
        for (name, expected) in [
            ("../../etc/passwd", "______etc_passwd"),
            ("/etc/passwd", "_etc_passwd"),
            ("\\\\server\\share", "__server_share"),
            ("c:\\windows", "c__windows"),
            ("C:/windows", "C__windows"),
            ("a\\..\\b", "a____b"),
            ("x\0y", "x_y"),
            ("", "output"),
        ] {
            assert_eq!(member_name(name), expected);
        }
        let long = "n".repeat(4096);
        assert_eq!(member_name(&long), long);
    }

    #[test]
    fn names_that_count_as_the_same_are_found_among_many() {
        let npz = |names: &[&str]| {
            let target = Target { path: Path::new("o.npz"), force: false, kind: Kind::Npz };
            target.members(names).is_err()
        };
        assert!(npz(&["a", "b", "a"]));
        assert!(npz(&["a", "b", "a.npy"]));
        assert!(npz(&["a.npy", "b", "a"]));
        assert!(!npz(&["a.npy.npy", "b", "a", "A"]));
        // A comparison of each name with each other one would take minutes.
        let many: Vec<String> = (0..300_000).map(|at| format!("s.{at}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(!npz(&many));
    }

    #[test]
    fn devices_are_not_replaced() {
        let write = |file: &mut BufWriter<File>| Ok(file.write_all(b"x")?);
        let err = write_file(Path::new("/dev/null"), true, write).unwrap_err();
        assert!(err.to_string().contains("not a regular file"), "{err}");
    }

    #[test]
    fn files_are_replaced_only_with_force_and_symlinks_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, victim) = (folder.path().join("out.npy"), folder.path().join("victim"));
        let tensor = Tensor::scalar(1.0f32);
        let write = |force| write_file(&path, force, |file| npy::write(&tensor, file));
        write(false).unwrap();
        assert!(write(false).is_err());
        write(true).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&victim, "mine").unwrap();
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        assert!(write(false).is_err());
        write(true).unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "mine");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "no temporary file is left");
    }
}
