#!/usr/bin/env python3
"""Expected outputs of the real models, computed by onnxruntime: an oracle that shares no code with
the sandbox.

How to run, from the repository's root, in any Python environment (the versions used last are in
manifest.json):

    cargo xtask models
    pip install onnxruntime numpy
    python3 tests/expectations/make.py

It rewrites every file in its folder: `manifest.json`, and .npy files for each case. Run it again only
when a model changes; the files are committed, so nobody who runs the tests needs onnxruntime.

Inputs are seeded with numpy's RandomState, whose streams never change. Images are stored as u8 and
shared between models of one shape; a model's f32 input is (u8 - 128) / 64, which is exact. Each
input in the manifest that is stored that way says so in its field `from_u8`.

onnxruntime runs on the CPU with one thread and without graph optimisations, so that each operator
is computed as the model writes it down.
"""

import hashlib
import json
import pathlib
import shutil

import numpy as np
import onnxruntime as ort

HERE = pathlib.Path(__file__).resolve().parent
MODELS = HERE.parent.parent / "target" / "models"
OFFSET, SCALE = 128, 64


def image(seed, height, width):
    """An image of waves, boxes and noise: structure at several sizes, another one per seed."""
    random = np.random.RandomState(seed)
    c, y, x = np.meshgrid(np.arange(3), np.arange(height), np.arange(width), indexing="ij")

    def wave(v, half):
        return np.abs(v % (2 * half) - half) * 2.0 / half - 1.0

    halves = random.randint(7, 60, size=3)
    shift = random.randint(0, 100, size=3)
    value = wave(x * (c + 1) + shift[0], halves[0]) + wave(y + x * (seed % 3) + shift[1], halves[1])
    for _ in range(6):
        top, left = random.randint(0, height - 8), random.randint(0, width - 8)
        tall, wide = random.randint(8, height // 2), random.randint(8, width // 2)
        box = value[random.randint(0, 3), top : top + tall, left : left + wide]
        box += random.randint(-3, 4) * 0.4
    value += 0.4 * random.randn(3, height, width)
    return np.clip(np.round(value * SCALE / 2 + OFFSET), 0, 255).astype(np.uint8)[None]


def from_u8(stored):
    return (stored.astype(np.float32) - np.float32(OFFSET)) / np.float32(SCALE)


def magika_bytes(content):
    """Pads to 1024 values at either end with the token 256, as magika does for short files."""
    beg, end = list(content[:1024]), list(content[-1024:])
    values = beg + [256] * (1024 - len(beg)) + [256] * (1024 - len(end)) + end
    return np.array([values], dtype=np.int32)


def sound(seed):
    """A window of 576 samples: a voiced tone with harmonics and some noise."""
    random = np.random.RandomState(seed)
    t = np.arange(576) / 16000.0
    pitch = 110.0 + 40.0 * seed
    tone = sum(np.sin(2 * np.pi * pitch * k * t) / k for k in range(1, 8))
    return (0.2 * tone + 0.02 * random.randn(576)).astype(np.float32)[None]


class Writer:
    """Runs the models and keeps the manifest."""

    def __init__(self):
        self.models = []
        self.images = {}

    def shared_image(self, name, seed, height, width):
        stored = image(seed, height, width)
        path = f"images/{name}.npy"
        if path not in self.images:
            np.save(HERE / path, stored)
            self.images[path] = stored
        return (path, stored)

    def model(self, name, cases):
        path = MODELS / f"{name}.onnx"
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        (HERE / name).mkdir()
        entry = {
            "name": name,
            "file": path.name,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "cases": [],
        }
        for case, inputs in cases.items():
            if callable(inputs):
                inputs = inputs(session)
            entry["cases"].append(self.case(name, case, session, inputs))
        self.models.append(entry)

    def case(self, model, case, session, inputs):
        feeds, described = {}, []
        for i, (declared, given) in enumerate(zip(session.get_inputs(), inputs, strict=True)):
            if isinstance(given, tuple):
                path, stored = given
                value, extra = from_u8(stored), {"from_u8": {"subtract": OFFSET, "divide": SCALE}}
            else:
                path, value, extra = f"{model}/{case}.in{i}.npy", given, {}
                np.save(HERE / path, value)
            feeds[declared.name] = value
            described.append(tensor(declared.name, path, value) | extra)
        outputs = session.run(None, feeds)
        written = []
        for i, (declared, value) in enumerate(zip(session.get_outputs(), outputs, strict=True)):
            assert np.isfinite(value).all(), (model, case)
            path = f"{model}/{case}.out{i}.npy"
            np.save(HERE / path, value)
            written.append(tensor(declared.name, path, value))
        return {"name": case, "inputs": described, "outputs": written}


def tensor(name, path, value):
    return {
        "name": name,
        "file": path,
        "dtype": {"float32": "f32", "int32": "i32", "int64": "i64"}[str(value.dtype)],
        "shape": list(value.shape),
    }


def main():
    for folder in HERE.iterdir():
        if folder.is_dir():
            shutil.rmtree(folder)
    (HERE / "images").mkdir()
    writer = Writer()

    random = np.random.RandomState(1)
    text = b"def greet(name):\n    return f'Hello, {name}!'\n\n\nif __name__ == '__main__':\n"
    writer.model("magika", {
        "random": [random.randint(0, 257, size=(1, 2048)).astype(np.int32)],
        "text": [magika_bytes(text + b"    print(greet('world'))")],
        "padding": [np.full((1, 2048), 256, dtype=np.int32)],
    })

    still = np.zeros((2, 1, 128), dtype=np.float32)
    rate = [np.array(16000, dtype=np.int64)]
    for name, further in [("silero_vad_openvino_16k", []), ("silero_vad", rate)]:
        def second(session, further=further):
            # The state that the first window leaves, as in a stream.
            feeds = dict(zip([i.name for i in session.get_inputs()], [sound(1), still] + further))
            return [sound(2), session.run(None, feeds)[1]] + further

        state = np.random.RandomState(2).uniform(-0.5, 0.5, (2, 1, 128)).astype(np.float32)
        writer.model(name, {
            "first": [sound(1), still] + further,
            "second": second,
            "state": [sound(3), state] + further,
        })

    writer.model("pp_ocr_cls", {
        name: [writer.shared_image(f"line_{name}", seed, 48, 192)]
        for name, seed in [("one", 11), ("two", 12)]
    })
    for name in ["resnet50", "squeezenet", "densenet121", "shufflenet"]:
        writer.model(name, {
            case: [writer.shared_image(f"photo_{case}", seed, 224, 224)]
            for case, seed in [("one", 21), ("two", 23)]
        })

    manifest = {
        "oracle": {"onnxruntime": ort.__version__, "numpy": np.__version__},
        "models": writer.models,
    }
    (HERE / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


if __name__ == "__main__":
    main()
