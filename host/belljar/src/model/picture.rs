//! Decodes an image file into a tensor, in a separate sandbox that holds no model. The file is
//! never parsed outside of it.

use std::time::{Duration, Instant};

use belljar_abi::{GuestErrorCode, Reply, decode_reply};

use super::Model;
use super::answers::unexpected;
use crate::error::{Error, ErrorKind, Phase};
use crate::host::Event;
use crate::sandbox::{Call, CallLimit, Failure, Limit, Payload, TimeKey};
use belljar_confine::role::Role;
use belljar_tensor::Tensor;

/// Why an image file could not be decoded into a tensor.
#[derive(Debug)]
pub enum PictureError {
    /// The file cannot be decoded. The text comes from the sandbox and is untrusted.
    File(String),
    /// The image cannot be resized or cropped as requested. The text is untrusted.
    Size(String),
    /// A limit of the policy was hit. The text may come from the sandbox and is untrusted.
    Limit(String),
    /// The tensor is larger than inputs may be.
    Tensor,
    /// A failure that the file did not cause.
    Host(Error),
}

/// The cost of decoding.
#[derive(Clone, Copy, Debug, Default)]
pub struct PictureCost {
    pub time: Duration,
    /// Size of the sandbox's memory, in bytes.
    pub memory: u64,
}

impl Model {
    /// Decodes an image file into a tensor, within the limits of this model's policy:
    /// `limits.memory` and `limits.run-time` apply to the sandbox that decodes it, and
    /// `limits.input-size` to the tensor. `message` is encoded by [`belljar_abi::picture`].
    #[doc(hidden)]
    pub fn picture(&self, message: Vec<u8>) -> Result<(Tensor, PictureCost), PictureError> {
        let shared = &*self.shared;
        let start = Instant::now();
        let policy = shared.policy.for_pictures();
        let limits = &policy.limits;
        let refused = |limit: Limit| {
            let why = limit.to_string();
            shared.host.refused(shared.subject(), ErrorKind::Limit(limit));
            PictureError::Limit(why)
        };
        let host = |kind| PictureError::Host(Error::for_model(&shared.label, kind));
        let failed = |failure: Failure| match failure {
            Failure::Limit(Limit::OutputSize { .. }) => PictureError::Tensor,
            Failure::Limit(limit) => refused(limit),
            Failure::Panicked(_) | Failure::Trapped(_) => {
                PictureError::File(format!("the decoder failed: {failure}"))
            }
            failure => host(ErrorKind::from_failure(failure, Phase::Run)),
        };
        // It runs in addition to the sandbox that holds the model.
        let _memory = shared.host.memory.claim(1, limits.memory);
        let mut sandbox = shared.host.sandbox(&policy, Role::Prepare).map_err(host)?;
        sandbox.await_ready().map_err(failed)?;
        let limit = CallLimit { time: limits.run_time, key: TimeKey::Run };
        let answer = sandbox.call(Call::Picture, Payload::Bytes(message), limit);
        for line in sandbox.take_log() {
            (shared.host.listener)(Event::Log { model: shared.label.clone(), line });
        }
        shared.host.report_missing(sandbox.take_missing());
        let answer = answer.map_err(failed)?;
        let views = match decode_reply(&answer.message) {
            Ok(Reply::Tensors(views)) => views,
            Ok(Reply::Error(error)) => {
                return Err(match error.code {
                    GuestErrorCode::BadInput => PictureError::File(error.text),
                    GuestErrorCode::ShapesRefused => PictureError::Size(error.text),
                    GuestErrorCode::PictureTooLarge => {
                        // The log gets the rule, not the sandbox's text.
                        let _ = refused(Limit::Memory { limit: limits.memory });
                        PictureError::Limit(format!("{} (`limits.memory`)", error.text))
                    }
                    _ => host(ErrorKind::Sandbox(error.text)),
                });
            }
            _ => return Err(host(unexpected())),
        };
        let [view] = &views[..] else { return Err(host(unexpected())) };
        let tensor =
            Tensor::from_view(view).map_err(|err| host(ErrorKind::Sandbox(err.to_string())))?;
        let cost = PictureCost { time: start.elapsed(), memory: answer.cost.memory };
        Ok((tensor, cost))
    }
}
