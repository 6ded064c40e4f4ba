#!/usr/bin/env python3
"""Cases for the attention operators of the domain com.microsoft.

How to run, from the repository's root, in a Python environment of its own (numpy 2.4, onnx 1.22,
onnxruntime 1.32.0):

    python3 -m venv target/attention-venv
    target/attention-venv/bin/pip install numpy onnx onnxruntime
    target/attention-venv/bin/python guest-models/onnx-ops/src/microsoft/attention/cases/make.py

It rewrites the .txt files in its folder. The outputs are plain arithmetic in float64, written from
the documentation of the operators. Each case also runs in onnxruntime, without graph optimisations,
and the two must agree; where onnxruntime does not implement or ignores what the documentation
says, the case gives the reason.
"""

import pathlib

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper

HERE = pathlib.Path(__file__).resolve().parent
ort.set_default_logger_severity(4)


class Random:
    """An input of pseudorandom numbers, which is written as its seed."""

    seeds = 0

    def __init__(self, *shape):
        Random.seeds += 1
        self.seed = Random.seeds
        state, values = self.seed, []
        for _ in range(int(np.prod(shape))):
            state = (state * 1664525 + 1013904223) % 2**32
            values.append((state >> 24) / 64 - 2)
        self.value = np.array(values, np.float32).reshape(shape)


def value(tensor):
    return tensor.value if isinstance(tensor, Random) else tensor


def i32(*numbers):
    return np.array(numbers, np.int32)


def i64(*numbers):
    return np.array(numbers, np.int64)


def f32(*numbers):
    return np.array(numbers, np.float32)


def run(operator, attributes, inputs, outputs):
    """The outputs of onnxruntime."""
    names = ["" if tensor is None else f"in_{at}" for at, tensor in enumerate(inputs)]
    given = {name: tensor for name, tensor in zip(names, inputs) if name}
    made = ["" if output is None else f"out_{at}" for at, output in enumerate(outputs)]
    while names[-1] == "":
        names.pop()
    node = helper.make_node(operator, names, made, domain="com.microsoft", **attributes)
    types = {name: helper.np_dtype_to_tensor_dtype(tensor.dtype) for name, tensor in given.items()}
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info(name, kind, given[name].shape) for name, kind in types.items()],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in made if name],
    )
    sets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=sets, ir_version=10)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return session.run(None, given)


def shape_text(tensor):
    return ",".join(map(str, tensor.shape)) or "-"


def number(x):
    return f"{x:.8g}".replace("-0", "0") if x == 0 else f"{x:.8g}"


class Cases:
    """A file of cases."""

    def __init__(self, name):
        self.name, self.text = name, ""

    def add(self, title, operator, attributes, inputs, outputs, differs=None, unlike=None, free=()):
        """A case with its outputs by numpy. `differs` is why onnxruntime is not compared, `unlike`
        why its outputs are other ones. `free` are indices whose values are not specified."""
        given = [value(tensor) for tensor in inputs]
        try:
            theirs = run(operator, attributes, given, outputs)
        except Exception as error:
            assert differs, f"{title}: {str(error)[-300:]}"
        else:
            assert not differs, f"{title}: onnxruntime computes it"
            ours = [output for output in outputs if output is not None]
            worst = 0.0
            for at, index in free:
                theirs[at][index] = ours[at][index]
            for ours, theirs in zip(ours, theirs):
                assert ours.shape == theirs.shape, f"{title}: {ours.shape}, {theirs.shape}"
                same = np.isnan(ours) & np.isnan(theirs)
                apart = np.where(same, 0, np.abs(ours - theirs))
                worst = max(worst, float(apart.max(initial=0)))
            assert (worst < 2e-6) == (not unlike), f"{title}: onnxruntime differs by {worst}"
        lines = [f"case {operator} {title}"]
        for name, item in attributes.items():
            kind = {int: "int", float: "float", str: "text", list: "ints"}[type(item)]
            text = " ".join(map(str, item)) if kind == "ints" else item
            lines.append(f"{kind} {name} {text}")
        for tensor in inputs:
            if tensor is None:
                lines.append("in none")
            elif isinstance(tensor, Random):
                lines.append(f"in random {shape_text(tensor.value)} {tensor.seed}")
            else:
                numbers = " ".join(number(x) for x in tensor.ravel())
                lines.append(f"in {tensor.dtype} {shape_text(tensor)} {numbers}")
        for output in outputs:
            if output is None:
                lines.append("out none")
            else:
                numbers = " ".join(number(x) for x in output.ravel())
                lines.append(f"out {shape_text(output)} {numbers}")
        self.text += "\n".join(lines) + "\n\n"

    def write(self):
        path = HERE / f"{self.name}.txt"
        path.write_text(self.text)
        print(f"{path.name}: {self.text.count('case ')} cases, {len(self.text)} bytes")


