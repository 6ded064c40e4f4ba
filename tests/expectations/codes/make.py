#!/usr/bin/env python3
"""What codes of small element types mean, and what numbers are rounded to, as ml_dtypes and onnx
have it: an oracle that shares no code with belljar-abi.

    target/conformance-venv/bin/python3 tests/expectations/codes/make.py

`cargo xtask conformance` makes that environment (it needs ml_dtypes, numpy and onnx). It rewrites
codes.txt in its folder, in lines of hexadecimal numbers:

    decode TYPE: the bits of the float32 that each code means, in their order (NaN is 7fc00000);
    for bf16, with its 65536 codes, only each 257th;
    encode TYPE: the bits of a float32, the code it saturates to, the code it overflows to. What
    has more bits, ml_dtypes rounds to a float32 first, which ONNX does not ask for.
"""

import pathlib

import ml_dtypes
import numpy as np
from onnx.numpy_helper import saturate_cast

TYPES = {
    "bf16": (ml_dtypes.bfloat16, 16),
    "float8e4m3fn": (ml_dtypes.float8_e4m3fn, 8),
    "float8e4m3fnuz": (ml_dtypes.float8_e4m3fnuz, 8),
    "float8e5m2": (ml_dtypes.float8_e5m2, 8),
    "float8e5m2fnuz": (ml_dtypes.float8_e5m2fnuz, 8),
    "u4": (ml_dtypes.uint4, 4),
    "i4": (ml_dtypes.int4, 4),
    "float4e2m1": (ml_dtypes.float4_e2m1fn, 4),
    "float8e8m0": (ml_dtypes.float8_e8m0fnu, 8),
    "u2": (ml_dtypes.uint2, 2),
    "i2": (ml_dtypes.int2, 2),
}


def bits(values):
    values = np.asarray(values, np.float32)
    return np.where(np.isnan(values), np.uint32(0x7FC00000), values.view(np.uint32))


def codes(array):
    return array.view(np.uint16 if array.dtype.itemsize == 2 else np.uint8)


def numbers(values):
    """Each number, what lies between two of them, and the numbers next to that."""
    values = np.unique(values[np.isfinite(values)].astype(np.float64))
    if len(values) > 1000:
        some = [values[:4], values[::4093], values[1::4093], values[-4:]]
        values = np.unique(np.concatenate(some))
    middle = (values[1:] + values[:-1]) / 2
    last = values[-1] + (values[-1] - values[-2]) * np.array([0.25, 0.5, 0.75, 1, 1.5, 4, 64])
    tiny = values[values > 0][0] * np.array([0.25, 0.5, 0.75])
    with np.errstate(all="ignore"):
        every = np.concatenate([values, middle, last, -last, tiny, -tiny]).astype(np.float32)
    up, down = np.float32(np.inf), np.float32(-np.inf)
    neighbours = [np.nextafter(every, up), every, np.nextafter(every, down)]
    special = np.array([np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, 1e38, -1e38], np.float32)
    return np.concatenate([*neighbours, special])


def main():
    lines = []
    for name, (dtype, width) in TYPES.items():
        every = np.arange(1 << width).astype(np.uint16 if width == 16 else np.uint8)
        meant = every.view(dtype).astype(np.float32)
        step = 257 if width == 16 else 1
        lines.append(f"decode {name} " + " ".join(f"{x:x}" for x in bits(meant[::step])))
        if name in ("float8e8m0", "u4", "i4", "u2", "i2"):
            continue
        with np.errstate(all="ignore"):
            given = numbers(meant)
            saturated = codes(saturate_cast(given, np.dtype(dtype)))
            overflowed = codes(given.astype(dtype))
        if name == "bf16":
            saturated = overflowed  # to bfloat16 nothing saturates
        for x, a, b in zip(given.view(np.uint32), saturated, overflowed):
            lines.append(f"encode {name} {x:x} {a:x} {b:x}")
    path = pathlib.Path(__file__).with_name("codes.txt")
    path.write_text("\n".join(lines) + "\n")


main()
