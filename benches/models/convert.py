"""Makes a model of the list from another one, with onnxruntime's tools. Each function gets the source,
the target, the inputs of the source, and the options of the entry."""

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from onnxruntime import quantization
from onnxruntime.quantization import matmul_nbits_quantizer, shape_inference
from onnxruntime.transformers import float16, optimizer

TYPES = {"int8": quantization.QuantType.QInt8, "uint8": quantization.QuantType.QUInt8,
         "uint16": quantization.QuantType.QUInt16}


def typed(options):
    """The options with types of quantised values in place of their names."""
    return {name: TYPES.get(value, value) if name.endswith("_type") else value for name, value in options.items()}


def quantize_dynamic(source, target, inputs, **options):
    quantization.quantize_dynamic(source, target, **typed(options))


class Reader:
    """Calibration data: the inputs of the source, and the same with noise."""

    def __init__(self, inputs):
        random = np.random.default_rng(0)
        rows = [{name: noisy(value, random) for name, value in inputs.items()} for _ in range(3)]
        self.rows = iter([inputs, *rows])

    def get_next(self):
        return next(self.rows, None)


def noisy(value, random):
    if value.dtype != np.float32:
        return value
    return (value + random.standard_normal(value.shape) * value.std()).astype(np.float32)


def quantize_static(source, target, inputs, form, contrib=False, **options):
    prepared = target.with_suffix(".prepared.onnx")
    shape_inference.quant_pre_process(source, prepared, skip_symbolic_shape=True)
    extra = {"UseQDQContribOps": True} if contrib else {}
    quantization.quantize_static(prepared, target, Reader(inputs), quant_format=quantization.QuantFormat[form],
                                 extra_options=extra, **typed(options))


def quantize_nbits(source, target, inputs, symmetric=True, block_size=32, form="QOperator", **options):
    model = onnx.load(str(source))
    quantizer = matmul_nbits_quantizer.MatMulNBitsQuantizer(
        model, block_size=block_size, is_symmetric=symmetric, quant_format=quantization.QuantFormat[form], **options)
    quantizer.process()
    quantizer.model.save_model_to_file(str(target), False)


def half(source, target, inputs, **options):
    model = onnx.shape_inference.infer_shapes(onnx.load(str(source)))
    onnx.save(float16.convert_float_to_float16(model, keep_io_types=True, **options), str(target))


def fuse(source, target, inputs, kind, heads, width, half=False):
    model = optimizer.optimize_model(str(source), model_type=kind, num_heads=heads, hidden_size=width, opt_level=0,
                                     use_gpu=False)
    if half:
        model.convert_float_to_float16(keep_io_types=True)
    model.save_model_to_file(str(target))


def optimized(source, target, inputs, level):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_ENABLE_{level.upper()}")
    options.optimized_model_filepath = str(target)
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])


def widen(source, target, inputs):
    """The float32 twin of a model whose package has only the quantised form.

    Dynamically quantised products become products of floats: in place of an input's integers the input
    itself, its scale 1, and the weights without their zero points, so that what multiplies by the
    scales afterwards stays as it is. Weights that are cast or dequantised are folded.
    """
    model = onnx.load(str(source))
    graph = model.graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    new, nodes, replaced, one = {}, [], {}, False
    # Biases of quantised convolutions are rounded to integers of the product's scale.
    floors = {name for node in graph.node if node.op_type == "Floor" for name in node.output}
    rounded = {node.input[0] for node in graph.node if node.op_type == "Cast" and node.input[0] in floors}
    for node in graph.node:
        names = [replaced.get(name, name) for name in node.input]
        if node.op_type == "DynamicQuantizeLinear":
            replaced[node.output[0]] = names[0]
            replaced[node.output[1]] = "widened_one"
            one = True
        elif node.op_type in ("MatMulInteger", "ConvInteger"):
            weight = arrays[node.input[1]].astype(np.float32)
            if len(node.input) > 3 and node.input[3]:
                weight -= zero(arrays[node.input[3]], weight, 0 if node.op_type == "ConvInteger" else -1)
            new[f"{node.input[1]}_wide"] = weight
            kind = node.op_type.removesuffix("Integer")
            wide = helper.make_node(kind, [names[0], f"{node.input[1]}_wide"], node.output, node.name)
            wide.attribute.extend(node.attribute)
            nodes.append(wide)
        elif node.op_type == "DynamicQuantizeLSTM":
            weights = []
            # X, W, R, B, sequence_lens, initial_h, initial_c, P, then scale and zero point of W and R.
            for at in (1, 2):
                weight = arrays[node.input[at]].astype(np.float32)
                scale, point = (arrays[node.input[8 + 2 * (at - 1) + offset]] for offset in (0, 1))
                weight = (weight - zero(point.astype(np.float32), weight, -1)) * zero(scale, weight, -1)
                weights.append(f"{node.input[at]}_wide")
                new[weights[-1]] = np.ascontiguousarray(weight.transpose(0, 2, 1))
            wide = helper.make_node("LSTM", [names[0], *weights, *names[3:8]], node.output, node.name)
            wide.attribute.extend(node.attribute)
            nodes.append(wide)
        elif node.op_type == "Floor" and node.output[0] in rounded:
            nodes.append(helper.make_node("Identity", names, node.output, node.name))
        elif node.op_type == "Cast" and node.input[0] in floors:
            nodes.append(helper.make_node("Cast", names, node.output, node.name, to=onnx.TensorProto.FLOAT))
        elif node.op_type == "DequantizeLinear" and node.input[0] in arrays:
            weight = arrays[node.input[0]].astype(np.float32)
            axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
            if len(node.input) > 2:
                weight = weight - zero(arrays[node.input[2]], weight, axis)
            new[node.output[0]] = weight * zero(arrays[node.input[1]], weight, axis)
        else:
            node.input[:] = names
            nodes.append(node)
    if one:
        new["widened_one"] = np.ones((), np.float32)
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in new.items())
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    initializers = {tensor.name for tensor in kept}
    declared = [value for value in graph.input if value.name in used and value.name not in initializers]
    del graph.input[:]
    graph.input.extend(declared)
    del graph.value_info[:]
    wide = target.with_suffix(".wide.onnx")
    onnx.save(model, str(wide))
    # Folds weights that are cast.
    optimized(wide, target, inputs, "basic")


def zero(points, weight, axis):
    """Scales or zero points of a tensor or of its channels, in a shape to compute with the weights."""
    points = np.asarray(points, np.float32)
    if points.size == 1:
        return points.reshape(())
    if points.ndim == 2:
        # Of each direction of a recurrent network.
        return points.reshape(points.shape[0], 1, -1) if points.shape[1] > 1 else points.reshape(-1, 1, 1)
    if weight.ndim == 3 and points.size == weight.shape[0]:
        return points.reshape(-1, 1, 1)
    shape = [1] * weight.ndim
    shape[axis] = -1
    return points.reshape(shape)
