//! Structured output: by Bedrock where the model has it, else by a tool whose input is the answer.

use serde_json::{Value, json};
use tollway_wire::openai::request::ResponseFormat;

use crate::anthropic::schema;
use crate::tools::{JSON_TOOL, answer_schema};

use super::body::Body;
use super::model::Model;
use super::tools::{Choice, can_force};

/// Asks for structured output. Returns an instruction for the system prompt where words are all
/// that is left.
pub(super) fn set_format(
    format: Option<ResponseFormat>,
    model: &Model<'_>,
    choice: &mut Option<Choice>,
    body: &mut Body,
) -> Option<&'static str> {
    let format = format.filter(|format| format.kind != "text" && !format.kind.is_empty())?;
    let wanted = format.schema().cloned();
    if let Some(schema) = wanted.clone().filter(|_| model.is_structured()) {
        set_native(schema, format.json_schema.as_ref(), body);
        return None;
    }
    let abilities = model.abilities();
    let (any, one) = can_force(model);
    let can_force = any && !body.thinks() && !abilities.always_thinks;
    if wanted.is_none() && !can_force {
        return Some("Answer with one JSON object and nothing else.");
    }
    let alone = body.tools.is_empty();
    body.tools.push(json!({"toolSpec": {
        "name": JSON_TOOL,
        "description": "Gives the final answer. Its input is the answer.",
        "inputSchema": {"json": answer_schema(wanted)},
    }}));
    if !can_force {
        *choice = None;
        return Some("Give the final answer by calling json_tool_call and in no other way.");
    }
    if !choice.as_ref().is_some_and(Choice::is_forced) {
        // With other tools at hand the model must still be able to call those first.
        *choice = Some(if alone && one { Choice::Tool(JSON_TOOL.to_owned()) } else { Choice::Any });
    }
    None
}

/// Asks for it in Bedrock's own form, whose schema is text.
fn set_native(mut wanted: Value, named: Option<&Value>, body: &mut Body) {
    schema::tame(&mut wanted);
    let mut json_schema = json!({"schema": wanted.to_string()});
    for member in ["name", "description"] {
        let text = named.and_then(|named| named.get(member)?.as_str());
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            json_schema[member] = text.into();
        }
    }
    let format = json!({"type": "json_schema", "structure": {"jsonSchema": json_schema}});
    body.output.entry("textFormat").or_insert(format);
}
