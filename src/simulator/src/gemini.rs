//! Google's dialect: Gemini's generateContent and what belongs to it, in the Gemini API and in
//! Vertex AI.

use serde_json::{Map, Value, json};

use crate::answer::{Answer, Delta, MODELS, count_tokens, embedding, numbers};
use crate::ask::{Ask, Problem, ToolChoice, optional_number, read_messages, texts};
use crate::dialect::{self, EventWriter, Meta, Usage};
use crate::media;
use crate::reply::Finish;

/// Stands where the real provider signs what was thought.
pub(crate) const SIGNATURE: &str = "c2ltdWxhdGVkLXRob3VnaHQ=";

/// Answers one request may ask for.
const CANDIDATES_MAX: u64 = 8;
/// Texts one request may have embedded.
const TEXTS_MAX: usize = 250;

/// A member under its name in JSON or, as protocol buffers allow, in the definition.
fn member<'a>(value: &'a Value, camel: &str, snake: &str) -> &'a Value {
    match &value[camel] {
        Value::Null => &value[snake],
        found => found,
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    let one = (!value.is_array() && !value.is_null()).then_some(value);
    value.as_array().into_iter().flatten().chain(one)
}

/// Reads a generateContent request, whose model is in the path.
pub(crate) fn read(body: &Value, model: &str, stream: bool) -> Result<Ask, Problem> {
    let mut ask = Ask { model: model.to_owned(), stream, choices: 1, ..Ask::default() };
    let contents = &body["contents"];
    if list(contents).next().is_none() {
        return Err(Problem::invalid(
            "* GenerateContentRequest.contents: contents is not specified",
        ));
    }
    let messages: Vec<Value> = list(contents)
        .map(|content| {
            let role = match content["role"].as_str() {
                None | Some("user" | "function") => "user",
                Some("model") => "assistant",
                Some(_) => {
                    let message = "Please use a valid role: user, model.";
                    return Err(Problem::invalid(message));
                }
            };
            let parts: Vec<Value> = list(&content["parts"]).map(part).collect();
            Ok(json!({"role": role, "content": parts}))
        })
        .collect::<Result<_, _>>()?;
    read_messages(&mut ask, &json!({"messages": messages}))?;
    let system = member(body, "systemInstruction", "system_instruction");
    let system = list(&system["parts"]).filter_map(|part| part["text"].as_str());
    ask.prompt_tokens += system.map(count_tokens).sum::<u64>();
    for tool in list(&body["tools"]) {
        for function in list(member(tool, "functionDeclarations", "function_declarations")) {
            let schema = match member(function, "parametersJsonSchema", "parameters_json_schema") {
                Value::Null => &function["parameters"],
                schema => schema,
            };
            ask.offer(&function["name"], schema, function);
        }
    }
    let choice = member(body, "toolConfig", "tool_config");
    let choice = member(choice, "functionCallingConfig", "function_calling_config");
    let allowed = texts(Some(member(choice, "allowedFunctionNames", "allowed_function_names")));
    ask.tool_choice = match choice["mode"].as_str() {
        Some("NONE") => ToolChoice::None,
        Some("ANY") => match allowed.as_slice() {
            [name] => ToolChoice::Named(name.clone()),
            _ => ToolChoice::Required,
        },
        _ => ToolChoice::Auto,
    };
    let config = member(body, "generationConfig", "generation_config");
    ask.max_tokens = optional_number(config, "maxOutputTokens")?;
    ask.stop = texts(config.get("stopSequences"));
    ask.choices = match optional_number(config, "candidateCount")?.unwrap_or(1) {
        n @ 1..=CANDIDATES_MAX => n as u32,
        _ => return Err(Problem::invalid("Unable to submit request: candidateCount")),
    };
    ask.json = config["responseMimeType"] == "application/json";
    ask.think = config["thinkingConfig"]["includeThoughts"] == true;
    Ok(ask)
}

