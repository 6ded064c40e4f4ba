//! Tests of ceilings: a cut policy is within them.

use std::path::Path;

use super::super::ceiling::{Ceilings, Effective};
use super::*;
use proptest::prelude::*;

/// The policy cut down to ceilings of these texts.
fn under(policy: &str, ceilings: &[&str]) -> Result<Effective, Refused> {
    let policy = Policy::parse(&format!("version = 1\n{policy}"), "policy").unwrap();
    let ceilings = ceilings
        .iter()
        .map(|text| Ceiling::parse(&format!("version = 1\n{text}"), "ceiling").expect(text));
    Ceilings::of(ceilings.collect(), false).admit(&policy)
}

fn cuts(policy: &str, ceiling: &str) -> Vec<String> {
    let effective = under(policy, &[ceiling]).unwrap();
    effective.cuts().iter().map(Cut::to_string).collect()
}

const OPEN: &str = r#"
[program]
stdout = true
stderr = true
clocks = true
randomness = true
arguments = true
environment = ["LANG", "TZ"]
[[filesystem]]
path = "/"
access = "write"
[[network]]
host = "*"
ports = ["1-65535"]
reaches = ["public", "private", "loopback", "link-local"]
"#;

const PROGRAM: &str = r#"
[program]
stdout = true
stderr = true
clocks = true
randomness = true
arguments = true
environment = { LANG = "C", HOME = "/" }
reason = "r"
"#;

#[test]
fn empty_ceiling_leaves_models_unchanged_and_allows_no_programs() {
    assert!(cuts("", "").is_empty());
    assert!(cuts("confinement = \"best-effort\"\n[limits]\nmemory = \"4 GiB\"", "").is_empty());
    assert_eq!(*under("", &[""]).unwrap(), Policy::default());
    assert!(cuts("declared-shapes = \"strict\"", "").is_empty());
    let refused = under("[program]", &[""]).unwrap_err();
    assert!(matches!(refused, Refused::NoPrograms { .. }));
    assert_says(&refused.to_string(), &["guest programs are not allowed"]);
    let file = "[[filesystem]]\nhost = \"/srv/a\"\nguest = \"/a\"\nreason = \"r\"";
    assert_eq!(cuts(file, "").len(), 1);
    assert!(under(file, &[""]).unwrap().filesystem.is_empty());
}

#[test]
fn every_limit_and_quota_is_cut() {
    let policy = "confinement = \"best-effort\"\n[limits]\nmemory = \"2 GiB\"\nrun-time = \"2 h\"\n\
        prepare-time = \"2 h\"\nmodel-size = \"2 GiB\"\ninput-size = \"2 GiB\"\n\
        output-size = \"2 GiB\"\nlog-size = \"2 MiB\"\nstack = \"4 MiB\"\nsnapshots = 9\n\
        [compute]\nthreads = 8\n[program]\n[quotas]\nbytes-written = \"2 GiB\"\n\
        files-created = 1000\nopen-handles = 500\nconnections = 99\nbytes-sent = \"2 GiB\"\n\
        bytes-received = \"2 GiB\"";
    let ceiling = "confinement = \"strict\"\n[limits]\nmemory = \"1 GiB\"\nrun-time = \"1 h\"\n\
        prepare-time = \"1 h\"\nmodel-size = \"1 GiB\"\ninput-size = \"1 GiB\"\n\
        output-size = \"1 GiB\"\nlog-size = \"1 MiB\"\nstack = \"2 MiB\"\nsnapshots = 2\n\
        [compute]\nthreads = 2\nkernels = \"sandbox\"\n[program]\n[quotas]\n\
        bytes-written = \"1 GiB\"\nfiles-created = 10\nopen-handles = 5\nconnections = 0\n\
        bytes-sent = \"1 GiB\"\nbytes-received = \"1 GiB\"";
    let reported = cuts(policy, ceiling);
    for key in [
        "limits.memory = 2 GiB is more than the ceiling allows: 1 GiB",
        "limits.run-time = 2 h is more than the ceiling allows: 1 h",
        "limits.prepare-time",
        "limits.model-size",
        "limits.input-size",
        "limits.output-size",
        "limits.log-size",
        "limits.stack",
        "limits.snapshots = 9 is more than the ceiling allows: 2",
        "compute.threads = 8",
        "compute.kernels = \"native\" is more than the ceiling allows: \"sandbox\"",
        "confinement = \"best-effort\" is more than the ceiling allows: \"strict\"",
        "quotas.bytes-written",
        "quotas.files-created",
        "quotas.open-handles",
        "quotas.connections = 99 is more than the ceiling allows: 0",
        "quotas.bytes-sent",
        "quotas.bytes-received",
    ] {
        assert!(reported.iter().any(|cut| cut.starts_with(key)), "{key}: {reported:?}");
    }
    assert_eq!(reported.len(), 18, "{reported:?}");
    let left = under(policy, &[ceiling]).unwrap();
    let most = Ceiling::parse(&format!("version = 1\n{ceiling}"), "x").unwrap();
    assert_eq!((&left.limits, &left.quotas), (&most.limits, &most.quotas));
    assert_eq!((left.compute.threads, left.compute.kernels), (2, Kernels::Sandbox));
    assert_eq!(left.confinement, Confinement::Strict);
    // A policy that was cut is within the ceiling.
    let again = Ceilings::of(vec![most], false).admit(&left).unwrap();
    assert!(again.cuts().is_empty());
    assert_eq!(*again, *left);
}

