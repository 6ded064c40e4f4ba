//! Tests of the key tables: the reader accepts exactly the listed keys, and the schema lists the
//! same.

use std::collections::BTreeSet;

use super::super::keys::{self, Key, Shape, Table};
use super::*;
use serde_json::Value;

/// A valid value for a key.
fn sample(key: &Key) -> String {
    match key.shape {
        Shape::Version => "1".to_owned(),
        Shape::Digest => format!("\"{}\"", "a".repeat(64)),
        Shape::Size(bounds) => format!("\"{} B\"", bounds.max),
        Shape::Time(_) => "\"1 s\"".to_owned(),
        Shape::Count(bounds) => bounds.max.to_string(),
        Shape::Switch => "true".to_owned(),
        Shape::Choice(words) => format!("{:?}", words[1]),
        Shape::Several(words) => format!("{words:?}"),
        Shape::Line => "\"r\"".to_owned(),
        Shape::Name | Shape::Peer | Shape::Hosts => "\"a\"".to_owned(),
        Shape::HostPath | Shape::GuestPath => "\"/a\"".to_owned(),
        Shape::Port => "1".to_owned(),
        Shape::Environment => "{ A = \"x\" }".to_owned(),
        Shape::Number | Shape::Scalar => "3.5".to_owned(),
        Shape::Scalars => "[3, 4.5, true]".to_owned(),
        Shape::Whole(_, most) => most.to_string(),
        Shape::Dtype => "\"f32\"".to_owned(),
        Shape::Dims => "[1, \"?\"]".to_owned(),
        Shape::On => "false".to_owned(),
        Shape::Names => "[\"A\"]".to_owned(),
        Shape::Ports => "[1, \"2-3\"]".to_owned(),
        Shape::Reserved => "[]".to_owned(),
    }
}

/// The required keys of a table and another one.
fn entry(table: &Table, key: &Key) -> String {
    let wanted = |k: &&Key| k.required || k.name == key.name || k.name == "reason";
    let lines: String = table
        .keys
        .iter()
        .filter(wanted)
        .map(|key| format!("{} = {}\n", key.name, sample(key)))
        .collect();
    let header = match (table.key, table.list) {
        ("", _) => return lines,
        (name, _) if table.named => format!("[{name}.x]"),
        (name, true) => format!("[[{name}]]"),
        (name, false) => format!("[{name}]"),
    };
    format!("version = 1\n{header}\n{lines}")
}

#[test]
fn every_listed_key_is_read() {
    for table in keys::POLICY {
        for key in table.keys {
            let mut text = entry(table, key);
            // Only a policy for a model can have pinned files.
            let of_model = table.key == "filesystem" && key.name == "sha256";
            let alone = matches!(table.key, "" | "model" | "program" | "inputs" | "outputs");
            if !alone && !of_model {
                text.push_str("[program]\n");
            }
            let policy = Policy::parse(&text, "x").unwrap_or_else(|e| panic!("{e}\n{text}"));
            // The key must also have an effect.
            let without = text.replace(&format!("{} = {}\n", key.name, sample(key)), "");
            match Policy::parse(&without, "x") {
                Ok(other) => assert!(other != policy || key.name == "reason", "{text}"),
                Err(_) => assert!(key.required || key.name == "reason", "{text}"),
            }
        }
    }
    for table in keys::CEILING {
        for key in table.keys {
            let text = entry(table, key);
            let read = Ceiling::parse(&text, "x");
            assert_eq!(read.is_ok(), key.name != "signers", "{text}{read:?}");
        }
    }
}

fn names(value: &Value) -> BTreeSet<String> {
    value["properties"].as_object().unwrap().keys().cloned().collect()
}

#[test]
fn schema_lists_exactly_the_tables_and_keys_of_the_format() {
    for (schema, format) in [(policy_schema(), keys::POLICY), (ceiling_schema(), keys::CEILING)] {
        let mut top: BTreeSet<String> = BTreeSet::new();
        for table in format {
            let keys: BTreeSet<String> = table.keys.iter().map(|key| key.name.to_owned()).collect();
            if table.key.is_empty() {
                top.extend(keys);
                continue;
            }
            top.insert(table.key.to_owned());
            let of = &schema["properties"][table.key];
            let of = match (table.named, table.list) {
                (true, _) => &of["additionalProperties"],
                (false, true) => &of["items"],
                (false, false) => of,
            };
            assert_eq!(names(of), keys, "{}", table.shown);
            assert_eq!(of["additionalProperties"], false);
            for key in table.keys.iter().filter(|key| key.required) {
                let required = of["required"].as_array().unwrap();
                assert!(required.iter().any(|name| name == key.name), "{}", key.name);
            }
        }
        assert_eq!(names(&schema), top);
        assert_eq!(schema["additionalProperties"], false);
        assert_eq!(schema["required"], serde_json::json!(["version"]));
    }
}

#[test]
fn the_readme_has_every_key() {
    let readme = include_str!("../../../../policies/README.md");
    for table in keys::POLICY {
        for key in table.keys {
            let full = match (table.key, table.list) {
                ("", _) => format!("`{}`", key.name),
                (name, _) => format!("`{name}.{}`", key.name),
            };
            assert!(readme.contains(&full), "{full}");
        }
    }
    for table in keys::CEILING.iter().filter(|table| table.key != "limits" && table.key != "quotas")
    {
        for key in table.keys {
            assert!(
                readme.contains(&format!("`{}`", key.name))
                    || readme.contains(&format!("`{}.{}`", table.key, key.name)),
                "{}",
                key.name
            );
        }
    }
}
