//! `embedContent` and `batchEmbedContents` as OpenAI's embeddings, and back
//! (<https://ai.google.dev/api/embeddings>, 2026-11).

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::{invalid, take, take_text, take_u64};
use crate::client::{Asked, EncodeError, Encoder, Invalid};
use crate::openai::usage::usage_of_object;
use crate::surrogate::mend;

/// Writes a request for one embedding or several as OpenAI's.
///
/// # Errors
/// When it is malformed, or wants what is not text embedded.
pub fn to_embeddings(body: &[u8]) -> Result<Vec<u8>, Invalid> {
    let mut body: Map<String, Value> = serde_json::from_slice(&mend(body))
        .map_err(|error| Invalid::new(format!("not an embedContent request: {error}")))?;
    let model = take_text(&mut body, "model").unwrap_or_default();
    let requests = match take(&mut body, "requests") {
        None => None,
        Some(Value::Array(requests)) if !requests.is_empty() => Some(requests),
        Some(_) => return Err(invalid("requests", "is not a list of requests")),
    };
    let (input, dimensions) = match requests {
        None => {
            let (text, dimensions) = one("content", &mut body)?;
            (Value::from(text), dimensions)
        }
        Some(requests) => {
            let mut texts = Vec::with_capacity(requests.len());
            let mut dimensions = None;
            for (at, request) in requests.into_iter().enumerate() {
                let param = format!("requests[{at}]");
                let Value::Object(mut request) = request else {
                    return Err(invalid(&param, "is not an object"));
                };
                let (text, wanted) = one(&format!("{param}.content"), &mut request)?;
                // OpenAI has one length for all.
                if at > 0 && wanted != dimensions {
                    return Err(invalid(&param, "outputDimensionality must be the same in all"));
                }
                dimensions = wanted;
                texts.push(text);
            }
            (texts.into(), dimensions)
        }
    };
    let mut written = json!({"model": model, "input": input, "encoding_format": "float"});
    if let Some(dimensions) = dimensions {
        written["dimensions"] = dimensions.into();
    }
    Ok(written.to_string().into_bytes())
}

/// The text and the length of one request. `taskType` and `title` tune Google's own models and
/// change nothing elsewhere.
fn one(param: &str, request: &mut Map<String, Value>) -> Result<(String, Option<u64>), Invalid> {
    let parts = match take(request, "content") {
        Some(Value::String(text)) => return Ok((text, dimensions(param, request)?)),
        Some(Value::Object(mut content)) => take(&mut content, "parts"),
        _ => None,
    };
    let parts = match parts {
        Some(Value::Array(parts)) => parts,
        Some(part) => vec![part],
        None => return Err(invalid(param, "is missing")),
    };
    let mut text = String::new();
    for part in parts {
        let more = part.get("text").and_then(Value::as_str);
        text.push_str(more.ok_or_else(|| invalid(param, "has a part that is not text"))?);
    }
    Ok((text, dimensions(param, request)?))
}

fn dimensions(param: &str, request: &mut Map<String, Value>) -> Result<Option<u64>, Invalid> {
    if let Some(Value::Object(mut config)) = take(request, "embedContentConfig") {
        let wanted = take_u64(&mut config, "outputDimensionality", param)?;
        if wanted.is_some() {
            return Ok(wanted);
        }
    }
    take_u64(request, "outputDimensionality", param)
}

/// Writes embeddings as Google does.
#[derive(Debug)]
pub struct EmbedEncoder {
    several: bool,
}

impl EmbedEncoder {
    /// Starts on the answer to a request, whose form says which of the two calls it was.
    pub fn new(asked: &Asked<'_>) -> EmbedEncoder {
        #[derive(Deserialize)]
        struct Several<'a> {
            #[serde(borrow)]
            requests: Option<&'a RawValue>,
        }
        let several = serde_json::from_slice::<Several<'_>>(asked.body);
        EmbedEncoder { several: several.is_ok_and(|body| body.requests.is_some()) }
    }
}

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    data: Vec<Item<'a>>,
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Item<'a> {
    #[serde(borrow)]
    embedding: &'a RawValue,
    #[serde(default)]
    index: u64,
}

#[derive(Serialize)]
struct Embedding<'a> {
    values: &'a RawValue,
}

impl Encoder for EmbedEncoder {
    fn whole(&mut self, answer: &[u8]) -> Result<Vec<u8>, EncodeError> {
        let mut answer: Answer<'_> = serde_json::from_slice(answer)
            .map_err(|error| EncodeError(format!("not embeddings: {error}")))?;
        if answer.data.iter().any(|item| !item.embedding.get().starts_with('[')) {
            return Err(EncodeError("an embedding is not a list of numbers".into()));
        }
        answer.data.sort_by_key(|item| item.index);
        let mut written = Vec::with_capacity(64);
        let write = |out: &mut Vec<u8>, json: &dyn Fn(&mut Vec<u8>) -> serde_json::Result<()>| {
            json(out).map_err(|error| EncodeError(error.to_string()))
        };
        let embeddings: Vec<Embedding<'_>> =
            answer.data.iter().map(|item| Embedding { values: item.embedding }).collect();
        if self.several {
            written.extend_from_slice(b"{\"embeddings\":");
            write(&mut written, &|out| serde_json::to_writer(out, &embeddings))?;
        } else {
            let Some(only) = embeddings.first() else {
                return Err(EncodeError("no embedding".into()));
            };
            written.extend_from_slice(b"{\"embedding\":");
            write(&mut written, &|out| serde_json::to_writer(out, only))?;
        }
        let usage = answer.usage.and_then(|raw| usage_of_object(raw.get().as_bytes()));
        if let Some(usage) = usage {
            let counts = json!({
                "promptTokenCount": usage.prompt_tokens,
                "totalTokenCount": usage.prompt_tokens,
            });
            written.extend_from_slice(format!(",\"usageMetadata\":{counts}").as_bytes());
        }
        written.push(b'}');
        Ok(written)
    }

    fn stream(&mut self, _events: &[u8], _out: &mut Vec<u8>) -> Result<(), EncodeError> {
        Err(EncodeError("embeddings do not come as a stream".into()))
    }
}
