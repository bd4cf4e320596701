//! A `generateContent` request as OpenAI's chat request.

use serde_json::{Map, Number, Value, json};

use super::schema::to_json_schema;
use super::{contents, invalid, snake, take, take_text, take_u64};
use crate::client::Invalid;
use crate::openai::request::{ChatRequest, ResponseFormat, Stop};
use crate::surrogate::mend;

/// Members of the gateway's and of OpenAI's that pass as they are.
const KEPT: &[&str] = &[
    "additional_drop_params",
    "allowed_openai_params",
    "cache",
    "caching",
    "drop_params",
    "fallbacks",
    "guardrails",
    "mock_response",
    "num_retries",
    "tags",
    "timeout",
    "user",
];

/// Members that only Google's models know. They go along under their names in snake_case, for a
/// deployment that is Google's after all.
const GOOGLES: &[&str] = &["safetySettings", "cachedContent"];

/// The same within `generationConfig`.
const GOOGLES_CONFIG: &[&str] = &["mediaResolution", "speechConfig", "imageConfig"];

/// Writes a `generateContent` request, or one whose tokens are to be counted, as a chat request.
///
/// # Errors
/// When it is malformed, or asks for what only Google's own models have.
pub fn to_chat(body: &[u8]) -> Result<Vec<u8>, Invalid> {
    let mut body: Map<String, Value> = serde_json::from_slice(&mend(body))
        .map_err(|error| Invalid::new(format!("not a generateContent request: {error}")))?;
    // `countTokens` takes a whole request, too.
    if let Some(Value::Object(mut inner)) = take(&mut body, "generateContentRequest") {
        for name in ["model", "stream"] {
            if let Some(value) = body.remove(name) {
                inner.insert(name.into(), value);
            }
        }
        body = inner;
    }
    let mut chat = ChatRequest {
        model: take_text(&mut body, "model").unwrap_or_default(),
        ..ChatRequest::default()
    };
    if let Some(instruction) = take(&mut body, "systemInstruction") {
        chat.messages.extend(contents::system(instruction)?);
    }
    let Some(all) = take(&mut body, "contents") else {
        return Err(invalid("contents", "is missing"));
    };
    contents::messages(all, &mut chat.messages)?;
    set_tools(&mut body, &mut chat)?;
    if let Some(config) = take(&mut body, "generationConfig") {
        let Value::Object(config) = config else {
            return Err(invalid("generationConfig", "is not an object"));
        };
        set_config(config, &mut chat)?;
    }
    if body.get("stream") == Some(&Value::Bool(true)) {
        chat.stream = Some(true);
        chat.stream_options = Some(json!({"include_usage": true}));
    }
    for name in GOOGLES {
        if let Some(value) = take(&mut body, name) {
            chat.extra.insert(snake(name), value);
        }
    }
    for name in KEPT {
        match (*name, body.remove(*name)) {
            (_, None | Some(Value::Null)) => {}
            ("user", Some(user)) => chat.user = user.as_str().map(str::to_owned),
            (name, Some(value)) => {
                chat.extra.insert(name.into(), value);
            }
        }
    }
    serde_json::to_vec(&chat).map_err(|error| Invalid::new(error.to_string()))
}

