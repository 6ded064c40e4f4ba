//! Arguments, environment, output, clocks and randomness, with and without grants.

use super::{Bench, Stream, folder};
use belljar_policy::Access;

#[test]
fn nothing_is_granted_by_default() {
    let mut bench = Bench::new();
    bench.arguments = vec!["program".to_owned(), "secret".to_owned()];
    bench.check(
        "stdin => closed
         print hello\\n => ok
         print-error hello\\n => ok
         wall-clock => 0
         monotonic-clock => 0
         sleep 1000000000000000 => ok
         random-bytes 1000 => 1000",
    );
    assert_eq!(bench.run("environment\narguments\ncwd"), ["", "", ""]);
    let first = bench.run("random\nrandom");
    assert_eq!(first, bench.run("random\nrandom"), "the same in every run");
    assert_ne!(first[0], first[1]);
    assert!(bench.seen.lock().unwrap().lines.is_empty());
    bench.refused("use program.stdout: [program] stdout");
    bench.refused("use program.clocks: [program] clocks");
    bench.refused("use program.randomness: [program] randomness");
    bench.refused("use program.arguments: [program] arguments");
    bench.refused("use program.environment: [program] environment");
    bench.refused("read folders: [[filesystem]]");
}

#[test]
fn granted_process_features_work() {
    // Without a granted folder, listing the folders counts as a refused request.
    let (_kept, path) = folder();
    let mut bench = Bench::new().grant(&path, "/data", Access::Read);
    bench.program.clocks = true;
    bench.program.randomness = true;
    bench.program.arguments = true;
    bench.program.environment.insert("LANG".to_owned(), "C".to_owned());
    bench.arguments = vec!["program".to_owned(), "-v".to_owned()];
    bench.check(
        "environment => LANG=C
         arguments => program -v
         sleep 1000000 => ok",
    );
    let seconds: u64 = bench.run("wall-clock")[0].parse().unwrap();
    assert!(seconds > 1_700_000_000);
    assert_ne!(bench.run("random"), bench.run("random"));
    assert!(bench.seen.lock().unwrap().denied.is_empty());
}

#[test]
fn printed_output_is_split_into_escaped_lines() {
    let mut bench = Bench::new();
    bench.program.stdout = true;
    bench.run("print one\\ntw\nprint o\\n\\x[2Jred\\n\nprint-error hidden\\n\nprint end");
    let long = format!("print {}\\n", "\\L");
    bench.run(&long);
    let seen = bench.seen.lock().unwrap();
    assert!(seen.lines.iter().all(|(stream, _)| *stream == Stream::Out));
    let lines: Vec<&str> = seen.lines.iter().map(|(_, line)| line.as_str()).collect();
    assert_eq!(lines[..4], ["one", "two", "\\u{1b}[2Jred", "end"]);
    assert!(lines[4..].len() == 5 && lines.iter().all(|line| line.len() <= 1024), "{lines:?}");
}

#[test]
fn output_counts_as_written() {
    let mut bench = Bench::new();
    bench.program.stdout = true;
    bench.quotas.bytes_written = 10;
    bench.run("print 01234\\n\nprint 01234\\n\nprint x\\n");
    let seen = bench.seen.lock().unwrap();
    let lines: Vec<&str> = seen.lines.iter().map(|(_, line)| line.as_str()).collect();
    let rest = "(further output is dropped: [quotas] bytes-written is exhausted)";
    assert_eq!(lines, ["01234", rest]);
}

#[test]
fn exit_ends_the_call() {
    let err = Bench::new().try_run("exit").expect_err("the call ends");
    assert_eq!(err.downcast_ref::<wasmtime_wasi::I32Exit>().map(|exit| exit.0), Some(0));
}

#[test]
fn requesting_too_many_random_bytes_ends_the_program() {
    assert!(Bench::new().try_run("random-bytes 18446744073709551615").is_err());
}
