//! `belljar policy check`: every error, files of other owners, warnings, unused grants, ceilings.

use std::fs;
use std::os::unix::fs::{lchown, symlink};

use super::{Folder, MODEL, OTHER, PIN, PROGRAM, SPLIT, SPLIT_MODEL, expect};

/// Invalid policies: every kind of error.
const BAD: &[(&str, &str)] = &[
    ("syntax", "version = 1\n[limits]\nmemory = 512 MiB\n"),
    ("no-version", "[limits]\nmemory = \"1 GiB\"\n"),
    ("later-version", "version = 2\n"),
    ("unknown-key", "version = 1\n[limits]\nmemroy = \"1 GiB\"\n"),
    ("unknown-table", "version = 1\n[netwrok]\n"),
    ("misplaced-key", "version = 1\nmemory = \"1 GiB\"\n"),
    ("no-unit", "version = 1\n[limits]\nmemory = \"512\"\n"),
    ("no-text", "version = 1\n[limits]\nmemory = 512\n"),
    ("unlimited", "version = 1\n[limits]\nrun-time = \"unlimited\"\n"),
    ("too-much", "version = 1\n[limits]\nmemory = \"5 GiB\"\n"),
    ("snapshots", "version = 1\n[limits]\nsnapshots = 65\n"),
    ("digest", "version = 1\n[model]\nsha256 = \"abc\"\n"),
    ("choice", "version = 1\nconfinement = \"none\"\n"),
    ("kernels", "version = 1\n[compute]\nkernels = \"gpu\"\n"),
    ("switch", "version = 1\n[compute]\ndeterministic = \"yes\"\n"),
    ("threads", "version = 1\n[compute]\nthreads = 65\n"),
    ("no-table", "version = 1\nlimits = 1\n"),
    ("no-list", "version = 1\n[filesystem]\nhost = \"a\"\n"),
    ("no-reason", "version = 1\n[program]\nclocks = true\n"),
    ("empty-reason", "version = 1\n[program]\nclocks = true\nreason = \" \"\n"),
    ("two-lines", "version = 1\n[program]\nreason = \"a\\nb\"\n"),
    ("variable", "version = 1\n[program]\nreason = \"r\"\nenvironment = { \"A=B\" = \"\" }\n"),
    ("no-program", "version = 1\n[[network]]\nhost = \"a\"\nport = 1\nreason = \"r\"\n"),
    ("both", "version = 1\n[program]\n[model]\nsha256 = \"PIN\"\n"),
    (
        "model-writes",
        "version = 1\n[[filesystem]]\nhost = \"a\"\nguest = \"/a\"\naccess = \"write\"\nreason = \"r\"\n",
    ),
    ("no-name", "version = 1\n[program]\n[[models]]\nsha256 = \"PIN\"\n"),
    (
        "same-name",
        "version = 1\n[program]\n[[models]]\nname = \"a\"\nsha256 = \"PIN\"\n[[models]]\nname = \"a\"\nsha256 = \"PIN\"\n",
    ),
    ("parent", "version = 1\n[program]\n[[filesystem]]\nhost = \"../a\"\n"),
    ("empty-path", "version = 1\n[program]\n[[filesystem]]\nhost = \"\"\n"),
    ("relative-guest", "version = 1\n[program]\n[[filesystem]]\nguest = \"a\"\n"),
    ("slashes", "version = 1\n[program]\n[[filesystem]]\nguest = \"/a//b\"\n"),
    ("access", "version = 1\n[program]\n[[filesystem]]\naccess = \"execute\"\n"),
    (
        "nested",
        "version = 1\n[program]\n[[filesystem]]\nhost = \"a\"\nguest = \"/a\"\nreason = \"r\"\n[[filesystem]]\nguest = \"/a/b\"\n",
    ),
    ("pattern", "version = 1\n[program]\n[[network]]\nhost = \"*.example.com\"\n"),
    ("address-and-port", "version = 1\n[program]\n[[network]]\nhost = \"example.com:80\"\n"),
    ("odd-address", "version = 1\n[program]\n[[network]]\nhost = \"0x7f.1\"\n"),
    ("no-machine", "version = 1\n[program]\n[[network]]\nhost = \"0.0.0.0\"\n"),
    (
        "loopback",
        "version = 1\n[program]\n[[network]]\nhost = \"::ffff:127.0.0.1\"\nport = 1\nreason = \"r\"\n",
    ),
    ("port", "version = 1\n[program]\n[[network]]\nport = 0\n"),
    ("reaches", "version = 1\n[program]\n[[network]]\nreaches = [\"all\"]\n"),
    ("reaches-nothing", "version = 1\n[program]\n[[network]]\nreaches = []\n"),
    ("quota", "version = 1\n[program]\n[quotas]\nconnections = 100000\n"),
    (
        "no-policy",
        "version = 1\n[program]\n[[models]]\nname = \"a\"\nsha256 = \"PIN\"\npolicy = \"missing.toml\"\n",
    ),
    (
        "other-pin",
        "version = 1\n[program]\n[[models]]\nname = \"a\"\nsha256 = \"OTHER\"\npolicy = \"magika.toml\"\n",
    ),
    (
        "link",
        "version = 1\n[program]\n[[filesystem]]\nhost = \"link\"\nguest = \"/a\"\nreason = \"r\"\n",
    ),
    (
        "long-variable-name",
        "version = 1\n[program]\nreason = \"r\"\nenvironment = { LONG300 = \"\" }\n",
    ),
    ("variable-nul", "version = 1\n[program]\nreason = \"r\"\nenvironment = { A = \"\\u0000\" }\n"),
    (
        "long-variable",
        "version = 1\n[program]\nreason = \"r\"\nenvironment = { A = \"LONG5000\" }\n",
    ),
    ("long-reason", "version = 1\n[program]\nreason = \"LONG5000\"\n"),
    ("long-name", "version = 1\n[program]\n[[models]]\nname = \"LONG300\"\n"),
    (
        "same-peer",
        "version = 1\n[program]\n[[network]]\nhost = \"a\"\nport = 1\nreason = \"r\"\n[[network]]\nport = 1\nreason = \"r\"\nhost = \"a\"\n",
    ),
    ("no-port", "version = 1\n[program]\n[[network]]\nport = \"80\"\n"),
    ("reaches-twice", "version = 1\n[program]\n[[network]]\nreaches = [\"public\", \"public\"]\n"),
    ("rules-of-program", "version = 1\n[program]\n[inputs.x]\nmin = 0\n"),
    ("input-name", "version = 1\n[inputs.\"\"]\n"),
    ("min-above-max", "version = 1\n[inputs.x]\nmin = 2\nmax = 1.5\n"),
    ("no-number", "version = 1\n[inputs.x]\nmin = \"1\"\n"),
    ("endless", "version = 1\n[inputs.x]\nmax = inf\n"),
    ("truth", "version = 1\n[inputs.x]\nmax = true\n"),
    ("negative-norm", "version = 1\n[inputs.x]\nmax-norm = -1\n"),
    ("decimals", "version = 1\n[outputs.y]\ndecimals = 16\n"),
    ("no-decimals", "version = 1\n[outputs.y]\ndecimals = \"2\"\n"),
    ("top-k", "version = 1\n[outputs.y]\ntop-k = 0\n"),
    ("top-k-of-input", "version = 1\n[inputs.x]\ntop-k = 1\n"),
    ("dtype", "version = 1\n[inputs.x]\ndtype = \"float\"\n"),
    ("shape", "version = 1\n[inputs.x]\nshape = 3\n"),
    (
        "deep-shape",
        "version = 1\n[inputs.x]\nshape = [1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]\n",
    ),
    ("size-of-shape", "version = 1\n[inputs.x]\nshape = [\"n\"]\n"),
    ("negative-size", "version = 1\n[inputs.x]\nshape = [-1]\n"),
    ("allowed", "version = 1\n[inputs.x]\nallowed = []\n"),
    ("no-allowed", "version = 1\n[inputs.x]\nallowed = 1\n"),
    ("finite", "version = 1\n[inputs.x]\nfinite = 1\n"),
    ("rule-key", "version = 1\n[inputs.x]\nmaxnorm = 1\n"),
    ("count", "version = 1\n[limits]\nsnapshots = \"4\"\n"),
    ("negative-count", "version = 1\n[limits]\nsnapshots = -4\n"),
    ("array", "version = 1\n[limits]\nmemory = [1]\n"),
    ("not-hexadecimal", "version = 1\n[model]\nsha256 = \"zPIN63\"\n"),
    ("not-a-digit", "version = 1\n[model]\nsha256 = \"gLONGHEX\"\n"),
    ("version-text", "version = \"1\"\n"),
    ("dot-path", "version = 1\n[program]\n[[filesystem]]\nguest = \"/a/./b\"\n"),
    ("nul-path", "version = 1\n[program]\n[[filesystem]]\nhost = \"a\\u0000\"\n"),
    ("long-path", "version = 1\n[program]\n[[filesystem]]\nhost = \"LONG5000\"\n"),
    ("odd-number", "version = 1\n[limits]\nmemory = \"1.2.3 GiB\"\n"),
    ("unit", "version = 1\n[limits]\nmemory = \"1 gib\"\n"),
    ("huge", "version = 1\n[limits]\nmemory = \"99999999999999999999999999 GiB\"\n"),
    ("half-a-byte", "version = 1\n[limits]\nmemory = \"0.5 B\"\n"),
    ("zero", "version = 1\n[limits]\nmemory = \"0\"\n"),
    ("too-little", "version = 1\n[limits]\nmemory = \"1 MiB\"\n"),
    ("not-ascii", "version = 1\n[program]\n[[network]]\nhost = \"b\u{fc}cher.example\"\n"),
    ("zone", "version = 1\n[program]\n[[network]]\nhost = \"fe80::1%eth0\"\n"),
    ("long-host", "version = 1\n[program]\n[[network]]\nhost = \"LONG300\"\n"),
    ("dot-at-end", "version = 1\n[program]\n[[network]]\nhost = \"a.example.\"\n"),
    ("empty-part", "version = 1\n[program]\n[[network]]\nhost = \"a..example\"\n"),
    ("hyphen", "version = 1\n[program]\n[[network]]\nhost = \"-a.example\"\n"),
    ("underscore", "version = 1\n[program]\n[[network]]\nhost = \"a_b.example\"\n"),
    ("hostile", "version = 1\n\"\\u001b[31m\\u202e\" = 1\n"),
];

