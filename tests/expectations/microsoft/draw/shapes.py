import numpy as np

from cases import Case

from .products import spatial

WORDS = ["", "a", "be", "see", "four", "å", "日本", "x y"]


def values(draw, shape, *types):
    """Elements of one of the types; `str` gives strings."""
    dtype = draw.choose(*types)
    if dtype is str:
        flat = [draw.choose(*WORDS) for _ in range(int(np.prod(shape)))]
        return np.array(flat, object).reshape(shape)
    if dtype is bool:
        return draw.integers(0, 1, *shape, dtype=bool)
    if np.dtype(dtype).kind == "f":
        return draw.floats(*shape, dtype=dtype)
    return draw.integers(0 if np.dtype(dtype).kind == "u" else -100, 100, *shape, dtype=dtype)


COMMON = (np.float32, np.float32, np.float16, np.float64, np.int64, np.int32, np.int8, np.uint8, bool, str)


def expand_dims(draw):
    x = values(draw, draw.shape(0, 4, zero=0.05), *COMMON)
    axis = np.array(draw.integer(-x.ndim - 1, x.ndim), np.int32)
    return Case([x, axis], constants=[1] if draw.maybe() else [])


def trilu(draw):
    x = values(draw, draw.shape(2, 4, zero=0.05), np.float32, np.float64, np.int64)
    k = np.array(draw.integer(-6, 6)) if draw.maybe(0.7) else None
    return Case([x, k], draw.some(upper=draw.integer(0, 1)), constants=[1] if draw.maybe() else [])


def unique(draw):
    count = draw.choose(1, 2, 7, draw.integer(1, 30))
    return Case(
        [draw.integers(-3, 5, count).astype(np.float32) * np.float32(0.5)], outputs=[True, True, True]
    )


def range_(draw):
    dtype = draw.choose(np.int16, np.int32, np.int64, np.float32, np.float64)
    whole = np.dtype(dtype).kind == "i"
    step = draw.choose(1, 2, 3, -1, -2, 7) if whole else draw.choose(0.5, 1.0, -0.25, 0.3)
    start = draw.integer(-10, 10) if whole else draw.choose(0.0, -1.5, 2.25)
    limit = start + step * draw.integer(-2, 12) + draw.choose(0, 0, step / 3)
    shape = draw.choose([], [1])
    inputs = [np.full(shape, number, dtype) for number in (start, limit)]
    delta = np.full(shape, step, dtype)
    if step == 1 and draw.maybe():
        delta = None
    return Case([*inputs, delta], constants=[0, 1, 2] if draw.maybe() else [])


def pad(draw):
    mode = draw.choose("constant", "constant", "reflect", "edge")
    shape = draw.shape(1, 4, 7)
    rank = len(shape)
    low = -1 if draw.maybe(0.3) else 0
    pads = [draw.integer(low, 3) for _ in range(2 * rank)]
    for axis in range(rank):
        # Something remains after elements are removed, and a reflection stays inside.
        shape[axis] = max(shape[axis], 1 - min(0, pads[axis]) - min(0, pads[rank + axis]))
        if mode == "reflect":
            most = shape[axis] - 1 + min(0, pads[axis]) + min(0, pads[rank + axis])
            pads[axis], pads[rank + axis] = min(pads[axis], most), min(pads[rank + axis], most)
    pads = np.array(pads)
    if draw.maybe(0.2):
        pads = pads[None]
    value = np.full(draw.choose([], [1]), 1.5, np.float32) if draw.maybe() and mode == "constant" else None
    attributes = {"mode": mode} if mode != "constant" or draw.maybe() else {}
    return Case([draw.floats(*shape), pads, value], attributes, constants=[1, 2] if draw.maybe(0.7) else [])


def gather_nd(draw):
    data = values(draw, draw.shape(1, 4), *COMMON)
    depth = draw.integer(1, data.ndim)
    negative = draw.maybe(0.3)
    shape = draw.shape(0, 3, 4, zero=0.03)
    parts = [draw.integers(-n if negative else 0, n - 1, *shape, 1) for n in data.shape[:depth]]
    indices = np.concatenate(parts, -1).astype(draw.choose(np.int64, np.int32))
    return Case([data, indices], constants=[1] if draw.maybe(0.3) else [])


def unfold_tensor(draw):
    shape = draw.shape(1, 4)
    dim = draw.integer(0, len(shape) - 1)
    size = draw.integer(1, shape[dim])
    attributes = {"size": size} | draw.some(step=draw.integer(1, 3))
    if dim != len(shape) - 1 or draw.maybe():
        attributes["dim"] = draw.choose(dim, dim - len(shape))
    return Case([values(draw, shape, *COMMON)], attributes)


def maxpool_with_mask(draw):
    rank = draw.choose(1, 2, 2, 3)
    kernel = [draw.integer(1, 3) for _ in range(rank)]
    sizes = [draw.size(7) for _ in range(rank)]
    attributes = spatial(draw, rank, sizes, kernel, dilated=False) | {"kernel_shape": kernel}
    x = draw.floats(draw.size(2), draw.size(3), *sizes)
    mask = draw.integers(0, 5, 1, 1, *sizes, dtype=np.int32).clip(0, 1)
    return Case([x, mask], attributes)


GENERATORS = {
    "ExpandDims": expand_dims,
    "Trilu": trilu,
    "Unique": unique,
    "Range": range_,
    "Pad": pad,
    "GatherND": gather_nd,
    "UnfoldTensor": unfold_tensor,
    "MaxpoolWithMask": maxpool_with_mask,
}