/// A part as Anthropic would write it, which the common reader understands.
fn part(part: &Value) -> Value {
    if let Some(text) = part["text"].as_str() {
        return match part["thought"] == true {
            true => json!({"type": "thinking", "thinking": text}),
            false => json!({"type": "text", "text": text}),
        };
    }
    let call = member(part, "functionCall", "function_call");
    if !call.is_null() {
        return json!({"type": "tool_use", "name": call["name"], "input": call["args"]});
    }
    let answered = member(part, "functionResponse", "function_response");
    if !answered.is_null() {
        let response = &answered["response"];
        let words = ["result", "output", "content"];
        let text = words.into_iter().find_map(|name| response[name].as_str());
        let text = text.map_or_else(|| response.to_string(), str::to_owned);
        return json!({"type": "tool_result", "content": text});
    }
    json!({"type": "image"})
}

/// Counts the tokens of a request.
pub(crate) fn count(body: &Value, model: &str) -> Result<Value, Problem> {
    let whole = member(body, "generateContentRequest", "generate_content_request");
    let ask = read(if whole.is_null() { body } else { whole }, model, false)?;
    let tokens = ask.prompt_tokens;
    Ok(json!({
        "totalTokens": tokens,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": tokens}],
    }))
}

/// The texts of a content to embed, together.
fn content_text(content: &Value) -> Result<String, Problem> {
    let texts: Vec<&str> = match content {
        Value::String(text) => vec![text],
        content => list(&content["parts"]).filter_map(|part| part["text"].as_str()).collect(),
    };
    match texts.is_empty() {
        true => Err(Problem::invalid("* EmbedContentRequest.content: contents is not specified")),
        false => Ok(texts.join("\n")),
    }
}

fn dimensions(wanted: &Value) -> Result<usize, Problem> {
    let wanted = member(wanted, "outputDimensionality", "output_dimensionality");
    match wanted.as_u64().unwrap_or(16) {
        dimensions @ 1..=3072 => Ok(dimensions as usize),
        _ => Err(Problem::invalid("outputDimensionality must be from 1 to 3072")),
    }
}

/// Answers `embedContent`, `batchEmbedContents` or Vertex AI's `predict`, with what was said and
/// its tokens.
pub(crate) fn embed(body: &Value, verb: &str) -> Result<(Value, String, u64), Problem> {
    let requests: Vec<(String, usize)> = match verb {
        "embedContent" => {
            // Vertex AI puts the size into a config of its own.
            let config = member(body, "embedContentConfig", "embed_content_config");
            let size = dimensions(if config.is_null() { body } else { config })?;
            vec![(content_text(&body["content"])?, size)]
        }
        "batchEmbedContents" => list(&body["requests"])
            .map(|request| Ok((content_text(&request["content"])?, dimensions(request)?)))
            .collect::<Result<_, Problem>>()?,
        _ => list(&body["instances"])
            .map(|instance| {
                Ok((content_text(&instance["content"])?, dimensions(&body["parameters"])?))
            })
            .collect::<Result<_, Problem>>()?,
    };
    if requests.is_empty() || requests.len() > TEXTS_MAX {
        return Err(Problem::invalid(format!("there must be 1 to {TEXTS_MAX} requests")));
    }
    let counts: Vec<u64> = requests.iter().map(|(text, _)| count_tokens(text)).collect();
    let mut values = requests.iter().map(|(text, size)| numbers(&embedding(text, *size)));
    let answer = match verb {
        "embedContent" => {
            let first = values.next();
            json!({
                "embedding": {"values": first},
                "usageMetadata": {"promptTokenCount": counts[0], "totalTokenCount": counts[0]},
            })
        }
        "batchEmbedContents" => {
            let all: Vec<Value> = values.map(|values| json!({"values": values})).collect();
            json!({"embeddings": all})
        }
        _ => {
            let all: Vec<Value> = values
                .zip(&counts)
                .map(|(values, count)| {
                    let statistics = json!({"token_count": count, "truncated": false});
                    json!({"embeddings": {"values": values, "statistics": statistics}})
                })
                .collect();
            json!({"predictions": all})
        }
    };
    let said: Vec<&str> = requests.iter().map(|(text, _)| text.as_str()).collect();
    Ok((answer, said.join("\n"), counts.iter().sum()))
}

