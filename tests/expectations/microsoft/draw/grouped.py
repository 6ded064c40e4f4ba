import numpy as np

from cases import HIDDEN, Case

from .attention import bias_shape, rotary_caches


def group_query_attention(draw):
    dtype = draw.choose(np.float32, np.float32, np.float32, np.float16)
    batch, shared, kv_count = draw.size(3), draw.choose(1, 2, 3), draw.integer(1, 3)
    count = shared * kv_count
    size = draw.choose(8, 16, 24)
    length = draw.size(6)
    attributes = {"num_heads": count, "kv_num_heads": kv_count}
    step = draw.choose("prompt", "token", "token", "chunk", "ragged")
    past = 0
    outputs = [True, True, True]
    if step in ("token", "ragged"):
        length, past = 1, draw.size(9)
    elif step == "chunk":
        batch, past = 1, draw.size(7)
    total = past + length
    room = past
    if draw.maybe(0.25):
        # A cache with room to spare. What it holds behind the last token is unspecified.
        room, outputs = total + draw.integer(1, 4), [True, HIDDEN, HIDDEN]
    ends = np.full(batch, total)
    if step == "ragged":
        ends = draw.integers(1, total, batch)
        ends[draw.integer(0, batch - 1)] = total
        outputs = [True, HIDDEN, HIDDEN]
    windowed = valid = None
    if step == "chunk" and draw.maybe(0.35):
        # Chunks of several sequences, each with its own number of cached tokens.
        batch = draw.size(3)
        room, outputs = total + draw.integer(0, 4), [True, HIDDEN, HIDDEN]
        ends = draw.integers(length, total, batch)
        valid = np.full(batch, length, np.int32)
    elif draw.maybe(0.15):
        windowed = draw.integer(1, 6)
        room = windowed + draw.integer(0, 3)
        attributes |= {"sliding_window_cache": 1, "local_window_size": windowed}
        # Rows behind the most recent positions are unspecified, as long as the cache is not full.
        full = room == windowed and ends.min() >= room
        outputs = [True, True, True] if full else [True, HIDDEN, HIDDEN]
    rotary = draw.maybe()
    if rotary:
        size = draw.choose(16, 32)
        attributes["do_rotary"] = 1
        if draw.maybe(0.4):
            attributes["rotary_interleaved"] = 1
    if draw.maybe(0.2):
        attributes["scale"] = draw.choose(0.25, 1.5)
    if draw.maybe(0.2):
        attributes["softcap"] = draw.choose(2.0, 50.0)
    if windowed:
        pass
    elif draw.maybe(0.3):
        attributes["local_window_size"] = draw.integer(1, 6)
    elif valid is None and draw.maybe(0.1):
        attributes["causal"] = 0
    sink = None
    if draw.maybe(0.15):
        attributes["smooth_softmax"] = draw.choose(1, 0)
    elif draw.maybe(0.15):
        sink = draw.floats(count, dtype=dtype)
    query = draw.floats(batch, length, count * size, dtype=dtype)
    key, value = (draw.floats(batch, length, kv_count * size, dtype=dtype) for _ in range(2))
    if draw.maybe(0.3):
        query, key, value = np.concatenate([query, key, value], 2), None, None
    past_key = past_value = None
    if room or draw.maybe():
        past_key, past_value = (draw.floats(batch, kv_count, room, size, dtype=dtype) for _ in range(2))
    scales = [None, None]
    if past_key is not None and draw.maybe(0.15):
        bits = draw.choose(8, 4)
        kind = draw.choose("PER_TENSOR", "PER_CHANNEL")
        attributes |= {"kv_cache_bit_width": bits, "k_quant_type": kind, "v_quant_type": kind}
        shape = [1] if kind == "PER_TENSOR" else [1, kv_count, 1, size]
        scales = [draw.uniform(0.015, 0.03, *shape) * (16 if bits == 4 else 1) for _ in range(2)]
        scales = [scale.astype(np.float32) for scale in scales]
        if bits == 4:
            past_key, past_value = (draw.bytes(batch, kv_count, room, size // 2) for _ in range(2))
        else:
            past_key, past_value = (draw.bytes(batch, kv_count, room, size, dtype=np.int8) for _ in range(2))
    caches = position_ids = extra = None
    if rotary:
        caches = rotary_caches(draw, total + room + draw.integer(0, 4), size // 2, dtype)
        if draw.maybe(0.4):
            position_ids = (ends - length)[:, None] + np.arange(length)[None]
            if step == "prompt":
                position_ids = position_ids + draw.integer(0, 2) * 0
    if draw.maybe(0.2):
        extra = draw.floats(*bias_shape(draw, batch, count, length, total), dtype=dtype)
    cos, sin = caches or (None, None)
    if draw.maybe(0.1) and outputs == [True] * 3 and not windowed:
        attributes["qk_output"] = draw.choose(1, 2)
        outputs = outputs + [True]
    inputs = [
        query,
        key,
        value,
        past_key,
        past_value,
        (ends - 1).astype(np.int32),
        np.array(total, np.int32),
        cos,
        sin,
        position_ids,
        extra,
        sink,
        *scales,
        None,
        None,
        valid,
    ]
    if draw.maybe(0.2):
        inputs[6] = inputs[6].reshape(1)
    return Case(
        inputs,
        attributes,
        outputs=outputs,
        constants=[7, 8] if draw.maybe() else [],
        tolerance=5e-3 if dtype == np.float16 else None,
    )


def sparse_attention(draw):
    dtype = draw.choose(np.float32, np.float32, np.float16)
    batch, shared, kv_count, size, block = (
        draw.size(3),
        draw.integer(1, 3),
        draw.integer(1, 2),
        draw.choose(8, 16),
        16,
    )
    count = shared * kv_count
    blocks = draw.integer(2, 3)
    room = blocks * block
    if draw.maybe():
        # With a prompt of one token, onnxruntime 1.32.0 reads positions that it has not written.
        length = total = draw.integer(2, room)
    else:
        length, total = 1, draw.integer(2, room)
    layouts = draw.choose(*[n for n in (1, 2, 3) if count % n == 0])
    rows, columns = [], []
    for _ in range(layouts):
        starts, flat = [0], []
        for row in range(blocks):
            # A block sees itself, and some of those before it.
            flat += [column for column in range(row + 1) if column == row or draw.maybe(0.6)]
            starts.append(len(flat))
        rows.append(starts)
        columns.append(flat)
    longest = max(map(len, columns))
    columns = np.array([flat + [-1] * (longest - len(flat)) for flat in columns], np.int32)
    attributes = {"num_heads": count, "kv_num_heads": kv_count, "sparse_block_size": block}
    if draw.maybe(0.3):
        attributes["scale"] = draw.choose(0.25, 1.5)
    cos = sin = None
    if draw.maybe():
        size = 16
        attributes["do_rotary"] = 1
        if draw.maybe(0.4):
            attributes["rotary_interleaved"] = 1
        cos, sin = rotary_caches(draw, room + draw.integer(0, 4), size // 2, dtype)
    query = draw.floats(batch, length, count * size, dtype=dtype)
    key, value = (draw.floats(batch, length, kv_count * size, dtype=dtype) for _ in range(2))
    if draw.maybe(0.3):
        query, key, value = np.concatenate([query, key, value], 2), None, None
    past = [draw.floats(batch, kv_count, room, size, dtype=dtype) for _ in range(2)]
    inputs = [
        query,
        key,
        value,
        *past,
        np.array(rows, np.int32),
        columns,
        np.array([total], np.int32),
        np.full(batch, total, np.int32),
        cos,
        sin,
    ]
    # The caches are written in place.
    return Case(
        inputs,
        attributes,
        outputs=[True, True, True],
        in_place={1: 3, 2: 4},
        tolerance=1e-2 if dtype == np.float16 else None,
    )


GENERATORS = {"GroupQueryAttention": group_query_attention, "SparseAttention": sparse_attention}
