"""Runs each model in Belljar and in onnxruntime, and compares the answers."""

import csv
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import onnx
import onnxruntime

import names

COLUMNS = ["name", "tool", "MB", "result", "error", "onnxruntime_ms", "belljar_ms", "ratio",
           "first_run_ms", "second_shape_ms", "note"]
# The largest difference that counts as the same answer, relative to the largest number of an output.
TOLERANCE = 1e-3
# Of models that round on the way: a sum that ends near the middle between two steps may be rounded
# to either, and later steps add to it.
ROUNDED = {"q": 3e-2, "fp16_": 1e-2, "fused16_": 1e-2, "ortext_q": 3e-2, "genai_": 1e-2}
REFERENCE_SECONDS = 90


def run(folder, belljar, only, again, quick):
    runner = Runner(folder, belljar, quick)
    # A finished folder has notes. Others may be in work.
    for notes in sorted((folder / "models").glob("*/notes.json")):
        made = notes.parent
        if not made.name.startswith(only) or made.suffix == ".part":
            continue
        for model in sorted(made.glob("*.onnx")):
            for first in sorted(made.glob(f"{model.stem}.*.1.npz")):
                case = first.name.removeprefix(f"{model.stem}.").removesuffix(".1.npz")
                runner.row(model, case, again)
        if json.loads(notes.read_text()).get("discard"):
            # Too large to keep. The folder stays, so that it is not made again.
            for model in made.glob("*.onnx"):
                model.unlink()


def row_name(model, case):
    name = model.parent.name
    if name.startswith("hf_") or model.stem != "model":
        name += f"__{model.stem}"
    return name if case == "run" else f"{name}@{case}"


def read_results(folder):
    file = folder / "results.tsv"
    if not file.exists():
        return {}
    with file.open(newline="") as lines:
        return {row["name"]: row for row in csv.DictReader(lines, delimiter="\t")}


