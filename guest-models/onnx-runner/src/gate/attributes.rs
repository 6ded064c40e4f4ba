//! Checks the attributes of a node. Each must be in the table, have the right type and a value that
//! is implemented. Some operators also have rules for several attributes together.

use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::{AttributeProto, NodeProto};

use belljar_operators::{Attribute, Check, Operator, Types, Values};

use super::tensors;
use super::text::{list, name_of, shown};

/// Refuses attributes that are not implemented.
pub(super) fn check(node: &NodeProto, operator: &Operator) -> Result<(), String> {
    for (at, attribute) in node.attribute.iter().enumerate() {
        let name = shown(&attribute.name);
        if node.attribute[..at].iter().any(|other| other.name == attribute.name) {
            return Err(format!("duplicate attribute {name}"));
        }
        if !attribute.ref_attr_name.is_empty() {
            return Err(format!(
                "the attribute {name} refers to an attribute of a function, but is not in one"
            ));
        }
        let Some(known) = operator.attributes.iter().find(|known| known.name == attribute.name)
        else {
            return Err(format!("the attribute {name} is not implemented"));
        };
        value(attribute, known).map_err(|why| format!("the attribute {name} {why}"))?;
    }
    let missing = operator.attributes.iter().find(|known| {
        known.required && !node.attribute.iter().any(|attribute| attribute.name == known.name)
    });
    match missing {
        Some(missing) => Err(format!("the attribute {:?} is missing", missing.name)),
        None => operator.check.map_or(Ok(()), |check| together(node, check)),
    }
}

/// Checks the rules that involve several attributes.
fn together(node: &NodeProto, check: Check) -> Result<(), String> {
    match check {
        Check::Windows => windows(node),
        Check::Pooling => pooling(node),
        Check::GridSample => grid_sample(node),
        Check::Permutation => permutation(node),
        Check::Constant => constant(node),
        Check::Slice1 => slice_1(node),
        Check::OddSize => odd_size(node),
        Check::Attention => attention(node),
        Check::Equation => equation(node),
        Check::Training => training(node),
        Check::Resize => resize(node),
        Check::Scan8 => scan_8(node),
        Check::Scan => scan(node),
    }
}

fn value(attribute: &AttributeProto, known: &Attribute) -> Result<(), String> {
    let (kind, what) = match known.values {
        Values::Int(..) | Values::Type(_) | Values::ZeroOr(_) => (AttributeType::Int, "an integer"),
        Values::Ints(..) | Values::AnyInts => (AttributeType::Ints, "a list of integers"),
        Values::Float | Values::AnyFloat | Values::Exactly(_) => (AttributeType::Float, "a number"),
        Values::Floats => (AttributeType::Floats, "a list of numbers"),
        Values::Text(_) | Values::AnyText => (AttributeType::String, "a string"),
        Values::Texts(_) | Values::AnyTexts => (AttributeType::Strings, "a list of strings"),
        Values::Tensor => (AttributeType::Tensor, "a tensor"),
        Values::Graph => (AttributeType::Graph, "a graph"),
    };
    if attribute.r#type != kind as i32 {
        return Err(format!("is not {what}"));
    }
    let other = |shown: String| Err(format!("has the value {shown}, which is not implemented"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
    match known.values {
        Values::Int(least, most) if !(least..=most).contains(&attribute.i) => {
            other(attribute.i.to_string())
        }
        Values::Ints(least, most)
            if attribute.ints.len() > 4096
                || attribute.ints.iter().any(|value| !(least..=most).contains(value)) =>
        {
            other(list(&attribute.ints))
        }
        Values::Float if !attribute.f.is_finite() => other(attribute.f.to_string()),
        Values::Exactly(number) if attribute.f != number => other(attribute.f.to_string()),
        Values::Text(known) if !known.iter().any(|known| known.as_bytes() == attribute.s) => {
            other(shown(&text(&attribute.s)))
        }
        Values::Texts(known)
            if !(attribute.strings.len() % known.len() == 0
                && attribute
                    .strings
                    .iter()
                    .zip(known.iter().cycle())
                    .all(|(a, b)| a == b.as_bytes())) =>
        {
            let texts: Vec<String> =
                attribute.strings.iter().take(8).map(|bytes| shown(&text(bytes))).collect();
            other(texts.join(", "))
        }
        Values::AnyText if std::str::from_utf8(&attribute.s).is_err() => {
            Err("is not valid UTF-8".into())
        }
        Values::AnyTexts if attribute.strings.iter().any(|s| std::str::from_utf8(s).is_err()) => {
            Err("is not valid UTF-8".into())
        }
        Values::ZeroOr(_) if attribute.i == 0 => Ok(()),
        Values::Type(types) | Values::ZeroOr(types) => {
            match i32::try_from(attribute.i).ok().and_then(Types::of) {
                Some(dtype) if types.has(dtype) => Ok(()),
                _ => other(name_of(i32::try_from(attribute.i).unwrap_or(-1))),
            }
        }
        Values::Tensor => match &attribute.t {
            None => Err("does not contain a tensor".into()),
            Some(tensor) => tensors::check(tensor).map(drop),
        },
        Values::Graph if attribute.g.is_none() => Err("does not contain a graph".into()),
        _ => Ok(()),
    }
}

/// An attribute of a node.
pub(super) fn find<'n>(node: &'n NodeProto, name: &str) -> Option<&'n AttributeProto> {
    node.attribute.iter().find(|attribute| attribute.name == name)
}

