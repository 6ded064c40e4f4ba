//! Policies recorded from runs of guest programs.

use crate::support;

use std::fs;

use belljar::Policy;
use belljar::policy::{Access, Peer};
use support::scratch::Scratch;
use support::{belljar, models, repository};

use super::{does, program_file, recorded, run, service, without_hashes};

#[test]
fn recording_labels_reveals_its_grants_step_by_step() {
    let (port, folder) = (service(), Scratch::shared());
    folder.make("wide/labels");
    let labels = repository().join("policies/labels/labels.txt");
    folder.file("wide/labels/labels.txt", fs::read_to_string(labels).unwrap());
    folder.file("wide/labels/other.txt", "not read");
    let scores = format!("scores={}", folder.file("scores.json", "[0.1, 0.7, 0.2]"));
    let inputs = ["--input", &scores, "--input", "customer=text:anybody"];
    let program = program_file("labels");

    // Without grants, it reports the first missing grant.
    let (code, errors, policy, text) = recorded(&folder, &program, &inputs);
    assert_eq!(code, Some(4), "{errors}");
    assert!(errors.contains("/labels/labels.txt") && errors.contains("--within"), "{errors}");
    assert!(policy.filesystem.is_empty() && policy.network.is_empty(), "{text}");
    assert!(text.contains("# guest = \"/labels/labels.txt\""), "{text}");

    // Within a wide policy, whose grants are unneeded or risky, except the folder of labels.
    let wide = folder.file(
        "wide.toml",
        format!(
            "version = 1\n[program]\nclocks = true\nrandomness = true\nstdout = true\n\
             environment = {{ SERVICE = \"localhost\", PORT = \"{port}\" }}\nreason = \"r\"\n\
             [[filesystem]]\nhost = \"wide\"\nguest = \"/wide\"\nreason = \"r\"\n\
             [[filesystem]]\nhost = \"wide/labels\"\nguest = \"/labels\"\nreason = \"r\"\n\
             [[network]]\nhost = \"localhost\"\nport = {port}\nreaches = [\"loopback\"]\n\
             reason = \"r\"\n\
             [[network]]\nhost = \"features.example\"\nport = 80\nreason = \"r\"\n"
        ),
    );
    let more = [&["--within", &wide][..], &inputs].concat();
    let (code, errors, policy, text) = recorded(&folder, &program, &more);
    assert_eq!(code, Some(0), "{errors}");
    assert!(errors.contains("1 grant is commented out"), "{errors}");
    let granted = policy.program.as_ref().unwrap();
    assert!(granted.sha256.is_some() && granted.stdout && !granted.stderr, "{text}");
    assert!(!granted.clocks && !granted.randomness && granted.environment.is_empty(), "{text}");
    let [file] = &policy.filesystem[..] else { panic!("{text}") };
    assert_eq!(file.host, folder.path("wide/labels/labels.txt"));
    assert_eq!((file.guest.as_str(), file.access), ("/labels/labels.txt", Access::Read));
    assert!(file.reason.starts_with("recorded: "), "{text}");
    let [peer] = &policy.network[..] else { panic!("{text}") };
    assert_eq!((&peer.host, peer.port), (&Peer::parse("localhost").unwrap(), port));
    assert_eq!(policy.quotas.connections, 2);
    assert!(policy.quotas.bytes_sent <= 4096 && policy.quotas.files_created == 0, "{text}");
    assert!(policy.limits.memory < 64 << 20, "{text}");
    // With the commented grant accepted, the policy is sufficient.
    let enough = folder.file("enough.toml", without_hashes(&text, "environment ="));
    let ran = [&["run", &program, "--policy", &enough][..], &inputs].concat();
    let (code, answer, errors) = run(&ran);
    assert_eq!(code, Some(0), "{errors}");
    assert!(answer.contains("dog"), "{answer}");
}

