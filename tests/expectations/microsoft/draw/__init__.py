"""Random configurations of each operator, one generator per operator."""

from .draw import Draw
from . import activations, normalization, weights, products, recurrent, attention, grouped

GENERATORS = {}
for family in (activations, normalization, weights, products, recurrent, attention, grouped):
    GENERATORS |= family.GENERATORS
