//! The answer of the guest when it has prepared a model.

use alloc::string::String;
use alloc::vec::Vec;

use crate::header::{Kind, write_header};
use crate::reader::{DecodeError, Reader};
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
        Ok(Preparation { undecided, more: reader.bool("mark of more")? })
    }
}
