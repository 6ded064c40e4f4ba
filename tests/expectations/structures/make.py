#!/usr/bin/env python3
"""Small models with the structures of large ones whose sizes are only known when they run: detectors,
speech synthesis, embedding bags, decoders with a cache. Their weights are noise. The answers are those
of onnxruntime without optimisations, and, where it can compute a model, ONNX's reference implementation
agrees.

How to run, from the repository's root, in a Python environment with onnx 1.23.2 and onnxruntime 1.32.0:

    python3 tests/expectations/structures/make.py [NAME…]

It rewrites the .json files in its folder, which tests/models/structures.rs reads, or those named.
"""

import json
import pathlib
import sys

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from stored import described, noise, value  # noqa: E402

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
LOWEST = np.float32(np.finfo(np.float32).min)


def i64(*values):
    return np.array(values, np.int64)


def one(value):
    """A scalar integer."""
    return np.array(value, np.int64)


def f32(value):
    return np.array(value, np.float32)


class Graph:
    """A graph under construction. `graph("Add", a, b)` adds a node and returns the name of its output;
    arrays become initializers."""

    def __init__(self, prefix=""):
        self.prefix, self.count = prefix, 0
        self.inputs, self.outputs, self.nodes, self.tensors = [], [], [], []
        self.known = {}

    def name(self, of):
        self.count += 1
        return f"{self.prefix}{of}{self.count}"

    def input(self, name, dtype, dims):
        self.inputs.append(helper.make_tensor_value_info(self.prefix + name, dtype, dims))
        return self.prefix + name

    def tensor(self, array):
        if isinstance(array, str):
            return array
        array = np.asarray(array)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self.known:
            self.known[key] = self.name("const")
            self.tensors.append(numpy_helper.from_array(array, self.known[key]))
        return self.known[key]

    def __call__(self, op, *inputs, n=1, out=None, **attributes):
        names = [out] if out else [self.name(op.lower()) for _ in range(n)]
        for key, body in attributes.items():
            if isinstance(body, Graph):
                attributes[key] = body.build(key)
        inputs = [self.tensor(each) for each in inputs]
        self.nodes.append(helper.make_node(op, inputs, names, **attributes))
        return names[0] if n == 1 else names

    def sub(self):
        self.count += 1
        return Graph(f"{self.prefix}b{self.count}_")

    def output(self, name, dtype=None, dims=None):
        """Without a type in bodies."""
        if dtype is None:
            # An output of a body must be made in it.
            name = self("Identity", name)
            self.outputs.append(onnx.ValueInfoProto(name=name))
        else:
            self.outputs.append(helper.make_tensor_value_info(name, dtype, dims))

    def build(self, name):
        return helper.make_graph(self.nodes, name, self.inputs, self.outputs, self.tensors)

    # Frequent pieces.

    def size(self, of, axis):
        return self("Gather", self("Shape", of), i64(axis), axis=0)

    def vector(self, *parts):
        return self("Concat", *parts, axis=0)

    def slice(self, of, start, end, axis):
        return self("Slice", of, start, end, i64(axis))

    def linear(self, of, seed, width, into, scale=0.25):
        return self("Add", self("MatMul", of, noise(seed, (width, into), scale)),
                    noise(seed + 5000, (into,), 0.125))

    def conv(self, of, seed, channels, into, kernel, stride=1, **attributes):
        pads = [kernel // 2] * 4
        return self("Conv", of, noise(seed, (into, channels, kernel, kernel), 0.25),
                    noise(seed + 5000, (into,), 0.125), kernel_shape=[kernel] * 2,
                    strides=[stride] * 2, pads=pads, **attributes)

    def range(self, end, start=None):
        scalar = lambda of: self("Squeeze", of, i64(0)) if isinstance(of, str) else of  # noqa: E731
        return self("Range", scalar(start) if start is not None else one(0), scalar(end), one(1))


MODELS = {}


def structure(function):
    MODELS[function.__name__] = function
    return function


class Case:
    """A model and its runs. `feedback` maps inputs to the outputs of the run before that they get,
    `kept` to those of the first run."""

    def __init__(self, graph, opset=17):
        self.model = helper.make_model(
            graph.build("graph"), opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        self.runs, self.feedback, self.kept = [], {}, {}
        self.compared = None

    def run(self, **inputs):
        self.runs.append(inputs)
        return self


# Detectors.


def corners(g, centre, half):
    return g("Sub", centre, half), g("Add", centre, half)


@structure
def yolo():
    """Boxes from a head on a grid; the suppression of overlapping ones is part of the model."""
    g = Graph()
    image = g.input("images", FLOAT, ["batch", 3, "height", "width"])
    x = g("Relu", g.conv(image, 1, 3, 8, 3, 2))
    x = g("Relu", g.conv(x, 2, 8, 8, 3, 2))
    head = g.conv(x, 3, 8, 7, 1)  # 4 numbers for the box, 3 classes
    rows, columns = g.size(head, 2), g.size(head, 3)
    flat = g("Reshape", head, g.vector(i64(0), i64(7), i64(-1)))
    flat = g("Transpose", flat, perm=[0, 2, 1])
    boxes, scores = g("Split", flat, i64(4, 3), n=2, axis=2)
    # The cell of each row, from the sizes of the grid.
    y = g("Reshape", g.range(rows), i64(-1, 1))
    x = g("Reshape", g.range(columns), i64(1, -1))
    shape = g.vector(rows, columns)
    cells = g("Concat", g("Reshape", g("Expand", x, shape), i64(-1, 1)),
              g("Reshape", g("Expand", y, shape), i64(-1, 1)), axis=1)
    cells = g("Mul", g("Cast", cells, to=FLOAT), f32(4.0))
    shift, extent = g("Split", boxes, i64(2, 2), n=2, axis=2)
    centre = g("Add", cells, g("Mul", g("Sigmoid", shift), f32(4.0)))
    half = g("Mul", g("Sigmoid", extent), f32(6.0))
    low, high = corners(g, centre, half)
    boxes = g("Concat", low, high, axis=2)
    scores = g("Sigmoid", scores)
    chosen = g("NonMaxSuppression", boxes, g("Transpose", scores, perm=[0, 2, 1]), i64(20),
               f32([0.45]), f32([0.58]))
    batch = g("Gather", chosen, one(0), axis=1)
    kind = g("Gather", chosen, one(1), axis=1)
    at = g("Gather", chosen, one(2), axis=1)
    places = g("Concat", g("Unsqueeze", batch, i64(1)), g("Unsqueeze", at, i64(1)), axis=1)
    taken = g("GatherND", boxes, places)
    all_scores = g("GatherND", scores, places)
    score = g("GatherElements", all_scores, g("Unsqueeze", kind, i64(1)), axis=1)
    columns = [g("Cast", g("Unsqueeze", each, i64(1)), to=FLOAT) for each in (batch, kind)]
    g("Concat", columns[0], taken, columns[1], score, out="detections", axis=1)
    g.output("detections", FLOAT, ["found", 7])
    case = Case(g)
    for seed, dims in [(11, (1, 3, 32, 32)), (12, (1, 3, 48, 40)), (13, (2, 3, 33, 17)),
                       (14, (1, 3, 64, 24))]:
        case.run(images=noise(seed, dims, 2.0))
    return case.run(images=np.zeros((1, 3, 20, 20), np.float32) - 1)


def batched_suppression(g, boxes, scores, labels, threshold):
    """The places of the boxes that torchvision keeps: boxes of each label are moved apart, in the
    branch for any boxes of an `If`."""
    empty, some = g.sub(), g.sub()
    count = g("Size", boxes)
    empty.output(empty("ConstantOfShape", i64(0), value=numpy_helper.from_array(i64(0))))
    largest = some("ReduceMax", boxes, keepdims=0)
    offsets = some("Mul", some("Cast", labels, to=FLOAT), some("Add", largest, f32(1.0)))
    moved = some("Add", boxes, some("Unsqueeze", offsets, i64(1)))
    kept = some("NonMaxSuppression", some("Unsqueeze", moved, i64(0)),
                some("Unsqueeze", some("Unsqueeze", scores, i64(0)), i64(0)),
                i64(np.iinfo(np.int64).max), f32([threshold]))
    kept = some("Slice", kept, i64(2), i64(3), i64(1))
    some.output(some("Squeeze", kept, i64(1)))
    return g("If", g("Equal", count, one(0)), then_branch=empty, else_branch=some)


def decoded(g, anchors, deltas):
    """Boxes from anchors (corners) and deltas, as torchvision's BoxCoder."""
    low = g.slice(anchors, i64(0), i64(2), 1)
    size = g("Sub", g.slice(anchors, i64(2), i64(4), 1), low)
    centre = g("Add", low, g("Mul", size, f32(0.5)))
    shift, growth = g("Split", deltas, i64(2, 2), n=2, axis=1)
    centre = g("Add", g("Mul", shift, size), centre)
    half = g("Mul", g("Mul", g("Exp", g("Min", growth, f32(4.0))), size), f32(0.5))
    return g("Concat", *corners(g, centre, half), axis=1)


def clipped(g, boxes, height, width):
    """Boxes within an image, whose size is computed."""
    boxes = g("Reshape", boxes, i64(-1, 2, 2))
    x, y = g("Split", boxes, i64(1, 1), n=2, axis=2)
    x = g("Max", g("Min", x, g("Cast", width, to=FLOAT)), f32(0.0))
    y = g("Max", g("Min", y, g("Cast", height, to=FLOAT)), f32(0.0))
    return g("Reshape", g("Concat", x, y, axis=2), i64(-1, 4))


def anchors(g, features, stride, half):
    """The anchors of a grid, from its sizes, as torchvision's AnchorGenerator."""
    rows, columns = g.size(features, 2), g.size(features, 3)
    y = g("Mul", g("Reshape", g.range(rows), i64(-1, 1)), i64(stride))
    x = g("Mul", g("Reshape", g.range(columns), i64(1, -1)), i64(stride))
    shape = g.vector(rows, columns)
    y, x = (g("Reshape", g("Expand", each, shape), i64(-1)) for each in (y, x))
    each = [g("Unsqueeze", each, i64(1)) for each in (x, y, x, y)]
    shifts = g("Cast", g("Concat", *each, axis=1), to=FLOAT)
    return g("Add", shifts, f32([[-half, -half * 0.75, half, half * 0.75]]))


def per_place(g, head, width):
    """[1, width, h, w] to [h × w, width]."""
    return g("Reshape", g("Transpose", head, perm=[0, 2, 3, 1]), i64(-1, width))


def at_most(g, count, limit):
    """The smaller of a computed size and a constant, as torchvision exports it."""
    return g("ReduceMin", g.vector(count, i64(limit)), axes=[0], keepdims=1)


def true_places(g, mask):
    return g("Squeeze", g("Transpose", g("NonZero", mask), perm=[1, 0]), i64(1))


@structure
def ssdlite():
    """An image of any size is resized; for each class, the candidates above a threshold, and of those
    the best; then suppression over all classes, in a branch of `If` for any boxes."""
    g = Graph()
    image = g.input("image", FLOAT, [3, "height", "width"])
    batch = g("Unsqueeze", image, i64(0))
    height, width = g.size(image, 1), g.size(image, 2)
    # The shorter side becomes 24, as torchvision's transform.
    shorter = g("Cast", g("Min", height, width), to=FLOAT)
    scale = g("Div", f32([24.0]), shorter)
    new_height, new_width = (
        g("Cast", g("Floor", g("Add", g("Mul", g("Cast", size, to=FLOAT), scale), f32(0.001))), to=INT64)
        for size in (height, width))
    batch = g("Resize", batch, "", "", g.vector(i64(1, 3), new_height, new_width), mode="linear",
              coordinate_transformation_mode="half_pixel")
    features = g("HardSwish", g.conv(batch, 21, 3, 8, 3, 4))
    coarse = g("HardSwish", g.conv(features, 22, 8, 8, 3, 2))
    boxes, logits = [], []
    for level, (x, stride, half) in enumerate([(features, 4, 4.0), (coarse, 8, 9.0)]):
        deltas = per_place(g, g.conv(x, 23 + level, 8, 4, 3), 4)
        boxes.append(decoded(g, anchors(g, x, stride, half), g("Mul", deltas, f32(0.5))))
        logits.append(per_place(g, g.conv(x, 25 + level, 8, 3, 3), 3))
    boxes = clipped(g, g("Concat", *boxes, axis=0), new_height, new_width)
    scores = g("Softmax", g("Concat", *logits, axis=0), axis=-1)
    of_classes = []
    for label in (1, 2):
        score = g("Gather", scores, one(label), axis=1)
        places = true_places(g, g("Greater", score, f32(0.36)))
        score = g("Gather", score, places, axis=0)
        box = g("Gather", boxes, places, axis=0)
        best, order = g("TopK", score, at_most(g, g("Shape", score), 12), n=2, axis=0)
        box = g("Gather", box, order, axis=0)
        labels = g("ConstantOfShape", g("Shape", best),
                   value=numpy_helper.from_array(i64(label)))
        of_classes.append((box, best, labels))
    box, score, labels = (g("Concat", *each, axis=0) for each in zip(*of_classes))
    kept = batched_suppression(g, box, score, labels, 0.4)
    kept = g.slice(kept, i64(0), i64(6), 0)
    box = g("Gather", box, kept, axis=0)
    # Back to the sizes of the given image.
    ratios = [g("Div", g("Cast", a, to=FLOAT), g("Cast", b, to=FLOAT))
              for a, b in ((width, new_width), (height, new_height))]
    g("Mul", box, g.vector(*ratios, *ratios), out="boxes")
    g("Gather", score, kept, out="scores", axis=0)
    g("Gather", labels, kept, out="labels", axis=0)
    g.output("boxes", FLOAT, ["found", 4])
    g.output("scores", FLOAT, ["found"])
    g.output("labels", INT64, ["found"])
    case = Case(g)
    for seed, dims in [(31, (3, 24, 24)), (32, (3, 30, 37)), (33, (3, 51, 26))]:
        case.run(image=noise(seed, dims, 2.0))
    return case.run(image=np.full((3, 25, 25), 4, np.float32))


def pooled(g, levels, boxes, channels):
    """torchvision's MultiScaleRoIAlign: each box reads the level for its size, and its result is put
    into the rows of all boxes."""
    size = g("Sub", g.slice(boxes, i64(2), i64(4), 1), g.slice(boxes, i64(0), i64(2), 1))
    area = g("ReduceProd", size, axes=[1], keepdims=0)
    level = g("Floor", g("Div", g("Log", g("Add", g("Div", g("Sqrt", area), f32(14.0)), f32(1e-6))),
                         f32(np.log(2.0))))
    level = g("Cast", g("Clip", g("Add", level, f32(1.0)), f32(0.0), f32(1.0)), to=INT64)
    shape = g.vector(g.size(boxes, 0), i64(channels, 2, 2))
    result = g("ConstantOfShape", shape, value=numpy_helper.from_array(f32([0.0])))
    for at, (features, scale) in enumerate(levels):
        places = true_places(g, g("Equal", level, one(at)))
        chosen = g("Gather", boxes, places, axis=0)
        images = g("ConstantOfShape", g("Shape", places), value=numpy_helper.from_array(i64(0)))
        aligned = g("RoiAlign", features, chosen, images, output_height=2, output_width=2,
                    sampling_ratio=2, spatial_scale=scale, mode="avg",
                    coordinate_transformation_mode="output_half_pixel")
        index = g("Expand", g("Reshape", places, i64(-1, 1, 1, 1)), g("Shape", aligned))
        if at == 0:
            result = g("ScatterElements", result, index, aligned, axis=0)
        else:
            result = g("ScatterND", result, g("Unsqueeze", places, i64(1)), aligned)
    return result


@structure
def faster_rcnn():
    """Proposals of each level (the best k, k computed), their suppression per level, RoiAlign on the
    level of each box's size, and the detections of these."""
    g = Graph()
    image = g.input("image", FLOAT, [3, "height", "width"])
    batch = g("Unsqueeze", image, i64(0))
    height, width = g.size(image, 1), g.size(image, 2)
    # Padded to a multiple of 8.
    multiple = lambda size: g("Mul", g("Div", g("Add", size, i64(7)), i64(8)), i64(8))  # noqa: E731
    missing = [g("Sub", multiple(size), size) for size in (height, width)]
    batch = g("Pad", batch, g.vector(i64(0, 0, 0, 0, 0, 0), *missing), f32(0.0))
    fine = g("Relu", g.conv(batch, 41, 3, 8, 3, 4))
    coarse = g("Relu", g.conv(fine, 42, 8, 8, 3, 2))
    up = g("Resize", coarse, "", "", g.vector(i64(1, 8), g.size(fine, 2), g.size(fine, 3)),
           mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    fine = g("Add", fine, up)
    levels = [(fine, 0.25), (coarse, 0.125)]
    boxes, scores, numbers = [], [], []
    for at, (x, scale) in enumerate(levels):
        score = g("Reshape", per_place(g, g.conv(x, 43, 8, 1, 1), 1), i64(-1))
        deltas = g("Mul", per_place(g, g.conv(x, 44, 8, 4, 1), 4), f32(0.25))
        box = decoded(g, anchors(g, x, int(1 / scale), 5.0 + 5 * at), deltas)
        best, order = g("TopK", score, at_most(g, g("Shape", score), 20), n=2, axis=0)
        box = clipped(g, g("Gather", box, order, axis=0), height, width)
        # Without small boxes.
        size = g("Sub", g.slice(box, i64(2), i64(4), 1), g.slice(box, i64(0), i64(2), 1))
        tall, wide = g("Split", size, i64(1, 1), n=2, axis=1)
        large = g("And", g("GreaterOrEqual", tall, f32(2.0)), g("GreaterOrEqual", wide, f32(2.0)))
        large = g("And", g("Squeeze", large, i64(1)), g("Greater", best, f32(-0.05)))
        places = true_places(g, large)
        boxes.append(g("Gather", box, places, axis=0))
        scores.append(g("Sigmoid", g("Gather", best, places, axis=0)))
        numbers.append(g("ConstantOfShape", g("Shape", places),
                         value=numpy_helper.from_array(i64(at))))
    box, score, number = (g("Concat", *each, axis=0) for each in (boxes, scores, numbers))
    kept = g.slice(batched_suppression(g, box, score, number, 0.6), i64(0), i64(10), 0)
    box = g("Gather", box, kept, axis=0)
    rows = g("Reshape", pooled(g, levels, box, 8), g.vector(g.size(box, 0), i64(32)))
    hidden = g("Relu", g.linear(rows, 45, 32, 16))
    scores = g("Softmax", g.linear(hidden, 46, 16, 3, 1.0), axis=-1)
    deltas = g("Reshape", g("Mul", g.linear(hidden, 47, 16, 12), f32(0.25)), i64(-1, 4))
    repeated = g("Reshape", g("Tile", box, i64(1, 3)), i64(-1, 4))
    final = g("Reshape", clipped(g, decoded(g, repeated, deltas), height, width), i64(-1, 3, 4))
    # Without the background.
    final = g("Reshape", g.slice(final, i64(1), i64(3), 1), i64(-1, 4))
    labels = g("Reshape", g("Expand", i64(1, 2), g("Shape", g.slice(scores, i64(1), i64(3), 1))),
               i64(-1))
    scores = g("Reshape", g.slice(scores, i64(1), i64(3), 1), i64(-1))
    places = true_places(g, g("Greater", scores, f32(0.3)))
    final, scores, labels = (g("Gather", each, places, axis=0) for each in (final, scores, labels))
    kept = g.slice(batched_suppression(g, final, scores, labels, 0.5), i64(0), i64(5), 0)
    g("Gather", final, kept, out="boxes", axis=0)
    g("Gather", labels, kept, out="labels", axis=0)
    g("Gather", scores, kept, out="scores", axis=0)
    g("ReduceMean", g("Gather", hidden, g("Div", places, one(2)), axis=0), out="mean", axes=[1])
    g.output("boxes", FLOAT, ["found", 4])
    g.output("labels", INT64, ["found"])
    g.output("scores", FLOAT, ["found"])
    g.output("mean", FLOAT, ["candidates", 1])
    case = Case(g)
    for seed, dims in [(51, (3, 32, 32)), (52, (3, 41, 27)), (53, (3, 24, 56))]:
        case.run(image=noise(seed, dims, 2.0))
    return case.run(image=np.full((3, 19, 9), -8, np.float32))


@structure
def pasted_masks():
    """Mask R-CNN's masks: each is resized to its box and pasted into an image of zeros, in a loop
    that carries all masks so far: their number grows."""
    g = Graph()
    masks = g.input("masks", FLOAT, ["found", 1, 4, 4])
    boxes = g.input("boxes", INT64, ["found", 4])
    image = g.input("image", FLOAT, [3, "height", "width"])
    height, width = g.size(image, 1), g.size(image, 2)
    start = g("ConstantOfShape", g.vector(i64(0), height, width),
              value=numpy_helper.from_array(f32([0.0])))
    b = g.sub()
    at = b.input("i", INT64, [])
    on = b.input("on", BOOL, [])
    sofar = b.input("sofar", FLOAT, None)
    box = b("Gather", boxes, at, axis=0)
    mask = b("Gather", masks, at, axis=0)
    side = lambda name, which: b("Slice", box, i64(which), i64(which + 1))  # noqa: E731
    x0, y0, x1, y1 = (side("box", which) for which in range(4))
    wide = b("Max", b("Add", b("Sub", x1, x0), i64(1)), i64(1))
    tall = b("Max", b("Add", b("Sub", y1, y0), i64(1)), i64(1))
    mask = b("Resize", b("Unsqueeze", mask, i64(0)), "", "", b("Concat", i64(1, 1), tall, wide, axis=0),
             mode="linear", coordinate_transformation_mode="half_pixel")
    mask = b("Squeeze", mask, i64(0, 1))
    x_from, y_from = b("Max", x0, i64(0)), b("Max", y0, i64(0))
    x_to = b("Min", b("Add", x1, i64(1)), width)
    y_to = b("Min", b("Add", y1, i64(1)), height)
    part = b("Slice", mask, b("Concat", b("Sub", y_from, y0), b("Sub", x_from, x0), axis=0),
             b("Concat", b("Sub", y_to, y0), b("Sub", x_to, x0), axis=0), i64(0, 1))
    above = b("ConstantOfShape", b("Concat", y_from, b("Sub", x_to, x_from), axis=0))
    below = b("ConstantOfShape", b("Concat", b("Sub", height, y_to), b("Sub", x_to, x_from), axis=0))
    column = b("Concat", above, part, below, axis=0)
    before = b("ConstantOfShape", b("Concat", height, x_from, axis=0))
    after = b("ConstantOfShape", b("Concat", height, b("Sub", width, x_to), axis=0))
    whole = b("Concat", before, column, after, axis=1)
    b.output(on)
    b.output(b("Concat", sofar, b("Unsqueeze", whole, i64(0)), axis=0))
    all_masks = g("Loop", g("Squeeze", g.size(masks, 0), i64(0)), np.array(True), start, body=b)
    g("Unsqueeze", all_masks, i64(1), out="pasted")
    g.output("pasted", FLOAT, ["found", 1, "height", "width"])
    case = Case(g)
    some = np.array([[0, 0, 2, 3], [-2, 1, 4, 2], [3, 2, 9, 9]], np.int64)
    for count, dims in [(3, (3, 6, 7)), (1, (3, 5, 8)), (0, (3, 6, 7)), (2, (3, 9, 9))]:
        case.run(masks=noise(60 + count, (count, 1, 4, 4)), boxes=some[:count],
                 image=np.zeros(dims, np.float32))
    return case


# Speech synthesis.


@structure
def vits():
    """Texts of any length; their durations are predicted, and decide the length of the sound."""
    g = Graph()
    ids = g.input("input", INT64, ["batch", "phonemes"])
    lengths = g.input("input_lengths", INT64, ["batch"])
    scales = g.input("scales", FLOAT, [2])
    width = 8
    x = g("Gather", noise(71, (12, width)), ids, axis=0)
    count = g.size(ids, 1)
    mask = g("Less", g("Unsqueeze", g.range(count), i64(0)), g("Unsqueeze", lengths, i64(1)))
    mask = g("Cast", g("Unsqueeze", mask, i64(1)), to=FLOAT)  # [b, 1, t]
    # Attention with relative positions: the embeddings are padded or cut for the length.
    window = 3
    padding = g("Max", g("Sub", count, i64(window + 1)), i64(0))
    start = g("Max", g("Sub", i64(window + 1), count), i64(0))
    end = g("Sub", g("Add", start, g("Mul", count, i64(2))), i64(1))
    relative = g("Pad", noise(72, (1, 2 * window + 1, width)),
                 g.vector(i64(0), padding, i64(0, 0), padding, i64(0)), f32(0.0))
    relative = g.slice(relative, start, end, 1)  # [1, 2t - 1, w]
    logits = g("MatMul", x, g("Transpose", relative, perm=[0, 2, 1]))  # [b, t, 2t - 1]
    # From relative to absolute positions: pad, flatten, cut.
    logits = g("Pad", logits, i64(0, 0, 0, 0, 0, 1), f32(0.0))
    batch = g.size(ids, 0)
    flat = g("Reshape", logits, g.vector(batch, g("Mul", g("Mul", count, count), i64(2))))
    flat = g("Pad", flat, g.vector(i64(0, 0, 0), g("Sub", count, i64(1))), f32(0.0))
    twice = g("Sub", g("Mul", count, i64(2)), i64(1))
    absolute = g("Reshape", flat, g.vector(batch, g("Add", count, i64(1)), twice))
    absolute = g.slice(g.slice(absolute, i64(0), count, 1), g("Sub", count, i64(1)),
                       i64(np.iinfo(np.int64).max), 2)
    scores = g("Add", g("MatMul", x, g("Transpose", x, perm=[0, 2, 1])), absolute)
    scores = g("Where", g("Equal", mask, f32(0.0)), f32(-1e4), scores)
    x = g("Add", x, g("MatMul", g("Softmax", scores, axis=-1), x))
    x = g("Mul", g("Transpose", x, perm=[0, 2, 1]), mask)  # [b, w, t]
    # Durations.
    duration = g("Conv", x, noise(73, (1, width, 3), 0.25), f32([0.25]), kernel_shape=[3], pads=[1, 1])
    # Of the values within an interval alone, as the spline of a flow computes.
    inside = g("And", g("GreaterOrEqual", duration, f32(-0.5)), g("LessOrEqual", duration, f32(0.75)))
    picked = g("GatherND", duration, g("Transpose", g("NonZero", inside), perm=[1, 0]))
    bent = g("Mul", picked, g("Add", f32(1.0), g("Mul", picked, picked)))
    duration = g("ScatterND", g("Mul", duration, f32(0.5)),
                 g("Transpose", g("NonZero", inside), perm=[1, 0]), bent)
    duration = g("Ceil", g("Mul", g("Mul", g("Exp", duration), mask), g.slice(scales, i64(0), i64(1), 0)))
    total = g("Cast", g("Clip", g("ReduceSum", duration, i64(1, 2), keepdims=0), f32(1.0)), to=INT64)
    longest = g("ReduceMax", total, axes=[0], keepdims=0)
    frames = g("Range", one(0), longest, one(1))
    frame_mask = g("Less", g("Unsqueeze", frames, i64(0)), g("Unsqueeze", total, i64(1)))
    frame_mask = g("Cast", g("Unsqueeze", frame_mask, i64(1)), to=FLOAT)  # [b, 1, f]
    # The path: each phoneme covers its frames.
    ends = g("CumSum", duration, one(2))  # [b, 1, t]
    flat = g("Reshape", ends, i64(-1))
    path = g("Less", g("Cast", g("Unsqueeze", frames, i64(0)), to=FLOAT), g("Unsqueeze", flat, i64(1)))
    path = g("Reshape", g("Cast", path, to=FLOAT), g.vector(batch, count, g("Unsqueeze", longest, i64(0))))
    before = g("Slice", g("Pad", path, i64(0, 1, 0, 0, 0, 0), f32(0.0)), i64(0), i64(-1), i64(1))
    path = g("Mul", g("Sub", path, before), frame_mask)  # [b, t, f]
    z = g("MatMul", x, path)  # [b, w, f]
    # The noise, as long as the sound, is drawn from a wave here.
    shape = g("Shape", z)
    wave = g("Sin", g("Cast", g("Range", one(0), g("ReduceProd", shape, keepdims=0), one(1)), to=FLOAT))
    z = g("Add", z, g("Mul", g("Reshape", wave, shape), g.slice(scales, i64(1), i64(2), 0)))
    # A flow: half of the channels shift the other half.
    first, second = g("Split", z, i64(4, 4), n=2, axis=1)
    inner = g("Conv", first, noise(74, (8, 4, 3), 0.5), kernel_shape=[3], pads=[2, 2], dilations=[2])
    gate = g("Mul", g("Tanh", g("Slice", inner, i64(0), i64(4), i64(1))),
             g("Sigmoid", g("Slice", inner, i64(4), i64(8), i64(1))))
    z = g("Mul", g("Concat", first, g("Sub", second, gate), axis=1), frame_mask)
    # A vocoder.
    sound = g("LeakyRelu", g("ConvTranspose", z, noise(75, (8, 4, 4), 0.25), kernel_shape=[4],
                             strides=[2], pads=[1, 1]), alpha=0.1)
    sound = g("Conv", sound, noise(76, (1, 4, 7), 0.25), kernel_shape=[7], pads=[3, 3])
    g("Tanh", sound, out="output")
    g.output("output", FLOAT, ["batch", 1, "time"])
    case = Case(g)
    for seed, (batch, count) in enumerate([(1, 7), (1, 1), (1, 2), (2, 5), (1, 9)]):
        ids = (np.arange(batch * count) * 5 + seed) % 12
        lengths = np.array([count, max(1, count - 2)], np.int64)[:batch]
        case.run(input=ids.reshape(batch, count).astype(np.int64), input_lengths=lengths,
                 scales=f32([1.0, 0.5]))
    # All durations become 0.
    return case.run(input=i64(1, 2, 3)[None], input_lengths=i64(3), scales=f32([0.0, 0.5]))


@structure
def kokoro():
    """Each phoneme's features are repeated by its predicted duration, in a loop over parts of a
    sequence that appends to a sequence, as torch exports repeat_interleave."""
    g = Graph()
    ids = g.input("tokens", INT64, [1, "tokens"])
    style = g.input("style", FLOAT, [1, 4])
    speed = g.input("speed", FLOAT, [1])
    x = g("Gather", noise(81, (10, 8)), ids, axis=0)
    shape = g.vector(i64(1), g.size(ids, 1), i64(4))
    x = g("Concat", x, g("Expand", g("Unsqueeze", style, i64(1)), shape), axis=2)  # [1, t, 12]
    forward = g("Transpose", x, perm=[1, 0, 2])
    states, _, _ = g("LSTM", forward, noise(82, (2, 24, 12), 0.25), noise(83, (2, 24, 6), 0.25),
                     noise(84, (2, 48), 0.25), n=3, hidden_size=6, direction="bidirectional")
    states = g("Reshape", g("Transpose", states, perm=[2, 0, 1, 3]), i64(0, 0, -1))  # [1, t, 12]
    duration = g("ReduceSum", g("Sigmoid", g.linear(states, 85, 12, 5, 1.0)), i64(2), keepdims=0)
    duration = g("Cast", g("Clip", g("Round", g("Div", duration, speed)), f32(0.0)), to=INT64)
    duration = g("Reshape", duration, i64(-1))
    places = g.range(g("Shape", duration))
    parts = g("SplitToSequence", places, one(1), axis=0)
    repeats = g("SplitToSequence", duration, axis=0, keepdims=0)
    b = g.sub()
    at = b.input("i", INT64, [])
    on = b.input("on", BOOL, [])
    sofar = b.prefix + "sofar"
    b.inputs.append(helper.make_tensor_sequence_value_info(sofar, INT64, None))
    part = b("SequenceAt", parts, at)
    times = b("Reshape", b("SequenceAt", repeats, at), i64(1))
    spread = b("Reshape", b("Expand", b("Unsqueeze", part, i64(1)), b("Concat", i64(1), times, axis=0)),
               i64(-1))
    b.output(on)
    grown = b("SequenceInsert", sofar, spread)
    b.outputs.append(helper.make_tensor_sequence_value_info(grown, INT64, None))
    indices = g("Loop", g("SequenceLength", parts), np.array(True), g("SequenceEmpty", dtype=INT64),
                body=b)
    indices = g("ConcatFromSequence", indices, axis=0)
    # One column of the alignment for each frame.
    frames = g.range(g("Shape", indices))
    pairs = g("Concat", g("Unsqueeze", indices, i64(1)), g("Unsqueeze", frames, i64(1)), axis=1)
    empty = g("ConstantOfShape", g.vector(g.size(ids, 1), g("Shape", indices)))
    ones = g("Expand", f32([1.0]), g("Shape", indices))
    path = g("ScatterND", empty, pairs, ones)
    frames = g("MatMul", g("Transpose", states, perm=[0, 2, 1]), path)  # [1, 12, f]
    # Normalised over the frames and shaped by the style.
    gamma = g("Unsqueeze", g.linear(style, 86, 4, 12), i64(2))
    mean = g("ReduceMean", frames, axes=[2])
    spread = g("Sub", frames, mean)
    variance = g("ReduceMean", g("Mul", spread, spread), axes=[2])
    frames = g("Div", spread, g("Sqrt", g("Add", variance, f32(1e-5))))
    frames = g("Mul", frames, g("Add", gamma, f32(1.0)))
    # The sine of a pitch, upsampled and summed up.
    pitch = g("Conv", frames, noise(87, (1, 12, 3), 0.25), kernel_shape=[3], pads=[1, 1])
    pitch = g("Resize", pitch, "", f32([1, 1, 4]), mode="linear",
              coordinate_transformation_mode="half_pixel")
    phase = g("CumSum", g("Abs", pitch), one(2))
    source = g("Sin", phase)
    sound = g("ConvTranspose", frames, noise(88, (12, 1, 8), 0.25), kernel_shape=[8], strides=[4],
              pads=[2, 2])
    g("Add", sound, source, out="audio")
    g("Identity", duration, out="durations")
    g.output("audio", FLOAT, [1, 1, "samples"])
    g.output("durations", INT64, ["tokens"])
    case = Case(g)
    for at, (count, speed) in enumerate([(6, 1.0), (1, 1.0), (5, 0.5), (9, 1.25)]):
        case.run(tokens=((np.arange(count) * 3 + at) % 10)[None].astype(np.int64),
                 style=noise(89 + at, (1, 4)), speed=f32([speed]))
    return case


# Recommendation.


@structure
def dlrm():
    """Bags of any number of embeddings for each row, also none, and the products of all pairs."""
    g = Graph()
    dense = g.input("dense", FLOAT, ["batch", 5])
    indices = [g.input(f"indices_{at}", INT64, [f"indices_{at}"]) for at in range(2)]
    offsets = [g.input(f"offsets_{at}", INT64, ["batch"]) for at in range(2)]
    x = g("Relu", g.linear(dense, 91, 5, 6))
    vectors = [x]
    for at in range(2):
        table = g.tensor(noise(92 + at, (7, 6)))
        ends = g.vector(offsets[at], g("Shape", indices[at]))
        b = g.sub()
        row = b.input("i", INT64, [])
        on = b.input("on", BOOL, [])
        start = b("Unsqueeze", b("Gather", ends, row, axis=0), i64(0))
        end = b("Unsqueeze", b("Gather", ends, b("Add", row, one(1)), axis=0), i64(0))
        bag = b("Slice", indices[at], start, end, i64(0))
        bag = b("Gather", table, bag, axis=0)
        if at == 1:
            # Weighted by their places in the bag.
            weights = b("Cast", b("Range", one(1), b("Add", b("Squeeze", b("Shape", bag, end=1), i64(0)),
                                                     one(1)), one(1)), to=FLOAT)
            bag = b("Mul", bag, b("Unsqueeze", weights, i64(1)))
        b.output(on)
        b.output(b("ReduceSum", bag, i64(0), keepdims=0))
        vectors.append(g("Loop", g("Squeeze", g("Shape", offsets[at]), i64(0)), np.array(True), body=b))
    stacked = g("Concat", *(g("Unsqueeze", each, i64(1)) for each in vectors), axis=1)
    products = g("MatMul", stacked, g("Transpose", stacked, perm=[0, 2, 1]))
    pairs = g("Gather", g("Reshape", products, i64(-1, 9)), i64(3, 6, 7), axis=1)
    x = g("Concat", x, pairs, axis=1)
    g("Sigmoid", g.linear(g("Relu", g.linear(x, 95, 9, 8)), 96, 8, 1), out="click")
    g.output("click", FLOAT, ["batch", 1])
    case = Case(g)
    for seed, sizes in [(101, [(2, 1, 3), (1, 1, 1)]), (102, [(4,), (0,)]), (103, [(0, 0), (0, 5)]),
                        (104, [(1, 0, 2, 3, 1), (2, 2, 0, 0, 1)])]:
        feeds = {"dense": noise(seed, (len(sizes[0]), 5), 2.0)}
        for at, each in enumerate(sizes):
            feeds[f"indices_{at}"] = (np.arange(sum(each)) * 3 + seed).astype(np.int64) % 7
            feeds[f"offsets_{at}"] = np.cumsum((0, *each[:-1])).astype(np.int64)
        case.run(**feeds)
    return case


# Decoders.

VOCABULARY, WIDTH, HEADS = 11, 8, 2
EACH = WIDTH // HEADS


def heads(g, x, count=HEADS):
    """[b, s, w] to [b, heads, s, each]."""
    x = g("Reshape", x, i64(0, 0, count, EACH))
    return g("Transpose", x, perm=[0, 2, 1, 3])


def together(g, x):
    return g("Reshape", g("Transpose", x, perm=[0, 2, 1, 3]), i64(0, 0, WIDTH))


def layer_norm(g, x, seed):
    centred = g("Sub", x, g("ReduceMean", x, axes=[-1]))
    variance = g("ReduceMean", g("Pow", centred, f32(2.0)), axes=[-1])
    x = g("Div", centred, g("Sqrt", g("Add", variance, f32(1e-5))))
    return g("Add", g("Mul", x, g("Add", noise(seed, (WIDTH,), 0.25), f32(1.0))),
             noise(seed + 5000, (WIDTH,), 0.125))


def attended(g, queries, keys, values, mask=None):
    scores = g("Div", g("MatMul", queries, g("Transpose", keys, perm=[0, 1, 3, 2])),
               f32(np.sqrt(EACH)))
    if mask:
        scores = mask(scores)
    return together(g, g("MatMul", g("Softmax", scores, axis=-1), values))


def gpt2_layers(g, x, past, seed, layers=2):
    """GPT-2's layers: the mask is a part of a constant, by computed ends. Returns the presents."""
    presents = []
    for layer in range(layers):
        at = seed + 20 * layer
        normal = layer_norm(g, x, at)
        projected = g.linear(normal, at + 1, WIDTH, 3 * WIDTH, 0.5)
        queries, keys, values = (heads(g, part) for part in
                                 g("Split", projected, i64(WIDTH, WIDTH, WIDTH), n=3, axis=2))
        if past:
            keys = g("Concat", past[2 * layer], keys, axis=2)
            values = g("Concat", past[2 * layer + 1], values, axis=2)
        presents += [keys, values]
        number, new = g.size(keys, 2), g.size(queries, 2)
        triangle = np.tril(np.ones((1, 1, 160, 160), bool)) if layer == 0 else triangle
        if layer == 0:
            ones = g("ConstantOfShape", i64(160, 160), value=numpy_helper.from_array(f32([1.0])))
            triangle = g("Cast", g("Unsqueeze", g("Trilu", ones, upper=0), i64(0, 1)), to=BOOL)

        def mask(scores, number=number, new=new):
            part = g.slice(g.slice(triangle, g("Sub", number, new), number, 2), i64(0), number, 3)
            return g("Where", part, scores, LOWEST)

        x = g("Add", x, g.linear(attended(g, queries, keys, values, mask), at + 2, WIDTH, WIDTH, 0.5))
        hidden = g.linear(layer_norm(g, x, at + 3), at + 4, WIDTH, 16, 0.5)
        cubed = g("Add", hidden, g("Mul", g("Pow", hidden, f32(3.0)), f32(0.044715)))
        hidden = g("Mul", g("Mul", hidden, f32(0.5)),
                   g("Add", g("Tanh", g("Mul", cubed, f32(0.7978846))), f32(1.0)))
        x = g("Add", x, g.linear(hidden, at + 5, 16, WIDTH, 0.5))
    return layer_norm(g, x, seed + 90), presents


def logits(g, x, seed):
    return g("MatMul", x, noise(seed, (WIDTH, VOCABULARY), 0.5))


def tokens(count, seed, batch=1):
    each = (np.arange(batch * count) * 7 + seed * 3) % VOCABULARY
    return each.reshape(batch, count).astype(np.int64)


def caches(layers=2):
    return [(f"{layer}.{which}") for layer in range(layers) for which in ("key", "value")]


@structure
def gpt2():
    """128 steps with a cache that the caller gives back: without a past at first, then a token each."""
    g = Graph()
    ids = g.input("input_ids", INT64, ["batch", "sequence"])
    past = [g.input(f"past.{name}", FLOAT, ["batch", HEADS, "past", EACH]) for name in caches()]
    before, new = g.size(past[0], 2), g.size(ids, 1)
    positions = g.range(g("Add", before, new), before)
    x = g("Add", g("Gather", noise(201, (VOCABULARY, WIDTH)), ids, axis=0),
          g("Gather", noise(202, (160, WIDTH), 0.5), positions, axis=0))
    x, presents = gpt2_layers(g, x, past, 210)
    g("Identity", logits(g, x, 203), out="logits")
    g.output("logits", FLOAT, ["batch", "sequence", VOCABULARY])
    for name, present in zip(caches(), presents):
        g("Identity", present, out=f"present.{name}")
        g.output(f"present.{name}", FLOAT, ["batch", HEADS, "total", EACH])
    case = Case(g)
    case.feedback = {f"past.{name}": f"present.{name}" for name in caches()}
    case.compared = ["logits"]
    empty = {f"past.{name}": np.zeros((1, HEADS, 0, EACH), np.float32) for name in caches()}
    case.run(input_ids=tokens(5, 1), **empty)
    for step in range(127):
        case.run(input_ids=tokens(1, step))
    return case


def rotated(g, x, cosine, sine):
    half = EACH // 2
    turned = g("Concat", g("Neg", g("Slice", x, i64(half), i64(EACH), i64(3))),
               g("Slice", x, i64(0), i64(half), i64(3)), axis=3)
    return g("Add", g("Mul", x, cosine), g("Mul", turned, sine))


@structure
def llama():
    """128 steps with rotary positions, shared keys, and a mask from the caller that grows."""
    g = Graph()
    ids = g.input("input_ids", INT64, ["batch", "sequence"])
    attention = g.input("attention_mask", INT64, ["batch", "total"])
    past = [g.input(f"past_key_values.{name}", FLOAT, ["batch", 1, "past", EACH]) for name in caches()]
    x = g("Gather", noise(301, (VOCABULARY, WIDTH)), ids, axis=0)
    new, total = g.size(ids, 1), g.size(attention, 1)
    # Positions do not count what is masked.
    positions = g("Max", g("Sub", g("CumSum", attention, one(1)), one(1)), one(0))
    positions = g.slice(positions, g("Sub", total, new), total, 1)
    angles = g("Mul", g("Unsqueeze", g("Cast", positions, to=FLOAT), i64(2)), f32([[[1.0, 0.1]]]))
    angles = g("Unsqueeze", g("Concat", angles, angles, axis=2), i64(1))
    cosine, sine = g("Cos", angles), g("Sin", angles)
    # The causal mask, by computed sizes, and the one of the caller.
    square = g.vector(new, total)
    full = g("Expand", LOWEST, square)
    causal = g("Trilu", full, g("Add", g("Squeeze", g("Sub", total, new), i64(0)), one(1)), upper=1)
    padding = g("Equal", g("Unsqueeze", attention, i64(1, 2)), one(0))
    shape = g.vector(g.size(ids, 0), i64(1), square)
    causal = g("Where", padding, LOWEST, g("Expand", causal, shape))
    presents = []
    for layer in range(2):
        at = 310 + 20 * layer

        def normal(x, seed):
            variance = g("ReduceMean", g("Pow", x, f32(2.0)), axes=[-1])
            x = g("Mul", x, g("Reciprocal", g("Sqrt", g("Add", variance, f32(1e-6)))))
            return g("Mul", x, g("Add", noise(seed, (WIDTH,), 0.25), f32(1.0)))

        y = normal(x, at)
        queries = rotated(g, heads(g, g("MatMul", y, noise(at + 1, (WIDTH, WIDTH)))), cosine, sine)
        keys = rotated(g, heads(g, g("MatMul", y, noise(at + 2, (WIDTH, EACH))), 1), cosine, sine)
        values = heads(g, g("MatMul", y, noise(at + 3, (WIDTH, EACH))), 1)
        keys = g("Concat", past[2 * layer], keys, axis=2)
        values = g("Concat", past[2 * layer + 1], values, axis=2)
        presents += [keys, values]
        # One head of keys for two of queries.
        dims = g.vector(g.size(keys, 0), i64(1, HEADS), g.size(keys, 2), i64(EACH))
        whole = g.vector(g.size(keys, 0), i64(HEADS), g.size(keys, 2), i64(EACH))
        keys, values = (g("Reshape", g("Expand", g("Unsqueeze", each, i64(2)), dims), whole)
                        for each in (keys, values))
        answer = attended(g, queries, keys, values, lambda scores: g("Add", scores, causal))
        x = g("Add", x, g("MatMul", answer, noise(at + 4, (WIDTH, WIDTH), 0.5)))
        y = normal(x, at + 5)
        gate = g("MatMul", y, noise(at + 6, (WIDTH, 12)))
        up = g("Mul", g("Mul", gate, g("Sigmoid", gate)), g("MatMul", y, noise(at + 7, (WIDTH, 12))))
        x = g("Add", x, g("MatMul", up, noise(at + 8, (12, WIDTH), 0.5)))
    g("Identity", logits(g, x, 302), out="logits")
    g.output("logits", FLOAT, ["batch", "sequence", VOCABULARY])
    for name, present in zip(caches(), presents):
        g("Identity", present, out=f"present.{name}")
        g.output(f"present.{name}", FLOAT, ["batch", 1, "total", EACH])
    case = Case(g)
    case.feedback = {f"past_key_values.{name}": f"present.{name}" for name in caches()}
    case.compared = ["logits"]
    empty = {f"past_key_values.{name}": np.zeros((2, 1, 0, EACH), np.float32) for name in caches()}
    # The second text is shorter, and padded on the left.
    seen = np.array([[1] * 6, [0, 0, 1, 1, 1, 1]], np.int64)
    case.run(input_ids=tokens(6, 2, 2), attention_mask=seen, **empty)
    for step in range(127):
        seen = np.concatenate([seen, np.ones((2, 1), np.int64)], axis=1)
        case.run(input_ids=tokens(1, step, 2), attention_mask=seen)
    return case


@structure
def merged_decoder():
    """As optimum merges a decoder with and one without a cache: both are branches of one `If`. The
    first step's past has a dummy size."""
    g = Graph()
    ids = g.input("input_ids", INT64, ["batch", "sequence"])
    attention = g.input("attention_mask", INT64, ["batch", "total"])
    past = [g.input(f"past_key_values.{name}", FLOAT, ["batch", HEADS, "past", EACH])
            for name in caches()]
    cached = g.input("use_cache_branch", BOOL, [1])
    table, head = g.tensor(noise(401, (VOCABULARY, WIDTH))), g.tensor(noise(403, (WIDTH, VOCABULARY), 0.5))
    places = g.tensor(noise(402, (160, WIDTH), 0.5))
    branches = []
    for read in (past, []):
        b = g.sub()
        total, new = b.size(attention, 1), b.size(ids, 1)
        positions = b.range(total, b("Sub", total, new))
        x = b("Add", b("Gather", table, ids, axis=0), b("Gather", places, positions, axis=0))
        x, presents = gpt2_layers(b, x, read, 410)
        b.output(b("MatMul", x, head))
        for present in presents:
            b.output(present)
        branches.append(b)
    made = g("If", cached, then_branch=branches[0], else_branch=branches[1], n=5)
    names = ["logits"] + [f"present.{name}" for name in caches()]
    for name, each in zip(names, made):
        g("Identity", each, out=name)
        dims = ["batch", "sequence", VOCABULARY] if name == "logits" else ["batch", HEADS, "total", EACH]
        g.output(name, FLOAT, dims)
    case = Case(g)
    case.feedback = {f"past_key_values.{name}": f"present.{name}" for name in caches()}
    case.compared = ["logits"]
    dummy = {f"past_key_values.{name}": np.zeros((1, HEADS, 1, EACH), np.float32) for name in caches()}
    for count in (4, 1):
        case.run(input_ids=tokens(count, 1), attention_mask=np.ones((1, count), np.int64),
                 use_cache_branch=np.array([False]), **dummy)
    for step in range(20):
        case.run(input_ids=tokens(1, step), attention_mask=np.ones((1, 2 + step), np.int64),
                 use_cache_branch=np.array([True]))
    return case


@structure
def whisper():
    """A merged decoder with attention to a sound: its keys and values are computed in the first step;
    the branch for later steps returns empty ones, and the caller keeps the first."""
    g = Graph()
    ids = g.input("input_ids", INT64, ["batch", "sequence"])
    sound = g.input("encoder_hidden_states", FLOAT, ["batch", "frames", WIDTH])
    own = [g.input(f"past_key_values.decoder.{which}", FLOAT, ["batch", HEADS, "past", EACH])
           for which in ("key", "value")]
    cross = [g.input(f"past_key_values.encoder.{which}", FLOAT, ["batch", HEADS, "heard", EACH])
             for which in ("key", "value")]
    cached = g.input("use_cache_branch", BOOL, [1])
    branches = []
    for later in (True, False):
        b = g.sub()
        before = b.size(own[0], 2) if later else i64(0)
        positions = b.range(b("Add", before, b.size(ids, 1)), b.vector(before))
        x = b("Add", b("Gather", noise(501, (VOCABULARY, WIDTH)), ids, axis=0),
              b("Gather", noise(502, (40, WIDTH), 0.5), positions, axis=0))
        y = layer_norm(b, x, 503)
        queries, keys, values = (heads(b, b.linear(y, 504 + at, WIDTH, WIDTH, 0.5)) for at in range(3))
        if later:
            keys = b("Concat", own[0], keys, axis=2)
            values = b("Concat", own[1], values, axis=2)
        total, new = b.size(keys, 2), b.size(queries, 2)

        def mask(scores):
            rows = b("Unsqueeze", b.range(total, b("Sub", total, new)), i64(1))
            return b("Where", b("LessOrEqual", b("Unsqueeze", b.range(total), i64(0)), rows), scores,
                     LOWEST)

        x = b("Add", x, b.linear(attended(b, queries, keys, values, mask), 508, WIDTH, WIDTH, 0.5))
        presents = [keys, values]
        y = layer_norm(b, x, 509)
        queries = heads(b, b.linear(y, 510, WIDTH, WIDTH, 0.5))
        if later:
            keys, values = cross
            shape = b.vector(i64(0, HEADS, 1, EACH))
            presents += [b("ConstantOfShape", shape)] * 2
        else:
            keys, values = (heads(b, b.linear(sound, 511 + at, WIDTH, WIDTH, 0.5)) for at in range(2))
            presents += [keys, values]
        x = b("Add", x, b.linear(attended(b, queries, keys, values), 513, WIDTH, WIDTH, 0.5))
        b.output(logits(b, layer_norm(b, x, 514), 515))
        for present in presents:
            b.output(present)
        branches.append(b)
    made = g("If", cached, then_branch=branches[0], else_branch=branches[1], n=5)
    names = [f"present.{part}.{which}" for part in ("decoder", "encoder") for which in ("key", "value")]
    for name, each in zip(["logits", *names], made):
        g("Identity", each, out=name)
        g.output(name, FLOAT, [None] * (3 if name == "logits" else 4))
    case = Case(g)
    for part, kept in (("decoder", case.feedback), ("encoder", case.kept)):
        for which in ("key", "value"):
            kept[f"past_key_values.{part}.{which}"] = f"present.{part}.{which}"
    case.compared = ["logits"]
    dummy = {name: np.zeros((1, HEADS, 1, EACH), np.float32) for name in (*own, *cross)}
    heard = noise(516, (1, 13, WIDTH), 2.0)
    case.run(input_ids=tokens(4, 1), encoder_hidden_states=heard, use_cache_branch=np.array([False]),
             **dummy)
    for step in range(12):
        case.run(input_ids=tokens(1, step), encoder_hidden_states=heard,
                 use_cache_branch=np.array([True]))
    return case


# Single operators whose outputs have sizes that follow from values, and readers of these sizes.


@structure
def unique():
    g = Graph()
    x = g.input("x", INT64, ["n"])
    values, first, inverse, counts = g("Unique", x, n=4, sorted=1)
    share = g("Div", g("Cast", counts, to=FLOAT), g("Cast", g("Shape", x), to=FLOAT))
    back = g("Gather", values, inverse, axis=0)
    same = g("ReduceSum", g("Cast", g("Equal", back, x), to=INT64), i64(0))
    rows = g("MatMul", g("Unsqueeze", share, i64(1)), noise(601, (1, 4)))
    unsorted, _, _, _ = g("Unique", x, n=4, sorted=0)
    columns, _, _, _ = g("Unique", g("Concat", g("Unsqueeze", x, i64(0)), g("Unsqueeze", x, i64(0)),
                                     axis=0), n=4, axis=1)
    for name, dtype, made in [("values", INT64, values), ("first", INT64, first), ("same", INT64, same),
                              ("rows", FLOAT, rows), ("unsorted", INT64, unsorted),
                              ("columns", INT64, columns)]:
        g("Identity", made, out=name)
        g.output(name, dtype, [None] * (2 if name in ("rows", "columns") else 1))
    case = Case(g)
    return case.run(x=i64(3, 1, 3, 7, 1, 3)).run(x=i64(5)).run(x=i64(2, 2, 2)).run(x=i64(9, 8, 7, 6))


@structure
def compress():
    g = Graph()
    x = g.input("x", FLOAT, ["n", 4])
    limit = g.input("limit", FLOAT, [])
    keep = g("Greater", g("ReduceSum", x, i64(1), keepdims=0), limit)
    rows = g("Compress", x, keep, axis=0)
    g("Relu", g.linear(rows, 611, 4, 3), out="rows")
    flat = g("Compress", x, g("Greater", g("Reshape", x, i64(-1)), limit))
    g("ReduceSum", flat, out="sum", keepdims=1)
    g("Concat", rows, x, rows, out="more", axis=0)
    g("Softmax", rows, out="weights", axis=1)
    g("MatMul", g("Transpose", rows, perm=[1, 0]), rows, out="products")
    for name, rank in [("rows", 2), ("sum", 1), ("more", 2), ("weights", 2), ("products", 2)]:
        g.output(name, FLOAT, [None] * rank)
    case = Case(g)
    for rows, limit in [(5, 0.0), (1, -4.0), (7, -4.0), (4, 4.5)]:
        case.run(x=noise(620 + rows, (rows, 4)), limit=f32(limit))
    return case


@structure
def top_k():
    """A number of elements that another input gives, or that follows from values."""
    g = Graph()
    x = g.input("x", FLOAT, ["rows", "n"])
    share = g.input("share", FLOAT, [1])
    k = g("Cast", g("Floor", g("Mul", g("Cast", g.size(x, 1), to=FLOAT), share)), to=INT64)
    best, places = g("TopK", x, k, n=2, axis=1)
    g("Softmax", best, out="weights", axis=1)
    g("Identity", places, out="places")
    g("Transpose", g("Tile", best, i64(2, 1)), out="twice", perm=[1, 0])
    positive = g("Squeeze", g.slice(g("Shape", g("NonZero", g("Greater", x, f32(0.0)))), i64(1), i64(2), 0),
                 i64(0))
    flat = g("Reshape", x, i64(-1))
    least, _ = g("TopK", flat, g("Unsqueeze", positive, i64(0)), n=2, axis=0, largest=0)
    g("Reshape", g("Concat", least, least, axis=0), i64(2, -1), out="least")
    for name, dtype, rank in [("weights", FLOAT, 2), ("places", INT64, 2), ("twice", FLOAT, 2),
                              ("least", FLOAT, 2)]:
        g.output(name, dtype, [None] * rank)
    case = Case(g)
    for rows, n, share in [(2, 6, 0.5), (1, 1, 1.0), (3, 5, 0.2), (2, 3, 0.0)]:
        case.run(x=noise(630 + n, (rows, n)), share=f32([share]))
    return case


@structure
def sequences():
    """Sequences whose lengths follow from shapes and from values."""
    g = Graph()
    x = g.input("x", FLOAT, ["n", 3])
    sizes = g.input("sizes", INT64, ["parts"])
    at = g.input("at", INT64, [])
    doubled = g("Mul", x, f32(2.0))
    rows = g("SplitToSequence", doubled, one(1), axis=0)
    g("Identity", g("SequenceLength", rows), out="rows")
    parts = g("SplitToSequence", doubled, sizes, axis=0)
    g("SequenceAt", parts, at, out="part")
    changed = g("SequenceInsert", parts, g("Relu", x), at)
    changed = g("SequenceErase", changed, one(-1))
    g("ConcatFromSequence", changed, out="changed", axis=0)
    pair = g("SequenceConstruct", g("SequenceAt", parts, one(0)), x, doubled)
    g("ConcatFromSequence", pair, out="pair", axis=0)
    g("ConcatFromSequence", g("SplitToSequence", x, axis=1, keepdims=0), out="columns", axis=-1,
      new_axis=1)
    g.output("rows", INT64, [])
    for name in ("part", "changed", "pair", "columns"):
        g.output(name, FLOAT, [None, None])
    case = Case(g)
    for n, sizes, at in [(5, (2, 3), 1), (6, (1, 0, 5), -1), (1, (1,), 0), (4, (1, 1, 1, 1), -2)]:
        case.run(x=noise(640 + n, (n, 3)), sizes=i64(*sizes), at=one(at))
    return case


@structure
def gathered_in_loop():
    """A loop whose number of rounds follows from values, and which appends rows to a sequence and to a
    tensor; the next round starts where this one ended."""
    g = Graph()
    x = g.input("x", FLOAT, ["n"])
    limit = g.input("limit", FLOAT, [])
    b = g.sub()
    b.input("i", INT64, [])
    b.input("on", BOOL, [])
    at, total, grown = (b.input("at", INT64, [1]), b.input("total", FLOAT, [1]), b.input("grown", FLOAT, None))
    rows = b.prefix + "rows"
    b.inputs.append(helper.make_tensor_sequence_value_info(rows, FLOAT, None))
    part = b("Slice", x, i64(0), b("Add", at, i64(1)), i64(0))
    added = b("Add", total, b("ReduceSum", b("Abs", part), i64(0)))
    following = b("Add", at, i64(1))
    short = b("Less", following, b("Shape", x))
    b.output(b("Squeeze", b("And", b("Less", added, limit), short), i64(0)))
    b.output(following)
    b.output(added)
    b.output(b("Concat", grown, part, axis=0))
    inserted = b("SequenceInsert", rows, b("Mul", part, f32(2.0)))
    b.outputs.append(helper.make_tensor_sequence_value_info(inserted, FLOAT, None))
    some = g("Squeeze", g("Greater", g("Shape", x), i64(0)), i64(0))
    at, total, grown, rows = g(
        "Loop", "", some, i64(0), f32([0.0]), g("ConstantOfShape", i64(0)), g("SequenceEmpty", dtype=FLOAT),
        body=b, n=4)
    g("Identity", at, out="rounds")
    g("Identity", total, out="total")
    g("Identity", grown, out="grown")
    g("Identity", g("SequenceLength", rows), out="length")
    g("ConcatFromSequence", g("SequenceInsert", rows, x), out="joined", axis=0)
    g("SequenceAt", g("SequenceInsert", rows, x), one(-1), out="last")
    for name, dtype, rank in [("rounds", INT64, 1), ("total", FLOAT, 1), ("grown", FLOAT, 1),
                              ("length", INT64, 0), ("joined", FLOAT, 1), ("last", FLOAT, 1)]:
        g.output(name, dtype, [None] * rank)
    case = Case(g)
    for n, limit in [(6, 3.0), (4, 100.0), (1, 0.0), (0, 1.0), (5, 0.5)]:
        case.run(x=noise(650 + n, (n,)), limit=f32(limit))
    return case


@structure
def optionals():
    """An optional that a branch fills or leaves empty, as values decide."""
    g = Graph()
    x = g.input("x", FLOAT, ["n"])
    one_more = g("Optional", g("Relu", x))
    has = g("OptionalHasElement", one_more)
    some, none = g.sub(), g.sub()
    some.output(some("Mul", some("OptionalGetElement", one_more), f32(3.0)))
    none.output(none("ConstantOfShape", i64(0)))
    g("Identity", g("If", has, then_branch=some, else_branch=none), out="filled")
    # Nothing is found in a text without elements above zero.
    places = g("NonZero", g("Greater", x, f32(0.0)))
    any_found = g("Greater", g("Size", places), one(0))
    some, none = g.sub(), g.sub()
    found = some("Gather", x, some("Squeeze", places, i64(0)), axis=0)
    some.output(some("ReduceMax", found, keepdims=1))
    none.output(none("Expand", f32([-1.0]), none("Shape", x)))
    g("Identity", g("If", any_found, then_branch=some, else_branch=none), out="largest")
    for name in ("filled", "largest"):
        g.output(name, FLOAT, [None])
    case = Case(g)
    for n in (4, 1, 7):
        case.run(x=noise(660 + n, (n,)))
    return case.run(x=f32([-1.0, -2.0]))


@structure
def branches_of_ranks():
    """The branches of an `If` on a value make outputs of different numbers of dimensions, as torch
    exports `squeeze` of a dimension that may be 1."""
    g = Graph()
    x = g.input("x", FLOAT, ["n", "m"])
    single = g("Equal", g.size(x, 1), i64(1))
    squeezed, same = g.sub(), g.sub()
    squeezed.output(squeezed("Squeeze", x, i64(1)))
    same.output(x)
    g("Relu", g("If", single, then_branch=squeezed, else_branch=same), out="squeezed")
    g.output("squeezed", FLOAT, None)
    chosen = g.input("chosen", BOOL, [])
    flat, whole = g.sub(), g.sub()
    flat.output(flat("Reshape", x, i64(-1)))
    whole.output(x)
    made = g("If", chosen, then_branch=flat, else_branch=whole)
    g("Relu", made, out="either")
    g("ReduceSum", made, out="sum", keepdims=0)
    g("Reshape", g("Mul", made, f32(2.0)), i64(-1), out="flat")
    g.output("either", FLOAT, None)
    g.output("sum", FLOAT, [])
    g.output("flat", FLOAT, [None])
    case = Case(g)
    for seed, dims, chosen in [(671, (3, 1), True), (672, (2, 3), False), (673, (2, 3), True),
                               (674, (1, 1), False)]:
        case.run(x=noise(seed, dims), chosen=np.array(chosen))
    return case


def rounded(array):
    """Six digits are enough for the comparison."""
    if array.dtype != np.float32:
        return array
    return np.array([f"{number:.6g}" for number in array.ravel()], np.float32).reshape(array.shape)


def write(name, case):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    content = case.model.SerializeToString()
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    reference, compared = ReferenceEvaluator(case.model), 0
    names = [out.name for out in session.get_outputs()]
    runs, outputs, first, shapes = [], {}, None, []
    for inputs in case.runs:
        feeds = dict(inputs)
        for into, outof in case.feedback.items():
            if into not in feeds:
                feeds[into] = outputs[outof]
        for into, outof in case.kept.items():
            if into not in feeds:
                feeds[into] = first[outof]
        outputs = dict(zip(names, session.run(None, feeds)))
        first = first or outputs
        if reference:
            try:
                others = reference.run(None, feeds)
            except Exception as error:  # noqa: BLE001
                print(f"  the reference implementation: {type(error).__name__}: {str(error)[:150]}")
                reference = None
            else:
                for output, other in zip(names, others):
                    expected = outputs[output]
                    assert expected.shape == np.shape(other), (name, output, expected.shape, np.shape(other))
                    close = np.allclose(expected, other, rtol=1e-3, atol=1e-4)
                    assert close, (name, output, expected, other)
                compared += 1
        # Of many steps, some are stored: what the others make is carried on to them.
        step = len(runs)
        stored = case.compared or names
        stored = stored if step < 4 or step % 8 == 0 or step + 1 == len(case.runs) else []
        stored = [value(output, rounded(outputs[output])) for output in stored]
        runs.append({"inputs": [value(key, array) for key, array in inputs.items()], "outputs": stored})
        shapes.append(" ".join(f"{output}{list(outputs[output].shape)}" for output in case.compared or names))
    entry = {"model": described(case.model), "feedback": case.feedback, "kept": case.kept, "runs": runs}
    text = json.dumps(entry, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"
    (HERE / f"{name}.json").write_text(text)
    print(f"{name}: {len(content)} bytes, JSON {len(text)}, {len(runs)} runs, {compared} compared with the "
          "reference implementation")
    for each in shapes[:6]:
        print("   ", each)
    if "--onnx" in sys.argv:
        pathlib.Path(sys.argv[sys.argv.index("--onnx") + 1], f"{name}.onnx").write_bytes(content)


def main():
    named = [name for name in sys.argv[1:] if name in MODELS]
    for name, make in MODELS.items():
        if not named or name in named:
            write(name, make())


main()
