//! Parses the structure of a JPEG file before it is decoded: its frame header, and whether the file
//! is complete. Decoders fill missing data with gray, so a truncated file is refused here.

/// The frame of a file that is complete up to its end marker.
pub(crate) struct Frame {
    pub(crate) width: u64,
    pub(crate) height: u64,
    pub(crate) progressive: bool,
    /// The end of the coded data of each scan.
    pub(crate) scan_ends: Vec<usize>,
    /// The sampling factors of each component along both axes.
    sampling: Vec<(u64, u64)>,
}

impl Frame {
    pub(crate) fn components(&self) -> usize {
        self.sampling.len()
    }

    /// The minimum number of bits for the image: each block of 64 pixels of a component takes a
    /// code of at least one bit for its mean, and another one in files that are not progressive.
    pub(crate) fn min_bits(&self) -> u64 {
        let max = |of: fn(&(u64, u64)) -> u64| self.sampling.iter().map(of).max().unwrap_or(1);
        let (max_x, max_y) = (max(|(x, _)| *x), max(|(_, y)| *y));
        let blocks = self.sampling.iter().map(|(x, y)| {
            (self.width * x).div_ceil(8 * max_x) * (self.height * y).div_ceil(8 * max_y)
        });
        blocks.sum::<u64>() * if self.progressive { 1 } else { 2 }
    }
}

/// Walks from marker to marker up to the end marker. Data after it is ignored.
pub(crate) fn frame(file: &[u8]) -> Result<Frame, String> {
    let cut_off = || "it is cut off: its end marker is missing".to_owned();
    let mut frame: Option<Frame> = None;
    let (mut at, mut scan_ends) = (2, Vec::new());
    loop {
        let marker = match file.get(at..) {
            Some([0xff, 0xff, ..]) => {
                at += 1;
                continue;
            }
            Some([0xff, marker, ..]) => *marker,
            Some([_, _, ..]) => return Err(format!("expected a marker at byte {at}")),
            _ => return Err(cut_off()),
        };
        at += 2;
        match marker {
            0xd9 => {
                let frame = frame.filter(|_| !scan_ends.is_empty()).ok_or("it holds no image")?;
                return Ok(Frame { scan_ends, ..frame });
            }
            0x01 | 0xd0..=0xd7 => continue,
            0x00 | 0xd8 => return Err(format!("unexpected marker at byte {}", at - 2)),
            _ => {}
        }
        let len = match file.get(at..) {
            Some([high, low, ..]) => usize::from(u16::from_be_bytes([*high, *low])),
            _ => return Err(cut_off()),
        };
        if len < 2 {
            return Err(format!("the segment at byte {at} has an invalid length"));
        }
        let segment = file.get(at..at + len).ok_or_else(cut_off)?;
        match marker {
            // Tables and reserved markers within the range of frame markers.
            0xc4 | 0xcc | 0xc8 => {}
            0xc0..=0xc2 if frame.is_some() => return Err("it has two frames".into()),
            0xc0..=0xc2 => frame = Some(frame_of(segment, marker == 0xc2)?),
            0xc3 | 0xc7 => return Err("it is lossless, which is not supported".into()),
            0xc5 | 0xc6 | 0xde => return Err("it is hierarchical, which is not supported".into()),
            0xc9..=0xcf => return Err("it is coded arithmetically, which is not supported".into()),
            _ => {}
        }
        at += len;
        if marker == 0xda {
            at += entropy_coded(&file[at..]);
            scan_ends.push(at);
        }
    }
}

/// The length of entropy-coded data, up to the marker that ends it.
fn entropy_coded(bytes: &[u8]) -> usize {
    let ends = |pair: &[u8]| pair[0] == 0xff && !matches!(pair[1], 0x00 | 0xd0..=0xd7 | 0xff);
    bytes.windows(2).position(ends).unwrap_or(bytes.len())
}

/// The file with 64 one bits after each scan. No JPEG code consists of ones only, so a decoder that
/// runs out of data reports an error instead of filling in the rest. A decoder with enough data
/// does not read them.
pub(crate) fn marked(file: &[u8], scan_ends: &[usize]) -> Vec<u8> {
    const ONES: [u8; 16] = [0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0];
    let mut marked = Vec::with_capacity(file.len() + ONES.len() * scan_ends.len());
    let mut copied = 0;
    for end in scan_ends {
        marked.extend_from_slice(&file[copied..*end]);
        marked.extend_from_slice(&ONES);
        copied = *end;
    }
    marked.extend_from_slice(&file[copied..]);
    marked
}

fn frame_of(segment: &[u8], progressive: bool) -> Result<Frame, String> {
    let [_, _, bits, height_high, height_low, width_high, width_low, count, components @ ..] =
        segment
    else {
        return Err("its frame header is cut off".into());
    };
    if *bits != 8 {
        return Err(format!("it has {bits} bits a channel; only 8 are supported"));
    }
    let (components, _) = components.as_chunks::<3>();
    let sampling: Vec<(u64, u64)> = components
        .iter()
        .map(|[_, sampling, _]| (u64::from(sampling >> 4), u64::from(sampling & 15)))
        .collect();
    let sampled = sampling.iter().all(|(x, y)| (1..=4).contains(x) && (1..=4).contains(y));
    if sampling.len() != usize::from(*count) || !matches!(count, 1 | 3 | 4) || !sampled {
        return Err(format!("its {count} components have an unsupported number or sampling"));
    }
    Ok(Frame {
        width: u16::from_be_bytes([*width_high, *width_low]).into(),
        height: u16::from_be_bytes([*height_high, *height_low]).into(),
        progressive,
        scan_ends: Vec::new(),
        sampling,
    })
}
