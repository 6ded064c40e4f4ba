//! Pieces of a policy's text. Many of the values are untrusted, because the author of the program
//! or model chose them: they must never end the string, line or comment that they are written in.

use std::fmt::Write as _;
use std::path::Path;

use belljar_files::Digest;

use crate::{
    Compute, Confinement, DeclaredShapes, FileGrant, Kernels, Policy, Scalar, Sizes, ValueRule,
};

/// A TOML string. Characters that are not printable are escaped, so that the reader sees them.
pub fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        let _ = match c {
            '"' => write!(out, "\\\""),
            '\\' => write!(out, "\\\\"),
            // Debug escapes characters that are not printable.
            c if !c.is_ascii() && c.escape_debug().count() == 1 => write!(out, "{c}"),
            c if c.is_ascii() && !c.is_ascii_control() => write!(out, "{c}"),
            c if u32::from(c) <= 0xffff => write!(out, "\\u{:04x}", u32::from(c)),
            c => write!(out, "\\U{:08x}", u32::from(c)),
        };
    }
    out.push('"');
    out
}

/// A path as a TOML string, relative to the folder of the policy if it is below it.
pub fn host(path: &Path, folder: &Path) -> String {
    let path = match path.strip_prefix(folder) {
        Ok(below) if below.as_os_str().is_empty() => Path::new("."),
        Ok(below) => below,
        Err(_) => path,
    };
    quoted(&path.to_string_lossy())
}

/// Each line of a text as a comment.
pub fn commented(text: &str) -> String {
    text.lines().fold(String::new(), |mut out, line| {
        let _ = match line.is_empty() {
            true => writeln!(out, "#"),
            false => writeln!(out, "# {line}"),
        };
        out
    })
}

/// The top-level keys of a policy that differ from their defaults.
pub fn settings(policy: &Policy) -> String {
    let mut out = String::new();
    if policy.confinement != Confinement::default() {
        out.push_str("confinement = \"best-effort\"\n");
    }
    if policy.declared_shapes != DeclaredShapes::default() {
        let _ = writeln!(out, "declared-shapes = {}", quoted(policy.declared_shapes.name()));
    }
    out
}

/// The `[compute]` table.
pub fn compute(compute: &Compute) -> String {
    let Compute { deterministic, kernels, threads, seed } = compute;
    let mut out = format!("\n[compute]\ndeterministic = {deterministic}\n");
    if *kernels == Kernels::Sandbox {
        out.push_str("kernels = \"sandbox\"\n");
    }
    if *threads != 1 {
        let _ = writeln!(out, "threads = {threads}");
    }
    if let Some(seed) = seed {
        let _ = writeln!(out, "seed = {seed}");
    }
    out
}

/// A grant of a model's file, for a policy in `folder`.
pub fn granted_file(grant: &FileGrant, reason: &str, folder: &Path) -> String {
    let sha256 = grant.sha256.map(|sha256| quoted(&Digest::from(sha256).to_string()));
    side_file(&host(&grant.host, folder), &grant.guest, sha256.as_deref(), reason)
}

/// A grant of a file with data of a model. `host` and `sha256` are TOML values.
pub fn side_file(host: &str, guest: &str, sha256: Option<&str>, reason: &str) -> String {
    let pin = sha256.map_or_else(String::new, |sha256| format!("sha256 = {sha256}\n"));
    format!(
        "[[filesystem]]\nhost = {host}\nguest = {}\naccess = \"read\"\n{pin}reason = {}\n",
        quoted(guest),
        quoted(reason)
    )
}

/// The table of a value rule.
pub fn rule(table: &str, rule: &ValueRule) -> String {
    let ValueRule {
        name,
        value,
        dtype,
        shape,
        min,
        max,
        finite,
        max_norm,
        allowed,
        decimals,
        top_k,
    } = rule;
    let mut out = format!("\n[{table}.{}]\n", quoted(name));
    let scalars =
        |scalars: &[Scalar]| scalars.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let mut line = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            let _ = writeln!(out, "{key} = {value}");
        }
    };
    line("value", value.map(|value| value.to_string()));
    line("dtype", dtype.map(|dtype| quoted(dtype.name())));
    let dims = |dims: &[Sizes]| {
        let dims = dims.iter().map(|sizes| match sizes {
            Sizes::Range(least, most) if least == most => least.to_string(),
            sizes => quoted(&sizes.to_string()),
        });
        format!("[{}]", dims.collect::<Vec<_>>().join(", "))
    };
    line("shape", shape.as_deref().map(dims));
    line("min", min.map(|value| value.to_string()));
    line("max", max.map(|value| value.to_string()));
    line("finite", (!finite).then(|| "false".to_owned()));
    line("max-norm", max_norm.map(|value| value.to_string()));
    line("allowed", (!allowed.is_empty()).then(|| format!("[{}]", scalars(allowed))));
    line("decimals", decimals.map(|value| value.to_string()));
    line("top-k", top_k.map(|value| value.to_string()));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_text_cannot_end_its_string() {
        for text in
            ["", "a b", "\"", "\\", "a\"\nsha256 = \"b", "\u{1b}[31m\r\n\0", "ä\u{202e}\u{e0041}#"]
        {
            let quoted = quoted(text);
            assert!(quoted.chars().all(|c| !c.is_control() && c != '\u{202e}'), "{quoted:?}");
            let policy = format!("version = 1\n[inputs.{quoted}]\n");
            match Policy::parse(&policy, "test") {
                Ok(policy) => assert_eq!(policy.inputs[0].name, text),
                Err(_) => assert!(text.is_empty()),
            }
        }
    }

    #[test]
    fn written_rules_parse_to_the_same_rules() {
        let mut whole = ValueRule::new("a.b \"c\"");
        whole.value = Some(Scalar::Int(-3));
        whole.dtype = Some(belljar_tensor::DType::I64);
        whole.shape = Some(vec![Sizes::Any, Sizes::exactly(3), Sizes::Range(1, 512)]);
        whole.min = Some(Scalar::Float(-1e300));
        whole.max = Some(Scalar::Float(0.1));
        whole.finite = false;
        whole.max_norm = Some(Scalar::Int(7));
        whole.allowed = vec![Scalar::Bool(true), Scalar::Float(2.0)];
        let text = format!("version = 1\n{}", rule("inputs", &whole));
        assert_eq!(Policy::parse(&text, "test").unwrap().inputs, [whole]);
        let mut output = ValueRule::new("y");
        (output.decimals, output.top_k) = (Some(3), Some(5));
        let text = format!("version = 1\n{}", rule("outputs", &output));
        assert_eq!(Policy::parse(&text, "test").unwrap().outputs, [output]);
    }

    #[test]
    fn every_line_is_commented() {
        assert_eq!(commented("a = 1\n\nb\n"), "# a = 1\n#\n# b\n");
    }
}
