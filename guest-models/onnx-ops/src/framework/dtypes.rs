//! Element types of the ABI and of tract.

use belljar_abi::DType;
use tract_onnx::prelude::DatumType;

include!("../../../element_types.rs");

macro_rules! dtypes {
    (computed { $($variant:ident = $($rest:expr),*;)* } stored $stored:tt) => {
        const DTYPES: &[(DType, DatumType)] = &[$((DType::$variant, DatumType::$variant),)*];
    };
}

element_types!(dtypes);

/// The same element type in tract, if tract has it.
pub fn to_tract(dtype: DType) -> Option<DatumType> {
    DTYPES.iter().find(|(abi, _)| *abi == dtype).map(|(_, tract)| *tract)
}

/// The same element type in the ABI, if the ABI has it.
pub fn from_tract(dtype: DatumType) -> Option<DType> {
    DTYPES.iter().find(|(_, tract)| *tract == dtype).map(|(abi, _)| *abi)
}
