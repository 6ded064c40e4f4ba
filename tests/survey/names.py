"""The tools of the survey, by the first letters of their rows."""

# Prefix of the rows, module that makes them, what the tool is called in the table.
TOOLS = [
    ("hf_", "hf", "transformers 4 with optimum"),
    ("hf5_", "hf5", "transformers 5 with torch's dynamo exporter"),
    ("nn_", "torch_models", "torch, plain modules"),
    ("tv_", "vision", "torchvision"),
    ("ul_", "ultralytics_models", "ultralytics"),
    ("sk_", "sklearn_models", "scikit-learn with skl2onnx"),
    ("lgbm_", "boosted", "LightGBM with onnxmltools"),
    ("xgb_", "boosted", "XGBoost with onnxmltools"),
    ("cat_", "boosted", "CatBoost"),
    ("genai_", "genai", "onnxruntime-genai's builder"),
    ("q_dyn", "quantized", "onnxruntime, dynamic int8"),
    ("q_qdq_", "quantized", "onnxruntime, static int8 (QDQ)"),
    ("q_qop_", "quantized", "onnxruntime, static int8 (QOperator)"),
    ("q4", "quantized", "onnxruntime, 4-bit weights"),
    ("fp16_", "quantized", "converted to float16"),
    ("fused_", "fused", "onnxruntime.transformers"),
    ("fused16_", "fused", "onnxruntime.transformers, float16"),
    ("ortext_", "fused", "saved by onnxruntime (extended)"),
    ("pkg_", "packages", "models in packages"),
]


def of_module(module):
    """The prefixes of the rows that a module makes."""
    return [prefix for prefix, maker, _ in TOOLS if maker == module]


def tool(row):
    """The tool of a row: that of the longest prefix."""
    found = [entry for entry in TOOLS if row.startswith(entry[0])]
    return max(found, key=lambda entry: len(entry[0]))[2] if found else "other"
