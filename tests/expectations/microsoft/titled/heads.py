import numpy as np

import reference

from .titled import Random, i32


def seen(mask):
    """A mask of truth values: what is not above 0 is hidden."""
    return mask if mask is None or mask.ndim == 1 else (mask > 0).astype(np.int32)


def of_buffer(query, key=None, value=None, bias=None, mask=None, extra=None, *past, **attributes):
    """MultiHeadAttention, also with past caches that have room for new rows, and their length."""
    definition = reference.OPERATORS["MultiHeadAttention"]
    buffers, length = past[:2], past[2:]
    if length:
        held = int(length[0][0])
        past = [buffer[:, :, :held] for buffer in buffers]
    output, *presents, scores = definition(query, key, value, bias, seen(mask), extra, *past, **attributes)
    if length:
        pairs = zip(presents, buffers)
        presents = [np.concatenate([rows, buffer[:, :, rows.shape[2] :]], 2) for rows, buffer in pairs]
    return output, *presents, scores


def of_both(x, weights, bias=None, mask=None, past=None, extra=None, *length, **attributes):
    """Attention, also with a past cache that has room for new rows, and its length."""
    definition = reference.OPERATORS["Attention"]
    buffer = past
    if length:
        past = past[:, :, :, : int(length[0][0])]
        attributes = {name: item for name, item in attributes.items() if name != "past_present_share_buffer"}
    output, present = definition(x, weights, bias, seen(mask), past, extra, **attributes)
    if length:
        present = np.concatenate([present, buffer[:, :, :, present.shape[3] :]], 3)
    return output, present


def multi_head_attention(cases):
    heads, width = 2, 3
    channels = heads * width

    def add(title, inputs, outputs=1, differs=None, unlike=None, **attributes):
        attributes = dict(num_heads=heads, **attributes)
        how = dict(differs=differs, unlike=unlike, definition=of_buffer)
        cases.add(title, "MultiHeadAttention", attributes, inputs, outputs, **how)

    def separate(queries=2, keys=3, values=width):
        return [Random(2, queries, channels), Random(2, keys, channels), Random(2, keys, heads * values)]

    def past(tokens, values=width):
        return [Random(2, heads, tokens, width), Random(2, heads, tokens, values)]

    nothing = [None]
    add("separate", separate())
    add("scale", separate(), scale=0.3)
    add("biases, wider values, caches", separate(values=5) + [Random(2 * channels + 10)], outputs=3)
    add("one query of each entry, biases", separate(1) + [Random(3 * channels)])
    packed = "onnxruntime computes it on other devices only"
    add("packed keys", [Random(2, 2, channels), Random(2, 3, heads, 2, width)], outputs=3, differs=packed)
    add(
        "packed keys, biases",
        [Random(2, 2, channels), Random(2, 3, heads, 2, width), None, Random(3 * channels)],
        differs=packed,
    )
    add("packed", [Random(2, 3, heads, 3, width)], outputs=3, differs=packed)
    add("packed, biases", [Random(2, 3, heads, 3, width), None, None, Random(3 * channels)], differs=packed)
    projected = [Random(2, heads, 4, width), Random(2, heads, 4, width)]
    add("projected keys", [Random(2, 2, channels), *projected])
    add("projected keys, bias of queries", [Random(2, 2, channels), *projected, Random(3 * channels)])
    few = "float32 is imprecise after -10000 is added to all scores"
    add("lengths", separate() + nothing + [i32(3, 1)])
    add("lengths with offsets", separate() + nothing + [i32(2, 3, 0, 2, 4, 0, 2, 5)])
    add("mask of keys", separate() + nothing + [i32([1, 0, 1], [0, 2, -1])])
    add("mask of queries", separate() + nothing + [i32([[1, 0, 1], [0, 1, 1]], [[1, 1, 1], [0, 0, 1]])])
    add("mask of all keys", separate() + nothing + [i32([0, 0, 0], [1, 1, 0])], unlike=few)
    add(
        "filter of masks",
        separate() + nothing + [i32([[1, 0, 1], [0, 1, 1]], [[1, 1, 1], [0, 0, 0]])],
        mask_filter_value=-1.5,
    )
    for a, b in [(2, heads), (1, heads), (2, 1), (1, 1)]:
        add(f"bias of scores, {a} and {b}", separate() + nothing + nothing + [Random(a, b, 2, 3)])
    add("bias of scores and mask", separate() + nothing + [i32([1, 0, 1], [0, 2, -1]), Random(1, 1, 2, 3)])
    add("no later keys", separate(3, 3), unidirectional=1)
    add("no later keys, mask", separate(3, 3) + nothing + [i32([1, 0, 1], [1, 1, 1])], unidirectional=1)
    add(
        "no later keys of more",
        separate(2, 3),
        unidirectional=1,
        unlike="the last query of onnxruntime attends to later keys, against the documentation",
    )
    add("after earlier keys", separate(2, 2) + nothing * 3 + past(3), outputs=3)
    add("after earlier keys, none later", separate(2, 2) + nothing * 3 + past(3), outputs=3, unidirectional=1)
    add(
        "after earlier keys, all inputs",
        separate(2, 2, 4) + [Random(2 * channels + 8), i32(5, 4), Random(2, 1, 2, 5)] + past(3, 4),
        outputs=3,
        scale=0.5,
        differs="onnxruntime needs heads of values and keys of the same size, which the documentation does not say",
    )
    add(
        "after earlier keys, mask",
        separate(1, 1) + nothing + [i32([0, 1, 1, 1], [1, 0, 0, 1]), None] + past(3),
        outputs=3,
    )
    add("scores", separate() + nothing + [i32([1, 1, 1], [1, 1, 1]), Random(1, 1, 2, 3)], outputs=4)
    add(
        "scores, masked",
        separate() + nothing + [i32([1, 0, 1], [1, 1, 0])],
        outputs=4,
        mask_filter_value=-4.0,
    )
    add("part of a cache", separate(2, 2) + nothing * 3 + past(5) + [i32(1)], outputs=3)
    add("all of a cache", separate(1, 1) + nothing * 3 + past(3) + [i32(2)], outputs=3)


