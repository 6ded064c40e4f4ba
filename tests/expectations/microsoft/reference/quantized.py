"""Operators on 8-bit tensors, each with a scale and a zero point: dequantize, compute, quantize.

All arithmetic between the integers is in float32, as in QuantizeLinear and DequantizeLinear.
"""

import itertools

import numpy as np

from .activations import sigmoid
from .attention import softmax
from .normalization import embed_layer_normalization
from .products import convolve, window


def centred(x, zero):
    return x.astype(np.int64) - (0 if zero is None else zero.astype(np.int64))


def dequantize(x, scale, zero):
    return centred(x, zero).astype(np.float32) * scale.astype(np.float32).reshape(-1)[0]


def quantize(x, scale, zero, dtype):
    """Rounds to the nearest integer, ties to even, and saturates."""
    steps = np.rint(np.asarray(x, np.float32) / np.float32(scale.reshape(-1)[0]))
    shifted = steps + (0 if zero is None else float(zero.reshape(-1)[0]))
    info = np.iinfo(dtype)
    return np.clip(shifted, info.min, info.max).astype(dtype)


def along(parameter, x, axis):
    """A parameter per tensor, or one per position of an axis, spread over x."""
    if parameter is None or parameter.size == 1:
        return 0 if parameter is None else parameter.reshape(())
    return parameter.reshape([-1 if i == axis % x.ndim else 1 for i in range(x.ndim)])


def quantize_linear(x, scale, zero=None, *, axis=1):
    kind = np.dtype(np.uint8) if zero is None else zero.dtype
    low, high = {"int4": (-8, 7), "uint4": (0, 15)}.get(str(kind)) or (np.iinfo(kind).min, np.iinfo(kind).max)
    steps = np.rint(x / along(scale, x, axis).astype(np.float32))
    offset = 0 if zero is None else along(zero.astype(np.int64), x, axis)
    return np.clip(steps.astype(np.int64) + offset, low, high).astype(kind)


def dequantize_linear(x, scale, zero=None, *, axis=1):
    offset = 0 if zero is None else along(zero.astype(np.int64), x, axis)
    return ((x.astype(np.int64) - offset).astype(np.float32) * along(scale, x, axis)).astype(np.float32)


