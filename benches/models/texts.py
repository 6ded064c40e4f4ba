"""Transformers, sound and recurrent networks, written as their exporters write them, with random
weights."""

import numpy as np

from net import FLOAT, INT64, Net

LOW = np.finfo("f").min


def mask_of(net, mask):
    """From [batch, tokens] of 1 and 0 to what is added to scores."""
    mask = net.add("Cast", net.add("Unsqueeze", mask, net.ints(1, 2)), to=FLOAT)
    return net.add("Mul", net.add("Sub", net.const(1.0), mask), net.const(LOW))


def attention(net, x, source, width, heads, mask=None, bias=True):
    each = width // heads
    query = net.heads(net.linear(x, width, width, bias), heads, each)
    key = net.heads(net.linear(source, width, width, bias), heads, each)
    value = net.heads(net.linear(source, width, width, bias), heads, each)
    scores = net.add("MatMul", query, net.turn(key, 0, 1, 3, 2))
    scores = net.add("Div", scores, net.const(each**0.5))
    scores = net.add("Add", scores, mask) if mask else scores
    mixed = net.add("MatMul", net.add("Softmax", scores, axis=-1), value)
    return net.linear(net.merge(mixed, width), width, width, bias)


def layers(net, x, width, heads, count, mask=None, first=False, act=None):
    """Layers of an encoder; `first` normalises before each part instead of after it."""
    act = act or net.gelu
    inner = lambda x: net.linear(act(net.linear(x, width, 4 * width)), 4 * width, width)
    for _ in range(count):
        if first:
            y = net.layer_norm(x, width)
            x = net.add("Add", attention(net, y, y, width, heads, mask), x)
            x = net.add("Add", inner(net.layer_norm(x, width)), x)
        else:
            x = net.layer_norm(net.add("Add", attention(net, x, x, width, heads, mask), x), width)
            x = net.layer_norm(net.add("Add", inner(x), x), width)
    return x


def embedded(net, ids, tokens, width, positions):
    at = net.add("Slice", net.const(np.arange(positions)[None], np.int64), net.ints(0), tokens, net.ints(1))
    words = net.add("Gather", net.draw(1000, width, scale=0.5), ids)
    return net.add("Add", words, net.add("Gather", net.draw(positions, width, scale=0.5), at))


def bert(name, opset=17, width=384, heads=12, count=6, types=True, labels=0):
    """MiniLM and its kind, as optimum exports them."""
    net = Net(name, opset)
    shape = ["batch", "sequence"]
    ids, mask = net.input("input_ids", shape, INT64), net.input("attention_mask", shape, INT64)
    tokens = net.add("Gather", net.add("Shape", ids), net.ints(1))
    x = embedded(net, ids, tokens, width, 512)
    if types:
        kinds = net.input("token_type_ids", shape, INT64)
        x = net.add("Add", x, net.add("Gather", net.draw(2, width, scale=0.5), kinds))
    x = layers(net, net.layer_norm(x, width), width, heads, count, mask_of(net, mask))
    net.output("last_hidden_state", net.linear(x, width, labels) if labels else x)
    return net