#[test]
fn check_reports_errors_with_positions() {
    let folder = Folder::new();
    folder.write("magika.toml", MODEL);
    symlink("/", folder.0.folder().join("link")).unwrap();
    let mut found = String::new();
    for (name, text) in BAD {
        folder.write(&format!("{name}.toml"), text);
        found.push_str(&folder.run(&format!("policy check {name}.toml")));
    }
    folder.write("open.toml", MODEL);
    folder.mode("open.toml", 0o666);
    found.push_str(&folder.run("policy check open.toml"));
    found.push_str(&folder.run("policy check nothing-here.toml"));
    let many = "[[filesystem]]\nhost = \"a\"\nguest = \"/a\"\nreason = \"r\"\n".repeat(257);
    folder.write("many.toml", &format!("version = 1\n[program]\n{many}"));
    found.push_str(&folder.run("policy check many.toml"));
    folder.write("for-program.toml", "version = 1\n[program]\n");
    folder.write(
        "own.toml",
        "version = 1\n[program]\n[[models]]\nname = \"a\"\nsha256 = \"PIN\"\npolicy = \"for-program.toml\"\n",
    );
    found.push_str(&folder.run("policy check own.toml"));
    fs::write(folder.0.folder().join("latin.toml"), b"version = 1 # \xe4\n").unwrap();
    folder.mode("latin.toml", 0o644);
    found.push_str(&folder.run("policy check latin.toml"));
    fs::write(folder.0.folder().join("large.toml"), "#".repeat((1 << 20) + 1)).unwrap();
    folder.mode("large.toml", 0o644);
    found.push_str(&folder.run("policy check large.toml"));
    let socket = std::os::unix::net::UnixListener::bind(folder.0.folder().join("socket.toml"));
    found.push_str(&folder.run("policy check socket.toml"));
    drop(socket);
    found.push_str(&folder.run("policy check /dev/null"));
    found.push_str(&folder.run("policy check magika.toml/"));
    found.push_str(
        &folder
            .run(&format!("policy check {}", "x".repeat(5000)))
            .replace(&"x".repeat(5000), "LONG"),
    );
    found
        .push_str(&folder.run("policy check magika.toml open.toml unknown-key.toml --format json"));
    assert_eq!(found.matches("exit code 3").count(), BAD.len() + 11);
    expect("check-errors.txt", &found);
}

