import numpy as np

from cases import Case


def causal_conv_with_state(draw):
    batch, channels, length, taps = draw.size(3), draw.size(7), draw.size(8), draw.integer(1, 4)
    attributes = draw.some(activation=draw.choose("none", "silu", "swish"))
    dilation = draw.choose(1, 1, 2, 3)
    if dilation > 1:
        attributes["dilation"] = dilation
    if draw.maybe(0.3):
        attributes["ndim"] = 1
    reach = (taps - 1) * dilation
    shape, state = [batch, channels, length], [batch, channels, reach]
    if draw.maybe(0.4):
        attributes["channels_last"] = 1
        split = draw.choose([channels], [channels], [1, channels])
        shape, state = [batch, length, *split], [batch, reach, *split]
    if draw.maybe(0.05):
        attributes["state_window"] = draw.integer(1, 4)
        state = [attributes["state_window"], *state]
    inputs = [
        draw.floats(*shape),
        draw.floats(channels, 1, taps),
        draw.floats(channels) if draw.maybe() else None,
        draw.floats(*state) if draw.maybe(0.6) else None,
    ]
    return Case(inputs, attributes, outputs=[True, True], constants=[1, 2] if draw.maybe() else [])


def unit(x, size):
    """Normalised heads, without which the delta rules diverge."""
    split = x.reshape(*x.shape[:-1], -1, size)
    return (split / np.sqrt((split**2).sum(-1, keepdims=True) + 1e-6)).reshape(x.shape).astype(x.dtype)


def linear_attention(draw):
    batch, length, size, value_size = (
        draw.size(3),
        draw.size(7),
        draw.choose(1, 2, 4, 8, 5),
        draw.choose(1, 3, 4, 8),
    )
    kv_count = draw.integer(1, 3)
    count = draw.choose(kv_count, kv_count, 2 * kv_count)
    if draw.maybe(0.2):
        count, kv_count = kv_count, 2 * kv_count
    rule = draw.choose("linear", "gated", "delta", "gated_delta", "gated_delta")
    attributes = {"q_num_heads": count, "kv_num_heads": kv_count}
    if rule != "gated_delta" or draw.maybe():
        attributes["update_rule"] = rule
    attributes |= draw.some(scale=draw.choose(0.0, 0.5))
    if draw.maybe(0.2):
        attributes["chunk_size"] = draw.choose(1, 2, 16)
    state = [batch, kv_count, size, value_size]
    if draw.maybe(0.05):
        attributes["state_window"] = draw.integer(1, 4)
        state = [attributes["state_window"], *state]
    decay = beta = None
    if "gated" in rule:
        decay = -abs(draw.floats(batch, length, kv_count * draw.choose(1, size)))
    if "delta" in rule:
        beta = draw.uniform(0, 1, batch, length, draw.choose(1, kv_count))
    inputs = [
        draw.floats(batch, length, count * size),
        unit(draw.floats(batch, length, kv_count * size), size),
        draw.floats(batch, length, kv_count * value_size),
        draw.floats(*state) if draw.maybe(0.6) else None,
        decay,
        beta,
    ]
    return Case(inputs, attributes, outputs=[True, True], tolerance=1e-4)


def gated_delta_net(draw):
    dtype = draw.choose(np.float32, np.float32, np.float16)
    batch, length, size, value_size = (
        draw.size(3),
        draw.size(5),
        draw.choose(1, 2, 4, 8),
        draw.choose(1, 3, 4, 8),
    )
    key_count = draw.integer(1, 3)
    count = key_count * draw.integer(1, 3)
    rule = draw.choose("linear", "gated", "delta", "gated_delta", "gated_delta")
    attributes = {} if rule == "gated_delta" and draw.maybe() else {"update_rule": rule}
    attributes |= draw.some(scale=draw.choose(0.0, 0.5))
    tokens = batch * length
    bounds = None
    if draw.maybe(0.3):
        lengths = [draw.integer(1, 5) for _ in range(batch)]
        bounds = np.array([0, *np.cumsum(lengths)], np.int32)
        tokens = int(bounds[-1])
    q, k = draw.floats(tokens, key_count, size, dtype=dtype), draw.floats(
        tokens, key_count, size, dtype=dtype
    )
    v = draw.floats(tokens, count, value_size, dtype=dtype)
    if draw.maybe(0.3):
        attributes["qk_l2_norm"] = 1
    else:
        k = unit(k.astype(np.float64), size).astype(dtype)
    decay = beta = a_log = dt_bias = None
    other = draw.choose(np.float32, dtype)
    if "gated" in rule:
        width = draw.choose(1, size)
        decay = -abs(draw.floats(tokens, count, width))
        activation = draw.choose("none", "softplus", "sigmoid", "kda", "qwen")
        if activation != "none":
            attributes["gate_activation"] = activation
            a_log = draw.floats(count, scale=0.5)
            dt_bias = draw.floats(count, width) if width > 1 and draw.maybe() else draw.floats(count)
            if activation in ("sigmoid", "kda") and draw.maybe():
                attributes["gate_lower_bound"] = -2.0
        decay = (decay[..., 0] if width == 1 else decay).astype(other)
    if "delta" in rule:
        beta = draw.uniform(0, 1, tokens, count, dtype=other)
        if draw.maybe(0.4):
            attributes["beta_activation"] = "sigmoid"
            beta = draw.floats(tokens, count, dtype=other)
    state = draw.floats(batch, count, value_size, size)
    if bounds is not None and draw.maybe():
        state = None
    if state is not None and draw.maybe(0.3):
        q, k, v = np.concatenate([x.reshape(tokens, -1) for x in (q, k, v)], 1), None, None
    elif bounds is None and draw.maybe(0.4):
        q, k, v = (x.reshape(batch, length, *x.shape[1:]) for x in (q, k, v))
        decay, beta = (None if x is None else x.reshape(batch, length, *x.shape[1:]) for x in (decay, beta))
    inputs = [q, k, v, bounds, decay, beta, state, a_log, dt_bias]
    return Case(
        inputs, attributes, outputs=[True, draw.maybe(0.8)], tolerance=1e-2 if dtype == np.float16 else 1e-4
    )


GENERATORS = {
    "CausalConvWithState": causal_conv_with_state,
    "LinearAttention": linear_attention,
    "GatedDeltaNet": gated_delta_net,
}
