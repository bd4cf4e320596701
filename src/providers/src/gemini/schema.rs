//! JSON schemas for tools and structured output.
//!
//! Since Gemini 2.0 both take JSON Schema as it is: `parametersJsonSchema`
//! (<https://ai.google.dev/api/caching#FunctionDeclaration>) and `responseJsonSchema`
//! (<https://ai.google.dev/api/generate-content#v1beta.GenerationConfig>; the same members on Vertex
//! AI, read 2026-11). Older models have `parameters` and `responseSchema`, a subset of OpenAPI's.

use serde_json::{Map, Value, json};

/// How deep references are followed where they must be written out. Deeper ones accept anything.
const DEPTH_MAX: usize = 24;

/// How many nodes a schema may become where references are written out.
const NODES_MAX: usize = 4_096;

/// Members of a schema that hold one schema, a list of them, or an object of them.
const ONE: &[&str] = &["items", "additionalProperties", "not", "contains", "if", "then", "else"];
const LIST: &[&str] = &["anyOf", "oneOf", "allOf", "prefixItems"];
const NAMED: &[&str] = &["properties", "$defs", "definitions", "patternProperties"];

/// Prepares a JSON schema for the members that take it as it is.
pub(super) fn tame(schema: &mut Value) {
    let Value::Object(schema) = schema else { return };
    // Dialects and ids are of no use to a model, and `strict` is OpenAI's own.
    schema.remove("$schema");
    if schema.get("strict").is_some_and(Value::is_boolean) {
        schema.remove("strict");
    }
    // Google takes nothing beside a reference but what begins with `$`.
    if schema.contains_key("$ref") {
        schema.retain(|name, _| name.starts_with('$'));
    }
    for name in ONE {
        schema.get_mut(*name).into_iter().for_each(tame);
    }
    for name in LIST {
        let list = schema.get_mut(*name).and_then(Value::as_array_mut);
        list.into_iter().flatten().for_each(tame);
    }
    for name in NAMED {
        let named = schema.get_mut(*name).and_then(Value::as_object_mut);
        named.into_iter().flat_map(Map::values_mut).for_each(tame);
    }
}

/// Members OpenAPI's subset has (<https://ai.google.dev/api/caching#Schema>, read 2026-11).
const OPEN_API: &[&str] = &[
    "type",
    "format",
    "title",
    "description",
    "nullable",
    "enum",
    "maxItems",
    "minItems",
    "required",
    "minProperties",
    "maxProperties",
    "minLength",
    "maxLength",
    "pattern",
    "example",
    "default",
    "minimum",
    "maximum",
    "propertyOrdering",
];

/// Writes a JSON schema in OpenAPI's subset: references are written out, unions with null become
/// `nullable`, and what the subset lacks is left out.
pub(super) fn open_api(schema: &Value) -> Value {
    let mut writer = Writer { root: schema, nodes: 0 };
    writer.write(schema, 0)
}

struct Writer<'a> {
    root: &'a Value,
    nodes: usize,
}

impl Writer<'_> {
    fn write(&mut self, schema: &Value, depth: usize) -> Value {
        self.nodes += 1;
        let Value::Object(schema) = schema else { return json!({}) };
        if depth > DEPTH_MAX || self.nodes > NODES_MAX {
            return json!({"type": "object"});
        }
        if let Some(target) = schema.get("$ref").and_then(Value::as_str) {
            let target = target.strip_prefix('#').and_then(|path| self.root.pointer(path));
            let target = target.cloned().unwrap_or_default();
            return self.write(&target, depth + 1);
        }
        let mut out = Map::new();
        for name in OPEN_API {
            if let Some(value) = schema.get(*name) {
                out.insert((*name).into(), value.clone());
            }
        }
        self.set_type(schema, &mut out, depth);
        if let Some(value) = schema.get("const") {
            out.insert("enum".into(), json!([value]));
        }
        // Enumerations are of strings there.
        let names = out.get_mut("enum").and_then(Value::as_array_mut);
        if let Some(names) = names {
            names.retain(|name| !name.is_null());
            for name in names.iter_mut().filter(|name| !name.is_string()) {
                *name = name.to_string().into();
            }
            out.insert("type".into(), "string".into());
        }
        // Of formats it knows those of numbers, `enum` and `date-time`.
        let format = out.get("format").and_then(Value::as_str);
        let known = ["float", "double", "int32", "int64", "enum", "date-time"];
        if format.is_some_and(|format| !known.contains(&format)) {
            out.remove("format");
        }
        if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
            let mut written = Map::new();
            for (name, property) in properties {
                written.insert(name.clone(), self.write(property, depth + 1));
            }
            if !written.is_empty() {
                out.insert("properties".into(), written.into());
            }
        }
        if let Some(items) = schema.get("items") {
            out.insert("items".into(), self.write(items, depth + 1));
        } else if out.get("type").is_some_and(|kind| kind == "array") {
            out.insert("items".into(), json!({"type": "string"}));
        }
        Value::Object(out)
    }

    /// The type, which is one word there, and what unions become.
    fn set_type(
        &mut self,
        schema: &Map<String, Value>,
        out: &mut Map<String, Value>,
        depth: usize,
    ) {
        let mut variants: Vec<Value> = Vec::new();
        if let Some(Value::Array(kinds)) = schema.get("type") {
            out.remove("type");
            for kind in kinds {
                variants.push(json!({"type": kind}));
            }
        }
        for name in ["anyOf", "oneOf"] {
            for variant in schema.get(name).and_then(Value::as_array).into_iter().flatten() {
                variants.push(variant.clone());
            }
        }
        for part in schema.get("allOf").and_then(Value::as_array).into_iter().flatten() {
            if let Value::Object(part) = self.write(part, depth + 1) {
                for (name, value) in part {
                    out.entry(name).or_insert(value);
                }
            }
        }
        let before = variants.len();
        variants.retain(|variant| variant["type"] != "null");
        if variants.len() < before {
            out.insert("nullable".into(), true.into());
        }
        match variants.as_slice() {
            [] => {}
            [only] => {
                if let Value::Object(only) = self.write(only, depth + 1) {
                    for (name, value) in only {
                        out.entry(name).or_insert(value);
                    }
                }
            }
            several => {
                let written: Vec<Value> =
                    several.iter().map(|variant| self.write(variant, depth + 1)).collect();
                out.insert("anyOf".into(), written.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_is_written_in_the_subset() {
        let schema = json!({
            "$schema": "x", "type": "object", "additionalProperties": false,
            "$defs": {"p": {"type": "object", "properties": {"n": {"const": 3}}}},
            "properties": {
                "a": {"type": ["string", "null"], "format": "uri"},
                "b": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
                "c": {"$ref": "#/$defs/p"},
                "d": {"type": "array"},
            },
        });
        let expect = json!({
            "type": "object",
            "properties": {
                "a": {"type": "string", "nullable": true},
                "b": {"type": "integer", "nullable": true},
                "c": {"type": "object", "properties": {"n": {"type": "string", "enum": ["3"]}}},
                "d": {"type": "array", "items": {"type": "string"}},
            },
        });
        assert_eq!(open_api(&schema), expect);
    }

    #[test]
    fn a_schema_that_refers_to_itself_ends() {
        let schema = json!({"properties": {"a": {"$ref": "#"}, "b": {"$ref": "#"}}});
        assert!(open_api(&schema).to_string().len() < 1 << 20);
        let mut schema = json!({"$ref": "#/$defs/a", "description": "d", "$defs": {"a": {}}});
        tame(&mut schema);
        assert_eq!(schema, json!({"$ref": "#/$defs/a", "$defs": {"a": {}}}));
    }
}
