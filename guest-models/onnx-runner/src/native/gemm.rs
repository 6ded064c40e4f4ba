//! Products of two tensors that become matrix products when their dimensions are merged, with a
//! fused bias and lower bound.

use belljar_abi::kernel::{
    BlockGemm as BlockRequest, Gemm as Request, Kernel, PANEL_COLUMNS, PANEL_GRAIN,
};
use belljar_abi::narrow::Narrow;
use onnx_ops::elementwise::Max;
use onnx_ops::framework::assumptions;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::model::{TypedModel, TypedNode};
use tract_onnx::tract_core::ops::binary::TypedBinOp;
use tract_onnx::tract_core::ops::einsum::EinSum;
use tract_onnx::tract_core::ops::math::Add;

use super::block::BlockWeights;
use super::narrow::{Constant, rounding};
use super::operator::{Native, NativeOp, address, optional};
use super::permute::{NativePermute, strides_of};
use super::{elements, floats, only_reader, plain_shape, vector};

/// A product that the host computes.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub(super) struct NativeGemm {
    axes: ProductAxes,
    /// Which operand of the product is the left one of the matrix product.
    left: usize,
    /// The right operand, if it is a constant; then there is one input.
    right: Option<Right>,
    /// The types that the sums are rounded to before and after the bias is added.
    round: [Option<Narrow>; 2],
    bias: Option<Arc<Tensor>>,
    /// The bits of the lower bound.
    low: u32,
}

/// A constant right operand.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct Right {
    /// As it is in the model, or in panels of columns.
    elements: Elements,
    /// Whether it is in panels.
    packed: bool,
    /// Its shape before it was packed.
    shape: TVec<usize>,
    columns: u32,
    steps: u32,
    /// The strides of a column and a step before it was packed.
    column_stride: u32,
    step_stride: u32,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
enum Elements {
    Numbers(Constant),
    Blocks(BlockWeights),
}

impl Native for NativeGemm {
    const NAME: &'static str = "NativeGemm";

    fn sized(&self, shapes: &[&[usize]]) -> Option<(Kernel, TVec<usize>)> {
        let (first, second): (&[usize], &[usize]) = match &self.right {
            Some(right) if self.left == 0 => (shapes.first()?, &right.shape),
            Some(right) => (&right.shape, shapes.first()?),
            None => (shapes.first()?, shapes.get(1)?),
        };
        let shapes = [first, second];
        elements(first)?;
        elements(second)?;
        let output = self.axes.output(&shapes)?;
        elements(&output)?;
        let mut request = self.axes.matrices(&shapes, &output, self.left)?;
        if let Some(right) = &self.right {
            if (request.batch, request.n, request.k) != (1, right.columns, right.steps) {
                return None;
            }
            request.b_step_stride = 0;
            request.b_batch_stride = 0;
        }
        if self.bias.as_ref().is_some_and(|bias| bias.len() != request.n as usize) {
            return None;
        }
        request.low = self.low;
        [request.round_sum, request.round] = self.round.map(Narrow::to_word);
        let kernel = match &self.right {
            Some(Right { elements: Elements::Blocks(blocks), .. }) => {
                Kernel::BlockGemm(blocks.request(&request)?)
            }
            _ => Kernel::Gemm(request),
        };
        Some((kernel, output))
    }

    fn packed(&self) -> Option<NativeGemm> {
        let right = self.right.as_ref().filter(|right| !right.packed)?;
        let right = Right { elements: pack(right)?, packed: true, ..right.clone() };
        Some(NativeGemm { right: Some(right), ..self.clone() })
    }

    fn place(&self, request: &mut Kernel, inputs: &[TValue], output: u32) {
        let bias = optional(self.bias.as_ref());
        match (request, self.right.as_ref().map(|right| &right.elements)) {
            (Kernel::Gemm(request), Some(Elements::Numbers(right))) => {
                let (a, b) = (address(&inputs[0]), address(&right.elements));
                let b_type = Narrow::to_word(right.narrow);
                *request = Request { a, b, b_type, bias, output, ..*request };
            }
            (Kernel::Gemm(request), None) => {
                let (a, b) = (address(&inputs[self.left]), address(&inputs[1 - self.left]));
                *request = Request { a, b, bias, output, ..*request };
            }
            (Kernel::BlockGemm(request), Some(Elements::Blocks(blocks))) => {
                let a = address(&inputs[0]);
                *request = BlockRequest { a, bias, output, ..blocks.place(request) };
            }
            _ => {}
        }
    }
}

