import numpy as np

from cases import Case

from .shapes import values


def inverse(draw):
    dtype = draw.choose(np.float32, np.float32, np.float64, np.float16)
    size = draw.choose(1, 2, 3, 5, 8)
    # Far from singular, so that the result is not lost in rounding.
    x = (
        draw.floats(*draw.shape(0, 2, 4), size, size, dtype=np.float64)
        + np.eye(size) * draw.choose(-3, 3) * size
    )
    return Case([x.astype(dtype)], tolerance=5e-3 if dtype == np.float16 else None)


def c_dist(draw):
    dtype = draw.choose(np.float32, np.float64)
    width = draw.size(20)
    return Case(
        [draw.floats(draw.size(), width, dtype=dtype), draw.floats(draw.size(), width, dtype=dtype)],
        draw.some(metric=draw.choose("euclidean", "sqeuclidean")),
        tolerance=5e-4 if dtype == np.float32 else 1e-7,
    )


def n_gram_repeat_block(draw):
    batch, words = draw.size(3), draw.integer(2, 5)
    ids = draw.integers(0, words - 1, batch, draw.integer(1, 15))
    return Case([ids, draw.floats(batch, words)], {"ngram_size": draw.integer(1, 4)})


def word_conv_embedding(draw):
    letters, width, filters, window = draw.integer(2, 12), draw.size(7), draw.size(7), draw.integer(1, 3)
    count, longest = draw.size(7), draw.integer(3, 8)
    words = draw.integers(1, letters - 1, count, longest, dtype=np.int32)
    for word in words:
        word[draw.integer(1, longest) :] = 0
    attributes = draw.some(embedding_size=filters, conv_window_size=window, char_embedding_size=width)
    inputs = [
        words,
        draw.floats(filters, 1, window, width, scale=0.5),
        draw.floats(filters, scale=0.5),
        draw.floats(letters, width),
    ]
    return Case(inputs, attributes, constants=[1, 2, 3] if draw.maybe() else [])


def murmur_hash3(draw):
    x = values(draw, draw.shape(1, 3), np.int32, np.uint32, np.int64, np.uint64, np.float32, np.float64, str)
    return Case([x], draw.some(positive=draw.integer(0, 1), seed=draw.choose(0, 1, 42, 2**31 - 1)))


SENTENCES = [
    "Hello World",
    "I love computer science !",
    "a",
    "",
    " ",
    "one,two;three",
    "tab\there",
    "naïve café",
    "日本 語",
    "aaa b aaa",
    "x--y--z",
    "2024-11-30",
    "  two  spaces  ",
]


def tokenizer(draw):
    shape = [draw.size(4)] if draw.maybe() else [draw.size(3), draw.size(3)]
    x = np.array([draw.choose(*SENTENCES) for _ in range(int(np.prod(shape)))], object).reshape(shape)
    attributes = {
        "mark": draw.integer(0, 1),
        "mincharnum": draw.choose(1, 1, 2, 3),
        "pad_value": draw.choose("#", "", "<pad>"),
    }
    if draw.maybe(0.6):
        attributes["separators"] = list(
            draw.choose((" ",), ("",), (" ", ","), ("[ ,;]",), ("--", " "), ("a+",), ("ab?", "l"))
        )
    else:
        attributes["tokenexp"] = draw.choose(".", "[a-z]+", r"\w+", "[0-9]+|[A-Z]", "a|aa")
    return Case([x], attributes)


GENERATORS = {
    "Inverse": inverse,
    "CDist": c_dist,
    "NGramRepeatBlock": n_gram_repeat_block,
    "WordConvEmbedding": word_conv_embedding,
    "MurmurHash3": murmur_hash3,
    "Tokenizer": tokenizer,
}
