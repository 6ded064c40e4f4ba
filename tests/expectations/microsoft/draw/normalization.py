import numpy as np

from cases import Case


def simplified_layer_normalization(draw):
    dtype = draw.choose(np.float32, np.float32, np.float16)
    x = draw.floats(*draw.shape(1, 4), dtype=dtype, scale=draw.choose(1, 3, 0.01))
    axis = draw.integer(-x.ndim, x.ndim - 1)
    attributes = draw.some(epsilon=draw.choose(1e-5, 1e-6, 0.1), stash_type=1)
    if axis != -1 or draw.maybe():
        attributes["axis"] = axis
    scale = draw.floats(*x.shape[axis:], dtype=dtype)
    return Case(
        [x, scale],
        attributes,
        outputs=[True, draw.maybe(0.3)],
        domain="",
        constants=[1] if draw.maybe() else [],
    )


def sum_inputs(draw):
    """Input and skip, where the skip's batch axis may be absent or of size 1."""
    dtype = draw.choose(np.float32, np.float32, np.float16)
    hidden = draw.choose(draw.size(), 8, 16, 33)
    shape = [draw.size(4), draw.size(5), hidden] if draw.maybe(0.8) else [draw.size(), hidden]
    skip = shape
    if len(shape) == 3:
        skip = draw.choose(shape, shape, shape, shape[1:], [1] + shape[1:])
    return draw.floats(*shape, dtype=dtype), draw.floats(*skip, dtype=dtype), hidden, dtype


def skip_simplified_layer_normalization(draw):
    x, skip, hidden, dtype = sum_inputs(draw)
    gamma = draw.floats(hidden, dtype=dtype)
    bias = draw.floats(hidden, dtype=dtype) if draw.maybe() else None
    return Case(
        [x, skip, gamma, bias],
        draw.some(epsilon=draw.choose(1e-12, 1e-5, 0.1)),
        outputs=[True, False, False, draw.maybe()],
        constants=[2, 3] if draw.maybe() else [],
    )


def skip_layer_normalization(draw):
    x, skip, hidden, dtype = sum_inputs(draw)
    gamma = draw.floats(hidden, dtype=dtype)
    beta = draw.floats(hidden, dtype=dtype) if draw.maybe() else None
    bias = draw.floats(hidden, dtype=dtype) if draw.maybe() else None
    attributes = draw.some(epsilon=draw.choose(1e-12, 1e-5, 0.1))
    if hidden == 1 and "epsilon" not in attributes:
        # Without an epsilon that counts, one element minus its mean divides 0 by almost 0.
        attributes["epsilon"] = 1e-5
    return Case(
        [x, skip, gamma, beta, bias],
        attributes,
        outputs=[True, False, False, draw.maybe()],
        constants=[2, 3, 4] if draw.maybe() else [],
    )


def embed_layer_normalization(draw):
    batch, length, hidden = draw.size(4), draw.size(), draw.choose(4, 8, 15, 32)
    words, positions, segments = draw.integer(1, 20), length + draw.integer(0, 4), draw.integer(1, 3)
    ids = draw.integers(0, words - 1, batch, length, dtype=np.int32)
    segment_ids = segment = mask = position_ids = None
    if draw.maybe(0.7):
        segment_ids = draw.integers(0, segments - 1, batch, length, dtype=np.int32)
        segment = draw.floats(segments, hidden)
    if draw.maybe():
        # Mostly masks as tokenizers make them, without holes.
        ends = draw.integers(0, length, batch, 1)
        mask = (np.arange(length)[None] < ends).astype(np.int32)
        if draw.maybe(0.2):
            mask = draw.integers(0, 1, batch, length, dtype=np.int32)
    if draw.maybe(0.4):
        position_ids = draw.integers(0, positions - 1, draw.choose(1, batch), length, dtype=np.int32)
    inputs = [
        ids,
        segment_ids,
        draw.floats(words, hidden),
        draw.floats(positions, hidden),
        segment,
        draw.floats(hidden),
        draw.floats(hidden),
        mask,
        position_ids,
    ]
    attributes = draw.some(epsilon=draw.choose(1e-12, 1e-5))
    index = draw.maybe(0.7)
    if index and draw.maybe(0.3):
        attributes["mask_index_type"] = 1
    return Case(
        inputs,
        attributes,
        outputs=[True, index, draw.maybe(0.3)],
        constants=[2, 3, 4, 5, 6] if draw.maybe() else [],
    )


def gated_rms_norm(draw):
    dtype = draw.choose(np.float32, np.float32, np.float16)
    width = draw.choose(1, 3, 8, 16)
    shape = draw.shape(0, 3, 5) + [width * draw.integer(1, 3)]
    x, gate = draw.floats(*shape, dtype=dtype), draw.floats(*shape, dtype=dtype)
    attributes = draw.some(
        epsilon=draw.choose(1e-5, 1e-2), activation=draw.choose("silu", "swish", "sigmoid")
    )
    return Case([x, draw.floats(width, dtype=dtype), gate], attributes, constants=[1] if draw.maybe() else [])


GENERATORS = {
    "SimplifiedLayerNormalization": simplified_layer_normalization,
    "SkipSimplifiedLayerNormalization": skip_simplified_layer_normalization,
    "SkipLayerNormalization": skip_layer_normalization,
    "EmbedLayerNormalization": embed_layer_normalization,
    "GatedRMSNorm": gated_rms_norm,
}
