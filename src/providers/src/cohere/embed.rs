//! Embeddings: OpenAI's `input` as Cohere's texts, images or mixtures of both.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tollway_wire::usage::Usage;

use crate::embeddings::answer as written;
use crate::response::WholeDecoder;
use crate::{Asked, Call, DecodeError, RequestError, Target, UpstreamBody};

use super::error;
use super::request::{invalid, members, without_dropped};
use super::usage::{Counts, counted};

/// What a text is embedded for where the client does not say: Cohere demands it, and LiteLLM says
/// this.
const INPUT_TYPE: &str = "search_document";

/// The kinds of embeddings, the one OpenAI's clients expect first.
const KINDS: &[&str] = &["float", "base64", "int8", "uint8", "binary", "ubinary"];

/// Writes the body of one attempt.
pub(super) fn request(call: &Call<'_>, target: &Target) -> Result<UpstreamBody, RequestError> {
    let mut request = members(&without_dropped(call))?;
    let is_image_only = match request.shift_remove("input") {
        None if ["texts", "images", "inputs"].iter().any(|name| request.contains_key(*name)) => {
            request.contains_key("images") && !request.contains_key("texts")
        }
        Some(input) => {
            let (name, value) = inputs(input)?;
            request.insert(name.into(), value);
            name == "images"
        }
        None => {
            return Err(invalid("Missing required parameter: 'input'.".into(), Some("input")));
        }
    };
    request.insert("model".into(), target.model.clone().into());
    let input_type = if is_image_only { "image" } else { INPUT_TYPE };
    request.entry("input_type").or_insert_with(|| input_type.into());
    if let Some(dimensions) = request.shift_remove("dimensions") {
        request.entry("output_dimension").or_insert(dimensions);
    }
    let format = request.shift_remove("encoding_format");
    if !request.contains_key("embedding_types") {
        let kind = match format {
            None => "float".into(),
            Some(Value::String(kind)) if KINDS.contains(&kind.as_str()) => kind,
            // Cohere's client takes lists here.
            Some(Value::Array(kinds)) => {
                request.insert("embedding_types".into(), kinds.into());
                String::new()
            }
            Some(_) => {
                let message = "encoding_format is none of float and base64".to_owned();
                return Err(invalid(message, Some("encoding_format")));
            }
        };
        request.entry("embedding_types").or_insert_with(|| json!([kind]));
    }
    // A hint that Cohere does not take.
    request.shift_remove("user");
    let bytes = serde_json::to_vec(&request)
        .map_err(|error| invalid(format!("the request cannot be written: {error}"), None))?;
    Ok(UpstreamBody::plain(bytes.into()))
}

/// Cohere's member for the client's `input`, and its value.
fn inputs(input: Value) -> Result<(&'static str, Value), RequestError> {
    let list = match input {
        Value::Array(list) => list,
        one => vec![one],
    };
    let is_image = |item: &Value| item.as_str().is_some_and(|text| text.starts_with("data:image/"));
    if list.iter().any(|item| !item.is_string() && !item.is_object()) {
        let message = "cohere embeds text and images, not tokens".to_owned();
        return Err(invalid(message, Some("input")));
    }
    let images = list.iter().filter(|item| is_image(item)).count();
    let has_parts = list.iter().any(Value::is_object);
    if !has_parts && images == 0 {
        return Ok(("texts", list.into()));
    }
    if !has_parts && images == list.len() {
        return Ok(("images", list.into()));
    }
    let mixed: Vec<Value> = list
        .into_iter()
        .map(|item| match item {
            image if is_image(&image) => {
                json!({"content": [{"type": "image_url", "image_url": {"url": image}}]})
            }
            Value::String(text) => json!({"content": [{"type": "text", "text": text}]}),
            // Cohere's own form, or one part of it.
            item if item.get("content").is_some() => item,
            part => json!({"content": [part]}),
        })
        .collect();
    Ok(("inputs", mixed.into()))
}

/// Decodes one answer to an embeddings call.
pub(super) struct EmbedDecoder {
    asked: Asked,
    usage: Option<Usage>,
}

impl EmbedDecoder {
    pub(super) fn new(asked: Asked) -> Self {
        EmbedDecoder { asked, usage: None }
    }
}

/// An answer: the vectors by their kind. The numbers stay as they came.
#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    embeddings: &'a RawValue,
    #[serde(default)]
    meta: Option<Counts>,
}

/// The vectors, by kind in the second version of the API, bare in the first.
pub(crate) fn vectors(raw: &RawValue) -> Option<Vec<&RawValue>> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Kinds<'a> {
        #[serde(borrow)]
        float: Option<&'a RawValue>,
        #[serde(borrow)]
        base64: Option<&'a RawValue>,
        #[serde(borrow)]
        int8: Option<&'a RawValue>,
        #[serde(borrow)]
        uint8: Option<&'a RawValue>,
        #[serde(borrow)]
        binary: Option<&'a RawValue>,
        #[serde(borrow)]
        ubinary: Option<&'a RawValue>,
    }
    let list = if raw.get().starts_with('[') {
        raw
    } else {
        let kinds: Kinds<'_> = serde_json::from_str(raw.get()).ok()?;
        // OpenAI's answer has room for one kind: the first in the order of [`KINDS`].
        let all = [kinds.float, kinds.base64, kinds.int8, kinds.uint8, kinds.binary, kinds.ubinary];
        // A kind that was not asked for is absent, null or empty.
        all.into_iter().flatten().find(|list| list.get().len() > 2 && list.get() != "null")?
    };
    serde_json::from_str(list.get()).ok()
}

impl WholeDecoder for EmbedDecoder {
    const NO_STREAM: &str = "embeddings do not come in a stream";

    fn translate(&mut self, body: &[u8]) -> Result<Vec<u8>, DecodeError> {
        let answer: Answer<'_> =
            serde_json::from_slice(body).map_err(|fault| match error::inside(body) {
                Some(error) => DecodeError::Reported(error),
                None => DecodeError::Malformed(format!("not embeddings: {fault}")),
            })?;
        let vectors = vectors(answer.embeddings)
            .ok_or_else(|| DecodeError::Malformed("there are no embeddings in it".into()))?;
        self.usage = counted(answer.meta.map(|counts| counts.total()));
        let tokens = self.usage.map_or(0, |usage| usage.prompt_tokens);
        Ok(written(&vectors, tokens, &self.asked))
    }

    fn counted(&self) -> Option<Usage> {
        self.usage
    }
}
