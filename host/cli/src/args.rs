//! The flags. Help, completions and manual pages are generated from these definitions.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

#[cfg(feature = "programs")]
use super::failure::Failure;
use super::policy::args::PolicyCommand;

/// The exit codes, for the help and the manual pages.
const EXIT_CODES: &str = "\
Exit codes:
  0  success
  1  any other error
  2  usage error: invalid flags, unreadable or malformed files
  3  refused by policy
  4  the model or an input is invalid or unsupported
  5  a limit was exceeded: time, memory, stack or size
  6  the sandbox trapped or panicked, or its process died
  7  a protection could not be installed";

const EXAMPLES: &str = "\
Examples:
  belljar run model.onnx --input image=photo.npy
  belljar inspect model.onnx
  belljar new-policy model.onnx --random --output model.policy.toml
  belljar prepare model.onnx --policy model.policy.toml
  belljar run model.onnx --policy model.policy.toml --input image=photo.npy --format json";

/// Runs untrusted ONNX models, each inside its own WebAssembly sandbox.
#[derive(Debug, Parser)]
#[command(
    name = "belljar",
    disable_version_flag = true,
    disable_help_subcommand = true,
    after_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"),
)]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub(super) command: Option<Command>,

    /// Print the version; with --verbose, also the embedded guest's digest, compiler and interface
    #[arg(short = 'V', long)]
    pub(super) version: bool,

    /// Print more: log messages of the sandboxed runner, and other details
    #[arg(short, long, global = true)]
    pub(super) verbose: bool,

    /// Print only the result, security warnings and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(super) quiet: bool,

    /// When to colour messages; `auto` respects NO_COLOR
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(super) color: When,
}

/// When to colour messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum When {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    Run(Run),
    Prepare(Prepare),
    /// List, remove and verify stored snapshots of prepared models
    #[command(
        after_help = "Examples:\n  belljar snapshots list\n  belljar snapshots prune --older-than \"720 h\"\n  belljar snapshots verify --remove"
    )]
    Snapshots {
        #[command(subcommand)]
        command: Snapshots,
    },
    /// List and release models that are refused because their worker processes kept dying
    #[command(
        after_help = "Examples:\n  belljar quarantine list\n  belljar quarantine list --format json | jq '.[].sha256'\n  belljar quarantine release model.onnx\n  belljar quarantine release fe2d2eb4"
    )]
    Quarantine {
        #[command(subcommand)]
        command: Quarantine,
    },
    Inspect(Inspect),
    NewPolicy(NewPolicy),
    /// Check, explain, compare, score and format policies
    #[command(
        after_help = "Examples:\n  belljar policy check model.policy.toml\n  belljar policy explain model.policy.toml\n  belljar policy diff approved.toml proposed.toml\n  belljar policy score model.policy.toml --max 20\n  belljar policy fmt --check policies/*.toml\n  belljar policy schema > policy.schema.json"
    )]
    Policy {
        #[command(subcommand)]
        command: PolicyCommand,
    },
    Bench(Bench),
    /// Show which system calls the kernel allows Belljar's processes
    #[command(
        after_help = "Examples:\n  belljar confine show\n  belljar confine show run\n  belljar confine show run --format json | jq -r '.rules[].call'"
    )]
    Confine {
        #[command(subcommand)]
        command: Confine,
    },
    Ops(Ops),
    Doctor(Doctor),
    /// Compile the sandboxed runner for this machine ahead of time
    #[command(
        after_help = "Examples:\n  belljar warm\n  BELLJAR_CACHE_DIR=/var/cache/belljar belljar warm"
    )]
    Warm,
    /// Print a shell completion script
    #[command(
        after_help = "Examples:\n  belljar completions bash > ~/.local/share/bash-completion/completions/belljar\n  belljar completions fish > ~/.config/fish/completions/belljar.fish"
    )]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write the manual pages of all commands to a folder
    #[command(
        after_help = "Examples:\n  belljar man | man -l -\n  belljar man --output ~/.local/share/man/man1"
    )]
    Man {
        /// Write one page for each command to this folder
        #[arg(short, long, value_name = "DIR")]
        output: Option<PathBuf>,
    },
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people
    Table,
    /// For programs
    Json,
}

