"""Mixtures of experts, with plain and with quantized weights."""

import numpy as np

from .activations import sigmoid, tanh_gelu
from .attention import softmax
from .weights import unpack


def chosen_experts(router, weights, k, normalize):
    """For each token, the experts with the highest probabilities, and their weights."""
    probabilities = softmax(router.astype(np.float64))
    result = []
    for token, row in enumerate(probabilities):
        best = np.argsort(-row, kind="stable")[:k]
        shares = row[best] if weights is None else weights[token, best].astype(np.float64)
        if normalize:
            shares = shares / shares.sum()
        result.append(list(zip(best, shares)))
    return result


def expert(x, fc1, bias1, fc2, bias2, fc3, bias3, kind, fusion, alpha, beta, limit):
    first = fc1 @ x + bias1
    if kind == "swiglu":
        if fusion == 1:
            gate, linear = first[0::2], first[1::2]
        elif fusion == 2:
            gate, linear = np.split(first, 2)
        else:
            gate, linear = first, fc3 @ x + bias3
        if limit is not None:
            gate, linear = np.minimum(gate, limit), np.clip(linear, -limit, limit)
        hidden = gate * sigmoid(alpha * gate) * (linear + beta)
    else:
        hidden = {
            "relu": lambda v: np.maximum(v, 0),
            # The documentation does not say which of the two; onnxruntime takes the approximation.
            "gelu": tanh_gelu,
            "silu": lambda v: v * sigmoid(v),
            "identity": lambda v: v,
        }[kind](first)
        if fc3 is not None:
            hidden = hidden * (fc3 @ x + bias3)
    return fc2 @ hidden + bias2


def mixture(
    x,
    router,
    weights,
    fc1,
    bias1,
    fc2,
    bias2,
    fc3,
    bias3,
    *,
    k=1,
    activation_type="relu",
    activation_alpha=1.0,
    activation_beta=0.0,
    swiglu_fusion=0,
    swiglu_limit=None,
    normalize_routing_weights=0,
    use_sparse_mixer=0,
):
    """Weights are [experts, outputs, inputs] in double precision, biases may be absent."""
    tokens = x.reshape(-1, x.shape[-1]).astype(np.float64)
    result = np.zeros_like(tokens)

    def bias(values, e):
        return 0.0 if values is None else values[e].astype(np.float64)

    for t, shares in enumerate(chosen_experts(router, weights, k, normalize_routing_weights)):
        for e, share in shares:
            result[t] += share * expert(
                tokens[t],
                fc1[e],
                bias(bias1, e),
                fc2[e],
                bias(bias2, e),
                None if fc3 is None else fc3[e],
                bias(bias3, e),
                activation_type,
                swiglu_fusion,
                np.float32(activation_alpha),
                np.float32(activation_beta),
                swiglu_limit,
            )
    return result.reshape(x.shape).astype(x.dtype)


def moe(x, router, fc1, bias1, fc2, bias2=None, fc3=None, bias3=None, **attributes):
    wide = [None if w is None else w.astype(np.float64) for w in (fc1, fc2, fc3)]
    return mixture(x, router, None, wide[0], bias1, wide[1], bias2, wide[2], bias3, **attributes)


def expanded(packed, scales, zeros, bits, block_size):
    """Dequantized weights [experts, outputs, inputs]."""
    if packed is None:
        return None
    inputs = packed.shape[2] * 8 // bits
    values = unpack(packed, bits, inputs).astype(np.float64)
    # One scale per output, or per output and block of inputs.
    scales = scales.astype(np.float64)
    if not block_size:
        scales = scales.reshape(values.shape[:2] + (1,))
        if zeros is None:
            zero = 1 << (bits - 1)
        else:
            zero = unpack(zeros.reshape(values.shape[0], -1), bits, values.shape[1])[..., None]
        return (values - zero) * scales
    block = np.arange(inputs) // block_size
    zero = np.full(scales.shape, 1 << (bits - 1)) if zeros is None else unpack(zeros, bits, scales.shape[2])
    return (values - zero[..., block]) * scales[..., block]


def q_moe(
    x,
    router,
    fc1,
    scales1,
    bias1,
    fc2,
    scales2,
    bias2=None,
    fc3=None,
    scales3=None,
    bias3=None,
    zeros1=None,
    zeros2=None,
    zeros3=None,
    router_weights=None,
    *,
    expert_weight_bits=4,
    block_size=0,
    quant_type="int",
    weights_prepacked=-1,
    accuracy_level=0,
    **attributes,
):
    layers = [
        expanded(w, s, z, expert_weight_bits, block_size)
        for w, s, z in ((fc1, scales1, zeros1), (fc2, scales2, zeros2), (fc3, scales3, zeros3))
    ]
    return mixture(
        x, router, router_weights, layers[0], bias1, layers[1], bias2, layers[2], bias3, **attributes
    )


OPERATORS = {"MoE": moe, "QMoE": q_moe}
