"""What a module of this folder says about a model: its name, how to make it, and its inputs."""

import dataclasses
import typing


@dataclasses.dataclass
class Inputs:
    """How to draw inputs for a model whose declaration does not say enough.

    `sizes` has the sizes of open dimensions: by the name of the dimension, or by INPUT:AXIS where it
    has no name. Each is one number, or two for the first and the second shape. `values` has the
    values of inputs: an array, or a function of the shape and the random generator.
    """

    sizes: dict = dataclasses.field(default_factory=dict)
    values: dict = dataclasses.field(default_factory=dict)
    vocabulary: int = 200


@dataclasses.dataclass
class Entry:
    """One folder of models. `make(folder)` writes ONNX files into it; without inputs of its own, the
    folder has them already (copied from another entry)."""

    name: str
    make: typing.Callable
    inputs: Inputs | None = dataclasses.field(default_factory=Inputs)
    # Names of entries that must be made before.
    needs: tuple = ()
    # For the run: {"memory": "4 GiB"}, {"tolerance": 1e-2, "why": …}, {"judge": "reference"}.
    notes: dict = dataclasses.field(default_factory=dict)
