//! Detects the type of a file with magika's model, which it loads by the name `magika`. Input:
//! `file`, bytes. Outputs: `class`, the class with the greatest score, an i64; and `scores`, an f32
//! for each class.

mod features;

use belljar::program::values::{ElementType, Tensor, Value};
use wasi::nn::graph::load_by_name;
use wasi::nn::tensor::{Tensor as NnTensor, TensorType};

wit_bindgen::generate!({
    path: "../../wit",
    inline: "
        package belljar:file-type;

        world file-type {
            include belljar:program/program@0.1.0;
            import wasi:nn/graph@0.2.0-rc-2024-10-28;
        }
    ",
    generate_all,
});

struct FileType;

export!(FileType);

impl Guest for FileType {
    fn run(inputs: Vec<NamedValue>) -> Result<Vec<NamedValue>, String> {
        let [(name, Value::Bytes(content))] = &inputs[..] else {
            return Err("expected one input, `file`, with the bytes of a file".into());
        };
        if name != "file" {
            return Err(format!("expected the input `file`, found {name:?}"));
        }
        let numbers = features::features(content)?;
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        let failed = |what: &str, err: wasi::nn::errors::Error| format!("{what}: {}", err.data());
        let model = load_by_name("magika").map_err(|err| failed("loading the model", err))?;
        let context =
            model.init_execution_context().map_err(|err| failed("using the model", err))?;
        let width = u32::try_from(numbers.len()).map_err(|err| err.to_string())?;
        let input = NnTensor::new(&[1, width], TensorType::I32, &bytes);
        let outputs = context
            .compute(vec![("bytes".to_owned(), input)])
            .map_err(|err| failed("running the model", err))?;
        let [(_, scores)] = &outputs[..] else {
            return Err(format!("expected one output of the model, found {}", outputs.len()));
        };
        let data = scores.data();
        let best = data
            .chunks_exact(4)
            .map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
            .enumerate()
            .max_by(|(_, a), (_, b)| a.total_cmp(b))
            .ok_or("the model returned no scores")?;
        let tensor =
            |element_type, shape, data| Value::Tensor(Tensor { element_type, shape, data });
        let class = (best.0 as i64).to_le_bytes().to_vec();
        let shape = scores.dimensions().into_iter().map(u64::from).collect();
        Ok(vec![
            ("class".to_owned(), tensor(ElementType::I64, vec![], class)),
            ("scores".to_owned(), tensor(ElementType::F32, shape, data)),
        ])
    }
}
