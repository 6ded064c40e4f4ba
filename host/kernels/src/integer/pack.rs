//! Packs the operands of integer products: unsigned on the left, signed on the right.

use belljar_abi::kernel::{INTEGER_STEPS, IntegerGemm, PANEL_ROWS};

/// Bytes of the sum of a column.
pub(super) const SUM_BYTES: usize = 4;

/// Packs some rows, at most eight, and returns their sums. Rows beyond the last are zeros. For each
/// group of four steps there are `words` words for each row: the four elements, or in two words
/// those of even and odd steps, in 16 bits each.
pub(super) fn pack_left(
    g: &IntegerGemm,
    a: &[u8],
    row: usize,
    rows: usize,
    words: usize,
    panel: &mut [u32],
) -> [i32; PANEL_ROWS] {
    let mut sums = [0; PANEL_ROWS];
    if rows < PANEL_ROWS {
        panel.fill(0);
    }
    let flip = if g.signs & 1 == 0 { 0 } else { 0x8080_8080 };
    for (at, sum) in sums.iter_mut().enumerate().take(rows) {
        let elements = &a[(row + at) * g.a_row_stride as usize..][..g.k as usize];
        let mut total = 0;
        let mut put = |group: usize, word: u32| {
            let (even, odd) = (word & 0x00ff_00ff, word >> 8 & 0x00ff_00ff);
            let both = even + odd;
            total += (both & 0xffff) + (both >> 16);
            let place = (group * PANEL_ROWS + at) * words;
            if words == 1 {
                panel[place] = word;
            } else {
                panel[place..place + 2].copy_from_slice(&[even, odd]);
            }
        };
        let (whole, rest) = elements.as_chunks::<INTEGER_STEPS>();
        for (group, bytes) in whole.iter().enumerate() {
            put(group, u32::from_le_bytes(*bytes) ^ flip);
        }
        if !rest.is_empty() {
            let mut bytes = [0; INTEGER_STEPS];
            bytes[..rest.len()].copy_from_slice(rest);
            let valid = u32::MAX >> (8 * (INTEGER_STEPS - rest.len()));
            put(whole.len(), (u32::from_le_bytes(bytes) ^ flip) & valid);
        }
        // At most 2^16 steps of at most 255.
        *sum = total as i32;
    }
    sums
}

/// Packs all steps of `width` columns; those beyond the last are zeros.
pub(super) fn pack_right(g: &IntegerGemm, b: &[u8], column: usize, width: usize, panel: &mut [u8]) {
    let (k, step_stride) = (g.k as usize, g.b_step_stride as usize);
    let valid = width.min(g.n as usize - column);
    let flip = if g.signs & 2 == 0 { 0x80 } else { 0 };
    let (sums, elements) = panel.split_at_mut(width * SUM_BYTES);
    let sums = sums.as_chunks_mut::<SUM_BYTES>().0;
    sums.fill([0; SUM_BYTES]);
    for (group, to) in elements.chunks_exact_mut(width * INTEGER_STEPS).enumerate() {
        let steps = INTEGER_STEPS.min(k - group * INTEGER_STEPS);
        let to = to.as_chunks_mut::<INTEGER_STEPS>().0;
        to[valid..].fill([0; INTEGER_STEPS]);
        let columns = to[..valid].iter_mut().zip(sums.iter_mut()).enumerate();
        for (at, (to, sum)) in columns {
            let start =
                group * INTEGER_STEPS * step_stride + (column + at) * g.b_column_stride as usize;
            *to = [0; INTEGER_STEPS];
            let mut total = i32::from_le_bytes(*sum);
            for (step, to) in to.iter_mut().enumerate().take(steps) {
                *to = b[start + step * step_stride] ^ flip;
                total += i32::from(*to as i8);
            }
            *sum = total.to_le_bytes();
        }
    }
}