/// What isolates the sandbox from the rest of the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum IsolationArg {
    /// A separate, confined worker process
    Process,
    /// A thread of this process: an escape from WebAssembly reaches this process
    Thread,
}

/// The model and what it may do.
#[derive(Debug, Args)]
pub(super) struct ModelArgs {
    /// The ONNX file; `belljar run` also accepts a guest program
    pub(super) model: PathBuf,

    /// The policy file; without one, the model gets no grants and the default limits. Belljar never
    /// searches for a policy next to the model
    #[arg(short, long, value_name = "FILE")]
    pub(super) policy: Option<PathBuf>,

    /// Refuse a policy that exceeds the operator's ceiling, instead of reducing it to the ceiling
    #[arg(long)]
    pub(super) strict_policy: bool,

    /// Append each decision (what was allowed or refused, and why) to this file as a line of JSON
    #[arg(long, value_name = "FILE")]
    pub(super) decisions: Option<PathBuf>,

    /// What isolates the sandbox
    #[arg(long, value_name = "KIND", default_value = "process")]
    pub(super) isolation: IsolationArg,
}

/// The help heading of the image flags.
const IMAGES: &str = "Images (inputs that are PNG or JPEG files)";

/// How PNG and JPEG inputs are converted to tensors.
#[derive(Debug, Args)]
pub(super) struct PictureArgs {
    /// Resize images to WIDTHxHEIGHT, or so that their shorter side has N pixels. Default: the
    /// height and width that the input declares, if it declares both; otherwise images keep their
    /// size
    #[arg(long, help_heading = IMAGES, value_name = "WIDTHxHEIGHT|N", value_parser = size)]
    pub(super) resize: Option<Size>,

    /// How to resize an image to a different aspect ratio. Default: stretch
    #[arg(long, help_heading = IMAGES, value_name = "FIT")]
    pub(super) fit: Option<FitArg>,

    /// Keep only the central WIDTHxHEIGHT or NxN pixels, after --resize. Default: no crop
    #[arg(long, help_heading = IMAGES, value_name = "WIDTHxHEIGHT|N", value_parser = size)]
    pub(super) center_crop: Option<Size>,

    /// Multiply each pixel value (0 to 255) by this. Default: 1/255
    #[arg(long, help_heading = IMAGES, value_name = "FACTOR", value_parser = number, allow_hyphen_values = true)]
    pub(super) scale: Option<f64>,

    /// Subtract this from scaled pixel values: one number, or one for each channel in the order of
    /// --channels. Default: 0
    #[arg(long, help_heading = IMAGES, value_name = "N[,N,N]", value_delimiter = ',', value_parser = number)]
    #[arg(allow_hyphen_values = true)]
    pub(super) mean: Option<Vec<f64>>,

    /// Then divide by this: one number, or one for each channel. Default: 1
    #[arg(long, help_heading = IMAGES, value_name = "N[,N,N]", value_delimiter = ',', value_parser = divisor)]
    #[arg(allow_hyphen_values = true)]
    pub(super) std: Option<Vec<f64>>,

    /// The channels and their order. Default: gray for an input of one channel, otherwise rgb
    #[arg(long, help_heading = IMAGES, value_name = "CHANNELS")]
    pub(super) channels: Option<ChannelsArg>,

    /// The axes of the input: n batch (of one), c channels, h height, w width. Default: inferred
    /// from the input's shape, if only one axis can hold one or three channels
    #[arg(long, help_heading = IMAGES, value_name = "AXES")]
    pub(super) layout: Option<LayoutArg>,

    /// Do not rotate images. Default: rotate them as their EXIF orientation says
    #[arg(long, help_heading = IMAGES)]
    pub(super) ignore_orientation: bool,
}

