//! Tests of grants that refer to files next to the policy: their paths, symbolic links in them, and
//! the policies and files of models.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;

use super::grants::{FILE, PIN};
use super::*;

/// A temporary folder for policies and the files they grant.
struct TempFolder(#[allow(dead_code)] tempfile::TempDir, PathBuf);

impl TempFolder {
    fn new() -> TempFolder {
        let dir = tempfile::tempdir().unwrap();
        // On some systems the temporary folder is behind a link, which grants may not contain.
        let real = dir.path().canonicalize().unwrap();
        TempFolder(dir, real)
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.1.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        path
    }

    fn granting(&self, host: &str) -> Result<LoadedPolicy, PolicyError> {
        let text = format!(
            "version = 1\n[program]\n[[filesystem]]\nhost = \"{host}\"\nguest = \"/a\"\n\
             reason = \"r\""
        );
        Policy::load(&self.file("policy.toml", &text))
    }
}

#[test]
fn relative_grants_resolve_in_the_policys_folder() {
    let temp = TempFolder::new();
    fs::create_dir(temp.1.join("labels")).unwrap();
    let real = &temp.1;
    for (host, at) in [
        ("labels", real.join("labels")),
        ("./labels/", real.join("labels")),
        (".", real.clone()),
        ("missing/below", real.join("missing/below")),
        ("/dev/null", PathBuf::from("/dev/null")),
    ] {
        let loaded = temp.granting(host).unwrap();
        assert_eq!(loaded.policy.filesystem[0].host, at, "{host}");
    }
    // The real location of the file counts, not that of a link to it.
    fs::create_dir(temp.1.join("links")).unwrap();
    temp.granting("labels").unwrap();
    symlink("../policy.toml", temp.1.join("links/policy.toml")).unwrap();
    let loaded = Policy::load(&temp.1.join("links/policy.toml")).unwrap();
    assert_eq!(loaded.policy.filesystem[0].host, real.join("labels"));
}

#[test]
fn symbolic_links_in_grant_paths_are_refused() {
    let temp = TempFolder::new();
    fs::create_dir_all(temp.1.join("real/below")).unwrap();
    symlink("real", temp.1.join("link")).unwrap();
    symlink("/nowhere", temp.1.join("dangling")).unwrap();
    symlink("loop", temp.1.join("loop")).unwrap();
    symlink("/", temp.1.join("real/below/root")).unwrap();
    for (host, link) in [
        ("link", "link"),
        ("link/below", "link"),
        ("link/missing", "link"),
        ("dangling", "dangling"),
        ("loop/x", "loop"),
        ("real/below/root", "real/below/root"),
        ("real/below/root/etc", "real/below/root"),
        ("/proc/self/root/etc", "/proc/self"),
    ] {
        let error = temp.granting(host).unwrap_err().to_string();
        let link = temp.1.join(link);
        let named = format!("{} is a symbolic link", link.display());
        assert_says(&error, &["filesystem.host = ", &named, "hint: "]);
    }
    // Only the path of the folder is checked here; its content is checked when it is opened.
    temp.granting("real/below").unwrap();
    temp.file("plain", "");
    temp.granting("plain").unwrap();
    let error = temp.granting("plain/below").unwrap_err().to_string();
    assert_says(&error, &["plain/below", "cannot be accessed", "ot a directory"]);
}

#[test]
fn models_can_have_their_own_policies() {
    let temp = TempFolder::new();
    let other = "ff".repeat(32);
    let program = |policy: &str| {
        format!(
            "version = 1\nconfinement = \"best-effort\"\n[program]\n[limits]\nstack = \"1 MiB\"\n\
             [[models]]\nname = \"m\"\npath = \"m.onnx\"\nsha256 = \"{PIN}\"\n{policy}"
        )
    };
    let load = |text: &str| Policy::load(&temp.file("policy.toml", text));
    let loaded = load(&program("")).unwrap();
    assert_eq!(loaded.policy.models[0].path, Some(temp.1.join("m.onnx")));
    let rules = loaded.policy.for_model(&loaded.policy.models[0]).unwrap();
    assert_eq!((rules.limits.stack, rules.confinement), (1 << 20, Confinement::BestEffort));
    assert_eq!(rules.model.sha256, Some(loaded.policy.models[0].sha256));
    assert_eq!(rules.program, None);

    temp.file("m.toml", "version = 1\n[limits]\nstack = \"3 MiB\"");
    let loaded = load(&program("policy = \"m.toml\"")).unwrap();
    let grant = &loaded.policy.models[0];
    assert_eq!(grant.rules.as_ref().unwrap().source.path, temp.1.join("m.toml"));
    let rules = loaded.policy.for_model(grant).unwrap();
    // The stricter confinement of the two applies.
    assert_eq!((rules.limits.stack, rules.confinement), (3 << 20, Confinement::Strict));
    assert!(rules.model.sha256.is_some());
    // The model's files come only from its own policy, not from the program's.
    assert!(rules.filesystem.is_empty());
    temp.file("m.toml", &format!("version = 1\n[[filesystem]]\n{FILE}"));
    let text = program("policy = \"m.toml\"")
        + "\n[[filesystem]]\nhost = \"b\"\nguest = \"/b\"\nreason = \"r\"";
    let loaded = load(&text).unwrap();
    let rules = loaded.policy.for_model(&loaded.policy.models[0]).unwrap();
    let [file] = &rules.filesystem[..] else { panic!("{rules:?}") };
    assert_eq!((&file.host, &*file.guest), (&temp.1.join("a"), "/a"));
    // A policy file that was never read cannot be used.
    let parsed = Policy::parse(&program("policy = \"m.toml\""), "x").unwrap();
    assert_eq!(parsed.for_model(&parsed.models[0]), None);

    let refused = |inner: &str, says: &[&str]| {
        temp.file("m.toml", inner);
        let error = load(&program("policy = \"m.toml\"")).unwrap_err().to_string();
        assert_says(&error, says);
    };
    refused("version = 1\n[program]", &["models.policy", "a policy for a program"]);
    let writes = format!("version = 1\n[[filesystem]]\n{FILE}\naccess = \"write\"");
    refused(&writes, &["m.toml", "a model without a program may only read"]);
    std::os::unix::fs::symlink("/", temp.1.join("link")).unwrap();
    let linked = FILE.replace("\"a\"", "\"link/a\"");
    refused(&format!("version = 1\n[[filesystem]]\n{linked}"), &["link is a symbolic link"]);
    refused(&format!("version = 1\n[model]\nsha256 = \"{other}\""), &["pins a different model"]);
    refused("version = 1\n[limits]\nmemory = 1", &["m.toml:3:10", "limits.memory"]);
    temp.file("m.toml", &format!("version = 1\n[model]\nsha256 = \"{PIN}\""));
    load(&program("policy = \"m.toml\"")).unwrap();
    fs::set_permissions(temp.1.join("m.toml"), fs::Permissions::from_mode(0o666)).unwrap();
    let error = load(&program("policy = \"m.toml\"")).unwrap_err();
    assert!(matches!(error, PolicyError::Untrusted { .. }), "{error}");
    fs::set_permissions(temp.1.join("m.toml"), fs::Permissions::from_mode(0o644)).unwrap();
    assert!(load(&program("policy = \"missing.toml\"")).is_err());
    symlink("m.toml", temp.1.join("link.toml")).unwrap();
    let error = load(&program("policy = \"link.toml\"")).unwrap_err().to_string();
    assert_says(&error, &["models.policy", "link.toml is a symbolic link"]);
}

#[test]
fn model_files_can_be_pinned_and_program_files_cannot() {
    let text = |program: &str, sha256: &str| {
        format!("version = 1\n{program}\n[[filesystem]]\n{FILE}\nsha256 = \"{sha256}\"\n")
    };
    let policy = Policy::parse(&text("", PIN), "x").unwrap();
    assert_eq!(policy.filesystem[0].sha256.map(|pin| pin[1]), Some(0x11));
    let error = refused(&text("[program]", PIN));
    assert_says(&error, &["`sha256` pins a file of a model", "models.policy"]);
    let error = refused(&text("", "…"));
    assert_says(&error, &["filesystem.sha256", "hexadecimal", "sha256sum"]);
    let error = refused(&text("", &PIN[1..]));
    assert_says(&error, &["63 digits, not 64"]);
}

#[test]
fn models_of_a_program_get_the_stricter_rule_about_shapes() {
    let temp = TempFolder::new();
    for (of_program, of_model, wanted) in [
        ("report", "report", DeclaredShapes::Report),
        ("strict", "report", DeclaredShapes::Strict),
        ("report", "strict", DeclaredShapes::Strict),
    ] {
        temp.file("m.toml", &format!("version = 1\ndeclared-shapes = \"{of_model}\"\n"));
        let text = format!(
            "version = 1\ndeclared-shapes = \"{of_program}\"\n[program]\n[[models]]\nname = \"m\"\n\
             sha256 = \"{PIN}\"\npolicy = \"m.toml\"\n"
        );
        let policy = Policy::load(&temp.file("policy.toml", &text)).unwrap().policy;
        let rules = policy.for_model(&policy.models[0]).unwrap();
        assert_eq!(rules.declared_shapes, wanted, "{of_program} {of_model}");
    }
    assert_says(
        &refused("version = 1\ndeclared-shapes = \"loose\""),
        &["\"report\" or \"strict\""],
    );
}
