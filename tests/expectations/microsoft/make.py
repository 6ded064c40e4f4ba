#!/usr/bin/env python3
"""Test cases for the operators of ONNX domain `com.microsoft`, on which two independent judges agree.

ONNX ships test cases only for its own operators. This program draws random configurations of one
operator (shapes, attributes, optional inputs, element types), computes each with onnxruntime and
with the plain definitions in `reference/`, which were written from onnxruntime's documentation, and
keeps the cases in which the two agree: integers exactly, floats within the tolerance that the
case states. A disagreement is a fault in `reference/`, or it is listed with its reason in `known.py`.

How to run, in any Python environment with the packages named here:

    pip install onnxruntime==1.32.0 numpy==2.4.6 onnx==1.23.2
    python3 make.py table                         # agreements and disagreements, by operator
    python3 make.py write FOLDER --count 50 --seed 1    # cases as folders, laid out as ONNX's own
    python3 make.py pack                          # rewrites cases.tar.gz and disagreements.txt
    python3 make.py check FOLDER --runner 'CMD {model} {inputs} {outputs}'
    python3 make.py text FILE --only MoE --count 60     # cases in the format of onnx-ops' own tests
    python3 make.py titled ../../../guest-models/onnx-ops/src/microsoft/attention/cases    # as well
    python3 make.py text FILE --only SparseAttention --count 100 --cases 6 --seeded    # inputs as seeds

The stored `cases.tar.gz` was made with these versions on x86-64, with Python 3.11 (another zlib may
give other bytes, with the same content). The expected outputs are those of `reference/`, which
computes in double precision and rounds once, unless the operator's definition rounds in between.

A case is a folder with `model.onnx`, `test_data_set_0/input_N.pb` and `output_N.pb`. Floats agree if
|actual - expected| <= t * (1 + |expected|), where t is 2e-5 for float32, 4e-3 for float16 and 1e-9 for
float64 (TOLERANCES in `cases.py`), or the number in the case's `tolerance.json`. Outputs that the
documentation leaves unspecified in part are not outputs of the graph.

onnxruntime runs on the CPU with one thread and without graph optimisations, and with exact integer
products (session.x64quantprecision), which some x86-64 instructions saturate otherwise.
"""

import argparse
import collections
import gzip
import io
import pathlib
import shlex
import shutil
import subprocess
import sys
import tarfile
import warnings
import zlib

import numpy as np
import onnxruntime as ort

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import cases
import draw
import known
import reference
import titled
from titled.titled import Titled

# What `pack` stores: this many cases of each operator, each of at most so many bytes.
PACKED_CASES, PACKED_BYTES, PACKED_SEED = 10, 3_000, 7


