//! Google's schemas, which are OpenAPI's, as JSON Schema.

use serde_json::{Map, Value, json};

use super::{snake, take};

/// Members whose name differs from their snake_case.
const RENAMED: &[&str] =
    &["anyOf", "maxItems", "minItems", "maxLength", "minLength", "maxProperties", "minProperties"];

/// Deeper than this no schema is. The JSON parser stops at the same depth.
const DEPTH_MAX: u32 = 128;

/// Makes a JSON Schema of one of Google's. What is one already stays as it is.
pub(super) fn to_json_schema(schema: Value) -> Value {
    convert(schema, DEPTH_MAX)
}

fn convert(schema: Value, depth: u32) -> Value {
    let Value::Object(mut schema) = schema else { return schema };
    let Some(depth) = depth.checked_sub(1) else { return schema.into() };
    // Google's own order of members; and an example, which JSON Schema calls otherwise.
    take(&mut schema, "propertyOrdering");
    for name in RENAMED {
        if let Some(value) = schema.remove(&snake(name)) {
            schema.insert((*name).into(), value);
        }
    }
    if let Some(example) = schema.remove("example") {
        schema.entry("examples").or_insert_with(|| json!([example]));
    }
    let nullable = schema.remove("nullable") == Some(Value::Bool(true));
    let kind = schema.get("type").and_then(Value::as_str).map(str::to_ascii_lowercase);
    match kind.as_deref() {
        Some("type_unspecified") => {
            schema.remove("type");
        }
        Some(kind) if nullable => {
            schema.insert("type".into(), json!([kind, "null"]));
        }
        Some(kind) => {
            schema.insert("type".into(), kind.into());
        }
        None => {}
    }
    // `enum` is a format of Google's for strings and says nothing else.
    if schema.get("format").is_some_and(|format| format == "enum") {
        schema.remove("format");
    }
    if nullable && let Some(Value::Array(values)) = schema.get_mut("enum") {
        values.push(Value::Null);
    }
    if nullable
        && kind.is_none()
        && let Some(Value::Array(variants)) = schema.get_mut("anyOf")
    {
        variants.push(json!({"type": "null"}));
    }
    for (key, value) in &mut schema {
        match key.as_str() {
            // 64 bits as text.
            name if name.starts_with("max") || name.starts_with("min") => {
                let number = value.as_str().and_then(|text| text.parse::<u64>().ok());
                if let Some(number) = number {
                    *value = number.into();
                }
            }
            "properties" | "defs" | "$defs" => {
                if let Value::Object(members) = value {
                    each(members, depth);
                }
            }
            "items" | "additionalProperties" => *value = convert(value.take(), depth),
            "anyOf" => {
                for variant in value.as_array_mut().into_iter().flatten() {
                    *variant = convert(variant.take(), depth);
                }
            }
            _ => {}
        }
    }
    schema.into()
}

fn each(members: &mut Map<String, Value>, depth: u32) {
    for (_, member) in members.iter_mut() {
        *member = convert(member.take(), depth);
    }
}