impl NativeGemm {
    /// The product of an input's last dimension with weights in blocks.
    pub(super) fn of_blocks(
        blocks: BlockWeights,
        rank: usize,
        bias: Option<Arc<Tensor>>,
    ) -> NativeGemm {
        let (columns, steps) = blocks.sizes();
        let mut axes = vec![[None, Some(1), Some(rank - 1)], [Some(rank - 1), Some(0), None]];
        axes.extend((0..rank - 1).rev().map(|at| [Some(at), None, Some(at)]));
        let right = Right {
            elements: Elements::Blocks(blocks),
            packed: false,
            shape: tvec![steps, columns],
            columns: columns as u32,
            steps: steps as u32,
            column_stride: 1,
            step_stride: columns as u32,
        };
        NativeGemm {
            axes: ProductAxes { axes, rank },
            left: 0,
            right: Some(right),
            round: [None; 2],
            bias,
            low: f32::NEG_INFINITY.to_bits(),
        }
    }

    /// Replaces a node by this product, with the nodes after it that the kernel computes too.
    pub(super) fn fused(
        mut self,
        model: &TypedModel,
        node: &TypedNode,
        inputs: &[OutletId],
        shapes: &[&[TDim]],
        output: TVec<TDim>,
        columns: usize,
    ) -> TractResult<Option<TypedModelPatch>> {
        let mut last = node;
        if self.bias.is_none() {
            if let Some(reader) = only_reader(model, last)
                && let Some(narrow) = rounding(reader)
            {
                self.round[0] = Some(narrow);
                last = reader;
            }
            if let Some(reader) = only_reader(model, last)
                && let Some(bias) = operand::<Add>(model, last, reader, &output)?
                && let Some(bias) = by_column(&bias, &output, columns)
            {
                self.bias = Some(vector(&bias));
                last = reader;
            }
        }
        if self.bias.is_some()
            && let Some(reader) = only_reader(model, last)
            && let Some(narrow) = rounding(reader)
        {
            self.round[1] = Some(narrow);
            last = reader;
        }
        if let Some(reader) = only_reader(model, last)
            && let Some(bound) = operand::<Max>(model, last, reader, &output)?
            && let Some([low]) = floats(&bound)
        {
            self.low = low.to_bits();
            last = reader;
        }
        let Some(op) = NativeOp::new(self, shapes, &output) else { return Ok(None) };
        let mut patch = TypedModelPatch::default();
        let taps = patch.taps(model, inputs)?;
        let wire = patch.wire_node(&last.name, op, &taps)?;
        patch.shunt_outside(model, last.id.into(), wire[0])?;
        Ok(Some(patch))
    }

    /// The bytes of the constant operand, if it is not packed.
    pub(super) fn unpacked(&self) -> usize {
        let right = self.right.as_ref().filter(|right| !right.packed);
        right.map_or(0, |right| match &right.elements {
            Elements::Numbers(right) => right.elements.as_bytes().len(),
            Elements::Blocks(blocks) => blocks.bytes(),
        })
    }
}

