//! The flags: help, completions and manual pages are all made from these definitions.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

#[cfg(feature = "programs")]
use super::failure::Failure;
use super::policy::args::PolicyCommand;

/// What every exit code means; part of the help and of the manual.
const EXIT_CODES: &str = "\
Exit codes:
  0  answered
  1  anything else
  2  usage: flags, unreadable or malformed files
  3  refused by policy
  4  the model or an input is not acceptable
  5  a limit was hit: time, memory, stack, sizes
  6  the sandbox trapped or panicked while running, or its process died
  7  a protection could not be installed";

const EXAMPLES: &str = "\
Examples:
  belljar run model.onnx --input image=photo.npy
  belljar inspect model.onnx
  belljar new-policy model.onnx --random --output model.policy.toml
  belljar prepare model.onnx --policy model.policy.toml
  belljar run model.onnx --policy model.policy.toml --input image=photo.npy --format json";

/// Runs ONNX models nobody has to trust: each inside its own WebAssembly sandbox.
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

    /// Print the version; with --verbose also that of the embedded guest, its digest and compiler
    #[arg(short = 'V', long)]
    pub(super) version: bool,

    /// Say more: what the sandboxed runner logs, and what else is otherwise left out
    #[arg(short, long, global = true)]
    pub(super) verbose: bool,

    /// Print nothing but the answer and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(super) quiet: bool,

    /// When to colour messages; NO_COLOR is honoured
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(super) color: When,
}

/// When to colour.
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
    /// Look after the store of prepared models
    #[command(
        after_help = "Examples:\n  belljar snapshots list\n  belljar snapshots prune --older-than \"720 h\"\n  belljar snapshots verify --remove"
    )]
    Snapshots {
        #[command(subcommand)]
        command: Snapshots,
    },
    /// Look after models that are refused because their worker processes kept dying
    #[command(
        after_help = "Examples:\n  belljar quarantine list\n  belljar quarantine list --format json | jq '.[].sha256'\n  belljar quarantine release model.onnx\n  belljar quarantine release fe2d2eb4"
    )]
    Quarantine {
        #[command(subcommand)]
        command: Quarantine,
    },
    Inspect(Inspect),
    NewPolicy(NewPolicy),
    /// Check, explain, compare, weigh and order policies
    #[command(
        after_help = "Examples:\n  belljar policy check model.policy.toml\n  belljar policy explain model.policy.toml\n  belljar policy diff approved.toml proposed.toml\n  belljar policy score model.policy.toml --max 20\n  belljar policy fmt --check policies/*.toml\n  belljar policy schema > policy.schema.json"
    )]
    Policy {
        #[command(subcommand)]
        command: PolicyCommand,
    },
    Bench(Bench),
    /// Show what the kernel lets the processes around models do
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
    /// Print a script that completes this command line
    #[command(
        after_help = "Examples:\n  belljar completions bash > ~/.local/share/bash-completion/completions/belljar\n  belljar completions fish > ~/.config/fish/completions/belljar.fish"
    )]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write all of them into a folder
    #[command(
        after_help = "Examples:\n  belljar man | man -l -\n  belljar man --output ~/.local/share/man/man1"
    )]
    Man {
        /// Folder to write one page for each command to
        #[arg(short, long, value_name = "DIR")]
        output: Option<PathBuf>,
    },
}

/// How answers are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people
    Table,
    /// For programs
    Json,
}

/// What stands around the sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum IsolationArg {
    /// A worker process of its own
    Process,
    /// A thread of this process: whoever escapes from WebAssembly is in it
    Thread,
}

/// The model and what it may do.
#[derive(Debug, Args)]
pub(super) struct ModelArgs {
    /// The ONNX file; for `belljar run` also a guest program
    pub(super) model: PathBuf,

    /// The policy to run it under; without one it gets no rights and the default limits. A policy
    /// is never looked for beside the model
    #[arg(short, long, value_name = "FILE")]
    pub(super) policy: Option<PathBuf>,

    /// Refuse a policy that asks for more than the operator's ceiling allows, instead of cutting it
    #[arg(long)]
    pub(super) strict_policy: bool,

