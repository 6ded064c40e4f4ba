//! Tests of the files of ceilings: what is refused in them, and who must own them.

use std::path::Path;

use super::super::ceiling::Ceilings;
use super::*;

fn bad(text: &str) -> String {
    let error = Ceiling::parse(text, "test.toml").expect_err(text).to_string();
    assert!((1..=3).contains(&error.lines().count()), "{error}");
    assert!(!error.chars().any(|c| c.is_control() && c != '\n'), "{error:?}");
    error
}

#[test]
fn ceilings_that_are_refused() {
    for (text, why) in [
        ("excess = \"allow\"", "not a valid value"),
        ("require-pin = \"yes\"", "a string, not a boolean"),
        ("require_pin = true", "did you mean `require-pin`?"),
        ("signers = [\"x\"]", "this build does not verify signatures"),
        ("signers = []", "this build does not verify signatures"),
        ("[model]\nsha256 = \"\"", "unknown key \"model\" in the top level"),
        ("[program]\nreason = \"r\"", "unknown key \"reason\" in [program]"),
        ("[program]\nenvironment = { A = \"x\" }", "a table, not a list"),
        ("[program]\nenvironment = [1]", "an integer, not a string"),
        ("[[filesystem]]\naccess = \"read\"", "`path` is missing in [[filesystem]]"),
        ("[[filesystem]]\npath = \"srv\"", "not absolute"),
        ("[[filesystem]]\npath = \"/srv/..\"", "contains `..`"),
        ("[[filesystem]]\nhost = \"/srv\"", "unknown key \"host\""),
        ("[[network]]\nhost = \"a\"", "`ports` is missing in [[network]]"),
        ("[[network]]\nports = [1]", "`host` is missing in [[network]]"),
        ("[[network]]\nhost = \"a.*\"", "a pattern"),
        ("[[network]]\nhost = \"**\"", "a pattern"),
        ("[[network]]\nhost = \"*.\"", "empty"),
        ("[[network]]\nhost = \"*.10.0.0.1\"", "a pattern cannot contain an address"),
        ("[[network]]\nports = 443", "an integer, not a list"),
        ("[[network]]\nports = [0]", "not a port or a range of ports"),
        ("[[network]]\nports = [\"9-8\"]", "not a port or a range of ports"),
        ("[[network]]\nports = [\"0-8\"]", "not a port or a range of ports"),
        ("[[network]]\nports = [\"80\"]", "not a port or a range of ports"),
        ("[[network]]\nports = [\"1-65536\"]", "not a port or a range of ports"),
        ("[limits]\nmemory = \"5 GiB\"", "leave the key out for 4 GiB"),
        ("[compute]\ndeterministic = true", "unknown key \"deterministic\""),
    ] {
        assert_says(&bad(&format!("version = 1\n{text}")), &["test.toml:", why, "hint: "]);
    }
    assert_says(&bad(""), &["`version` is missing"]);
}

#[test]
fn ceiling_files_have_the_same_ownership_rules_as_policies() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("ceiling.toml");
    std::fs::write(&path, "version = 1\n[limits]\nmemory = \"512 MiB\"").unwrap();
    let chmod = |mode| {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    chmod(0o644);
    let (ceiling, source) = Ceiling::load(&path).unwrap();
    assert_eq!(ceiling.limits.memory, 512 << 20);
    assert_eq!(source.path, path.canonicalize().unwrap());
    Ceilings::read(std::slice::from_ref(&path), false).unwrap();
    chmod(0o666);
    assert!(matches!(Ceilings::read(&[path], false), Err(PolicyError::Untrusted { .. })));
    let missing = Ceilings::read(&[Path::new("/does/not/exist.toml").into()], false);
    assert!(matches!(missing, Err(PolicyError::Read { .. })));
}
