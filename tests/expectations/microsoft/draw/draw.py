"""The source of random choices. numpy promises that RandomState's streams never change."""

import numpy as np


class Draw:
    def __init__(self, seed):
        self.random = np.random.RandomState(seed)

    def maybe(self, probability=0.5):
        return bool(self.random.random_sample() < probability)

    def integer(self, low, high):
        """An integer of [low, high], both included."""
        return int(self.random.randint(low, high + 1))

    def choose(self, *values):
        return values[self.random.randint(len(values))]

    def size(self, high=9, zero=0.0):
        """A dimension: 1 and odd sizes are frequent, 0 only where the operator allows it."""
        if zero and self.maybe(zero):
            return 0
        return self.choose(1, 2, 3, 5, 7, self.integer(1, high)) if high >= 7 else self.integer(1, high)

    def shape(self, low, high, size=9, zero=0.0):
        return [self.size(size, zero) for _ in range(self.integer(low, high))]

    def floats(self, *shape, scale=1.0, dtype=np.float32):
        return np.asarray(self.random.standard_normal(shape) * scale).astype(dtype)

    def special(self, *shape, scale=1.0):
        """As `floats`; sometimes a few elements are infinite, not a number, huge or tiny."""
        values = self.floats(*shape, scale=scale)
        if values.size and self.maybe(0.15):
            flat = values.reshape(-1)
            for _ in range(self.integer(1, 4)):
                place = self.random.randint(flat.size)
                flat[place] = self.choose(np.inf, -np.inf, np.nan, 1e30, -1e30, 1e-40, -0.0, 20.0, -20.0)
        return values

    def uniform(self, low, high, *shape, dtype=np.float32):
        return np.asarray(self.random.uniform(low, high, shape)).astype(dtype)

    def integers(self, low, high, *shape, dtype=np.int64):
        """Integers of [low, high], both included."""
        return np.asarray(self.random.randint(low, high + 1, size=shape, dtype=np.int64)).astype(dtype)

    def bytes(self, *shape, dtype=np.uint8):
        """All values of an 8-bit type."""
        info = np.iinfo(dtype)
        return self.integers(info.min, info.max, *shape, dtype=dtype)

    def some(self, **attributes):
        """The attributes, each present or absent (then its default applies)."""
        return {name: value for name, value in attributes.items() if self.maybe(0.7)}
