"""Recurrent layers, attention and transforms."""

import numpy as np

from graph import BOOL, F32, I32, divisors, floats, need, operators


@operators("RNN GRU LSTM")
def recurrent(g, operator, x, v):
    """Without clip, activations and input_forget, which the reference ignores. Sequences of different
    lengths are judged one by one."""
    floats(v, 3, 3)
    longest, batch, width = v.shape
    hidden, direction = g.between(1, 3), g.choose(["forward", "reverse", "bidirectional"])
    both, gates = 1 + (direction == "bidirectional"), {"RNN": 1, "GRU": 3, "LSTM": 4}[operator]

    def small(*shape, likely=1.0):
        return g.given(g.random(shape) / np.float32(2)) if g.chance(likely) else ""

    lengths = g.numbers.integers(1, longest + 1, batch).astype(I32)
    inputs = [x, small(both, gates * hidden, width), small(both, gates * hidden, hidden),
              small(both, 2 * gates * hidden, likely=0.5),
              g.given(lengths) if g.chance(0.4) else "",
              small(both, batch, hidden, likely=0.5)]
    attributes = {"hidden_size": hidden, "direction": direction}
    if operator == "LSTM":
        inputs += [small(both, batch, hidden, likely=0.5), small(both, 3 * hidden, likely=0.3)]
    if operator == "GRU":
        attributes["linear_before_reset"] = g.between(0, 1)
    return g.op(operator, inputs, 3 if operator == "LSTM" else 2, **attributes)


@operators("Attention")
def attention(g, operator, x, v):
    floats(v, 3, 4)
    need(g.opset >= 23)
    attributes, late, out = {}, g.between(1, 5), g.between(1, 4)
    if v.ndim == 4:
        batch, heads, length, width = v.shape
        shared = g.choose(divisors(heads))
        keys, values = (batch, shared, late, width), (batch, shared, late, out)
    else:
        batch, length, width = v.shape
        heads = g.choose(divisors(width))
        width, shared = width // heads, g.choose(divisors(heads))
        keys, values = (batch, late, shared * width), (batch, late, shared * out)
        attributes = {"q_num_heads": heads, "kv_num_heads": shared}
    past = g.choose([0, 0, 2])
    inputs, total = [x, g.noise(*keys), g.noise(*values)], late + past
    mask = [(length, total), (1, 1, length, total), (batch, heads, length, total)]
    if past or g.chance(0.5):
        dtype = g.choose([F32, BOOL])
        inputs.append(g.given(g.random(g.choose(mask), dtype)) if g.chance(0.6) else "")
    if past:
        inputs += [g.noise(batch, shared, past, width), g.noise(batch, shared, past, out)]
    return g.op(operator, inputs, 3 if past else 1, is_causal=g.between(0, 1),
                softcap=g.choose([None, 2.0]), scale=g.choose([None, 0.3]), **attributes)


@operators("RotaryEmbedding")
def rotary_embedding(g, operator, x, v):
    floats(v, 3, 4)
    need(g.opset >= 23)
    attributes = {"interleaved": g.between(0, 1)}
    if v.ndim == 4:
        batch, _, length, width = v.shape
    else:
        batch, length, width = v.shape
        attributes["num_heads"] = g.choose(divisors(width))
        width //= attributes["num_heads"]
    need(width % 2 == 0)
    attributes["rotary_embedding_dim"] = turned = g.choose([0, 0, *range(2, width + 1, 2)])
    half = (turned or width) // 2
    if g.chance(0.5):
        return g.op(operator, [x, g.noise(batch, length, half), g.noise(batch, length, half)],
                    **attributes)
    places = g.given(g.numbers.integers(0, 9, (batch, length)))
    return g.op(operator, [x, g.noise(9, half), g.noise(9, half), places], **attributes)


@operators("DFT")
def dft(g, operator, x, v):
    floats(v, 2, 4)
    need(g.opset >= 17)
    if v.shape[-1] > 2 or g.chance(0.3):
        x = g.op("Unsqueeze", [x, g.ints([-1], 0)])
    v = g.values[x]
    inverse, last = g.between(0, 1), v.ndim - 2
    need(last)
    attributes = {"inverse": inverse, "onesided": 0}
    if v.shape[-1] == 1 and not inverse:
        attributes["onesided"] = g.between(0, 1)
    length = g.ints(g.between(1, 9), 0) if g.chance(0.4) else ""
    if g.opset < 20:
        return g.op(operator, [x, length], axis=g.between(1, last), **attributes)
    return g.op(operator, [x, length, g.ints(g.choose([*range(last + 1), -2]), 0)], **attributes)
