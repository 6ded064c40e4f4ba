"""torch's two exporters, called in one way."""

import torch


def export(model, arguments, file, opset=None, names=None, outputs=None, open_dims=None, dynamo=True):
    """Exports a module to a file, with its weights inside.

    `open_dims` has for each input the axes that may have any size, with their names:
    {"x": {0: "batch"}}.
    """
    model = model.eval()
    options = dict(input_names=names, output_names=outputs, opset_version=opset)
    with torch.no_grad():
        if not dynamo:
            torch.onnx.export(
                model, arguments, str(file), dynamo=False, dynamic_axes=open_dims, **options
            )
            return
        dims = None
        if open_dims:
            known = {}

            def symbol(name):
                if name not in known:
                    known[name] = torch.export.Dim(name, min=1, max=4096)
                return known[name]

            shapes = []
            for name, value in zip(names, arguments, strict=True):
                axes = open_dims.get(name, {})
                shapes.append({axis: symbol(dim) for axis, dim in axes.items()} or None)
            dims = tuple(shapes)
        torch.onnx.export(
            model,
            arguments,
            str(file),
            dynamo=True,
            dynamic_shapes=dims,
            external_data=False,
            verbose=False,
            **options,
        )
