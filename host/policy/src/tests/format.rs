use std::time::Duration;

use super::*;
use proptest::prelude::*;

const FULL: &str = r#"
version = 1
[model]
sha256 = "00112233445566778899AABBCCDDEEFFffeeddccbbaa99887766554433221100"
[limits]
memory = "512 MiB"
run-time = "10 s"
prepare-time = "1 min"
model-size = "1 GB"
input-size = "64MiB"
output-size = "0.5 MiB"
log-size = "64 KiB"
stack = "2 MiB"
snapshots = 0x10
[compute]
deterministic = true
"#;

#[test]
fn every_key_is_read() {
    let policy = Policy::parse(FULL, "x").unwrap();
    let digest = policy.model.sha256.unwrap();
    assert_eq!(digest[..2], [0x00, 0x11]);
    assert_eq!(digest[10], 0xaa);
    assert!(policy.model.accepts(&digest));
    assert!(!policy.model.accepts(&[0; 32]));
    assert!(policy.compute.deterministic);
    assert_eq!(
        policy.limits,
        Limits {
            memory: 512 << 20,
            run_time: Duration::from_secs(10),
            prepare_time: Duration::from_secs(60),
            model_size: 1_000_000_000,
            input_size: 64 << 20,
            output_size: 512 << 10,
            log_size: 64 << 10,
            stack: 2 << 20,
            snapshots: 16,
        }
    );
}

#[test]
fn absent_key_is_the_default() {
    for text in [
        "version = 1",
        "version = 1\n[limits]\n[model]\n[compute]",
        "version = 0x1\r\nlimits = {}",
        "\u{feff}version = 1",
    ] {
        assert_eq!(Policy::parse(text, "x").unwrap(), Policy::default(), "{text}");
    }
    let policy = Policy::parse("version = 1\nlimits.stack = \"1 MiB\"", "x").unwrap();
    assert_eq!(policy.limits, Limits { stack: 1 << 20, ..Limits::default() });
    assert!(Policy::default().model.accepts(&[7; 32]));
    Limits::default().check().unwrap();
}

#[test]
fn version() {
    assert_says(&refused(""), &["test.toml:1:1", "`version` is missing", "version = 1"]);
    // A later version is reported as an unsupported version, not as an unknown key.
    let later = "network = []\nversion = 2\n";
    assert_says(&refused(later), &["test.toml:2:11", "policy version 2 is not", "version = 1"]);
    for odd in ["\"1\"", "1.0", "true", "-1", "[1]", "{x=1}", "99999999999999999999999999"] {
        assert_says(&refused(&format!("version = {odd}")), &["is not supported"]);
    }
}

#[test]
fn unknown_keys() {
    for (text, parts) in [
        ("[limits]\nmemroy = \"1 GiB\"", ["2:1", "did you mean `memory`?", "`run-time`"]),
        ("[limits]\nrun_time = \"1 s\"", ["2:1", "did you mean `run-time`?", "`stack`"]),
        ("memory = \"1 GiB\"", ["1:1", "`memory` belongs to [limits]", "`compute`"]),
        (
            "[[filesystem]]\npath = \"/\"",
            ["2:1", "unknown key \"path\" in [[filesystem]]", "`guest`"],
        ),
        ("[[devices]]\nname = \"x\"", ["1:3", "unknown key \"devices\"", "`limits`"]),
        ("[ports]\nlisten = 1", ["1:2", "unknown key \"ports\" in the top level", "`model`"]),
        ("[limit]\nmemory = \"1 GiB\"", ["1:2", "did you mean `limits`?", "`limits`"]),
        ("[model]\nsha = \"\"", ["2:1", "unknown key \"sha\" in [model]", "`sha256`"]),
        ("[compute]\nkernel = \"native\"", ["2:1", "in [compute]", "did you mean `kernels`?"]),
        ("model = { size = 1 }", ["1:11", "unknown key \"size\"", "`sha256`"]),
        ("\"\" = 1", ["1:1", "unknown key \"\"", "`version`"]),
        ("\"version \" = 1", ["1:1", "unknown key \"version \"", "did you mean `version`?"]),
    ] {
        let text = if text.starts_with('[') {
            let error = refused(&format!("version = 1\n{text}"));
            // The line of the version was added at the top.
            let (line, rest) = parts[0].split_once(':').unwrap();
            let line: usize = line.parse().unwrap();
            assert_says(&error, &[&format!("test.toml:{}:{rest}", line + 1)]);
            error
        } else {
            refused(&format!("{text}\nversion = 1"))
        };
        assert_says(&text, &parts[1..]);
    }
}

