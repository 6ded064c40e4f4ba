import numpy as np

from cases import Case


def matrices(draw, left, right, m, k, n):
    """Shapes of two operands whose batch dimensions broadcast, by rank."""
    batch = [draw.size(4) for _ in range(max(left, right) - 2)]

    def own(rank, rows, columns):
        if rank == 1:
            return [k]
        dims = batch[len(batch) - (rank - 2) :]
        return [1 if draw.maybe(0.2) else d for d in dims] + [rows, columns]

    return own(left, m, k), own(right, k, n)


def fused_mat_mul(draw):
    dtype = draw.choose(np.float32, np.float32, np.float32, np.float64)
    attributes = draw.some(alpha=draw.choose(1.0, 0.125, -2.5, 0.0))
    m, k, n = draw.size(), draw.size(), draw.size()
    trans = [draw.maybe(), draw.maybe()]
    if draw.maybe(0.3):
        # Transposed batches need operands of equal rank 3 or more.
        rank = draw.integer(3, 4)
        batch = [draw.size(4) for _ in range(rank - 2)]
        shapes = []
        for name, rows, columns, swap in (("A", m, k, trans[0]), ("B", k, n, trans[1])):
            if swap:
                rows, columns = columns, rows
            if draw.maybe(0.7):
                attributes[f"transBatch{name}"] = 1
                shapes.append([rows, *batch, columns])
            else:
                shapes.append([*batch, rows, columns])
    else:
        shapes = matrices(draw, draw.choose(1, 2, 2, 3, 4), draw.choose(1, 2, 2, 3, 4), m, k, n)
        for shape, swap in zip(shapes, trans):
            if swap and len(shape) > 1:
                shape[-1], shape[-2] = shape[-2], shape[-1]
    for name, swap in zip("AB", trans):
        if swap or draw.maybe(0.3):
            attributes[f"trans{name}"] = int(swap)
    return Case(
        [draw.floats(*shape, dtype=dtype) for shape in shapes], attributes, constants=draw.choose([], [1])
    )


def transpose_mat_mul(draw):
    """The older name, without transposed batches and only for float32."""
    case = fused_mat_mul(draw)
    while case.inputs[0].dtype != np.float32 or any(
        name.startswith("transBatch") for name in case.attributes
    ):
        case = fused_mat_mul(draw)
    return case


def fused_gemm(draw):
    m, k, n = draw.size(), draw.size(), draw.size()
    attributes = draw.some(
        alpha=draw.choose(1.0, 0.5, -1.25),
        beta=draw.choose(1.0, 0.5, 0.0),
        transA=draw.integer(0, 1),
        transB=draw.integer(0, 1),
    )
    a = draw.floats(*([k, m] if attributes.get("transA") else [m, k]))
    b = draw.floats(*([n, k] if attributes.get("transB") else [k, n]))
    c = draw.floats(*draw.choose([m, n], [n], [1, n], [m, 1], [], [1])) if draw.maybe(0.7) else None
    activation = draw.choose(
        None, "Relu", "Sigmoid", "Tanh", "LeakyRelu", "LeakyRelu", "Softplus", "HardSigmoid", "Elu"
    )
    if activation:
        attributes["activation"] = activation
    if activation in ("LeakyRelu", "HardSigmoid", "Elu"):
        attributes["activation_alpha"] = draw.choose(0.01, 0.25, 0.5)
    if activation == "HardSigmoid":
        attributes["activation_beta"] = draw.choose(0.5, 0.1)
    return Case([a, b, c], attributes, constants=draw.choose([], [1], [1, 2]))


def spatial(draw, rank, sizes, kernel, dilated=True):
    """Attributes of a convolution or a pool over these sizes."""
    attributes = {}
    dilations = [1] * rank
    if dilated and draw.maybe(0.3):
        dilations = attributes["dilations"] = [draw.integer(1, 2) for _ in range(rank)]
    if draw.maybe():
        attributes["strides"] = [draw.integer(1, 3) for _ in range(rank)]
    kind = draw.choose("none", "pads", "pads", "SAME_UPPER", "SAME_LOWER", "VALID")
    pads = [0] * (2 * rank)
    if kind == "pads":
        pads = [draw.integer(0, kernel[i % rank] - 1) for i in range(2 * rank)]
        attributes["pads"] = pads
    elif kind != "none":
        attributes["auto_pad"] = kind
    # Enlarge inputs that the window does not fit in.
    for i in range(rank):
        reach = (kernel[i] - 1) * dilations[i] + 1
        sizes[i] = max(sizes[i], reach - pads[i] - pads[rank + i], 1)
    return attributes


