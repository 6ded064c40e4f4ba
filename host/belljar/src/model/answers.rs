//! Decodes the sandbox's answers, and turns the guest's refusals into errors.

use belljar_abi::{Description, GuestError, GuestErrorCode, Reply, decode_reply};

use crate::error::{ErrorKind, Phase};
use crate::sandbox::Answer;

pub(super) fn unexpected() -> ErrorKind {
    ErrorKind::Sandbox("the sandbox's answer does not belong to the request".into())
}

/// Decodes a description from a sandbox or from the store.
pub(super) fn description(message: &[u8]) -> Result<Description, ErrorKind> {
    match decoded(message, Phase::Prepare)? {
        Reply::Description(description) => Ok(description),
        _ => Err(unexpected()),
    }
}

pub(super) fn reply(answer: &Answer, phase: Phase) -> Result<Reply<'_>, ErrorKind> {
    decoded(&answer.message, phase)
}

pub(super) fn decode(message: &[u8]) -> Result<Reply<'_>, ErrorKind> {
    decode_reply(message)
        .map_err(|err| ErrorKind::Sandbox(format!("the sandbox's answer is malformed: {err}")))
}

/// Decodes a response; a refusal becomes an error.
fn decoded(message: &[u8], phase: Phase) -> Result<Reply<'_>, ErrorKind> {
    match (decode(message)?, phase) {
        (Reply::Error(refused), Phase::Prepare) => Err(refusal(refused)),
        (Reply::Error(refused), Phase::Run) => Err(match refused.code {
            GuestErrorCode::BadInput | GuestErrorCode::RunFailed => ErrorKind::Run(refused.text),
            _ => refusal(refused),
        }),
        (reply, _) => Ok(reply),
    }
}

/// Whether a plan with open dimensions could not answer inputs of these sizes.
pub(super) fn sizes_refused(answer: &Answer) -> bool {
    let code = GuestErrorCode::ShapesRefused;
    matches!(decode(&answer.message), Ok(Reply::Error(refused)) if refused.code == code)
}

/// The error for a refusal while a model is prepared.
pub(super) fn refusal(refused: GuestError) -> ErrorKind {
    match refused.code {
        GuestErrorCode::NotOnnx
        | GuestErrorCode::ModelRefused
        | GuestErrorCode::ShapesRefused
        | GuestErrorCode::BadInput
        | GuestErrorCode::RunFailed => ErrorKind::Model(refused.text),
        _ => ErrorKind::Sandbox(refused.text),
    }
}
