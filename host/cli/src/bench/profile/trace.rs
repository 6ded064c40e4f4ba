//! Profiled runs in the trace event format, which chrome://tracing and Perfetto show as a timeline:
//! <https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU>.

use std::io::{self, Write};
use std::path::Path;

use belljar_abi::ProfiledNode;
use serde_json::{Value, json};

use super::{Profile, display_name, kernel};
use crate::failure::Failure;
use crate::outputs::write_file;

/// Writes the runs that were kept for the trace.
pub(super) fn write(path: &Path, force: bool, profile: &Profile) -> Result<(), Failure> {
    write_file(path, force, |file| Ok(print(&events(profile), file)?))
}

/// Writes one event per line.
fn print(events: &[Value], mut out: impl Write) -> io::Result<()> {
    writeln!(out, "{{\"displayTimeUnit\":\"ns\",\"traceEvents\":[")?;
    for (at, event) in events.iter().enumerate() {
        serde_json::to_writer(&mut out, event)?;
        writeln!(out, "{}", if at + 1 < events.len() { "," } else { "" })?;
    }
    writeln!(out, "]}}")
}

/// The events in order of their start: each run, followed by its nodes.
fn events(profile: &Profile) -> Vec<Value> {
    let name = |what: &str, name: &str| json!({ "ph": "M", "pid": 1, "tid": 1, "name": what, "args": { "name": name } });
    let mut events = vec![name("process_name", "belljar"), name("thread_name", "sandbox")];
    let start = profile.traced.first().map_or(0, |run| run.began);
    for (number, run) in profile.traced.iter().enumerate() {
        let name = format!("run {}", number + 1);
        events.push(event(&name, "run", [run.began, run.ended], start, json!({})));
        for node in &run.nodes {
            let (name, operator) = display_name(node);
            let times = [node.began, node.ended];
            events.push(event(name, operator, times, start, arguments(node)));
        }
    }
    events
}

fn event(name: &str, category: &str, [began, ended]: [u64; 2], start: u64, args: Value) -> Value {
    // Microseconds.
    let from = |then: u64| then.saturating_sub(start) as f64 / 1e3;
    json!({
        "ph": "X",
        "pid": 1,
        "tid": 1,
        "name": name,
        "cat": category,
        "ts": from(began),
        "dur": ended.saturating_sub(began) as f64 / 1e3,
        "args": args,
    })
}

fn arguments(node: &ProfiledNode) -> Value {
    let computes: Vec<String> =
        node.computes.iter().map(|one| format!("{} {}", one.operator, one.name)).collect();
    let outputs: Vec<&Vec<u64>> = node.outputs.iter().map(|(_, dims)| dims).collect();
    json!({
        "computes": computes,
        "computed by": kernel(node),
        "plan": format!("{} {}", node.operator, node.name),
        "outputs": outputs,
        "kernel µs": node.kernels as f64 / 1e3,
        "multiply-adds": node.multiply_adds,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use belljar::internals::ProfiledRun;

    #[test]
    fn a_trace_is_json_whose_times_rise() {
        let node = |began, ended| ProfiledNode { began, ended, ..ProfiledNode::default() };
        let run = |began: u64| ProfiledRun {
            nodes: vec![node(began + 1500, began + 2500), node(began + 2500, began + 4000)],
            began,
            ended: began + 5000,
            reading: 0,
            same_answer: true,
        };
        let profile = Profile { traced: vec![run(7000), run(20_000)], ..Profile::default() };
        let mut text = Vec::new();
        print(&events(&profile), &mut text).unwrap();
        let found: Value = serde_json::from_slice(&text).unwrap();
        let events = found["traceEvents"].as_array().unwrap();
        let shown = events.iter().filter(|event| event["ph"] == "X");
        let times: Vec<f64> = shown.map(|event| event["ts"].as_f64().unwrap()).collect();
        assert_eq!(times, [0.0, 1.5, 2.5, 13.0, 14.5, 15.5]);
        assert_eq!(events[3]["dur"], 1.0);
    }
}
