//! Every provider whose API is OpenAI's: a client's request is spliced, never parsed, and the answer
//! passes through. What differs between them is data, in [`crate::presets`].
//!
//! Only a request that we translated from another dialect is read as a whole (`translated.rs`), and
//! Mistral, which differs in more than words, has a file of its own.

use std::borrow::Cow;

use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue};
use serde_json::{Map, Value};
use tollway_wire::operation::{Dialect, Operation};
use tollway_wire::scan::{Limits, scan};
use tollway_wire::splice::{Edits, json_string};

use crate::azure::segment;
use crate::presets::Preset;
use crate::prices;
use crate::rerank::RerankDecoder;
use crate::{
    Access, AccessError, Asked, Call, Decoder, Place, Provider, RequestError, Target, UpstreamBody,
    UpstreamError, header, secret_header,
};

mod error;
mod form;
mod mistral;
mod reasoning;
mod translated;

pub(crate) use error::{bounded, read_error};
use reasoning::Reasoning;

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
pub(crate) fn listed(call: &Call<'_>, member: &str) -> Vec<String> {
    let raw = call.object.raw(call.body, member);
    raw.and_then(|json| serde_json::from_slice(json).ok()).unwrap_or_default()
}

impl Provider for Preset {
    fn name(&self) -> &'static str {
        self.name
    }

    fn dialect(&self, operation: Operation, client: Dialect, model: &str) -> Option<Dialect> {
        let quirks = &self.quirks;
        if operation == Operation::Completions && self.only_chats(model) {
            return None;
        }
        if operation == Operation::ChatCompletions
            && client == Dialect::Responses
            && quirks.responses
        {
            return Some(Dialect::Responses);
        }
        quirks.operations.contains(&operation).then_some(Dialect::OpenAi)
    }

    fn default_base(&self, _access: &Access<'_>) -> Option<Cow<'static, str>> {
        self.base.map(Cow::Borrowed)
    }

    fn base<'b>(&self, written: &'b str) -> Cow<'b, str> {
        let mut base = written.trim_end_matches('/');
        // People write the whole URL of a call, as its documentation shows it.
        let paths = Operation::ALL.iter().map(|operation| operation.path()).chain(["/responses"]);
        // `/chat/completions` ends in `/completions` and comes first.
        if let Some(rest) = paths.filter_map(|path| base.strip_suffix(path)).next() {
            base = rest;
        }
        match self.quirks.base_lacks_v1 && !base.ends_with("/v1") {
            true => Cow::Owned(format!("{base}/v1")),
            false => Cow::Borrowed(base),
        }
    }

    fn path(&self, place: &Place<'_>, _access: &Access<'_>) -> Cow<'static, str> {
        Cow::Borrowed(match place.dialect {
            Dialect::Responses => "/responses",
            _ => place.operation.path(),
        })
    }

    fn stored_path(&self, path: &str, _access: &Access<'_>) -> Option<String> {
        Some(path.to_owned())
    }

    fn realtime_path(&self, model: &str, _access: &Access<'_>) -> Option<String> {
        Some(format!("/realtime?model={}", segment(model)))
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

    fn headers(&self, access: &Access<'_>) -> Result<Vec<(HeaderName, HeaderValue)>, AccessError> {
        let mut headers = Vec::new();
        if let Some(key) = access.api_key {
            headers.push((AUTHORIZATION, secret_header("api_key", &format!("Bearer {key}"))?));
        }
        if let Some(organization) = access.organization {
            let name = HeaderName::from_static("openai-organization");
            headers.push((name, header("organization", organization)?));
        }
        Ok(headers)
    }

    fn request(&self, call: &Call<'_>, target: &Target) -> Result<UpstreamBody, RequestError> {
        if let Some(form) = call.form {
            return form::with_model(form, &target.model);
        }
        let is_chat =
            call.operation == Operation::ChatCompletions && call.dialect == Dialect::OpenAi;
        if !call.translated || !is_chat || self.quirks.middle_form {
            return self.splice(call, target);
        }
        let body = translated::adapt(self, target, call.body)?;
        let object = scan(&body, &Limits::default())
            .map_err(|error| RequestError::Invalid { message: error.to_string(), param: None })?;
        self.splice(&Call { body: &body, object: &object, ..*call }, target)
    }

    fn decoder(&self, place: &Place<'_>, asked: Asked) -> Option<Box<dyn Decoder>> {
        match place.operation {
            // OpenAI itself has no rankings, so those who do have each their own shape.
            Operation::Rerank => Some(Box::new(RerankDecoder::default())),
            Operation::ChatCompletions if self.quirks.mistral && mistral::reasons(place.model) => {
                Some(Box::new(mistral::MistralDecoder::new(asked)))
            }
            _ => None,
        }
    }

    fn error(&self, status: u16, body: &[u8]) -> UpstreamError {
        read_error(status, body)
    }
}

