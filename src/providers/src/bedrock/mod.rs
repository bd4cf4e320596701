//! Amazon Bedrock: any model by Converse, Claude also by InvokeModel, embeddings.
//!
//! Facts from <https://docs.aws.amazon.com/bedrock/latest/APIReference/welcome.html> and the service
//! model that AWS ships with its SDKs (`bedrock-runtime/2023-09-30/service-2.json` of botocore), and
//! LiteLLM's conventions for names and for what OpenAI's dialect has no word for; read 2026-11. Each
//! quirk is told where it is handled.
//!
//! | Who asks, for what | Call |
//! |---|---|
//! | a client of OpenAI's chat, for any model | `/converse`, `/converse-stream` |
//! | a client of Anthropic's API, for a Claude | `/invoke`, `/invoke-with-response-stream` |
//! | anybody, for a Claude named `invoke/…` | the same |
//! | anybody, for a model named `converse/…` | `/converse`, `/converse-stream` |
//! | a client of Anthropic's API that counts tokens | `/count-tokens` |
//! | embeddings of Titan and Cohere | `/invoke` |
//!
//! Calls carry a bearer key, or a signature of version 4.

use std::borrow::Cow;

use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue};
use tollway_wire::operation::{Dialect, Operation};

use crate::{
    Access, AccessError, Asked, Call, Decoder, Place, Provider, RequestError, Setting, Target,
    Unsigned, UpstreamBody, UpstreamError, header, secret_header,
};

mod body;
mod embeddings;
mod error;
mod format;
mod frames;
mod invoke;
mod media;
mod messages;
mod model;
mod request;
mod response;
mod sigv4;
mod stream;
mod thinking;
mod tools;
mod usage;

use embeddings::Form;
use model::{Family, Model, Route};

const NAME: &str = "bedrock";

/// The region where nothing says another: LiteLLM's.
const REGION_DEFAULT: &str = "us-west-2";

/// What requests are signed for.
const SERVICE: &str = "bedrock";

const DATE_HEADER: HeaderName = HeaderName::from_static("x-amz-date");
const CONTENT_HEADER: HeaderName = HeaderName::from_static("x-amz-content-sha256");
const TOKEN_HEADER: HeaderName = HeaderName::from_static("x-amz-security-token");

const SETTINGS: &[Setting] = &[
    setting("aws_access_key_id", &["AWS_ACCESS_KEY_ID"], false),
    setting("aws_secret_access_key", &["AWS_SECRET_ACCESS_KEY"], true),
    setting("aws_session_token", &["AWS_SESSION_TOKEN"], true),
    setting("aws_region_name", &["AWS_REGION_NAME", "AWS_REGION", "AWS_DEFAULT_REGION"], false),
    setting("aws_bedrock_runtime_endpoint", &["AWS_BEDROCK_RUNTIME_ENDPOINT"], false),
];

