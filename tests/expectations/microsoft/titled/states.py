import numpy as np

from .titled import Random, value


def linear_attention(cases):

    def add(
        title,
        q_heads,
        kv_heads,
        rule,
        past=None,
        tokens=3,
        decays=None,
        rates=None,
        differs=None,
        **attributes
    ):
        attributes = dict(q_num_heads=q_heads, kv_num_heads=kv_heads, update_rule=rule, **attributes)
        small = [
            Random(2, tokens, q_heads * 4),
            Random(2, tokens, kv_heads * 4),
            Random(2, tokens, kv_heads * 3),
        ]
        small[1] = value(small[1]) / 4
        decay = None if decays is None else -np.abs(value(Random(2, tokens, decays)))
        beta = None if rates is None else np.abs(value(Random(2, tokens, rates))) / 2
        inputs = small + [None if past is None else Random(*past), decay, beta]
        cases.add(title, "LinearAttention", attributes, inputs, 2, differs=differs)

    other = "onnxruntime computes it on other devices only"
    add("linear", 2, 2, "linear")
    add("gated, after a state", 4, 2, "gated", (2, 2, 4, 3), decays=2)
    add("gated by elements", 2, 2, "gated", decays=8, scale=0.5)
    add("delta, one rate", 2, 1, "delta", (2, 1, 4, 3), rates=1)
    add("gated delta, rates of heads", 2, 2, "gated_delta", (2, 2, 4, 3), decays=2, rates=2)
    add("more heads of keys", 2, 4, "gated_delta", (2, 4, 4, 3), decays=4, rates=4)
    add(
        "states of a window",
        2,
        2,
        "gated_delta",
        (2, 2, 2, 4, 3),
        decays=2,
        rates=2,
        state_window=2,
        differs=other,
    )
    add("states of a longer window", 2, 2, "linear", tokens=2, state_window=4, differs=other)


def causal_conv(cases):

    def add(title, *inputs, **attributes):
        differs = "onnxruntime computes it on other devices only" if "state_window" in attributes else None
        cases.add(title, "CausalConvWithState", attributes, inputs, 2, differs=differs)

    add("plain", Random(2, 3, 4), Random(3, 1, 3))
    add(
        "bias, state, activation",
        Random(2, 3, 4),
        Random(3, 1, 3),
        Random(3),
        Random(2, 3, 2),
        activation="silu",
    )
    add("shorter than the state", Random(1, 2, 1), Random(2, 1, 4), None, Random(1, 2, 3), activation="swish")
    add("spaced", Random(1, 2, 5), Random(2, 1, 3), None, Random(1, 2, 4), dilation=2)
    add("channels last", Random(2, 4, 3), Random(3, 1, 3), Random(3), Random(2, 2, 3), channels_last=1)
    add(
        "several channels last",
        Random(1, 4, 2, 3),
        Random(6, 1, 2),
        None,
        Random(1, 1, 2, 3),
        channels_last=1,
    )
    add("window of states", Random(1, 2, 4), Random(2, 1, 3), None, Random(2, 1, 2, 2), state_window=2)
    add("longer window of states", Random(1, 2, 2), Random(2, 1, 3), None, None, state_window=4)
    add(
        "all",
        Random(2, 3, 2),
        Random(2, 1, 3),
        Random(2),
        Random(2, 2, 4, 2),
        state_window=2,
        channels_last=1,
        dilation=2,
        activation="silu",
    )
