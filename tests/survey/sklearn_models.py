"""Estimators and pipelines of scikit-learn, converted by skl2onnx."""

import numpy as np
import skl2onnx
from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType
from sklearn import (
    calibration,
    cluster,
    compose,
    cross_decomposition,
    decomposition,
    discriminant_analysis,
    ensemble,
    feature_extraction,
    feature_selection,
    gaussian_process,
    impute,
    linear_model,
    mixture,
    naive_bayes,
    neighbors,
    neural_network,
    pipeline,
    preprocessing,
    svm,
    tree,
)

from entry import Entry, Inputs

ROWS, FEATURES = 300, 8


def numbers():
    random = np.random.default_rng(0)
    return random.standard_normal((ROWS, FEATURES)).astype("float32")


def classes(x):
    return (x[:, 0] + x[:, 1] * x[:, 2] > 0).astype(int) + (x[:, 3] > 0.5)


def amounts(x):
    return 3 * x[:, 0] - x[:, 1] ** 2 + x[:, 2]


def save(model, folder, types, **options):
    made = skl2onnx.convert_sklearn(model, initial_types=types, **options)
    (folder / "model.onnx").write_bytes(made.SerializeToString())


def float_entry(name, build, target, sizes=(5, 9), zipmap=False, values=None, **options):
    """An estimator on columns of floats. `target` makes what it learns from the columns."""

    def make(folder):
        x = numbers()
        model = build()
        model.fit(x, target(x)) if target else model.fit(x)
        last = model.steps[-1][1] if isinstance(model, pipeline.Pipeline) else model
        settings = options.get("settings")
        if settings is None and hasattr(last, "predict_proba") and target is classes:
            settings = {} if zipmap else {id(model): {"zipmap": False}}
        # The converter of IsolationForest writes no newer operator sets.
        versions = {"": 15, "ai.onnx.ml": 3} if name == "isoforest" else None
        types = [("X", FloatTensorType([None, FEATURES]))]
        save(model, folder, types, options=settings or None, target_opset=versions)

    return Entry(f"sk_{name}", make, Inputs({"X:0": sizes, "batch": sizes}, values or {}))




TEXTS = np.array([
    "the quick brown fox", "a lazy dog sleeps", "foxes and dogs run", "rain falls on the town",
    "sun over the quiet town", "dogs chase the fox", "clouds bring more rain", "a brown dog in the rain",
])
TOPICS = np.array([0, 0, 0, 1, 1, 0, 1, 1])


def text_entry(name, build):
    def make(folder):
        model = build()
        model.fit(TEXTS, TOPICS)
        # The default, en_US, is not on every machine, and onnxruntime refuses a model without it.
        options = {id(model): {"zipmap": False}, id(model.steps[0][1]): {"locale": "C"}}
        save(model, folder, [("X", StringTensorType([None]))], options=options)

    values = {"X": lambda shape, random: random.choice(TEXTS, shape)}
    return Entry(f"sk_{name}", make, Inputs({"X:0": (3, 5), "N": (3, 5)}, values))


COLORS, PLACES = ["red", "green", "blue"], [1, 2, 3, 5]


def columns_entry(name, encoder):
    """Columns of strings, integers and floats."""

    def make(folder):
        import pandas

        random = np.random.default_rng(0)
        frame = pandas.DataFrame({
            "color": random.choice(COLORS, ROWS),
            "place": random.choice(PLACES, ROWS),
            "size": random.standard_normal(ROWS).astype("float32"),
        })
        y = ((frame["size"] > 0) ^ (frame["color"] == "red")).astype(int)
        columns = compose.ColumnTransformer([
            ("words", encoder(), ["color"]),
            ("codes", preprocessing.OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["place"]),
            ("numbers", preprocessing.StandardScaler(), ["size"]),
        ])
        model = pipeline.make_pipeline(columns, linear_model.LogisticRegression())
        model.fit(frame, y)
        types = [
            ("color", StringTensorType([None, 1])),
            ("place", Int64TensorType([None, 1])),
            ("size", FloatTensorType([None, 1])),
        ]
        save(model, folder, types, options={id(model): {"zipmap": False}})

    values = {
        "color": lambda shape, random: random.choice(COLORS, shape),
        "place": lambda shape, random: random.choice(PLACES, shape),
    }
    sizes = {f"{column}:0": (4, 7) for column in ("color", "place", "size")}
    return Entry(f"sk_{name}", make, Inputs(sizes | {"batch": (4, 7)}, values))


def with_gaps(shape, random):
    x = random.standard_normal(shape).astype("float32")
    x[random.random(shape) < 0.2] = np.nan
    return x


def positive(shape, random):
    return random.integers(0, 9, shape).astype("float32")


def absolute(build):
    """Estimators of counts learn from positive numbers."""
    return pipeline.make_pipeline(preprocessing.MinMaxScaler(), build)


