//! Classifies an image with the model named `classifier`, which takes f32 [1,3,224,224] and returns
//! a score for each class. Input: `image`, the bytes of a PNG or JPEG file. Outputs: `class`, the
//! class with the greatest score, an i64; and `scores`, the output of the model.

mod pixels;

use belljar::program::values::{ElementType, Tensor, Value};
use pixels::{Image, SIDE};
use wasi::nn::graph::load_by_name;
use wasi::nn::tensor::{Tensor as NnTensor, TensorType};

wit_bindgen::generate!({
    path: "../../wit",
    inline: "
        package belljar:classify;

        world classify {
            include belljar:program/program@0.1.0;
            import wasi:nn/graph@0.2.0-rc-2024-10-28;
        }
    ",
    generate_all,
});

struct Classify;

export!(Classify);

/// The name of the model's input.
const INPUT: &str = "data_0";

impl Guest for Classify {
    fn run(inputs: Vec<NamedValue>) -> Result<Vec<NamedValue>, String> {
        let file = match &inputs[..] {
            [(name, Value::Bytes(file))] if name == "image" => file,
            _ => return Err("expected one input, `image`, with the bytes of a file".into()),
        };
        let numbers = Image::decode(file)?.numbers();
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        let failed = |what: &str, err: wasi::nn::errors::Error| format!("{what}: {}", err.data());
        let model = load_by_name("classifier").map_err(|err| failed("loading the model", err))?;
        let context =
            model.init_execution_context().map_err(|err| failed("using the model", err))?;
        let side = SIDE as u32;
        let input = NnTensor::new(&[1, 3, side, side], TensorType::Fp32, &bytes);
        let outputs = context
            .compute(vec![(INPUT.to_owned(), input)])
            .map_err(|err| failed("running the model", err))?;
        let [(_, scores)] = &outputs[..] else {
            return Err(format!("expected one output of the model, found {}", outputs.len()));
        };
        let data = scores.data();
        let (class, _) = data
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .enumerate()
            .max_by(|(_, a), (_, b)| a.total_cmp(b))
            .ok_or("the model returned no scores")?;
        let tensor =
            |element_type, shape, data| Value::Tensor(Tensor { element_type, shape, data });
        let shape = scores.dimensions().into_iter().map(u64::from).collect();
        let class = (class as i64).to_le_bytes().to_vec();
        Ok(vec![
            ("class".to_owned(), tensor(ElementType::I64, vec![], class)),
            ("scores".to_owned(), tensor(ElementType::F32, shape, data)),
        ])
    }
}
