//! Programs of elementwise steps, such as the operators between a model's products.
//!
//! A program runs on some hundred elements at a time, so that intermediate results stay in the
//! first level cache.

use belljar_abi::kernel::{KERNEL_RANK, MAX_POINTWISE_INPUTS, Pointwise, PointwiseStep, Step};
use belljar_abi::narrow::Narrow;

use super::regions::{Region, Regions, extent_with_repeats, volume};
use super::vector::{Job, Vector, erf, exp, gelu, gelu_by_tanh, sigmoid, tanh};
use super::{Refused, Rows, Watch, in_parallel, split_rows};

/// Number of elements that a program processes at a time.
const CHUNK: usize = 512;

/// Number of chunks between checks of the deadline.
const CHUNKS_BETWEEN: usize = 64;

type Register = [f32; CHUNK];

struct Input<'a> {
    elements: &'a [f32],
    strides: [usize; KERNEL_RANK],
}

/// The operand of a step, for one chunk.
#[derive(Clone, Copy)]
enum Operand {
    /// Consecutive elements.
    Each(*const f32),
    /// One value for all elements.
    Same(f32),
}

/// Checks a program and runs it.
pub(super) fn pointwise(
    memory: &mut [u8],
    program: &Pointwise,
    watch: &Watch,
) -> Result<(), Refused> {
    if program.dims.contains(&0) || program.steps.is_empty() {
        return Err(Refused::Malformed);
    }
    let output = Region::new(memory, program.output, volume(&program.dims)?)?;
    let mut found = Vec::with_capacity(program.inputs.len());
    for input in &program.inputs {
        let mut along = [(0, 0); KERNEL_RANK];
        for (along, pair) in along.iter_mut().zip(program.dims.iter().zip(input.strides)) {
            *along = (*pair.0, pair.1);
        }
        // Along the last dimension, elements are consecutive or broadcast.
        if !matches!(input.strides, [.., 0 | 1]) {
            return Err(Refused::Malformed);
        }
        found.push((
            Region::new(memory, input.address, extent_with_repeats(&along)?)?,
            input.strides,
        ));
    }
    let (output, regions) = Regions::split(memory, output)?;
    let mut inputs = Vec::with_capacity(found.len());
    for (region, strides) in found {
        let strides = strides.map(|stride| stride as usize);
        inputs.push(Input { elements: regions.get(region)?, strides });
    }
    let dims = program.dims.map(|dim| dim as usize);
    let jobs = split_rows(output, dims[KERNEL_RANK - 1], usize::MAX, 1, watch.threads());
    in_parallel(watch, program.scratch_bytes(), jobs, |part| {
        let job = Elements { dims, inputs: &inputs, steps: &program.steps, part, watch };
        super::dispatch(watch.set(), job)
    })
}

struct Elements<'a, 'o> {
    dims: [usize; KERNEL_RANK],
    inputs: &'a [Input<'a>],
    steps: &'a [PointwiseStep],
    part: Rows<'o>,
    watch: &'a Watch,
}

impl Job for Elements<'_, '_> {
    type Output = bool;

    #[inline(always)]
    unsafe fn run<V: Vector>(self) -> bool {
        let Elements { dims, inputs, steps, part, watch } = self;
        let columns = dims[KERNEL_RANK - 1];
        let mut registers = watch.scratch().take(steps.len() * CHUNK);
        let registers = registers.as_chunks_mut::<CHUNK>().0;
        let mut chunks = 0usize;
        for (first, output) in part.pieces() {
            for (at, row) in output.chunks_exact_mut(columns).enumerate() {
                let offsets = offsets(&dims, inputs, first + at);
                for (at, to) in row.chunks_mut(CHUNK).enumerate() {
                    chunks += 1;
                    if chunks.is_multiple_of(CHUNKS_BETWEEN) && watch.expired() {
                        return false;
                    }
                    // SAFETY: the caller's.
                    unsafe {
                        chunk::<V>(inputs, &offsets, steps, registers, at * CHUNK, to);
                    }
                }
            }
        }
        true
    }
}

