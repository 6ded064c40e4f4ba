//! The flags of `belljar bench`.

use std::path::PathBuf;

use clap::Args;

use super::{EXIT_CODES, Format, InputArgs, ModelArgs};

/// Measure a model: latency, start-up, memory, throughput
#[derive(Debug, Args)]
#[command(after_help = format!("\
The first part sends one request at a time, each after the memory reset of the previous one: it
measures the latency of a warm run. The second part sends as many requests from --concurrency
clients, each of which sends its next request as soon as it has an answer: it measures the sustained
rate, which includes all resets. Warm-up runs are not counted. Percentiles use the nearest-rank
method.

Keys of the JSON; \"percentiles\" stands for p50, p90, p95, p99, min, max and mean:
  start_ms          time from the model file to the first answer, in ms, with compiled code cached
  start             its parts: code_ms, read_ms, load_ms, prepare_ms, first_run_ms
  warm_ms           a warm run, from input tensors to checked output tensors, in ms: percentiles
  instantiate_us    creating the instance of a request, in µs, not part of warm_ms: percentiles
  reset_ms          resetting memory after a request, in ms, not part of warm_ms: percentiles
  reset_method      written-pages or new-mapping
  share             fractions of a warm run and its reset, which sum to 1: kernels (native kernels),
                    guest (other WebAssembly), crossing (everything else), reset
  sustained         per_second, requests answered per second; latency_ms, latency of a client at
                    this rate, in ms: percentiles
  rss_bytes         resident memory (RSS) of this process and its workers afterwards, in bytes;
                    shared pages count once per process; null if it cannot be read
  pss_bytes         the same as PSS: shared pages count once; null if the kernel denies it
  workers           number of worker processes in these two
  linear_memory_bytes  largest linear memory of a sandbox
  measured          requests measured in each part (alone, sustained): fewer than iterations if
                    time ran out. Figures that need more requests are null
  model, policy, dims, isolation, iterations, warm_up, concurrency, inputs: what was measured

--profile runs one request at a time in a variant of the sandboxed runner that has a clock and is
used for nothing else. The JSON keys model, policy, dims, inputs and iterations are as above; the others
are:
  measured          runs that were profiled
  run_ms, total_ms  time in the sandbox: average of one run, and total of all measured runs
  operators         for each operator and kernel, longest total time first: operator, kernel,
                    nodes, calls, total_ms, kernel_ms (in native kernels), share (of total_ms),
                    gflops (10⁹ multiplications and additions per second; null if their number
                    is unknown)
  nodes             for each node, in execution order: node, operator, computes (all nodes of the
                    model that are fused into it), plan (name and operator in the optimised
                    model), kernel, outputs (dtype, shape), calls, total_ms, kernel_ms, share,
                    multiply_adds, gflops
  outside           total_ms and share of the time outside all nodes
  clock             reading_ns, the time of one clock reading, and subtracted_ms, the time of all
                    readings, which is subtracted from all other figures
  same_answer       whether the outputs are byte for byte those of a run without a clock
kernel is \"native\" and the name of a kernel, WebAssembly, or WebAssembly with native tiles or
operators.

Examples:
  belljar bench model.onnx --random
  belljar bench model.onnx --input image=photo.npy --policy model.policy.toml --iterations 1000
  belljar bench model.onnx --random --shape image=8,3,224,224 --concurrency 4
  belljar bench model.onnx --random --dim batch=8 --dim sequence=128
  belljar bench model.onnx --random --max-time \"300 s\"
  belljar bench model.onnx --random --format json | jq .warm_ms.p95
  belljar bench model.onnx --random --profile --trace trace.json

{EXIT_CODES}"))]
pub(crate) struct Bench {
    #[command(flatten)]
    pub(crate) model: ModelArgs,

    #[command(flatten)]
    pub(crate) inputs: InputArgs,

    /// Number of requests to measure in each of the two parts, or to profile, without a time limit
    /// unless --max-time is given. Default: up to 100 within --max-time
    #[arg(short = 'n', long, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) iterations: Option<u32>,

    /// Send no request that would end after this time. Default: "30 s", or no limit with
    /// --iterations. Starting the model and compiling the sandboxed runner are not limited
    #[arg(long, value_name = "DURATION")]
    pub(crate) max_time: Option<String>,

    /// Number of clients that send requests at the same time, each served by its own sandbox
    #[arg(short, long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) concurrency: u16,

    /// Show how long each operator and each node takes, instead of latency and throughput
    #[arg(long, conflicts_with = "concurrency")]
    pub(crate) profile: bool,

    /// Also write a timeline of the first ten profiled runs to this file, in the trace event format
    /// of chrome://tracing and https://ui.perfetto.dev
    #[arg(long, value_name = "FILE", requires = "profile")]
    pub(crate) trace: Option<PathBuf>,

    /// Allow --trace to replace a file
    #[arg(long, requires = "trace")]
    pub(crate) force: bool,

    /// How to print the figures
    #[arg(short, long, default_value = "table")]
    pub(crate) format: Format,
}