/// Answers Vertex AI's `predict` for models that draw.
pub(crate) fn draw(body: &Value) -> Value {
    let count = body["parameters"]["sampleCount"].as_u64().unwrap_or(1).clamp(1, 4);
    let image = json!({"bytesBase64Encoded": media::PICTURE, "mimeType": "image/png"});
    json!({"predictions": vec![image; count as usize]})
}

/// The list of models.
pub(crate) fn models() -> Value {
    let models: Vec<Value> = MODELS.iter().map(|(name, what)| model(name, what)).collect();
    json!({"models": models})
}

/// One model's entry.
pub(crate) fn model(name: &str, what: &str) -> Value {
    json!({
        "name": format!("models/{name}"),
        "version": "simulated",
        "displayName": name,
        "description": what,
        "inputTokenLimit": 1_048_576,
        "outputTokenLimit": 65_536,
        "supportedGenerationMethods": ["generateContent", "countTokens", "embedContent"],
    })
}

/// An error's body, as google.rpc.Status is written in JSON.
pub(crate) fn error(problem: &Problem) -> Value {
    let status = match problem.status {
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        409 => "ABORTED",
        429 => "RESOURCE_EXHAUSTED",
        499 => "CANCELLED",
        501 => "UNIMPLEMENTED",
        503 => "UNAVAILABLE",
        504 => "DEADLINE_EXCEEDED",
        status if status >= 500 => "INTERNAL",
        _ => "INVALID_ARGUMENT",
    };
    let mut error = json!({
        "code": problem.status,
        "message": problem.message,
        "status": problem.kind.as_deref().unwrap_or(status),
    });
    let mut details = Vec::new();
    if let Some(code) = &problem.code {
        let kind = "type.googleapis.com/google.rpc.ErrorInfo";
        details.push(json!({"@type": kind, "reason": code, "domain": "googleapis.com"}));
    }
    if let Some(delay) = problem.retry_after {
        let kind = "type.googleapis.com/google.rpc.RetryInfo";
        details.push(json!({"@type": kind, "retryDelay": format!("{}s", delay.as_secs_f64())}));
    }
    if !details.is_empty() {
        error["details"] = details.into();
    }
    json!({"error": error})
}

fn finish_reason(answer: &Answer) -> &'static str {
    match answer.finish {
        Some(Finish::Length) => "MAX_TOKENS",
        Some(Finish::ContentFilter) => "SAFETY",
        // A call of tools is a stop like any other.
        _ => "STOP",
    }
}

/// What is thought is not among the candidates' tokens.
fn report(usage: &Usage) -> Value {
    let mut report = json!({
        "promptTokenCount": usage.prompt,
        "candidatesTokenCount": usage.completion.saturating_sub(usage.reasoning),
        "totalTokenCount": usage.prompt.saturating_add(usage.completion),
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": usage.prompt}],
    });
    if usage.reasoning > 0 {
        report["thoughtsTokenCount"] = usage.reasoning.into();
    }
    if usage.cached > 0 {
        report["cachedContentTokenCount"] = usage.cached.into();
    }
    report
}

fn envelope(meta: &Meta, candidates: Value, usage: &Usage) -> Value {
    let mut answer = json!({"candidates": candidates});
    if !meta.no_usage {
        answer["usageMetadata"] = report(usage);
    }
    answer["modelVersion"] = meta.model.clone().into();
    answer["responseId"] = format!("sim-{}", meta.number).into();
    answer
}

/// A call; the first one of an answer that was thought about bears the signature.
fn call_part(name: &str, arguments: &str, signed: bool) -> Value {
    // Arguments that the limit cut are no JSON, and the real provider sends only what is.
    let arguments = serde_json::from_str(arguments).unwrap_or(Value::Object(Map::new()));
    let mut part = json!({"functionCall": {"name": name, "args": arguments}});
    if signed {
        part["thoughtSignature"] = SIGNATURE.into();
    }
    part
}