#[test]
fn effective_policy_is_cut_again_only_by_other_ceilings() {
    let ceilings = |most: &str| {
        let text = format!("version = 1\n[limits]\nmemory = \"{most}\"");
        Ceilings::of(vec![Ceiling::parse(&text, "ceiling").unwrap()], false)
    };
    let (own, others) = (ceilings("512 MiB"), ceilings("128 MiB"));
    let (first, cuts) = Policy::default().admitted_by(&own).unwrap();
    assert!(cuts == first.cuts() && cuts.len() == 1);
    for same in [&own.clone(), &own] {
        let (again, cuts) = first.admitted_by(same).unwrap();
        assert!(cuts.is_empty() && *again == *first && again.cuts() == first.cuts());
    }
    let (less, cuts) = first.admitted_by(&others).unwrap();
    assert!(cuts.len() == 1 && less.limits.memory == 128 << 20, "{less:?}");
    assert_eq!(less.cuts().len(), 2);
    // An output limit above the ceiling's does not come back by way of a picture.
    let small = Ceiling::parse("version = 1\n[limits]\noutput-size = \"1 MiB\"", "c").unwrap();
    let small = Ceilings::of(vec![small], false);
    let pictures = small.admit(&Policy::default()).unwrap().for_pictures();
    assert!(pictures.limits.output_size > 1 << 20);
    let (again, cuts) = pictures.admitted_by(&small).unwrap();
    assert!(cuts.len() == 1 && again.limits.output_size == 1 << 20, "{cuts:?}");
    let refusing =
        Ceilings::of(vec![Ceiling::parse("version = 1\nrequire-pin = true", "c").unwrap()], false);
    assert!(first.admitted_by(&refusing).is_err());
}

#[test]
fn program_resources_are_cut() {
    assert!(cuts(PROGRAM.replace("HOME", "TZ").as_str(), OPEN).is_empty());
    let left = under(PROGRAM, &[OPEN]).unwrap();
    assert_eq!(left.cuts().len(), 1);
    assert_eq!(
        left.cuts()[0].to_string(),
        "program.environment = \"HOME\" is more than the ceiling allows: not granted"
    );
    let left = under(PROGRAM, &["[program]"]).unwrap();
    assert_eq!(left.cuts().len(), 7, "{:?}", left.cuts());
    let program = left.program.clone().unwrap();
    assert_eq!(program, Program { reason: Some("r".into()), ..Program::default() });
}

