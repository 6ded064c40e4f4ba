"""One test case: a model of one node, its inputs, and what the reference says of its outputs."""

import json

import numpy as np
from onnx import TensorProto, helper, load_tensor, numpy_helper

# Absolute and relative tolerance by element type, where a case states none of its own.
TOLERANCES = {"float16": 4e-3, "bfloat16": 3e-2, "float32": 2e-5, "float64": 1e-9}


HIDDEN = "hidden"


class Case:
    """`inputs` are arrays, or None for an absent one; inputs whose numbers are in `constants` become
    initializers. `outputs` says which outputs the node has, by one truth value each; HIDDEN stands for
    an output that the node has but the graph has not, because its values are unspecified in part."""

    def __init__(
        self,
        inputs,
        attributes=None,
        *,
        outputs=(True,),
        constants=(),
        domain="com.microsoft",
        tolerance=None,
        trim=True,
        in_place=None,
    ):
        self.inputs = [None if array is None else np.asarray(array) for array in inputs]
        # Absent inputs at the end are left out, or (without `trim`) written as empty names.
        while trim and self.inputs[-1] is None:
            self.inputs.pop()
        self.attributes = attributes or {}
        self.outputs = [HIDDEN if wanted == HIDDEN else bool(wanted) for wanted in outputs]
        while not self.outputs[-1]:
            self.outputs.pop()
        self.constants = set(constants)
        self.domain = domain
        self.tolerance = tolerance
        # Outputs that onnxruntime wants to write over an input: {output: input}.
        self.in_place = in_place or {}
        # Inputs whose numbers follow from a seed: {input: seed}.
        self.seeds = {}
        self.operator = None
        self.expected = None

    def compute(self, function):
        results = function(*self.inputs, **self.attributes)
        if not isinstance(results, tuple):
            results = (results,)
        self.expected = [np.asarray(results[i]) for i, wanted in enumerate(self.outputs) if wanted is True]

    def difference(self, actual):
        """Why the outputs of another implementation are not the expected ones, or None."""
        for number, (ours, theirs) in enumerate(zip(self.expected, actual, strict=True)):
            problem = difference(ours, theirs, self.tolerance)
            if problem:
                return f"output {number}: {problem}"
        return None

    def names(self):
        return ["" if array is None else f"input_{i}" for i, array in enumerate(self.inputs)]

    def feeds(self):
        return {
            name: array
            for i, (name, array) in enumerate(zip(self.names(), self.inputs))
            if array is not None and i not in self.constants
        }

    def model(self):
        names = self.names()
        outputs = [f"output_{i}" if wanted else "" for i, wanted in enumerate(self.outputs)]
        shown = [name for name, wanted in zip(outputs, self.outputs) if wanted is True]
        node = helper.make_node(self.operator, names, outputs, domain=self.domain)
        for name, value in self.attributes.items():
            node.attribute.append(helper.make_attribute(name, value))
        graph = helper.make_graph(
            [node],
            self.operator,
            [value_info(name, array) for name, array in self.feeds().items()],
            [value_info(name, array) for name, array in zip(shown, self.expected)],
            [
                to_proto(self.inputs[i], names[i])
                for i in sorted(self.constants)
                if i < len(self.inputs) and self.inputs[i] is not None
            ],
        )
        imports = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=imports, ir_version=10, producer_name="")

    def files(self):
        """The content of the case's files, laid out as ONNX's own test cases."""
        model = self.model()
        found = {"model.onnx": model.SerializeToString(deterministic=True)}
        for i, (name, array) in enumerate(self.feeds().items()):
            found[f"test_data_set_0/input_{i}.pb"] = to_proto(array, name).SerializeToString(
                deterministic=True
            )
        for i, (info, array) in enumerate(zip(model.graph.output, self.expected)):
            found[f"test_data_set_0/output_{i}.pb"] = to_proto(array, info.name).SerializeToString(
                deterministic=True
            )
        if self.tolerance:
            found["tolerance.json"] = (json.dumps({"tolerance": self.tolerance}) + "\n").encode()
        return found

    def size(self):
        return sum(len(content) for content in self.files().values())

    def features(self):
        """What distinguishes the configuration: attributes, present inputs, types, ranks, outputs."""
        found = {
            (name, str(value)) for name, value in self.attributes.items() if not isinstance(value, float)
        }
        found |= {(name, value == 0) for name, value in self.attributes.items() if isinstance(value, float)}
        for i, array in enumerate(self.inputs):
            found.add((i, None) if array is None else (i, str(array.dtype), array.ndim, array.size == 0))
        return found | {("outputs", tuple(self.outputs))}

    def describe(self):
        inputs = ["-" if x is None else f"{x.dtype}{list(x.shape)}" for x in self.inputs]
        return f"{self.attributes} inputs {' '.join(inputs)} outputs {self.outputs}"


def pseudorandom(shape, state):
    """Multiples of 1/64 from -2 to 2, as onnx-ops' own tests make them from the same seed."""
    numbers = np.empty(int(np.prod(shape)), np.float32)
    for at in range(numbers.size):
        state = (state * 1664525 + 1013904223) % 2**32
        numbers[at] = (state >> 24) / 64 - 2
    return numbers.reshape(shape)


def difference(ours, theirs, tolerance=None, trim=True, in_place=None):
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    if ours.dtype.kind in "OUS":
        ours, theirs = ours.astype(object), theirs.astype(object)
    elif ours.dtype != theirs.dtype:
        return f"type {theirs.dtype} instead of {ours.dtype}"
    if ours.shape != theirs.shape:
        return f"shape {list(theirs.shape)} instead of {list(ours.shape)}"
    if ours.dtype.kind in "Oiub":
        wrong = ours != theirs
    else:
        bound = tolerance or TOLERANCES[str(ours.dtype)]
        a, b = ours.astype(np.float64), theirs.astype(np.float64)
        with np.errstate(invalid="ignore"):
            gap = np.abs(a - b)
        wrong = ~(
            (np.isfinite(a) & (gap <= bound * (1 + np.abs(a)))) | (a == b) | (np.isnan(a) & np.isnan(b))
        )
    if not wrong.any():
        return None
    apart = ""
    if ours.dtype.kind in "iu":
        apart = f", at most {np.abs(ours.astype(object) - theirs.astype(object)).max()} apart"
    place = tuple(int(i) for i in np.argwhere(wrong)[0])
    return f"{wrong.sum()} of {wrong.size} elements differ{apart}, first at {list(place)}: {theirs[place]} instead of {ours[place]}"


def compare_folders(place, outputs):
    """Compares output_N.pb in two folders; returns the first problem."""
    stated = place / "tolerance.json"
    bounds = json.loads(stated.read_text()) if stated.exists() else {}
    for path in sorted((place / "test_data_set_0").glob("output_*.pb")):
        if not (outputs / path.name).exists():
            return f"{path.name} is missing"
        pair = [numpy_helper.to_array(load_tensor(str(p))) for p in (path, outputs / path.name)]
        problem = difference(*pair, **bounds)
        if problem:
            return f"{path.name}: {problem}"
    return None


def element_type(array):
    if array.dtype.kind in "OUS":
        return TensorProto.STRING
    return helper.np_dtype_to_tensor_dtype(array.dtype)


def value_info(name, array):
    return helper.make_tensor_value_info(name, element_type(np.asarray(array)), list(np.shape(array)))


def to_proto(array, name):
    array = np.asarray(array)
    if array.dtype.kind in "OUS":
        encoded = [text.encode() for text in array.reshape(-1)]
        return helper.make_tensor(name, TensorProto.STRING, array.shape, encoded)
    return numpy_helper.from_array(array, name)
