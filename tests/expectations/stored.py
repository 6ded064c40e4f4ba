"""Models and tensors as JSON, from which tests/support/stored.rs makes ONNX files and tensors again."""

import numpy as np
import onnx
from onnx import numpy_helper

KINDS = {
    onnx.AttributeProto.FLOAT: "float",
    onnx.AttributeProto.INT: "int",
    onnx.AttributeProto.STRING: "string",
    onnx.AttributeProto.TENSOR: "tensor",
    onnx.AttributeProto.GRAPH: "graph",
    onnx.AttributeProto.FLOATS: "floats",
    onnx.AttributeProto.INTS: "ints",
    onnx.AttributeProto.STRINGS: "strings",
}

# The formulas of the tensors that `noise` made, by their content.
FORMULAS = {}


def noise(seed, dims, scale=1.0):
    """Float32 numbers between -scale and scale, of which only the seed is stored. `scale` is a power
    of two, so that every number is exact."""
    count = int(np.prod(dims, dtype=np.int64))
    state = np.arange(count, dtype=np.uint32) + np.uint32(seed * 0x9E3779B1 & 0xFFFFFFFF)
    for shift, factor in [(16, 0x21F0AAAD), (15, 0x735A2D97)]:
        state = (state ^ (state >> np.uint32(shift))) * np.uint32(factor)
    state ^= state >> np.uint32(15)
    units = (state >> np.uint32(8)).astype(np.int64) - (1 << 23)
    array = (units.astype(np.float64) / (1 << 23) * scale).astype(np.float32).reshape(dims)
    if count > 8:
        FORMULAS[(array.shape, array.tobytes())] = {"seed": seed, "scale": scale}
    return array


def plain(values):
    """Numbers as short as they can be written, without changing them; null for a NaN."""
    if isinstance(values, np.ndarray) and values.dtype == np.float32:
        return [None if np.isnan(value) else float(str(value)) for value in values.ravel()]
    if isinstance(values, np.ndarray):
        flat = values.ravel().tolist()
        return [v.decode() if isinstance(v, bytes) else v for v in flat]
    return values


def content(array):
    formula = FORMULAS.get((array.shape, array.tobytes())) if array.dtype == np.float32 else None
    if formula:
        return {"noise": formula}
    values = plain(array)
    starts = [at for at, value in enumerate(values) if at == 0 or value != values[at - 1]]
    if array.dtype.kind in "ib" and 4 * len(starts) < len(values):
        ends = [*starts[1:], len(values)]
        return {"repeated": [[values[at], end - at] for at, end in zip(starts, ends)]}
    return {"values": values}


def tensor(proto):
    array = numpy_helper.to_array(proto)
    return {"type": proto.data_type, "dims": list(proto.dims), **content(array)}


def attribute(proto):
    kind = KINDS[proto.type]
    value = onnx.helper.get_attribute_value(proto)
    if kind == "tensor":
        value = tensor(value)
    elif kind == "graph":
        value = graph(value)
    elif kind == "string":
        value = value.decode()
    elif kind == "strings":
        value = [text.decode() for text in value]
    elif kind == "float":
        value = plain(np.array([value], np.float32))[0]
    elif kind == "floats":
        value = plain(np.array(value, np.float32))
    else:
        value = list(value) if kind == "ints" else value
    return {"name": proto.name, "kind": kind, "value": value}


def declared(value):
    """The element type and shape of an input or output, if it declares them. Those of bodies may be
    sequences."""
    if not value.type.tensor_type.elem_type:
        return {"name": value.name}
    declared = value.type.tensor_type
    if not declared.HasField("shape"):
        return {"name": value.name, "type": declared.elem_type}
    dims = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None
            for dim in declared.shape.dim]
    return {"name": value.name, "type": declared.elem_type, "dims": dims}


def graph(graph):
    return {
        "inputs": [declared(value) for value in graph.input],
        "outputs": [declared(value) for value in graph.output],
        "initializers": [{"name": init.name, **tensor(init)} for init in graph.initializer],
        "nodes": [node(one) for one in graph.node],
    }


def node(node):
    described = {"op": node.op_type, "inputs": list(node.input), "outputs": list(node.output)}
    if node.domain:
        described["domain"] = node.domain
    if node.attribute:
        described["attributes"] = [attribute(one) for one in node.attribute]
    return described


def described(model):
    return {
        "ir_version": model.ir_version,
        "opsets": [[opset.domain, opset.version] for opset in model.opset_import],
        **graph(model.graph),
    }


def value(name, array):
    array = np.asarray(array)
    if array.dtype.kind in "OUS":
        array, number = array.astype(object), onnx.TensorProto.STRING
    else:
        number = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    return {"name": name, "type": number, "dims": list(array.shape), **content(array)}
