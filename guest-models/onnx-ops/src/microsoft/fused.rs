//! FusedMatMul, FusedConv and FusedGemm: operators of ONNX with a transposition, a
//! factor or an activation. They become the nodes that onnxruntime fused, so native kernels compute
//! them.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::{AttributeProto, NodeProto};
use tract_onnx::tract_core::ops::math::add;
use tract_onnx::tract_hir::internal::*;

use crate::framework::equal_sizes::check_equal_sizes;
use crate::framework::errors::{bail, ensure};
use crate::framework::registration::{Registration, own};
use crate::framework::upstream::BuildResult;
use crate::framework::wiring::{two_of_one_type, wire_times};
use crate::quantization::shapes::product_dims;
use crate::registry;

pub(crate) const OPERATORS: &[Registration] = &[
    own("FusedMatMul", build_mat_mul).of(belljar_operators::MICROSOFT),
    own("FusedConv", build_conv).of(belljar_operators::MICROSOFT),
    own("FusedGemm", build_gemm).of(belljar_operators::MICROSOFT),
];

/// An operator of ONNX.
fn onnx(context: &ParsingContext, node: &NodeProto) -> TractResult<Box<dyn Expansion>> {
    let node = NodeProto { domain: String::new(), ..node.clone() };
    let (op, _) = registry::build(context, &node)?;
    match op.as_op().downcast_ref::<Box<dyn Expansion>>() {
        Some(op) => Ok(op.clone()),
        None => bail!("{} is not implemented as a part of another operator", node.op_type),
    }
}

/// An activation with the numbers that it needs as attributes.
fn activation(
    context: &ParsingContext,
    name: &str,
    parameters: &[(&str, f32)],
) -> TractResult<Box<dyn Expansion>> {
    let float = |(name, value): &(&str, f32)| AttributeProto {
        name: (*name).into(),
        r#type: AttributeType::Float as i32,
        f: *value,
        ..AttributeProto::default()
    };
    let node = NodeProto {
        op_type: name.into(),
        input: vec!["x".into()],
        output: vec!["y".into()],
        attribute: parameters.iter().map(float).collect(),
        ..NodeProto::default()
    };
    // The last version of Clip with its bounds as attributes.
    let version = if name == "Clip" { 10 } else { belljar_operators::NEWEST };
    let context = ParsingContext { onnx_operator_set_version: version, ..context.clone() };
    onnx(&context, &node)
}

/// A matrix product with transpositions before it and a factor after it.
#[derive(Clone, Debug)]
struct FusedMatMul {
    product: Box<dyn Expansion>,
    operands: [Operand; 2],
    alpha: f32,
}

/// Which transpositions an operand needs.
#[derive(Clone, Copy, Debug)]
struct Operand {
    /// The last two dimensions are exchanged, unless it is a vector.
    transposed: bool,
    /// The first dimension is the last but one.
    batch_transposed: bool,
}

fn build_mat_mul(context: &ParsingContext, node: &NodeProto) -> BuildResult {
    let flag = |name| Ok::<_, TractError>(node.get_attr_opt::<i64>(name)?.unwrap_or(0) != 0);
    let operand = |transposed, batch_transposed| {
        Ok::<_, TractError>(Operand {
            transposed: flag(transposed)?,
            batch_transposed: flag(batch_transposed)?,
        })
    };
    let plain = NodeProto { op_type: "MatMul".into(), attribute: vec![], ..node.clone() };
    let op = FusedMatMul {
        product: onnx(context, &plain)?,
        operands: [operand("transA", "transBatchA")?, operand("transB", "transBatchB")?],
        alpha: node.get_attr_opt("alpha")?.unwrap_or(1.0),
    };
    Ok((expand(op), vec![]))
}

