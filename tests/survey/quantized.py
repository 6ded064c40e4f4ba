"""What onnxruntime's quantisers and the float16 converter make of models of the survey."""

import onnx
from onnxconverter_common import float16
from onnxruntime import quantization
from onnxruntime.quantization import matmul_nbits_quantizer, shape_inference
from onnxruntime.transformers import float16 as transformers_float16

from derived import Reader, entry


def dynamic(source, target, folder, base, **options):
    quantization.quantize_dynamic(source, target, **options)


def static(source, target, folder, base, form, **options):
    prepared = folder / "prepared.onnx"
    shape_inference.quant_pre_process(source, prepared, skip_symbolic_shape=True)
    quantization.quantize_static(prepared, target, Reader(folder, base), quant_format=form, **options)


def four_bits(source, target, folder, base, symmetric=True, form=quantization.QuantFormat.QOperator, **options):
    model = onnx.load(str(source))
    quantizer = matmul_nbits_quantizer.MatMulNBitsQuantizer(
        model, block_size=options.pop("block_size", 32), is_symmetric=symmetric, quant_format=form, **options
    )
    quantizer.process()
    quantizer.model.save_model_to_file(str(target), False)


def half(source, target, folder, base):
    # What onnxconverter-common makes of optimum's models, onnxruntime refuses for its types.
    converter = transformers_float16 if base.startswith("hf_") else float16
    model = converter.convert_float_to_float16(onnx.load(str(source)), keep_io_types=True)
    onnx.save(model, str(target))


TEXTS = ["hf_minilm_l6__model", "hf_distilbert_ner__model", "hf_gpt2__model", "hf_qwen2__model", "hf_xlmr_e5__model"]
VISION = ["tv_mobilenet_v3_small_ts13", "tv_efficientnet_b0_dyn", "tv_resnet18_ts11", "ul_yolov8n", "ul_yolov8n_cls"]
QDQ, OPERATORS = quantization.QuantFormat.QDQ, quantization.QuantFormat.QOperator
INT8, UINT8 = quantization.QuantType.QInt8, quantization.QuantType.QUInt8

ENTRIES = [
    *(entry("q_dyn", base, dynamic) for base in TEXTS),
    entry("q_dyn", "hf_t5_small__decoder_model_merged", dynamic),
    entry("q_dyn", "hf_t5_small__encoder_model", dynamic),
    entry("q_dyn", "hf_whisper_tiny__encoder_model", dynamic, op_types_to_quantize=["MatMul"]),
    entry("q_dyn", "hf_vit_tiny__model", dynamic, op_types_to_quantize=["MatMul"]),
    entry("q_dyn", "nn_rnn_lstm_state_ts14", dynamic),
    entry("q_dyn", "nn_audio_stft_gru_ts17", dynamic),
    entry("q_dyn", "nn_transformer_encoder_ts17", dynamic),
    entry("q_dynu8pc", "hf_minilm_l6__model", dynamic, weight_type=UINT8, per_channel=True),
    entry("q_dynrr", "hf_minilm_l6__model", dynamic, reduce_range=True),
    *(entry("q_qdq", base, static, form=QDQ) for base in VISION),
    entry("q_qdq", "hf_vit_tiny__model", static, form=QDQ),
    entry("q_qdq", "hf_minilm_l6__model", static, form=QDQ),
    entry("q_qdq_pc", "tv_mobilenet_v3_small_ts13", static, form=QDQ, per_channel=True, activation_type=UINT8, weight_type=INT8),
    entry("q_qdq_16", "tv_resnet18_ts11", static, form=QDQ, activation_type=quantization.QuantType.QUInt16, weight_type=INT8, extra_options={"UseQDQContribOps": True}),
    *(entry("q_qop", base, static, form=OPERATORS) for base in VISION),
    entry("q_qop", "nn_seg_unet_norms_ts17", static, form=OPERATORS, activation_type=UINT8, weight_type=INT8),
    *(entry("q4", base, four_bits) for base in ["hf_minilm_l6__model", "hf_llama_smol__model", "hf_qwen2__model", "hf_whisper_tiny__encoder_model"]),
    entry("q4asym", "hf_qwen2__model", four_bits, symmetric=False),
    entry("q4b64", "hf_qwen2__model", four_bits, block_size=64),
    entry("q4a4", "hf_minilm_l6__model", four_bits, accuracy_level=4),
    entry("q4qdq", "hf_qwen2__model", four_bits, form=QDQ),
    *(entry("fp16", base, half) for base in [
        "hf_minilm_l6__model", "hf_qwen2__model", "hf_gpt2__model", "hf_whisper_tiny__encoder_model", "hf_vit_tiny__model",
        "hf_t5_small__encoder_model", "tv_mobilenet_v3_small_ts13", "tv_resnet18_dyn", "ul_yolov8n", "nn_seg_unet_norms_ts17",
        "nn_rnn_lstm_state_ts14"]),
]
