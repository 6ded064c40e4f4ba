//! A tile of an integer product in plain Rust.

use belljar_abi::kernel::{INTEGER_STEPS, PANEL_COLUMNS, PANEL_ROWS};

use super::Tile;

/// Computes a tile.
pub(super) fn tile(rows: usize, groups: usize, a: &[u32], b: &[u8], width: usize, tile: &mut Tile) {
    tile.0.fill(0);
    let groups = a.chunks_exact(PANEL_ROWS).zip(b.chunks_exact(width * INTEGER_STEPS)).take(groups);
    for (a, b) in groups {
        let columns = b.as_chunks::<INTEGER_STEPS>().0;
        for (a, sums) in a.iter().zip(tile.0.chunks_exact_mut(PANEL_COLUMNS)).take(rows) {
            let a = a.to_le_bytes().map(i32::from);
            for (sum, b) in sums.iter_mut().zip(columns) {
                let b = b.map(|b| i32::from(b as i8));
                let four = a[0] * b[0] + a[1] * b[1] + a[2] * b[2] + a[3] * b[3];
                *sum = sum.wrapping_add(four);
            }
        }
    }
}