/// Who must own a policy file, and where it may be.
#[test]
fn check_reports_files_of_untrusted_owners() {
    let folder = Folder::new();
    let at = |name: &str| folder.0.folder().join(name);
    let sub = |name: &str, mode: u32| {
        fs::create_dir(at(name)).unwrap();
        folder.mode(name, mode);
    };
    folder.write("magika.toml", MODEL);
    let mut found = String::new();
    let mut check = |name: &str| found.push_str(&folder.run(&format!("policy check {name}")));
    sub("ours", 0o775);
    folder.write("ours/p.toml", MODEL);
    check("ours/p.toml");
    sub("everybodys", 0o1777);
    fs::hard_link(at("magika.toml"), at("everybodys/p.toml")).unwrap();
    check("everybodys/p.toml");
    fs::remove_file(at("everybodys/p.toml")).unwrap();
    symlink(at("ours/p.toml"), at("elsewhere.toml")).unwrap();
    check("elsewhere.toml");
    symlink("loop.toml", at("loop.toml")).unwrap();
    check("loop.toml");
    folder.write("group.toml", MODEL);
    folder.mode("group.toml", 0o664);
    check("group.toml");
    for name in
        ["", ".", "ours", "magika.toml/p.toml", "magika.toml/.", "/proc/self/cwd/magika.toml"]
    {
        check(name);
    }
    rustix::fs::mknodat(
        rustix::fs::CWD,
        at("pipe.toml"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o644),
        0,
    )
    .unwrap();
    check("pipe.toml");
    // The same for files that a policy names.
    folder.write(
        "program.toml",
        "version = 1\n[program]\n[[models]]\nname = \"a\"\nsha256 = \"PIN\"\npolicy = \"group.toml\"\n",
    );
    check("program.toml");
    folder.write(
        "below-a-file.toml",
        "version = 1\n[program]\n[[filesystem]]\nhost = \"magika.toml/x\"\nguest = \"/x\"\nreason = \"r\"\n",
    );
    check("below-a-file.toml");
    // The other tools only display policies, so they read files of any owner.
    for name in
        ["ours/p.toml", "group.toml", "loop.toml", "ours", "magika.toml/p.toml", "pipe.toml", ""]
    {
        found.push_str(&folder.run(&format!("policy explain {name}")));
        found.push_str(&folder.run(&format!("policy diff magika.toml {name}")));
        found.push_str(&folder.run(&format!("policy score {name}")));
    }
    expect("check-whose.txt", &found);
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut found = String::new();
    let mut check = |name: &str| found.push_str(&folder.run(&format!("policy check {name}")));
    let chown = |name: &str| lchown(at(name), Some(12345), Some(12345)).unwrap();
    chown("group.toml");
    check("group.toml");
    symlink("magika.toml", at("link.toml")).unwrap();
    chown("link.toml");
    check("link.toml");
    sub("theirs", 0o755);
    folder.write("theirs/p.toml", MODEL);
    chown("theirs");
    check("theirs/p.toml");
    expect("check-whose-as-root.txt", &found);
}

