//! Every provider whose API is OpenAI's: the request is spliced, never parsed, and the answer
//! passes through. What differs between them is data, in [`crate::presets`].

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{AUTHORIZATION, InvalidHeaderValue};
use http::{HeaderName, HeaderValue};
use serde_json::{Map, Value};
use tollway_wire::openai::tap::{StreamTap, TapError};
use tollway_wire::openai::usage::usage_of_body;
use tollway_wire::operation::{Dialect, Operation};
use tollway_wire::splice::{Edits, json_string};
use tollway_wire::usage::Usage;

use crate::presets::Preset;
use crate::{
    Access, Asked, Call, DecodeError, Decoder, Provider, RequestError, Target, UpstreamBody,
    UpstreamError,
};

mod error;

pub(crate) use error::{bounded, read_error};

/// Members LiteLLM takes from the body for itself. No provider may see them: OpenAI refuses what
/// it does not know.
const GATEWAY_ONLY: &[&str] = &[
    "additional_drop_params",
    "allowed_openai_params",
    "cache",
    "caching",
    "drop_params",
    "fallbacks",
    "guardrails",
    "mock_response",
    "mock_testing_content_policy_fallbacks",
    "mock_testing_context_fallbacks",
    "mock_testing_fallbacks",
    "mock_timeout",
    "num_retries",
    "tags",
    "timeout",
];

/// Whether a member of the body is the gateway's and not the provider's.
pub(crate) fn is_gateway_only(name: &str) -> bool {
    name.starts_with("litellm_") || GATEWAY_ONLY.contains(&name)
}

/// The names a client lists in one of LiteLLM's members, such as `additional_drop_params`.
fn listed(call: &Call<'_>, member: &str) -> Vec<String> {
    let raw = call.object.raw(call.body, member);
    raw.and_then(|json| serde_json::from_slice(json).ok()).unwrap_or_default()
}

impl Provider for Preset {
    fn name(&self) -> &'static str {
        self.name
    }

    fn dialect(&self, operation: Operation) -> Option<Dialect> {
        self.quirks.operations.contains(&operation).then_some(Dialect::OpenAi)
    }

    fn default_base(&self) -> Option<&'static str> {
        self.base
    }

    fn path(&self, operation: Operation) -> &'static str {
        operation.path()
    }

    fn url(&self, base: &str, operation: Operation) -> String {
        let base = base.trim_end_matches('/');
        let path = self.path(operation);
        let v1 = if self.quirks.base_lacks_v1 && !base.ends_with("/v1") { "/v1" } else { "" };
        if base.ends_with(path) { base.to_owned() } else { format!("{base}{v1}{path}") }
    }

    fn key_variables(&self) -> &'static [&'static str] {
        self.key_variables
    }

    fn base_variables(&self) -> &'static [&'static str] {
        self.base_variables
    }

    fn is_free(&self) -> bool {
        self.free
    }

    fn headers(
        &self,
        access: &Access<'_>,
    ) -> Result<Vec<(HeaderName, HeaderValue)>, InvalidHeaderValue> {
        let mut headers = Vec::new();
        if let Some(key) = access.api_key {
            let mut value = HeaderValue::from_str(&format!("Bearer {key}"))?;
            value.set_sensitive(true);
            headers.push((AUTHORIZATION, value));
        }
        if let Some(organization) = access.organization {
            let name = HeaderName::from_static("openai-organization");
            headers.push((name, HeaderValue::from_str(organization)?));
        }
        Ok(headers)
    }

    fn request(&self, call: &Call<'_>, target: &Target) -> Result<UpstreamBody, RequestError> {
        let removed = self.removed_members(call);
        let mut edits = Edits::new();
        removed.iter().for_each(|name| edits.remove(name));
        if call.object.str(call.body, "model").as_deref() != Some(&target.model) {
            edits.set("model", json_string(&target.model));
        }
        if call.operation != Operation::Embeddings {
            self.rename_members(call, target, &mut edits);
            self.apply_reasoning_rules(call, target, &mut edits)?;
        }
        let usage_added = self.ask_for_usage(call, &mut edits);
        let mut pieces = edits.pieces(call.body, call.object).into_iter();
        let bytes = pieces.next().unwrap_or_default();
        Ok(UpstreamBody { usage_added, rest: pieces.collect(), ..UpstreamBody::plain(bytes) })
    }

    fn decoder(&self, _operation: Operation, asked: Asked) -> Box<dyn Decoder> {
        let tap = StreamTap::new(!asked.include_usage, Some(&asked.model));
        Box::new(PassThrough { tap, usage: None })
    }

    fn error(&self, status: u16, body: &[u8]) -> UpstreamError {
        read_error(status, body)
    }
}

