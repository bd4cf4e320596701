//! Google Cloud's Vertex AI: Gemini's models, and behind the same credentials Anthropic's and those of
//! other makers.
//!
//! Facts from <https://docs.cloud.google.com/vertex-ai/generative-ai/docs/model-reference/inference>,
//! <https://platform.claude.com/docs/en/build-with-claude/claude-on-vertex-ai> and LiteLLM's
//! `llms/vertex_ai`; read 2026-11.

use std::borrow::Cow;
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue};
use tollway_wire::operation::{Dialect, Operation};

use crate::gemini::{self, Api, EmbeddingDecoder, check_name, segment};
use crate::presets::{Preset, preset};
use crate::{
    Access, AccessError, Asked, Call, Decoder, Place, Provider, RequestError, Setting, Target,
    TokenRequest, UpstreamBody, UpstreamError, secret_header,
};

mod claude;
mod credentials;
mod predict;

use credentials::Credentials;

/// Where calls go when nobody says where; LiteLLM's.
const LOCATION: &str = "us-central1";

const SETTINGS: &[Setting] = &[
    Setting {
        name: "vertex_project",
        variables: &["VERTEXAI_PROJECT", "VERTEX_PROJECT", "GOOGLE_CLOUD_PROJECT"],
        secret: false,
    },
    Setting {
        name: "vertex_location",
        variables: &["VERTEXAI_LOCATION", "VERTEX_LOCATION", "GOOGLE_CLOUD_LOCATION"],
        secret: false,
    },
    // The JSON of a service account or of a user's own login. The last variable names a file, which
    // the gateway reads.
    Setting {
        name: "vertex_credentials",
        variables: &[
            "VERTEXAI_CREDENTIALS",
            "VERTEX_CREDENTIALS",
            "GOOGLE_APPLICATION_CREDENTIALS",
        ],
        secret: true,
    },
    // Where tokens are asked for, where it is not Google: a proxy of the operator's own.
    Setting { name: "vertex_token_uri", variables: &[], secret: false },
];

/// What a model's name says about who made it and how it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Gemini,
    Claude,
    /// Another maker's, named `meta/llama-…`: they are called as OpenAI's are.
    Compatible,
}

impl Family {
    fn of(model: &str) -> Family {
        let model = bare(model);
        let is_maker = |maker: &str| !maker.is_empty() && maker.bytes().all(is_label);
        match model.split_once('/') {
            Some((maker, name)) if is_maker(maker) && check_name(name).is_ok() => {
                Family::Compatible
            }
            _ if model.to_ascii_lowercase().contains("claude") => Family::Claude,
            _ => Family::Gemini,
        }
    }
}

/// OpenAI's dialect without anything special.
fn compatible() -> &'static Preset {
    preset("openai_like").expect("it is in the table")
}

fn is_label(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'
}

/// Vertex AI, under one of the names LiteLLM has for it.
#[derive(Clone, Copy, Debug)]
pub struct Vertex {
    name: &'static str,
}

impl Vertex {
    /// Vertex AI under this name.
    pub(crate) const fn new(name: &'static str) -> Vertex {
        Vertex { name }
    }
}

fn location<'a>(access: &Access<'a>) -> &'a str {
    access.settings.get("vertex_location").filter(|set| !set.is_empty()).unwrap_or(LOCATION)
}

/// A place's name becomes part of a host's, so it must not hold anything else.
fn is_location(text: &str) -> bool {
    !text.is_empty() && text.len() <= 40 && text.bytes().all(is_label)
}

/// The project: as it is set, or the one the credentials belong to.
fn project(access: &Access<'_>) -> Option<String> {
    match access.setting("vertex_project") {
        Some(project) => Some(project.to_owned()),
        None => Credentials::of(access).ok()??.project().map(str::to_owned),
    }
}

/// A model's name without what LiteLLM's users write before it.
fn bare(model: &str) -> &str {
    let model = model
        .strip_prefix("publishers/")
        .map_or(model, |rest| rest.split_once("/models/").map_or(rest, |(_, name)| name));
    model.strip_prefix("gemini/").or_else(|| model.strip_prefix("models/")).unwrap_or(model)
}

/// The target by the name the API has for its model.
fn with_bare_name(target: &Target) -> Target {
    Target { model: bare(&target.model).to_owned(), ..target.clone() }
}

