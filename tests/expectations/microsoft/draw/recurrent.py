import numpy as np

from cases import Case


def dynamic_quantize_lstm(draw):
    length, batch, width, hidden = draw.size(6), draw.size(3), draw.size(12), draw.choose(1, 3, 4, 8, 9)
    direction = draw.choose("forward", "reverse", "bidirectional")
    directions = 2 if direction == "bidirectional" else 1
    attributes = {"hidden_size": hidden}
    if direction != "forward" or draw.maybe():
        attributes["direction"] = direction
    if draw.maybe(0.2):
        attributes["clip"] = draw.choose(0.5, 1.0, 3.0)
    if draw.maybe(0.15):
        attributes["input_forget"] = 1
    if draw.maybe(0.2):
        attributes["activations"] = (
            list(draw.choose(("Sigmoid", "Tanh", "Tanh"), ("HardSigmoid", "Softsign", "Relu"))) * directions
        )
    dtype = draw.choose(np.int8, np.uint8)
    per_column = draw.maybe(0.4)
    shape = [directions, 4 * hidden] if per_column else [directions]

    def quantization():
        zero = np.zeros(shape, dtype) if dtype == np.int8 else np.full(shape, 128, dtype)
        if draw.maybe(0.03 if per_column else 0.4):
            zero = draw.bytes(*shape, dtype=dtype)
        return draw.uniform(0.002, 0.01, *shape), zero

    w_scale, w_zero = quantization()
    r_scale, r_zero = quantization()
    lengths = h = c = None
    if draw.maybe(0.35):
        lengths = draw.integers(1, length, batch, dtype=np.int32)
    if draw.maybe(0.4):
        h, c = (draw.floats(directions, batch, hidden, scale=0.5) for _ in range(2))
    inputs = [
        draw.floats(length, batch, width),
        draw.bytes(directions, width, 4 * hidden, dtype=dtype),
        draw.bytes(directions, hidden, 4 * hidden, dtype=dtype),
        draw.floats(directions, 8 * hidden, scale=0.5) if draw.maybe(0.7) else None,
        lengths,
        h,
        c,
        draw.floats(directions, 3 * hidden, scale=0.5) if draw.maybe(0.3) else None,
        w_scale,
        w_zero,
        r_scale,
        r_zero,
    ]
    return Case(
        inputs,
        attributes,
        outputs=[True, draw.maybe(), draw.maybe()],
        tolerance=1e-4,
        constants=draw.choose([], [1, 2, 3, 8, 9, 10, 11], [1, 2, 3, 8, 9, 10, 11]),
    )


GENERATORS = {"DynamicQuantizeLSTM": dynamic_quantize_lstm}
