//! Google's Gemini API at AI Studio, for clients that speak it themselves and for those that speak
//! OpenAI's chat. The former's bytes pass; the latter's are translated. [`crate::vertex`] has the same
//! models at Google Cloud.
//!
//! Facts from <https://ai.google.dev/api> and the pages it links to, the types of Google's own SDK
//! (google-genai 3.4.0), and LiteLLM's conventions for what OpenAI's dialect has no word for; read
//! 2026-11. Each quirk is told where it is handled.

use std::borrow::Cow;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use serde_json::{Map, Value};
use tollway_wire::operation::{Dialect, Operation};

use crate::{
    Access, AccessError, Asked, Call, Decoder, Place, Provider, RequestError, Target, UpstreamBody,
    UpstreamError, secret_header,
};

mod answer;
mod contents;
mod count;
mod embeddings;
mod error;
mod media;
mod model;
mod native;
mod params;
mod request;
mod response;
mod schema;
mod stream;
mod thinking;
mod tools;

pub(crate) use embeddings::{EmbeddingDecoder, part as embedding_part, read as read_embedding};
pub(crate) use error::{read_error, retry_delay};
pub(crate) use model::{Model, check_name, segment};
pub(crate) use native::request as native_request;

const KEY_HEADER: HeaderName = HeaderName::from_static("x-goog-api-key");

/// Which of Google's two doors a call goes through. They differ in details.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Api {
    /// AI Studio.
    Studio,
    /// Vertex AI.
    Vertex,
}

impl Api {
    fn provider(self) -> &'static str {
        match self {
            Api::Studio => "gemini",
            Api::Vertex => "vertex_ai",
        }
    }
}

/// The dialect in which Gemini models take an operation.
pub(crate) fn dialect(operation: Operation, client: Dialect) -> Option<Dialect> {
    match (operation, client) {
        (
            Operation::ChatCompletions | Operation::CountTokens | Operation::Embeddings,
            Dialect::Gemini,
        ) => Some(Dialect::Gemini),
        (Operation::ChatCompletions | Operation::CountTokens | Operation::Embeddings, _) => {
            Some(Dialect::OpenAi)
        }
        _ => None,
    }
}