#[test]
fn only_used_models_and_files_are_recorded() {
    let folder = Scratch::shared();
    let scores = |program: &str, policy: &str, inputs: &[&str]| {
        let arguments = ["run", program, "--policy", policy, "--format", "json", "--data"];
        let (code, answer, errors) = run(&[&arguments[..], inputs].concat());
        assert_eq!(code, Some(0), "{errors}");
        let mut answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
        answer["outputs"].take()
    };
    let photo = repository().join("tests/expectations/classify/photo.jpg");
    let photo = format!("image={}", photo.display());
    for (name, model, input) in
        [("file-type", "magika", "file=README.md"), ("classify", "squeezenet", &photo)]
    {
        let policies = repository().join("policies");
        let shipped = fs::read_to_string(policies.join(name).with_extension("toml")).unwrap();
        let wide = format!(
            "{shipped}\n[[models]]\nname = \"spare\"\nsha256 = \"{}\"\n\
             [[filesystem]]\nhost = \".\"\nguest = \"/data\"\nreason = \"r\"\n",
            "ab".repeat(32)
        );
        let wide = folder.file("wide.toml", &wide);
        let own = fs::read_to_string(policies.join(model).with_extension("toml")).unwrap();
        folder.file(&format!("{model}.toml"), &own);
        let file = format!("{model}.onnx");
        fs::copy(models().join(&file), folder.path(&file)).unwrap();
        folder.mode(&file, 0o644);
        let program = program_file(name);
        let inputs = ["--input", input];
        let more = ["--within", &wide, "--input", input];
        let (code, errors, policy, text) = recorded(&folder, &program, &more);
        assert_eq!((code, errors.as_str()), (Some(0), ""), "{text}");
        assert!(policy.filesystem.is_empty() && policy.network.is_empty(), "{text}");
        let [granted] = &policy.models[..] else { panic!("{text}") };
        assert_eq!(granted.path.as_deref(), Some(folder.path(&file).as_path()));
        assert!(granted.rules.is_some(), "{text}");
        let narrow = folder.at("recorded.toml");
        assert_eq!(scores(&program, &narrow, &inputs), scores(&program, &wide, &inputs));
        // Without the grant, the request for the name becomes a comment.
        let (code, _, policy, text) = recorded(&folder, &program, &inputs);
        assert_eq!(code, Some(3), "{text}");
        assert!(policy.models.is_empty() && text.contains("# [[models]]"), "{text}");
    }
}

#[test]
fn requests_of_a_hostile_program_are_never_granted() {
    let folder = Scratch::shared();
    let script = does(&[
        "open a / etc/shadow read",
        "open a / proc/self/environ read",
        "open b / out/deep/answer create write",
        "open c / a\\x[2J\\n# read",
        "open c / \"\\n[[filesystem]]\\nhost=\"/\" read",
        "connect d 169.254.169.254 80",
        "connect d 127.0.0.1 22",
        "connect d evil.example 443",
        "connect d 0.0.0.0 80",
        "udp e 8.8.8.8 53",
        "resolve \\x]0;title\\n.example",
        "resolve localhost",
        "connect d localhost 0",
        "symlink / /etc/shadow mine",
        "bind 127.0.0.1 0",
        "wall-clock",
        "random",
        "arguments",
        "environment",
    ]);
    let more = ["--input", &script];
    let (code, errors, policy, text) = recorded(&folder, &program_file("attacks"), &more);
    assert_eq!(code, Some(0), "{errors}{text}");
    assert!(policy.filesystem.is_empty() && policy.network.is_empty(), "{text}");
    assert!(policy.models.is_empty(), "{text}");
    let granted = policy.program.unwrap();
    let none =
        [granted.stdout, granted.stderr, granted.clocks, granted.randomness, granted.arguments];
    assert_eq!(none, [false; 5], "it answered without: {text}");
    assert!(granted.environment.is_empty());
    for aside in [
        "# guest = \"/etc/shadow\"\n",
        "# guest = \"/proc/self/environ\"\n",
        "# guest = \"/out/deep\"\n# access = \"write\"\n",
        "# host = \"169.254.169.254\"\n",
        "# host = \"127.0.0.1\"\n",
        "# host = \"evil.example\"\n",
        "# host = \"8.8.8.8\"\n# port = 53\n# protocol = \"udp\"\n",
        "cloud machines get their credentials",
        "0.0.0.0 port 80, which no policy can grant",
        "links are never created",
        "bind 127.0.0.1:0",
    ] {
        assert!(text.contains(aside), "{aside:?}: {text}");
    }
    // Uncommenting every line does not give a valid policy by accident.
    let open: String =
        text.lines().map(|line| format!("{}\n", line.trim_start_matches("# "))).collect();
    assert!(Policy::parse(&open, "test").is_err());
    let live = text.lines().filter(|line| line.starts_with("[[") || line.starts_with("host"));
    assert_eq!(live.count(), 0, "{text}");
}

