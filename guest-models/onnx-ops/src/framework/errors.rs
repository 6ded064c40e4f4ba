//! Errors that are written for a user. tract's own errors describe its internals and never reach
//! one: the guest tells the two apart by the type of the error.

use std::fmt::{self, Display};

use tract_onnx::prelude::{TractError, TractResult};

/// A message for a user. The node and the operator are put before it.
#[derive(Debug)]
pub struct UserError(String);

impl UserError {
    pub fn error(text: impl Display) -> TractError {
        TractError::new(UserError(text.to_string()))
    }
}

impl Display for UserError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UserError {}

/// Replaces an error, or a missing value, by a message for a user.
pub trait OrUserError<T> {
    fn or_user_error(self, text: impl Display) -> TractResult<T>;
}

impl<T> OrUserError<T> for Option<T> {
    fn or_user_error(self, text: impl Display) -> TractResult<T> {
        self.ok_or_else(|| UserError::error(text))
    }
}

impl<T, E> OrUserError<T> for Result<T, E> {
    fn or_user_error(self, text: impl Display) -> TractResult<T> {
        self.map_err(|_| UserError::error(text))
    }
}

/// Returns an error for a user. Shadows tract's macro of this name.
macro_rules! bail {
    ($text:literal $($rest:tt)*) => {
        return Err($crate::framework::errors::UserError::error(format_args!($text $($rest)*)))
    };
    ($text:expr $(,)?) => {
        return Err($crate::framework::errors::UserError::error($text))
    };
}

/// Returns an error for a user unless a condition holds. Shadows tract's macro of this name.
macro_rules! ensure {
    ($holds:expr, $($text:tt)+) => {
        if !$holds {
            $crate::framework::errors::bail!($($text)+);
        }
    };
}

pub(crate) use {bail, ensure};
