//! Native tract as a peer: one process, one model, one thread unless more are asked for.
//!
//! It must treat the model as Belljar's guest does inside the sandbox (same version, shapes fixed
//! the same way, same optimisations), or the comparison is meaningless. `benches/README.md`
//! describes the arguments and the protocol.

use std::io::{self, BufRead, Write};
use std::path::Path;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};
use tract_linalg::multithread::{Executor, set_default_executor};
use tract_onnx::prelude::*;

/// As in Cargo.toml, which pins it.
const VERSION: &str = "0.23.9";

struct Peer {
    plan: Arc<TypedRunnableModel>,
    inputs: Vec<Tensor>,
}

fn main() -> Result<()> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let once = arguments.first().is_some_and(|first| first == "--once");
    if once {
        arguments.remove(0);
    }
    if arguments.first().is_some_and(|first| first == "--threads") {
        let flag: Vec<String> = arguments.drain(..2.min(arguments.len())).collect();
        let threads: usize = flag.get(1).context("--threads needs a number")?.parse()?;
        set_default_executor(Executor::multithread(threads));
    }
    let (model, inputs) = arguments.split_first().context("the argument MODEL is missing")?;
    let start = Instant::now();
    let peer = Peer::load(Path::new(model), inputs)?;
    let load = start.elapsed();
    if once {
        return say(&json!({ "outputs": peer.outputs()? }));
    }
    say(&json!({ "ready": VERSION, "load_ns": load.as_nanos() as u64 }))?;
    for line in io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["run", count] => say(&json!({ "times": peer.times(count.parse()?)? }))?,
            ["rate", clients, ms] => {
                let time = Duration::from_millis(ms.parse()?);
                say(&peer.rate(clients.parse()?, time)?)?;
            }
            ["outputs"] => say(&json!({ "outputs": peer.outputs()? }))?,
            _ => bail!("unknown request {line:?}"),
        }
    }
    Ok(())
}

fn say(value: &Value) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{value}")?;
    Ok(out.flush()?)
}

impl Peer {
    /// Inputs come as `NAME DTYPE DIMS FILE`, in any order.
    fn load(path: &Path, inputs: &[String]) -> Result<Peer> {
        let mut given = Vec::new();
        for input in inputs.chunks(4) {
            let [name, dtype, dims, file] = input else {
                bail!("an input takes four arguments: NAME DTYPE DIMS FILE");
            };
            given.push((name, read(dtype, dims, file).with_context(|| file.clone())?));
        }
        let mut model = tract_onnx::onnx().with_ignore_value_info(true).model_for_path(path)?;
        let names = input_names(&model)?;
        let mut ordered = Vec::new();
        for (at, name) in names.iter().enumerate() {
            let found = given.iter().find(|(given, _)| *given == name);
            let (_, tensor) = found.with_context(|| format!("no input {name:?} was given"))?;
            let fact = InferenceFact::dt_shape(tensor.datum_type(), tensor.shape());
            model.set_input_fact(at, fact)?;
            ordered.push(tensor.clone());
        }
        let plan = model.into_optimized()?.into_runnable()?;
        Ok(Peer { plan, inputs: ordered })
    }

    fn values(&self) -> TVec<TValue> {
        self.inputs.iter().map(|tensor| tensor.clone().into_tvalue()).collect()
    }

    /// Runs on one thread for each client, each starting its next run when one is done.
    fn rate(&self, clients: usize, time: Duration) -> Result<Value> {
        let begin = Barrier::new(clients);
        let client = || -> Result<(u64, Duration)> {
            begin.wait();
            let (start, mut runs) = (Instant::now(), 0);
            while start.elapsed() < time {
                self.plan.run(self.values())?;
                runs += 1;
            }
            Ok((runs, start.elapsed()))
        };
        let (mut runs, mut whole) = (0, Duration::ZERO);
        thread::scope(|scope| {
            let clients: Vec<_> = (0..clients).map(|_| scope.spawn(client)).collect();
            for client in clients {
                let (its, took) = client.join().map_err(|_| anyhow!("a thread panicked"))??;
                (runs, whole) = (runs + its, whole.max(took));
            }
            anyhow::Ok(())
        })?;
        Ok(json!({ "runs": runs, "ns": whole.as_nanos() as u64 }))
    }

    fn times(&self, count: usize) -> Result<Vec<u64>> {
        let mut times = Vec::new();
        for _ in 0..count {
            let start = Instant::now();
            let outputs = self.plan.run(self.values())?;
            times.push(start.elapsed().as_nanos() as u64);
            drop(outputs);
        }
        Ok(times)
    }

    /// Every output, flat, in the order in which the model declares them.
    fn outputs(&self) -> Result<Vec<Vec<f32>>> {
        let mut all = Vec::new();
        for output in self.plan.run(self.values())? {
            let floats = output.cast_to::<f32>()?;
            all.push(floats.to_plain_array_view::<f32>()?.iter().copied().collect());
        }
        Ok(all)
    }
}

fn input_names(model: &InferenceModel) -> Result<Vec<String>> {
    let outlets = model.input_outlets()?;
    Ok(outlets.iter().map(|outlet| model.nodes[outlet.node].name.clone()).collect())
}

/// The data of an `.npy` file of format 1.0, little-endian and row-major as the bench wrote it.
fn read(dtype: &str, dims: &str, file: &str) -> Result<Tensor> {
    let bytes = std::fs::read(file)?;
    let header = bytes.get(8..10).context("too short for an npy file")?;
    let at = 10 + usize::from(u16::from_le_bytes([header[0], header[1]]));
    let data = bytes.get(at..).context("the npy header is longer than the file")?;
    let dims: Vec<usize> =
        dims.split(',').filter(|dim| !dim.is_empty()).map(str::parse).collect::<Result<_, _>>()?;
    Ok(match dtype {
        "f32" => array(&dims, data, f32::from_le_bytes)?,
        "i32" => array(&dims, data, i32::from_le_bytes)?,
        "i64" => array(&dims, data, i64::from_le_bytes)?,
        other => bail!("inputs of type {other} are not supported; use f32, i32 or i64"),
    })
}

fn array<T: Datum, const N: usize>(
    dims: &[usize],
    data: &[u8],
    element: impl Fn([u8; N]) -> T,
) -> Result<Tensor> {
    let (elements, rest) = data.as_chunks::<N>();
    if !rest.is_empty() {
        bail!("the length of the data is not a multiple of the element size");
    }
    let elements = elements.iter().map(|bytes| element(*bytes)).collect();
    Ok(tract_ndarray::ArrayD::from_shape_vec(dims, elements)?.into_tensor())
}
