//! Anthropic's Messages API, for clients that speak it themselves and for those that speak OpenAI's
//! chat. The former's bytes pass; the latter's are translated.
//!
//! Facts from <https://platform.claude.com/docs/en/api/messages> and the pages it links to, and
//! LiteLLM's conventions for what OpenAI's dialect has no word for; read 2026-11. Each quirk is
//! told where it is handled.

use std::borrow::Cow;

use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue};
use tollway_wire::operation::{Dialect, Operation};

use crate::{
    Access, AccessError, Asked, Call, Decoder, Place, Provider, RequestError, Target, UpstreamBody,
    UpstreamError, header, secret_header,
};

mod betas;
mod error;
mod media;
mod messages;
pub(crate) mod model;
mod native;
mod params;
mod request;
mod response;
pub(crate) mod schema;
mod stream;
mod thinking;
mod tools;

const NAME: &str = "anthropic";

/// The version of the API that all of this was written for.
const VERSION: HeaderValue = HeaderValue::from_static("2023-06-01");
const VERSION_HEADER: HeaderName = HeaderName::from_static("anthropic-version");
const BETA_HEADER: HeaderName = HeaderName::from_static("anthropic-beta");
const KEY_HEADER: HeaderName = HeaderName::from_static("x-api-key");

/// Anthropic.
#[derive(Clone, Copy, Debug)]
pub struct Anthropic;

impl Provider for Anthropic {
    fn name(&self) -> &'static str {
        NAME
    }

    fn dialect(&self, operation: Operation, client: Dialect, _model: &str) -> Option<Dialect> {
        match (operation, client) {
            (Operation::ChatCompletions | Operation::CountTokens, Dialect::Anthropic) => {
                Some(Dialect::Anthropic)
            }
            (Operation::ChatCompletions | Operation::CountTokens, _) => Some(Dialect::OpenAi),
            _ => None,
        }
    }

    fn default_base(&self, _access: &Access<'_>) -> Option<Cow<'static, str>> {
        Some(Cow::Borrowed("https://api.anthropic.com"))
    }

    fn base<'b>(&self, written: &'b str) -> Cow<'b, str> {
        let base = written.trim_end_matches('/');
        let base = base.strip_suffix("/count_tokens").unwrap_or(base);
        let base = base.strip_suffix("/messages").unwrap_or(base);
        Cow::Borrowed(base.strip_suffix("/v1").unwrap_or(base))
    }

    fn path(&self, place: &Place<'_>, _access: &Access<'_>) -> Cow<'static, str> {
        Cow::Borrowed(match place.operation {
            Operation::CountTokens => "/v1/messages/count_tokens",
            _ => "/v1/messages",
        })
    }

    fn key_variables(&self) -> &'static [&'static str] {
        &["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"]
    }

    fn base_variables(&self) -> &'static [&'static str] {
        &["ANTHROPIC_API_BASE", "ANTHROPIC_BASE_URL"]
    }

    fn headers(&self, access: &Access<'_>) -> Result<Vec<(HeaderName, HeaderValue)>, AccessError> {
        let version = match access.api_version {
            Some(version) => header("api_version", version)?,
            None => VERSION,
        };
        let mut headers = vec![(VERSION_HEADER, version)];
        match access.api_key {
            // A token of a subscription and not a key: it goes elsewhere and needs a beta
            // (LiteLLM `llms/anthropic/common_utils.py`, 2026-11).
            Some(key) if key.starts_with("sk-ant-oat") => {
                let value = secret_header("api_key", &format!("Bearer {key}"))?;
                headers.push((AUTHORIZATION, value));
                headers.push((BETA_HEADER, HeaderValue::from_static("oauth-2025-04-20")));
            }
            Some(key) => headers.push((KEY_HEADER, secret_header("api_key", key)?)),
            None => {}
        }
        Ok(headers)
    }

    fn request(&self, call: &Call<'_>, target: &Target) -> Result<UpstreamBody, RequestError> {
        match call.dialect {
            Dialect::Anthropic => Ok(native::request(call, target)),
            _ => request::translate(call, target),
        }
    }

    fn decoder(&self, place: &Place<'_>, asked: Asked) -> Option<Box<dyn Decoder>> {
        // A count is `{"input_tokens": 1}` in Anthropic's dialect and in OpenAI's.
        let translates =
            place.operation == Operation::ChatCompletions && place.dialect != Dialect::Anthropic;
        translates.then(|| Box::new(stream::AnthropicDecoder::new(asked)) as Box<dyn Decoder>)
    }

    fn error(&self, status: u16, body: &[u8]) -> UpstreamError {
        error::read_error(status, body)
    }
}

/// OpenAI's `finish_reason` for Anthropic's `stop_reason`, as LiteLLM maps them.
fn finish_reason(stop_reason: Option<&str>) -> &'static str {
    match stop_reason {
        Some("max_tokens" | "pause_turn" | "model_context_window_exceeded" | "compaction") => {
            "length"
        }
        Some("tool_use") => "tool_calls",
        // The second is not Anthropic's own, but gateways in front of it say it.
        Some("refusal" | "content_filter") => "content_filter",
        _ => "stop",
    }
}
