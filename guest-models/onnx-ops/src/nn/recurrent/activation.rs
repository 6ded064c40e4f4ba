//! The functions of the gates and states of recurrent layers (ONNX, RNN, GRU and LSTM).

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use crate::framework::errors::{bail, ensure};

/// A function with its parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Activation {
    Sigmoid,
    Tanh,
    Relu,
    Softsign,
    Softplus,
    Affine(f64, f64),
    LeakyRelu(f64),
    ThresholdedRelu(f64),
    ScaledTanh(f64, f64),
    HardSigmoid(f64, f64),
    Elu(f64),
}

/// Parameters that are read in the order of the functions.
struct Parameters {
    name: &'static str,
    values: std::vec::IntoIter<f32>,
}

impl Parameters {
    fn of(node: &NodeProto, name: &'static str) -> TractResult<Parameters> {
        let values = node.get_attr_opt_vec::<f32>(name)?.unwrap_or_default();
        Ok(Parameters { name, values: values.into_iter() })
    }

    fn next(&mut self, default: Option<f64>) -> TractResult<f64> {
        match self.values.next().map(f64::from).or(default) {
            Some(value) => Ok(value),
            None => bail!("the attribute {:?} has too few numbers", self.name),
        }
    }
}

impl Activation {
    /// The functions of a node for so many directions, `defaults` for each of them if it names none.
    pub(super) fn of(
        node: &NodeProto,
        directions: usize,
        defaults: &[Activation],
    ) -> TractResult<Vec<Vec<Activation>>> {
        let Some(names) = node.get_attr_opt_vec::<String>("activations")? else {
            return Ok(vec![defaults.to_vec(); directions]);
        };
        ensure!(
            names.len() == directions * defaults.len(),
            "found {} activations; each direction has {}, and there are {directions}",
            names.len(),
            defaults.len()
        );
        let mut alpha = Parameters::of(node, "activation_alpha")?;
        let mut beta = Parameters::of(node, "activation_beta")?;
        let functions = names.iter().map(|name| Activation::named(name, &mut alpha, &mut beta));
        let functions: Vec<Activation> = functions.collect::<TractResult<_>>()?;
        Ok(functions.chunks(defaults.len()).map(<[Activation]>::to_vec).collect())
    }

    fn named(name: &str, alpha: &mut Parameters, beta: &mut Parameters) -> TractResult<Activation> {
        Ok(match &*name.to_ascii_lowercase() {
            "sigmoid" => Activation::Sigmoid,
            "tanh" => Activation::Tanh,
            "relu" => Activation::Relu,
            "softsign" => Activation::Softsign,
            "softplus" => Activation::Softplus,
            "affine" => Activation::Affine(alpha.next(None)?, beta.next(None)?),
            "leakyrelu" => Activation::LeakyRelu(alpha.next(Some(f64::from(0.01f32)))?),
            "thresholdedrelu" => Activation::ThresholdedRelu(alpha.next(Some(1.0))?),
            "scaledtanh" => Activation::ScaledTanh(alpha.next(None)?, beta.next(None)?),
            "hardsigmoid" => {
                Activation::HardSigmoid(alpha.next(Some(f64::from(0.2f32)))?, beta.next(Some(0.5))?)
            }
            "elu" => Activation::Elu(alpha.next(Some(1.0))?),
            _ => bail!("the activation {name:?} does not exist"),
        })
    }

    pub(super) fn at(self, x: f64) -> f64 {
        match self {
            Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Activation::Tanh => x.tanh(),
            Activation::Relu if x < 0.0 => 0.0,
            Activation::Relu => x,
            Activation::Softsign => x / (1.0 + x.abs()),
            // The exponential of a large number is infinite.
            Activation::Softplus => x.max(0.0) + (-x.abs()).exp().ln_1p(),
            Activation::Affine(alpha, beta) => alpha * x + beta,
            Activation::LeakyRelu(alpha) if x < 0.0 => alpha * x,
            Activation::LeakyRelu(_) => x,
            Activation::ThresholdedRelu(alpha) if x <= alpha => 0.0,
            Activation::ThresholdedRelu(_) => x,
            Activation::ScaledTanh(alpha, beta) => alpha * (beta * x).tanh(),
            Activation::HardSigmoid(alpha, beta) => (alpha * x + beta).clamp(0.0, 1.0),
            Activation::Elu(alpha) if x < 0.0 => alpha * x.exp_m1(),
            Activation::Elu(_) => x,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Case, case, tensor};

    /// One step of an RNN whose sum is `x`.
    fn rnn(function: &str, x: f32) -> Case {
        let case = case("RNN").texts("activations", &[function]).int("hidden_size", 1).outputs(2);
        let one = |value: f32| tensor(&[1, 1, 1], &[value]);
        case.input(one(x)).input(one(1.0)).input(one(0.0))
    }

    #[track_caller]
    fn check(case: Case, expected: f32) {
        let all = tensor(&[1, 1, 1, 1], &[expected]);
        case.gives_all(&[all, tensor(&[1, 1, 1], &[expected])]);
    }

    #[test]
    fn each_activation_has_its_default_parameters() {
        let default = |function: &str, x: f32, expected: f32| check(rnn(function, x), expected);
        default("Relu", -2.0, 0.0);
        default("Softsign", -3.0, -0.75);
        default("Softplus", 0.0, std::f32::consts::LN_2);
        default("Softplus", 2000.0, 2000.0);
        default("LeakyRelu", -2.0, -0.02);
        default("ThresholdedRelu", 1.0, 0.0);
        default("ThresholdedRelu", 1.5, 1.5);
        default("HardSigmoid", 1.0, 0.7);
        default("HardSigmoid", -9.0, 0.0);
        default("Elu", -1.0, -0.632_120_55);
        rnn("Affine", 1.0).fails("activation_alpha");
        rnn("Swish", 1.0).fails("does not exist");
    }

    #[test]
    fn parameters_are_read_in_the_order_of_the_functions_that_have_some() {
        let given = |function: &str, x: f32| {
            rnn(function, x).floats("activation_alpha", &[2.0]).floats("activation_beta", &[3.0])
        };
        check(given("Affine", 5.0), 13.0);
        // The last bit of tanh differs between libraries.
        let scaled = 2.0 * 0.3f32.tanh();
        let each = [tensor(&[1, 1, 1, 1], &[scaled]), tensor(&[1, 1, 1], &[scaled])];
        given("ScaledTanh", 0.1).gives_all_near(&each, 1e-6);
        check(given("LeakyRelu", -1.0), -2.0);
        let both = case("RNN").text("direction", "bidirectional").outputs(2).int("hidden_size", 1);
        let both = both.texts("activations", &["Relu", "LeakyRelu"]);
        let both = both.floats("activation_alpha", &[0.5]).input(tensor(&[1, 1, 1], &[-4f32]));
        let both =
            both.input(tensor(&[2, 1, 1], &[1f32, 1.0])).input(tensor(&[2, 1, 1], &[0f32; 2]));
        both.gives_all(&[tensor(&[1, 2, 1, 1], &[0f32, -2.0]), tensor(&[2, 1, 1], &[0f32, -2.0])]);
    }

    #[test]
    fn sums_are_clipped_before_the_activation() {
        check(rnn("Relu", 7.0).float("clip", 2.5), 2.5);
        check(
            rnn("Affine", -7.0)
                .float("clip", 2.0)
                .floats("activation_alpha", &[1.0])
                .floats("activation_beta", &[1.0]),
            -1.0,
        );
        rnn("Relu", 1.0).float("clip", -1.0).fails("positive");
    }
}
