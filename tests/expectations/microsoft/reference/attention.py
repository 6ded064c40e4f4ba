"""Attention with heads: projections, masks, caches, rotary embeddings. Axes: B batch, N heads,
S queries, T keys, H head size."""

import numpy as np


def heads(x, count):
    """[B, S, N * H] to [B, N, S, H]."""
    batch, length, width = x.shape
    return x.reshape(batch, length, count, width // count).transpose(0, 2, 1, 3).astype(np.float64)


def merged(x):
    """[B, N, S, H] to [B, S, N * H]."""
    batch, count, length, size = x.shape
    return x.transpose(0, 2, 1, 3).reshape(batch, length, count * size)


def softmax(scores, sink=None):
    """Over the last axis. A sink adds exp(sink) to the sum, without an output of its own. Rows in
    which everything is masked by -inf are 0."""
    top = scores.max(-1, keepdims=True, initial=-np.inf)
    if sink is not None:
        top = np.maximum(top, sink)
    top = np.where(np.isfinite(top), top, 0)
    powers = np.exp(scores - top)
    total = powers.sum(-1, keepdims=True)
    if sink is not None:
        total = total + np.exp(sink - top)
    return powers / np.where(total == 0, 1, total)


def attend(q, k, v, scale, added):
    """Softmax of the scaled scores plus `added`, times v; also the sums before the softmax."""
    scores = np.einsum("bnsh,bnth->bnst", q, k) * scale + added
    return np.einsum("bnst,bnth->bnsh", softmax(scores), v), scores


def scale_of(scale, size):
    return 1 / np.sqrt(size) if not scale else float(np.float32(scale))


def key_mask(mask, batch, length, total):
    """What a mask input allows, as truth values [B, 1, S or 1, T]."""
    if mask.ndim == 1:
        ends = mask[:batch]
        starts = mask[batch : 2 * batch] if mask.size == 2 * batch else np.zeros(batch, int)
        t = np.arange(total)
        allowed = (t < ends[:, None]) & (t >= starts[:, None])
        return allowed[:, None, None, :]
    if mask.ndim == 2:
        return (mask != 0)[:, None, None, :]
    if mask.ndim == 3:
        return (mask != 0)[:, None, :, :]
    # Rows of a square mask count positions, past ones included.
    return (mask != 0)[:, :, total - length : total, :total]


def causal(length, total, past):
    """0 where query s may look at key t, else -inf. Queries stand behind the past keys."""
    s, t = np.arange(length)[:, None], np.arange(total)[None]
    return np.where(t <= s + past, 0.0, -np.inf)


def masks(batch, length, total, past, mask, filter_value, unidirectional, bias):
    """Everything that is added to the scaled scores. `past` is an array [B, N, T, H], or None."""
    added = np.zeros((batch, 1, length, total))
    if unidirectional:
        added = added + causal(length, total, 0 if past is None else past.shape[2])
    if mask is not None:
        added = added + np.where(key_mask(mask, batch, length, total), 0, np.float32(filter_value))
    return added if bias is None else added + bias


def multi_head_attention(
    query,
    key=None,
    value=None,
    bias=None,
    mask=None,
    attention_bias=None,
    past_key=None,
    past_value=None,
    *,
    num_heads,
    scale=None,
    mask_filter_value=-10000.0,
    unidirectional=0,
):
    dtype = query.dtype
    if query.ndim == 5:
        # Packed: [B, S, N, 3, H].
        q, k, v = (query[:, :, :, i].transpose(0, 2, 1, 3).astype(np.float64) for i in range(3))
    else:
        q = heads(query, num_heads)
        if key.ndim == 5:
            k, v = (key[:, :, :, i].transpose(0, 2, 1, 3).astype(np.float64) for i in range(2))
        elif key.ndim == 4:
            k, v = key.astype(np.float64), value.astype(np.float64)
        else:
            k, v = heads(key, num_heads), heads(value, num_heads)
    if bias is not None:
        width = q.shape[1] * q.shape[3]
        q = q + heads(bias[None, None, :width], num_heads)
        # Keys and values that come from a cache have their bias already.
        if key is None or key.ndim != 4:
            k = k + heads(bias[None, None, width : 2 * width], num_heads)
            v = v + heads(bias[None, None, 2 * width :], num_heads)
    if past_key is not None:
        k, v = np.concatenate([past_key, k], 2), np.concatenate([past_value, v], 2)
    added = masks(
        len(q), q.shape[2], k.shape[2], past_key, mask, mask_filter_value, unidirectional, attention_bias
    )
    output, scores = attend(q, k, v, scale_of(scale, q.shape[3]), added)
    return merged(output).astype(dtype), k.astype(dtype), v.astype(dtype), scores.astype(dtype)


def projected_attention(
    projected,
    dtype,
    mask,
    past,
    attention_bias,
    sizes,
    *,
    num_heads,
    scale=None,
    mask_filter_value=-10000.0,
    unidirectional=0,
):
    """Attention over x * weights + bias, in which Q, K and V lie side by side."""
    q, k, v = (heads(part, num_heads) for part in np.split(projected, np.cumsum(sizes)[:2], axis=-1))
    if past is not None:
        k, v = np.concatenate([past[0], k], 2), np.concatenate([past[1], v], 2)
    behind = None if past is None else past[0]
    added = masks(
        len(q), q.shape[2], k.shape[2], behind, mask, mask_filter_value, unidirectional, attention_bias
    )
    output, _ = attend(q, k, v, scale_of(scale, q.shape[3]), added)
    present = np.stack([k, v]).astype(dtype) if k.shape == v.shape else None
    return merged(output).astype(dtype), present


def attention(
    x, weights, bias=None, mask=None, past=None, attention_bias=None, *, qkv_hidden_sizes=None, **rest
):
    projected = x.astype(np.float64) @ weights.astype(np.float64)
    if bias is not None:
        projected = projected + bias
    sizes = qkv_hidden_sizes or [weights.shape[1] // 3] * 3
    return projected_attention(projected, x.dtype, mask, past, attention_bias, sizes, **rest)


def q_attention(
    x, weight, bias, x_scale, weight_scale, mask=None, x_zero=None, weight_zero=None, past=None, **rest
):
    left = x.astype(np.int64) - (0 if x_zero is None else x_zero.astype(np.int64))
    right = weight.astype(np.int64) - (0 if weight_zero is None else weight_zero.astype(np.int64))
    projected = (left @ right) * (x_scale * weight_scale).astype(np.float64) + bias
    return projected_attention(projected, np.float32, mask, past, None, [weight.shape[1] // 3] * 3, **rest)


def rotated(x, positions, cos_cache, sin_cache, interleaved):
    """Rotates pairs of the first elements of each head: x [B, N, S, H], positions [B, S]."""
    half = cos_cache.shape[1]
    result = x.astype(np.float64).copy()
    for b in range(x.shape[0]):
        for s in range(x.shape[2]):
            cos = cos_cache[positions[b, s]].astype(np.float64)
            sin = sin_cache[positions[b, s]].astype(np.float64)
            for i in range(half):
                # The two elements of a pair are neighbours, or half the rotated width apart.
                first, second = (2 * i, 2 * i + 1) if interleaved else (i, i + half)
                a, c = x[b, :, s, first].astype(np.float64), x[b, :, s, second].astype(np.float64)
                result[b, :, s, first] = a * cos[i] - c * sin[i]
                result[b, :, s, second] = a * sin[i] + c * cos[i]
    return result


def rotary_embedding(
    x,
    position_ids,
    cos_cache,
    sin_cache,
    *,
    interleaved=0,
    num_heads=0,
    rotary_embedding_dim=0,
    scale=1.0,
    is_packed_batching=0,
):
    if x.ndim == 4:
        split = x
    else:
        split = heads(x, num_heads or x.shape[2] // (2 * cos_cache.shape[1]))
    batch, _, length, _ = split.shape
    positions = position_ids
    if position_ids.ndim == 1:
        # One number is the position of the first token.
        positions = np.broadcast_to(position_ids[0] + np.arange(length), (batch, length))
    result = rotated(split, positions, cos_cache, sin_cache, interleaved)
    return (result if x.ndim == 4 else merged(result)).astype(x.dtype)


def decoder_masked_multi_head_attention(
    query,
    key,
    value,
    mask=None,
    attention_bias=None,
    past_key=None,
    past_value=None,
    past_sequence_length=None,
    _beam_width=None,
    _cache_indirection=None,
    bias=None,
    *,
    num_heads,
    scale=None,
    mask_filter_value=-10000.0,
    past_present_share_buffer=0,
    output_qk=0,
):
    """One query. A shared buffer has rows in the order of tokens, as on the CPU, and keeps its size."""
    caches = [past_key, past_value]
    held = None
    if past_present_share_buffer:
        held = int(past_sequence_length.reshape(-1)[0])
        caches = [cache[:, :, :held] for cache in caches]
    output, *presents, scores = multi_head_attention(
        query,
        key,
        value,
        bias,
        mask,
        attention_bias,
        *caches,
        num_heads=num_heads,
        scale=scale,
        mask_filter_value=mask_filter_value,
    )
    if held is not None:
        rest = [cache[:, :, held + 1 :] for cache in (past_key, past_value)]
        presents = [np.concatenate([present, cache], 2) for present, cache in zip(presents, rest)]
    return output, *presents, scores


OPERATORS = {
    "DecoderMaskedMultiHeadAttention": decoder_masked_multi_head_attention,
    "MultiHeadAttention": multi_head_attention,
    "Attention": attention,
    "QAttention": q_attention,
    "RotaryEmbedding": rotary_embedding,
}
