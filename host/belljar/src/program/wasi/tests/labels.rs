//! A program with the standard library, built by an ordinary toolchain, under its shipped policy.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::sync::LazyLock;

use wasmtime::component::{Component, Val};

use super::{Bench, Names, compiled, text};
use crate::program::wasi::Stream;
use belljar_policy::{AddressKind, Policy};

static LABELS: LazyLock<Component> = LazyLock::new(|| compiled("labels"));

/// A service that requires a score of 0.5, or of 0.9 for the customer `strict`.
fn service() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut customer = String::new();
            stream.read_line(&mut customer).unwrap();
            let enough = if customer == "strict\n" { "0.9\n" } else { "0.5\n" };
            stream.get_mut().write_all(enough.as_bytes()).unwrap();
        }
    });
    port
}

/// The shipped policy, with the service on a local port.
fn policy(port: u16) -> Policy {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../policies");
    let written = std::fs::read_to_string(folder.join("labels.toml")).unwrap();
    let ours = written.replace("7878", &port.to_string()).replace("private", "loopback");
    let mut policy = Policy::parse(&ours, "labels.toml").unwrap();
    policy.resolve_in(&folder.canonicalize().unwrap());
    assert_eq!(policy.network[0].reaches, [AddressKind::Loopback]);
    policy
}

fn bench(policy: Policy) -> Bench {
    let mut bench = Bench::new();
    bench.program = policy.program.unwrap();
    bench.files = policy.filesystem;
    bench.quotas = policy.quotas;
    let names = Names::new(&[&["127.0.0.1"]]);
    policy.network.into_iter().fold(bench, |bench, grant| bench.network(grant, &names))
}

fn run(bench: &mut Bench, customer: &str) -> Result<String, String> {
    let data = [0.1f32, 0.7, 0.2].iter().flat_map(|score| score.to_le_bytes());
    let tensor = Val::Record(vec![
        ("element-type".to_owned(), Val::Enum("f32".to_owned())),
        ("shape".to_owned(), Val::List(vec![Val::U64(3)])),
        ("data".to_owned(), Val::List(data.map(Val::U8).collect())),
    ]);
    let scores = Val::Variant("tensor".to_owned(), Some(Box::new(tensor)));
    bench.call(&LABELS, &[("scores", scores), ("customer", text(customer))]).unwrap()
}

#[test]
fn program_succeeds_with_its_grants() {
    let port = service();
    let mut granted = bench(policy(port));
    assert_eq!(run(&mut granted, "anybody").as_deref(), Ok("dog"));
    let seen = granted.seen.lock().unwrap();
    assert_eq!(
        seen.lines,
        [(Stream::Out, "class 1 has 0.7; 0.5 is enough for anybody".to_owned())]
    );
    assert!(seen.allowed.iter().any(|line| line.starts_with("read /labels/labels.txt: ")));
    let connected = format!("connect features.internal.example port {port}: ");
    assert!(seen.allowed.iter().any(|line| line.starts_with(&connected)), "{:?}", seen.allowed);
    drop(seen);
    assert_eq!(run(&mut bench(policy(port)), "strict").as_deref(), Ok("unsure"));
}

#[test]
fn error_names_the_missing_grant() {
    let port = service();
    let without = |take: fn(&mut Policy)| {
        let mut policy = policy(port);
        take(&mut policy);
        let mut bench = bench(policy);
        run(&mut bench, "anybody").expect_err("it cannot answer")
    };
    let err = without(|policy| policy.filesystem.clear());
    assert!(err.contains("/labels/labels.txt"), "{err}");
    let err = without(|policy| policy.network.clear());
    assert!(err.contains("access-denied"), "{err}");
    let err = without(|policy| policy.network[0].reaches = vec![AddressKind::Public]);
    assert!(err.contains("connection-refused"), "{err}");
    let err = without(|policy| policy.program.as_mut().unwrap().environment.clear());
    assert!(err.contains("SERVICE"), "{err}");
    let err = without(|policy| policy.quotas.open_handles = 0);
    assert!(err.contains("/labels/labels.txt"), "{err}");
    let err = without(|policy| policy.quotas.bytes_received = 0);
    assert!(err.contains("features.internal.example"), "{err}");
}
