//! The disadvantages of isolations without a worker process.

use belljar::{Confinement, ErrorKind, Host, HostBuilder, Isolation, ModelBytes, Policy};

use super::support::onnx::{fixed, relu};
use super::{answers, builder, host, load, stop};

const IN_PROCESS: [Isolation; 2] = [Isolation::Thread, Isolation::InProcessWithoutAnyConfinement];

pub(super) fn never_strict() {
    let bytes = || ModelBytes::read(&relu(&fixed(&[2])).bytes()[..], 1 << 20).unwrap();
    let under = |confinement| Policy::default().with_confinement(confinement);
    let (strict, best_effort) = (under(Confinement::Strict), under(Confinement::BestEffort));
    for isolation in IN_PROCESS {
        let build = |builder: HostBuilder| builder.isolation(isolation).build().unwrap();
        let refused = |host: &Host, policy: &Policy| {
            let err = host.load(bytes(), policy).err().expect("a refusal");
            assert!(matches!(err.kind(), ErrorKind::Unprotected(_)), "{isolation:?}: {err}");
            assert_eq!(err.exit_code(), 7);
        };
        refused(&build(builder()), &strict);
        refused(&build(builder()), &Policy::default());
        // A policy cannot relax what the host requires.
        refused(&build(builder().confinement(Confinement::Strict)), &best_effort);
        answers(&build(builder()).load(bytes(), &best_effort).unwrap_or_else(stop), 1.0);
    }
    for policy in [strict, best_effort] {
        answers(&host().load(bytes(), &policy).unwrap_or_else(stop), 1.0);
    }
}

pub(super) fn thread_filters() {
    for isolation in IN_PROCESS {
        let host = builder().isolation(isolation).build().unwrap();
        let model = load(&host).unwrap_or_else(stop);
        answers(&model, 1.0);
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let filters = |task: std::io::Result<std::fs::DirEntry>| {
            let text = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
            let value = |name: &str| {
                let line = text.lines().find_map(|line| line.strip_prefix(name))?;
                line.trim().parse::<u32>().ok()
            };
            (text.contains("Name:\tbelljar-sandbox"), value("Seccomp_filters:").unwrap())
        };
        let all: Vec<(bool, u32)> = tasks.map(filters).collect();
        let own = all.iter().find(|(sandbox, _)| !sandbox).unwrap().1;
        let sandboxes: Vec<u32> = all.iter().filter(|(s, _)| *s).map(|(_, count)| *count).collect();
        assert!(!sandboxes.is_empty(), "there is no sandbox to look at");
        let under_more = sandboxes.iter().all(|count| *count > own);
        assert_eq!(under_more, isolation == Isolation::Thread, "{isolation:?}: {all:?}");
    }
}