impl Preset {
    /// The members to take out: what is the gateway's, what the client wants dropped, and what this
    /// provider refuses although it changes nothing.
    fn removed_members<'a>(&self, call: &Call<'a>) -> Vec<Cow<'a, str>> {
        let dropped = listed(call, "additional_drop_params");
        // OpenAI refuses `metadata` unless the answer is stored, and LiteLLM's users put their own
        // there (platform.openai.com/docs/api-reference/chat/create, 2026-11).
        let keeps_metadata = call.object.bool(call.body, "store") == Some(true);
        let is_removed = |name: &Cow<'_, str>| {
            let name = name.as_ref();
            is_gateway_only(name)
                || (name == "metadata" && !keeps_metadata)
                || self.quirks.removes.contains(&name)
                || dropped.iter().any(|dropped| dropped == name)
        };
        call.object.iter().map(|member| member.name(call.body)).filter(is_removed).collect()
    }

    /// Gives members the names this provider has for them.
    fn rename_members<'a>(&self, call: &Call<'a>, target: &Target, edits: &mut Edits<'a>) {
        let reasoning: &[(&str, &str)] = &[("max_tokens", "max_completion_tokens")];
        let is_reasoning = self.quirks.reasoning_rules && Reasoning::of(&target.model).is_some();
        let renames = if is_reasoning { reasoning } else { self.quirks.renames };
        for (from, to) in renames {
            if let Some(value) = call.object.raw(call.body, from) {
                edits.remove(from);
                if call.object.get(call.body, to).is_none() {
                    edits.set(to, value);
                }
            }
        }
        if let Some(word) = self.quirks.tool_choice_required
            && call.object.str(call.body, "tool_choice").as_deref() == Some("required")
        {
            edits.set("tool_choice", json_string(word));
        }
    }

    /// OpenAI's reasoning models refuse sampling parameters that are not the default
    /// (platform.openai.com/docs/guides/reasoning, 2026-11).
    fn apply_reasoning_rules(
        &self,
        call: &Call<'_>,
        target: &Target,
        edits: &mut Edits<'_>,
    ) -> Result<(), RequestError> {
        if !self.quirks.reasoning_rules {
            return Ok(());
        }
        let Some(reasoning) = Reasoning::of(&target.model) else { return Ok(()) };
        let number = |name| call.object.f64(call.body, name);
        let mut refused: Vec<&str> = Vec::new();
        let effort = call.object.str(call.body, "reasoning_effort");
        let may_sample = reasoning == Reasoning::MayBeOff
            && effort.as_deref().is_none_or(|effort| effort == "none");
        if !may_sample && number("temperature").is_some_and(|value| value != 1.0) {
            refused.push("temperature");
        }
        if reasoning == Reasoning::OSeries {
            if number("top_p").is_some_and(|value| value != 1.0) {
                refused.push("top_p");
            }
            for name in ["presence_penalty", "frequency_penalty"] {
                if number(name).is_some_and(|value| value != 0.0) {
                    refused.push(name);
                }
            }
            if call.object.bool(call.body, "logprobs") == Some(true) {
                refused.extend(["logprobs", "top_logprobs"]);
            }
        }
        refused.retain(|name| call.object.get(call.body, name).is_some());
        if refused.is_empty() {
            return Ok(());
        }
        let allowed = listed(call, "allowed_openai_params");
        let dropped = listed(call, "additional_drop_params");
        refused.retain(|name| !allowed.iter().chain(&dropped).any(|listed| listed == name));
        if target.drop_params || call.object.bool(call.body, "drop_params") == Some(true) {
            refused.iter().for_each(|name| edits.remove(name));
            return Ok(());
        }
        if refused.is_empty() {
            return Ok(());
        }
        Err(RequestError::Unsupported {
            provider: self.name,
            model: target.model.clone(),
            params: refused.into_iter().map(str::to_owned).collect(),
        })
    }

    /// Asks for usage in a stream, so that every stream is metered with real numbers. Returns
    /// whether the client had not.
    fn ask_for_usage(&self, call: &Call<'_>, edits: &mut Edits<'_>) -> bool {
        let options = call.object.raw(call.body, "stream_options");
        if !call.stream || call.operation == Operation::Embeddings || !self.quirks.stream_options {
            if options.is_some() {
                edits.remove("stream_options");
            }
            return false;
        }
        let mut options: Map<String, Value> =
            options.and_then(|json| serde_json::from_slice(json).ok()).unwrap_or_default();
        if options.get("include_usage") == Some(&Value::Bool(true)) {
            return false;
        }
        options.insert("include_usage".into(), true.into());
        edits.set("stream_options", Value::Object(options).to_string().into_bytes());
        true
    }
}

