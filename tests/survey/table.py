"""Writes the results into a page of the documentation, between two markers."""

import csv
import pathlib
import re
import statistics

import compare
import names

BEGIN, END = "<!-- survey: begin -->", "<!-- survey: end -->"
HERE = pathlib.Path(__file__).resolve().parent


def outcome(result):
    word = re.split(r"[ :]", result)[0]
    return word if word in ("right", "refused", "wrong", "limit", "crash") else "not run"


def not_made(folder):
    """Models whose tool failed, and those of the list of rows that are left out."""
    for file in sorted((folder / "models").glob("*.failed")):
        yield file.name.removesuffix(".failed"), short(file.read_text().splitlines()[0])
    with (HERE / "left_out.tsv").open(newline="") as lines:
        for row in csv.DictReader(lines, delimiter="\t"):
            yield row["name"], row["reason"]


def short(text):
    text = compare.without_paths(text).replace("|", "/")
    return text if len(text) <= 200 else text[:200] + "…"


def page(folder):
    results = list(compare.read_results(folder).values())
    # Times are listed once a survey has taken them (one with --quick does not).
    timed = any(row["ratio"] for row in results)
    lines = ["| tool | rows | right | refused | wrong | other |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
    if timed:
        lines = [lines[0] + " time, onnxruntime = 1 (median of timed rows) |", lines[1] + " ---: |"]
    titles = list(dict.fromkeys(title for _, _, title in names.TOOLS))
    for title in [*titles, None]:
        rows = [row for row in results if title is None or row["tool"] == title]
        if not rows:
            continue
        counts = [outcome(row["result"]) for row in rows]
        ratios = [float(row["ratio"]) for row in rows if row["ratio"] and outcome(row["result"]) == "right"]
        others = len(counts) - sum(counts.count(kind) for kind in ("right", "refused", "wrong"))
        cells = [title or "**all**", len(rows), counts.count("right"), counts.count("refused"),
                 counts.count("wrong"), others]
        if timed:
            cells.append(f"{statistics.median(ratios):.1f} ({len(ratios)})" if ratios else "")
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    rest = [row for row in results if outcome(row["result"]) != "right"]
    if rest:
        lines += ["", "Rows that were not answered as onnxruntime answers them:", "",
                  "| row | result |", "| --- | --- |"]
        lines += [f"| {row['name']} | {short(row['result'])}{note(row)} |" for row in rest]
    raised = [row["name"] for row in results if "memory raised" in row["note"]]
    if raised:
        lines += ["", f"Run with more memory than the default policy grants: {', '.join(raised)}."]
    left = list(not_made(folder))
    if left:
        lines += ["", "Models that could not be made here:", "", "| model | reason |", "| --- | --- |"]
        lines += [f"| {name} | {reason} |" for name, reason in left]
    return "\n".join(lines)


def note(row):
    return f" ({short(row['note'])})" if row["note"] else ""


def write(folder, path):
    text = path.read_text()
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    path.write_text(f"{before}{BEGIN}\n{page(folder)}\n{END}{after}")
