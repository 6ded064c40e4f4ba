"""Attention in which several query heads share one head of keys and values, with a cache."""

import numpy as np

from .attention import heads, merged, rotated, scale_of, softmax


def group_query_attention(
    query,
    key,
    value,
    past_key,
    past_value,
    seqlens_k,
    total_sequence_length,
    cos_cache=None,
    sin_cache=None,
    position_ids=None,
    attention_bias=None,
    head_sink=None,
    k_scale=None,
    v_scale=None,
    _q_norm=None,
    _k_norm=None,
    query_seqlens=None,
    *,
    num_heads,
    kv_num_heads,
    scale=None,
    softcap=0.0,
    do_rotary=0,
    rotary_interleaved=0,
    local_window_size=-1,
    smooth_softmax=-1,
    causal=1,
    qk_output=0,
    kv_cache_bit_width=0,
    k_quant_type="NONE",
    v_quant_type="NONE",
    sliding_window_cache=0,
):
    dtype = query.dtype
    batch, length, width = query.shape
    if key is None:
        size = width // (num_heads + 2 * kv_num_heads)
        bounds = [num_heads * size, (num_heads + kv_num_heads) * size]
        query, key, value = np.split(query, bounds, axis=2)
    q, k, v = heads(query, num_heads), heads(key, kv_num_heads), heads(value, kv_num_heads)
    total = int(total_sequence_length.reshape(-1)[0])
    # A first prompt has nothing in the cache; else the new tokens are the last of each sequence. With
    # `query_seqlens` (here always the whole length), the total is only an upper bound.
    first = total == length and query_seqlens is None
    ends = seqlens_k.reshape(-1).astype(int) + 1
    starts = np.zeros(batch, int) if first else ends - length
    if do_rotary:
        positions = starts[:, None] + np.arange(length)
        if position_ids is not None:
            positions = (
                position_ids[0, 0] + np.zeros((batch, 1), int) + np.arange(length) if first else position_ids
            )
        q = rotated(q, positions, cos_cache, sin_cache, rotary_interleaved)
        k = rotated(k, positions, cos_cache, sin_cache, rotary_interleaved)
    if do_rotary:
        # The cache receives keys in the element type, before they are quantized.
        k = k.astype(dtype).astype(np.float64)
    room = total if past_key is None or sliding_window_cache else max(total, past_key.shape[2])
    size = k.shape[3]
    caches = []
    for new, past, quantized, kind in (
        (k, past_key, k_scale, k_quant_type),
        (v, past_value, v_scale, v_quant_type),
    ):
        stored = np.zeros((batch, kv_num_heads, room, size))
        for b in range(batch):
            if past is not None:
                old = past[b].astype(np.float64)
                if kind != "NONE" and kv_cache_bit_width == 4:
                    old = unpacked(past[b])
                # A window holds the most recent positions, others the first ones.
                held = (
                    resident(starts[b], past.shape[2], local_window_size)
                    if sliding_window_cache
                    else starts[b]
                )
                stored[b, :, starts[b] - held : starts[b]] = old[:, :held]
            fresh = new[b]
            if kind != "NONE":
                fresh = quantize(fresh, quantized, kv_cache_bit_width)
            stored[b, :, starts[b] : starts[b] + length] = fresh
        caches.append(stored)
    wide = [
        dequantize(stored, quantized, kind)
        for stored, quantized, kind in zip(caches, (k_scale, v_scale), (k_quant_type, v_quant_type))
    ]
    factor = scale_of(scale, size)
    output = np.zeros((batch, num_heads, length, size))
    before = np.zeros((batch, num_heads, length, total))
    after = np.zeros((batch, num_heads, length, total))
    shared = num_heads // kv_num_heads
    for b in range(batch):
        for n in range(num_heads):
            sink = None
            if head_sink is not None:
                sink = float(head_sink[n])
            elif smooth_softmax == 1:
                sink = 0.0
            for s in range(length):
                position = starts[b] + s
                low, high = 0, position + 1
                if not causal:
                    high = ends[b]
                if local_window_size > 0:
                    # The window includes the query's own position.
                    low = max(0, position + 1 - local_window_size)
                scores = wide[0][b, n // shared, :total] @ q[b, n, s] * factor
                if softcap:
                    scores = softcap * np.tanh(scores / softcap)
                if attention_bias is not None:
                    rows, columns = attention_bias.shape[:2]
                    scores = scores + attention_bias[b % rows, n % columns, s, :total]
                t = np.arange(total)
                scores = np.where((t >= low) & (t < high), scores, -np.inf)
                weights = softmax(scores, sink)
                # The scores of keys that a query does not see are stored as 0.
                before[b, n, s] = np.where(np.isfinite(scores), scores, 0)
                after[b, n, s] = weights
                output[b, n, s] = weights @ wide[1][b, n // shared, :total]
    if sliding_window_cache:
        capacity = past_key.shape[2]
        for i, stored in enumerate(caches):
            caches[i] = np.zeros((batch, kv_num_heads, capacity, size))
            for b in range(batch):
                held = resident(ends[b], capacity, local_window_size)
                caches[i][b, :, :held] = stored[b, :, ends[b] - held : ends[b]]
    presents = [
        finish(stored, kind, kv_cache_bit_width, past, dtype)
        for stored, kind, past in zip(caches, (k_quant_type, v_quant_type), (past_key, past_value))
    ]
    scores = before if qk_output == 1 else after
    return merged(output).astype(dtype), *presents, scores.astype(dtype)


def resident(total, capacity, window):
    """How many of `total` positions a windowed cache holds: it drops several at once when it is full."""
    if total <= capacity:
        return total
    dropped = capacity - window + 1
    return total - dropped * -(-(total - capacity) // dropped)


def scale_shape(scale, count, size):
    """A scale per tensor, or per head and channel, against [N, T, H]."""
    return (1, 1, 1) if scale.size == 1 else (count, 1, size)


def dequantize(stored, scale, kind):
    if kind == "NONE":
        return stored
    return stored * scale.astype(np.float64).reshape(scale_shape(scale, stored.shape[1], stored.shape[3]))


def quantize(x, scale, bits):
    limit = 1 << (bits - 1)
    steps = np.float32(x) / np.asarray(scale, np.float32).reshape(scale_shape(scale, x.shape[0], x.shape[2]))
    return np.clip(np.rint(steps), -limit, limit - 1).astype(np.float64)


def unpacked(packed):
    """Two values of 4 bits per byte, the earlier in the low half, stored with 8 added."""
    result = np.zeros(packed.shape[:-1] + (packed.shape[-1] * 2,))
    result[..., 0::2] = (packed & 15).astype(int) - 8
    result[..., 1::2] = (packed >> 4).astype(int) - 8
    return result


def finish(stored, kind, bits, past, dtype):
    """The cache in the type in which it is stored."""
    if kind == "NONE":
        return stored.astype(dtype)
    if bits == 4:
        shifted = stored.astype(int) + 8
        return (shifted[..., 0::2] | shifted[..., 1::2] << 4).astype(np.uint8)
    return stored.astype(past.dtype)


def sparse_attention(
    query,
    key,
    value,
    past_key,
    past_value,
    block_row_indices,
    block_col_indices,
    total_sequence_length,
    key_total_sequence_lengths,
    cos_cache=None,
    sin_cache=None,
    *,
    num_heads,
    kv_num_heads,
    sparse_block_size,
    scale=None,
    do_rotary=0,
    rotary_interleaved=0,
):
    dtype = query.dtype
    batch, length, width = query.shape
    if key is None:
        size = width // (num_heads + 2 * kv_num_heads)
        query, key, value = np.split(query, [num_heads * size, (num_heads + kv_num_heads) * size], axis=2)
    q, k, v = heads(query, num_heads), heads(key, kv_num_heads), heads(value, kv_num_heads)
    size = q.shape[3]
    first = int(total_sequence_length.reshape(-1)[0]) == length
    ends = key_total_sequence_lengths.astype(int)
    starts = np.zeros(batch, int) if first else ends - length
    if do_rotary:
        positions = starts[:, None] + np.arange(length)
        q = rotated(q, positions, cos_cache, sin_cache, rotary_interleaved)
        k = rotated(k, positions, cos_cache, sin_cache, rotary_interleaved)
    keys, values = past_key.astype(np.float64), past_value.astype(np.float64)
    output = np.zeros((batch, num_heads, length, size))
    for b in range(batch):
        keys[b, :, starts[b] : starts[b] + length] = k[b]
        values[b, :, starts[b] : starts[b] + length] = v[b]
        for n, s in np.ndindex(num_heads, length):
            # Layouts are used in turn, head by head. A row of blocks lists the columns that it sees.
            layout = n % len(block_row_indices)
            position = starts[b] + s
            row = position // sparse_block_size
            seen = block_col_indices[layout][
                block_row_indices[layout][row] : block_row_indices[layout][row + 1]
            ]
            places = [t for t in range(position + 1) if t // sparse_block_size in seen]
            shared = n // (num_heads // kv_num_heads)
            scores = keys[b, shared, places] @ q[b, n, s] * scale_of(scale, size)
            output[b, n, s] = softmax(scores) @ values[b, shared, places]
    return merged(output).astype(dtype), keys.astype(dtype), values.astype(dtype)


OPERATORS = {"GroupQueryAttention": group_query_attention, "SparseAttention": sparse_attention}
