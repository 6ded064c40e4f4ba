//! Small things that tract leaves out: EyeLike (ONNX, operator set 9) of the type of its input,
//! SpaceToDepth (28) with channels first, and of Einsum (12) the diagonals, the results that are not
//! said and those that are one number.

use tract_onnx::model::{OnnxOpRegister, ParsingContext};
use tract_onnx::pb::NodeProto;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::tract_core::ops::nn::{Reduce, Reducer};
use tract_onnx::tract_hir::internal::*;

use super::own::{
    Known, Own, Said, advance, built, concrete, floats, from_bytes, from_floats, like, needed,
    strides, unknown, volume,
};
use super::{Ours, originals};

pub(super) fn register(registry: &mut OnnxOpRegister) {
    registry.insert("EyeLike", |_, node| {
        let dtype = match node.get_attr_opt::<i64>("dtype")? {
            Some(dtype) => Some(DatumType::try_from(DataType::try_from(i32::try_from(dtype)?)?)?),
            None => None,
        };
        built(Matrices::Eye { dtype, shift: node.get_attr_opt("k")?.unwrap_or(0) }, node)
    });
    registry.insert("SpaceToDepth", |context, node| match node.get_attr_opt::<&str>("mode")? {
        Some("CRD") => built(Matrices::Blocks { size: node.get_attr("blocksize")? }, node),
        _ => originals()["SpaceToDepth"](context, node),
    });
    registry.insert("Einsum", |context, node| {
        let (from, to) = equation(node)?;
        let repeated = |term: &str| term.chars().any(|c| c != '.' && term.matches(c).count() > 1);
        if !from.contains(',') && (repeated(&from) || to.is_empty()) {
            return built(Matrices::Diagonal { from, to }, node);
        }
        match to.is_empty() {
            true => Total::build(context, node, &from),
            false => Ours::build(context, &with_equation(node, &from, &to), super::agree::agreed),
        }
    });
    registry.insert("MatMul", |context, node| Ours::build(context, node, matmul));
}

/// The operands of an Einsum and its result, which is said here where the node does not: the
/// dimensions without letters, and then the letters that are there once, in their order.
fn equation(node: &NodeProto) -> TractResult<(String, String)> {
    let equation: String = node.get_attr("equation")?;
    let equation = equation.replace(' ', "");
    if let Some((from, to)) = equation.split_once("->") {
        return Ok((from.into(), to.into()));
    }
    let once = |c: &char| c.is_ascii_alphabetic() && equation.matches(*c).count() == 1;
    let mut letters: Vec<char> = equation.chars().filter(once).collect();
    letters.sort_unstable();
    let dots = if equation.contains("...") { "..." } else { "" };
    let to = dots.chars().chain(letters).collect();
    Ok((equation, to))
}

fn with_equation(node: &NodeProto, from: &str, to: &str) -> NodeProto {
    let mut node = node.clone();
    for attribute in node.attribute.iter_mut().filter(|attribute| attribute.name == "equation") {
        attribute.s = format!("{from}->{to}").into_bytes();
    }
    node
}

/// An Einsum that is one number. tract takes a result without letters for one that is not said, so
/// that it computes one with a letter, over which there is a sum then.
#[derive(Clone, Debug)]
struct Total {
    product: Box<dyn Expansion>,
    /// How many letters each operand has.
    ranks: Vec<usize>,
}

impl Total {
    fn build(context: &ParsingContext, node: &NodeProto, from: &str) -> super::Built {
        let Some(letter) = from.chars().find(char::is_ascii_alphabetic) else {
            bail!("a product of numbers alone is not implemented")
        };
        let node = with_equation(node, from, letter.encode_utf8(&mut [0; 4]));
        let (product, outer) = Ours::build(context, &node, super::agree::agreed)?;
        let Some(product) = product.as_op().downcast_ref::<Box<dyn Expansion>>() else {
            bail!("Einsum is not implemented this way")
        };
        let ranks = from.split(',').map(str::len).collect();
        Ok((expand(Total { product: product.clone(), ranks }), outer))
    }
}

impl Expansion for Total {
    fn name(&self) -> StaticName {
        "Einsum".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, self.ranks.len())?;
        check_output_arity(outputs, 1)?;
        s.equals(&outputs[0].rank, 0)?;
        for (input, rank) in inputs.iter().zip(&self.ranks) {
            s.equals(&input.datum_type, &outputs[0].datum_type)?;
            s.equals(&input.rank, *rank as i64)?;
        }
        Ok(())
    }

    fn wire(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        let product = self.product.wire(&format!("{prefix}.product"), model, inputs)?;
        let sum = Reduce::new(tvec!(0), Reducer::Sum);
        let sum = model.wire_node(format!("{prefix}.sum"), sum, &product)?;
        model.wire_node(prefix, AxisOp::Rm(0), &sum)
    }
}