def rotated(head, position, cos, sin, interleaved):
    """The rotation of the first elements of a head."""
    head = head.astype(np.float64).copy()
    cos, sin = cos[position].astype(np.float64), sin[position].astype(np.float64)
    count = len(cos)
    if interleaved:
        first, second = slice(0, 2 * count, 2), slice(1, 2 * count, 2)
    else:
        first, second = slice(0, count), slice(count, 2 * count)
    a, b = head[first].copy(), head[second].copy()
    head[first], head[second] = a * cos - b * sin, b * cos + a * sin
    return head


def softmax(scores, sink=None):
    most = max(scores.max(), -np.inf if sink is None else sink)
    powers = np.exp(scores - most)
    return powers / (powers.sum() + (0 if sink is None else np.exp(sink - most)))


# --- RotaryEmbedding


def rotary_embedding(x, positions, cos, sin, num_heads=0, rotary_embedding_dim=0, interleaved=0,
                     is_packed_batching=0):
    x, cos, sin = map(value, (x, cos, sin))
    heads = x
    if x.ndim == 3:
        width = x.shape[2] // num_heads if num_heads else 2 * cos.shape[1]
        heads = x.reshape(*x.shape[:2], -1, width).transpose(0, 2, 1, 3)
    out = np.zeros(heads.shape)
    for b, n, s in np.ndindex(heads.shape[:3]):
        position = positions[b, s] if positions.ndim == 2 else positions.ravel()[0] + s
        out[b, n, s] = rotated(heads[b, n, s], position, cos, sin, interleaved)
    return out if x.ndim == 4 else out.transpose(0, 2, 1, 3).reshape(x.shape)


def add_sectioned(cases, attributes, inputs):
    """A case of MRotaryEmbedding. Its tables have a row for each token after the sections are put
    together."""
    x, cos, sin = map(value, inputs)
    sections, pairs = attributes["mrope_section"], cos.shape[1]
    source = np.repeat([0, 1, 2], sections)
    if attributes.get("mrope_layout"):
        source = np.zeros(pairs, int)
        source[1:3 * sections[1]:3], source[2:3 * sections[2]:3] = 1, 2
    positions = np.arange(18).reshape(3, 2, 3) * 5 % 8
    rows = positions.reshape(3, 6)
    cos, sin = ([[table[rows[source[j], t], j] for j in range(pairs)] for t in range(6)] for table in (cos, sin))
    plain = {name: item for name, item in attributes.items() if "mrope" not in name and name != "scale"}
    out = rotary_embedding(x, np.arange(6).reshape(2, 3), np.array(cos), np.array(sin), **plain)
    out[..., :2 * pairs] *= attributes.get("scale", 1)
    title = f"sections {sections}".replace(",", "")
    given = [inputs[0], positions.astype(np.int64), *inputs[1:]]
    cases.add(title, "MRotaryEmbedding", attributes, given, [out])


def make_rotary_embedding():
    cases = Cases("rotary_embedding")

    def add(title, *inputs, **attributes):
        out = rotary_embedding(*inputs, **attributes)
        cases.add(title, "RotaryEmbedding", attributes, inputs, [out])

    each = i64([0, 3, 1], [7, 2, 2])
    for kind, interleaved in [("halves", 0), ("neighbours", 1)]:
        for name, shape in [("packed", (2, 3, 8)), ("separate", (2, 2, 3, 4))]:
            tables = Random(8, 2), Random(8, 2)
            add(f"{kind}, {name} heads, one offset", Random(*shape), i64(2), *tables, interleaved=interleaved)
            add(f"{kind}, {name} heads, all positions", Random(*shape), each, *tables, interleaved=interleaved)
        add(f"{kind}, part of packed heads", Random(2, 3, 12), i64(1), Random(8, 2), Random(8, 2),
            interleaved=interleaved, num_heads=2, rotary_embedding_dim=4)
        add(f"{kind}, part of separate heads", Random(2, 2, 3, 6), each, Random(8, 2), Random(8, 2),
            interleaved=interleaved, num_heads=2, rotary_embedding_dim=4)
    add("heads of an odd number of pairs", Random(1, 2, 12), i64(1), Random(4, 3), Random(4, 3), num_heads=2)
    add("offset without dimensions", Random(1, 2, 4), np.array(3, np.int64), Random(8, 2), Random(8, 2))
    for layout in (0, 1):
        for sections in ([2, 1, 1], [1, 2, 1], [4, 0, 0], [0, 1, 3]):
            attributes = dict(mrope_section=sections, mrope_layout=layout, num_heads=1, interleaved=layout)
            add_sectioned(cases, attributes, [Random(2, 3, 8), Random(8, 4), Random(8, 4)])
    attributes = dict(mrope_section=[2, 1, 1], scale=0.5, num_heads=2, rotary_embedding_dim=8)
    add_sectioned(cases, attributes, [Random(2, 2, 3, 10), Random(8, 4), Random(8, 4)])
    add("more tokens than rows of the tables", Random(1, 4, 4), i64([1, 0, 1, 1]), Random(2, 2), Random(2, 2),
        is_packed_batching=1)
    cases.write()