join = pipeline.make_pipeline
CLASSIFIERS = {
    "logreg": lambda: linear_model.LogisticRegression(),
    "sgd": lambda: linear_model.SGDClassifier(loss="modified_huber", random_state=0),
    "perceptron": lambda: linear_model.Perceptron(random_state=0),
    "ridge_cls": lambda: linear_model.RidgeClassifier(),
    "linear_svc": lambda: svm.LinearSVC(random_state=0),
    "svc_rbf": lambda: svm.SVC(probability=True, random_state=0),
    "svc_poly": lambda: svm.SVC(kernel="poly", degree=2),
    "nusvc_sigmoid": lambda: svm.NuSVC(kernel="sigmoid", nu=0.2),
    "nb": lambda: naive_bayes.GaussianNB(),
    "complement_nb": lambda: absolute(naive_bayes.ComplementNB()),
    "bernoulli_nb": lambda: naive_bayes.BernoulliNB(),
    "tree": lambda: tree.DecisionTreeClassifier(max_depth=6, random_state=0),
    "rf_pipeline": lambda: join(preprocessing.StandardScaler(), ensemble.RandomForestClassifier(25, max_depth=6, random_state=0)),
    "extra_trees": lambda: ensemble.ExtraTreesClassifier(20, max_depth=6, random_state=0),
    "gbc": lambda: ensemble.GradientBoostingClassifier(n_estimators=20, random_state=0),
    "hist_gbc": lambda: ensemble.HistGradientBoostingClassifier(max_iter=20, random_state=0),
    "adaboost": lambda: ensemble.AdaBoostClassifier(n_estimators=10, random_state=0),
    "bagging": lambda: ensemble.BaggingClassifier(n_estimators=5, random_state=0),
    "voting": lambda: ensemble.VotingClassifier([("a", linear_model.LogisticRegression()), ("b", tree.DecisionTreeClassifier(max_depth=4))], voting="soft", flatten_transform=False),
    "stacking": lambda: ensemble.StackingClassifier([("a", linear_model.LogisticRegression()), ("b", tree.DecisionTreeClassifier(max_depth=4))]),
    "knn": lambda: neighbors.KNeighborsClassifier(5),
    "mlp": lambda: neural_network.MLPClassifier((24, 12), max_iter=60, random_state=0),
    "lda": lambda: discriminant_analysis.LinearDiscriminantAnalysis(),
    "qda": lambda: discriminant_analysis.QuadraticDiscriminantAnalysis(),
    "calibrated": lambda: calibration.CalibratedClassifierCV(linear_model.LogisticRegression(), cv=3),
    "pca_logreg": lambda: join(decomposition.PCA(4), linear_model.LogisticRegression()),
    "select_logreg": lambda: join(feature_selection.SelectKBest(k=4), linear_model.LogisticRegression()),
    "poly_logreg": lambda: join(preprocessing.PolynomialFeatures(2), linear_model.LogisticRegression(max_iter=500)),
}
REGRESSORS = {
    "linear": lambda: linear_model.LinearRegression(),
    "lasso": lambda: linear_model.Lasso(0.1),
    "bayes_ridge": lambda: linear_model.BayesianRidge(),
    "poisson": lambda: join(preprocessing.StandardScaler(), linear_model.TweedieRegressor(power=0)),
    "svr": lambda: svm.SVR(),
    "gbr": lambda: ensemble.GradientBoostingRegressor(n_estimators=25, random_state=0),
    "hist_gbr": lambda: ensemble.HistGradientBoostingRegressor(max_iter=25, random_state=0),
    "rf_reg": lambda: ensemble.RandomForestRegressor(20, max_depth=6, random_state=0),
    "knn_reg": lambda: neighbors.KNeighborsRegressor(4),
    "gpr": lambda: gaussian_process.GaussianProcessRegressor(gaussian_process.kernels.RBF(2.0), alpha=1e-2),
    "mlp_reg": lambda: neural_network.MLPRegressor(hidden_layer_sizes=(24,), activation="tanh", max_iter=60, random_state=0),
    "pls": lambda: cross_decomposition.PLSRegression(2),
}
OTHERS = {
    "kmeans": lambda: cluster.KMeans(4, random_state=0, n_init=2),
    "isoforest": lambda: ensemble.IsolationForest(n_estimators=20, random_state=0),
    "ocsvm": lambda: svm.OneClassSVM(nu=0.1),
    "lof": lambda: neighbors.LocalOutlierFactor(novelty=True),
    "gmm": lambda: mixture.GaussianMixture(3, random_state=0),
    "pca": lambda: decomposition.PCA(3),
    "svd": lambda: decomposition.TruncatedSVD(3, random_state=0),
    "scalers": lambda: join(preprocessing.RobustScaler(), preprocessing.PowerTransformer(), preprocessing.Normalizer()),
    "bins": lambda: preprocessing.KBinsDiscretizer(4, encode="onehot-dense", strategy="uniform"),
    "quantile": lambda: preprocessing.QuantileTransformer(n_quantiles=50),
}

ENTRIES = [
    *(float_entry(name, build, classes) for name, build in CLASSIFIERS.items()),
    float_entry("logreg_zipmap_default", lambda: linear_model.LogisticRegression(), classes, zipmap=True),
    *(float_entry(name, build, amounts) for name, build in REGRESSORS.items()),
    *(float_entry(name, build, None) for name, build in OTHERS.items()),
    float_entry("imputer", lambda: join(impute.SimpleImputer(), preprocessing.StandardScaler()), None,
                values={"X": with_gaps}),
    float_entry("knn_imputer", lambda: impute.KNNImputer(n_neighbors=3), None, values={"X": with_gaps}),
    columns_entry("columns_onehot", lambda: preprocessing.OneHotEncoder(handle_unknown="ignore", sparse_output=False)),
    columns_entry("columns_ordinal", lambda: preprocessing.OrdinalEncoder()),
    text_entry("tfidf_logreg", lambda: join(feature_extraction.text.TfidfVectorizer(), linear_model.LogisticRegression())),
    text_entry("tfidf_char", lambda: join(feature_extraction.text.TfidfVectorizer(analyzer="char", ngram_range=(2, 3)), linear_model.LogisticRegression())),
    text_entry("count_nb", lambda: join(feature_extraction.text.CountVectorizer(), naive_bayes.MultinomialNB())),
]