def vit(name, opset=17, width=192, heads=6, count=6, size=128, patch=16):
    net = Net(name, opset)
    patches = (size // patch) ** 2
    x = net.conv(net.input("pixel_values", ["batch", 3, size, size]), 3, width, patch, patch, pads=0)
    x = net.turn(net.reshape(x, 0, width, patches), 0, 2, 1)
    batch = net.add("Slice", net.add("Shape", x), net.ints(0), net.ints(1))
    first = net.add("Expand", net.draw(1, 1, width, scale=1), net.add("Concat", batch, net.ints(1, width), axis=0))
    x = net.add("Add", net.add("Concat", first, x, axis=1), net.draw(1, patches + 1, width, scale=0.1))
    x = net.layer_norm(layers(net, x, width, heads, count, first=True), width)
    net.output("logits", net.linear(net.add("Gather", x, net.const(0, np.int64), axis=1), width, 100))
    return net


def windows(name, opset=18, width=96, size=64, window=8, count=4):
    """Attention in shifted windows (Swin)."""
    net = Net(name, opset)
    side = size // 2
    x = net.conv(net.input("x", [1, 3, 2 * size, 2 * size]), 3, width, 4, 4, pads=0)
    x, each = net.layer_norm(net.turn(x, 0, 2, 3, 1), width), side // window
    for at in range(count):
        y = net.layer_norm(x, width)
        if at % 2:
            y = roll(net, roll(net, y, 1, window // 2, side), 2, window // 2, side)
        y = net.turn(net.reshape(y, 1, each, window, each, window, width), 0, 1, 3, 2, 4, 5)
        y = net.reshape(y, each * each, window * window, width)
        y = attention(net, y, y, width, 3, net.draw(1, 3, window * window, window * window, scale=0.5))
        y = net.turn(net.reshape(y, 1, each, each, window, window, width), 0, 1, 3, 2, 4, 5)
        y = net.reshape(y, 1, side, side, width)
        if at % 2:
            y = roll(net, roll(net, y, 1, side - window // 2, side), 2, side - window // 2, side)
        x = net.add("Add", x, y)
        y = net.gelu(net.linear(net.layer_norm(x, width), width, 4 * width))
        x = net.add("Add", x, net.linear(y, 4 * width, width))
    net.output("features", x)
    return net


def roll(net, x, axis, by, size):
    part = lambda start, end: net.add("Slice", x, net.ints(start), net.ints(end), net.ints(axis))
    return net.add("Concat", part(by, size), part(0, by), axis=axis)


def encoder23(name, width=256, heads=8, count=4):
    """With the operators of set 23, as torch's second exporter writes them for it."""
    net = Net(name, 23)
    x = net.input("x", ["batch", "sequence", width])
    for _ in range(count):
        y = net.rms_norm(x, width)
        query, key, value = (net.linear(y, width, width, False) for _ in range(3))
        y = net.add("Attention", query, key, value, q_num_heads=heads, kv_num_heads=heads)
        x = net.add("Add", x, net.linear(y, width, width, False))
        y = net.add("Gelu", net.linear(net.rms_norm(x, width), width, 4 * width))
        x = net.add("Add", x, net.linear(y, 4 * width, width))
    net.output("y", x)
    return net


class Decoder:
    """A decoder with a cache: input_ids, attention_mask, position_ids and the past to logits and the
    present."""

    def __init__(self, name, opset=17, width=384, heads=6, groups=None, count=6, vocabulary=2000, **domains):
        self.net, self.width, self.heads, self.count = Net(name, opset, **domains), width, heads, count
        self.groups, self.each, self.vocabulary = groups or heads, width // heads, vocabulary
        net, total = self.net, ["batch", "total_sequence"]
        self.ids = net.input("input_ids", ["batch", "sequence"], INT64)
        self.mask = net.input("attention_mask", total, INT64)

    def positions(self):
        return self.net.input("position_ids", ["batch", "sequence"], INT64)

    def past(self, at):
        shape = ["batch", self.groups, "past_sequence", self.each]
        return [self.net.input(f"past_key_values.{at}.{part}", shape) for part in ("key", "value")]

    def present(self, at, key, value):
        self.net.output(f"present.{at}.key", key)
        self.net.output(f"present.{at}.value", value)

    def causal(self):
        """[batch, 1, tokens, past and tokens] to add to scores."""
        net = self.net
        total = net.add("Gather", net.add("Shape", self.mask), net.ints(1))
        tokens = net.add("Gather", net.add("Shape", self.ids), net.ints(1))
        columns = net.add("Range", net.const(0, np.int64), net.add("Squeeze", total), net.const(1, np.int64))
        rows = net.add("Slice", columns, net.add("Neg", tokens), net.ints(2**40), net.ints(0))
        later = net.add("Greater", net.add("Unsqueeze", columns, net.ints(0)), net.add("Unsqueeze", rows, net.ints(1)))
        later = net.add("Where", later, net.const(LOW), net.const(0.0))
        later = net.add("Unsqueeze", later, net.ints(0, 1))
        return net.add("Add", later, net.add("Mul", mask_of(net, self.mask), net.const(0.5)))

    def tail(self, x):
        self.net.output("logits", self.net.linear(x, self.width, self.vocabulary, False))
        return self.net

    def words(self, width):
        return self.net.add("Gather", self.net.draw(self.vocabulary, width, scale=1), self.ids)


def scored(net, query, key, value, mask, each):
    scores = net.add("Mul", net.add("MatMul", query, net.turn(key, 0, 1, 3, 2)), net.const(each**-0.5))
    return net.add("MatMul", net.add("Softmax", net.add("Add", scores, mask), axis=-1), value)


def gpt2(name, **options):
    it = Decoder(name, **options)
    net, width = it.net, it.width
    at = it.positions()
    x = net.add("Add", it.words(width), net.add("Gather", net.draw(1024, width, scale=0.3), at))
    mask = it.causal()
    for layer in range(it.count):
        past = it.past(layer)
        y = net.linear(net.layer_norm(x, width), width, 3 * width)
        parts = net.add("Split", y, net.ints(width, width, width), outputs=3, axis=2)
        query, key, value = (net.heads(part, it.heads, it.each) for part in parts)
        key, value = net.add("Concat", past[0], key, axis=2), net.add("Concat", past[1], value, axis=2)
        it.present(layer, key, value)
        y = net.merge(scored(net, query, key, value, mask, it.each), width)
        x = net.add("Add", net.linear(y, width, width), x)
        y = net.gelu_tanh(net.linear(net.layer_norm(x, width), width, 4 * width))
        x = net.add("Add", x, net.linear(y, 4 * width, width))
    return it.tail(net.layer_norm(x, width))


def rotated(net, x, cos, sin, each):
    low, high = net.add("Split", x, net.ints(each // 2, each // 2), outputs=2, axis=3)
    turned = net.add("Concat", net.add("Neg", high), low, axis=-1)
    return net.add("Add", net.add("Mul", x, cos), net.add("Mul", turned, sin))


def repeated(net, x, groups, times, each):
    """Keys or values of a group for each of its heads."""
    if times == 1:
        return x
    x = net.add("Unsqueeze", x, net.ints(2))
    shape = net.add("Shape", x)
    wide = net.add("Concat", net.add("Slice", shape, net.ints(0), net.ints(2)), net.ints(times),
                   net.add("Slice", shape, net.ints(3), net.ints(5)), axis=0)
    return net.reshape(net.add("Expand", x, wide), 0, groups * times, -1, each)


def gated(net, x, width, inner):
    y = net.add("Mul", net.silu(net.linear(x, width, inner, False)), net.linear(x, width, inner, False))
    return net.linear(y, inner, width, False)


def llama(name, bias=False, inner=1024, **options):
    """Llama and Qwen 2 (with a bias on queries, keys and values), as optimum exports them."""
    it = Decoder(name, **options)
    net, width, each = it.net, it.width, it.each
    at = net.add("Cast", net.add("Unsqueeze", it.positions(), net.ints(2)), to=FLOAT)
    x, mask = it.words(width), it.causal()
    rates = 10000.0 ** -(np.arange(0, each, 2, dtype="f") / each)
    angles = net.add("Mul", at, net.const(rates[None, None]))
    angles = net.add("Unsqueeze", net.add("Concat", angles, angles, axis=-1), net.ints(1))
    cos, sin = net.add("Cos", angles), net.add("Sin", angles)
    for layer in range(it.count):
        past = it.past(layer)
        y = net.rms_norm(x, width)
        query = net.heads(net.linear(y, width, width, bias), it.heads, each)
        key = net.heads(net.linear(y, width, it.groups * each, bias), it.groups, each)
        value = net.heads(net.linear(y, width, it.groups * each, bias), it.groups, each)
        query, key = rotated(net, query, cos, sin, each), rotated(net, key, cos, sin, each)
        key, value = net.add("Concat", past[0], key, axis=2), net.add("Concat", past[1], value, axis=2)
        it.present(layer, key, value)
        times = it.heads // it.groups
        key, value = repeated(net, key, it.groups, times, each), repeated(net, value, it.groups, times, each)
        y = net.merge(scored(net, query, key, value, mask, each), width)
        x = net.add("Add", x, net.linear(y, width, width, False))
        x = net.add("Add", x, gated(net, net.rms_norm(x, width), width, inner))
    return it.tail(net.rms_norm(x, width))


def genai(name, inner=1024, normed=False, **options):
    """A decoder with onnxruntime's own operators, as onnxruntime-genai's builder writes them."""
    it = Decoder(name, opset=21, com_microsoft=1, **options)
    net, width, each = it.net, it.width, it.each
    x = it.words(width)
    used = net.add("ReduceSum", it.mask, net.ints(1), keepdims=1)
    lengths = net.add("Cast", net.add("Sub", used, net.ints(1)), to=6)
    total = net.add("Cast", net.add("Gather", net.add("Shape", it.mask), net.const(1, np.int64)), to=6)
    angles = np.arange(512, dtype="f")[:, None] * 10000.0 ** -(np.arange(0, each, 2, dtype="f") / each)
    cos, sin = net.const(np.cos(angles)), net.const(np.sin(angles))
    y, skip = None, x
    for layer in range(it.count):
        past = it.past(layer)
        if layer == 0:
            y = net.add("SimplifiedLayerNormalization", x, net.near(1, width), axis=-1, epsilon=1e-6, stash_type=1)
        else:
            y, skip = skipped(net, skip, y, width)
        query = net.linear(y, width, width, False)
        key, value = (net.linear(y, width, it.groups * each, False) for _ in range(2))
        if normed:
            query, key = by_head(net, query, it.heads, each), by_head(net, key, it.groups, each)
        y, key, value = net.contrib("GroupQueryAttention", query, key, value, *past, lengths, total, cos, sin, outputs=3,
                                    num_heads=it.heads, kv_num_heads=it.groups, scale=each**-0.5, do_rotary=1)
        it.present(layer, key, value)
        y, skip = skipped(net, skip, net.linear(y, width, width, False), width)
        y = gated(net, y, width, inner)
    y, _ = skipped(net, skip, y, width)
    return it.tail(y)


def skipped(net, skip, y, width):
    """The normalised sum of both, and the sum."""
    names = net.contrib("SkipSimplifiedLayerNormalization", skip, y, net.near(1, width), outputs=4, epsilon=1e-6)
    # The second and third outputs are only for training.
    net.nodes[-1].output[:] = [names[0], "", "", names[3]]
    return names[0], names[3]


def by_head(net, x, heads, each):
    rows = net.reshape(x, 0, -1, heads, each)
    rows = net.add("SimplifiedLayerNormalization", rows, net.near(1, each), axis=-1, epsilon=1e-6, stash_type=1)
    return net.reshape(rows, 0, -1, heads * each)


def llama23(name, inner=1024, **options):
    """With Attention, RotaryEmbedding and RMSNormalization of operator set 23."""
    it = Decoder(name, opset=23, **options)
    net, width, each = it.net, it.width, it.each
    at, x, mask = it.positions(), it.words(width), it.causal()
    angles = np.arange(512, dtype="f")[:, None] * 10000.0 ** -(np.arange(0, each, 2, dtype="f") / each)
    cos, sin = net.const(np.cos(angles)), net.const(np.sin(angles))
    for layer in range(it.count):
        past = it.past(layer)
        y = net.rms_norm(x, width)
        query = net.heads(net.linear(y, width, width, False), it.heads, each)
        key, value = (net.heads(net.linear(y, width, it.groups * each, False), it.groups, each) for _ in range(2))
        query, key = (net.add("RotaryEmbedding", part, cos, sin, at) for part in (query, key))
        y, key, value = net.add("Attention", query, key, value, mask, *past, outputs=3)
        it.present(layer, key, value)
        x = net.add("Add", x, net.linear(net.merge(y, width), width, width, False))
        x = net.add("Add", x, gated(net, net.rms_norm(x, width), width, inner))
    return it.tail(net.rms_norm(x, width))


def bart(name, **options):
    """The decoder of a translator or recogniser, with attention to what an encoder gave."""
    it = Decoder(name, **options)
    net, width = it.net, it.width
    source = net.input("encoder_hidden_states", ["batch", "encoder_sequence", width])
    x = net.add("Add", it.words(width), net.add("Gather", net.draw(1024, width, scale=0.3), it.positions()))
    x, mask = net.layer_norm(x, width), it.causal()
    for layer in range(it.count):
        past = it.past(layer)
        query, key, value = (net.heads(net.linear(x, width, width), it.heads, it.each) for _ in range(3))
        key, value = net.add("Concat", past[0], key, axis=2), net.add("Concat", past[1], value, axis=2)
        it.present(layer, key, value)
        y = net.linear(net.merge(scored(net, query, key, value, mask, it.each), width), width, width)
        x = net.layer_norm(net.add("Add", x, y), width)
        x = net.layer_norm(net.add("Add", x, attention(net, x, source, width, it.heads)), width)
        y = net.linear(net.gelu(net.linear(x, width, 4 * width)), 4 * width, width)
        x = net.layer_norm(net.add("Add", x, y), width)
    return it.tail(x)


# Sound and series.


def whisper(name, opset=17, width=192, heads=6, count=4, frames=300):
    net = Net(name, opset)
    x = net.input("input_features", ["batch", 80, frames])
    x = net.gelu(net.conv(x, 80, width, 3, dims=1))
    x = net.turn(net.gelu(net.conv(x, width, width, 3, 2, dims=1)), 0, 2, 1)
    x = net.add("Add", x, net.draw(frames // 2, width, scale=0.1))
    net.output("last_hidden_state", net.layer_norm(layers(net, x, width, heads, count, first=True), width))
    return net


def wav2vec2(name, opset=17, width=192, heads=6, count=3):
    net = Net(name, opset)
    x = net.add("Unsqueeze", net.input("input_values", ["batch", "sequence"]), net.ints(1))
    inputs = 1
    for at, (size, stride) in enumerate([(10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2)]):
        x = net.conv(x, inputs, 96, size, stride, pads=0, dims=1)
        if at == 0:
            x = net.add("InstanceNormalization", x, net.near(1, 96), net.near(0, 96), epsilon=1e-5)
        x, inputs = net.gelu(x), 96
    x = net.linear(net.layer_norm(net.turn(x, 0, 2, 1), 96), 96, width)
    y = net.conv(net.turn(x, 0, 2, 1), width, width, 15, groups=4, dims=1)
    x = net.layer_norm(net.add("Add", x, net.turn(net.gelu(y), 0, 2, 1)), width)
    net.output("logits", net.linear(layers(net, x, width, heads, count), width, 32))
    return net


def spectrum(name, opset=17, hop=128, size=512, width=128):
    """A spectrogram by STFT, its logarithm, and a GRU over its frames."""
    net = Net(name, opset)
    x = net.add("Unsqueeze", net.input("sound", [1, 16000]), net.ints(2))
    parts = net.add("STFT", x, net.const(hop, np.int64), net.const(np.hanning(size)), net.const(size, np.int64), onesided=1)
    power = net.add("ReduceSumSquare", parts, axes=[3], keepdims=0)
    bands = net.add("Log", net.add("Add", net.add("MatMul", power, net.near(0.5, size // 2 + 1, 64)), net.const(1e-3)))
    rows = net.turn(bands, 1, 0, 2)
    y, _ = net.add("GRU", rows, net.draw(1, 3 * width, 64, scale=0.1), net.draw(1, 3 * width, width, scale=0.08),
                   net.near(0, 1, 6 * width), outputs=2, hidden_size=width, linear_before_reset=1)
    net.output("y", net.linear(net.add("Squeeze", y, net.ints(1)), width, 40))
    return net


def lstm_state(name, opset=14, width=256, inputs=40, count=2):
    """An LSTM whose state goes in and out."""
    net = Net(name, opset)
    x = net.input("x", ["sequence", 1, inputs])
    h, c = net.input("h", [count, 1, width]), net.input("c", [count, 1, width])
    hs, cs = [], []
    for at in range(count):
        part = lambda state: net.add("Slice", state, net.ints(at), net.ints(at + 1), net.ints(0))
        y, last, cell = net.add("LSTM", x, net.draw(1, 4 * width, inputs, scale=inputs**-0.5),
                                net.draw(1, 4 * width, width, scale=width**-0.5), net.near(0, 1, 8 * width), "",
                                part(h), part(c), outputs=3, hidden_size=width)
        x, inputs = net.add("Squeeze", y, net.ints(1)), width
        hs.append(last)
        cs.append(cell)
    net.output("y", net.linear(x, width, 30))
    net.output("h_out", net.add("Concat", *hs, axis=0))
    net.output("c_out", net.add("Concat", *cs, axis=0))
    return net


def cells(name, opset=17, width=128):
    """An RNN and a GRU in both directions over embedded tokens."""
    net = Net(name, opset)
    x = net.add("Gather", net.draw(300, 96, scale=1), net.input("tokens", ["batch", "sequence"], INT64))
    x, inputs = net.turn(x, 1, 0, 2), 96
    for kind, gates in (("RNN", 1), ("GRU", 3)):
        more = {"linear_before_reset": 1} if kind == "GRU" else {}
        y, _ = net.add(kind, x, net.draw(2, gates * width, inputs, scale=inputs**-0.5),
                       net.draw(2, gates * width, width, scale=width**-0.5), net.near(0, 2, 2 * gates * width),
                       outputs=2, direction="bidirectional", hidden_size=width, **more)
        x, inputs = net.reshape(net.turn(y, 0, 2, 1, 3), 0, 0, 2 * width), 2 * width
    net.output("y", net.linear(net.turn(x, 1, 0, 2), inputs, 20))
    return net