    /// Append every decision to this file, a line of JSON each: what was allowed or refused, and why
    #[arg(long, value_name = "FILE")]
    pub(super) decisions: Option<PathBuf>,

    /// What stands around the sandbox
    #[arg(long, value_name = "KIND", default_value = "process")]
    pub(super) isolation: IsolationArg,
}

/// The heading of flags for images.
const IMAGES: &str = "Images (inputs that are PNG or JPEG files)";

/// How inputs that are PNG or JPEG files become tensors.
#[derive(Debug, Args)]
pub(super) struct PictureArgs {
    /// Resize images to WIDTHxHEIGHT, or so that their shorter side has N pixels; by default to the
    /// height and width that the input declares, if it declares both, else not at all
    #[arg(long, help_heading = IMAGES, value_name = "WIDTHxHEIGHT|N", value_parser = size)]
    pub(super) resize: Option<Size>,

    /// How an image gets a size of other proportions; stretch by default
    #[arg(long, help_heading = IMAGES, value_name = "FIT")]
    pub(super) fit: Option<FitArg>,

    /// Keep WIDTHxHEIGHT or NxN pixels in the middle, after --resize; by default everything
    #[arg(long, help_heading = IMAGES, value_name = "WIDTHxHEIGHT|N", value_parser = size)]
    pub(super) center_crop: Option<Size>,

    /// A pixel, 0 to 255, is multiplied by this; 1/255 by default
    #[arg(long, help_heading = IMAGES, value_name = "FACTOR", value_parser = number, allow_hyphen_values = true)]
    pub(super) scale: Option<f64>,

    /// This is subtracted from scaled pixels: one number, or one for each channel in the order of
    /// --channels; 0 by default
    #[arg(long, help_heading = IMAGES, value_name = "N[,N,N]", value_delimiter = ',', value_parser = number)]
    #[arg(allow_hyphen_values = true)]
    pub(super) mean: Option<Vec<f64>>,

    /// The difference is divided by this: one number, or one for each channel; 1 by default
    #[arg(long, help_heading = IMAGES, value_name = "N[,N,N]", value_delimiter = ',', value_parser = divisor)]
    #[arg(allow_hyphen_values = true)]
    pub(super) std: Option<Vec<f64>>,

    /// The channels, in their order; by default gray for an input of one channel, else rgb
    #[arg(long, help_heading = IMAGES, value_name = "CHANNELS")]
    pub(super) channels: Option<ChannelsArg>,

    /// The axes of the input: n a batch of one, c channels, h height, w width; by default what its
    /// shape shows, by one or three channels in the only place where they can be
    #[arg(long, help_heading = IMAGES, value_name = "AXES")]
    pub(super) layout: Option<LayoutArg>,

    /// Take images as they are stored; by default they are turned upright as their EXIF data says
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

