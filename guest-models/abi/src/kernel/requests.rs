//! The fields of the requests that are lists of words.

use alloc::vec::Vec;

/// Rows of a panel of packed weights, see [`Conv`].
pub const PANEL_ROWS: usize = 8;

/// Columns of a panel of packed operands, see [`Gemm`].
pub const PANEL_COLUMNS: usize = 48;

/// The width of every panel of columns is a multiple of this.
pub const PANEL_GRAIN: usize = 16;

/// Steps whose elements of one column are next to each other in a packed integer operand, see
/// [`IntegerGemm`].
pub const INTEGER_STEPS: usize = 4;

/// Maximum number of steps of an integer product. It bounds the scratch memory, and the work
/// between two checks of the deadline.
pub const MAX_INTEGER_STEPS: u32 = 1 << 16;

/// Maximum number of dimensions of a pointwise program, a reduction or a permutation.
pub const KERNEL_RANK: usize = 5;

/// Maximum number of elements of a window; those of real models have 49 to a few thousand.
pub const MAX_TAPS: usize = 1 << 20;

/// Maximum size of an image, a window or a stride of a pooling, along one dimension.
pub const MAX_POOL_SIZE: u32 = 1 << 16;

/// Declares structs whose fields are all words, with their encoding and decoding.
macro_rules! words {
    ($($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $field:ident,)* })*) => {$(
        $(#[$about])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        pub struct $name { $($(#[$doc])* pub $field: u32,)* }

        impl $name {
            pub(super) fn write(&self, words: &mut Vec<u32>) {
                words.extend_from_slice(&[$(self.$field),*]);
            }

            pub(super) fn read(words: &mut impl Iterator<Item = u32>) -> Option<Self> {
                Some($name { $($field: words.next()?,)* })
            }
        }
    )*};
}

