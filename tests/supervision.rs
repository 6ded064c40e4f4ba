//! Tests how the supervisor handles workers that end unexpectedly.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use belljar::{Error, ErrorKind, Host, Isolation, Model, Tensor, WorkerEnd};
use rustix::process::{Pid, Signal, kill_process};
use support::onnx::{FLOAT, Graph, fixed, node, slow, value};
use support::{belljar, builder, load, own_state};

/// Number of concurrent requests.
const CLIENTS: usize = 4;

/// A host that keeps an idle sandbox for each client, has no cleanup thread, and counts no deaths.
fn host() -> Host {
    let builder = builder(Isolation::Process).idle_sandboxes(CLIENTS).idle_time(None);
    builder.quarantine_after(None).build().unwrap()
}

/// Runs one test at a time, because these tests inspect and kill all children of this process.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `y = a op b`, for eight numbers each.
fn of_two(op: &str) -> Vec<u8> {
    let dims = fixed(&[8]);
    Graph {
        nodes: vec![node(op, &["a", "b"], &["y"], &[])],
        inputs: vec![value("a", FLOAT, &dims), value("b", FLOAT, &dims)],
        outputs: vec![value("y", FLOAT, &dims)],
        ..Graph::default()
    }
    .bytes()
}

/// Numbers that differ for each request.
fn numbers(request: usize) -> ([f32; 8], [f32; 8]) {
    // Small enough for every sum, product and difference to be exact.
    let at = |n: usize| (request * 16 + n) as f32 % 2039.0 + (request % 61) as f32;
    (std::array::from_fn(at), std::array::from_fn(|n| at(n + 8)))
}

fn ask(model: &Model, request: usize) -> Result<Vec<f32>, Error> {
    let (a, b) = numbers(request);
    let tensor = |values: [f32; 8]| Tensor::new(values.to_vec(), &[8]).unwrap();
    let outputs = model.run(&[("a", tensor(a)), ("b", tensor(b))])?.validate()?;
    Ok(outputs.get("y").unwrap().as_slice::<f32>().unwrap().to_vec())
}

fn expected(op: &str, request: usize) -> Vec<f32> {
    let (a, b) = numbers(request);
    a.iter().zip(b).map(|(a, b)| if op == "Add" { a + b } else { a * b }).collect()
}

fn children() -> Vec<i32> {
    children_of("self")
}

fn children_of(process: &str) -> Vec<i32> {
    let tasks = fs::read_dir(format!("/proc/{process}/task"));
    let tasks = tasks.into_iter().flatten().filter_map(Result::ok);
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| {
            list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>()
        })
        .collect()
}

/// Kills a process as the kernel does when memory runs out. The first process of a PID namespace
/// can ignore all other signals.
fn kill(pid: i32) -> bool {
    Pid::from_raw(pid).is_some_and(|pid| kill_process(pid, Signal::KILL).is_ok())
}

/// Waits until a killed child, with all of its threads, is a zombie.
fn wait_for_end(pid: i32) {
    let alive = || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let threads = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
        // After the first thread has ended, others may still receive a request.
        !status.is_empty() && (threads > 1 || !status.contains("State:\tZ"))
    };
    let start = Instant::now();
    while alive() {
        assert!(start.elapsed() < Duration::from_secs(20), "{pid} is still alive");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The resources of this process: children, descriptors, Belljar's threads.
fn held() -> BTreeMap<&'static str, usize> {
    let tasks = fs::read_dir("/proc/self/task").unwrap().filter_map(Result::ok);
    let names = tasks.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
    BTreeMap::from([
        ("children", children().len()),
        ("descriptors", fs::read_dir("/proc/self/fd").unwrap().count()),
        ("threads", names.filter(|name| name.starts_with("belljar")).count()),
    ])
}