    /// Refuses the flags for a guest program.
    #[cfg(feature = "programs")]
    pub(super) fn refuse_for_program(&self) -> Result<(), Failure> {
        match self.first_given() {
            None => Ok(()),
            Some(flag) => {
                let text = format!("{flag} is for models: a guest program decodes images itself");
                Err(Failure::usage(text).hint("leave the flag out"))
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

/// How an image gets a size of other proportions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum FitArg {
    /// Each side is resized by itself; the proportions change
    Stretch,
    /// The proportions stay, and what is too much is cut off at both ends
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

/// `640x480`, or `224` alone.
fn size(text: &str) -> Result<Size, String> {
    let side = |text: &str| match text.trim().parse::<u32>() {
        Ok(side @ 1..=65_535) => Ok(side),
        _ => Err("write WIDTHxHEIGHT such as 640x480, or one number; sides are from 1 to 65535"),
    };
    match text.split_once(['x', 'X', '×']) {
        Some((width, height)) => Ok(Size::Both(side(width)?, side(height)?)),
        None => Ok(Size::One(side(text)?)),
    }
}

/// A number, or a fraction such as `1/255`.
fn number(text: &str) -> Result<f64, String> {
    let one = |text: &str| text.trim().parse::<f64>().ok();
    let value = match text.split_once('/') {
        Some((over, under)) => one(over).zip(one(under)).map(|(over, under)| over / under),
        None => one(text),
    };
    let finite = value.filter(|value| value.is_finite());
    finite.ok_or_else(|| "write a number such as 0.485, or a fraction such as 1/255".to_owned())
}

/// A number that is not zero.
fn divisor(text: &str) -> Result<f64, String> {
    number(text).and_then(|value| match value {
        0.0 => Err("nothing can be divided by zero; write another number".to_owned()),
        value => Ok(value),
    })
}

/// Run a model, or a guest program, on inputs and print its answer
#[derive(Debug, Args)]
#[command(after_help = format!("\
Inputs are .npy, .npz, .json, .csv, .pb, .png or .jpg files, or - for standard input; what is in
them decides, not their name. A .npz without NAME= holds several inputs by their names, or, from np.savez(FILE, a, b),
in their order. JSON is [[1, 2], [3, 4]] or {{\"dtype\": \"f32\", \"shape\": [2, 2], \"data\": [1, 2, 3, 4]}},
or an object of those by name. CSV is a row for each line, or, without NAME= and with a header of the
inputs' names, a column for each input. A .pb is a tensor of ONNX's test cases.

PNG and JPEG files are decoded in a sandbox of their own, under the limits of the model's policy.
They become floats, (pixel * scale - mean) / std, or for an input of u8 the pixels themselves. They
are resized bilinearly with antialiasing, as Pillow's Resampling.BILINEAR does it. Alpha is dropped,
of 16 bits the upper eight are kept, CMYK becomes RGB, and colour profiles are not applied.

A guest program (a WASI 0.2 component) runs under a policy with a [program] table, and takes inputs as
NAME=FILE: .npy, .npz and .json files are tensors, others the bytes that they are; NAME=text:TEXT is
a text, NAME=bytes:FILE the bytes of any file.

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

    /// An input: NAME=FILE, or just FILE if the model has one input or the file has the names
    #[arg(short, long = "input", value_name = "[NAME=]FILE", action = ArgAction::Append)]
    pub(super) inputs: Vec<OsString>,

    #[command(flatten)]
    pub(super) pictures: Box<PictureArgs>,

    /// Write the outputs: to a .npz or .json file, or as .npy files into a folder
    #[arg(short, long, value_name = "FILE|DIR")]
    pub(super) output: Option<PathBuf>,

    /// Let --output replace files
    #[arg(long, requires = "output")]
    pub(super) force: bool,

    /// How to print the answer
    #[arg(short, long, default_value = "table")]
    pub(super) format: Format,

    /// Put all elements of the outputs into the JSON, not only the summary
    #[arg(long)]
    pub(super) data: bool,

    /// Names of the classes, one a line, for indices along the last axis
    #[arg(short, long, value_name = "FILE")]
    pub(super) labels: Option<PathBuf>,

    /// How many of the largest values to print, at most 10000; --data prints all
    #[arg(long, value_name = "N", default_value_t = 5)]
    #[arg(value_parser = clap::value_parser!(u16).range(..=10_000))]
    pub(super) top: u16,

    /// Print where the time went
    #[arg(short, long)]
    pub(super) time: bool,

    /// Prepare the model afresh, and do not keep it prepared for the next time
    #[arg(long)]
    pub(super) no_store: bool,

    /// Arguments for a guest program, which reach it if its policy says so
    #[arg(last = true, value_name = "ARGUMENT")]
    pub(super) arguments: Vec<String>,
}

/// Prepare a model ahead of its runs, which then start at once
#[derive(Debug, Args)]
#[command(after_help = format!("\
Each snapshot is the memory of a sandbox that has prepared the model for one shape of each input. An
input whose dimensions are all fixed needs no --input-shape. Give the shape of an input several
times for several snapshots; the first shapes of all inputs belong together, then the second ones.

Snapshots are kept in $BELLJAR_CACHE_DIR/snapshots, the lately used ones, as many of each model as its
policy says (limits.snapshots) and in all no more than $BELLJAR_STORE_SIZE (2 GiB).

Examples:
  belljar prepare model.onnx
  belljar prepare model.onnx --input-shape image=1,3,640,480
  belljar prepare model.onnx --input-shape image=1,3,224,224 --input-shape image=8,3,224,224
  belljar prepare model.onnx --policy model.policy.toml --format json

{EXIT_CODES}"))]
pub(super) struct Prepare {
    #[command(flatten)]
    pub(super) model: ModelArgs,

    /// The shape of an input
    #[arg(short, long = "input-shape", visible_alias = "shape", value_name = "NAME=N,N,…", action = ArgAction::Append)]
    pub(super) input_shapes: Vec<String>,

    /// How to print what was done
    #[arg(short, long, default_value = "table")]
    pub(super) format: Format,
}

#[derive(Debug, Subcommand)]
pub(super) enum Snapshots {
    /// List what is stored
    #[command(
        after_help = "Examples:\n  belljar snapshots list\n  belljar snapshots list --format json | jq '.[].path'"
    )]
    List {
        /// How to print the list
        #[arg(short, long, default_value = "table")]
        format: Format,
    },
    /// Remove what is stored: everything, or what the flags say
    #[command(
        after_help = "Examples:\n  belljar snapshots prune\n  belljar snapshots prune --model model.onnx\n  belljar snapshots prune --older-than \"720 h\"\n  belljar snapshots prune --max-size \"500 MiB\""
    )]
    Prune {
        /// Only of this model: the name of its file, or the start of its SHA-256
        #[arg(short, long, value_name = "MODEL")]
        model: Option<String>,

        /// Only what was not used for this long
        #[arg(long, value_name = "DURATION")]
        older_than: Option<String>,

        /// Only so much that no more than this is left, the longest unused first
        #[arg(long, value_name = "SIZE")]
        max_size: Option<String>,

        /// How to print what was removed
        #[arg(short, long, default_value = "table")]
        format: Format,
    },
    /// Hold everything that is stored against its seal; exit code 1 if something is not as it was
    #[command(
        after_help = "Examples:\n  belljar snapshots verify\n  belljar snapshots verify --remove --format json"
    )]
    Verify {
        /// Remove what is bad; the exit code still tells that there was something
        #[arg(long)]
        remove: bool,

        /// How to print the findings
        #[arg(short, long, default_value = "table")]
        format: Format,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Confine {
    /// Print in words the filter of system calls of a role; without one, the roles
    #[command(
        after_help = "Examples:\n  belljar confine show\n  belljar confine show prepare\n  belljar confine show run --format json | jq -r '.rules[].call'"
    )]
    Show {
        /// Whose filter
        role: Option<RoleArg>,

        /// How to print it
        #[arg(short, long, default_value = "text")]
        format: TextFormat,
    },
}

