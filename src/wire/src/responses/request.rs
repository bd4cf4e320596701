//! A Responses request as a chat request.

use serde_json::{Map, Value, json};

use super::check::{self, Kind, missing, wrong_type};
use super::items::Conversation;
use super::tools;
use crate::client::Invalid;
use crate::surrogate::mend;

/// Members that mean something to the gateway, which keeps answers, or to OpenAI's servers alone.
/// None of them changes what a model would say, so they are left out.
const LEFT_OUT: &[&str] = &[
    "background",
    "context_management",
    "include",
    "max_tool_calls",
    "moderation",
    "previous_response_id",
    "prompt_cache_options",
    "prompt_cache_retention",
    "store",
    "stream_options",
    // `disabled` is what happens anyway; with `auto` OpenAI would forget the oldest items, which a
    // model elsewhere refuses.
    "truncation",
];

/// Members of a format that is a JSON schema.
const FORMAT: &[(&str, Kind)] = &[
    ("description", Kind::Text),
    ("name", Kind::Text),
    ("schema", Kind::Object),
    ("strict", Kind::Switch),
];

/// Writes a Responses request as a chat request. `history` is the JSON array of the items that came
/// before, where the request names an earlier response.
///
/// # Errors
/// When the request is malformed, or asks for what only OpenAI's servers can do.
pub fn to_chat(body: &[u8], history: Option<&[u8]>) -> Result<Vec<u8>, Invalid> {
    let mut request: Map<String, Value> = serde_json::from_slice(&mend(body))
        .map_err(|error| Invalid::new(format!("The request is not a JSON object: {error}.")))?;
    request.retain(|_, value| !value.is_null());
    refuse(&request)?;
    check::request(&request)?;
    let drops = request.get("drop_params") == Some(&Value::Bool(true));

    let mut chat = Map::new();
    if let Some(model) = request.remove("model") {
        chat.insert("model".into(), model);
    }
    chat.insert("messages".into(), messages(&mut request, history)?);
    let offered = tools::tools(request.remove("tools"), drops)?;
    tools::choose(request.remove("tool_choice"), request.remove("parallel_tool_calls"), offered)?
        .write(&mut chat);
    set_text(request.remove("text"), &mut chat)?;
    set_logprobs(&mut request, &mut chat);
    if let Some(Value::Object(mut reasoning)) = request.remove("reasoning")
        && let Some(effort @ Value::String(_)) = reasoning.remove("effort")
    {
        chat.insert("reasoning_effort".into(), effort);
    }
    if let Some(most) = request.remove("max_output_tokens") {
        chat.insert("max_tokens".into(), most);
    }
    // Its successor; the middle form has one name for the end user.
    if let Some(id) = request.remove("safety_identifier") {
        request.entry("user").or_insert(id);
    }
    if request.get("service_tier").is_some_and(|tier| tier == "auto") {
        request.remove("service_tier");
    }
    if request.remove("stream") == Some(Value::Bool(true)) {
        chat.insert("stream".into(), true.into());
        chat.insert("stream_options".into(), json!({"include_usage": true}));
    }
    request.retain(|name, _| !LEFT_OUT.contains(&name.as_str()));
    for (name, value) in request {
        chat.entry(name).or_insert(value);
    }
    serde_json::to_vec(&chat)
        .map_err(|error| Invalid::new(format!("The request cannot be written: {error}.")))
}

/// Refuses what is kept at OpenAI and nowhere else.
fn refuse(request: &Map<String, Value>) -> Result<(), Invalid> {
    for (name, what) in [("prompt", "Prompt templates"), ("conversation", "Conversations")] {
        if request.contains_key(name) {
            let message = format!("{what} are kept by OpenAI and cannot be used with this model.");
            return Err(Invalid::new(message).with_param(name));
        }
    }
    Ok(())
}

fn messages(request: &mut Map<String, Value>, history: Option<&[u8]>) -> Result<Value, Invalid> {
    let mut all = Conversation::default();
    match request.remove("instructions") {
        None => {}
        Some(Value::String(text)) if text.is_empty() => {}
        Some(Value::String(text)) => all.add_system(text.into()),
        // What a `Response` shows where its instructions came from a template.
        Some(Value::Array(items)) => all.add_items(items, "instructions")?,
        Some(other) => return Err(wrong_type("instructions", "a string", &other)),
    }
    if let Some(history) = history {
        let items: Vec<Value> = serde_json::from_slice(&mend(history)).map_err(|_| {
            Invalid::new("The previous response cannot be read.").with_param("previous_response_id")
        })?;
        all.add_history(items)?;
    }
    match request.remove("input") {
        None => {}
        Some(Value::String(text)) => all.add_user(text.into()),
        Some(Value::Array(items)) => all.add_items(items, "input")?,
        Some(other) => return Err(wrong_type("input", "a string or an array of items", &other)),
    }
    let messages = all.finish();
    if messages.is_empty() {
        return Err(missing("input"));
    }
    Ok(messages.into())
}

/// `text`: the form of the answer, and how wordy it is.
fn set_text(text: Option<Value>, chat: &mut Map<String, Value>) -> Result<(), Invalid> {
    let Some(Value::Object(mut text)) = text else { return Ok(()) };
    // Medium is what everybody does anyway, and not everybody knows the word.
    if let Some(verbosity @ Value::String(_)) = text.remove("verbosity")
        && verbosity != "medium"
    {
        chat.insert("verbosity".into(), verbosity);
    }
    let Some(Value::Object(mut format)) = text.remove("format") else { return Ok(()) };
    check::members(&format, &[("type", Kind::Text)], "text.format")?;
    let format = match format.get("type").and_then(Value::as_str) {
        None | Some("text") => return Ok(()),
        // Some clients keep the chat form.
        Some("json_schema") if !format.contains_key("json_schema") => {
            format.remove("type");
            format.retain(|_, value| !value.is_null());
            check::members(&format, FORMAT, "text.format")?;
            if !format.contains_key("schema") {
                return Err(missing("text.format.schema"));
            }
            json!({"type": "json_schema", "json_schema": format})
        }
        Some(_) => Value::Object(format),
    };
    chat.insert("response_format".into(), format);
    Ok(())
}

/// Log probabilities are asked for by name; `top_logprobs` alone means them too.
fn set_logprobs(request: &mut Map<String, Value>, chat: &mut Map<String, Value>) {
    let top = request.remove("top_logprobs").filter(|top| top.as_u64() != Some(0));
    if top.is_some() || asks_for(request, "message.output_text.logprobs") {
        chat.insert("logprobs".into(), true.into());
    }
    if let Some(top) = top {
        chat.insert("top_logprobs".into(), top);
    }
}

/// Whether `include` has a word.
pub(super) fn asks_for(request: &Map<String, Value>, word: &str) -> bool {
    let include = request.get("include").and_then(Value::as_array);
    include.is_some_and(|all| all.iter().any(|one| one == word))
}
