"""Operators of com.microsoft: the cases that tests/expectations/microsoft draws, with the values of
a graph in place of some of their inputs. onnxruntime and the plain definitions there are the judges;
where they disagree for a reason that known.py does not list, the node is noted (see `UNKNOWN`)."""

import pathlib
import sys
import warnings

import ml_dtypes  # noqa: F401  (gives numpy the names of small types)
import numpy as np
from onnx import helper

from graph import F16, F32, F64, I8, U8, agree, need

sys.path.append(str(pathlib.Path(__file__).parents[2] / "expectations" / "microsoft"))

import draw
import known
import make
import reference
from cases import TOLERANCES

# These round computed floats to integers or choose by them, so they may only read exact floats.
JUMPING = set("""
    QuantizeLinear DynamicQuantizeMatMul DynamicQuantizeLSTM MoE QMoE Unique MatMulNBits
    GroupQueryAttention CropAndResize GridSample Sampling
""".split())
# Nodes on which the two judges disagree without a known reason.
UNKNOWN = []


def fitted(g, name, shape, dtype):
    """Nodes that make a value of this type and shape of any other: repeated or cut."""
    value, count = g.values[name], int(np.prod(shape))
    need(count and value.size)
    if value.dtype != dtype:
        need(value.dtype.kind == dtype.kind == "f")
        name = g.op("Cast", [name], to=helper.np_dtype_to_tensor_dtype(dtype))
    if value.size != count:
        need(g.opset >= 10)
        name = g.op("Reshape", [name, g.ints([-1])])
        if value.size < count:
            name = g.op("Tile", [name, g.ints([-(-count // value.size)])])
        name = g.op("Slice", [name, g.ints([0]), g.ints([count])])
    if g.values[name].shape != tuple(shape):
        name = g.op("Reshape", [name, g.ints(shape)])
    return name


def taken(g, name, case):
    """The inputs of the case that are values of the graph, by number: mostly the first one."""
    def numbers(array):
        return array is not None and array.size and array.dtype in (F32, F16, F64)

    def bytes_of_data(array):
        return array is not None and array.dtype in (U8, I8) and array.size > 1

    first, found = case.inputs[0], {}
    # The first inputs of QLinearConcat are the scale and the zero point of the result.
    data = 2 if case.operator == "QLinearConcat" else 1 if case.operator == "QLinearWhere" else 0
    quantized = case.operator.startswith("Q") or case.operator == "DequantizeLinear"
    if g.chance(0.85) and numbers(first) and data == 0:
        found[0] = fitted(g, name, first.shape, first.dtype)
    elif quantized and bytes_of_data(case.inputs[data]):
        if g.values[name].dtype == case.inputs[data].dtype:
            found[data] = fitted(g, name, case.inputs[data].shape, case.inputs[data].dtype)
    for at, array in enumerate(case.inputs[1:], 1):
        if not numbers(array) or array.ndim < 2 or at in case.constants:
            continue
        like = [n for n, v in g.values.items() if (v.shape, v.dtype) == (array.shape, array.dtype)]
        if like and g.chance(0.3):
            found[at] = g.choose(like)
        elif g.chance(0.08):
            found[at] = fitted(g, name, array.shape, array.dtype)
    return found


def names_of(g, case, used):
    """The names of the node's inputs; new values are constants where the case says so."""
    names = []
    for at, array in enumerate(case.inputs):
        if array is None:
            names.append("")
        elif at in used:
            names.append(used[at])
        else:
            small = array.dtype not in (F16, F32, F64) and array.dtype.kind not in "biu"
            need(not small or at in case.constants)
            names.append(g.given(array, 0 if at in case.constants else 0.3))
    return names


def judged(g, case, rounded):
    """The outputs on which both judges agree, by number."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            case.compute(reference.OPERATORS[case.operator])
        except Exception:  # the values of the graph are not what the definition expects
            need(False)
        actual = make.run_onnxruntime(case)
    difference = actual if isinstance(actual, str) else case.difference(actual)
    if difference and not known.reason(case, difference) and not isinstance(actual, str):
        UNKNOWN.append(f"{case.operator}: {case.describe()}: {difference}")
    need(not difference)
    shown = [at for at, wanted in enumerate(case.outputs) if wanted is True]
    found = dict(zip(shown, case.expected))
    if rounded:
        need(case.operator not in JUMPING and all(v.dtype.kind == "f" for v in found.values()))
        inputs = case.inputs
        case.inputs = [g.shaken(v) if at in rounded else v for at, v in enumerate(inputs)]
        shaken = make.run_onnxruntime(case)
        case.inputs = inputs
        need(not isinstance(shaken, str) and all(map(agree, case.expected, shaken)))
    return found


def add(g, operator, x):
    """Adds a node of com.microsoft whose first input is mostly made from `x`; returns an output."""
    drawn = draw.Draw(g.between(0, 2**31))
    case = draw.GENERATORS[operator](drawn)
    case.operator = operator
    need(not any(array is not None and array.dtype.kind in "OUS" for array in case.inputs))
    need(not case.in_place)
    used = taken(g, x, case)
    names = names_of(g, case, used)
    case.inputs = [g.values[name] if name else None for name in names]
    fixed = {tensor.name for tensor in g.initializers}
    case.constants = {at for at, name in enumerate(names) if name in fixed}
    rounded = {at for at, name in enumerate(names) if name and name not in g.exact}
    found = judged(g, case, rounded)
    outputs = [g.name() if wanted else "" for wanted in case.outputs]
    node = helper.make_node(operator, names, outputs, name="n" + outputs[0], domain=case.domain,
                            **case.attributes)
    for at, value in found.items():
        g.keep(outputs[at], value, value.dtype.kind != "f")
    g.nodes.append(node)
    if case.tolerance:
        g.loosest = max(g.loosest, case.tolerance)
        # What reads a value of this tolerance would be less accurate still.
        g.last.update(name for name in outputs if case.tolerance > TOLERANCES["float16"])
    return next(outputs[at] for at in found)