/// Replaces a product.
pub(super) fn rewrite(
    model: &TypedModel,
    node: &TypedNode,
) -> TractResult<Option<TypedModelPatch>> {
    let Some(op) = node.op_as::<EinSum>() else { return Ok(None) };
    if op.q_params.is_some() || op.operating_dt != f32::datum_type() || node.inputs.len() != 2 {
        return Ok(None);
    }
    let facts = model.node_input_facts(node.id)?;
    let shapes = (plain_shape(facts[0]), plain_shape(facts[1]));
    let output = plain_shape(&node.outputs[0].fact);
    let ((Some(first), Some(second)), Some(output)) = (shapes, output) else { return Ok(None) };
    let shapes = [first, second];
    let sizes =
        |shape: &TVec<TDim>| shape.iter().map(assumptions::size).collect::<Option<TVec<usize>>>();
    let (Some(first), Some(second)) = (sizes(&shapes[0]), sizes(&shapes[1])) else {
        return Ok(None);
    };
    for permuted in [false, true] {
        for left in [0, 1] {
            let Some(mut axes) = ProductAxes::new(op, &shapes, &output, left) else { continue };
            let order = permuted.then(|| axes.put_in_kernel_order(left));
            let computed: TVec<TDim> = match &order {
                Some(order) => inverse(order).iter().map(|axis| output[*axis].clone()).collect(),
                None => output.clone(),
            };
            let Some(sizes_out) = sizes(&computed) else { continue };
            let Some(request) = axes.matrices(&[&first, &second], &sizes_out, left) else {
                continue;
            };
            // Few columns and many rows are faster with the operands exchanged.
            if request.n < 4 && request.m >= 4 && left == 0 {
                continue;
            }
            let product = Product { axes, request, left, output: computed, order };
            return replace(model, node, product, &shapes);
        }
    }
    Ok(None)
}

/// The permutation that undoes another one.
fn inverse(order: &[usize]) -> TVec<usize> {
    let mut places: TVec<usize> = (0..order.len()).collect();
    places.sort_by_key(|place| order[*place]);
    places
}

/// A product that the host can compute.
struct Product {
    axes: ProductAxes,
    /// Its request for the example.
    request: Request,
    left: usize,
    /// The shape that the kernel writes.
    output: TVec<TDim>,
    /// For each dimension of the node's output, its place in the kernel's, if they differ.
    order: Option<TVec<usize>>,
}

/// The axes of a product, innermost first: where each is in the operands and in the output.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct ProductAxes {
    axes: Vec<[Option<usize>; 3]>,
    /// The number of dimensions of the output.
    rank: usize,
}

impl ProductAxes {
    /// `None` if an axis is in a tensor twice, or is broadcast.
    fn new(
        op: &EinSum,
        shapes: &[TVec<TDim>; 2],
        output: &TVec<TDim>,
        left: usize,
    ) -> Option<ProductAxes> {
        // Innermost first: by the position in the output, and for summed axes in the left operand.
        let mut axes: Vec<_> = op.axes.iter_all_axes().collect();
        axes.sort_by_key(|axis| {
            let place = axis.outputs[0].first().or(axis.inputs[left].first());
            std::cmp::Reverse(place.copied())
        });
        let mut found = Vec::with_capacity(axes.len());
        for axis in axes {
            let places = [&axis.inputs[0], &axis.inputs[1], &axis.outputs[0]];
            if places.iter().any(|places| places.len() > 1) {
                return None;
            }
            let places = places.map(|places| places.first().copied());
            let dims = [
                places[0].map(|at| &shapes[0][at]),
                places[1].map(|at| &shapes[1][at]),
                places[2].map(|at| &output[at]),
            ];
            let mut dims = dims.into_iter().flatten();
            // A dimension of one would have to be broadcast.
            let first = dims.next()?;
            let read = places[0].is_some() || places[1].is_some();
            if dims.any(|dim| dim != first) || !read && !first.is_one() {
                return None;
            }
            found.push(places);
        }
        Some(ProductAxes { axes: found, rank: output.len() })
    }

    /// Moves the dimensions of the output to where the kernel writes them: those of both operands
    /// first, then rows, then columns. Returns for each dimension its new place.
    fn put_in_kernel_order(&mut self, left: usize) -> TVec<usize> {
        let group = |places: &[Option<usize>; 3]| match (places[left], places[1 - left]) {
            (None, None) => 0,
            (Some(_), Some(_)) => 1,
            (Some(_), None) => 2,
            (None, Some(_)) => 3,
        };
        let mut groups: TVec<(usize, usize)> =
            self.axes.iter().filter_map(|places| Some((group(places), places[2]?))).collect();
        groups.sort();
        let before: TVec<usize> = groups.iter().map(|(_, place)| *place).collect();
        let order = inverse(&before);
        for to in self.axes.iter_mut().filter_map(|places| places[2].as_mut()) {
            *to = order[*to];
        }
        order
    }

