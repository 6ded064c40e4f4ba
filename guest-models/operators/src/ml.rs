//! Operators of the domain `ai.onnx.ml`: trees, linear models, support vectors, and the preparation
//! of columns.

use crate::entry::Values::{
    AnyFloat, AnyInts, AnyText, AnyTexts, Float, Floats, Int, Tensor, Text,
};
use crate::entry::{Attribute, ML, NEWEST_ML, Operator, Output, any, attr, flag, must, op, t};
use crate::types::{F32, F64, FLOATS, I16, I32, I64, STRING, Types};

/// The numeric types that these operators compute with.
const DATA: Types = F32.or(F64).or(INTS);
const INTS: Types = I32.or(I64);
/// The types that labels are converted between.
const KEYS: Types = DATA.or(I16).or(STRING);

const IS_F32: &[Output] = &[Output::Is(F32)];
/// A sequence of maps, which the gate replaces by tensors.
const MAPS: &[Output] = &[Output::Special];
/// The types of the values of maps.
const MAPPED: Types = F32.or(F64).or(I64).or(STRING);
const CAST: &[Output] =
    &[Output::ByText("cast_to", &[("TO_STRING", STRING), ("TO_INT64", I64)], F32)];
const LABELS: &[Attribute] = &[label("classlabels_int64s"), attr("classlabels_strings", AnyTexts)];
const VOCABULARY: &[Attribute] = &[label("int64_vocabulary"), attr("string_vocabulary", AnyTexts)];
const CASTING: &[Attribute] = &[
    attr("cast_to", Text(&["TO_FLOAT", "TO_STRING", "TO_INT64"])),
    attr("map_form", Text(&["DENSE", "SPARSE"])),
    attr("max_map", Int(1, 1 << 24)),
];

/// The operators of maps in the form that the gate gives them: a map is its keys and its values, and
/// a sequence of maps also has the number of entries of each.
pub(crate) const IN_TENSORS: &[Operator] = &[
    ml("ZipMap", 1, &[any(F32)])
        .to(&[
            Output::With(&[("classlabels_strings", STRING)], I64),
            Output::Is(F32),
            Output::Is(I64),
        ])
        .with(LABELS),
    ml("DictVectorizer", 1, &[any(I64.or(STRING)), t(MAPPED)]).with(VOCABULARY),
    ml("CastMap", 1, &[any(I64), any(F32.or(STRING))]).to(CAST).with(CASTING),
];

/// Class and scores; classes are integers or strings.
const CLASSES: &[Output] =
    &[Output::With(&[("classlabels_strings", STRING)], I64), Output::Is(F32)];
const SWAPPED: &[Output] = &[Output::Swapped];
const VALUES: &[Output] = &[Output::With(
    &[("values_strings", STRING), ("values_floats", F32), ("values_tensor", KEYS)],
    I64,
)];

const fn ml(name: &'static str, since: i64, inputs: &'static [crate::entry::Input]) -> Operator {
    Operator { domain: ML, until: NEWEST_ML, ..op(name, since, inputs) }
}

const fn label(name: &'static str) -> Attribute {
    attr(name, AnyInts)
}

const TRANSFORM: Attribute =
    attr("post_transform", Text(&["NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT"]));
const NO_TRANSFORM: Attribute = attr("post_transform", Text(&["NONE"]));
const KERNEL: Attribute = attr("kernel_type", Text(&["LINEAR", "POLY", "RBF", "SIGMOID"]));
const AGGREGATE: Attribute = attr("aggregate_function", Text(&["AVERAGE", "SUM", "MIN", "MAX"]));

