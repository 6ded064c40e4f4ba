"""Random configurations of each operator, one generator per operator."""

from .draw import Draw
from . import activations, normalization, weights, products, recurrent, attention, grouped, quantized, shapes, images, texts, experts, states

GENERATORS = {}
for family in (activations, normalization, weights, products, recurrent, attention, grouped, quantized, shapes, images, texts, experts, states):
    GENERATORS |= family.GENERATORS
