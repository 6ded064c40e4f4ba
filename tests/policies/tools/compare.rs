//! `belljar policy explain`, `diff` and `score`.

use std::fmt::Write as _;
use std::fs;

use super::{Folder, MODEL, PROGRAM, SPLIT, SPLIT_MODEL, expect};
use crate::support::repository;

#[test]
fn explain_covers_every_key() {
    let folder = Folder::new();
    folder.write("magika.toml", MODEL);
    folder.write("default.toml", "version = 1\n");
    folder.write(
        "exact.toml",
        "version = 1\nconfinement = \"best-effort\"\n[compute]\ndeterministic = true\n",
    );
    folder.write(
        "slow.toml",
        "version = 1\n[compute]\nkernels = \"sandbox\"\n[[filesystem]]\nhost = \"data\"\n\
         guest = \"/data\"\nreason = \"weights\"\n",
    );
    folder.write("threads.toml", "version = 1\n[compute]\nthreads = 4\nseed = 7\n");
    folder.write("program.toml", PROGRAM);
    folder.write("quiet.toml", "version = 1\n[program]\n");
    // A policy of another user is still displayed.
    folder.write(
        "strange.toml",
        "version = 1\n[program]\nclocks = true\nreason = \"\\u202e\\u001b\"\n",
    );
    let mut found = String::new();
    folder.write("split.toml", SPLIT);
    folder.write("split-model.toml", SPLIT_MODEL);
    for name in ["magika", "default", "exact", "slow", "threads", "program", "quiet", "split"] {
        found.push_str(&folder.run(&format!("policy explain {name}.toml")));
    }
    folder.mode("magika.toml", 0o666);
    found.push_str(&folder.run("policy explain magika.toml --format json"));
    found.push_str(&folder.run("policy explain strange.toml"));
    found.push_str(&folder.run("policy explain nothing-here.toml"));
    found.push_str(&folder.run("policy explain /dev/null"));
    expect("explain.txt", &found);
}

#[test]
fn diff_distinguishes_gains_from_losses() {
    let folder = Folder::new();
    folder.write("magika.toml", MODEL);
    folder.write(
        "tight.toml",
        "version = 1\n[model]\nsha256 = \"PIN\"\n[limits]\nmemory = \"64 MiB\"\n",
    );
    let mut found = String::new();
    let mut number = 0;
    let mut both = |old: &str, new: &str| {
        number += 1;
        folder.write("a.toml", old);
        folder.write("b.toml", new);
        let _ = write!(found, "# {number}\n{}", folder.run("policy diff a.toml b.toml"));
        found.push_str(&folder.run("policy diff b.toml a.toml"));
    };
    both(MODEL, MODEL);
    both(MODEL, "version = 1\n");
    both(MODEL, &MODEL.replace("PIN", "OTHER"));
    let all = "version = 1\nconfinement = \"best-effort\"\n[limits]\nmemory = \"2 GiB\"\n\
        run-time = \"1 min\"\nprepare-time = \"3 min\"\nmodel-size = \"1 GiB\"\n\
        input-size = \"1 GiB\"\noutput-size = \"1 GiB\"\nlog-size = \"1 MiB\"\nstack = \"4 MiB\"\n\
        snapshots = 8\n[compute]\nthreads = 2\n";
    both("version = 1\n[compute]\nkernels = \"sandbox\"\n", all);
    both("version = 1\n[compute]\ndeterministic = true\nseed = 7\n", "version = 1\n");
    both("version = 1\n[program]\n", PROGRAM);
    both("version = 1\n", PROGRAM);
    both(PROGRAM, &PROGRAM.replace("LANG = \"C\"", "LANG = \"D\"").replace("stdout = true", ""));
    both(PROGRAM, &PROGRAM.replace("host = \"labels\"", "host = \".\""));
    both(PROGRAM, &PROGRAM.replace("guest = \"/labels\"", "guest = \"/classes\""));
    both(PROGRAM, &PROGRAM.replace("access = \"write\"", "access = \"read\""));
    both(
        PROGRAM,
        &PROGRAM.replace("port = 6379", "port = 6379\nreaches = [\"public\", \"loopback\"]"),
    );
    both(PROGRAM, &PROGRAM.replace("protocol = \"udp\"", ""));
    both(PROGRAM, &PROGRAM.replace("path = \"magika.onnx\"", ""));
    both(PROGRAM, &PROGRAM.replace("magika.toml", "tight.toml"));
    both(PROGRAM, &PROGRAM.replace("\"OTHER\"", "\"PIN\""));
    // A model is confined at least as its program is: only both together reduce the confinement.
    let weak = "version = 1\nconfinement = \"best-effort\"";
    folder.write("weak.toml", &MODEL.replace("version = 1", weak));
    both(PROGRAM, &PROGRAM.replace("magika.toml", "weak.toml"));
    let program = PROGRAM.replace("version = 1", weak);
    both(&program, &program.replace("magika.toml", "weak.toml"));
    both(PROGRAM, &PROGRAM.replace("bytes-sent = \"1 GiB\"", "bytes-sent = \"2 GiB\"\nfiles-created = 1\nopen-handles = 65\nconnections = 17\nbytes-received = \"1 B\""));
    // A grant in a model's own policy is a gain of the program.
    folder.write("split-model.toml", SPLIT_MODEL);
    folder.write("broader-model.toml", &SPLIT_MODEL.replace("\"weights\"", "\".\""));
    both("version = 1\n[program]\nsha256 = \"PIN\"\n", SPLIT);
    both(&SPLIT.replace("policy = \"split-model.toml\"\n", ""), SPLIT);
    both(SPLIT, &SPLIT.replace("split-model", "broader-model"));
    // The folder of a policy makes no difference.
    fs::create_dir(folder.0.folder().join("elsewhere")).unwrap();
    folder.write("a.toml", PROGRAM);
    folder.write("elsewhere/b.toml", PROGRAM);
    folder.write("elsewhere/magika.toml", MODEL);
    found.push_str(&folder.run("policy diff a.toml elsewhere/b.toml"));
    folder.write("b.toml", &PROGRAM.replace("host = \"labels\"", "host = \"labels/de\""));
    found.push_str(&folder.run("policy diff a.toml b.toml --format json"));
    found.push_str(&folder.run("policy diff a.toml nothing-here.toml"));
    folder.write("b.toml", "version = 1\n[limit]\n");
    found.push_str(&folder.run("policy diff a.toml b.toml"));
    expect("diff.txt", &found);
}

