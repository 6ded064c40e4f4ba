"""Definitions of what ONNX's reference implementation lacks or ignores, from the text of the standard.

A definition takes the node, the values of its inputs (None for an absent one) and the operator set,
and returns the outputs; `None` stands for the reference.
"""

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator


def attributes_of(node):
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def global_lp_pool(node, inputs, opset):
    x, p = inputs[0], attributes_of(node).get("p", 2)
    axes = tuple(range(2, x.ndim))
    total = (np.abs(x.astype(np.float64)) ** p).sum(axes, keepdims=True)
    return [(total ** (1 / p)).astype(x.dtype)]


def max_roi_pool(node, inputs, opset):
    x, rois = inputs
    said = attributes_of(node)
    scale, pooled = said.get("spatial_scale", 1.0), said["pooled_shape"]
    made = np.zeros((len(rois), x.shape[1], *pooled), x.dtype)
    for number, (image, *corners) in enumerate(rois):
        # Away from zero at a half.
        left, top, right, bottom = (
            int(np.copysign(np.floor(abs(corner * scale) + 0.5), corner)) for corner in corners)
        for cell in np.ndindex(*pooled):
            spans = []
            for at, count, first, last, size in zip(
                    cell, pooled, (top, left), (bottom, right), x.shape[2:]):
                step = np.float32(max(last - first + 1, 1)) / np.float32(count)
                start, end = int(np.floor(at * step)), int(np.ceil((at + 1) * step))
                spans.append(slice(min(max(start + first, 0), size), min(max(end + first, 0), size)))
            part = x[int(image), :, spans[0], spans[1]]
            if part.size:
                made[(number, slice(None), *cell)] = part.max((1, 2))
    return [made]


def recurrent(node, inputs, opset):
    """With lengths: each sequence alone, cut to its length."""
    inputs = [*inputs, *[None] * (8 - len(inputs))]
    lengths = inputs[4]
    if lengths is None:
        return None
    x, initial = inputs[0], {at: inputs[at] for at in (5, 6) if inputs[at] is not None}
    outputs = None
    for batch, length in enumerate(lengths):
        own = list(inputs)
        own[0], own[4] = x[:length, batch:batch + 1], None
        for at, value in initial.items():
            own[at] = value[:, batch:batch + 1]
        y, *ends = evaluated(node, own, opset)
        if outputs is None:
            outputs = [np.zeros((len(x), y.shape[1], len(lengths), y.shape[3]), x.dtype)]
            outputs += [np.zeros((end.shape[0], len(lengths), end.shape[2]), x.dtype) for end in ends]
        outputs[0][:length, :, batch] = y[:, :, 0]
        for whole, end in zip(outputs[1:], ends):
            whole[:, batch] = end[:, 0]
    return outputs


def stft(node, inputs, opset):
    signal, step, window, length = [*inputs, *[None] * (4 - len(inputs))]
    if signal.ndim == 2:
        signal = signal[..., None]
    length = int(length) if length is not None else len(window)
    values = signal[..., 0] + (1j * signal[..., 1] if signal.shape[-1] == 2 else 0)
    weights = np.ones(length) if window is None else window.astype(np.float64)
    starts = range(0, values.shape[1] - length + 1, int(step))
    found = np.stack([np.fft.fft(values[:, at:at + length] * weights) for at in starts], 1)
    if attributes_of(node).get("onesided", 1):
        found = found[..., :length // 2 + 1]
    return [np.stack([found.real, found.imag], -1).astype(signal.dtype)]


def upsample(node, inputs, opset):
    """A Resize of places that are scaled from the origin."""
    resize = helper.make_node(
        "Resize", node.input, node.output, mode=attributes_of(node).get("mode", "nearest"),
        coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    return evaluated(resize, [inputs[0], None, inputs[1]], 13)


def evaluated(node, inputs, opset):
    """The answer of ONNX's reference."""
    alone = onnx.NodeProto()
    alone.CopyFrom(node)
    del alone.input[:]
    alone.input.extend("" if value is None else f"i{at}" for at, value in enumerate(inputs))
    feeds = {name: value for name, value in zip(alone.input, inputs) if name}
    given = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in feeds.items()]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output]
    graph = helper.make_graph([alone], "g", given, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    return ReferenceEvaluator(model).run(None, feeds)


DEFINITIONS = {
    "GlobalLpPool": global_lp_pool,
    "MaxRoiPool": max_roi_pool,
    "RNN": recurrent,
    "GRU": recurrent,
    "LSTM": recurrent,
    "STFT": stft,
    "Upsample": upsample,
}


def answer(node, inputs, opset):
    """What the node gives by its definition, or by the reference where there is none."""
    found = DEFINITIONS[node.op_type](node, inputs, opset) if node.op_type in DEFINITIONS else None
    return evaluated(node, inputs, opset) if found is None else found