impl Operand {
    /// The order of the dimensions for the product.
    fn order(self, rank: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..rank).collect();
        if rank >= 2 {
            if self.batch_transposed {
                order[..rank - 1].rotate_left(1);
            }
            if self.transposed {
                order.swap(rank - 2, rank - 1);
            }
        }
        order
    }

    fn wire(self, prefix: &str, model: &mut TypedModel, input: OutletId) -> TractResult<OutletId> {
        let rank = model.outlet_fact(input)?.rank();
        let mut outlet = input;
        if self.batch_transposed && rank > 2 {
            let moved = AxisOp::Move(0, rank - 2);
            outlet = model.wire_node(format!("{prefix}.batch"), moved, &[outlet])?[0];
        }
        if self.transposed && rank >= 2 {
            let moved = AxisOp::Move(rank - 2, rank - 1);
            outlet = model.wire_node(format!("{prefix}.transposed"), moved, &[outlet])?[0];
        }
        Ok(outlet)
    }
}

impl FusedMatMul {
    fn check_ranks(&self, ranks: [usize; 2]) -> TractResult<()> {
        let batches = self.operands.iter().any(|operand| operand.batch_transposed);
        ensure!(
            !batches || ranks[0] == ranks[1] && ranks[0] > 2,
            "transBatchA and transBatchB need operands of the same number of dimensions, at least 3, found {} and {}",
            ranks[0],
            ranks[1]
        );
        Ok(())
    }
}

impl Expansion for FusedMatMul {
    fn name(&self) -> StaticName {
        "FusedMatMul".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        two_of_one_type(s, inputs, outputs)?;
        s.given_2(&inputs[0].shape, &inputs[1].shape, move |s, a, b| {
            self.check_ranks([a.len(), b.len()])?;
            let ordered = |shape: &[TDim], operand: Operand| -> Vec<TDim> {
                operand.order(shape.len()).into_iter().map(|axis| shape[axis].clone()).collect()
            };
            let (a, b) = (ordered(&a, self.operands[0]), ordered(&b, self.operands[1]));
            let dims = product_dims(&a, &b)?;
            let rank = dims.len();
            s.equals(&outputs[0].rank, rank as i64)?;
            for (axis, dim) in dims.into_iter().enumerate() {
                // tract cannot broadcast sizes that only agree in a run.
                let of = |shape: &[TDim]| {
                    let batch = shape.len().saturating_sub(2);
                    let at = (axis + shape.len()).checked_sub(rank).filter(|at| *at < batch)?;
                    Some(shape[at].clone())
                };
                if let (Some(a), Some(b)) = (of(&a), of(&b)) {
                    ensure!(
                        a == b || a.is_one() || b.is_one(),
                        "whether batches of {a} and {b} matrices match is only known in a run"
                    );
                }
                if let Some(dim) = dim {
                    s.equals(&outputs[0].shape[axis], dim)?;
                }
            }
            Ok(())
        })
    }

    fn wire(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        let mut ranks = [0; 2];
        let mut operands = tvec!();
        for (at, operand) in self.operands.into_iter().enumerate() {
            ranks[at] = model.outlet_fact(inputs[at])?.rank();
            operands.push(operand.wire(&format!("{prefix}.operand-{at}"), model, inputs[at])?);
        }
        self.check_ranks(ranks)?;
        wire_times(&*self.product, self.alpha, prefix, model, &operands)
    }
}

/// An operator of ONNX, then the addition of a tensor of the same shape, then an activation.
#[derive(Clone, Debug)]
struct Fused {
    name: &'static str,
    op: Box<dyn Expansion>,
    /// How many inputs belong to the operator. One more is added to its result.
    inputs: usize,
    activation: Option<Box<dyn Expansion>>,
}