# --- GroupQueryAttention


def group_query(attributes, inputs, outputs):
    inputs = [value(tensor) for tensor in inputs] + [None] * (17 - len(inputs))
    (query, key, past_key, past_value, lengths, total, cos, sin, positions, bias, sink) = (
        inputs[0], inputs[1], *inputs[3:12])
    val, query_norm, key_norm, query_lengths = inputs[2], *inputs[14:17]
    heads, kv_heads = attributes["num_heads"], attributes["kv_num_heads"]
    batch, tokens, channels = query.shape
    if key is None:
        width = channels // (heads + 2 * kv_heads)
        query = query.reshape(batch, tokens, -1, width)
        query, key, val = np.split(query, [heads, heads + kv_heads], axis=2)
    else:
        width = channels // heads
        query = query.reshape(batch, tokens, heads, width)
        key, val = (x.reshape(batch, x.shape[1], kv_heads, width) for x in (key, val))
    new = key.shape[1]
    total = int(total.ravel()[0])
    room = total if past_key is None else max(total, past_key.shape[2])
    first = query_lengths is None and tokens == total
    scale = attributes.get("scale", 0) or 1 / np.sqrt(width)
    softcap, window = attributes.get("softcap", 0), attributes.get("local_window_size", -1)
    mode = attributes.get("qk_output", 0)
    keys, values = np.zeros((2, batch, kv_heads, room, width))
    out, shown = np.zeros((batch, tokens, heads, width)), np.zeros((batch, heads, tokens, total))
    epsilon = attributes.get("qk_norm_epsilon", 1e-6)

    def prepared(head, norm, epsilon, b, s, past):
        head = head.astype(np.float64)
        if norm is not None:
            head = head / np.sqrt((head**2).mean() + epsilon) * norm
        if attributes.get("do_rotary"):
            at = past + s
            if positions is not None:
                at = positions[0, 0] + s if first else positions[b, s]
            head = rotated(head, at, cos, sin, attributes.get("rotary_interleaved", 0))
        return head

    for b in range(batch):
        length = int(lengths.ravel()[b]) + 1
        count = tokens if query_lengths is None else int(query_lengths[b])
        past = 0 if first else length - count
        added = min(count, new)
        kept = length if new == 0 else past
        if past_key is not None:
            keys[b, :, :kept], values[b, :, :kept] = past_key[b, :, :kept], past_value[b, :, :kept]
        for s, m in np.ndindex(added, kv_heads):
            of_keys = attributes.get("k_norm_epsilon", epsilon)
            keys[b, m, past + s] = prepared(key[b, s, m], key_norm, of_keys, b, s, past)
            values[b, m, past + s] = val[b, s, m]
        for s, n in np.ndindex(count, heads):
            of_queries = attributes.get("q_norm_epsilon", epsilon)
            row = prepared(query[b, s, n], query_norm, of_queries, b, s, past)
            m = n // (heads // kv_heads)
            end = past + s + 1 if attributes.get("causal", 1) else length
            start = max(0, end - window) if window > 0 else 0
            end = min(end, length)
            scores = scale * (keys[b, m, start:end] @ row)
            if softcap:
                scores = softcap * np.tanh(scores / softcap)
            if bias is not None:
                scores = scores + bias[b % bias.shape[0], n % bias.shape[1], s, start:end]
            extra = None
            if sink is not None:
                extra = float(sink[n])
            elif attributes.get("smooth_softmax", -1) == 1:
                extra = 0.0
            weights = softmax(scores, extra)
            out[b, s, n] = weights @ values[b, m, start:end]
            shown[b, n, s, start:end] = scores if mode == 1 else weights
    all_outputs = [out.reshape(batch, tokens, -1), keys, values, shown]
    return all_outputs[:outputs]


