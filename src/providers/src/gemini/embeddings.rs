//! Embeddings: OpenAI's `input` as `batchEmbedContents`, and back.
//!
//! <https://ai.google.dev/api/embeddings>, read 2026-11.

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tollway_wire::usage::Usage;

use crate::media::parse_data_url;
use crate::response::WholeDecoder;
use crate::{Asked, Call, DecodeError, RequestError, Target};

use super::error::read_event;
use super::model::check_name;
use super::native::resource_name;

/// What of OpenAI's request is translated.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct EmbeddingRequest {
    input: Value,
    /// The length the vectors are to have.
    pub(crate) dimensions: Option<u64>,
    /// What the vectors are for, in Google's words; LiteLLM's members.
    #[serde(alias = "taskType", alias = "input_type")]
    pub(crate) task_type: Option<String>,
    /// A document's title.
    pub(crate) title: Option<String>,
}

/// Reads a request of OpenAI's: it, and the texts in it.
pub(crate) fn read(call: &Call<'_>) -> Result<(EmbeddingRequest, Vec<String>), RequestError> {
    let invalid = |message: String| RequestError::Invalid { message, param: Some("input".into()) };
    let mut request: EmbeddingRequest = serde_json::from_slice(call.body)
        .map_err(|error| invalid(format!("not an embeddings request: {error}")))?;
    let texts = match request.input.take() {
        Value::String(text) => vec![text],
        Value::Array(list) => {
            let text = |item: Value| match item {
                Value::String(text) => Ok(text),
                _ => Err(invalid("input holds tokens, which only OpenAI's models know".into())),
            };
            list.into_iter().map(text).collect::<Result<_, _>>()?
        }
        _ => return Err(invalid("input is neither a text nor a list of texts".into())),
    };
    if texts.is_empty() {
        return Err(invalid("input is empty".into()));
    }
    Ok((request, texts))
}

/// Writes the body of a `batchEmbedContents` call, which takes one text as well.
pub(super) fn request(
    call: &Call<'_>,
    target: &Target,
) -> Result<Map<String, Value>, RequestError> {
    check_name(&target.model)?;
    let (request, texts) = read(call)?;
    let model = resource_name(target);
    let one = |text: String| {
        let mut one = json!({"model": model, "content": {"parts": [part(text)]}});
        if let Some(dimensions) = request.dimensions {
            one["outputDimensionality"] = dimensions.into();
        }
        if let Some(task_type) = &request.task_type {
            one["taskType"] = task_type.as_str().into();
        }
        if let Some(title) = &request.title {
            one["title"] = title.as_str().into();
        }
        one
    };
    let requests: Vec<Value> = texts.into_iter().map(one).collect();
    let mut body = Map::new();
    body.insert("requests".into(), requests.into());
    Ok(body)
}

/// The newer models take images and more, which LiteLLM's users send as data URLs.
pub(crate) fn part(text: String) -> Value {
    match parse_data_url(&text) {
        Some((media_type, data)) => json!({"inlineData": {"mimeType": media_type, "data": data}}),
        None => json!({"text": text}),
    }
}

/// An answer of any of Google's calls for embeddings.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Answer {
    embeddings: Vec<Vector>,
    embedding: Option<Vector>,
    predictions: Vec<Prediction>,
    usage_metadata: Option<Counts>,
    error: Option<super::error::Status>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Vector {
    values: Vec<f64>,
    statistics: Option<Statistics>,
}

/// Vertex AI's older form.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Prediction {
    embeddings: Vector,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Statistics {
    token_count: f64,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Counts {
    prompt_token_count: u64,
    total_token_count: u64,
}

/// Decodes an answer into OpenAI's, or with `native` into that of `embedContent` and
/// `batchEmbedContents` at once.
pub(crate) struct EmbeddingDecoder {
    asked: Asked,
    native: bool,
    usage: Option<Usage>,
}

impl EmbeddingDecoder {
    pub(crate) fn new(asked: Asked, native: bool) -> Self {
        EmbeddingDecoder { asked, native, usage: None }
    }

    /// Every call goes to `batchEmbedContents`. A client that asked for one content looks for
    /// `embedding`, one that asked for several for `embeddings`; where there is one, both have it.
    fn native(body: &[u8]) -> Result<Vec<u8>, DecodeError> {
        let mut answer: Value = serde_json::from_slice(body).map_err(malformed)?;
        let only = answer["embeddings"].as_array().filter(|list| list.len() == 1);
        if let Some(only) = only.and_then(|list| list.first()).cloned() {
            answer["embedding"] = only;
        }
        serde_json::to_vec(&answer).map_err(malformed)
    }
}

fn malformed(error: serde_json::Error) -> DecodeError {
    DecodeError::Malformed(format!("not an answer with embeddings: {error}"))
}

impl WholeDecoder for EmbeddingDecoder {
    const NO_STREAM: &str = "embeddings do not come in a stream";

    fn translate(&mut self, body: &[u8]) -> Result<Vec<u8>, DecodeError> {
        let answer: Answer = serde_json::from_slice(body).map_err(malformed)?;
        if let Some(error) = answer.error {
            return Err(DecodeError::Reported(read_event(error)));
        }
        let mut vectors = answer.embeddings;
        vectors.extend(answer.embedding);
        vectors.extend(answer.predictions.into_iter().map(|prediction| prediction.embeddings));
        if vectors.is_empty() {
            return Err(DecodeError::Malformed("the answer holds no embeddings".into()));
        }
        let counted: f64 =
            vectors.iter().flat_map(|one| &one.statistics).map(|one| one.token_count).sum();
        // A float to integer cast saturates, and not a number becomes 0.
        let counts = answer.usage_metadata.unwrap_or_default();
        let tokens = counts.prompt_token_count.max(counts.total_token_count).max(counted as u64);
        self.usage = (tokens > 0).then(|| Usage { prompt_tokens: tokens, ..Usage::default() });
        if self.native {
            return EmbeddingDecoder::native(body);
        }
        let data: Vec<Value> = vectors
            .into_iter()
            .enumerate()
            .map(|(index, one)| {
                json!({"object": "embedding", "index": index, "embedding": one.values})
            })
            .collect();
        let answer = json!({
            "object": "list",
            "data": data,
            "model": self.asked.model,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        });
        Ok(answer.to_string().into_bytes())
    }

    fn counted(&self) -> Option<Usage> {
        self.usage
    }
}
