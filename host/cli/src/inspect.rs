//! `belljar inspect`: describes a model, and checks whether it can be prepared. All names and texts
//! of a model are untrusted: they must be escaped before they are printed.

use std::io::{self, BufWriter, Write, stdout};

use serde_json::{Value, json};

use super::args::{Format, Inspect};
use super::failure::Failure;
use super::host::{Loaded, Store, load};
use super::preparation::Judgement;
use super::table::Table;
use super::terminal::Terminal;
use super::{dims, json, preparation, prepare};
use belljar::{Description, Dim, ValueInfo, ValueType};
use belljar_policy::units::format_size;
use belljar_text::Escaped;

pub(super) fn inspect(arguments: &Inspect, terminal: &Terminal) -> Result<(), Failure> {
    let policy = arguments.model.policy.as_deref();
    let failure = match describe(arguments, terminal) {
        Err(failure) if !failure.is_of_output() => failure.under(policy),
        other => return other,
    };
    // With --format json, errors are printed as JSON too.
    if arguments.format == Format::Json {
        let mut out = BufWriter::new(stdout().lock());
        let path = arguments.model.model.to_string_lossy();
        json::print(&failed(&path, &failure), &mut out)
            .and_then(|()| out.flush())
            .map_err(Failure::output)?;
    }
    Err(failure)
}

/// The JSON for a model that could not be described.
fn failed(path: &str, failure: &Failure) -> Value {
    let exit_code = failure.exit_code();
    json!({
        "model": { "path": path },
        "error": {
            "text": failure.to_string(),
            "hint": failure.hint_text(),
            "exit_code": exit_code,
        },
        "preparation": failure.refusal().map(|error| preparation::refused(&error, exit_code)),
    })
}

fn describe(arguments: &Inspect, terminal: &Terminal) -> Result<(), Failure> {
    let given = prepare::given_shapes(&arguments.input_shapes)?;
    let loaded = load(&arguments.model, Store::Unused, terminal)?;
    let judge = || preparation::judge(&loaded.model, &given);
    let judgement = match arguments.no_prepare {
        true => None,
        false => Some(terminal.progress("preparing the model", judge)?),
    };
    let judgement = judgement.as_ref();
    let mut out = BufWriter::new(stdout().lock());
    let path = arguments.model.model.to_string_lossy();
    match arguments.format {
        Format::Table => print(&path, &loaded, judgement, &mut out),
        Format::Json => json::print(&to_json(&path, &loaded, judgement), &mut out),
    }
    .and_then(|()| out.flush())
    .map_err(Failure::output)
}

fn short(text: &str) -> String {
    Escaped::cut(text, 60).to_string()
}

fn print(
    path: &str,
    loaded: &Loaded,
    judgement: Option<&Judgement>,
    out: &mut impl Write,
) -> io::Result<()> {
    let description = loaded.model.description();
    let d = description;
    let mut table = Table::default();
    let mut say = |what: &str, value: String| {
        if !value.is_empty() {
            table.row([what.to_owned(), value]);
        }
    };
    say("model", Escaped::new(path).to_string());
    say("size", format!("{} ({} B)", format_size(loaded.size), loaded.size));
    say("SHA-256", loaded.model.digest().to_string());
    say("graph", short(&d.graph_name));
    say("producer", short(&format!("{} {}", d.producer_name, d.producer_version)).trim().into());
    say("domain", short(&d.domain));
    say("model version", d.model_version.to_string());
    say("IR version", d.ir_version.to_string());
    let opsets: Vec<String> = d
        .opset_imports
        .iter()
        .map(|import| format!("{} {}", short(domain(&import.domain)), import.version))
        .collect();
    say("operator sets", opsets.join(", "));
    say("parameters", d.parameters.to_string());
    say("nodes", d.nodes.to_string());
    say(
        "random numbers",
        match d.random_nodes {
            0 => String::new(),
            1 => "1 node draws some, from the seed of the run".to_owned(),
            nodes => format!("{nodes} nodes draw some, from the seed of the run"),
        },
    );
    say("fixed by --dim", dims::text(&loaded.model));
    say("documentation", Escaped::new(&d.doc_string).to_string());
    table.print(&mut *out, 0)?;

    for (title, values) in [("inputs", &d.inputs), ("outputs", &d.outputs)] {
        writeln!(out, "\n{title}")?;
        let mut table = Table::default();
        for value in values {
            let default = if value.has_default { "has a default" } else { "" };
            table.row([
                short(&value.name),
                value.type_name(),
                short(&shape_text(value)),
                default.to_owned(),
            ]);
        }
        table.print(&mut *out, 2)?;
    }
    print_operators(d, out)?;
    if let Some(judgement) = judgement {
        judgement.print(out)?;
    }
    let mut lists: Vec<(&str, Vec<[String; 3]>)> = Vec::new();
    let metadata = d.metadata.iter().map(|(key, value)| [short(key), short(value), String::new()]);
    lists.push(("metadata", metadata.collect()));
    let functions = d.functions.iter().map(|function| {
        let nodes = format!("{} nodes", function.nodes);
        [short(&function.name), short(domain(&function.domain)), nodes]
    });
    lists.push(("model-local functions", functions.collect()));
    let external = d.external_data.iter().map(|external| {
        let place = format!("at {}, {} bytes", short(&external.offset), short(&external.length));
        [short(&external.tensor), short(&external.location), place]
    });
    lists.push(("data in other files", external.collect()));
    for (title, rows) in lists.into_iter().filter(|(_, rows)| !rows.is_empty()) {
        writeln!(out, "\n{title}")?;
        let mut table = Table::default();
        rows.into_iter().for_each(|row| table.row(row));
        table.print(&mut *out, 2)?;
    }
    if d.truncated {
        writeln!(out, "\nSome lists or texts were too long and have been truncated.")?;
    }
    Ok(())
}

