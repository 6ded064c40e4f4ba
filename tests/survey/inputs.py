"""Draws inputs for a model from what it declares, in the cases in which it is used.

A decoder with a cache is run as it is used: `prefill` with an empty cache and several tokens,
`step` with a filled cache and one token. A merged decoder (with an input `use_cache_branch`) is run
as `first` and `step`, as are the two halves of one that was not merged. Every other model has one case, `run`. Each case has inputs of a first shape,
and of a second one if the model has open dimensions.
"""

import re
import zlib

import numpy as np
import onnx

TOKENS, MORE_TOKENS = 16, 23
SOURCE, LONGER_SOURCE = 12, 19
PAST, LONGER_PAST = 16, 31


def declared(path):
    """The model's inputs: name, ONNX element type, dimensions (number, name or None)."""
    graph = onnx.load(str(path), load_external_data=False).graph
    initializers = {tensor.name for tensor in graph.initializer}
    found = []
    for value in graph.input:
        if value.name in initializers:
            continue
        tensor = value.type.tensor_type
        dims = []
        for dim in tensor.shape.dim:
            if dim.HasField("dim_value") and dim.dim_value >= 0:
                dims.append(dim.dim_value)
            else:
                dims.append(dim.dim_param or None)
        found.append((value.name, tensor.elem_type, dims))
    return found


def is_past(name):
    return name.startswith("past_key")


def cases_of(inputs):
    names = [name for name, _, _ in inputs]
    if "use_cache_branch" in names:
        return ["first", "step"]
    if any(is_past(name) for name in names):
        # A decoder whose cross-attention is in the cache too is only used after the first token.
        crossed = any(".encoder." in name for name in names)
        return ["step"] if crossed else ["prefill", "step"]
    if "encoder_hidden_states" in names and "input_ids" in names:
        return ["first"]
    return ["run"]


class Sizes:
    """The sizes of open dimensions in one case, for the first or second shape."""

    def __init__(self, case, second, hints, merged):
        self.case, self.second, self.hints = case, second, hints
        tokens = MORE_TOKENS if second else TOKENS
        past = LONGER_PAST if second else PAST
        if case == "step":
            tokens = 1
        elif case == "first":
            past = 1
        elif case == "prefill":
            past = 0
        self.tokens, self.past, self.merged = tokens, past, merged
        self.source = LONGER_SOURCE if second else SOURCE

    def hint(self, key):
        value = self.hints.get(key)
        return value[1 if self.second else 0] if isinstance(value, (tuple, list)) else value

    def of(self, name, dim, axis):
        for key in (f"{name}:{axis}", dim):
            if key is not None and self.hint(key) is not None:
                return self.hint(key)
        if dim is None:
            return 1
        if re.search(r"[+*]| - ", dim):
            words = set(re.findall(r"[A-Za-z_][A-Za-z_0-9.]*", dim))
            return int(eval(dim, {}, {word: self.of(name, word, None) for word in words}))
        if "batch" in dim:
            return 1
        if "past" in dim and "total" not in dim:
            # A merged decoder's self-attention cache has one ignored place in its first round.
            return self.past
        if "total" in dim:
            return self.past + self.tokens
        if "encoder" in dim or "source" in dim:
            return self.source
        return self.tokens


def draw(name, kind, shape, sizes, hints, random):
    value = hints.values.get(name)
    if callable(value):
        return np.asarray(value(shape, random))
    if value is not None:
        return np.asarray(value)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
    if name == "use_cache_branch":
        return np.full(shape, sizes.case == "step")
    if dtype == np.bool_:
        return np.ones(shape, dtype)
    if np.issubdtype(dtype, np.integer):
        if "mask" in name:
            return np.ones(shape, dtype)
        if "type" in name:
            return np.zeros(shape, dtype)
        if "position" in name:
            past = 0 if sizes.case in ("run", "first") else sizes.past
            return np.broadcast_to(np.arange(past, past + shape[-1], dtype=dtype), shape).copy()
        high = min(hints.vocabulary, np.iinfo(dtype).max)
        return random.integers(3, high, shape).astype(dtype)
    if "mask" in name:
        return np.ones(shape, dtype)
    return random.standard_normal(shape).astype(dtype)


def feeds(inputs, case, second, hints):
    merged = any(name == "use_cache_branch" for name, _, _ in inputs)
    sizes = Sizes(case, second, hints.sizes, merged)
    drawn = {}
    for name, kind, dims in inputs:
        seed = zlib.crc32(f"{name} {case} {second}".encode())
        shape = [
            dim if isinstance(dim, int) else sizes.of(name, dim, axis)
            for axis, dim in enumerate(dims)
        ]
        if merged and is_past(name) and case == "first":
            shape = [1 if axis == 2 else size for axis, size in enumerate(shape)]
        drawn[name] = draw(name, kind, shape, sizes, hints, np.random.default_rng(seed))
    return drawn


def write(model, hints):
    """Writes `MODEL.CASE.1.npz` and, where a shape can change, `MODEL.CASE.2.npz`."""
    inputs = declared(model)
    is_open = any(not isinstance(dim, int) for _, _, dims in inputs for dim in dims)
    for case in cases_of(inputs):
        first = feeds(inputs, case, False, hints)
        np.savez(model.with_suffix(f".{case}.1.npz"), **first)
        if not is_open:
            continue
        second = feeds(inputs, case, True, hints)
        batch = {
            name: axis
            for name, _, dims in inputs
            for axis, dim in enumerate(dims)
            if isinstance(dim, str) and "batch" in dim
        }
        if all(second[name].shape == first[name].shape for name in first) and batch:
            hints = type(hints)({**hints.sizes, **dict.fromkeys(batch_names(inputs), (1, 3))},
                                hints.values, hints.vocabulary)
            second = feeds(inputs, case, True, hints)
        if any(second[name].shape != first[name].shape for name in first):
            np.savez(model.with_suffix(f".{case}.2.npz"), **second)


def batch_names(inputs):
    return {
        dim
        for _, _, dims in inputs
        for dim in dims
        if isinstance(dim, str) and "batch" in dim
    }
