//! The answer of the guest when it has prepared a model.

use alloc::string::String;
use alloc::vec::Vec;

use crate::header::{Kind, write_header};
use crate::reader::{DecodeError, Reader};
use crate::shapes::{MAX_OPEN_DIMS, OpenDim, read_open, write_open};
use crate::writer::{Writer, cut};

/// Maximum number of listed nodes.
pub const MAX_UNDECIDED: usize = 256;

/// Maximum length of the name of a node or an operator, in bytes. Longer ones are truncated.
const MAX_SHOWN: usize = 256;

/// The nodes of a prepared model that may still fail, apart from limits and the policy's rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preparation {
    /// Nodes that may refuse the values of a run, in the order in which they run.
    pub undecided: Vec<Undecided>,
    /// Whether there are more nodes than listed.
    pub more: bool,
    /// The dimensions that may have other sizes in a run. Empty if the model was prepared for
    /// exactly the given shapes.
    pub open: Vec<OpenDim>,
    /// The sizes that each symbol of these dimensions may have, by its number.
    pub sizes: Vec<SizeRange>,
}

/// The sizes that a symbol may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SizeRange {
    /// The smallest size.
    pub min: u64,
    /// The largest size.
    pub max: u64,
    /// All sizes are multiples of this number.
    pub step: u64,
}

impl SizeRange {
    /// Whether a size is one of these.
    pub fn contains(&self, size: u64) -> bool {
        (self.min..=self.max).contains(&size) && size.is_multiple_of(self.step)
    }
}

/// A node that may refuse the values of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undecided {
    /// Its name in the model.
    pub node: String,
    /// Its operator.
    pub operator: String,
    /// What is unknown before the run.
    pub missing: Missing,
}

/// What is unknown before the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Values: indices, divisors, conditions, strings.
    Values,
    /// Sizes of tensors, which follow from values.
    Sizes,
}

impl Preparation {
    /// Encodes it as an answer, truncated to its bounds.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(64);
        write_header(&mut writer, Kind::Prepared);
        let listed = &self.undecided[..self.undecided.len().min(MAX_UNDECIDED)];
        writer.list(listed, |writer, undecided| {
            writer.str(cut(&undecided.node, MAX_SHOWN));
            writer.str(cut(&undecided.operator, MAX_SHOWN));
            writer.u32((undecided.missing == Missing::Sizes).into());
        });
        writer.u32((self.more || listed.len() < self.undecided.len()).into());
        writer.list(&self.open, write_open);
        writer.list(&self.sizes, |writer, range| {
            writer.u64(range.min);
            writer.u64(range.max);
            writer.u64(range.step);
        });
        writer.finish()
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Preparation, DecodeError> {
        let undecided = reader.list(MAX_UNDECIDED, "number of nodes", |reader| {
            let node = reader.string(MAX_SHOWN, "name of a node")?;
            let operator = reader.string(MAX_SHOWN, "name of an operator")?;
            let sizes = reader.bool("what is missing")?;
            let missing = if sizes { Missing::Sizes } else { Missing::Values };
            Ok(Undecided { node, operator, missing })
        })?;
        let more = reader.bool("mark of more")?;
        let open = reader.list(MAX_OPEN_DIMS, "number of open dimensions", read_open)?;
        let at = reader.at();
        let sizes = reader.list(MAX_OPEN_DIMS, "number of symbols", |reader| {
            let at = reader.at();
            let range = SizeRange { min: reader.u64()?, max: reader.u64()?, step: reader.u64()? };
            match range.min <= range.max && range.step > 0 {
                true => Ok(range),
                false => Err(DecodeError::Invalid { at, what: "range of sizes" }),
            }
        })?;
        if open.iter().any(|open| open.symbol as usize >= sizes.len()) {
            return Err(DecodeError::Invalid { at, what: "symbol without a range" });
        }
        Ok(Preparation { undecided, more, open, sizes })
    }
}