impl Preset {
    /// Whether this is a model of OpenAI's that its `/completions` refuses. What is not in the table
    /// is asked there: somebody's own server.
    fn only_chats(&self, model: &str) -> bool {
        matches!(self.name, "openai" | "azure")
            && prices::find(self.name, model).is_some_and(|info| info.mode == "chat")
    }

    /// The client's body with the few members changed that must be.
    fn splice(&self, call: &Call<'_>, target: &Target) -> Result<UpstreamBody, RequestError> {
        let removed = self.removed_members(call);
        let mut edits = Edits::new();
        removed.iter().for_each(|name| edits.remove(name));
        if call.object.str(call.body, "model").as_deref() != Some(&target.model) {
            edits.set("model", json_string(&target.model));
        }
        let is_text = matches!(call.operation, Operation::ChatCompletions | Operation::Completions);
        if is_text && call.dialect == Dialect::OpenAi {
            self.rename_members(call, target, &mut edits);
            self.apply_reasoning_rules(call, target, &mut edits)?;
            self.apply_mistral_rules(call, target, &mut edits);
        } else if call.operation == Operation::Rerank {
            self.rename_members(call, target, &mut edits);
        }
        let usage_added = self.ask_for_usage(call, &mut edits);
        let mut pieces = edits.pieces(call.body, call.object).into_iter();
        let bytes = pieces.next().unwrap_or_default();
        Ok(UpstreamBody { usage_added, rest: pieces.collect(), ..UpstreamBody::plain(bytes) })
    }

    /// The members to take out: what is the gateway's, what the client wants dropped, and what this
    /// provider refuses although it changes nothing.
    fn removed_members<'a>(&self, call: &Call<'a>) -> Vec<Cow<'a, str>> {
        let dropped = listed(call, "additional_drop_params");
        // OpenAI refuses `metadata` unless the answer is stored, and LiteLLM's users put their own
        // there (platform.openai.com/docs/api-reference/chat/create, 2026-11). Responses are stored
        // unless told otherwise.
        let store = call.object.bool(call.body, "store");
        let keeps_metadata = store.unwrap_or(call.dialect == Dialect::Responses);
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
        if !reasoning.may_sample(effort.as_deref())
            && number("temperature").is_some_and(|value| value != 1.0)
        {
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

    /// Mistral's forms of a conversation and of efforts.
    fn apply_mistral_rules(&self, call: &Call<'_>, target: &Target, edits: &mut Edits<'_>) {
        if !self.quirks.mistral {
            return;
        }
        let messages = call.object.raw(call.body, "messages");
        if let Some(messages) = messages.and_then(|raw| mistral::messages(raw, &target.model)) {
            edits.set("messages", messages);
        }
        if let Some(effort) = call.object.str(call.body, "reasoning_effort")
            && call.translated
        {
            match mistral::effort(&target.model, &effort) {
                Some(effort) => edits.set("reasoning_effort", json_string(effort)),
                None => edits.remove("reasoning_effort"),
            }
        }
    }

    /// Asks for usage in a stream, so that every stream is metered with real numbers. Returns
    /// whether the client had not.
    ///
    /// Only text has `stream_options` (platform.openai.com/docs/api-reference, 2026-11): streamed
    /// responses, images, speech and transcriptions end with an event that has the usage.
    fn ask_for_usage(&self, call: &Call<'_>, edits: &mut Edits<'_>) -> bool {
        let is_text = matches!(call.operation, Operation::ChatCompletions | Operation::Completions);
        if !is_text || call.dialect != Dialect::OpenAi {
            return false;
        }
        let options = call.object.raw(call.body, "stream_options");
        if !call.stream || !self.quirks.stream_options {
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

#[cfg(test)]
mod tests;