/// Products, of two vectors too.
fn matmul(
    ours: &Ours,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let rank =
        |model: &TypedModel, at: usize| Ok::<_, TractError>(model.outlet_fact(inputs[at])?.rank());
    if rank(model, 0)? != 1 || rank(model, 1)? != 1 {
        return super::agree::agreed(ours, prefix, model, inputs);
    }
    let row = model.wire_node(format!("{prefix}.row"), AxisOp::Add(0), &inputs[..1])?[0];
    let column = model.wire_node(format!("{prefix}.column"), AxisOp::Add(1), &inputs[1..])?[0];
    let name = format!("{prefix}.product");
    let product = super::agree::agreed(ours, &name, model, &[row, column])?;
    let number = model.wire_node(format!("{prefix}.rows"), AxisOp::Rm(0), &product)?;
    model.wire_node(prefix, AxisOp::Rm(0), &number)
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Matrices {
    Eye { dtype: Option<DatumType>, shift: i64 },
    Blocks { size: usize },
    Diagonal { from: String, to: String },
}

/// The letters of a term, one for each dimension; those that dots stand for are digits.
fn labels(term: &str, rank: usize) -> TractResult<Vec<char>> {
    let letters = term.chars().filter(|c| *c != '.').count();
    let hidden = rank.checked_sub(letters).filter(|hidden| *hidden == 0 || term.contains('.'));
    let hidden = hidden.with_context(|| format!("{term:?} for {rank} dimensions"))?;
    ensure!(hidden <= 10, "{hidden} dimensions without letters");
    let dots: String = ('0'..='9').take(hidden).collect();
    Ok(term.replace("...", &dots).chars().collect())
}

/// The letters of the diagonal, and the size of each: first those of the result.
fn diagonal(from: &str, to: &str, shape: &[usize]) -> TractResult<(Vec<char>, Vec<usize>, usize)> {
    let operand = labels(from, shape.len())?;
    let dots = operand.iter().filter(|label| label.is_ascii_digit()).count();
    let rank = to.chars().filter(|c| *c != '.').count() + if to.contains('.') { dots } else { 0 };
    let mut all = labels(to, rank)?;
    let kept = all.len();
    for label in &operand {
        if !all.contains(label) {
            all.push(*label);
        }
    }
    let mut sizes = vec![None; all.len()];
    for (label, size) in operand.iter().zip(shape) {
        let at = all.iter().position(|other| other == label).context("a letter is lost")?;
        let known = sizes[at].get_or_insert(*size);
        ensure!(known == size, "{label:?} is {known} and {size}");
    }
    let sizes: Option<Vec<usize>> = sizes.into_iter().collect();
    Ok((all, sizes.context("a letter of the result is not in the operand")?, kept))
}

impl Matrices {
    fn blocks(size: usize, shape: &[usize]) -> TractResult<[usize; 4]> {
        let [batch, channels, high, wide] = *shape else { bail!("images of {shape:?}") };
        let whole = size > 0 && high % size == 0 && wide % size == 0;
        ensure!(whole, "blocks of {size} do not fill {high} by {wide}");
        let deep = channels.checked_mul(size).and_then(|deep| deep.checked_mul(size));
        Ok([batch, deep.context("too many channels")?, high / size, wide / size])
    }
}

impl Own for Matrices {
    fn name(&self) -> &'static str {
        match self {
            Matrices::Eye { .. } => "EyeLike",
            Matrices::Blocks { .. } => "SpaceToDepth",
            Matrices::Diagonal { .. } => "Einsum",
        }
    }

    fn outputs(&self, inputs: &[Option<Known>]) -> TractResult<TVec<Said>> {
        let data = needed(inputs, 0)?;
        let known = |shape: &[usize]| {
            (data.dtype, shape.iter().map(|dim| Some(dim.to_dim())).collect::<TVec<_>>())
        };
        Ok(tvec!(match (self, concrete(&data.shape)) {
            (Matrices::Eye { dtype, .. }, _) => {
                ensure!(data.rank() == 2, "a matrix of {} dimensions", data.rank());
                (dtype.unwrap_or(data.dtype), like(data).1)
            }
            (Matrices::Blocks { size }, Some(shape)) => known(&Matrices::blocks(*size, &shape)?),
            (Matrices::Blocks { .. }, None) => unknown(data.dtype, 4),
            (Matrices::Diagonal { from, to }, Some(shape)) => {
                let (_, sizes, kept) = diagonal(from, to, &shape)?;
                known(&sizes[..kept])
            }
            (Matrices::Diagonal { from, to }, None) => {
                let (_, _, kept) = diagonal(from, to, &vec![1; data.rank()])?;
                unknown(data.dtype, kept)
            }
        }))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let data = *needed(inputs, 0)?;
        let shape = data.shape();
        Ok(tvec!(match self {
            Matrices::Eye { dtype, shift } => {
                let dtype = dtype.unwrap_or(data.datum_type());
                let [_, columns] = *shape else { bail!("no matrix") };
                let one = |at: usize| (at % columns) as i64 - (at / columns) as i64 == *shift;
                let values: Vec<u8> = (0..volume(shape)?).map(|at| u8::from(one(at))).collect();
                let ones = Tensor::from_shape(shape, &values)?;
                ones.cast_to_dt(dtype)?.into_owned()
            }
            Matrices::Blocks { size } => {
                let to = Matrices::blocks(*size, shape)?;
                let bytes = data.as_bytes();
                ensure!(data.datum_type().is_copy(), "{:?} is not implemented", data.datum_type());
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
                from_bytes(data.datum_type(), &to, &out)?
            }
            Matrices::Diagonal { from, to } => {
                let (all, sizes, kept) = diagonal(from, to, shape)?;
                let operand = labels(from, shape.len())?;
                let mut steps = vec![0; all.len()];
                for (label, stride) in operand.iter().zip(strides(shape)) {
                    let at = all.iter().position(|other| other == label);
                    steps[at.context("a letter is lost")?] += stride;
                }
                let values = floats(data)?;
                let mut results = vec![0.0; volume(&sizes[..kept])?];
                let summed: usize = sizes[kept..].iter().product();
                let mut at = vec![0; sizes.len()];
                for result in &mut results {
                    for _ in 0..summed {
                        *result += values[at.iter().zip(&steps).map(|(a, b)| a * b).sum::<usize>()];
                        advance(&mut at, &sizes);
                    }
                }
                from_floats(data.datum_type(), &sizes[..kept], &results)?
            }
        }))
    }
}
