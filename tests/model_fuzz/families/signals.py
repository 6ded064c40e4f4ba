"""Signals, windows, losses and other operators with inputs of their own."""

import numpy as np

from graph import F16, F32, F64, I32, I64, floats, need, operators


@operators("STFT")
def stft(g, operator, x, v):
    floats(v, 2, 3)
    need(g.opset >= 17)
    # Signals of rank 2, or with a last dimension of 1 (real) or 2 (complex numbers).
    if v.ndim == 3 and v.shape[-1] > 2:
        x = g.op("Reshape", [x, g.ints([v.shape[0], -1] + [1] * g.chance(0.5), 0)])
    v = g.values[x]
    length = v.shape[1]
    need(length >= 2)
    frame = g.between(2, min(length, 9))
    step = g.ints(g.between(1, 4), 0)
    window = g.noise(frame) if g.chance(0.6) else ""
    sizes = [window, g.ints(frame, 0)] if not window or g.chance(0.5) else [window]
    half = v.ndim == 2 or v.shape[-1] == 1
    return g.op(operator, [x, step, *sizes], onesided=g.between(0, 1) if half else 0)


@operators("HannWindow HammingWindow BlackmanWindow")
def window(g, operator, x, v):
    need(g.opset >= 17 and not g.narrow)
    size = g.given(np.asarray(g.between(1, 9), g.choose([I32, I64])), 0.3)
    kind = g.choose([None, 1, 10])  # onnxruntime computes doubles in float32
    return g.op(operator, [size], periodic=g.choose([None, 0, 1]), output_datatype=kind)


@operators("MelWeightMatrix")
def mel(g, operator, x, v):
    need(g.opset >= 17 and not g.narrow)
    rate = g.choose([8000, 16000])
    dtype = g.choose([I32, I64])
    lower = np.asarray(g.choose([0, 125, 300.5]), F32)
    upper = np.asarray(g.choose([rate / 2, 3000]), F32)
    counts = [np.asarray(number, dtype) for number in (g.between(1, 9), g.between(8, 65), rate)]
    inputs = [g.given(value, 0.3) for value in (*counts, lower, upper)]
    return g.op(operator, inputs, output_datatype=g.choose([None, 1, 11]))


@operators("Acos Acosh Asin Atanh Cosh Tan Det")
def more_of_one(g, operator, x, v):
    need(v.dtype.kind == "f")
    if operator in ("Acos", "Asin", "Atanh"):  # into the range of the function
        x = g.op("Mul", [g.op("Tanh", [x]), g.given(np.asarray(0.9, v.dtype))])
    elif operator == "Acosh":
        x = g.op("Add", [g.op("Abs", [x]), g.given(np.asarray(1.1, v.dtype))])
    elif operator == "Det":
        need(v.ndim >= 2 and v.shape[-1] == v.shape[-2])
    return g.op(operator, [x])


@operators("Dropout CumProd BitCast")
def of_any_type(g, operator, x, v):
    if operator == "Dropout":
        need(v.dtype in (F16, F32, F64))
        # Without training, the mask is true everywhere.
        return g.op(operator, [x], g.choose([1, 2]))
    if operator == "CumProd":
        need(g.opset >= 26)
        axis = g.ints(g.axis(v.ndim), 0)
        return g.op(operator, [x, axis], exclusive=g.between(0, 1), reverse=g.between(0, 1))
    need(g.opset >= 26 and v.dtype in (F32, I32))
    return g.op(operator, [x], to=6 if v.dtype == F32 else 1)


@operators("TensorScatter")
def tensor_scatter(g, operator, x, v):
    need(g.opset >= 24 and v.ndim >= 2 and v.size)
    axis = g.between(1, v.ndim - 1)
    length = g.between(1, v.shape[axis])
    shape = (*v.shape[:axis], length, *v.shape[axis + 1:])
    mode = g.choose(["linear", "circular"])
    last = v.shape[axis] - (length if mode == "linear" else 1)
    places = g.given(g.numbers.integers(0, last + 1, v.shape[0]))
    inputs = [x, g.given(g.random(shape, v.dtype))] + [places] * g.chance(0.8)
    return g.op(operator, inputs, mode=mode, axis=g.choose([axis, axis - v.ndim]))