def convolution(draw):
    """Shapes of input and weight, and the attributes."""
    rank = draw.choose(1, 2, 2, 2, 3)
    group = draw.choose(1, 1, 2, 3)
    channels, filters = draw.integer(1, 3) * group, draw.integer(1, 3) * group
    if draw.maybe(0.2):
        channels = group
    kernel = [draw.integer(1, 3) for _ in range(rank)]
    sizes = [draw.size(7) for _ in range(rank)]
    attributes = spatial(draw, rank, sizes, kernel)
    if group != 1 or draw.maybe(0.3):
        attributes["group"] = group
    if draw.maybe():
        attributes["kernel_shape"] = kernel
    return [draw.size(2), channels, *sizes], [filters, channels // group, *kernel], attributes


def fused_conv(draw):
    shape, weight, attributes = convolution(draw)
    bias = draw.floats(weight[0]) if draw.maybe() else None
    activation = draw.choose(None, "Relu", "Relu", "Sigmoid", "Tanh", "LeakyRelu", "Clip", "HardSigmoid")
    if activation:
        attributes["activation"] = activation
    if activation == "LeakyRelu":
        attributes["activation_params"] = [draw.choose(0.01, 0.25)]
    elif activation == "Clip":
        attributes["activation_params"] = draw.choose([0.0, 6.0], [-0.5, 0.75])
    elif activation == "HardSigmoid":
        attributes["activation_params"] = draw.choose([0.2, 0.5], [0.125, 0.25])
    case = Case(
        [draw.floats(*shape), draw.floats(*weight), bias], attributes, constants=draw.choose([], [1, 2])
    )
    if draw.maybe(0.3):
        # Z has the output's shape, which the reference computes.
        from reference.products import fused_conv as output

        z = draw.floats(*output(*case.inputs, **attributes).shape)
        case.inputs = case.inputs + [None] * (3 - len(case.inputs)) + [z]
    return case


def quantized_matrix(draw, k, n, dtype, per_column):
    """Weights, scale and zero point."""
    b = draw.bytes(k, n, dtype=dtype)
    shape = [n] if per_column else draw.choose([], [1])
    info = np.iinfo(dtype)
    zero = draw.integers(info.min, info.max, *shape, dtype=dtype)
    if draw.maybe():
        zero = (zero * 0 + (0 if dtype == np.int8 else 128)).astype(dtype)
    return b, draw.uniform(0.001, 0.02, *shape), zero


def dynamic_quantize_mat_mul(draw):
    k, n = draw.size(20), draw.size(20)
    dtype = draw.choose(np.int8, np.uint8)
    a = draw.floats(*draw.shape(0, 2, 4), draw.size(), k, scale=draw.choose(1, 5))
    if draw.maybe(0.15):
        a = abs(a) + np.float32(0.5)
    b, scale, zero = quantized_matrix(draw, k, n, dtype, draw.maybe(0.4))
    bias = draw.floats(n) if draw.maybe(0.4) else None
    return Case(
        [a, b, scale, zero if draw.maybe(0.7) else None, bias],
        constants=draw.choose([], [1, 2, 3, 4], [1, 2, 3, 4]),
    )


def mat_mul_integer_to_float(draw):
    k, n = draw.size(20), draw.size(20)
    types = draw.choose((np.uint8, np.uint8), (np.uint8, np.int8), (np.int8, np.int8))
    a = draw.bytes(*draw.shape(0, 2, 4), draw.size(), k, dtype=types[0])
    b, scale, zero = quantized_matrix(draw, k, n, types[1], draw.maybe(0.4))
    a_shape = draw.choose([], [1])
    a_zero = draw.bytes(*a_shape, dtype=types[0]) if draw.maybe(0.7) else None
    bias = draw.floats(n) if draw.maybe(0.4) else None
    return Case(
        [a, b, draw.uniform(0.001, 0.05, *a_shape), scale, a_zero, zero if draw.maybe(0.7) else None, bias],
        constants=draw.choose([], [1, 2, 3, 4, 5, 6]),
    )


GENERATORS = {
    "FusedMatMul": fused_mat_mul,
    "TransposeMatMul": transpose_mat_mul,
    "FusedGemm": fused_gemm,
    "FusedConv": fused_conv,
    "DynamicQuantizeMatMul": dynamic_quantize_mat_mul,
    "MatMulIntegerToFloat": mat_mul_integer_to_float,
}