const fn setting(name: &'static str, variables: &'static [&'static str], secret: bool) -> Setting {
    Setting { name, variables, secret }
}

/// Amazon Bedrock.
#[derive(Clone, Copy, Debug)]
pub struct Bedrock;

impl Provider for Bedrock {
    fn name(&self) -> &'static str {
        NAME
    }

    fn dialect(&self, operation: Operation, client: Dialect, model: &str) -> Option<Dialect> {
        let model = Model::of(model);
        let is_claude = model.family() == Family::Claude;
        match operation {
            Operation::ChatCompletions => {
                let passes = client == Dialect::Anthropic
                    && is_claude
                    && model.route != Some(Route::Converse);
                Some(if passes { Dialect::Anthropic } else { Dialect::OpenAi })
            }
            Operation::CountTokens => {
                (client == Dialect::Anthropic && is_claude).then_some(Dialect::Anthropic)
            }
            Operation::Embeddings => Form::of(&model).map(|_| Dialect::OpenAi),
            _ => None,
        }
    }

    fn inputs_per_call(&self, operation: Operation, model: &str) -> Option<usize> {
        let form = Form::of(&Model::of(model)).filter(|_| operation == Operation::Embeddings)?;
        Some(if form == Form::Cohere { embeddings::COHERE_TEXTS_MAX } else { 1 })
    }

    fn default_base(&self, access: &Access<'_>) -> Option<Cow<'static, str>> {
        base_in(access, None)
    }

    fn model_base(&self, model: &str, access: &Access<'_>) -> Option<Cow<'static, str>> {
        base_in(access, Model::of(model).region)
    }

    fn base<'b>(&self, written: &'b str) -> Cow<'b, str> {
        Cow::Borrowed(trim_base(written))
    }

    fn path(&self, place: &Place<'_>, _access: &Access<'_>) -> Cow<'static, str> {
        let model = Model::of(place.model);
        let call = match (place.operation, invokes(place.operation, place.dialect, &model)) {
            (Operation::CountTokens, _) => "count-tokens",
            (_, true) if place.stream => "invoke-with-response-stream",
            (_, true) => "invoke",
            (_, false) if place.stream => "converse-stream",
            (_, false) => "converse",
        };
        Cow::Owned(model.path(call))
    }

    fn key_variables(&self) -> &'static [&'static str] {
        &["AWS_BEARER_TOKEN_BEDROCK"]
    }

    fn base_variables(&self) -> &'static [&'static str] {
        &["AWS_BEDROCK_RUNTIME_ENDPOINT"]
    }

    fn settings(&self) -> &'static [Setting] {
        SETTINGS
    }

    fn needs_key(&self) -> bool {
        false
    }

    fn headers(&self, access: &Access<'_>) -> Result<Vec<(HeaderName, HeaderValue)>, AccessError> {
        if let Some(region) = access.setting("aws_region_name")
            && !model::is_region(region)
        {
            return Err(AccessError::new("aws_region_name", "is not the name of a region"));
        }
        if let Some(key) = access.api_key {
            let value = secret_header("api_key", &format!("Bearer {key}"))?;
            return Ok(vec![(AUTHORIZATION, value)]);
        }
        Keys::of(access)?;
        Ok(Vec::new())
    }

    fn sign(
        &self,
        request: &Unsigned<'_>,
        access: &Access<'_>,
    ) -> Result<Vec<(HeaderName, HeaderValue)>, AccessError> {
        if !self.signs(access) {
            return Ok(Vec::new());
        }
        let keys = Keys::of(access)?;
        // Where the call goes says it best: the model may have named a region of its own.
        let region = region_of_host(request.host).or_else(|| access.setting("aws_region_name"));
        let signer = sigv4::Signer {
            access_key: keys.access_key,
            secret_key: keys.secret_key,
            session_token: keys.session_token,
            region: region.unwrap_or(REGION_DEFAULT),
            service: SERVICE,
        };
        let signed = signer.sign(&sigv4::Request {
            method: "POST",
            host: request.host,
            path_and_query: request.path_and_query,
            body: request.body,
            now: request.now,
        });
        let mut headers = vec![
            (AUTHORIZATION, secret_header("aws_access_key_id", &signed.authorization)?),
            (DATE_HEADER, header("aws_access_key_id", &signed.date)?),
            (CONTENT_HEADER, header("aws_access_key_id", &signed.content_hash)?),
        ];
        if let Some(token) = keys.session_token {
            headers.push((TOKEN_HEADER, secret_header("aws_session_token", token)?));
        }
        Ok(headers)
    }

    fn signs(&self, access: &Access<'_>) -> bool {
        access.api_key.is_none()
    }

    fn request(&self, call: &Call<'_>, target: &Target) -> Result<UpstreamBody, RequestError> {
        let model = Model::of(&target.model);
        model.check()?;
        let is_invoke = invokes(call.operation, call.dialect, &model);
        match (call.operation, Form::of(&model)) {
            (Operation::CountTokens, _) => Ok(invoke::count_tokens(call)),
            (Operation::Embeddings, Some(form)) => embeddings::translate(call, target, form),
            (Operation::ChatCompletions, _) if call.dialect == Dialect::Anthropic => {
                Ok(invoke::translate(call))
            }
            (Operation::ChatCompletions, _) if is_invoke => {
                invoke::translate_chat(call, target, &model)
            }
            (Operation::ChatCompletions, _) => request::translate(call, target, &model),
            (operation, _) => Err(RequestError::Invalid {
                message: format!("bedrock has no {} for this model", operation.name()),
                param: Some("model".into()),
            }),
        }
    }

    fn decoder(&self, place: &Place<'_>, asked: Asked) -> Option<Box<dyn Decoder>> {
        let model = Model::of(place.model);
        Some(match place.operation {
            Operation::Embeddings => Box::new(embeddings::EmbeddingsDecoder::new(asked)),
            Operation::CountTokens => Box::new(invoke::CountDecoder),
            operation if invokes(operation, place.dialect, &model) => {
                Box::new(invoke::InvokeDecoder::new(place, asked))
            }
            _ => Box::new(stream::ConverseDecoder::new(asked)),
        })
    }

    fn error(&self, status: u16, body: &[u8]) -> UpstreamError {
        error::read_error(status, body)
    }
}

