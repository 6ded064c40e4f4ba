#!/usr/bin/env python3
"""Classical models, trained by scikit-learn and exported by skl2onnx, as JSON, with what onnxruntime
makes of some inputs.

How to run, from the repository's root, in a Python environment of its own (scikit-learn 1.9.1,
skl2onnx 1.20.0, onnxruntime 1.32.0):

    python3 -m venv target/sklearn-venv
    target/sklearn-venv/bin/pip install scikit-learn skl2onnx onnxruntime
    target/sklearn-venv/bin/python tests/expectations/classical/make.py

It rewrites the .json files in its folder. Models are kept as JSON, from which tests/models/classical.rs writes
the same ONNX files, so that nobody who runs the tests needs Python, and no model is a file in git.
All training data are random, from fixed seeds.
"""

import json
import pathlib
import sys

import numpy as np
import onnx
import onnxruntime as ort
import skl2onnx
import sklearn
from onnx import numpy_helper
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    MinMaxScaler,
    Normalizer,
    OneHotEncoder,
    OrdinalEncoder,
    StandardScaler,
)
from sklearn.svm import SVC, SVR, LinearSVC
from sklearn.tree import DecisionTreeClassifier

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from stored import described, value  # noqa: E402

def write(name, model, feeds, agrees=None):
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    content = model.SerializeToString()
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    outputs = session.run(None, feeds)
    if agrees is not None:
        assert (np.asarray(outputs[0]).ravel() == np.asarray(agrees).ravel()).all(), name
    entry = {
        "model": described(model),
        "inputs": [value(key, array) for key, array in feeds.items()],
        "outputs": [
            value(out.name, array) for out, array in zip(session.get_outputs(), outputs, strict=True)
        ],
    }
    text = json.dumps(entry, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"
    (HERE / f"{name}.json").write_text(text)
    operators = sorted({(node.domain + ":" if node.domain else "") + node.op_type
                        for node in model.graph.node})
    print(f"{name}: {len(content)} bytes, JSON {len(text)}: {', '.join(operators)}")


def numbers(name, trained, rows):
    """A model of numbers alone."""
    labels = trained.predict(rows) if hasattr(trained, "predict") else None
    if labels is not None and labels.dtype.kind == "f":
        labels = None
    classifier = hasattr(trained, "classes_") and not isinstance(trained, LinearSVC)
    options = {id(trained): {"zipmap": False}} if classifier else None
    write(name, to_onnx(trained, rows[:1], options=options), {"X": rows}, labels)


def main():
    for old in HERE.glob("*.json"):
        old.unlink()
    random = np.random.RandomState(0)
    x = random.randn(200, 4).astype(np.float32)
    two = (x[:, 0] + x[:, 1] * x[:, 2] > 0).astype(np.int64)
    three = np.digitize(x[:, 0] + 0.5 * x[:, 3], [-0.5, 0.6])
    named = np.array(["low", "middle", "high"])[three]
    y = (2 * x[:, 0] - x[:, 1] ** 2 + 0.5).astype(np.float32)
    rows = np.round(random.randn(6, 4), 3).astype(np.float32)

    few = dict(n_estimators=6, max_depth=3, random_state=0)
    numbers("random_forest", RandomForestClassifier(**few).fit(x, three), rows)
    numbers("random_forest_of_two", RandomForestClassifier(**few).fit(x, two), rows)
    numbers("random_forest_regression", RandomForestRegressor(**few).fit(x, y), rows)
    numbers("decision_tree", DecisionTreeClassifier(max_depth=4, random_state=0).fit(x, named), rows)
    numbers("boosting", GradientBoostingClassifier(**few).fit(x, named), rows)
    numbers("boosting_of_two", GradientBoostingClassifier(**few).fit(x, two), rows)
    numbers("boosting_regression", GradientBoostingRegressor(**few).fit(x, y), rows)
    numbers("logistic_regression", LogisticRegression().fit(x, named), rows)
    numbers("logistic_regression_of_two", LogisticRegression().fit(x, two), rows)
    numbers("linear_regression", LinearRegression().fit(x, y), rows)
    numbers("svc", SVC(C=0.5).fit(x[:60], three[:60]), rows)
    numbers("svc_of_two", SVC(kernel="poly", degree=2).fit(x[:60], two[:60]), rows)
    numbers("linear_svc", LinearSVC().fit(x, named), rows)
    numbers("svr", SVR().fit(x[:40], y[:40]), rows)
    numbers("naive_bayes", GaussianNB().fit(x, three), rows)
    numbers("perceptron", MLPClassifier((5,), max_iter=300, random_state=0).fit(x, three), rows)
    numbers("k_means", KMeans(3, n_init=1, random_state=0).fit(x), rows)
    numbers("pca", make_pipeline(MinMaxScaler(), PCA(2, random_state=0)).fit(x), rows)
    numbers("normalizer", make_pipeline(Normalizer("l1"), LogisticRegression()).fit(x, two), rows)

    # Columns of numbers, one of them with gaps, and columns of texts.
    city = random.choice(["Oslo", "Lima", "Pune"], 200).astype(object)
    size = random.choice(["s", "m", "l"], 200).astype(object)
    table = np.concatenate([x[:, :2].astype(object), city[:, None], size[:, None]], axis=1)
    columns = ColumnTransformer([
        ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), [0, 1]),
        ("city", OneHotEncoder(handle_unknown="ignore"), [2]),
        ("size", OrdinalEncoder(categories=[["s", "m", "l"]]), [3]),
    ])
    wants = ((city == "Lima") | (x[:, 0] > 0.5)).astype(np.int64)
    wants = np.array(["no", "yes"])[wants]
    pipeline = make_pipeline(columns, LogisticRegression()).fit(table, wants)
    given = {
        "amount": np.array([[0.5], [np.nan], [2.25], [-1.0]], np.float32),
        "age": np.array([[1.5], [0.25], [-0.5], [0.0]], np.float32),
        "city": np.array([["Lima"], ["Oslo"], ["Pune"], ["Rome"]], object),
        "size": np.array([["s"], ["m"], ["l"], ["s"]], object),
    }
    types = [
        (name, (FloatTensorType if array.dtype == np.float32 else StringTensorType)([None, 1]))
        for name, array in given.items()
    ]
    exported = to_onnx(pipeline, initial_types=types, options={id(pipeline): {"zipmap": False}})
    write("columns", exported, given)

    # Texts: scikit-learn's own way of cutting them is a regular expression, which skl2onnx exports as
    # the operator Tokenizer of onnxruntime, which is not part of ONNX. What ONNX has is StringSplit: it
    # is put before the vectorizer, which is trained on tokens.
    texts = ["the red fox", "a red hen", "the big fox and the hen", "big red barn", "a small barn"]
    animals = np.array([1, 1, 1, 0, 0])
    for name, vectorizer in [
        ("counts", CountVectorizer(token_pattern=r"\S+", ngram_range=(1, 2))),
        ("tfidf", TfidfVectorizer(token_pattern=r"\S+")),
    ]:
        write_texts(name, vectorizer, texts, animals)

    versions = {"scikit-learn": sklearn.__version__, "skl2onnx": skl2onnx.__version__,
                "onnxruntime": ort.__version__, "numpy": np.__version__}
    print(versions)