#[test]
fn check_warns_about_broad_grants() {
    let folder = Folder::new();
    fs::create_dir(folder.0.folder().join("labels")).unwrap();
    folder.write("magika.toml", MODEL);
    folder.write("unpinned.toml", "version = 1\nconfinement = \"best-effort\"\n");
    folder.write("program.toml", PROGRAM);
    let file = |host: &str, guest: &str, access: &str| {
        format!(
            "[[filesystem]]\nhost = \"{host}\"\nguest = \"{guest}\"\naccess = \"{access}\"\n\
             reason = \"r\"\n"
        )
    };
    let files = [
        file("/etc", "/a", "read"),
        file("/proc", "/b", "read"),
        file(".", "/c", "write"),
        file("labels", "/d", "read"),
    ];
    folder.write("files.toml", &format!("version = 1\n[program]\n{}", files.concat()));
    let root = file("/", "/", "read");
    folder.write("root.toml", &format!("version = 1\n[program]\n{root}"));
    folder.write("bare.toml", &format!("version = 1\n[model]\nsha256 = \"PIN\"\n{}", files[3]));
    let peer = |host: &str, reaches: &str| {
        format!("[[network]]\nhost = \"{host}\"\nport = 1\nreaches = [{reaches}]\nreason = \"r\"\n")
    };
    let peers = [
        peer("a.example", "\"public\", \"private\", \"loopback\""),
        peer("localhost", "\"public\""),
        peer("169.254.169.254", "\"link-local\""),
    ];
    let text = format!("version = 1\n[program]\nsha256 = \"PIN\"\n{}", peers.concat());
    folder.write("peers.toml", &text);
    let most = "memory = \"4 GiB\"\nrun-time = \"24 h\"\nprepare-time = \"24 h\"\n";
    folder.write("most.toml", &format!("version = 1\n[model]\nsha256 = \"PIN\"\n[limits]\n{most}"));
    folder.write("split.toml", SPLIT);
    folder.write("split-model.toml", &SPLIT_MODEL.replace("\"weights\"", "\"/etc\""));
    let mut found = String::new();
    for name in ["magika", "unpinned", "program", "files", "root", "bare", "peers", "most", "split"]
    {
        found.push_str(&folder.run(&format!("policy check {name}.toml")));
    }
    found.push_str(&folder.run("policy check --strict magika.toml"));
    found.push_str(&folder.run("policy check --strict magika.toml unpinned.toml"));
    expect("check-warnings.txt", &found);
}