fn set_tools(body: &mut Map<String, Value>, chat: &mut ChatRequest) -> Result<(), Invalid> {
    let tools = match take(body, "tools") {
        None => Vec::new(),
        Some(Value::Array(tools)) => tools,
        Some(tool) => vec![tool],
    };
    let mut functions = Vec::new();
    for (at, tool) in tools.into_iter().enumerate() {
        let param = format!("tools[{at}]");
        let Value::Object(mut tool) = tool else { return Err(invalid(&param, "is not an object")) };
        match take(&mut tool, "functionDeclarations") {
            None => {}
            Some(Value::Array(declarations)) => {
                for declaration in declarations {
                    functions.push(function(&param, declaration)?);
                }
            }
            Some(_) => return Err(invalid(&param, "functionDeclarations is not a list")),
        }
        let search = take(&mut tool, "googleSearch");
        if search.or_else(|| take(&mut tool, "googleSearchRetrieval")).is_some() {
            chat.extra.insert("web_search_options".into(), json!({}));
        }
        if let Some((name, _)) = tool.into_iter().find(|(_, value)| !value.is_null()) {
            return Err(invalid(
                &param,
                format_args!("`{name}` is a tool of Google's own, which this model lacks"),
            ));
        }
    }
    let config = match take(body, "toolConfig") {
        Some(Value::Object(mut config)) => take(&mut config, "functionCallingConfig"),
        _ => None,
    };
    if functions.is_empty() {
        return Ok(());
    }
    if let Some(Value::Object(mut config)) = config {
        chat.tool_choice = tool_choice(&mut config, functions.len())?;
    }
    chat.tools = Some(functions);
    Ok(())
}

fn function(param: &str, declaration: Value) -> Result<Value, Invalid> {
    let Value::Object(mut declaration) = declaration else {
        return Err(invalid(param, "a function declaration is an object"));
    };
    let Some(name) = take_text(&mut declaration, "name") else {
        return Err(invalid(param, "a function declaration has no name"));
    };
    let mut function = Map::new();
    function.insert("name".into(), name.into());
    if let Some(description) = take_text(&mut declaration, "description") {
        function.insert("description".into(), description.into());
    }
    let schema = take(&mut declaration, "parametersJsonSchema")
        .or_else(|| take(&mut declaration, "parameters").map(to_json_schema));
    if let Some(schema) = schema.filter(Value::is_object) {
        function.insert("parameters".into(), schema);
    }
    Ok(json!({"type": "function", "function": function}))
}