/// A whole answer.
pub(crate) fn response(meta: &Meta, answer: &Answer, usage: &Usage) -> Value {
    let thought = !answer.thinking.is_empty();
    let mut parts = Vec::new();
    if thought {
        parts.push(json!({"text": answer.thinking, "thought": true}));
    }
    if !answer.text.is_empty() {
        let mut text = json!({"text": answer.text});
        if thought && answer.calls.is_empty() {
            text["thoughtSignature"] = SIGNATURE.into();
        }
        parts.push(text);
    }
    for (place, call) in answer.calls.iter().enumerate() {
        parts.push(call_part(&call.name, &call.arguments, thought && place == 0));
    }
    let candidates: Vec<Value> = (0..meta.choices)
        .map(|index| {
            json!({
                "content": {"parts": parts, "role": "model"},
                "finishReason": finish_reason(answer),
                "index": index,
            })
        })
        .collect();
    envelope(meta, candidates.into(), usage)
}

/// Writes the events of a streamed answer, or the elements of its array.
pub(crate) struct Events {
    meta: Meta,
    array: bool,
    begun: bool,
    thought: bool,
    /// The call that is being written, and its arguments so far: a call is sent whole.
    call: Option<(String, String, usize)>,
    calls: usize,
}

impl Events {
    pub(crate) fn new(meta: Meta, array: bool) -> Events {
        Events { meta, array, begun: false, thought: false, call: None, calls: 0 }
    }

    fn event(&mut self, choice: u32, parts: Value, finish: Option<&str>, usage: &Usage) -> Vec<u8> {
        let mut candidate = json!({"content": {"parts": parts, "role": "model"}, "index": choice});
        if let Some(finish) = finish {
            candidate["finishReason"] = finish.into();
        }
        let chunk = envelope(&self.meta, json!([candidate]), usage);
        if !self.array {
            return dialect::data(&chunk);
        }
        let before = if std::mem::replace(&mut self.begun, true) { ",\r\n" } else { "[" };
        format!("{before}{chunk}").into_bytes()
    }

    fn close_call(&mut self, choice: u32, usage: &Usage) -> dialect::Events {
        let Some((name, arguments, _)) = self.call.take() else { return Vec::new() };
        let part = call_part(&name, &arguments, self.thought && self.calls == 0);
        self.calls += 1;
        vec![self.event(choice, json!([part]), None, usage)]
    }
}

impl EventWriter for Events {
    fn open(&mut self, _: u32, _: &Usage, _: bool) -> dialect::Events {
        (self.thought, self.calls, self.call) = (false, 0, None);
        Vec::new()
    }

    fn delta(&mut self, choice: u32, delta: &Delta<'_>, usage: &Usage) -> dialect::Events {
        match delta {
            Delta::Thinking(piece) => {
                self.thought = true;
                let part = json!([{"text": piece, "thought": true}]);
                vec![self.event(choice, part, None, usage)]
            }
            Delta::Text(piece) => vec![self.event(choice, json!([{"text": piece}]), None, usage)],
            Delta::Call(_, call) => {
                self.call = Some((call.name.clone(), String::new(), call.arguments.len()));
                match call.arguments.is_empty() {
                    true => self.close_call(choice, usage),
                    false => Vec::new(),
                }
            }
            Delta::Arguments(_, piece) => {
                let Some((_, arguments, length)) = &mut self.call else { return Vec::new() };
                arguments.push_str(piece);
                match arguments.len() < *length {
                    true => Vec::new(),
                    false => self.close_call(choice, usage),
                }
            }
        }
    }

    fn finish(
        &mut self,
        choice: u32,
        end: &Answer,
        usage: &Usage,
        no_finish: bool,
    ) -> dialect::Events {
        let mut part = json!({"text": ""});
        if self.thought && self.calls == 0 {
            part["thoughtSignature"] = SIGNATURE.into();
        }
        let finish = (!no_finish).then(|| finish_reason(end));
        vec![self.event(choice, json!([part]), finish, usage)]
    }

    fn usage(&mut self, _: &Usage) -> dialect::Events {
        Vec::new()
    }

    fn done(&mut self) -> Vec<u8> {
        match self.array {
            true => b"]".to_vec(),
            false => Vec::new(),
        }
    }
}
