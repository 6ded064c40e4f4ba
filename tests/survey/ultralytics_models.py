"""Models of ultralytics from their descriptions, with random weights, exported by its own exporter."""

import pathlib
import shutil
import tempfile

import torch
import ultralytics

from entry import Entry, Inputs


def spread(model):
    """Random statistics for batch normalisation, so that answers depend on the input."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.8, 1.2)
            torch.nn.init.uniform_(module.bias, -0.2, 0.2)
            torch.nn.init.normal_(module.running_mean, 0, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.0)


def entry(name, description, size=160, kind=ultralytics.YOLO, notes=None, **options):
    def make(folder):
        torch.manual_seed(0)
        model = kind(f"{description}.yaml")
        spread(model.model)
        with tempfile.TemporaryDirectory() as work:
            # The exporter writes beside the file that the model says it came from.
            model.model.pt_path = str(pathlib.Path(work, "model.pt"))
            model.ckpt_path = model.model.pt_path
            file = model.export(
                format="onnx", imgsz=size, simplify=False, device="cpu", verbose=False, **options
            )
            shutil.move(file, folder / "model.onnx")

    sizes = {"height": (size, size + 64), "width": (size, size + 32)}
    values = {"images": lambda shape, random: random.random(shape).astype("float32")}
    return Entry(f"ul_{name}", make, Inputs(sizes, values), notes=notes or {})


ENTRIES = [
    entry("yolov3_tiny", "yolov3-tiny"),
    entry("yolov5n", "yolov5n"),
    entry("yolov8n", "yolov8n"),
    entry("yolov8n_dynamic", "yolov8n", dynamic=True),
    entry("yolov8n_o12", "yolov8n", opset=12),
    entry("yolov8n_nms", "yolov8n", nms=True, conf=0.001),
    entry("yolov8n_cls", "yolov8n-cls", 96),
    entry("yolov8n_seg", "yolov8n-seg"),
    entry("yolov8n_pose", "yolov8n-pose"),
    entry("yolov8n_obb", "yolov8n-obb"),
    entry("yolov8n_world", "yolov8s-world"),
    entry("yolov9t", "yolov9t"),
    entry("yolov10n", "yolov10n"),
    entry("yolo11n", "yolo11n"),
    entry("yolo11n_dynamic", "yolo11n", dynamic=True),
    entry("yolo11n_obb", "yolo11n-obb"),
    entry("yolo11n_seg", "yolo11n-seg"),
    entry("yolo12n", "yolo12n"),
    entry("yolo26n", "yolo26n"),
    # Its rows are in the order of scores, of which untrained networks give many nearly the same.
    entry("rtdetr_l", "rtdetr-l", 160, ultralytics.RTDETR, {"unordered": True}),
]
