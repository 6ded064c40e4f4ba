//! Misbehaves in various ways, for tests. Input: `do`, a text with an action and its argument.

use std::hint::black_box;

use belljar::program::values::{ElementType, Tensor, Value};
use wasi::nn::graph::{ExecutionTarget, Graph, GraphEncoding, load, load_by_name};
use wasi::nn::tensor::{Tensor as NnTensor, TensorType};

wit_bindgen::generate!({
    path: "../../wit",
    inline: "
        package belljar:misbehaves;

        world misbehaves {
            include belljar:program/program@0.1.0;
            import wasi:nn/graph@0.2.0-rc-2024-10-28;
        }
    ",
    generate_all,
});

struct Misbehaves;

export!(Misbehaves);

type Outputs = Vec<NamedValue>;

impl Guest for Misbehaves {
    fn run(inputs: Outputs) -> Result<Outputs, String> {
        let order = inputs.iter().find(|(name, _)| name == "do");
        let Some((_, Value::Text(order))) = order else {
            return Err("expected the input `do`, a text".into());
        };
        let (what, with) = order.split_once(' ').unwrap_or((order, ""));
        let number = with.parse::<usize>();
        let count = || number.clone().map_err(|err| err.to_string());
        match what {
            "echo" => return Ok(inputs),
            "fail" => return Err(with.to_owned()),
            "loop" => loop {
                black_box(());
            },
            "grow" => loop {
                black_box(Vec::<u8>::with_capacity(1 << 20).leak());
            },
            "trap" => core::arch::wasm32::unreachable(),
            "panic" => panic!("{with}"),
            "recurse" => return Ok(bytes(vec![deeper(black_box(1)) as u8])),
            "bytes" => return Ok(bytes(vec![0; count()?])),
            "outputs" => {
                let output = |at: usize| (format!("y{at}"), Value::Text(String::new()));
                return Ok((0..count()?).map(output).collect());
            }
            "twice" => return Ok([bytes(vec![1]), bytes(vec![2])].concat()),
            "name" => return Ok(vec![("n".repeat(count()?), Value::Text(String::new()))]),
            "lie" => return Ok(tensor(ElementType::F32, &[1 << 40, 1 << 40], vec![0; 4])),
            "bool" => return Ok(tensor(ElementType::Bool, &[1], vec![2])),
            "escape" => return Ok(vec![("\x1b[2J".into(), Value::Text("\x1b[31mred".into()))]),
            "tensors" => {
                let mut held = Vec::new();
                for _ in 0..count()? {
                    held.push(NnTensor::new(&[1 << 20], TensorType::U8, &vec![0; 1 << 20]));
                }
                return Ok(bytes(vec![held.len() as u8]));
            }
            "empty-tensors" => {
                let mut held = Vec::new();
                for _ in 0..count()? {
                    held.push(NnTensor::new(&[0], TensorType::U8, &[]));
                }
                return Ok(bytes(vec![held.len() as u8]));
            }
            "names" => {
                for _ in 0..count()? {
                    drop(load_by_name("magika").map_err(|err| err.data())?);
                }
            }
            "model" => drop(load_by_name(with).map_err(|err| err.data())?),
            "model-anyway" => drop(load_by_name(with)),
            "model-twice" => {
                drop(load_by_name(with));
                drop(load_by_name(with).map_err(|err| err.data())?);
            }
            "models-twice" => {
                for name in with.split(' ').chain(with.split(' ')) {
                    drop(load_by_name(name));
                }
            }
            "model-for-ever" => loop {
                drop(load_by_name(with));
            },
            "bring" => drop(brought(&inputs)?),
            "bring-for-ever" => loop {
                drop(brought(&inputs));
            },
            "bring-and-run" => run(&brought(&inputs)?, &[1, 2048])?,
            "compute" => run(&load_by_name("magika").map_err(|err| err.data())?, &[1, 2048])?,
            "misfit" => run(&load_by_name("magika").map_err(|err| err.data())?, &[1, 7])?,
            "compute-times" => {
                let model = load_by_name("magika").map_err(|err| err.data())?;
                for _ in 0..count()? {
                    run(&model, &[1, 2048])?;
                }
            }
            // Runs a model by its name on `x`, floats of this shape.
            "compute-x" => {
                let (name, shape) = with.split_once(' ').ok_or("compute-x NAME SHAPE")?;
                compute_x(&load_by_name(name).map_err(|err| err.data())?, shape)?;
            }
            "compute-x-for-ever" => {
                let (name, shape) = with.split_once(' ').ok_or("compute-x-for-ever NAME SHAPE")?;
                let model = load_by_name(name).map_err(|err| err.data())?;
                loop {
                    drop(compute_x(&model, shape));
                }
            }
            "compute-x-growing" => {
                let model = load_by_name(with).map_err(|err| err.data())?;
                for size in 1.. {
                    compute(&model, "x", TensorType::Fp32, &[size])?;
                }
            }
            "compute-for-ever" => {
                let model = load_by_name("magika").map_err(|err| err.data())?;
                loop {
                    run(&model, &[1, 2048])?;
                }
            }
            other => return Err(format!("unknown action {other:?}")),
        }
        Ok(bytes(vec![1]))
    }
}

fn bytes(bytes: Vec<u8>) -> Outputs {
    vec![("y".into(), Value::Bytes(bytes))]
}

fn tensor(element_type: ElementType, shape: &[u64], data: Vec<u8>) -> Outputs {
    let shape = shape.to_vec();
    vec![("y".into(), Value::Tensor(Tensor { element_type, shape, data }))]
}

#[allow(unconditional_recursion, reason = "exhausting the stack is the purpose")]
fn deeper(depth: u64) -> u64 {
    black_box(deeper(black_box(depth + 1))) + depth
}

fn brought(inputs: &Outputs) -> Result<Graph, String> {
    let found = inputs.iter().find_map(|(name, value)| match value {
        Value::Bytes(bytes) if name == "model" => Some(bytes.clone()),
        _ => None,
    });
    let bytes = found.ok_or("expected the input `model`, bytes")?;
    load(&[bytes], GraphEncoding::Onnx, ExecutionTarget::Cpu).map_err(|err| err.data())
}

fn run(model: &Graph, shape: &[u32]) -> Result<(), String> {
    compute(model, "bytes", TensorType::I32, shape)
}

fn compute_x(model: &Graph, shape: &str) -> Result<(), String> {
    let shape = shape.split(',').map(str::parse).collect::<Result<Vec<u32>, _>>();
    compute(model, "x", TensorType::Fp32, &shape.map_err(|err| err.to_string())?)
}

fn compute(model: &Graph, name: &str, ty: TensorType, shape: &[u32]) -> Result<(), String> {
    let context = model.init_execution_context().map_err(|err| err.data())?;
    let count: u32 = shape.iter().product();
    let input = NnTensor::new(shape, ty, &vec![0; 4 * count as usize]);
    let outputs = context.compute(vec![(name.to_owned(), input)]);
    outputs.map(drop).map_err(|err| err.data())
}
