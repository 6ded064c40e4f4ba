"""Sampling of images: GridSample and CropAndResize."""

import math

import numpy as np


def reflected(x, low, high):
    """x, reflected at both borders as often as needed."""
    span = high - low
    if span == 0:
        return low
    over = math.fmod(abs(x - low), 2 * span)
    return low + (over if over <= span else 2 * span - over)


def cubic(t):
    """Weights of four neighbours for a point at distance t behind the second, with alpha -0.75."""
    a = -0.75

    def near(x):
        return ((a + 2) * x - (a + 3)) * x * x + 1

    def far(x):
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

    return [far(t + 1), near(t), near(1 - t), far(2 - t)]


def grid_sample(x, grid, *, mode="bilinear", padding_mode="zeros", align_corners=0):
    batch, channels, height, width = x.shape
    result = np.zeros((batch, channels, *grid.shape[1:3]))

    def borders(size):
        return (0, size - 1) if align_corners else (-0.5, size - 0.5)

    def pixel(b, row, column):
        """The values at whole coordinates, which may lie outside."""
        if padding_mode == "border":
            row, column = min(max(row, 0), height - 1), min(max(column, 0), width - 1)
        elif padding_mode == "reflection":
            row, column = (int(reflected(v, *borders(n))) for v, n in ((row, height), (column, width)))
            row, column = min(max(row, 0), height - 1), min(max(column, 0), width - 1)
        if 0 <= row < height and 0 <= column < width:
            return x[b, :, row, column].astype(np.float64)
        return np.zeros(channels)

    for b, i, j in np.ndindex(batch, *grid.shape[1:3]):
        at = []
        for value, size in ((grid[b, i, j, 1], height), (grid[b, i, j, 0], width)):
            value = float(value)
            place = (value + 1) / 2 * (size - 1) if align_corners else ((value + 1) * size - 1) / 2
            if mode == "nearest":
                place = float(np.rint(place))
            if mode != "bicubic":
                if padding_mode == "border":
                    place = min(max(place, 0), size - 1)
                elif padding_mode == "reflection":
                    place = reflected(place, *borders(size))
            at.append(place)
        row, column = at
        if mode == "nearest":
            result[b, :, i, j] = pixel(b, int(np.rint(row)), int(np.rint(column)))
            continue
        top, left = math.floor(row), math.floor(column)
        if mode == "bilinear":
            rows, columns, first = [top + 1 - row, row - top], [left + 1 - column, column - left], 0
        else:
            rows, columns, first = cubic(row - top), cubic(column - left), -1
        for di, weight in enumerate(rows):
            for dj, other in enumerate(columns):
                result[b, :, i, j] += weight * other * pixel(b, top + first + di, left + first + dj)
    return result.astype(x.dtype)


def crop_and_resize(x, rois, batch_indices, crop_size, *, mode="bilinear", extrapolation_value=0.0):
    crop = [int(n) for n in crop_size]
    sizes = x.shape[2:]
    result = np.full((len(rois), x.shape[1], *crop), np.float32(extrapolation_value), np.float64)
    for r, roi in enumerate(rois.astype(np.float64)):
        image = x[batch_indices[r]].astype(np.float64)
        for i, j in np.ndindex(*crop):
            at = []
            for k, (low, high, place) in enumerate(((roi[0], roi[2], i), (roi[1], roi[3], j))):
                last = sizes[k] - 1
                if crop[k] > 1:
                    at.append(low * last + place * (high - low) * last / (crop[k] - 1))
                else:
                    at.append(0.5 * (low + high) * last)
            row, column = at
            if not (0 <= row <= sizes[0] - 1 and 0 <= column <= sizes[1] - 1):
                continue
            if mode == "nearest":
                # Halves are rounded up.
                result[r, :, i, j] = image[:, math.floor(row + 0.5), math.floor(column + 0.5)]
                continue
            top, left = math.floor(row), math.floor(column)
            bottom, right = math.ceil(row), math.ceil(column)
            upper = image[:, top, left] + (image[:, top, right] - image[:, top, left]) * (column - left)
            lower = image[:, bottom, left] + (image[:, bottom, right] - image[:, bottom, left]) * (
                column - left
            )
            result[r, :, i, j] = upper + (lower - upper) * (row - top)
    return result.astype(x.dtype)


OPERATORS = {"GridSample": grid_sample, "CropAndResize": crop_and_resize}
