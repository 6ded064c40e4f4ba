"""Pools and normalizations."""

import math

import numpy as np

from graph import divisors, floats, need, operators


@operators("MaxPool AveragePool LpPool GlobalAveragePool GlobalMaxPool GlobalLpPool")
def pool(g, operator, x, v):
    floats(v, 3, 5)
    power = g.between(1, 3) if operator.endswith("LpPool") else None
    if operator.startswith("Global"):
        return g.op(operator, [x], p=power)
    spatial, version = v.ndim - 2, {"AveragePool": 19, "LpPool": 18}.get(operator, 10)
    kernel, strides = g.several(spatial, [1, 2, 3]), g.several(spatial, [1, 2, 3])
    auto = g.choose([None] * 3 + ["SAME_UPPER", "SAME_LOWER", "VALID"])
    attributes = {"kernel_shape": kernel, "strides": strides if g.chance(0.8) else None,
                  "auto_pad": auto, "p": power}
    if not auto:
        attributes["pads"] = [g.between(0, width - 1) for width in kernel * 2]
    if g.opset >= version and auto in (None, "VALID"):
        attributes["dilations"] = g.several(spatial, [1, 1, 2])
    if g.opset >= (10 if operator == "AveragePool" else version) and not auto:
        attributes["ceil_mode"] = g.between(0, 1)
    if operator == "AveragePool":
        attributes["count_include_pad"] = g.between(0, 1)
    if operator == "MaxPool" and g.chance(0.3):
        return g.op(operator, [x], 2, storage_order=g.between(0, 1), **attributes)
    return g.op(operator, [x], **attributes)


@operators("MaxUnpool")
def max_unpool(g, operator, x, v):
    floats(v, 3, 4)
    kernel = g.several(v.ndim - 2, [2, 3])
    strides = g.choose([kernel, [2] * len(kernel)])
    y = g.op("MaxPool", [x], 2, kernel_shape=kernel, strides=strides)
    inputs = [y, g.nodes[-1].output[1]] + [g.ints(v.shape, 0)] * g.chance(0.5)
    return g.op(operator, inputs, kernel_shape=kernel, strides=strides)


@operators("BatchNormalization InstanceNormalization GroupNormalization")
def by_channel(g, operator, x, v):
    floats(v, 2 if operator[0] == "B" else 3, 5)
    # Without the variance of several elements, the result is the rounding error of the judges.
    need(operator[0] == "B" or math.prod(v.shape[2:]) > 1)
    channels, attributes = v.shape[1], {"epsilon": g.choose([None, 0.01])}
    inputs = [x, g.noise(channels), g.noise(channels)]
    if operator[0] == "B":
        variance = np.abs(g.random((channels,))) + np.float32(0.2)
        inputs += [g.noise(channels), g.given(variance)]
    if operator[0] == "G":
        need(g.opset >= 21)  # before, it scaled groups, and implementations disagree
        attributes["num_groups"] = g.choose(divisors(channels))
    return g.op(operator, inputs, **attributes)


@operators("LayerNormalization RMSNormalization")
def by_layer(g, operator, x, v):
    floats(v, 1)
    need(v.size >= 2 and g.opset >= (17 if operator[0] == "L" else 23))
    axis = g.between(-v.ndim, v.ndim - 1)
    shape = v.shape[axis:] if g.chance(0.8) else g.broadcasting(v.shape[axis:])
    inputs = [x, g.noise(*shape)] + [g.noise(*shape)] * (operator[0] == "L" and g.chance(0.6))
    return g.op(operator, inputs, axis=axis, epsilon=g.choose([None, 0.01]))


@operators("LpNormalization MeanVarianceNormalization LRN")
def other_normalization(g, operator, x, v):
    floats(v, 1 if operator == "LpNormalization" else 4, 4)
    if operator == "LpNormalization":
        return g.op(operator, [x], axis=g.choose([None, g.axis(v.ndim)]), p=g.between(1, 2))
    if operator == "LRN":
        bias = g.choose([None, 2.0])
        return g.op(operator, [x], size=g.choose([1, 2, 3, 5]), alpha=0.1, beta=0.6, bias=bias)
    return g.op(operator, [x], axes=g.choose([None, [0, 2, 3], [1], [0, 1, 2, 3]]))
