//! Compares what `inspect` reports about a model with the outcome of a run: they must never
//! contradict each other.
#![allow(dead_code)] // Each test binary uses a part.

use belljar::{Error, ErrorKind, Examined, Host, InputShape, ModelBytes, Policy, Tensor, Value};

use super::fitting;

/// Prepares a model for the shapes of these inputs without running it. Returns how that contradicts
/// the outcome of a run on them.
pub(crate) fn contradiction<N: AsRef<str>>(
    host: &Host,
    policy: &Policy,
    bytes: &[u8],
    inputs: &[(N, Tensor)],
    ended: Result<(), &Error>,
) -> Option<String> {
    let shape = |(name, tensor): &(N, Tensor)| shape(name.as_ref(), tensor);
    contradiction_for(host, policy, bytes, inputs.iter().map(shape).collect(), ended)
}

fn shape(name: &str, tensor: &Tensor) -> InputShape {
    let dims = tensor.shape().iter().map(|dim| *dim as u64).collect();
    InputShape { name: name.to_owned(), dims }
}

/// The same for inputs that may also be sequences, maps and optionals. The shape of a sequence is that
/// of its tensor with the most dimensions.
pub(crate) fn contradiction_of_values(
    host: &Host,
    policy: &Policy,
    bytes: &[u8],
    inputs: &[(String, Value)],
    ended: Result<(), &Error>,
) -> Option<String> {
    let shape = |(name, value): &(String, Value)| match value {
        Value::Tensor(tensor) => Some(shape(name, tensor)),
        Value::Absent => None,
        Value::Sequence(tensors) => {
            let widest = tensors.iter().max_by_key(|tensor| tensor.shape().len());
            let none = InputShape { name: name.clone(), dims: Vec::new() };
            Some(widest.map_or(none, |tensor| shape(name, tensor)))
        }
        _ => Some(InputShape { name: name.clone(), dims: Vec::new() }),
    };
    contradiction_for(host, policy, bytes, inputs.iter().filter_map(shape).collect(), ended)
}

fn contradiction_for(
    host: &Host,
    policy: &Policy,
    bytes: &[u8],
    shapes: Vec<InputShape>,
    ended: Result<(), &Error>,
) -> Option<String> {
    // `inspect` does not predict time and memory.
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
    match (model.examine_for(&shapes), ended) {
        // A limit may be hit by one of the two alone.
        (Ok(Examined::Refused { error, .. }), _) if matches!(error.kind(), ErrorKind::Limit(_)) => {
            None
        }
        (Ok(Examined::Refused { error, .. }), Ok(())) => {
            Some(format!("refused by inspect, but answered: {error}"))
        }
        (Ok(Examined::Refused { error, .. }), Err(ended)) => {
            let same = error.exit_code() == ended.exit_code()
                && error.kind().to_string() == ended.kind().to_string();
            // `inspect` does not see the types of inputs.
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
                // `inspect` does not see types, or values that break a rule.
                ErrorKind::Input { .. } | ErrorKind::Withheld { .. } => None,
                ErrorKind::Run(_) if known => None,
                ErrorKind::Run(_) => Some(format!(
                    "prepared by inspect, which does not list the node that refuses: {text}; it \
                     lists {:?}",
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
