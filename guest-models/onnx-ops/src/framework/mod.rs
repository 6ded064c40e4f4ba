//! What every operator is built on: the trait for operators of this crate, the wrapper for tract's
//! operators, shared checks, and registration. Nothing here knows a concrete operator.

pub mod assumptions;
pub(crate) mod axes;
pub(crate) mod checks;
pub(crate) mod deferred;
pub mod dims;
pub mod dtypes;
pub(crate) mod element_type;
pub(crate) mod equal_sizes;
pub mod errors;
pub(crate) mod facts;
pub mod inference;
pub mod native;
pub(crate) mod native_floats;
pub(crate) mod numbers;
pub mod operator;
pub(crate) mod philox;
pub mod quantized;
pub mod randomness;
pub mod registration;
pub mod rewrite;
pub mod synthetic;
pub(crate) mod tensors;
pub(crate) mod upstream;
pub(crate) mod wiring;
pub(crate) mod wrapped;
