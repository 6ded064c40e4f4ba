//! Shrink (ONNX). tract computes that of floats; for integers it would lose the fractions of the
//! threshold and of the bias.

use tract_onnx::tract_core::ops::element_wise::{ElementWiseMiniOp, ElementWiseOp};
use tract_onnx::tract_hir::internal::*;

use crate::framework::errors::{bail, ensure};
use crate::framework::registration::{Registration, wrapped};
use crate::framework::wrapped::{Wrapped, Wrapping};

pub(crate) const OPERATORS: &[Registration] = &[wrapped("Shrink", Wrapping::new(shrink))];

fn shrink(
    op: &Wrapped,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    if model.outlet_fact(inputs[0])?.datum_type.is_float() {
        return op.wire_original(prefix, model, inputs);
    }
    let (lambd, bias) = (op.float("lambd", 0.5)?, op.float("bias", 0.0)?);
    ensure!(bias.is_finite(), "a bias of {bias} is not implemented");
    model.wire_node(prefix, ElementWiseOp(Box::new(Shrink { lambd, bias }), None), inputs)
}

/// `x + bias` below `−lambd`, `x − bias` above `lambd`, and 0 between them, without its fraction and
/// kept within the integers of the type.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Shrink {
    lambd: f32,
    bias: f32,
}

impl Eq for Shrink {}

impl Shrink {
    fn of(self, x: i128) -> i128 {
        // Conversions from the integer to a float would round it.
        if x < (-self.lambd).ceil() as i128 {
            plus(x, self.bias)
        } else if x > self.lambd.floor() as i128 {
            plus(x, -self.bias)
        } else {
            0
        }
    }
}

/// A sum, rounded towards zero.
fn plus(x: i128, bias: f32) -> i128 {
    let whole = bias.floor();
    let below = x.saturating_add(whole as i128);
    if below < 0 && bias != whole { below + 1 } else { below }
}

impl ElementWiseMiniOp for Shrink {
    fn name(&self) -> String {
        "IntegerShrink".into()
    }

    fn eval_in_place(&self, tensor: &mut Tensor, _: Option<DatumType>) -> TractResult<()> {
        macro_rules! of_integers {
            ($($type:ty),*) => {
                match tensor.datum_type() {
                    $(dtype if dtype == <$type>::datum_type() => {
                        let mut plain = tensor.try_as_plain_ram_mut()?;
                        for value in plain.as_slice_mut::<$type>()? {
                            let (least, most) = (<$type>::MIN.into(), <$type>::MAX.into());
                            *value = self.of((*value).into()).clamp(least, most) as $type;
                        }
                    })*
                    other => bail!("element type {other:?} is not implemented"),
                }
            };
        }
        of_integers!(i8, i16, i32, i64, u8, u16, u32, u64);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Case, case, row};

    fn shrink(lambd: f32, bias: f32) -> Case {
        case("Shrink").float("lambd", lambd).float("bias", bias)
    }

    // The expected numbers are those of onnxruntime 1.32, except for integers that float32 rounds.

    #[test]
    fn shrink_of_integers_keeps_the_fractions_of_its_attributes() {
        let numbers = || row(&[-3i32, -2, -1, 0, 1, 2, 3]);
        shrink(0.5, 0.0).input(numbers()).gives(numbers());
        shrink(1.5, 1.5).input(numbers()).gives(row(&[-1i32, 0, 0, 0, 0, 0, 1]));
        shrink(2.0, -1.5).input(numbers()).gives(row(&[-4i32, 0, 0, 0, 0, 0, 4]));
        shrink(-1.5, 1.0).input(row(&[-2i16, -1, 0, 1, 2])).gives(row(&[-1i16, 0, 1, 2, 1]));
        shrink(1.5, 1.0).input(row(&[0u8, 1, 2, 255])).gives(row(&[0u8, 0, 1, 254]));
    }

    #[test]
    fn shrink_of_integers_keeps_64_bits_and_stays_in_range() {
        let wide = (1i64 << 53) + 1;
        let numbers = row(&[-wide, wide, i64::MAX]);
        shrink(1.0, 2.0).input(numbers).gives(row(&[2 - wide, wide - 2, i64::MAX - 2]));
        shrink(1.0, -2.0).input(row(&[127i8, -128])).gives(row(&[127i8, -128]));
        shrink(1.0, f32::INFINITY).input(row(&[1i8])).fails("inf");
    }
}
