//! A tile of an integer product in plain Rust.

use belljar_abi::kernel::{INTEGER_STEPS, PANEL_COLUMNS, PANEL_ROWS};

use super::Tile;
use super::path::Tiles;

/// Plain Rust, for any machine.
pub(super) struct Plain;

// SAFETY: it needs no instructions in particular.
unsafe impl Tiles for Plain {
    const WORDS: usize = 1;

    unsafe fn tile<const SIGNED_LEFT: bool>(
        rows: usize,
        groups: usize,
        a: &[u32],
        b: &[u8],
        width: usize,
        tile: &mut Tile,
    ) {
        let number = |byte: u8, signed| if signed { i32::from(byte as i8) } else { byte.into() };
        tile.0.fill(0);
        let a = a.chunks_exact(PANEL_ROWS);
        let groups = a.zip(b.chunks_exact(width * INTEGER_STEPS)).take(groups);
        for (a, b) in groups {
            let columns = b.as_chunks::<INTEGER_STEPS>().0;
            for (a, sums) in a.iter().zip(tile.0.chunks_exact_mut(PANEL_COLUMNS)).take(rows) {
                let a = a.to_le_bytes().map(|byte| number(byte, SIGNED_LEFT));
                for (sum, b) in sums.iter_mut().zip(columns) {
                    let b = b.map(|byte| number(byte, !SIGNED_LEFT));
                    let four = a[0] * b[0] + a[1] * b[1] + a[2] * b[2] + a[3] * b[3];
                    *sum = sum.wrapping_add(four);
                }
            }
        }
    }
}