impl PictureArgs {
    /// The first flag that was given.
    pub(super) fn first_given(&self) -> Option<&'static str> {
        let flags = [
            ("--resize", self.resize.is_some()),
            ("--fit", self.fit.is_some()),
            ("--center-crop", self.center_crop.is_some()),
            ("--scale", self.scale.is_some()),
            ("--mean", self.mean.is_some()),
            ("--std", self.std.is_some()),
            ("--channels", self.channels.is_some()),
            ("--layout", self.layout.is_some()),
            ("--ignore-orientation", self.ignore_orientation),
        ];
        flags.into_iter().find(|(_, given)| *given).map(|(flag, _)| flag)
    }

    /// Fails if a flag was given, because a guest program decodes images itself.
    #[cfg(feature = "programs")]
    pub(super) fn refuse_for_program(&self) -> Result<(), Failure> {
        match self.first_given() {
            None => Ok(()),
            Some(flag) => {
                let text =
                    format!("{flag} applies only to models: a guest program decodes images itself");
                Err(Failure::usage(text).hint("remove the flag"))
            }
        }
    }
}

/// A size in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    /// Width and height.
    Both(u32, u32),
    /// One side.
    One(u32),
}

/// How an image is resized to a different aspect ratio.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum FitArg {
    /// Resize width and height independently; the aspect ratio changes
    Stretch,
    /// Keep the aspect ratio, and cut off the excess equally at both ends
    Crop,
}

/// Channels of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ChannelsArg {
    Rgb,
    Bgr,
    Gray,
}

/// Axes of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum LayoutArg {
    Nchw,
    Nhwc,
    Chw,
    Hwc,
    Hw,
}

/// Parses `640x480` or `224`.
fn size(text: &str) -> Result<Size, String> {
    let side = |text: &str| match text.trim().parse::<u32>() {
        Ok(side @ 1..=65_535) => Ok(side),
        _ => Err("expected WIDTHxHEIGHT such as 640x480, or one number; each from 1 to 65535"),
    };
    match text.split_once(['x', 'X', '×']) {
        Some((width, height)) => Ok(Size::Both(side(width)?, side(height)?)),
        None => Ok(Size::One(side(text)?)),
    }
}

/// Parses a number, or a fraction such as `1/255`.
fn number(text: &str) -> Result<f64, String> {
    let one = |text: &str| text.trim().parse::<f64>().ok();
    let value = match text.split_once('/') {
        Some((over, under)) => one(over).zip(one(under)).map(|(over, under)| over / under),
        None => one(text),
    };
    let finite = value.filter(|value| value.is_finite());
    finite.ok_or_else(|| "expected a number such as 0.485, or a fraction such as 1/255".to_owned())
}

/// Parses a number that is not zero.
fn divisor(text: &str) -> Result<f64, String> {
    number(text).and_then(|value| match value {
        0.0 => Err("expected a number other than 0: pixel values are divided by it".to_owned()),
        value => Ok(value),
    })
}

