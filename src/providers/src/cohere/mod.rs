//! Cohere's API, version 2: chat, embeddings and rerank, for clients that speak OpenAI's dialect.
//!
//! Facts from <https://docs.cohere.com/v2/reference/chat>, `…/chat-stream`, `…/embed`, `…/rerank` and
//! <https://docs.cohere.com/v2/docs/reasoning>, and the types of Cohere's Python SDK 7.3.1; LiteLLM's
//! conventions for what OpenAI's dialect has no word for; read 2026-11. Each quirk is told where it is
//! handled.

use std::borrow::Cow;

use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue};
use tollway_wire::operation::{Dialect, Operation};

use crate::{
    Access, AccessError, Asked, Call, Decoder, Place, Provider, RequestError, Target, UpstreamBody,
    UpstreamError, secret_header,
};

mod embed;
mod error;
mod messages;
mod params;
mod request;
mod rerank;
mod response;
mod stream;
mod tools;
mod usage;

pub(crate) use embed::vectors;
pub(crate) use error::inside as error_inside;
pub(crate) use usage::{Counts, counted};

use crate::rerank::RerankDecoder;

/// Cohere, under one of the names LiteLLM has for it.
#[derive(Clone, Copy, Debug)]
pub struct Cohere {
    name: &'static str,
}

impl Cohere {
    /// The provider under this name: `cohere` or `cohere_chat`.
    pub const fn named(name: &'static str) -> Cohere {
        Cohere { name }
    }
}

/// The path of a call below the base.
fn path(operation: Operation) -> &'static str {
    match operation {
        Operation::Embeddings => "/v2/embed",
        Operation::Rerank => "/v2/rerank",
        _ => "/v2/chat",
    }
}

impl Provider for Cohere {
    fn name(&self) -> &'static str {
        self.name
    }

    fn dialect(&self, operation: Operation, _client: Dialect, _model: &str) -> Option<Dialect> {
        matches!(operation, Operation::ChatCompletions | Operation::Embeddings | Operation::Rerank)
            .then_some(Dialect::OpenAi)
    }

    fn inputs_per_call(&self, operation: Operation, _model: &str) -> Option<usize> {
        // docs.cohere.com/reference/embed, `texts`, 2026-11.
        (operation == Operation::Embeddings).then_some(96)
    }

    fn default_base(&self, _access: &Access<'_>) -> Option<Cow<'static, str>> {
        Some(Cow::Borrowed("https://api.cohere.com"))
    }

    fn base<'b>(&self, written: &'b str) -> Cow<'b, str> {
        let mut base = written.trim_end_matches('/');
        // People write the whole URL of a call, and a version that need not be ours.
        for path in ["/chat", "/embed", "/rerank"] {
            base = base.strip_suffix(path).unwrap_or(base);
        }
        for version in ["/v1", "/v2"] {
            base = base.strip_suffix(version).unwrap_or(base);
        }
        Cow::Borrowed(base.trim_end_matches('/'))
    }

    fn path(&self, place: &Place<'_>, _access: &Access<'_>) -> Cow<'static, str> {
        Cow::Borrowed(path(place.operation))
    }

    fn key_variables(&self) -> &'static [&'static str] {
        &["COHERE_API_KEY", "CO_API_KEY"]
    }

    fn base_variables(&self) -> &'static [&'static str] {
        &["COHERE_API_BASE", "CO_API_URL"]
    }

    fn headers(&self, access: &Access<'_>) -> Result<Vec<(HeaderName, HeaderValue)>, AccessError> {
        let key = access.api_key.map(|key| secret_header("api_key", &format!("Bearer {key}")));
        Ok(key.transpose()?.map(|key| (AUTHORIZATION, key)).into_iter().collect())
    }

    fn request(&self, call: &Call<'_>, target: &Target) -> Result<UpstreamBody, RequestError> {
        match call.operation {
            Operation::Embeddings => embed::request(call, target),
            Operation::Rerank => rerank::request(call, target),
            _ => request::request(self.name, call, target),
        }
    }

    fn decoder(&self, place: &Place<'_>, asked: Asked) -> Option<Box<dyn Decoder>> {
        Some(match place.operation {
            Operation::Embeddings => Box::new(embed::EmbedDecoder::new(asked)),
            Operation::Rerank => Box::new(RerankDecoder::default()),
            _ => Box::new(stream::ChatDecoder::new(asked)),
        })
    }

    fn error(&self, status: u16, body: &[u8]) -> UpstreamError {
        error::read_error(status, body)
    }
}

/// OpenAI's `finish_reason` for Cohere's. The generation's own failures are no reasons to finish: see
/// [`error::of_finish`].
fn finish_reason(reason: Option<&str>) -> &'static str {
    match reason {
        // The second is from the first version of the API, for a full context.
        Some("MAX_TOKENS" | "ERROR_LIMIT") => "length",
        Some("TOOL_CALL") => "tool_calls",
        // From the first version too; servers that resemble Cohere's still say it, or OpenAI's word.
        Some("ERROR_TOXIC" | "content_filter") => "content_filter",
        _ => "stop",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_may_be_written_in_any_way() {
        let cohere = Cohere::named("cohere");
        for written in [
            "https://api.cohere.com",
            "https://api.cohere.com/",
            "https://api.cohere.com/v1",
            "https://api.cohere.com/v2/",
            "https://api.cohere.com/v2/chat",
            "https://api.cohere.com/v1/embed",
            "https://api.cohere.com/v2/rerank/",
        ] {
            assert_eq!(cohere.base(written), "https://api.cohere.com", "{written}");
        }
        assert_eq!(cohere.base("https://api.cohere.ai/v1"), "https://api.cohere.ai");
    }

    #[test]
    fn each_call_has_its_path_and_the_key_is_a_bearer() {
        assert_eq!(path(Operation::ChatCompletions), "/v2/chat");
        assert_eq!(path(Operation::Embeddings), "/v2/embed");
        assert_eq!(path(Operation::Rerank), "/v2/rerank");
        let access = Access { api_key: Some("co-key"), ..Access::default() };
        let headers = Cohere::named("cohere").headers(&access).expect("a key");
        assert_eq!(headers[0].1, "Bearer co-key");
        assert!(headers[0].1.is_sensitive());
        assert!(Cohere::named("cohere").needs_key());
        let place = |operation| Cohere::named("cohere").dialect(operation, Dialect::OpenAi, "m");
        assert_eq!(place(Operation::Speech), None);
        assert_eq!(place(Operation::Rerank), Some(Dialect::OpenAi));
    }
}
