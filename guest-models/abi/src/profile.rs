//! The answer of the guest to a profiled run: the times of each node of the plan, and the answer of
//! the run itself. Only the profiling variant has a clock for it.

use alloc::string::String;
use alloc::vec::Vec;

use crate::dtype::DType;
use crate::header::{Kind, write_header};
use crate::reader::{DecodeError, Reader};
use crate::writer::{Writer, cut};
use crate::{ALIGN, MAX_RANK};

/// Maximum number of nodes of a plan in a profile. Further nodes are not measured.
pub const MAX_PROFILED: usize = 1 << 16;

/// Maximum number of nodes of the model that are named for one node of the plan.
pub const MAX_FOLDED: usize = 64;

/// Maximum number of outputs of a node whose shapes are listed.
pub const MAX_SHAPES: usize = 16;

/// Maximum number of bytes that a profile adds to the answer of the run.
pub const MAX_PROFILE_BYTES: u64 = 64 << 20;

/// Maximum length of the name of a node or an operator, in bytes. Longer ones are truncated.
const MAX_SHOWN: usize = 256;

/// A profiled run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile<'a> {
    /// Nodes of the plan in the order in which they ran.
    pub nodes: Vec<ProfiledNode>,
    /// When the run began, in nanoseconds of the worker's clock.
    pub began: u64,
    /// When it ended.
    pub ended: u64,
    /// Nanoseconds between two successive readings of the clock, which each measured time includes.
    pub reading: u64,
    /// The answer of the run, a complete message.
    pub answer: &'a [u8],
}

/// A node of the plan that ran once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProfiledNode {
    /// Nodes of the model that it computes, in the model's order. Empty if unknown.
    pub computes: Vec<ModelNode>,
    /// Its name in the plan.
    pub name: String,
    /// Its operator in the plan.
    pub operator: String,
    /// Types and shapes of its outputs. `None` for a type that ONNX does not have.
    pub outputs: Vec<(Option<DType>, Vec<u64>)>,
    /// The number of multiply-adds, if known.
    pub multiply_adds: Option<u64>,
    /// When it began, in nanoseconds of the worker's clock.
    pub began: u64,
    /// When it ended.
    pub ended: u64,
    /// Nanoseconds of that time in native kernels.
    pub kernels: u64,
    /// Whole operators that native kernels computed for it.
    pub operators: u32,
    /// Tiles of matrix products that native kernels computed for it.
    pub tiles: u32,
    /// Number of the last of these operators ([`Kernel::number`](crate::kernel::Kernel::number)); 0
    /// for none.
    pub native: u32,
}

/// A node of the model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelNode {
    /// Its name.
    pub name: String,
    /// Its operator.
    pub operator: String,
}

impl Profile<'_> {
    /// Encodes it as an answer, truncated to its bounds.
    pub fn encode(&self) -> Vec<u8> {
        let listed = &self.nodes[..self.nodes.len().min(MAX_PROFILED)];
        let mut writer = Writer::with_capacity(256 * listed.len() + self.answer.len() + 256);
        write_header(&mut writer, Kind::Profile);
        for time in [self.began, self.ended, self.reading] {
            writer.u64(time);
        }
        writer.list(listed, |writer, node| node.write(writer));
        writer.u64(self.answer.len() as u64);
        writer.align(ALIGN);
        writer.bytes(self.answer);
        writer.finish()
    }

    pub(crate) fn read<'a>(reader: &mut Reader<'a>) -> Result<Profile<'a>, DecodeError> {
        let [began, ended, reading] = [reader.u64()?, reader.u64()?, reader.u64()?];
        let nodes = reader.list(MAX_PROFILED, "number of nodes", ProfiledNode::read)?;
        let at = reader.at();
        let len = usize::try_from(reader.u64()?);
        let len = len.map_err(|_| DecodeError::Invalid { at, what: "length of the answer" })?;
        reader.align(ALIGN)?;
        Ok(Profile { nodes, began, ended, reading, answer: reader.take(len)? })
    }
}

