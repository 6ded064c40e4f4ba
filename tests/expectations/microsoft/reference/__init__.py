"""Plain definitions of operators, written from onnxruntime's documentation (ContribOperators.md).

A function takes a node's inputs (None for an absent one), its attributes as keyword arguments, and
returns an array or a tuple of all outputs. Sums are in double precision, and the result is rounded
once to its element type. Loops are plain on purpose: these functions are judges, not competitors.
"""

from . import (
    activations,
    normalization,
    weights,
    products,
    recurrent,
    attention,
    grouped,
    quantized,
    shapes,
    images,
    texts,
    experts,
    states,
)

OPERATORS = {}
for family in (
    activations,
    normalization,
    weights,
    products,
    recurrent,
    attention,
    grouped,
    quantized,
    shapes,
    images,
    texts,
    experts,
    states,
):
    OPERATORS |= family.OPERATORS
