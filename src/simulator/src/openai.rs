//! OpenAI's dialect: chat completions, completions, embeddings and the list of models.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::answer::{Answer, Delta, MODELS, count_tokens, embedding};
use crate::ask::{
    Ask, Problem, Tool, ToolChoice, optional_bool, optional_number, read_messages, required_text,
    texts,
};
use crate::dialect::{self, EventWriter, Meta, Usage};
use crate::encoding::base64;
use crate::reply::{Call, Finish};

/// The `created` of everything: always the same, so that answers are.
pub(crate) const CREATED: u64 = 1_700_000_000;

/// Choices one request may ask for.
const CHOICES_MAX: u64 = 16;
/// Numbers one embeddings answer may hold.
const NUMBERS_MAX: usize = 1 << 20;

/// Reads a chat completions request.
pub(crate) fn read_chat(body: &Value, model: Option<&str>) -> Result<Ask, Problem> {
    let mut ask = read_common(body, model)?;
    read_messages(&mut ask, body)?;
    for tool in body.get("tools").and_then(Value::as_array).into_iter().flatten() {
        let function = &tool["function"];
        ask.prompt_tokens += count_tokens(&tool.to_string());
        ask.tools.push(Tool {
            name: function["name"].as_str().unwrap_or_default().to_owned(),
            schema: function["parameters"].clone(),
        });
    }
    ask.tool_choice = match body.get("tool_choice") {
        Some(Value::String(choice)) if choice == "none" => ToolChoice::None,
        Some(Value::String(choice)) if choice == "required" => ToolChoice::Required,
        Some(Value::Object(choice)) => {
            let name = choice.get("function").and_then(|function| function["name"].as_str());
            ToolChoice::Named(name.unwrap_or_default().to_owned())
        }
        _ => ToolChoice::Auto,
    };
    let format = body.get("response_format").and_then(|format| format["type"].as_str());
    ask.json = format.is_some_and(|format| format.starts_with("json"));
    Ok(ask)
}

/// Reads a completions request.
pub(crate) fn read_completion(body: &Value, model: Option<&str>) -> Result<Ask, Problem> {
    let mut ask = read_common(body, model)?;
    ask.said = texts(body.get("prompt")).join("\n");
    ask.prompt_tokens = count_tokens(&ask.said);
    Ok(ask)
}

/// The model a request is for: the path's, if that names one, as Azure's do.
pub(crate) fn model_of(body: &Value, model: Option<&str>) -> Result<String, Problem> {
    match model {
        Some(model) => Ok(model.to_owned()),
        None => required_text(body, "model"),
    }
}

fn read_common(body: &Value, model: Option<&str>) -> Result<Ask, Problem> {
    let mut ask = Ask { model: model_of(body, model)?, ..Ask::default() };
    ask.stream = optional_bool(body, "stream")?;
    if let Some(options) = body.get("stream_options").filter(|options| !options.is_null()) {
        if !ask.stream {
            let message =
                "The 'stream_options' parameter is only allowed when 'stream' is enabled.";
            return Err(Problem::invalid(message));
        }
        ask.include_usage = optional_bool(options, "include_usage")?;
    }
    let old = optional_number(body, "max_tokens")?;
    ask.max_tokens = optional_number(body, "max_completion_tokens")?.or(old);
    ask.stop = texts(body.get("stop"));
    ask.choices = match optional_number(body, "n")?.unwrap_or(1) {
        n @ 1..=CHOICES_MAX => n as u32,
        _ => return Err(Problem::invalid(format!("n must be from 1 to {CHOICES_MAX}"))),
    };
    Ok(ask)
}