#[test]
fn recording_changes_no_files_and_grants_only_used_ones() {
    let folder = Scratch::shared();
    for name in ["in", "in/sub", "out"] {
        folder.make(name);
    }
    folder.mode("out", 0o777);
    for name in ["in/one", "in/two", "in/sub/three", "out/old"] {
        folder.file(name, name);
    }
    folder.file("secret", "secret");
    std::os::unix::fs::symlink("../secret", folder.path("in/link")).unwrap();
    fs::hard_link(folder.path("secret"), folder.path("in/other-name")).unwrap();
    let file = |host: &str, guest: &str, access: &str| {
        format!(
            "[[filesystem]]\nhost = \"{host}\"\nguest = \"{guest}\"\naccess = \"{access}\"\n\
             reason = \"r\"\n"
        )
    };
    let wide = [
        file("in", "/in", "read"),
        file("out", "/out", "write"),
        file("/etc/hostname", "/host/name", "read"),
    ];
    let wide = folder.file("wide.toml", format!("version = 1\n[program]\n{}", wide.concat()));
    let script = does(&[
        "open a /in one read",
        "read a 0 9",
        "open b /in sub/three read",
        "open c /in link read",
        "open c /in other-name read",
        "open c /in missing read",
        "open c /in ../secret read",
        "open d /out old read write",
        "write d 0 changed",
        "open e /out new create write",
        "unlink /out old",
        "open g /host name read",
    ]);
    let more = ["--within", &wide, "--input", &script];
    let (code, errors, policy, text) = recorded(&folder, &program_file("attacks"), &more);
    assert_eq!(code, Some(0), "{errors}");
    let found: Vec<_> = policy.filesystem.iter().map(|grant| grant.host.clone()).collect();
    assert_eq!(found, [folder.path("in/one"), folder.path("in/sub/three")], "{text}");
    assert!(policy.filesystem.iter().all(|grant| grant.access == Access::Read));
    assert!(text.contains("# host = \"out\"\n# guest = \"/out\"\n# access = \"write\""), "{text}");
    assert!(text.contains("# host = \"/etc/hostname\""), "{text}");
    assert!(text.contains("this system file"), "{text}");
    assert!(text.contains("read /in/link: symbolic links"), "{text}");
    assert!(text.contains("read /in/other-name: files with several hard links"), "{text}");
    // Its changes were made to a copy.
    assert_eq!(folder.read("out/old"), "out/old");
    assert!(!folder.path("out/new").exists());
    let left = fs::read_dir(std::env::temp_dir()).unwrap().filter(|entry| {
        entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("belljar-record-")
    });
    // Other tests may be recording at the same time.
    assert!(left.count() < 8);

    // Listing a folder does not grant the whole folder.
    let script = does(&["list /in", "open a /in one read"]);
    let more = ["--within", &wide, "--input", &script];
    let (code, _, policy, text) = recorded(&folder, &program_file("attacks"), &more);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(policy.filesystem.len(), 1, "{text}");
    assert!(text.contains("listed this folder"), "{text}");

    // A folder that is too large to copy is refused, and the program does not run.
    folder.make("all");
    fs::File::create(folder.path("all/big")).unwrap().set_len(300 << 20).unwrap();
    let all = format!("version = 1\n[program]\n{}", file("all", "/all", "write"));
    folder.file("large.toml", &all);
    let large = folder.at("large.toml");
    let (code, _, errors) = run(&[
        "policy",
        "record",
        &program_file("attacks"),
        "--within",
        &large,
        "--input",
        &script,
    ]);
    assert_eq!(code, Some(1), "{errors}");
    assert!(errors.contains("too large to copy"), "{errors}");
}

