"""Where onnxruntime 1.32.0 differs from its documentation, operator by operator.

Each entry names an operator, the reason, and a test that recognises such cases. A disagreement that
no entry explains counts as unknown and needs to be investigated.

Some differences are not drawn, because onnxruntime aborts or reads memory that it has not written:
MatMulBnb4 with transB = 0; SparseAttention with do_rotary, several sequences, and a prompt of one
token; DecoderMaskedMultiHeadAttention with past caches and without present ones; QLinearSigmoid and
QLinearLeakyRelu whose last input is left out instead of named "".

QLinearReduceMean has a documentation but no kernel on the CPU, and so no second judge.
With more than one thread, DynamicQuantizeLSTM may quantize the hidden state of each thread's sequences
on its own, which gives other results than on one thread: these differences are not drawn either.
RotaryEmbedding documents `scale`, which has no effect on the CPU; it is not drawn.
"""


def has(case, number):
    return len(case.inputs) > number and case.inputs[number] is not None


def refused(case, difference):
    return difference.startswith("refused")


def keys(key):
    """The number of keys in a key input, by its layout."""
    return key.shape[2] if key.ndim == 4 else key.shape[1]


def reason(case, difference):
    for operator, text, matches in KNOWN:
        if operator in (case.operator, "*") and matches(case, difference):
            return text
    return None


