"""Reductions, and operators along an axis."""

from graph import need, operators


@operators("TopK ArgMax ArgMin")
def best(g, operator, x, v):
    need(v.size)
    axis = g.axis(v.ndim)
    if operator != "TopK":
        last = g.between(0, 1) if g.opset >= 12 else None
        return g.op(operator, [x], axis=axis, keepdims=g.between(0, 1), select_last_index=last)
    count = g.between(1, v.shape[axis])
    if g.opset < 10:
        return g.op(operator, [x], 2, k=count, axis=axis)
    attributes = {"largest": g.between(0, 1), "sorted": 1} if g.opset >= 11 else {}
    return g.op(operator, [x, g.ints([count])], 2, axis=axis, **attributes)


@operators("ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceSumSquare "
           "ReduceLogSumExp ReduceLogSum")
def reduce(g, operator, x, v):
    if operator == "ReduceLogSum":
        x = g.op("Abs", [x])
    axes = g.draw.sample(range(v.ndim), g.between(0, v.ndim))
    axes, keep = [g.written(axis, v.ndim) for axis in axes], g.choose([0, 1, None])
    if g.opset < (13 if operator == "ReduceSum" else 18):
        return g.op(operator, [x], keepdims=keep, axes=axes or None)
    inputs = [x] if g.chance(0.2) else [x, g.ints(axes)]
    noop = g.choose([None, None, None, 0, 0, 1])
    return g.op(operator, inputs, keepdims=keep, noop_with_empty_axes=noop)


@operators("Softmax LogSoftmax Hardmax CumSum")
def along_axis(g, operator, x, v):
    axis = g.axis(v.ndim)
    if operator != "CumSum":
        return g.op(operator, [x], axis=g.choose([None, axis]))
    return g.op(operator, [x, g.ints(axis)], exclusive=g.between(0, 1), reverse=g.between(0, 1))
