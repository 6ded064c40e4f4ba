import numpy as np

from cases import Case


def rotary_caches(draw, positions, half, dtype):
    """Cosines and sines as models have them."""
    angles = np.arange(positions)[:, None] / 10000.0 ** (np.arange(half) / max(half, 1))
    return np.cos(angles).astype(dtype), np.sin(angles).astype(dtype)


def rotary_embedding(draw):
    dtype = draw.choose(np.float32, np.float32, np.float16)
    batch, length, count = draw.size(3), draw.size(7), draw.integer(1, 4)
    size = draw.choose(2, 4, 6, 8, 16)
    most = length + draw.integer(0, 6)
    attributes = draw.some(interleaved=draw.integer(0, 1))
    partial = draw.maybe(0.3) and size > 2
    half = draw.integer(1, size // 2 - 1) if partial else size // 2
    if partial:
        attributes |= {"rotary_embedding_dim": 2 * half, "num_heads": count}
    elif draw.maybe(0.3):
        attributes["num_heads"] = count
    shape = [batch, length, count * size] if draw.maybe(0.6) else [batch, count, length, size]
    if draw.maybe(0.4):
        positions = draw.integers(0, most - length, 1)
    else:
        positions = draw.integers(0, most - 1, batch, length)
    caches = rotary_caches(draw, most, half, dtype)
    return Case(
        [draw.floats(*shape, dtype=dtype), positions, *caches],
        attributes,
        constants=[2, 3] if draw.maybe(0.7) else [],
    )


def bias_shape(draw, batch, count, length, total):
    return [draw.choose(1, batch), draw.choose(1, count), length, total]


def mask_tolerance(mask, otherwise=None):
    """Where everything is masked, scores near -10000 keep 3 decimal places in float32."""
    return otherwise if mask is None else 2e-3


def padding_mask(draw, kind, batch, length, total):
    """A mask input of this kind: by lengths, by starts and ends, or by truth values."""
    if kind == "ends":
        return draw.integers(1, total, batch, dtype=np.int32)
    if kind == "ends and starts":
        starts = draw.integers(0, total - 1, batch)
        ends = [draw.integer(int(start) + 1, total) for start in starts]
        return np.array(ends + list(starts), np.int32)
    shape = {"2": [batch, total], "3": [batch, length, total], "4": [batch, 1, total, total]}[kind]
    mask = draw.integers(0, 3, *shape, dtype=np.int32).clip(0, 1)
    if draw.maybe(0.7):
        mask[..., 0] = 1
    return mask


def multi_head_attention(draw):
    batch, length, count = draw.size(3), draw.size(6), draw.integer(1, 4)
    size = draw.choose(1, 2, 4, 8, 5)
    value_size = draw.choose(size, size, size, 3, 6)
    kv = draw.choose(length, length, draw.size(6))
    form = draw.choose(*["separate"] * 8, *["cache"] * 4, "packed", "packed keys")
    past = 0
    if form in ("packed", "packed keys", "cache"):
        value_size = size
    if form == "packed":
        kv = length
        query, key, value = draw.floats(batch, length, count, 3, size), None, None
    else:
        query, value = draw.floats(batch, length, count * size), None
        if form == "packed keys":
            key = draw.floats(batch, kv, count, 2, size)
        elif form == "cache":
            key, value = draw.floats(batch, count, kv, size), draw.floats(batch, count, kv, value_size)
        else:
            key, value = draw.floats(batch, kv, count * size), draw.floats(batch, kv, count * value_size)
    past_key = past_value = mask = attention_bias = bias = None
    if form == "separate" and draw.maybe(0.35):
        value_size = size
        value = draw.floats(batch, kv, count * size)
        past = draw.size(5)
        past_key, past_value = (draw.floats(batch, count, past, size) for _ in range(2))
    total = past + kv
    if draw.maybe(0.4):
        bias = draw.floats(count * (2 * size + value_size), scale=0.5)
    if draw.maybe(0.35):
        mask = padding_mask(draw, draw.choose("ends", "2", "2", "3"), batch, length, total)
    if draw.maybe(0.3):
        attention_bias = draw.floats(*bias_shape(draw, batch, count, length, total))
    attributes = {"num_heads": count} | {
        name: value
        for name, value in draw.some(
            unidirectional=1,
            scale=draw.choose(0.25, 1.5),
            mask_filter_value=-100.0,
        ).items()
        if draw.maybe(0.4)
    }
    present = form != "cache" and (past > 0 or draw.maybe())
    if past and draw.maybe(0.1):
        present = False
    return Case(
        [query, key, value, bias, mask, attention_bias, past_key, past_value],
        attributes,
        outputs=[True, present, present, present and draw.maybe() and "unidirectional" not in attributes],
        constants=[3] if draw.maybe() else [],
        tolerance=mask_tolerance(mask),
    )


def common(draw, count):
    attributes = {"num_heads": count}
    if draw.maybe(0.4):
        attributes["unidirectional"] = draw.choose(1, 1, 0)
    if draw.maybe(0.25):
        attributes["scale"] = draw.choose(0.25, 1.5)
    if draw.maybe(0.2):
        attributes["mask_filter_value"] = -100.0
    return attributes


def attention(draw):
    batch, length, count = draw.size(3), draw.size(6), draw.integer(1, 4)
    size, width = draw.choose(1, 2, 4, 8, 5), draw.choose(1, 3, 4, 8, 11)
    attributes = common(draw, count)
    sizes = [count * size] * 3
    past = None
    if draw.maybe(0.3):
        past = draw.floats(2, batch, count, draw.size(5), size)
    elif draw.maybe(0.25):
        sizes[2] = count * draw.choose(1, 3, 6)
    if sizes[2] != sizes[0] or draw.maybe(0.2):
        attributes["qkv_hidden_sizes"] = sizes
    total = length + (0 if past is None else past.shape[3])
    mask = None
    if draw.maybe():
        kind = draw.choose("ends", "ends and starts", "2", "2", "3", "3", "4" if draw.maybe(0.2) else "2")
        mask = padding_mask(draw, kind, batch, length, total)
        if kind == "4" and draw.maybe():
            attributes.pop("unidirectional", None)
    bias = draw.floats(sum(sizes)) if draw.maybe(0.7) else None
    extra = (
        draw.floats(*bias_shape(draw, batch, count, length, total))
        if draw.maybe(0.03 if past is not None else 0.25)
        else None
    )
    present = past is not None or sizes[2] == sizes[0] and draw.maybe(0.3)
    return Case(
        [
            draw.floats(batch, length, width),
            draw.floats(width, sum(sizes), scale=0.5),
            bias,
            mask,
            past,
            extra,
        ],
        attributes,
        outputs=[True, present],
        constants=[1, 2] if draw.maybe(0.7) else [],
        tolerance=mask_tolerance(mask),
    )


def q_attention(draw):
    batch, length, count = draw.size(3), draw.size(6), draw.integer(1, 4)
    size, width = draw.choose(1, 2, 4, 8, 5), draw.choose(1, 3, 4, 8, 11)
    attributes = common(draw, count)
    columns = 3 * count * size
    dtype = draw.choose(np.uint8, np.int8)
    past = draw.floats(2, batch, count, draw.size(5), size) if draw.maybe(0.3) else None
    total = length + (0 if past is None else past.shape[3])
    mask = None
    if draw.maybe():
        mask = padding_mask(draw, draw.choose("ends", "ends and starts", "2", "3"), batch, length, total)
    shape = [columns] if draw.maybe(0.4) else draw.choose([], [1])
    zero = (
        draw.bytes(*shape, dtype=dtype)
        if draw.maybe(0.4)
        else np.full(shape, 0 if dtype == np.int8 else 128, dtype)
    )
    x_zero = draw.bytes(*draw.choose([], [1])) if draw.maybe(0.7) else None
    inputs = [
        draw.bytes(batch, length, width),
        draw.bytes(width, columns, dtype=dtype),
        draw.floats(columns),
        draw.uniform(0.002, 0.02, *draw.choose([], [1])),
        draw.uniform(0.002, 0.01, *shape),
        mask,
        x_zero,
        zero if draw.maybe(0.8) else None,
        past,
    ]
    return Case(
        inputs,
        attributes,
        outputs=[True, past is not None or draw.maybe(0.2)],
        constants=[1, 2, 3, 4, 6, 7] if draw.maybe(0.7) else [],
        tolerance=mask_tolerance(mask, 1e-4),
    )


def decoder_masked_multi_head_attention(draw):
    batch, count, size = draw.size(3), draw.integer(1, 4), draw.choose(1, 2, 4, 5, 8)
    hidden = count * size
    attributes = {"num_heads": count}
    if draw.maybe(0.3):
        attributes["scale"] = draw.choose(0.25, 1.5)
    if draw.maybe(0.3):
        attributes["mask_filter_value"] = draw.choose(-100.0, -10000.0)
    past = [None, None, None]
    if draw.maybe():
        # Self attention, with a cache that is longer than the tokens that it holds.
        room = draw.integer(1, 7)
        length = draw.integer(0, room - 1)
        total = length + 1
        attributes["past_present_share_buffer"] = 1
        rows = [draw.floats(batch, 1, hidden) for _ in range(2)]
        past = [draw.floats(batch, count, room, size) for _ in range(2)] + [np.array([length], np.int32)]
    else:
        total = draw.size(7)
        rows = [draw.floats(batch, count, total, size) for _ in range(2)]
    cached = past[0] is not None
    mask = draw.integers(0, 1, batch, total, dtype=np.int32) if draw.maybe(0.4) else None
    extra = draw.floats(*bias_shape(draw, batch, count, 1, total)) if cached and draw.maybe(0.3) else None
    bias = draw.floats(3 * hidden) if draw.maybe(0.4) else None
    beams = np.array([1], np.int32) if draw.maybe(0.2) else None
    # onnxruntime 1.32.0 needs the present caches, where there are past ones.
    outputs = [True, cached, cached, draw.maybe(0.3)]
    if outputs[3]:
        attributes["output_qk"] = 1
    return Case(
        [draw.floats(batch, 1, hidden), *rows, mask, extra, *past, beams, None, bias],
        attributes,
        outputs=outputs,
        tolerance=mask_tolerance(mask),
    )


GENERATORS = {
    "DecoderMaskedMultiHeadAttention": decoder_masked_multi_head_attention,
    "RotaryEmbedding": rotary_embedding,
    "MultiHeadAttention": multi_head_attention,
    "Attention": attention,
    "QAttention": q_attention,
}