@operators("AffineGrid")
def affine_grid(g, operator, x, v):
    floats(v, 4, 5)
    need(g.opset >= 20)
    spatial = v.ndim - 2
    theta = g.noise(v.shape[0], spatial, spatial + 1)
    return g.op(operator, [theta, g.op("Shape", [x])], align_corners=g.between(0, 1))


@operators("NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss")
def loss(g, operator, x, v):
    floats(v, 2, 4)
    need(g.opset >= 13)
    ignored = g.choose([None, 0, -1])
    classes = g.numbers.integers(0, v.shape[1], (v.shape[0], *v.shape[2:])).astype(g.choose([I32, I64]))
    if ignored == -1:
        classes[g.numbers.random(classes.shape) < 0.3] = -1
    inputs = [x, g.given(classes)]
    if g.chance(0.5):
        inputs.append(g.given(np.abs(g.random((v.shape[1],))) + np.float32(0.1)))
    results = g.between(1, 2) if operator[0] == "S" else 1
    return g.op(operator, inputs, results, ignore_index=ignored,
                reduction=g.choose([None, "none", "sum", "mean"]))


@operators("NonMaxSuppression")
def non_max_suppression(g, operator, x, v):
    need(g.opset >= 11)
    batch, boxes, classes = g.between(1, 2), g.between(1, 8), g.between(1, 3)
    corner = g.numbers.uniform(0, 3, (batch, boxes, 2))
    size = g.numbers.uniform(0.5, 3, (batch, boxes, 2))
    center = g.between(0, 1)
    found = [corner, size] if center else [corner, corner + size]
    # Different scores: the order of equal ones is not specified.
    scores = g.numbers.permutation(batch * classes * boxes).reshape(batch, classes, boxes) / 7
    inputs = [g.given(np.concatenate(found, -1).astype(F32)), g.given(scores.astype(F32))]
    inputs += [g.ints([g.between(0, 4)], 0.4), g.given(np.array([g.choose([0, 0.2, 0.5])], F32)),
               g.given(np.array([g.choose([0, 0.3, 2])], F32))][:g.between(1, 3)]
    return g.op(operator, inputs, center_point_box=center)


@operators("MaxRoiPool")
def max_roi_pool(g, operator, x, v):
    floats(v, 4, 4)
    count = g.between(1, 3)
    corner = g.numbers.uniform(-1, 3, (count, 2))
    boxes = np.concatenate([g.numbers.integers(0, v.shape[0], (count, 1)), corner,
                            corner + g.numbers.uniform(-0.5, 5, (count, 2))], 1)
    return g.op(operator, [x, g.given(boxes.astype(F32))], pooled_shape=g.several(2, [1, 2, 3]),
                spatial_scale=g.choose([None, 0.5, 2.0]))


@operators("DeformConv")
def deform_conv(g, operator, x, v):
    floats(v, 4, 4)
    need(g.opset >= 19)
    channels, made, shape = v.shape[1], g.between(1, 3), g.several(2, [1, 2, 3])
    pads, strides = g.several(4, [0, 1]), g.several(2, [1, 2])
    sizes = [(size + pads[at] + pads[at + 2] - shape[at]) // strides[at] + 1
             for at, size in enumerate(v.shape[2:])]
    need(min(sizes) > 0)
    groups = g.choose([1, channels])
    taps = groups * shape[0] * shape[1]
    offsets = g.given(g.numbers.uniform(-1.5, 1.5, (v.shape[0], 2 * taps, *sizes)).astype(F32))
    inputs = [x, g.noise(made, channels, *shape), offsets]
    if g.chance(0.5):
        inputs.append(g.noise(made) if g.chance(0.6) else "")
        inputs += [g.noise(v.shape[0], taps, *sizes)] * g.chance(0.7)
    return g.op(operator, inputs, offset_group=groups, pads=pads, strides=strides,
                kernel_shape=g.choose([None, shape]))


@operators("Upsample")
def upsample(g, operator, x, v):
    floats(v, 2, 4)
    need(g.opset == 9)
    scales = [1] * (v.ndim - 2) + g.several(2, [1, 2, 3, 1.5])
    return g.op(operator, [x, g.given(np.array(scales, F32), 0)], mode=g.choose(["nearest", "linear"]))