#[test]
fn values_out_of_bounds_or_shape() {
    for (line, why) in [
        ("memory = \"0\"", "zero would let nothing run; the minimum is 32 MiB"),
        ("memory = \"0 GiB\"", "zero would let nothing run"),
        ("memory = \"31 MiB\"", "below the minimum of 32 MiB"),
        ("memory = \"4.1 GiB\"", "not a whole number of bytes"),
        ("memory = \"5 GiB\"", "above the maximum of 4 GiB"),
        ("memory = \"-1 GiB\"", "negative"),
        ("memory = \"unlimited\"", "unlimited is not supported"),
        ("memory = \"512\"", "no unit"),
        ("memory = \"99999999999999999999 GiB\"", "too large to represent"),
        ("memory = \"\"", "empty"),
        ("memory = 512", "an integer, not a string with a unit"),
        ("memory = -1", "an integer, not a string"),
        ("memory = inf", "a float, not a string"),
        ("memory = 1e999", "a float, not a string"),
        ("memory = true", "a boolean, not a string"),
        ("memory = []", "an array, not a string"),
        ("memory.max = 1", "a table, not a string"),
        ("memory = 1979-05-27", "a date, not a string"),
        ("run-time = \"0 s\"", "zero would let nothing run; the minimum is 1 ms"),
        ("run-time = \"0.5 ms\"", "below the minimum of 1 ms"),
        ("run-time = \"25 h\"", "above the maximum of 24 h"),
        ("run-time = \"10 MiB\"", "unknown unit"),
        ("prepare-time = \"2 days\"", "unknown unit"),
        ("stack = \"17 MiB\"", "above the maximum of 16 MiB"),
        ("stack = \"255 KiB\"", "below the minimum of 256 KiB"),
        ("log-size = \"1 GiB\"", "above the maximum of 16 MiB"),
        ("log-size = \"1 B\"", "below the minimum of 1 KiB"),
        ("model-size = \"5 GiB\"", "above the maximum of 4 GiB"),
        ("input-size = \"5 GiB\"", "above the maximum of 4 GiB"),
        ("output-size = \"5 GiB\"", "above the maximum of 4 GiB"),
        ("snapshots = 0", "zero would let nothing run; the minimum is 1"),
        ("snapshots = 65", "above the maximum of 64"),
        ("snapshots = -1", "not a valid count"),
        ("snapshots = 99999999999999999999", "not a valid count"),
        ("snapshots = 1.0", "a float, not an integer"),
        ("snapshots = \"4\"", "a string, not an integer"),
    ] {
        let key = line.split([' ', '.']).next().unwrap();
        let error = refused(&format!("version = 1\n[limits]\n{line}\n"));
        assert_says(&error, &["test.toml:3:", &format!("limits.{key} = "), why, "hint: ", "from "]);
    }
    let error = refused("version = 1\n[limits]\nmemory = \"5 GiB\"");
    assert_says(&error, &["test.toml:3:10: limits.memory = \"5 GiB\": above the maximum of 4 GiB"]);
}

#[test]
fn bounds_themselves_are_accepted() {
    for line in [
        "memory = \"32 MiB\"",
        "memory = \"4 GiB\"",
        "run-time = \"1 ms\"",
        "prepare-time = \"24 h\"",
        "input-size = \"1 B\"",
        "output-size = \"4 GiB\"",
        "log-size = \"16 MiB\"",
        "stack = \"256 KiB\"",
        "snapshots = 1",
        "snapshots = 64",
    ] {
        Policy::parse(&format!("version = 1\n[limits]\n{line}"), "x").unwrap();
    }
}

