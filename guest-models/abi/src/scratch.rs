//! The scratch memory that a native kernel needs.
//!
//! The guest checks it before it passes an operator to the host, and the host before it allocates.
//! Both use this code, so the host never refuses such an operator for its size.

use crate::kernel::{BlockGemm, Conv, Gemm, IntegerConv, IntegerGemm, Kernel, Pointwise, Pool};

/// Maximum scratch memory of one thread of a kernel, in bytes: 64 MiB.
pub const MAX_SCRATCH_BYTES: u64 = 64 << 20;

/// Bytes that do not depend on the sizes in a request: panels of both operands (332 KiB),
/// registers of pointwise programs (64 KiB), and the request with its checked form.
const FIXED_BYTES: u64 = 512 << 10;

/// Elements that are computed beyond the last result: two of the widest vectors.
const SLACK: u64 = 32;

/// Bytes that are read beyond the last result of a filter of bytes.
const BYTE_SLACK: u64 = 64;

/// Maximum number of bytes of the weights of an integer convolution that are packed at once.
pub const MAX_PACKED_WEIGHTS: usize = 4 << 20;

const ELEMENT_BYTES: u64 = 4;

/// Bytes of the offset of one element of a window.
const TAP_BYTES: u64 = 4;

/// Bytes that describe the columns of an image that belong to one phase.
const COLUMN_BYTES: u64 = 24;

impl Kernel {
    /// Maximum scratch memory of each thread, in bytes. `u64::MAX` if it overflows. 0 for kernels
    /// that only use their operands.
    #[must_use]
    pub fn scratch_bytes(&self) -> u64 {
        match self {
            Kernel::Conv(conv) => conv.scratch_bytes(),
            Kernel::Pool(pool) => pool.scratch_bytes(),
            Kernel::Gemm(gemm) => gemm.scratch_bytes(),
            Kernel::BlockGemm(gemm) => gemm.scratch_bytes(),
            Kernel::IntegerGemm(gemm) => gemm.scratch_bytes(),
            Kernel::IntegerConv(conv) => conv.scratch_bytes(),
            Kernel::Pointwise(program) => program.scratch_bytes(),
            Kernel::Reduce(_)
            | Kernel::Softmax(_)
            | Kernel::Permute(_)
            | Kernel::Convert(_)
            | Kernel::Quantize(_)
            | Kernel::Dequantize(_) => 0,
        }
    }
}

impl Gemm {
    /// As [`Kernel::scratch_bytes`].
    #[must_use]
    pub fn scratch_bytes(&self) -> u64 {
        FIXED_BYTES
    }
}

impl BlockGemm {
    /// As [`Kernel::scratch_bytes`].
    #[must_use]
    pub fn scratch_bytes(&self) -> u64 {
        FIXED_BYTES
    }
}

impl IntegerGemm {
    /// As [`Kernel::scratch_bytes`].
    #[must_use]
    pub fn scratch_bytes(&self) -> u64 {
        integer_product_bytes(self.k.into())
    }
}

/// Bytes of the packed operands of an integer product: eight rows of the left one, in two bytes for
/// each element, and a panel of 48 columns with its sums. Several panels are packed at a time only
/// if they fit into the fixed part.
fn integer_product_bytes(steps: u64) -> u64 {
    steps.saturating_add(8).saturating_mul(8 * 2 + 48).saturating_add(FIXED_BYTES)
}

impl IntegerConv {
    /// As [`Kernel::scratch_bytes`].
    #[must_use]
    pub fn scratch_bytes(&self) -> u64 {
        let c = self.geometry().on_its_side();
        if c.has_a_filter_for_each_channel() {
            let sums = c.windows().result_bytes().saturating_add(BYTE_SLACK * ELEMENT_BYTES);
            return c.windows().bytes_of(1, 1).saturating_add(sums);
        }
        let taps = u64::from(c.kernel_h).saturating_mul(c.kernel_w.into());
        let steps = taps.saturating_mul(c.channels_in.into());
        let rows = u64::from(c.channels_out).saturating_add(8);
        // Packed weights, and what their zero points add.
        let weights = steps.saturating_add(8).saturating_mul(rows).saturating_mul(2);
        let weights = weights.min(MAX_PACKED_WEIGHTS as u64).saturating_add(rows * 8);
        let image =
            if c.input_is_an_operand() { 0 } else { c.windows().bytes_of(c.channels_in, 1) };
        [weights, image].into_iter().fold(integer_product_bytes(steps), u64::saturating_add)
    }
}

impl Pointwise {
    /// As [`Kernel::scratch_bytes`].
    #[must_use]
    pub fn scratch_bytes(&self) -> u64 {
        FIXED_BYTES
    }
}

impl Conv {
    /// As [`Kernel::scratch_bytes`].
    #[must_use]
    pub fn scratch_bytes(&self) -> u64 {
        let c = self.on_its_side();
        if c.has_a_filter_for_each_channel() {
            return c.windows().bytes(1).saturating_add(c.windows().result_bytes());
        }
        match c.input_is_an_operand() {
            true => FIXED_BYTES,
            false => c.windows().bytes(c.channels_in),
        }
    }