    /// The shape of the output. `None` if the operands do not fit each other.
    fn output(&self, shapes: &[&[usize]; 2]) -> Option<TVec<usize>> {
        let mut output = tvec![1; self.rank];
        for [first, second, to] in &self.axes {
            let first = first.map(|at| shapes[0].get(at).copied());
            let second = second.map(|at| shapes[1].get(at).copied());
            let size = match (first, second) {
                (Some(first), Some(second)) if first == second => first?,
                (Some(size), None) | (None, Some(size)) => size?,
                (None, None) => 1,
                _ => return None,
            };
            if let Some(to) = to {
                *output.get_mut(*to)? = size;
            }
        }
        Some(output)
    }

    /// The product as a matrix product with this operand as its left one.
    fn matrices(&self, shapes: &[&[usize]; 2], output: &[usize], left: usize) -> Option<Request> {
        let right = 1 - left;
        let strides = [strides_of(shapes[left]), strides_of(shapes[right]), strides_of(output)];
        let one = Merged { count: 1, strides: [0; 3] };
        let (mut batch, mut m, mut n, mut k) = (one, one, one, one);
        for places in &self.axes {
            let [in_left, in_right, in_output] = [places[left], places[right], places[2]];
            let sizes = [
                in_left.map(|at| shapes[left][at]),
                in_right.map(|at| shapes[right][at]),
                in_output.map(|at| output[at]),
            ];
            let dim = sizes.iter().flatten().max().copied()?;
            if dim == 1 {
                continue;
            }
            let along = [
                in_left.map_or(0, |at| strides[0][at]),
                in_right.map_or(0, |at| strides[1][at]),
                in_output.map_or(0, |at| strides[2][at]),
            ];
            let merged = match (in_left.is_some(), in_right.is_some(), in_output.is_some()) {
                (true, true, true) => batch.push(dim, along),
                (true, false, true) => m.push(dim, along),
                (false, true, true) => n.push(dim, along),
                (true, true, false) => k.push(dim, along),
                _ => false,
            };
            if !merged {
                return None;
            }
        }
        // The kernel writes the output in the order batch, row, column.
        let in_order = (n.count == 1 || n.strides[2] == 1)
            && (m.count == 1 || m.strides[2] as usize == n.count)
            && (batch.count == 1 || batch.strides[2] as usize == m.count * n.count);
        in_order.then(|| Request {
            batch: batch.count as u32,
            m: m.count as u32,
            n: n.count as u32,
            k: k.count as u32,
            a_batch_stride: batch.strides[0],
            a_row_stride: m.strides[0],
            a_step_stride: k.strides[0],
            b_batch_stride: batch.strides[1],
            // A stride of 0 means a packed operand.
            b_step_stride: k.strides[1].max(1),
            b_column_stride: n.strides[1],
            low: f32::NEG_INFINITY.to_bits(),
            high: f32::INFINITY.to_bits(),
            ..Request::default()
        })
    }
}

/// Merged dimensions: the number of elements, and their stride in each tensor.
#[derive(Clone, Copy, Default)]
struct Merged {
    count: usize,
    strides: [u32; 3],
}

impl Merged {
    /// Adds an outer dimension. Returns whether it is contiguous with the others.
    fn push(&mut self, dim: usize, strides: [u32; 3]) -> bool {
        if self.count == 1 {
            *self = Merged { count: dim, strides };
            return true;
        }
        let continues = (0..3).all(|at| strides[at] == self.strides[at] * self.count as u32);
        self.count *= dim;
        continues
    }
}

