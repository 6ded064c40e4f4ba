//! Activations that exporters write as several nodes, which an optimizer may fuse.

use belljar::policy::Kernels;
use belljar::{Isolation, Tensor};

use super::reference::{gelu, sigmoid, unit};
use super::{answer, finished, single, singles};
use crate::support;
use crate::support::onnx::{
    FLOAT, Graph, Message, fixed, node, tensor_f32, value, value_of_any_shape,
};

#[test]
fn functions_of_several_nodes_are_accurate() {
    let constant = |name: &str, value: f32| tensor_f32(name, &[], &[value]);
    let two = |operator: &str, a: &str, b: &str, y: &str| node(operator, &[a, b], &[y], &[]);
    let one = |operator: &str, a: &str, y: &str| node(operator, &[a], &[y], &[]);
    let constants = [
        constant("half", 0.5),
        constant("one", 1.0),
        constant("root", std::f32::consts::SQRT_2),
        constant("inverse", std::f32::consts::FRAC_1_SQRT_2),
        constant("slope", 1.702),
    ];
    // For each its definition, and the allowed error in units of the number and of the result: a
    // sum that vanishes loses its digits by the definition of the model.
    type Written = (&'static str, Vec<Message>, fn(f64) -> f64, f64, f64);
    let written: [Written; 4] = [
        (
            "x · sigmoid(x)",
            vec![one("Sigmoid", "x", "s"), two("Mul", "x", "s", "y")],
            |x| x * sigmoid(x),
            0.0,
            8.0,
        ),
        (
            "x · sigmoid(1.702 · x)",
            vec![
                two("Mul", "x", "slope", "m"),
                one("Sigmoid", "m", "s"),
                two("Mul", "s", "x", "y"),
            ],
            |x| x * sigmoid(single(1.702) * x),
            0.0,
            200.0,
        ),
        (
            "x ÷ √2, erf, + 1, · x, ÷ 2",
            vec![
                two("Div", "x", "root", "d"),
                one("Erf", "d", "e"),
                two("Add", "e", "one", "a"),
                two("Mul", "x", "a", "m"),
                two("Mul", "m", "half", "y"),
            ],
            gelu,
            1.0,
            4.0,
        ),
        (
            "x ÷ 2 times x · √½, erf, + 1",
            vec![
                two("Mul", "x", "inverse", "d"),
                one("Erf", "d", "e"),
                two("Add", "e", "one", "a"),
                two("Mul", "x", "half", "h"),
                two("Mul", "h", "a", "y"),
            ],
            gelu,
            1.0,
            4.0,
        ),
    ];
    // One of the intermediate results is twice the number.
    let x: Vec<f32> = singles().into_iter().filter(|x| x.abs() < 1e38).collect();
    let host = support::host(Isolation::Thread);
    for (what, nodes, exact, of_number, of_result) in written {
        let graph = Graph {
            nodes,
            initializers: constants.to_vec(),
            inputs: vec![value("x", FLOAT, &fixed(&[x.len() as i64]))],
            outputs: vec![value_of_any_shape("y", FLOAT)],
        };
        for kernels in [Kernels::Native, Kernels::Sandbox] {
            let given = Tensor::new(x.clone(), &[x.len()]).unwrap();
            let y = answer(&host, &finished(&graph), kernels, Some(given));
            for (x, y) in x.iter().zip(y.as_slice::<f32>().unwrap()) {
                let (x, y) = (f64::from(*x), f64::from(*y));
                let value = exact(x);
                let allowed = of_number * unit(x, 24, -149) + of_result * unit(value, 23, -149);
                let near = (y - value).abs() <= allowed.max(1e-36);
                assert!(near, "{what}, {kernels:?}: of {x:e} it is {y:e} for {value:e}");
            }
        }
    }
}
