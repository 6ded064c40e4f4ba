//! Narrow floats, float16 and bfloat16. Values between nodes are float32 with roundings in between
//! (`gate/narrow.rs`), so the host computes them as such. Products and convolutions do the roundings
//! after them, large constants stay narrow, and conversions at the ends of a model are operators of
//! their own.

use belljar_abi::kernel::{Convert as Request, Kernel};
use belljar_abi::narrow::Narrow;
use onnx_ops::elementwise::NarrowCast;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::model::{TypedModel, TypedNode};
use tract_onnx::tract_core::ops::element_wise::ElementWiseOp;

use super::operator::{Native, NativeOp, address};
use super::{elements, filled, floats, plain_shape_of};

/// The conversion that a node is, if it is one of narrow floats.
fn cast(node: &TypedNode) -> Option<NarrowCast> {
    let ElementWiseOp(op, None) = node.op_as::<ElementWiseOp>()? else { return None };
    op.downcast_ref::<NarrowCast>().copied()
}

/// The type that a node rounds float32 to.
pub(super) fn rounding(node: &TypedNode) -> Option<Narrow> {
    match cast(node)? {
        NarrowCast::Round(narrow) => Some(narrow),
        NarrowCast::Widen(_) | NarrowCast::Narrow(_) => None,
    }
}

/// Whether rounding to this type changes none of the numbers.
pub(super) fn keeps<const N: usize>(narrow: Narrow, numbers: [f32; N]) -> bool {
    numbers.iter().all(|number| narrow.round(*number) == *number)
}

/// The outlet before operators that only change the shape of a tensor.
pub(super) fn reshaped(model: &TypedModel, outlet: OutletId) -> OutletId {
    let mut outlet = outlet;
    while let node = model.node(outlet.node)
        && let Some(AxisOp::Add(_) | AxisOp::Rm(_) | AxisOp::Reshape(..)) = node.op_as::<AxisOp>()
        && let [input] = *node.inputs
    {
        outlet = input;
    }
    outlet
}

/// A constant of float32 or of narrow floats, as its elements are in the model.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub(super) struct Constant {
    pub(super) elements: Arc<Tensor>,
    pub(super) narrow: Option<Narrow>,
}

impl Constant {
    /// The constant that an outlet is, or that it widens.
    pub(super) fn at(model: &TypedModel, outlet: OutletId) -> TractResult<Option<Constant>> {
        let outlet = reshaped(model, outlet);
        if let Some(konst) = &model.outlet_fact(outlet)?.konst {
            let elements = Arc::clone(konst);
            return Ok(floats(konst).is_some().then_some(Constant { elements, narrow: None }));
        }
        let node = model.node(outlet.node);
        let (Some(NarrowCast::Widen(narrow)), [input]) = (cast(node), &*node.inputs) else {
            return Ok(None);
        };
        let input = reshaped(model, *input);
        let konst = model.outlet_fact(input)?.konst.clone().filter(|konst| konst.is_plain());
        Ok(konst.map(|elements| Constant { elements, narrow: Some(narrow) }))
    }

    /// The narrow type that has all of the numbers, if there is one.
    fn type_of_all(&self) -> Option<Narrow> {
        if self.narrow.is_some() {
            return self.narrow;
        }
        let numbers = floats(&self.elements)?;
        let is_one = |narrow: Narrow, number: f32| {
            narrow.decode(narrow.encode(number)).to_bits() == number.to_bits()
        };
        // Most other constants end this at their first number.
        [Narrow::F16, Narrow::Bf16]
            .into_iter()
            .find(|narrow| numbers.iter().all(|number| is_one(*narrow, *number)))
    }

    /// The constant in another order and filled up with zeros to this length, narrow if its numbers
    /// are. The pairs are places in the result, each with the place of its element in the constant.
    pub(super) fn arranged(
        &self,
        len: usize,
        pairs: impl Iterator<Item = (usize, usize)>,
    ) -> Option<Constant> {
        let Some(narrow) = self.type_of_all() else {
            let numbers = floats(&self.elements)?;
            let elements = filled(len, |packed| {
                pairs.for_each(|(to, from)| packed[to] = numbers[from]);
                Some(())
            })?;
            return Some(Constant { elements, narrow: None });
        };
        let mut packed = Tensor::zero::<u16>(&[len]).ok()?;
        let mut view = packed.try_as_plain_ram_mut().ok()?;
        let codes = view.as_slice_mut::<u16>().ok()?;
        match self.narrow {
            None => {
                let numbers = floats(&self.elements)?;
                pairs.for_each(|(to, from)| codes[to] = narrow.encode(numbers[from]));
            }
            Some(_) => {
                let bytes = self.elements.as_bytes().as_chunks::<2>().0;
                pairs.for_each(|(to, from)| codes[to] = u16::from_le_bytes(bytes[from]));
            }
        }
        Some(Constant { elements: packed.into_arc_tensor(), narrow: Some(narrow) })
    }

    /// The constant as float32, with its numbers changed.
    pub(super) fn map(&self, change: impl Fn(usize, f32) -> f32) -> Option<Constant> {
        let elements = filled(self.elements.len(), |changed| {
            let each = changed.iter_mut().enumerate();
            match self.narrow {
                None => each.zip(floats(&self.elements)?).for_each(|((at, to), from)| {
                    *to = change(at, *from);
                }),
                Some(narrow) => {
                    let bytes = self.elements.as_bytes().as_chunks::<2>().0;
                    each.zip(bytes).for_each(|((at, to), from)| {
                        *to = change(at, narrow.decode(u16::from_le_bytes(*from)));
                    });
                }
            }
            Some(())
        })?;
        Some(Constant { elements, narrow: None })
    }
}

/// A conversion that the host computes.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct NativeConvert {
    from: Option<Narrow>,
    to: Option<Narrow>,
}

impl Native for NativeConvert {
    const NAME: &'static str = "NativeConvert";

    fn sized(&self, shapes: &[&[usize]]) -> Option<(Kernel, TVec<usize>)> {
        let shape = *shapes.first()?;
        let request = Request {
            count: elements(shape)? as u32,
            from: Narrow::to_word(self.from),
            to: Narrow::to_word(self.to),
            ..Request::default()
        };
        Some((Kernel::Convert(request), shape.into()))
    }

    fn output_type(&self) -> DatumType {
        match self.to {
            None => DatumType::F32,
            Some(Narrow::F16) => DatumType::F16,
            Some(Narrow::Bf16) => DatumType::U16,
        }
    }

    fn place(&self, request: &mut Kernel, inputs: &[TValue], output: u32) {
        if let Kernel::Convert(request) = request {
            *request = Request { input: address(&inputs[0]), output, ..*request };
        }
    }
}

/// Replaces a conversion from or to narrow floats.
pub(super) fn replace(
    model: &TypedModel,
    node: &TypedNode,
) -> TractResult<Option<TypedModelPatch>> {
    let (from, to) = match cast(node) {
        Some(NarrowCast::Widen(from)) => (Some(from), None),
        Some(NarrowCast::Narrow(to)) => (None, Some(to)),
        _ => return Ok(None),
    };
    let [input] = *node.inputs else { return Ok(None) };
    let fact = model.outlet_fact(input)?;
    let Some(shape) = plain_shape_of(fact, fact.datum_type) else { return Ok(None) };
    let native = NativeConvert { from, to };
    let Some(op) = NativeOp::new(native, &[&shape], &shape) else { return Ok(None) };
    TypedModelPatch::replace_single_op(model, node, &[input], op).map(Some)
}
