//! GatedRMSNorm (com.microsoft): groups of each row are divided by the root of their mean square, and
//! multiplied with a scale and with an activation of a gate.

use belljar_operators::MICROSOFT;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::blocks::expect_shape;
use crate::elementwise::approximations::sigmoid;
use crate::framework::assumptions;
use crate::framework::dims;
use crate::framework::errors::{OrUserError, bail, ensure};
use crate::framework::facts::{InputFact, OutputFact, like, required};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::Bits;
use crate::framework::upstream::BuildResult;

pub(crate) const OPERATORS: &[Registration] =
    &[own("GatedRMSNorm", |_, node| build(node)).of(MICROSOFT)];

fn build(node: &NodeProto) -> BuildResult {
    let epsilon = Bits::of(node, "epsilon", 1e-5)?;
    ensure!(epsilon.get() >= 0.0, "an \"epsilon\" of {} is negative", epsilon.get());
    let times_gate = match node.get_attr_opt::<&str>("activation")?.unwrap_or("silu") {
        "silu" | "swish" => true,
        "sigmoid" => false,
        other => bail!("the activation {other:?} is not implemented; use \"silu\" or \"sigmoid\""),
    };
    built(GatedRmsNorm { epsilon, times_gate }, node)
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct GatedRmsNorm {
    epsilon: Bits,
    /// Whether the sigmoid of the gate is multiplied with the gate.
    times_gate: bool,
}

impl Operator for GatedRmsNorm {
    fn name(&self) -> &'static str {
        "GatedRMSNorm"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let (x, scale) = (required(inputs, 0)?, required(inputs, 1)?);
        expect_shape(&required(inputs, 2)?.shape, &x.shape, "a gate")?;
        let last = x.shape.last().or_user_error("the first input has no dimensions")?;
        let [width] = &*scale.shape else {
            bail!(
                "expected a scale of one dimension, found the shape {}",
                dims::shown(&scale.shape)
            )
        };
        let width = width.as_i64().or_user_error("the size of the scale is not known")?;
        ensure!(width > 0, "the scale is empty");
        let groups = last.clone() / width;
        ensure!(
            assumptions::equal(&(groups * width), last)?,
            "rows of {last} elements cannot be divided into groups of {width}, the size of the scale"
        );
        Ok(tvec!(like(x)))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let mut output = (*required(inputs, 0)?).clone();
        let (scale, gate) = (required(inputs, 1)?, required(inputs, 2)?);
        let (scale, gate) = (scale.try_as_plain_ram()?, gate.try_as_plain_ram()?);
        let (scale, gate) = (scale.as_slice::<f32>()?, gate.as_slice::<f32>()?);
        let mut plain = output.try_as_plain_ram_mut()?;
        let width = scale.len().max(1);
        let groups = plain.as_slice_mut::<f32>()?.chunks_exact_mut(width);
        for (group, gate) in groups.zip(gate.chunks_exact(width)) {
            let squares: f64 = group.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
            let root = (squares / width as f64 + f64::from(self.epsilon.get())).sqrt();
            let inverse = (1.0 / root) as f32;
            for ((x, scale), gate) in group.iter_mut().zip(scale).zip(gate) {
                let factor = if self.times_gate { *gate } else { 1.0 };
                *x = *x * inverse * scale * (factor * sigmoid(*gate));
            }
        }
        Ok(tvec!(output))
    }
}

#[cfg(test)]
mod tests {
    use crate::microsoft::attention::cases;
    use crate::testing::{counting, microsoft, tensor};

    #[test]
    fn gated_rms_norm_gives_what_onnxruntime_and_numpy_give() {
        cases::check(include_str!("cases/gated_rms_norm.txt"));
    }

    #[test]
    fn gated_rms_norm_refuses_scales_and_gates_that_do_not_match() {
        let case = |width: usize| {
            microsoft("GatedRMSNorm").input(counting(&[2, 6])).input(counting(&[width]))
        };
        case(4).input(counting(&[2, 6])).fails("groups of 4");
        case(0).input(counting(&[2, 6])).fails("empty");
        case(3).input(counting(&[2, 3])).fails("[2, 3]");
        case(3).fails("input 2");
        case(3).input(counting(&[2, 6])).float("epsilon", -1.0).fails("-1");
        case(3).input(counting(&[2, 6])).text("activation", "relu").fails("relu");
        let scalar = microsoft("GatedRMSNorm").input(counting(&[])).input(counting(&[1]));
        scalar.input(counting(&[])).fails("no dimensions");
        let matrix = microsoft("GatedRMSNorm").input(counting(&[2, 6])).input(counting(&[1, 6]));
        matrix.input(counting(&[2, 6])).fails("[1, 6]");
        let none = microsoft("GatedRMSNorm").input(counting(&[0, 6])).input(counting(&[3]));
        none.input(counting(&[0, 6])).gives(tensor::<f32>(&[0, 6], &[]));
    }
}
