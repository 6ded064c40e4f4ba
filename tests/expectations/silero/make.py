#!/usr/bin/env python3
"""Expected outputs of all variants of silero-vad 6.2.3, by onnxruntime.

How to run, from the repository's root, in any Python environment (onnxruntime 1.32.0):

    cargo xtask models
    pip install onnxruntime numpy
    python3 tests/expectations/silero/make.py

It rewrites manifest.json and the .npy files in its folder. What is heard is a voiced tone with some
noise, a window of it at each rate, then the next one with the state that the first has left.
"""

import json
import pathlib

import numpy as np
import onnxruntime as ort

HERE = pathlib.Path(__file__).resolve().parent
MODELS = HERE.parent.parent.parent / "target" / "models"
# Samples of a window, with those of the one before that it begins with.
WINDOW = {16000: 576, 8000: 288}
# Variants, and the rates they are for.
VARIANTS = {
    "silero_vad": [16000, 8000],
    "silero_vad_half": [16000],
    "silero_vad_16k_op15": [16000],
    "silero_vad_op18_ifless": [16000, 8000],
    "silero_vad_openvino_16k": [16000],
    "silero_vad_16k_sequence": [16000],
}


def sound(seed, rate, windows):
    random = np.random.RandomState(seed)
    count = WINDOW[rate] * windows
    t = np.arange(count) / rate
    tone = sum(np.sin(2 * np.pi * (110.0 + 40.0 * seed) * k * t) / k for k in range(1, 8))
    heard = 0.2 * tone + 0.02 * random.randn(count)
    return heard.astype(np.float32).reshape(windows, -1)


def session(name):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    path = str(MODELS / f"{name}.onnx")
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def main():
    for old in HERE.glob("*.npy"):
        old.unlink()
    sounds = {}

    def heard(seed, rate, windows):
        file = f"sound_{rate}_{seed}_{windows}.npy"
        sounds[file] = sound(seed, rate, windows)
        np.save(HERE / file, sounds[file])
        return file

    entries = []
    for name, rates in VARIANTS.items():
        model = session(name)
        wanted = [value.name for value in model.get_inputs()]
        made = [value.name for value in model.get_outputs()]
        sequence = "h" in wanted
        for rate in rates:
            states = ("h", "c") if sequence else ("state",)
            shape = (1, 1, 128) if sequence else (2, 1, 128)
            given = {state: np.zeros(shape, np.float32) for state in states}
            kept = {state: None for state in states}
            cases = []
            for seed in (1, 2):
                file = heard(seed, rate, 3 if sequence else 1)
                feeds = {"input": sounds[file], **given}
                if "sr" in wanted:
                    feeds["sr"] = np.array(rate, np.int64)
                outputs = dict(zip(made, model.run(None, feeds)))
                case = {"sound": file, "states": dict(kept), "outputs": {}}
                for output, value in outputs.items():
                    assert np.isfinite(value).all()
                    stored = f"{name}_{rate}_{seed}_{output}.npy"
                    np.save(HERE / stored, value)
                    case["outputs"][output] = stored
                cases.append(case)
                # The states come behind the probabilities, in the order of the inputs.
                left = list(outputs.values())[1:]
                given = dict(zip(states, left, strict=True))
                kept = {s: case["outputs"][o] for s, o in zip(states, list(outputs)[1:])}
            entries.append({
                "file": f"{name}.onnx",
                "rate": rate,
                "asks": "sr" in wanted,
                "state_shape": list(shape),
                "cases": cases,
            })
    manifest = {"onnxruntime": ort.__version__, "numpy": np.__version__, "models": entries}
    (HERE / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


main()
