//! Tests of grants: every key, and every error.

use std::path::Path;

use super::*;

pub(super) const PIN: &str = "00112233445566778899aabbccddeeffffeeddccbbaa99887766554433221100";

const FULL: &str = r#"
version = 1
[program]
sha256 = "00112233445566778899aabbccddeeffffeeddccbbaa99887766554433221100"
stdout = true
stderr = true
clocks = true
randomness = true
arguments = true
environment = { LANG = "C", _X1 = "" }
reason = "stamps its answers"
[[models]]
name = "magika"
path = "magika.onnx"
sha256 = "00112233445566778899aabbccddeeffffeeddccbbaa99887766554433221100"
policy = "./magika.toml"
[[models]]
name = "brought along"
sha256 = "ff112233445566778899aabbccddeeffffeeddccbbaa99887766554433221100"
[[filesystem]]
host = "labels//de/"
guest = "/labels"
access = "read"
reason = " names of the classes "
[[filesystem]]
host = "/srv/out"
guest = "/out"
access = "write"
reason = "answers"
[[network]]
host = "Features.example.com"
port = 6379
protocol = "tcp"
reaches = ["loopback", "public"]
reason = "features of a user"
[[network]]
host = "::ffff:10.0.0.7"
port = 53
protocol = "udp"
reaches = ["private"]
reason = "names"
[quotas]
bytes-written = "1 GiB"
files-created = 0
open-handles = 7
connections = 2
bytes-sent = "0"
bytes-received = "1 MiB"
"#;

#[test]
fn every_grant_is_read() {
    let policy = Policy::parse(FULL, "x").unwrap();
    let program = policy.program.clone().unwrap();
    assert_eq!(program.sha256.unwrap()[1], 0x11);
    assert!(program.accepts(&program.sha256.unwrap()) && !program.accepts(&[0; 32]));
    assert!(program.stdout && program.stderr && program.clocks);
    assert!(program.randomness && program.arguments);
    assert_eq!(program.environment.len(), 2);
    assert_eq!(program.environment["LANG"], "C");
    assert_eq!(program.reason.as_deref(), Some("stamps its answers"));

    assert_eq!(policy.models.len(), 2);
    assert_eq!(policy.models[0].path.as_deref(), Some(Path::new("magika.onnx")));
    assert_eq!(policy.models[0].policy.as_deref(), Some(Path::new("magika.toml")));
    assert_eq!((&policy.models[1].path, &policy.models[1].policy), (&None, &None));

    assert_eq!(policy.filesystem[0].host, Path::new("labels/de"));
    assert_eq!(policy.filesystem[0].reason, "names of the classes");
    assert_eq!(policy.filesystem[0].access, Access::Read);
    assert_eq!(policy.filesystem[1].access, Access::Write);

    let [name, address] = &policy.network[..] else { panic!() };
    assert_eq!(name.host, Peer::Name("features.example.com".into()));
    assert_eq!(name.reaches, [AddressKind::Public, AddressKind::Loopback]);
    assert!(name.reaches("8.8.8.8".parse().unwrap()) && name.reaches("::1".parse().unwrap()));
    assert!(!name.reaches("10.0.0.7".parse().unwrap()));
    assert!(!name.reaches("::ffff:169.254.169.254".parse().unwrap()));
    assert_eq!((address.port, address.protocol), (53, Protocol::Udp));
    assert!(address.reaches("10.0.0.7".parse().unwrap()));
    assert!(address.reaches("::ffff:10.0.0.7".parse().unwrap()));
    assert!(!address.reaches("10.0.0.8".parse().unwrap()));

    let quotas = Quotas {
        bytes_written: 1 << 30,
        files_created: 0,
        open_handles: 7,
        connections: 2,
        bytes_sent: 0,
        bytes_received: 1 << 20,
    };
    assert_eq!(policy.quotas, quotas);
    quotas.check().unwrap();
}

#[test]
fn nothing_is_granted_by_default() {
    let policy = Policy::parse("version = 1\n[program]", "x").unwrap();
    assert_eq!(policy.program, Some(Program::default()));
    assert_eq!(policy.quotas, Quotas::default());
    assert!(policy.models.is_empty() && policy.filesystem.is_empty() && policy.network.is_empty());
    assert_eq!(Policy::parse("version = 1", "x").unwrap().program, None);
    let text = format!(
        "version = 1\n[program]\n[[filesystem]]\n{FILE}\n[[network]]\nhost = \"a\"\nport = 1\n\
         reason = \"r\""
    );
    let policy = Policy::parse(&text, "x").unwrap();
    assert_eq!(policy.filesystem[0].access, Access::Read);
    assert_eq!(policy.network[0].protocol, Protocol::Tcp);
    assert_eq!(policy.network[0].reaches, [AddressKind::Public]);
}