/// Run a model or a guest program, and print its outputs
#[derive(Debug, Args)]
#[command(after_help = format!("\
An input is a .npy, .npz, .json, .csv, .pb, .png or .jpg file, or - for standard input. The format
is detected from the content, not from the file name. A .npz without NAME= holds several inputs, by
name or, if made with np.savez(FILE, a, b), in order. JSON is an array such as [[1, 2], [3, 4]],
  {{\"dtype\": \"f32\", \"shape\": [2, 2], \"data\": [1, 2, 3, 4]}},
or an object of these by name. CSV has one row per line; without NAME= and with a header of input
names, each column is one input. A .pb file is a TensorProto, as in ONNX's test cases.

PNG and JPEG files are decoded in a separate sandbox, under the limits of the model's policy. Pixels
become floats, (pixel * scale - mean) / std; an input of type u8 gets the pixel values unchanged.
Images are resized with antialiased bilinear filtering, like Pillow's Resampling.BILINEAR. Alpha is
dropped, 16-bit samples are cut to the upper 8 bits, CMYK becomes RGB, and colour profiles are not
applied.

A guest program (a WASI 0.2 component) needs a policy with a [program] table. Its inputs are
NAME=FILE: .npy, .npz and .json files are tensors, other files are passed as bytes. NAME=text:TEXT
passes a text, NAME=bytes:FILE the bytes of any file.

Examples:
  belljar run model.onnx --input photo.npy
  belljar run model.onnx --input image=photo.npy --labels classes.txt --top 3
  echo '[[1, 2, 3]]' | belljar run model.onnx --input x=- --format json
  belljar run model.onnx --input all.npz --output answer.npz --time
  belljar run forest.onnx --input flowers.csv
  belljar run resnet.onnx --input photo.jpg --resize 256 --center-crop 224 \\
      --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --labels classes.txt
  belljar run detector.onnx --input image=photo.png --fit crop --channels bgr --scale 1
  belljar run program.wasm --policy program.policy.toml --input file=photo.png

{EXIT_CODES}"))]
pub(super) struct Run {
    #[command(flatten)]
    pub(super) model: ModelArgs,

    /// An input: NAME=FILE, or only FILE if the model has one input or the file holds the names
    #[arg(short, long = "input", value_name = "[NAME=]FILE", action = ArgAction::Append)]
    pub(super) inputs: Vec<OsString>,

    #[command(flatten)]
    pub(super) pictures: Box<PictureArgs>,

    /// Write the outputs to a .npz or .json file, or as .npy files to a folder
    #[arg(short, long, value_name = "FILE|DIR")]
    pub(super) output: Option<PathBuf>,

    /// Allow --output to replace files
    #[arg(long, requires = "output")]
    pub(super) force: bool,

    /// How to print the result
    #[arg(short, long, default_value = "table")]
    pub(super) format: Format,

    /// Include all elements of the outputs in the JSON, not only a summary
    #[arg(long)]
    pub(super) data: bool,

    /// File with class names, one per line, for indices along the last axis
    #[arg(short, long, value_name = "FILE")]
    pub(super) labels: Option<PathBuf>,

    /// Number of largest values to print, at most 10000; --data prints all values
    #[arg(long, value_name = "N", default_value_t = 5)]
    #[arg(value_parser = clap::value_parser!(u16).range(..=10_000))]
    pub(super) top: u16,

    /// Print how long each step took
    #[arg(short, long)]
    pub(super) time: bool,

    /// Neither read nor write stored snapshots: prepare the model again
    #[arg(long)]
    pub(super) no_store: bool,

    /// Arguments for a guest program, passed if its policy allows them
    #[arg(last = true, value_name = "ARGUMENT")]
    pub(super) arguments: Vec<String>,
}

/// Prepare a model and store snapshots, so that later runs start faster
#[derive(Debug, Args)]
#[command(after_help = format!("\
A snapshot is the memory of a sandbox that has prepared the model for one shape of each input. An
input whose dimensions are all fixed needs no --input-shape. Repeat --input-shape for several
snapshots: the first shapes of all inputs make the first snapshot, the second shapes the second.

Snapshots are stored in $BELLJAR_CACHE_DIR/snapshots. The least recently used ones are removed when
a model has more than its policy allows (limits.snapshots), or when all of them together exceed
$BELLJAR_STORE_SIZE (2 GiB).

Examples:
  belljar prepare model.onnx
  belljar prepare model.onnx --input-shape image=1,3,640,480
  belljar prepare model.onnx --input-shape image=1,3,224,224 --input-shape image=8,3,224,224
  belljar prepare model.onnx --policy model.policy.toml --format json

{EXIT_CODES}"))]
pub(super) struct Prepare {
    #[command(flatten)]
    pub(super) model: ModelArgs,

    /// The shape to prepare an input for
    #[arg(short, long = "input-shape", visible_alias = "shape", value_name = "NAME=N,N,…", action = ArgAction::Append)]
    pub(super) input_shapes: Vec<String>,

    /// How to print the result
    #[arg(short, long, default_value = "table")]
    pub(super) format: Format,
}

#[derive(Debug, Subcommand)]
pub(super) enum Snapshots {
    /// List the stored snapshots
    #[command(
        after_help = "Examples:\n  belljar snapshots list\n  belljar snapshots list --format json | jq '.[].path'"
    )]
    List {
        /// How to print the list
        #[arg(short, long, default_value = "table")]
        format: Format,
    },
    /// Remove stored snapshots: all, or those that the flags select
    #[command(
        after_help = "Examples:\n  belljar snapshots prune\n  belljar snapshots prune --model model.onnx\n  belljar snapshots prune --older-than \"720 h\"\n  belljar snapshots prune --max-size \"500 MiB\""
    )]
    Prune {
        /// Only snapshots of this model: its file name, or the start of its SHA-256
        #[arg(short, long, value_name = "MODEL")]
        model: Option<String>,

        /// Only snapshots that were not used for this long
        #[arg(long, value_name = "DURATION")]
        older_than: Option<String>,

        /// Remove the least recently used snapshots until the rest is no larger than this
        #[arg(long, value_name = "SIZE")]
        max_size: Option<String>,

        /// How to print the list of removed snapshots
        #[arg(short, long, default_value = "table")]
        format: Format,
    },
    /// Check the seal of every stored file; exit code 1 if a file was changed
    #[command(
        after_help = "Examples:\n  belljar snapshots verify\n  belljar snapshots verify --remove --format json"
    )]
    Verify {
        /// Remove changed files; the exit code is still 1 if there was one
        #[arg(long)]
        remove: bool,

        /// How to print the findings
        #[arg(short, long, default_value = "table")]
        format: Format,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Confine {
    /// Print the system call filter of a role; without a role, list the roles
    #[command(
        after_help = "Examples:\n  belljar confine show\n  belljar confine show prepare\n  belljar confine show run --format json | jq -r '.rules[].call'"
    )]
    Show {
        /// The role of the process
        role: Option<RoleArg>,

        /// How to print the filter
        #[arg(short, long, default_value = "text")]
        format: TextFormat,
    },
}

