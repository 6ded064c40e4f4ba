"""Writes the official ONNX backend test cases as plain files, with the results of onnxruntime.

`cargo xtask conformance` runs it: python3 cases.py FOLDER. Every case becomes a folder with
model.onnx and, for each data set, its inputs and expected outputs as .npy files; cases.json lists
all cases with their tolerances, and whether onnxruntime passes them. The cases of operators that
sum are repeated with large and tiny numbers of float16 and bfloat16 (`narrow`); the expected
results are those of the reference implementation in 64 bits, rounded once. The cases of operators
of com.microsoft (`microsoft`) come from tests/expectations/microsoft. Element types without a numpy
file format are stored as codes, one per element, with the name of the type. A sequence is a list of
tensors, and an absent optional is marked as absent.
"""

import collections
import concurrent.futures
import json
import pathlib
import sys
import tarfile
import warnings

import ml_dtypes
import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests
from onnx.reference import ReferenceEvaluator

KINDS = ["node", "simple", "pytorch-converted", "pytorch-operator", "light"]
# Element types of .npy files; the others come from ml_dtypes, which extends numpy.
PLAIN = {
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float16", "float32", "float64",
}
# The others, by their names in ml_dtypes and here.
SMALL = {
    "bfloat16": "bf16", "float8_e4m3fn": "float8e4m3fn", "float8_e4m3fnuz": "float8e4m3fnuz",
    "float8_e5m2": "float8e5m2", "float8_e5m2fnuz": "float8e5m2fnuz",
    "float8_e8m0fnu": "float8e8m0", "float4_e2m1fn": "float4e2m1",
    "uint4": "u4", "int4": "i4", "uint2": "u2", "int2": "i2",
}


# Operators that sum, whose cases are repeated with narrow floats.
ADDING = set("""
    AffineGrid Attention AveragePool BatchNormalization Col2Im Conv ConvTranspose CumProd CumSum DFT
    DeformConv Det Einsum GRU Gemm GlobalAveragePool GridSample GroupNormalization
    InstanceNormalization LRN LSTM LayerNormalization LogSoftmax LpNormalization LpPool MatMul Mean
    MeanVarianceNormalization NegativeLogLikelihoodLoss RMSNormalization RNN ReduceL1 ReduceL2
    ReduceLogSum ReduceLogSumExp ReduceMean ReduceProd ReduceSum ReduceSumSquare Resize RoiAlign
    RotaryEmbedding STFT ScatterElements ScatterND Softmax SoftmaxCrossEntropyLoss Sum
""".split())
# A unit in the last place relative to the number, and the smallest step.
NARROW = {
    "float16": (np.dtype(np.float16), 2.0**-10, 2.0**-24),
    "bfloat16": (np.dtype(ml_dtypes.bfloat16), 2.0**-7, 2.0**-133),
}
# The largest number of the first input.
SIZES = {"large": 40000.0, "tiny": 4e-6}


