//! Packs the operands of integer products. One of them is unsigned and the other one signed: the
//! top bit of every byte of an operand of the other kind is flipped.

use belljar_abi::kernel::{INTEGER_STEPS, IntegerGemm, PANEL_COLUMNS, PANEL_ROWS};

/// Bytes of the sum of a column.
pub(super) const SUM_BYTES: usize = 4;

/// The number that a byte stands for.
#[inline(always)]
pub(super) fn number(byte: u8, signed: bool) -> i32 {
    if signed { i32::from(byte as i8) } else { byte.into() }
}

/// The bits to flip in an operand whose elements are signed or not, for one that is packed as
/// signed or unsigned.
pub(super) fn flip(signed: bool, packed_signed: bool) -> u8 {
    if signed == packed_signed { 0 } else { 0x80 }
}

/// The sum of bytes. The sums of the longest operands fit, but checks for overflow would keep the
/// compiler from adding several at a time.
#[inline(always)]
fn total<const SIGNED: bool>(bytes: &[u8], flip: u8) -> i32 {
    bytes.iter().fold(0i32, |sum, byte| sum.wrapping_add(number(byte ^ flip, SIGNED)))
}

/// Packs rows of `k` elements, at most eight, and returns their sums. Rows beyond the last are
/// zeros. For each group of four steps there are `words` words for each row: the four elements, or
/// in two words those of even and odd steps, in 16 bits each.
#[inline(always)]
pub(super) fn pack_left<'a, const SIGNED: bool>(
    rows: impl Iterator<Item = &'a [u8]>,
    flip: u8,
    words: usize,
    panel: &mut [u32],
) -> [i32; PANEL_ROWS] {
    let mut sums = [0; PANEL_ROWS];
    let mut count = 0;
    for (at, (elements, sum)) in rows.zip(&mut sums).enumerate() {
        *sum = total::<SIGNED>(elements, flip);
        let (whole, rest) = elements.as_chunks::<INTEGER_STEPS>();
        let places = panel[at * words..].chunks_mut(PANEL_ROWS * words);
        for (bytes, to) in whole.iter().zip(places) {
            put::<SIGNED>(bytes.map(|byte| byte ^ flip), &mut to[..words]);
        }
        if !rest.is_empty() {
            let mut bytes = [0; INTEGER_STEPS];
            bytes.iter_mut().zip(rest).for_each(|(to, from)| *to = from ^ flip);
            put::<SIGNED>(bytes, &mut panel[(whole.len() * PANEL_ROWS + at) * words..][..words]);
        }
        count = at + 1;
    }
    if count < PANEL_ROWS {
        for group in panel.chunks_exact_mut(PANEL_ROWS * words) {
            group[count * words..].fill(0);
        }
    }
    sums
}

/// Writes four elements of a left operand.
#[inline(always)]
fn put<const SIGNED: bool>(bytes: [u8; INTEGER_STEPS], to: &mut [u32]) {
    if let [to] = to {
        *to = u32::from_le_bytes(bytes);
        return;
    }
    let wide = bytes.map(|byte| number(byte, SIGNED) as u32 & 0xffff);
    to.copy_from_slice(&[wide[0] | wide[2] << 16, wide[1] | wide[3] << 16]);
}

/// Columns that are packed at a time.
const LANES: usize = 16;

/// Writes the elements of four steps of consecutive columns, each column's after those of another,
/// and adds them to the sums of the columns. Columns beyond the last are zeros.
#[inline(always)]
pub(super) fn interleave<const SIGNED: bool>(
    rows: [&[u8]; INTEGER_STEPS],
    flip: u8,
    to: &mut [[u8; INTEGER_STEPS]],
    sums: &mut [i32; PANEL_COLUMNS],
) {
    let len = rows[0].len();
    let (groups, sums) = (to.as_chunks_mut::<LANES>().0, sums.as_chunks_mut::<LANES>().0);
    for (at, (to, sums)) in groups.iter_mut().zip(sums).enumerate() {
        let valid = len.saturating_sub(at * LANES).min(LANES);
        if valid == LANES {
            let rows = rows.map(|row| &row.as_chunks::<LANES>().0[at]);
            sixteen::<SIGNED>(rows, flip, to, sums);
        } else {
            // The flipped bits make zeros of the others.
            let mut last = [[flip; LANES]; INTEGER_STEPS];
            for (to, row) in last.iter_mut().zip(rows) {
                to[..valid].copy_from_slice(&row[at * LANES..at * LANES + valid]);
            }
            sixteen::<SIGNED>(last.each_ref(), flip, to, sums);
        }
    }
}

