import numpy as np

from cases import Case

from .products import convolution, matrices, spatial


def byte_type(draw):
    return draw.choose(np.uint8, np.int8)


def quantization(draw, dtype, optional=True, low=0.005, high=0.1):
    """A scale and a zero point, which may be absent."""
    zero = draw.bytes(dtype=dtype)
    if draw.maybe(0.3):
        zero = np.array(0 if dtype == np.int8 else 128, dtype)
    if optional and draw.maybe(0.15):
        zero = None
    return draw.uniform(low, high), zero


def broadcastable(draw, shape):
    """A shape that broadcasts with this one to it."""
    keep = draw.integer(0, len(shape))
    return [1 if draw.maybe(0.3) else d for d in shape[len(shape) - keep :]]


def linear(draw, *kinds):
    """A type, a shape, the shape of the scale and the axis that it belongs to."""
    kind = np.dtype(draw.choose(*kinds))
    x = draw.shape(1, 4)
    attributes, shape = {}, []
    if draw.maybe(0.4):
        axis = draw.integer(0, len(x) - 1)
        attributes["axis"] = draw.choose(axis, axis - len(x))
        shape = [x[axis]]
    return kind, x, shape, attributes


def whole_range(draw, kind, *shape):
    if str(kind) in ("int4", "uint4"):
        low = -8 if str(kind) == "int4" else 0
        return draw.integers(low, low + 15, *shape).astype(kind)
    info = np.iinfo(kind)
    return draw.integers(info.min, info.max, *shape, dtype=kind)


def quantize_linear(draw):
    kind, shape, scale, attributes = linear(draw, "uint8", "int8", "uint16", "int16")
    high = 0.001 if kind.itemsize == 2 else 0.1
    zero = whole_range(draw, kind, *scale) if kind != "uint8" or draw.maybe(0.7) else None
    return Case(
        [draw.floats(*shape, scale=3), draw.uniform(high / 10, high, *scale), zero],
        attributes,
        constants=draw.choose([], [1, 2]),
    )


def dequantize_linear(draw):
    kind, shape, scale, attributes = linear(
        draw, "uint8", "int8", "uint16", "int16", "int32", "int4", "uint4"
    )
    zero = whole_range(draw, kind, *scale) if kind != "int32" and draw.maybe(0.7) else None
    # onnxruntime's Python interface takes 4-bit tensors only inside the model.
    constants = [0, 1, 2] if "int4" in str(kind) else draw.choose([], [1, 2], [0, 1, 2])
    return Case(
        [whole_range(draw, kind, *shape), draw.uniform(0.001, 0.1, *scale), zero],
        attributes,
        constants=constants,
    )


def nhwc_max_pool(draw):
    dtype = byte_type(draw)
    rank = draw.choose(1, 2, 2, 3)
    kernel = [draw.integer(1, 3) for _ in range(rank)]
    sizes = [draw.size(7) for _ in range(rank)]
    attributes = spatial(draw, rank, sizes, kernel) | {"kernel_shape": kernel}
    if draw.maybe(0.3):
        attributes["ceil_mode"] = draw.integer(0, 1)
    return Case([draw.bytes(draw.size(2), *sizes, draw.size(5), dtype=dtype)], attributes)


def mat_mul_integer16(draw):
    shapes = matrices(draw, draw.choose(2, 2, 3), draw.choose(2, 2, 3), draw.size(), draw.size(), draw.size())
    return Case([draw.integers(-10000, 10000, *shape, dtype=np.int16) for shape in shapes])


def q_gemm(draw):
    dtype, other = draw.choose((np.int8, np.int8), (np.uint8, np.uint8), (np.uint8, np.int8))
    m, k, n = draw.size(), draw.size(20), draw.size(12)
    attributes = draw.some(alpha=draw.choose(1.0, 0.5), transA=draw.integer(0, 1), transB=draw.integer(0, 1))
    a = draw.bytes(*([k, m] if attributes.get("transA") else [m, k]), dtype=dtype)
    b = draw.bytes(*([n, k] if attributes.get("transB") else [k, n]), dtype=other)
    shape = [n] if draw.maybe(0.4) else []
    b_zero = draw.bytes(*shape, dtype=other)
    c = (
        draw.integers(-5000, 5000, *draw.choose([m, n], [n], [1, n], [m, 1], [1]), dtype=np.int32)
        if draw.maybe(0.6)
        else None
    )
    y = [None, None]
    if draw.maybe(0.7):
        y = [draw.uniform(0.05, 1), draw.bytes(dtype=dtype)]
    return Case(
        [
            a,
            draw.uniform(0.005, 0.05),
            draw.bytes(dtype=dtype),
            b,
            draw.uniform(0.005, 0.05, *shape),
            b_zero,
            c,
            *y,
        ],
        attributes,
        constants=draw.choose([], [1, 2, 3, 4, 5, 7, 8], [1, 2, 3, 4, 5, 6, 7, 8]),
    )


