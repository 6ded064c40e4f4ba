"""Products of matrices, and convolutions."""

from graph import F32, F64, I32, I64, U32, U64, divisors, floats, need, operators


@operators("MatMul")
def matmul(g, operator, x, v):
    need(v.ndim and (v.dtype.kind == "f" or v.dtype in (I32, I64, U32, U64)))
    # Batches of either operand are repeated for those of the other.
    batch = [g.choose([1, 2]) if size == 1 else size for size in g.broadcasting(v.shape[:-2])]
    other = g.between(1, 6)
    if g.chance(0.7):
        inner, ones = v.shape[-1], (1,) * (v.ndim - 2)
        shape = g.choose([(inner,), (inner, other), (*batch, inner, other),
                          (g.between(1, 2), *ones, inner, 3)])
        return g.op(operator, [x, g.given(g.random(shape, v.dtype))])
    inner = v.shape[-2] if v.ndim > 1 else v.shape[0]
    shape = g.choose([(inner,), (other, inner), (*batch, other, inner)])
    return g.op(operator, [g.given(g.random(shape, v.dtype)), x])


@operators("Gemm")
def gemm(g, operator, x, v):
    floats(v, 2, 2)
    left, right, columns = g.between(0, 1), g.between(0, 1), g.between(1, 6)
    rows, inner = v.shape[::-1] if left else v.shape
    inputs = [x, g.noise(columns, inner) if right else g.noise(inner, columns)]
    if g.opset < 11 or g.chance(0.7):
        shapes = [(columns,), (1, columns), (rows, columns), (rows, 1), (), (1,)]
        inputs.append(g.noise(*g.choose(shapes)))
    alpha, beta = g.several(2, [None, 0.5])
    return g.op(operator, inputs, transA=left, transB=right, alpha=alpha, beta=beta)


@operators("Einsum")
def einsum(g, operator, x, v):
    need(v.dtype in (F32, F64, I32, I64) and 1 <= v.ndim <= 4 and v.size)

    def some(letters, fewest=0, most=4):
        letters = sorted(set(letters))
        most = min(most, len(letters))
        return "".join(g.draw.sample(letters, g.between(min(fewest, most), most)))

    first = "".join(g.draw.sample("abcde", v.ndim))
    if g.chance(0.2):
        return g.op(operator, [x], equation=f"{first}->{some(first)}")
    if g.chance(0.7):
        second = some("abcdefg", 1, 3)
        sizes = dict(zip(first, v.shape))
        shape = [sizes.setdefault(letter, g.between(1, 4)) for letter in second]
        result = f"->{some(first + second)}" if g.chance(0.85) else ""
        other = g.given(g.random(shape, v.dtype))
        return g.op(operator, [x, other], equation=f"{first},{second}{result}")
    # The ellipsis stands for the last dimensions, which may come first or last in each operand.
    named = g.between(0, v.ndim)
    first, second = first[:named], some("abcdefg", 0, 2)
    dotted, sizes = list(g.broadcasting(v.shape[named:])), dict(zip(first, v.shape))
    shape = [sizes.setdefault(letter, g.between(1, 4)) for letter in second]
    result = some(first + second)
    equation = g.choose([
        f"...{first},...{second}->...{result}", f"{first}...,{second}...->{result}...",
        f"{first}...,...{second}->...{result}", f"{first}...,{second}...",
        f"{first}...,{second}...->...{result}",
    ])
    if equation.startswith("..."):
        x = g.op("Transpose", [x], perm=[*range(named, v.ndim), *range(named)])
    shape = dotted + shape if ",..." in equation else shape + dotted
    return g.op(operator, [x, g.given(g.random(shape, v.dtype))], equation=equation)


@operators("Conv ConvTranspose")
def conv(g, operator, x, v):
    floats(v, 3, 5)
    spatial, channels, transposed = v.ndim - 2, v.shape[1], operator == "ConvTranspose"
    group, times = g.choose(divisors(channels)), g.between(1, 3)
    kernel, strides = g.several(spatial, [1, 2, 3]), g.several(spatial, [1, 1, 2, 3])
    dilations = g.several(spatial, [1, 1, 2])
    auto = g.choose([None] * 3 + ["SAME_UPPER", "SAME_LOWER", "VALID"])
    attributes = {"group": group, "strides": strides, "auto_pad": auto}
    if transposed:
        weights = g.noise(channels, times, *kernel)
        attributes["dilations"] = dilations
        if g.chance(0.4):
            attributes["output_padding"] = [
                g.between(0, max(pair) - 1) for pair in zip(strides, dilations)]
        if g.chance(0.3):
            sizes = zip(v.shape[2:], strides, kernel, dilations)
            attributes["output_shape"] = [
                max(1, (size - 1) * stride + (width - 1) * dilation + g.between(0, 2))
                for size, stride, width, dilation in sizes]
        elif not auto and g.chance(0.6):
            attributes["pads"] = g.several(2 * spatial, [0, 1])
    else:
        weights = g.noise(group * times, channels // group, *kernel)
        if auto in (None, "VALID"):
            attributes["dilations"] = dilations
        if not auto:
            attributes["pads"] = [g.between(0, width - 1) for width in kernel * 2]
        attributes["kernel_shape"] = kernel if g.chance(0.7) else None
    inputs = [x, weights] + [g.noise(group * times)] * g.chance(0.6)
    return g.op(operator, inputs, **attributes)