#[test]
fn digests() {
    for (value, why) in [
        ("\"\"".to_owned(), "0 digits, not 64"),
        (format!("\"{}\"", "a".repeat(63)), "63 digits, not 64"),
        (format!("\"{}\"", "a".repeat(65)), "65 digits, not 64"),
        (format!("\"{}g\"", "a".repeat(63)), "\"g\" is not a hexadecimal digit"),
        (format!("\"{}+1\"", "a".repeat(62)), "\"+\" is not a hexadecimal digit"),
        (format!("\"{}\"", "é".repeat(32)), "\"é\" is not a hexadecimal digit"),
        (format!("\"sha256:{}\"", "a".repeat(64)), "is not a hexadecimal digit"),
        ("5".to_owned(), "an integer, not a string"),
    ] {
        let error = refused(&format!("version = 1\n[model]\nsha256 = {value}"));
        assert_says(&error, &["3:10", "model.sha256", why, "sha256sum"]);
    }
}

#[test]
fn other_shapes() {
    let error = refused("version = 1\n[compute]\nkernels = \"gpu\"");
    assert_says(&error, &["3:11", "compute.kernels", "\"native\" or \"sandbox\""]);
    let error = refused("version = 1\n[compute]\nkernels = true");
    assert_says(&error, &["3:11", "compute.kernels", "not a string"]);
    let error = refused("version = 1\n[compute]\ndeterministic = \"yes\"");
    assert_says(&error, &["3:17", "compute.deterministic", "a string, not a boolean"]);
    let error = refused("version = 1\n[[limits]]\nmemory = \"1 GiB\"");
    assert_says(&error, &["2:3", "an array, not a table", "[limits]"]);
    assert_says(&refused("version = 1\nmodel = \"x\""), &["2:1", "a string, not a table"]);
}

#[test]
fn syntax() {
    for text in [
        "version = 1\nversion = 1",
        "version = 1\n[limits]\nstack = \"1 MiB\"\nstack = \"2 MiB\"",
        "version = 1\n[limits]\n[limits]",
        "version = 1\n[limits]\nmemory = 512 MiB",
        "version = 1\n[limits",
        "version = 1\nx = \"\u{0}\"",
        "version = 1\n# \u{1b}[31m",
    ] {
        assert_says(&refused(text), &["test.toml:", "not well-formed TOML", "hint: "]);
    }
    assert_says(&refused("version = 1\n[limits]\nmemory = 512 MiB"), &["test.toml:3:"]);
}

#[test]
fn untrusted_text_is_always_escaped() {
    let ugly = "\\u001b[2J\\u202e\\n\\r\\u0000";
    let long = "x".repeat(100_000);
    for text in [
        format!("version = 1\n\"{ugly}\" = 1"),
        format!("version = 1\n[limits]\nmemory = \"{ugly}\""),
        "version = 1\n[limits]\nmemory = \"\u{202e}\u{9b}\"".to_owned(),
        format!("version = 1\n[model]\nsha256 = \"{ugly}\""),
        format!("version = \"{ugly}\""),
        format!("version = 1\n{long} = 1"),
        format!("version = 1\n[limits]\nmemory = \"{long}\""),
        format!("version = 1\n[limits]\nmemory = \"\"\"\n\n\n{long}\"\"\""),
        format!("version = {}", "9".repeat(100_000)),
    ] {
        let error = refused(&text);
        assert!(!error.contains('\u{202e}'), "{error}");
    }
    let error = Policy::parse("", "evil\u{1b}\n\u{202e}.toml").unwrap_err().to_string();
    assert!(error.starts_with("evil\\u{1b}\\n\\u{202e}.toml:1:1"), "{error}");
}

#[test]
fn deeply_nested_and_large_text_is_refused_quickly() {
    let refused = |text: &str| {
        let started = std::time::Instant::now();
        refused(text);
        // Generous, for slow machines and debug builds; a quadratic parser would take minutes.
        let took = started.elapsed();
        assert!(took < Duration::from_secs(10), "{took:?} for {}", &text[..30]);
    };
    let megabyte = 1 << 20;
    for unit in
        ["[", "a.", "{a=", "[a.", "a=1\n", "\"", "#", "[[a]]\n", "a.b.c=", "\n", "\\", "'''"]
    {
        let text = unit.repeat(megabyte / unit.len());
        refused(&text);
        refused(&format!("version = 1\nx = {text}"));
        refused(&format!("[{text}"));
    }
    let keys: String = (0..60_000).map(|i| format!("k{i} = {i}\n")).collect();
    refused(&keys);
    let tables: String = (0..40_000).map(|i| format!("[a.b.c.k{i}]\n")).collect();
    refused(&tables);
}