#[test]
fn file_grants_are_cut_to_the_roots() {
    let file = |host: &str, access: &str| {
        format!(
            "[program]\n[[filesystem]]\nhost = \"{host}\"\nguest = \"/a\"\naccess = \"{access}\"\n\
             reason = \"r\""
        )
    };
    let ceiling = "[program]\n[[filesystem]]\npath = \"/srv\"\n[[filesystem]]\npath = \"/srv/out/\"\n\
                   access = \"write\"";
    let left = |host: &str, access: &str| {
        let left = under(&file(host, access), &[ceiling]).unwrap();
        assert!(left.cuts().len() <= 1);
        assert!(left.cuts().len() == 1 || left.filesystem.len() == 1);
        left.filesystem.first().map(|grant| grant.access)
    };
    for (host, access, expected) in [
        ("/srv", "read", Some(Access::Read)),
        ("/srv/a", "read", Some(Access::Read)),
        ("/srv", "write", Some(Access::Read)),
        ("/srv/outer", "write", Some(Access::Read)),
        ("/srv/out", "write", Some(Access::Write)),
        ("/srv/out/a", "write", Some(Access::Write)),
        ("/srv/out", "read", Some(Access::Read)),
        ("/", "read", None),
        ("/srvx", "read", None),
        ("/etc", "read", None),
        // A policy that was parsed but not loaded: this relative path is not resolved.
        ("srv", "read", None),
        (".", "read", None),
    ] {
        assert_eq!(left(host, access), expected, "{host} {access}");
    }
    // No file can contain this, but code can.
    let mut policy =
        Policy::parse(&format!("version = 1\n{}", file("/srv/a", "read")), "x").unwrap();
    policy.filesystem[0].host = "/srv/../etc".into();
    let most = Ceiling::parse(&format!("version = 1\n{ceiling}"), "x").unwrap();
    assert!(Ceilings::of(vec![most], false).admit(&policy).unwrap().filesystem.is_empty());
}

#[test]
fn network_grants_are_cut_to_the_listed_peers() {
    let ceiling = r#"
[program]
[[network]]
host = "features.example.com"
ports = [6379, "8000-8001"]
[[network]]
host = "*.internal"
ports = [443]
reaches = ["private"]
[[network]]
host = "*"
ports = [443]
[[network]]
host = "127.0.0.1"
ports = [53]
protocol = "udp"
reaches = ["loopback"]
"#;
    let left = |host: &str, port: u16, more: &str| {
        let policy = format!(
            "[program]\n[[network]]\nhost = \"{host}\"\nport = {port}\nreason = \"r\"\n{more}"
        );
        let left = under(&policy, &[ceiling]).unwrap();
        left.network
            .first()
            .map(|grant| grant.reaches.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(" "))
    };
    let both = "reaches = [\"public\", \"private\"]";
    for (host, port, more, expected) in [
        ("features.example.com", 6379, "", Some("public")),
        ("FEATURES.example.com", 8001, "", Some("public")),
        ("features.example.com", 8002, "", None),
        ("features.example.com", 6379, "protocol = \"udp\"", None),
        ("features.example.com", 6379, "reaches = [\"private\"]", None),
        ("features.example.com", 6379, both, Some("public")),
        ("a.features.example.com", 6379, "", None),
        ("other.example.com", 443, "", Some("public")),
        ("other.example.com", 443, both, Some("public")),
        ("db.internal", 443, both, Some("public private")),
        ("a.b.internal", 443, both, Some("public private")),
        ("internal", 443, both, Some("public")),
        ("xinternal", 443, both, Some("public")),
        ("10.0.0.1", 443, "reaches = [\"private\"]", None),
        ("127.0.0.1", 53, "protocol = \"udp\"\nreaches = [\"loopback\"]", Some("loopback")),
        ("127.0.0.2", 53, "protocol = \"udp\"\nreaches = [\"loopback\"]", None),
    ] {
        assert_eq!(left(host, port, more).as_deref(), expected, "{host}:{port} {more}");
    }
}