def make_group_query():
    cases = Cases("group_query")
    heads, kv_heads, width = 4, 2, 8
    base = dict(num_heads=heads, kv_num_heads=kv_heads)

    def add(title, inputs, outputs=3, differs=None, unlike=None, free=(), **attributes):
        attributes = {**base, **attributes}
        made = group_query(attributes, inputs, outputs)
        cases.add(title, "GroupQueryAttention", attributes, inputs, made, differs, unlike, free)

    def new(batch, tokens, keys=None, width=width):
        keys = tokens if keys is None else keys
        of = Random(batch, keys, kv_heads * width), Random(batch, keys, kv_heads * width)
        return [Random(batch, tokens, heads * width), *of]

    def past(batch, tokens, width=width):
        return [Random(batch, kv_heads, tokens, width), Random(batch, kv_heads, tokens, width)]

    nothing = [None, None]
    add("first prompt", new(1, 5) + nothing + [i32(4), i32(5)])
    add("first prompt, only the output", new(1, 3) + nothing + [i32(2), i32(3)], outputs=1)
    add("first prompt, lengths as a column, total without dimensions",
        new(2, 2) + nothing + [i32([1], [1]), np.array(2, np.int32)])
    add("first prompts of different lengths", new(2, 4) + nothing + [i32(3, 1), i32(4)])
    add("first prompt into a longer cache", new(1, 3) + past(1, 6) + [i32(2), i32(3)])
    add("first prompt with an empty cache", new(1, 2) + past(1, 0) + [i32(1), i32(2)])
    add("one token", new(1, 1) + past(1, 4) + [i32(4), i32(5)])
    add("one token into a longer cache", new(1, 1) + past(1, 7) + [i32(4), i32(5)])
    add("one token after different numbers", new(2, 1) + past(2, 6) + [i32(6, 4), i32(7)])
    add("several tokens", new(1, 3) + past(1, 4) + [i32(6), i32(7)])
    add("several tokens into a longer cache", new(1, 3) + past(1, 9) + [i32(6), i32(7)])
    packed = Random(1, 3, (heads + 2 * kv_heads) * width)
    add("packed", [packed, None, None, *past(1, 2), i32(4), i32(5)])
    packed = Random(2, 3, (heads + 2 * kv_heads) * width)
    add("packed prompts", [packed, None, None, None, None, i32(2, 1), i32(3)])
    add("all keys in the cache", new(1, 2, 0) + past(1, 5) + [i32(4), i32(5)])
    add("heads of five elements", new(1, 3, width=5) + nothing + [i32(2), i32(3)],
        differs="onnxruntime needs a multiple of 8, which the documentation does not say")
    add("scale and soft cap", new(1, 4) + nothing + [i32(3), i32(4)], scale=0.5, softcap=1.5)
    for window in (1, 3):
        add(f"window of {window}", new(1, 5) + nothing + [i32(4), i32(5)], local_window_size=window)
    add("window and one token", new(2, 1) + past(2, 6) + [i32(6, 4), i32(7)], local_window_size=3)
    add("not causal", new(2, 4) + nothing + [i32(3, 1), i32(4)], causal=0)
    add("not causal, after earlier tokens", new(1, 2) + past(1, 3) + [i32(4), i32(5)], causal=0)
    add("smooth softmax", new(1, 3) + nothing + [i32(2), i32(3)], smooth_softmax=1)
    sink = [None] * 4 + [Random(heads)]
    add("sinks", new(1, 3) + nothing + [i32(2), i32(3)] + sink)
    add("sinks instead of smooth softmax", new(1, 3) + nothing + [i32(2), i32(3)] + sink, smooth_softmax=1)

    def bias(a, b, tokens, total):
        return [None, None, None, Random(a, b, tokens, total)]

    add("bias for each head", new(1, 3) + nothing + [i32(2), i32(3)] + bias(1, heads, 3, 3))
    add("bias for each entry, soft cap", new(2, 3) + nothing + [i32(2, 2), i32(3)] + bias(2, 1, 3, 3), softcap=1.5)
    add("bias for all, window, one token", new(2, 1) + past(2, 6) + [i32(6, 4), i32(7)] + bias(1, 1, 1, 7),
        local_window_size=3)
    for mode in (1, 2):
        add(f"scores {mode}", new(1, 3) + nothing + [i32(2), i32(3)], outputs=4, qk_output=mode, softcap=1.5)
        add(f"scores {mode}, one token", new(2, 1) + past(2, 6) + [i32(6, 4), i32(7)] + bias(2, 1, 1, 7), outputs=4,
            qk_output=mode, local_window_size=3)
    base.update(num_heads=2, kv_num_heads=1)
    heads, kv_heads, width = 2, 1, 16
    for kind, interleaved in [("halves", 0), ("neighbours", 1)]:
        rotary = dict(do_rotary=1, rotary_interleaved=interleaved)
        tables = [Random(12, 8), Random(12, 8)]

        def turned(title, inputs, positions=None):
            more = [] if positions is None else [positions]
            add(f"rotation of {kind}, {title}", inputs + tables + more, **rotary)

        def cached(batch, tokens):
            return past(batch, tokens, 16)

        turned("first prompts", new(2, 3, width=16) + nothing + [i32(2, 2), i32(3)])
        turned("one token", new(2, 1, width=16) + cached(2, 4) + [i32(4, 2), i32(5)])
        turned("several tokens", new(1, 2, width=16) + cached(1, 3) + [i32(4), i32(5)])
        turned("first prompt, positions", new(1, 3, width=16) + nothing + [i32(2), i32(3)], i64([2, 9, 9]))
        turned("one token, positions", new(2, 1, width=16) + cached(2, 4) + [i32(4, 2), i32(5)], i64([9], [0]))
        turned("several tokens, positions", new(1, 2, width=16) + cached(1, 3) + [i32(4), i32(5)], i64([7, 3]))
        packed = Random(2, 2, 4 * 16)
        turned("packed", [packed, None, None, None, None, i32(1, 1), i32(2)])
    add("rotation of a part", new(1, 3, width=16) + nothing + [i32(2), i32(3), Random(3, 3), Random(3, 3)], do_rotary=1,
        differs="onnxruntime needs a multiple of 16 elements, which the documentation does not say")
    add("tables without rotation", new(1, 2, width=16) + nothing + [i32(1), i32(2), Random(2, 8), Random(2, 8)])
    norms = [None] * 7 + [Random(16), Random(16)]
    reason = "onnxruntime computes it on other devices only"
    add("normalizations", new(1, 3, width=16) + nothing + [i32(2), i32(3)] + norms, differs=reason)
    norms = [Random(5, 8), Random(5, 8)] + norms[2:]
    add("normalizations, rotation", new(1, 1, width=16) + past(1, 4, 16) + [i32(4), i32(5)] + norms, differs=reason,
        do_rotary=1, qk_norm_epsilon=0.5, k_norm_epsilon=0.25)

    def chunk(batch, tokens, room, lengths, total, queries, tables=nothing, positions=None, title=None, **attributes):
        inputs = new(batch, tokens, width=16) + past(batch, room, 16) + [i32(*lengths), i32(total)] + tables
        inputs += [positions] + [None] * 6 + [i32(*queries)]
        free = [(0, np.s_[b, count:]) for b, count in enumerate(queries)]
        free += [(at, np.s_[b, :, length + 1:]) for at in (1, 2) for b, length in enumerate(lengths)]
        add(f"query_seqlens, {title}", inputs, free=free, **attributes)

    chunk(2, 3, 8, [4, 1], 8, [3, 2], title="padded chunks")
    chunk(2, 1, 4, [2, 1], 4, [1, 0], title="an idle entry")
    chunk(1, 3, 3, [2], 3, [3], title="a first prompt")
    chunk(2, 3, 8, [4, 1], 9, [3, 2], [Random(12, 8), Random(12, 8)], title="rotation", do_rotary=1)
    chunk(2, 2, 8, [4, 1], 8, [2, 1], [Random(12, 8), Random(12, 8)], i64([7, 3], [1, 9]), title="rotation by positions",
          do_rotary=1, local_window_size=2)
    cases.write()


