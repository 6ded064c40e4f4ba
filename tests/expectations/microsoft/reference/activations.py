"""Gelu and its variants, all elementwise."""

import math

import numpy as np

erf = np.vectorize(math.erf, otypes=[np.float64])


def sigmoid(x):
    # Each branch takes the exponential only of negative numbers, so that it cannot overflow.
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + small), small / (1 + small))


def exact_gelu(x):
    """x times the normal distribution's probability of a value below x."""
    return x * 0.5 * (1 + erf(x / math.sqrt(2))) if x.size else x


def tanh_gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def gelu(x):
    return exact_gelu(x.astype(np.float64)).astype(x.dtype)


def fast_gelu(x, bias=None):
    total = x.astype(np.float64)
    if bias is not None:
        total = total + bias
    return tanh_gelu(total).astype(x.dtype)


def quick_gelu(x, *, alpha=1.702):
    wide = x.astype(np.float64)
    return (wide * sigmoid(np.float32(alpha) * wide)).astype(x.dtype)


def bias_gelu(a, b):
    return exact_gelu(a.astype(np.float64) + b).astype(a.dtype)


OPERATORS = {"Gelu": gelu, "FastGelu": fast_gelu, "QuickGelu": quick_gelu, "BiasGelu": bias_gelu}
