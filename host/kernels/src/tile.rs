//! The accumulators of a tile, and all operations on them except the product.
//!
//! Everything here is inlined into the entry of each instruction set, and so compiled for it.

use super::operations::{Binary, COLUMNS, Operation, Run, Strided};

/// Maximum number of rows of a tile.
const MAX_ROWS: usize = 32;

/// A row of accumulators.
pub(super) type Row = [f32; COLUMNS];

/// The accumulators of a tile.
#[repr(align(64))]
pub(super) struct Tile {
    accumulators: [Row; MAX_ROWS],
    rows: usize,
}

impl Tile {
    pub(super) fn new(rows: usize) -> Tile {
        Tile { accumulators: [[0.0; COLUMNS]; MAX_ROWS], rows: rows.min(MAX_ROWS) }
    }

    #[inline(always)]
    pub(super) fn rows(&mut self) -> &mut [Row] {
        // `rows` is at most the number of accumulator rows, so this slice always exists.
        self.accumulators.get_mut(..self.rows).unwrap_or_default()
    }

    /// Runs a list of operations. `product` adds a product to the accumulators; it receives the
    /// packed operands and the number of steps.
    #[inline(always)]
    pub(super) fn run(
        &mut self,
        memory: &mut [u8],
        operations: &[Operation],
        product: impl Fn(&mut [Row], &[u8], &[u8], usize),
    ) {
        for operation in operations {
            match *operation {
                Operation::Clear => self.rows().fill([0.0; COLUMNS]),
                Operation::Load(run) => {
                    let elements = bytes(memory, run, self.rows * COLUMNS);
                    let elements = elements.as_chunks::<{ 4 * COLUMNS }>().0;
                    for (row, from) in self.rows().iter_mut().zip(elements) {
                        *row = row_of(from);
                    }
                }
                Operation::Scalar(binary, operand) => {
                    self.rows().iter_mut().for_each(|row| apply(binary, row, &[operand; COLUMNS]));
                }
                Operation::LeakyRelu(slope) => {
                    for value in self.rows().as_flattened_mut() {
                        *value = if *value > 0.0 { *value } else { *value * slope };
                    }
                }
                Operation::PerRow(binary, run) => {
                    let operands = bytes(memory, run, self.rows);
                    for (row, operand) in self.rows().iter_mut().zip(floats(operands)) {
                        apply(binary, row, &[operand; COLUMNS]);
                    }
                }
                Operation::PerColumn(binary, run) => {
                    let operands = first_row(bytes(memory, run, COLUMNS));
                    self.rows().iter_mut().for_each(|row| apply(binary, row, &operands));
                }
                Operation::AddStrided(strided) => self.add(memory, strided),
                Operation::AddOuter(of_rows, of_columns) => {
                    let columns = first_row(bytes(memory, of_columns, COLUMNS));
                    let of_rows = bytes(memory, of_rows, self.rows);
                    for (row, factor) in self.rows().iter_mut().zip(floats(of_rows)) {
                        for (value, column) in row.iter_mut().zip(columns) {
                            *value += factor * column;
                        }
                    }
                }
                Operation::Store(strided) => self.store(memory, strided),
                Operation::AddProduct { depth, a, b } => {
                    let a = bytes(memory, a, depth * self.rows);
                    let b = bytes(memory, b, depth * COLUMNS);
                    product(self.rows(), a, b, depth);
                }
            }
        }
    }

    #[inline(always)]
    fn add(&mut self, memory: &[u8], strided: Strided) {
        for (at, row) in self.rows().iter_mut().enumerate() {
            let start = strided.row(at);
            if strided.column_stride == 4 {
                let from = first_row(bytes(memory, Run(start as usize), COLUMNS));
                row.iter_mut().zip(from).for_each(|(value, more)| *value += more);
            } else {
                for (column, value) in row.iter_mut().enumerate() {
                    let at = strided.element(start, column);
                    *value += float(memory, at);
                }
            }
        }
    }

    #[inline(always)]
    fn store(&mut self, memory: &mut [u8], strided: Strided) {
        for (at, row) in self.rows().iter().enumerate() {
            let start = strided.row(at);
            if strided.column_stride == 4 {
                let to = &mut memory[start as usize..][..4 * COLUMNS];
                to.copy_from_slice(bytemuck::cast_slice(row));
            } else {
                for (column, value) in row.iter().enumerate() {
                    let at = strided.element(start, column);
                    memory[at..][..4].copy_from_slice(&value.to_le_bytes());
                }
            }
        }
    }
}

impl Strided {
    /// Offset of a row's first element. The check of the tile's corners covers every sum here.
    #[inline(always)]
    fn row(&self, at: usize) -> isize {
        self.start as isize + self.row_stride * at as isize
    }

    #[inline(always)]
    fn element(&self, row: isize, column: usize) -> usize {
        (row + self.column_stride * column as isize) as usize
    }
}

/// The bytes of a checked run of elements. Callers combine exactly as many elements with the
/// accumulators as it contains. An empty run may have any offset.
#[inline(always)]
fn bytes(memory: &[u8], run: Run, count: usize) -> &[u8] {
    if count == 0 {
        return &[];
    }
    &memory[run.0..][..4 * count]
}

/// One checked element.
#[inline(always)]
fn float(memory: &[u8], at: usize) -> f32 {
    let bytes = &memory[at..][..4];
    f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

#[inline(always)]
fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes))
}

#[inline(always)]
fn row_of(bytes: &[u8; 4 * COLUMNS]) -> Row {
    let chunks = bytes.as_chunks::<4>().0;
    std::array::from_fn(|at| f32::from_le_bytes(chunks[at]))
}

#[inline(always)]
fn first_row(bytes: &[u8]) -> Row {
    row_of(&bytes.as_chunks::<{ 4 * COLUMNS }>().0[0])
}

#[inline(always)]
fn apply(binary: Binary, row: &mut Row, operands: &Row) {
    let each = row.iter_mut().zip(operands);
    match binary {
        Binary::Min => each.for_each(|(value, operand)| *value = min(*operand, *value)),
        Binary::Max => each.for_each(|(value, operand)| *value = max(*operand, *value)),
        Binary::Add => each.for_each(|(value, operand)| *value += *operand),
        Binary::Mul => each.for_each(|(value, operand)| *value *= *operand),
        Binary::Sub => each.for_each(|(value, operand)| *value = *operand - *value),
        Binary::SubFlipped => each.for_each(|(value, operand)| *value -= *operand),
    }
}

/// Like WebAssembly's: NaN if either operand is NaN.
#[inline(always)]
fn min(a: f32, b: f32) -> f32 {
    let least = if a < b { a } else { b };
    if a.is_nan() { a } else { least }
}

/// Like WebAssembly's: NaN if either operand is NaN.
#[inline(always)]
fn max(a: f32, b: f32) -> f32 {
    let greater = if a > b { a } else { b };
    if a.is_nan() { a } else { greater }
}
