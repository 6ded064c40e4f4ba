//! The source of each operator: the code that computes it.

use crate::Operator;

/// The code that computes an operator, in the order of how much of it is Belljar's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Belljar.
    Own,
    /// tract, with checks or wiring of Belljar.
    Wrapped,
    /// tract.
    Upstream,
    /// None: it is replaced by other operators before a model is analysed.
    Lowered,
}

// ONNX's own operators that Belljar does not compute alone. The operators' crate, which depends on
// this one, tests that its registrations say the same.

const WRAPPED: &[&str] = &[
    "ArgMax",
    "ArgMin",
    "Attention",
    "AveragePool",
    "BatchNormalization",
    "Clip",
    "Concat",
    "ConstantOfShape",
    "Conv",
    "ConvTranspose",
    "CumSum",
    "DequantizeLinear",
    "Dropout",
    "Einsum",
    "Equal",
    "Expand",
    "Flatten",
    "Gather",
    "Gemm",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "GridSample",
    "GroupNormalization",
    "HardSigmoid",
    "HardSwish",
    "IsInf",
    "IsNaN",
    "LRN",
    "LayerNormalization",
    "LeakyRelu",
    "LogSoftmax",
    "LpNormalization",
    "MatMul",
    "MaxPool",
    "MeanVarianceNormalization",
    "NonMaxSuppression",
    "QuantizeLinear",
    "RMSNormalization",
    "Range",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
    "Relu",
    "Reshape",
    "Resize",
    "RotaryEmbedding",
    "Round",
    "Shrink",
    "Softmax",
    "SpaceToDepth",
    "Split",
    "Squeeze",
    "Tile",
    "Trilu",
    "Unsqueeze",
];

const UPSTREAM: &[&str] = &[
    "Abs",
    "Acos",
    "And",
    "Asin",
    "Atan",
    "BitwiseAnd",
    "BitwiseNot",
    "BitwiseOr",
    "BitwiseXor",
    "CastLike",
    "Ceil",
    "Constant",
    "Cos",
    "Cosh",
    "DepthToSpace",
    "Exp",
    "Floor",
    "Greater",
    "GreaterOrEqual",
    "Identity",
    "InstanceNormalization",
    "Less",
    "LessOrEqual",
    "Log",
    "Neg",
    "NonZero",
    "Not",
    "Or",
    "Reciprocal",
    "Sign",
    "Sin",
    "Sinh",
    "Softsign",
    "Sqrt",
    "Sum",
    "Tan",
    "ThresholdedRelu",
    "Transpose",
    "Where",
    "Xor",
];

const LOWERED: &[&str] = &[
    "ConcatFromSequence",
    "Optional",
    "OptionalGetElement",
    "OptionalHasElement",
    "SequenceAt",
    "SequenceConstruct",
    "SequenceEmpty",
    "SequenceErase",
    "SequenceInsert",
    "SequenceLength",
    "SequenceMap",
    "SplitToSequence",
];

impl Operator {
    /// The source of an operator. If its versions have different ones, the one with the most code of
    /// Belljar.
    pub fn source(&self) -> Source {
        let lists =
            [(WRAPPED, Source::Wrapped), (UPSTREAM, Source::Upstream), (LOWERED, Source::Lowered)];
        let found = lists.into_iter().find(|(names, _)| names.contains(&self.name));
        match found {
            Some((_, source)) if self.domain.is_empty() => source,
            _ => Source::Own,
        }
    }
}
