import numpy as np

from cases import Case


def shared(draw, experts, most):
    """Attributes of both operators, and how many projections the first layer holds."""
    attributes = draw.some(k=draw.integer(1, most), normalize_routing_weights=draw.choose(0, 1, 1))
    kind = draw.choose("relu", "gelu", "silu", "identity", "swiglu", "swiglu")
    if kind != "relu" or draw.maybe():
        attributes["activation_type"] = kind
    fused = 1
    if kind == "swiglu":
        attributes |= draw.some(activation_alpha=1.5, activation_beta=draw.choose(0.0, 1.0))
        if draw.maybe():
            attributes["swiglu_limit"] = draw.choose(0.5, 7.0)
        attributes["swiglu_fusion"] = draw.choose(*[1] * 8, 2, 0)
        fused = 2 if attributes["swiglu_fusion"] else 1
    return attributes, fused


def router(draw, tokens, experts, dtype=np.float32):
    """Scores without ties: which of two equal ones wins is not documented."""
    rows = [
        draw.random.permutation(experts) * draw.random.uniform(0.3, 1) - draw.random.uniform(0, 2)
        for _ in range(tokens)
    ]
    return np.array(rows).reshape(tokens, experts).astype(dtype)


def gelu_tolerance(attributes, otherwise):
    """Wide enough for both definitions of gelu."""
    return max(otherwise, 2e-3) if attributes.get("activation_type") == "gelu" else otherwise


def moe(draw):
    experts, hidden, inner = draw.integer(1, 5), draw.choose(1, 3, 4, 8, 9), draw.choose(1, 3, 4, 8)
    attributes, fused = shared(draw, experts, min(experts, 3))
    shape = [draw.size(5)] if draw.maybe() else [draw.size(2), draw.size(4)]
    x = draw.floats(*shape, hidden)
    fc3 = bias3 = None
    if attributes.get("swiglu_fusion") == 0 or draw.maybe(0.05):
        fc3 = draw.floats(experts, inner, hidden)
        bias3 = draw.floats(experts, inner) if draw.maybe() else None
    inputs = [
        x,
        router(draw, int(np.prod(shape)), experts),
        draw.floats(experts, fused * inner, hidden),
        draw.floats(experts, fused * inner) if draw.maybe() else None,
        draw.floats(experts, hidden, inner),
        draw.floats(experts, hidden) if draw.maybe() else None,
        fc3,
        bias3,
    ]
    return Case(
        inputs,
        attributes,
        constants=[2, 3, 4, 5, 6, 7] if draw.maybe(0.7) else [],
        tolerance=gelu_tolerance(attributes, 1e-4),
    )


def q_moe(draw):
    dtype = draw.choose(np.float32, np.float32, np.float16)
    bits = draw.choose(4, 4, 8, 2)
    block = draw.choose(0, 0, 16, 32)
    experts = draw.integer(1, 4)
    hidden, inner = (draw.integer(1, 2) * (block or draw.choose(4, 8, 16)) for _ in range(2))
    attributes, fused = shared(draw, experts, min(experts, 3))
    if bits != 4 or draw.maybe():
        attributes["expert_weight_bits"] = bits
    if block:
        attributes["block_size"] = block
    if draw.maybe():
        attributes["weights_prepacked"] = 0
    shape = [draw.size(5)] if draw.maybe() else [draw.size(2), draw.size(4)]
    tokens = int(np.prod(shape))

    def layer(outputs, columns):
        packed = draw.bytes(experts, outputs, columns * bits // 8)
        scale_shape = [experts, outputs, columns // block] if block else [experts, outputs]
        scales = (
            draw.uniform(0.3, 1.5, *scale_shape, dtype=np.float64) / (1 << bits) / np.sqrt(columns)
        ).astype(dtype)
        per_byte = 8 // bits
        zero_shape = scale_shape[:-1] + [-(-scale_shape[-1] // per_byte)]
        return packed, scales, draw.bytes(*zero_shape)

    first, second = layer(fused * inner, hidden), layer(hidden, inner)
    third = layer(inner, hidden) if attributes.get("swiglu_fusion") == 0 else (None, None, None)
    zeros = draw.maybe(0.4)
    bias = draw.maybe()
    inputs = [
        draw.floats(*shape, hidden, dtype=dtype),
        router(draw, tokens, experts, dtype),
        first[0],
        first[1],
        draw.floats(experts, fused * inner, dtype=dtype) if bias else None,
        second[0],
        second[1],
        draw.floats(experts, hidden, dtype=dtype) if bias else None,
        third[0],
        third[1],
        None,
        first[2] if zeros else None,
        second[2] if zeros else None,
        third[2] if zeros else None,
        draw.uniform(0.1, 1, tokens, experts, dtype=dtype) if draw.maybe(0.2) else None,
    ]
    constants = [2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13] if draw.maybe(0.8) else []
    # Blocks of 8 bits are multiplied with activations that are rounded to 8 bits.
    tolerance = 0.03 if bits == 8 and block else 1e-2 if dtype == np.float16 else 2e-3 if bits == 2 else 1e-4
    return Case(inputs, attributes, constants=constants, tolerance=gelu_tolerance(attributes, tolerance))


GENERATORS = {"MoE": moe, "QMoE": q_moe}
