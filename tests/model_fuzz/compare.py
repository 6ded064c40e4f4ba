"""Asks onnxruntime, and the reference implementation of the onnx package, what they answer to models
that Belljar has answered.

    BELLJAR_FUZZ_KEEP=FOLDER cargo test --release --workspace --test model_fuzz
    python3 tests/model_fuzz/compare.py FOLDER

Prints each model for which another answer was given, with the operators in it. What the others
refuse says nothing. Where the two others differ from each other, it says so: the specification has
to be read. It needs the packages onnx, onnxruntime and numpy.
"""

import multiprocessing
import pathlib
import sys
import warnings

import numpy as np


def near(found, expected):
    found, expected = np.asarray(found), np.asarray(expected)
    if found.shape != expected.shape:
        return f"shape {found.shape} for {expected.shape}"
    if found.dtype != expected.dtype:
        return f"{found.dtype} for {expected.dtype}"
    if expected.dtype.kind == "f":
        tolerance = 1e-2 if expected.dtype == np.float16 else 1e-3
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


def compare(file):
    import onnx

    warnings.simplefilter("ignore")
    content = file.read_bytes()
    base = str(file)[: -len(".onnx")]
    inputs = dict(np.load(base + ".in.npz"))
    ours = dict(np.load(base + ".out.npz"))
    said = []
    for who, ask in (("onnxruntime", onnxruntime_says), ("reference", reference_says)):
        try:
            theirs = ask(content, inputs)
        except BaseException:  # a refusal, whatever it is
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
    """A process that may die of what it is asked."""

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
        return (False, f"{file.name}: another died of it, or took a minute")


def main():
    files = sorted(pathlib.Path(sys.argv[1]).glob("*.onnx"), key=lambda f: int(f.stem))
    compared, asker = 0, Asker()
    for file in files:
        asked, text = asker.ask(file)
        compared += asked
        if text:
            print(text)
    print(f"{compared} of {len(files)} were answered by another", file=sys.stderr)


if __name__ == "__main__":
    main()