def nhwc_max_pool(
    x, *, kernel_shape, strides=None, pads=None, dilations=None, auto_pad="NOTSET", ceil_mode=0
):
    value = first_channels(x)
    rank = x.ndim - 2
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    begin, outputs = window(value.shape[2:], kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    result = np.full(value.shape[:2] + tuple(outputs), np.iinfo(x.dtype).min, x.dtype)
    for place in itertools.product(*map(range, outputs)):
        for tap in itertools.product(*map(range, kernel_shape)):
            at = [place[i] * strides[i] + tap[i] * dilations[i] - begin[i] for i in range(rank)]
            if all(0 <= at[i] < value.shape[2 + i] for i in range(rank)):
                here = (slice(None), slice(None), *place)
                result[here] = np.maximum(result[here], value[(slice(None), slice(None), *at)])
    return np.moveaxis(result, 1, -1)


def mat_mul_integer16(a, b):
    return np.matmul(a.astype(np.int64), b.astype(np.int64)).astype(np.int32)


def q_linear_add(a, a_scale, a_zero, b, b_scale, b_zero, c_scale, c_zero=None):
    total = dequantize(a, a_scale, a_zero) + dequantize(b, b_scale, b_zero)
    return quantize(total, c_scale, c_zero, a.dtype)


def q_linear_mul(a, a_scale, a_zero, b, b_scale, b_zero, c_scale, c_zero=None):
    product = dequantize(a, a_scale, a_zero) * dequantize(b, b_scale, b_zero)
    return quantize(product, c_scale, c_zero, a.dtype)


def q_linear_sigmoid(x, x_scale, x_zero, y_scale, y_zero=None):
    return quantize(sigmoid(dequantize(x, x_scale, x_zero).astype(np.float64)), y_scale, y_zero, x.dtype)


def q_linear_leaky_relu(x, x_scale, x_zero, y_scale, y_zero=None, *, alpha=0.01):
    value = dequantize(x, x_scale, x_zero)
    return quantize(np.where(value >= 0, value, np.float32(alpha) * value), y_scale, y_zero, x.dtype)


def q_linear_softmax(x, x_scale, x_zero, y_scale, y_zero, *, opset, axis=-1):
    value = dequantize(x, x_scale, x_zero).astype(np.float64)
    axis %= x.ndim
    if opset < 13:
        # The axes from `axis` on count as one.
        rows = int(np.prod(x.shape[:axis]))
        result = softmax(value.reshape(rows, -1)).reshape(x.shape)
    else:
        result = np.moveaxis(softmax(np.moveaxis(value, axis, -1)), -1, axis)
    return quantize(result, y_scale, y_zero, x.dtype)


def q_linear_concat(y_scale, y_zero, *parts, axis):
    values = []
    for i in range(0, len(parts), 3):
        x, scale, zero = parts[i : i + 3]
        values.append(dequantize(x, scale, zero))
    return quantize(np.concatenate(values, axis), y_scale, y_zero, y_zero.dtype)


def q_linear_where(condition, x, x_scale, x_zero, y, y_scale, y_zero, z_scale, z_zero):
    chosen = np.where(condition, dequantize(x, x_scale, x_zero), dequantize(y, y_scale, y_zero))
    return quantize(chosen, z_scale, z_zero, x.dtype)


def first_channels(x):
    """Channels from the last axis to the second."""
    return np.moveaxis(x, -1, 1)


def q_linear_average_pool(
    x,
    x_scale,
    x_zero,
    y_scale,
    y_zero=None,
    *,
    kernel_shape,
    strides=None,
    pads=None,
    auto_pad="NOTSET",
    ceil_mode=0,
    count_include_pad=0,
    channels_last=0,
):
    value = centred(first_channels(x) if channels_last else x, x_zero)
    rank = x.ndim - 2
    sizes, strides = value.shape[2:], strides or [1] * rank
    begin, outputs = window(sizes, kernel_shape, strides, [1] * rank, pads, auto_pad, ceil_mode)
    end = [pads[rank + i] if pads else 0 for i in range(rank)]
    if auto_pad.startswith("SAME"):
        end = [
            max(0, (outputs[i] - 1) * strides[i] + kernel_shape[i] - sizes[i] - begin[i]) for i in range(rank)
        ]
    result = np.zeros(value.shape[:2] + tuple(outputs), np.float32)
    for place in itertools.product(*map(range, outputs)):
        total, inside, padded = np.zeros(value.shape[:2], np.int64), 0, 0
        for tap in itertools.product(*map(range, kernel_shape)):
            at = [place[i] * strides[i] + tap[i] - begin[i] for i in range(rank)]
            if all(0 <= at[i] < sizes[i] for i in range(rank)):
                total = total + value[(slice(None), slice(None), *at)]
                inside += 1
            if all(at[i] < sizes[i] + end[i] for i in range(rank)):
                padded += 1
        count = padded if count_include_pad else inside
        result[(slice(None), slice(None), *place)] = (
            total.astype(np.float32) * x_scale.reshape(-1)[0] / np.float32(count)
        )
    y = quantize(result, y_scale, y_zero, x.dtype)
    return np.moveaxis(y, 1, -1) if channels_last else y


def q_linear_global_average_pool(x, x_scale, x_zero, y_scale, y_zero, *, channels_last=0):
    value = centred(x, x_zero)
    axes = tuple(range(1, x.ndim - 1)) if channels_last else tuple(range(2, x.ndim))
    count = np.prod([x.shape[axis] for axis in axes])
    mean = value.sum(axes, keepdims=True).astype(np.float64) * x_scale.reshape(-1)[0] / count
    return quantize(mean, y_scale, y_zero, x.dtype)


def q_linear_conv(
    x,
    x_scale,
    x_zero,
    w,
    w_scale,
    w_zero,
    y_scale,
    y_zero,
    bias=None,
    *,
    group=1,
    pads=None,
    strides=None,
    dilations=None,
    kernel_shape=None,
    auto_pad="NOTSET",
    channels_last=0,
):
    value = centred(first_channels(x) if channels_last else x, x_zero)
    # Zero points of weights are one, or one per filter.
    weights = centred(w, w_zero.reshape([-1] + [1] * (w.ndim - 1)))
    total = convolve(
        value, weights, group=group, pads=pads, strides=strides, dilations=dilations, auto_pad=auto_pad
    )
    spread = [1, -1] + [1] * (x.ndim - 2)
    if bias is not None:
        total = total + bias.reshape(spread)
    factor = (x_scale * w_scale / y_scale).astype(np.float32).reshape(spread)
    y = quantize(total.astype(np.float32) * factor, np.float32(1), y_zero, y_zero.dtype)
    return np.moveaxis(y, 1, -1) if channels_last else y


def q_gemm(
    a,
    a_scale,
    a_zero,
    b,
    b_scale,
    b_zero,
    c=None,
    y_scale=None,
    y_zero=None,
    *,
    alpha=1.0,
    transA=0,
    transB=0,
):
    left = centred(a.T if transA else a, a_zero)
    right = centred(b.T if transB else b, b_zero)
    total = left @ right
    if c is not None:
        total = total + c
    factor = np.float32(alpha) * a_scale.astype(np.float32) * b_scale.astype(np.float32)
    if y_scale is None:
        return (total.astype(np.float64) * factor).astype(np.float32)
    return quantize(total.astype(np.float32) * (factor / y_scale), np.float32(1), y_zero, y_zero.dtype)


def q_embed_layer_normalization(
    ids,
    segment_ids,
    word,
    position,
    segment,
    gamma,
    beta,
    mask,
    word_scale,
    position_scale,
    segment_scale,
    gamma_scale,
    beta_scale,
    word_zero,
    position_zero,
    segment_zero,
    gamma_zero,
    beta_zero,
    *,
    epsilon=1e-12,
):
    wide = None if segment is None else dequantize(segment, segment_scale, segment_zero)
    output, index, _ = embed_layer_normalization(
        ids,
        segment_ids,
        dequantize(word, word_scale, word_zero),
        dequantize(position, position_scale, position_zero),
        wide,
        dequantize(gamma, gamma_scale, gamma_zero),
        dequantize(beta, beta_scale, beta_zero),
        mask,
        epsilon=epsilon,
    )
    return output, index


OPERATORS = {
    "QuantizeLinear": quantize_linear,
    "DequantizeLinear": dequantize_linear,
    "NhwcMaxPool": nhwc_max_pool,
    "MatMulInteger16": mat_mul_integer16,
    "QGemm": q_gemm,
    "QLinearAdd": q_linear_add,
    "QLinearMul": q_linear_mul,
    "QLinearSigmoid": q_linear_sigmoid,
    "QLinearLeakyRelu": q_linear_leaky_relu,
    "QLinearSoftmax": q_linear_softmax,
    "QLinearConcat": q_linear_concat,
    "QLinearWhere": q_linear_where,
    "QLinearAveragePool": q_linear_average_pool,
    "QLinearGlobalAveragePool": q_linear_global_average_pool,
    "QLinearConv": q_linear_conv,
    "QEmbedLayerNormalization": q_embed_layer_normalization,
}
