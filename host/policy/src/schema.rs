//! The JSON Schema of the format, for editors and reviews, generated from the tables that the
//! reader uses. It checks less than the reader does, and nothing more.

use serde_json::{Map, Value, json};

use super::Bounds;
use super::keys::{self, Key, Shape, Table};
use super::limits::Quantity;
use belljar_tensor::DType;

/// The JSON Schema (draft 2020-12) of a policy file.
#[must_use]
pub fn policy_schema() -> Value {
    let mut schema = document("Policy of Belljar", keys::POLICY);
    // Keys that require [program].
    let needs: Map<_, _> = ["models", "network", "quotas"]
        .iter()
        .map(|key| ((*key).to_owned(), json!(["program"])))
        .collect();
    if let Some(schema) = schema.as_object_mut() {
        schema.insert("dependentRequired".to_owned(), Value::Object(needs));
    }
    schema
}

/// The JSON Schema (draft 2020-12) of a ceiling.
#[must_use]
pub fn ceiling_schema() -> Value {
    document("Ceiling of Belljar", keys::CEILING)
}

fn document(title: &str, format: &[&Table]) -> Value {
    let mut schema = Map::new();
    schema.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
    schema.insert("title".to_owned(), json!(title));
    for table in format {
        if table.key.is_empty() {
            if let Value::Object(top) = object(table) {
                schema.extend(top);
            }
            continue;
        }
        let value = match (table.named, table.list) {
            (true, _) => json!({
                "description": table.about,
                "type": "object",
                "maxProperties": super::MAX_GRANTS,
                "additionalProperties": object(table),
            }),
            (false, false) => object(table),
            (false, true) => json!({
                "description": table.about,
                "type": "array",
                "maxItems": super::MAX_GRANTS,
                "items": object(table),
            }),
        };
        let properties = schema.entry("properties").or_insert_with(|| json!({}));
        if let Some(properties) = properties.as_object_mut() {
            properties.insert(table.key.to_owned(), value);
        }
    }
    Value::Object(schema)
}

fn object(table: &Table) -> Value {
    let properties: Map<_, _> =
        table.keys.iter().map(|key| (key.name.to_owned(), property(key))).collect();
    let required: Vec<&str> =
        table.keys.iter().filter(|key| key.required).map(|key| key.name).collect();
    let mut object = json!({
        "description": table.about,
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
    });
    if let (Some(object), false) = (object.as_object_mut(), required.is_empty()) {
        object.insert("required".to_owned(), json!(required));
    }
    object
}

fn property(key: &Key) -> Value {
    let mut value = shape(key.shape);
    let bounds = match key.shape {
        Shape::Size(bounds) => between(bounds),
        Shape::Time(bounds) => between(bounds),
        Shape::Count(bounds) => between(bounds),
        _ => String::new(),
    };
    if let Some(value) = value.as_object_mut() {
        value.insert("description".to_owned(), json!(format!("{}{bounds}", key.about)));
    }
    value
}

fn between<T: Quantity>(bounds: Bounds<T>) -> String {
    let Bounds { min, default, max } = bounds;
    format!(" From {} to {}; {} by default.", min.shown(), max.shown(), default.shown())
}

fn shape(shape: Shape) -> Value {
    let number = "[0-9]+(\\.[0-9]+)?";
    match shape {
        Shape::Version => json!({ "const": super::FORMAT_VERSION }),
        Shape::Digest => json!({ "type": "string", "pattern": "^[0-9A-Fa-f]{64}$" }),
        Shape::Size(bounds) => {
            let zero = if bounds.min == 0 { "0|" } else { "" };
            let units = "(B|KB|MB|GB|KiB|MiB|GiB)";
            json!({ "type": "string", "pattern": format!("^({zero}{number} ?{units})$") })
        }
        Shape::Time(_) => {
            json!({ "type": "string", "pattern": format!("^{number} ?(ms|s|min|h)$") })
        }
        Shape::Count(Bounds { min, default, max }) => {
            json!({ "type": "integer", "minimum": min, "maximum": max, "default": default })
        }
        Shape::Switch => json!({ "type": "boolean", "default": false }),
        Shape::Choice(words) => json!({ "enum": words, "default": words.first() }),
        Shape::Several(words) => json!({
            "type": "array",
            "items": { "enum": words },
            "minItems": 1,
            "uniqueItems": true,
            "default": words.get(..1),
        }),
        Shape::Line => json!({ "type": "string", "pattern": "^[^\\r\\n]*\\S[^\\r\\n]*$" }),
        Shape::Name | Shape::HostPath => json!({ "type": "string", "minLength": 1 }),
        Shape::GuestPath => json!({ "type": "string", "pattern": "^/" }),
        Shape::Peer => json!({ "type": "string", "pattern": "^[0-9A-Za-z.:-]+$" }),
        Shape::Port => json!({ "type": "integer", "minimum": 1, "maximum": 65_535 }),
        Shape::Environment => json!({
            "type": "object",
            "propertyNames": { "pattern": "^[A-Za-z_][A-Za-z0-9_]*$" },
            "additionalProperties": { "type": "string" },
        }),
        Shape::Number => json!({ "type": "number" }),
        Shape::Scalar => json!({ "type": ["number", "boolean"] }),
        Shape::Scalars => json!({
            "type": "array",
            "items": { "type": ["number", "boolean"] },
            "minItems": 1,
            "maxItems": super::values::MAX_ALLOWED,
        }),
        Shape::Whole(least, most) => {
            json!({ "type": "integer", "minimum": least, "maximum": most })
        }
        Shape::Dtype => {
            let names: Vec<&str> = DType::ALL.iter().map(|dtype| dtype.name()).collect();
            json!({ "enum": names })
        }
        Shape::Dims => json!({
            "type": "array",
            "items": { "anyOf": [
                { "type": "integer", "minimum": 0 },
                { "type": "string", "pattern": "^(\\?|[0-9]+\\.\\.[0-9]+)$" },
            ] },
            "maxItems": super::values::MAX_DIMS,
        }),
        Shape::On => json!({ "type": "boolean", "default": true }),
        Shape::Names => json!({ "type": "array", "items": { "type": "string" } }),
        Shape::Hosts => json!({ "type": "string", "pattern": "^(\\*|(\\*\\.)?[0-9A-Za-z.:-]+)$" }),
        Shape::Ports => json!({
            "type": "array",
            "items": { "anyOf": [
                { "type": "integer", "minimum": 1, "maximum": 65_535 },
                { "type": "string", "pattern": "^[0-9]+-[0-9]+$" },
            ] },
        }),
        Shape::Reserved => json!({ "not": {} }),
    }
}
