from cases import Case


def gelu(draw):
    return Case([draw.special(*draw.shape(0, 4, zero=0.05), scale=draw.choose(1, 4))])


def fast_gelu(draw):
    x = draw.special(*draw.shape(1, 4, zero=0.03), scale=draw.choose(1, 4))
    bias = draw.floats(x.shape[-1]) if draw.maybe() else None
    return Case([x, bias], constants=[1] if draw.maybe() else [])


def quick_gelu(draw):
    x = draw.special(*draw.shape(0, 4, zero=0.05), scale=draw.choose(1, 4))
    return Case([x], draw.some(alpha=draw.choose(1.0, 1.702, 0.5, -0.75, 0.0)))


def bias_gelu(draw):
    x = draw.special(*draw.shape(1, 4, zero=0.03), scale=draw.choose(1, 4))
    return Case([x, draw.floats(x.shape[-1])], constants=[1] if draw.maybe() else [])


GENERATORS = {"Gelu": gelu, "FastGelu": fast_gelu, "QuickGelu": quick_gelu, "BiasGelu": bias_gelu}
