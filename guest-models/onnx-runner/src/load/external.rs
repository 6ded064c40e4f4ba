//! Copies external data to the tensors that have it in a file, as the file arrives in parts.

use belljar_abi::GuestErrorCode;
use tract_onnx::pb::tensor_proto::DataLocation;
use tract_onnx::pb::{GraphProto, TensorProto};

use super::scan::Elements;
use super::{Loaded, start_of, too_long};
use crate::Refusal;
use crate::weights::Weight;

/// A file of which some bytes have not arrived: the length of its location in four bytes, the
/// location, which is the name that the model uses for it, and its content.
pub(crate) struct Filling {
    left: usize,
    /// The length of the location and the location, as far as they have arrived.
    header: Vec<u8>,
    /// How much of the content was read.
    at: usize,
    /// For the tensors that have their data in the file, in the order of [`each_tensor`]. `None`
    /// until the location is known.
    places: Option<Vec<Place>>,
}

/// A part of a file that is the data of one tensor.
struct Place {
    offset: usize,
    data: Data,
}

enum Data {
    /// Of a large initializer.
    Weight(Weight),
    Raw(Vec<u8>),
}

impl Filling {
    /// For a file of this many bytes.
    pub(crate) fn new(len: usize) -> Filling {
        Filling { left: len, header: Vec::new(), at: 0, places: None }
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.left == 0 && self.places.is_some()
    }

    /// Reads the next bytes. The tensors get their memory as soon as the location is known.
    pub(crate) fn read(&mut self, loaded: &mut Loaded, bytes: &[u8]) -> Result<(), Refusal> {
        self.left = self.left.checked_sub(bytes.len()).ok_or_else(too_long)?;
        let mut bytes = bytes;
        while self.places.is_none() {
            let length = self.header.first_chunk::<4>().map(|length| u32::from_le_bytes(*length));
            let wanted = length.map_or(0, |length| length as usize).saturating_add(4);
            let missing = wanted - self.header.len();
            if missing > bytes.len() + self.left {
                return Err(malformed());
            }
            let (now, later) = bytes.split_at(missing.min(bytes.len()));
            self.header.extend_from_slice(now);
            bytes = later;
            if self.header.len() < wanted {
                return Ok(());
            }
            if length.is_some() {
                let places = places(loaded, &self.header[4..], bytes.len() + self.left);
                self.places = Some(places.map_err(refused)?);
            }
        }
        for Place { offset, data } in self.places.iter_mut().flatten() {
            let data = match data {
                Data::Weight(weight) => weight.bytes_mut(),
                Data::Raw(bytes) => bytes,
            };
            // Both ranges are of the content of the file.
            let (start, end) = (self.at.max(*offset), self.at + bytes.len());
            let end = end.min(*offset + data.len());
            if start < end {
                let read = &bytes[start - self.at..end - self.at];
                data[start - *offset..end - *offset].copy_from_slice(read);
            }
        }
        self.at += bytes.len();
        Ok(())
    }

    /// Gives the tensors their data.
    pub(crate) fn finish(self, loaded: &mut Loaded) -> Result<(), Refusal> {
        let location = self.header.get(4..).unwrap_or_default();
        let mut places = self.places.unwrap_or_default().into_iter();
        let Loaded { proto, weights, .. } = loaded;
        let Some(graph) = &mut proto.graph else { return Ok(()) };
        let filled = each_tensor(graph, true, &mut |tensor, _| {
            if Found::of(tensor, location)?.is_none() {
                return Ok(());
            }
            tensor.data_location = None;
            tensor.external_data.clear();
            match places.next().map(|place| place.data) {
                Some(Data::Weight(weight)) => weights.keep(tensor, weight),
                Some(Data::Raw(bytes)) => tensor.raw_data = bytes,
                None => {}
            }
            Ok(())
        });
        filled.map_err(refused)
    }
}

fn refused(why: String) -> Refusal {
    Refusal::new(GuestErrorCode::ModelRefused, why)
}

