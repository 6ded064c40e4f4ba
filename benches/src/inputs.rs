//! The models, their inputs, and onnxruntime's outputs from when the expectations were made.
//!
//! Every peer gets the same `.npy` files, which are written here.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use belljar::Tensor;
use belljar::tensor::npy;
use serde_json::Value;

/// The models that are timed by default: all real models that tract can run.
pub(crate) const MODELS: [&str; 7] = [
    "magika",
    "silero_vad_openvino_16k",
    "pp_ocr_cls",
    "resnet50",
    "squeezenet",
    "densenet121",
    "shufflenet",
];

/// The largest input or output that is read; those of these models are much smaller.
const MAX_TENSOR_BYTES: u64 = 64 << 20;

/// The tolerance of results: relative to the expected value, and absolute.
const RELATIVE: f32 = 1e-3;
const ABSOLUTE: f32 = 1e-5;

/// One model with one set of inputs.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) model: PathBuf,
    pub(crate) inputs: Vec<Input>,
    /// Flat, in the order in which the model declares its outputs.
    expected: Vec<Vec<f32>>,
}

/// One input, in memory and as a file.
pub(crate) struct Input {
    pub(crate) name: String,
    pub(crate) tensor: Tensor,
    pub(crate) file: PathBuf,
}

/// Reads the first case of each named model, and writes its inputs for other programs.
pub(crate) fn cases(root: &Path, models: &[String]) -> Result<Vec<Case>> {
    let expectations = root.join("tests/expectations");
    let manifest = expectations.join("manifest.json");
    let text = fs::read_to_string(&manifest).with_context(|| manifest.display().to_string())?;
    let manifest: Value = serde_json::from_str(&text).context("the manifest of expectations")?;
    let folder = root.join("target/bench/inputs");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;

    let mut names: Vec<&str> = models.iter().map(String::as_str).collect();
    if names.is_empty() {
        names.extend(MODELS);
    }
    let entries = manifest["models"].as_array().context("the manifest has no models")?;
    let mut cases = Vec::new();
    for name in names {
        let Some(entry) = entries.iter().find(|entry| entry["name"] == name) else {
            bail!("unknown model {name:?}; use one of {}", MODELS.join(", "));
        };
        let case = read_case(root, &expectations, &folder, name, entry);
        cases.push(case.with_context(|| format!("the expectations of {name}"))?);
    }
    Ok(cases)
}

fn read_case(
    root: &Path,
    expectations: &Path,
    folder: &Path,
    name: &str,
    entry: &Value,
) -> Result<Case> {
    let model = root.join("target/models").join(text(entry, "file")?);
    if !model.is_file() {
        bail!("{} is missing; run `cargo xtask models`", model.display());
    }
    let case = entry.pointer("/cases/0").context("the model has no case")?;
    let mut inputs = Vec::new();
    for (at, input) in array(case, "inputs")?.iter().enumerate() {
        let tensor = read_tensor(expectations, input)?;
        let file = folder.join(format!("{name}.{at}.npy"));
        let mut writer = BufWriter::new(File::create(&file)?);
        npy::write(&tensor, &mut writer)?;
        writer.flush()?;
        inputs.push(Input { name: text(input, "name")?.to_owned(), tensor, file });
    }
    let mut expected = Vec::new();
    for output in array(case, "outputs")? {
        expected.push(floats(&read_tensor(expectations, output)?)?);
    }
    Ok(Case { name: name.to_owned(), model, inputs, expected })
}

fn text<'a>(entry: &'a Value, key: &str) -> Result<&'a str> {
    entry[key].as_str().with_context(|| format!("no {key:?} in {entry}"))
}

fn array<'a>(entry: &'a Value, key: &str) -> Result<&'a [Value]> {
    Ok(entry[key].as_array().with_context(|| format!("no {key:?} in {entry}"))?)
}

fn read_tensor(folder: &Path, entry: &Value) -> Result<Tensor> {
    let path = folder.join(text(entry, "file")?);
    let file = File::open(&path).with_context(|| path.display().to_string())?;
    let tensor = npy::read(BufReader::new(file), MAX_TENSOR_BYTES)?;
    // Images are stored as bytes, which the manifest's offset and divisor turn into floats.
    let Some(scale) = entry.get("from_u8") else { return Ok(tensor) };
    let number = |key: &str| {
        scale[key].as_f64().map(|n| n as f32).with_context(|| format!("no {key:?} in {scale}"))
    };
    let (offset, divisor) = (number("subtract")?, number("divide")?);
    let bytes = tensor.as_slice::<u8>().context("the image is not stored as bytes")?;
    let floats: Vec<f32> = bytes.iter().map(|b| (f32::from(*b) - offset) / divisor).collect();
    Ok(Tensor::new(floats, tensor.shape())?)
}

/// The elements of an output.
pub(crate) fn floats(tensor: &Tensor) -> Result<Vec<f32>> {
    let floats = tensor.as_slice::<f32>().map(<[f32]>::to_vec);
    floats.with_context(|| format!("an output has the type {}, expected f32", tensor.dtype()))
}

impl Case {
    /// A model with the tensors of these files, by input, and without expected outputs.
    pub(crate) fn of_files(name: &str, model: &Path, files: &[(String, PathBuf)]) -> Result<Case> {
        let mut inputs = Vec::new();
        for (input, path) in files {
            let file = File::open(path).with_context(|| path.display().to_string())?;
            let tensor = npy::read(BufReader::new(file), MAX_TENSOR_BYTES)?;
            inputs.push(Input { name: input.clone(), tensor, file: path.clone() });
        }
        let (name, model) = (name.to_owned(), model.to_owned());
        Ok(Case { name, model, inputs, expected: Vec::new() })
    }

    /// Size of the model's file in bytes.
    pub(crate) fn model_size(&self) -> Result<u64> {
        Ok(fs::metadata(&self.model)?.len())
    }

    /// The model and its inputs as arguments of a peer's process.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let mut arguments = vec![self.model.display().to_string()];
        for input in &self.inputs {
            let dims: Vec<String> = input.tensor.shape().iter().map(usize::to_string).collect();
            arguments.push(input.name.clone());
            arguments.push(input.tensor.dtype().to_string());
            arguments.push(dims.join(","));
            arguments.push(input.file.display().to_string());
        }
        arguments
    }

    /// An error if these outputs are not the expected ones: the times of a wrong run are worthless.
    pub(crate) fn check(&self, peer: &str, outputs: &[Vec<f32>]) -> Result<()> {
        let what = format!("{} on {}", peer, self.name);
        if outputs.len() != self.expected.len() {
            bail!("{what}: {} outputs, expected {}", outputs.len(), self.expected.len());
        }
        for (at, (found, expected)) in outputs.iter().zip(&self.expected).enumerate() {
            if found.len() != expected.len() {
                let (found, expected) = (found.len(), expected.len());
                bail!("{what}: output {at} has {found} elements, expected {expected}");
            }
            for (ix, (found, expected)) in found.iter().zip(expected).enumerate() {
                let off = (found - expected).abs();
                if off.is_nan() || off > ABSOLUTE + RELATIVE * expected.abs() {
                    bail!("{what}: output {at}[{ix}] is {found}, expected {expected}");
                }
            }
        }
        Ok(())
    }
}