/// Kills workers this many times, spread over the requests of four clients.
fn kills_under_load(requests: usize, kills: usize) {
    let _alone = alone();
    let start = || {
        let host = host();
        let models = ["Add", "Mul"].map(|op| (op, load(&host, &of_two(op)).unwrap()));
        for (op, model) in &models {
            assert_eq!(ask(model, 7).unwrap(), expected(op, 7));
        }
        models
    };
    // Creates everything that is created once and kept.
    drop(start());
    let before = held();

    let models = start();
    let (sent, lost, killed) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let request = sent.fetch_add(1, Ordering::Relaxed);
                        if request >= requests {
                            return;
                        }
                        let (op, model) = &models[request % models.len()];
                        match ask(model, request) {
                            Ok(answer) => assert_eq!(answer, expected(op, request), "{request}"),
                            Err(err) => {
                                let clear = matches!(
                                    err.kind(),
                                    ErrorKind::Worker(_) | ErrorKind::BackOff { .. }
                                );
                                assert!(clear, "{err}");
                                assert!(err.to_string().starts_with("test.onnx: no "), "{err}");
                                lost.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                        // Keeps the requests from running ahead of the kills.
                        let due = |request: usize| request * kills / requests;
                        while killed.load(Ordering::Relaxed) + CLIENTS < due(request)
                            && !over.load(Ordering::Relaxed)
                        {
                            std::thread::sleep(Duration::from_micros(100));
                        }
                    }
                })
            })
            .collect();
        let killer = scope.spawn(|| {
            let mut seed = 0x9e37_79b9_7f4a_7c15u64;
            while killed.load(Ordering::Relaxed) < kills && !over.load(Ordering::Relaxed) {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                if killed.load(Ordering::Relaxed) > sent.load(Ordering::Relaxed) * kills / requests
                {
                    std::thread::sleep(Duration::from_micros(100));
                    continue;
                }
                let children = children();
                let Some(pid) = children.get(seed as usize % children.len().max(1)) else {
                    continue;
                };
                let zombie = fs::read_to_string(format!("/proc/{pid}/status"))
                    .is_ok_and(|status| status.contains("State:\tZ"));
                if !zombie && kill(*pid) {
                    killed.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let ended: Vec<_> = clients.into_iter().map(|client| client.join()).collect();
        over.store(true, Ordering::Relaxed);
        killer.join().unwrap();
        ended.into_iter().for_each(|client| client.unwrap());
    });
    let (lost, killed) = (lost.into_inner(), killed.into_inner());
    println!("{requests} requests, {killed} kills, {lost} requests lost");
    assert!(killed + CLIENTS >= kills, "only {killed} were killed");
    assert!(lost <= killed, "{lost} requests were lost to {killed} kills");
    // The models still answer, and no resources leak.
    for (op, model) in &models {
        assert_eq!(ask(model, 11).unwrap(), expected(op, 11));
    }
    drop(models);
    assert_eq!(held(), before);
}

#[test]
fn no_answer_is_lost_or_mixed_up_when_workers_are_killed() {
    kills_under_load(10_000, 1_000);
}

#[test]
fn a_worker_that_dies_while_it_waits_costs_no_request() {
    let _alone = alone();
    let host = host();
    let kill_all = || {
        let workers = children();
        assert!(!workers.is_empty());
        for pid in workers {
            assert!(kill(pid));
            wait_for_end(pid);
        }
    };
    // The worker that waits for the first model.
    host.warm_up(&belljar::Policy::default()).unwrap();
    kill_all();
    let model = load(&host, &of_two("Add")).unwrap();
    // The worker that has loaded the model.
    kill_all();
    assert_eq!(ask(&model, 1).unwrap(), expected("Add", 1));
    // Workers with a prepared model.
    let (a, b) = numbers(2);
    let tensor = |values: [f32; 8]| Tensor::new(values.to_vec(), &[8]).unwrap();
    model.warm_up(&[("a", tensor(a)), ("b", tensor(b))], 4).unwrap();
    assert_eq!(children().len(), 4);
    kill_all();
    for request in 3..8 {
        assert_eq!(ask(&model, request).unwrap(), expected("Add", request));
    }
}

#[test]
fn a_worker_that_dies_during_a_request_fails_only_that_request() {
    let _alone = alone();
    let host = host();
    let busy = load(&host, &slow(1024, 4000).bytes()).unwrap();
    let square = Tensor::new(vec![0.0f32; 1 << 20], &[1024, 1024]).unwrap();
    busy.prepare(&[("x", square.clone())]).unwrap();
    let before = children();
    let other = load(&host, &of_two("Mul")).unwrap();
    assert_eq!(ask(&other, 1).unwrap(), expected("Mul", 1));
    let mut at_work = before[0];
    for _ in 0..3 {
        std::thread::scope(|scope| {
            let request = scope.spawn(|| busy.run(&[("x", square.clone())]).map(drop));
            // It is prepared; gives it time to receive the request.
            std::thread::sleep(Duration::from_millis(300));
            assert!(kill(at_work));
            let err = request.join().unwrap().expect_err("it answered");
            let ErrorKind::Worker(loss) = err.kind() else { panic!("{err:?}") };
            assert!(loss.began);
            assert_eq!(loss.end, WorkerEnd::Signal(Signal::KILL.as_raw()));
            let text = err.to_string();
            assert!(text.starts_with("test.onnx: no answer"), "{text}");
            let why = "was killed by SIGKILL: Belljar did not send it, and the kernel counted no";
            assert!(text.contains(why), "{text}");
            assert_eq!(err.exit_code(), 6);
        });
        // The other model's worker is not affected.
        assert_eq!(ask(&other, 2).unwrap(), expected("Mul", 2));
        let before = children();
        busy.prepare(&[("x", square.clone())]).unwrap();
        at_work = *children().iter().find(|pid| !before.contains(pid)).unwrap();
    }
}

#[test]
fn workers_retire_and_no_request_is_lost() {
    let _alone = alone();
    let builder = builder(Isolation::Process).idle_sandboxes(1).idle_time(None);
    let host = builder.requests_per_worker(5).build().unwrap();
    let model = load(&host, &of_two("Add")).unwrap();
    let mut workers = Vec::new();
    for request in 0..25 {
        assert_eq!(ask(&model, request).unwrap(), expected("Add", request));
        let found = children();
        assert!(found.len() <= 1, "{found:?}");
        // The worker ends after its last request.
        assert_eq!(found.is_empty(), request % 5 == 4, "{request}: {found:?}");
        workers.extend(found);
    }
    // Each worker was seen in consecutive requests only.
    workers.dedup();
    assert_eq!(workers.len(), 5, "{workers:?}");
    assert_eq!(workers.iter().collect::<std::collections::BTreeSet<_>>().len(), 5);

    // From several clients at once.
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let model = &model;
            scope.spawn(move || {
                for request in (0..100).map(|request| request * CLIENTS + client) {
                    assert_eq!(ask(model, request).unwrap(), expected("Add", request));
                }
            });
        }
    });
}