#[test]
fn score_is_the_sum_of_its_weights() {
    let folder = Folder::new();
    folder.write("magika.toml", MODEL);
    folder.write("default.toml", "version = 1\n");
    folder.write("least.toml", "version = 1\n[model]\nsha256 = \"PIN\"\n[limits]\nmemory = \"64 MiB\"\nrun-time = \"1 s\"\n[compute]\nkernels = \"sandbox\"\n");
    folder.write("program.toml", PROGRAM);
    folder.write(
        "wild.toml",
        "version = 1\nconfinement = \"best-effort\"\n[compute]\nthreads = 4\n[program]\n\
         [[filesystem]]\nhost = \"/\"\nguest = \"/a\"\naccess = \"write\"\nreason = \"r\"\n\
         [[network]]\nhost = \"a.example\"\nport = 1\nreason = \"r\"\n\
         reaches = [\"public\", \"private\", \"loopback\", \"link-local\"]\n",
    );
    let mut found = String::new();
    folder.write("split.toml", SPLIT);
    folder.write("split-model.toml", SPLIT_MODEL);
    for name in ["magika", "default", "least", "program", "wild", "split"] {
        found.push_str(&folder.run(&format!("policy score {name}.toml")));
    }
    found.push_str(&folder.run("policy score magika.toml --max 5"));
    found.push_str(&folder.run("policy score magika.toml --max 4"));
    found.push_str(&folder.run("policy score magika.toml --format json"));
    expect("score.txt", &found);
}

#[test]
fn the_readme_has_every_weight() {
    let folder = Folder::new();
    folder.write("magika.toml", MODEL);
    let found = folder.run("policy score magika.toml --format json");
    let json = found.split_once('\n').unwrap().1.split("exit code").next().unwrap();
    let answer: serde_json::Value = serde_json::from_str(json).unwrap();
    let readme = fs::read_to_string(repository().join("policies/README.md")).unwrap();
    let weights = answer["weights"].as_array().unwrap();
    assert!(weights.len() > 20);
    for weight in weights {
        let key = weight["key"].as_str().unwrap();
        let row =
            format!("| `{key}` | {} | {} |", weight["points"], weight["what"].as_str().unwrap());
        assert!(readme.contains(&row), "{row}");
    }
}