pub(super) const FILE: &str = "host = \"a\"\nguest = \"/a\"\nreason = \"r\"";

/// A policy for a program with one entry of a list, in which one line is replaced or added.
fn with(table: &str, entry: &str, line: &str) -> String {
    let key = line.split(' ').next().unwrap();
    let kept: Vec<&str> = entry.lines().filter(|l| l.split(' ').next() != Some(key)).collect();
    format!("version = 1\n[program]\n[[{table}]]\n{}\n{line}\n", kept.join("\n"))
}

#[test]
fn files_that_are_refused() {
    Policy::parse(&with("filesystem", FILE, "access = \"read\""), "x").unwrap();
    for (line, why) in [
        ("host = \"\"", "empty"),
        ("host = \"..\"", "contains `..`"),
        ("host = \"a/../b\"", "contains `..`"),
        ("host = \"/a/..\"", "contains `..`"),
        ("host = \"a\\u0000b\"", "contains a NUL byte"),
        ("host = \"a\\nb\"", "an invisible character"),
        ("host = 5", "an integer, not a string"),
        ("guest = \"\"", "empty"),
        ("guest = \"a\"", "not absolute"),
        ("guest = \"/a/\"", "contains an extra slash"),
        ("guest = \"//a\"", "contains an extra slash"),
        ("guest = \"/a//b\"", "contains an extra slash"),
        ("guest = \"/./a\"", "contains `.`"),
        ("guest = \"/a/../b\"", "contains `..`"),
        ("guest = \"/a\\u0000\"", "contains a NUL byte"),
        ("access = \"execute\"", "not a valid value"),
        ("access = true", "a boolean, not a string"),
        ("reason = \"\"", "empty"),
        ("reason = \" \\t \"", "empty"),
        ("reason = \"a\\nb\"", "contains a line break"),
        ("reason = \"a\\u2028b\"", "contains a line break"),
        ("reason = \"a\\u202eb\"", "an invisible character"),
        ("host = \"a\\u200bb\"", "an invisible character"),
        ("reason = 1", "an integer, not a string"),
        ("mode = \"read\"", "unknown key \"mode\" in [[filesystem]]"),
        ("acess = \"read\"", "did you mean `access`?"),
    ] {
        assert_says(&refused(&with("filesystem", FILE, line)), &["test.toml:", why, "hint: "]);
    }
    let error = refused(&with("filesystem", FILE, "host = \"a/../b\""));
    assert_says(&error, &["test.toml:6:8: filesystem.host = \"a/../b\": contains `..`"]);
    let long = format!("host = \"{}\"", "x/".repeat(3000));
    assert_says(&refused(&with("filesystem", FILE, &long)), &["longer than 4095"]);
    let long = format!("reason = \"{}\"", "x".repeat(501));
    assert_says(&refused(&with("filesystem", FILE, &long)), &["longer than 500"]);
}

#[test]
fn missing_keys_are_named_with_their_table() {
    for (key, rest) in [
        ("host", "guest = \"/a\"\nreason = \"r\""),
        ("guest", "host = \"a\"\nreason = \"r\""),
        ("reason", "host = \"a\"\nguest = \"/a\""),
    ] {
        let error = refused(&format!("version = 1\n[program]\n[[filesystem]]\n{rest}"));
        assert_says(&error, &["test.toml:3:1: ", &format!("`{key}` is missing in [[filesystem]]")]);
    }
    for (key, rest) in [
        ("host", "port = 1\nreason = \"r\""),
        ("port", "host = \"a\"\nreason = \"r\""),
        ("reason", "host = \"a\"\nport = 1"),
    ] {
        let error = refused(&format!("version = 1\n[program]\n[[network]]\n{rest}"));
        assert_says(&error, &["test.toml:3:1: ", &format!("`{key}` is missing in [[network]]")]);
    }
    let error = refused("version = 1\n[program]\n[[models]]\nname = \"a\"");
    assert_says(&error, &["test.toml:3:1: ", "`sha256` is missing in [[models]]"]);
    let error = refused(&format!("version = 1\n[program]\n[[models]]\nsha256 = \"{PIN}\""));
    assert_says(&error, &["`name` is missing in [[models]]"]);
    for line in ["clocks = true", "randomness = true", "arguments = true", "environment = {A=\"\"}"]
    {
        let error = refused(&format!("version = 1\n[program]\nstdout = true\n{line}"));
        assert_says(&error, &["test.toml:4:1: ", "`reason` is missing in [program]"]);
        Policy::parse(&format!("version = 1\n[program]\n{line}\nreason = \"r\""), "x").unwrap();
    }
    for line in ["clocks = false", "environment = {}", "stdout = true\nstderr = true"] {
        Policy::parse(&format!("version = 1\n[program]\n{line}"), "x").unwrap();
    }
}