fn malformed() -> Refusal {
    Refusal::new(GuestErrorCode::Protocol, "the message with an external data file is malformed")
}

/// Memory for the data of each tensor in a file with content of this length.
fn places(loaded: &mut Loaded, location: &[u8], len: usize) -> Result<Vec<Place>, String> {
    let mut places = Vec::new();
    let Some(graph) = &mut loaded.proto.graph else { return Ok(places) };
    each_tensor(graph, true, &mut |tensor, is_initializer| {
        if let Some(found) = Found::of(tensor, location)? {
            let (offset, len) = found.range(len).ok_or_else(|| {
                format!("the tensor {:?} ends behind the end of its file", start_of(&tensor.name))
            })?;
            let data_type = u64::try_from(tensor.data_type).ok().filter(|_| is_initializer);
            let data = match data_type.and_then(|data_type| Weight::new(data_type, len)) {
                Some(weight) => Data::Weight(weight),
                None => Data::Raw(vec![0; len]),
            };
            places.push(Place { offset, data });
        }
        Ok(())
    })?;
    Ok(places)
}

/// Calls `visit` with every tensor of a graph, and whether it is an initializer of the model's own
/// graph. Tensors of functions are not visited; the gate refuses tensors that still have external
/// data.
fn each_tensor(
    graph: &mut GraphProto,
    outermost: bool,
    visit: &mut impl FnMut(&mut TensorProto, bool) -> Result<(), String>,
) -> Result<(), String> {
    for tensor in &mut graph.initializer {
        visit(tensor, outermost)?;
    }
    for attribute in graph.node.iter_mut().flat_map(|node| &mut node.attribute) {
        for tensor in attribute.t.iter_mut().chain(&mut attribute.tensors) {
            visit(tensor, false)?;
        }
        for graph in attribute.g.iter_mut().chain(&mut attribute.graphs) {
            each_tensor(graph, false, visit)?;
        }
    }
    Ok(())
}

/// Where the data of a tensor is in its file, as the model writes it.
struct Found<'a> {
    offset: Option<&'a str>,
    length: Option<&'a str>,
}

impl<'a> Found<'a> {
    /// `None` if the tensor does not have its data in this file.
    fn of(tensor: &'a TensorProto, location: &[u8]) -> Result<Option<Found<'a>>, String> {
        if tensor.data_location != Some(DataLocation::External as i32) {
            return Ok(None);
        }
        let (mut found, mut offset, mut length) = (None, None, None);
        // A SHA-1 digest from the model itself, which the author of the model can choose. It is
        // ignored, as in onnxruntime; a policy pins files by SHA-256 (`filesystem.sha256`).
        let mut checksum = None;
        let name = start_of(&tensor.name);
        for entry in &tensor.external_data {
            let field = match &*entry.key {
                "location" => &mut found,
                "offset" => &mut offset,
                "length" => &mut length,
                "checksum" => &mut checksum,
                key => {
                    let key = start_of(key);
                    return Err(format!(
                        "the tensor {name:?} has the unknown external data key {key:?}"
                    ));
                }
            };
            if field.replace(&*entry.value).is_some() {
                return Err(format!(
                    "the tensor {name:?} has a duplicate external data key {:?}",
                    entry.key
                ));
            }
        }
        if found.map(str::as_bytes) != Some(location) {
            return Ok(None);
        }
        if !tensor.raw_data.is_empty() {
            return Err(format!("the tensor {name:?} has both raw and external data"));
        }
        Ok(Some(Found { offset, length }))
    }

    /// Offset and length of the data in a file of this length, if it ends within it.
    fn range(&self, file: usize) -> Option<(usize, usize)> {
        let number = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
            true => text.parse::<usize>().ok(),
            false => None,
        };
        let offset = self.offset.map_or(Some(0), number)?;
        let rest = file.checked_sub(offset)?;
        let length = match self.length {
            Some(length) => number(length)?,
            None => rest,
        };
        (length <= rest).then_some((offset, length))
    }
}
