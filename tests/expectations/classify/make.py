#!/usr/bin/env python3
"""What the guest program `classify` must answer to a JPEG file, by Pillow and onnxruntime.

How to run, from the repository's root, in any Python environment (Pillow 13.0, onnxruntime 1.32):

    cargo xtask models
    pip install onnxruntime numpy pillow
    python3 tests/expectations/classify/make.py

It writes photo.jpg, 300 by 200 pixels, and photo.out0.npy to its folder, which are committed.
"""

import pathlib

import numpy as np
import onnxruntime as ort
from PIL import Image

HERE = pathlib.Path(__file__).resolve().parent
MODEL = HERE.parent.parent.parent / "target" / "models" / "squeezenet.onnx"
SIDE = 224


def part(at, size):
    start = at * size // SIDE
    return slice(start, max((at + 1) * size // SIDE, start + 1))


stored = np.load(HERE.parent / "images" / "photo_two.npy")[0].transpose(1, 2, 0)
photo = Image.fromarray(stored).resize((300, 200), Image.Resampling.BICUBIC)
photo.save(HERE / "photo.jpg", quality=90, subsampling=0)
decoded = np.asarray(Image.open(HERE / "photo.jpg").convert("RGB")).astype(np.float64)
height, width, _ = decoded.shape
means = np.array(
    [
        [decoded[part(y, height), part(x, width)].mean(axis=(0, 1)) for x in range(SIDE)]
        for y in range(SIDE)
    ]
)
numbers = ((means.transpose(2, 0, 1)[None] - 128) / 64).astype(np.float32)
session = ort.InferenceSession(str(MODEL), providers=["CPUExecutionProvider"])
(scores,) = session.run(None, {"data_0": numbers})
np.save(HERE / "photo.out0.npy", scores)
best = np.sort(scores.ravel())[::-1][:3]
print(f"class {scores.argmax()}: {best}")
