"""DynamicQuantizeLSTM: ONNX's LSTM with weights and inputs of 8 bits."""

import numpy as np

from .products import activate, dynamically_quantized


def quantized_product(x, weights, scale, zero):
    """x, quantized as a whole, times the weights: [rows, n]."""
    values, x_scale, x_zero = dynamically_quantized(x)
    product = (values - x_zero) @ (weights.astype(np.int64) - zero.astype(np.int64))
    return product.astype(np.float64) * x_scale * scale


def dynamic_quantize_lstm(
    x,
    w,
    r,
    b,
    sequence_lens,
    initial_h,
    initial_c,
    p,
    w_scale,
    w_zero,
    r_scale,
    r_zero,
    *,
    hidden_size,
    direction="forward",
    activations=None,
    activation_alpha=None,
    activation_beta=None,
    clip=None,
    input_forget=0,
):
    length, batch, _ = x.shape
    directions, hidden = w.shape[0], hidden_size
    names = activations or ["Sigmoid", "Tanh", "Tanh"] * directions
    alphas, betas = list(activation_alpha or []), list(activation_beta or [])

    def clipped(value):
        return value if clip is None else np.clip(value, -np.float32(clip), np.float32(clip))

    y = np.zeros((length, directions, batch, hidden))
    last_h = np.zeros((directions, batch, hidden))
    last_c = np.zeros((directions, batch, hidden))
    for d in range(directions):
        backwards = direction == "reverse" or d == 1
        f, g, h_function = names[3 * d : 3 * d + 3]
        bias = np.zeros(4 * hidden)
        if b is not None:
            bias = b[d, : 4 * hidden].astype(np.float64) + b[d, 4 * hidden :]
        peephole = np.zeros(3 * hidden) if p is None else p[d].astype(np.float64)
        h = np.zeros((batch, hidden), np.float32) if initial_h is None else initial_h[d].copy()
        c = np.zeros((batch, hidden)) if initial_c is None else initial_c[d].astype(np.float64)
        ends = [length] * batch if sequence_lens is None else list(sequence_lens)
        # The input is quantized as a whole, up to the end of the longest sequence.
        used = x[: max(ends)]
        gates_x = quantized_product(used.reshape(len(used) * batch, -1), w[d], w_scale[d], w_zero[d])
        gates_x = gates_x.reshape(len(used), batch, -1)
        for step in range(max(ends)):
            # All rows of one step are quantized together.
            gates_h = quantized_product(h, r[d], r_scale[d], r_zero[d])
            following = h.copy()
            for row in range(batch):
                if step >= ends[row]:
                    # The sequence has ended; its output stays 0.
                    following[row] = 0
                    continue
                t = ends[row] - 1 - step if backwards else step
                gates = gates_x[t, row] + gates_h[row] + bias
                i, o, forget, cell = (gates[j * hidden : (j + 1) * hidden] for j in range(4))
                i = activate(clipped(i + peephole[:hidden] * c[row]), f)
                if input_forget:
                    forget = 1 - i
                else:
                    forget = activate(clipped(forget + peephole[2 * hidden :] * c[row]), f)
                cell = activate(clipped(cell), g)
                c[row] = forget * c[row] + i * cell
                o = activate(clipped(o + peephole[hidden : 2 * hidden] * c[row]), f)
                following[row] = (o * activate(clipped(c[row]), h_function)).astype(np.float32)
                y[t, d, row] = following[row]
                if step == ends[row] - 1:
                    last_h[d, row], last_c[d, row] = following[row], c[row]
            h = following
    return tuple(value.astype(np.float32) for value in (y, last_h, last_c))


OPERATORS = {"DynamicQuantizeLSTM": dynamic_quantize_lstm}
