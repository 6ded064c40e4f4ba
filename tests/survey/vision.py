"""Models of torchvision without trained weights, by both exporters of torch."""

import operator

import torch
from torchvision import models

from entry import Entry, Inputs
from exporting import export

FORMS = {
    "ts11": (False, 11), "ts13": (False, 13), "ts14": (False, 14), "ts17": (False, 17),
    "dyn": (True, None), "dyn20": (True, 20),
}


class First(torch.nn.Module):
    """The output named `out` of segmentation models."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x)["out"]


class Flat(torch.nn.Module):
    """A detector of one image, whose boxes, labels and scores are outputs."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        found = self.model([x])[0]
        return found["boxes"], found["labels"], found["scores"]


def spread(model):
    """Random statistics for batch normalisation: with those of new models, deep networks answer
    nearly the same to every input."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d) and module.affine:
            torch.nn.init.uniform_(module.weight, 0.8, 1.2)
            torch.nn.init.uniform_(module.bias, -0.2, 0.2)
            torch.nn.init.normal_(module.running_mean, 0, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.0)
        elif isinstance(module, torch.nn.Linear) and not module.weight.any():
            # The head of a new vision transformer.
            torch.nn.init.normal_(module.weight, 0, 0.05)
    return model


def entry(name, builder, form, size=64, wrap=None, is_open=True, notes=None, **options):
    dynamo, opset = FORMS[form]

    def make(folder):
        torch.manual_seed(0)
        # Fused attention, which the old exporter does not know.
        torch.backends.mha.set_fastpath_enabled(False)
        build = operator.attrgetter(builder)(models)
        model = spread(build(weights=None, **options))
        if wrap is Flat:
            # Scores of untrained heads are all nearly the same, so that rounding would order them.
            for name, weight in model.named_parameters():
                if "head" in name and name.endswith("weight"):
                    weight.data *= 6
        model = wrap(model) if wrap else model
        image = torch.rand(3, size, size) if wrap is Flat else torch.randn(2, 3, size, size)
        if builder.startswith("video."):
            image = torch.randn(1, 3, 8, size, size)
        elif not is_open and wrap is not Flat:
            image = image[:1]
        dims = {"x": {0: "batch"}} if is_open else None
        export(model, (image,), folder / "model.onnx", opset, ["x"], open_dims=dims, dynamo=dynamo)

    notes = {"discard": True} | (notes or {}) if name in LARGE else notes or {}
    return Entry(f"tv_{name}_{form}", make, Inputs(), notes=notes)


# Not kept after they have run, as they take 60 to 520 MB each.
LARGE = ["resnext50", "inception_v3", "swin_t", "swin_v2_t", "vgg11", "vit_b16", "fcn_resnet50",
         "fasterrcnn_mnv3_320", "retinanet", "r2plus1d"]
DETECTOR = dict(weights_backbone=None, num_classes=5)
# Few candidates: of thousands of boxes, some overlap by so nearly the threshold that rounding decides
# which are kept, in onnxruntime with and without optimisations too.
FEW = DETECTOR | dict(topk_candidates=20)
FEW_PROPOSALS = DETECTOR | dict(
    rpn_pre_nms_top_n_test=40, rpn_post_nms_top_n_test=20, box_detections_per_img=10
)
ENTRIES = [
    entry("resnet18", "resnet18", "ts11"),
    entry("resnet18", "resnet18", "dyn"),
    entry("resnext50", "resnext50_32x4d", "ts17", is_open=False),
    entry("mobilenet_v2", "mobilenet_v2", "ts13"),
    entry("mobilenet_v3_small", "mobilenet_v3_small", "ts13", 96),
    entry("mobilenet_v3_small", "mobilenet_v3_small", "dyn", 96),
    entry("mobilenet_v3_large", "mobilenet_v3_large", "dyn20", 96),
    entry("efficientnet_b0", "efficientnet_b0", "ts17", 96),
    entry("efficientnet_b0", "efficientnet_b0", "dyn", 96),
    entry("efficientnet_v2_s", "efficientnet_v2_s", "ts14", 96),
    entry("shufflenet_v2", "shufflenet_v2_x1_0", "ts13"),
    entry("shufflenet_v2", "shufflenet_v2_x1_0", "dyn"),
    entry("squeezenet", "squeezenet1_1", "ts11", 96),
    entry("mnasnet", "mnasnet0_5", "ts13"),
    entry("regnet_y", "regnet_y_400mf", "dyn"),
    entry("densenet121", "densenet121", "ts17", is_open=False),
    entry("googlenet", "googlenet", "ts17", 96, init_weights=True, aux_logits=False),
    entry("inception_v3", "inception_v3", "dyn", 160, init_weights=False, aux_logits=False),
    entry("convnext_tiny", "convnext_tiny", "dyn", is_open=False),
    entry("swin_t", "swin_t", "ts17", is_open=False),
    entry("swin_v2_t", "swin_v2_t", "dyn", is_open=False),
    entry("vgg11", "vgg11", "ts11", 224, is_open=False,
          notes={"memory": "4 GiB", "model_size": "1 GiB"}),
    entry("vit_b16", "vit_b_16", "ts14", is_open=False, image_size=64),
    entry("deeplabv3_mnv3", "segmentation.deeplabv3_mobilenet_v3_large", "dyn", 96, First, is_open=False,
          weights_backbone=None),
    entry("lraspp_mnv3", "segmentation.lraspp_mobilenet_v3_large", "ts17", 96, First, weights_backbone=None),
    entry("fcn_resnet50", "segmentation.fcn_resnet50", "ts17", 64, First, is_open=False, weights_backbone=None),
    entry("ssdlite320", "detection.ssdlite320_mobilenet_v3_large", "ts17", 160, Flat, is_open=False, **FEW),
    entry("fasterrcnn_mnv3_320", "detection.fasterrcnn_mobilenet_v3_large_320_fpn", "ts17", 160, Flat,
          is_open=False, **FEW_PROPOSALS),
    entry("retinanet", "detection.retinanet_resnet50_fpn", "ts17", 128, Flat, is_open=False,
          min_size=128, max_size=128, **FEW),
    entry("r2plus1d", "video.r2plus1d_18", "ts17", is_open=False),
]