# --- MultiHeadAttention


def masked(queries, keys, values, attributes, mask=None, bias=None, past=0):
    """Attention of batch, heads, tokens and width. Masks are of keys that are seen."""
    scale = attributes.get("scale", 0) or 1 / np.sqrt(queries.shape[-1])
    scores = scale * (queries.astype(np.float64) @ keys.astype(np.float64).swapaxes(2, 3))
    if mask is not None:
        scores = scores + np.where(mask, 0, attributes.get("mask_filter_value", -10000.0))
    if bias is not None:
        scores = scores + bias
    rows, columns = np.indices(scores.shape[2:])
    if attributes.get("unidirectional"):
        scores = np.where(columns > past + rows, np.finfo(np.float32).min, scores)
    out, weights = np.zeros((*queries.shape[:3], values.shape[3])), np.zeros(scores.shape)
    for at in np.ndindex(scores.shape[:3]):
        weights[at] = softmax(scores[at])
        out[at] = weights[at] @ values[at[:2]]
    return out.transpose(0, 2, 1, 3).reshape(out.shape[0], out.shape[2], -1), scores


def seen_keys(mask, batch, queries, keys):
    """A mask as batch, heads, queries and keys."""
    if mask.ndim == 3:
        return mask[:, None] > 0
    if mask.ndim == 2:
        return mask[:, None, None] > 0
    places = np.arange(keys)
    seen = places < mask[:batch, None]
    if len(mask) == 2 * batch:
        seen &= places >= mask[batch:, None]
    return seen[:, None, None]