#[test]
fn check_lists_grants_that_no_run_used() {
    let folder = Folder::new();
    fs::create_dir(folder.0.folder().join("labels")).unwrap();
    folder.write("magika.toml", MODEL);
    folder.write("program.toml", PROGRAM);
    let json = folder.run("policy check program.toml --format json");
    let json = json.split_once('\n').unwrap().1.split("exit code").next().unwrap().to_owned();
    let answer: serde_json::Value = serde_json::from_str(&json).unwrap();
    let policy = answer["files"][0]["sha256"].as_str().unwrap().to_owned();
    let line = |policy: &str, resource: &str, access: &str, verdict: &str, rule: &str| {
        let line = serde_json::json!({
            "time": "", "model": PIN, "policy": policy, "resource": resource, "access": access,
            "verdict": verdict, "rule": rule,
        });
        format!("{line}\n")
    };
    let labels = "[[filesystem]] guest = \"/labels\", access = \"read\"";
    let answers = "[[filesystem]] guest = \"/answers\", access = \"write\"";
    let run = line(&policy, "program", "run", "allowed", "limits");
    let clocks = line(&policy, "program.clocks", "use", "allowed", "[program] clocks");
    let refused = line(&policy, "program.arguments", "use", "refused", "[program] arguments");
    let read = line(&policy, "/labels/a", "read", "allowed", labels);
    let looked = line(&policy, "/answers", "read", "allowed", answers);
    let elsewhere = line(&"ab".repeat(32), "program", "run", "allowed", "limits");
    folder.write("other.jsonl", &elsewhere);
    folder.write("some.jsonl", &[run, clocks, refused, read, looked, elsewhere].concat());
    folder.write("bad.jsonl", "{}\n");
    let mut found = String::new();
    for log in ["other", "some", "bad", "nothing-here"] {
        found.push_str(&folder.run(&format!("policy check program.toml --unused {log}.jsonl")));
    }
    found.push_str(&folder.run("policy check program.toml --strict --unused some.jsonl"));
    // Grants in a model's own policy count as used under that policy.
    folder.write("split.toml", SPLIT);
    folder.write("split-model.toml", SPLIT_MODEL);
    let digest = |name: &str| {
        let bytes = fs::read(folder.0.folder().join(name)).unwrap();
        belljar::Digest::of(&bytes).to_string()
    };
    let (of_program, of_model) = (digest("split.toml"), digest("split-model.toml"));
    let run = line(&of_program, "program", "run", "allowed", "limits");
    let load = line(&of_model, "model", "load", "allowed", "model.sha256").replace(PIN, OTHER);
    let weights = "[[filesystem]] guest = \"/weights\", access = \"read\"";
    let read = line(&of_model, "/weights", "read", "allowed", weights);
    folder.write("loaded.jsonl", &[run.clone(), load.clone()].concat());
    folder.write("read.jsonl", &[run, load, read].concat());
    for log in ["loaded", "read"] {
        found.push_str(&folder.run(&format!("policy check split.toml --unused {log}.jsonl")));
    }
    expect("check-unused.txt", &found);
}

#[test]
fn check_applies_the_ceiling() {
    let folder = Folder::new();
    fs::create_dir(folder.0.folder().join("labels")).unwrap();
    folder.write("magika.toml", MODEL);
    folder.write("unpinned.toml", "version = 1\n");
    folder.write("program.toml", PROGRAM);
    folder.write("narrow.toml", "version = 1\n[limits]\nmemory = \"128 MiB\"\n[program]\n");
    folder.write("none.toml", "version = 1\nrequire-pin = true\n");
    folder
        .write("refuse.toml", "version = 1\nexcess = \"refuse\"\n[limits]\nmemory = \"128 MiB\"\n");
    folder.write("broken.toml", "version = 1\n[limit]\n");
    folder.write("signers.toml", "version = 1\nsigners = [\"a\"]\n");
    let mut found = String::new();
    for ceiling in ["narrow.toml", "none.toml", "refuse.toml", "broken.toml", "signers.toml"] {
        let line = "policy check magika.toml unpinned.toml program.toml";
        found.push_str(&folder.run_under(line, Some(ceiling)));
    }
    expect("check-ceiling.txt", &found);
}
