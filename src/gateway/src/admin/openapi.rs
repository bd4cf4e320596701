//! `/openapi.json`: the admin API in OpenAPI 3.1, from the table that serves it.

use serde_json::{Map, Value, json};

use super::fields::{Field, Shape};
use super::table::{ENDPOINTS, Endpoint, Rule};
use crate::agents;

/// The document.
pub(super) fn document() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for endpoint in ENDPOINTS {
        for path in endpoint.paths {
            let operations = paths.entry(*path).or_insert_with(|| json!({}));
            operations[endpoint.method.as_str().to_ascii_lowercase()] = operation(endpoint, path);
        }
    }
    agents::ENDPOINTS.iter().for_each(|endpoint| add(endpoint, &mut paths));
    agents::files::ENDPOINTS.iter().for_each(|endpoint| add(endpoint, &mut paths));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Tollway API",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Keys, users, teams, budgets and spend, in LiteLLM's shapes; \
                            agents, their runs and threads, tools and files.",
        },
        "paths": paths,
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Error": {
                "type": "object",
                "required": ["error"],
                "properties": {"error": {
                    "type": "object",
                    "required": ["message", "type", "param", "code"],
                    "properties": {
                        "message": {"type": "string"},
                        "type": {"type": "string"},
                        "param": {"type": ["string", "null"]},
                        "code": {"type": ["string", "null"]},
                    },
                }},
            }},
        },
        "security": [{"key": []}],
    })
}

/// Adds a path of agents, whose bodies are described elsewhere.
fn add<M>(endpoint: &agents::Endpoint<M>, paths: &mut Map<String, Value>) {
    let path = endpoint.pattern;
    let operations = paths.entry(path).or_insert_with(|| json!({}));
    for (method, access) in endpoint.methods.iter().zip(endpoint.access) {
        operations[method.as_str().to_ascii_lowercase()] = json!({
            "operationId": id(method, path),
            "summary": endpoint.about,
            "tags": ["agents"],
            "x-access": access.name(),
            "parameters": in_path(path),
            "responses": responses(),
        });
    }
}

fn id(method: &http::Method, path: &str) -> String {
    format!("{}{}", method.as_str().to_ascii_lowercase(), path.replace(['/', '{', '}'], "_"))
}

fn in_path(path: &str) -> Vec<Value> {
    let names = path.split('/').filter_map(|piece| piece.strip_prefix('{')?.strip_suffix('}'));
    let parameter =
        |name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}});
    names.map(parameter).collect()
}

fn responses() -> Value {
    json!({
        "200": {"description": "Done.", "content": {"application/json": {"schema": {}}}},
        "default": {
            "description": "Refused, and why.",
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
        },
    })
}

fn operation(endpoint: &Endpoint, path: &str) -> Value {
    let section = path.split('/').nth(1).unwrap_or_default();
    let fields = || endpoint.fields.iter().copied().flatten();
    let is_get = endpoint.method == http::Method::GET;
    let mut parameters = in_path(path);
    let mut operation = json!({
        "operationId": id(&endpoint.method, path),
        "summary": endpoint.about,
        "tags": [section],
        "x-access": endpoint.rule.name(),
        "responses": responses(),
    });
    if endpoint.rule == Rule::Public {
        operation["security"] = json!([]);
    }
    if is_get {
        parameters.extend(fields().map(|field| {
            json!({
                "name": field.name, "in": "query", "required": field.required,
                "description": field.about, "schema": field.shape.schema(),
            })
        }));
    } else {
        let required: Vec<&str> =
            fields().filter(|field| field.required).map(|field| field.name).collect();
        operation["requestBody"] = json!({
            "required": !required.is_empty(),
            "content": {"application/json": {"schema": {
                "type": "object", "properties": properties(fields()), "required": required,
            }}},
        });
    }
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    operation
}

fn properties<'f>(fields: impl Iterator<Item = &'f Field>) -> Value {
    let mut properties = Map::new();
    for field in fields {
        let mut schema = field.shape.schema();
        if field.shape != Shape::Unsupported {
            schema["description"] = field.about.into();
        }
        properties.insert(field.name.to_owned(), schema);
    }
    Value::Object(properties)
}