#[test]
fn guest_paths_do_not_overlap() {
    let both = |a: &str, b: &str| {
        format!(
            "version = 1\n[program]\n[[filesystem]]\nhost = \"a\"\nguest = \"{a}\"\nreason = \"r\"\n\
             [[filesystem]]\nhost = \"b\"\nguest = \"{b}\"\nreason = \"r\"\n"
        )
    };
    for (a, b) in [("/a", "/a"), ("/a", "/a/b"), ("/a/b", "/a"), ("/", "/a"), ("/a", "/")] {
        let error = refused(&both(a, b));
        assert_says(
            &error,
            &["test.toml:9:9", "filesystem.guest", &format!("the grant of \"{a}\"")],
        );
    }
    for (a, b) in [("/a", "/b"), ("/a", "/ab"), ("/a/b", "/a/c"), ("/a", "/A")] {
        Policy::parse(&both(a, b), "x").unwrap();
    }
}

#[test]
fn peers_that_are_refused() {
    const PEER: &str = "host = \"a.example\"\nport = 1\nreason = \"r\"";
    Policy::parse(&with("network", PEER, "port = 65535"), "x").unwrap();
    for (line, why) in [
        ("host = \"*.example.com\"", "a pattern"),
        ("host = \"bücher.example\"", "not ASCII"),
        ("host = \"127.1\"", "not a valid IPv4 address"),
        ("host = \"127.0.0.1\"", "a loopback address, and `reaches` does not list that kind"),
        ("host = \"::ffff:127.0.0.1\"", "a loopback address"),
        ("host = \"10.0.0.1\"", "a private address"),
        ("host = \"169.254.169.254\"", "a link-local address"),
        ("host = \"0.0.0.0\"", "an address that cannot be granted"),
        ("host = 1", "an integer, not a string"),
        ("port = 0", "not a port"),
        ("port = 65536", "not a port"),
        ("port = -1", "not a port"),
        ("port = \"80\"", "a string, not an integer"),
        ("port = 80.0", "a float, not an integer"),
        ("protocol = \"sctp\"", "not a valid value"),
        ("reaches = []", "an empty list"),
        ("reaches = \"public\"", "a string, not a list"),
        ("reaches = [\"public\", \"public\"]", "listed twice"),
        ("reaches = [\"never\"]", "not a valid value"),
        ("reaches = [1]", "an integer, not a string"),
        ("ports = [80]", "did you mean `port`?"),
    ] {
        assert_says(&refused(&with("network", PEER, line)), &["test.toml:", why, "hint: "]);
    }
    let twice = format!("version = 1\n[program]\n[[network]]\n{PEER}\n[[network]]\n{PEER}\n");
    assert_says(&refused(&twice), &["test.toml:8:8", "already granted"]);
    let both = twice.replacen("port = 1", "port = 1\nprotocol = \"udp\"", 1);
    assert_eq!(Policy::parse(&both, "x").unwrap().network.len(), 2);
}

#[test]
fn models_and_environments_that_are_refused() {
    let model = format!("name = \"a\"\nsha256 = \"{PIN}\"");
    for (line, why) in [
        ("name = \"\"", "empty"),
        ("name = \"a\\nb\"", "an invisible character"),
        ("name = 1", "an integer, not a string"),
        ("path = \"../a.onnx\"", "contains `..`"),
        ("path = \"\"", "empty"),
        ("policy = \"a/../b\"", "contains `..`"),
        ("sha256 = \"abc\"", "3 digits, not 64"),
        ("digest = \"abc\"", "unknown key \"digest\" in [[models]]"),
    ] {
        assert_says(&refused(&with("models", &model, line)), &["test.toml:", why, "hint: "]);
    }
    let twice = format!("version = 1\n[program]\n[[models]]\n{model}\n[[models]]\n{model}");
    assert_says(&refused(&twice), &["test.toml:7:8", "another model has this name"]);
    for (value, why) in [
        ("[\"A=B\"]", "an array, not a table"),
        ("{ \"\" = \"x\" }", "is not a valid variable name"),
        ("{ 1A = \"x\" }", "is not a valid variable name"),
        ("{ \"A=B\" = \"x\" }", "is not a valid variable name"),
        ("{ \"A\\u0000\" = \"x\" }", "is not a valid variable name"),
        ("{ A = 1 }", "an integer, not a string"),
        ("{ A = \"\\u0000\" }", "contains a NUL byte"),
    ] {
        let text = format!("version = 1\n[program]\nreason = \"r\"\nenvironment = {value}");
        assert_says(&refused(&text), &["test.toml:4:", "program.environment", why]);
    }
}