impl ProfiledNode {
    fn write(&self, writer: &mut Writer) {
        let computes = &self.computes[..self.computes.len().min(MAX_FOLDED)];
        writer.list(computes, |writer, node| {
            writer.str(cut(&node.name, MAX_SHOWN));
            writer.str(cut(&node.operator, MAX_SHOWN));
        });
        writer.str(cut(&self.name, MAX_SHOWN));
        writer.str(cut(&self.operator, MAX_SHOWN));
        let outputs = &self.outputs[..self.outputs.len().min(MAX_SHAPES)];
        writer.list(outputs, |writer, (dtype, dims)| {
            writer.u32(dtype.map_or(0, DType::to_onnx));
            writer.list(&dims[..dims.len().min(MAX_RANK)], |writer, dim| writer.u64(*dim));
        });
        writer.u32(self.multiply_adds.is_some().into());
        if let Some(count) = self.multiply_adds {
            writer.u64(count);
        }
        for time in [self.began, self.ended, self.kernels] {
            writer.u64(time);
        }
        for count in [self.operators, self.tiles, self.native] {
            writer.u32(count);
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<ProfiledNode, DecodeError> {
        let computes = reader.list(MAX_FOLDED, "number of folded nodes", |reader| {
            let name = reader.string(MAX_SHOWN, "name of a node")?;
            Ok(ModelNode { name, operator: reader.string(MAX_SHOWN, "name of an operator")? })
        })?;
        let name = reader.string(MAX_SHOWN, "name of a node")?;
        let operator = reader.string(MAX_SHOWN, "name of an operator")?;
        let outputs = reader.list(MAX_SHAPES, "number of outputs", |reader| {
            let at = reader.at();
            let dtype = match reader.u32()? {
                0 => None,
                code => Some(
                    DType::from_onnx(code)
                        .ok_or(DecodeError::Invalid { at, what: "element type" })?,
                ),
            };
            Ok((dtype, reader.list(MAX_RANK, "rank", |reader| reader.u64())?))
        })?;
        let known = reader.bool("whether a number is known")?;
        let multiply_adds = if known { Some(reader.u64()?) } else { None };
        let [began, ended, kernels] = [reader.u64()?, reader.u64()?, reader.u64()?];
        let [operators, tiles, native] = [reader.u32()?, reader.u32()?, reader.u32()?];
        Ok(ProfiledNode {
            computes,
            name,
            operator,
            outputs,
            multiply_adds,
            began,
            ended,
            kernels,
            operators,
            tiles,
            native,
        })
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;
    use crate::{Reply, decode_reply};

    fn node() -> ProfiledNode {
        let one =
            |name: &str, operator: &str| ModelNode { name: name.into(), operator: operator.into() };
        ProfiledNode {
            computes: vec![one("conv", "Conv"), one("relu", "Relu")],
            name: "relu".into(),
            operator: "NativeConv".into(),
            outputs: vec![(Some(DType::F32), vec![1, 2, 3]), (None, vec![])],
            multiply_adds: Some(54),
            began: 10,
            ended: 30,
            kernels: 15,
            operators: 1,
            tiles: 0,
            native: 1,
        }
    }

    #[test]
    fn profile_round_trips() {
        let profile = Profile {
            nodes: vec![node(), ProfiledNode::default()],
            began: 5,
            ended: 40,
            reading: 1,
            answer: b"an answer",
        };
        let message = profile.encode();
        let Ok(Reply::Profile(found)) = decode_reply(&message) else { panic!("not a profile") };
        assert_eq!(found, profile);
        assert_eq!(found.answer.as_ptr() as usize % ALIGN, message.as_ptr() as usize % ALIGN);
        for len in 0..message.len() {
            assert!(decode_reply(&message[..len]).is_err(), "{len}");
        }
    }

    #[test]
    fn long_names_and_lists_are_truncated() {
        let long = ProfiledNode {
            computes: vec![ModelNode { name: "é".repeat(500), operator: "x".repeat(500) }; 100],
            outputs: vec![(None, vec![1; 100]); 100],
            ..ProfiledNode::default()
        };
        let message = Profile { nodes: vec![long], ..Profile::default() }.encode();
        let Ok(Reply::Profile(found)) = decode_reply(&message) else { panic!("not a profile") };
        assert_eq!(found.nodes[0].computes.len(), MAX_FOLDED);
        assert_eq!(found.nodes[0].computes[0].name.len(), MAX_SHOWN);
        assert_eq!(found.nodes[0].outputs.len(), MAX_SHAPES);
        assert_eq!(found.nodes[0].outputs[0].1.len(), MAX_RANK);
    }
}
