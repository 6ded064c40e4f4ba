//! Times Belljar and native runtimes on the same models, in one run. Started by
//! `cargo xtask bench`, which builds what is compared.
//!
//! Tables go to standard output, progress to standard error. It fails if a peer does not run or
//! gives a wrong answer, never because a machine is slow. Only the comparison of two builds of
//! Belljar, which run on the same machine, fails for a difference in speed.

mod against;
mod cold;
mod inputs;
mod kinds;
mod lengths;
#[cfg(test)]
mod list_tests;
mod machine;
mod measure;
mod memory;
mod options;
mod peers;
mod plans;
mod plot;
mod rate;
mod report;
mod sandboxes;
mod verdict;
mod warm;
mod workers;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::machine::Machine;
use crate::options::{Mode, Options};
use crate::peers::process::Program;
use crate::report::Report;

const MIB: f64 = 1048576.0;

/// A line of progress.
fn say(text: impl AsRef<str>) {
    eprintln!("bench: {}", text.as_ref());
}

fn main() -> ExitCode {
    // Workers are the `belljar` program, never this one.
    let result = Options::parse(std::env::args().skip(1)).and_then(|options| run(&options));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    match &options.mode {
        Mode::Measure => measure(options),
        Mode::Draw(results) => {
            let text = fs::read(results).with_context(|| results.display().to_string())?;
            draw(options, &serde_json::from_slice(&text)?)
        }
        Mode::Against(wanted) => {
            let cases = inputs::cases(&options.root, &options.models)?;
            against::against(options, &cases, wanted)
        }
        Mode::Lengths(model) => lengths::measure(options, model),
        Mode::Kinds(index) => kinds::measure(options, index),
        Mode::Plans(wanted) => plans::measure(options, wanted),
        Mode::Sandboxes(wanted) => {
            sandboxes::measure_in_child(&options.root, &options.belljar, wanted)
        }
    }
}

fn measure(options: &Options) -> Result<()> {
    let cases = inputs::cases(&options.root, &options.models)?;
    let mut machine = Machine::look();
    let script = |name: &str| options.root.join("benches/peers").join(name);
    let tract = Program::new("tract", &[&options.tract]);
    let onnxruntime =
        Program::new("onnxruntime", &[&options.python, &script("onnxruntime_peer.py")]);
    let mut programs = vec![tract, onnxruntime];
    let natives = programs.clone();
    if let Some((node, folder)) = &options.web {
        let script = script("onnxruntime_web_peer.mjs");
        programs.push(Program::new("onnxruntime-web", &[node, &script, folder]));
    }

    let mut report = Report { quick: options.quick, ..Report::default() };
    let mut linear_memory = Vec::new();
    if options.wants("run") || options.wants("targets") {
        let mut peers = warm::peers(options, &programs)?;
        let warm = warm::one_thread(options, &cases, &mut peers)?;
        report.verdicts = verdict::verdicts(&warm.run, &warm.around);
        report.means = verdict::means(&warm.run);
        report.versions = warm.versions;
        linear_memory = warm.linear_memory;
        report.tables.extend([warm.run, warm.around, warm.load]);
        // The peers' processes end here, so that they do not disturb later measurements.
    }
    if options.wants("run-two-threads") {
        report.tables.push(warm::two_threads(options, &cases, &programs)?);
    }
    if options.wants("rate") {
        report.tables.push(rate::rate(options, &cases, &natives)?);
    }
    if options.wants("cold") || options.wants("memory") {
        let starters = cold::starters(options, &cases, &programs)?;
        if options.wants("cold") {
            report.tables.push(cold::table(options, &cases, &starters)?);
        }
        if options.wants("memory") {
            report.tables.push(memory::table(options, &cases, &starters, &linear_memory)?);
        }
    }
    if options.wants("workers") {
        let (start, crossing) = workers::tables(options, &cases)?;
        report.verdicts.extend(verdict::of_workers(&start, &crossing));
        report.tables.extend([start, crossing]);
    }
    if options.wants("first") {
        report.tables.push(cold::first(options, &cases)?);
    }
    if options.wants("sandboxes") {
        report.tables.push(sandboxes::table(options)?);
    }

    machine.look_again();
    report.machine = machine;
    let results = report.json();
    write_figures(&options.json, &results)?;
    print!("{}", report.markdown());
    match options.wants("run") {
        true => draw(options, &results),
        false => Ok(()),
    }
}

fn draw(options: &Options, results: &Value) -> Result<()> {
    let Some(file) = &options.plot else { return Ok(()) };
    write(file, plot::plot(results)?)?;
    say(format!("drawn in {}", file.display()));
    Ok(())
}

/// Writes one line per figure, for readable diffs.
fn write_figures(file: &Path, results: &Value) -> Result<()> {
    write(file, serde_json::to_string(results)?.replace("},{", "},\n{") + "\n")?;
    say(format!("all figures are in {}", file.display()));
    Ok(())
}

fn write(file: &Path, text: String) -> Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    fs::write(file, text).with_context(|| file.display().to_string())
}