/// Operators with their counts, several per line.
fn print_operators(description: &Description, out: &mut impl Write) -> io::Result<()> {
    const WIDTH: usize = 78;
    writeln!(out, "\noperators")?;
    let mut line = String::new();
    for operator in &description.operators {
        let name = match &*operator.domain {
            "" => short(&operator.op_type),
            domain => format!("{}:{}", short(domain), short(&operator.op_type)),
        };
        let entry = format!("  {name} {}", operator.count);
        if !line.is_empty() && line.chars().count() + entry.chars().count() > WIDTH {
            writeln!(out, "{line}")?;
            line.clear();
        }
        line.push_str(&entry);
    }
    writeln!(out, "{line}")?;
    let refused = || description.operators.iter().filter(|operator| !operator.refused.is_empty());
    if refused().next().is_none() {
        return Ok(());
    }
    writeln!(out, "\nunsupported operators")?;
    let mut table = Table::default();
    for operator in refused() {
        let why = Escaped::cut(&operator.refused, 200).to_string();
        table.row([short(domain(&operator.domain)), short(&operator.op_type), why]);
    }
    table.print(&mut *out, 2)
}

fn domain(domain: &str) -> &str {
    if domain.is_empty() { "ai.onnx" } else { domain }
}

fn shape_text(value: &ValueInfo) -> String {
    let Some(dims) = &value.shape else {
        return if value.value_type == ValueType::Tensor {
            "any shape".into()
        } else {
            String::new()
        };
    };
    if dims.is_empty() {
        return "scalar".into();
    }
    let dims: Vec<String> = dims.iter().map(ToString::to_string).collect();
    dims.join("×")
}

fn value_json(value: &ValueInfo) -> Value {
    let shape = value.shape.as_ref().map(|dims| {
        let dims = dims.iter().map(|dim| match dim {
            Dim::Fixed(size) => json!(size),
            Dim::Symbol(name) => json!(name),
            Dim::Unknown => Value::Null,
        });
        dims.collect::<Vec<_>>()
    });
    json!({
        "name": value.name,
        "dtype": value.type_name(),
        "shape": shape,
        "has_default": value.has_default,
    })
}

fn to_json(path: &str, loaded: &Loaded, judgement: Option<&Judgement>) -> Value {
    let d = loaded.model.description();
    json!({
        "model": {
            "path": path,
            "sha256": loaded.model.digest().to_string(),
            "bytes": loaded.size,
        },
        "ir_version": d.ir_version,
        "producer_name": d.producer_name,
        "producer_version": d.producer_version,
        "domain": d.domain,
        "model_version": d.model_version,
        "doc_string": d.doc_string,
        "graph_name": d.graph_name,
        "opset_imports": d.opset_imports.iter()
            .map(|import| json!({ "domain": domain(&import.domain), "version": import.version }))
            .collect::<Vec<_>>(),
        "inputs": d.inputs.iter().map(value_json).collect::<Vec<_>>(),
        "outputs": d.outputs.iter().map(value_json).collect::<Vec<_>>(),
        "dims": dims::to_json(&loaded.model),
        "operators": d.operators.iter()
            .map(|o| {
                let refused = Some(&o.refused).filter(|refused| !refused.is_empty());
                json!({
                    "domain": domain(&o.domain),
                    "op_type": o.op_type,
                    "count": o.count,
                    "refused": refused,
                })
            })
            .collect::<Vec<_>>(),
        "nodes": d.nodes,
        "random_nodes": d.random_nodes,
        "parameters": d.parameters,
        "metadata": d.metadata.iter()
            .map(|(key, value)| json!({ "key": key, "value": value }))
            .collect::<Vec<_>>(),
        "functions": d.functions.iter()
            .map(|f| json!({ "domain": domain(&f.domain), "name": f.name, "nodes": f.nodes }))
            .collect::<Vec<_>>(),
        "external_data": d.external_data.iter()
            .map(|e| json!({
                "tensor": e.tensor,
                "location": e.location,
                "offset": e.offset,
                "length": e.length,
            }))
            .collect::<Vec<_>>(),
        "truncated": d.truncated,
        "preparation": judgement.map(Judgement::json),
        "error": null,
    })
}
