"""Random configurations of each operator, one generator per operator."""

from .draw import Draw
from . import activations, normalization, weights

GENERATORS = {}
for family in (activations, normalization, weights):
    GENERATORS |= family.GENERATORS
