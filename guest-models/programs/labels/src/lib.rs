//! Returns the label of the class with the greatest score, if that score reaches the threshold that
//! a service returns for the customer. An example of a program with the standard library, a granted
//! file and a granted peer.
//!
//! Inputs: `scores`, an f32 tensor; `customer`, text. Output: `label`, text: a line of
//! `/labels/labels.txt`, or `unsure`. The variables `SERVICE` and `PORT` name the service. The
//! program sends it the customer on a line, and it answers with a number on a line.

mod service;

use std::fs;

use belljar::program::values::{ElementType, Value};

wit_bindgen::generate!({
    path: "../../wit",
    world: "belljar:program/program",
});

struct Labels;

export!(Labels);

/// The guest path of the labels file in the policy.
const FILE: &str = "/labels/labels.txt";

impl Guest for Labels {
    fn run(inputs: Vec<NamedValue>) -> Result<Vec<NamedValue>, String> {
        let named = |wanted: &str| {
            let found = inputs.iter().find(|(name, _)| name == wanted);
            found.map(|(_, value)| value).ok_or_else(|| format!("the input {wanted:?} is missing"))
        };
        let scores = match named("scores")? {
            Value::Tensor(tensor) if tensor.element_type == ElementType::F32 => &tensor.data,
            _ => return Err("`scores` must be an f32 tensor".into()),
        };
        let Value::Text(customer) = named("customer")? else {
            return Err("`customer` must be a text".into());
        };
        let labels = fs::read_to_string(FILE).map_err(|err| format!("{FILE}: {err}"))?;
        let scores = scores.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let (class, score) = scores
            .enumerate()
            .max_by(|(_, a), (_, b)| a.total_cmp(b))
            .ok_or("`scores` is empty")?;
        let label = labels
            .lines()
            .nth(class)
            .ok_or_else(|| format!("{FILE} has no line {} for class {class}", class + 1))?;
        let enough = service::ask(customer)?;
        println!("class {class} has {score}; {enough} is enough for {customer}");
        let label = if score >= enough { label } else { "unsure" };
        Ok(vec![("label".to_owned(), Value::Text(label.to_owned()))])
    }
}
