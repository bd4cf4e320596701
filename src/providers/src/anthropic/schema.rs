//! JSON schemas as Anthropic's structured output takes them.

use serde_json::Value;

/// Keywords structured output refuses: <https://platform.claude.com/docs/en/build-with-claude/structured-outputs>,
/// read 2026-11. They only narrow a value that is of the right shape without them.
const REFUSED: &[&str] = &[
    "exclusiveMaximum",
    "exclusiveMinimum",
    "maxItems",
    "maxLength",
    "maximum",
    "minLength",
    "minimum",
    "multipleOf",
    "uniqueItems",
];

/// Makes a schema one that structured output takes: objects are closed, and refused keywords go
/// into the description, where the model still reads them.
pub(crate) fn tame(schema: &mut Value) {
    let Value::Object(object) = schema else { return };
    let mut told = Vec::new();
    for keyword in REFUSED {
        if let Some(value) = object.remove(*keyword) {
            told.push(format!("{keyword}: {value}"));
        }
    }
    // Only 0 and 1 are taken for it.
    if let Some(least) = object.get("minItems").and_then(Value::as_u64)
        && least > 1
    {
        object.remove("minItems");
        told.push(format!("minItems: {least}"));
    }
    if !told.is_empty() {
        let told = format!("{{{}}}", told.join(", "));
        let description = match object.get("description").and_then(Value::as_str) {
            Some(text) => format!("{text}\n\n{told}"),
            None => told,
        };
        object.insert("description".into(), description.into());
    }
    if let Some(variants) = object.remove("oneOf") {
        object.insert("anyOf".into(), variants);
    }
    let is_object = object.get("type").is_some_and(|kind| {
        kind == "object" || kind.as_array().is_some_and(|kinds| kinds.contains(&"object".into()))
    });
    if is_object || object.contains_key("properties") {
        object.insert("additionalProperties".into(), false.into());
    }
    for (key, value) in object.iter_mut() {
        match (key.as_str(), value) {
            ("properties" | "$defs" | "definitions", Value::Object(schemas)) => {
                schemas.values_mut().for_each(tame);
            }
            ("anyOf" | "allOf" | "items" | "prefixItems", Value::Array(schemas)) => {
                schemas.iter_mut().for_each(tame);
            }
            ("items", schema) => tame(schema),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_schema_is_made_one_that_is_taken() {
        let mut schema = json!({
            "type": "object",
            "properties": {
                "age": {"type": "integer", "minimum": 0, "description": "In years."},
                "tags": {"type": "array", "items": {"type": "object", "properties": {}}, "minItems": 2},
                "minimum": {"oneOf": [{"type": "string", "maxLength": 3}, {"type": "null"}]},
            },
            "$defs": {"x": {"type": ["object", "null"]}},
        });
        tame(&mut schema);
        let expect = json!({
            "type": "object",
            "properties": {
                "age": {"type": "integer", "description": "In years.\n\n{minimum: 0}"},
                "tags": {"type": "array", "description": "{minItems: 2}",
                    "items": {"type": "object", "properties": {}, "additionalProperties": false}},
                "minimum": {"anyOf": [{"type": "string", "description": "{maxLength: 3}"}, {"type": "null"}]},
            },
            "$defs": {"x": {"type": ["object", "null"], "additionalProperties": false}},
            "additionalProperties": false,
        });
        assert_eq!(schema, expect);
    }
}
