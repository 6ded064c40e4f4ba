//! Operators that only the guest's gate puts into a graph. No model can use them, since the table
//! of operators does not list them.

/// Converts from and to element types that tract does not have.
pub const CAST: &str = "BelljarCast";
/// Rounds a float32 to the values of a narrow float.
pub const ROUND: &str = "BelljarRound";
/// Converts from and to strings.
pub const TEXT_CAST: &str = "BelljarTextCast";
/// QuantizeLinear to any element type.
pub const QUANTIZE: &str = "BelljarQuantize";
/// DequantizeLinear from any element type.
pub const DEQUANTIZE: &str = "BelljarDequantize";

/// Replaces an operator of another version of the operator set than the model's.
pub const VERSIONED: &str = "BelljarVersioned";
/// The attribute of [`VERSIONED`] that names the operator.
pub const OPERATOR: &str = "belljar_operator";
/// The attribute of [`VERSIONED`] that holds the version.
pub const VERSION: &str = "belljar_version";