/// Who has a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum RoleArg {
    /// The process that compiles the sandboxed runner
    Compile,
    /// The process that reads and prepares a model
    Prepare,
    /// The process that runs what was prepared
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
    /// A sandbox on a thread, without a process of its own
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
    /// Let models run again, and forget the deaths of their workers
    #[command(
        after_help = "A model whose workers die is a model that may have broken out of its sandbox: look into it first.\n\nExamples:\n  belljar quarantine release model.onnx\n  belljar quarantine release fe2d2eb49c5f"
    )]
    Release {
        /// The model's file, its name as `list` shows it, or its SHA-256 or the start of that
        #[arg(required = true, value_name = "DIGEST|MODEL")]
        models: Vec<String>,
    },
}

/// Say what this machine offers: which layers can stand around a model, and what is lost without
#[derive(Debug, Args)]
#[command(after_help = format!("\
Starts a worker of each role, has it confined as for a strict policy, and says what it lacks and how
long it took. Exit code 0 if a strict policy can be served here, 7 if a model under one would be
refused. Nothing is changed, and nothing compiled.

Keys of the JSON:
  strict            whether a strict policy can be served
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

/// List the operators that are computed, with versions, types and attributes
#[derive(Debug, Args)]
#[command(
    after_help = "A node with another operator, version, type, attribute or value is refused, by name: exit code 4.\n\nExamples:\n  belljar ops\n  belljar ops Resize\n  belljar ops --format json | jq -r '.operators[].name' | sort -u"
)]
pub(super) struct Ops {
    /// One operator; all without it
    #[arg(value_name = "OPERATOR")]
    pub(super) operator: Option<String>,

