"""Images and regions of them."""

import math

import numpy as np

from graph import F32, F64, I8, I32, U8, floats, need, operators


@operators("Resize")
def resize(g, operator, x, v):
    need(g.opset >= 10 and 2 <= v.ndim <= 5 and v.size)
    need(v.dtype in (F32, F64, I32, U8, I8))
    # Implementations round between integers differently.
    modes = ["nearest", "linear", "cubic"] if v.dtype.kind == "f" else ["nearest"]
    rank, mode = v.ndim, g.choose(modes)
    scales = [g.choose([1, 2]) if g.chance(0.1) else 1] + [1] * (rank - 3) * (rank > 2)
    scales = (scales + g.several(2, [1, 1, 2, 0.5, 1.5, 0.7, 3, 2.3]))[-rank:]
    if g.opset == 10:
        mode = g.choose(modes[:2])
        return g.op(operator, [x, g.given(np.array(scales, F32), 0)], mode=mode)
    modes = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"]
    modes += ["half_pixel_symmetric"] * (g.opset >= 19) + ["tf_crop_and_resize"]
    attributes = {"mode": mode, "coordinate_transformation_mode": g.choose(modes)}
    if mode == "nearest":
        attributes["nearest_mode"] = g.choose(
            ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
    if mode == "cubic":
        attributes |= {"cubic_coeff_a": g.choose([-0.5, -0.75]), "exclude_outside": g.between(0, 1)}
    axes = list(range(rank))
    if g.opset >= 18:
        if mode != "nearest" and g.chance(0.3):
            attributes["antialias"] = 1
        if g.chance(0.3):
            axes, scales = axes[-2:], scales[-2:]
            attributes["axes"] = [g.written(axis, rank) for axis in axes]
    none = region = "" if g.opset >= 13 else g.given(np.array([], F32), 0)
    if attributes["coordinate_transformation_mode"] == "tf_crop_and_resize":
        starts = g.numbers.uniform(-0.2, 0.5, len(axes))
        ends = starts + g.numbers.uniform(0.2, 1, len(axes))
        if len(axes) == rank:  # the sizes that remain
            starts[:-2], ends[:-2] = 0, 1
        region = g.given(np.concatenate([starts, ends]).astype(F32), 0.2)
        attributes["extrapolation_value"] = g.choose([None, -1.5])
    if g.chance(0.5):
        return g.op(operator, [x, region, g.given(np.array(scales, F32), 0.1)], **attributes)
    sizes = [max(1, int(v.shape[axis] * scale)) for axis, scale in zip(axes, scales)]
    if g.opset >= 18 and g.chance(0.3):
        policies = ["stretch", "not_larger", "not_smaller"]
        attributes["keep_aspect_ratio_policy"] = g.choose(policies)
    return g.op(operator, [x, region, none, g.ints(sizes)], **attributes)


@operators("GridSample")
def grid_sample(g, operator, x, v):
    floats(v, 4, 4)
    modes = ["linear", "nearest", "cubic"] if g.opset >= 20 else ["bilinear", "nearest", "bicubic"]
    grid = g.numbers.uniform(-1.3, 1.3, (v.shape[0], 3, 4, 2)).astype(F32)
    edge = g.choose(["zeros", "border", "reflection"])
    return g.op(operator, [x, g.given(grid)], mode=g.choose(modes), padding_mode=edge,
                align_corners=g.between(0, 1))


@operators("RoiAlign")
def roi_align(g, operator, x, v):
    floats(v, 4, 4)
    need(g.opset >= 10)
    count = g.between(1, 3)
    corner = g.numbers.uniform(-1, 3, (count, 2))
    boxes = np.concatenate([corner, corner + g.numbers.uniform(0.1, 5, (count, 2))], 1)
    places = g.given(g.numbers.integers(0, v.shape[0], count))
    modes = {"coordinate_transformation_mode": g.choose(["half_pixel", "output_half_pixel"])}
    return g.op(operator, [x, g.given(boxes.astype(F32)), places], mode=g.choose(["avg", "max"]),
                output_height=g.between(1, 3), output_width=g.between(1, 3),
                sampling_ratio=g.between(0, 2), spatial_scale=g.choose([1.0, 0.5]),
                **(modes if g.opset >= 16 else {}))


@operators("Col2Im")
def col2im(g, operator, x, v):
    floats(v, 3, 3)
    need(g.opset >= 18)
    kernel, image = [g.between(1, 3), g.between(1, 2)], [g.between(3, 6), g.between(3, 6)]
    dilations, strides, pads = [1, g.between(1, 2)], g.several(2, [1, 2]), g.several(4, [0, 1])
    blocks = math.prod(
        (image[i] + pads[i] + pads[i + 2] - dilations[i] * (kernel[i] - 1) - 1) // strides[i] + 1
        for i in range(2))
    x = g.noise(v.shape[0], v.shape[1] * math.prod(kernel), blocks)
    return g.op(operator, [x, g.ints(image, 0), g.ints(kernel, 0)], dilations=dilations,
                strides=strides, pads=pads)
