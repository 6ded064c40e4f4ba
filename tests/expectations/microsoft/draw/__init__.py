"""Random configurations of each operator, one generator per operator."""

from .draw import Draw
from . import activations, normalization, weights, products, recurrent, attention, grouped, quantized, shapes, images, texts

GENERATORS = {}
for family in (activations, normalization, weights, products, recurrent, attention, grouped, quantized, shapes, images, texts):
    GENERATORS |= family.GENERATORS