def write_results(folder, results):
    part = folder / "results.tsv.part"
    with part.open("w", newline="") as lines:
        writer = csv.DictWriter(lines, COLUMNS, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(results[name] for name in sorted(results))
    part.rename(folder / "results.tsv")


def ms(value):
    return "" if value is None else f"{value:.3g}"


def tolerance(name, notes):
    if "tolerance" in notes:
        return notes["tolerance"]
    found = [value for prefix, value in ROUNDED.items() if name.startswith(prefix)]
    return found[0] if found else TOLERANCE


def difference(actual, expected):
    """The largest difference relative to the largest finite number, or infinity."""
    if isinstance(expected, list):
        return 0.0
    expected = np.asarray(expected)
    if actual.shape != expected.shape:
        return np.inf
    if expected.dtype.kind in "OUS":
        same = actual.astype(str) == expected.astype(str)
        return 0.0 if same.all() else np.inf
    if expected.dtype.kind in "iub":
        return 0.0 if np.array_equal(actual, expected) else np.inf
    a, b = actual.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(b)
    if not np.array_equal(finite, np.isfinite(a)):
        return np.inf
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return np.inf
    if not finite.any():
        return 0.0
    return float(np.abs(a[finite] - b[finite]).max() / max(np.abs(b[finite]).max(), 1e-30))


def in_any_order(actual, expected):
    """The rows of `actual` (its last axis), each moved to where `expected` has the nearest one."""
    width = expected.shape[-1]
    if actual.shape != expected.shape:
        return actual
    rows, wanted = actual.reshape(-1, width), expected.reshape(-1, width)
    found, free = np.empty_like(rows), np.ones(len(rows), bool)
    for at, row in enumerate(wanted):
        distances = np.where(free, np.abs(rows - row).max(axis=1), np.inf)
        nearest = int(distances.argmin())
        found[at], free[nearest] = rows[nearest], False
    return found.reshape(actual.shape)


def differences(actual, expected, unordered=False):
    missing = [name for name in expected if name not in actual]
    if missing:
        return np.inf, f"no output {missing[0]}"
    if unordered:
        actual = {name: in_any_order(actual[name], value) for name, value in expected.items()}
    found = {name: difference(actual[name], value) for name, value in expected.items()}
    worst = max(found, key=found.get, default=None)
    return (found[worst], worst) if worst else (0.0, "")


def is_constant(expected):
    """True if the outputs hardly depend on anything, so that agreement says little."""
    floats = [
        np.asarray(value, np.float64)
        for value in expected.values()
        if not isinstance(value, list) and np.asarray(value).dtype.kind == "f" and np.size(value) > 1
    ]
    if not floats:
        return False
    return all(np.ptp(value) <= 1e-6 * max(np.abs(value).max(), 1e-30) for value in floats)


def flat(outputs):
    """Sequences of maps as the three arrays that Belljar writes for them."""
    found = {}
    for name, value in outputs.items():
        if isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
            parts = [sorted(part.items()) for part in value]
            found[f"{name}.keys"] = np.array([key for part in parts for key, _ in part])
            found[f"{name}.values"] = np.array([number for part in parts for _, number in part])
            found[f"{name}.lengths"] = np.array([len(part) for part in parts])
        else:
            found[name] = value
    return found


class Session:
    """onnxruntime with one thread."""

    def __init__(self, model, exact):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        if exact:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        # Exact integer products on processors without VNNI.
        options.add_session_config_entry("session.x64quantprecision", "1")
        self.session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        self.outputs = [output.name for output in self.session.get_outputs()]

    def run(self, feeds):
        return flat(dict(zip(self.outputs, self.session.run(None, feeds))))

    def time(self, feeds):
        self.run(feeds)
        times, end = [], time.monotonic() + 0.5
        while not times or (time.monotonic() < end and len(times) < 100):
            begun = time.perf_counter()
            self.run(feeds)
            times.append((time.perf_counter() - begun) * 1000)
        return min(times)


def with_full_accuracy(model):
    """The model, or a copy in which no product may round its float inputs to bytes, as onnxruntime
    does where a model allows it (`accuracy_level`)."""
    graph = onnx.load(str(model), load_external_data=False)
    changed = False
    for node in graph.graph.node:
        for attribute in node.attribute:
            if attribute.name == "accuracy_level" and attribute.i > 1:
                attribute.i, changed = 1, True
    if not changed:
        return model
    # Beside the model, as weights in other files are looked for there.
    copy = model.with_suffix(".exact")
    copy.write_bytes(graph.SerializeToString())
    return copy


def reference(model, feeds):
    """ONNX's own implementation of the operators."""
    from onnx.reference import ReferenceEvaluator

    def alarm(*_):
        raise TimeoutError(f"the reference took longer than {REFERENCE_SECONDS} s")

    signal.signal(signal.SIGALRM, alarm)
    signal.alarm(REFERENCE_SECONDS)
    try:
        evaluator = ReferenceEvaluator(str(model))
        return dict(zip(evaluator.output_names, evaluator.run(None, feeds)))
    finally:
        signal.alarm(0)


class Runner:
    def __init__(self, folder, belljar, quick):
        self.folder, self.belljar, self.hurry, self.quick = folder, belljar.resolve(), quick, quick
        self.work = folder / "work"
        self.work.mkdir(exist_ok=True)
        self.lock = (self.work / "lock").open("w")
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(f"survey: another survey runs in {folder}")
        self.results = read_results(folder)
        self.cache = folder / "cache"
        self.environment = {
            **os.environ,
            "BELLJAR_CACHE_DIR": str(self.cache),
            "BELLJAR_STATE_DIR": str(folder / "state"),
        }
        subprocess.run([self.belljar, "warm", "--quiet"], env=self.environment, check=True, stdout=sys.stderr)

    def row(self, model, case, again):
        name = row_name(model, case)
        known = self.results.get(name)
        if known and not again and (self.quick or known["onnxruntime_ms"] or "not run" in known["result"]):
            return
        marker = self.work / "running"
        if marker.exists() and marker.read_text() == name:
            self.save(name, model, result="not run: onnxruntime ended the process")
            marker.unlink()
            return
        marker.write_text(name)
        print(f"survey: running {name}", file=sys.stderr, flush=True)
        try:
            self.save(name, model, **self.compare(name, model, case))
        except Exception as error:
            # A fault of the survey, which must not hide the other rows.
            text = f"{type(error).__name__}: {error}".splitlines()[0]
            self.save(name, model, result=f"not run: {text[:300]}")
        marker.unlink(missing_ok=True)
        row = self.results[name]
        print(f"survey:   {row['result']} {row['error']} {row['ratio']}", file=sys.stderr, flush=True)

    def save(self, name, model, **values):
        size = sum(file.stat().st_size for file in model.parent.glob(f"{model.name}*"))
        row = {"name": name, "tool": names.tool(name), "MB": f"{size / 1e6:.1f}"}
        self.results[name] = dict.fromkeys(COLUMNS, "") | row | values
        write_results(self.folder, self.results)

    def compare(self, name, model, case):
        notes = json.loads((model.parent / "notes.json").read_text())
        # A model that is not kept cannot be timed later.
        self.quick = self.hurry and not notes.get("discard")
        first = model.with_suffix(f".{case}.1.npz")
        second = model.with_suffix(f".{case}.2.npz")
        shutil.rmtree(self.cache / "snapshots", ignore_errors=True)
        policy = self.policy(model, notes)
        row, remarks = {}, [notes["why"]] if "why" in notes else []
        if "memory" in notes:
            remarks.append(f"memory raised to {notes['memory']}")
        status, taken, message, answer = self.belljar_run(model, first, policy)
        row["first_run_ms"] = "" if self.quick else ms(taken)
        judge = Judge(model, tolerance(name, notes), notes.get("unordered", False))
        if not self.quick:
            row["onnxruntime_ms"] = ms(judge.time(load(first)))
        if status != 0:
            row["first_run_ms"] = ""
            if judge.failure or not judge.answers(load(first)):
                remarks.append(judge.failure or "it fails on these inputs")
                return row | {"result": "not run: onnxruntime does not answer either", "note": "; ".join(remarks)}
            kind = {4: "refused", 5: "limit", 6: "crash"}.get(status, "error")
            return row | {"result": f"{kind}: {message}", "note": "; ".join(remarks)}
        verdict, error, remark = judge.verdict(answer, load(first))
        remarks += remark
        if second.exists() and verdict != "not run":
            status, taken, message, answer = self.belljar_run(model, second, policy)
            if status != 0 and not judge.answers(load(second)):
                remarks.append("onnxruntime has no answer for the second shape either")
            elif status != 0:
                kind = {4: "refused", 5: "limit", 6: "crash"}.get(status, "error")
                verdict = f"{kind} at the second shape: {message}"
            else:
                row["second_shape_ms"] = "" if self.quick else ms(taken)
                again, other, remark = judge.verdict(answer, load(second))
                remarks += [f"second shape: {text}" for text in remark]
                if again == "not run":
                    remarks.append("second shape: not run by onnxruntime")
                else:
                    error = max(error, other)
                    if verdict == "right" and again != "right":
                        verdict = f"{again} at the second shape"
        if not self.quick:
            warm = self.bench(model, first, policy)
            row["belljar_ms"] = ms(warm)
            if warm is None:
                remarks.append("a run takes longer than a second")
            elif row["onnxruntime_ms"]:
                row["ratio"] = ms(warm / float(row["onnxruntime_ms"]))
        return row | {"result": verdict, "error": f"{error:.1e}", "note": "; ".join(dict.fromkeys(remarks))}

    def policy(self, model, notes):
        """A policy for models with weights in other files, or that need more than the default."""
        files = sorted(model.parent.glob(f"{model.name}.data*"))
        if not files and "memory" not in notes:
            return []
        text = "version = 1\n"
        if "memory" in notes:
            size = notes.get("model_size", "512 MiB")
            text += f'[limits]\nmemory = "{notes["memory"]}"\nmodel-size = "{size}"\n'
        for file in files:
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            text += f'[[filesystem]]\nhost = "{file.name}"\nguest = "/{file.name}"\nsha256 = "{digest}"\n'
            text += 'reason = "the weights"\n'
        path = model.parent / "policy.toml"
        path.write_text(text)
        return ["--policy", str(path)]

    def belljar_run(self, model, inputs, policy):
        """The exit code, the wall time of the command in ms, the message, and the answer."""
        output = self.work / "out.npz"
        output.unlink(missing_ok=True)
        command = [self.belljar, "run", model, "-i", inputs, "-o", output, "--force", "--quiet", *policy]
        begun = time.perf_counter()
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, errors="replace")
        taken = (time.perf_counter() - begun) * 1000
        message = first_error(done.stderr, model)
        answer = load(output) if done.returncode == 0 else None
        return done.returncode, taken, message, answer

    def bench(self, model, inputs, policy):
        command = [self.belljar, "bench", model, "-i", inputs, "--format", "json", "--quiet",
                   "--max-time", "1 s", *policy]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        if done.returncode:
            return None
        return (json.loads(done.stdout).get("warm_ms") or {}).get("min")


