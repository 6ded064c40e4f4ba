"""Writes the official ONNX backend test cases as plain files, and what onnxruntime makes of them.

`cargo xtask conformance` runs it: python3 cases.py FOLDER. Every case becomes a folder with
model.onnx and, for each data set, its inputs and expected outputs as .npy files; cases.json lists
them all, with tolerances, and for each whether onnxruntime passes it. Element types that numpy has
no file format for are kept as their codes, one an element, with their names beside. Inputs and
outputs that are no tensors (sequences, optionals) are said by name only: nothing can be run with
them.
"""

import concurrent.futures
import json
import pathlib
import sys
import warnings

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests

KINDS = ["node", "simple", "pytorch-converted", "pytorch-operator", "light"]
# Element types that .npy files keep; the others come from ml_dtypes, which extends numpy.
PLAIN = {
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float16", "float32", "float64",
}
# Those, by their names in ml_dtypes and here.
SMALL = {
    "bfloat16": "bf16", "float8_e4m3fn": "float8e4m3fn", "float8_e4m3fnuz": "float8e4m3fnuz",
    "float8_e5m2": "float8e5m2", "float8_e5m2fnuz": "float8e5m2fnuz",
    "float8_e8m0fnu": "float8e8m0", "float4_e2m1fn": "float4e2m1",
    "uint4": "u4", "int4": "i4", "uint2": "u2", "int2": "i2",
}


def tensor_of(path, info):
    """A data file of a case that is kept on disk."""
    content = path.read_bytes()
    if info.type.HasField("tensor_type"):
        tensor = onnx.TensorProto()
        tensor.ParseFromString(content)
        return numpy_helper.to_array(tensor)
    return None


def stored(case_dir, model):
    """The data sets of a case that is kept on disk."""
    sets = []
    for folder in sorted(pathlib.Path(case_dir).glob("test_data_set_*")):
        pair = []
        for what, infos in (("input", model.graph.input), ("output", model.graph.output)):
            files = sorted(folder.glob(f"{what}_*.pb"), key=lambda p: int(p.stem.split("_")[1]))
            pair.append([tensor_of(file, info) for file, info in zip(files, infos)])
        sets.append(tuple(pair))
    return sets


def save(value, path):
    """Says how a value was stored: a file's name, or why there is none."""
    if not isinstance(value, (np.ndarray, np.generic)):
        return {"missing": "no tensor"}
    array = np.asarray(value)
    if array.dtype.name in SMALL:
        file = path.with_name(path.name + ".npy")
        np.save(file, array.view(np.uint16 if array.dtype.itemsize == 2 else np.uint8))
        return {"file": file.name, "codes": SMALL[array.dtype.name]}
    if array.dtype.name in PLAIN:
        file = path.with_name(path.name + ".npy")
        np.save(file, array)
        return {"file": file.name}
    if array.dtype.kind in "OUS":
        strings = [x.decode() if isinstance(x, bytes) else str(x) for x in array.reshape(-1)]
        return {"strings": strings, "shape": list(array.shape)}
    return {"missing": f"tensor of {array.dtype.name}"}


def near(found, expected, rtol, atol):
    if found is None or np.asarray(found).shape != np.asarray(expected).shape:
        return False
    found, expected = np.asarray(found), np.asarray(expected)
    if expected.dtype.kind in "OUS":
        return [str(x) for x in found.reshape(-1)] == [
            x.decode() if isinstance(x, bytes) else str(x) for x in expected.reshape(-1)
        ]
    if found.dtype != expected.dtype:
        return False
    return bool(np.allclose(found, expected, rtol=rtol, atol=atol, equal_nan=True))


def onnxruntime_says(model_bytes, sets, rtol, atol):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(
            model_bytes, options, providers=["CPUExecutionProvider"]
        )
        for inputs, expected in sets:
            names = [value.name for value in session.get_inputs()]
            found = session.run(None, dict(zip(names, inputs)))
            for one, other in zip(found, expected):
                if not isinstance(other, (np.ndarray, np.generic)):
                    return "pass" if one is not None else "wrong"
                if not near(one, other, rtol, atol):
                    return "wrong"
        return "pass"
    except Exception:  # whatever it is, it is a refusal
        return "refused"


def peer(job):
    return onnxruntime_says(*job)


def main():
    folder = pathlib.Path(sys.argv[1])
    warnings.simplefilter("ignore")
    listed, jobs = [], []
    for kind in KINDS:
        for case in sorted(load_model_tests(kind=kind), key=lambda case: case.name):
            model, sets = case.model, case.data_sets
            if model is None:
                if case.model_dir is None:
                    continue
                model = onnx.load(pathlib.Path(case.model_dir) / "model.onnx")
                sets = stored(case.model_dir, model)
            sets = [
                tuple([numpy_helper.to_array(v) if isinstance(v, onnx.TensorProto) else v
                       for v in values] for values in pair)
                for pair in sets
            ]
            place = folder / kind / case.name
            place.mkdir(parents=True, exist_ok=True)
            content = model.SerializeToString()
            (place / "model.onnx").write_bytes(content)
            data = []
            for index, (inputs, outputs) in enumerate(sets):
                one = {"inputs": [], "outputs": []}
                for what, key, values, infos in (
                    ("in", "inputs", inputs, model.graph.input),
                    ("out", "outputs", outputs, model.graph.output),
                ):
                    for number, (value, info) in enumerate(zip(values, infos)):
                        # A scalar of Python's has no element type of its own.
                        if isinstance(value, (int, float, bool)):
                            dtype = onnx.helper.tensor_dtype_to_np_dtype(
                                info.type.tensor_type.elem_type
                            )
                            value = np.array(value, dtype)
                        entry = save(value, place / f"{index}.{what}{number}")
                        one[key].append({"name": info.name, **entry})
                data.append(one)
            operators = sorted({
                (f"{node.domain}." if node.domain not in ("", "ai.onnx") else "") + node.op_type
                for node in model.graph.node
            })
            listed.append({
                "kind": kind,
                "name": case.name,
                "operators": operators,
                "rtol": case.rtol,
                "atol": case.atol,
                "sets": data,
            })
            jobs.append((content, sets, case.rtol, case.atol))
    # Each in a process that may die of it.
    results = []
    with concurrent.futures.ProcessPoolExecutor(2) as pool:
        pending = [pool.submit(peer, job) for job in jobs]
        for future in pending:
            try:
                results.append(future.result(timeout=60))
            except Exception:
                results.append("crash")
    for case, result in zip(listed, results):
        case["onnxruntime"] = result
    versions = {"onnx": onnx.__version__, "numpy": np.__version__}
    try:
        import onnxruntime

        versions["onnxruntime"] = onnxruntime.__version__
    except ImportError:
        pass
    text = json.dumps({"versions": versions, "cases": listed}, indent=0)
    (folder / "cases.json").write_text(text)
    print(f"{len(listed)} cases", file=sys.stderr)


main()
