//! Guest programs that request more than their policy grants, through the whole stack: refusals and
//! their messages. Granted requests are tested in `tests/programs/grants`.

use crate::support;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use belljar::{Error, Host, Isolation, ModelBytes, Policy, Program, Tensor, Value};
use support::{belljar, host, repository};

/// A program built by `cargo xtask programs`.
fn program_file(name: &str) -> PathBuf {
    let path = repository().join("target/guest/programs").join(name).with_extension("wasm");
    assert!(path.is_file(), "{}: run `cargo xtask programs`", path.display());
    path
}

fn load(host: &Host, name: &str, policy: &Policy) -> Program {
    let bytes = ModelBytes::read(&fs::read(program_file(name)).unwrap()[..], u64::MAX).unwrap();
    host.load_program(bytes.labelled(&format!("{name}.wasm")), policy).unwrap()
}

/// If Belljar runs as root, a program's process runs as another user.
fn open_to_all(folder: &Path) {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).unwrap();
}

/// Serves each connection on a local port.
fn service(serve: fn(BufReader<std::net::TcpStream>)) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = BufReader::new(stream.unwrap());
            std::thread::spawn(move || serve(stream));
        }
    });
    port
}

/// The required score: 0.9 for the customer `strict`, and 0.5 for others.
fn what_is_enough(mut stream: BufReader<std::net::TcpStream>) {
    let mut customer = String::new();
    stream.read_line(&mut customer).unwrap();
    let enough = if customer == "strict\n" { "0.9\n" } else { "0.5\n" };
    stream.get_mut().write_all(enough.as_bytes()).unwrap();
}

fn in_capitals(mut stream: BufReader<std::net::TcpStream>) {
    let mut bytes = [0; 64];
    while let Ok(len @ 1..) = stream.read(&mut bytes) {
        let _ = stream.get_mut().write_all(&bytes[..len].to_ascii_uppercase());
    }
}

/// The shipped policy of `labels`, with the service on a local port.
fn labels_policy(port: u16) -> String {
    let shipped = fs::read_to_string(repository().join("policies/labels.toml")).unwrap();
    shipped
        .replace("features.internal.example", "127.0.0.1")
        .replace("7878", &port.to_string())
        .replace("private", "loopback")
}

fn parse(text: &str) -> Policy {
    let mut policy = Policy::parse(text, "test.toml").unwrap();
    policy.resolve_in(&repository().join("policies"));
    policy
}

fn ask(program: &Program, customer: &str) -> Result<Vec<(String, Value)>, Error> {
    let scores = Tensor::new(vec![0.1f32, 0.7, 0.2], &[3]).unwrap();
    program.run(&[("scores", scores.into()), ("customer", Value::from(customer))])
}

#[test]
fn refusal_names_the_policy_entry_that_would_grant_it() {
    let host = host(Isolation::Process);
    let port = service(what_is_enough);
    let without = |take: fn(&mut Policy)| {
        let mut policy = parse(&labels_policy(port));
        take(&mut policy);
        ask(&load(&host, "labels", &policy), "anybody").expect_err("it cannot answer")
    };
    let err = without(|policy| policy.network.clear());
    assert_eq!(err.exit_code(), 3, "{err}");
    assert!(err.to_string().contains("[[network]] host = \"127.0.0.1\""), "{err}");
    let err = without(|policy| policy.network[0].port ^= 1);
    assert_eq!(err.exit_code(), 3, "{err}");
    assert!(err.to_string().contains("[[network]] host = \"127.0.0.1\", port = "), "{err}");
    let err = without(|policy| policy.quotas.connections = 0);
    assert_eq!(err.exit_code(), 3, "{err}");
    assert!(err.to_string().contains("[quotas] connections"), "{err}");
    let err = without(|policy| policy.quotas.open_handles = 0);
    assert!(err.to_string().contains("[quotas] open-handles"), "{err}");
    // Its C library finds no preopened folder for the file, and makes no request.
    let err = without(|policy| policy.filesystem.clear());
    assert!(err.to_string().contains("/labels/labels.txt"), "{err}");
}

