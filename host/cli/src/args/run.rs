//! The flags of `belljar run`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Args};

use super::{EXIT_CODES, Format, ModelArgs, PictureArgs};

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
  belljar run text.onnx --input tokens.npy --dim batch=1 --dim sequence=128
  belljar run resnet.onnx --input photo.jpg --resize 256 --center-crop 224 \\
      --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --labels classes.txt
  belljar run detector.onnx --input image=photo.png --fit crop --channels bgr --scale 1
  belljar run program.wasm --policy program.policy.toml --input file=photo.png

{EXIT_CODES}"))]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) model: ModelArgs,

    /// An input: NAME=FILE, or only FILE if the model has one input or the file holds the names
    #[arg(short, long = "input", value_name = "[NAME=]FILE", action = ArgAction::Append)]
    pub(crate) inputs: Vec<OsString>,

    #[command(flatten)]
    pub(crate) pictures: Box<PictureArgs>,

    /// The seed of random numbers, for a model that draws some; by default the policy's, else 0
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u32>,

    /// Write the outputs to a .npz or .json file, or as .npy files to a folder
    #[arg(short, long, value_name = "FILE|DIR")]
    pub(crate) output: Option<PathBuf>,

    /// Allow --output to replace files
    #[arg(long, requires = "output")]
    pub(crate) force: bool,

    /// How to print the result
    #[arg(short, long, default_value = "table")]
    pub(crate) format: Format,

    /// Include all elements of the outputs in the JSON, not only a summary
    #[arg(long)]
    pub(crate) data: bool,

    /// File with class names, one per line, for indices along the last axis
    #[arg(short, long, value_name = "FILE")]
    pub(crate) labels: Option<PathBuf>,

    /// Number of largest values to print, at most 10000; --data prints all values
    #[arg(long, value_name = "N", default_value_t = 5)]
    #[arg(value_parser = clap::value_parser!(u16).range(..=10_000))]
    pub(crate) top: u16,

    /// Print how long each step took
    #[arg(short, long)]
    pub(crate) time: bool,

    /// Neither read nor write stored snapshots: prepare the model again
    #[arg(long)]
    pub(crate) no_store: bool,

    /// Arguments for a guest program, passed if its policy allows them
    #[arg(last = true, value_name = "ARGUMENT")]
    pub(crate) arguments: Vec<String>,
}