fn replace(
    model: &TypedModel,
    node: &TypedNode,
    product: Product,
    shapes: &[TVec<TDim>; 2],
) -> TractResult<Option<TypedModelPatch>> {
    let Product { axes, request, left, output, order } = product;
    let low = f32::NEG_INFINITY.to_bits();
    let round = [None; 2];
    let mut native = NativeGemm { axes, left, right: None, round, bias: None, low };
    let mut inputs = node.inputs.clone();
    let mut read: Vec<&[TDim]> = vec![&shapes[0], &shapes[1]];
    let right = node.inputs[1 - left];
    let konst = match Constant::at(model, right)? {
        Some(konst) => Some(Elements::Numbers(konst)),
        None => BlockWeights::restored(model, right, &request)?.map(Elements::Blocks),
    };
    let shape: Option<TVec<usize>> =
        shapes[1 - left].iter().map(|dim| dim.to_usize().ok()).collect();
    if let (Some(elements), Some(shape), 1) = (konst, shape, request.batch) {
        native.right = Some(Right {
            shape,
            elements,
            packed: false,
            columns: request.n,
            steps: request.k,
            column_stride: request.b_column_stride,
            step_stride: request.b_step_stride,
        });
        inputs = vec![node.inputs[left]];
        read = vec![&shapes[left]];
    }
    let Some(order) = order else {
        return native.fused(model, node, &inputs, &read, output, request.n as usize);
    };
    // Two kernels are faster than the tiles of a product whose rows are not contiguous.
    let permute = NativePermute { order };
    let to = node.outputs[0].fact.shape.to_tvec();
    let Some(product) = NativeOp::new(native, &read, &output) else { return Ok(None) };
    let Some(permute) = NativeOp::new(permute, &[&output], &to) else { return Ok(None) };
    let mut patch = TypedModelPatch::default();
    let taps = patch.taps(model, &inputs)?;
    let product = patch.wire_node(format!("{}.product", node.name), product, &taps)?;
    let wire = patch.wire_node(&node.name, permute, &product)?;
    patch.shunt_outside(model, node.id.into(), wire[0])?;
    Ok(Some(patch))
}

/// The constant that a reader combines a node's output with, if the shape stays the same.
fn operand<O: tract_onnx::tract_core::ops::binary::BinMiniOp>(
    model: &TypedModel,
    node: &TypedNode,
    reader: &TypedNode,
    shape: &TVec<TDim>,
) -> TractResult<Option<Arc<Tensor>>> {
    let Some(TypedBinOp(op, None)) = reader.op_as::<TypedBinOp>() else { return Ok(None) };
    let same = plain_shape(&reader.outputs[0].fact).as_ref() == Some(shape);
    let other = match &*reader.inputs {
        [a, b] if a.node == node.id && b.node != node.id => *b,
        [a, b] if b.node == node.id && a.node != node.id => *a,
        _ => return Ok(None),
    };
    if !op.is::<O>() || !same {
        return Ok(None);
    }
    Ok(model.outlet_fact(other)?.konst.clone())
}

/// A bias as one number per column of the product. The number of columns must not depend on the
/// sizes of a run.
fn by_column(bias: &Tensor, output: &[TDim], columns: usize) -> Option<Vec<f32>> {
    let elements = floats(bias)?;
    if let [all] = elements {
        let known = output.iter().all(|dim| dim.as_i64().is_some());
        let last = output.last().and_then(TDim::as_i64) == i64::try_from(columns).ok();
        return (known || last).then(|| vec![*all; columns]);
    }
    // All elements are along the last dimension, which is the columns.
    let last = bias.shape().last().copied()?;
    (last == columns && elements.len() == columns).then(|| elements.to_vec())
}

/// Packs a right operand in panels of columns.
fn pack(right: &Right) -> Option<Elements> {
    let numbers = match &right.elements {
        Elements::Numbers(numbers) => numbers,
        Elements::Blocks(blocks) => return Some(Elements::Blocks(blocks.packed()?)),
    };
    let (n, k) = (right.columns as usize, right.steps as usize);
    let (step, column) = (right.step_stride as usize, right.column_stride as usize);
    let panels = (0..n).step_by(PANEL_COLUMNS).flat_map(|first| {
        let valid = PANEL_COLUMNS.min(n - first);
        let width = valid.next_multiple_of(PANEL_GRAIN);
        (0..k).flat_map(move |at| {
            let (to, from) = (first * k + at * width, at * step + first * column);
            (0..valid).map(move |lane| (to + lane, from + lane * column))
        })
    });
    let packed = numbers.arranged(n.next_multiple_of(PANEL_GRAIN) * k, panels)?;
    Some(Elements::Numbers(packed))
}