/// OpenAI's reasoning models, by how strict they are about sampling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reasoning {
    /// o1, o3, o4-mini …
    OSeries,
    /// gpt-5 and its small versions.
    Always,
    /// gpt-5.1 and later, whose reasoning is off unless asked for.
    MayBeOff,
}

impl Reasoning {
    fn of(model: &str) -> Option<Reasoning> {
        let name = model.rsplit('/').next().unwrap_or(model);
        let is_o = |name: &str| {
            let mut rest = name.strip_prefix('o')?.trim_start_matches(|c: char| c.is_ascii_digit());
            let digits = name.len() - 1 - rest.len();
            rest = rest.strip_prefix('-').unwrap_or(rest);
            (digits == 1 && (rest.is_empty() || name[2..].starts_with('-'))).then_some(())
        };
        if is_o(name).is_some() {
            return Some(Reasoning::OSeries);
        }
        let rest = name.strip_prefix("gpt-5")?;
        if rest.contains("chat") {
            return None;
        }
        match rest.as_bytes().first() {
            Some(b'.') => Some(Reasoning::MayBeOff),
            None | Some(b'-') => Some(Reasoning::Always),
            Some(_) => None,
        }
    }
}

/// Copies an answer that is in the client's dialect already, for callers that do not care which
/// dialect a provider speaks.
struct PassThrough {
    tap: StreamTap,
    usage: Option<Usage>,
}

/// What a watched stream's error is to a decoder's caller.
impl From<TapError> for DecodeError {
    fn from(error: TapError) -> Self {
        match error {
            TapError::Malformed(what) => DecodeError::Malformed(what.to_owned()),
            TapError::Truncated => DecodeError::Truncated,
            TapError::Reported(json) => DecodeError::Reported(read_error(200, &json)),
        }
    }
}

impl Decoder for PassThrough {
    fn whole(&mut self, body: &[u8]) -> Result<Vec<u8>, DecodeError> {
        let trimmed = body.trim_ascii();
        if !(trimmed.starts_with(b"{") && trimmed.ends_with(b"}")) {
            return Err(DecodeError::Malformed("the answer is not a JSON object".into()));
        }
        self.usage = usage_of_body(body);
        Ok(body.to_vec())
    }

    fn stream(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
        let bytes = Bytes::copy_from_slice(bytes);
        Ok(self.tap.push(&bytes, |piece| out.extend_from_slice(&piece))?)
    }

    fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), DecodeError> {
        Ok(self.tap.end(|piece| out.extend_from_slice(&piece))?)
    }

    fn usage(&self) -> Option<Usage> {
        self.usage.or_else(|| self.tap.usage())
    }
}

#[cfg(test)]
mod tests;