def q_linear_binary(draw):
    dtype = byte_type(draw)
    shape = draw.shape(0, 4)
    shapes = [shape, broadcastable(draw, shape)]
    if draw.maybe():
        shapes.reverse()
    a = [draw.bytes(*shapes[0], dtype=dtype), *quantization(draw, dtype)]
    b = [draw.bytes(*shapes[1], dtype=dtype), *quantization(draw, dtype)]
    return Case(
        [*a, *b, *quantization(draw, dtype, low=0.05, high=0.3)],
        constants=draw.choose([], [1, 2, 4, 5, 6, 7], [1, 2, 3, 4, 5, 6, 7]),
    )


def q_linear_unary(draw):
    dtype = byte_type(draw)
    x = draw.bytes(*draw.shape(1, 4), dtype=dtype)
    return [x, *quantization(draw, dtype), *quantization(draw, dtype, low=0.004, high=0.02)]


def q_linear_sigmoid(draw):
    # onnxruntime 1.32.0 aborts when the last, optional input is left out, but takes an empty name.
    return Case(q_linear_unary(draw), trim=False, constants=draw.choose([], [1, 2, 3, 4]))


def q_linear_leaky_relu(draw):
    return Case(
        q_linear_unary(draw),
        draw.some(alpha=draw.choose(0.01, 0.3)),
        trim=False,
        constants=draw.choose([], [1, 2, 3, 4]),
    )


def q_linear_softmax(draw):
    dtype = byte_type(draw)
    x = draw.bytes(*draw.shape(1, 4), dtype=dtype)
    attributes = {"opset": draw.choose(11, 13)}
    if draw.maybe(0.8):
        attributes["axis"] = draw.integer(-x.ndim, x.ndim - 1)
    y_zero = np.array(0 if dtype == np.uint8 else -128, dtype)
    if draw.maybe(0.3):
        y_zero = draw.bytes(dtype=dtype)
    return Case(
        [x, *quantization(draw, dtype), np.float32(1 / 256), y_zero],
        attributes,
        constants=draw.choose([], [1, 2, 3, 4]),
    )


def q_linear_concat(draw):
    dtype = byte_type(draw)
    shape = draw.shape(1, 4, 5)
    axis = draw.integer(0, len(shape) - 1)
    inputs = list(quantization(draw, dtype, optional=False))
    for _ in range(draw.integer(1, 4)):
        shape[axis] = draw.size(5)
        inputs.append(draw.bytes(*shape, dtype=dtype))
        inputs += inputs[:2] if draw.maybe(0.3) else quantization(draw, dtype, optional=False)
    constants = [i for i in range(len(inputs)) if i < 2 or i % 3 != 2]
    return Case(inputs, {"axis": draw.choose(axis, axis - len(shape))}, constants=draw.choose([], constants))


def q_linear_where(draw):
    dtype = byte_type(draw)
    shape = draw.shape(1, 4)
    shapes = [shape, broadcastable(draw, shape), broadcastable(draw, shape)]
    draw.random.shuffle(shapes)
    x = [draw.bytes(*shapes[1], dtype=dtype), *quantization(draw, dtype, optional=False)]
    y = [draw.bytes(*shapes[2], dtype=dtype), *quantization(draw, dtype, optional=False)]
    condition = draw.integers(0, 1, *shapes[0], dtype=bool)
    return Case(
        [condition, *x, *y, *quantization(draw, dtype, optional=False)],
        constants=draw.choose([], [2, 3, 5, 6, 7, 8]),
    )