fn build_conv(context: &ParsingContext, node: &NodeProto) -> BuildResult {
    let parameters = node.get_attr_opt_vec::<f32>("activation_params")?.unwrap_or_default();
    let activation = match (node.get_attr_opt::<&str>("activation")?.unwrap_or(""), &*parameters) {
        ("", _) => None,
        (name @ ("Relu" | "Tanh" | "Sigmoid" | "HardSwish"), []) => {
            Some(activation(context, name, &[])?)
        }
        ("LeakyRelu", &[alpha]) => Some(activation(context, "LeakyRelu", &[("alpha", alpha)])?),
        ("Clip", &[min, max]) => Some(activation(context, "Clip", &[("min", min), ("max", max)])?),
        ("HardSigmoid", &[alpha, beta]) => {
            Some(activation(context, "HardSigmoid", &[("alpha", alpha), ("beta", beta)])?)
        }
        (name, parameters) => {
            bail!("the activation {name:?} with {} parameters is not implemented", parameters.len())
        }
    };
    let mut conv = NodeProto { op_type: "Conv".into(), ..node.clone() };
    conv.attribute.retain(|attribute| !attribute.name.starts_with("activation"));
    conv.input.truncate(3);
    while conv.input.last().is_some_and(String::is_empty) {
        conv.input.pop();
    }
    let (op, inputs) = (onnx(context, &conv)?, conv.input.len());
    Ok((expand(Fused { name: "FusedConv", op, inputs, activation }), vec![]))
}

fn build_gemm(context: &ParsingContext, node: &NodeProto) -> BuildResult {
    let name = node.get_attr_opt::<&str>("activation")?.unwrap_or("");
    let needed: &[&str] = match name {
        "Relu" | "Sigmoid" | "Softplus" | "Softsign" | "Tanh" => &[],
        "Celu" | "Elu" | "LeakyRelu" | "ThresholdedRelu" => &["alpha"],
        "HardSigmoid" => &["alpha", "beta"],
        "Selu" => &["alpha", "gamma"],
        _ => bail!("the activation {name:?} is not implemented"),
    };
    let mut parameters = Vec::new();
    for parameter in needed {
        match node.get_attr_opt::<f32>(&format!("activation_{parameter}"))? {
            Some(value) => parameters.push((*parameter, value)),
            None => bail!("the activation {name} needs the attribute activation_{parameter}"),
        }
    }
    let activation = Some(activation(context, name, &parameters)?);
    let mut gemm = NodeProto { op_type: "Gemm".into(), ..node.clone() };
    gemm.attribute.retain(|attribute| !attribute.name.starts_with("activation"));
    let context =
        ParsingContext { onnx_operator_set_version: belljar_operators::NEWEST, ..context.clone() };
    let (op, inputs) = (onnx(&context, &gemm)?, gemm.input.len());
    Ok((expand(Fused { name: "FusedGemm", op, inputs, activation }), vec![]))
}

impl Expansion for Fused {
    fn name(&self) -> StaticName {
        self.name.into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        let count = self.inputs.min(inputs.len());
        ensure!(inputs.len() <= self.inputs + 1, "the node has too many inputs");
        self.op.rules(s, &inputs[..count], outputs)?;
        if let Some(added) = inputs.get(self.inputs) {
            s.equals(&added.datum_type, &outputs[0].datum_type)?;
            s.equals(&added.rank, &outputs[0].rank)?;
        }
        Ok(())
    }