    /// Swaps rows and columns of an input with one column, because kernels compute a row at a time.
    /// An input that has one row already is unchanged.
    #[must_use]
    pub fn on_its_side(&self) -> Conv {
        let c = *self;
        let one_column = (c.in_w, c.out_w, c.kernel_w, c.pad_left) == (1, 1, 1, 0);
        let one_row = (c.in_h, c.out_h, c.kernel_h, c.pad_top) == (1, 1, 1, 0);
        if one_row || !one_column {
            return c;
        }
        Conv {
            in_h: 1,
            in_w: c.in_h,
            out_h: 1,
            out_w: c.out_h,
            kernel_h: 1,
            kernel_w: c.kernel_h,
            stride_h: 1,
            stride_w: c.stride_h,
            dilation_h: 1,
            dilation_w: c.dilation_h,
            pad_top: 0,
            pad_left: c.pad_top,
            row_stride: 0,
            column_stride: c.row_stride,
            ..c
        }
    }

    /// Whether each channel is filtered separately, and not by a matrix product.
    #[must_use]
    pub fn has_a_filter_for_each_channel(&self) -> bool {
        self.channels_in == 1 && self.channels_out == 1
    }

    /// Whether the input is an operand of the matrix product without being copied: every window is
    /// one element, and the elements of a channel are contiguous.
    #[must_use]
    pub fn input_is_an_operand(&self) -> bool {
        (self.kernel_h, self.kernel_w) == (1, 1)
            && (self.stride_h, self.stride_w) == (1, 1)
            && (self.pad_top, self.pad_left) == (0, 0)
            && (self.in_h, self.in_w) == (self.out_h, self.out_w)
            && self.column_stride == 1
            && (self.in_h == 1 || self.row_stride == self.in_w)
    }

    fn windows(&self) -> Windows {
        Windows {
            in_w: self.in_w,
            output: [self.out_h, self.out_w],
            kernel: [self.kernel_h, self.kernel_w],
            stride: [self.stride_h, self.stride_w],
            dilation: [self.dilation_h, self.dilation_w],
        }
    }
}

impl Pool {
    /// As [`Kernel::scratch_bytes`].
    #[must_use]
    pub fn scratch_bytes(&self) -> u64 {
        let windows = Windows {
            in_w: self.in_w,
            output: [self.out_h, self.out_w],
            kernel: [self.kernel_h, self.kernel_w],
            stride: [self.stride_h, self.stride_w],
            dilation: [1, 1],
        };
        let factors = u64::from(self.out_w) * ELEMENT_BYTES;
        windows.bytes(1).saturating_add(windows.result_bytes()).saturating_add(factors)
    }
}

/// Sizes of rows and columns, in this order.
struct Windows {
    in_w: u32,
    output: [u32; 2],
    kernel: [u32; 2],
    stride: [u32; 2],
    dilation: [u32; 2],
}

impl Windows {
    /// Rows or columns of a phase: of the padded image, every `stride`th.
    fn phase(&self, axis: usize) -> u64 {
        let steps = u64::from(self.output[axis]).saturating_sub(1);
        let more = u64::from(self.kernel[axis]).saturating_sub(1);
        let (stride, dilation) = (u64::from(self.stride[axis]), u64::from(self.dilation[axis]));
        let reach = steps.saturating_mul(stride).saturating_add(more.saturating_mul(dilation));
        reach.saturating_add(1).div_ceil(stride.max(1))
    }

    /// Bytes for a padded image of so many channels, and for the offsets of its parts.
    fn bytes(&self, channels: u32) -> u64 {
        self.bytes_of(channels, ELEMENT_BYTES)
    }

    /// As [`Windows::bytes`], for elements of this many bytes.
    fn bytes_of(&self, channels: u32, element: u64) -> u64 {
        let (rows, columns) = (self.phase(0), self.phase(1));
        let [stride_h, stride_w] = self.stride.map(u64::from);
        let [kernel_h, kernel_w] = self.kernel.map(u64::from);
        let elements = [columns, stride_h, stride_w, channels.into()]
            .into_iter()
            .fold(rows, u64::saturating_mul)
            .saturating_add(columns)
            .saturating_add(SLACK.max(BYTE_SLACK / element));
        let runs = kernel_w.min(stride_w).min(self.in_w.into());
        [
            elements.saturating_mul(element),
            kernel_h.saturating_mul(kernel_w).saturating_mul(TAP_BYTES),
            runs * COLUMN_BYTES,
            // The rows and columns of the strides that are read.
            stride_h + stride_w,
        ]
        .into_iter()
        .fold(FIXED_BYTES, u64::saturating_add)
    }

    /// Bytes for the results of one channel, including those computed between its rows.
    fn result_bytes(&self) -> u64 {
        let results = u64::from(self.output[0]).saturating_mul(self.phase(1));
        results.saturating_add(SLACK).saturating_mul(ELEMENT_BYTES)
    }
}
