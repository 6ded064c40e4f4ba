"""Operators that rearrange, select or write elements."""

import math

import numpy as np
from onnx import numpy_helper

from graph import BOOL, F32, F64, I32, I64, divisors, floats, need, operators


@operators("Reshape")
def reshape(g, operator, x, v):
    shape = list(v.shape)
    for way in g.several(g.between(0, 3), ["join", "join", "one", "divide", "drop"]):
        if way == "join" and len(shape) >= 2:
            at = g.draw.randrange(len(shape) - 1)
            shape[at:at + 2] = [shape[at] * shape[at + 1]]
        elif way == "one" and len(shape) < 5:
            shape.insert(g.between(0, len(shape)), 1)
        elif way == "divide" and 1 <= len(shape) < 5 and v.size:
            at = g.draw.randrange(len(shape))
            part = g.choose(divisors(shape[at]))
            shape[at:at + 1] = [part, shape[at] // part]
        elif way == "drop" and 1 in shape:
            shape.remove(1)
    if shape and v.size and g.chance(0.4):
        shape[g.draw.randrange(len(shape))] = -1
    shape = [0 if (d,) == v.shape[i:i + 1] and g.chance(0.3) else d for i, d in enumerate(shape)]
    return g.op(operator, [x, g.ints(shape)])


@operators("Transpose Flatten")
def rearrange(g, operator, x, v):
    if operator == "Flatten":
        return g.op(operator, [x], axis=g.between(-v.ndim if g.opset >= 11 else 0, v.ndim))
    order = g.draw.sample(range(v.ndim), v.ndim)
    return g.op(operator, [x], perm=order if order and g.chance(0.85) else None)


@operators("Squeeze Unsqueeze")
def squeeze(g, operator, x, v):
    if operator == "Squeeze":
        rank, places = v.ndim, [axis for axis, size in enumerate(v.shape) if size == 1]
        need(places)
        axes = g.draw.sample(places, g.between(1, len(places)))
        if g.chance(0.2):
            return g.op(operator, [x])
    else:
        rank = v.ndim + g.between(1, 2)
        need(rank <= 6)
        axes = g.draw.sample(range(rank), rank - v.ndim)
    axes = [g.written(axis, rank) for axis in axes]
    return g.op(operator, [x], axes=axes) if g.opset < 13 else g.op(operator, [x, g.ints(axes)])


@operators("Expand Tile")
def repeat(g, operator, x, v):
    if operator == "Tile":
        return g.op(operator, [x, g.ints(g.several(v.ndim, [1, 2, 3]), 0.2)])
    shape = [g.choose([1, 2, 3] if d == 1 else [1, d]) for d in v.shape]
    shape = g.choose([shape, shape, shape[1:], [g.between(1, 2), *shape]])
    return g.op(operator, [x, g.ints(shape, 0.2)])


@operators("Concat")
def concat(g, operator, x, v):
    need(v.ndim)
    at, inputs = g.between(0, v.ndim - 1), [x]
    before, after = v.shape[:at], v.shape[at + 1:]
    for size in g.several(g.between(0, 2), [1, 2, 3, 4]):
        inputs.append(g.given(g.random((*before, size, *after), v.dtype)))
    inputs += [name for name, w in g.values.items() if w.dtype == v.dtype and w.ndim == v.ndim
               and (w.shape[:at], w.shape[at + 1:]) == (before, after) and g.chance(0.3)][:2]
    g.draw.shuffle(inputs)
    return g.op(operator, inputs, axis=g.written(at, v.ndim))


@operators("Split")
def split(g, operator, x, v):
    axis = g.axis(v.ndim)
    size = v.shape[axis]
    need(size >= 2)
    first = g.between(1, size - 1)
    sizes = [first, size - first]
    if g.opset < 13:
        return g.op(operator, [x], 2, axis=axis, split=sizes)
    if g.opset >= 18 and g.chance(0.5):
        parts = g.between(2, size)
        return g.op(operator, [x], parts, axis=axis, num_outputs=parts)
    return g.op(operator, [x, g.ints(sizes, 0.2)], 2, axis=axis)


@operators("Slice")
def slices(g, operator, x, v):
    need(v.ndim)
    axes = g.draw.sample(range(v.ndim), g.between(1, v.ndim))
    steps = g.several(len(axes), [1, 1, 1, 2, 3, -1, -2] if g.opset >= 10 else [1])
    starts, ends = [], []
    for size, step in zip((v.shape[axis] for axis in axes), steps):
        if step > 0:
            starts.append(g.between(-size - 1, size))
            ends.append(g.choose([size, 2**31 - 1, g.between(-size, size), -1]))
        else:
            starts.append(g.choose([-1, size, g.between(-size, size)]))
            ends.append(g.choose([-size - 1, -2**31, g.between(-size - 1, size)]))
    axes = [g.written(axis, v.ndim) for axis in axes]
    if g.opset < 10:
        return g.op(operator, [x], starts=starts, ends=ends, axes=axes)
    lists = [starts, ends, axes] + [steps] * (set(steps) != {1} or g.chance(0.5))
    dtype = g.choose([I64, I64, I32])
    return g.op(operator, [x, *(g.given(np.array(numbers, dtype), 0.1) for numbers in lists)])


@operators("Gather GatherElements GatherND")
def gather(g, operator, x, v):
    need(v.ndim and v.size)
    axis, attributes = g.axis(v.ndim), {}
    size = v.shape[axis]
    lowest = -size if g.opset >= 11 else 0
    if operator == "GatherND":
        batch = g.between(0, min(2, v.ndim - 1)) if g.opset >= 12 else 0
        sizes = v.shape[batch:batch + g.between(1, v.ndim - batch)]
        shape = v.shape[:batch] + g.shape(0, 2, (1, 2, 3))
        indices = np.stack([g.numbers.integers(-size, size, shape) for size in sizes], -1)
        attributes = {"batch_dims": batch if g.opset >= 12 else None}
    elif operator == "GatherElements":
        shape = [g.between(1, d) for d in v.shape]
        shape[axis] = g.between(1, 6)
        indices, attributes = g.numbers.integers(lowest, size, shape), {"axis": axis}
    else:
        indices = g.numbers.integers(lowest, size, g.shape(0, 2, (1, 2, 3, 4)))
        indices, attributes = indices.astype(g.choose([I64, I32])), {"axis": axis}
    return g.op(operator, [x, g.given(indices)], **attributes)


@operators("ScatterElements ScatterND")
def scatter(g, operator, x, v):
    """Without a reduction no index occurs twice, because the order of writes is not specified."""
    need(v.ndim and v.size)
    ways = [None] + ["add", "mul"] * (g.opset >= 16) + ["max", "min"] * (g.opset >= 18)
    way, attributes = g.choose(ways), {}
    if operator == "ScatterND":
        sizes = v.shape[:g.between(1, v.ndim)]
        places, shape = math.prod(sizes), v.shape[len(sizes):]
        shape = (g.between(1, places), *shape)
        flat = g.numbers.integers(0, places, shape[0]) if way else (
            g.numbers.permutation(places)[:shape[0]])
        indices = np.stack(np.unravel_index(flat, sizes), -1)
    else:
        axis = g.axis(v.ndim)
        attributes, shape = {"axis": axis}, tuple(g.between(1, d) for d in v.shape)
        indices = g.numbers.integers(-v.shape[axis], v.shape[axis], shape) if way else (
            np.argsort(g.numbers.random(v.shape), axis)[tuple(map(slice, shape))])
    inputs = [x, g.given(indices.astype(I64)), g.given(g.random(shape, v.dtype))]
    return g.op(operator, inputs, reduction=way, **attributes)


@operators("Pad")
def pad(g, operator, x, v):
    rank = v.ndim
    need(rank)
    mode = g.choose(["constant", "constant", "reflect", "edge"] + ["wrap"] * (g.opset >= 19))
    constant = mode == "constant"
    pads = g.several(2 * rank, [0, 0, 1, 2, -1, -2])
    if not constant:  # what remains is repeated, and must not be empty
        kept = [size + sum(min(0, pads[at + side]) for side in (0, rank))
                for at, size in enumerate(v.shape)]
        need(min(kept) > 0)
        pads = [min(p, kept[i % rank] - (mode == "reflect")) for i, p in enumerate(pads)]
    if g.opset < 11:
        value = g.choose([None, 1.5]) if constant else None
        return g.op(operator, [x], mode=mode, pads=pads, value=value)
    filler = g.given(np.asarray(2, v.dtype), 0.2) if constant and g.chance(0.5) else ""
    if g.opset >= 18 and g.chance(0.4):
        axes = g.draw.sample(range(rank), g.between(1, rank))
        pads = [pads[axis] for axis in axes] + [pads[rank + axis] for axis in axes]
        axes = [g.written(axis, rank) for axis in axes]
        return g.op(operator, [x, g.ints(pads), filler, g.ints(axes)], mode=mode)
    return g.op(operator, [x, g.ints(pads)] + [filler] * (filler != ""), mode=mode)


@operators("Trilu EyeLike")
def diagonals(g, operator, x, v):
    if operator == "EyeLike":
        need(v.ndim == 2)
        return g.op(operator, [x], k=g.between(-3, 3), dtype=g.choose([None, 1, 7]))
    need(v.ndim >= 2)
    inputs = [x, g.ints(g.between(-5, 5))] if g.chance(0.7) else [x]
    return g.op(operator, inputs, upper=g.between(0, 1))


@operators("DepthToSpace SpaceToDepth")
def blocks(g, operator, x, v):
    floats(v, 4, 4)
    mode = g.choose(["DCR", "CRD"]) if operator[0] == "D" and g.opset >= 11 else None
    return g.op(operator, [x], blocksize=g.between(1, 2), mode=mode)


@operators("Compress ReverseSequence Unique Shape")
def others(g, operator, x, v):
    if operator == "Compress":
        axis = g.choose([None, g.axis(v.ndim)])
        chosen = g.random((v.size if axis is None else v.shape[axis],), BOOL)
        return g.op(operator, [x, g.given(chosen, 0)], axis=axis)
    if operator == "ReverseSequence":
        need(v.ndim >= 2 and v.size)
        time, batch = g.choose([(0, 1), (1, 0)])
        lengths = g.numbers.integers(1, v.shape[time] + 1, v.shape[batch])
        return g.op(operator, [x, g.given(lengths)], time_axis=time, batch_axis=batch)
    if operator == "Unique":
        axis, order = g.choose([None, *range(v.ndim)]), g.between(0, 1)
        return g.op(operator, [x], 4, axis=axis, sorted=order)
    part = {"start": g.between(-3, 3), "end": g.choose([None, g.between(-3, 4)])}
    return g.op(operator, [x], **(part if g.opset >= 15 else {}))


@operators("CenterCropPad")
def center_crop_pad(g, operator, x, v):
    need(g.opset >= 18 and v.ndim)
    axes = g.draw.sample(range(v.ndim), g.between(1, v.ndim))
    sizes = g.ints([g.between(1, 8) for _ in axes])
    return g.op(operator, [x, sizes], axes=[g.written(axis, v.ndim) for axis in axes])


@operators("Range ConstantOfShape CastLike")
def made(g, operator, x, v):
    if operator == "ConstantOfShape":
        value = np.array([g.between(-3, 3)], g.choose([F32, I64, I32]))
        return g.op(operator, [g.op("Shape", [x])], value=numpy_helper.from_array(value))
    if operator == "CastLike":
        need(g.opset >= 15 and v.dtype.kind != "f")
        return g.op(operator, [x, g.given(g.random((1,), g.choose([F32, I64, I32, F64])))])
    need(g.opset >= 11)
    dtype, start, step = g.choose([F32, I64, I32]), g.between(-4, 4), g.choose([1, 2, -1, -2, 3])
    end = start + step * g.between(-1, 5) + g.between(0, 1)
    return g.op(operator, [g.given(np.asarray(number, dtype)) for number in (start, end, step)])


@operators("OneHot")
def one_hot(g, operator, x, v):
    need(v.ndim <= 3 and v.dtype in (F32, I64))
    need(g.opset >= 11 or (v >= 0).all())  # before, out of range only in ONNX
    inputs = [x, g.ints(g.between(2, 6)), g.noise(2)]
    return g.op(operator, inputs, axis=g.between(-v.ndim - 1, v.ndim))
