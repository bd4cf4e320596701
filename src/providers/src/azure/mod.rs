//! OpenAI's models on Azure, and the models of others on Azure AI Foundry.
//!
//! Facts from <https://learn.microsoft.com/azure/ai-foundry/openai/reference>,
//! `…/openai/api-version-lifecycle` and `…/model-inference/reference/reference-model-inference-api`,
//! names of settings and defaults from LiteLLM (1.109.1, `llms/azure`, `llms/azure_ai`); read
//! 2026-11. The dialect is OpenAI's, so requests and errors are those of [`crate::openai`]; what
//! differs is where a call goes and how it is let in.
//!
//! Three kinds of addresses are known, by the form of the base and by `api_version`:
//!
//! - `{base}/openai/deployments/{deployment}/…?api-version=2025-04-01-preview`: dated versions.
//! - `{base}/openai/v1/…`: when the version is `v1`, `latest` or `preview`, or the base ends so.
//! - `{base}/models/…?api-version=2024-05-01-preview`: Foundry's own API, on `services.ai.azure.com`.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue};
use tollway_wire::operation::{Dialect, Operation};
use tollway_wire::scan::{Limits, scan};
use tollway_wire::splice::{Edits, json_string};

use crate::presets::{self, Preset, Quirks};
use crate::{
    Access, AccessError, Asked, Call, Decoder, Place, Provider, RequestError, Setting, Target,
    TokenRequest, UpstreamBody, UpstreamError, secret_header,
};

#[cfg(test)]
mod tests;

/// The version where none is set: the last dated one, after which Azure has had only `v1`
/// (learn.microsoft.com/azure/ai-foundry/openai/api-version-lifecycle, 2026-11).
const VERSION: &str = "2025-04-01-preview";

/// The first dated version that has the Responses API; older ones are LiteLLM users' who set one for
/// chat, and their responses go to `v1`.
const RESPONSES_SINCE: &str = "2025-03-01";

/// The version of Foundry's own API
/// (learn.microsoft.com/azure/ai-foundry/model-inference/reference, 2026-11).
const FOUNDRY_VERSION: &str = "2024-05-01-preview";

/// What tokens are asked for, and where.
const SCOPE: &str = "https://cognitiveservices.azure.com/.default";
const AUTHORITY: &str = "https://login.microsoftonline.com";

const KEY_HEADER: HeaderName = HeaderName::from_static("api-key");

const SETTINGS: &[Setting] = &[
    Setting { name: "azure_ad_token", variables: &["AZURE_AD_TOKEN"], secret: true },
    Setting { name: "tenant_id", variables: &["AZURE_TENANT_ID"], secret: false },
    Setting { name: "client_id", variables: &["AZURE_CLIENT_ID"], secret: false },
    Setting { name: "client_secret", variables: &["AZURE_CLIENT_SECRET"], secret: true },
    Setting { name: "azure_scope", variables: &["AZURE_SCOPE"], secret: false },
    Setting { name: "azure_authority_host", variables: &["AZURE_AUTHORITY_HOST"], secret: false },
];

/// One of Azure's APIs.
#[derive(Debug)]
pub struct Azure {
    preset: Preset,
    foundry: bool,
}

impl Azure {
    /// OpenAI's models: `azure`.
    pub const OPENAI: Azure = Azure::of("azure", presets::AZURE, false);
    /// OpenAI's legacy completions: `azure_text`.
    pub const TEXT: Azure = Azure::of("azure_text", presets::AZURE_TEXT, false);
    /// The models of others: `azure_ai`.
    pub const FOUNDRY: Azure = Azure::of("azure_ai", presets::AZURE_AI, true);

    const fn of(name: &'static str, quirks: Quirks, foundry: bool) -> Azure {
        let (key_variables, base_variables): (&[&str], &[&str]) = if foundry {
            (&["AZURE_AI_API_KEY"], &["AZURE_AI_API_BASE"])
        } else {
            (
                &["AZURE_OPENAI_API_KEY", "AZURE_API_KEY"],
                &["AZURE_API_BASE", "AZURE_OPENAI_ENDPOINT"],
            )
        };
        let base = None;
        let preset = Preset { name, base, key_variables, base_variables, free: false, quirks };
        Azure { preset, foundry }
    }

    /// Which API a call goes to.
    fn api<'a>(&self, access: &Access<'a>) -> Api<'a> {
        let written = access.api_base.unwrap_or_default();
        let (written, query) = written.split_once('?').unwrap_or((written, ""));
        let of_query = query.split('&').filter_map(|pair| pair.strip_prefix("api-version=")).next();
        let version = of_query.or(access.api_version).filter(|version| !version.is_empty());
        // Bases end with `/openai/v1`, or with a call below it.
        if written.contains("/openai/v1") {
            return Api::V1 { preview: false };
        }
        match version {
            Some("v1" | "latest") => return Api::V1 { preview: false },
            Some("preview") => return Api::V1 { preview: true },
            _ => {}
        }
        if !self.foundry || written.contains("/openai/deployments") || is_host(written, OPENAI_HOST)
        {
            return Api::Deployments { version: version.unwrap_or(VERSION) };
        }
        match is_host(written, FOUNDRY_HOST) || written.is_empty() {
            true => Api::Foundry { version: version.unwrap_or(FOUNDRY_VERSION) },
            // A model with an address of its own.
            false => Api::Serverless { version },
        }
    }
}

