"""Operators that carry a state from call to call: causal convolutions and linear attention."""

import numpy as np

from .activations import sigmoid


def causal_conv_with_state(
    x,
    weight,
    bias=None,
    past_state=None,
    *,
    activation="none",
    ndim=1,
    dilation=1,
    channels_last=0,
    state_window=0,
    **_,
):
    channels, taps = weight.shape[0], weight.shape[2]
    reach = (taps - 1) * dilation
    trailing = x.shape[2:]

    def first(v):
        """[B, L, channels...] to [B, channels, L], where the layout asks for it."""
        return v.reshape(v.shape[0], v.shape[1], channels).transpose(0, 2, 1) if channels_last else v

    def back(v):
        return v.transpose(0, 2, 1).reshape((v.shape[0], v.shape[2]) + trailing) if channels_last else v

    wide = first(x).astype(np.float64)
    batch, _, length = wide.shape
    state = np.zeros((batch, channels, reach))
    if past_state is not None:
        state = first(past_state[-1] if state_window else past_state).astype(np.float64)
    joined = np.concatenate([state, wide], 2)
    result = np.zeros_like(wide)
    for t in range(length):
        for tap in range(taps):
            result[:, :, t] += joined[:, :, t + tap * dilation] * weight[:, 0, tap]
    if bias is not None:
        result += bias[None, :, None]
    if activation in ("silu", "swish"):
        result = result * sigmoid(result)

    def after(count):
        """The state after so many positions."""
        return back(joined[:, :, count : count + reach])

    present = after(length)
    if state_window:
        slots = [length - state_window + j + 1 for j in range(state_window)]
        present = np.stack([after(count) if count > 0 else np.zeros_like(present) for count in slots])
    return back(result).astype(x.dtype), present.astype(x.dtype)


def updated(state, k, v, decay, beta, rule):
    """One step of the recurrence. The state is [key size, value size]."""
    if rule in ("gated", "gated_delta"):
        state = state * decay
    if rule in ("delta", "gated_delta"):
        v = beta * (v - state.T @ k)
    return state + np.outer(k, v), v