def attention(cases):
    heads, width = 2, 3

    def add(title, inputs, outputs=1, differs=None, unlike=None, **attributes):
        attributes = dict(num_heads=heads, **attributes)
        how = dict(differs=differs, unlike=unlike, definition=of_both)
        cases.add(title, "Attention", attributes, inputs, outputs, **how)

    def given(tokens=3, columns=3 * heads * width, bias=True):
        return [Random(2, tokens, 4), Random(4, columns), Random(columns) if bias else None]

    def past(tokens):
        return Random(2, 2, heads, tokens, width)

    add("biases", given())
    add("no biases", given(bias=False))
    add("cache of no earlier tokens", given(), outputs=2)
    add("scale", given(), scale=0.3)
    add("hidden sizes", given(columns=4 + 4 + 10), qkv_hidden_sizes=[4, 4, 10])
    add("no later keys", given(), unidirectional=1)
    add("lengths", given() + [i32(3, 1)])
    add("ends and starts", given() + [i32(3, 2, 1, 0)])
    add("lengths with offsets", given() + [i32(2, 3, 0, 3, 6, 0, 3, 6)])
    add("mask of keys", given() + [i32([1, 0, 1], [0, 1, 1])])
    rows = [[1, 0, 1], [0, 1, 1], [1, 1, 1]]
    add("mask of queries", given() + [i32(rows, rows[::-1])])
    add("filter of masks", given() + [i32(rows, rows[::-1])], mask_filter_value=-1.0, unidirectional=1)
    add("bias of scores, mask", given() + [i32([1, 0, 1], [0, 1, 1]), None, Random(1, heads, 3, 3)])
    add("bias of scores of each entry", given() + [None, None, Random(2, 1, 3, 3)])
    add("after earlier keys", given(2) + [None, past(3)], outputs=2)
    add("after earlier keys, none later", given(2) + [None, past(3)], outputs=2, unidirectional=1)
    add(
        "one token after earlier keys, all inputs",
        given(1) + [i32([0, 1, 1, 1], [1, 0, 0, 1]), past(3), Random(1, 1, 1, 4)],
        outputs=2,
        unidirectional=1,
        differs="onnxruntime does not allow both, which the documentation does not say",
    )
    add(
        "one token after earlier keys, mask",
        given(1) + [i32([0, 1, 1, 1], [1, 0, 0, 1]), past(3)],
        outputs=2,
        unidirectional=1,
    )
    add(
        "part of a cache",
        given(2) + [None, past(5), None, i32(1)],
        outputs=2,
        past_present_share_buffer=1,
        unidirectional=1,
        differs="onnxruntime computes it on other devices only",
    )
