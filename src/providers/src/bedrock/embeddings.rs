//! Embeddings by InvokeModel: Amazon's Titan and Cohere's models, each in its own form
//! (<https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-titan-embed-text.html>,
//! <https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-embed.html>, 2026-11).
//!
//! Titan takes one text a call, Cohere several.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use tollway_wire::usage::Usage;

use crate::cohere::vectors;
use crate::embeddings::answer as written;
use crate::openai::is_gateway_only;
use crate::response::WholeDecoder;
use crate::{Asked, Call, DecodeError, RequestError, Target, UpstreamBody};

use super::NAME;
use super::error::{is_error, read_error};
use super::model::Model;

/// More texts than this Cohere refuses.
pub(super) const COHERE_TEXTS_MAX: usize = 96;

/// Whose form an embedding model has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Titan's first: a text and nothing else.
    Titan,
    /// Titan's second: also dimensions.
    TitanV2,
    /// Titan's for texts and images.
    TitanImage,
    /// Cohere's.
    Cohere,
}

impl Form {
    /// The form of a model, if it embeds.
    pub(super) fn of(model: &Model<'_>) -> Option<Form> {
        let has = |word: &str| model.id.contains(word);
        if has("amazon.titan-embed-text-v2") {
            Some(Form::TitanV2)
        } else if has("amazon.titan-embed-image") {
            Some(Form::TitanImage)
        } else if has("amazon.titan-embed") {
            Some(Form::Titan)
        } else if has("cohere.embed") {
            Some(Form::Cohere)
        } else {
            None
        }
    }
}

#[derive(Deserialize)]
struct Request {
    input: Value,
    dimensions: Option<Value>,
    encoding_format: Option<Value>,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

fn invalid(message: impl Into<String>) -> RequestError {
    RequestError::Invalid { message: message.into(), param: Some("input".into()) }
}

/// The texts to embed.
fn texts(input: Value) -> Result<Vec<String>, RequestError> {
    let list = match input {
        Value::String(text) => return Ok(vec![text]),
        Value::Array(list) => list,
        _ => return Err(invalid("input is neither a text nor a list of texts")),
    };
    let text = |item| match item {
        Value::String(text) => Ok(text),
        _ => Err(invalid("bedrock embeds texts, and no tokens")),
    };
    let texts: Vec<String> = list.into_iter().map(text).collect::<Result<_, _>>()?;
    if texts.is_empty() { Err(invalid("input is empty")) } else { Ok(texts) }
}

/// Writes the body of one attempt.
pub(super) fn translate(
    call: &Call<'_>,
    target: &Target,
    form: Form,
) -> Result<UpstreamBody, RequestError> {
    let mut request: Request = serde_json::from_slice(call.body)
        .map_err(|error| invalid(format!("not a request for embeddings: {error}")))?;
    let texts = texts(request.input)?;
    let dropped = |name: &str| {
        let list = request.extra.get("additional_drop_params").and_then(Value::as_array);
        list.is_some_and(|list| list.iter().any(|listed| listed == name))
    };
    let dimensions = request.dimensions.filter(|d| !d.is_null() && !dropped("dimensions"));
    let drops = target.drop_params || request.extra.get("drop_params") == Some(&Value::Bool(true));
    let mut lacks = Vec::new();
    let mut body = Map::new();
    if form == Form::Cohere {
        if texts.len() > COHERE_TEXTS_MAX {
            let most = COHERE_TEXTS_MAX;
            return Err(invalid(format!("this model embeds at most {most} texts in one call")));
        }
        body.insert("texts".into(), json!(texts));
        // Which is what a text to be searched for, or to be compared, mostly is.
        let kind = request.extra.shift_remove("input_type");
        body.insert("input_type".into(), kind.unwrap_or_else(|| "search_document".into()));
    } else {
        let [text] = texts.as_slice() else {
            return Err(invalid("this model embeds one text in one call; send several calls"));
        };
        body.insert("inputText".into(), text.as_str().into());
    }
    match (form, dimensions) {
        (_, None) => {}
        (Form::TitanV2, Some(count)) => {
            body.insert("dimensions".into(), count);
        }
        (Form::TitanImage, Some(count)) => {
            body.insert("embeddingConfig".into(), json!({"outputEmbeddingLength": count}));
        }
        (Form::Cohere, Some(count)) => {
            body.insert("output_dimension".into(), count);
        }
        (Form::Titan, Some(_)) => lacks.push("dimensions".to_owned()),
    }
    // Anything but numbers is for clients to make of them; theirs takes both.
    let format = request.encoding_format.as_ref().and_then(Value::as_str);
    if !matches!(format, None | Some("float" | "base64")) {
        lacks.push("encoding_format".to_owned());
    }
    if !lacks.is_empty() && !drops {
        let model = target.model.clone();
        return Err(RequestError::Unsupported { provider: NAME, model, params: lacks });
    }
    for (name, value) in request.extra {
        let is_ours = matches!(name.as_str(), "model" | "user" | "stream" | "metadata")
            || is_gateway_only(&name);
        if !is_ours && !value.is_null() {
            body.entry(name).or_insert(value);
        }
    }
    Ok(UpstreamBody::plain(Value::Object(body).to_string().into_bytes().into()))
}

/// Decodes one answer.
pub(super) struct EmbeddingsDecoder {
    asked: Asked,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    /// Titan's.
    #[serde(borrow)]
    embedding: Option<&'a RawValue>,
    input_text_token_count: Option<u64>,
    /// Cohere's: a list, or one by type.
    #[serde(borrow)]
    embeddings: Option<&'a RawValue>,
}

impl EmbeddingsDecoder {
    pub(super) fn new(asked: Asked) -> Self {
        EmbeddingsDecoder { asked, usage: None }
    }
}

impl WholeDecoder for EmbeddingsDecoder {
    const NO_STREAM: &str = "embeddings do not come in a stream";

    fn translate(&mut self, body: &[u8]) -> Result<Vec<u8>, DecodeError> {
        if is_error(body) {
            return Err(DecodeError::Reported(read_error(200, body)));
        }
        let answer: Answer<'_> = serde_json::from_slice(body)
            .map_err(|error| DecodeError::Malformed(format!("not embeddings: {error}")))?;
        let list = match (answer.embedding, answer.embeddings) {
            (Some(vector), _) => Some(vec![vector]),
            (None, Some(all)) => vectors(all),
            (None, None) => None,
        };
        let list = list.ok_or_else(|| DecodeError::Malformed("there are no embeddings".into()))?;
        // Cohere's models tell their count in a header that is not seen here.
        let tokens = answer.input_text_token_count.unwrap_or(0);
        if tokens > 0 {
            self.usage = Some(Usage { prompt_tokens: tokens, ..Usage::default() });
        }
        Ok(written(&list, tokens, &self.asked))
    }

    fn counted(&self) -> Option<Usage> {
        self.usage
    }
}
