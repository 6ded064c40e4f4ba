import numpy as np

from reference.attention import softmax

from .titled import Random, i32, i64


def rotated(head, position, cos, sin, interleaved):
    """The rotation of the first elements of a head."""
    head = head.astype(np.float64).copy()
    cos, sin = cos[position].astype(np.float64), sin[position].astype(np.float64)
    count = len(cos)
    if interleaved:
        first, second = slice(0, 2 * count, 2), slice(1, 2 * count, 2)
    else:
        first, second = slice(0, count), slice(count, 2 * count)
    a, b = head[first].copy(), head[second].copy()
    head[first], head[second] = a * cos - b * sin, b * cos + a * sin
    return head


def padded(*inputs, **attributes):
    """GroupQueryAttention with normalizations, lengths of prompts, idle entries, and all keys in the
    cache, which `reference/` leaves out. Outputs of padding that are not specified are 0."""
    inputs = [*inputs, *[None] * (17 - len(inputs))]
    query, key, past_key, past_value, lengths, total, cos, sin, positions, bias, sink = (
        inputs[0],
        inputs[1],
        *inputs[3:12],
    )
    val, query_norm, key_norm, query_lengths = inputs[2], *inputs[14:17]
    heads, kv_heads = attributes["num_heads"], attributes["kv_num_heads"]
    batch, tokens, channels = query.shape
    if key is None:
        width = channels // (heads + 2 * kv_heads)
        query = query.reshape(batch, tokens, -1, width)
        query, key, val = np.split(query, [heads, heads + kv_heads], axis=2)
    else:
        width = channels // heads
        query = query.reshape(batch, tokens, heads, width)
        key, val = (x.reshape(batch, x.shape[1], kv_heads, width) for x in (key, val))
    new = key.shape[1]
    total = int(total.ravel()[0])
    room = total if past_key is None else max(total, past_key.shape[2])
    first = query_lengths is None and tokens == total
    scale = attributes.get("scale", 0) or 1 / np.sqrt(width)
    softcap, window = attributes.get("softcap", 0), attributes.get("local_window_size", -1)
    mode = attributes.get("qk_output", 0)
    keys, values = np.zeros((2, batch, kv_heads, room, width))
    out, shown = np.zeros((batch, tokens, heads, width)), np.zeros((batch, heads, tokens, total))
    epsilon = attributes.get("qk_norm_epsilon", 1e-6)

    def prepared(head, norm, epsilon, b, s, past):
        head = head.astype(np.float64)
        if norm is not None:
            head = head / np.sqrt((head**2).mean() + epsilon) * norm
        if attributes.get("do_rotary"):
            at = past + s
            if positions is not None:
                at = positions[0, 0] + s if first else positions[b, s]
            head = rotated(head, at, cos, sin, attributes.get("rotary_interleaved", 0))
        return head

    for b in range(batch):
        length = int(lengths.ravel()[b]) + 1
        count = tokens if query_lengths is None else int(query_lengths[b])
        past = 0 if first else length - count
        added = min(count, new)
        kept = length if new == 0 else past
        if past_key is not None:
            keys[b, :, :kept], values[b, :, :kept] = past_key[b, :, :kept], past_value[b, :, :kept]
        for s, m in np.ndindex(added, kv_heads):
            of_keys = attributes.get("k_norm_epsilon", epsilon)
            keys[b, m, past + s] = prepared(key[b, s, m], key_norm, of_keys, b, s, past)
            values[b, m, past + s] = val[b, s, m]
        for s, n in np.ndindex(count, heads):
            of_queries = attributes.get("q_norm_epsilon", epsilon)
            row = prepared(query[b, s, n], query_norm, of_queries, b, s, past)
            m = n // (heads // kv_heads)
            end = past + s + 1 if attributes.get("causal", 1) else length
            start = max(0, end - window) if window > 0 else 0
            end = min(end, length)
            scores = scale * (keys[b, m, start:end] @ row)
            if softcap:
                scores = softcap * np.tanh(scores / softcap)
            if bias is not None:
                scores = scores + bias[b % bias.shape[0], n % bias.shape[1], s, start:end]
            extra = None
            if sink is not None:
                extra = float(sink[n])
            elif attributes.get("smooth_softmax", -1) == 1:
                extra = 0.0
            weights = softmax(scores, extra)
            out[b, s, n] = weights @ values[b, m, start:end]
            shown[b, n, s, start:end] = scores if mode == 1 else weights
    return out.reshape(batch, tokens, -1), keys, values, shown