#[test]
fn ceiling_applies_while_a_policy_is_recorded() {
    let folder = Scratch::shared();
    folder.make("secret");
    folder.mode("secret", 0o777);
    folder.file("secret/key", "secret");
    let wide = folder.file(
        "wide.toml",
        "version = 1\n[program]\n[[filesystem]]\nhost = \"secret\"\nguest = \"/data\"\n\
         access = \"write\"\nreason = \"r\"\n",
    );
    // Programs, and scratch folders for them, but not that folder.
    let temporary = std::env::temp_dir().canonicalize().unwrap();
    let ceiling = folder.file(
        "ceiling.toml",
        format!(
            "version = 1\n[program]\n[[filesystem]]\npath = \"{}/belljar-elsewhere\"\n",
            temporary.display()
        ),
    );
    let script = does(&["folders", "open a /data key read", "read a 0 9"]);
    let attacks = program_file("attacks");
    let output = folder.at("recorded.toml");
    let arguments = ["policy", "record", &attacks, "--within", &wide, "--output", &output];
    let found = belljar(&[&arguments[..], &["--input", &script]].concat())
        .env("BELLJAR_CEILING", &ceiling)
        .output()
        .unwrap();
    let errors = String::from_utf8(found.stderr).unwrap();
    assert_eq!(found.status.code(), Some(0), "{errors}");
    assert!(errors.contains("secret"), "the cut is not reported: {errors}");
    let text = folder.read("recorded.toml");
    assert!(!text.contains("/data") && !text.contains("host ="), "{text}");
}

#[test]
fn arguments_and_clocks_are_recorded_if_needed() {
    let folder = Scratch::shared();
    let attacks = program_file("attacks");
    let script = does(&["arguments"]);
    let more = ["--input", &script, "--", "-v"];
    let (code, errors, policy, text) = recorded(&folder, &attacks, &more);
    assert_eq!((code, errors.as_str()), (Some(0), ""), "{text}");
    assert!(policy.program.unwrap().arguments, "{text}");
    let (code, _, policy, text) = recorded(&folder, &attacks, &["--input", &script]);
    assert_eq!(code, Some(0));
    assert!(!policy.program.unwrap().arguments && text.contains("# arguments = true"), "{text}");
    // Flags for models do not apply to programs, and the reverse.
    let model = models().join("magika.onnx");
    for wrong in [
        vec!["policy", "record", &attacks, "--random"],
        vec!["policy", "record", model.to_str().unwrap(), "--random", "--", "-v"],
    ] {
        assert_eq!(run(&wrong).0, Some(2));
    }
    // A policy for a model cannot be used for a program.
    let bare = folder.file("bare.toml", "version = 1\n");
    let found = run(&["policy", "record", &attacks, "--within", &bare, "--input", &script]);
    assert_eq!(found.0, Some(3), "{}", found.2);
    // A policy that others can write to is refused, and no file is replaced.
    folder.mode("bare.toml", 0o666);
    let found = run(&["policy", "record", &attacks, "--within", &bare, "--input", &script]);
    assert_eq!(found.0, Some(3), "{}", found.2);
    let there = folder.at("recorded.toml");
    let found = run(&["policy", "record", &attacks, "--input", &script, "--output", &there]);
    assert_eq!(found.0, Some(1), "{}", found.2);
}
