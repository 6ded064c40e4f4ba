"""Random configurations of each operator, one generator per operator."""

from .draw import Draw
from . import activations, normalization, weights, products, recurrent, attention, grouped, quantized

GENERATORS = {}
for family in (activations, normalization, weights, products, recurrent, attention, grouped, quantized):
    GENERATORS |= family.GENERATORS