def q_linear_average_pool(draw):
    dtype = byte_type(draw)
    rank = draw.choose(1, 2, 2, 2, 3)
    kernel = [draw.integer(1, 3) for _ in range(rank)]
    sizes = [draw.size(7) for _ in range(rank)]
    attributes = spatial(draw, rank, sizes, kernel, dilated=False) | {"kernel_shape": kernel}
    attributes |= draw.some(count_include_pad=draw.integer(0, 1))
    if draw.maybe(0.3):
        attributes["ceil_mode"] = draw.integer(0, 1)
    last = draw.maybe(0.4)
    if last:
        attributes["channels_last"] = 1
    batch, channels = draw.size(2), draw.size(5)
    x = draw.bytes(*([batch, *sizes, channels] if last else [batch, channels, *sizes]), dtype=dtype)
    return Case(
        [x, *quantization(draw, dtype), *quantization(draw, dtype)],
        attributes,
        constants=draw.choose([], [1, 2, 3, 4]),
    )


def q_linear_global_average_pool(draw):
    dtype = byte_type(draw)
    x = draw.bytes(*draw.shape(3, 5, 7), dtype=dtype)
    return Case(
        [x, *quantization(draw, dtype, optional=False), *quantization(draw, dtype, optional=False)],
        draw.some(channels_last=draw.integer(0, 1)),
        constants=draw.choose([], [1, 2, 3, 4]),
    )


def q_linear_conv(draw):
    dtype, other = draw.choose((np.uint8, np.uint8), (np.uint8, np.int8), (np.int8, np.int8))
    shape, weight, attributes = convolution(draw)
    if draw.maybe(0.4):
        attributes["channels_last"] = 1
        shape = [shape[0], *shape[2:], shape[1]]
    per_filter = [weight[0]] if draw.maybe(0.4) else []
    zero = draw.bytes(dtype=other)
    w_zero = np.full(per_filter, zero if draw.maybe() else (0 if other == np.int8 else 128), other)
    bias = draw.integers(-5000, 5000, weight[0], dtype=np.int32) if draw.maybe() else None
    inputs = [
        draw.bytes(*shape, dtype=dtype),
        draw.uniform(0.005, 0.05),
        draw.bytes(dtype=dtype),
        draw.bytes(*weight, dtype=other),
        draw.uniform(0.005, 0.05, *per_filter),
        w_zero,
        draw.uniform(0.05, 1),
        draw.bytes(dtype=dtype),
        bias,
    ]
    return Case(inputs, attributes, constants=draw.choose([], [1, 2, 3, 4, 5, 6, 7, 8]))


def q_embed_layer_normalization(draw):
    dtype = byte_type(draw)
    batch, length, hidden = draw.size(3), draw.size(), draw.choose(4, 8, 15, 32)
    words, positions, segments = draw.integer(1, 20), length + draw.integer(0, 4), draw.integer(1, 3)
    ids = draw.integers(0, words - 1, batch, length, dtype=np.int32)
    tables = [draw.bytes(rows, hidden, dtype=dtype) for rows in (words, positions, segments)]
    tables += [draw.bytes(hidden, dtype=dtype) for _ in range(2)]
    scales = [draw.uniform(0.005, 0.05) for _ in tables]
    zeros = [draw.bytes(dtype=dtype) for _ in tables]
    segment_ids = draw.integers(0, segments - 1, batch, length, dtype=np.int32)
    if draw.maybe(0.3):
        segment_ids = tables[2] = scales[2] = zeros[2] = None
    mask = None
    if draw.maybe():
        mask = (np.arange(length)[None] < draw.integers(0, length, batch, 1)).astype(np.int32)
    inputs = [ids, segment_ids, *tables, mask, *scales, *zeros]
    return Case(
        inputs,
        draw.some(epsilon=draw.choose(1e-12, 1e-5)),
        outputs=[True, True],
        constants=draw.choose([], [2, 3, 4, 5, 6, *range(8, 18)]),
    )


GENERATORS = {
    "QuantizeLinear": quantize_linear,
    "DequantizeLinear": dequantize_linear,
    "NhwcMaxPool": nhwc_max_pool,
    "MatMulInteger16": mat_mul_integer16,
    "QGemm": q_gemm,
    "QLinearAdd": q_linear_binary,
    "QLinearMul": q_linear_binary,
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