#[test]
fn grants_need_a_program() {
    let network = "[[network]]\nhost = \"a\"\nport = 1\nreason = \"r\"";
    let models = format!("[[models]]\nname = \"a\"\nsha256 = \"{PIN}\"");
    for text in [network, &models, "[quotas]\nconnections = 1", "[quotas]"] {
        let error = refused(&format!("version = 1\n{text}"));
        assert_says(&error, &["test.toml:2:", "only guest programs can use this", "[program]"]);
        for order in [format!("[program]\n{text}"), format!("{text}\n[program]")] {
            Policy::parse(&format!("version = 1\n{order}"), "x").unwrap();
        }
    }
    // A model may only read external data.
    let read = format!("version = 1\n[[filesystem]]\n{FILE}");
    assert_eq!(Policy::parse(&read, "x").unwrap().filesystem.len(), 1);
    let write = format!("{read}\naccess = \"write\"");
    assert_says(&refused(&write), &["test.toml:2:3", "may only read"]);
    let both = format!("version = 1\n[program]\n[model]\nsha256 = \"{PIN}\"");
    assert_says(&refused(&both), &["3:2", "for a model or for a program", "program.sha256"]);
}

#[test]
fn lists_are_bounded() {
    let entry =
        |i: usize| format!("[[filesystem]]\nhost = \"a\"\nguest = \"/a{i}\"\nreason = \"r\"\n");
    let text =
        |n: usize| format!("version = 1\n[program]\n{}", (0..n).map(entry).collect::<String>());
    assert_eq!(Policy::parse(&text(MAX_GRANTS), "x").unwrap().filesystem.len(), MAX_GRANTS);
    assert_says(&refused(&text(MAX_GRANTS + 1)), &["257 entries; the maximum is 256"]);
    for (text, why) in [
        ("[filesystem]\nhost = \"a\"", "a table, not a list of tables"),
        ("filesystem = [1]", "an integer, not a list of tables"),
        ("network = \"x\"", "a string, not a list of tables"),
        ("[[program]]", "an array, not a table"),
        ("[[quotas]]", "an array, not a table"),
    ] {
        assert_says(&refused(&format!("version = 1\n{text}")), &["test.toml:2:", why, "hint: "]);
    }
}

#[test]
fn quotas_out_of_bounds() {
    for (line, why) in [
        ("bytes-written = \"2000 GiB\"", "above the maximum of 1024 GiB"),
        ("bytes-written = 5", "an integer, not a string with a unit"),
        ("files-created = 1000001", "above the maximum of 1000000"),
        ("files-created = -1", "not a valid count"),
        ("open-handles = 513", "above the maximum of 512"),
        ("connections = 65536", "above the maximum of 65535"),
        ("bytes-sent = \"unlimited\"", "unlimited is not supported"),
        ("bytes-received = \"1\"", "no unit"),
        ("bytes-recieved = \"1 B\"", "did you mean `bytes-received`?"),
    ] {
        let error = refused(&format!("version = 1\n[program]\n[quotas]\n{line}"));
        assert_says(&error, &["test.toml:4:", why, "hint: "]);
    }
}

#[test]
fn untrusted_grants_are_always_escaped() {
    let ugly = "\\u001b[2J\\u202e\\n\\r";
    for text in [
        format!("[program]\nreason = \"{ugly}\""),
        format!("[program]\nenvironment = {{ \"{ugly}\" = \"\" }}"),
        format!("[program]\n[[filesystem]]\nhost = \"{ugly}\""),
        format!("[program]\n[[filesystem]]\nguest = \"{ugly}\""),
        format!("[program]\n[[network]]\nhost = \"{ugly}\""),
        format!("[program]\n[[models]]\nname = \"{ugly}\""),
        format!("[program]\n[[models]]\n\"{ugly}\" = 1"),
    ] {
        assert!(!refused(&format!("version = 1\n{text}")).contains('\u{202e}'));
    }
}