/// The roles that have a system call filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum RoleArg {
    /// The process that compiles the sandboxed runner
    Compile,
    /// The process that reads and prepares a model
    Prepare,
    /// The process that runs a prepared model
    Run,
    /// The process that compiles a guest program
    #[cfg(feature = "programs")]
    CompileProgram,
    /// The process that runs a guest program
    #[cfg(feature = "programs")]
    Program,
    /// The process that runs a guest program with files or connections
    #[cfg(feature = "programs")]
    GrantedProgram,
    /// A sandbox on a thread of this process (--isolation thread)
    Thread,
}

/// How text is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum TextFormat {
    /// For people
    Text,
    /// For programs
    Json,
}

#[derive(Debug, Subcommand)]
pub(super) enum Quarantine {
    /// List the models that are refused, and how their last worker died
    #[command(
        after_help = "Examples:\n  belljar quarantine list\n  belljar quarantine list --format json | jq '.[].why'"
    )]
    List {
        /// How to print the list
        #[arg(short, long, default_value = "table")]
        format: Format,
    },
    /// Allow models to run again, and reset the death counts of their workers
    #[command(
        after_help = "A model whose workers die may have broken out of its sandbox: investigate before you release it.\n\nExamples:\n  belljar quarantine release model.onnx\n  belljar quarantine release fe2d2eb49c5f"
    )]
    Release {
        /// The model's file, its name as `list` shows it, or its SHA-256 (at least 8 digits)
        #[arg(required = true, value_name = "DIGEST|MODEL")]
        models: Vec<String>,
    },
}

/// Report which protection layers work on this machine, and what is lost without the others
#[derive(Debug, Args)]
#[command(after_help = format!("\
Starts a worker of each role, confines it as for a strict policy, and reports which layers are
missing and how long it took. Exit code 0 if strict policies work on this machine, 7 if models under
them are refused. Changes no files and compiles no code.