#[rustfmt::skip]
pub(crate) const OPERATORS: &[Operator] = &[
    ml("TreeEnsembleClassifier", 1, &[any(DATA)]).until(4).to(CLASSES)
        .with(&[must("nodes_treeids", AnyInts), must("nodes_nodeids", AnyInts), must("nodes_featureids", AnyInts),
            must("nodes_modes", AnyTexts), attr("nodes_values", Floats), attr("nodes_values_as_tensor", Tensor),
            must("nodes_truenodeids", AnyInts), must("nodes_falsenodeids", AnyInts), attr("nodes_hitrates", Floats),
            attr("nodes_hitrates_as_tensor", Tensor), attr("nodes_missing_value_tracks_true", AnyInts),
            must("class_treeids", AnyInts), must("class_nodeids", AnyInts), must("class_ids", AnyInts),
            attr("class_weights", Floats), attr("class_weights_as_tensor", Tensor), attr("base_values", Floats),
            attr("base_values_as_tensor", Tensor), label("classlabels_int64s"), attr("classlabels_strings", AnyTexts),
            TRANSFORM]),
    ml("TreeEnsembleRegressor", 1, &[any(DATA)]).until(4).to(IS_F32)
        .with(&[must("nodes_treeids", AnyInts), must("nodes_nodeids", AnyInts), must("nodes_featureids", AnyInts),
            must("nodes_modes", AnyTexts), attr("nodes_values", Floats), attr("nodes_values_as_tensor", Tensor),
            must("nodes_truenodeids", AnyInts), must("nodes_falsenodeids", AnyInts), attr("nodes_hitrates", Floats),
            attr("nodes_hitrates_as_tensor", Tensor), attr("nodes_missing_value_tracks_true", AnyInts),
            must("target_treeids", AnyInts), must("target_nodeids", AnyInts), must("target_ids", AnyInts),
            attr("target_weights", Floats), attr("target_weights_as_tensor", Tensor), attr("base_values", Floats),
            attr("base_values_as_tensor", Tensor), must("n_targets", Int(1, 65536)), AGGREGATE, TRANSFORM]),
    ml("TreeEnsemble", 5, &[t(FLOATS)])
        .with(&[must("tree_roots", AnyInts), must("nodes_featureids", AnyInts), must("nodes_splits", Tensor),
            must("nodes_modes", Tensor), must("nodes_truenodeids", AnyInts), must("nodes_falsenodeids", AnyInts),
            must("nodes_trueleafs", AnyInts), must("nodes_falseleafs", AnyInts), attr("nodes_hitrates", Tensor),
            attr("nodes_missing_value_tracks_true", AnyInts), attr("membership_values", Tensor),
            must("leaf_targetids", AnyInts), must("leaf_weights", Tensor), must("n_targets", Int(1, 65536)),
            attr("aggregate_function", Int(0, 3)), attr("post_transform", Int(0, 4))]),
    ml("LinearClassifier", 1, &[any(DATA)]).to(CLASSES)
        .with(&[must("coefficients", Floats), attr("intercepts", Floats), label("classlabels_ints"),
            attr("classlabels_strings", AnyTexts), flag("multi_class"), TRANSFORM]),
    ml("LinearRegressor", 1, &[any(DATA)]).to(IS_F32)
        .with(&[must("coefficients", Floats), attr("intercepts", Floats), attr("targets", Int(1, 65536)), NO_TRANSFORM]),
    ml("SVMClassifier", 1, &[any(DATA)]).to(CLASSES)
        .with(&[must("coefficients", Floats), must("support_vectors", Floats), must("vectors_per_class", AnyInts),
            must("rho", Floats), attr("prob_a", Floats), attr("prob_b", Floats), attr("kernel_params", Floats), KERNEL,
            label("classlabels_ints"), attr("classlabels_strings", AnyTexts), TRANSFORM]),
    ml("SVMRegressor", 1, &[any(DATA)]).to(IS_F32)
        .with(&[must("coefficients", Floats), attr("support_vectors", Floats), attr("n_supports", Int(0, 1 << 24)),
            must("rho", Floats), attr("kernel_params", Floats), KERNEL, flag("one_class"), NO_TRANSFORM]),
    ml("Scaler", 1, &[any(DATA)]).to(IS_F32).with(&[must("offset", Floats), must("scale", Floats)]),
    ml("Normalizer", 1, &[any(DATA)]).to(IS_F32).with(&[attr("norm", Text(&["MAX", "L1", "L2"]))]),
    ml("OneHotEncoder", 1, &[any(DATA.or(STRING))]).to(IS_F32)
        .with(&[attr("cats_int64s", AnyInts), attr("cats_strings", AnyTexts), flag("zeros")]),
    ml("Imputer", 1, &[t(DATA)])
        .with(&[attr("imputed_value_floats", Floats), attr("imputed_value_int64s", AnyInts),
            attr("replaced_value_float", AnyFloat),
            attr("replaced_value_int64", Int(i64::MIN, i64::MAX))]),
    ml("ArrayFeatureExtractor", 1, &[t(DATA.or(STRING)), any(I64)]),
    ml("Binarizer", 1, &[t(DATA)]).with(&[attr("threshold", Float)]),
    ml("FeatureVectorizer", 1, &[t(DATA)]).many().to(IS_F32).with(&[must("inputdimensions", AnyInts)]),
    ml("LabelEncoder", 1, &[any(I64.or(STRING))]).until(1).to(SWAPPED)
        .with(&[must("classes_strings", AnyTexts), attr("default_int64", Int(i64::MIN, i64::MAX)),
            attr("default_string", AnyText)]),
    ml("LabelEncoder", 2, &[any(F32.or(I64).or(STRING))]).until(3).to(VALUES)
        .with(&[attr("keys_int64s", AnyInts), attr("keys_floats", Floats), attr("keys_strings", AnyTexts),
            attr("values_int64s", AnyInts), attr("values_floats", Floats), attr("values_strings", AnyTexts),
            attr("default_int64", Int(i64::MIN, i64::MAX)), attr("default_float", AnyFloat),
            attr("default_string", AnyText)]),
    ml("LabelEncoder", 4, &[any(KEYS)]).to(VALUES)
        .with(&[attr("keys_int64s", AnyInts), attr("keys_floats", Floats), attr("keys_strings", AnyTexts),
            attr("keys_tensor", Tensor), attr("values_int64s", AnyInts), attr("values_floats", Floats),
            attr("values_strings", AnyTexts), attr("values_tensor", Tensor),
            attr("default_int64", Int(i64::MIN, i64::MAX)), attr("default_float", AnyFloat),
            attr("default_string", AnyText), attr("default_tensor", Tensor)]),
    ml("CategoryMapper", 1, &[any(I64.or(STRING))]).to(SWAPPED)
        .with(&[must("cats_int64s", AnyInts), must("cats_strings", AnyTexts),
            attr("default_int64", Int(i64::MIN, i64::MAX)), attr("default_string", AnyText)]),
    ml("ZipMap", 1, &[any(F32)]).to(MAPS).with(LABELS),
    ml("DictVectorizer", 1, &[any(MAPPED)]).to(MAPS).with(VOCABULARY),
    ml("CastMap", 1, &[any(F32.or(STRING))]).to(CAST).with(CASTING),
];