# (operator, reason, test of the case and the difference). The operator "*" stands for all.
KNOWN = [
    (
        "*",
        "a quantized output is one step apart, where rounding in float32 decides",
        lambda case, difference: case.operator.startswith("Q") and "at most 1 apart" in difference,
    ),
    (
        "EmbedLayerNormalization",
        "documented as optional, the output mask_index is required: without it, type inference fails",
        lambda case, difference: case.outputs == [True] and "output index 1 is out of range" in difference,
    ),
    (
        "MatMulNBits",
        "8 bits with zero points that are not packed are refused",
        lambda case, difference: refused(case, difference)
        and case.attributes.get("bits") == 8
        and has(case, 3)
        and case.inputs[3].dtype != "uint8",
    ),
    (
        "MatMulNBits",
        "zero points that are not packed are refused for 2 bits at some block sizes and with g_idx",
        lambda case, difference: refused(case, difference)
        and case.attributes.get("bits") == 2
        and has(case, 3)
        and case.inputs[3].dtype != "uint8",
    ),
    (
        "MatMulNBits",
        "g_idx (deprecated): refused with 8 bits",
        lambda case, difference: refused(case, difference)
        and case.attributes.get("bits") == 8
        and has(case, 4),
    ),
    (
        "MatMulNBits",
        "g_idx (deprecated): with 4 bits, packed zero points are ignored (8 is used)",
        lambda case, difference: case.attributes.get("bits", 4) == 4
        and has(case, 4)
        and has(case, 3)
        and case.inputs[3].dtype == "uint8",
    ),
    (
        "MatMulNBits",
        "g_idx (deprecated): with 2 bits, the result follows neither g_idx nor the plain block order",
        lambda case, difference: case.attributes.get("bits") == 2 and has(case, 4),
    ),
    (
        "GatherBlockQuantized",
        "uint8 data is refused when it is quantized along another axis than the last, which the documentation allows",
        lambda case, difference: refused(case, difference)
        and case.inputs[0].dtype == "uint8"
        and case.attributes.get("quantize_axis", 1) not in (-1, case.inputs[0].ndim - 1),
    ),
    (
        "TransposeMatMul",
        "transA is not applied when B is a vector: the elements of A are read in their stored order",
        lambda case, difference: case.attributes.get("transA") and case.inputs[1].ndim == 1,
    ),
    (
        "FusedMatMul",
        "transA is not applied when B is a vector: the elements of A are read in their stored order",
        lambda case, difference: case.attributes.get("transA") and case.inputs[1].ndim == 1,
    ),
    (
        "FusedGemm",
        "the attribute activation, documented as optional, is required",
        lambda case, difference: refused(case, difference) and "activation" not in case.attributes,
    ),
    (
        "FusedConv",
        "auto_pad SAME_UPPER and SAME_LOWER with a dilation are refused",
        lambda case, difference: "Dilation not supported for AutoPadType" in difference,
    ),
    (
        "DynamicQuantizeLSTM",
        "zero points per column need to be constants, and 0 (128 for unsigned weights)",
        lambda case, difference: refused(case, difference) and "point must be" in difference,
    ),
    (
        "DynamicQuantizeLSTM",
        "clip bounds the inputs of all activations but the last, which takes the cell state as it is",
        lambda case, difference: "clip" in case.attributes,
    ),
    (
        "MultiHeadAttention",
        "packed keys and values are refused, and so are packed queries, keys and values",
        lambda case, difference: refused(case, difference)
        and "Packed" in difference
        and "not implemented for CPU" in difference,
    ),
    (
        "MultiHeadAttention",
        "past keys and values are not used unless the node has the outputs present_key and present_value",
        lambda case, difference: has(case, 6) and case.outputs == [True],
    ),
    (
        "MultiHeadAttention",
        "with unidirectional, the last query sees every key, also when there are more new keys than queries",
        lambda case, difference: case.attributes.get("unidirectional")
        and has(case, 1)
        and case.inputs[1].ndim >= 3
        and keys(case.inputs[1]) > case.inputs[0].shape[1],
    ),
    (
        "Attention",
        "a past state together with an attention bias is refused",
        lambda case, difference: "cannot have both past and attention_bias" in difference,
    ),
    (
        "Attention",
        "masks with four dimensions are refused",
        lambda case, difference: refused(case, difference) and has(case, 3) and case.inputs[3].ndim == 4,
    ),
    (
        "QLinearAdd",
        "zero points of inputs, documented as optional, are required",
        lambda case, difference: refused(case, difference) and not (has(case, 2) and has(case, 5)),
    ),
    (
        "QLinearMul",
        "zero points of inputs, documented as optional, are required",
        lambda case, difference: refused(case, difference) and not (has(case, 2) and has(case, 5)),
    ),
    (
        "QLinearConv",
        "auto_pad SAME_UPPER and SAME_LOWER with a dilation are refused",
        lambda case, difference: "Dilation not supported for AutoPadType" in difference,
    ),
    (
        "QLinearAveragePool",
        "the zero point of the input, documented as optional, is required",
        lambda case, difference: refused(case, difference) and not has(case, 2),
    ),
    (
        "QLinearAveragePool",
        "with ceil_mode and count_include_pad, a window that reaches beyond the padding is divided by the kernel's whole size",
        lambda case, difference: case.attributes.get("ceil_mode")
        and case.attributes.get("count_include_pad"),
    ),
    (
        "QLinearAveragePool",
        "auto_pad SAME_UPPER with a stride above the kernel's size pads by a negative number, which shifts the windows",
        lambda case, difference: case.attributes.get("auto_pad") == "SAME_UPPER"
        and any(s > k for s, k in zip(case.attributes.get("strides", []), case.attributes["kernel_shape"])),
    ),
    (
        "UnfoldTensor",
        "types of other than 4 or 8 bytes are refused, although they are registered",
        lambda case, difference: "Unsupported data type" in difference,
    ),
    (
        "MaxpoolWithMask",
        "auto_pad SAME_UPPER with a stride above the kernel's size pads by a negative number, which shifts the windows",
        lambda case, difference: case.attributes.get("auto_pad") == "SAME_UPPER"
        and any(s > k for s, k in zip(case.attributes.get("strides", []), case.attributes["kernel_shape"])),
    ),
    (
        "Tokenizer",
        "a mincharnum above 1 is refused where strings are split into characters",
        lambda case, difference: "mincharnum is too big for char level" in difference,
    ),
    (
        "MoE",
        "a third layer (FC3) is refused, and so is SwiGLU unless swiglu_fusion is 1",
        lambda case, difference: refused(case, difference)
        and (has(case, 6) or case.attributes.get("activation_type") == "swiglu"),
    ),
    (
        "QMoE",
        "SwiGLU is refused unless swiglu_fusion is 1",
        lambda case, difference: refused(case, difference) and case.attributes.get("swiglu_fusion") in (0, 2),
    ),
    (
        "QMoE",
        "without router_weights, the chosen experts' weights are normalized even if normalize_routing_weights is 0",
        lambda case, difference: not case.attributes.get("normalize_routing_weights") and not has(case, 14),
    ),
    (
        "CausalConvWithState",
        "state_window above 0 is refused",
        lambda case, difference: refused(case, difference) and "state_window" in case.attributes,
    ),
    (
        "LinearAttention",
        "state_window above 0 is refused",
        lambda case, difference: refused(case, difference) and "state_window" in case.attributes,
    ),
    (
        "GroupQueryAttention",
        "sliding_window_cache is refused unless the head size is a multiple of 32 for 4 bits, of 16 for 8 bits",
        lambda case, difference: "sliding_window_cache: head_size" in difference,
    ),
    (
        "NhwcMaxPool",
        "auto_pad SAME_UPPER and SAME_LOWER leave the dilation out of account",
        lambda case, difference: case.attributes.get("auto_pad", "").startswith("SAME")
        and "dilations" in case.attributes,
    ),
    (
        "NhwcMaxPool",
        "auto_pad SAME_UPPER with a stride above the kernel's size pads by a negative number, which shifts the windows",
        lambda case, difference: case.attributes.get("auto_pad") == "SAME_UPPER"
        and any(s > k for s, k in zip(case.attributes.get("strides", []), case.attributes["kernel_shape"])),
    ),
]
