"""Writes ONNX graphs node by node, with seeded random weights, as exporters write them."""

import zlib

import numpy as np
import onnx
from onnx import helper

FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64


class Net:
    """A graph that grows by calls. Values are names, and methods return those that they add."""

    def __init__(self, name, opset=17, **domains):
        self.name, self.opset, self.domains = name, opset, domains
        self.nodes, self.inputs, self.outputs, self.weights = [], [], [], {}
        self.random = np.random.default_rng(zlib.crc32(name.encode()))

    def input(self, name, shape, kind=FLOAT):
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def output(self, name, value, kind=FLOAT):
        self.nodes.append(helper.make_node("Identity", [value], [name]))
        self.outputs.append(helper.make_tensor_value_info(name, kind, None))

    def const(self, value, dtype=None):
        array = np.asarray(value, dtype)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        # Constants are shared, as exporters share them; large weights are all different.
        key = f"c{zlib.crc32(array.tobytes() + str((array.dtype, array.shape)).encode())}"
        self.weights[key] = array
        return key

    def ints(self, *values):
        return self.const(values, np.int64)

    def draw(self, *shape, scale=None):
        """Weights that keep the size of activations: the last dimensions but the first are summed."""
        scale = scale or 1 / np.sqrt(np.prod(shape[1:]) if len(shape) > 2 else shape[0])
        name = f"w{len(self.weights)}"
        self.weights[name] = (self.random.standard_normal(shape) * scale).astype(np.float32)
        return name

    def near(self, value, *shape):
        name = f"w{len(self.weights)}"
        self.weights[name] = (value + 0.1 * self.random.standard_normal(shape)).astype(np.float32)
        return name

    def add(self, kind, *inputs, outputs=1, domain="", **attributes):
        names = [f"v{len(self.nodes)}_{at}" for at in range(outputs)]
        node = helper.make_node(kind, list(inputs), names, domain=domain, **attributes)
        self.nodes.append(node)
        return names[0] if outputs == 1 else names

    def contrib(self, kind, *inputs, **options):
        return self.add(kind, *inputs, domain="com.microsoft", **options)

    # What several architectures share.

    def reshape(self, x, *shape):
        return self.add("Reshape", x, self.ints(*shape))

    def turn(self, x, *order):
        return self.add("Transpose", x, perm=order)

    def linear(self, x, rows, columns, bias=True):
        product = self.add("MatMul", x, self.draw(rows, columns))
        return self.add("Add", self.near(0, columns), product) if bias else product

    def conv(self, x, inputs, outputs, size=1, stride=1, groups=1, pads=None, gain=1.4, dims=2, dilation=1):
        weight = self.draw(outputs, inputs // groups, *[size] * dims,
                           scale=gain / np.sqrt(inputs // groups * size**dims))
        pad = dilation * (size // 2) if pads is None else pads
        return self.add("Conv", x, weight, self.near(0, outputs), kernel_shape=[size] * dims,
                        strides=[stride] * dims, pads=[pad] * 2 * dims, group=groups,
                        dilations=[dilation] * dims)

    def silu(self, x):
        return self.add("Mul", x, self.add("Sigmoid", x))

    def gelu(self, x):
        """As torch's first exporter writes it."""
        half = self.add("Add", self.add("Erf", self.add("Div", x, self.const(np.sqrt(2.0)))), self.const(1.0))
        return self.add("Mul", self.add("Mul", x, half), self.const(0.5))

    def gelu_tanh(self, x):
        cube = self.add("Mul", self.add("Pow", x, self.const(3.0)), self.const(0.044715))
        inner = self.add("Mul", self.add("Add", x, cube), self.const(np.sqrt(2 / np.pi)))
        return self.add("Mul", self.add("Mul", x, self.const(0.5)),
                        self.add("Add", self.add("Tanh", inner), self.const(1.0)))

    def layer_norm(self, x, width):
        return self.add("LayerNormalization", x, self.near(1, width), self.near(0, width), axis=-1, epsilon=1e-5)

    def rms_norm(self, x, width):
        """In single operators, as exporters write it below operator set 23."""
        if self.opset >= 23:
            return self.add("RMSNormalization", x, self.near(1, width), axis=-1, epsilon=1e-6)
        square = self.add("ReduceMean", self.add("Pow", x, self.const(2.0)), **self.axes(-1), keepdims=1) \
            if self.opset < 18 else self.add("ReduceMean", self.add("Pow", x, self.const(2.0)), self.ints(-1), keepdims=1)
        root = self.add("Sqrt", self.add("Add", square, self.const(1e-6)))
        return self.add("Mul", self.near(1, width), self.add("Mul", x, self.add("Div", self.const(1.0), root)))

    @staticmethod
    def axes(*axes):
        return {"axes": list(axes)}

    def heads(self, x, heads, size):
        return self.turn(self.reshape(x, 0, 0, heads, size), 0, 2, 1, 3)

    def merge(self, x, width):
        return self.reshape(self.turn(x, 0, 2, 1, 3), 0, 0, width)

    def save(self, path):
        graph = helper.make_graph(self.nodes, self.name, self.inputs, self.outputs, [
            onnx.numpy_helper.from_array(array, name) for name, array in self.weights.items()
        ])
        sets = [helper.make_opsetid("", self.opset)]
        sets += [helper.make_opsetid(domain.replace("_", "."), version) for domain, version in self.domains.items()]
        model = helper.make_model(graph, opset_imports=sets, producer_name="belljar-bench", ir_version=10)
        onnx.save(model, str(path))