/// Answers an embeddings request, with the number of its tokens.
pub(crate) fn embeddings(body: &Value, model: Option<&str>) -> Result<(String, u64), Problem> {
    let model = model_of(body, model)?;
    let inputs: Vec<String> = match body.get("input") {
        Some(Value::String(text)) => vec![text.clone()],
        Some(Value::Array(items)) if items.iter().all(Value::is_u64) && !items.is_empty() => {
            vec![Value::from(items.clone()).to_string()]
        }
        Some(Value::Array(items)) if !items.is_empty() => items
            .iter()
            .map(|item| match item {
                Value::String(text) => Ok(text.clone()),
                Value::Array(tokens) if tokens.iter().all(Value::is_u64) => Ok(item.to_string()),
                _ => Err(Problem::invalid("input must be texts or lists of tokens")),
            })
            .collect::<Result<_, _>>()?,
        _ => return Err(Problem::invalid("you must provide an input parameter")),
    };
    let dimensions = match optional_number(body, "dimensions")?.unwrap_or(16) {
        dimensions @ 1..=4096 => dimensions as usize,
        _ => return Err(Problem::invalid("dimensions must be from 1 to 4096")),
    };
    if inputs.len() > 2048 || inputs.len() * dimensions > NUMBERS_MAX {
        return Err(Problem::invalid("too many inputs for one request"));
    }
    let in_base64 = match body.get("encoding_format").and_then(Value::as_str) {
        None | Some("float") => false,
        Some("base64") => true,
        Some(_) => return Err(Problem::invalid("encoding_format must be float or base64")),
    };
    let tokens: u64 = inputs.iter().map(|input| count_tokens(input)).sum();
    let mut answer = String::from(r#"{"object":"list","data":["#);
    for (index, input) in inputs.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        let vector = embedding(input, dimensions);
        // Written by hand: a `Value` would turn each number into an f64 with many digits.
        // Writing to a String cannot fail.
        let _ = write!(answer, r#"{comma}{{"object":"embedding","index":{index},"embedding":"#);
        if in_base64 {
            let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
            let _ = write!(answer, "\"{}\"}}", base64(&bytes));
        } else {
            for (place, x) in vector.iter().enumerate() {
                let before = if place == 0 { "[" } else { "," };
                let _ = write!(answer, "{before}{x}");
            }
            answer.push_str("]}");
        }
    }
    let model = Value::String(model);
    let usage = json!({"prompt_tokens": tokens, "total_tokens": tokens});
    let _ = write!(answer, r#"],"model":{model},"usage":{usage}}}"#);
    Ok((answer, tokens))
}

/// The list of models.
pub(crate) fn models() -> Value {
    let data: Vec<Value> = MODELS.iter().map(|(name, _)| model(name)).collect();
    json!({"object": "list", "data": data})
}

/// One model's entry.
pub(crate) fn model(name: &str) -> Value {
    json!({"id": name, "object": "model", "created": CREATED, "owned_by": "tollway-simulator"})
}

/// An error's body.
pub(crate) fn error(problem: &Problem) -> Value {
    let (kind, code) = match problem.status {
        401 => ("invalid_request_error", Some("invalid_api_key")),
        403 => ("permission_error", None),
        404 => ("invalid_request_error", Some("model_not_found")),
        429 => ("rate_limit_error", Some("rate_limit_exceeded")),
        status if status >= 500 => ("server_error", None),
        _ => ("invalid_request_error", None),
    };
    json!({
        "error": {
            "message": problem.message,
            "type": problem.kind.as_deref().unwrap_or(kind),
            "param": null,
            "code": problem.code.as_deref().or(code),
        }
    })
}

/// A whole chat completion.
pub(crate) fn chat(meta: &Meta, answer: &Answer, usage: &Usage) -> Value {
    let content = match answer.text.is_empty() && !answer.calls.is_empty() {
        true => Value::Null,
        false => Value::String(answer.text.clone()),
    };
    let choices: Vec<Value> = (0..meta.choices)
        .map(|index| {
            let mut message = json!({"role": "assistant", "content": content, "refusal": null});
            if !answer.thinking.is_empty() {
                message["reasoning_content"] = answer.thinking.clone().into();
            }
            if !answer.calls.is_empty() {
                let calls = answer.calls.iter().enumerate();
                message["tool_calls"] = calls
                    .map(|(place, call)| tool_call(meta, index, place, call, &call.arguments))
                    .collect();
            }
            json!({
                "index": index,
                "message": message,
                "logprobs": null,
                "finish_reason": finish_reason(answer.finish),
            })
        })
        .collect();
    whole(meta, "chat.completion", choices, usage)
}

/// A whole completion.
pub(crate) fn completion(meta: &Meta, answer: &Answer, usage: &Usage) -> Value {
    let choices: Vec<Value> = (0..meta.choices)
        .map(|index| {
            json!({
                "text": answer.text,
                "index": index,
                "logprobs": null,
                "finish_reason": finish_reason(answer.finish),
            })
        })
        .collect();
    whole(meta, "text_completion", choices, usage)
}

fn whole(meta: &Meta, object: &str, choices: Vec<Value>, usage: &Usage) -> Value {
    let mut answer = json!({
        "id": id(meta, object),
        "object": object,
        "created": CREATED,
        "model": meta.model,
        "choices": choices,
    });
    if !meta.no_usage {
        answer["usage"] = report(usage);
    }
    answer["system_fingerprint"] = "simulated".into();
    answer
}

fn id(meta: &Meta, object: &str) -> String {
    let prefix = if object.starts_with("chat") { "chatcmpl" } else { "cmpl" };
    format!("{prefix}-sim-{}", meta.number)
}

fn tool_call(meta: &Meta, choice: u32, place: usize, call: &Call, arguments: &str) -> Value {
    json!({
        "id": format!("call_sim_{}_{choice}_{place}", meta.number),
        "type": "function",
        "function": {"name": call.name, "arguments": arguments},
    })
}

fn finish_reason(finish: Option<Finish>) -> Option<&'static str> {
    finish.map(|finish| match finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
        Finish::ToolCalls => "tool_calls",
        Finish::ContentFilter => "content_filter",
    })
}