words! {
    /// A convolution of `max(input · scale + shift, least)` in the layout NCHW, or the special case
    /// of it in which every channel has a filter of its own (`channels_in` and `channels_out` both
    /// 1), with a bias, the addition of another tensor and clamping of the result to `low..=high`.
    /// Narrow types are 0 for float32, 1 for float16 and 2 for bfloat16.
    Conv {
        /// Images.
        batch,
        /// Groups of channels that are convolved separately.
        groups,
        /// Channels of the input in a group.
        channels_in,
        /// Channels of the output in a group.
        channels_out,
        /// Rows of the input.
        in_h,
        /// Columns of the input.
        in_w,
        /// Rows of the output.
        out_h,
        /// Columns of the output.
        out_w,
        /// Rows of the filter.
        kernel_h,
        /// Columns of the filter.
        kernel_w,
        /// Rows of the input for each row of the output.
        stride_h,
        /// Columns of the input for each column of the output.
        stride_w,
        /// Rows of the input for each row of the filter.
        dilation_h,
        /// Columns of the input for each column of the filter.
        dilation_w,
        /// Rows of zeros before the first row.
        pad_top,
        /// Columns of zeros before the first column.
        pad_left,
        /// Elements from one image to the next.
        batch_stride,
        /// Elements from one channel to the next.
        channel_stride,
        /// Elements from one row to the next.
        row_stride,
        /// Elements from one column to the next.
        column_stride,
        /// The input.
        input,
        /// One factor for each channel of the input, or 0 if the input is not scaled.
        scale,
        /// One summand for each channel of the input; present if `scale` is.
        shift,
        /// The type that the scaled input is rounded to.
        round_scaled,
        /// Bits of the minimum of the scaled input.
        least,
        /// The weights: for each group, panels of [`PANEL_ROWS`] output channels (the last one
        /// filled up with zeros), in each the `channels_in × kernel_h × kernel_w` steps, at each
        /// step one weight for each row. Where every channel has a filter of its own: filter after
        /// filter, always of float32.
        weights,
        /// The type of the weights.
        weights_type,
        /// One number for each output channel, or 0 for none.
        bias,
        /// The type that the sums and the bias are rounded to before the addition; the results stay
        /// float32.
        round_sum,
        /// A tensor of the output's shape that is added to it, or 0 for none.
        residual,
        /// The type that the result of the addition is rounded to.
        round,
        /// Bits of the lower bound of the result; negative infinity for none.
        low,
        /// Bits of the upper bound of the result; infinity for none.
        high,
        /// The output, its elements in order.
        output,
    }

    /// `batch` matrix products `a · b` of `m × k` by `k × n` elements, with a bias and clamping.
    /// Narrow types are 0 for float32, 1 for float16 and 2 for bfloat16.
    Gemm {
        /// Products.
        batch,
        /// Rows.
        m,
        /// Columns.
        n,
        /// Steps.
        k,
        /// The left operand.
        a,
        /// Elements from one product's left operand to the next.
        a_batch_stride,
        /// Elements from one row to the next.
        a_row_stride,
        /// Elements from one step to the next.
        a_step_stride,
        /// The right operand.
        b,
        /// Elements from one product's right operand to the next.
        b_batch_stride,
        /// Elements from one step to the next; 0 if the operand is packed: panels of
        /// [`PANEL_COLUMNS`] columns, the last one filled up with zeros to a multiple of 16, in
        /// each the steps, at each step one element for each column.
        b_step_stride,
        /// Elements from one column to the next.
        b_column_stride,
        /// The type of the right operand. Only a packed one may be narrow.
        b_type,
        /// The type that the sums are rounded to before the bias is added; the results stay float32.
        round_sum,
        /// One number for each column, or 0 for none.
        bias,
        /// The type that the sum with the bias is rounded to.
        round,
        /// Bits of the lower bound of the result.
        low,
        /// Bits of the upper bound of the result.
        high,
        /// The output, its elements in order: product, row, column.
        output,
    }

    /// `batch` matrix products `(a - zeros of a) · (b - zeros of b)` of `m × k` by `k × n` bytes.
    /// The sums have 32 bits and wrap around; sums of at most 2^15 products always fit. Strides
    /// count elements, which are bytes in `a` and `b`.
    IntegerGemm {
        /// Products.
        batch,
        /// Rows.
        m,
        /// Columns.
        n,
        /// Steps, at most [`MAX_INTEGER_STEPS`].
        k,
        /// Bit 0: the elements of `a` are signed. Bit 1: those of `b` are.
        signs,
        /// The left operand; the steps of a row are contiguous.
        a,
        /// Elements from one product's left operand to the next.
        a_batch_stride,
        /// Elements from one row to the next.
        a_row_stride,
        /// The zero points of `a`, in its type, or 0 for none.
        a_zeros,
        /// 0: one zero point for all rows. 1: one for each row.
        a_zero_stride,
        /// The right operand.
        b,
        /// Elements from one product's right operand to the next.
        b_batch_stride,
        /// Elements from one step to the next; 0 if the operand is packed: panels of
        /// [`PANEL_COLUMNS`] columns, the last one filled up with zeros to a multiple of 16. Each
        /// panel starts with the sum of each column as an `i32`, followed by the groups of
        /// [`INTEGER_STEPS`] steps, the last one filled up with zeros, in each the steps of one
        /// column after those of another. Packed elements are signed: those of an unsigned
        /// operand minus 128.
        b_step_stride,
        /// Elements from one column to the next.
        b_column_stride,
        /// The zero points of `b`, in its type before packing, or 0 for none.
        b_zeros,
        /// 0: one zero point for all columns. 1: one for each column.
        b_zero_stride,
        /// The type of the output. 0: `i32`, the sums. 1: float32, `sum · scale + bias`, rounded
        /// after each operation. 2: `u8`, and 3: `i8`, `(sum + bias) · scale`, computed in float64,
        /// rounded to the nearest integer, of two to the even one, moved by the zero point and
        /// saturated.
        output_type,
        /// The scales, of float32 for an output of float32, and otherwise of float64.
        scales,
        /// 0: one scale for all columns. 1: one for each column.
        scale_stride,
        /// A bias for each column, of float32 for an output of float32, and otherwise of `i32`; or 0
        /// for none.
        bias,
        /// The zero point of an output of bytes, in two's complement.
        zero,
        /// The output, its elements in order: product, row, column.
        output,
    }

    /// A convolution of an image of bytes with filters of bytes: sums of `(element - zero point) ·
    /// (weight - its zero point)` over the windows, which wrap around at 32 bits. Padding has the
    /// image's zero point. The tensors are contiguous.
    IntegerConv {
        /// Images.
        batch,
        /// Groups.
        groups,
        /// Channels of a group of the image.
        channels_in,
        /// Channels of a group of the output.
        channels_out,
        /// Rows of the image.
        in_h,
        /// Columns of the image.
        in_w,
        /// Rows of the output.
        out_h,
        /// Columns of the output.
        out_w,
        /// Rows of the filter.
        kernel_h,
        /// Columns of the filter.
        kernel_w,
        /// Rows of the image for each row of the output.
        stride_h,
        /// Columns of the image for each column of the output.
        stride_w,
        /// Rows of the image for each row of the filter.
        dilation_h,
        /// Columns of the image for each column of the filter.
        dilation_w,
        /// Rows of padding before the first row.
        pad_top,
        /// Columns of padding before the first column.
        pad_left,
        /// Bit 0: the elements of the image are signed. Bit 1: the weights are.
        signs,
        /// The image.
        input,
        /// The zero point of the image, as a byte.
        input_zero,
        /// The filters: output channel, input channel of the group, row, column.
        weights,
        /// The zero points of the weights, in their type, or 0 for none.
        weight_zeros,
        /// 0: one zero point for all output channels. 1: one for each.
        weight_zero_stride,
        /// The type of the output, as in [`IntegerGemm`].
        output_type,
        /// The scales, as in [`IntegerGemm`].
        scales,
        /// 0: one scale for all output channels. 1: one for each.
        scale_stride,
        /// A bias for each output channel, as in [`IntegerGemm`].
        bias,
        /// The zero point of an output of bytes, in two's complement.
        zero,
        /// The output: image, channel, row, column.
        output,
    }

    /// A matrix product `a · b` of `m × k` by `k × n` elements, with a right operand of whole
    /// numbers of 2, 4 or 8 bits that is quantized in blocks of steps: an element is
    /// `(number − zero point) · scale`. Then a bias and clamping. Narrow types are 0 for float32, 1
    /// for float16 and 2 for bfloat16.
    BlockGemm {
        /// Rows.
        m,
        /// Columns.
        n,
        /// Steps.
        k,
        /// The left operand. The steps of a row are consecutive.
        a,
        /// Elements from one row to the next.
        a_row_stride,
        /// Bits of a number.
        bits,
        /// Steps of a block, a multiple of those of a word.
        block,
        /// The numbers: panels of [`PANEL_COLUMNS`] columns, the last one filled up to a multiple of
        /// 16. In each, for every `32 ÷ bits` steps one word for each column, the first step in its
        /// lowest bits.
        b,
        /// The scales: panels of as many columns, in each for every block one for each column.
        scales,
        /// The zero points, as bytes in the order of the scales; or 0 if all are the middle of the
        /// range.
        zeros,
        /// The type that the sums are rounded to before the bias is added; the results stay float32.
        round_sum,
        /// One number for each column, or 0 for none.
        bias,
        /// The type that the sum with the bias is rounded to.
        round,
        /// Bits of the lower bound of the result.
        low,
        /// Bits of the upper bound of the result.
        high,
        /// The output, its elements in order.
        output,
    }

    /// A pooling over the last two dimensions of a contiguous tensor.
    Pool {
        /// Images times channels.
        planes,
        /// Rows of the input.
        in_h,
        /// Columns of the input.
        in_w,
        /// Rows of the output.
        out_h,
        /// Columns of the output.
        out_w,
        /// Rows of the window.
        kernel_h,
        /// Columns of the window.
        kernel_w,
        /// Rows of the input for each row of the output.
        stride_h,
        /// Columns of the input for each column of the output.
        stride_w,
        /// Rows of padding before the first row.
        pad_top,
        /// Columns of padding before the first column.
        pad_left,
        /// 0: the maximum. 1: the sum. 2: the mean of the elements that are not padding. 3: the
        /// mean over the whole window.
        mode,
        /// The input.
        input,
        /// The output.
        output,
    }

    /// A reduction of the middle one of three dimensions.
    Reduce {
        /// Outer dimension.
        outer,
        /// The reduced dimension.
        middle,
        /// Inner dimension.
        inner,
        /// 0: sum. 1: maximum. 2: minimum. 3: mean of squares.
        mode,
        /// The input.
        input,
        /// The output.
        output,
    }

    /// The elements of a tensor in another type: 0 for float32, 1 for float16, 2 for bfloat16. One
    /// of the two types is float32.
    Convert {
        /// Elements.
        count,
        /// The type of the input.
        from,
        /// The type of the output.
        to,
        /// The input.
        input,
        /// The output.
        output,
    }

    /// Numbers as bytes: `element ÷ scale`, rounded to the nearest integer, of two to the even one,
    /// moved by the zero point and saturated.
    Quantize {
        /// Elements.
        count,
        /// The input, of float32.
        input,
        /// Bits of the scale.
        scale,
        /// The zero point, in two's complement.
        zero,
        /// The byte for quotients that are NaN.
        nan,
        /// 0: the output is `u8`. 1: it is `i8`.
        signed,
        /// The output.
        output,
    }

    /// Bytes as numbers: `(element - zero point) · scale`.
    Dequantize {
        /// Elements.
        count,
        /// 0: the input is `u8`. 1: it is `i8`.
        signed,
        /// The input.
        input,
        /// Bits of the scale.
        scale,
        /// The zero point, in two's complement.
        zero,
        /// The output, of float32.
        output,
    }

    /// `softmax` along the middle one of three dimensions.
    Softmax {
        /// Outer dimension.
        outer,
        /// The dimension along which the results add up to one.
        middle,
        /// Inner dimension.
        inner,
        /// The input.
        input,
        /// The output.
        output,
    }
}