def multi_head(attributes, inputs, outputs):
    inputs = [value(tensor) for tensor in inputs] + [None] * (10 - len(inputs))
    query, key, val, bias, mask, score_bias, past_key, past_value, past_length = inputs[:9]
    heads = attributes["num_heads"]

    def split(x):
        return x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)

    projected = key is not None and key.ndim == 4
    if query.ndim == 5:
        query, key, val = (query[:, :, :, at].transpose(0, 2, 1, 3) for at in range(3))
    else:
        query = split(query)
        if key.ndim == 5:
            key, val = (key[:, :, :, at].transpose(0, 2, 1, 3) for at in range(2))
        elif key.ndim == 3:
            key, val = split(key), split(val)
    if bias is not None:
        width = query.shape[3] * heads
        of = [x.reshape(1, heads, 1, -1) for x in np.split(bias, [width, 2 * width])]
        query = query + of[0]
        if not projected:
            key, val = key + of[1], val + of[2]
    past = 0
    if past_length is not None:
        past, new = int(past_length[0]), key.shape[2]
        present_key, present_value = past_key.copy(), past_value.copy()
        present_key[:, :, past:past + new], present_value[:, :, past:past + new] = key, val
        key, val = present_key[:, :, :past + new], present_value[:, :, :past + new]
    else:
        if past_key is not None:
            past = past_key.shape[2]
            key, val = np.concatenate([past_key, key], 2), np.concatenate([past_value, val], 2)
        present_key, present_value = key, val
    if mask is not None:
        mask = seen_keys(mask, query.shape[0], query.shape[2], key.shape[2])
    out, scores = masked(query, key, val, attributes, mask, score_bias, past)
    return [out, present_key, present_value, scores][:outputs]


def make_multi_head():
    cases = Cases("multi_head")
    heads, width = 2, 3
    channels = heads * width

    def add(title, inputs, outputs=1, differs=None, unlike=None, **attributes):
        attributes = dict(num_heads=heads, **attributes)
        made = multi_head(attributes, inputs, outputs)
        cases.add(title, "MultiHeadAttention", attributes, inputs, made, differs, unlike)

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
    add("packed keys, biases", [Random(2, 2, channels), Random(2, 3, heads, 2, width), None, Random(3 * channels)],
        differs=packed)
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
    add("filter of masks", separate() + nothing + [i32([[1, 0, 1], [0, 1, 1]], [[1, 1, 1], [0, 0, 0]])],
        mask_filter_value=-1.5)
    for a, b in [(2, heads), (1, heads), (2, 1), (1, 1)]:
        add(f"bias of scores, {a} and {b}", separate() + nothing + nothing + [Random(a, b, 2, 3)])
    add("bias of scores and mask", separate() + nothing + [i32([1, 0, 1], [0, 2, -1]), Random(1, 1, 2, 3)])
    add("no later keys", separate(3, 3), unidirectional=1)
    add("no later keys, mask", separate(3, 3) + nothing + [i32([1, 0, 1], [1, 1, 1])], unidirectional=1)
    add("no later keys of more", separate(2, 3), unidirectional=1,
        unlike="the last query of onnxruntime attends to later keys, against the documentation")
    add("after earlier keys", separate(2, 2) + nothing * 3 + past(3), outputs=3)
    add("after earlier keys, none later", separate(2, 2) + nothing * 3 + past(3), outputs=3, unidirectional=1)
    add("after earlier keys, all inputs", separate(2, 2, 4) + [Random(2 * channels + 8), i32(5, 4), Random(2, 1, 2, 5)]
        + past(3, 4), outputs=3, scale=0.5,
        differs="onnxruntime needs heads of values and keys of the same size, which the documentation does not say")
    add("after earlier keys, mask", separate(1, 1) + nothing + [i32([0, 1, 1, 1], [1, 0, 0, 1]), None] + past(3), outputs=3)
    add("scores", separate() + nothing + [i32([1, 1, 1], [1, 1, 1]), Random(1, 1, 2, 3)], outputs=4)
    add("scores, masked", separate() + nothing + [i32([1, 0, 1], [1, 1, 0])], outputs=4, mask_filter_value=-4.0)
    add("part of a cache", separate(2, 2) + nothing * 3 + past(5) + [i32(1)], outputs=3)
    add("all of a cache", separate(1, 1) + nothing * 3 + past(3) + [i32(2)], outputs=3)
    cases.write()


