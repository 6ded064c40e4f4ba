"""Layer normalisation, with and without a mean, after a sum or a sum of embeddings."""

import numpy as np

from .activations import sigmoid


def simplified_layer_normalization(x, scale, *, axis=-1, epsilon=1e-5, stash_type=1):
    axis %= x.ndim
    wide = x.astype(np.float64)
    axes = tuple(range(axis, x.ndim))
    inverse = 1 / np.sqrt((wide**2).mean(axes, keepdims=True) + np.float32(epsilon))
    return (wide * inverse * scale).astype(scale.dtype), inverse.astype(np.float32)


def skip_sum(x, skip, bias):
    """The sum of both and of the bias. `skip` may lack the batch axis, or have one of size 1."""
    total = x.astype(np.float64) + skip
    return total if bias is None else total + bias


def skip_simplified_layer_normalization(x, skip, gamma, bias=None, *, epsilon=1e-12):
    total = skip_sum(x, skip, bias)
    inverse = 1 / np.sqrt((total**2).mean(-1, keepdims=True) + np.float32(epsilon))
    mean = total.mean(-1, keepdims=True)
    return (
        (total * inverse * gamma).astype(x.dtype),
        mean.astype(np.float32),
        inverse.astype(np.float32),
        total.astype(x.dtype),
    )


def normalized(total, gamma, beta, epsilon):
    mean = total.mean(-1, keepdims=True)
    inverse = 1 / np.sqrt(((total - mean) ** 2).mean(-1, keepdims=True) + np.float32(epsilon))
    result = (total - mean) * inverse * gamma
    return result if beta is None else result + beta, mean, inverse


def skip_layer_normalization(x, skip, gamma, beta=None, bias=None, *, epsilon=1e-12):
    total = skip_sum(x, skip, bias)
    result, mean, inverse = normalized(total, gamma, beta, epsilon)
    return result.astype(x.dtype), mean.astype(np.float32), inverse.astype(np.float32), total.astype(x.dtype)


def embed_layer_normalization(
    ids,
    segment_ids,
    word,
    position,
    segment,
    gamma,
    beta,
    mask=None,
    position_ids=None,
    *,
    epsilon=1e-12,
    mask_index_type=None,
):
    batch, length = ids.shape
    total = np.zeros((batch, length, word.shape[1]))
    for b in range(batch):
        for s in range(length):
            place = s
            if position_ids is not None:
                place = position_ids[b if len(position_ids) > 1 else 0, s]
            total[b, s] = word[ids[b, s]].astype(np.float64) + position[place]
            if segment is not None:
                total[b, s] += segment[segment_ids[b, s]]
    result, _, _ = normalized(total, gamma.astype(np.float64), beta, epsilon)
    # The number of words. The documentation also calls it the position of the first 0, which is the
    # same for masks without holes.
    index = np.zeros(batch, np.int32) if mask is None else mask.astype(bool).sum(1).astype(np.int32)
    return result.astype(word.dtype), index, total.astype(word.dtype)


def gated_rms_norm(x, scale, gate, *, epsilon=1e-5, activation="silu"):
    """Each group of len(scale) elements of the last axis is normalised on its own."""
    groups = x.astype(np.float64).reshape(x.shape[:-1] + (-1, len(scale)))
    inverse = 1 / np.sqrt((groups**2).mean(-1, keepdims=True) + np.float32(epsilon))
    factor = sigmoid(gate.astype(np.float64))
    if activation != "sigmoid":
        factor = factor * gate
    return ((groups * inverse * scale).reshape(x.shape) * factor).astype(x.dtype)


OPERATORS = {
    "GatedRMSNorm": gated_rms_norm,
    "SimplifiedLayerNormalization": simplified_layer_normalization,
    "SkipSimplifiedLayerNormalization": skip_simplified_layer_normalization,
    "SkipLayerNormalization": skip_layer_normalization,
    "EmbedLayerNormalization": embed_layer_normalization,
}
