//! SpaceToDepth (ONNX): tract computes it, except with channels first (operator set 28).

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use crate::framework::dims::{advance, strides, volume};
use crate::framework::errors::{OrUserError, bail, ensure};
use crate::framework::facts::{InputFact, OutputFact, concrete, required, unknown_dims, with_dims};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, wrapped_by};
use crate::framework::tensors::from_bytes;
use crate::framework::upstream::{BuildResult, originals};

pub(crate) const OPERATORS: &[Registration] = &[wrapped_by("SpaceToDepth", build_space_to_depth)];

fn build_space_to_depth(context: &ParsingContext, node: &NodeProto) -> BuildResult {
    match node.get_attr_opt::<&str>("mode")? {
        Some("CRD") => built(Blocks { size: node.get_attr("blocksize")? }, node),
        _ => originals()["SpaceToDepth"](context, node),
    }
}

/// Square blocks of an image become its channels.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Blocks {
    size: usize,
}

fn blocks(size: usize, shape: &[usize]) -> TractResult<[usize; 4]> {
    let [batch, channels, high, wide] = *shape else {
        bail!("expected an image with batch and channels, found the shape {shape:?}")
    };
    let whole = size > 0 && high % size == 0 && wide % size == 0;
    ensure!(whole, "{high} by {wide} cannot be divided into blocks of {size}");
    let deep = channels.checked_mul(size).and_then(|deep| deep.checked_mul(size));
    Ok([batch, deep.or_user_error("the output has too many channels")?, high / size, wide / size])
}

impl Operator for Blocks {
    fn name(&self) -> &'static str {
        "SpaceToDepth"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let data = required(inputs, 0)?;
        Ok(tvec!(match concrete(&data.shape) {
            Some(shape) => {
                with_dims(data.dtype, blocks(self.size, &shape)?.iter().map(|dim| dim.to_dim()))
            }
            None => unknown_dims(data.dtype, 4),
        }))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let data = *required(inputs, 0)?;
        let shape = data.shape();
        let size = self.size;
        let to = blocks(size, shape)?;
        let bytes = data.as_bytes();
        ensure!(
            data.datum_type().is_copy(),
            "element type {:?} is not implemented",
            data.datum_type()
        );
        let (wide, from) = (data.datum_type().size_of(), strides(shape));
        let mut out = Vec::with_capacity(bytes.len());
        let mut at = vec![0; 4];
        for _ in 0..volume(&to)? {
            let (channel, within) = (at[1] / (size * size), at[1] % (size * size));
            let (y, x) = (at[2] * size + within / size, at[3] * size + within % size);
            let place = at[0] * from[0] + channel * from[1] + y * from[2] + x;
            out.extend_from_slice(&bytes[place * wide..][..wide]);
            advance(&mut at, &to);
        }
        Ok(tvec!(from_bytes(data.datum_type(), &to, &out)?))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Case, case, counting, tensor};

    #[test]
    fn space_to_depth_orders_channels_by_its_mode() {
        let blocks = |case: Case| case.int("blocksize", 2).input(counting(&[1, 2, 2, 2]));
        let depth_first = tensor(&[1, 8, 1, 1], &[0f32, 4.0, 1.0, 5.0, 2.0, 6.0, 3.0, 7.0]);
        blocks(case("SpaceToDepth")).gives(depth_first.clone());
        blocks(case("SpaceToDepth").text("mode", "DCR")).gives(depth_first);
        blocks(case("SpaceToDepth").text("mode", "CRD")).gives(counting(&[1, 8, 1, 1]));
        case("SpaceToDepth").int("blocksize", 2).input(counting(&[1, 1, 2, 3])).fails("");
    }
}