class Judge:
    """onnxruntime, and ONNX's reference where onnxruntime fails or disagrees."""

    def __init__(self, model, limit, unordered):
        self.model, self.limit, self.unordered, self.failure = model, limit, unordered, None
        rounds = limit != TOLERANCE
        try:
            self.fast = Session(model, exact=False)
            self.exact = Session(with_full_accuracy(model), exact=True) if rounds else self.fast
        except Exception as error:
            self.failure = first_line(error)
        if self.failure:
            # Its optimisers refuse some models that it runs without them.
            try:
                self.fast = self.exact = Session(model, exact=True)
                self.failure = None
            except Exception:
                pass

    def time(self, feeds):
        if self.failure:
            return None
        try:
            return self.fast.time(feeds)
        except Exception as error:
            self.failure = first_line(error)
            return None

    def answers(self, feeds):
        try:
            self.fast.run(feeds)
            return True
        except Exception:
            return False

    def verdict(self, answer, feeds):
        remarks = []
        if self.failure:
            remarks.append(f"onnxruntime: {self.failure}")
            error = np.inf
        else:
            expected = self.exact.run(feeds)
            lists = [name for name, value in expected.items() if isinstance(value, list)]
            if lists:
                remarks.append(f"not compared, as they are not tensors: {', '.join(lists)}")
                expected = {name: value for name, value in expected.items() if name not in lists}
            error, worst = differences(answer, expected, self.unordered)
            if error > TOLERANCE and self.fast is not self.exact:
                # Sums in another order are rounded to other steps: its optimised run counts, too.
                optimised = self.fast.run(feeds)
                other, where = differences(
                    answer, {name: optimised[name] for name in expected}, self.unordered
                )
                if other < error:
                    error, worst = other, where
            if is_constant(expected):
                remarks.append("the output is constant, so this says little")
            if error <= self.limit:
                return "right", error, remarks
        try:
            expected = reference(self.model, feeds)
            other, where = differences(answer, expected, self.unordered)
        except Exception as failure:
            if self.failure:
                return "not run", 0.0, [*remarks, f"ONNX's reference: {first_line(failure)}"]
            return "wrong", error, [*remarks, f"output {worst}"]
        if other <= self.limit:
            far = "fails" if self.failure else f"differs by {error:.1e}"
            return "right", other, [*remarks, f"as ONNX's reference; onnxruntime {far}"]
        return "wrong", min(error, other), [*remarks, f"output {where}; {other:.1e} from ONNX's reference"]


def load(path):
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def first_line(error):
    text = str(error).strip() or type(error).__name__
    return without_paths(text.splitlines()[0])[:240]


def without_paths(text):
    """Messages name files of this machine, but not the machine's folders."""
    return re.sub(r"/\S*/(?=\S+\.(?:py|h|cc|onnx|data|npz)\b)", "", text)


def first_error(text, model):
    lines = [line for line in text.splitlines() if line.startswith("belljar: error: ")]
    message = lines[0].removeprefix("belljar: error: ") if lines else text.strip()[-300:]
    message = message.replace(str(model.parent) + "/", "").removeprefix("model.onnx: ")
    return re.sub(r"\s+", " ", message)[:400]
