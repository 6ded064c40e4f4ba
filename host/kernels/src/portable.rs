//! The product in plain Rust, for machines without specialised kernels, and as a reference for
//! tests.

use super::operations::{COLUMNS, Operation};
use super::tile::{Row, Tile};

pub(super) fn run(tile: &mut Tile, memory: &mut [u8], operations: &[Operation]) {
    tile.run(memory, operations, product);
}

pub(super) fn product(rows: &mut [Row], a: &[u8], b: &[u8], _depth: usize) {
    let height = 4 * rows.len();
    for (a, b) in a.chunks_exact(height).zip(b.chunks_exact(4 * COLUMNS)) {
        for (row, factor) in rows.iter_mut().zip(a.as_chunks::<4>().0) {
            let factor = f32::from_le_bytes(*factor);
            for (value, other) in row.iter_mut().zip(b.as_chunks::<4>().0) {
                *value += factor * f32::from_le_bytes(*other);
            }
        }
    }
}
