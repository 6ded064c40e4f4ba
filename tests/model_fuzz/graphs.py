"""Generates random graphs of the standard operators, with their expected answers.

    python3 graphs.py FOLDER [--seed N] [--count N] [--longest N] [--only Operator,Operator]
                             [--narrow SHARE]
    BELLJAR_CONFORMANCE=FOLDER BELLJAR_CONFORMANCE_RESULTS=FILE \\
        cargo test --release --workspace --test conformance

Every node is computed alone, by onnxruntime and by the reference implementation of the onnx
package, and kept if they agree; the expected answer of a graph is that of its nodes, one after the
other. So it is not affected by optimizations of several nodes, and a different answer is a bug and
not a disagreement of implementations.

By default, half of the graphs are of float16 or bfloat16, with magnitudes from the smallest to the
largest. Their nodes are computed in float32, on the same values, and their results are rounded
once, because onnxruntime and the reference may sum in float16.

The graphs are written as conformance/cases.py writes its cases: FOLDER/cases.json, and for each
graph a folder in FOLDER/node with model.onnx and .npy files. It needs the packages onnx,
onnxruntime and numpy.
"""

import argparse
import collections
import itertools
import json
import math
import os
import pathlib
import pickle
import random
import signal
import sys
import traceback
import warnings

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

BOOL, I8, I16, I32, I64 = map(np.dtype, ("bool", "int8", "int16", "int32", "int64"))
U8, U16, U32, U64 = map(np.dtype, ("uint8", "uint16", "uint32", "uint64"))
F16, F32, F64 = map(np.dtype, ("float16", "float32", "float64"))
BF16 = np.dtype(ml_dtypes.bfloat16)
# A unit in the last place of each narrow type relative to the number, and the smallest step.
STEPS = {F16: (2.0**-10, 2.0**-24), BF16: (2.0**-7, 2.0**-133)}
# Magnitudes of the numbers in a graph of narrow floats. The sum of three of the largest is out of
# the range of float16; the smallest are a few steps of float16.
MAGNITUDES = [1.5] * 6 + [1e-7, 1e-6, 1e-5, 1e-3, 30, 1000, 8000, 20000, 40000]
OPSETS = [9, 10, 11, 12, 13, 13, 14, 15, 16, 17, 17, 18, 18, 19, 20, 21, 22, 22, 23, 23, 23]

# A value is exact if it was computed without rounding, so that all implementations agree on every
# bit. These operators keep values exact, as do all with integer or boolean results.
EXACT = set("""
    Transpose Reshape Slice Gather GatherElements GatherND Concat Split Pad Tile Expand Squeeze
    Unsqueeze Flatten Identity Neg Abs Relu Clip Max Min Where ScatterElements ScatterND
    DepthToSpace SpaceToDepth Trilu Compress ReverseSequence ReduceMax ReduceMin MaxPool
    GlobalMaxPool Floor Ceil Round Sign TopK Unique Hardmax OneHot ThresholdedRelu
""".split())
# Discontinuous operators: a difference in the last bit of an input may change the result
# arbitrarily, so they may only read exact floats. (GridSample is discontinuous in its grid, which
# is always drawn and not computed.)
JUMPING = set("""
    Floor Ceil Round Sign Less Greater Equal LessOrEqual GreaterOrEqual Mod ArgMax ArgMin TopK
    Unique NonZero Hardmax QuantizeLinear DynamicQuantizeLinear IsInf IsNaN Shrink
    ThresholdedRelu OneHot
""".split())

FAMILIES = {}


class Skip(Exception):
    """The drawn node is not usable; another one is drawn."""


def need(condition):
    if not condition:
        raise Skip


def floats(value, lowest=0, highest=6):
    """Requires nonempty 32-bit floats with a rank within these bounds."""
    need(value.dtype == F32 and lowest <= value.ndim <= highest and value.size)


def operators(names):
    """Registers a function that makes nodes of these operators. Its arguments are the graph, the
    operator, and the name and the value of the node's input."""
    def register(function):
        FAMILIES.update(dict.fromkeys(names.split(), function))
        return function
    return register


def info(name, array, shape=None):
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    return helper.make_tensor_value_info(name, kind, shape)


def model_of(opset, nodes, inputs, outputs, initializers=()):
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializers)
    imports = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8 if opset < 21 else 10)


def agree(one, other):
    if one.shape != other.shape or one.dtype != other.dtype or one.dtype.kind not in "biuf":
        return False
    if one.dtype.kind != "f":
        return np.array_equal(one, other)
    relative, absolute = (2e-2, 2e-2) if one.dtype == F16 else (1e-3, 1e-4)
    return np.allclose(one.astype(F64), other.astype(F64), relative, absolute, equal_nan=True)


