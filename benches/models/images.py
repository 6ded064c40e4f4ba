"""Networks on images and volumes: torchvision's, ultralytics' and plain modules, written as their
exporters write them, with random weights."""

import numpy as np

from net import FLOAT, Net


def hard_swish(net, x):
    return net.add("HardSwish", x)


def pool(net, x):
    return net.add("GlobalAveragePool", x)


def squeeze(net, x, width, gate, act):
    """Squeeze and excitation."""
    small = max(8, width // 4)
    inner = act(net.conv(pool(net, x), width, small))
    return net.add("Mul", x, gate(net.conv(inner, small, width)))


def classes(net, x, width, count=1000):
    flat = net.add("Flatten", pool(net, x), axis=1)
    net.output("logits", net.add("Gemm", flat, net.draw(count, width, scale=width**-0.5), net.near(0, count), transB=1))


def resnet18(name, opset=11, size=224, batch="batch"):
    net = Net(name, opset)
    relu = lambda x: net.add("Relu", x)
    x = relu(net.conv(net.input("x", [batch, 3, size, size]), 3, 64, 7, 2))
    x = net.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    width = 64
    for outputs, stride in [(64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)]:
        y = net.conv(relu(net.conv(x, width, outputs, 3, stride)), outputs, outputs, 3, gain=0.7)
        x = net.conv(x, width, outputs, 1, stride) if stride > 1 else x
        x, width = relu(net.add("Add", y, x)), outputs
    classes(net, x, width)
    return net


# Size, expansion, outputs, squeeze, hard swish, stride.
MOBILE = [(3, 16, 16, 1, 0, 2), (3, 72, 24, 0, 0, 2), (3, 88, 24, 0, 0, 1), (5, 96, 40, 1, 1, 2), (5, 240, 40, 1, 1, 1),
          (5, 240, 40, 1, 1, 1), (5, 120, 48, 1, 1, 1), (5, 144, 48, 1, 1, 1), (5, 288, 96, 1, 1, 2),
          (5, 576, 96, 1, 1, 1), (5, 576, 96, 1, 1, 1)]


def mobile(net, x):
    """The features of MobileNet v3 (small), and those at half the last resolution."""
    relu, hard = lambda x: net.add("Relu", x), lambda x: hard_swish(net, x)
    gate = lambda x: net.add("HardSigmoid", x, alpha=1 / 6)
    x, width = hard(net.conv(x, 3, 16, 3, 2)), 16
    middle = None
    for size, inner, outputs, squeezed, hard_act, stride in MOBILE:
        act = hard if hard_act else relu
        if stride == 2:
            middle = x, width
        y = act(net.conv(x, width, inner)) if inner != width else x
        y = act(net.conv(y, inner, inner, size, stride, groups=inner))
        y = squeeze(net, y, inner, gate, relu) if squeezed else y
        y = net.conv(y, inner, outputs, gain=1)
        x, width = net.add("Add", x, y) if stride == 1 and width == outputs else y, outputs
    return hard(net.conv(x, width, 576)), 576, *middle


def mobilenet(name, opset=14, size=224):
    net = Net(name, opset)
    x, width, _, _ = mobile(net, net.input("x", ["batch", 3, size, size]))
    classes(net, x, width)
    return net


def efficientnet(name, opset=18, size=224):
    net = Net(name, opset)
    silu = net.silu
    gate = lambda x: net.add("Sigmoid", x)
    x, width = silu(net.conv(net.input("x", ["batch", 3, size, size]), 3, 32, 3, 2)), 32
    for ratio, outputs, count, stride, size in [(1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3),
                                                (6, 112, 3, 1, 5), (6, 192, 4, 2, 5), (6, 320, 1, 1, 3)]:
        for at in range(count):
            inner, step = width * ratio, stride if at == 0 else 1
            y = silu(net.conv(x, width, inner)) if ratio > 1 else x
            y = squeeze(net, silu(net.conv(y, inner, inner, size, step, groups=inner)), inner, gate, silu)
            y = net.conv(y, inner, outputs, gain=1)
            x, width = net.add("Add", x, y) if step == 1 and width == outputs else y, outputs
    classes(net, silu(net.conv(x, width, 1280)), 1280)
    return net


def convnext(name, opset=18, size=224):
    net = Net(name, opset)
    x, width = net.conv(net.input("x", ["batch", 3, size, size]), 3, 64, 4, 4, pads=0), 64
    for outputs, count in [(64, 2), (128, 2), (256, 4), (512, 2)]:
        if outputs != width:
            rows = net.layer_norm(net.turn(x, 0, 2, 3, 1), width)
            x = net.conv(net.turn(rows, 0, 3, 1, 2), width, outputs, 2, 2, pads=0)
            width = outputs
        for _ in range(count):
            y = net.turn(net.conv(x, width, width, 7, groups=width), 0, 2, 3, 1)
            y = net.gelu(net.linear(net.layer_norm(y, width), width, 4 * width))
            y = net.add("Mul", net.near(0.3, width, 1, 1), net.turn(net.linear(y, 4 * width, width), 0, 3, 1, 2))
            x = net.add("Add", y, x)
    classes(net, x, width)
    return net


def norm(net, x, width, groups):
    """Group normalisation, as torch's first exporter writes it: over the groups as instances."""
    shape = net.add("Shape", x)
    rows = net.add("InstanceNormalization", net.reshape(x, 0, groups, -1), net.const(np.ones(groups, "f")),
                   net.const(np.zeros(groups, "f")), epsilon=1e-5)
    rows = net.add("Reshape", rows, shape)
    return net.add("Add", net.add("Mul", rows, net.near(1, width, 1, 1)), net.near(0, width, 1, 1))


def unet(name, opset=17, size=128):
    """A U-Net with group and instance normalisation, and linear and transposed upsampling."""
    net = Net(name, opset)
    act = lambda x: net.add("LeakyRelu", x, alpha=0.1)
    x, width, skips = net.input("x", ["batch", 3, size, size]), 3, []
    for outputs in (24, 48, 96):
        x = act(norm(net, net.conv(x, width, outputs, 3), outputs, 8))
        x, width = act(norm(net, net.conv(x, outputs, outputs, 3), outputs, 8)), outputs
        skips.append((x, width))
        x = net.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = act(net.conv(x, width, width, 3))
    for at, (skip, outputs) in enumerate(reversed(skips)):
        if at == 1:
            x = net.add("ConvTranspose", x, net.draw(width, width, 2, 2, scale=width**-0.5), kernel_shape=[2, 2], strides=[2, 2])
        else:
            x = net.add("Resize", x, "", net.const([1.0, 1.0, 2.0, 2.0]), mode="linear",
                        coordinate_transformation_mode="half_pixel")
        x = net.conv(net.add("Concat", x, skip, axis=1), width + outputs, outputs, 3)
        x = net.add("InstanceNormalization", x, net.near(1, outputs), net.near(0, outputs), epsilon=1e-5)
        x, width = act(x), outputs
    net.output("mask", net.conv(x, width, 4))
    return net


def volume(name, opset=17, size=32):
    """A U-Net on volumes."""
    net = Net(name, opset)
    relu = lambda x: net.add("Relu", x)
    a = relu(net.conv(net.input("x", [1, 1, size, size, size]), 1, 16, 3, dims=3))
    b = relu(net.conv(net.add("MaxPool", a, kernel_shape=[2] * 3, strides=[2] * 3), 16, 32, 3, dims=3))
    b = relu(net.conv(b, 32, 32, 3, dims=3))
    c = net.add("ConvTranspose", b, net.draw(32, 16, 2, 2, 2, scale=0.2), kernel_shape=[2] * 3, strides=[2] * 3)
    x = relu(net.conv(net.add("Concat", a, c, axis=1), 32, 16, 3, dims=3))
    net.output("mask", net.conv(x, 16, 3, dims=3))
    return net


def c2f(net, x, inputs, outputs, count, shortcut):
    inner = outputs // 2
    x = net.silu(net.conv(x, inputs, outputs))
    parts = list(net.add("Split", x, net.ints(inner, inner), outputs=2, axis=1))
    for _ in range(count):
        y = net.silu(net.conv(net.silu(net.conv(parts[-1], inner, inner, 3)), inner, inner, 3))
        parts.append(net.add("Add", parts[-1], y) if shortcut else y)
    return net.silu(net.conv(net.add("Concat", *parts, axis=1), inner * (2 + count), outputs))


def yolo(name, opset=17, size=320, labels=80, nms=False):
    """YOLOv8 (nano), as ultralytics exports it, and with its suppression of overlapping boxes."""
    net = Net(name, opset)
    down = lambda x, inputs, outputs: net.silu(net.conv(x, inputs, outputs, 3, 2))
    grow = lambda x: net.add("Resize", x, "", net.const([1.0, 1.0, 2.0, 2.0]), mode="nearest",
                             coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    join = lambda *parts: net.add("Concat", *parts, axis=1)
    x = down(net.input("images", [1, 3, size, size]), 3, 16)
    x = c2f(net, down(x, 16, 32), 32, 32, 1, True)
    p3 = c2f(net, down(x, 32, 64), 64, 64, 2, True)
    p4 = c2f(net, down(p3, 64, 128), 128, 128, 2, True)
    x = c2f(net, down(p4, 128, 256), 256, 256, 1, True)
    parts = [net.silu(net.conv(x, 256, 128))]
    for _ in range(3):
        parts.append(net.add("MaxPool", parts[-1], kernel_shape=[5, 5], strides=[1, 1], pads=[2] * 4))
    p5 = net.silu(net.conv(join(*parts), 512, 256))
    n4 = c2f(net, join(grow(p5), p4), 384, 128, 1, False)
    n3 = c2f(net, join(grow(n4), p3), 192, 64, 1, False)
    n4 = c2f(net, join(down(n3, 64, 64), n4), 192, 128, 1, False)
    n5 = c2f(net, join(down(n4, 128, 128), p5), 384, 256, 1, False)
    found = []
    for x, width in ((n3, 64), (n4, 128), (n5, 256)):
        box = net.conv(net.silu(net.conv(net.silu(net.conv(x, width, 64, 3)), 64, 64, 3)), 64, 64)
        score = net.conv(net.silu(net.conv(net.silu(net.conv(x, width, labels, 3)), labels, labels, 3)), labels, labels)
        found.append(net.reshape(join(box, score), 1, 64 + labels, -1))
    boxes, scores = net.add("Split", net.add("Concat", *found, axis=2), net.ints(64, labels), outputs=2, axis=1)
    cells = [(size // stride) for stride in (8, 16, 32)]
    anchors = sum(cell * cell for cell in cells)
    # The expected distance to each side.
    boxes = net.add("Softmax", net.turn(net.reshape(boxes, 1, 4, 16, anchors), 0, 2, 1, 3), axis=1)
    boxes = net.add("Conv", boxes, net.const(np.arange(16, dtype="f").reshape(1, 16, 1, 1)), kernel_shape=[1, 1])
    low, high = net.add("Split", net.reshape(boxes, 1, 4, anchors), net.ints(2, 2), outputs=2, axis=1)
    grid = np.concatenate([np.stack(np.meshgrid(np.arange(c) + 0.5, np.arange(c) + 0.5)).reshape(2, -1) for c in cells], 1)
    steps = np.concatenate([np.full(c * c, s, "f") for c, s in zip(cells, (8, 16, 32))])
    low, high = net.add("Sub", net.const(grid[None]), low), net.add("Add", net.const(grid[None]), high)
    if nms:
        corners = net.add("Mul", net.add("Concat", low, high, axis=1), net.const(steps[None, None]))
        scores = net.add("Sigmoid", scores)
        kept = net.add("NonMaxSuppression", net.turn(corners, 0, 2, 1), scores, net.ints(100), net.const([0.45]),
                       net.const([0.5]))
        net.output("kept", kept, 7)
        return net
    middle = net.add("Div", net.add("Add", low, high), net.const(2.0))
    boxes = net.add("Mul", net.add("Concat", middle, net.add("Sub", high, low), axis=1), net.const(steps[None, None]))
    net.output("output0", net.add("Concat", boxes, net.add("Sigmoid", scores), axis=1))
    return net


def ssd(name, opset=17, size=320, labels=21):
    """SSDlite: two maps of features, the best candidates, and one suppression for all labels."""
    net = Net(name, opset)
    deep, width, middle, its = mobile(net, net.input("x", [1, 3, size, size]))
    boxes, scores = [], []
    for x, inputs in ((middle, its), (deep, width)):
        x = net.add("Clip", net.conv(x, inputs, inputs, 3, groups=inputs), net.const(0.0), net.const(6.0))
        for rows, numbers in ((boxes, 4), (scores, labels)):
            y = net.turn(net.conv(x, inputs, 6 * numbers), 0, 2, 3, 1)
            rows.append(net.reshape(y, 1, -1, numbers))
    boxes, scores = net.add("Concat", *boxes, axis=1), net.add("Concat", *scores, axis=1)
    scores = net.turn(net.add("Softmax", scores, axis=-1), 0, 2, 1)
    best, which = net.add("TopK", net.add("ReduceMax", scores, axes=[1], keepdims=0), net.ints(300), outputs=2, axis=1)
    which = net.reshape(which, 300)
    boxes = net.add("Gather", boxes, which, axis=1)
    low, extent = net.add("Split", boxes, net.ints(2, 2), outputs=2, axis=2)
    corners = net.add("Concat", low, net.add("Add", low, net.add("Exp", extent)), axis=2)
    kept = net.add("NonMaxSuppression", corners, net.add("Gather", scores, which, axis=2), net.ints(50),
                   net.const([0.5]), net.const([0.05]))
    net.output("kept", kept, 7)
    net.output("boxes", corners)
    net.output("scores", best)
    return net


def rt_detr(name, opset=17, size=256, width=128, heads=4, queries=100):
    """A backbone, an encoder, and decoder layers that sample the features where queries look."""
    net = Net(name, opset)
    x, inputs, maps = net.input("pixel_values", [1, 3, size, size]), 3, []
    for outputs in (32, 64, 96, 128, 192):
        x, inputs = net.add("Relu", net.conv(x, inputs, outputs, 3, 2)), outputs
        x = net.add("Relu", net.add("Add", x, net.conv(x, outputs, outputs, 3, gain=0.7)))
        maps.append((x, outputs))
    cells, each = size // 32, width // heads
    deep = net.turn(net.reshape(net.conv(x, inputs, width), 1, width, cells * cells), 0, 2, 1)
    deep = attend(net, deep, deep, width, heads)
    deep = net.reshape(net.turn(deep, 0, 2, 1), 1, width, cells, cells)
    levels = [net.conv(maps[2][0], maps[2][1], width), net.conv(maps[3][0], maps[3][1], width), deep]
    rows = net.draw(1, queries, width, scale=1)
    for _ in range(3):
        rows = attend(net, rows, rows, width, heads)
        weights = net.reshape(net.add("Softmax", net.reshape(net.linear(rows, width, heads * 12), 1, queries, heads, 12),
                                      axis=-1), 1, queries, heads, 12)
        weights = net.reshape(net.turn(weights, 0, 2, 1, 3), heads, 1, queries, 12)
        places = net.add("Tanh", net.linear(rows, width, heads * 3 * 4 * 2))
        places = net.turn(net.reshape(places, queries, heads, 3, 4, 2), 1, 2, 0, 3, 4)
        sampled = []
        for at, level in enumerate(levels):
            place = net.add("Squeeze", net.add("Slice", places, net.ints(at), net.ints(at + 1), net.ints(1)), net.ints(1))
            level = net.add("Reshape", level, net.add("Concat", net.ints(heads, each),
                            net.add("Slice", net.add("Shape", level), net.ints(2), net.ints(4)), axis=0))
            sampled.append(net.add("GridSample", level, place, align_corners=0, mode=net_mode(opset),
                                   padding_mode="zeros"))
        values = net.add("Mul", net.add("Concat", *sampled, axis=3), weights)
        values = net.add("ReduceSum", values, net.ints(3), keepdims=0)
        values = net.turn(net.reshape(values, 1, width, queries), 0, 2, 1)
        rows = net.layer_norm(net.add("Add", rows, net.linear(values, width, width)), width)
    net.output("logits", net.linear(rows, width, 80))
    net.output("boxes", net.add("Sigmoid", net.linear(rows, width, 4)))
    return net


def net_mode(opset):
    return "linear" if opset >= 20 else "bilinear"


def attend(net, rows, source, width, heads):
    each = width // heads
    query, key, value = (net.heads(net.linear(x, width, width), heads, each) for x in (rows, source, source))
    scores = net.add("MatMul", query, net.turn(key, 0, 1, 3, 2))
    scores = net.add("Softmax", net.add("Mul", scores, net.const(each**-0.5)), axis=-1)
    mixed = net.merge(net.add("MatMul", scores, value), width)
    rows = net.layer_norm(net.add("Add", rows, net.linear(mixed, width, width)), width)
    inner = net.linear(net.add("Relu", net.linear(rows, width, 4 * width)), 4 * width, width)
    return net.layer_norm(net.add("Add", rows, inner), width)


def crnn(name, opset=14, width=160):
    """Columns of an image of text, read in both directions by an LSTM."""
    net = Net(name, opset)
    x, inputs = net.input("image", [1, 1, 32, "width"]), 1
    for outputs, strides in [(32, (2, 2)), (64, (2, 2)), (128, (2, 1)), (128, (2, 1)), (256, (2, 1))]:
        x = net.add("Relu", net.conv(x, inputs, outputs, 3))
        x, inputs = net.add("MaxPool", x, kernel_shape=list(strides), strides=list(strides)), outputs
    x = net.turn(net.add("Squeeze", x, net.ints(2)), 2, 0, 1)
    for inputs in (256, 256):
        y, _, _ = net.add("LSTM", x, net.draw(2, 512, inputs, scale=inputs**-0.5), net.draw(2, 512, 128, scale=0.09),
                          net.near(0, 2, 1024), outputs=3, direction="bidirectional", hidden_size=128)
        x = net.reshape(net.turn(y, 0, 2, 1, 3), 0, 0, 256)
    net.output("logits", net.add("Softmax", net.linear(x, 256, 97), axis=-1))
    return net