    /// How to print the table
    #[arg(short, long, default_value = "text")]
    pub(super) format: TextFormat,
}

/// Say what a model is, and whether it would be prepared, as found inside the sandbox
#[derive(Debug, Args)]
#[command(after_help = format!("\
The model is prepared as for a run, and then not run. If an input's shape is neither declared nor
given, sizes are assumed, and the verdict is open: it depends on the shapes. Nodes that may still
refuse the values of a run are listed: indices, divisors, sizes that follow from values. A model that
is described, and refused when it is prepared, is an answer like others: exit code 0. One that cannot
even be described ends as a run of it does, with the same exit code.

Keys of \"preparation\" in the JSON:
  verdict           prepared, refused, or open (depends on the shapes of the inputs)
  shapes, assumed   what it was prepared for, and whether sizes in it were assumed
  prepared          whether it was prepared for these shapes
  error, exit_code  how a run on inputs of these shapes ends, if not
  undecided, more   node, operator and missing (values, sizes) of each; whether there are more

Without a description the JSON has the keys model (path), preparation (null where the model is not to
blame) and error (text, hint, exit_code), which is null otherwise.

Examples:
  belljar inspect model.onnx
  belljar inspect model.onnx --input-shape image=1,3,640,480
  belljar inspect model.onnx --format json | jq .inputs
  belljar inspect model.onnx --format json | jq -r .preparation.verdict

{EXIT_CODES}"))]
pub(super) struct Inspect {
    #[command(flatten)]
    pub(super) model: ModelArgs,

    /// The shape of an input that the model is prepared for
    #[arg(short, long = "input-shape", visible_alias = "shape", value_name = "NAME=N,N,…", action = ArgAction::Append)]
    pub(super) input_shapes: Vec<String>,

    /// Describe the model only, and do not prepare it
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

    /// Make up the inputs that are not given: random numbers, strings empty; dimensions that the
    /// model leaves open are 1 unless --shape gives them
    #[arg(long)]
    pub(super) random: bool,

    /// The shape of a made-up input
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

/// Write a starting policy: the model pinned, limits fitted to one measured run; or a program pinned
#[derive(Debug, Args)]
#[command(after_help = "\
A model that keeps weights in other files (model.onnx.data) gets the grants that it needs in comments,
each with the SHA-256 of the file. Nothing is measured then: no file is read into a sandbox before it is
granted. Take the # away from what you accept, and measure with --policy.

Examples:
  belljar new-policy model.onnx --input image=photo.npy --output model.policy.toml
  belljar new-policy model.onnx --random
  belljar new-policy model.onnx --random --shape image=1,3,640,480
  belljar new-policy large.onnx --random --memory \"4 GiB\"
  belljar new-policy split.onnx --output split.policy.toml
  belljar new-policy split.onnx --policy split.policy.toml --random --output split.policy.toml --force")]
pub(super) struct NewPolicy {
    /// The ONNX file, or a guest program, which is not run
    pub(super) model: PathBuf,

    /// A policy to measure the model under. The files that it grants and the model needs, its rules of
    /// values and its settings are taken over; limits are measured anew
    #[arg(short, long, value_name = "FILE")]
    pub(super) policy: Option<PathBuf>,

    /// Memory of the sandbox in which the model is measured; the model file may be as large. Without
    /// it, 1 GiB or what --policy says
    #[arg(long, value_name = "SIZE")]
    pub(super) memory: Option<String>,

    #[command(flatten)]
    pub(super) inputs: InputArgs,

    /// Where to write the policy, instead of printing it
    #[arg(short, long, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,

