//! Checks of the inputs of mixtures of experts, before any is read.

use tract_onnx::tract_hir::internal::*;

use super::attributes::{Activation, Fusion, Quantization};
use super::{Experts, ROUTER, X};
use crate::framework::assumptions;
use crate::framework::dims;
use crate::framework::errors::{OrUserError, bail, ensure};
use crate::framework::facts::{InputFact, optional, required};
use crate::microsoft::blocks::expect_shape;

impl Experts {
    fn check_layer(
        &self,
        inputs: &[Option<InputFact>],
        layer: usize,
        [experts, outputs, columns]: [&TDim; 3],
    ) -> TractResult<()> {
        let (at, number) = (self.positions(layer), layer + 1);
        let weights = required(inputs, at.weights)?;
        if let Some(bias) = optional(inputs, at.bias) {
            let shape = [experts.clone(), outputs.clone()];
            expect_shape(&bias.shape, &shape, &format!("biases of layer {number}"))?;
        }
        let what = format!("weights of layer {number}");
        let Some(Quantization { bits, block }) = self.quantization else {
            let shape = [experts, outputs, columns].map(TDim::clone);
            return expect_shape(&weights.shape, &shape, &what);
        };
        let packed = |count: &TDim| (count.clone() * bits as i64).divceil(8);
        let width = packed(columns);
        ensure!(
            assumptions::equal(&(width.clone() * (8 / bits as i64)), columns)?,
            "rows of {columns} weights of {bits} bits are not whole bytes"
        );
        expect_shape(&weights.shape, &[experts.clone(), outputs.clone(), width], &what)?;
        let scales = optional(inputs, at.scales)
            .or_user_error(format_args!("the scales of layer {number} are missing"))?;
        let zeros = optional(inputs, at.zeros);
        let what = [format!("scales of layer {number}"), format!("zero points of layer {number}")];
        let mut shapes = [vec![experts.clone()], vec![experts.clone()]];
        if let Some(block) = block {
            let blocks = columns.clone() / block;
            ensure!(
                assumptions::equal(&(blocks.clone() * block), columns)?,
                "rows of {columns} weights cannot be divided into blocks of {block}"
            );
            shapes[0].extend([outputs.clone(), blocks.clone()]);
            shapes[1].extend([outputs.clone(), packed(&blocks)]);
        } else {
            shapes[0].push(outputs.clone());
            shapes[1].push(packed(outputs));
        }
        expect_shape(&scales.shape, &shapes[0], &what[0])?;
        zeros.map_or(Ok(()), |zeros| expect_shape(&zeros.shape, &shapes[1], &what[1]))
    }

    pub(super) fn check(&self, inputs: &[Option<InputFact>]) -> TractResult<()> {
        let x = required(inputs, X)?;
        ensure!(
            [2, 3].contains(&x.rank()),
            "expected an input of 2 or 3 dimensions, found {}",
            x.rank()
        );
        let (tokens, hidden) = x.shape.split_at(x.rank() - 1);
        let (tokens, hidden) = (tokens.iter().product::<TDim>(), &hidden[0]);
        let first = required(inputs, self.positions(0).weights)?;
        let [experts, outputs, _] = &*first.shape else {
            bail!("expected weights of 3 dimensions, found the shape {}", dims::shown(&first.shape))
        };
        let routed = [tokens, experts.clone()];
        expect_shape(&required(inputs, ROUTER)?.shape, &routed, "scores of experts")?;
        if let Some(shares) = self.shares(inputs) {
            expect_shape(&shares.shape, &routed, "shares of experts")?;
        }
        let enough = experts.as_i64().is_none_or(|experts| self.chosen as i64 <= experts);
        ensure!(enough, "a \"k\" of {} is more than the {experts} experts", self.chosen);
        let inner = outputs.clone() / self.parts();
        ensure!(
            assumptions::equal(&(inner.clone() * self.parts()), outputs)?,
            "the first layer has {outputs} outputs, which cannot be divided into two parts"
        );
        self.check_layer(inputs, 0, [experts, outputs, hidden])?;
        self.check_layer(inputs, 1, [experts, hidden, &inner])?;
        let third = optional(inputs, self.positions(2).weights).is_some();
        let needed = self.activation == Activation::SwiGlu && self.fusion == Fusion::Apart;
        ensure!(
            third || !needed,
            "swiglu with \"swiglu_fusion\" = 0 needs a third layer (fc3_experts_weights); use 1 or 2 \
             if the first layer has both parts"
        );
        ensure!(
            !third || self.fusion == Fusion::Apart,
            "a third layer is not allowed when the first has both parts; use \"swiglu_fusion\" = 0"
        );
        if third {
            self.check_layer(inputs, 2, [experts, &inner, hidden])?;
        }
        Ok(())
    }
}
