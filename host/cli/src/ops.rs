//! `belljar ops`: the supported operators with their versions, types, attributes and
//! implementation. The gate inside the sandbox uses the same table. No model is read.

use std::io::{BufWriter, Write, stdout};

use belljar_operators::{
    Attribute, NEWEST, NEWEST_MICROSOFT, NEWEST_ML, Operator, Output, Source, Types, Values, all,
    newest,
};
use serde_json::{Value, json};

use super::args::{Ops, TextFormat};
use super::failure::Failure;
use super::json;
use super::table::Table;
use belljar_text::Escaped;

pub(super) fn ops(arguments: &Ops) -> Result<(), Failure> {
    let mut operators: Vec<&Operator> = all().collect();
    operators.sort_by_key(|operator| (operator.domain, operator.name, operator.since));
    if let Some(wanted) = &arguments.operator {
        // As in the list: a name, or a domain and a name.
        let is_wanted = |operator: &&Operator| {
            operator.name.eq_ignore_ascii_case(wanted)
                || format!("{}:{}", operator.domain, operator.name).eq_ignore_ascii_case(wanted)
        };
        operators.retain(is_wanted);
        if operators.is_empty() {
            let wanted = Escaped::cut(wanted, 60);
            return Err(Failure::usage(format!("unsupported operator {wanted}"))
                .hint("`belljar ops` lists the supported operators"));
        }
    }
    let mut out = BufWriter::new(stdout().lock());
    match arguments.format {
        TextFormat::Text => text(&operators, &mut out),
        TextFormat::Json => {
            let answer = json!({
                "newest_operator_set": NEWEST,
                "newest_operator_set_ml": NEWEST_ML,
                "newest_operator_set_microsoft": NEWEST_MICROSOFT,
                "operators": operators.iter().map(|operator| to_json(operator)).collect::<Value>(),
            });
            json::print(&answer, &mut out)
        }
    }
    .and_then(|()| out.flush())
    .map_err(Failure::output)
}

fn text(operators: &[&Operator], out: &mut impl Write) -> std::io::Result<()> {
    let mut table = Table::default();
    for operator in operators {
        let versions = match operator.until {
            until if newest(operator.domain) == Some(until) => format!("{}…", operator.since),
            until => format!("{}…{until}", operator.since),
        };
        let name = match operator.domain {
            "" => operator.name.to_owned(),
            domain => format!("{domain}:{}", operator.name),
        };
        let attributes: Vec<String> = operator.attributes.iter().map(attribute).collect();
        let source = source(operator.source()).to_owned();
        table.row([name, versions, source, types(operator), attributes.join("; ")]);
    }
    table.print(out, 0)
}

/// Which implementation computes an operator.
fn source(source: Source) -> &'static str {
    match source {
        Source::Own => "belljar",
        Source::Wrapped => "tract, checked",
        Source::Upstream => "tract",
        Source::Lowered => "rewritten",
    }
}

/// The distinct sets of types that the inputs accept.
fn types(operator: &Operator) -> String {
    let mut seen: Vec<String> = Vec::new();
    for input in operator.inputs {
        let names = short(input.types);
        if !seen.contains(&names) {
            seen.push(names);
        }
    }
    seen.join(" | ")
}

/// A short name for a set of types.
fn short(types: Types) -> String {
    use belljar_operators as table;
    for (known, name) in [
        (table::ANY.or(table::STORED), "any, incl. low-precision"),
        (table::PLAIN.or(table::STORED), "numbers, incl. low-precision, bool"),
        (table::PLAIN.or(table::BF16), "numbers, bfloat16, bool"),
        (table::NUMBERS.or(table::BF16), "numbers, bfloat16"),
        (table::REALS, "floats, bfloat16"),
        (table::ANY, "any"),
        (table::PLAIN, "numbers, bool"),
        (table::NUMBERS, "numbers"),
        (table::FLOATS, "floats"),
        (table::INTEGERS, "integers"),
        (table::SIGNED, "signed integers"),
        (table::UNSIGNED, "unsigned integers"),
    ] {
        if known == types {
            return name.to_owned();
        }
    }
    types.names()
}

