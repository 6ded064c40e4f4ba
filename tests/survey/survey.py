#!/usr/bin/env python3
"""Makes the models that real tools write, runs each in Belljar and in onnxruntime, and lists the
results. `cargo xtask survey` sets up the Python environments and calls this program:

    survey.py make FOLDER --env main|optimum|packages [--only PREFIX]
    survey.py run FOLDER --belljar PROGRAM [--only PREFIX] [--again] [--quick]
    survey.py table FOLDER PAGE

FOLDER gets `models/NAME/…` and `results.tsv`. What exists is not made or run again.
"""

import argparse
import importlib
import os
import pathlib
import shutil
import signal
import sys
import time
import traceback

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.update(HF_HUB_OFFLINE="1", YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false")

# The modules by the environment that has their packages.
MODULES = {
    "packages": ["packages"],
    "optimum": ["hf"],
    "main": [
        "hf5",
        "torch_models",
        "vision",
        "ultralytics_models",
        "sklearn_models",
        "boosted",
        "genai",
        "quantized",
        "fused",
    ],
}
LIMIT_SECONDS = 400


def say(text):
    print(f"survey: {text}", file=sys.stderr, flush=True)


def alarm(*_):
    raise TimeoutError(f"took longer than {LIMIT_SECONDS} s")


def make_one(entry, models):
    """Makes one folder of models, or leaves `models/NAME.failed` with the reason."""
    folder, part = models / entry.name, models / f"{entry.name}.part"
    failed = models / f"{entry.name}.failed"
    if folder.exists() or failed.exists():
        return
    if part.exists():
        failed.write_text("the process that made it died\n")
        shutil.rmtree(part)
        return
    missing = [need for need in entry.needs if not (models / need).exists()]
    if missing:
        failed.write_text(f"{', '.join(missing)} was not made\n")
        return
    say(f"making {entry.name}")
    part.mkdir(parents=True)
    begun = time.monotonic()
    signal.signal(signal.SIGALRM, alarm)
    signal.alarm(LIMIT_SECONDS)
    try:
        entry.make(part)
        finish(entry, part)
    except Exception as error:
        signal.alarm(0)
        text = f"{type(error).__name__}: {error}".strip()
        failed.write_text(text[:4000] + "\n\n" + traceback.format_exc()[-8000:])
        shutil.rmtree(part)
        say(f"  not made: {text.splitlines()[0][:200]}")
        return
    signal.alarm(0)
    part.rename(folder)
    say(f"  {sum(file.stat().st_size for file in folder.iterdir()) / 1e6:.1f} MB, "
        f"{time.monotonic() - begun:.0f} s")


def finish(entry, folder):
    import json

    import inputs

    found = sorted(folder.glob("*.onnx"))
    if not found:
        raise FileNotFoundError("the tool wrote no ONNX file")
    if entry.inputs is not None:
        for model in found:
            inputs.write(model, entry.inputs)
    (folder / "notes.json").write_text(json.dumps(entry.notes))


def make(arguments):
    models = arguments.folder / "models"
    models.mkdir(parents=True, exist_ok=True)
    for name in MODULES[arguments.env]:
        if arguments.only and arguments.env == "main":
            known = importlib.import_module("names").of_module(name)
            if known and not any(overlaps(arguments.only, prefix) for prefix in known):
                continue
        for entry in importlib.import_module(name).ENTRIES:
            if entry.name.startswith(arguments.only):
                make_one(entry, models)


def overlaps(one, other):
    return one.startswith(other) or other.startswith(one)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("make")
    command.add_argument("folder", type=pathlib.Path)
    command.add_argument("--env", choices=MODULES, required=True)
    command.add_argument("--only", default="", metavar="PREFIX")
    command = commands.add_parser("run")
    command.add_argument("folder", type=pathlib.Path)
    command.add_argument("--belljar", type=pathlib.Path, required=True)
    command.add_argument("--only", default="", metavar="PREFIX")
    command.add_argument("--again", action="store_true", help="run what has a result, too")
    command.add_argument("--quick", action="store_true", help="compare answers, without times")
    command = commands.add_parser("table")
    command.add_argument("folder", type=pathlib.Path)
    command.add_argument("page", type=pathlib.Path)
    arguments = parser.parse_args()
    arguments.folder = arguments.folder.resolve()
    if arguments.command == "make":
        make(arguments)
    elif arguments.command == "run":
        import compare

        compare.run(arguments.folder, arguments.belljar, arguments.only, arguments.again, arguments.quick)
    else:
        import table

        table.write(arguments.folder, arguments.page)


if __name__ == "__main__":
    main()
