"""Generates random graphs of the operators of ONNX and com.microsoft, with their expected answers.

    python3 graphs.py FOLDER [--seed N] [--count N] [--longest N] [--only Operator,Operator]
                             [--narrow SHARE] [--microsoft SHARE]
    BELLJAR_CONFORMANCE=FOLDER BELLJAR_CONFORMANCE_RESULTS=FILE \\
        cargo test --release --workspace --test conformance

Every node is computed alone, by onnxruntime and by a second judge, and kept if they agree. The second
judge is the reference implementation of the onnx package or, for what it lacks, definitions.py; for
com.microsoft it is tests/expectations/microsoft/reference. The expected answer of a graph is that of its nodes, one after the
other. So it is not affected by optimizations of several nodes, and a different answer is a bug and
not a disagreement of implementations.

In a share of the graphs (`--microsoft`), half of the nodes are of com.microsoft: `--only` has them as
com.microsoft:NAME. By default, half of the other graphs are of float16 or bfloat16, with magnitudes from the smallest to the
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
import os
import pathlib
import pickle
import random
import signal
import sys
import traceback
import warnings

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

import families  # noqa: F401  (registers the operators)
from families import microsoft
from graph import (
    BF16, BOOL, F16, F32, F64, FAMILIES, I8, I32, I64, MAGNITUDES, U8, U16, U32, Graph, Skip, info,
    model_of,
)

MICROSOFT = [f"com.microsoft:{name}" for name in microsoft.draw.GENERATORS]


def build(seed, longest, only, narrow, share):
    """A graph in which most nodes read the previous result. With `only`, half of the nodes are of
    these operators, and the input has a type and shape that most of them accept: floats or bytes,
    of at least two dimensions. In a `share` of the graphs half of the nodes are of com.microsoft."""
    g = Graph(seed)
    draw = random.Random(f"narrow {seed}")  # so that the other graphs do not change
    mixed = random.Random(f"microsoft {seed}").random() < share
    if not mixed and draw.random() < narrow:
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
        chosen = MICROSOFT if mixed and g.chance(0.5) else names
        operator = g.choose(only if only and (longest == 1 or g.chance(0.5)) else chosen)
        fixed = {tensor.name for tensor in g.initializers} | g.last
        sources = [name for name in g.values if name not in fixed]
        source = current if current in sources and g.chance(0.8) else g.choose(sources)
        before = g.copy()
        try:
            if operator in MICROSOFT:
                current = microsoft.add(g, operator.removeprefix("com.microsoft:"), source)
            else:
                current = FAMILIES[operator](g, operator, source, g.values[source])
        except Skip:
            vars(g).update(before)
        if len(g.nodes) >= wanted:
            break
    return g


def write(folder, seed, longest, only, narrow, share):
    """Writes the graph of a seed, and returns its entry in cases.json."""
    g = build(seed, longest, only, narrow, share)
    for text in microsoft.UNKNOWN:
        print(f"seed {seed}: the judges disagree: {text}", file=sys.stderr)
    microsoft.UNKNOWN.clear()
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
               if name in g.values and (name not in used or g.chance(0.15))]
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
    tolerance = max(2e-2 if F16 in kinds else 1e-4 if F32 in kinds else 1e-9, g.loosest)

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
        "kind": "node", "name": place.name, "operators": [operator_of(node) for node in g.nodes],
        "opset": g.opset, "rtol": tolerance, "atol": tolerance, "sets": [data],
        "onnxruntime": "pass",
    }]


def operator_of(node):
    return f"{node.domain}:{node.op_type}" if node.domain else node.op_type


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
    parser.add_argument("--microsoft", type=float, default=0.3,
                        help="the share of graphs with operators of com.microsoft")
    given = parser.parse_args()
    if unknown := set(given.only or []) - FAMILIES.keys() - set(MICROSOFT):
        parser.error(f"unknown operators: {', '.join(sorted(unknown))}")
    warnings.simplefilter("ignore")
    onnxruntime.set_default_logger_severity(4)
    given.folder.mkdir(parents=True, exist_ok=True)
    cases, seeds = [], iter(range(given.seed, given.seed + given.count))
    while chunk := list(itertools.islice(seeds, 25)):
        cases += guarded(
            chunk,
            lambda seed: write(given.folder, seed, given.longest, given.only, given.narrow,
                               given.microsoft))
    versions = {package.__name__: package.__version__ for package in (onnx, onnxruntime, np)}
    text = json.dumps({"versions": versions, "cases": cases})
    (given.folder / "cases.json").write_text(text)
    counts = collections.Counter(name for case in cases for name in case["operators"])
    print(f"{len(cases)} graphs, {counts.total()} nodes, {len(counts)} different operators")


if __name__ == "__main__":
    main()
