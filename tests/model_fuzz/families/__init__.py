"""The families of operators: each module registers its own."""

from . import (  # noqa: F401
    elementwise, images, movement, pools, products, quantized, reductions, sequences, signals,
)
