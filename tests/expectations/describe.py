#!/usr/bin/env python3
"""What the real models say about themselves, read by the onnx package: an oracle for `inspect`.

How to run, from the repository's root, in any Python environment:

    cargo xtask models
    pip install onnx
    python3 tests/expectations/describe.py

It rewrites descriptions.json in its folder, which is committed: nobody who runs the tests needs Python.
"""

import collections
import json
import pathlib

import onnx
from onnx import TensorProto

HERE = pathlib.Path(__file__).resolve().parent
MODELS = HERE.parent.parent / "target" / "models"


def value(info):
    tensor = info.type.tensor_type
    dims = [
        d.dim_value if d.HasField("dim_value") else (d.dim_param or None) for d in tensor.shape.dim
    ]
    # A size below zero, and a question mark, are ways to say "not known".
    dims = [None if d == "?" or (isinstance(d, int) and d < 0) else d for d in dims]
    return {
        "name": info.name,
        "type": TensorProto.DataType.Name(tensor.elem_type),
        "shape": dims if tensor.HasField("shape") else None,
    }


def count(tensor):
    elements = 1
    for dim in tensor.dims:
        elements *= dim
    return elements


def tally(graph, operators):
    """Counts operators, subgraphs included, and gives the number of constant elements."""
    parameters = sum(count(tensor) for tensor in graph.initializer)
    for node in graph.node:
        operators[node.op_type] += 1
        for attribute in node.attribute:
            tensors = [attribute.t] if attribute.HasField("t") else []
            parameters += sum(count(tensor) for tensor in [*tensors, *attribute.tensors])
            graphs = [attribute.g] if attribute.HasField("g") else []
            for nested in [*graphs, *attribute.graphs]:
                parameters += tally(nested, operators)
    return parameters


def describe(path):
    model = onnx.load(path)
    graph = model.graph
    operators = collections.Counter()
    parameters = tally(graph, operators)
    constants = {tensor.name for tensor in graph.initializer}
    return {
        "file": path.name,
        "ir_version": model.ir_version,
        "producer_name": model.producer_name,
        "producer_version": model.producer_version,
        "graph_name": graph.name,
        "opset_imports": {entry.domain: entry.version for entry in model.opset_import},
        "inputs": [value(info) for info in graph.input if info.name not in constants],
        "outputs": [value(info) for info in graph.output],
        "operators": dict(sorted(operators.items())),
        "nodes": sum(operators.values()),
        "parameters": parameters,
        "metadata": {entry.key: entry.value for entry in model.metadata_props},
    }


descriptions = [describe(path) for path in sorted(MODELS.glob("*.onnx"))]
(HERE / "descriptions.json").write_text(json.dumps(descriptions, indent=1) + "\n")
