"""A random graph with the values of its nodes, and the registry of functions that add nodes."""

import random

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from definitions import answer

BOOL, I8, I16, I32, I64 = map(np.dtype, ("bool", "int8", "int16", "int32", "int64"))
U8, U16, U32, U64 = map(np.dtype, ("uint8", "uint16", "uint32", "uint64"))
F16, F32, F64 = map(np.dtype, ("float16", "float32", "float64"))
BF16 = np.dtype(ml_dtypes.bfloat16)
# A unit in the last place of each narrow type relative to the number, and the smallest step.
STEPS = {F16: (2.0**-10, 2.0**-24), BF16: (2.0**-7, 2.0**-133)}
# Magnitudes of the numbers in a graph of narrow floats. The sum of three of the largest is out of
# the range of float16; the smallest are a few steps of float16.
MAGNITUDES = [1.5] * 6 + [1e-7, 1e-6, 1e-5, 1e-3, 30, 1000, 8000, 20000, 40000]
OPSETS = [9, 10, 11, 12, 13, 13, 14, 15, 16, 17, 17, 18, 18, 19, 20, 21, 22, 22, 23, 23, 23, 24, 25, 26]

# A value is exact if it was computed without rounding, so that all implementations agree on every
# bit. These operators keep values exact, as do all with integer or boolean results.
EXACT = set("""
    Transpose Reshape Slice Gather GatherElements GatherND Concat Split Pad Tile Expand Squeeze
    Unsqueeze Flatten Identity Neg Abs Relu Clip Max Min Where ScatterElements ScatterND
    DepthToSpace SpaceToDepth Trilu Compress ReverseSequence ReduceMax ReduceMin MaxPool
    GlobalMaxPool MaxRoiPool BitCast TensorScatter NonMaxSuppression Dropout
    Floor Ceil Round Sign TopK Unique Hardmax OneHot ThresholdedRelu
""".split())
# Discontinuous operators: a difference in the last bit of an input may change the result
# arbitrarily, so they may only read exact floats. (GridSample is discontinuous in its grid, which
# is always drawn and not computed.)
JUMPING = set("""
    Floor Ceil Round Sign Less Greater Equal LessOrEqual GreaterOrEqual Mod ArgMax ArgMin TopK
    Unique NonZero Hardmax QuantizeLinear DynamicQuantizeLinear IsInf IsNaN Shrink
    ThresholdedRelu OneHot BitCast NonMaxSuppression
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
    domains = sorted({node.domain for node in nodes} - {""})
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(name, 1) for name in domains)]
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
        # Whether most sizes and axes are inputs, so that the shapes of results follow from values.
        self.late = random.Random(f"late {seed}").random() < 0.2
        # The largest tolerance that a node needs, and the values that are too inaccurate to read.
        self.loosest, self.last = 0.0, set()

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
        if self.late and as_input:
            as_input = 0.7
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
            self.keep(name, value, value.dtype.kind != "f" or (kept and not rounded))
        self.nodes.append(written)
        return outputs[0]

    def keep(self, name, value, exact):
        """Adds a computed value."""
        need(value.size <= 20000)
        if name not in self.full:
            value = self.as_narrow(value)
        # Huge values and NaN are discarded: results computed from them would be noise.
        if value.dtype.kind == "f" and value.size:
            limit = 6.5e4 if self.narrow else 1e4
            need(np.isfinite(value).all() and np.abs(value).max() < limit)
        self.values[name] = value
        if exact:
            self.exact.add(name)

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
                inputs = [feeds[name] if name else None for name in node.input]
                answers.append(answer(node, inputs, self.opset))
        except Exception:  # any exception is a refusal
            raise Skip from None
        for other in answers:
            need(all(map(self.agree, found, map(np.asarray, other))))
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


def divisors(number):
    return [d for d in range(1, number + 1) if number % d == 0]