fn report(usage: &Usage) -> Value {
    json!({
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt.saturating_add(usage.completion),
        "prompt_tokens_details": {"cached_tokens": usage.cached, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    })
}

/// Writes the events of a chat completion, or of a completion of the older kind.
pub(crate) struct Events {
    meta: Meta,
    legacy: bool,
}

impl Events {
    pub(crate) fn new(meta: Meta, legacy: bool) -> Events {
        Events { meta, legacy }
    }

    fn event(&self, choices: Value, usage: Value) -> Vec<u8> {
        let object = if self.legacy { "text_completion" } else { "chat.completion.chunk" };
        let mut chunk = json!({
            "id": id(&self.meta, object),
            "object": object,
            "created": CREATED,
            "model": self.meta.model,
            "system_fingerprint": "simulated",
            "choices": choices,
        });
        // With `include_usage` the field is there in every chunk, null in all but the last.
        if self.meta.include_usage && !self.meta.no_usage {
            chunk["usage"] = usage;
        }
        dialect::data(&chunk)
    }

    fn chunk(&self, choice: u32, delta: Value, finish: Option<Finish>) -> Vec<u8> {
        let finish = finish_reason(finish);
        let choice = match self.legacy {
            true => {
                let text = delta.get("content").cloned().unwrap_or_else(|| "".into());
                json!({"text": text, "index": choice, "logprobs": null, "finish_reason": finish})
            }
            false => {
                json!({"index": choice, "delta": delta, "logprobs": null, "finish_reason": finish})
            }
        };
        self.event(json!([choice]), Value::Null)
    }
}

impl EventWriter for Events {
    fn open(&mut self, choice: u32, _: &Usage, calls_only: bool) -> dialect::Events {
        if self.legacy {
            return Vec::new();
        }
        let content = if calls_only { Value::Null } else { "".into() };
        let delta = json!({"role": "assistant", "content": content, "refusal": null});
        vec![self.chunk(choice, delta, None)]
    }

    fn delta(&mut self, choice: u32, delta: &Delta<'_>, _: &Usage) -> dialect::Events {
        let delta = match delta {
            // The older API has nowhere to put these.
            Delta::Thinking(_) | Delta::Call(..) | Delta::Arguments(..) if self.legacy => json!({}),
            Delta::Thinking(piece) => json!({"reasoning_content": piece}),
            Delta::Text(piece) => json!({"content": piece}),
            Delta::Call(place, call) => {
                let mut entry = json!({"index": place});
                if let (Some(entry), Value::Object(call)) =
                    (entry.as_object_mut(), tool_call(&self.meta, choice, *place, call, ""))
                {
                    entry.extend(call);
                }
                json!({"tool_calls": [entry]})
            }
            Delta::Arguments(place, piece) => {
                json!({"tool_calls": [{"index": place, "function": {"arguments": piece}}]})
            }
        };
        vec![self.chunk(choice, delta, None)]
    }

    fn finish(&mut self, choice: u32, end: &Answer, _: &Usage, no_finish: bool) -> dialect::Events {
        match no_finish {
            true => Vec::new(),
            false => vec![self.chunk(choice, json!({}), end.finish)],
        }
    }

    fn usage(&mut self, usage: &Usage) -> dialect::Events {
        match self.meta.include_usage && !self.meta.no_usage {
            true => vec![self.event(json!([]), report(usage))],
            false => Vec::new(),
        }
    }

    fn done(&mut self) -> Vec<u8> {
        b"data: [DONE]\n\n".to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embeddings_are_the_same_numbers_in_both_encodings() {
        let request = json!({"model": "embed", "input": ["a b", "c"], "dimensions": 3});
        let (floats, tokens) = embeddings(&request, None).expect("answers");
        let floats: Value = serde_json::from_str(&floats).expect("valid JSON");
        assert_eq!(tokens, 3);
        assert_eq!(floats["data"][1]["embedding"].as_array().map(Vec::len), Some(3));
        let mut request = request;
        request["encoding_format"] = "base64".into();
        let (encoded, _) = embeddings(&request, None).expect("answers");
        let encoded: Value = serde_json::from_str(&encoded).expect("valid JSON");
        let bytes: Vec<u8> = embedding("c", 3).iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(encoded["data"][1]["embedding"], base64(&bytes));
        for (x, expected) in
            floats["data"][1]["embedding"].as_array().into_iter().flatten().zip(embedding("c", 3))
        {
            assert_eq!(x.as_f64().map(|x| x as f32), Some(expected));
        }
    }
}
