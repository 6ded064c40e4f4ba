"""Quantized numbers."""

import numpy as np

from graph import I32, I8, U8, divisors, need, operators


@operators("QuantizeLinear DequantizeLinear DynamicQuantizeLinear")
def quantize(g, operator, x, v):
    need(g.opset >= 10)
    if operator == "DynamicQuantizeLinear":
        return g.op(operator, [x], 3)
    axis = g.between(0, v.ndim - 1) if g.opset >= 13 and v.ndim and g.chance(0.5) else None
    shape = () if axis is None else (v.shape[axis],)
    inputs = [x, g.given(np.abs(g.random(shape)) / np.float32(10) + np.float32(0.05))]
    if v.dtype != I32:  # which only a scale converts
        dtype = g.choose([I8, U8]) if operator == "QuantizeLinear" else v.dtype
        inputs.append(g.given(g.random(shape, dtype)))
    return g.op(operator, inputs, axis=axis)


@operators("MatMulInteger ConvInteger")
def of_integers(g, operator, x, v):
    dtype = g.choose([I8, U8])
    need(v.dtype in (I8, U8) and v.ndim and v.size)
    if operator == "MatMulInteger":
        inputs, attributes = [x, g.given(g.random((v.shape[-1], 3), dtype))], {}
    else:
        need(v.ndim == 4)
        inputs = [x, g.given(g.random((2, v.shape[1], 2, 2), dtype))]
        attributes = {"pads": [1, 0, 1, 1], "strides": g.choose([None, [2, 1]])}
    if g.chance(0.6):
        inputs.append(g.given(g.random((), v.dtype)))
        if operator == "MatMulInteger":
            inputs.append(g.given(g.random(g.choose([(), (3,)]), dtype)))
    return g.op(operator, inputs, **attributes)


def quantization(g, dtype, shape=()):
    """A scale and a zero point."""
    scale = np.abs(g.random(shape)) / np.float32(10) + np.float32(0.02)
    return [g.given(scale, 0), g.given(g.random(shape, dtype), 0)]


@operators("QLinearConv QLinearMatMul")
def quantized(g, operator, x, v):
    need(v.dtype in (I8, U8) and v.size and g.opset >= 10)
    if operator == "QLinearMatMul":
        need(v.ndim >= 2)
        columns = g.between(1, 4)
        weights = g.random((*g.broadcasting(v.shape[:-2]), v.shape[-1], columns), v.dtype)
        each = quantization(g, v.dtype, g.choose([(), (columns,)]))
        return g.op(operator, [x, *quantization(g, v.dtype), g.given(weights), *each,
                               *quantization(g, v.dtype)])
    need(3 <= v.ndim <= 5)
    spatial, channels = v.ndim - 2, v.shape[1]
    group, kernel = g.choose(divisors(channels)), g.several(spatial, [1, 2, 3])
    made, dtype = group * g.between(1, 3), g.choose([I8, U8]) if v.dtype == U8 else I8
    weights = g.random((made, channels // group, *kernel), dtype)
    scales, zeros = quantization(g, dtype, g.choose([(), (made,)]))
    if dtype == I8:  # onnxruntime accepts no others
        zeros = g.given(np.zeros_like(g.values[zeros]), 0)
    inputs = [x, *quantization(g, v.dtype), g.given(weights, 0), scales, zeros,
              *quantization(g, v.dtype)]
    inputs += [g.given(g.random((made,), I32), 0)] * g.chance(0.5)
    return g.op(operator, inputs, group=group, strides=g.several(spatial, [1, 2]),
                dilations=g.several(spatial, [1, 1, 2]),
                pads=[g.between(0, width - 1) for width in kernel * 2])