    fn wire(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        let (own, added) = inputs.split_at(self.inputs.min(inputs.len()));
        let last = |wanted: bool, step: &str| match wanted {
            true => prefix.to_owned(),
            false => format!("{prefix}.{step}"),
        };
        let name = last(added.is_empty() && self.activation.is_none(), "product");
        let mut result = self.op.wire(&name, model, own)?;
        if let [added] = *added {
            let (rank, other) =
                (model.outlet_fact(result[0])?.rank(), model.outlet_fact(added)?.rank());
            ensure!(rank == other, "the added tensor has {other} dimensions, expected {rank}");
            let pairs = (0..rank).map(|axis| [(0, axis), (1, axis)]).collect();
            let name = format!("{prefix}.same");
            let both = check_equal_sizes(pairs, &name, model, &[result[0], added])?;
            result = model.wire_node(last(self.activation.is_none(), "sum"), add(), &both)?;
        }
        match &self.activation {
            Some(activation) => activation.wire(prefix, model, &result),
            None => Ok(result),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Case, counting, microsoft, row, tensor};

    #[test]
    fn fused_mat_mul_transposes_and_scales() {
        let a = || tensor(&[2, 1], &[1f32, 2.0]);
        let node = microsoft("FusedMatMul").int("transA", 1).float("alpha", 0.5).input(a());
        node.input(tensor(&[2, 1], &[3f32, 4.0])).gives(tensor(&[1, 1], &[5.5f32]));
        // A vector is not transposed.
        let node = microsoft("FusedMatMul").int("transA", 1).input(row(&[1f32, 2.0]));
        node.input(tensor(&[2, 1], &[3f32, 4.0])).gives(row(&[11f32]));
        let node = microsoft("FusedMatMul").input(counting(&[2, 3])).input(counting(&[2, 3]));
        node.fails("");
    }

    #[test]
    fn fused_mat_mul_moves_the_first_dimension_behind_the_batch() {
        // Two matrices of one row: [0, 1] and [2, 3].
        let node = || microsoft("FusedMatMul").int("transBatchA", 1).input(counting(&[1, 2, 2]));
        node()
            .input(tensor(&[2, 2, 1], &[1f32, 10.0, 100.0, 1000.0]))
            .gives(tensor(&[2, 1, 1], &[10f32, 3200.0]));
        node().input(counting(&[2, 1])).fails("3");
    }

    fn conv() -> Case {
        let case = microsoft("FusedConv").input(tensor(&[1, 1, 3], &[1f32, -2.0, 3.0]));
        case.input(tensor(&[1, 1, 2], &[1f32, 1.0]))
    }

    #[test]
    fn fused_conv_adds_a_tensor_before_its_activation() {
        let sum = || tensor(&[1, 1, 2], &[-3f32, 0.5]);
        conv().gives(tensor(&[1, 1, 2], &[-1f32, 1.0]));
        conv().text("activation", "Relu").gives(tensor(&[1, 1, 2], &[0f32, 1.0]));
        let leaky = || conv().text("activation", "LeakyRelu");
        let both = leaky().floats("activation_params", &[0.5]).input(row(&[1f32])).input(sum());
        both.gives(tensor(&[1, 1, 2], &[-1.5f32, 2.5]));
        let clip = conv().text("activation", "Clip").floats("activation_params", &[-0.5, 0.25]);
        clip.missing().input(sum()).gives(tensor(&[1, 1, 2], &[-0.5f32, 0.25]));
        leaky().fails("LeakyRelu");
        conv().text("activation", "Cosine").fails("Cosine");
        conv().missing().input(tensor(&[1, 1, 1], &[1f32])).fails("");
    }

    #[test]
    fn fused_gemm_has_an_activation_with_parameters() {
        let node = |activation| {
            let case = microsoft("FusedGemm").text("activation", activation).float("beta", 2.0);
            let case = case.input(tensor(&[1, 1], &[2f32])).input(tensor(&[1, 2], &[1f32, -3.0]));
            case.input(row(&[0.5f32, 0.5]))
        };
        node("Relu").gives(tensor(&[1, 2], &[3f32, 0.0]));
        let leaky = node("LeakyRelu").float("activation_alpha", 0.5);
        leaky.gives(tensor(&[1, 2], &[3f32, -2.5]));
        let hard = node("HardSigmoid").float("activation_alpha", 0.25);
        hard.float("activation_beta", 1.5).gives(tensor(&[1, 2], &[1f32, 0.25]));
        let double = microsoft("FusedGemm").text("activation", "Sigmoid").float("alpha", 0.5);
        let double = double.input(tensor(&[1, 1], &[2f64])).input(tensor(&[1, 1], &[1f64]));
        double.gives_near(tensor(&[1, 1], &[1.0 / (1.0 + (-1f64).exp())]), 1e-15);
        node("Elu").fails("activation_alpha");
        node("Clip").fails("Clip");
    }
}
