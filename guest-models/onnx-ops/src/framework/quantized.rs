//! How the weights of an operator are quantized, for a host that restores them in its own kernels.

/// Weights of whole numbers of a few bits, with a scale and a zero point for each block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantized {
    /// A product with weights in rows of blocks (MatMulNBits): the inputs are the left operand, the
    /// bytes of the weights, scales, zero points, an input that is never present, and a bias.
    Product {
        /// The number of elements of each row.
        depth: usize,
        /// The number of rows, which are the columns of the result.
        columns: usize,
        /// Elements of a block.
        block: usize,
        /// Bits of an element: 2, 4 or 8.
        bits: usize,
    },
    /// A conversion of weights to float32 (DequantizeLinear), with float32 scales: the inputs are
    /// the weights, one in each byte, scales, and zero points.
    Weights {
        /// Bits of an element: 2, 4 or 8.
        bits: usize,
        /// Whether they are in two's complement.
        signed: bool,
        /// The axis of the blocks or, without blocks, of a row of scales.
        axis: i64,
        /// Elements of a block; 0 for none.
        block: usize,
    },
}
