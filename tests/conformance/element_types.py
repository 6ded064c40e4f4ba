"""Compares the element types that ONNX allows with those that Belljar takes.

`cargo xtask conformance` runs it: python3 element_types.py OPS, where OPS is the output of `belljar ops
--format json`. It prints the types of inputs that ONNX's schemas allow and Belljar refuses, for all
operators and versions that Belljar has, with the reasons, as the table tests/conformance/TYPES.md. It
fails if a type is refused without a reason.
"""

import collections
import json
import pathlib
import sys

import onnx

# Reasons, each with the operators that it is for (none: all operators) and the types.
COMPLEX = {"complex64", "complex128"}
FLOAT6 = {"float6e2m3", "float6e3m2"}
FLOAT8 = {"float8e4m3fn", "float8e4m3fnuz", "float8e5m2", "float8e5m2fnuz"}
CODES = FLOAT8 | {"float8e8m0", "float4e2m1", "int4", "uint4", "int2", "uint2"}
INTEGERS = {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
REASONS = [
    ("", COMPLEX, "no operator computes with complex numbers; models do not have them"),
    ("", FLOAT6, "onnxruntime 1.32 has no float6, so there is nothing to compare with"),
    ("""CenterCropPad Col2Im Compress DepthToSpace GatherElements GatherND GridSample NonZero OneHot
     Pad Resize ReverseSequence Scatter ScatterElements ScatterND SpaceToDepth TensorScatter Tile
     Trilu Unique Upsample""",
     {"string"}, "strings have no fixed size, and these operators move elements by their bytes"),
    ("Attention", INTEGERS, "onnxruntime 1.32 takes only masks of bool and of the queries' type"),
    ("BitCast", CODES - FLOAT8 - {"float8e8m0"},
     "elements of 4 and 2 bits are carried in a byte each, and would have to be packed again"),
    ("Col2Im Unique", {"bool"}, "onnxruntime 1.32 has no kernel"),
    ("Erf", INTEGERS, "the result is 0 or 1; onnxruntime 1.32 has no kernel"),
    ("GridSample", INTEGERS | {"bool"},
     "implementations differ in the rounding of samples between pixels; onnxruntime 1.32 has no kernel"),
    ("MatMul Einsum ReduceMean", INTEGERS, "not implemented yet"),
    ("Pad", CODES | {"bool"}, "not implemented yet"),
    ("QLinearMatMul", FLOAT8, "onnxruntime 1.32 has no kernel on the CPU"),
    ("QuantizeLinear", {"int32"}, "a scale of integers; onnxruntime 1.32 has no kernel"),
    ("ReduceLogSum ReduceLogSumExp", INTEGERS,
     "logarithms of integers were removed from ONNX in version 28"),
    ("Resize", INTEGERS | {"bool", "double"}, "not implemented yet"),
]
WANTED = {
    (name, dtype): reason
    for names, types, reason in REASONS
    for name in (names.split() or [""])
    for dtype in types
}


def tensors(types):
    """The element types of the tensors among these types."""
    return {t[len("tensor("):-1] for t in types if t.startswith("tensor(")}


def versions(schemas, newest):
    """Each version of an operator with the last version of the operator set that has it."""
    schemas = sorted(schemas, key=lambda schema: schema.since_version)
    ends = [schema.since_version - 1 for schema in schemas[1:]] + [newest]
    return [(schema, end) for schema, end in zip(schemas, ends) if not schema.deprecated]


def gaps(table):
    """The refused types: operator, first and last version, input, types."""
    newest = {"": table["newest_operator_set"], "ai.onnx.ml": table["newest_operator_set_ml"]}
    schemas = collections.defaultdict(list)
    for schema in onnx.defs.get_all_schemas_with_history():
        schemas[schema.domain, schema.name].append(schema)
    for operator in table["operators"]:
        domain, name = operator["domain"], operator["name"]
        for schema, end in versions(schemas[domain, name], newest.get(domain, 0)):
            since, until = max(schema.since_version, operator["since"]), min(end, operator["until"])
            if since > until:
                continue
            for formal, taken in zip(schema.inputs, operator["inputs"]):
                if refused := tensors(formal.types) - set(taken["types"]):
                    yield name, since, until, formal.name, refused


def main(path):
    table = json.loads(pathlib.Path(path).read_text())
    # For each reason the types, and for each operator its versions and inputs.
    found = collections.defaultdict(lambda: (set(), collections.defaultdict(set)))
    unexplained = set()
    for name, since, until, formal, refused in gaps(table):
        for dtype in refused:
            reason = WANTED.get((name, dtype)) or WANTED.get(("", dtype))
            if reason is None:
                unexplained.add(f"{name} {since} to {until}: input {formal}: {dtype}")
                continue
            types, operators = found[reason]
            types.add(dtype)
            operators[name].add((since, until, formal))
    if unexplained:
        sys.exit("refused without a reason:\n" + "\n".join(sorted(unexplained)))
    print("# Element types that ONNX allows and Belljar refuses\n")
    print("Written by `cargo xtask conformance`, for the operators and versions that Belljar has.\n")
    print("| types | reason | operators, with their versions and inputs |\n| --- | --- | --- |")
    for reason, (types, operators) in sorted(found.items()):
        named = []
        for name, places in sorted(operators.items()):
            first = min(since for since, _, _ in places)
            last = max(until for _, until, _ in places)
            formals = ", ".join(sorted({formal for _, _, formal in places}))
            versions = f"{first} to {last}" if first < last else f"{first}"
            named.append(f"`{name}` ({versions}: {formals})")
        print(f"| {', '.join(sorted(types))} | {reason} | {'; '.join(named)} |")


if __name__ == "__main__":
    main(*sys.argv[1:])
