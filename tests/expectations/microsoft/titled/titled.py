"""A file of cases with titles."""

import numpy as np

import reference
from cases import Case, pseudorandom

# How far onnxruntime may be from the definition. The unit tests allow twice as much.
TOLERANCE = 2e-6


class Random:
    """An input of pseudorandom numbers, which is written as its seed."""

    seeds = 0

    def __init__(self, *shape):
        Random.seeds += 1
        self.seed = Random.seeds
        self.value = pseudorandom(shape, self.seed)


def value(tensor):
    return tensor.value if isinstance(tensor, Random) else tensor


def i32(*numbers):
    return np.array(numbers, np.int32)


def i64(*numbers):
    return np.array(numbers, np.int64)


def agrees(ours, theirs):
    apart = np.where(np.isnan(ours) & np.isnan(theirs), 0, np.abs(ours - theirs))
    return ours.shape == theirs.shape and apart.max(initial=0) < TOLERANCE * (1 + np.abs(ours).max(initial=0))


class Titled:
    """The cases of a file. `run` gives the outputs of onnxruntime, or the text of its error."""

    def __init__(self, run):
        self.run, self.cases = run, []

    def add(self, title, operator, attributes, inputs, outputs=1, **how):
        """A case with so many outputs, computed by a `definition` other than that of `reference/` if one is
        given. `differs` is why onnxruntime refuses it, and `unlike` why it computes something else.
        `free` are indices whose values are not specified."""
        definition, differs, unlike = map(how.get, ("definition", "differs", "unlike"))
        seeds = {at: tensor.seed for at, tensor in enumerate(inputs) if isinstance(tensor, Random)}
        wanted = [True] * outputs if isinstance(outputs, int) else outputs
        case = Case([value(tensor) for tensor in inputs], attributes, outputs=wanted)
        case.operator, case.seeds = operator, seeds
        case.compute(definition or reference.OPERATORS[operator])
        case.expected = [array.astype(np.float32) for array in case.expected]
        actual = self.run(case)
        if differs:
            assert isinstance(actual, str), f"{title}: onnxruntime computes it"
        else:
            assert not isinstance(actual, str), f"{title}: {actual}"
            for at, index in how.get("free", ()):
                actual[at][index] = case.expected[at][index]
            equal = all(map(agrees, case.expected, actual))
            assert equal == (not unlike), f"{title}: onnxruntime {'agrees' if equal else 'differs'}"
        self.cases.append((title, case))
