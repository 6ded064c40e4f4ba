//! Swish (ONNX, operator set 24) of any slope, and SwiGLU (28), which is a Swish times a value.

use tract_onnx::model::OnnxOpRegister;
use tract_onnx::tract_core::ops::cast::cast;
use tract_onnx::tract_core::ops::math::mul;
use tract_onnx::tract_core::ops::nn::sigmoid;
use tract_onnx::tract_hir::internal::*;

pub(super) fn register(registry: &mut OnnxOpRegister) {
    for name in ["Swish", "SwiGLU"] {
        registry.insert(name, |_, node| {
            let slope = node.get_attr_opt("alpha")?.unwrap_or(1.0);
            Ok((expand(Swish { slope, gated: node.op_type == "SwiGLU" }), vec![]))
        });
    }
}

/// `a · sigmoid(slope · a)`, times `b` if there is one.
#[derive(Clone, Debug)]
struct Swish {
    slope: f32,
    gated: bool,
}

impl Expansion for Swish {
    fn name(&self) -> StaticName {
        if self.gated { "SwiGLU".into() } else { "Swish".into() }
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, 1 + usize::from(self.gated))?;
        check_output_arity(outputs, 1)?;
        for input in inputs {
            s.equals(&outputs[0].datum_type, &input.datum_type)?;
            s.equals(&outputs[0].shape, &input.shape)?;
        }
        Ok(())
    }

    fn wire(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        let fact = model.outlet_fact(inputs[0])?.clone();
        let agreed = !self.gated || model.outlet_fact(inputs[1])?.shape == fact.shape;
        ensure!(agreed, "the gate and what goes through it are of different shapes");
        // The sigmoid in 32 bits, whatever it is of; the rest in the type of the input.
        let single = DatumType::F32;
        let wide = model.wire_node(format!("{prefix}.wide"), cast(single), &inputs[..1])?;
        let sloped = if self.slope == 1.0 {
            wide
        } else {
            let slope = super::scalar(model, format!("{prefix}.slope"), self.slope, wide[0])?;
            model.wire_node(format!("{prefix}.sloped"), mul(), &[wide[0], slope])?
        };
        let gate = model.wire_node(format!("{prefix}.sigmoid"), sigmoid(), &sloped)?;
        let gate = model.wire_node(format!("{prefix}.gate"), cast(fact.datum_type), &gate)?[0];
        if !self.gated {
            return model.wire_node(prefix, mul(), &[inputs[0], gate]);
        }
        let swish = model.wire_node(format!("{prefix}.swish"), mul(), &[inputs[0], gate])?[0];
        model.wire_node(prefix, mul(), &[swish, inputs[1]])
    }
}