Keys of the JSON:
  strict            whether strict policies work on this machine
  workers           for each role: strict (as above), ready_ms, namespaces (without-user, with-user,
                    none), missing (layer, why, needed and remedy of each), error
  machine           what, present, found, without (what is lost), needed (by strict policies)

Examples:
  belljar doctor
  belljar doctor --quiet && belljar run model.onnx --input image=photo.npy
  belljar doctor --format json | jq '.workers[].missing[].layer'
  belljar doctor --format json | jq -r '.machine[] | select(.present | not) | .without'

{EXIT_CODES}"))]
pub(super) struct Doctor {
    /// How to print the findings
    #[arg(short, long, default_value = "table")]
    pub(super) format: Format,
}

/// List the supported operators, with versions, types and attributes
#[derive(Debug, Args)]
#[command(
    after_help = "A model with a node that uses any other operator, version, type, attribute or value is refused, and the error names the node: exit code 4.\n\nExamples:\n  belljar ops\n  belljar ops Resize\n  belljar ops --format json | jq -r '.operators[].name' | sort -u"
)]
pub(super) struct Ops {
    /// Only this operator; all operators without it
    #[arg(value_name = "OPERATOR")]
    pub(super) operator: Option<String>,

    /// How to print the table
    #[arg(short, long, default_value = "text")]
    pub(super) format: TextFormat,
}

/// Describe a model, and check in the sandbox whether it can be prepared
#[derive(Debug, Args)]
#[command(after_help = format!("\
The model is prepared as for a run, but not run. If an input's shape is neither declared nor given,
Belljar assumes sizes, and the verdict is open: it depends on the shapes. The report lists nodes
that can still fail during a run, depending on values: indices, divisors, and sizes computed from
values. If the model is described but its preparation is refused, the exit code is 0. If it cannot
be described, the error and exit code are those of `belljar run`.

Keys of \"preparation\" in the JSON:
  verdict           prepared, refused, or open (depends on the shapes of the inputs)
  shapes, assumed   the shapes it was prepared for, and whether sizes in them were assumed
  prepared          whether it was prepared for these shapes
  error, exit_code  how a run on inputs of these shapes fails, if it was not prepared
  undecided, more   nodes that depend on values: node, operator, missing (values, sizes); whether
                    there are more of them

If the model cannot be described, the JSON has the keys model (path), preparation (null if the model
is not the cause) and error (text, hint, exit_code). Otherwise error is null.

Examples:
  belljar inspect model.onnx
  belljar inspect model.onnx --input-shape image=1,3,640,480
  belljar inspect model.onnx --format json | jq .inputs
  belljar inspect model.onnx --format json | jq -r .preparation.verdict

{EXIT_CODES}"))]
pub(super) struct Inspect {
    #[command(flatten)]
    pub(super) model: ModelArgs,

    /// The shape to prepare an input for
    #[arg(short, long = "input-shape", visible_alias = "shape", value_name = "NAME=N,N,…", action = ArgAction::Append)]
    pub(super) input_shapes: Vec<String>,

    /// Only describe the model, without preparing it
    #[arg(long, conflicts_with = "input_shapes")]
    pub(super) no_prepare: bool,

    /// How to print the description
    #[arg(short, long, default_value = "table")]
    pub(super) format: Format,
}

/// The inputs of a measured run.
#[derive(Debug, Args)]
pub(super) struct InputArgs {
    /// An input of the measured run, as in `belljar run`
    #[arg(short, long = "input", value_name = "[NAME=]FILE", action = ArgAction::Append)]
    pub(super) inputs: Vec<OsString>,

    /// Generate the inputs that are not given: random numbers and empty strings. Dimensions that
    /// the model does not fix are 1 unless --shape sets them
    #[arg(long)]
    pub(super) random: bool,

    /// The shape of a generated input
    #[arg(
        long = "shape",
        visible_alias = "input-shape",
        value_name = "NAME=N,N,…",
        requires = "random"
    )]
    pub(super) shapes: Vec<String>,

    #[command(flatten)]
    pub(super) pictures: Box<PictureArgs>,
}