/// Whether a call takes the vendor's own form, by InvokeModel.
fn invokes(operation: Operation, dialect: Dialect, model: &Model<'_>) -> bool {
    let is_claude = model.family() == Family::Claude;
    operation == Operation::Embeddings
        || dialect == Dialect::Anthropic
        || (is_claude && model.route == Some(Route::Invoke))
}

/// The base in a region: the model's, else the operator's.
fn base_in(access: &Access<'_>, region: Option<&str>) -> Option<Cow<'static, str>> {
    if let Some(endpoint) = access.setting("aws_bedrock_runtime_endpoint") {
        return Some(Cow::Owned(trim_base(endpoint).to_owned()));
    }
    let region = region.or_else(|| access.setting("aws_region_name")).unwrap_or(REGION_DEFAULT);
    // It becomes a part of the host's name.
    if !model::is_region(region) {
        return None;
    }
    let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    Some(Cow::Owned(format!("https://bedrock-runtime.{region}.{domain}")))
}

fn trim_base(written: &str) -> &str {
    let base = written.trim_end_matches('/');
    base.strip_suffix("/model").unwrap_or(base).trim_end_matches('/')
}

/// The region of one of AWS's hosts: `bedrock-runtime.us-east-1.amazonaws.com`, also with `-fips`
/// or as an interface endpoint.
fn region_of_host(host: &str) -> Option<&str> {
    let host = host.split(':').next()?;
    if !host.contains(".amazonaws.") && !host.ends_with(".api.aws") {
        return None;
    }
    host.split('.').find(|part| model::is_region(part))
}

/// What signatures are made with. It does not print.
struct Keys<'a> {
    access_key: &'a str,
    secret_key: &'a str,
    session_token: Option<&'a str>,
}

impl<'a> Keys<'a> {
    fn of(access: &'a Access<'_>) -> Result<Keys<'a>, AccessError> {
        let need = |name: &'static str| {
            let missing = || {
                AccessError::new(
                    name,
                    "is missing: bedrock needs it together with the other half of the key, or an \
                     `api_key` (AWS_BEARER_TOKEN_BEDROCK)",
                )
            };
            access.setting(name).ok_or_else(missing)
        };
        Ok(Keys {
            access_key: need("aws_access_key_id")?,
            secret_key: need("aws_secret_access_key")?,
            session_token: access.setting("aws_session_token"),
        })
    }
}

/// OpenAI's `finish_reason` for Bedrock's `stopReason`, as LiteLLM maps them.
fn finish_reason(stop_reason: Option<&str>) -> &'static str {
    match stop_reason {
        Some("max_tokens" | "model_context_window_exceeded") => "length",
        Some("tool_use") => "tool_calls",
        // The third is Anthropic's, which Converse passes on; the last is OpenAI's, which servers
        // that resemble Bedrock say.
        Some("guardrail_intervened" | "content_filtered" | "refusal" | "content_filter") => {
            "content_filter"
        }
        _ => "stop",
    }
}

#[cfg(test)]
mod tests;
