import numpy as np

from cases import Case


def mat_mul_n_bits(draw):
    dtype = draw.choose(np.float32, np.float32, np.float16)
    bits = draw.choose(4, 4, 8, 8, 2)
    block = draw.choose(16, 16, 32, 32, 64, 128, 256)
    k = draw.choose(block, 2 * block, 3 * block, draw.integer(1, 2 * block))
    n = draw.choose(1, 3, 7, 16, draw.integer(1, 20))
    blocks = -(-k // block)
    a = draw.floats(*draw.choose([1, k], [draw.size(5), k], [2, draw.size(3), k], [1, 1, k]), dtype=dtype)
    b = draw.bytes(n, blocks, block * bits // 8)
    # Scales so that products stay near 1, as in real models.
    scales = draw.uniform(0.2, 1.5, n, blocks, dtype=np.float64) / (1 << bits) / np.sqrt(k)
    scales = (scales * np.where(draw.uniform(0, 1, n, blocks) < 0.1, -1, 1)).astype(dtype)
    zero_points = g_idx = bias = None
    kind = draw.choose("none", "packed", "packed", "float")
    if kind == "packed":
        zero_points = draw.bytes(n, -(-blocks * bits // 8))
    elif kind == "float":
        zero_points = draw.uniform(0, 1 << bits, n, blocks, dtype=dtype)
    if draw.maybe(0.12):
        g_idx = draw.integers(0, blocks - 1, k, dtype=np.int32)
    if draw.maybe(0.4):
        bias = draw.floats(n, dtype=dtype)
    if draw.maybe(0.04):
        # An omitted projection.
        b = b[:, :0] if draw.maybe() else b[:0]
    attributes = {"K": k, "N": n, "block_size": block}
    if bits != 4 or draw.maybe():
        attributes["bits"] = bits
    level = draw.choose(None, None, 0, 1, 1, 4)
    if level is not None:
        attributes["accuracy_level"] = level
    constants = [1, 2, 3, 4, 5] if draw.maybe(0.8) else []
    # At level 4, onnxruntime may quantize A to 8 bits.
    tolerance = 0.03 if level == 4 else 5e-3 if dtype == np.float16 else None
    return Case(
        [a, b, scales, zero_points, g_idx, bias], attributes, constants=constants, tolerance=tolerance
    )


def gather_block_quantized(draw):
    dtype = draw.choose(np.float32, np.float32, np.float16)
    kind = draw.choose("int4", "uint4", "uint8", "uint8", "uint8", "float8_e4m3fn", "float8_e5m2")
    block = draw.choose(16, 16, 32)
    rank = draw.integer(2, 3)
    bits = draw.choose(2, 4, 4, 8)
    if kind == "uint8":
        gather, quantize = 0, draw.choose(rank - 1, rank - 1, rank - 1, draw.integer(1, rank - 1))
    else:
        gather, quantize = draw.choose(*[(i, j) for i in range(rank) for j in range(rank) if i != j])
    shape = [draw.size(6) for _ in range(rank)]
    shape[quantize] = draw.choose(block, 2 * block, draw.integer(1, 3 * block))
    if kind == "uint8":
        shape[-1] = -(-shape[-1] * bits // 8) * (8 // bits)
    scale_shape = list(shape)
    scale_shape[quantize] = -(-shape[quantize] // block)
    zero_shape = list(scale_shape)
    scales = draw.floats(*scale_shape, dtype=dtype)
    zero_points = None
    if kind == "uint8":
        shape[-1] = shape[-1] * bits // 8
        zero_shape[-1] = -(-zero_shape[-1] * bits // 8)
        data = draw.bytes(*shape)
        if draw.maybe():
            zero_points = draw.bytes(*zero_shape)
    elif kind.startswith("float8"):
        data = draw.floats(*shape, scale=2).astype(kind)
    else:
        low = -8 if kind == "int4" else 0
        data = draw.integers(low, low + 15, *shape).astype(kind)
        if draw.maybe():
            zero_points = draw.integers(low, low + 15, *zero_shape).astype(kind)
    count = shape[gather]
    outside = 1 if draw.maybe(0.1) else 0
    indices = draw.integers(
        -count - outside, count - 1 + outside, *draw.shape(0, 3, 4), dtype=draw.choose(np.int32, np.int64)
    )
    attributes = {"block_size": block}
    if draw.maybe() or gather != 0:
        attributes["gather_axis"] = draw.choose(gather, gather - rank)
    if draw.maybe() or quantize != 1:
        attributes["quantize_axis"] = draw.choose(quantize, quantize - rank)
    if kind == "uint8" and (bits != 4 or draw.maybe()):
        attributes["bits"] = bits
    return Case([data, indices, scales, zero_points], attributes, constants=[0, 2, 3])


def mat_mul_bnb4(draw):
    block = draw.choose(16, 16, 32, 64)
    k, n = draw.choose(block, 2 * block, draw.size(40)), draw.choose(1, 7, draw.integer(1, 20))
    attributes = {"K": k, "N": n, "block_size": block, "quant_type": draw.integer(0, 1)}
    # transB = 0 is documented, but onnxruntime 1.32.0 ignores it and reads beyond its inputs.
    attributes |= draw.some(transB=1)
    if draw.maybe(0.2):
        attributes["training_mode"] = draw.integer(0, 1)
    a = draw.floats(*draw.choose([1], [draw.size(5)], [2, draw.size(3)]), k)
    inputs = [a, draw.bytes((n * k + 1) // 2), draw.uniform(0.1, 1, -(-n * k // block))]
    return Case(inputs, attributes, constants=[1, 2] if draw.maybe(0.8) else [], tolerance=1e-4)


GENERATORS = {
    "MatMulNBits": mat_mul_n_bits,
    "GatherBlockQuantized": gather_block_quantized,
    "MatMulBnb4": mat_mul_bnb4,
}
