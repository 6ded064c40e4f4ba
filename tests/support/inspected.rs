//! What `inspect` says of a model, held against what a run of it comes to: the two never contradict
//! each other.

use belljar::{Error, ErrorKind, Examined, Host, InputShape, ModelBytes, Policy, Tensor};

use super::fitting;

/// Prepares a model for the shapes of these inputs without running it. Says in what that contradicts
/// a run on them that ended so.
pub(crate) fn contradiction<N: AsRef<str>>(
    host: &Host,
    policy: &Policy,
    bytes: &[u8],
    inputs: &[(N, Tensor)],
    ended: Result<(), &Error>,
) -> Option<String> {
    // How much time and memory it takes is not said.
    if let Err(error) = ended
        && matches!(error.kind(), ErrorKind::Limit(_))
    {
        return None;
    }
    let bytes = ModelBytes::read(bytes, u64::MAX).unwrap().labelled("test.onnx");
    let model = match (host.load(bytes, &fitting(host, policy)), ended) {
        (Ok(model), _) => model,
        (Err(_), Err(_)) => return None,
        (Err(error), Ok(())) => return Some(format!("not loaded, but answered: {error}")),
    };
    let shapes: Vec<InputShape> = inputs
        .iter()
        .map(|(name, tensor)| InputShape {
            name: name.as_ref().to_owned(),
            dims: tensor.shape().iter().map(|dim| *dim as u64).collect(),
        })
        .collect();
    match (model.examine_for(&shapes), ended) {
        // Limits are near for one of them.
        (Ok(Examined::Refused { error, .. }), _) if matches!(error.kind(), ErrorKind::Limit(_)) => {
            None
        }
        (Ok(Examined::Refused { error, .. }), Ok(())) => {
            Some(format!("refused by inspect, but answered: {error}"))
        }
        (Ok(Examined::Refused { error, .. }), Err(ended)) => {
            let same = error.exit_code() == ended.exit_code()
                && error.kind().to_string() == ended.kind().to_string();
            // The types of inputs are not looked at.
            let input = matches!(ended.kind(), ErrorKind::Input { .. });
            (!same && !input).then(|| format!("refused by inspect: {error}; by run: {ended}"))
        }
        (Ok(Examined::Prepared(_)), Ok(())) => None,
        (Ok(Examined::Prepared(preparation)), Err(ended)) => {
            let text = ended.to_string();
            let named = |name: &str| {
                let start: String = name.chars().take(40).collect();
                let shown = format!("{start:?}");
                text.contains(shown.trim_end_matches('"'))
            };
            let known = preparation.more
                || preparation.undecided.iter().any(|undecided| named(&undecided.node));
            match ended.kind() {
                // Types, and values that break a rule.
                ErrorKind::Input { .. } | ErrorKind::Withheld { .. } => None,
                ErrorKind::Run(_) if known => None,
                ErrorKind::Run(_) => Some(format!(
                    "prepared by inspect, which does not name the node that refuses: {text}; named \
                     are {:?}",
                    preparation.undecided
                )),
                ErrorKind::Model(_) => Some(format!("prepared by inspect, refused by run: {text}")),
                _ => None,
            }
        }
        (Err(_), Err(_)) => None,
        (Err(error), Ok(())) => Some(format!("shapes refused by inspect, but answered: {error}")),
    }
}
