//! Requests to the host's kernels for integers. Their operands are slices, so that the addresses in
//! them are valid.

use belljar_abi::kernel::{
    IntegerConv, IntegerGemm, Kernel, MAX_INTEGER_STEPS, MAX_TAPS, Quantize,
};

use super::integers::{ByteProduct, Bytes, Right, Rounding};
use crate::framework::native::{self, address, address_mut};

/// What becomes of the sums of an integer product.
pub(crate) enum Finish<'t> {
    Sums(&'t mut [i32]),
    /// Times a scale, of which there is one, or one for each column, plus a bias for each column.
    Floats {
        scales: &'t [f32],
        bias: Option<&'t [f32]>,
        results: &'t mut [f32],
    },
    /// Plus a bias, times a factor, of which there is one, or one for each output channel.
    Bytes {
        factors: &'t [f64],
        bias: Option<&'t [i32]>,
        rounding: Rounding,
        results: &'t mut [u8],
    },
}

/// The fields of a request that describe a [`Finish`].
struct Words {
    output_type: u32,
    scales: u32,
    scale_stride: u32,
    bias: u32,
    zero: u32,
    output: u32,
}

impl Words {
    fn of(finish: &mut Finish<'_>) -> Words {
        let none =
            Words { output_type: 0, scales: 0, scale_stride: 0, bias: 0, zero: 0, output: 0 };
        let stride = |count: usize| u32::from(count > 1);
        match finish {
            Finish::Sums(sums) => Words { output: address_mut(sums), ..none },
            Finish::Floats { scales, bias, results } => Words {
                output_type: 1,
                scales: address(scales),
                scale_stride: stride(scales.len()),
                bias: bias.map_or(0, address),
                output: address_mut(results),
                ..none
            },
            Finish::Bytes { factors, bias, rounding, results } => Words {
                output_type: if rounding.signed { 3 } else { 2 },
                scales: address(factors),
                scale_stride: stride(factors.len()),
                bias: bias.map_or(0, address),
                zero: rounding.zero.cast_unsigned(),
                output: address_mut(results),
            },
        }
    }
}

fn address_of(bytes: Bytes<'_>) -> u32 {
    match bytes {
        Bytes::Unsigned(all) => address(all),
        Bytes::Signed(all) => address(all),
    }
}

/// Zero points as bytes of the type of their operand. Empty if all are zero.
fn zero_bytes(zeros: &[i32]) -> Vec<u8> {
    let any = zeros.iter().any(|zero| *zero != 0);
    zeros.iter().filter(|_| any).map(|zero| *zero as u8).collect()
}

fn optional(bytes: &[u8]) -> u32 {
    if bytes.is_empty() { 0 } else { address(bytes) }
}

fn signs(left: Bytes<'_>, right: Bytes<'_>) -> u32 {
    let bit = |bytes| u32::from(matches!(bytes, Bytes::Signed(_)));
    bit(left) | bit(right) << 1
}

/// Computes a product whose operands have the sizes that it says and whose output is not empty.
/// Returns whether the host did.
pub(crate) fn product(product: &ByteProduct<'_>, mut finish: Finish<'_>) -> bool {
    if !native::enabled() {
        return false;
    }
    let [m, k, n] = product.sizes.map(|size| size as u32);
    if k == 0 || k > MAX_INTEGER_STEPS {
        return false;
    }
    let a_zeros = zero_bytes(product.left_zeros);
    let b_zeros = zero_bytes(product.right_zeros);
    let sign = |bytes| matches!(bytes, Bytes::Signed(_));
    let (b, b_signed, b_step_stride, b_column_stride) = match product.right {
        Right::Rows(right) => (address_of(right), sign(right), n, 1),
        Right::Columns(right) => (address_of(right), sign(right), 1, k),
        Right::Packed(right, signed) => (address(right), signed, 0, 0),
    };
    let words = Words::of(&mut finish);
    let request = IntegerGemm {
        batch: 1,
        m,
        n,
        k,
        signs: u32::from(sign(product.left)) | u32::from(b_signed) << 1,
        a: address_of(product.left),
        a_batch_stride: 0,
        a_row_stride: k,
        a_zeros: optional(&a_zeros),
        a_zero_stride: u32::from(a_zeros.len() > 1),
        b,
        b_batch_stride: 0,
        b_step_stride,
        b_column_stride,
        b_zeros: optional(&b_zeros),
        b_zero_stride: u32::from(b_zeros.len() > 1),
        output_type: words.output_type,
        scales: words.scales,
        scale_stride: words.scale_stride,
        bias: words.bias,
        zero: words.zero,
        output: words.output,
    };
    native::compute(&Kernel::IntegerGemm(request))
}

