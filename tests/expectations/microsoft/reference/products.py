"""Products and convolutions that end in an activation, and products of quantized matrices."""

import itertools

import numpy as np

from .activations import sigmoid

# name: (function of x, alpha, beta; default alpha; default beta). The defaults are ONNX's.
ACTIVATIONS = {
    "Affine": (lambda x, a, b: a * x + b, 1.0, 0.0),
    "Elu": (lambda x, a, b: np.where(x >= 0, x, a * np.expm1(np.minimum(x, 0))), 1.0, 0.0),
    "HardSigmoid": (lambda x, a, b: np.clip(a * x + b, 0, 1), 0.2, 0.5),
    "LeakyRelu": (lambda x, a, b: np.where(x >= 0, x, a * x), 0.01, 0.0),
    "Relu": (lambda x, a, b: np.maximum(x, 0), 0.0, 0.0),
    "ScaledTanh": (lambda x, a, b: a * np.tanh(b * x), 1.0, 1.0),
    "Sigmoid": (lambda x, a, b: sigmoid(x), 0.0, 0.0),
    "Softplus": (lambda x, a, b: np.logaddexp(0, x), 0.0, 0.0),
    "Softsign": (lambda x, a, b: x / (1 + np.abs(x)), 0.0, 0.0),
    "Tanh": (lambda x, a, b: np.tanh(x), 0.0, 0.0),
    "ThresholdedRelu": (lambda x, a, b: np.where(x >= a, x, 0), 1.0, 0.0),
}


def activate(x, name, alpha=None, beta=None):
    function, default_alpha, default_beta = ACTIVATIONS[name]
    alpha = default_alpha if alpha is None else alpha
    beta = default_beta if beta is None else beta
    return function(x, float(np.float32(alpha)), float(np.float32(beta)))


def fused_mat_mul(a, b, *, alpha=1.0, transA=0, transB=0, transBatchA=0, transBatchB=0):
    def arranged(x, trans, trans_batch):
        x = x.astype(np.float64)
        if trans_batch:
            # The first dimension moves behind the batch dimensions.
            x = np.moveaxis(x, 0, -2)
        return np.swapaxes(x, -1, -2) if trans and x.ndim > 1 else x

    product = np.matmul(arranged(a, transA, transBatchA), arranged(b, transB, transBatchB))
    return (product * np.float32(alpha)).astype(a.dtype)


def fused_gemm(
    a,
    b,
    c=None,
    *,
    alpha=1.0,
    beta=1.0,
    transA=0,
    transB=0,
    activation=None,
    activation_alpha=None,
    activation_beta=None,
    activation_gamma=None,
):
    left = a.T if transA else a
    right = b.T if transB else b
    result = left.astype(np.float64) @ right.astype(np.float64) * np.float32(alpha)
    if c is not None:
        result = result + c.astype(np.float64) * np.float32(beta)
    if activation:
        result = activate(result, activation, activation_alpha, activation_beta)
    return result.astype(a.dtype)