/// A policy of the repository, copied together with its models and their policies.
fn shipped(name: &str) -> Policy {
    let place = tempfile::tempdir().unwrap();
    for (model, file) in [("magika", "magika.onnx"), ("squeezenet", "squeezenet.onnx")] {
        let rules = repository().join("policies").join(model).with_extension("toml");
        fs::copy(rules, place.path().join(model).with_extension("toml")).unwrap();
        fs::copy(support::models().join(file), place.path().join(file)).unwrap();
    }
    let file = place.path().join("policy.toml");
    let text = repository().join("policies").join(name).with_extension("toml");
    fs::copy(text, &file).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let policy = Policy::load(&file).unwrap().policy;
    // Models are read when the program requests them.
    let _ = place.keep();
    policy
}

/// Removes one grant from a policy.
type Take = fn(&mut Policy);

/// Checks that a program succeeds with all its grants, and that the error names a missing one.
#[track_caller]
fn each_grant_is_needed(
    name: &str,
    policy: &Policy,
    inputs: &[(&str, Value)],
    grants: &[(Take, u8, &str)],
) {
    let host = host(Isolation::Process);
    load(&host, name, policy).run(inputs).unwrap();
    for (take, code, says) in grants {
        let mut less = policy.clone();
        take(&mut less);
        assert_ne!(&less, policy, "{says}");
        let err = load(&host, name, &less).run(inputs).expect_err(says);
        assert_eq!(err.exit_code(), *code, "{says}: {err}");
        assert!(err.to_string().contains(says), "{says}: {err}");
    }
}

#[test]
fn file_type_needs_its_grant() {
    let file = fs::read(repository().join("README.md")).unwrap();
    each_grant_is_needed(
        "file-type",
        &shipped("file-type"),
        &[("file", Value::Bytes(file))],
        &[
            (|policy| policy.models.clear(), 3, "add [[models]] with name = \"magika\""),
            (|policy| policy.models[0].path = None, 3, "add path to its [[models]] entry"),
            (|policy| policy.models[0].sha256[0] ^= 1, 3, "not the model that was approved"),
        ],
    );
}

#[test]
fn classify_needs_its_grant() {
    let photo = fs::read(repository().join("tests/expectations/classify/photo.jpg")).unwrap();
    each_grant_is_needed(
        "classify",
        &shipped("classify"),
        &[("image", Value::Bytes(photo))],
        &[
            (|policy| policy.models.clear(), 3, "add [[models]] with name = \"classifier\""),
            (|policy| policy.models[0].sha256[0] ^= 1, 3, "not the model that was approved"),
        ],
    );
}

#[test]
fn labels_needs_each_of_its_grants() {
    let policy = parse(&labels_policy(service(what_is_enough)));
    let scores = Tensor::new(vec![0.1f32, 0.7, 0.2], &[3]).unwrap();
    let inputs = [("scores", scores.into()), ("customer", Value::from("anybody"))];
    let grants: &[(Take, u8, &str)] = &[
        (|policy| policy.filesystem.clear(), 4, "does not grant: [[filesystem]]"),
        (|policy| policy.network.clear(), 3, "[[network]] host = \"127.0.0.1\""),
        (
            |policy| policy.program.as_mut().unwrap().environment.clear(),
            4,
            "does not grant: [program] environment",
        ),
    ];
    each_grant_is_needed("labels", &policy, &inputs, grants);
    // Without a grant to print, the program succeeds, and its output is dropped.
    let lines = Arc::new(Mutex::new(0));
    let heard = Arc::clone(&lines);
    let listener = move |event| {
        if let belljar::Event::Printed { .. } = event {
            *heard.lock().unwrap() += 1;
        }
    };
    let host = support::builder(Isolation::Process).on_event(listener).build().unwrap();
    for (stdout, printed) in [(true, 1), (false, 1)] {
        let mut policy = policy.clone();
        policy.program.as_mut().unwrap().stdout = stdout;
        load(&host, "labels", &policy).run(&inputs).unwrap();
        assert_eq!(*lines.lock().unwrap(), printed);
    }
}