pub(super) fn ints<'n>(node: &'n NodeProto, name: &str) -> &'n [i64] {
    find(node, name).map_or(&[], |attribute| &attribute.ints)
}

/// Windows of convolutions and poolings: every list has one value for each dimension.
fn windows(node: &NodeProto) -> Result<(), String> {
    let of = |name| ints(node, name).len();
    let dims = [of("kernel_shape"), of("strides"), of("dilations"), of("pads") / 2]
        .into_iter()
        .max()
        .unwrap_or(0);
    if dims > 8 || of("pads") % 2 != 0 {
        return Err(format!("windows of {dims} dimensions are not implemented"));
    }
    for (name, wanted) in
        [("kernel_shape", dims), ("strides", dims), ("dilations", dims), ("pads", 2 * dims)]
    {
        if find(node, name).is_some() && (of(name) != wanted || wanted == 0) {
            return Err(format!(
                "the attribute {name:?} has {} numbers for {dims} dimensions",
                of(name)
            ));
        }
    }
    let auto = find(node, "auto_pad").map_or(&b"NOTSET"[..], |attribute| &attribute.s);
    let padded = ints(node, "pads").iter().any(|pad| *pad != 0);
    let same = auto.starts_with(b"SAME") && find(node, "pads").is_some();
    if same || auto != b"NOTSET" && padded {
        return Err("both \"pads\" and \"auto_pad\" are set; remove one of them".into());
    }
    Ok(())
}

/// Poolings: refuses the combinations that implementations compute differently.
fn pooling(node: &NodeProto) -> Result<(), String> {
    windows(node)?;
    let auto = find(node, "auto_pad").map_or(&b"NOTSET"[..], |attribute| &attribute.s);
    let ceil = find(node, "ceil_mode").is_some_and(|ceil| ceil.i != 0);
    let dilated = ints(node, "dilations").iter().any(|dilation| *dilation != 1);
    if auto != b"NOTSET" && (ceil || dilated && auto != b"VALID") {
        return Err("\"auto_pad\" with \"ceil_mode\" or \"dilations\" is not implemented".into());
    }
    Ok(())
}

/// Cubic interpolation is only implemented with zeros outside of the image.
fn grid_sample(node: &NodeProto) -> Result<(), String> {
    let text = |name| find(node, name).map_or(&b""[..], |attribute| &attribute.s);
    let zeros = [&b""[..], b"zeros"].contains(&text("padding_mode"));
    if text("mode").ends_with(b"cubic") && !zeros {
        return Err("\"padding_mode\" with cubic interpolation is not implemented".into());
    }
    Ok(())
}

fn permutation(node: &NodeProto) -> Result<(), String> {
    let Some(perm) = find(node, "perm") else { return Ok(()) };
    let mut seen = 0u32;
    for at in &perm.ints {
        seen |= 1u32.checked_shl(*at as u32).unwrap_or(0);
    }
    let dims = perm.ints.len();
    let all = if dims >= 32 { u32::MAX } else { (1 << dims) - 1 };
    match seen == all && seen.count_ones() as usize == dims {
        true => Ok(()),
        false => Err(format!(
            "the attribute \"perm\" is {}, which is not a permutation",
            list(&perm.ints)
        )),
    }
}

/// A constant has exactly one attribute, its value.
fn constant(node: &NodeProto) -> Result<(), String> {
    match node.attribute.len() {
        1 => Ok(()),
        found => Err(format!("expected one attribute with the value, found {found}")),
    }
}

/// `Slice` before version 10, with its bounds as attributes.
fn slice_1(node: &NodeProto) -> Result<(), String> {
    let (starts, ends) = (ints(node, "starts"), ints(node, "ends"));
    let axes = find(node, "axes").map_or(starts.len(), |axes| axes.ints.len());
    if starts.len() != ends.len() || axes != starts.len() {
        return Err("\"axes\", \"starts\" and \"ends\" have different lengths".into());
    }
    Ok(())
}

/// The size of `LRN` must be odd, because implementations differ for even sizes.
fn odd_size(node: &NodeProto) -> Result<(), String> {
    match find(node, "size").map(|size| size.i) {
        Some(size) if size % 2 == 0 => Err(format!("an even \"size\" ({size}) is not implemented")),
        _ => Ok(()),
    }
}