/// The offset of each input for a row.
#[inline(always)]
fn offsets(
    dims: &[usize; KERNEL_RANK],
    inputs: &[Input<'_>],
    row: usize,
) -> [usize; MAX_POINTWISE_INPUTS] {
    let mut offsets = [0; MAX_POINTWISE_INPUTS];
    let mut rest = row;
    for axis in (0..KERNEL_RANK - 1).rev() {
        let at = rest % dims[axis];
        rest /= dims[axis];
        if at > 0 {
            for (offset, input) in offsets.iter_mut().zip(inputs) {
                *offset += at * input.strides[axis];
            }
        }
    }
    offsets
}

/// Runs all steps on a part of a row.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
unsafe fn chunk<V: Vector>(
    inputs: &[Input<'_>],
    offsets: &[usize; MAX_POINTWISE_INPUTS],
    steps: &[PointwiseStep],
    registers: &mut [Register],
    start: usize,
    to: &mut [f32],
) {
    let len = to.len();
    let whole = len.next_multiple_of(V::LANES);
    let last = steps.len() - 1;
    for (at, step) in steps.iter().enumerate() {
        let (before, rest) = registers.split_at_mut(at);
        let operand = |number: u32| {
            let number = number as usize;
            match number.checked_sub(MAX_POINTWISE_INPUTS) {
                Some(register) => Operand::Each(before[register].as_ptr()),
                None => {
                    let input = &inputs[number];
                    if input.strides[KERNEL_RANK - 1] == 0 {
                        Operand::Same(input.elements[offsets[number]])
                    } else {
                        let elements = &input.elements[offsets[number] + start..][..len];
                        Operand::Each(elements.as_ptr())
                    }
                }
            }
        };
        let (a, b) = (operand(step.a), operand(step.b));
        // Whole vectors are read only where they exist: from registers, and from inputs if the
        // chunk is full. Otherwise the rest is computed from a padded copy.
        let result = &mut rest[0];
        // SAFETY: the caller's. Registers are 512 elements long, a multiple of every vector's
        // length and at least `whole`; inputs have `len` elements, and `full` is at most that. The
        // result's register differs from the previous ones and from the inputs.
        unsafe {
            let full = len / V::LANES * V::LANES;
            apply::<V>(step.step, a, b, full, result.as_mut_ptr());
            if full < whole {
                let (a, b) = (tail(a, full, len), tail(b, full, len));
                let to = result.as_mut_ptr().add(full);
                apply::<V>(step.step, a.operand(), b.operand(), V::LANES, to);
            }
        }
        if at == last {
            to.copy_from_slice(&result[..len]);
        }
    }
}

/// The last elements of an operand, padded to a vector.
struct Tail {
    elements: [f32; 16],
    same: bool,
}

impl Tail {
    #[inline(always)]
    fn operand(&self) -> Operand {
        match self.same {
            true => Operand::Same(self.elements[0]),
            false => Operand::Each(self.elements.as_ptr()),
        }
    }
}

/// # Safety
/// The operand has `len` elements, of which fewer than 16 follow `from`.
#[inline(always)]
unsafe fn tail(operand: Operand, from: usize, len: usize) -> Tail {
    let mut elements = [0.0; 16];
    match operand {
        Operand::Same(value) => Tail { elements: [value; 16], same: true },
        Operand::Each(start) => {
            // SAFETY: the caller's.
            let rest = unsafe { std::slice::from_raw_parts(start.add(from), len - from) };
            elements[..rest.len()].copy_from_slice(rest);
            Tail { elements, same: false }
        }
    }
}

/// The operation of a step. These are types rather than closures, because closures cannot be marked
/// for inlining, and without inlining each vector instruction becomes a call.
trait Apply {
    /// # Safety
    /// As [`Vector`].
    unsafe fn apply<V: Vector>(a: V, b: V) -> V;
}

macro_rules! steps {
    ($($name:ident: |$a:ident, $b:ident| $result:expr;)*) => {$(
        struct $name;

        impl Apply for $name {
            #[inline(always)]
            unsafe fn apply<V: Vector>($a: V, $b: V) -> V {
                // SAFETY: the caller's.
                unsafe { $result }
            }
        }
    )*};
}

steps! {
    Add: |a, b| a.add(b);
    Sub: |a, b| a.sub(b);
    Mul: |a, b| a.mul(b);
    Div: |a, b| a.div(b);
    Min: |a, b| a.min(b);
    Max: |a, b| a.max(b);
    Square: |a, _b| a.mul(a);
    Sqrt: |a, _b| a.sqrt();
    Rsqrt: |a, _b| V::splat(1.0).div(a.sqrt());
    Recip: |a, _b| V::splat(1.0).div(a);
    Neg: |a, _b| V::splat(-1.0).mul(a);
    Abs: |a, _b| a.abs();
    Exp: |a, _b| exp(a);
    Tanh: |a, _b| tanh(a);
    Sigmoid: |a, _b| sigmoid(a);
    Erf: |a, _b| erf(a);
    Gelu: |a, _b| gelu(a);
    GeluByTanh: |a, _b| gelu_by_tanh(a);
    RoundF16: |a, _b| a.round_narrow(Narrow::F16);
    RoundBf16: |a, _b| a.round_narrow(Narrow::Bf16);
}

/// Runs one step on a whole number of vectors.
///
/// # Safety
/// As [`each`].
#[inline(always)]
unsafe fn apply<V: Vector>(step: Step, a: Operand, b: Operand, len: usize, to: *mut f32) {
    // SAFETY: the caller's.
    unsafe {
        match step {
            Step::Add => each::<V, Add>(a, b, len, to),
            Step::Sub => each::<V, Sub>(a, b, len, to),
            Step::Mul => each::<V, Mul>(a, b, len, to),
            Step::Div => each::<V, Div>(a, b, len, to),
            Step::Min => each::<V, Min>(a, b, len, to),
            Step::Max => each::<V, Max>(a, b, len, to),
            Step::Square => each::<V, Square>(a, Operand::Same(0.0), len, to),
            Step::Sqrt => each::<V, Sqrt>(a, Operand::Same(0.0), len, to),
            Step::Rsqrt => each::<V, Rsqrt>(a, Operand::Same(0.0), len, to),
            Step::Recip => each::<V, Recip>(a, Operand::Same(0.0), len, to),
            Step::Neg => each::<V, Neg>(a, Operand::Same(0.0), len, to),
            Step::Abs => each::<V, Abs>(a, Operand::Same(0.0), len, to),
            Step::Exp => each::<V, Exp>(a, Operand::Same(0.0), len, to),
            Step::Tanh => each::<V, Tanh>(a, Operand::Same(0.0), len, to),
            Step::Sigmoid => each::<V, Sigmoid>(a, Operand::Same(0.0), len, to),
            Step::Erf => each::<V, Erf>(a, Operand::Same(0.0), len, to),
            Step::Gelu => each::<V, Gelu>(a, Operand::Same(0.0), len, to),
            Step::GeluByTanh => each::<V, GeluByTanh>(a, Operand::Same(0.0), len, to),
            Step::RoundF16 => each::<V, RoundF16>(a, Operand::Same(0.0), len, to),
            Step::RoundBf16 => each::<V, RoundBf16>(a, Operand::Same(0.0), len, to),
        }
    }
}

/// Runs a step on one vector after the other.
///
/// # Safety
/// As [`Vector`]. `len` is a whole number of vectors. Each operand of elements and the destination
/// have `len` elements, and the destination overlaps no operand.
#[inline(always)]
unsafe fn each<V: Vector, S: Apply>(a: Operand, b: Operand, len: usize, to: *mut f32) {
    // SAFETY: the caller's.
    unsafe {
        let mut at = 0;
        match (a, b) {
            (Operand::Each(a), Operand::Each(b)) => {
                while at < len {
                    S::apply(V::load(a.add(at)), V::load(b.add(at))).store(to.add(at));
                    at += V::LANES;
                }
            }
            (Operand::Each(a), Operand::Same(b)) => {
                let b = V::splat(b);
                while at < len {
                    S::apply(V::load(a.add(at)), b).store(to.add(at));
                    at += V::LANES;
                }
            }
            (Operand::Same(a), Operand::Each(b)) => {
                let a = V::splat(a);
                while at < len {
                    S::apply(a, V::load(b.add(at))).store(to.add(at));
                    at += V::LANES;
                }
            }
            (Operand::Same(a), Operand::Same(b)) => {
                let same = S::apply(V::splat(a), V::splat(b));
                while at < len {
                    same.store(to.add(at));
                    at += V::LANES;
                }
            }
        }
    }
}