    /// Let --output replace a file
    #[arg(long, requires = "output")]
    pub(super) force: bool,
}

/// Measure a model: latency, start-up, memory, throughput
#[derive(Debug, Args)]
#[command(after_help = format!("\
First, requests one at a time, each sent once the memory of the one before is pristine again: a warm
run, as its client waits for it. Then as many requests as are measured in the first part, from
--concurrency clients that each send the next one as soon as they have an answer: the sustained rate,
which includes all resets. Runs that warm up are not counted. Percentiles are of nearest rank.

Keys of the JSON, of which p50, p90, p95, p99, min, max and mean are called percentiles:
  start_ms          from the model's file to its first answer, in ms; compiled code is in the cache
  start             its parts: code_ms, read_ms, load_ms, prepare_ms, first_run_ms
  warm_ms           a warm run from tensors to checked tensors, in ms: percentiles
  instantiate_us    to make the instance of a request after the one before, in µs, not in warm_ms:
                    percentiles
  reset_ms          to make memory pristine after a request, in ms, not in warm_ms: percentiles
  reset_method      written-pages or new-mapping
  share             parts of a warm run and its reset, together 1: kernels (native kernels), guest
                    (WebAssembly outside of them), crossing (everything else), reset
  sustained         per_second, requests answered in a second; latency_ms, percentiles in ms of
                    what a client waits for at this rate
  rss_bytes         resident memory (RSS) of this process and its workers after that, in bytes;
                    pages that processes share count in each of them; null if it cannot be read
  pss_bytes         the same as PSS: a shared page counts once; null where the kernel denies it
  workers           worker processes in these two
  linear_memory_bytes  the largest that a sandbox's own memory was
  measured          requests that were measured in each part (alone, sustained): fewer than iterations
                    where the time was over. Figures that need more than there were are null
  model, policy, isolation, iterations, warm_up, concurrency, inputs: what was measured

With --profile, runs one at a time in a variant of the sandboxed runner that has a clock and serves
nothing else. Of the JSON's keys only model, policy, inputs and iterations are as above:
  measured          runs that were profiled
  run_ms, total_ms  time of a run in the sandbox, on average, and of all measured runs
  operators         for each operator and what computes it, the longest time first: operator,
                    kernel, nodes, calls, total_ms, kernel_ms (in native kernels), share (of
                    total_ms), gflops (10⁹ multiplications and additions in a second; null if
                    their number is not known)
  nodes             for each node, in the order in which they run: node, operator, computes (all
                    nodes of the model that are computed together), plan (name and operator in the
                    optimised model), kernel, outputs (dtype, shape), calls, total_ms, kernel_ms,
                    share, multiply_adds, gflops
  outside           total_ms and share of what belongs to no node
  clock             reading_ns, the time to read the clock, and subtracted_ms, what all readings
                    took: no other figure contains it
  same_answer       whether the answers had the same bytes as without a clock
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

    /// Requests that are measured in each of the two parts, or profiled, however long they take,
    /// unless --max-time ends it; without this, up to 100
    #[arg(short = 'n', long, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) iterations: Option<u32>,

    /// Send no request that would end after this long; "30 s" unless --iterations says how many. The
    /// model's start and compiling the sandboxed runner take the time that they take
    #[arg(long, value_name = "DURATION")]
    pub(super) max_time: Option<String>,

    /// Clients that send requests at the same time, each served by a sandbox of its own
    #[arg(short, long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(super) concurrency: u16,

    /// Show how long each operator and each node takes, instead of latency and throughput
    #[arg(long, conflicts_with = "concurrency")]
    pub(super) profile: bool,

    /// With --profile, also write the first ten runs to this file as a timeline, in the trace event
    /// format that chrome://tracing and https://ui.perfetto.dev show
    #[arg(long, value_name = "FILE", requires = "profile")]
    pub(super) trace: Option<PathBuf>,

    /// Replace the file that --trace names
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
    fn version_and_verbose_go_in_either_order() {
        for line in [["belljar", "--version", "--verbose"], ["belljar", "--verbose", "--version"]] {
            let arguments = Arguments::try_parse_from(line).unwrap();
            assert!(arguments.version && arguments.verbose);
        }
    }

    #[test]
    fn every_command_teaches_by_example() {
        for command in Arguments::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Examples:"), "{}", command.get_name());
        }
    }
}