#[inline(always)]
fn sixteen<const SIGNED: bool>(
    rows: [&[u8; LANES]; INTEGER_STEPS],
    flip: u8,
    to: &mut [[u8; INTEGER_STEPS]; LANES],
    sums: &mut [i32; LANES],
) {
    let mut words = [0u32; LANES];
    for (at, row) in rows.into_iter().enumerate() {
        for ((word, sum), byte) in words.iter_mut().zip(sums.iter_mut()).zip(row) {
            let byte = byte ^ flip;
            *word |= u32::from(byte) << (8 * at);
            *sum = sum.wrapping_add(number(byte, SIGNED));
        }
    }
    *to = bytemuck::cast(words.map(u32::to_le));
}

/// Packs all steps of `width` columns as signed numbers; those beyond the last are zeros.
#[inline(always)]
pub(super) fn pack_right(g: &IntegerGemm, b: &[u8], column: usize, width: usize, panel: &mut [u8]) {
    let (k, step) = (g.k as usize, g.b_step_stride as usize);
    let apart = g.b_column_stride as usize;
    let valid = width.min(g.n as usize - column);
    let flip = flip(g.signs & 2 != 0, true);
    let (sum_bytes, elements) = panel.split_at_mut(width * SUM_BYTES);
    let mut sums = [0i32; PANEL_COLUMNS];
    let groups = elements.as_chunks_mut::<INTEGER_STEPS>().0;
    if apart == 1 || valid == 1 {
        // The flipped bits make zeros of these.
        let nothing = [flip; PANEL_COLUMNS];
        for (group, to) in groups.chunks_exact_mut(width).enumerate() {
            let rows = std::array::from_fn(|at| match group * INTEGER_STEPS + at {
                at if at < k => &b[at * step + column * apart..][..valid],
                _ => &nothing[..valid],
            });
            interleave::<true>(rows, flip, to, &mut sums);
        }
    } else if step == 1 {
        let columns: [&[u8]; PANEL_COLUMNS] = std::array::from_fn(|at| match at {
            at if at < valid => &b[(column + at) * apart..][..k],
            _ => Default::default(),
        });
        for (column, sum) in columns.iter().zip(&mut sums) {
            *sum = total::<true>(column, flip);
        }
        for (group, to) in groups.chunks_exact_mut(width).enumerate() {
            to[valid..].fill([0; INTEGER_STEPS]);
            for (column, to) in columns.iter().zip(&mut to[..valid]) {
                let bytes = &column[group * INTEGER_STEPS..];
                *to = match bytes.as_chunks::<INTEGER_STEPS>().0.first() {
                    Some(bytes) => bytes.map(|byte| byte ^ flip),
                    None => std::array::from_fn(|at| bytes.get(at).map_or(0, |byte| byte ^ flip)),
                };
            }
        }
    } else {
        groups.fill([0; INTEGER_STEPS]);
        for (at, sum) in sums[..valid].iter_mut().enumerate() {
            let from = &b[(column + at) * apart..];
            for (group, to) in groups[at..].iter_mut().step_by(width).enumerate() {
                let steps = INTEGER_STEPS.min(k - group * INTEGER_STEPS);
                for (at, to) in to[..steps].iter_mut().enumerate() {
                    *to = from[(group * INTEGER_STEPS + at) * step] ^ flip;
                    *sum = sum.wrapping_add(number(*to, true));
                }
            }
        }
    }
    for (to, sum) in sum_bytes.as_chunks_mut::<SUM_BYTES>().0.iter_mut().zip(sums) {
        *to = sum.to_le_bytes();
    }
}
