//! `--dim NAME=N`: fixes named dimensions of a model's inputs.

use serde_json::{Value, json};

use super::failure::Failure;
use belljar::Model;
use belljar_text::Escaped;

/// How dimensions without a name get a size.
pub(super) const WITHOUT_A_NAME: &str = "`belljar inspect` shows the names of dimensions; one \
     without a name takes the size of the input: give a file of that size, --shape with --random, \
     or --input-shape";

/// Parses the arguments of --dim. A name may contain `=`.
pub(super) fn parse(texts: &[String]) -> Result<Vec<(String, u64)>, Failure> {
    texts.iter().map(|text| parse_one(text)).collect()
}

fn parse_one(text: &str) -> Result<(String, u64), Failure> {
    let wrong = |why: &str| {
        Failure::usage(format!("--dim {}: {why}", Escaped::cut(text, 100)))
            .hint("write the name of a dimension and its size, such as --dim batch=8")
    };
    let (name, size) = text.rsplit_once('=').ok_or_else(|| wrong("expected NAME=N"))?;
    if name.is_empty() {
        return Err(wrong("the name is empty").hint(WITHOUT_A_NAME));
    }
    if size.is_empty() || !size.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong("expected a size after the last `=`: a whole number from 0"));
    }
    let size = size.parse().map_err(|_| wrong("the size is too large"))?;
    Ok((name.to_owned(), size))
}

/// The model with the dimensions fixed.
pub(super) fn fixed(model: Model, texts: &[String]) -> Result<Model, Failure> {
    match texts {
        [] => Ok(model),
        texts => Ok(model.with_dims(&parse(texts)?)?),
    }
}

/// Refuses --dim for a guest program.
#[cfg(feature = "programs")]
pub(super) fn refuse_for_program(texts: &[String]) -> Result<(), Failure> {
    match texts {
        [] => Ok(()),
        _ => Err(Failure::usage("--dim applies only to models, but this is a guest program")
            .hint("remove --dim; the program chooses the sizes of its models' inputs")),
    }
}

/// The fixed dimensions, escaped: `batch = 8, sequence = 128`.
pub(super) fn text(model: &Model) -> String {
    let dims = model.dims().iter();
    let dims = dims.map(|(name, size)| format!("{} = {size}", Escaped::cut(name, 60)));
    dims.collect::<Vec<_>>().join(", ")
}

pub(super) fn to_json(model: &Model) -> Value {
    model.dims().iter().map(|(name, size)| json!({ "name": name, "size": size })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_end_at_the_last_equals_sign() {
        let parsed = |text: &str| parse_one(text).ok();
        let some = |name: &str, size| Some((name.to_owned(), size));
        assert_eq!(parsed("batch=8"), some("batch", 8));
        assert_eq!(parsed("batch=0"), some("batch", 0));
        assert_eq!(parsed("a=b=2"), some("a=b", 2));
        assert_eq!(parsed("2 * n + 1=3"), some("2 * n + 1", 3));
        assert_eq!(parsed("==2"), some("=", 2));
        for wrong in [
            "",
            "=",
            "=3",
            "n",
            "n=",
            "n=-1",
            "n=+1",
            "n=1.5",
            "n= 1",
            "n=1,2",
            "n=0x10",
            "n=?",
            "n=99999999999999999999",
        ] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn messages_are_printable() {
        for text in ["\u{1b}[2J\n", "n\u{202e}=x", "\u{7}=-1"] {
            let error = parse_one(text).unwrap_err().to_string();
            assert!(error.chars().all(|c| !c.is_control() && c != '\u{202e}'), "{error:?}");
        }
    }
}