/// Write a policy that pins a model, with limits fitted to one measured run, or pins a program
#[derive(Debug, Args)]
#[command(after_help = "\
For a model with weights in other files (model.onnx.data), the policy lists the grants that the
model needs as comments, each with the SHA-256 of the file. Limits are then not measured, because no
file is read into a sandbox before it is granted. Uncomment the grants that you accept, and measure
with --policy.

Examples:
  belljar new-policy model.onnx --input image=photo.npy --output model.policy.toml
  belljar new-policy model.onnx --random
  belljar new-policy model.onnx --random --shape image=1,3,640,480
  belljar new-policy large.onnx --random --memory \"4 GiB\"
  belljar new-policy split.onnx --output split.policy.toml
  belljar new-policy split.onnx --policy split.policy.toml --random --output split.policy.toml --force")]
pub(super) struct NewPolicy {
    /// The ONNX file, or a guest program (which is not run)
    pub(super) model: PathBuf,

    /// Measure the model under this policy. The new policy keeps its value rules, its settings, and
    /// the file grants that the model needs; limits are measured again
    #[arg(short, long, value_name = "FILE")]
    pub(super) policy: Option<PathBuf>,

    /// Memory limit of the sandbox during measurement, and the maximum size of the model file.
    /// Default: the limit in --policy, or 1 GiB
    #[arg(long, value_name = "SIZE")]
    pub(super) memory: Option<String>,

    #[command(flatten)]
    pub(super) inputs: InputArgs,

    /// Write the policy to this file instead of printing it
    #[arg(short, long, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,

    /// Allow --output to replace a file
    #[arg(long, requires = "output")]
    pub(super) force: bool,
}

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
  model, policy, isolation, iterations, warm_up, concurrency, inputs: what was measured

--profile runs one request at a time in a variant of the sandboxed runner that has a clock and is
used for nothing else. The JSON keys model, policy, inputs and iterations are as above; the others
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
  belljar bench model.onnx --random --max-time \"300 s\"
  belljar bench model.onnx --random --format json | jq .warm_ms.p95
  belljar bench model.onnx --random --profile --trace trace.json

{EXIT_CODES}"))]
pub(super) struct Bench {
    #[command(flatten)]
    pub(super) model: ModelArgs,

    #[command(flatten)]
    pub(super) inputs: InputArgs,

    /// Number of requests to measure in each of the two parts, or to profile, without a time limit
    /// unless --max-time is given. Default: up to 100 within --max-time
    #[arg(short = 'n', long, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) iterations: Option<u32>,

    /// Send no request that would end after this time. Default: "30 s", or no limit with
    /// --iterations. Starting the model and compiling the sandboxed runner are not limited
    #[arg(long, value_name = "DURATION")]
    pub(super) max_time: Option<String>,

    /// Number of clients that send requests at the same time, each served by its own sandbox
    #[arg(short, long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(super) concurrency: u16,

    /// Show how long each operator and each node takes, instead of latency and throughput
    #[arg(long, conflicts_with = "concurrency")]
    pub(super) profile: bool,

    /// Also write a timeline of the first ten profiled runs to this file, in the trace event format
    /// of chrome://tracing and https://ui.perfetto.dev
    #[arg(long, value_name = "FILE", requires = "profile")]
    pub(super) trace: Option<PathBuf>,

    /// Allow --trace to replace a file
    #[arg(long, requires = "trace")]
    pub(super) force: bool,

    /// How to print the figures
    #[arg(short, long, default_value = "table")]
    pub(super) format: Format,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definitions_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn version_and_verbose_are_accepted_in_either_order() {
        for line in [["belljar", "--version", "--verbose"], ["belljar", "--verbose", "--version"]] {
            let arguments = Arguments::try_parse_from(line).unwrap();
            assert!(arguments.version && arguments.verbose);
        }
    }

    #[test]
    fn help_of_every_command_has_examples() {
        for command in Arguments::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Examples:"), "{}", command.get_name());
        }
    }
}