#[test]
fn concurrent_programs_have_separate_grants() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().canonicalize().unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let host = host(Isolation::Process);
    let (here, there) = (service(in_capitals), service(in_capitals));
    let programs = [("one", here), ("two", there)].map(|(name, port)| {
        fs::create_dir(path.join(name)).unwrap();
        open_to_all(&path.join(name));
        fs::write(path.join(name).join(format!("key-of-{name}")), name).unwrap();
        let policy = parse(&format!(
            "version = 1\n[program]\nenvironment = {{ NAME = \"{name}\" }}\nreason = \"a test\"\n\
             [[filesystem]]\nhost = \"{}/{name}\"\nguest = \"/data\"\naccess = \"write\"\n\
             reason = \"a test\"\n\
             [[network]]\nhost = \"127.0.0.1\"\nport = {port}\nreaches = [\"loopback\"]\n\
             reason = \"a test\"\n",
            path.display()
        ));
        load(&host, "attacks", &policy)
    });
    std::thread::scope(|scope| {
        for (program, own, other, port, others) in
            [(&programs[0], "one", "two", here, there), (&programs[1], "two", "one", there, here)]
        {
            scope.spawn(move || {
                for _ in 0..3 {
                    check(
                        program,
                        &format!(
                            "environment => NAME={own}
                             open a /data key-of-{own} read => ok
                             open b /data key-of-{other} read => error no-entry
                             open b /data ../{other}/key-of-{other} read => error not-permitted
                             open b /data ../{other} folder => error not-permitted
                             symlink /data ../{other} link => error not-permitted
                             connect c 127.0.0.1 {port} => ok
                             connect d 127.0.0.1 {others} => error access-denied"
                        ),
                    );
                }
            });
        }
    });
    for name in ["one", "two"] {
        assert_eq!(fs::read_dir(path.join(name)).unwrap().count(), 1);
    }
}

/// Runs a script of lines `operation => expected result`.
#[track_caller]
fn check(program: &Program, script: &str) {
    let lines = script.lines().map(|line| line.trim().split_once(" => ").unwrap());
    let (operations, expected): (Vec<&str>, Vec<&str>) = lines.unzip();
    let outputs = program.run(&[("do", Value::from(operations.join("\n").as_str()))]).unwrap();
    let [(_, Value::Text(found))] = &outputs[..] else { panic!("{outputs:?}") };
    for ((operation, expected), found) in operations.iter().zip(expected).zip(found.lines()) {
        assert_eq!(found, expected, "of `{operation}`");
    }
}

