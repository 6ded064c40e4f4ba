//! A peer that is a separate program, with a line protocol that `benches/README.md` describes. A
//! new peer is a program that implements it, in any language.

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
    /// The program and its first arguments.
    command: Vec<OsString>,
    threads: usize,
    /// Settings of onnxruntime's session, as KEY=VALUE.
    settings: Vec<&'static str>,
}

impl Program {
    pub(crate) fn new(name: &'static str, command: &[&Path]) -> Program {
        let command = command.iter().map(|part| part.into()).collect();
        Program { name, command, threads: 1, settings: Vec::new() }
    }

    /// The same, computing one run on several threads.
    pub(crate) fn on_threads(&self, threads: usize) -> Program {
        Program { threads, ..self.clone() }
    }

    /// The same, with a setting of onnxruntime's session.
    pub(crate) fn with_setting(&self, name: &'static str, setting: &'static str) -> Program {
        let mut program = Program { name, ..self.clone() };
        program.settings.push(setting);
        program
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
        for setting in &self.settings {
            command.args(["--setting", setting]);
        }
        command.args(case.arguments()).stdin(Stdio::null());
        Ok(command)
    }
}

/// A peer in a separate process.
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
            bail!("the process ended without an answer ({})", self.child.wait()?);
        }
        serde_json::from_str(&line).with_context(|| format!("the answer is not JSON: {line:?}"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It needs no clean-up, and may have ended already.
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
        self.version = ready["ready"].as_str().context("the peer sent no version")?.to_owned();
        self.running = Some(running);
        Ok(Duration::from_nanos(ready["load_ns"].as_u64().context("the peer sent no load_ns")?))
    }

    fn run(&mut self, iterations: usize) -> Result<Vec<Duration>> {
        let answer = self.ask(&format!("run {iterations}"))?;
        let times = answer["times"].as_array().context("the peer sent no times")?;
        let times: Option<Vec<_>> =
            times.iter().map(|time| time.as_u64().map(Duration::from_nanos)).collect();
        times
            .filter(|times| times.len() == iterations)
            .context("the peer sent another number of times than requested")
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
    let outputs = answer["outputs"].as_array().context("the peer sent no outputs")?;
    let floats = |output: &Value| -> Option<Vec<f32>> {
        output.as_array()?.iter().map(|number| number.as_f64().map(|n| n as f32)).collect()
    };
    outputs.iter().map(floats).collect::<Option<_>>().context("the peer's outputs are not numbers")
}
