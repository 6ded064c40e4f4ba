//! Models whose inputs may have any size, to run them on plans that were made for other sizes.
#![allow(dead_code)] // Each test binary uses a part.

use belljar::{InputShape, Tensor};

use super::protobuf::{Kind, Message, Value as Field};

/// The model without the declared shapes of its inputs.
pub(crate) fn without_shapes(content: &[u8]) -> Vec<u8> {
    let mut model = Message::parse(Kind::Model, content).expect("it is a model");
    let graph = model.fields.iter_mut().find(|field| field.number == 7).unwrap();
    let Field::Message(graph) = &mut graph.value else { panic!("the graph is not a message") };
    for input in graph.fields.iter_mut().filter(|field| field.number == 11) {
        let Field::Message(input) = &mut input.value else { continue };
        input.visit(&mut |message| {
            if message.kind == Kind::TensorType {
                message.fields.retain(|field| field.number != 2);
            }
        });
    }
    model.bytes()
}

/// Larger shapes, whose sizes are equal only if those of the inputs are. Dimensions of 0 stay, since
/// they are never open, and so do those of 1, unless they are to be reached from larger ones.
pub(crate) fn larger(inputs: &[(String, Tensor)], from_one: u64) -> Vec<InputShape> {
    let size = |size: &usize| match *size as u64 {
        0 => 0,
        1 => from_one,
        size => 2 * size + 1,
    };
    let shape = |(name, tensor): &(String, Tensor)| InputShape {
        name: name.clone(),
        dims: tensor.shape().iter().map(size).collect(),
    };
    inputs.iter().map(shape).collect()
}