#[test]
fn the_command_line_counts_deaths_across_its_processes() {
    let _alone = alone();
    let state = own_state();
    let (model, input) = (state.path().join("evil.onnx"), state.path().join("x.json"));
    fs::write(&model, slow(1024, 4000).bytes()).unwrap();
    let zeros = vec!["0"; 1 << 20].join(",");
    let json = format!("{{\"dtype\": \"f32\", \"shape\": [1024, 1024], \"data\": [{zeros}]}}");
    fs::write(&input, json).unwrap();
    let (model, input) = (model.to_str().unwrap(), input.to_str().unwrap());
    // Kills its workers until it exits.
    let run = || {
        let mut command = belljar(&["run", "--no-store", model, "--input", input]);
        command.env("BELLJAR_STATE_DIR", state.path()).stderr(Stdio::piped());
        let mut run = command.spawn().unwrap();
        while run.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(250));
            for pid in children_of(&run.id().to_string()) {
                kill(pid);
            }
        }
        let output = run.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let mut deaths = 0;
    loop {
        let (code, text) = run();
        match code {
            Some(6) if text.contains("error: evil.onnx: it is in quarantine") => break,
            Some(6) => deaths += 1,
            // All workers were killed before their first request.
            _ => assert_eq!(code, Some(1), "{text}"),
        }
        assert!(deaths <= 5 && text.contains("SIGKILL"), "{text}");
    }
    assert_eq!(deaths, 5);
    let release = belljar(&["quarantine", "release", "evil.onnx"])
        .env("BELLJAR_STATE_DIR", state.path())
        .output()
        .unwrap();
    assert!(release.status.success());
    let (code, text) = run();
    assert!(code != Some(0) && !text.contains("quarantine"), "{text}");
}