class Graph:
    def __init__(self, seed):
        self.draw, self.numbers = random.Random(seed), np.random.default_rng(seed)
        self.opset = self.draw.choice(OPSETS)
        self.values, self.exact = {}, set()
        self.nodes, self.inputs, self.initializers = [], [], []
        self.choose, self.between = self.draw.choice, self.draw.randint
        # The narrow type of the graph's floats, if any, which are stored as float32 here; the
        # values that are float32 nevertheless; and the values whose type is fixed.
        self.narrow, self.magnitude, self.full, self.read = None, 1.5, set(), set()

    def copy(self):
        """The state to restore when a node is discarded."""
        return {key: kept.copy() for key, kept in vars(self).items()
                if isinstance(kept, (dict, list, set))}

    def chance(self, probability):
        return self.draw.random() < probability

    def several(self, count, options):
        return [self.choose(options) for _ in range(count)]

    def name(self):
        self.names = getattr(self, "names", 0) + 1
        return f"v{self.names}"

    def random(self, shape, dtype=F32):
        if dtype == BOOL:
            return self.numbers.random(shape) < 0.5
        if self.chance(0.1):  # values that optimizers treat specially
            return np.full(shape, self.choose([0, 1, 2] + [0.5, -1] * (dtype.kind == "f")), dtype)
        if dtype.kind in "iu":
            return self.numbers.integers(0 if dtype.kind == "u" else -9, 10, shape).astype(dtype)
        if self.narrow and dtype == F32:
            size = self.choose([self.magnitude, self.magnitude, 1.5])
            drawn = np.clip(self.numbers.normal(0, size, shape), -6e4, 6e4)
            if self.chance(0.2):  # sums that overflow the type, and come back
                drawn = np.sort(np.ravel(drawn)).reshape(shape)
            return np.asarray(drawn).astype(dtype)
        return np.asarray(self.numbers.normal(0, 1.5, shape)).astype(dtype)

    def shape(self, lowest, highest, options=(1, 2, 3, 4, 5, 7)):
        return tuple(self.several(self.between(lowest, highest), options))

    def broadcasting(self, shape):
        """A shape that broadcasts with this one: a tail of it with ones, or one dimension more."""
        tail = [1 if self.chance(0.3) else d
                for d in shape[len(shape) - self.between(0, len(shape)):]]
        if len(shape) < 4 and self.chance(0.1):
            return (self.between(1, 3), *[1] * (len(shape) - len(tail)), *tail)
        return tuple(tail)

    def written(self, axis, rank):
        """An axis, sometimes counted from the end if the version allows it."""
        return axis - rank if self.opset >= 11 and self.chance(0.3) else axis

    def axis(self, rank):
        need(rank)
        return self.written(self.between(0, rank - 1), rank)

    def given(self, array, as_input=0.3):
        """Adds a value that is not computed, an input or an initializer; returns its name."""
        name, array = self.name(), self.as_narrow(np.asarray(array))
        self.values[name] = array
        self.exact.add(name)
        if self.chance(as_input):
            self.inputs.append(name)
        else:
            self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def ints(self, numbers, as_input=0.1):
        return self.given(np.array(numbers, I64), as_input)

    def as_narrow(self, array):
        """The value rounded to the narrow type."""
        if self.narrow and array.dtype == F32:
            with np.errstate(over="ignore"):
                return array.astype(self.narrow).astype(F32)
        return array

    def typed(self, node):
        """Finds the inputs and outputs of a node of narrow floats that are float32, from its
        schema; returns the node to write."""
        need(onnx.defs.has(node.op_type, self.opset, ""))
        schema = onnx.defs.get_schema(node.op_type, self.opset, "")
        allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
        wanted = "tensor(float16)" if self.narrow == F16 else "tensor(bfloat16)"

        def formal(formals, at):
            return formals[min(at, len(formals) - 1)].type_str

        groups, narrow = {}, False
        for at, name in enumerate(node.input):
            if not name or self.values[name].dtype != F32:
                continue
            kind = formal(schema.inputs, at)
            if wanted in allowed.get(kind, [kind]):
                need(name not in self.full)
                groups[kind] = narrow = True
            else:
                need(name in self.full or name not in self.read)
                self.full.add(name)
        # A quotient is rounded to the type of the scale before it is rounded to an integer.
        need(not (narrow and node.op_type in ("QuantizeLinear", "DequantizeLinear")))
        self.read.update(node.input, node.output)
        written = onnx.NodeProto()
        written.CopyFrom(node)
        number, made = helper.np_dtype_to_tensor_dtype(self.narrow), set()
        for attribute in written.attribute:
            if node.op_type == "Cast" and attribute.i == onnx.TensorProto.FLOAT:
                attribute.i = number
                made.add(0)
            elif node.op_type == "ConstantOfShape":
                value = numpy_helper.to_array(attribute.t)
                if value.dtype == F32:
                    attribute.t.CopyFrom(numpy_helper.from_array(value.astype(self.narrow)))
                    made.add(0)
        if node.op_type == "EyeLike" and not any(a.name == "dtype" for a in node.attribute):
            made.update([0] * narrow)
        for at, name in enumerate(node.output):
            if at not in made and not groups.get(formal(schema.outputs, at)):
                self.full.add(name)
        return written

    def noise(self, *shape):
        return self.given(self.random(shape))

    def op(self, operator, inputs, results=1, **attributes):
        """Adds a node if its result can be verified. Attributes that are None are omitted."""
        attributes = {key: value for key, value in attributes.items() if value is not None}
        outputs = [self.name() for _ in range(results)]
        node = helper.make_node(operator, inputs, outputs, name="n" + outputs[0], **attributes)
        read = [name for name in dict.fromkeys(inputs) if name]
        rounded = [name for name in read if name not in self.exact]
        to_whole = operator == "Cast" and helper.tensor_dtype_to_np_dtype(attributes["to"])
        written = self.typed(node) if self.narrow else node
        jumps = operator in JUMPING or (operator == "MaxPool" and results == 2) or (
            to_whole and to_whole.kind != "f")
        need(not (jumps and rounded))
        found = self.judged(node, read, rounded)
        kept = operator in EXACT and attributes.get("reduction") not in ("add", "mul")
        if operator == "Cast":
            kept = np.can_cast(self.values[read[0]].dtype, found[0].dtype)
        for name, value in zip(outputs, found):
            need(value.size <= 20000)
            if name not in self.full:
                value = self.as_narrow(value)
            # Huge values and NaN are discarded: results computed from them would be noise.
            if value.dtype.kind == "f" and value.size:
                limit = 6.5e4 if self.narrow else 1e4
                need(np.isfinite(value).all() and np.abs(value).max() < limit)
            self.values[name] = value
            if value.dtype.kind != "f" or (kept and not rounded):
                self.exact.add(name)
        self.nodes.append(written)
        return outputs[0]

    def shaken(self, value):
        if self.narrow and value.dtype == F32:
            relative, least = STEPS[self.narrow]
            step = np.maximum(np.abs(value) * relative, least)
            return np.asarray(value + step * self.numbers.choice([-1, 0, 1], value.shape), F32)
        largest = np.abs(value).max(initial=0)
        shake = 1e-6 * largest * self.numbers.normal(size=value.shape)
        return np.asarray(value + shake, value.dtype)

    def judged(self, node, read, rounded):
        """The result of a node, if onnxruntime and the reference agree, also when the rounded
        inputs are slightly changed."""
        feeds = {name: self.values[name] for name in read}
        inputs = [info(name, array, array.shape) for name, array in feeds.items()]
        outputs = [onnx.ValueInfoProto(name=name) for name in node.output]
        model = model_of(self.opset, [node], inputs, outputs)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        try:
            session = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"])
            found = [np.asarray(value) for value in session.run(None, feeds)]
            shaken = feeds | {name: self.shaken(feeds[name]) for name in rounded}
            answers = [session.run(None, shaken)] if rounded else []
            with np.errstate(all="ignore"):
                answers.append(ReferenceEvaluator(model).run(None, feeds))
        except Exception:  # any exception is a refusal
            raise Skip from None
        for answer in answers:
            need(all(map(self.agree, found, map(np.asarray, answer))))
        return found

    def agree(self, one, other):
        if not (self.narrow and one.dtype == other.dtype == F32 and one.shape == other.shape):
            return agree(one, other)
        return np.allclose(one, other, 0, self.tolerance(one) / 2, equal_nan=True)

    def tolerance(self, value):
        """The tolerance of an answer of narrow floats: a few units in the last place of the largest
        number."""
        relative, least = STEPS[self.narrow]
        largest = np.abs(value).max(initial=0)
        return float(4 * max(relative * largest, least)) if np.isfinite(largest) else 0.0


@operators("Add Sub Mul Max Min Mean Sum Less Greater Equal LessOrEqual GreaterOrEqual And Or Xor "
           "BitwiseAnd BitwiseOr BitwiseXor")
def of_two(g, operator, x, v):
    need((v.dtype == BOOL) == (operator in ("And", "Or", "Xor")) or operator == "Equal")
    inputs = [x, g.given(g.random(g.broadcasting(v.shape), v.dtype))]
    like = [name for name, value in g.values.items() if value.dtype == v.dtype and name != x]
    if g.chance(0.3):
        other = g.choose(like)
        ours, theirs = v.shape[::-1], g.values[other].shape[::-1]
        if all(a == b or 1 in (a, b) for a, b in zip(ours, theirs)):
            inputs[1] = other
    if operator in ("Max", "Min", "Mean", "Sum") and g.chance(0.3):
        inputs.append(g.given(g.random(g.broadcasting(v.shape), v.dtype)))
    g.draw.shuffle(inputs)
    return g.op(operator, inputs)


