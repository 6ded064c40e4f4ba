"""Compares Belljar's answers to models with those of onnxruntime and of the reference
implementation of the onnx package.

    BELLJAR_FUZZ_KEEP=FOLDER cargo test --release --workspace --test model_fuzz
    python3 tests/model_fuzz/compare.py FOLDER

Prints each model with a different answer, and its operators. Models that the others refuse are
skipped. If the two others differ from each other, both are printed, and the specification decides.
Models of float16 and bfloat16 are computed node by node, by the reference in float32 with each
result rounded once, because both may sum in float16. It needs the packages onnx, onnxruntime and
numpy.
"""

import multiprocessing
import pathlib
import sys
import warnings

import ml_dtypes
import numpy as np

NARROW = (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))


def near(found, expected):
    found, expected = np.asarray(found), np.asarray(expected)
    if found.shape != expected.shape:
        return f"shape {found.shape} for {expected.shape}"
    if found.dtype != expected.dtype:
        return f"{found.dtype} for {expected.dtype}"
    if expected.dtype.kind == "f" or expected.dtype in NARROW:
        tolerance = {NARROW[0]: 1e-2, NARROW[1]: 3e-2}.get(expected.dtype, 1e-3)
        with np.errstate(all="ignore"):
            same = np.isclose(
                found.astype(np.float64), expected.astype(np.float64), tolerance, tolerance,
                equal_nan=True,
            )
    else:
        same = found == expected
    if np.all(same):
        return None
    at = int(np.argmin(np.asarray(same).reshape(-1)))
    return f"element {at} is {found.reshape(-1)[at]!r} for {expected.reshape(-1)[at]!r}"


def onnxruntime_says(content, inputs):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs)))


def reference_says(content, inputs):
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(content)
    return dict(zip(evaluator.output_names, evaluator.run(None, inputs)))


def loaded(file):
    """Tensors from a file, in which bfloat16 has no name."""
    return {name: value.view(NARROW[1]) if value.dtype == "V2" else value
            for name, value in np.load(file).items()}


def rounded_says(content, inputs):
    """The reference, node by node, with narrow floats as float32 and each result rounded once."""
    import onnx
    from onnx import numpy_helper
    from onnx.reference import ReferenceEvaluator

    model = onnx.load_from_string(content)
    graph, values = model.graph, dict(inputs)
    if any(attribute.HasField("g") for node in graph.node for attribute in node.attribute):
        raise NotImplementedError
    values |= {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    types = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    types = {value.name: value.type.tensor_type.elem_type
             for value in (*types.value_info, *types.output)}
    if not any(np.asarray(value).dtype in NARROW for value in values.values()):
        raise NotImplementedError
    for node in graph.node:
        feeds = {name: np.asarray(values[name]) for name in node.input if name}
        wide = {name: value.astype(np.float32) if value.dtype in NARROW else value
                for name, value in feeds.items()}
        names = [name for name in node.output if name]
        moved = node.op_type in ("Cast", "CastLike", "BitCast", "QuantizeLinear",
                                 "DequantizeLinear")
        given = feeds if moved else wide
        one = onnx.helper.make_graph(
            [node], "node",
            [onnx.helper.make_tensor_value_info(
                name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
             for name, value in given.items()],
            [onnx.ValueInfoProto(name=name) for name in names])
        one = onnx.helper.make_model(one, opset_imports=model.opset_import,
                                     ir_version=model.ir_version)
        for name, value in zip(names, ReferenceEvaluator(one).run(None, given)):
            dtype = onnx.helper.tensor_dtype_to_np_dtype(types[name])
            values[name] = np.asarray(value).astype(dtype) if dtype in NARROW else value
    return {output.name: values[output.name] for output in graph.output}


def compare(file):
    import onnx

    warnings.simplefilter("ignore")
    content = file.read_bytes()
    base = str(file)[: -len(".onnx")]
    inputs, ours = loaded(base + ".in.npz"), loaded(base + ".out.npz")
    said, narrow = [], any(value.dtype in NARROW for value in (*inputs.values(), *ours.values()))
    asked = (("onnxruntime", onnxruntime_says), ("reference", reference_says))
    for who, ask in (("rounded", rounded_says),) if narrow else asked:
        try:
            theirs = ask(content, inputs)
        except BaseException:  # any exception is a refusal
            continue
        differences = [
            f"{name}: {why}" for name, found in ours.items()
            if name in theirs and (why := near(found, theirs[name]))
        ]
        said.append((who, "; ".join(differences)))
    if not any(why for _, why in said):
        return (len(said) > 0, None)
    operators = sorted({node.op_type for node in onnx.load(file).graph.node})
    text = " | ".join(f"{who}: {why or 'agrees'}" for who, why in said)
    return (True, f"{file.name} {','.join(operators)}: {text}")


def child(pipe):
    while (file := pipe.recv()) is not None:
        pipe.send(compare(file))


class Asker:
    """A worker process, which may crash on a model."""

    def __init__(self):
        self.process = None

    def ask(self, file):
        if self.process is None:
            context = multiprocessing.get_context("fork")
            self.pipe, other = context.Pipe()
            self.process = context.Process(target=child, args=(other,), daemon=True)
            self.process.start()
            other.close()
        try:
            self.pipe.send(file)
            if self.pipe.poll(60):
                return self.pipe.recv()
        except (EOFError, OSError):
            pass
        self.process.kill()
        self.process.join()
        self.process = None
        return (False, f"{file.name}: the other runtime crashed, or took a minute")


def main():
    files = sorted(pathlib.Path(sys.argv[1]).glob("*.onnx"), key=lambda f: int(f.stem))
    compared, asker = 0, Asker()
    for file in files:
        asked, text = asker.ask(file)
        compared += asked
        if text:
            print(text)
    print(f"{compared} of {len(files)} were answered by another runtime", file=sys.stderr)


if __name__ == "__main__":
    main()