/// A convolution of bytes over up to two dimensions. The operands have the sizes that it says.
pub(crate) struct Convolution<'t> {
    pub(crate) image: Bytes<'t>,
    pub(crate) image_zero: i32,
    pub(crate) weights: Bytes<'t>,
    /// One, or one for each output channel.
    pub(crate) weight_zeros: &'t [i32],
    /// Images, and the channels of each group of the image and of the output.
    pub(crate) batch: usize,
    pub(crate) groups: usize,
    pub(crate) channels: [usize; 2],
    /// For each dimension, outermost first, its size.
    pub(crate) from: [usize; 2],
    pub(crate) to: [usize; 2],
    pub(crate) kernel: [usize; 2],
    pub(crate) strides: [usize; 2],
    pub(crate) dilations: [usize; 2],
    pub(crate) before: [usize; 2],
}

/// Computes a convolution whose output is not empty. Returns whether the host did.
pub(crate) fn convolution(c: &Convolution<'_>, mut finish: Finish<'_>) -> bool {
    if !native::enabled() {
        return false;
    }
    let small = |sizes: [usize; 2]| sizes.map(|size| u32::try_from(size).unwrap_or(u32::MAX));
    let ([in_h, in_w], [out_h, out_w]) = (small(c.from), small(c.to));
    let [kernel_h, kernel_w] = small(c.kernel);
    let ([stride_h, stride_w], [dilation_h, dilation_w]) = (small(c.strides), small(c.dilations));
    let ([pad_top, pad_left], [channels_in, channels_out]) = (small(c.before), small(c.channels));
    let taps = u64::from(kernel_h) * u64::from(kernel_w);
    // The farthest element that a window reaches.
    let reach = |axis: usize| {
        let end = (c.to[axis] as u64 - 1).checked_mul(c.strides[axis] as u64)?;
        let end =
            end.checked_add((c.kernel[axis] as u64 - 1).checked_mul(c.dilations[axis] as u64)?)?;
        (end < 1 << 31 && (c.from[axis] as u64).checked_add(c.before[axis] as u64)? < 1 << 31)
            .then_some(())
    };
    let empty = in_h == 0 || in_w == 0 || taps == 0 || channels_in == 0;
    let fits = taps <= MAX_TAPS as u64
        && taps * u64::from(channels_in) <= u64::from(MAX_INTEGER_STEPS)
        && reach(0).is_some()
        && reach(1).is_some();
    if empty || !fits {
        return false;
    }
    let weight_zeros = zero_bytes(c.weight_zeros);
    let words = Words::of(&mut finish);
    let request = IntegerConv {
        batch: c.batch as u32,
        groups: c.groups as u32,
        channels_in,
        channels_out,
        in_h,
        in_w,
        out_h,
        out_w,
        kernel_h,
        kernel_w,
        stride_h,
        stride_w,
        dilation_h,
        dilation_w,
        pad_top,
        pad_left,
        signs: signs(c.image, c.weights),
        input: address_of(c.image),
        input_zero: u32::from(c.image_zero as u8),
        weights: address_of(c.weights),
        weight_zeros: optional(&weight_zeros),
        weight_zero_stride: u32::from(weight_zeros.len() > 1),
        output_type: words.output_type,
        scales: words.scales,
        scale_stride: words.scale_stride,
        bias: words.bias,
        zero: words.zero,
        output: words.output,
    };
    native::compute(&Kernel::IntegerConv(request))
}

/// Numbers divided by a scale, rounded and saturated; `nan` stands for quotients that are NaN.
/// Returns whether the host computed them.
pub(crate) fn quantize(
    numbers: &[f32],
    scale: f32,
    rounding: Rounding,
    nan: u8,
    results: &mut [u8],
) -> bool {
    if numbers.is_empty() || numbers.len() != results.len() {
        return false;
    }
    let request = Quantize {
        count: numbers.len() as u32,
        input: address(numbers),
        scale: scale.to_bits(),
        zero: rounding.zero.cast_unsigned(),
        nan: nan.into(),
        signed: rounding.signed.into(),
        output: address_mut(results),
    };
    native::compute(&Kernel::Quantize(request))
}