fn tool_choice(config: &mut Map<String, Value>, count: usize) -> Result<Option<Value>, Invalid> {
    const PARAM: &str = "toolConfig.functionCallingConfig";
    let mode = take_text(config, "mode").unwrap_or_default().to_ascii_uppercase();
    let allowed: Vec<String> = match take(config, "allowedFunctionNames") {
        None => Vec::new(),
        Some(names) => serde_json::from_value(names)
            .map_err(|_| invalid(PARAM, "allowedFunctionNames is not a list of names"))?,
    };
    let mode = match mode.as_str() {
        "" | "MODE_UNSPECIFIED" => return Ok(None),
        // It only promises that calls fit their schema.
        "AUTO" | "VALIDATED" => "auto",
        "ANY" => "required",
        "NONE" => "none",
        mode => return Err(invalid(PARAM, format_args!("mode `{mode}` is not known"))),
    };
    Ok(Some(match allowed.as_slice() {
        [one] if mode == "required" => json!({"type": "function", "function": {"name": one}}),
        [_, ..] if mode != "none" && allowed.len() < count => {
            let function = |name: &String| json!({"type": "function", "function": {"name": name}});
            let tools: Vec<Value> = allowed.iter().map(function).collect();
            json!({"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}})
        }
        _ => mode.into(),
    }))
}

fn set_config(mut config: Map<String, Value>, chat: &mut ChatRequest) -> Result<(), Invalid> {
    const PARAM: &str = "generationConfig";
    let mut number = |name: &str| -> Result<Option<Number>, Invalid> {
        match take(&mut config, name) {
            None => Ok(None),
            Some(Value::Number(number)) => Ok(Some(number)),
            Some(_) => Err(invalid(&format!("{PARAM}.{name}"), "is not a number")),
        }
    };
    chat.temperature = number("temperature")?;
    chat.top_p = number("topP")?;
    chat.presence_penalty = number("presencePenalty")?;
    chat.frequency_penalty = number("frequencyPenalty")?;
    for (from, to) in [("topK", "top_k"), ("seed", "seed")] {
        if let Some(number) = number(from)? {
            // A sampling size that a client's float type made one: 40.0.
            let whole = number.as_f64().filter(|value| value.fract() == 0.0 && value.abs() < 9e15);
            let value = match whole {
                Some(value) => Value::from(value as i64),
                None => number.into(),
            };
            chat.extra.insert(to.into(), value);
        }
    }
    chat.max_tokens = take_u64(&mut config, "maxOutputTokens", PARAM)?;
    chat.n = take_u64(&mut config, "candidateCount", PARAM)?.filter(|n| *n != 1);
    chat.logprobs = take(&mut config, "responseLogprobs").and_then(|value| value.as_bool());
    chat.top_logprobs = take_u64(&mut config, "logprobs", PARAM)?;
    if let Some(stop) = take(&mut config, "stopSequences") {
        let stop: Vec<String> = serde_json::from_value(stop)
            .map_err(|_| invalid("generationConfig.stopSequences", "is not a list of texts"))?;
        let stop: Vec<String> = stop.into_iter().filter(|one| !one.is_empty()).collect();
        chat.stop = (!stop.is_empty()).then_some(Stop::Several(stop));
    }
    if let Some(modalities) = take(&mut config, "responseModalities") {
        let names = modalities.as_array().into_iter().flatten();
        let names: Vec<String> =
            names.filter_map(|name| Some(name.as_str()?.to_ascii_lowercase())).collect();
        if names.iter().any(|name| name != "text") {
            chat.extra.insert("modalities".into(), names.into());
        }
    }
    chat.response_format = response_format(&mut config)?;
    if let Some(Value::Object(thinking)) = take(&mut config, "thinkingConfig") {
        set_thinking(thinking, chat)?;
    }
    for name in GOOGLES_CONFIG {
        if let Some(value) = take(&mut config, name) {
            chat.extra.insert(snake(name), value);
        }
    }
    Ok(())
}

fn response_format(config: &mut Map<String, Value>) -> Result<Option<ResponseFormat>, Invalid> {
    let media = take_text(config, "responseMimeType");
    let schema = take(config, "responseJsonSchema")
        .or_else(|| take(config, "responseSchema").map(to_json_schema));
    match (media.as_deref(), schema) {
        (None | Some("application/json"), Some(schema @ Value::Object(_))) => {
            Ok(Some(ResponseFormat {
                kind: "json_schema".into(),
                // Google closes no objects, which OpenAI's strict mode would demand.
                json_schema: Some(json!({"name": "response", "schema": schema})),
                ..ResponseFormat::default()
            }))
        }
        (Some("application/json"), _) => {
            Ok(Some(ResponseFormat { kind: "json_object".into(), ..ResponseFormat::default() }))
        }
        (None | Some("" | "text/plain"), _) => Ok(None),
        (Some(media), _) => Err(invalid(
            "generationConfig.responseMimeType",
            format_args!("this model cannot answer in `{media}`"),
        )),
    }
}

fn set_thinking(mut thinking: Map<String, Value>, chat: &mut ChatRequest) -> Result<(), Invalid> {
    const PARAM: &str = "generationConfig.thinkingConfig";
    if let Some(level) = take_text(&mut thinking, "thinkingLevel") {
        let level = level.to_ascii_lowercase();
        if level != "thinking_level_unspecified" {
            chat.reasoning_effort = Some(level.into());
        }
    }
    let Some(budget) = take(&mut thinking, "thinkingBudget") else { return Ok(()) };
    let budget = budget.as_i64();
    let budget =
        budget.ok_or_else(|| invalid(&format!("{PARAM}.thinkingBudget"), "is not a number"))?;
    match u64::try_from(budget) {
        Ok(0) => {
            chat.thinking = Some(json!({"type": "disabled"}));
            chat.reasoning_effort = Some("none".into());
        }
        Ok(budget) => {
            chat.thinking = Some(json!({"type": "enabled", "budget_tokens": budget}));
            let effort = crate::anthropic::to_chat::effort_of(budget);
            chat.reasoning_effort.get_or_insert_with(|| effort.into());
        }
        // As much as the model sees fit, which is what happens anyway.
        Err(_) => {}
    }
    Ok(())
}