#[test]
fn limits_set_in_code_are_checked() {
    let limits = Limits { memory: 5 << 30, ..Limits::default() };
    let error = limits.check().unwrap_err().to_string();
    assert_says(&error, &["limit memory = 5 GiB", "above the maximum of 4 GiB"]);
    let limits = Limits { run_time: Duration::MAX, ..Limits::default() };
    assert_says(&limits.check().unwrap_err().to_string(), &["limit run-time"]);
    let limits = Limits { stack: 0, ..Limits::default() };
    assert_says(&limits.check().unwrap_err().to_string(), &["zero"]);
}

/// Lines that reach every branch of the reader more often than random text does.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("version = 1\n".to_owned()),
        Just("[limits]\n".to_owned()),
        Just("[model]\n".to_owned()),
        Just("[compute]\n".to_owned()),
        Just("[[network]]\n".to_owned()),
        Just("[[filesystem]]\n".to_owned()),
        Just("[[models]]\n".to_owned()),
        Just("[program]\n".to_owned()),
        Just("[quotas]\n".to_owned()),
        Just("reason = \"r\"\n".to_owned()),
        "(host|guest|path|name|policy) = \"[a-z./*:0]{0,9}\"\n",
        "(port|connections|protocol|access|reaches|clocks|environment) = ([0-9]{1,6}|true|\"(tcp|udp|read|write)\"|\\[\"(public|private)\"\\]|\\{ [A-Z=]{1,3} = \"\" \\})\n",
        "(memory|run-time|stack|sha256|deterministic|version) = (\"[0-9.]{0,25} ?[a-zA-Z]{0,4}\"|-?[0-9a-fx_.]{1,9}|true|\\{\\}|\\[\\])\n",
        "[a-z.\"'={}\\[\\]# \\\\\n\r\t0-9]{0,20}",
        any::<String>(),
    ]
}

proptest! {
    #[test]
    fn parse_never_panics(text in any::<String>()) {
        if let Err(error) = Policy::parse(&text, "x") {
            prop_assert!(error.to_string().lines().count() <= 3);
        }
    }

    #[test]
    fn accepted_policies_are_within_bounds(pieces in prop::collection::vec(piece(), 0..16)) {
        match Policy::parse(&format!("version = 1\n{}", pieces.concat()), "x") {
            Ok(policy) => {
                policy.limits.check().unwrap();
                policy.quotas.check().unwrap();
                for grant in &policy.filesystem {
                    prop_assert!(!grant.host.to_string_lossy().contains(".."));
                    prop_assert!(grant.guest.starts_with('/') && !grant.guest.contains("//"));
                }
                prop_assert!(policy.network.iter().all(|g| g.port != 0 && !g.reaches.is_empty()));
            }
            Err(error) => {
                let text = error.to_string();
                prop_assert!(text.lines().count() <= 3);
                prop_assert!(!text.chars().any(|c| c.is_control() && c != '\n'));
            }
        }
    }
}

#[test]
fn kernels_are_native_unless_the_policy_says_otherwise() {
    let native = |text: &str| {
        Policy::parse(&format!("version = 1\n[compute]\n{text}"), "test")
            .unwrap()
            .compute
            .native_kernels()
    };
    assert!(native("") && native("kernels = \"native\""));
    assert!(!native("kernels = \"sandbox\""));
    assert!(
        !native("deterministic = true") && !native("deterministic = true\nkernels = \"native\"")
    );
}

#[test]
fn threads_are_one_unless_the_policy_says_otherwise() {
    let threads = |text: &str| {
        Policy::parse(&format!("version = 1\n[compute]\n{text}"), "test").unwrap().compute.threads
    };
    assert_eq!((threads(""), threads("threads = 1"), threads("threads = 64")), (1, 1, 64));
    for wrong in ["0", "65", "-1", "4294967296"] {
        let error = refused(&format!("version = 1\n[compute]\nthreads = {wrong}"));
        assert_says(&error, &["3:11", "compute.threads", "1 to 64"]);
    }
    let error = refused("version = 1\n[compute]\nthreads = \"2\"");
    assert_says(&error, &["3:11", "compute.threads", "a string, not a number"]);
}
