"""Operators that move, select or compare elements."""

import numpy as np

from .products import window


def expand_dims(x, axis):
    position = int(np.reshape(axis, -1)[0])
    if position < 0:
        position += x.ndim + 1
    return x.reshape(x.shape[:position] + (1,) + x.shape[position:])


def trilu(x, k=None, *, upper=1):
    diagonal = 0 if k is None else int(np.reshape(k, -1)[0])
    result = np.zeros_like(x)
    for row in range(x.shape[-2]):
        for column in range(x.shape[-1]):
            if column - row >= diagonal if upper else column - row <= diagonal:
                result[..., row, column] = x[..., row, column]
    return result


def unique(x):
    values, index, counts = [], [], []
    for value in x:
        if value not in values:
            values.append(value)
            counts.append(0)
        place = values.index(value)
        index.append(place)
        counts[place] += 1
    return np.array(values, x.dtype), np.array(index, np.int64), np.array(counts, np.int64)


def range_(start, limit, delta=None):
    first, last = start.reshape(-1)[0], limit.reshape(-1)[0]
    step = start.dtype.type(1) if delta is None else delta.reshape(-1)[0]
    count = max(0, int(np.ceil((float(last) - float(first)) / float(step))))
    return np.array([float(first) + i * float(step) for i in range(count)]).astype(start.dtype)


def pad(data, pads, value=None, *, mode="constant"):
    pads = pads.reshape(-1)
    rank = data.ndim
    # Negative numbers remove elements, before anything is added.
    for axis in range(rank):
        begin, end = min(0, pads[axis]), min(0, pads[rank + axis])
        data = np.take(data, np.arange(-begin, data.shape[axis] + end), axis)
    added = [(max(0, int(pads[axis])), max(0, int(pads[rank + axis]))) for axis in range(rank)]
    if mode == "constant":
        fill = 0 if value is None else value.reshape(-1)[0]
        return np.pad(data, added, constant_values=fill)
    return np.pad(data, added, mode=mode)


def gather_nd(data, indices):
    depth = indices.shape[-1]
    result = np.empty(indices.shape[:-1] + data.shape[depth:], data.dtype)
    for place in np.ndindex(*indices.shape[:-1]):
        result[place] = data[tuple(int(i) for i in indices[place])]
    return result


def unfold_tensor(x, *, size, dim=-1, step=1):
    dim %= x.ndim
    count = (x.shape[dim] - size) // step + 1
    slices = [np.take(x, np.arange(i * step, i * step + size), dim) for i in range(count)]
    # Each slice's own axis becomes the last one.
    return np.stack([np.moveaxis(part, dim, -1) for part in slices], dim)


def maxpool_with_mask(x, mask, *, kernel_shape, strides=None, pads=None, auto_pad="NOTSET", storage_order=0):
    """A max pool in which a masked element (0) ends its row of the window. With two or more spatial
    axes, the mask of the first element of a plane is not read. Not documented, but observed."""
    rank = x.ndim - 2
    strides = strides or [1] * rank
    begin, outputs = window(x.shape[2:], kernel_shape, strides, [1] * rank, pads, auto_pad)
    result = np.full(x.shape[:2] + tuple(outputs), np.finfo(np.float32).min, np.float32)
    for b, c in np.ndindex(*x.shape[:2]):
        plane = mask[b % mask.shape[0], c % mask.shape[1]]
        for place in np.ndindex(*outputs):
            spans = [
                range(
                    max(0, place[i] * strides[i] - begin[i]),
                    min(x.shape[2 + i], place[i] * strides[i] - begin[i] + kernel_shape[i]),
                )
                for i in range(rank)
            ]
            for row in np.ndindex(*[len(span) for span in spans[:-1]]):
                ahead = tuple(spans[i][row[i]] for i in range(rank - 1))
                for last in spans[-1]:
                    at = ahead + (last,)
                    if plane[at] == 0 and (rank == 1 or any(at)):
                        break
                    result[(b, c, *place)] = max(result[(b, c, *place)], x[(b, c, *at)])
    return result


OPERATORS = {
    "ExpandDims": expand_dims,
    "Trilu": trilu,
    "Unique": unique,
    "Range": range_,
    "Pad": pad,
    "GatherND": gather_nd,
    "UnfoldTensor": unfold_tensor,
    "MaxpoolWithMask": maxpool_with_mask,
}