impl IntegerConv {
    /// The convolution of floats with the same windows on the same image, without addresses.
    #[must_use]
    pub fn geometry(&self) -> Conv {
        let area = self.in_h.saturating_mul(self.in_w);
        Conv {
            batch: self.batch,
            groups: self.groups,
            channels_in: self.channels_in,
            channels_out: self.channels_out,
            in_h: self.in_h,
            in_w: self.in_w,
            out_h: self.out_h,
            out_w: self.out_w,
            kernel_h: self.kernel_h,
            kernel_w: self.kernel_w,
            stride_h: self.stride_h,
            stride_w: self.stride_w,
            dilation_h: self.dilation_h,
            dilation_w: self.dilation_w,
            pad_top: self.pad_top,
            pad_left: self.pad_left,
            batch_stride: area.saturating_mul(self.groups.saturating_mul(self.channels_in)),
            channel_stride: area,
            row_stride: self.in_w,
            column_stride: 1,
            ..Conv::default()
        }
    }
}

/// Dimensions, outermost first; missing ones are 1.
pub type Dims = [u32; KERNEL_RANK];

/// The elements of a tensor in another order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Permute {
    /// Dimensions of the output.
    pub dims: Dims,
    /// The stride of the input for each of them, in elements.
    pub strides: Dims,
    /// The input.
    pub input: u32,
    /// The output.
    pub output: u32,
}

impl Permute {
    pub(super) fn write(&self, words: &mut Vec<u32>) {
        words.extend_from_slice(&self.dims);
        words.extend_from_slice(&self.strides);
        words.extend_from_slice(&[self.input, self.output]);
    }

    pub(super) fn read(words: &mut impl Iterator<Item = u32>) -> Option<Permute> {
        Some(Permute {
            dims: dims(words)?,
            strides: dims(words)?,
            input: words.next()?,
            output: words.next()?,
        })
    }
}

pub(super) fn dims(words: &mut impl Iterator<Item = u32>) -> Option<Dims> {
    let mut dims = Dims::default();
    for dim in &mut dims {
        *dim = words.next()?;
    }
    Some(dims)
}
