//! Anthropic's Messages API, for clients that speak OpenAI's chat.
//!
//! Facts from <https://platform.claude.com/docs/en/api/messages> and the pages it links to, and
//! LiteLLM's conventions for what OpenAI's dialect has no word for; read 2026-11. Each quirk is
//! told where it is handled.

use http::header::{AUTHORIZATION, InvalidHeaderValue};
use http::{HeaderName, HeaderValue};
use tollway_wire::operation::{Dialect, Operation};

use crate::{
    Access, Asked, Call, Decoder, Provider, RequestError, Target, UpstreamBody, UpstreamError,
};

mod betas;
mod error;
mod media;
mod messages;
mod model;
mod params;
mod request;
mod response;
mod schema;
mod stream;
mod thinking;
mod tools;

const NAME: &str = "anthropic";

/// The version of the API that all of this was written for.
const VERSION: HeaderValue = HeaderValue::from_static("2023-06-01");
const VERSION_HEADER: HeaderName = HeaderName::from_static("anthropic-version");
const BETA_HEADER: HeaderName = HeaderName::from_static("anthropic-beta");
const KEY_HEADER: HeaderName = HeaderName::from_static("x-api-key");

/// The tool that stands in for structured output on models that do not have it. Its input is the
/// answer. The name is LiteLLM's.
const JSON_TOOL: &str = "json_tool_call";

/// Anthropic.
#[derive(Clone, Copy, Debug)]
pub struct Anthropic;

impl Provider for Anthropic {
    fn name(&self) -> &'static str {
        NAME
    }

    fn dialect(&self, operation: Operation) -> Option<Dialect> {
        (operation == Operation::ChatCompletions).then_some(Dialect::Anthropic)
    }

    fn default_base(&self) -> Option<&'static str> {
        Some("https://api.anthropic.com")
    }

    fn path(&self, _operation: Operation) -> &'static str {
        "/v1/messages"
    }

    fn url(&self, base: &str, operation: Operation) -> String {
        let base = base.trim_end_matches('/');
        let path = self.path(operation);
        let base = base.strip_suffix(path).or_else(|| base.strip_suffix("/v1")).unwrap_or(base);
        format!("{base}{path}")
    }

    fn key_variables(&self) -> &'static [&'static str] {
        &["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"]
    }

    fn base_variables(&self) -> &'static [&'static str] {
        &["ANTHROPIC_API_BASE", "ANTHROPIC_BASE_URL"]
    }

    fn headers(
        &self,
        access: &Access<'_>,
    ) -> Result<Vec<(HeaderName, HeaderValue)>, InvalidHeaderValue> {
        let version = match access.api_version {
            Some(version) => HeaderValue::from_str(version)?,
            None => VERSION,
        };
        let mut headers = vec![(VERSION_HEADER, version)];
        match access.api_key {
            // A token of a subscription and not a key: it goes elsewhere and needs a beta
            // (LiteLLM `llms/anthropic/common_utils.py`, 2026-11).
            Some(key) if key.starts_with("sk-ant-oat") => {
                let mut value = HeaderValue::from_str(&format!("Bearer {key}"))?;
                value.set_sensitive(true);
                headers.push((AUTHORIZATION, value));
                headers.push((BETA_HEADER, HeaderValue::from_static("oauth-2025-04-20")));
            }
            Some(key) => {
                let mut value = HeaderValue::from_str(key)?;
                value.set_sensitive(true);
                headers.push((KEY_HEADER, value));
            }
            None => {}
        }
        Ok(headers)
    }

    fn request(&self, call: &Call<'_>, target: &Target) -> Result<UpstreamBody, RequestError> {
        request::translate(call, target)
    }

    fn decoder(&self, _operation: Operation, asked: Asked) -> Box<dyn Decoder> {
        Box::new(stream::AnthropicDecoder::new(asked))
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
