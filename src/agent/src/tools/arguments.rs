//! Arguments of tools: what a type takes, as a JSON Schema, and values of it.

use std::sync::Arc;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::tool::ToolError;

/// The JSON Schema of arguments: one object, without references, and without what some providers
/// refuse (widths of integers, names of types).
pub fn schema<T: JsonSchema>() -> Arc<Value> {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    if let Some(schema) = schema.as_object_mut() {
        schema.remove("title");
    }
    simplify(&mut schema);
    Arc::new(schema)
}

fn simplify(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            if members.get("format").and_then(Value::as_str).is_some_and(is_width) {
                members.remove("format");
            }
            members.values_mut().for_each(simplify);
        }
        Value::Array(items) => items.iter_mut().for_each(simplify),
        _ => {}
    }
}

fn is_width(format: &str) -> bool {
    format.starts_with("uint")
        || format.starts_with("int")
        || format == "float"
        || format == "double"
}

/// Reads arguments.
///
/// # Errors
/// [`ToolError::Arguments`], with the path of what is wrong.
pub fn read<T: DeserializeOwned>(arguments: Value) -> Result<T, ToolError> {
    serde_path_to_error::deserialize(arguments).map_err(|error| {
        let (path, inner) = (error.path().to_string(), error.inner());
        ToolError::Arguments(match path.as_str() {
            "." => inner.to_string(),
            path => format!("{path}: {inner}"),
        })
    })
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Example {
        /// What it is.
        _name: String,
        /// How many.
        _count: Option<u32>,
        #[serde(default)]
        _kind: Kind,
    }

    #[derive(Debug, Default, Deserialize, JsonSchema)]
    #[serde(rename_all = "snake_case")]
    enum Kind {
        #[default]
        Web,
        News,
    }

    #[test]
    fn schemas_are_plain() {
        let expect = json!({
            "type": "object",
            "properties": {
                "_name": {"description": "What it is.", "type": "string"},
                "_count": {"description": "How many.", "type": ["integer", "null"], "minimum": 0},
                "_kind": {"type": "string", "enum": ["web", "news"], "default": "web"},
            },
            "required": ["_name"],
            "additionalProperties": false,
        });
        let mut got = (*schema::<Example>()).clone();
        // Whether an enum's default is told depends on whether it can be serialised.
        got["properties"]["_kind"]["default"] = "web".into();
        assert_eq!(got, expect);
    }

    #[test]
    fn mistakes_are_told_with_their_path() {
        let wrong = |value| read::<Example>(value).unwrap_err().to_string();
        assert!(wrong(json!({})).contains("missing field `_name`"));
        let error = wrong(json!({"_name": "x", "_count": -1}));
        assert!(error.starts_with("invalid arguments: _count: invalid value"), "{error}");
        assert!(wrong(json!({"_name": "x", "nmae": 1})).contains("unknown field `nmae`"));
        assert!(wrong(json!("x")).contains("invalid type"));
    }
}
