//! Tests of grants and refusals with the program `attacks`, which runs a script and reports the
//! result of each operation.

mod broker;
mod files;
mod hostile_folder;
mod labels;
mod process;
mod quotas;
mod sequences;
#[path = "../../../../../../tests/support/silent_port.rs"]
mod silent_port;
mod sockets;

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};

use wasmtime::component::{Component, Linker, Val};
use wasmtime::{Engine, Store};

use super::*;
use belljar_policy::{AddressKind, FileGrant, Quotas, peer_rule};

/// A program with its grants, run once for each script.
pub(super) struct Bench {
    pub(super) program: Program,
    pub(super) arguments: Vec<String>,
    pub(super) files: Vec<FileGrant>,
    pub(super) network: Vec<NetworkGrant>,
    pub(super) quotas: Quotas,
    pub(super) seen: Arc<Mutex<Seen>>,
    pub(super) connector: Option<Connector>,
}

/// Makes connections instead of a supervisor.
type Connector = Box<dyn FnMut(&Peer, u16, Protocol) -> Result<OwnedFd, Refusal> + Send>;

/// The requests that were made.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) lines: Vec<(Stream, String)>,
    pub(super) allowed: Vec<String>,
    /// Refused requests, each with its rule.
    pub(super) denied: Vec<String>,
    pub(super) connects: Vec<String>,
    /// Whether logging of allowed requests fails.
    pub(super) unwritable: bool,
}

struct Watching {
    seen: Arc<Mutex<Seen>>,
    connector: Option<Connector>,
}

impl Outside for Watching {
    fn connect(&mut self, host: &Peer, port: u16, protocol: Protocol) -> Result<OwnedFd, Refusal> {
        let asked = format!("{host} {port} {}", protocol.name());
        self.seen.lock().unwrap().connects.push(asked);
        match &mut self.connector {
            Some(connector) => connector(host, port, protocol),
            None => Err(Refusal("nobody connects here".to_owned())),
        }
    }

    fn look(&mut self, _: &Below) -> std::io::Result<AtName> {
        Ok(AtName::Free)
    }

    fn print(&mut self, stream: Stream, line: &str) {
        self.seen.lock().unwrap().lines.push((stream, line.to_owned()));
    }

    fn decided(&mut self, asked: &Asked<'_>) -> std::io::Result<()> {
        let Asked { resource, access, allowed, rule } = asked;
        let mut seen = self.seen.lock().unwrap();
        if *allowed && seen.unwritable {
            return Err(std::io::Error::other("the decision cannot be written down"));
        }
        match allowed {
            true => seen.allowed.push(format!("{access} {resource}: {rule}")),
            false => seen.denied.push(format!("{access} {resource}: {rule}")),
        }
        Ok(())
    }
}

struct Data(WasiState);

impl HasWasi for Data {
    fn wasi(&mut self) -> &mut WasiState {
        &mut self.0
    }
}

static ATTACKS: LazyLock<Component> = LazyLock::new(|| compiled("attacks"));

/// A program built by `cargo xtask programs`.
pub(super) fn compiled(name: &str) -> Component {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guest/programs");
    let file = folder.join(name).with_extension("wasm");
    let wasm = std::fs::read(&file).unwrap_or_else(|err| {
        panic!("{}: {err}; build it with `cargo xtask programs`", file.display())
    });
    Component::new(&Engine::default(), wasm).expect("the program compiles")
}

impl Bench {
    pub(super) fn new() -> Bench {
        Bench {
            program: Program::default(),
            arguments: Vec::new(),
            files: Vec::new(),
            network: Vec::new(),
            quotas: Quotas::default(),
            seen: Arc::default(),
            connector: None,
        }
    }

    pub(super) fn grant(mut self, host: &Path, guest: &str, access: Access) -> Bench {
        self.files.push(FileGrant::new(host, guest, access, "a test"));
        self
    }

    /// Runs a script, and returns the result of each of its lines.
    pub(super) fn run(&mut self, script: &str) -> Vec<String> {
        self.try_run(script).expect("the program answers")
    }

    pub(super) fn try_run(&mut self, script: &str) -> wasmtime::Result<Vec<String>> {
        let script: String =
            script.lines().map(|line| line.trim_start().to_owned() + "\n").collect();
        match self.call(&ATTACKS, &[("do", text(&script))])? {
            Ok(outcomes) => Ok(outcomes.lines().map(str::to_owned).collect()),
            Err(why) => panic!("{why}"),
        }
    }

