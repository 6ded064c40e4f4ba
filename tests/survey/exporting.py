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
            dims = tuple(open_dims.get(name) for name in names)
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