@operators("Div Mod Pow PRelu BitShift")
def of_one_by_another(g, operator, x, v):
    is_float, attributes = v.dtype.kind == "f", {}
    need(v.dtype != BOOL and (operator != "PRelu" or is_float))
    other = g.random(g.broadcasting(v.shape), v.dtype)
    if operator == "Div":
        other = np.where(np.abs(other) < 0.3, 1, other).astype(v.dtype)
    elif operator == "Mod":
        other = np.where(other == 0, 3, other).astype(v.dtype)
        attributes["fmod"] = 1 if is_float or g.chance(0.5) else None
    elif operator == "BitShift":
        need(v.dtype.kind == "u")
        attributes["direction"] = g.choose(["LEFT", "RIGHT"])
    elif operator == "Pow" and is_float:
        x, other = g.op("Abs", [x]), np.abs(other)
        if g.chance(0.4):
            other = np.asarray(g.choose([2, 3, 0.5, -1, 0, 1]), v.dtype)
    elif operator == "Pow":
        other = np.abs(other % 4).astype(v.dtype)
        if g.chance(0.4):
            other = np.asarray(g.between(0, 3), g.choose([F32, v.dtype]))
        # Overflowing integer powers are not specified.
        powers, limits = v.astype(object) ** other.astype(I64).astype(object), np.iinfo(v.dtype)
        need(all(limits.min <= power <= limits.max for power in np.ravel(powers)))
    return g.op(operator, [x, g.given(other)], **attributes)


@operators("Relu Sigmoid Tanh Exp Neg Abs Floor Ceil Round Sqrt Reciprocal Sign Erf Softplus "
           "Softsign Sin Cos Atan Sinh Asinh Not Identity HardSwish Mish Log IsNaN IsInf "
           "BitwiseNot Size NonZero")
def of_one(g, operator, x, v):
    attributes = {}
    if operator in ("Sqrt", "Log"):
        need(v.dtype.kind == "f")
        x = g.op("Add", [g.op("Abs", [x]), g.given(np.asarray(0.1, v.dtype))])
    if operator in ("IsNaN", "IsInf"):
        need(v.dtype.kind == "f")
        if g.chance(0.7):  # no computed value here is NaN
            x = g.given(g.numbers.choice([np.nan, np.inf, -np.inf, 1], v.shape).astype(v.dtype))
        if operator == "IsInf" and g.chance(0.5):
            attributes = {g.choose(["detect_negative", "detect_positive"]): 0}
    return g.op(operator, [x], **attributes)


@operators("LeakyRelu Elu Celu Selu HardSigmoid ThresholdedRelu Shrink Gelu")
def activation(g, operator, x, v):
    floats(v)
    attributes = {
        "Selu": {"alpha": g.draw.uniform(0.2, 2), "gamma": g.draw.uniform(0.2, 2)},
        "Celu": {"alpha": g.draw.uniform(0.1, 2)},
        "HardSigmoid": {"alpha": g.draw.uniform(0.1, 1), "beta": g.draw.uniform(-1, 1)},
        "ThresholdedRelu": {"alpha": g.draw.uniform(-1, 1)},
        "Shrink": {"lambd": g.draw.uniform(0, 1), "bias": g.draw.uniform(-1, 1)},
        "Gelu": {"approximate": g.choose(["none", "tanh"])},
    }.get(operator, {"alpha": g.draw.uniform(-1, 2)})
    return g.op(operator, [x], **({} if g.chance(0.3) else attributes))


@operators("Clip")
def clip(g, operator, x, v):
    if g.opset < 11:
        return g.op(operator, [x], min=g.choose([None, -0.5]), max=g.choose([None, 0.7, -1.0]))
    bounds = [g.given(np.asarray(g.choose(bound), v.dtype)) if g.chance(0.7) else ""
              for bound in ([0, 1], [0, 1, 2, 3])]
    return g.op(operator, [x, *bounds])


@operators("Cast")
def cast(g, operator, x, v):
    to = g.choose([F32, F32, F64, F16, I64, I32, I8, U8, BOOL, I16, U16, U32, U64])
    need(not g.narrow or to != F16)
    if v.dtype.kind == "f" and to.kind in "iu" and v.size:  # out of range is not specified
        need(np.iinfo(to).min <= v.min() and v.max() <= np.iinfo(to).max)
    return g.op(operator, [x], to=helper.np_dtype_to_tensor_dtype(to))


