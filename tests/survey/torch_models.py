"""Plain modules of torch of many kinds, each exported by the old exporter (`ts` and the operator
set) and by the new one (`dyn`)."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from entry import Entry, Inputs
from exporting import export


class SoundGru(nn.Module):
    """A spectrogram by STFT, then a recurrent network."""

    def __init__(self):
        super().__init__()
        self.register_buffer("window", torch.hann_window(400))
        self.rnn = nn.GRU(201, 96, 1, batch_first=True, bidirectional=True)
        self.head = nn.Linear(192, 10)

    def forward(self, sound):
        parts = torch.stft(sound, 400, 160, window=self.window, center=False, return_complex=False)
        power = parts.pow(2).sum(-1).clamp(min=1e-6).log().transpose(1, 2)
        return self.head(self.rnn(power)[0])


class Depth(nn.Module):
    """Resize by bilinear and nearest interpolation, and a warp by grid_sample."""

    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(3, 24, 3, 2, 1)
        self.middle = nn.Conv2d(24, 24, 3, 1, 1)
        self.out = nn.Conv2d(48, 1, 3, 1, 1)

    def forward(self, image, grid):
        x = F.gelu(self.down(image))
        y = F.interpolate(F.gelu(self.middle(F.avg_pool2d(x, 2))), scale_factor=2, mode="bilinear")
        z = F.interpolate(torch.cat([x, y], 1), scale_factor=2, mode="nearest")
        return F.grid_sample(self.out(z), grid, mode="bilinear", padding_mode="border")


class Graph(nn.Module):
    """Messages along edges, added up by index."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(32, 64), nn.Linear(64, 64)
        self.head = nn.Linear(64, 7)

    def forward(self, nodes, edges):
        x = self.one(nodes)
        for _ in range(2):
            total = torch.zeros_like(x).index_add(0, edges[1], x[edges[0]])
            x = torch.relu(self.two(x) + total)
        return self.head(x)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(96, 4, 192, batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        # A fused operator of torch that its old exporter does not know.
        torch.backends.mha.set_fastpath_enabled(False)

    def forward(self, x):
        return self.body(x)


class Recommender(nn.Module):
    """Bags of embeddings and pairwise products."""

    def __init__(self):
        super().__init__()
        self.bags = nn.ModuleList(nn.EmbeddingBag(500, 16, mode="sum") for _ in range(4))
        self.bottom = nn.Sequential(nn.Linear(13, 64), nn.ReLU(), nn.Linear(64, 16))
        self.top = nn.Sequential(nn.Linear(26, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, dense, sparse):
        x = self.bottom(dense)
        rows = torch.stack([x] + [bag(sparse[:, at]) for at, bag in enumerate(self.bags)], 1)
        products = torch.bmm(rows, rows.transpose(1, 2))
        first, second = torch.tril_indices(5, 5, -1)
        return torch.sigmoid(self.top(torch.cat([x, products[:, first, second]], 1)))


class Atari(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(),
            nn.Conv2d(64, 64, 3, 1), nn.ReLU(), nn.Flatten(), nn.Linear(3136, 256), nn.ReLU(),
        )
        self.policy, self.value = nn.Linear(256, 6), nn.Linear(256, 1)

    def forward(self, screen):
        x = self.body(screen / 255)
        return self.policy(x), self.value(x)


class Stream(nn.Module):
    """An LSTM whose state goes in and out."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(40, 96, 2)
        self.head = nn.Linear(96, 20)

    def forward(self, x, h, c):
        y, (h, c) = self.rnn(x, (h, c))
        return self.head(y).log_softmax(-1), h, c


class Volume(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Sequential(nn.Conv3d(1, 8, 3, padding=1), nn.InstanceNorm3d(8, affine=True), nn.ReLU())
        self.two = nn.Sequential(nn.Conv3d(8, 16, 3, padding=1), nn.BatchNorm3d(16), nn.LeakyReLU(0.1))
        self.up = nn.ConvTranspose3d(16, 8, 2, 2)
        self.out = nn.Conv3d(16, 3, 1)

    def forward(self, x):
        x = self.one(x)
        y = self.up(self.two(F.max_pool3d(x, 2)))
        return self.out(torch.cat([x, y], 1))


class Norms(nn.Module):
    """A U-Net with every kind of normalisation."""

    def __init__(self):
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.GroupNorm(8, 32), nn.SiLU())
        self.b = nn.Sequential(nn.Conv2d(32, 64, 3, 2, 1), nn.InstanceNorm2d(64, affine=True), nn.PReLU(64))
        self.c = nn.Sequential(nn.Conv2d(64, 64, 3, 2, 1), nn.BatchNorm2d(64), nn.Hardswish())
        self.up = nn.ConvTranspose2d(64, 64, 4, 2, 1)
        self.norm = nn.LayerNorm(64)
        self.out = nn.Conv2d(96, 4, 1)

    def forward(self, x):
        a = self.a(x)
        b = self.b(a)
        c = F.mish(self.up(self.c(b)) + b)
        c = self.norm(c.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        c = F.interpolate(c, size=a.shape[2:], mode="bicubic", align_corners=False)
        return self.out(torch.cat([a, c], 1)).softmax(1)


class Upscale(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = nn.Conv2d(1, 32, 5, 1, 2), nn.Conv2d(32, 32, 3, 1, 1), nn.Conv2d(32, 9, 3, 1, 1)

    def forward(self, x):
        return F.pixel_shuffle(self.three(torch.tanh(self.two(torch.tanh(self.one(x))))), 3)


class Dense(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(32 + 16 * at, 16, 3, 1, 1) for at in range(4))
        self.join = nn.Conv2d(96, 32, 3, 1, 1)

    def forward(self, x):
        parts = [x]
        for layer in self.layers:
            parts.append(F.leaky_relu(layer(torch.cat(parts, 1)), 0.2))
        return x + 0.2 * self.join(torch.cat(parts, 1))


class Rrdb(nn.Module):
    def __init__(self):
        super().__init__()
        self.head, self.body = nn.Conv2d(3, 32, 3, 1, 1), nn.Sequential(Dense(), Dense())
        self.up, self.out = nn.Conv2d(32, 32, 3, 1, 1), nn.Conv2d(32, 3, 3, 1, 1)

    def forward(self, x):
        x = self.head(x)
        x = F.interpolate(x + self.body(x), scale_factor=2.0, mode="nearest")
        return self.out(F.leaky_relu(self.up(x), 0.2))


class Beats(nn.Module):
    """N-BEATS: blocks that subtract what they have explained."""

    def __init__(self):
        super().__init__()
        block = lambda: nn.Sequential(nn.Linear(96, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 120))
        self.blocks = nn.ModuleList(block() for _ in range(4))

    def forward(self, x):
        forecast = 0
        for block in self.blocks:
            back, ahead = block(x).split([96, 24], 1)
            x, forecast = x - back, forecast + ahead
        return forecast


class Causal(nn.Module):
    """Dilated convolutions over time."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.utils.parametrizations.weight_norm(nn.Conv1d(16, 16, 3, dilation=2**at)) for at in range(4))
        self.head = nn.Conv1d(16, 4, 1)

    def forward(self, x):
        for at, layer in enumerate(self.layers):
            x = x + F.elu(layer(F.pad(x, (2 ** (at + 1), 0))))
        return self.head(x)


class Cells(nn.Module):
    """An RNN and a two-way LSTM over a whole sequence."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(300, 48)
        self.one = nn.RNN(48, 48, nonlinearity="relu", batch_first=True)
        self.two = nn.LSTM(48, 48, batch_first=True, bidirectional=True)
        self.head = nn.Linear(96, 9)

    def forward(self, tokens):
        return self.head(self.two(self.one(self.words(tokens))[0])[0])


class Mixture(nn.Module):
    """Experts chosen by topk, all computed and weighted."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(48, 8)
        self.up, self.down = nn.Parameter(torch.randn(8, 48, 96) / 7), nn.Parameter(torch.randn(8, 96, 48) / 10)

    def forward(self, x):
        scores, chosen = torch.topk(self.gate(x), 2, -1)
        weights = torch.zeros(x.shape[0], 8, dtype=x.dtype).scatter(1, chosen, scores.softmax(-1))
        all = torch.einsum("bei,eio->beo", F.silu(torch.einsum("bi,eio->beo", x, self.up)), self.down)
        return torch.einsum("be,beo->bo", weights, all)


class Boxes(nn.Module):
    """Boxes, scores, and the choice among them by masks."""

    def forward(self, boxes, scores):
        centers, sizes = boxes[..., :2], boxes[..., 2:].exp()
        corners = torch.cat([centers - sizes / 2, centers + sizes / 2], -1)
        best, label = scores.max(-1)
        order = best.argsort(-1, descending=True)
        area = (corners[..., 2:] - corners[..., :2]).prod(-1)
        kept = torch.where(best > 0.0, area, torch.zeros_like(area))
        return corners.gather(1, order[..., None].expand(-1, -1, 4)), label, kept.cumsum(-1)


class Complex(nn.Module):
    """A Fourier layer: FFT, products with complex weights, and back."""

    def __init__(self):
        super().__init__()
        self.real, self.imaginary = nn.Parameter(torch.randn(8, 17) / 4), nn.Parameter(torch.randn(8, 17) / 4)

    def forward(self, x):
        y = torch.fft.rfft(x) * torch.complex(self.real, self.imaginary)
        return torch.fft.irfft(y, n=32)


class Positions(nn.Module):
    """Sinusoids, rotary products and a triangular mask, as written by hand."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(64, 64) for _ in range(3))

    def forward(self, x):
        length = x.shape[1]
        angles = torch.outer(torch.arange(length).float(), torch.exp(torch.arange(0, 32, 2) * (-math.log(10000.0) / 32)))
        sin, cos = angles.sin().repeat(1, 2), angles.cos().repeat(1, 2)

        def turn(y):
            y = y.reshape(1, length, 2, 32).transpose(1, 2)
            return y * cos + torch.cat([-y[..., 16:], y[..., :16]], -1) * sin

        q, k = turn(self.query(x)), turn(self.key(x))
        v = self.value(x).reshape(1, length, 2, 32).transpose(1, 2)
        mask = torch.full((length, length), float("-inf")).triu(1)
        return ((q @ k.transpose(2, 3) / math.sqrt(32) + mask).softmax(-1) @ v).transpose(1, 2).reshape(1, length, 64)


class Text(nn.Module):
    """Words, convolutions of three widths, the greatest of each."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(300, 64)
        self.convolutions = nn.ModuleList(nn.Conv1d(64, 32, width) for width in (3, 4, 5))
        self.head = nn.Linear(96, 5)

    def forward(self, tokens):
        x = self.words(tokens).transpose(1, 2)
        return self.head(torch.cat([F.relu(c(x)).amax(-1) for c in self.convolutions], 1))


class Autoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1), nn.SELU(), nn.Conv2d(16, 32, 3, 2, 1), nn.CELU())
        self.mean = nn.Linear(32 * 49, 16)
        self.back = nn.Linear(16, 32 * 49)
        self.up = nn.Sequential(nn.ConvTranspose2d(32, 16, 3, 2, 1, 1), nn.Softplus(), nn.ConvTranspose2d(16, 1, 3, 2, 1, 1))

    def forward(self, x):
        code = self.mean(self.down(x).flatten(1))
        return torch.sigmoid(self.up(self.back(code).reshape(-1, 32, 7, 7))), code


