import numpy as np

import reference

from .titled import Random, i64, value


def add_sectioned(cases, attributes, inputs):
    """A case of MRotaryEmbedding. Its tables have a row for each token after the sections are put
    together."""
    x, cos, sin = map(value, inputs)
    sections, pairs = attributes["mrope_section"], cos.shape[1]
    source = np.repeat([0, 1, 2], sections)
    if attributes.get("mrope_layout"):
        source = np.zeros(pairs, int)
        source[1 : 3 * sections[1] : 3], source[2 : 3 * sections[2] : 3] = 1, 2
    positions = np.arange(18).reshape(3, 2, 3) * 5 % 8
    rows = positions.reshape(3, 6)
    cos, sin = (
        [[table[rows[source[j], t], j] for j in range(pairs)] for t in range(6)] for table in (cos, sin)
    )
    plain = {name: item for name, item in attributes.items() if "mrope" not in name and name != "scale"}

    def definition(*_, **__):
        rotary = reference.OPERATORS["RotaryEmbedding"]
        out = rotary(x, np.arange(6).reshape(2, 3), np.array(cos), np.array(sin), **plain)
        out[..., : 2 * pairs] *= attributes.get("scale", 1)
        return out

    title = f"sections {sections}".replace(",", "")
    given = [inputs[0], positions.astype(np.int64), *inputs[1:]]
    cases.add(title, "MRotaryEmbedding", attributes, given, definition=definition)


def rotary_embedding(cases):
    """RotaryEmbedding and MRotaryEmbedding."""

    def definition(x, positions, cos, sin, **attributes):
        # An offset may have no dimensions.
        positions = positions.reshape(positions.shape or (1,))
        return reference.OPERATORS["RotaryEmbedding"](x, positions, cos, sin, **attributes)

    def add(title, *inputs, **attributes):
        cases.add(title, "RotaryEmbedding", attributes, inputs, definition=definition)

    each = i64([0, 3, 1], [7, 2, 2])
    for kind, interleaved in [("halves", 0), ("neighbours", 1)]:
        for name, shape in [("packed", (2, 3, 8)), ("separate", (2, 2, 3, 4))]:
            tables = Random(8, 2), Random(8, 2)
            add(f"{kind}, {name} heads, one offset", Random(*shape), i64(2), *tables, interleaved=interleaved)
            add(
                f"{kind}, {name} heads, all positions", Random(*shape), each, *tables, interleaved=interleaved
            )
        add(
            f"{kind}, part of packed heads",
            Random(2, 3, 12),
            i64(1),
            Random(8, 2),
            Random(8, 2),
            interleaved=interleaved,
            num_heads=2,
            rotary_embedding_dim=4,
        )
        add(
            f"{kind}, part of separate heads",
            Random(2, 2, 3, 6),
            each,
            Random(8, 2),
            Random(8, 2),
            interleaved=interleaved,
            num_heads=2,
            rotary_embedding_dim=4,
        )
    add("heads of an odd number of pairs", Random(1, 2, 12), i64(1), Random(4, 3), Random(4, 3), num_heads=2)
    add("offset without dimensions", Random(1, 2, 4), np.array(3, np.int64), Random(8, 2), Random(8, 2))
    for layout in (0, 1):
        for sections in ([2, 1, 1], [1, 2, 1], [4, 0, 0], [0, 1, 3]):
            attributes = dict(mrope_section=sections, mrope_layout=layout, num_heads=1, interleaved=layout)
            add_sectioned(cases, attributes, [Random(2, 3, 8), Random(8, 4), Random(8, 4)])
    attributes = dict(mrope_section=[2, 1, 1], scale=0.5, num_heads=2, rotary_embedding_dim=8)
    add_sectioned(cases, attributes, [Random(2, 2, 3, 10), Random(8, 4), Random(8, 4)])
    add(
        "more tokens than rows of the tables",
        Random(1, 4, 4),
        i64([1, 0, 1, 1]),
        Random(2, 2),
        Random(2, 2),
        is_packed_batching=1,
    )
