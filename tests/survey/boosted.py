"""LightGBM and XGBoost, converted by onnxmltools, and CatBoost, which writes ONNX by itself."""

import catboost
import lightgbm
import numpy as np
import onnxmltools
import xgboost
from onnxmltools.convert.common.data_types import FloatTensorType
from skl2onnx import to_onnx, update_registered_converter
from skl2onnx.common.shape_calculator import calculate_linear_classifier_output_shapes
from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm

from entry import Entry, Inputs

FEATURES = 8
TYPES = [("X", FloatTensorType([None, FEATURES]))]
HINTS = Inputs({"X:0": (5, 9), "features:0": (5, 9), "N": (5, 9), "batch": (5, 9)})


def data(kinds=2):
    random = np.random.default_rng(0)
    x = random.standard_normal((400, FEATURES)).astype("float32")
    score = x[:, 0] + x[:, 1] * x[:, 2]
    return x, score, np.digitize(score, np.linspace(-1, 1, kinds - 1)) if kinds > 2 else (score > 0).astype(int)


def save(model, folder):
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def light(name, build, target, **options):
    def make(folder):
        x, score, classes = data(4 if target == "multiclass" else 2)
        model = build().fit(x, score if target == "amount" else classes)
        if options.get("by_skl2onnx"):
            update_registered_converter(
                lightgbm.LGBMClassifier, "LightGbmLGBMClassifier",
                calculate_linear_classifier_output_shapes, convert_lightgbm,
                options={"nocl": [True, False], "zipmap": [True, False, "columns"]},
            )
            save(to_onnx(model, x[:1], options={id(model): {"zipmap": False}},
                         target_opset={"": 15, "ai.onnx.ml": 3}), folder)
            return
        save(onnxmltools.convert_lightgbm(model, initial_types=TYPES, target_opset=15, **options), folder)

    return Entry(f"lgbm_{name}", make, HINTS)


def extreme(name, build, target):
    def make(folder):
        x, score, classes = data(4 if target == "multiclass" else 2)
        model = build().fit(x, score if target == "amount" else classes)
        save(onnxmltools.convert_xgboost(model, initial_types=TYPES, target_opset=15), folder)

    return Entry(f"xgb_{name}", make, HINTS)


def cat(name, build, target):
    def make(folder):
        x, score, classes = data(4 if target == "multiclass" else 2)
        model = build().fit(x, score if target == "amount" else classes)
        model.save_model(str(folder / "model.onnx"), format="onnx")

    return Entry(f"cat_{name}", make, HINTS)


LIGHT = dict(n_estimators=30, num_leaves=15, n_jobs=1, verbose=-1, random_state=0)
EXTREME = dict(n_estimators=30, max_depth=4, n_jobs=1, random_state=0)
CAT = dict(iterations=30, depth=4, verbose=False, thread_count=1, random_seed=0, allow_writing_files=False)

ENTRIES = [
    light("cls_default", lambda: lightgbm.LGBMClassifier(**LIGHT), "class"),
    light("cls_nozipmap", lambda: lightgbm.LGBMClassifier(**LIGHT), "class", zipmap=False),
    light("multiclass", lambda: lightgbm.LGBMClassifier(**LIGHT), "multiclass", zipmap=False),
    light("cls_skl2onnx", lambda: lightgbm.LGBMClassifier(**LIGHT), "class", by_skl2onnx=True),
    light("reg", lambda: lightgbm.LGBMRegressor(**LIGHT), "amount"),
    light("reg_huber", lambda: lightgbm.LGBMRegressor(**LIGHT, objective="huber"), "amount"),
    light("dart", lambda: lightgbm.LGBMRegressor(**LIGHT, boosting_type="dart"), "amount"),
    extreme("cls", lambda: xgboost.XGBClassifier(**EXTREME), "class"),
    extreme("multiclass", lambda: xgboost.XGBClassifier(**EXTREME), "multiclass"),
    extreme("reg", lambda: xgboost.XGBRegressor(**EXTREME), "amount"),
    extreme("rf", lambda: xgboost.XGBRFRegressor(**EXTREME), "amount"),
    extreme("reg_huber", lambda: xgboost.XGBRegressor(**EXTREME, objective="reg:pseudohubererror"), "amount"),
    cat("cls", lambda: catboost.CatBoostClassifier(**CAT), "class"),
    cat("multiclass", lambda: catboost.CatBoostClassifier(**CAT), "multiclass"),
    cat("reg", lambda: catboost.CatBoostRegressor(**CAT), "amount"),
    cat("quantile", lambda: catboost.CatBoostRegressor(**CAT, loss_function="Quantile:alpha=0.9"), "amount"),
]
