//! Images as inputs: PNG and JPEG files become the tensors that Pillow and numpy make of them
//! (`tests/pictures/make.py`), decoded in a sandbox whose limits hold for whatever the files
//! declare.

use crate::support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use belljar::tensor::{Data, npz};
use serde_json::Value;
use support::belljar;
use support::onnx::{Dim, FLOAT, Graph, Message, fixed, node, value};
use support::pictures::{flat_png, png_of};
use support::scratch::Scratch;

const U8: i64 = 2;
const I32: i64 = 6;
const F16: i64 = 10;

/// A folder of models that take images.
struct Models(Scratch);

impl std::ops::Deref for Models {
    type Target = Scratch;

    fn deref(&self) -> &Scratch {
        &self.0
    }
}

impl Models {
    fn new() -> Models {
        Models(Scratch::new())
    }

    fn policy(&self, limits: &str) -> String {
        self.toml("policy.toml", &format!("[limits]\n{limits}"))
    }

    /// A model that returns its input.
    fn model(&self, name: &str, onnx_type: i64, dims: &[Dim<'_>]) -> String {
        let graph = Graph {
            nodes: vec![node("Identity", &["x"], &["y"], &[])],
            inputs: vec![value("x", onnx_type, dims)],
            outputs: vec![value("y", onnx_type, dims)],
            ..Graph::default()
        };
        let opset = Message::new().int(2, 21);
        let model = Message::new().int(1, 10).message(7, graph.message()).message(8, opset);
        self.file(name, model.finish())
    }

    /// The models of `make.py`, and some whose inputs do not fit an image.
    fn models(&self) {
        let dims = |dims: [&'static str; 4]| {
            dims.map(|dim| dim.parse().map_or(Dim::Symbol(dim), Dim::Fixed))
        };
        self.model("u8", U8, &dims(["n", "h", "w", "3"]));
        self.model("f32", FLOAT, &dims(["n", "3", "h", "w"]));
        self.model("f16", F16, &dims(["n", "3", "h", "w"]));
        self.model("gray", FLOAT, &dims(["n", "1", "h", "w"]));
        self.model("sized", FLOAT, &fixed(&[1, 3, 8, 12]));
        self.model("symbols", FLOAT, &dims(["n", "c", "h", "w"]));
        self.model("i32", I32, &dims(["n", "3", "h", "w"]));
        self.model("eight", FLOAT, &dims(["8", "3", "h", "w"]));
        self.model("four", FLOAT, &fixed(&[1, 4, 8, 12]));
    }
}

fn run(arguments: &[&str]) -> Output {
    belljar(arguments).stdin(Stdio::null()).output().unwrap()
}

#[track_caller]
fn assert_exit(output: &Output, code: i32, says: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{text}");
    for says in says {
        assert!(text.contains(says), "{says:?} is not in {text:?}");
    }
    assert!(!text.contains("panicked"), "{text}");
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/pictures")
}

fn stored(name: &str) -> Vec<u8> {
    fs::read(folder().join(name)).unwrap()
}

/// Runs a model on an image; returns shape and values.
#[track_caller]
fn answer(s: &Models, model: &str, image: &str, flags: &[&str]) -> (Vec<usize>, Vec<f64>) {
    let (model, out, input) = (s.at(model), s.at("out.npz"), format!("x={image}"));
    let base = ["run", &model, "--input", &input, "--output", &out, "--force", "--quiet"];
    let output = run(&[&base[..], &["--no-store"], flags].concat());
    assert_exit(&output, 0, &[]);
    let (_, tensor) = npz::read(fs::File::open(&out).unwrap(), 1 << 30).unwrap().swap_remove(0);
    let values = match tensor.data() {
        Data::U8(values) => values.iter().map(|value| f64::from(*value)).collect(),
        Data::F32(values) => values.iter().map(|value| f64::from(*value)).collect(),
        Data::F16(values) => values.iter().map(|value| f64::from(value.to_f32())).collect(),
        other => panic!("{other:?}"),
    };
    (tensor.shape().to_vec(), values)
}

#[test]
fn images_become_the_same_tensors_as_with_pillow_and_numpy() {
    let s = Models::new();
    s.models();
    let cases: Vec<Value> = serde_json::from_slice(&stored("cases.json")).unwrap();
    assert!(cases.len() > 50);
    for case in cases {
        let strings = |value: &Value| -> Vec<String> {
            value.as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect()
        };
        let (model, image) = (case["model"].as_str().unwrap(), case["image"].as_str().unwrap());
        let flags = strings(&case["flags"]);
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let about = format!("{image} {flags:?} for {model}");
        eprintln!("{about}");
        let path = folder().join(image);
        let (shape, values) = answer(&s, model, path.to_str().unwrap(), &flags);
        let wanted: Vec<u64> = serde_json::from_value(case["shape"].clone()).unwrap();
        assert!(shape.iter().map(|side| *side as u64).eq(wanted), "{about}: {shape:?}");
        let off = case["off"].as_f64().unwrap();
        let wanted: Vec<f64> = serde_json::from_value(case["values"].clone()).unwrap();
        assert_eq!(values.len(), wanted.len(), "{about}");
        for (at, (found, wanted)) in values.iter().zip(wanted).enumerate() {
            assert!((found - wanted).abs() <= off, "{about}: {found} for {wanted} at {at}");
        }
    }
}

#[test]
fn trailing_bytes_and_file_names_of_images_do_not_matter() {
    let s = Models::new();
    s.models();
    for name in ["rgb.png", "444.jpg"] {
        let plain = answer(&s, "u8", folder().join(name).to_str().unwrap(), &[]);
        let both = [stored(name), b"PK\x03\x04[[1, 2], [3, 4]]".to_vec()].concat();
        let image = s.file("both.npz", both);
        assert!(answer(&s, "u8", &image, &[]) == plain, "{name}");
    }
    // From standard input, and for the only input without a name.
    let input = fs::File::open(folder().join("rgb.png")).unwrap();
    let output = belljar(&["run", &s.at("u8"), "--input", "-"]).stdin(input).output().unwrap();
    assert_exit(&output, 0, &[]);
}

#[test]
fn image_flags_that_do_not_apply_are_refused() {
    let s = Models::new();
    s.models();
    let image = format!("x={}", folder().join("rgb.png").to_str().unwrap());
    let refused = |model: &str, flags: &[&str], says: &[&str]| {
        let model = s.at(model);
        let output = run(&[&["run", &model, "--input", &image][..], flags].concat());
        assert_exit(&output, 2, says);
    };
    refused("symbols", &[], &["[n, c, h, w]", "--layout nchw"]);
    refused("i32", &[], &["takes i32", ".npy"]);
    refused("eight", &[], &["a batch of 8 images", ".npy"]);
    refused("four", &[], &["takes 4 channels, but the image has 3", "--layout", ".npy"]);
    refused("f32", &["--layout", "hwc"], &["--layout has 3 axes", "[n, 3, h, w]"]);
    refused("f32", &["--channels", "gray"], &["takes 3 channels", "--channels rgb or bgr"]);
    refused("gray", &["--channels", "bgr"], &["takes 1 channels", "--channels gray"]);
    refused("u8", &["--mean", "0.5"], &["takes u8", "remove them"]);
    refused("f32", &["--mean", "1,2"], &["--mean has 2 numbers", "3 channels"]);
    refused("f32", &["--std", "0"], &["--std", "other than 0"]);
    refused("f32", &["--scale", "1/0"], &["--scale", "1/255"]);
    refused("f32", &["--mean", "nan"], &["--mean", "0.485"]);
    refused("f32", &["--resize", "0x5"], &["--resize", "from 1 to 65535"]);
    refused("f32", &["--resize", "9", "--fit", "crop"], &["a width and a height", "WIDTHxHEIGHT"]);
    refused("f32", &["--fit", "crop"], &["needs a size", "--resize WIDTHxHEIGHT"]);
    refused("sized", &["--fit", "crop", "--center-crop", "4"], &["one of the two"]);
    refused("sized", &["--fit", "stretch", "--center-crop", "4"], &["needs a size"]);
    refused("sized", &["--resize", "16"], &["21x16", "takes 12x8", "--center-crop 12x8"]);
    refused("sized", &["--resize", "4x4"], &["4x4", "takes 12x8", "--resize 12x8"]);
    refused(
        "f32",
        &["--center-crop", "24"],
        &["23x17", "cannot be cropped to 24x24", "--center-crop"],
    );
    let wide = s.file("wide.png", flat_png(60_000, 1));
    let model = s.at("f32");
    let output = run(&["run", &model, "--input", &format!("x={wide}"), "--resize", "2"]);
    assert_exit(&output, 2, &["60000x1", "120000x2", "--resize"]);

    let array = s.file("x.json", "[[[[1]]]]");
    let output = run(&["run", &s.at("gray"), "--input", &format!("x={array}"), "--scale", "1"]);
    assert_exit(&output, 2, &["--scale applies only to images", "remove the flag"]);
    let output = run(&["run", &model, "--input", &image.replacen('x', "z", 1)]);
    assert_exit(&output, 2, &["no input z", "belljar inspect"]);
}

#[test]
fn truncated_or_malformed_images_are_refused() {
    let s = Models::new();
    s.models();
    let model = s.at("u8");
    let refused = |name: &str, content: Vec<u8>, says: &[&str]| {
        let image = format!("x={}", s.file(name, content));
        assert_exit(&run(&["run", &model, "--input", &image]), 2, says);
    };
    for name in ["420.jpg", "progressive.jpg", "restarts.jpg", "cmyk.jpg"] {
        let whole = stored(name);
        let scan = whole.windows(2).position(|pair| pair == [0xff, 0xda]).unwrap();
        let step = (whole.len() - scan) / 3;
        for cut in [3, scan / 2, scan + step, scan + 2 * step, whole.len() - 1] {
            refused("cut.jpg", whole[..cut].to_vec(), &["the JPEG file", "cut off"]);
        }
        // With its end marker, but without some of the preceding data.
        for missing in [1, 2, step] {
            let mut cut = whole[..whole.len() - 2 - missing].to_vec();
            cut.truncate(cut.len() - usize::from(cut.ends_with(&[0xff])));
            cut.extend([0xff, 0xd9]);
            refused("gap.jpg", cut, &["the JPEG file"]);
        }
    }
    for name in ["rgb.png", "palette.png", "interlaced.png", "deep.png"] {
        let whole = stored(name);
        for cut in [8, 20, 40, whole.len() / 2, whole.len() - 12, whole.len() - 1] {
            refused("cut.png", whole[..cut].to_vec(), &["the PNG file: it is cut off"]);
        }
        let mut changed = whole.clone();
        changed[whole.len() / 2] ^= 1;
        refused("changed.png", changed, &["the PNG file"]);
    }
    let jpeg = stored("444.jpg");
    let frame = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    let with = |at: usize, bytes: &[u8]| {
        let mut changed = jpeg.clone();
        changed[frame + at..frame + at + bytes.len()].copy_from_slice(bytes);
        changed
    };
    refused("taller.jpg", with(5, &[0, 34]), &["the JPEG file"]);
    refused("none.jpg", with(5, &[0, 0]), &["23x0 pixels"]);
    refused("most.jpg", with(5, &[255; 4]), &["65535x65535 pixels, more than its 1140 bytes"]);
    refused("arithmetic.jpg", with(1, &[0xc9]), &["coded arithmetically, which is not supported"]);
    refused("lossless.jpg", with(1, &[0xc3]), &["lossless, which is not supported"]);
    refused("twelve.jpg", with(4, &[12]), &["12 bits a channel"]);
    refused("start.jpg", b"\xff\xd8\xff\xd9".to_vec(), &["it holds no image"]);
    refused("none.png", png_of(0, 3, 0, &[]), &["the PNG file"]);
    refused("most.png", png_of(65_535, 65_535, 2, &[0; 50]), &["more than its 107 bytes can hold"]);
    refused("wide.png", png_of(1 << 31, 1, 0, &[0; 50]), &["the PNG file"]);
    refused("wide.png", png_of(65_536, 1, 0, &[0; 50]), &["65536x1", "from 1 to 65535"]);
    for (name, content, is) in [
        ("x.gif", &b"GIF89a\x01\0\x01\0\0\0\0"[..], "a GIF image"),
        ("x.webp", b"RIFF\x24\0\0\0WEBPVP8 ", "a WebP image"),
        ("x.bmp", b"BM\x46\0\0\0\0\0\0\0\x36\0\0\0\x28", "a BMP image"),
        ("x.tif", b"II*\0\x08\0\0\0", "a TIFF image"),
        ("x.heic", b"\0\0\0\x18ftypheic\0\0\0\0", "a HEIC image"),
        ("x.avif", b"\0\0\0\x18ftypavif\0\0\0\0", "an AVIF image"),
    ] {
        refused(name, content.to_vec(), &[is, ".png or .jpg"]);
    }
}

#[test]
fn image_bombs_exceed_the_limits_of_their_sandbox() {
    let s = Models::new();
    s.models();
    let policy = s.policy("memory = \"64 MiB\"\nrun-time = \"60 s\"");
    let (model, log) = (s.at("gray"), s.at("decisions"));
    let base = ["run", &model, "--policy", &policy, "--decisions", &log];
    let limited = |image: &str, says: &[&str]| {
        let input = format!("x={image}");
        let output = run(&[&base[..], &["--input", &input, "--resize", "4x4"]].concat());
        assert_exit(&output, 5, says);
        let line = fs::read_to_string(&log).unwrap().lines().last().unwrap().to_owned();
        assert!(line.contains("limits.memory") && line.contains("refused"), "{line}");
    };
    // 400 MB in a file of 2.5 MB: refused before any memory is allocated.
    let image = s.file("bomb.png", flat_png(20_000, 20_000));
    limited(&image, &["bomb.png", "20000x20000 pixels take 400000000 bytes", "`limits.memory`"]);
    // Each step fits into the limit, but all data together does not.
    let image = s.file("large.png", flat_png(8_100, 8_100));
    limited(&image, &["large.png", "needs more than 67108864 bytes of memory (`limits.memory`)"]);
    // With more memory it is decoded.
    let (_, values) = answer(&s, "gray", &image, &["--resize", "4x4"]);
    assert_eq!(values, [0.0; 16]);
    // With too little time, the time limit ends it.
    let policy = s.policy("run-time = \"1 ms\"");
    let input = format!("x={image}");
    let output = run(&["run", &model, "--policy", &policy, "--input", &input, "--resize", "4x4"]);
    assert_exit(&output, 5, &["large.png", "`limits.run-time`"]);
    // A tensor larger than the input limit.
    let policy = s.policy("input-size = \"1 MiB\"");
    let image = format!("x={}", s.file("wide.png", flat_png(1_000, 1_000)));
    let output = run(&["run", &model, "--policy", &policy, "--input", &image]);
    assert_exit(&output, 5, &["wide.png", "the tensor of the image", "limits.input-size"]);
}

#[test]
fn recorded_policy_allows_the_images_of_its_run() {
    let s = Models::new();
    s.models();
    let image = format!("x={}", s.file("large.png", flat_png(6_000, 6_000)));
    let (model, policy) = (s.at("gray"), s.at("recorded.toml"));
    let flags = ["--input", &image, "--resize", "4x4"];
    let record = ["policy", "record", &model, "--output", &policy];
    assert_exit(&run(&[&record[..], &flags].concat()), 0, &[]);
    fs::set_permissions(&policy, fs::Permissions::from_mode(0o644)).unwrap();
    let again = ["run", &model, "--policy", &policy];
    assert_exit(&run(&[&again[..], &flags].concat()), 0, &[]);
    let bench = ["bench", &model, "--iterations", "2"];
    assert_exit(&run(&[&bench[..], &flags].concat()), 0, &[]);
}

#[test]
fn supervisor_contains_no_image_decoder() {
    let (host, guest) = (
        include_str!("../../Cargo.lock"),
        include_str!("../../guest-models/onnx-runner/Cargo.lock"),
    );
    for name in [
        "belljar-pixels",
        "png",
        "jpeg-decoder",
        "image-webp",
        "zune-jpeg",
        "zune-png",
        "image",
        "mozjpeg",
        "turbojpeg",
    ] {
        assert!(!host.contains(&format!("name = \"{name}\"\n")), "{name} is a dependency");
    }
    assert!(guest.contains("name = \"png\"\n") && guest.contains("name = \"jpeg-decoder\"\n"));
}
