import numpy as np

from cases import Case


def grid_sample(draw):
    batch, channels, height, width = draw.size(2), draw.size(3), draw.size(7), draw.size(7)
    x = draw.floats(batch, channels, height, width)
    grid = draw.uniform(-1.6, 1.6, batch, draw.size(5), draw.size(5), 2)
    return Case(
        [x, grid],
        draw.some(
            mode=draw.choose("bilinear", "nearest", "bicubic"),
            padding_mode=draw.choose("zeros", "border", "reflection"),
            align_corners=draw.integer(0, 1),
        ),
        tolerance=1e-4,
    )


def crop_and_resize(draw):
    batch, count = draw.size(3), draw.size(5)
    x = draw.floats(batch, draw.size(3), draw.size(), draw.size())
    rois = draw.uniform(-0.2, 1.2, count, 4) if draw.maybe(0.4) else draw.uniform(0, 1, count, 4)
    size = np.array([draw.size(6), draw.size(6)], np.int32)
    return Case(
        [x, rois, draw.integers(0, batch - 1, count, dtype=np.int32), size],
        draw.some(mode=draw.choose("bilinear", "nearest"), extrapolation_value=draw.choose(0.0, -1.5)),
        constants=[3] if draw.maybe(0.7) else [],
        tolerance=1e-4,
    )


GENERATORS = {"GridSample": grid_sample, "CropAndResize": crop_and_resize}
