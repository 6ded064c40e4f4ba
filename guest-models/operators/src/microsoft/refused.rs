//! Operators of `com.microsoft` that are refused, with the reason that the gate prints.

/// The reasons, each with the operators that it holds for. An operator that is added to the table
/// is removed here.
const REFUSED: &[(&str, &[&str])] = &[
    (
        "it runs a whole model in a loop; export the model that it contains, and run the loop in \
         the program that calls it",
        &["BeamSearch", "GreedySearch", "Sampling", "WhisperBeamSearch"],
    ),
    ("sparse tensors are not implemented", &["SparseToDenseMatMul"]),
    ("what it computes is not documented", &["SampleOp"]),
    (
        "its documentation and onnxruntime disagree about the index that it returns",
        &["BifurcationDetector"],
    ),
    (NOT_YET, NOT_WRITTEN),
];

const NOT_YET: &str = "the operator is not implemented";

const NOT_WRITTEN: &[&str] = &[
    "AttnLSTM",
    "BranchwiseRMSNorm",
    "ConvTransposeWithDynamicPads",
    "EngramGate",
    "GatedAdd",
    "GatherPacked",
    "HyperConnectionPostMix",
    "HyperConnectionPreMix",
    "LinearAttentionGate",
    "MoEGroupRouter",
    "NGramHashMapping",
    "ScaledSiLU",
    "VarlenCausalConvWithState",
    "VarlenNGramHashMapping",
];

/// Why an operator is refused, if it is one that is known.
pub(crate) fn reason(name: &str) -> Option<&'static str> {
    REFUSED.iter().find(|(_, names)| names.contains(&name)).map(|(reason, _)| *reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::MICROSOFT;

    #[test]
    fn every_operator_that_onnxruntime_has_on_the_cpu_is_implemented_or_refused_with_a_reason() {
        let listed = include_str!("cpu_kernels.txt").lines();
        let implemented =
            |name: &str| crate::all().any(|op| op.domain == MICROSOFT && op.name == name);
        for name in listed.filter(|line| !line.starts_with('#')) {
            let (has, refused) = (implemented(name), reason(name).is_some());
            assert!(has || refused, "{name} is neither in the table nor refused");
            assert!(!(has && refused), "{name} is in the table; remove it from `REFUSED`");
        }
    }

    #[test]
    fn refused_operators_have_their_reasons() {
        let refused = |name| crate::find(MICROSOFT, name, 1).err();
        assert!(refused("BeamSearch").is_some_and(|why| why.contains("export the model")));
        assert_eq!(refused("Nothing").as_deref(), Some(NOT_YET));
        assert_eq!(refused("Gelu"), None);
    }
}