/// What follows a model's name in the path of a call.
pub(crate) fn method(place: &Place<'_>) -> &'static str {
    match place.operation {
        Operation::CountTokens => ":countTokens",
        Operation::Embeddings => ":batchEmbedContents",
        _ if place.stream => ":streamGenerateContent?alt=sse",
        _ => ":generateContent",
    }
}

/// Writes the body of a chat, or of counting one's tokens, in OpenAI's dialect.
pub(crate) fn translate(
    call: &Call<'_>,
    target: &Target,
    api: Api,
) -> Result<UpstreamBody, RequestError> {
    let body = request::translate(call, target, api)?;
    Ok(written(match call.operation {
        Operation::CountTokens => count::request(body, target, api),
        _ => body,
    }))
}

pub(crate) fn written(body: Map<String, Value>) -> UpstreamBody {
    UpstreamBody::plain(Value::Object(body).to_string().into_bytes().into())
}

/// What decodes an answer of a chat, or of counting one's tokens.
pub(crate) fn decoder(place: &Place<'_>, asked: Asked) -> Option<Box<dyn Decoder>> {
    Some(match (place.operation, place.dialect) {
        (_, Dialect::Gemini) => return None,
        (Operation::CountTokens, _) => Box::new(count::CountDecoder),
        _ => Box::new(stream::GeminiDecoder::new(asked, Model::of(place.model))),
    })
}

/// AI Studio.
#[derive(Clone, Copy, Debug)]
pub struct Gemini;

impl Provider for Gemini {
    fn name(&self) -> &'static str {
        Api::Studio.provider()
    }

    fn dialect(&self, operation: Operation, client: Dialect, _model: &str) -> Option<Dialect> {
        dialect(operation, client)
    }

    fn inputs_per_call(&self, operation: Operation, _model: &str) -> Option<usize> {
        // ai.google.dev/api/embeddings, `batchEmbedContents`; more are refused by number, 2026-11.
        (operation == Operation::Embeddings).then_some(100)
    }

    fn default_base(&self, _access: &Access<'_>) -> Option<Cow<'static, str>> {
        Some(Cow::Borrowed("https://generativelanguage.googleapis.com"))
    }

    fn base<'b>(&self, written: &'b str) -> Cow<'b, str> {
        let base = written.trim_end_matches('/');
        // People write the whole URL of a call, as its documentation shows it.
        let base = base.split_once("/models/").map_or(base, |(base, _)| base);
        let base = base.strip_suffix("/models").unwrap_or(base);
        let base = ["/v1beta", "/v1alpha", "/v1"]
            .iter()
            .find_map(|path| base.strip_suffix(path))
            .unwrap_or(base);
        Cow::Borrowed(base.trim_end_matches('/'))
    }

    fn path(&self, place: &Place<'_>, access: &Access<'_>) -> Cow<'static, str> {
        let known = |version: &&str| matches!(*version, "v1" | "v1alpha");
        let version = access.api_version.filter(known).unwrap_or("v1beta");
        let (folder, name) = model::resource(place.model);
        Cow::Owned(format!("/{version}/{folder}/{}{}", segment(name), method(place)))
    }

    fn key_variables(&self) -> &'static [&'static str] {
        &["GEMINI_API_KEY", "GOOGLE_API_KEY"]
    }

    fn base_variables(&self) -> &'static [&'static str] {
        &["GEMINI_API_BASE", "GOOGLE_GEMINI_BASE_URL"]
    }

    fn headers(&self, access: &Access<'_>) -> Result<Vec<(HeaderName, HeaderValue)>, AccessError> {
        match access.api_key {
            Some(key) => Ok(vec![(KEY_HEADER, secret_header("api_key", key)?)]),
            None => Ok(Vec::new()),
        }
    }

    fn request(&self, call: &Call<'_>, target: &Target) -> Result<UpstreamBody, RequestError> {
        match (call.dialect, call.operation) {
            (Dialect::Gemini, _) => native::request(call, target, Api::Studio),
            (_, Operation::Embeddings) => Ok(written(embeddings::request(call, target)?)),
            _ => translate(call, target, Api::Studio),
        }
    }

    fn decoder(&self, place: &Place<'_>, asked: Asked) -> Option<Box<dyn Decoder>> {
        if place.operation == Operation::Embeddings {
            let native = place.dialect == Dialect::Gemini;
            return Some(Box::new(EmbeddingDecoder::new(asked, native)));
        }
        decoder(place, asked)
    }

    fn error(&self, status: u16, body: &[u8]) -> UpstreamError {
        read_error(status, body)
    }

    fn retry_after(&self, body: &[u8]) -> Option<Duration> {
        retry_delay(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(operation: Operation, model: &str, stream: bool) -> String {
        let place = Place { operation, dialect: Dialect::OpenAi, model, stream };
        Gemini.path(&place, &Access::default()).into_owned()
    }

    #[test]
    fn calls_have_their_paths() {
        for (operation, stream, method) in [
            (Operation::ChatCompletions, false, "generateContent"),
            (Operation::ChatCompletions, true, "streamGenerateContent?alt=sse"),
            (Operation::Embeddings, false, "batchEmbedContents"),
            (Operation::CountTokens, false, "countTokens"),
        ] {
            let expect = format!("/v1beta/models/gemini-2.5-flash:{method}");
            assert_eq!(path(operation, "gemini-2.5-flash", stream), expect);
        }
        let chat = Operation::ChatCompletions;
        assert_eq!(path(chat, "tunedModels/a", false), "/v1beta/tunedModels/a:generateContent");
        assert_eq!(
            path(chat, "../../v1/x?key=1#", false),
            "/v1beta/models/..%2F..%2Fv1%2Fx%3Fkey%3D1%23:generateContent"
        );
    }

    #[test]
    fn a_base_may_hold_more_than_the_base() {
        for written in [
            "https://g",
            "https://g/",
            "https://g/v1beta",
            "https://g/v1beta/",
            "https://g/v1/models",
            "https://g/v1beta/models/gemini-2.5-pro:generateContent",
        ] {
            assert_eq!(Gemini.base(written), "https://g", "{written}");
        }
    }
}
