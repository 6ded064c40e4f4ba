//! Operators with graphs of their own.

pub(crate) mod if_op;
pub(crate) mod loop_op;
pub(crate) mod scan;

use crate::framework::registration::Registration;

pub use self::scan::body_of_scan;

/// The operators of this family.
pub(crate) const OPERATORS: &[&[Registration]] =
    &[if_op::OPERATORS, loop_op::OPERATORS, scan::OPERATORS];

/// Implements tract's traits for an operator that exists only until the model is typed.
macro_rules! only_until_translated {
    ($op:ident) => {
        impl PartialEq for $op {
            fn eq(&self, _: &Self) -> bool {
                false
            }
        }

        impl Eq for $op {}

        impl Op for $op {
            fn name(&self) -> StaticName {
                stringify!($op).into()
            }

            not_a_typed_op!();
        }

        impl EvalOp for $op {
            fn eval_out_of_plan(&self, _: TVec<TValue>) -> TractResult<Option<TVec<TValue>>> {
                Ok(None)
            }

            fn eval(&self, _ctx: &EvalContext, _: TVec<TValue>) -> TractResult<TVec<TValue>> {
                bail!("{} was not translated", stringify!($op))
            }
        }
    };
}
pub(crate) use only_until_translated;