def run_onnxruntime(case):
    """The outputs of onnxruntime, or the text of its error."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        session = ort.InferenceSession(
            case.model().SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return run_in_place(session, case) if case.in_place else session.run(None, case.feeds())
    except Exception as error:  # onnxruntime raises many types, which share no base but this one.
        return str(error)


def run_in_place(session, case):
    """As `run`, where some outputs use the memory of an input."""
    binding = session.io_binding()
    values = {name: ort.OrtValue.ortvalue_from_numpy(array.copy()) for name, array in case.feeds().items()}
    for name, value in values.items():
        binding.bind_ortvalue_input(name, value)
    for output in range(len(case.outputs)):
        if output in case.in_place:
            binding.bind_ortvalue_output(f"output_{output}", values[f"input_{case.in_place[output]}"])
        else:
            binding.bind_output(f"output_{output}")
    session.run_with_iobinding(binding)
    return binding.copy_outputs_to_cpu()


def attempt(operator, seed, number):
    """Draws one case and computes it twice: the case, and why the two disagree (or None)."""
    chosen = draw.Draw(zlib.crc32(f"{operator} {seed} {number}".encode()))
    case = draw.GENERATORS[operator](chosen)
    case.operator = operator
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        case.compute(reference.OPERATORS[operator])
        actual = run_onnxruntime(case)
    if isinstance(actual, str):
        return case, "refused: " + actual.split("\n")[0]
    return case, case.difference(actual)


def attempts(operator, seed, count):
    for number in range(count):
        yield number, *attempt(operator, seed, number)


def table(operators, seed, count, keep=None):
    """Prints the number of agreements and disagreements, and returns the latter as text."""
    lines = []
    print(f"{'operator':34} {'agree':>6} {'known':>6} {'unknown':>8}")
    for operator in operators:
        outcomes = collections.Counter()
        reasons = {}
        for number, case, difference in attempts(operator, seed, count):
            if difference is None:
                outcomes["agree"] += 1
                if keep:
                    keep(number, case)
                continue
            reason = known.reason(case, difference)
            outcomes["known" if reason else "unknown"] += 1
            title = reason or "UNKNOWN: " + difference.split(":")[0]
            reasons.setdefault(title, []).append((number, case, difference))
        print(
            f"{operator:34} {outcomes['agree']:6} {outcomes['known']:6} {outcomes['unknown']:8}", flush=True
        )
        for reason, found in reasons.items():
            lines.append(f"# {operator}: {len(found)} of {count}: {reason}")
            for number, case, difference in found[: 6 if reason.startswith("UNKNOWN") else 1]:
                lines.append(f"#     case {number}: {case.describe()}")
                # Values may come from memory that onnxruntime has not written, and so differ each time.
                lines.append(f"#     {difference.split(', first at')[0][:300]}")
    return "\n".join(lines) + "\n"


def write(folder, operators, seed, count):
    folder = pathlib.Path(folder)

    def keep(number, case):
        place = folder / f"test_{case.operator.lower()}_{seed}_{number:04}"
        for name, content in case.files().items():
            path = place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    text = table(operators, seed, count, keep)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "disagreements.txt").write_text(text)


def pack(operators):
    """Writes cases.tar.gz: small cases of each operator, chosen so that they differ in configuration."""
    texts = []
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for operator in operators:
            found = []
            texts.append(
                table([operator], PACKED_SEED, 150, lambda number, case: found.append((number, case)))
            )
            for number, case in distinct(found, PACKED_CASES):
                for name, content in case.files().items():
                    entry = tarfile.TarInfo(f"test_{operator.lower()}_{number:03}/{name}")
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))
    compressed = gzip.compress(plain.getvalue(), compresslevel=9, mtime=0)
    (HERE / "cases.tar.gz").write_bytes(compressed)
    (HERE / "disagreements.txt").write_text("".join(text for text in texts if text.strip()))


def distinct(found, count):
    """At most `count` small cases: those first whose attributes and types no earlier one has."""
    small = [(number, case) for number, case in found if case.size() <= PACKED_BYTES]
    if len(small) < count:
        small = sorted(sorted(found, key=lambda pair: pair[1].size())[:count], key=lambda pair: pair[0])
    chosen, seen = [], set()
    for number, case in small:
        features = case.features()
        if features - seen:
            chosen.append((number, case))
            seen |= features
    rest = [pair for pair in small if pair not in chosen]
    return sorted((chosen + rest)[:count], key=lambda pair: pair[0])


# The names of element types in the cases that `text` writes.
TEXT_TYPES = {"float32", "int32", "int64", "int8", "uint8"}
# With `--seeded`, float inputs of so many numbers are written as seeds.
SEEDED_NUMBERS = 16


def text(file, operators, seed, count, cases_each, seeded, having):
    """Writes small cases for the tests of onnx-ops (guest-models/onnx-ops/src/microsoft/attention/cases.rs)."""
    written = [f"Written by tests/expectations/microsoft/make.py: {' '.join(operators)}.\n"]
    for operator in operators:
        found = []
        table([operator], seed, count, lambda number, case: found.append((number, case)))
        plain = [pair for pair in found if types_of(pair[1]) <= TEXT_TYPES]
        plain = [pair for pair in plain if not having or having & pair[1].attributes.keys()]
        if seeded:
            plain = sorted(plain, key=lambda pair: pair[1].size())[: len(plain) // 2]
            plain = [pair for pair in plain if seed_inputs(*pair)]
        written += [as_text(number, case) for number, case in distinct(plain, cases_each)]
    pathlib.Path(file).write_text("\n".join(written))


def seed_inputs(number, case):
    """Replaces large float inputs by numbers from seeds. Whether the two judges still agree."""
    for at, array in enumerate(case.inputs):
        if array is None or array.dtype != np.float32:
            continue
        # Scales are positive, and stay as they are drawn.
        if array.size >= SEEDED_NUMBERS and array.min() < 0:
            case.seeds[at] = number * 100 + at
            case.inputs[at] = cases.pseudorandom(array.shape, case.seeds[at])
    case.compute(reference.OPERATORS[case.operator])
    actual = run_onnxruntime(case)
    return not isinstance(actual, str) and case.difference(actual) is None


def write_titled(folder):
    """Writes the cases of `titled/` as files in the format of onnx-ops' own tests."""
    for name, make in titled.FILES.items():
        made = Titled(run_onnxruntime)
        make(made)
        text = "\n".join(as_text(title, case, None) for title, case in made.cases)
        (pathlib.Path(folder) / f"{name}.txt").write_text(text)
        print(f"{name}.txt: {len(made.cases)} cases, {len(text)} bytes")


