//! Names the class of the greatest score, if that score is as high as a service says it must be for
//! this customer: a program with the standard library, a granted file and a granted peer.
//!
//! Inputs: `scores`, an f32 tensor; `customer`, text. Output: `label`, text: a line of
//! `/labels/labels.txt`, or `unsure`. The service's name and port are the variables `SERVICE` and
//! `PORT`; it is sent the customer on a line and answers a number on a line.

mod service;

use std::fs;

use belljar::program::values::{ElementType, Value};

wit_bindgen::generate!({
    path: "../../wit",
    world: "belljar:program/program",
});

struct Labels;

export!(Labels);

/// Where the policy puts the folder of labels.
const FILE: &str = "/labels/labels.txt";

impl Guest for Labels {
    fn run(inputs: Vec<NamedValue>) -> Result<Vec<NamedValue>, String> {
        let named = |wanted: &str| {
            let found = inputs.iter().find(|(name, _)| name == wanted);
            found.map(|(_, value)| value).ok_or_else(|| format!("the input {wanted:?} is missing"))
        };
        let scores = match named("scores")? {
            Value::Tensor(tensor) if tensor.element_type == ElementType::F32 => &tensor.data,
            _ => return Err("`scores` is an f32 tensor".into()),
        };
        let Value::Text(customer) = named("customer")? else {
            return Err("`customer` is a text".into());
        };
        let labels = fs::read_to_string(FILE).map_err(|err| format!("{FILE}: {err}"))?;
        let scores = scores.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let (class, score) = scores
            .enumerate()
            .max_by(|(_, a), (_, b)| a.total_cmp(b))
            .ok_or("there are no scores")?;
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