def narrow_case(model, inputs, outputs, name, size):
    """A case of one node with narrow floats: the model, its inputs, the expected outputs and their
    tolerance; or nothing, if there is no such case."""
    dtype, relative, least = NARROW[name]
    node, FLOAT = model.graph.node[0], onnx.TensorProto.FLOAT
    schema = onnx.defs.get_schema(node.op_type, model.opset_import[0].version, "")
    allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
    kinds = {}
    for formals, values in ((schema.inputs, node.input), (schema.outputs, node.output)):
        for at, value in enumerate(values):
            kind = formals[min(at, len(formals) - 1)].type_str
            kinds[value] = kind if f"tensor({name})" in allowed.get(kind, []) else ""
    first = kinds[node.input[0]]
    if not first or model.graph.initializer or not inputs[0].size:
        return None
    # What has the type of the first input, and everything else of its kind that is a float.
    turned = {kind for value, kind in kinds.items() if kind and value in node.input}
    number = onnx.helper.np_dtype_to_tensor_dtype(dtype)
    made, wide = onnx.ModelProto(), onnx.ModelProto()
    made.CopyFrom(model)
    wide.CopyFrom(model)
    given, exact = [], []
    double = "tensor(double)" in allowed[first] and turned == {first}
    for at, (value, info) in enumerate(zip(inputs, model.graph.input)):
        if info.type.tensor_type.elem_type == FLOAT and kinds[info.name]:
            if at == 0:
                value = value * (size / max(np.abs(value).max(), 1e-30))
            value = value.astype(dtype)
            made.graph.input[at].type.tensor_type.elem_type = number
            exact.append(value.astype(np.float64 if double else np.float32))
            if double:
                wide.graph.input[at].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
        else:
            exact.append(value)
        given.append(value)
    if given[0].dtype != dtype:
        return None
    names = [info.name for info in model.graph.input]
    with np.errstate(all="ignore"):
        found = ReferenceEvaluator(wide).run(None, dict(zip(names, exact)))
    expected, bounds = [], []
    for at, (value, old, info) in enumerate(zip(found, outputs, model.graph.output)):
        value, old = np.asarray(value), np.asarray(old)
        if value.shape != old.shape:
            return None
        largest = float(np.abs(value.astype(np.float64)).max(initial=0))
        if info.type.tensor_type.elem_type == FLOAT and kinds[info.name] in turned:
            made.graph.output[at].type.tensor_type.elem_type = number
            with np.errstate(over="ignore"):
                value = value.astype(np.float32).astype(dtype)
            if not np.isfinite(value.astype(np.float32)).all():
                return None
            bounds.append(2 * max(relative * largest, least))
        else:
            value = value.astype(old.dtype)
            bounds.append(1e-5 * max(largest, 1) if value.dtype == np.float32 else None)
        expected.append(value)
    if not any(np.asarray(value).any() for value in expected):
        return None
    return made, given, expected, bounds


def narrow_cases():
    for case in sorted(load_model_tests(kind="node"), key=lambda case: case.name):
        model = case.model
        if model is None or len(model.graph.node) != 1 or not case.data_sets:
            continue
        node = model.graph.node[0]
        if node.op_type not in ADDING or node.domain or len(model.opset_import) != 1:
            continue
        sets = [[numpy_helper.to_array(v) if isinstance(v, onnx.TensorProto) else v
                 for v in values] for values in case.data_sets[0]]
        if not all(isinstance(v, (np.ndarray, np.generic)) for values in sets for v in values):
            continue
        for name in NARROW:
            for size, largest in SIZES.items():
                try:
                    made = narrow_case(model, *sets, name, largest)
                except Exception:  # the reference does not support the case
                    made = None
                if made:
                    yield f"{case.name}_{name}_{size}", *made


MICROSOFT = pathlib.Path(__file__).parent.parent / "expectations/microsoft/cases.tar.gz"
# How many cases of each operator are run: the archive has ten.
MICROSOFT_CASES = 5


def microsoft_cases():
    """Cases of onnxruntime's own operators: name, model, inputs, outputs and tolerance."""
    files = {}
    with tarfile.open(MICROSOFT) as archive:
        for member in archive.getmembers():
            if member.isfile():
                name, _, rest = member.name.partition("/")
                files.setdefault(name, {})[rest] = archive.extractfile(member).read()
    seen = collections.Counter()
    for name, content in sorted(files.items()):
        model = onnx.ModelProto.FromString(content["model.onnx"])
        operator = model.graph.node[0].op_type
        seen[operator] += 1
        if seen[operator] > MICROSOFT_CASES:
            continue
        sets = []
        for what, infos in (("input", model.graph.input), ("output", model.graph.output)):
            data = [content[f"test_data_set_0/{what}_{at}.pb"] for at in range(len(infos))]
            sets.append([numpy_helper.to_array(onnx.TensorProto.FromString(one)) for one in data])
        # |actual - expected| <= tolerance * (1 + |expected|)
        types = {value.dtype.name for value in sets[1]}
        tolerance = max({"float16": 4e-3, "bfloat16": 3e-2, "float32": 2e-5}.get(t, 1e-9) for t in types)
        if "tolerance.json" in content:
            tolerance = max(tolerance, tolerance_of(json.loads(content["tolerance.json"])))
        yield name, model, content["model.onnx"], *sets, tolerance


