"""What onnxruntime's transformer optimiser and its graph optimiser make of models of the survey."""

import onnxruntime
from onnxruntime.transformers import optimizer

from derived import entry

HEADS, WIDTH = 6, 192


def fuse(source, target, folder, base, kind, half=False):
    model = optimizer.optimize_model(
        str(source), model_type=kind, num_heads=HEADS, hidden_size=WIDTH, opt_level=0, use_gpu=False
    )
    if half:
        model.convert_float_to_float16(keep_io_types=True)
    model.save_model_to_file(str(target))


def save(source, target, folder, base, level):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])


EXTENDED = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
KINDS = {
    "hf_minilm_l6__model": "bert",
    "hf_distilbert_ner__model": "bert",
    "hf_roberta_qa__model": "bert",
    "hf_gpt2__model": "gpt2",
    "hf_vit_tiny__model": "vit",
    "hf_clip__model": "clip",
    "hf_whisper_tiny__encoder_model": "bart",
    "hf_bart_summary__encoder_model": "bart",
    "hf_xlmr_e5__model": "bert",
}

ENTRIES = [
    *(entry("fused", base, fuse, kind=kind) for base, kind in KINDS.items()),
    *(entry("fused16", base, fuse, kind=KINDS[base], half=True)
      for base in ["hf_minilm_l6__model", "hf_vit_tiny__model", "hf_gpt2__model"]),
    *(entry("ortext", base, save, level=EXTENDED) for base in [
        "hf_minilm_l6__model", "hf_qwen2__model", "hf_gpt2__model", "hf_vit_tiny__model", "hf_llama_smol__model",
        "hf_whisper_tiny__encoder_model", "q_dyn_hf_minilm_l6__model", "q_qdq_tv_mobilenet_v3_small_ts13",
        "tv_convnext_tiny_dyn", "tv_mobilenet_v3_small_ts13", "tv_resnet18_ts11", "ul_yolov8n",
        "nn_seg_unet_norms_ts17", "nn_transformer_encoder_ts17"]),
]