@operators("Reshape")
def reshape(g, operator, x, v):
    shape = list(v.shape)
    for way in g.several(g.between(0, 3), ["join", "join", "one", "divide", "drop"]):
        if way == "join" and len(shape) >= 2:
            at = g.draw.randrange(len(shape) - 1)
            shape[at:at + 2] = [shape[at] * shape[at + 1]]
        elif way == "one" and len(shape) < 5:
            shape.insert(g.between(0, len(shape)), 1)
        elif way == "divide" and 1 <= len(shape) < 5 and v.size:
            at = g.draw.randrange(len(shape))
            part = g.choose(divisors(shape[at]))
            shape[at:at + 1] = [part, shape[at] // part]
        elif way == "drop" and 1 in shape:
            shape.remove(1)
    if shape and v.size and g.chance(0.4):
        shape[g.draw.randrange(len(shape))] = -1
    shape = [0 if (d,) == v.shape[i:i + 1] and g.chance(0.3) else d for i, d in enumerate(shape)]
    return g.op(operator, [x, g.ints(shape)])


def divisors(number):
    return [d for d in range(1, number + 1) if number % d == 0]


@operators("Transpose Flatten")
def rearrange(g, operator, x, v):
    if operator == "Flatten":
        return g.op(operator, [x], axis=g.between(-v.ndim if g.opset >= 11 else 0, v.ndim))
    order = g.draw.sample(range(v.ndim), v.ndim)
    return g.op(operator, [x], perm=order if order and g.chance(0.85) else None)


@operators("Squeeze Unsqueeze")
def squeeze(g, operator, x, v):
    if operator == "Squeeze":
        rank, places = v.ndim, [axis for axis, size in enumerate(v.shape) if size == 1]
        need(places)
        axes = g.draw.sample(places, g.between(1, len(places)))
        if g.chance(0.2):
            return g.op(operator, [x])
    else:
        rank = v.ndim + g.between(1, 2)
        need(rank <= 6)
        axes = g.draw.sample(range(rank), rank - v.ndim)
    axes = [g.written(axis, rank) for axis in axes]
    return g.op(operator, [x], axes=axes) if g.opset < 13 else g.op(operator, [x, g.ints(axes)])


@operators("Expand Tile")
def repeat(g, operator, x, v):
    if operator == "Tile":
        return g.op(operator, [x, g.ints(g.several(v.ndim, [1, 2, 3]), 0.2)])
    shape = [g.choose([1, 2, 3] if d == 1 else [1, d]) for d in v.shape]
    shape = g.choose([shape, shape, shape[1:], [g.between(1, 2), *shape]])
    return g.op(operator, [x, g.ints(shape, 0.2)])


@operators("Concat")
def concat(g, operator, x, v):
    need(v.ndim)
    at, inputs = g.between(0, v.ndim - 1), [x]
    before, after = v.shape[:at], v.shape[at + 1:]
    for size in g.several(g.between(0, 2), [1, 2, 3, 4]):
        inputs.append(g.given(g.random((*before, size, *after), v.dtype)))
    inputs += [name for name, w in g.values.items() if w.dtype == v.dtype and w.ndim == v.ndim
               and (w.shape[:at], w.shape[at + 1:]) == (before, after) and g.chance(0.3)][:2]
    g.draw.shuffle(inputs)
    return g.op(operator, inputs, axis=g.written(at, v.ndim))


@operators("Split")
def split(g, operator, x, v):
    axis = g.axis(v.ndim)
    size = v.shape[axis]
    need(size >= 2)
    first = g.between(1, size - 1)
    sizes = [first, size - first]
    if g.opset < 13:
        return g.op(operator, [x], 2, axis=axis, split=sizes)
    if g.opset >= 18 and g.chance(0.5):
        parts = g.between(2, size)
        return g.op(operator, [x], parts, axis=axis, num_outputs=parts)
    return g.op(operator, [x, g.ints(sizes, 0.2)], 2, axis=axis)


@operators("Slice")
def slices(g, operator, x, v):
    need(v.ndim)
    axes = g.draw.sample(range(v.ndim), g.between(1, v.ndim))
    steps = g.several(len(axes), [1, 1, 1, 2, 3, -1, -2] if g.opset >= 10 else [1])
    starts, ends = [], []
    for size, step in zip((v.shape[axis] for axis in axes), steps):
        if step > 0:
            starts.append(g.between(-size - 1, size))
            ends.append(g.choose([size, 2**31 - 1, g.between(-size, size), -1]))
        else:
            starts.append(g.choose([-1, size, g.between(-size, size)]))
            ends.append(g.choose([-size - 1, -2**31, g.between(-size - 1, size)]))
    axes = [g.written(axis, v.ndim) for axis in axes]
    if g.opset < 10:
        return g.op(operator, [x], starts=starts, ends=ends, axes=axes)
    lists = [starts, ends, axes] + [steps] * (set(steps) != {1} or g.chance(0.5))
    dtype = g.choose([I64, I64, I32])
    return g.op(operator, [x, *(g.given(np.array(numbers, dtype), 0.1) for numbers in lists)])


@operators("Gather GatherElements GatherND")
def gather(g, operator, x, v):
    need(v.ndim and v.size)
    axis, attributes = g.axis(v.ndim), {}
    size = v.shape[axis]
    lowest = -size if g.opset >= 11 else 0
    if operator == "GatherND":
        batch = g.between(0, min(2, v.ndim - 1)) if g.opset >= 12 else 0
        sizes = v.shape[batch:batch + g.between(1, v.ndim - batch)]
        shape = v.shape[:batch] + g.shape(0, 2, (1, 2, 3))
        indices = np.stack([g.numbers.integers(-size, size, shape) for size in sizes], -1)
        attributes = {"batch_dims": batch if g.opset >= 12 else None}
    elif operator == "GatherElements":
        shape = [g.between(1, d) for d in v.shape]
        shape[axis] = g.between(1, 6)
        indices, attributes = g.numbers.integers(lowest, size, shape), {"axis": axis}
    else:
        indices = g.numbers.integers(lowest, size, g.shape(0, 2, (1, 2, 3, 4)))
        indices, attributes = indices.astype(g.choose([I64, I32])), {"axis": axis}
    return g.op(operator, [x, g.given(indices)], **attributes)


@operators("ScatterElements ScatterND")
def scatter(g, operator, x, v):
    """Without a reduction no index occurs twice, because the order of writes is not specified."""
    need(v.ndim and v.size)
    ways = [None] + ["add", "mul"] * (g.opset >= 16) + ["max", "min"] * (g.opset >= 18)
    way, attributes = g.choose(ways), {}
    if operator == "ScatterND":
        sizes = v.shape[:g.between(1, v.ndim)]
        places, shape = math.prod(sizes), v.shape[len(sizes):]
        shape = (g.between(1, places), *shape)
        flat = g.numbers.integers(0, places, shape[0]) if way else (
            g.numbers.permutation(places)[:shape[0]])
        indices = np.stack(np.unravel_index(flat, sizes), -1)
    else:
        axis = g.axis(v.ndim)
        attributes, shape = {"axis": axis}, tuple(g.between(1, d) for d in v.shape)
        indices = g.numbers.integers(-v.shape[axis], v.shape[axis], shape) if way else (
            np.argsort(g.numbers.random(v.shape), axis)[tuple(map(slice, shape))])
    inputs = [x, g.given(indices.astype(I64)), g.given(g.random(shape, v.dtype))]
    return g.op(operator, inputs, reduction=way, **attributes)


@operators("TopK ArgMax ArgMin")
def best(g, operator, x, v):
    need(v.size)
    axis = g.axis(v.ndim)
    if operator != "TopK":
        last = g.between(0, 1) if g.opset >= 12 else None
        return g.op(operator, [x], axis=axis, keepdims=g.between(0, 1), select_last_index=last)
    count = g.between(1, v.shape[axis])
    if g.opset < 10:
        return g.op(operator, [x], 2, k=count, axis=axis)
    attributes = {"largest": g.between(0, 1), "sorted": 1} if g.opset >= 11 else {}
    return g.op(operator, [x, g.ints([count])], 2, axis=axis, **attributes)


@operators("ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceSumSquare "
           "ReduceLogSumExp ReduceLogSum")
def reduce(g, operator, x, v):
    if operator == "ReduceLogSum":
        x = g.op("Abs", [x])
    axes = g.draw.sample(range(v.ndim), g.between(0, v.ndim))
    axes, keep = [g.written(axis, v.ndim) for axis in axes], g.choose([0, 1, None])
    if g.opset < (13 if operator == "ReduceSum" else 18):
        return g.op(operator, [x], keepdims=keep, axes=axes or None)
    inputs = [x] if g.chance(0.2) else [x, g.ints(axes)]
    noop = g.choose([None, None, None, 0, 0, 1])
    return g.op(operator, inputs, keepdims=keep, noop_with_empty_axes=noop)


@operators("Softmax LogSoftmax Hardmax CumSum")
def along_axis(g, operator, x, v):
    axis = g.axis(v.ndim)
    if operator != "CumSum":
        return g.op(operator, [x], axis=g.choose([None, axis]))
    return g.op(operator, [x, g.ints(axis)], exclusive=g.between(0, 1), reverse=g.between(0, 1))


@operators("Trilu EyeLike")
def diagonals(g, operator, x, v):
    if operator == "EyeLike":
        need(v.ndim == 2)
        return g.op(operator, [x], k=g.between(-3, 3), dtype=g.choose([None, 1, 7]))
    need(v.ndim >= 2)
    inputs = [x, g.ints(g.between(-5, 5))] if g.chance(0.7) else [x]
    return g.op(operator, inputs, upper=g.between(0, 1))


@operators("Where")
def where(g, operator, x, v):
    branches = [x, g.given(g.random(g.broadcasting(v.shape), v.dtype))]
    g.draw.shuffle(branches)
    return g.op(operator, [g.given(g.random(g.broadcasting(v.shape), BOOL)), *branches])


@operators("Pad")
def pad(g, operator, x, v):
    rank = v.ndim
    need(rank)
    mode = g.choose(["constant", "constant", "reflect", "edge"] + ["wrap"] * (g.opset >= 19))
    constant = mode == "constant"
    pads = g.several(2 * rank, [0, 0, 1, 2, -1 if constant else 0])
    if mode == "reflect":
        pads = [max(0, min(p, v.shape[i % rank] - 1)) for i, p in enumerate(pads)]
    if g.opset < 11:
        value = g.choose([None, 1.5]) if constant else None
        return g.op(operator, [x], mode=mode, pads=pads, value=value)
    filler = g.given(np.asarray(2, v.dtype), 0.2) if constant and g.chance(0.5) else ""
    if g.opset >= 18 and g.chance(0.4):
        axes = g.draw.sample(range(rank), g.between(1, rank))
        pads = [pads[axis] for axis in axes] + [pads[rank + axis] for axis in axes]
        axes = [g.written(axis, rank) for axis in axes]
        return g.op(operator, [x, g.ints(pads), filler, g.ints(axes)], mode=mode)
    return g.op(operator, [x, g.ints(pads)] + [filler] * (filler != ""), mode=mode)


@operators("MatMul")
def matmul(g, operator, x, v):
    need(v.ndim and v.dtype.kind == "f")
    batch, other = g.broadcasting(v.shape[:-2]), g.between(1, 6)
    if g.chance(0.7):
        inner, ones = v.shape[-1], (1,) * (v.ndim - 2)
        shape = g.choose([(inner,), (inner, other), (*batch, inner, other),
                          (g.between(1, 2), *ones, inner, 3)])
        return g.op(operator, [x, g.given(g.random(shape, v.dtype))])
    inner = v.shape[-2] if v.ndim > 1 else v.shape[0]
    shape = g.choose([(inner,), (other, inner), (*batch, other, inner)])
    return g.op(operator, [g.given(g.random(shape, v.dtype)), x])


@operators("Gemm")
def gemm(g, operator, x, v):
    floats(v, 2, 2)
    left, right, columns = g.between(0, 1), g.between(0, 1), g.between(1, 6)
    rows, inner = v.shape[::-1] if left else v.shape
    inputs = [x, g.noise(columns, inner) if right else g.noise(inner, columns)]
    if g.opset < 11 or g.chance(0.7):
        shapes = [(columns,), (1, columns), (rows, columns), (rows, 1), (), (1,)]
        inputs.append(g.noise(*g.choose(shapes)))
    alpha, beta = g.several(2, [None, 0.5])
    return g.op(operator, inputs, transA=left, transB=right, alpha=alpha, beta=beta)


@operators("Einsum")
def einsum(g, operator, x, v):
    floats(v, 1, 4)

    def some(letters, fewest=0, most=4):
        letters = sorted(set(letters))
        most = min(most, len(letters))
        return "".join(g.draw.sample(letters, g.between(min(fewest, most), most)))

    first = "".join(g.draw.sample("abcde", v.ndim))
    if g.chance(0.2):
        return g.op(operator, [x], equation=f"{first}->{some(first)}")
    if g.chance(0.7):
        second = some("abcdefg", 1, 3)
        sizes = dict(zip(first, v.shape))
        shape = [sizes.setdefault(letter, g.between(1, 4)) for letter in second]
        result = f"->{some(first + second)}" if g.chance(0.85) else ""
        return g.op(operator, [x, g.noise(*shape)], equation=f"{first},{second}{result}")
    # The ellipsis stands for the last dimensions, which may come first or last in each operand.
    named = g.between(0, v.ndim)
    first, second = first[:named], some("abcdefg", 0, 2)
    dotted, sizes = list(g.broadcasting(v.shape[named:])), dict(zip(first, v.shape))
    shape = [sizes.setdefault(letter, g.between(1, 4)) for letter in second]
    result = some(first + second)
    equation = g.choose([
        f"...{first},...{second}->...{result}", f"{first}...,{second}...->{result}...",
        f"{first}...,...{second}->...{result}", f"{first}...,{second}...",
        f"{first}...,{second}...->...{result}",
    ])
    if equation.startswith("..."):
        x = g.op("Transpose", [x], perm=[*range(named, v.ndim), *range(named)])
    shape = dotted + shape if ",..." in equation else shape + dotted
    return g.op(operator, [x, g.noise(*shape)], equation=equation)


@operators("Conv ConvTranspose")
def conv(g, operator, x, v):
    floats(v, 3, 5)
    spatial, channels, transposed = v.ndim - 2, v.shape[1], operator == "ConvTranspose"
    group, times = g.choose(divisors(channels)), g.between(1, 3)
    kernel, strides = g.several(spatial, [1, 2, 3]), g.several(spatial, [1, 1, 2, 3])
    dilations = g.several(spatial, [1, 1, 2])
    auto = g.choose([None] * 3 + ["SAME_UPPER", "SAME_LOWER", "VALID"])
    attributes = {"group": group, "strides": strides, "auto_pad": auto}
    if transposed:
        weights = g.noise(channels, times, *kernel)
        attributes["dilations"] = dilations
        if g.chance(0.4):
            attributes["output_padding"] = [
                g.between(0, max(pair) - 1) for pair in zip(strides, dilations)]
        if auto != "VALID" and g.chance(0.2):
            sizes = zip(v.shape[2:], strides, kernel, dilations)
            attributes["output_shape"] = [
                max(1, (size - 1) * stride + (width - 1) * dilation + g.between(0, 2))
                for size, stride, width, dilation in sizes]
        elif not auto and g.chance(0.6):
            attributes["pads"] = g.several(2 * spatial, [0, 1])
    else:
        weights = g.noise(group * times, channels // group, *kernel)
        if auto in (None, "VALID"):
            attributes["dilations"] = dilations
        if not auto:
            attributes["pads"] = [g.between(0, width - 1) for width in kernel * 2]
        attributes["kernel_shape"] = kernel if g.chance(0.7) else None
    inputs = [x, weights] + [g.noise(group * times)] * g.chance(0.6)
    return g.op(operator, inputs, **attributes)


@operators("MaxPool AveragePool LpPool GlobalAveragePool GlobalMaxPool")
def pool(g, operator, x, v):
    floats(v, 3, 5)
    power = g.between(1, 3) if operator.endswith("LpPool") else None
    if operator.startswith("Global"):
        return g.op(operator, [x], p=power)
    spatial, version = v.ndim - 2, {"AveragePool": 19, "LpPool": 18}.get(operator, 10)
    kernel, strides = g.several(spatial, [1, 2, 3]), g.several(spatial, [1, 2, 3])
    auto = g.choose([None] * 3 + ["SAME_UPPER", "SAME_LOWER", "VALID"])
    attributes = {"kernel_shape": kernel, "strides": strides if g.chance(0.8) else None,
                  "auto_pad": auto, "p": power}
    if not auto:
        attributes["pads"] = [g.between(0, width - 1) for width in kernel * 2]
    if g.opset >= version and auto in (None, "VALID"):
        attributes["dilations"] = g.several(spatial, [1, 1, 2])
    if g.opset >= (10 if operator == "AveragePool" else version) and not auto:
        attributes["ceil_mode"] = g.between(0, 1)
    if operator == "AveragePool":
        attributes["count_include_pad"] = g.between(0, 1)
    if operator == "MaxPool" and g.chance(0.3):
        return g.op(operator, [x], 2, storage_order=g.between(0, 1), **attributes)
    return g.op(operator, [x], **attributes)


@operators("BatchNormalization InstanceNormalization GroupNormalization")
def by_channel(g, operator, x, v):
    floats(v, 2 if operator[0] == "B" else 3, 5)
    channels, attributes = v.shape[1], {"epsilon": g.choose([None, 0.01])}
    inputs = [x, g.noise(channels), g.noise(channels)]
    if operator[0] == "B":
        variance = np.abs(g.random((channels,))) + np.float32(0.2)
        inputs += [g.noise(channels), g.given(variance)]
    if operator[0] == "G":
        need(g.opset >= 21)  # before, it scaled groups, and implementations disagree
        attributes["num_groups"] = g.choose(divisors(channels))
    return g.op(operator, inputs, **attributes)


@operators("LayerNormalization RMSNormalization")
def by_layer(g, operator, x, v):
    floats(v, 1)
    need(v.size >= 2 and g.opset >= (17 if operator[0] == "L" else 23))
    axis = g.between(-v.ndim, v.ndim - 1)
    shape = v.shape[axis:] if g.chance(0.8) else g.broadcasting(v.shape[axis:])
    inputs = [x, g.noise(*shape)] + [g.noise(*shape)] * (operator[0] == "L" and g.chance(0.6))
    return g.op(operator, inputs, axis=axis, epsilon=g.choose([None, 0.01]))


@operators("LpNormalization MeanVarianceNormalization LRN")
def other_normalization(g, operator, x, v):
    floats(v, 1 if operator == "LpNormalization" else 4, 4)
    if operator == "LpNormalization":
        return g.op(operator, [x], axis=g.choose([None, g.axis(v.ndim)]), p=g.between(1, 2))
    if operator == "LRN":
        bias = g.choose([None, 2.0])
        return g.op(operator, [x], size=g.choose([1, 2, 3, 5]), alpha=0.1, beta=0.6, bias=bias)
    return g.op(operator, [x], axes=g.choose([None, [0, 2, 3], [1], [0, 1, 2, 3]]))


@operators("Resize")
def resize(g, operator, x, v):
    floats(v, 2, 4)
    need(g.opset >= 10)
    rank, mode = v.ndim, g.choose(["nearest", "linear", "cubic"])
    scales = [g.choose([1, 2]) if g.chance(0.1) else 1] + [1] * (rank - 3) * (rank > 2)
    scales = (scales + g.several(2, [1, 1, 2, 0.5, 1.5, 0.7, 3, 2.3]))[-rank:]
    if g.opset == 10:
        mode = g.choose(["nearest", "linear"])
        return g.op(operator, [x, g.given(np.array(scales, F32), 0)], mode=mode)
    modes = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"]
    modes += ["half_pixel_symmetric"] * (g.opset >= 19)
    attributes = {"mode": mode, "coordinate_transformation_mode": g.choose(modes)}
    if mode == "nearest":
        attributes["nearest_mode"] = g.choose(
            ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
    if mode == "cubic":
        attributes |= {"cubic_coeff_a": g.choose([-0.5, -0.75]), "exclude_outside": g.between(0, 1)}
    axes = list(range(rank))
    if g.opset >= 18:
        if mode != "nearest" and g.chance(0.3):
            attributes["antialias"] = 1
        if g.chance(0.3):
            axes, scales = axes[-2:], scales[-2:]
            attributes["axes"] = [g.written(axis, rank) for axis in axes]
    none = "" if g.opset >= 13 else g.given(np.array([], F32), 0)
    if g.chance(0.5):
        return g.op(operator, [x, none, g.given(np.array(scales, F32), 0.1)], **attributes)
    sizes = [max(1, int(v.shape[axis] * scale)) for axis, scale in zip(axes, scales)]
    if g.opset >= 18 and g.chance(0.3):
        policies = ["stretch", "not_larger", "not_smaller"]
        attributes["keep_aspect_ratio_policy"] = g.choose(policies)
    return g.op(operator, [x, none, none, g.ints(sizes)], **attributes)


@operators("GridSample")
def grid_sample(g, operator, x, v):
    floats(v, 4, 4)
    modes = ["linear", "nearest", "cubic"] if g.opset >= 20 else ["bilinear", "nearest", "bicubic"]
    grid = g.numbers.uniform(-1.3, 1.3, (v.shape[0], 3, 4, 2)).astype(F32)
    edge = g.choose(["zeros", "border", "reflection"])
    return g.op(operator, [x, g.given(grid)], mode=g.choose(modes), padding_mode=edge,
                align_corners=g.between(0, 1))


@operators("DepthToSpace SpaceToDepth")
def blocks(g, operator, x, v):
    floats(v, 4, 4)
    mode = g.choose(["DCR", "CRD"]) if operator[0] == "D" and g.opset >= 11 else None
    return g.op(operator, [x], blocksize=g.between(1, 2), mode=mode)


@operators("OneHot")
def one_hot(g, operator, x, v):
    need(v.ndim <= 3 and v.dtype in (F32, I64))
    need(g.opset >= 11 or (v >= 0).all())  # before, out of range only in ONNX
    inputs = [x, g.ints(g.between(2, 6)), g.noise(2)]
    return g.op(operator, inputs, axis=g.between(-v.ndim - 1, v.ndim))


@operators("QuantizeLinear DequantizeLinear DynamicQuantizeLinear")
def quantize(g, operator, x, v):
    need(g.opset >= 10)
    if operator == "DynamicQuantizeLinear":
        return g.op(operator, [x], 3)
    axis = g.between(0, v.ndim - 1) if g.opset >= 13 and v.ndim and g.chance(0.5) else None
    shape = () if axis is None else (v.shape[axis],)
    inputs = [x, g.given(np.abs(g.random(shape)) / np.float32(10) + np.float32(0.05))]
    if v.dtype != I32:  # which only a scale converts
        dtype = g.choose([I8, U8]) if operator == "QuantizeLinear" else v.dtype
        inputs.append(g.given(g.random(shape, dtype)))
    return g.op(operator, inputs, axis=axis)


@operators("MatMulInteger ConvInteger")
def of_integers(g, operator, x, v):
    dtype = g.choose([I8, U8])
    need(v.dtype in (I8, U8) and v.ndim and v.size)
    if operator == "MatMulInteger":
        inputs, attributes = [x, g.given(g.random((v.shape[-1], 3), dtype))], {}
    else:
        need(v.ndim == 4)
        inputs = [x, g.given(g.random((2, v.shape[1], 2, 2), dtype))]
        attributes = {"pads": [1, 0, 1, 1], "strides": g.choose([None, [2, 1]])}
    if g.chance(0.6):
        inputs.append(g.given(g.random((), v.dtype)))
        if operator == "MatMulInteger":
            inputs.append(g.given(g.random(g.choose([(), (3,)]), dtype)))
    return g.op(operator, inputs, **attributes)


def quantization(g, dtype, shape=()):
    """A scale and a zero point."""
    scale = np.abs(g.random(shape)) / np.float32(10) + np.float32(0.02)
    return [g.given(scale, 0), g.given(g.random(shape, dtype), 0)]


@operators("QLinearConv QLinearMatMul")
def quantized(g, operator, x, v):
    need(v.dtype in (I8, U8) and v.size and g.opset >= 10)
    if operator == "QLinearMatMul":
        need(v.ndim >= 2)
        columns = g.between(1, 4)
        weights = g.random((*g.broadcasting(v.shape[:-2]), v.shape[-1], columns), v.dtype)
        each = quantization(g, v.dtype, g.choose([(), (columns,)]))
        return g.op(operator, [x, *quantization(g, v.dtype), g.given(weights), *each,
                               *quantization(g, v.dtype)])
    need(3 <= v.ndim <= 5)
    spatial, channels = v.ndim - 2, v.shape[1]
    group, kernel = g.choose(divisors(channels)), g.several(spatial, [1, 2, 3])
    made, dtype = group * g.between(1, 3), g.choose([I8, U8]) if v.dtype == U8 else I8
    weights = g.random((made, channels // group, *kernel), dtype)
    scales, zeros = quantization(g, dtype, g.choose([(), (made,)]))
    if dtype == I8:  # onnxruntime accepts no others
        zeros = g.given(np.zeros_like(g.values[zeros]), 0)
    inputs = [x, *quantization(g, v.dtype), g.given(weights, 0), scales, zeros,
              *quantization(g, v.dtype)]
    inputs += [g.given(g.random((made,), I32), 0)] * g.chance(0.5)
    return g.op(operator, inputs, group=group, strides=g.several(spatial, [1, 2]),
                dilations=g.several(spatial, [1, 1, 2]),
                pads=[g.between(0, width - 1) for width in kernel * 2])


@operators("RNN GRU LSTM")
def recurrent(g, operator, x, v):
    """Without clip, activations and input_forget, which the reference ignores."""
    floats(v, 3, 3)
    _, batch, width = v.shape
    hidden, direction = g.between(1, 3), g.choose(["forward", "reverse", "bidirectional"])
    both, gates = 1 + (direction == "bidirectional"), {"RNN": 1, "GRU": 3, "LSTM": 4}[operator]

    def small(*shape, likely=1.0):
        return g.given(g.random(shape) / np.float32(2)) if g.chance(likely) else ""

    inputs = [x, small(both, gates * hidden, width), small(both, gates * hidden, hidden),
              small(both, 2 * gates * hidden, likely=0.5), "",
              small(both, batch, hidden, likely=0.5)]
    attributes = {"hidden_size": hidden, "direction": direction}
    if operator == "LSTM":
        inputs += [small(both, batch, hidden, likely=0.5), small(both, 3 * hidden, likely=0.3)]
    if operator == "GRU":
        attributes["linear_before_reset"] = g.between(0, 1)
    return g.op(operator, inputs, 3 if operator == "LSTM" else 2, **attributes)


@operators("Attention")
def attention(g, operator, x, v):
    floats(v, 3, 4)
    need(g.opset >= 23)
    attributes, late, out = {}, g.between(1, 5), g.between(1, 4)
    if v.ndim == 4:
        batch, heads, length, width = v.shape
        shared = g.choose(divisors(heads))
        keys, values = (batch, shared, late, width), (batch, shared, late, out)
    else:
        batch, length, width = v.shape
        heads = g.choose(divisors(width))
        width, shared = width // heads, g.choose(divisors(heads))
        keys, values = (batch, late, shared * width), (batch, late, shared * out)
        attributes = {"q_num_heads": heads, "kv_num_heads": shared}
    past = g.choose([0, 0, 2])
    inputs, total = [x, g.noise(*keys), g.noise(*values)], late + past
    mask = [(length, total), (1, 1, length, total), (batch, heads, length, total)]
    if past or g.chance(0.5):
        dtype = g.choose([F32, BOOL])
        inputs.append(g.given(g.random(g.choose(mask), dtype)) if g.chance(0.6) else "")
    if past:
        inputs += [g.noise(batch, shared, past, width), g.noise(batch, shared, past, out)]
    return g.op(operator, inputs, 3 if past else 1, is_causal=g.between(0, 1),
                softcap=g.choose([None, 2.0]), scale=g.choose([None, 0.3]), **attributes)


@operators("RotaryEmbedding")
def rotary_embedding(g, operator, x, v):
    floats(v, 3, 4)
    need(g.opset >= 23)
    attributes = {"interleaved": g.between(0, 1)}
    if v.ndim == 4:
        batch, _, length, width = v.shape
    else:
        batch, length, width = v.shape
        attributes["num_heads"] = g.choose(divisors(width))
        width //= attributes["num_heads"]
    need(width % 2 == 0)
    attributes["rotary_embedding_dim"] = turned = g.choose([0, 0, *range(2, width + 1, 2)])
    half = (turned or width) // 2
    if g.chance(0.5):
        return g.op(operator, [x, g.noise(batch, length, half), g.noise(batch, length, half)],
                    **attributes)
    places = g.given(g.numbers.integers(0, 9, (batch, length)))
    return g.op(operator, [x, g.noise(9, half), g.noise(9, half), places], **attributes)


@operators("DFT")
def dft(g, operator, x, v):
    floats(v, 2, 4)
    need(g.opset >= 17)
    if v.shape[-1] > 2 or g.chance(0.3):
        x = g.op("Unsqueeze", [x, g.ints([-1], 0)])
    v = g.values[x]
    inverse, last = g.between(0, 1), v.ndim - 2
    need(last)
    attributes = {"inverse": inverse, "onesided": 0}
    if v.shape[-1] == 1 and not inverse:
        attributes["onesided"] = g.between(0, 1)
    length = g.ints(g.between(1, 9), 0) if g.chance(0.4) else ""
    if g.opset < 20:
        return g.op(operator, [x, length], axis=g.between(1, last), **attributes)
    return g.op(operator, [x, length, g.ints(g.choose([*range(last + 1), -2]), 0)], **attributes)


@operators("CenterCropPad")
def center_crop_pad(g, operator, x, v):
    need(g.opset >= 18 and v.ndim)
    axes = g.draw.sample(range(v.ndim), g.between(1, v.ndim))
    sizes = g.ints([g.between(1, 8) for _ in axes])
    return g.op(operator, [x, sizes], axes=[g.written(axis, v.ndim) for axis in axes])


@operators("RoiAlign")
def roi_align(g, operator, x, v):
    floats(v, 4, 4)
    need(g.opset >= 10)
    count = g.between(1, 3)
    corner = g.numbers.uniform(-1, 3, (count, 2))
    boxes = np.concatenate([corner, corner + g.numbers.uniform(0.1, 5, (count, 2))], 1)
    places = g.given(g.numbers.integers(0, v.shape[0], count))
    modes = {"coordinate_transformation_mode": g.choose(["half_pixel", "output_half_pixel"])}
    return g.op(operator, [x, g.given(boxes.astype(F32)), places], mode=g.choose(["avg", "max"]),
                output_height=g.between(1, 3), output_width=g.between(1, 3),
                sampling_ratio=g.between(0, 2), spatial_scale=g.choose([1.0, 0.5]),
                **(modes if g.opset >= 16 else {}))


@operators("Col2Im")
def col2im(g, operator, x, v):
    floats(v, 3, 3)
    need(g.opset >= 18)
    kernel, image = [g.between(1, 3), g.between(1, 2)], [g.between(3, 6), g.between(3, 6)]
    dilations, strides, pads = [1, g.between(1, 2)], g.several(2, [1, 2]), g.several(4, [0, 1])
    blocks = math.prod(
        (image[i] + pads[i] + pads[i + 2] - dilations[i] * (kernel[i] - 1) - 1) // strides[i] + 1
        for i in range(2))
    x = g.noise(v.shape[0], v.shape[1] * math.prod(kernel), blocks)
    return g.op(operator, [x, g.ints(image, 0), g.ints(kernel, 0)], dilations=dilations,
                strides=strides, pads=pads)


@operators("MaxUnpool")
def max_unpool(g, operator, x, v):
    floats(v, 3, 4)
    kernel = g.several(v.ndim - 2, [2, 3])
    strides = g.choose([kernel, [2] * len(kernel)])
    y = g.op("MaxPool", [x], 2, kernel_shape=kernel, strides=strides)
    inputs = [y, g.nodes[-1].output[1]] + [g.ints(v.shape, 0)] * g.chance(0.5)
    return g.op(operator, inputs, kernel_shape=kernel, strides=strides)


@operators("Range ConstantOfShape CastLike")
def made(g, operator, x, v):
    if operator == "ConstantOfShape":
        value = np.array([g.between(-3, 3)], g.choose([F32, I64, I32]))
        return g.op(operator, [g.op("Shape", [x])], value=numpy_helper.from_array(value))
    if operator == "CastLike":
        need(g.opset >= 15 and v.dtype.kind != "f")
        return g.op(operator, [x, g.given(g.random((1,), g.choose([F32, I64, I32, F64])))])
    need(g.opset >= 11)
    dtype, start, step = g.choose([F32, I64, I32]), g.between(-4, 4), g.choose([1, 2, -1, -2, 3])
    end = start + step * g.between(-1, 5) + g.between(0, 1)
    return g.op(operator, [g.given(np.asarray(number, dtype)) for number in (start, end, step)])


@operators("Compress ReverseSequence Unique Shape")
def others(g, operator, x, v):
    if operator == "Compress":
        axis = g.choose([None, g.axis(v.ndim)])
        chosen = g.random((v.size if axis is None else v.shape[axis],), BOOL)
        return g.op(operator, [x, g.given(chosen, 0)], axis=axis)
    if operator == "ReverseSequence":
        need(v.ndim >= 2 and v.size)
        time, batch = g.choose([(0, 1), (1, 0)])
        lengths = g.numbers.integers(1, v.shape[time] + 1, v.shape[batch])
        return g.op(operator, [x, g.given(lengths)], time_axis=time, batch_axis=batch)
    if operator == "Unique":
        axis, order = g.choose([None, *range(v.ndim)]), g.between(0, 1)
        return g.op(operator, [x], 4, axis=axis, sorted=order)
    part = {"start": g.between(-3, 3), "end": g.choose([None, g.between(-3, 4)])}
    return g.op(operator, [x], **(part if g.opset >= 15 else {}))


def build(seed, longest, only, narrow):
    """A graph in which most nodes read the previous result. With `only`, half of the nodes are of
    these operators, and the input has a type and shape that most of them accept: floats or bytes,
    of at least two dimensions."""
    g = Graph(seed)
    draw = random.Random(f"narrow {seed}")  # so that the other graphs do not change
    if draw.random() < narrow:
        g.narrow, g.magnitude = draw.choice([F16, F16, BF16]), draw.choice(MAGNITUDES)
        g.opset = max(g.opset, 13) if g.narrow == BF16 else g.opset
    if only:
        dtype, rank = g.choose([F32] * 6 + [U8, I8]), g.choose([2, 3, 4, 4, 4, 5])
        shape = g.shape(rank, rank)
    elif g.narrow:
        dtype = F32
        shape = g.shape(2, 5, (1, 2, 3, 4, 5, 7, 9, 16))
    else:
        dtype = g.choose([F32] * 8 + [F64, F16, I64, I32, U8, I8, BOOL, U32])
        highest = g.choose([3, 4, 4, 4, 5])
        shape = g.shape(min(g.choose([0, 2, 3, 4]), highest), highest)
    current = g.given(g.random(shape, dtype), 1)
    wanted, names = g.between(1, longest), list(FAMILIES)
    for _ in range(40 * wanted):
        operator = g.choose(only if only and (longest == 1 or g.chance(0.5)) else names)
        fixed = {tensor.name for tensor in g.initializers}
        source = current if g.chance(0.8) else g.choose([n for n in g.values if n not in fixed])
        before = g.copy()
        try:
            current = FAMILIES[operator](g, operator, source, g.values[source])
        except Skip:
            vars(g).update(before)
        if len(g.nodes) >= wanted:
            break
    return g


def write(folder, seed, longest, only, narrow):
    """Writes the graph of a seed, and returns its entry in cases.json."""
    g = build(seed, longest, only, narrow)
    if not g.nodes:
        return []
    if g.narrow:
        for name, value in g.values.items():
            if value.dtype == F32 and name not in g.full:
                g.values[name] = value.astype(g.narrow)
        g.initializers = [numpy_helper.from_array(g.values[tensor.name], tensor.name)
                          for tensor in g.initializers]
    used = {name for node in g.nodes for name in node.input}
    inputs = [name for name in g.inputs if name in used]
    outputs = [name for node in g.nodes for name in node.output
               if name not in used or g.chance(0.15)]
    # Declared shapes are fixed, symbolic or missing.
    symbolic = g.chance(0.4)

    def symbols(name):
        return [f"{name}_{axis}" for axis in range(g.values[name].ndim)]

    model = model_of(
        g.opset, g.nodes,
        [info(n, g.values[n], symbols(n) if symbolic else g.values[n].shape) for n in inputs],
        [info(n, g.values[n], symbols(n) if g.chance(0.5) else None) for n in outputs],
        [tensor for tensor in g.initializers if tensor.name in used],
    )
    place = folder / "node" / f"s{seed}"
    place.mkdir(parents=True, exist_ok=True)
    (place / "model.onnx").write_bytes(model.SerializeToString())
    for name in inputs + outputs:
        value = g.values[name]
        np.save(place / f"{name}.npy", value.view(U16) if value.dtype == BF16 else value)
    kinds = {value.dtype for value in g.values.values()}
    tolerance = 2e-2 if F16 in kinds else 1e-4 if F32 in kinds else 1e-9

    def entry(name):
        value, said = g.values[name], {"name": name, "file": f"{name}.npy"}
        if value.dtype == BF16:
            said["codes"] = "bf16"
        if g.narrow and value.dtype in (F32, F16, BF16):
            said["atol"] = g.tolerance(value.astype(F32))
        return said

    data = {key: [entry(name) for name in names]
            for key, names in (("inputs", inputs), ("outputs", outputs))}
    return [{
        "kind": "node", "name": place.name, "operators": [node.op_type for node in g.nodes],
        "opset": g.opset, "rtol": tolerance, "atol": tolerance, "sets": [data],
        "onnxruntime": "pass",
    }]


def guarded(seeds, work):
    """Runs the work for the seeds in a separate process, because onnxruntime crashes or hangs on
    some nodes. If that happens, each seed gets its own process."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        # Limits of CPU time, which a busy machine does not shorten, and of wall-clock time.
        limit = 60 if len(seeds) > 1 else 10
        signal.setitimer(signal.ITIMER_PROF, limit)
        signal.alarm(20 * limit)
        try:
            content = pickle.dumps([case for seed in seeds for case in work(seed)])
            with os.fdopen(writer, "wb") as pipe:
                pipe.write(content)
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        content = pipe.read()
    os.waitpid(child, 0)
    if content:
        return pickle.loads(content)
    if len(seeds) == 1:
        print(f"seed {seeds[0]} was skipped: onnxruntime crashed", file=sys.stderr)
        return []
    return [case for seed in seeds for case in guarded([seed], work)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--count", type=int, default=2000, help="seeds; nearly all give a graph")
    parser.add_argument("--longest", type=int, default=4, help="maximum number of nodes")
    parser.add_argument("--only", type=lambda text: text.split(","), help="comma-separated list")
    parser.add_argument("--narrow", type=float, default=0.5, help="the share of narrow floats")
    given = parser.parse_args()
    if unknown := set(given.only or []) - FAMILIES.keys():
        parser.error(f"unknown operators: {', '.join(sorted(unknown))}")
    warnings.simplefilter("ignore")
    onnxruntime.set_default_logger_severity(4)
    given.folder.mkdir(parents=True, exist_ok=True)
    cases, seeds = [], iter(range(given.seed, given.seed + given.count))
    while chunk := list(itertools.islice(seeds, 25)):
        cases += guarded(
            chunk,
            lambda seed: write(given.folder, seed, given.longest, given.only, given.narrow))
    versions = {package.__name__: package.__version__ for package in (onnx, onnxruntime, np)}
    text = json.dumps({"versions": versions, "cases": cases})
    (given.folder / "cases.json").write_text(text)
    counts = collections.Counter(name for case in cases for name in case["operators"])
    print(f"{len(cases)} graphs, {counts.total()} nodes, {len(counts)} different operators")


if __name__ == "__main__":
    main()