def tolerance_of(stated):
    """The largest of the stated tolerances."""
    if isinstance(stated, dict):
        stated = list(stated.values())
    if isinstance(stated, list):
        return max((tolerance_of(one) for one in stated if one is not None), default=0)
    return float(stated)


def tensor_of(path, info):
    """A data file of a case that is stored on disk."""
    content = path.read_bytes()
    for field, kind in (
        ("tensor_type", onnx.TensorProto),
        ("sequence_type", onnx.SequenceProto),
        ("optional_type", onnx.OptionalProto),
    ):
        if info.type.HasField(field):
            return plain(kind.FromString(content))
    raise ValueError(f"{path}: unknown type")


def plain(value):
    """A value as an array, a list of arrays or None."""
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, onnx.SequenceProto):
        return numpy_helper.to_list(value)
    if isinstance(value, onnx.OptionalProto):
        return numpy_helper.to_optional(value)
    return value


def stored(case_dir, model):
    """The data sets of a case that is stored on disk."""
    sets = []
    for folder in sorted(pathlib.Path(case_dir).glob("test_data_set_*")):
        pair = []
        for what, infos in (("input", model.graph.input), ("output", model.graph.output)):
            files = sorted(folder.glob(f"{what}_*.pb"), key=lambda p: int(p.stem.split("_")[1]))
            pair.append([tensor_of(file, info) for file, info in zip(files, infos)])
        sets.append(tuple(pair))
    return sets


def save(value, path):
    """Describes how a value was stored: the file's name, or why there is none."""
    if isinstance(value, list):
        each = [save(one, path.with_name(f"{path.name}.{at}")) for at, one in enumerate(value)]
        return {"sequence": each}
    if value is None:
        return {"absent": True}
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
    if isinstance(expected, list):
        same = isinstance(found, list) and len(found) == len(expected)
        return same and all(near(a, b, rtol, atol) for a, b in zip(found, expected))
    if expected is None:
        return found is None
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
                if not near(one, other, rtol, atol):
                    return "wrong"
        return "pass"
    except Exception:  # any exception is a refusal
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
                tuple([plain(v) for v in values] for values in pair)
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
                        # A Python scalar has no element type.
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
    for name, model, inputs, expected, bounds in narrow_cases():
        place = folder / "narrow" / name
        place.mkdir(parents=True, exist_ok=True)
        content = model.SerializeToString()
        (place / "model.onnx").write_bytes(content)
        one = {"inputs": [], "outputs": []}
        for number, (value, info) in enumerate(zip(inputs, model.graph.input)):
            one["inputs"].append({"name": info.name, **save(value, place / f"0.in{number}")})
        for number, (value, info) in enumerate(zip(expected, model.graph.output)):
            entry = {"name": info.name, **save(value, place / f"0.out{number}")}
            one["outputs"].append(entry | ({"atol": bounds[number]} if bounds[number] else {}))
        largest = max(bound or 0 for bound in bounds)
        listed.append({
            "kind": "narrow", "name": name, "operators": [model.graph.node[0].op_type],
            "rtol": 0, "atol": largest, "sets": [one],
        })
        jobs.append((content, [(inputs, expected)], 0, largest))
    for name, model, content, inputs, expected, tolerance in microsoft_cases():
        place = folder / "microsoft" / name
        place.mkdir(parents=True, exist_ok=True)
        (place / "model.onnx").write_bytes(content)
        one = {"inputs": [], "outputs": []}
        for key, what, values, infos in (
            ("inputs", "in", inputs, model.graph.input),
            ("outputs", "out", expected, model.graph.output),
        ):
            for number, (value, info) in enumerate(zip(values, infos)):
                one[key].append({"name": info.name, **save(value, place / f"0.{what}{number}")})
        listed.append({
            "kind": "microsoft", "name": name,
            "operators": sorted({f"{node.domain}.{node.op_type}" for node in model.graph.node}),
            "rtol": tolerance, "atol": tolerance, "sets": [one],
        })
        jobs.append((content, [(inputs, expected)], tolerance, tolerance))
    # Each in a separate process, which may crash.
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