def group_query_attention(cases):
    heads, kv_heads, width = 4, 2, 8
    base = dict(num_heads=heads, kv_num_heads=kv_heads)

    def add(title, inputs, outputs=3, differs=None, free=(), definition=None, **attributes):
        how = dict(differs=differs, free=free, definition=definition)
        cases.add(title, "GroupQueryAttention", {**base, **attributes}, inputs, outputs, **how)

    def new(batch, tokens, keys=None, width=width):
        keys = tokens if keys is None else keys
        of = Random(batch, keys, kv_heads * width), Random(batch, keys, kv_heads * width)
        return [Random(batch, tokens, heads * width), *of]

    def past(batch, tokens, width=width):
        return [Random(batch, kv_heads, tokens, width), Random(batch, kv_heads, tokens, width)]

    nothing = [None, None]
    add("first prompt", new(1, 5) + nothing + [i32(4), i32(5)])
    add("first prompt, only the output", new(1, 3) + nothing + [i32(2), i32(3)], outputs=1)
    add(
        "first prompt, lengths as a column, total without dimensions",
        new(2, 2) + nothing + [i32([1], [1]), np.array(2, np.int32)],
    )
    add("first prompts of different lengths", new(2, 4) + nothing + [i32(3, 1), i32(4)], definition=padded)
    add("first prompt into a longer cache", new(1, 3) + past(1, 6) + [i32(2), i32(3)])
    add("first prompt with an empty cache", new(1, 2) + past(1, 0) + [i32(1), i32(2)])
    add("one token", new(1, 1) + past(1, 4) + [i32(4), i32(5)])
    add("one token into a longer cache", new(1, 1) + past(1, 7) + [i32(4), i32(5)])
    add("one token after different numbers", new(2, 1) + past(2, 6) + [i32(6, 4), i32(7)])
    add("several tokens", new(1, 3) + past(1, 4) + [i32(6), i32(7)])
    add("several tokens into a longer cache", new(1, 3) + past(1, 9) + [i32(6), i32(7)])
    packed = Random(1, 3, (heads + 2 * kv_heads) * width)
    add("packed", [packed, None, None, *past(1, 2), i32(4), i32(5)])
    packed = Random(2, 3, (heads + 2 * kv_heads) * width)
    add("packed prompts", [packed, None, None, None, None, i32(2, 1), i32(3)], definition=padded)
    add("all keys in the cache", new(1, 2, 0) + past(1, 5) + [i32(4), i32(5)], definition=padded)
    add(
        "heads of five elements",
        new(1, 3, width=5) + nothing + [i32(2), i32(3)],
        differs="onnxruntime needs a multiple of 8, which the documentation does not say",
    )
    add("scale and soft cap", new(1, 4) + nothing + [i32(3), i32(4)], scale=0.5, softcap=1.5)
    for window in (1, 3):
        add(f"window of {window}", new(1, 5) + nothing + [i32(4), i32(5)], local_window_size=window)
    add("window and one token", new(2, 1) + past(2, 6) + [i32(6, 4), i32(7)], local_window_size=3)
    add("not causal", new(2, 4) + nothing + [i32(3, 1), i32(4)], causal=0)
    add("not causal, after earlier tokens", new(1, 2) + past(1, 3) + [i32(4), i32(5)], causal=0)
    add("smooth softmax", new(1, 3) + nothing + [i32(2), i32(3)], smooth_softmax=1)
    sink = [None] * 4 + [Random(heads)]
    add("sinks", new(1, 3) + nothing + [i32(2), i32(3)] + sink)
    add("sinks instead of smooth softmax", new(1, 3) + nothing + [i32(2), i32(3)] + sink, smooth_softmax=1)

    def bias(a, b, tokens, total):
        return [None, None, None, Random(a, b, tokens, total)]

    add("bias for each head", new(1, 3) + nothing + [i32(2), i32(3)] + bias(1, heads, 3, 3))
    add(
        "bias for each entry, soft cap",
        new(2, 3) + nothing + [i32(2, 2), i32(3)] + bias(2, 1, 3, 3),
        softcap=1.5,
    )
    add(
        "bias for all, window, one token",
        new(2, 1) + past(2, 6) + [i32(6, 4), i32(7)] + bias(1, 1, 1, 7),
        local_window_size=3,
    )
    for mode in (1, 2):
        add(f"scores {mode}", new(1, 3) + nothing + [i32(2), i32(3)], outputs=4, qk_output=mode, softcap=1.5)
        add(
            f"scores {mode}, one token",
            new(2, 1) + past(2, 6) + [i32(6, 4), i32(7)] + bias(2, 1, 1, 7),
            outputs=4,
            qk_output=mode,
            local_window_size=3,
        )
    base.update(num_heads=2, kv_num_heads=1)
    heads, kv_heads, width = 2, 1, 16
    for kind, interleaved in [("halves", 0), ("neighbours", 1)]:
        rotary = dict(do_rotary=1, rotary_interleaved=interleaved)
        tables = [Random(12, 8), Random(12, 8)]

        def turned(title, inputs, positions=None):
            more = [] if positions is None else [positions]
            add(f"rotation of {kind}, {title}", inputs + tables + more, **rotary)

        def cached(batch, tokens):
            return past(batch, tokens, 16)

        turned("first prompts", new(2, 3, width=16) + nothing + [i32(2, 2), i32(3)])
        turned("one token", new(2, 1, width=16) + cached(2, 4) + [i32(4, 2), i32(5)])
        turned("several tokens", new(1, 2, width=16) + cached(1, 3) + [i32(4), i32(5)])
        turned("first prompt, positions", new(1, 3, width=16) + nothing + [i32(2), i32(3)], i64([2, 9, 9]))
        turned(
            "one token, positions", new(2, 1, width=16) + cached(2, 4) + [i32(4, 2), i32(5)], i64([9], [0])
        )
        turned(
            "several tokens, positions", new(1, 2, width=16) + cached(1, 3) + [i32(4), i32(5)], i64([7, 3])
        )
        packed = Random(2, 2, 4 * 16)
        turned("packed", [packed, None, None, None, None, i32(1, 1), i32(2)])
    add(
        "rotation of a part",
        new(1, 3, width=16) + nothing + [i32(2), i32(3), Random(3, 3), Random(3, 3)],
        do_rotary=1,
        differs="onnxruntime needs a multiple of 16 elements, which the documentation does not say",
    )
    add(
        "tables without rotation",
        new(1, 2, width=16) + nothing + [i32(1), i32(2), Random(2, 8), Random(2, 8)],
    )
    norms = [None] * 7 + [Random(16), Random(16)]
    reason = "onnxruntime computes it on other devices only"
    add(
        "normalizations",
        new(1, 3, width=16) + nothing + [i32(2), i32(3)] + norms,
        differs=reason,
        definition=padded,
    )
    norms = [Random(5, 8), Random(5, 8)] + norms[2:]
    add(
        "normalizations, rotation",
        new(1, 1, width=16) + past(1, 4, 16) + [i32(4), i32(5)] + norms,
        differs=reason,
        definition=padded,
        do_rotary=1,
        qk_norm_epsilon=0.5,
        k_norm_epsilon=0.25,
    )

    def chunk(
        batch, tokens, room, lengths, total, queries, tables=nothing, positions=None, title=None, **attributes
    ):
        inputs = new(batch, tokens, width=16) + past(batch, room, 16) + [i32(*lengths), i32(total)] + tables
        inputs += [positions] + [None] * 6 + [i32(*queries)]
        free = [(0, np.s_[b, count:]) for b, count in enumerate(queries)]
        free += [(at, np.s_[b, :, length + 1 :]) for at in (1, 2) for b, length in enumerate(lengths)]
        add(f"query_seqlens, {title}", inputs, free=free, definition=padded, **attributes)

    chunk(2, 3, 8, [4, 1], 8, [3, 2], title="padded chunks")
    chunk(2, 1, 4, [2, 1], 4, [1, 0], title="an idle entry")
    chunk(1, 3, 3, [2], 3, [3], title="a first prompt")
    chunk(2, 3, 8, [4, 1], 9, [3, 2], [Random(12, 8), Random(12, 8)], title="rotation", do_rotary=1)
    chunk(
        2,
        2,
        8,
        [4, 1],
        8,
        [2, 1],
        [Random(12, 8), Random(12, 8)],
        i64([7, 3], [1, 9]),
        title="rotation by positions",
        do_rotary=1,
        local_window_size=2,
    )
