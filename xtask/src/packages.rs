//! Installs Python packages from an index: only files whose digests are in this repository.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::run;

/// Makes a Python environment in `folder` with only the packages of a requirements file. The file
/// lists every package, including dependencies, with its version and the SHA-256 of each of its
/// files; pip accepts no other file.
pub(crate) fn install(folder: &Path, requirements: &Path) -> Result<()> {
    install_with(folder, requirements, &[])
}

/// Does the same for a file that leaves out dependencies on purpose.
pub(crate) fn install_without_dependencies(folder: &Path, requirements: &Path) -> Result<()> {
    install_with(folder, requirements, &["--no-deps"])
}

fn install_with(folder: &Path, requirements: &Path, options: &[&str]) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    let mut venv = Command::new("python3");
    venv.args(["-m", "venv", "--clear"]).arg(folder).stdout(std::io::stderr());
    run::run(&mut venv)
        .context("making a Python environment, which needs python3 with its module venv")?;
    let mut pip = Command::new(folder.join("bin/python3"));
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
    pip.args(options).args(["--only-binary=:all:", "--require-hashes", "-r"]).arg(requirements);
    run::run(pip.stdout(std::io::stderr())).with_context(|| {
        format!("installing {}, which needs a package index", requirements.display())
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
    }

    /// Each package of a requirements file, and its number of digests.
    fn packages(text: &str) -> Vec<(String, usize)> {
        let mut packages: Vec<(String, usize)> = Vec::new();
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
            let line = line.trim_end_matches('\\').trim();
            match (line.strip_prefix("--hash=sha256:"), packages.last_mut()) {
                (Some(digest), Some((_, count))) if digest.len() == 64 => *count += 1,
                _ => packages.push((line.to_owned(), 0)),
            }
        }
        packages
    }

    #[test]
    fn every_package_is_pinned_by_version_and_digest() {
        for (file, needed) in [
            ("tests/conformance/requirements.txt", &crate::conformance::REQUIREMENTS[..]),
            ("benches/requirements.txt", &crate::bench::REQUIREMENTS[..]),
            ("benches/models/requirements.txt", &crate::bench::REQUIREMENTS[..]),
            (
                "guest-models/programs/file-type-python/requirements.txt",
                &[crate::python::COMPONENTIZE][..],
            ),
            ("tests/survey/requirements/main.txt", &["onnxruntime==1.32.0"][..]),
            ("tests/survey/requirements/optimum.txt", &[][..]),
            ("tests/survey/requirements/packages.txt", &[][..]),
        ] {
            let packages = packages(&fs::read_to_string(root().join(file)).expect(file));
            for (package, digests) in &packages {
                let (name, version) = package.split_once("==").expect(package);
                assert!(!name.is_empty() && !version.is_empty(), "{file}: {package}");
                assert!(*digests > 0, "{file}: {package} has no digest");
            }
            for needed in needed {
                assert!(packages.iter().any(|(package, _)| package == needed), "{file}: {needed}");
            }
        }
    }

    #[test]
    fn every_package_of_node_has_its_digest_in_the_lock() {
        let text =
            fs::read_to_string(root().join("benches/web/package-lock.json")).expect("a lock");
        let lock: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let packages = lock["packages"].as_object().expect("packages");
        assert!(packages.len() > 1);
        for (name, package) in packages.iter().filter(|(name, _)| !name.is_empty()) {
            let digest = package["integrity"].as_str().unwrap_or_default();
            assert!(digest.starts_with("sha512-"), "{name}");
        }
        let web = &packages["node_modules/onnxruntime-web"];
        let (_, version) = crate::bench::WEB;
        assert_eq!(web["version"], version);
        assert_eq!(web["integrity"], crate::bench::WEB_INTEGRITY);
    }

    /// Another way of installing packages would not check digests.
    #[test]
    fn nothing_else_installs_packages() {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        for folder in [sources.join("bench"), sources] {
            for file in fs::read_dir(&folder).expect("sources").flatten().map(|entry| entry.path())
            {
                let ours = file.is_dir() || file.ends_with("packages.rs");
                let text =
                    if ours { String::new() } else { fs::read_to_string(&file).expect("text") };
                let installs = ["\"pip\", \"install\"", "(\"npm\");\n    npm.args([\"install\""];
                let found = installs.iter().any(|words| text.contains(words));
                assert!(!found, "{}", file.display());
            }
        }
    }
}
