//! Tests of `policy fmt`: the order, and that nothing else changes.

use super::super::format::canonical;
use super::*;
use proptest::prelude::*;

#[track_caller]
fn ordered(text: &str, expected: &str) {
    let found = canonical(text, "x").unwrap();
    assert_eq!(found, expected);
    assert_eq!(canonical(&found, "x").unwrap(), expected, "not stable");
}

#[test]
fn tables_and_keys_are_put_in_order_with_their_comments() {
    let text = r#"# What this file is for.
# Two lines of it.

# How strict.
confinement='best-effort' # same line
version=1


[compute]
  threads   =   2
deterministic = true

# Above the limits.
[limits]
# Long runs.
run-time = "1 h"


# Measured.
memory = "1 GiB"      # aligned
# At the end of the limits.

[model]
# No pin yet.
"#;
    let expected = r#"# What this file is for.
# Two lines of it.

version = 1
# How strict.
confinement = 'best-effort' # same line

[model]
# No pin yet.

# Above the limits.
[limits]
# Measured.
memory = "1 GiB"      # aligned
# Long runs.
run-time = "1 h"
# At the end of the limits.

[compute]
deterministic = true
threads = 2
"#;
    ordered(text, expected);
}

#[test]
fn lists_keep_their_order_and_long_values_their_lines() {
    let text = r#"version = 1
[[network]]
reason = "b"
host = "b"
port = 1
reaches = [
    "private", # inside

    "public",
]
[[filesystem]]
reason = """r"""
guest = "/a"
host = "a"
[[network]]
port = 1
reason = "a"
host = "a"
[program.environment]
B = "1"
A = "2"
[program]
reason = "r"
stdout = true
"#;
    let expected = r#"version = 1

[program]
stdout = true
reason = "r"

[program.environment]
B = "1"
A = "2"

[[filesystem]]
host = "a"
guest = "/a"
reason = """r"""

[[network]]
host = "b"
port = 1
reaches = [
    "private", # inside

    "public",
]
reason = "b"

[[network]]
host = "a"
port = 1
reason = "a"
"#;
    ordered(text, expected);
}

#[test]
fn unusual_spellings_are_formatted() {
    ordered("version=1", "version = 1\n");
    ordered(
        "\u{feff}version = 1\r\n\r\n[limits]\r\nstack=\"1 MiB\"\r\n",
        "version = 1\n\n[limits]\nstack = \"1 MiB\"\n",
    );
    ordered("limits.stack = \"1 MiB\"\nversion = 1\n", "version = 1\nlimits.stack = \"1 MiB\"\n");
    ordered(
        "compute = { threads = 2 }\nlimits = { stack = \"1 MiB\" }\nversion = 1",
        "version = 1\nlimits = { stack = \"1 MiB\" }\ncompute = { threads = 2 }\n",
    );
    ordered("\"version\" = 1 # x", "\"version\" = 1 # x\n");
    ordered(
        "version = 1 # [limits]\n[ limits ] # here\n",
        "version = 1 # [limits]\n\n[ limits ] # here\n",
    );
    ordered(
        "version = 1\n\n[program]\n\n# it\n[[models]]\nsha256 = \"PIN\"\nname = \"a\"\n"
            .replace("PIN", &"ab".repeat(32))
            .as_str(),
        "version = 1\n\n[program]\n\n# it\n[[models]]\nname = \"a\"\nsha256 = \"PIN\"\n"
            .replace("PIN", &"ab".repeat(32))
            .as_str(),
    );
    ordered("version = 1\n[program]\n[limits]\n", "version = 1\n\n[program]\n\n[limits]\n");
    ordered("# only\n\nversion = 1\n# end\n", "# only\n\nversion = 1\n# end\n");
    assert!(canonical("version = 2", "x").is_err());
}

#[test]
fn the_shipped_policies_are_in_order() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../policies");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let text = std::fs::read_to_string(&path).unwrap();
            assert_eq!(canonical(&text, "x").unwrap(), text, "{}", path.display());
            seen += 1;
        }
    }
    assert!(seen >= 9, "{seen}");
}

#[test]
fn a_starting_policy_is_in_order() {
    let text = starting_policy(&Measured {
        model_name: "model.onnx".to_owned(),
        sha256: "a".repeat(64),
        model_size: 1,
        peak_memory: 1 << 28,
        prepare_time: std::time::Duration::from_secs(1),
        run_time: std::time::Duration::from_secs(1),
        input_bytes: 1,
        output_bytes: 1,
    });
    ordered(&text, &text);
}

proptest! {
    #[test]
    fn formatting_loses_nothing_and_keeps_the_meaning(
        tables in Just(vec![
            "[limits]\nstack = \"1 MiB\" # one\n# two\n\nmemory = \"1 GiB\"\n",
            "# three\n[compute]\nthreads = 3\n",
            "\n# four\n\n[[filesystem]]\nreason = \"r\"\nhost = \"a\"\nguest = \"/a\"\n",
            "[program] # five\nenvironment = { A = \"=\" }\nreason = \"# no comment\"\n",
            "[[network]]\nport = 1\n\n# six\nhost = \"a\"\nreason = '''[x]'''\n",
            "[quotas]\nconnections = 1\n# seven\n",
        ]).prop_shuffle(),
        count in 0_usize..=6,
    ) {
        let text = format!("# zero\nversion = 1\n{}", tables[..count].concat());
        if let Ok(policy) = Policy::parse(&text, "x") {
            let found = canonical(&text, "x").unwrap();
            prop_assert_eq!(Policy::parse(&found, "x").unwrap(), policy);
            prop_assert_eq!(&canonical(&found, "x").unwrap(), &found);
            let lines = |text: &str| {
                let mut lines: Vec<String> = text.lines().map(str::trim).filter(|l| !l.is_empty()).map(str::to_owned).collect();
                lines.sort();
                lines
            };
            prop_assert_eq!(lines(&found), lines(&text));
        }
    }
}