const OPENAI_HOST: &str = ".openai.azure.com";
const FOUNDRY_HOST: &str = ".services.ai.azure.com";

fn is_host(url: &str, suffix: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = rest.split(['/', ':', '?', '#']).next().unwrap_or_default();
    host.to_ascii_lowercase().ends_with(suffix)
}

/// The APIs there are.
enum Api<'a> {
    Deployments { version: &'a str },
    V1 { preview: bool },
    Foundry { version: &'a str },
    Serverless { version: Option<&'a str> },
}

impl Provider for Azure {
    fn name(&self) -> &'static str {
        self.preset.name
    }

    fn dialect(&self, operation: Operation, client: Dialect, model: &str) -> Option<Dialect> {
        self.preset.dialect(operation, client, model)
    }

    fn default_base(&self, _access: &Access<'_>) -> Option<Cow<'static, str>> {
        None
    }

    /// The resource: what people copy from Azure's portal is the address of a whole call.
    fn base<'b>(&self, written: &'b str) -> Cow<'b, str> {
        let base = written.split(['?', '#']).next().unwrap_or_default();
        let cut = ["/openai/", "/models/"].iter().find_map(|part| base.find(part));
        let base = cut.map_or(base, |at| &base[..at]).trim_end_matches('/');
        let base = base.strip_suffix("/openai").unwrap_or(base);
        let base = base.strip_suffix("/models").unwrap_or(base);
        let serverless = base.strip_suffix(Operation::ChatCompletions.path()).unwrap_or(base);
        Cow::Borrowed(serverless)
    }

    fn path(&self, place: &Place<'_>, access: &Access<'_>) -> Cow<'static, str> {
        let is_responses = place.dialect == Dialect::Responses;
        let operation = if is_responses { "/responses" } else { place.operation.path() };
        let mut path = String::new();
        let version = match self.api(access) {
            Api::Deployments { version } if is_responses => {
                // `get` because a version may be anything, and cut anywhere.
                if version.get(..10).is_some_and(|date| date >= RESPONSES_SINCE)
                    && version.starts_with("20")
                    && access.api_version.is_some()
                {
                    path.push_str("/openai/responses");
                    Some(version)
                } else {
                    path.push_str("/openai/v1/responses");
                    None
                }
            }
            Api::Deployments { version } => {
                path.push_str("/openai/deployments/");
                path.push_str(&segment(deployment(place.model)));
                path.push_str(operation);
                Some(version)
            }
            Api::V1 { preview } => {
                path.push_str("/openai/v1");
                path.push_str(operation);
                preview.then_some("preview")
            }
            Api::Foundry { version } => {
                // Cohere's rerank is beside the common API (LiteLLM `llms/azure_ai/rerank`, 2026-11).
                if place.operation == Operation::Rerank {
                    path.push_str("/v1/rerank");
                    None
                } else {
                    path.push_str("/models");
                    path.push_str(operation);
                    Some(version)
                }
            }
            Api::Serverless { version } => {
                if place.operation == Operation::Rerank {
                    path.push_str("/v1");
                }
                path.push_str(operation);
                version
            }
        };
        if let Some(version) = version {
            path.push_str("?api-version=");
            path.push_str(&segment(version));
        }
        Cow::Owned(path)
    }

    /// Files and jobs belong to the resource, not to a deployment
    /// (learn.microsoft.com/azure/ai-foundry/openai/reference, 2026-11).
    fn stored_path(&self, path: &str, access: &Access<'_>) -> Option<String> {
        match self.api(access) {
            Api::Deployments { version } => {
                Some(format!("/openai{path}?api-version={}", segment(version)))
            }
            Api::V1 { preview: false } => Some(format!("/openai/v1{path}")),
            Api::V1 { preview: true } => Some(format!("/openai/v1{path}?api-version=preview")),
            Api::Foundry { .. } | Api::Serverless { .. } => None,
        }
    }

    /// (learn.microsoft.com/azure/ai-foundry/openai/how-to/realtime-audio-websockets, 2026-11).
    fn realtime_path(&self, model: &str, access: &Access<'_>) -> Option<String> {
        let model = segment(deployment(model));
        match self.api(access) {
            Api::Deployments { version } => Some(format!(
                "/openai/realtime?api-version={}&deployment={model}",
                segment(version)
            )),
            Api::V1 { .. } => Some(format!("/openai/v1/realtime?model={model}")),
            Api::Foundry { .. } | Api::Serverless { .. } => None,
        }
    }

    fn key_variables(&self) -> &'static [&'static str] {
        self.preset.key_variables
    }

    fn base_variables(&self) -> &'static [&'static str] {
        self.preset.base_variables
    }

    fn settings(&self) -> &'static [Setting] {
        SETTINGS
    }

    fn needs_key(&self) -> bool {
        false
    }

    fn headers(&self, access: &Access<'_>) -> Result<Vec<(HeaderName, HeaderValue)>, AccessError> {
        let bearer = |setting, token: &str| {
            Ok((AUTHORIZATION, secret_header(setting, &format!("Bearer {token}"))?))
        };
        if let Some(key) = access.api_key {
            // Models with an address of their own want a bearer token.
            return Ok(vec![match self.api(access) {
                Api::Serverless { .. } => bearer("api_key", key)?,
                _ => (KEY_HEADER, secret_header("api_key", key)?),
            }]);
        }
        if let Some(token) = access.setting("azure_ad_token") {
            if token.starts_with("oidc/") {
                let message = "federated tokens are not supported; set tenant_id, client_id and client_secret";
                return Err(AccessError::new("azure_ad_token", message));
            }
            return Ok(vec![bearer("azure_ad_token", token)?]);
        }
        match Principal::of(access)? {
            Some(_) => Ok(Vec::new()),
            None => Err(AccessError::new(
                "api_key",
                "is missing; set it, or azure_ad_token, or tenant_id, client_id and client_secret",
            )),
        }
    }

    fn token_request(
        &self,
        access: &Access<'_>,
        _now: Duration,
    ) -> Result<Option<TokenRequest>, AccessError> {
        if access.api_key.is_some() || access.setting("azure_ad_token").is_some() {
            return Ok(None);
        }
        Principal::of(access)?.map(|principal| principal.token_request(access)).transpose()
    }

    fn request(&self, call: &Call<'_>, target: &Target) -> Result<UpstreamBody, RequestError> {
        let deployment = deployment(&target.model);
        // Some servers resolve these even when they are encoded.
        if matches!(deployment, "" | "." | "..") {
            return Err(RequestError::Invalid {
                message: "The model is no name of a deployment.".into(),
                param: Some("model".into()),
            });
        }
        let mut sent = self.preset.request(call, target)?;
        // The prefix has told what the model is, and is no part of the name.
        if deployment != target.model && call.form.is_none() {
            let object = scan(&sent.bytes, &Limits::default()).map_err(|error| {
                RequestError::Invalid { message: error.to_string(), param: None }
            })?;
            let mut edits = Edits::new();
            edits.set("model", json_string(deployment));
            sent.bytes = edits.apply(&sent.bytes, &object);
        }
        Ok(sent)
    }

    fn decoder(&self, _place: &Place<'_>, _asked: Asked) -> Option<Box<dyn Decoder>> {
        None
    }

    fn error(&self, status: u16, body: &[u8]) -> UpstreamError {
        self.preset.error(status, body)
    }
}

