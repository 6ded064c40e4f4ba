//! Decodes and checks a list of operations on a tile in a sandbox's memory. Requests for whole
//! operators are decoded by `belljar_abi::kernel`.
//!
//! An entry is 20 bytes: a number, and up to four 32-bit words, which is the memory layout of
//! `FusedKerSpec<f32>` of tract-linalg 0.23.9 on a 32-bit machine. Strides are signed.

/// Number of columns of every tile.
pub(super) const COLUMNS: usize = 32;

/// Maximum number of entries of a list: tract's longest have a dozen.
const MAX_OPERATIONS: u32 = 64;

/// Maximum number of steps of all products of a list: with 32 × 32 elements each, about 30 ms of
/// work, after which the guest continues and its deadline is checked.
const MAX_DEPTH: u64 = 1 << 20;

const ENTRY: usize = 20;
const F32: u64 = 4;

/// Why a request is refused. The guest is then faulty or hostile, or a limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("kernel request with an address outside of the sandbox's memory")]
    OutOfBounds,
    #[error("malformed kernel request")]
    Malformed,
    #[error("kernel request for more work than one call may do")]
    TooMuch,
    #[error("kernel request whose output overlaps an input")]
    Overlapping,
    #[error("a kernel needs more scratch memory than the memory limit leaves")]
    Memory,
    #[error("a kernel ran until the deadline")]
    Interrupted,
}

/// A binary operation of an operand with the accumulators, the operand on the left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Binary {
    Min,
    Max,
    Add,
    Mul,
    /// Operand minus accumulator.
    Sub,
    /// Accumulator minus operand.
    SubFlipped,
}

/// Consecutive elements inside of memory: the offset of the first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run(pub(super) usize);

/// A tile at signed strides in bytes; every element is inside of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Strided {
    pub(super) start: usize,
    pub(super) row_stride: isize,
    pub(super) column_stride: isize,
}

/// A checked operation on the accumulators of a tile.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Operation {
    Clear,
    /// All rows, one after the other.
    Load(Run),
    Scalar(Binary, f32),
    LeakyRelu(f32),
    /// One operand for each row.
    PerRow(Binary, Run),
    /// One operand for each column.
    PerColumn(Binary, Run),
    AddStrided(Strided),
    /// Adds the product of a column of operands and a row of operands.
    AddOuter(Run, Run),
    Store(Strided),
    /// Adds a product: for each of `depth` steps, a run of `rows` elements of the one operand and
    /// a run of 32 of the other.
    AddProduct {
        depth: usize,
        a: Run,
        b: Run,
    },
}

/// Decodes and checks a list for a tile of `rows` rows.
pub(super) fn decode(
    memory: &[u8],
    rows: u32,
    address: u32,
    count: u32,
) -> Result<Vec<Operation>, Refused> {
    if !matches!(rows, 8 | 16 | 32) {
        return Err(Refused::Malformed);
    }
    if count == 0 || count > MAX_OPERATIONS {
        return Err(Refused::TooMuch);
    }
    let list = memory
        .get(address as usize..)
        .and_then(|rest| rest.get(..count as usize * ENTRY))
        .ok_or(Refused::OutOfBounds)?;
    let check = Check { len: memory.len() as u64, rows: rows.into() };
    let mut operations = Vec::with_capacity(count as usize);
    let mut depth = 0u64;
    for entry in list.as_chunks::<ENTRY>().0 {
        let Some(operation) = check.operation(entry)? else { return Ok(operations) };
        if let Operation::AddProduct { depth: more, .. } = operation {
            depth = depth.saturating_add(more as u64);
            if depth > MAX_DEPTH {
                return Err(Refused::TooMuch);
            }
        }
        operations.push(operation);
    }
    // A list must have an end marker.
    Err(Refused::Malformed)
}

struct Check {
    len: u64,
    rows: u64,
}

impl Check {
    /// One operation; `None` at the end of the list.
    fn operation(&self, entry: &[u8; ENTRY]) -> Result<Option<Operation>, Refused> {
        let words: [u32; 5] = std::array::from_fn(|at| {
            let bytes = entry.as_chunks::<4>().0.get(at).copied().unwrap_or_default();
            u32::from_le_bytes(bytes)
        });
        let [number, one, two, three, four] = words;
        let columns = COLUMNS as u64;
        // Six consecutive numbers differ only in the binary operation.
        let binary = |first| match number - first {
            0 => Binary::Min,
            1 => Binary::Max,
            2 => Binary::Add,
            3 => Binary::Mul,
            4 => Binary::Sub,
            _ => Binary::SubFlipped,
        };
        Ok(Some(match number {
            0 => return Ok(None),
            1 => Operation::Clear,
            2 => Operation::Load(self.run(two, self.rows * columns)?),
            3..=8 => Operation::Scalar(binary(3), f32::from_bits(one)),
            9 => Operation::LeakyRelu(f32::from_bits(one)),
            10..=15 => Operation::PerRow(binary(10), self.run(one, self.rows)?),
            16..=21 => Operation::PerColumn(binary(16), self.run(one, columns)?),
            25 => Operation::AddStrided(self.strided(one, two, three, four)?),
            26 => Operation::AddOuter(self.run(one, self.rows)?, self.run(two, columns)?),
            27 => Operation::Store(self.strided(one, two, three, four)?),
            28 => {
                let depth = u64::from(one);
                Operation::AddProduct {
                    depth: one as usize,
                    a: self.run(two, depth * self.rows)?,
                    b: self.run(three, depth * columns)?,
                }
            }
            // 22 to 24 scale integers, which do not occur in tiles of this type.
            _ => return Err(Refused::Malformed),
        }))
    }

    /// `count` elements from an address on; neither can overflow 64 bits.
    fn run(&self, address: u32, count: u64) -> Result<Run, Refused> {
        let end = u64::from(address) + count * F32;
        if count > 0 && end > self.len {
            return Err(Refused::OutOfBounds);
        }
        Ok(Run(address as usize))
    }

    /// A tile with strides. There are few rows and columns and strides have 32 bits, so addresses
    /// cannot overflow 64 bits.
    fn strided(&self, start: u32, row: u32, column: u32, size: u32) -> Result<Strided, Refused> {
        if u64::from(size) != F32 {
            return Err(Refused::Malformed);
        }
        let (row, column) = (i64::from(row as i32), i64::from(column as i32));
        let (last_row, last_column) = (self.rows as i64 - 1, COLUMNS as i64 - 1);
        let start = i64::from(start);
        let min = start + (row * last_row).min(0) + (column * last_column).min(0);
        let max = start + (row * last_row).max(0) + (column * last_column).max(0);
        if min < 0 || max as u64 + F32 > self.len {
            return Err(Refused::OutOfBounds);
        }
        Ok(Strided {
            start: start as usize,
            row_stride: row as isize,
            column_stride: column as isize,
        })
    }
}
