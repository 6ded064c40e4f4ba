"""Models that a tool makes from models of the survey: entries that copy the inputs of their base."""

import shutil

import numpy as np

from entry import Entry


def parts(base):
    """The folder and the file of a base. Only models of optimum have several files."""
    if not base.startswith("hf_"):
        return base, "model"
    name, _, stem = base.partition("__")
    return name, stem


def models_folder(folder):
    """`folder` is that of a model which is being made."""
    return folder.parent


def base_file(folder, base):
    """The ONNX file of a base: NAME, or NAME__STEM for folders with several files."""
    name, stem = parts(base)
    return models_folder(folder) / name / f"{stem}.onnx"


def samples(folder, base):
    """The inputs of a base, case by case, first shapes first."""
    file = base_file(folder, base)
    found = sorted(file.parent.glob(f"{file.stem}.*.npz"), key=lambda path: path.name[-5])
    return [dict(np.load(path)) for path in found]


def entry(prefix, base, convert, notes=None, **options):
    """`convert(source, target, folder, base)` writes the file `target`."""

    def make(folder):
        source, target = base_file(folder, base), folder / "model.onnx"
        convert(source, target, folder, base, **options)
        for inputs in source.parent.glob(f"{source.stem}.*.npz"):
            shutil.copy(inputs, folder / inputs.name.replace(f"{source.stem}.", "model.", 1))
        for left in folder.iterdir():
            if not left.name.startswith("model."):
                left.unlink() if left.is_file() else shutil.rmtree(left)

    return Entry(f"{prefix}_{base}", make, None, needs=(parts(base)[0],), notes=notes or {})


class Reader:
    """Calibration data for static quantisation: the inputs of the base's first shape, with noise."""

    def __init__(self, folder, base):
        first = samples(folder, base)[0]
        random = np.random.default_rng(0)
        self.rows = iter([first] + [{name: noisy(value, random) for name, value in first.items()} for _ in range(3)])

    def get_next(self):
        return next(self.rows, None)


def noisy(value, random):
    if value.dtype != np.float32:
        return value
    return (value + random.standard_normal(value.shape) * value.std()).astype(np.float32)


