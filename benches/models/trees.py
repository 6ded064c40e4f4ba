"""Classical models in the forms in which their converters write them, with random thresholds."""

import numpy as np
import onnx

from net import FLOAT, INT64, Net

# How each tool goes down: scikit-learn and LightGBM to the left for at most the threshold, XGBoost for
# less, and CatBoost, whose levels ask one question each, to the right for more.
MODES = {"sklearn": "BRANCH_LEQ", "lightgbm": "BRANCH_LEQ", "xgboost": "BRANCH_LT", "catboost": "BRANCH_GT"}


def forest(name, tool, trees=100, depth=6, features=20, labels=0, opset=15):
    net = Net(name, opset, **{"ai_onnx_ml": 3})
    random, mode = net.random, MODES[tool]
    x = net.input("X", ["batch", features])
    ids, nodes, ats, values, modes, trues, falses, weights = [], [], [], [], [], [], [], []
    for tree in range(trees):
        inner = 2**depth - 1
        levels = [(int(random.integers(features)), float(random.standard_normal())) for _ in range(depth)]
        for node in range(2 * inner + 1):
            leaf = node >= inner
            # Boosted trees of CatBoost ask the same at a whole level; others cut some branches short.
            level = int(np.log2(node + 1))
            at, value = levels[level % depth] if tool == "catboost" else (
                int(random.integers(features)), float(random.standard_normal()))
            ids.append(tree)
            nodes.append(node)
            ats.append(0 if leaf else at)
            values.append(0.0 if leaf else np.float32(value).item())
            modes.append("LEAF" if leaf else mode)
            trues.append(0 if leaf else 2 * node + 1)
            falses.append(0 if leaf else 2 * node + 2)
            if leaf:
                for label in range(max(labels, 1)) if tool == "sklearn" else [tree % max(labels, 1)]:
                    weights.append((tree, node, label, float(np.float32(random.random() / trees))))
    common = dict(nodes_treeids=ids, nodes_nodeids=nodes, nodes_featureids=ats, nodes_values=values, nodes_modes=modes,
                  nodes_truenodeids=trues, nodes_falsenodeids=falses, nodes_missing_value_tracks_true=[0] * len(ids),
                  nodes_hitrates=[1.0] * len(ids), domain="ai.onnx.ml")
    tree, node, label, weight = (list(part) for part in zip(*weights))
    if labels:
        found, scores = net.add(
            "TreeEnsembleClassifier", x, outputs=2, class_treeids=tree, class_nodeids=node, class_ids=label,
            class_weights=weight, classlabels_int64s=list(range(labels)),
            post_transform="NONE" if tool == "sklearn" else "SOFTMAX", **common)
        net.output("label", found, INT64)
        net.output("probabilities", scores)
    else:
        y = net.add("TreeEnsembleRegressor", x, target_treeids=tree, target_nodeids=node, target_ids=label,
                    target_weights=weight, n_targets=1, aggregate_function="AVERAGE" if tool == "sklearn" else "SUM",
                    base_values=[0.5], post_transform="NONE", **common)
        net.output("variable", y)
    return net


def vectors(name, opset=15, features=20, count=200):
    """A support vector machine with an RBF kernel, after scaling."""
    net = Net(name, opset, **{"ai_onnx_ml": 3})
    x = net.add("Scaler", net.input("X", ["batch", features]), domain="ai.onnx.ml",
                offset=[0.1] * features, scale=[0.9] * features)
    draw = lambda *shape: net.random.standard_normal(shape).astype("f").ravel().tolist()
    y = net.add("SVMRegressor", x, domain="ai.onnx.ml", kernel_type="RBF", kernel_params=[0.05, 0.0, 3.0],
                support_vectors=draw(count, features), coefficients=draw(count), rho=[0.2], n_supports=count,
                post_transform="NONE")
    net.output("variable", y)
    return net


def neighbours(name, opset=15, features=16, count=400, nearest=5):
    """k nearest neighbours: distances, TopK, and the mean of their values, as skl2onnx writes them."""
    net = Net(name, opset)
    x = net.input("X", ["batch", features])
    known = net.draw(count, features, scale=1)
    squares = net.add("ReduceSumSquare", x, axes=[1], keepdims=1)
    products = net.add("MatMul", x, net.turn(known, 1, 0))
    distances = net.add("Sub", net.add("Add", squares, net.add("ReduceSumSquare", known, axes=[1], keepdims=0)),
                        net.add("Mul", products, net.const(2.0)))
    _, which = net.add("TopK", distances, net.ints(nearest), outputs=2, axis=1, largest=0, sorted=1)
    found = net.add("Gather", net.draw(count, scale=1), which)
    net.output("variable", net.add("ReduceMean", found, axes=[1], keepdims=1))
    return net


def logistic(name, opset=15, features=50, labels=10):
    net = Net(name, opset, **{"ai_onnx_ml": 1})
    draw = lambda *shape: net.random.standard_normal(shape).astype("f").ravel().tolist()
    found, scores = net.add("LinearClassifier", net.input("X", ["batch", features]), outputs=2, domain="ai.onnx.ml",
                            coefficients=draw(labels, features), intercepts=draw(labels), multi_class=1,
                            classlabels_ints=list(range(labels)), post_transform="SOFTMAX")
    net.output("label", found, INT64)
    net.output("probabilities", net.add("Normalizer", scores, domain="ai.onnx.ml", norm="L1"))
    return net
