//! A peer that is a program of its own, spoken to in lines. `benches/README.md` describes them: a
//! new peer is a program that speaks them, in whatever language its runtime is at home in.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Peer;
use crate::inputs::Case;

/// How to start a peer's program.
#[derive(Clone)]
pub(crate) struct Program {
    pub(crate) name: &'static str,
    /// The program and what comes first among its arguments.
    command: Vec<OsString>,
    threads: usize,
}

impl Program {
    pub(crate) fn new(name: &'static str, command: &[&Path]) -> Program {
        Program { name, command: command.iter().map(|part| part.into()).collect(), threads: 1 }
    }

    /// The same, computing one run on several threads.
    pub(crate) fn on_threads(&self, threads: usize) -> Program {
        Program { threads, ..self.clone() }
    }

    /// The command that loads the case; with `once` it runs it, prints the outputs and ends.
    pub(crate) fn command(&self, case: &Case, once: bool) -> Result<Command> {
        let (program, first) = self.command.split_first().context("a peer without a program")?;
        let mut command = Command::new(program);
        command.args(first);
        if once {
            command.arg("--once");
        }
        if self.threads != 1 {
            command.arg("--threads").arg(self.threads.to_string());
        }
        command.args(case.arguments()).stdin(Stdio::null());
        Ok(command)
    }
}

/// A peer in a process of its own.
pub(crate) struct ProcessPeer {
    program: Program,
    version: String,
    running: Option<Running>,
}

/// Ends its process when dropped.
struct Running {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl ProcessPeer {
    pub(crate) fn new(program: Program) -> ProcessPeer {
        ProcessPeer { program, version: String::new(), running: None }
    }

    fn ask(&mut self, order: &str) -> Result<Value> {
        let running = self.running.as_mut().context("no model is loaded")?;
        running.ask(order).with_context(|| format!("the peer {:?}", self.program.name))
    }
}

impl Running {
    fn start(mut command: Command) -> Result<Running> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", command.get_program().to_string_lossy()))?;
        let stdin = child.stdin.take().context("the child has no standard input")?;
        let stdout = child.stdout.take().context("the child has no standard output")?;
        Ok(Running { child, stdin, stdout: BufReader::new(stdout) })
    }

    fn ask(&mut self, order: &str) -> Result<Value> {
        writeln!(self.stdin, "{order}")?;
        self.answer()
    }

    fn answer(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.stdout.read_line(&mut line)? == 0 {
            bail!("it ended instead of answering ({})", self.child.wait()?);
        }
        serde_json::from_str(&line).with_context(|| format!("it answered {line:?}"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has nothing to tidy up, and may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Peer for ProcessPeer {
    fn name(&self) -> &str {
        self.program.name
    }

    fn version(&self) -> &str {
        &self.version
    }

    fn load(&mut self, case: &Case) -> Result<Duration> {
        self.running = None;
        let mut running = Running::start(self.program.command(case, false)?)?;
        let ready = running.answer().with_context(|| format!("the peer {:?}", self.name()))?;
        self.version = ready["ready"].as_str().context("a peer without a version")?.to_owned();
        self.running = Some(running);
        Ok(Duration::from_nanos(ready["load_ns"].as_u64().context("a peer without load_ns")?))
    }

    fn run(&mut self, iterations: usize) -> Result<Vec<Duration>> {
        let answer = self.ask(&format!("run {iterations}"))?;
        let times = answer["times"].as_array().context("a peer answered without times")?;
        let times: Option<Vec<_>> =
            times.iter().map(|time| time.as_u64().map(Duration::from_nanos)).collect();
        times.filter(|times| times.len() == iterations).context("a peer's times are not as asked")
    }

    fn rate(&mut self, clients: usize, time: Duration) -> Result<f64> {
        let answer = self.ask(&format!("rate {clients} {}", time.as_millis()))?;
        let number = |key: &str| answer[key].as_f64().with_context(|| format!("no {key:?}"));
        Ok(number("runs")? / (number("ns")? / 1e9))
    }

    fn outputs(&mut self) -> Result<Vec<Vec<f32>>> {
        outputs(&self.ask("outputs")?)
    }
}

/// The outputs in a peer's answer.
pub(crate) fn outputs(answer: &Value) -> Result<Vec<Vec<f32>>> {
    let outputs = answer["outputs"].as_array().context("a peer answered without outputs")?;
    let floats = |output: &Value| -> Option<Vec<f32>> {
        output.as_array()?.iter().map(|number| number.as_f64().map(|n| n as f32)).collect()
    };
    outputs.iter().map(floats).collect::<Option<_>>().context("outputs that are no numbers")
}
