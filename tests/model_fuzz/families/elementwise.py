"""Elementwise operators."""

import numpy as np
from onnx import helper

from graph import BOOL, F16, F32, F64, I16, I32, I64, I8, U16, U32, U64, U8, floats, need, operators


@operators("Add Sub Mul Max Min Mean Sum Less Greater Equal LessOrEqual GreaterOrEqual And Or Xor "
           "BitwiseAnd BitwiseOr BitwiseXor")
def of_two(g, operator, x, v):
    need((v.dtype == BOOL) == (operator in ("And", "Or", "Xor")) or operator == "Equal")
    inputs = [x, g.given(g.random(g.broadcasting(v.shape), v.dtype))]
    like = [name for name, value in g.values.items() if value.dtype == v.dtype and name != x]
    if g.chance(0.3):
        other = g.choose(like)
        ours, theirs = v.shape[::-1], g.values[other].shape[::-1]
        if all(a == b or 1 in (a, b) for a, b in zip(ours, theirs)):
            inputs[1] = other
    if operator in ("Max", "Min", "Mean", "Sum") and g.chance(0.3):
        inputs.append(g.given(g.random(g.broadcasting(v.shape), v.dtype)))
    g.draw.shuffle(inputs)
    return g.op(operator, inputs)


@operators("Div Mod Pow PRelu BitShift")
def of_one_by_another(g, operator, x, v):
    is_float, attributes = v.dtype.kind == "f", {}
    need(v.dtype != BOOL and (operator != "PRelu" or is_float))
    other = g.random(g.broadcasting(v.shape), v.dtype)
    if operator == "Div":
        other = np.where(np.abs(other) < 0.3, 1, other).astype(v.dtype)
    elif operator == "Mod":
        other = np.where(other == 0, 3, other).astype(v.dtype)
        attributes["fmod"] = 1 if is_float or g.chance(0.5) else None
    elif operator == "BitShift":
        need(v.dtype.kind == "u")
        attributes["direction"] = g.choose(["LEFT", "RIGHT"])
    elif operator == "Pow" and is_float:
        x, other = g.op("Abs", [x]), np.abs(other)
        if g.chance(0.4):
            other = np.asarray(g.choose([2, 3, 0.5, -1, 0, 1]), v.dtype)
    elif operator == "Pow":
        other = np.abs(other % 4).astype(v.dtype)
        if g.chance(0.4):
            other = np.asarray(g.between(0, 3), g.choose([F32, v.dtype]))
        # Overflowing integer powers are not specified.
        powers, limits = v.astype(object) ** other.astype(I64).astype(object), np.iinfo(v.dtype)
        need(all(limits.min <= power <= limits.max for power in np.ravel(powers)))
    return g.op(operator, [x, g.given(other)], **attributes)


@operators("Relu Sigmoid Tanh Exp Neg Abs Floor Ceil Round Sqrt Reciprocal Sign Erf Softplus "
           "Softsign Sin Cos Atan Sinh Asinh Not Identity HardSwish Mish Log IsNaN IsInf "
           "BitwiseNot Size NonZero")
def of_one(g, operator, x, v):
    attributes = {}
    if operator in ("Sqrt", "Log"):
        need(v.dtype.kind == "f")
        x = g.op("Add", [g.op("Abs", [x]), g.given(np.asarray(0.1, v.dtype))])
    if operator in ("IsNaN", "IsInf"):
        need(v.dtype.kind == "f")
        if g.chance(0.7):  # no computed value here is NaN
            x = g.given(g.numbers.choice([np.nan, np.inf, -np.inf, 1], v.shape).astype(v.dtype))
        if operator == "IsInf" and g.chance(0.5):
            attributes = {g.choose(["detect_negative", "detect_positive"]): 0}
    return g.op(operator, [x], **attributes)


@operators("LeakyRelu Elu Celu Selu HardSigmoid ThresholdedRelu Shrink Gelu")
def activation(g, operator, x, v):
    floats(v)
    attributes = {
        "Selu": {"alpha": g.draw.uniform(0.2, 2), "gamma": g.draw.uniform(0.2, 2)},
        "Celu": {"alpha": g.draw.uniform(0.1, 2)},
        "HardSigmoid": {"alpha": g.draw.uniform(0.1, 1), "beta": g.draw.uniform(-1, 1)},
        "ThresholdedRelu": {"alpha": g.draw.uniform(-1, 1)},
        "Shrink": {"lambd": g.draw.uniform(0, 1), "bias": g.draw.uniform(-1, 1)},
        "Gelu": {"approximate": g.choose(["none", "tanh"])},
    }.get(operator, {"alpha": g.draw.uniform(-1, 2)})
    return g.op(operator, [x], **({} if g.chance(0.3) else attributes))


@operators("Clip")
def clip(g, operator, x, v):
    if g.opset < 11:
        return g.op(operator, [x], min=g.choose([None, -0.5]), max=g.choose([None, 0.7, -1.0]))
    bounds = [g.given(np.asarray(g.choose(bound), v.dtype)) if g.chance(0.7) else ""
              for bound in ([0, 1], [0, 1, 2, 3])]
    return g.op(operator, [x, *bounds])


@operators("Cast")
def cast(g, operator, x, v):
    to = g.choose([F32, F32, F64, F16, I64, I32, I8, U8, BOOL, I16, U16, U32, U64])
    need(not g.narrow or to != F16)
    if v.dtype.kind == "f" and to.kind in "iu" and v.size:  # out of range is not specified
        need(np.iinfo(to).min <= v.min() and v.max() <= np.iinfo(to).max)
    return g.op(operator, [x], to=helper.np_dtype_to_tensor_dtype(to))


@operators("Where")
def where(g, operator, x, v):
    branches = [x, g.given(g.random(g.broadcasting(v.shape), v.dtype))]
    g.draw.shuffle(branches)
    return g.op(operator, [g.given(g.random(g.broadcasting(v.shape), BOOL)), *branches])