def linear_attention(
    query,
    key,
    value,
    past_state=None,
    decay=None,
    beta=None,
    *,
    q_num_heads,
    kv_num_heads,
    update_rule="gated_delta",
    scale=0.0,
    chunk_size=64,
    state_window=0,
):
    batch, length, width = query.shape
    size = width // q_num_heads
    value_size = value.shape[2] // kv_num_heads
    factor = float(np.float32(scale)) or 1 / np.sqrt(size)
    q, k, v = (
        x.astype(np.float64).reshape(batch, length, -1, n)
        for x, n in ((query, size), (key, size), (value, value_size))
    )
    key_heads = k.shape[2]
    outputs = max(q_num_heads, kv_num_heads)
    result = np.zeros((batch, length, outputs, value_size))
    states = np.zeros((max(1, state_window), batch, kv_num_heads, size, value_size))
    for b, h in np.ndindex(batch, kv_num_heads):
        state = np.zeros((size, value_size))
        if past_state is not None:
            state = (past_state[-1] if state_window else past_state)[b, h].astype(np.float64)
        for t in range(length):
            gate, rate = 1.0, 1.0
            if decay is not None:
                row = np.exp(decay[b, t].astype(np.float64).reshape(kv_num_heads, -1)[h])
                # One decay per head, or one per element of the key.
                gate = row[:, None] if len(row) > 1 else row[0]
            if beta is not None:
                rate = float(beta[b, t, h if beta.shape[2] > 1 else 0])
            state, _ = updated(
                state, k[b, t, h * key_heads // kv_num_heads], v[b, t, h], gate, rate, update_rule
            )
            for o in range(outputs):
                if o * kv_num_heads // outputs == h:
                    result[b, t, o] = factor * state.T @ q[b, t, o * q_num_heads // outputs]
            slot = t - length + len(states)
            if slot >= 0:
                states[slot, b, h] = state
    present = states if state_window else states[0]
    return result.reshape(batch, length, -1).astype(query.dtype), present.astype(query.dtype)


def gated_delta_net(
    query,
    key=None,
    value=None,
    cu_seqlens=None,
    decay=None,
    beta=None,
    initial_state=None,
    a_log=None,
    dt_bias=None,
    capture_count=None,
    state_update_active=None,
    *,
    update_rule="gated_delta",
    scale=0.0,
    gate_activation="none",
    beta_activation="none",
    qk_l2_norm=0,
    gate_lower_bound=-5.0,
    state_update_capacity=0,
    chunk_size=64,
):
    dtype = query.dtype
    if key is None:
        # Packed: the state tells the heads' number and sizes.
        _, value_heads, value_size, size = initial_state.shape
        key_heads = (query.shape[-1] - value_heads * value_size) // (2 * size)
        flat = query.reshape(-1, query.shape[-1])
        parts = np.split(flat, [key_heads * size, 2 * key_heads * size], axis=1)
        leading = query.shape[:-1]
        q, k, v = (part.reshape(len(flat), -1, n) for part, n in zip(parts, (size, size, value_size)))
    else:
        leading = query.shape[:-2]
        q, k, v = (x.reshape(-1, *x.shape[-2:]) for x in (query, key, value))
        key_heads, size = k.shape[1:]
        value_heads, value_size = v.shape[1:]
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    if qk_l2_norm:
        # The bounded gates of Kimi's networks come with a small number under the root.
        small = 1e-6 if gate_activation in ("sigmoid", "kda") else 0
        q, k = (x / np.sqrt((x**2).sum(-1, keepdims=True) + small) for x in (q, k))
    tokens = len(q)
    gates = np.zeros((tokens, value_heads, 1))
    if decay is not None:
        gates = decay.astype(np.float64).reshape(tokens, value_heads, -1)
        if gate_activation != "none":
            raw = gates + (0 if dt_bias is None else dt_bias.astype(np.float64).reshape(1, value_heads, -1))
            speed = np.exp(a_log.astype(np.float64)).reshape(1, value_heads, 1)
            if gate_activation in ("softplus", "qwen"):
                gates = -speed * np.logaddexp(0, raw)
            else:
                gates = np.float32(gate_lower_bound) * sigmoid(speed * raw)
    rates = np.ones((tokens, value_heads))
    if beta is not None:
        rates = beta.astype(np.float64).reshape(tokens, value_heads)
        if beta_activation == "sigmoid":
            rates = sigmoid(rates)
    if cu_seqlens is not None:
        bounds = [int(n) for n in cu_seqlens]
    else:
        batch = len(initial_state) if initial_state is not None else leading[0]
        bounds = [tokens // batch * b for b in range(batch + 1)]
    factor = float(np.float32(scale)) or 1 / np.sqrt(size)
    output = np.zeros((tokens, value_heads, value_size))
    final = np.zeros((len(bounds) - 1, value_heads, value_size, size))
    for b, h in np.ndindex(len(bounds) - 1, value_heads):
        # States are stored with the value's axis first.
        state = (
            np.zeros((size, value_size))
            if initial_state is None
            else initial_state[b, h].T.astype(np.float64)
        )
        shared = h * key_heads // value_heads
        for t in range(bounds[b], bounds[b + 1]):
            row = np.exp(gates[t, h])
            gate = row[:, None] if len(row) > 1 else row[0]
            state, _ = updated(state, k[t, shared], v[t, h], gate, rates[t, h], update_rule)
            output[t, h] = factor * state.T @ q[t, shared]
        final[b, h] = state.T
    return output.reshape(*leading, value_heads, value_size).astype(dtype), final.astype(np.float32)


OPERATORS = {
    "CausalConvWithState": causal_conv_with_state,
    "LinearAttention": linear_attention,
    "GatedDeltaNet": gated_delta_net,
}