class Capture(nn.Module):
    """Quantities of many kinds of reductions, sorts and comparisons."""

    def forward(self, x):
        std, mean = torch.std_mean(x, -1)
        sorted_x, order = x.sort(-1)
        return (
            torch.logsumexp(x, -1), std, mean, sorted_x.diff(dim=-1), order, x.norm(dim=1),
            torch.clamp(x, -0.5, 0.5).cumsum(1), (x > 0).sum(-1), torch.quantile(x, 0.25, dim=-1),
            x.round(decimals=1), torch.remainder(x * 10, 3.0), torch.atan2(x, x.flip(-1)), x.erf(),
        )


# Name, module, inputs of the export, open dimensions, hints, exports.
def of(shape):
    return torch.randn(shape)


BATCH = {"x": {0: "batch"}}
MODELS = {
    "audio_stft_gru": (SoundGru, lambda: {"sound": of((1, 4000))}, None),
    "depth_resize_grid": (Depth, lambda: {"image": of((1, 3, 64, 64)), "grid": torch.rand(1, 32, 32, 2) * 2 - 1}, None),
    "gnn_index_add": (Graph, lambda: {"nodes": of((30, 32)), "edges": torch.randint(0, 30, (2, 80))},
                      {"nodes": {0: "nodes"}, "edges": {1: "edges"}}),
    "transformer_encoder": (Attention, lambda: {"x": of((2, 16, 96))}, {"x": {0: "batch", 1: "sequence"}}),
    "rec_dlrm": (Recommender, lambda: {"x": of((2, 13)), "sparse": torch.randint(0, 500, (2, 4, 3))},
                 {"x": {0: "batch"}, "sparse": {0: "batch"}}),
    "rl_nature_cnn": (Atari, lambda: {"x": of((2, 4, 84, 84))}, BATCH),
    "rnn_lstm_state": (Stream, lambda: {"x": of((5, 1, 40)), "h": of((2, 1, 96)), "c": of((2, 1, 96))}, {"x": {0: "sequence"}}),
    "seg_unet3d": (Volume, lambda: {"x": of((1, 1, 16, 16, 16))}, None),
    "seg_unet_norms": (Norms, lambda: {"x": of((2, 3, 64, 64))}, BATCH),
    "sr_espcn": (Upscale, lambda: {"x": of((1, 1, 48, 64))}, {"x": {2: "height", 3: "width"}}),
    "sr_rrdb": (Rrdb, lambda: {"x": of((1, 3, 32, 40))}, {"x": {2: "height", 3: "width"}}),
    "ts_nbeats": (Beats, lambda: {"x": of((2, 96))}, BATCH),
    "ts_tcn": (Causal, lambda: {"x": of((2, 16, 64))}, {"x": {0: "batch", 2: "time"}}),
    "rnn_cells": (Cells, lambda: {"tokens": torch.randint(0, 300, (2, 16))}, {"tokens": {0: "batch", 1: "sequence"}}),
    "moe_topk": (Mixture, lambda: {"x": of((4, 48))}, BATCH),
    "boxes_gather": (Boxes, lambda: {"boxes": of((2, 40, 4)), "scores": of((2, 40, 8))},
                     {"boxes": {0: "batch", 1: "anchors"}, "scores": {0: "batch", 1: "anchors"}}),
    "fourier_layer": (Complex, lambda: {"x": of((2, 8, 32))}, BATCH),
    "rope_attention": (Positions, lambda: {"x": of((1, 16, 64))}, {"x": {1: "sequence"}}),
    "text_cnn": (Text, lambda: {"tokens": torch.randint(0, 300, (2, 16))}, {"tokens": {0: "batch", 1: "sequence"}}),
    "vae": (Autoencoder, lambda: {"x": of((2, 1, 28, 28))}, BATCH),
    "reductions": (Capture, lambda: {"x": of((3, 20))}, BATCH),
}
HINTS = Inputs(
    sizes={"height": (48, 33), "width": (64, 70), "time": (64, 80), "nodes": (30, 41),
           "edges": (80, 97), "anchors": (40, 57), "sequence": (16, 23)},
    values={
        "edges": lambda shape, random: random.integers(0, 30, shape),
        "sparse": lambda shape, random: random.integers(0, 500, shape),
        "grid": lambda shape, random: random.uniform(-1, 1, shape).astype("float32"),
    },
)
# The exporters' forms: the old one at several operator sets, the new one at three.
FORMS = {
    "ts11": (False, 11), "ts13": (False, 13), "ts14": (False, 14), "ts17": (False, 17),
    "dyn": (True, None), "dyn20": (True, 20), "dyn23": (True, 23),
}
CHOSEN = {
    "audio_stft_gru": "ts17 dyn", "depth_resize_grid": "ts17 dyn20", "gnn_index_add": "ts17 dyn",
    "transformer_encoder": "ts14 ts17 dyn dyn23", "rec_dlrm": "ts17 dyn", "rl_nature_cnn": "ts11 ts17 dyn",
    "rnn_lstm_state": "ts14 dyn", "seg_unet3d": "ts17 dyn", "seg_unet_norms": "ts17 dyn",
    "sr_espcn": "ts11 dyn", "sr_rrdb": "ts17 dyn", "ts_nbeats": "ts13 dyn", "ts_tcn": "ts17 dyn",
    "rnn_cells": "ts17 dyn", "moe_topk": "ts17 dyn", "boxes_gather": "ts17 dyn", "fourier_layer": "dyn dyn20",
    "rope_attention": "ts17 dyn23", "text_cnn": "ts13 dyn20", "vae": "ts17 dyn", "reductions": "dyn dyn20 dyn23",
}


def entry(model, form):
    build, example, dims = MODELS[model]
    dynamo, opset = FORMS[form]
    # The new exporter writes the steps of recurrent networks one by one.
    dims = None if dynamo and model.startswith("rnn_") else dims

    def make(folder):
        torch.manual_seed(0)
        inputs = example()
        export(build(), tuple(inputs.values()), folder / "model.onnx", opset, list(inputs),
               open_dims=dims, dynamo=dynamo)

    return Entry(f"nn_{model}_{form}", make, HINTS)


ENTRIES = [entry(model, form) for model, forms in CHOSEN.items() for form in forms.split()]
