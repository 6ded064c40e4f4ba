use super::*;

macro_rules! shipped {
    ($name:literal) => {
        ($name, include_str!(concat!("../../../../policies/", $name, ".toml")))
    };
}

const DEFAULT: (&str, &str) = shipped!("default");

const MODELS: &[(&str, &str)] = &[
    shipped!("magika"),
    shipped!("silero-vad-openvino-16k"),
    shipped!("silero-vad"),
    shipped!("pp-ocr-cls"),
    shipped!("resnet50"),
    shipped!("squeezenet"),
    shipped!("densenet121"),
    shipped!("shufflenet"),
];

#[test]
fn default_policy_is_the_built_in_default() {
    assert_eq!(Policy::parse(DEFAULT.1, DEFAULT.0).unwrap(), Policy::default());
    // All limits are written out, so that readers need not know the defaults.
    let lines: Vec<&str> = DEFAULT.1.lines().map(str::trim_start).collect();
    for key in [
        "version",
        "declared-shapes",
        "memory",
        "run-time",
        "prepare-time",
        "model-size",
        "input-size",
        "output-size",
        "log-size",
        "stack",
        "snapshots",
        "deterministic",
        "kernels",
        "threads",
    ] {
        let spelled = lines.iter().filter(|l| l.split(' ').next() == Some(key)).count();
        assert_eq!(spelled, 1, "{key}");
    }
}

#[test]
fn shipped_policies_are_stricter_than_the_default() {
    let default = Limits::default();
    for (name, text) in MODELS {
        let limits = Policy::parse(text, name).unwrap().limits;
        assert!(limits.memory <= default.memory, "{name}");
        assert!(limits.run_time <= default.run_time, "{name}");
        assert!(limits.prepare_time <= default.prepare_time, "{name}");
        assert!(limits.model_size < default.model_size, "{name}");
        assert!(limits.input_size < default.input_size, "{name}");
        assert!(limits.output_size < default.output_size, "{name}");
    }
}
