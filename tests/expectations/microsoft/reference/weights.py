"""Operators whose weights are quantized in blocks."""

import numpy as np


def unpack(packed, bits, count):
    """The first `count` values of the last axis; the low bits of a byte hold the earlier value."""
    per_byte = 8 // bits
    result = np.zeros(packed.shape[:-1] + (count,), np.int64)
    for i in range(count):
        byte = packed[..., i // per_byte].astype(np.int64)
        result[..., i] = byte >> (i % per_byte * bits) & (1 << bits) - 1
    return result


def mat_mul_n_bits(
    a,
    b,
    scales,
    zero_points=None,
    g_idx=None,
    bias=None,
    *,
    K,
    N,
    block_size,
    bits=4,
    accuracy_level=0,
    weight_prepacked=0,
):
    rows = a.reshape(-1, K).astype(np.float64)
    result = np.zeros((len(rows), N))
    if b.size:
        blocks = -(-K // block_size)
        values = unpack(b.reshape(N, blocks, block_size * bits // 8), bits, block_size)
        values = values.reshape(N, blocks * block_size)
        scales = scales.reshape(N, blocks).astype(np.float64)
        if zero_points is None:
            zeros = np.full((N, blocks), 1 << (bits - 1))
        elif zero_points.dtype == np.uint8:
            zeros = unpack(zero_points.reshape(N, -1), bits, blocks)
        else:
            zeros = zero_points.reshape(N, blocks).astype(np.float64)
        for n in range(N):
            for k in range(K):
                block = k // block_size if g_idx is None else g_idx[k]
                weight = (values[n, k] - zeros[n, block]) * scales[n, block]
                result[:, n] += rows[:, k] * weight
    if bias is not None:
        result = result + bias
    return result.reshape(a.shape[:-1] + (N,)).astype(a.dtype)


def gather_block_quantized(
    data, indices, scales, zero_points=None, *, gather_axis=0, quantize_axis=1, block_size=128, bits=4
):
    kind = str(data.dtype)
    values = data
    if kind == "uint8" and bits < 8:
        values = unpack(data, bits, data.shape[-1] * (8 // bits))
    gather_axis %= data.ndim
    quantize_axis %= data.ndim
    zeros = 0 if kind != "uint8" else 1 << (bits - 1)
    if zero_points is not None:
        zeros = zero_points
        if kind == "uint8" and bits < 8:
            zeros = unpack(zero_points, bits, scales.shape[-1])
        zeros = np.asarray(zeros).astype(np.float64)
    zeros = np.broadcast_to(zeros, scales.shape)
    # One scale and zero point per element of the table.
    size = values.shape[quantize_axis]
    block = np.arange(size) // block_size if block_size else np.zeros(size, np.int64)
    scale = np.take(scales.astype(np.float64), block, quantize_axis)
    zero = np.take(zeros, block, quantize_axis)
    table = (values.astype(np.float64) - zero) * scale
    count = table.shape[gather_axis]
    result = np.zeros(indices.shape + table.shape[:gather_axis] + table.shape[gather_axis + 1 :])
    for place in np.ndindex(*indices.shape):
        index = int(indices[place])
        if -count <= index < count:
            result[place] = np.take(table, index % count, gather_axis)
    # The axes of the indices stand where the gathered axis was.
    ahead = list(range(indices.ndim, indices.ndim + gather_axis))
    order = ahead + list(range(indices.ndim)) + list(range(indices.ndim + gather_axis, result.ndim))
    return result.transpose(order).astype(scales.dtype)


# The numbers of bitsandbytes: FP4 has a sign bit before eight magnitudes, NF4 has quantiles of a
# normal distribution.
FP4 = [0, 1 / 192, 2 / 3, 1, 1 / 3, 1 / 2, 1 / 6, 1 / 4]
FP4 += [-value for value in FP4]
NF4 = [
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
]


def mat_mul_bnb4(a, b, absmax, *, K, N, block_size, quant_type, transB=1, training_mode=0):
    table = NF4 if quant_type == 1 else FP4
    flat = np.zeros(N * K)
    for i in range(N * K):
        # The earlier of two values is in the high half of a byte.
        code = b[i // 2] >> 4 if i % 2 == 0 else b[i // 2] & 15
        flat[i] = table[code] * float(absmax[i // block_size])
    weights = flat.reshape(N, K)
    return (a.astype(np.float64) @ (weights.T if transB else weights)).astype(a.dtype)


OPERATORS = {
    "MatMulNBits": mat_mul_n_bits,
    "GatherBlockQuantized": gather_block_quantized,
    "MatMulBnb4": mat_mul_bnb4,
}