    /// Runs a program, and returns its only output, a text, or its error.
    pub(super) fn call(
        &mut self,
        program: &Component,
        inputs: &[(&str, Val)],
    ) -> wasmtime::Result<Result<String, String>> {
        let opened = self.files.iter().map(|grant| open_grant(grant).expect("the grant opens"));
        let resources = Resources {
            program: self.program.clone(),
            arguments: self.arguments.clone(),
            files: opened.collect(),
            network: self.network.clone(),
            quotas: self.quotas.clone(),
            outside: Box::new(Watching {
                seen: Arc::clone(&self.seen),
                connector: self.connector.take(),
            }),
        };
        let engine = program.engine();
        let mut linker = Linker::new(engine);
        add_to_linker::<Data>(&mut linker)?;
        let mut store = Store::new(engine, Data(WasiState::new(resources)));
        let instance = linker.instantiate(&mut store, program)?;
        let run = instance.get_func(&mut store, "run").expect("it exports `run`");
        let inputs = inputs
            .iter()
            .map(|(name, value)| Val::Tuple(vec![Val::String((*name).to_owned()), value.clone()]));
        let mut results = [Val::Bool(false)];
        run.call(&mut store, &[Val::List(inputs.collect())], &mut results)?;
        let [Val::Result(result)] = results else { panic!("{results:?}") };
        let outputs = match result {
            Ok(Some(outputs)) => *outputs,
            Err(Some(why)) => match *why {
                Val::String(why) => return Ok(Err(why)),
                why => panic!("{why:?}"),
            },
            result => panic!("{result:?}"),
        };
        let Val::List(outputs) = outputs else { panic!("{outputs:?}") };
        let [Val::Tuple(output)] = &outputs[..] else { panic!("{outputs:?}") };
        let [_, Val::Variant(_, Some(text))] = &output[..] else { panic!("{output:?}") };
        let Val::String(text) = &**text else { panic!("{text:?}") };
        Ok(Ok(text.clone()))
    }

    /// Runs a script of lines `operation => expected result`, and checks each.
    pub(super) fn check(&mut self, script: &str) {
        let lines: Vec<&str> =
            script.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let (operations, expected): (Vec<&str>, Vec<&str>) =
            lines.iter().map(|line| line.split_once(" => ").expect("an expectation")).unzip();
        let found = self.run(&operations.join("\n"));
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for ((operation, expected), found) in operations.iter().zip(expected).zip(found) {
            assert_eq!(found, expected, "of `{operation}`");
        }
    }

    /// Grants a peer, whose name a broker resolves with these names.
    pub(super) fn network(mut self, grant: NetworkGrant, names: &Arc<Names>) -> Bench {
        self.network.push(grant);
        let (grants, quotas) = (self.network.clone(), self.quotas.clone());
        let names: Arc<Names> = Arc::clone(names);
        let mut broker = Broker::with_resolver(grants, &quotas, names);
        let seen = Arc::clone(&self.seen);
        self.connector = Some(Box::new(move |host, port, protocol| {
            let connected = broker.connect(host, port, protocol)?;
            let rule = peer_rule(host, port, protocol);
            seen.lock().unwrap().allowed.push(format!("connect {host} port {port}: {rule}"));
            Ok(connected)
        }));
        self
    }

    /// Checks that this refusal was logged.
    #[track_caller]
    pub(super) fn refused(&self, expected: &str) {
        let seen = self.seen.lock().unwrap();
        let found = seen.denied.iter().any(|line| line == expected);
        assert!(found, "{expected}\nnot in {:#?}", seen.denied);
    }
}

/// A text as an input.
pub(super) fn text(text: &str) -> Val {
    Val::Variant("text".to_owned(), Some(Box::new(Val::String(text.to_owned()))))
}

/// A temporary folder.
pub(super) fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().canonicalize().expect("its path");
    (folder, path)
}

/// An entry of `[[network]]`.
pub(super) fn peer(host: &str, port: u16, reaches: &[AddressKind]) -> NetworkGrant {
    let host = Peer::parse(host).expect("a host");
    let mut grant = NetworkGrant::new(host, port, Protocol::Tcp, "a test");
    grant.reaches = reaches.to_vec();
    grant
}

/// A resolver with a list of answers: each look-up uses the next one, and the last one is repeated.
pub(super) struct Names(pub(super) Mutex<Vec<Vec<IpAddr>>>, pub(super) AtomicUsize);

impl Names {
    pub(super) fn new(answers: &[&[&str]]) -> Arc<Names> {
        let address = |text: &&str| text.parse().expect("an address");
        let answers = answers.iter().map(|answer| answer.iter().map(address).collect());
        Arc::new(Names(Mutex::new(answers.collect()), AtomicUsize::new(0)))
    }

    pub(super) fn asked(&self) -> usize {
        self.1.load(Ordering::Relaxed)
    }
}

impl Resolver for Names {
    fn addresses(&self, _: &str) -> std::io::Result<Vec<IpAddr>> {
        self.1.fetch_add(1, Ordering::Relaxed);
        let mut answers = self.0.lock().unwrap();
        match answers.len() {
            0 => Err(std::io::Error::other("no such name")),
            1 => Ok(answers[0].clone()),
            _ => Ok(answers.remove(0)),
        }
    }
}
