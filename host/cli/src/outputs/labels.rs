//! Class names for the last axis of the outputs.

use std::borrow::Borrow;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::super::failure::{Failure, shown};
use belljar_tensor::{BYTE_ORDER_MARK, Tensor};
use belljar_text::Escaped;

/// Maximum size of a file of labels, in bytes: several hundred thousand classes.
const MAX_SIZE: u64 = 16 << 20;

/// Labels, one per line. Stored as one text, with the start of each line.
pub(crate) struct Labels {
    text: String,
    starts: Vec<u32>,
}

impl Labels {
    pub(crate) fn read(path: &Path) -> Result<Labels, Failure> {
        let failed = |err: &dyn std::fmt::Display| {
            Failure::usage(format!("--labels {}: {err}", shown(path)))
        };
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(|err| failed(&err))?;
        file.take(MAX_SIZE + 1).read_to_end(&mut bytes).map_err(|err| failed(&err))?;
        if bytes.len() as u64 > MAX_SIZE {
            return Err(failed(&format!("the file is longer than {MAX_SIZE} bytes")));
        }
        if bytes.starts_with(BYTE_ORDER_MARK) {
            bytes.drain(..BYTE_ORDER_MARK.len());
        }
        let text = String::from_utf8(bytes).map_err(|_| failed(&"the text is not valid UTF-8"))?;
        Ok(Labels::new(text))
    }

    fn new(text: String) -> Labels {
        let mut starts = Vec::new();
        let mut at = 0;
        for line in text.split_inclusive('\n') {
            // The size limit keeps offsets below 4 GiB.
            starts.push(at as u32);
            at += line.len();
        }
        Labels { text, starts }
    }

    /// Checks that there is a label for each class of every output.
    pub(super) fn check<T: Borrow<Tensor>>(&self, outputs: &[(String, T)]) -> Result<(), Failure> {
        for (name, tensor) in outputs {
            let classes = tensor.borrow().shape().last().copied().unwrap_or(1);
            if classes != self.starts.len() {
                let name = Escaped::cut(name, 60);
                return Err(Failure::usage(format!(
                    "--labels has {} lines, but output {name} has {classes} along its last axis",
                    self.starts.len()
                )));
            }
        }
        Ok(())
    }

    /// Whether the number of labels is the number of classes of an output.
    pub(crate) fn fits(&self, tensor: &Tensor) -> bool {
        tensor.shape().last().copied().unwrap_or(1) == self.starts.len()
    }

    pub(super) fn of(&self, index: &[usize]) -> Option<&str> {
        let start = *self.starts.get(index.last().copied().unwrap_or(0))?;
        self.text.get(start as usize..)?.lines().next().map(str::trim_end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_a_label() {
        let labels = Labels::new("cat \r\n\ndog\n".into());
        let all: Vec<_> = (0..4).map(|class| labels.of(&[7, class])).collect();
        assert_eq!(all, [Some("cat"), Some(""), Some("dog"), None]);
        assert_eq!(Labels::new("a".into()).of(&[]), Some("a"));
        assert_eq!(Labels::new(String::new()).of(&[0]), None);
    }
}