fn attribute(attribute: &Attribute) -> String {
    let values = match attribute.values {
        Values::Int(least, most) if least == most => format!("={least}"),
        Values::Int(least, most) => range(least, most),
        Values::Ints(least, most) => format!("[{}]", range(least, most)),
        Values::AnyInts => "[integer]".to_owned(),
        Values::Float | Values::AnyFloat => "number".to_owned(),
        Values::Floats => "[number]".to_owned(),
        Values::Exactly(number) => format!("={number}"),
        Values::Text(texts) => texts.join("|"),
        Values::Texts(texts) => format!("[{}]", texts.join(", ")),
        Values::AnyText => "text".to_owned(),
        Values::AnyTexts => "[text]".to_owned(),
        Values::Type(types) | Values::ZeroOr(types) => short(types),
        Values::Tensor => "tensor".to_owned(),
        Values::Graph => "graph".to_owned(),
    };
    format!("{} {values}", attribute.name)
}

fn range(least: i64, most: i64) -> String {
    match (least, most) {
        (i64::MIN, i64::MAX) => "integer".to_owned(),
        (least, most) => format!("{least}…{most}"),
    }
}

fn to_json(operator: &Operator) -> Value {
    let names = |types: Types| types.names().split(", ").map(str::to_owned).collect::<Vec<_>>();
    let letter = |letter: char| if letter == '-' { Value::Null } else { json!(letter) };
    let inputs: Vec<Value> = operator
        .inputs
        .iter()
        .map(|input| json!({ "types": names(input.types), "same_as": letter(input.letter) }))
        .collect();
    let outputs: Vec<Value> = operator
        .outputs
        .iter()
        .map(|output| match output {
            Output::Like(of) => json!({ "same_as": of }),
            Output::Either(of, or) => json!({ "same_as": of, "or_else": or }),
            Output::Is(types) => json!({ "types": names(*types) }),
            Output::Attr(name, types) => json!({ "attribute": name, "types": names(*types) }),
            Output::AttrOr(name, types, of) => {
                json!({ "attribute": name, "types": names(*types), "or_else": of })
            }
            Output::AttrOrIs(name, types, otherwise) => json!({
                "attribute": name, "types": names(*types), "otherwise": names(*otherwise),
            }),
            Output::With(attributes, types) => {
                let each = attributes
                    .iter()
                    .map(|(name, types)| json!({ "attribute": name, "types": names(*types) }));
                json!({ "with": each.collect::<Value>(), "types": names(*types) })
            }
            Output::Unless(attribute, types, at_zero) => json!({
                "types": names(*types),
                "at_zero": { "attribute": attribute, "types": names(*at_zero) },
            }),
            Output::ByText(attribute, texts, types) => {
                let each = texts
                    .iter()
                    .map(|(text, types)| json!({ "text": text, "types": names(*types) }));
                json!({
                    "by_text": { "attribute": attribute, "texts": each.collect::<Value>() },
                    "types": names(*types),
                })
            }
            Output::Swapped => json!({ "depends": "integers for texts, and texts for integers" }),
            Output::Special => json!({ "depends": "on its value or its bodies" }),
        })
        .collect();
    let attributes: Vec<Value> = operator
        .attributes
        .iter()
        .map(|known| {
            let values = match known.values {
                Values::Int(least, most) => json!({ "integer": { "from": least, "to": most } }),
                Values::Ints(least, most) => json!({ "integers": { "from": least, "to": most } }),
                Values::AnyInts => json!({ "integers": "any" }),
                Values::Float => json!({ "number": "finite" }),
                Values::AnyFloat => json!({ "number": "any" }),
                Values::Floats => json!({ "numbers": "any" }),
                Values::Exactly(number) => json!({ "number": number }),
                Values::Text(texts) => json!({ "text": texts }),
                Values::Texts(texts) => json!({ "texts": texts }),
                Values::AnyText => json!({ "text": "any" }),
                Values::AnyTexts => json!({ "texts": "any" }),
                Values::Type(types) => json!({ "type": names(types) }),
                Values::ZeroOr(types) => json!({ "type": names(types), "or": 0 }),
                Values::Tensor => json!({ "tensor": "any" }),
                Values::Graph => json!({ "graph": "any" }),
            };
            json!({ "name": known.name, "required": known.required, "values": values })
        })
        .collect();
    json!({
        "domain": operator.domain,
        "name": operator.name,
        "since": operator.since,
        "until": operator.until,
        "computed_by": source(operator.source()),
        "inputs": inputs,
        "optional_inputs": operator.optional,
        "last_input_repeats": operator.many,
        "outputs": outputs,
        "fewest_outputs": operator.fewest_outputs,
        "last_output_repeats": operator.many_outputs,
        "attributes": attributes,
    })
}