#[test]
fn refusals_instead_of_cuts() {
    let large = "[limits]\nmemory = \"2 GiB\"";
    let most = "[limits]\nmemory = \"512 MiB\"";
    let refuse = format!("excess = \"refuse\"\n{most}");
    assert_eq!(under(large, &[most]).unwrap().limits.memory, 512 << 20);
    for ceilings in [&[refuse.as_str()][..], &[most, &refuse], &[&refuse, most]] {
        let refused = under(large, ceilings).unwrap_err();
        assert!(matches!(refused, Refused::Excess { .. }));
        assert_says(&refused.to_string(), &["limits.memory = 2 GiB", "512 MiB"]);
    }
    under("[limits]\nmemory = \"512 MiB\"", &[&refuse]).unwrap();
    let strict =
        Ceilings::of(vec![Ceiling::parse(&format!("version = 1\n{most}"), "x").unwrap()], true);
    let policy = Policy::parse(&format!("version = 1\n{large}"), "x").unwrap();
    assert!(matches!(strict.admit(&policy), Err(Refused::Excess { .. })));

    let pin = format!("sha256 = \"{}\"", "a".repeat(64));
    for (policy, what) in [("", "their model"), ("[program]", "their program")] {
        let refused = under(policy, &["require-pin = true\n[program]"]).unwrap_err();
        assert!(matches!(refused, Refused::NoPin { .. }));
        assert_says(&refused.to_string(), &["requires policies to pin", what]);
    }
    for table in ["[model]", "[program]"] {
        under(&format!("{table}\n{pin}"), &["require-pin = true\n[program]"]).unwrap();
    }
}

#[test]
fn ceiling_can_require_declared_shapes() {
    let strict = "declared-shapes = \"strict\"";
    let reported = cuts("", strict);
    assert_eq!(
        reported,
        ["declared-shapes = \"report\" is more than the ceiling allows: \"strict\""]
    );
    assert_eq!(under("", &[strict]).unwrap().declared_shapes, DeclaredShapes::Strict);
    assert!(cuts(strict, strict).is_empty());
    assert_eq!(
        under(strict, &["", "declared-shapes = \"report\""]).unwrap().declared_shapes,
        DeclaredShapes::Strict
    );
}

#[test]
fn ceiling_that_requires_pins_requires_pins_of_model_files() {
    let ceiling = "require-pin = true\n[program]\n[[filesystem]]\npath = \"/srv\"";
    let pin = format!("sha256 = \"{}\"", "a".repeat(64));
    let model = format!("[model]\n{pin}\n");
    let file = |more: &str| {
        format!("[[filesystem]]\nhost = \"/srv/w\"\nguest = \"/w\"\nreason = \"r\"\n{more}\n")
    };
    let refused = under(&(model.clone() + &file("")), &[ceiling]).unwrap_err();
    assert!(matches!(&refused, Refused::NoFilePin { guest, .. } if guest == "/w"), "{refused}");
    assert_says(&refused.to_string(), &["every file of a model", "/w"]);
    assert!(under(&(model.clone() + &file(&pin)), &[ceiling]).is_ok());
    assert!(under(&(model + &file("")), &[""]).is_ok());
    // A file that a program reads is not a file of a model.
    let program = format!("[program]\n{pin}\n{}", file(""));
    assert!(under(&program, &[ceiling]).is_ok());
    // But the files of its models are.
    let text = format!(
        "version = 1\n[program]\n{pin}\n[[models]]\nname = \"m\"\n{pin}\npolicy = \"m.toml\""
    );
    for (more, good) in [("", false), (&*pin, true)] {
        let mut policy = Policy::parse(&text, "x").unwrap();
        let inner = Policy::parse(&format!("version = 1\n{}", file(more)), "m").unwrap();
        let source = Source { path: "/m.toml".into(), sha256: [0; 32] };
        policy.models[0].rules = Some(Box::new(LoadedPolicy { policy: inner, source }));
        let most = Ceiling::parse(&format!("version = 1\n{ceiling}"), "x").unwrap();
        let admitted = Ceilings::of(vec![most], false).admit(&policy);
        assert_eq!(admitted.is_ok(), good, "{admitted:?}");
    }
}