#[test]
fn confined_process_reaches_only_granted_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().canonicalize().unwrap();
    for name in ["read", "write", "secret"] {
        fs::create_dir(path.join(name)).unwrap();
        fs::write(path.join(name).join("file"), name).unwrap();
    }
    std::os::unix::fs::symlink("../secret", path.join("write/link")).unwrap();
    open_to_all(&path.join("write"));
    open_to_all(&path.join("read"));
    let host = host(Isolation::Process);
    let at = path.display();
    let policy = parse(&format!(
        "version = 1\n[program]\n\
         [[filesystem]]\nhost = \"{at}/read\"\nguest = \"/read\"\nreason = \"a test\"\n\
         [[filesystem]]\nhost = \"{at}/write\"\nguest = \"/write\"\naccess = \"write\"\n\
         reason = \"a test\"\n\
         [[filesystem]]\nhost = \"{at}/secret/file\"\nguest = \"/one/file\"\nreason = \"a test\"\n"
    ));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let program = load(&host, "attacks", &policy);
    let script = "folders => /one /read /write
         open a /read file read => ok
         read-stream a => read
         list /read => file
         stat a => DescriptorType::RegularFile 4 bytes, 1 links, no times
         open x /read file read write => error read-only
         unlink /read file => error read-only
         open b /write new read write create => ok
         write b 0 hello => 5
         append b ! => ok
         size b 5 => ok
         sync b => ok
         read b 0 9 => hello
         mkdir /write sub => ok
         rename /write new /write sub/new => ok
         unlink /write sub/new => ok
         rmdir /write sub => ok
         open c /one file read => ok
         read c 0 9 => secret
         open x /write link/file read => error loop
         open x /write ../secret/file read => error not-permitted
         open x /write /etc/passwd read => error not-permitted
         symlink /write ../secret/file mine => error not-permitted
         rename /write file /read file => error cross-device";
    for _ in 0..2 {
        check(&program, script);
    }
    assert_eq!(fs::read_dir(path.join("write")).unwrap().count(), 2);
    // Without grants, the same program runs in a process that cannot open files.
    let bare = load(&host, "attacks", &parse("version = 1\n[program]\n"));
    check(&bare, "open a /read file read => error not held");
}

#[test]
fn confined_process_reaches_only_granted_peers() {
    let port = service(in_capitals);
    let other = service(in_capitals);
    let host = host(Isolation::Process);
    let policy = parse(&format!(
        "version = 1\n[program]\n\
         [[network]]\nhost = \"127.0.0.1\"\nport = {port}\nreaches = [\"loopback\"]\n\
         reason = \"a test\"\n\
         [[network]]\nhost = \"localhost\"\nport = {port}\nreason = \"public addresses alone\"\n"
    ));
    let program = load(&host, "attacks", &policy);
    check(
        &program,
        &format!(
            "connect a 127.0.0.1 {port} => ok
             send a hello => ok
             receive a => HELLO
             connect b 127.0.0.1 {other} => error access-denied
             connect b 169.254.169.254 80 => error access-denied
             resolve example.com => error access-denied
             resolve localhost => 240.0.0.0
             connect b localhost {port} => error connection-refused
             bind 127.0.0.1 0 => error access-denied
             udp b 127.0.0.1 {port} => error access-denied"
        ),
    );
}

#[test]
fn command_runs_a_program_and_names_missing_grants() {
    let port = service(what_is_enough);
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    fs::create_dir(at("labels")).unwrap();
    fs::copy(repository().join("policies/labels/labels.txt"), at("labels/labels.txt")).unwrap();
    open_to_all(&folder.path().join("labels"));
    fs::write(at("labels.toml"), labels_policy(port)).unwrap();
    fs::write(at("scores.json"), "[0.1, 0.7, 0.2]").unwrap();
    let program = program_file("labels");
    let run = |policy: &str, customer: &str| {
        let scores = format!("scores={}", at("scores.json"));
        let customer = format!("customer=text:{customer}");
        let inputs = ["--input", &scores, "--input", &customer];
        let arguments = ["run", program.to_str().unwrap(), "--policy", policy];
        belljar(&[&arguments[..], &inputs].concat()).output().unwrap()
    };
    let found = run(&at("labels.toml"), "anybody");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(found.status.success(), "{}", text(&found.stderr));
    assert!(text(&found.stdout).contains("dog"), "{}", text(&found.stdout));
    // Without one line of the policy.
    let less = labels_policy(port).replace(&format!("port = {port}\n"), "port = 1\n");
    fs::write(at("less.toml"), less).unwrap();
    let found = run(&at("less.toml"), "anybody");
    let errors = text(&found.stderr);
    assert_eq!(found.status.code(), Some(3), "{errors}");
    assert!(
        errors.contains("[[network]]") && errors.contains(&format!("port = {port}")),
        "{errors}"
    );
}