/// A deployment's name without what LiteLLM's users put before it to tell what model it is.
pub(crate) fn deployment(model: &str) -> &str {
    let model = model.strip_prefix("o_series/").unwrap_or(model);
    model.strip_prefix("gpt5_series/").unwrap_or(model)
}

/// A name as one segment of a path: it brings along no other segment and no query.
pub(crate) fn segment(name: &str) -> String {
    if matches!(name, "." | "..") {
        return "_".into();
    }
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            byte => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

/// An application that is known to Entra.
struct Principal<'a> {
    tenant: &'a str,
    client: &'a str,
    secret: &'a str,
}

impl<'a> Principal<'a> {
    /// `None` where none of its settings are there.
    fn of(access: &'a Access<'_>) -> Result<Option<Principal<'a>>, AccessError> {
        let missing = |setting| {
            AccessError::new(
                setting,
                "is missing: tenant_id, client_id and client_secret belong together",
            )
        };
        let [tenant, client, secret] =
            ["tenant_id", "client_id", "client_secret"].map(|name| access.setting(name));
        if tenant.or(client).or(secret).is_none() {
            return Ok(None);
        }
        Ok(Some(Principal {
            tenant: tenant.ok_or_else(|| missing("tenant_id"))?,
            client: client.ok_or_else(|| missing("client_id"))?,
            secret: secret.ok_or_else(|| missing("client_secret"))?,
        }))
    }

    /// The client credentials grant
    /// (learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow, 2026-11).
    fn token_request(&self, access: &Access<'_>) -> Result<TokenRequest, AccessError> {
        let authority = access.setting("azure_authority_host").unwrap_or(AUTHORITY);
        let authority = match authority.contains("://") {
            true => authority.trim_end_matches('/').to_owned(),
            // Microsoft's own libraries take the bare host as well.
            false => format!("https://{}", authority.trim_end_matches('/')),
        };
        if !authority.starts_with("https://") {
            return Err(AccessError::new("azure_authority_host", "must be an https address"));
        }
        let scope = access.setting("azure_scope").unwrap_or(SCOPE);
        let body = format!(
            "grant_type=client_credentials&client_id={}&client_secret={}&scope={}",
            segment(self.client),
            segment(self.secret),
            segment(scope),
        );
        let url = format!("{authority}/{}/oauth2/v2.0/token", segment(self.tenant));
        Ok(TokenRequest { url, body: body.into_bytes() })
    }
}
