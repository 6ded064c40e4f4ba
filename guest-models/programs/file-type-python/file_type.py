"""Detects the type of a file with magika's model: the program `file-type` in Python.

Input: `file`, bytes. Outputs: `class`, the class with the greatest score, an i64; and `scores`, an
f32 for each class. It only uses the interfaces and Python's standard library.
"""

import struct

import wit_world
from componentize_py_types import Err
from wit_world.imports import graph, tensor
from wit_world.imports.values import ElementType, Tensor, Value_Bytes, Value_Tensor

# From version 2 of magika's feature extraction: values from each end, bytes read from each end,
# the value for a missing byte, and the minimum number of bytes.
SIDE, BLOCK, PADDING, MIN_BYTES = 1024, 4096, 256, 8


def features(content):
    first, last = content[:BLOCK].lstrip(), content[-BLOCK:].rstrip()
    if len(first) < MIN_BYTES:
        raise Err(f"the file is too short: {len(first)} bytes without white space")
    first, last = list(first[:SIDE]), list(last[-SIDE:])
    return first + [PADDING] * (2 * SIDE - len(first) - len(last)) + last


def failed(what, err):
    return Err(f"{what}: {err.value.data()}")


class WitWorld(wit_world.WitWorld):
    def run(self, inputs):
        match inputs:
            case [("file", Value_Bytes(content))]:
                pass
            case _:
                raise Err("expected one input, `file`, with the bytes of a file")
        numbers = features(content)
        try:
            model = graph.load_by_name("magika")
        except Err as err:
            raise failed("loading the model", err)
        data = struct.pack(f"<{len(numbers)}i", *numbers)
        given = tensor.Tensor([1, len(numbers)], tensor.TensorType.I32, data)
        try:
            [(_, scores)] = model.init_execution_context().compute([("bytes", given)])
        except Err as err:
            raise failed("running the model", err)
        data = scores.data()
        values = struct.unpack(f"<{len(data) // 4}f", data)
        best = max(range(len(values)), key=values.__getitem__)
        shape = scores.dimensions()
        return [
            ("class", Value_Tensor(Tensor(ElementType.I64, [], struct.pack("<q", best)))),
            ("scores", Value_Tensor(Tensor(ElementType.F32, shape, data))),
        ]