/// Attention: the combinations of inputs, outputs and attributes that are implemented.
fn attention(node: &NodeProto) -> Result<(), String> {
    let given = |at: usize| node.input.get(at).is_some_and(|name| !name.is_empty());
    let named = |at: usize| node.output.get(at).is_some_and(|name| !name.is_empty());
    let number = |name| find(node, name).map(|attribute| attribute.f);
    if given(4) != given(5) {
        return Err("past_key and past_value must be given together".into());
    }
    if given(6) && (given(4) || named(1) || named(2)) {
        return Err(
            "nonpad_kv_seqlen with past or present keys and values is not implemented".into()
        );
    }
    if number("scale").is_some_and(|scale| scale <= 0.0) {
        return Err("a \"scale\" of zero or less is not implemented".into());
    }
    let capped = number("softcap").unwrap_or(0.0);
    if capped < 0.0 {
        return Err("a \"softcap\" below zero is not implemented".into());
    }
    // The specification and its reference implementation disagree on this output.
    let products = find(node, "qk_matmul_output_mode").is_none_or(|mode| mode.i == 0);
    if capped > 0.0 && named(3) && products {
        return Err("\"softcap\" with an output of unscaled scores is not implemented".into());
    }
    Ok(())
}

/// The equation of `Einsum`: every letter of the result is in an operand, and occurs once.
fn equation(node: &NodeProto) -> Result<(), String> {
    let text = find(node, "equation").map_or(&b""[..], |equation| &equation.s);
    let text: String = text.iter().filter(|c| **c != b' ').map(|c| char::from(*c)).collect();
    let wrong = || Err(format!("the equation {} is not implemented", shown(&text)));
    if text.len() > 256 {
        return wrong();
    }
    let (operands, result) = match text.split_once("->") {
        Some((operands, result)) => (operands, Some(result)),
        None => (&*text, None),
    };
    let letters = |term: &str| -> Option<String> {
        let plain = term.replacen("...", "", 1);
        plain.chars().all(|c| c.is_ascii_alphabetic()).then_some(plain)
    };
    let terms: Option<Vec<String>> = operands.split(',').map(letters).collect();
    let Some(terms) = terms else { return wrong() };
    let once = |term: &str| term.chars().all(|c| term.matches(c).count() == 1);
    // A repeated letter takes the diagonal; this is only implemented for a single operand.
    let diagonal = terms.len() == 1 && result.is_some();
    if terms.len() != node.input.len() || !diagonal && !terms.iter().all(|term| once(term)) {
        return wrong();
    }
    if let Some(result) = result {
        let Some(plain) = letters(result) else { return wrong() };
        let known = plain.chars().all(|c| terms.iter().any(|term| term.contains(c)));
        // Otherwise the dimensions of the ellipsis would have to be summed, or would not exist.
        let dots = result.contains("...") != operands.contains("...");
        if !known || !once(&plain) || dots {
            return wrong();
        }
    }
    Ok(())
}

/// `BatchNormalization` has its further outputs in training mode only.
fn training(node: &NodeProto) -> Result<(), String> {
    let trained = find(node, "training_mode").is_some_and(|mode| mode.i != 0);
    match node.output.iter().skip(1).any(|name| !name.is_empty()) && !trained {
        true => Err("more than one output requires \"training_mode\" to be 1".into()),
        false => Ok(()),
    }
}

/// `Resize` needs scales or sizes.
fn resize(node: &NodeProto) -> Result<(), String> {
    let given = |at: usize| node.input.get(at).is_some_and(|name| !name.is_empty());
    if !given(2) && !given(3) {
        return Err("neither scales nor sizes are given".into());
    }
    Ok(())
}

/// `Scan` before version 9, whose first input is the lengths of the sequences.
fn scan_8(node: &NodeProto) -> Result<(), String> {
    let (lengths, read) = node.input.split_first().ok_or("it has no inputs")?;
    if !lengths.is_empty() {
        return Err("lengths of sequences (input 0) are not implemented".into());
    }
    let scanned = find(node, "num_scan_inputs").map_or(0, |number| number.i);
    let states = read.len() as i64 - scanned;
    if states < 0 || states > node.output.len() as i64 || read.iter().any(String::is_empty) {
        return Err(format!(
            "{} inputs and {} outputs do not allow {scanned} scan inputs",
            read.len(),
            node.output.len()
        ));
    }
    if find(node, "directions").is_some() && ints(node, "directions").len() as i64 != scanned {
        return Err(format!("the attribute \"directions\" must have {scanned} numbers"));
    }
    Ok(())
}

/// `Scan`: the numbers of states and scan inputs, and one axis and direction for each.
fn scan(node: &NodeProto) -> Result<(), String> {
    let inputs = node.input.len() as i64;
    let scanned = find(node, "num_scan_inputs").map_or(0, |number| number.i);
    let states = inputs - scanned;
    let outputs = node.output.len() as i64 - states;
    if states < 0 || outputs < 0 {
        return Err(format!(
            "{inputs} inputs and {} outputs do not allow {scanned} scan inputs",
            node.output.len()
        ));
    }
    for (name, wanted) in [
        ("scan_input_axes", scanned),
        ("scan_input_directions", scanned),
        ("scan_output_axes", outputs),
        ("scan_output_directions", outputs),
    ] {
        if find(node, name).is_some() && ints(node, name).len() as i64 != wanted {
            return Err(format!("the attribute {name:?} must have {wanted} numbers"));
        }
    }
    Ok(())
}