# --- Attention


def attention(attributes, inputs, outputs):
    inputs = [value(tensor) for tensor in inputs] + [None] * (7 - len(inputs))
    data, weights, bias, mask, past, score_bias, past_length = inputs
    heads = attributes["num_heads"]
    projected = data.astype(np.float64) @ weights.astype(np.float64)
    if bias is not None:
        projected = projected + bias
    sizes = attributes.get("qkv_hidden_sizes", [weights.shape[1] // 3] * 3)
    parts = np.split(projected, np.cumsum(sizes)[:2], axis=2)
    query, key, val = (x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3) for x in parts)
    present, before = None, 0
    if past_length is not None:
        before, new = int(past_length[0]), key.shape[2]
        present = past.astype(np.float64)
        present[0, :, :, before:before + new], present[1, :, :, before:before + new] = key, val
        key, val = present[:, :, :, :before + new]
    else:
        if past is not None:
            before = past.shape[3]
            key, val = (np.concatenate([past[at], x], 2) for at, x in enumerate([key, val]))
        if outputs > 1:
            present = np.stack([key, val])
    if mask is not None:
        mask = seen_keys(mask, query.shape[0], query.shape[2], key.shape[2])
    return [masked(query, key, val, attributes, mask, score_bias, before)[0], present][:outputs]


def make_attention():
    cases = Cases("attention")
    heads, width = 2, 3

    def add(title, inputs, outputs=1, differs=None, unlike=None, **attributes):
        attributes = dict(num_heads=heads, **attributes)
        made = attention(attributes, inputs, outputs)
        cases.add(title, "Attention", attributes, inputs, made, differs, unlike)

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
    add("one token after earlier keys, all inputs",
        given(1) + [i32([0, 1, 1, 1], [1, 0, 0, 1]), past(3), Random(1, 1, 1, 4)], outputs=2, unidirectional=1,
        differs="onnxruntime does not allow both, which the documentation does not say")
    add("one token after earlier keys, mask", given(1) + [i32([0, 1, 1, 1], [1, 0, 0, 1]), past(3)], outputs=2,
        unidirectional=1)
    add("part of a cache", given(2) + [None, past(5), None, i32(1)], outputs=2, past_present_share_buffer=1,
        unidirectional=1, differs="onnxruntime computes it on other devices only")
    cases.write()


# --- LinearAttention


def linear_attention(attributes, inputs):
    inputs = [value(tensor) for tensor in inputs] + [None] * (6 - len(inputs))
    query, key, val, past, decay, beta = inputs
    q_heads, kv_heads = attributes["q_num_heads"], attributes["kv_num_heads"]
    batch, tokens = query.shape[:2]
    query = query.reshape(batch, tokens, q_heads, -1).astype(np.float64)
    key = key.reshape(batch, tokens, kv_heads, -1).astype(np.float64)
    val = val.reshape(batch, tokens, kv_heads, -1).astype(np.float64)
    width, value_width = key.shape[3], val.shape[3]
    rule, window = attributes.get("update_rule", "gated_delta"), attributes.get("state_window", 0)
    scale = attributes.get("scale", 0) or 1 / np.sqrt(width)
    readers = max(q_heads, kv_heads)
    out = np.zeros((batch, tokens, readers, value_width))
    slots = np.zeros((max(window, 1), batch, kv_heads, width, value_width))
    for b, h in np.ndindex(batch, kv_heads):
        state = np.zeros((width, value_width))
        if past is not None:
            state = (past[-1] if window else past)[b, h].astype(np.float64)
        for t in range(tokens):
            if "gated" in rule:
                gate = decay[b, t].reshape(kv_heads, -1)[h].astype(np.float64)
                state = state * np.exp(gate)[:, None]
            row = val[b, t, h]
            if "delta" in rule:
                rate = beta[b, t, h if beta.shape[2] > 1 else 0].astype(np.float64)
                row = rate * (row - key[b, t, h] @ state)
            state = state + np.outer(key[b, t, h], row)
            for reader in range(readers):
                if reader * kv_heads // readers == h:
                    out[b, t, reader] = scale * (query[b, t, reader * q_heads // readers] @ state)
            slot = t - tokens + len(slots)
            if slot >= 0:
                slots[slot, b, h] = state
    return [out.reshape(batch, tokens, -1), slots if window else slots[0]]


def make_linear_attention():
    cases = Cases("linear_attention")

    def add(title, q_heads, kv_heads, rule, past=None, tokens=3, decays=None, rates=None, differs=None, **attributes):
        attributes = dict(q_num_heads=q_heads, kv_num_heads=kv_heads, update_rule=rule, **attributes)
        small = [Random(2, tokens, q_heads * 4), Random(2, tokens, kv_heads * 4), Random(2, tokens, kv_heads * 3)]
        small[1] = value(small[1]) / 4
        decay = None if decays is None else -np.abs(value(Random(2, tokens, decays)))
        beta = None if rates is None else np.abs(value(Random(2, tokens, rates))) / 2
        inputs = small + [None if past is None else Random(*past), decay, beta]
        cases.add(title, "LinearAttention", attributes, inputs, linear_attention(attributes, inputs), differs)

    other = "onnxruntime computes it on other devices only"
    add("linear", 2, 2, "linear")
    add("gated, after a state", 4, 2, "gated", (2, 2, 4, 3), decays=2)
    add("gated by elements", 2, 2, "gated", decays=8, scale=0.5)
    add("delta, one rate", 2, 1, "delta", (2, 1, 4, 3), rates=1)
    add("gated delta, rates of heads", 2, 2, "gated_delta", (2, 2, 4, 3), decays=2, rates=2)
    add("more heads of keys", 2, 4, "gated_delta", (2, 4, 4, 3), decays=4, rates=4)
    add("states of a window", 2, 2, "gated_delta", (2, 2, 2, 4, 3), decays=2, rates=2, state_window=2,
        differs=other)
    add("states of a longer window", 2, 2, "linear", tokens=2, state_window=4, differs=other)
    cases.write()


# --- CausalConvWithState


def causal_conv(attributes, inputs):
    inputs = [value(tensor) for tensor in inputs] + [None] * (4 - len(inputs))
    x, weight, bias, past = inputs
    last, window = attributes.get("channels_last", 0), attributes.get("state_window", 0)
    spacing = attributes.get("dilation", 1)
    shape = x.shape
    if last:
        x = x.reshape(*shape[:2], -1).swapaxes(1, 2)
    batch, channels, length = x.shape
    taps = weight.shape[2]
    kept = (taps - 1) * spacing
    state = np.zeros((batch, channels, kept))
    if past is not None:
        state = past[-1] if window else past
        if last:
            state = state.reshape(batch, kept, -1).swapaxes(1, 2)
    line = np.concatenate([state, x], 2).astype(np.float64)
    out = np.zeros(x.shape)
    for t in range(length):
        out[:, :, t] = (line[:, :, t:t + kept + 1:spacing] * weight[:, 0]).sum(2)
    if bias is not None:
        out = out + bias[:, None]
    if attributes.get("activation", "none") != "none":
        out = out / (1 + np.exp(-out))
    slots = np.zeros((max(window, 1), batch, channels, kept))
    for slot in range(len(slots)):
        end = length - len(slots) + slot + 1
        if end > 0:
            slots[slot] = line[:, :, end:end + kept]
    if last:
        out, slots = out.swapaxes(1, 2).reshape(shape), slots.swapaxes(2, 3)
        slots = slots.reshape(*slots.shape[:3], *shape[2:])
    return [out, slots if window else slots[0]]


def make_causal_conv():
    cases = Cases("causal_conv")

    def add(title, *inputs, **attributes):
        differs = "onnxruntime computes it on other devices only" if "state_window" in attributes else None
        cases.add(title, "CausalConvWithState", attributes, inputs, causal_conv(attributes, inputs), differs)

    add("plain", Random(2, 3, 4), Random(3, 1, 3))
    add("bias, state, activation", Random(2, 3, 4), Random(3, 1, 3), Random(3), Random(2, 3, 2), activation="silu")
    add("shorter than the state", Random(1, 2, 1), Random(2, 1, 4), None, Random(1, 2, 3), activation="swish")
    add("spaced", Random(1, 2, 5), Random(2, 1, 3), None, Random(1, 2, 4), dilation=2)
    add("channels last", Random(2, 4, 3), Random(3, 1, 3), Random(3), Random(2, 2, 3), channels_last=1)
    add("several channels last", Random(1, 4, 2, 3), Random(6, 1, 2), None, Random(1, 1, 2, 3), channels_last=1)
    add("window of states", Random(1, 2, 4), Random(2, 1, 3), None, Random(2, 1, 2, 2), state_window=2)
    add("longer window of states", Random(1, 2, 2), Random(2, 1, 3), None, None, state_window=4)
    add("all", Random(2, 3, 2), Random(2, 1, 3), Random(2), Random(2, 2, 4, 2), state_window=2, channels_last=1, dilation=2,
        activation="silu")
    cases.write()


if __name__ == "__main__":
    make_rotary_embedding()
    make_group_query()
    make_multi_head()
    make_attention()
    make_linear_attention()
    make_causal_conv()