def types_of(case):
    return {str(array.dtype) for array in case.inputs + case.expected if array is not None}


def as_text(title, case, tolerance=cases.TOLERANCES["float32"]):
    """One case, in which an operator that computes in float32 may differ from the reference by rounding."""
    lines = [f"case {case.operator} {title}"]
    if tolerance:
        floats = [array for array in case.expected if array.dtype.kind == "f"]
        greatest = max((float(np.abs(array).max(initial=0)) for array in floats), default=0)
        lines.append(f"within {tolerance * (1 + greatest):.2g}")
    for name, value in case.attributes.items():
        kind = {int: "int", float: "float", str: "text", list: "ints"}[type(value)]
        lines.append(f"{kind} {name} {' '.join(map(str, value)) if kind == 'ints' else value}")
    for at, array in enumerate(case.inputs):
        if at in case.seeds:
            lines.append(f"in random {','.join(map(str, array.shape))} {case.seeds[at]}")
        else:
            lines.append("in none" if array is None else f"in {array.dtype} {in_words(array)}")
    expected = iter(case.expected)
    lines += [out_words(next(expected)) if wanted is True else "out none" for wanted in case.outputs]
    return "\n".join(lines) + "\n"


def out_words(array):
    kind = "" if array.dtype == np.float32 else f"{array.dtype} "
    return f"out {kind}{in_words(array)}"


def in_words(array):
    number = "{:.9g}".format if array.dtype.kind == "f" else str
    return " ".join([",".join(map(str, array.shape)) or "-", *map(number, array.ravel().tolist())])


def check(folder, runner):
    """Runs a program on each case. It gets the model, a folder of input_N.pb, and one to write to."""
    failures = total = 0
    for place in sorted(pathlib.Path(folder).glob("test_*")):
        outputs = place / "actual"
        shutil.rmtree(outputs, ignore_errors=True)
        outputs.mkdir()
        paths = {"model": place / "model.onnx", "inputs": place / "test_data_set_0", "outputs": outputs}
        command = [word.format(**paths) for word in shlex.split(runner)]
        result = subprocess.run(command, capture_output=True, text=True)
        total += 1
        problem = result.stderr.strip() if result.returncode else cases.compare_folders(place, outputs)
        if problem:
            failures += 1
            print(f"{place.name}: {problem}")
    print(f"{total - failures} of {total} cases passed")
    return failures


def main():
    parser = argparse.ArgumentParser(description="Test cases of com.microsoft operators")
    parser.add_argument("mode", choices=["table", "write", "pack", "check", "text", "titled"])
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cases", type=int, default=8, help="how many cases of an operator text writes")
    parser.add_argument("--seeded", action="store_true", help="write large inputs as seeds")
    parser.add_argument("--having", help="only cases with one of these attributes, separated by commas")
    parser.add_argument("--only", help="operators, separated by commas")
    parser.add_argument("--runner", help="command with {model}, {inputs} and {outputs}")
    arguments = parser.parse_args()
    operators = arguments.only.split(",") if arguments.only else list(draw.GENERATORS)
    if arguments.mode == "table":
        print(table(operators, arguments.seed, arguments.count))
    elif arguments.mode == "write":
        write(arguments.folder, operators, arguments.seed, arguments.count)
    elif arguments.mode == "pack":
        pack(operators)
    elif arguments.mode == "titled":
        write_titled(arguments.folder)
    elif arguments.mode == "text":
        having = set(arguments.having.split(",")) if arguments.having else set()
        wanted = arguments.cases, arguments.seeded, having
        text(arguments.folder, operators, arguments.seed, arguments.count, *wanted)
    else:
        sys.exit(bool(check(arguments.folder, arguments.runner)))


if __name__ == "__main__":
    main()
