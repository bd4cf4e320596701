//! Embeddings at Vertex AI: `predict` for the models that have only text, `embedContent` for those
//! that came later (<https://docs.cloud.google.com/vertex-ai/generative-ai/docs/model-reference/text-embeddings-api>,
//! and google-genai 3.4.0, `_transformers.py`; read 2026-11).

use serde_json::{Map, Value, json};

use crate::gemini::{check_name, embedding_part, read_embedding, written};
use crate::{Call, RequestError, Target, UpstreamBody};

/// Whether a model is called by `predict`.
fn is_predicted(model: &str) -> bool {
    !model.contains("gemini") || model.starts_with("gemini-embedding-001")
}

/// What follows the model's name in the path.
pub(super) fn method(model: &str) -> &'static str {
    if is_predicted(model) { ":predict" } else { ":embedContent" }
}

/// How many texts a call may have (cloud.google.com/vertex-ai/generative-ai/docs/model-reference,
/// `Text embeddings API`, 2026-11): Gemini's first takes one, those before it 250.
pub(super) fn inputs_per_call(model: &str) -> usize {
    if is_predicted(model) && !model.contains("gemini-embedding") { 250 } else { 1 }
}

/// Writes the body.
pub(super) fn request(call: &Call<'_>, target: &Target) -> Result<UpstreamBody, RequestError> {
    check_name(&target.model)?;
    let (request, mut texts) = read_embedding(call)?;
    let mut body = Map::new();
    if is_predicted(&target.model) {
        let one = |text: String| {
            let mut one = json!({"content": text});
            if let Some(task_type) = &request.task_type {
                one["task_type"] = task_type.as_str().into();
            }
            if let Some(title) = &request.title {
                one["title"] = title.as_str().into();
            }
            one
        };
        let instances: Vec<Value> = texts.into_iter().map(one).collect();
        body.insert("instances".into(), instances.into());
        if let Some(dimensions) = request.dimensions {
            body.insert("parameters".into(), json!({"outputDimensionality": dimensions}));
        }
        return Ok(written(body));
    }
    // There one call makes one vector, of all parts together.
    let (Some(text), true) = (texts.pop(), texts.is_empty()) else {
        return Err(RequestError::Invalid {
            message: "this model takes one input a call".into(),
            param: Some("input".into()),
        });
    };
    body.insert("content".into(), json!({"parts": [embedding_part(text)]}));
    let mut config = Map::new();
    for (name, value) in [
        ("outputDimensionality", request.dimensions.map(Value::from)),
        ("taskType", request.task_type.map(Value::from)),
        ("title", request.title.map(Value::from)),
    ] {
        if let Some(value) = value {
            config.insert(name.into(), value);
        }
    }
    if !config.is_empty() {
        body.insert("embedContentConfig".into(), config.into());
    }
    Ok(written(body))
}