impl Provider for Vertex {
    fn name(&self) -> &'static str {
        self.name
    }

    fn dialect(&self, operation: Operation, client: Dialect, model: &str) -> Option<Dialect> {
        match Family::of(model) {
            Family::Claude => claude::dialect(operation, client),
            Family::Compatible => {
                (operation == Operation::ChatCompletions).then_some(Dialect::OpenAi)
            }
            Family::Gemini if operation == Operation::Embeddings => Some(Dialect::OpenAi),
            Family::Gemini => gemini::dialect(operation, client),
        }
    }

    fn inputs_per_call(&self, operation: Operation, model: &str) -> Option<usize> {
        (operation == Operation::Embeddings).then(|| predict::inputs_per_call(model))
    }

    fn default_base(&self, access: &Access<'_>) -> Option<Cow<'static, str>> {
        let location = location(access);
        Some(match location {
            "global" => Cow::Borrowed("https://aiplatform.googleapis.com"),
            // The multi-regions have a domain of their own.
            "us" | "eu" => Cow::Owned(format!("https://aiplatform.{location}.rep.googleapis.com")),
            _ if is_location(location) => {
                Cow::Owned(format!("https://{location}-aiplatform.googleapis.com"))
            }
            _ => return None,
        })
    }

    fn base<'b>(&self, written: &'b str) -> Cow<'b, str> {
        let base = written.trim_end_matches('/');
        let base = base.split_once("/projects/").map_or(base, |(base, _)| base);
        let base =
            base.strip_suffix("/v1beta1").or_else(|| base.strip_suffix("/v1")).unwrap_or(base);
        Cow::Borrowed(base.trim_end_matches('/'))
    }

    fn path(&self, place: &Place<'_>, access: &Access<'_>) -> Cow<'static, str> {
        let version = match access.api_version {
            Some("v1beta1") => "v1beta1",
            _ => "v1",
        };
        let project = segment(&project(access).unwrap_or_default());
        let location = segment(location(access));
        let model = bare(place.model);
        let name = segment(model);
        let call = match Family::of(model) {
            Family::Claude => claude::call(&name, place),
            Family::Compatible => "endpoints/openapi/chat/completions".to_owned(),
            // A tuned model is an endpoint by its number.
            Family::Gemini if model.bytes().all(|byte| byte.is_ascii_digit()) => {
                format!("endpoints/{name}{}", gemini::method(place))
            }
            Family::Gemini => {
                let method = match place.operation {
                    Operation::Embeddings => predict::method(model),
                    _ => gemini::method(place),
                };
                format!("publishers/google/models/{name}{method}")
            }
        };
        Cow::Owned(format!("/{version}/projects/{project}/locations/{location}/{call}"))
    }

    fn key_variables(&self) -> &'static [&'static str] {
        &[]
    }

    fn base_variables(&self) -> &'static [&'static str] {
        &["VERTEXAI_API_BASE", "VERTEX_API_BASE"]
    }

    fn settings(&self) -> &'static [Setting] {
        SETTINGS
    }

    fn needs_key(&self) -> bool {
        false
    }

    fn headers(&self, access: &Access<'_>) -> Result<Vec<(HeaderName, HeaderValue)>, AccessError> {
        if !is_location(location(access)) {
            return Err(AccessError::new("vertex_location", "is no location of Google's"));
        }
        let credentials = Credentials::of(access)?;
        if project(access).is_none() {
            let message = "is not set, and the credentials do not name a project";
            return Err(AccessError::new("vertex_project", message));
        }
        match (access.api_key, credentials) {
            (Some(token), _) => {
                let value = secret_header("api_key", &format!("Bearer {token}"))?;
                Ok(vec![(AUTHORIZATION, value)])
            }
            (None, Some(credentials)) => {
                // Whether they can be used is found now and not with the first call.
                credentials.check(access)?;
                Ok(Vec::new())
            }
            (None, None) => Err(AccessError::new(
                "vertex_credentials",
                "is not set, and there is no token in api_key; set it to a service account's JSON, or let GOOGLE_APPLICATION_CREDENTIALS name its file",
            )),
        }
    }

    fn token_request(
        &self,
        access: &Access<'_>,
        now: Duration,
    ) -> Result<Option<TokenRequest>, AccessError> {
        if access.api_key.is_some() {
            return Ok(None);
        }
        Credentials::of(access)?
            .map(|credentials| credentials.token_request(access, now))
            .transpose()
    }

    fn request(&self, call: &Call<'_>, target: &Target) -> Result<UpstreamBody, RequestError> {
        let target = &with_bare_name(target);
        match Family::of(&target.model) {
            Family::Claude => return claude::request(call, target),
            Family::Compatible => return compatible().request(call, target),
            Family::Gemini => {}
        }
        match (call.dialect, call.operation) {
            (Dialect::Gemini, _) => gemini::native_request(call, target, Api::Vertex),
            (_, Operation::Embeddings) => predict::request(call, target),
            _ => gemini::translate(call, target, Api::Vertex),
        }
    }

    fn decoder(&self, place: &Place<'_>, asked: Asked) -> Option<Box<dyn Decoder>> {
        let place = &Place { model: bare(place.model), ..*place };
        match (Family::of(place.model), place.operation) {
            (Family::Claude, _) => claude::decoder(place, asked),
            (Family::Compatible, _) => None,
            (_, Operation::Embeddings) => Some(Box::new(EmbeddingDecoder::new(asked, false))),
            _ => gemini::decoder(place, asked),
        }
    }

    fn error(&self, status: u16, body: &[u8]) -> UpstreamError {
        claude::error(status, body).unwrap_or_else(|| gemini::read_error(status, body))
    }

    fn retry_after(&self, body: &[u8]) -> Option<Duration> {
        gemini::retry_delay(body)
    }
}

#[cfg(test)]
mod tests;