def window(sizes, kernel, strides, dilations, pads, auto_pad, ceil_mode=0):
    """Start of the padding per axis, and the output's spatial sizes."""
    rank = len(sizes)
    reach = [(kernel[i] - 1) * dilations[i] + 1 for i in range(rank)]
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        outputs = [-(-sizes[i] // strides[i]) for i in range(rank)]
        total = [max(0, (outputs[i] - 1) * strides[i] + reach[i] - sizes[i]) for i in range(rank)]
        return [t // 2 if auto_pad == "SAME_UPPER" else t - t // 2 for t in total], outputs
    if auto_pad == "VALID" or not pads:
        pads = [0] * (2 * rank)
    outputs = []
    for i in range(rank):
        room = sizes[i] + pads[i] + pads[rank + i] - reach[i]
        count = room // strides[i] + 1
        if ceil_mode and room % strides[i] and count * strides[i] < sizes[i] + pads[i]:
            # One more window, unless it would start in the padding at the end.
            count += 1
        outputs.append(count)
    return list(pads[:rank]), outputs


def convolve(x, w, *, group, pads, strides, dilations, auto_pad):
    """A convolution without bias, in the operands' type."""
    rank = x.ndim - 2
    strides = strides or [1] * rank
    dilations = dilations or [1] * rank
    kernel = w.shape[2:]
    begin, outputs = window(x.shape[2:], kernel, strides, dilations, pads, auto_pad)
    result = np.zeros((x.shape[0], w.shape[0], *outputs), x.dtype)
    per_group = w.shape[0] // group
    channels = w.shape[1]
    for m in range(w.shape[0]):
        first = m // per_group * channels
        for place in itertools.product(*map(range, outputs)):
            for tap in itertools.product(*map(range, kernel)):
                at = [place[i] * strides[i] + tap[i] * dilations[i] - begin[i] for i in range(rank)]
                if all(0 <= at[i] < x.shape[2 + i] for i in range(rank)):
                    values = x[(slice(None), slice(first, first + channels), *at)]
                    result[(slice(None), m, *place)] += values @ w[(m, slice(None), *tap)]
    return result


def fused_conv(
    x,
    w,
    bias=None,
    z=None,
    *,
    activation=None,
    activation_params=None,
    group=1,
    pads=None,
    strides=None,
    dilations=None,
    kernel_shape=None,
    auto_pad="NOTSET",
):
    result = convolve(
        x.astype(np.float64),
        w.astype(np.float64),
        group=group,
        pads=pads,
        strides=strides,
        dilations=dilations,
        auto_pad=auto_pad,
    )
    if bias is not None:
        result += bias.reshape([-1] + [1] * (x.ndim - 2))
    if z is not None:
        result = result + z
    if activation == "Clip":
        low, high = np.float32(activation_params)
        result = np.clip(result, low, high)
    elif activation:
        result = activate(result, activation, *(activation_params or []))
    return result.astype(x.dtype)


def dynamically_quantized(x):
    """DynamicQuantizeLinear in float32: unsigned bytes, the scale and the zero point."""
    low = min(np.float32(0), x.min(initial=0))
    high = max(np.float32(0), x.max(initial=0))
    scale = np.float32(1) if high == low else np.float32((high - low) / np.float32(255))
    zero = np.int64(np.rint(np.clip(np.float32(0) - low / scale, 0, 255)))
    values = np.clip(np.rint(x / scale).astype(np.int64) + zero, 0, 255)
    return values, scale, zero


def scaled_product(a, b, scale, bias):
    """The product of integers, exactly, times the scale, plus the bias."""
    result = np.matmul(a, b).astype(np.float64) * scale
    if bias is not None:
        result = result + bias
    return result.astype(np.float32)


def dynamic_quantize_mat_mul(a, b, b_scale, b_zero_point=None, bias=None):
    values, scale, zero = dynamically_quantized(a)
    right = b.astype(np.int64) - (0 if b_zero_point is None else b_zero_point.astype(np.int64))
    return scaled_product(values - zero, right, (scale * b_scale).astype(np.float64), bias)


def mat_mul_integer_to_float(a, b, a_scale, b_scale, a_zero_point=None, b_zero_point=None, bias=None):
    left = a.astype(np.int64) - (0 if a_zero_point is None else a_zero_point.astype(np.int64))
    right = b.astype(np.int64) - (0 if b_zero_point is None else b_zero_point.astype(np.int64))
    return scaled_product(left, right, (a_scale * b_scale).astype(np.float64), bias)


OPERATORS = {
    "FusedMatMul": fused_mat_mul,
    "TransposeMatMul": fused_mat_mul,
    "FusedGemm": fused_gemm,
    "FusedConv": fused_conv,
    "DynamicQuantizeMatMul": dynamic_quantize_mat_mul,
    "MatMulIntegerToFloat": mat_mul_integer_to_float,
}