#[test]
fn all_ceilings_apply_in_any_order() {
    let a = "[limits]\nmemory = \"512 MiB\"\nstack = \"2 MiB\"";
    let b = "[limits]\nmemory = \"1 GiB\"\nstack = \"1 MiB\"";
    for ceilings in [[a, b], [b, a]] {
        let left = under("[limits]\nmemory = \"2 GiB\"", &ceilings).unwrap();
        assert_eq!((left.limits.memory, left.limits.stack), (512 << 20, 1 << 20));
    }
}

#[test]
fn models_of_a_program_are_cut() {
    let text = format!(
        "version = 1\n[program]\n[[models]]\nname = \"m\"\nsha256 = \"{}\"\npolicy = \"m.toml\"",
        "a".repeat(64)
    );
    let mut policy = Policy::parse(&text, "x").unwrap();
    let inner = Policy::parse(
        "version = 1\nconfinement = \"best-effort\"\n[limits]\nmemory = \"2 GiB\"\n[[filesystem]]\n\
         host = \"/a/w\"\nguest = \"/w\"\nreason = \"r\"\n[[filesystem]]\nhost = \"/b/v\"\n\
         guest = \"/v\"\nreason = \"r\"",
        "m",
    )
    .unwrap();
    let source = Source { path: "/m.toml".into(), sha256: [0; 32] };
    policy.models[0].rules = Some(Box::new(LoadedPolicy { policy: inner, source }));
    let most = "version = 1\nconfinement = \"strict\"\n[program]\n[limits]\nmemory = \"1 GiB\"\n\
                [[filesystem]]\npath = \"/a\"\naccess = \"read\"";
    let most = Ceilings::of(vec![Ceiling::parse(most, "x").unwrap()], false);
    let left = most.admit(&policy).unwrap();
    let rules = left.for_model(&left.models[0]).unwrap();
    assert_eq!((rules.limits.memory, rules.confinement), (1 << 30, Confinement::Strict));
    let [kept] = &rules.filesystem[..] else { panic!("{rules:?}") };
    assert_eq!(kept.guest, "/w");
    let reported: Vec<String> = left.cuts().iter().map(Cut::to_string).collect();
    assert!(reported[0].starts_with("models[1].policy limits.memory = 2 GiB"), "{reported:?}");
    let last = reported.last().unwrap();
    assert!(last.starts_with("models[1].policy filesystem.host = \"/b/v\""), "{reported:?}");
}

proptest! {
    #[test]
    fn cut_policy_never_allows_more(
        memory in 32_u64..4096,
        most in 32_u64..4096,
        threads in 1_u32..64,
        most_threads in 1_u32..64,
        hosts in prop::collection::vec("/(srv|etc|home)(/[a-c]){0,2}", 0..5),
        roots in prop::collection::vec("/(srv|etc|home)(/[a-c]){0,2}", 0..5),
    ) {
        let files: String = hosts.iter().enumerate().map(|(at, host)| format!(
            "[[filesystem]]\nhost = \"{host}\"\nguest = \"/{at}\"\naccess = \"write\"\nreason = \"r\"\n"
        )).collect();
        let policy = format!(
            "[limits]\nmemory = \"{memory} MiB\"\n[compute]\nthreads = {threads}\n[program]\n{files}"
        );
        let allowed: String = roots.iter().map(|root| format!(
            "[[filesystem]]\npath = \"{root}\"\naccess = \"write\"\n"
        )).collect();
        let ceiling = format!(
            "[limits]\nmemory = \"{most} MiB\"\n[compute]\nthreads = {most_threads}\n[program]\n{allowed}"
        );
        let left = under(&policy, &[&ceiling]).unwrap();
        prop_assert_eq!(left.limits.memory, memory.min(most) << 20);
        prop_assert_eq!(left.compute.threads, threads.min(most_threads));
        for grant in &left.filesystem {
            prop_assert!(roots.iter().any(|root| grant.host.starts_with(root)));
        }
        let fitting = hosts.iter().filter(|host| roots.iter().any(|r| Path::new(host).starts_with(r)));
        prop_assert_eq!(left.filesystem.len(), fitting.count());
    }
}
