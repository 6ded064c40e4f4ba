//! Has an image file turned into a tensor, in a sandbox of its own that holds no model. Nothing of the
//! file is parsed outside of it.

use std::time::{Duration, Instant};

use belljar_abi::{GuestErrorCode, Reply, decode_reply};

use super::Model;
use super::shared::unexpected;
use crate::error::{Error, ErrorKind, Phase};
use crate::host::Event;
use crate::sandbox::{Call, CallLimit, Failure, Limit, Payload, TimeKey};
use belljar_confine::role::Role;
use belljar_tensor::Tensor;

/// Why an image file did not become a tensor.
#[derive(Debug)]
pub enum PictureError {
    /// The file cannot be decoded. The text is the sandbox's, so it is hostile.
    File(String),
    /// The image cannot be resized or cropped as it was asked for. The text is hostile, too.
    Size(String),
    /// A limit of the policy was hit. The text may be the sandbox's, so it is hostile.
    Limit(String),
    /// The tensor is larger than inputs may be.
    Tensor,
    /// It is not the file's fault.
    Host(Error),
}

/// What decoding took.
#[derive(Clone, Copy, Debug, Default)]
pub struct PictureCost {
    pub time: Duration,
    /// Size of the sandbox's memory, in bytes.
    pub memory: u64,
}

impl Model {
    /// Makes a tensor of an image file, within the limits of this model's policy: `limits.memory` and
    /// `limits.run-time` hold for the sandbox that decodes it, and `limits.input-size` for the tensor.
    /// `message` is that of [`belljar_abi::picture`].
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
        // It runs beside the sandbox that holds the model.
        let _memory = shared.host.memory.claim(1, limits.memory);
        let mut sandbox = shared.host.sandbox(&policy, Role::Prepare).map_err(host)?;
        sandbox.await_ready().map_err(failed)?;
        let limit = CallLimit { time: limits.run_time, key: TimeKey::Run };
        let answer = sandbox.call(Call::Picture, Payload::Bytes(message), limit);
        for line in sandbox.take_log() {
            (shared.host.listener)(Event::Log { model: shared.label.clone(), line });
        }
        shared.host.tell_missing(sandbox.take_missing());
        let answer = answer.map_err(failed)?;
        let views = match decode_reply(&answer.message) {
            Ok(Reply::Tensors(views)) => views,
            Ok(Reply::Error(error)) => {
                return Err(match error.code {
                    GuestErrorCode::BadInput => PictureError::File(error.text),
                    GuestErrorCode::ShapesRefused => PictureError::Size(error.text),
                    GuestErrorCode::PictureTooLarge => {
                        // What is noted is the rule, and not the sandbox's words.
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