def write_texts(name, vectorizer, texts, labels):
    counted = vectorizer.fit_transform(texts)
    classifier = LogisticRegression().fit(counted, labels)
    grams = sorted(vectorizer.vocabulary_, key=lambda gram: (gram.count(" "), gram))
    order = [int(vectorizer.vocabulary_[gram]) for gram in grams]
    starts = [0, sum(" " not in gram for gram in grams)]
    longest = vectorizer.ngram_range[1]
    helper = onnx.helper
    nodes = [
        helper.make_node("StringSplit", ["text"], ["tokens", "number"], delimiter=" "),
        helper.make_node(
            "TfIdfVectorizer", ["tokens"], ["counts"], mode="TF", min_gram_length=1,
            max_gram_length=longest, max_skip_count=0, ngram_counts=starts[:longest],
            ngram_indexes=order, pool_strings=[token for gram in grams for token in gram.split()],
        ),
    ]
    weighted = "counts"
    if hasattr(vectorizer, "idf_"):
        idf = numpy_helper.from_array(vectorizer.idf_.astype(np.float32)[None], "idf")
        nodes.append(helper.make_node("Mul", ["counts", "idf"], ["weighted"]))
        nodes.append(
            helper.make_node("Normalizer", ["weighted"], ["features"], domain="ai.onnx.ml", norm="L2")
        )
        weighted, initializers = "features", [idf]
    else:
        initializers = []
    # A model of numbers from skl2onnx behind them.
    behind = to_onnx(
        classifier, initial_types=[(weighted, FloatTensorType([None, counted.shape[1]]))],
        options={id(classifier): {"zipmap": False}}, target_opset={"": 20, "ai.onnx.ml": 1},
    )
    graph = helper.make_graph(
        nodes + list(behind.graph.node), name,
        [helper.make_tensor_value_info("text", onnx.TensorProto.STRING, [None])],
        list(behind.graph.output), initializers + list(behind.graph.initializer),
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.ml", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    given = ["the small fox", "a big red barn", "hen", "quite another thing"]
    write(name, model, {"text": np.array(given, object)},
          classifier.predict(vectorizer.transform(given)))


main()
