"""Operators on words, tokens and hashes, and small linear algebra."""

import re

import numpy as np


def inverse(x):
    return np.linalg.inv(x.astype(np.float64)).astype(x.dtype)


def c_dist(a, b, *, metric="sqeuclidean"):
    result = np.zeros((len(a), len(b)))
    for i in range(len(a)):
        for j in range(len(b)):
            result[i, j] = ((a[i].astype(np.float64) - b[j]) ** 2).sum()
    return (np.sqrt(result) if metric == "euclidean" else result).astype(a.dtype)


def n_gram_repeat_block(input_ids, scores, *, ngram_size):
    result = scores.copy()
    for b, ids in enumerate(input_ids):
        tail = list(ids[len(ids) - ngram_size + 1 :])
        for start in range(len(ids) - ngram_size + 1):
            if list(ids[start : start + ngram_size - 1]) == tail:
                result[b, ids[start + ngram_size - 1]] = -np.inf
    return result


def word_conv_embedding(
    sequence, w, bias, table, *, embedding_size=None, conv_window_size=None, char_embedding_size=None
):
    """A word is a row of characters, filled up with 0. Its vector is the maximum of tanh(convolution)."""
    filters, _, width, _ = w.shape
    result = np.zeros((len(sequence), filters))
    for row, word in enumerate(sequence):
        length = max(int((word > 0).sum()), width)
        letters = table[word[:length]].astype(np.float64)
        for f in range(filters):
            sums = [(letters[i : i + width] * w[f, 0]).sum() + bias[f] for i in range(length - width + 1)]
            result[row, f] = np.tanh(max(sums))
    return result.astype(w.dtype)


def murmur(data, seed):
    """MurmurHash3_x86_32 of bytes."""
    mask = 0xFFFFFFFF

    def rotated(x, count):
        return (x << count | x >> (32 - count)) & mask

    def scrambled(k):
        return rotated(k * 0xCC9E2D51 & mask, 15) * 0x1B873593 & mask

    h = seed & mask
    whole = len(data) // 4 * 4
    for i in range(0, whole, 4):
        h ^= scrambled(int.from_bytes(data[i : i + 4], "little"))
        h = (rotated(h, 13) * 5 + 0xE6546B64) & mask
    if whole < len(data):
        h ^= scrambled(int.from_bytes(data[whole:], "little"))
    h ^= len(data)
    for multiplier, shift in ((1, 16), (0x85EBCA6B, 13), (0xC2B2AE35, 16)):
        h = h * multiplier & mask
        h ^= h >> shift
    return h


def murmur_hash3(x, *, positive=1, seed=0):
    flat = []
    for value in x.reshape(-1):
        data = value.encode() if isinstance(value, str) else value.tobytes()
        flat.append(murmur(data, seed))
    hashes = np.array(flat, np.uint32).reshape(x.shape)
    return hashes if positive else hashes.view(np.int32)


def longest_matches(expression, text):
    """Matches from left to right, each as long as possible."""
    pattern = re.compile(expression, re.ASCII)
    found, start = [], 0
    while start < len(text):
        ends = [end for end in range(start + 1, len(text) + 1) if pattern.fullmatch(text, start, end)]
        if ends:
            found.append(text[start : ends[-1]])
        start = ends[-1] if ends else start + 1
    return found


def tokenizer(x, *, mark, mincharnum, pad_value, separators=None, tokenexp=None):
    """Expressions are RE2's, in which classes such as \\w are those of ASCII."""

    def tokens(text):
        if separators == [""] or tokenexp == ".":
            found = list(text)
        elif separators:
            found = [text]
            for separator in separators:
                found = [part for piece in found for part in re.split(separator, piece, flags=re.ASCII)]
            found = [part for part in found if part]
        else:
            found = longest_matches(tokenexp, text)
        return [part for part in found if len(part) >= mincharnum]

    rows = [tokens(text) for text in x.reshape(-1)]
    longest = max(map(len, rows), default=0)
    # Without any token there are no marks either.
    width = longest + 2 * bool(mark) if longest else 0
    result = []
    for row in rows:
        if mark and width:
            row = ["\x02", *row, "\x03"]
        result.append(row + [pad_value] * (width - len(row)))
    return np.array(result, object).reshape(x.shape + (width,))


OPERATORS = {
    "Inverse": inverse,
    "CDist": c_dist,
    "NGramRepeatBlock": n_gram_repeat_block,
    "WordConvEmbedding": word_conv_embedding,
    "MurmurHash3": murmur_hash3,
    "Tokenizer": tokenizer,
}
