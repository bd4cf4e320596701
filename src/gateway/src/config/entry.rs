//! One entry of `model_list`, ready to be called.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use tollway_filter_api::KeyHash;
use tollway_providers::presets;
use tollway_providers::prices;
use tollway_providers::{Access, Provider, Setting, Settings};

use super::base::Base;
use super::default;
use super::env::Environment;
use super::file::{FileInfo, FileModel, FileParams};
use super::mistake::{Report, hint};

/// A credential shorter than this is found in any text, and is none.
const SECRET_BYTES_MIN: usize = 8;

/// Where deployments are called, and how. A wildcard's deployments share one.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Where it stands in the config: `model_list[0]`.
    pub(crate) path: String,
    /// The name in metrics and headers: `model_info.id`.
    pub(crate) id: Arc<str>,
    /// The provider.
    pub(crate) provider: &'static dyn Provider,
    /// Where it is. The provider's paths go below it.
    pub(crate) base: Base,
    /// The provider's headers, credentials included, then those of the config.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// What the provider is to know besides: key, version, and its own settings.
    pub(crate) access: Arc<EntryAccess>,
    /// Leave out parameters the provider lacks.
    pub(crate) drop_params: bool,
    /// How long connecting may take.
    pub(crate) connect_timeout: Duration,
    /// How long a streamed answer may take to begin.
    pub(crate) first_byte_timeout: Duration,
    /// How long a stream may be silent.
    pub(crate) idle_timeout: Duration,
    /// How long an answer may take as a whole.
    pub(crate) timeout: Duration,
    /// Tries after the first one, if the entry has its own number.
    pub(crate) max_retries: Option<u32>,
    /// LiteLLM's tags: the requests it is kept for.
    pub(crate) tags: Vec<String>,
    /// LiteLLM's `order`: those with a lower one are asked first.
    pub(crate) order: u32,
    /// How it is checked.
    pub(crate) health: HealthSettings,
}

impl Entry {
    /// The credential, for finding it in what comes back.
    pub(crate) fn secret(&self) -> Option<&str> {
        let secret = self.access.api_key.as_ref()?.expose_secret();
        (secret.len() >= SECRET_BYTES_MIN).then_some(secret)
    }
}

/// What a provider is told of an entry. Kept, because signatures and tokens are made for each call.
#[derive(Debug, Default)]
pub(crate) struct EntryAccess {
    api_key: Option<SecretString>,
    organization: Option<String>,
    api_version: Option<String>,
    /// As it was written, before the provider made a base of it.
    api_base: Option<String>,
    /// By the names of [`Provider::settings`].
    settings: BTreeMap<&'static str, SecretString>,
}

impl EntryAccess {
    /// What it holds, for the provider alone.
    pub(crate) fn expose(&self) -> Access<'_> {
        Access {
            api_key: self.api_key.as_ref().map(|key| key.expose_secret()),
            organization: self.organization.as_deref(),
            api_version: self.api_version.as_deref(),
            api_base: self.api_base.as_deref(),
            settings: self,
        }
    }
}

impl Settings for EntryAccess {
    fn get(&self, name: &str) -> Option<&str> {
        self.settings.get(name).map(|value| value.expose_secret())
    }
}

/// What the config says about checking one entry.
#[derive(Clone, Debug)]
pub(crate) struct HealthSettings {
    /// The model to call instead of the deployment's own.
    pub(crate) model: Option<String>,
    /// How long the call may take.
    pub(crate) timeout: Duration,
    /// How much the model may say.
    pub(crate) max_tokens: u64,
    /// Whether it is checked without being asked for.
    pub(crate) in_background: bool,
}

/// How long a check may take where the config does not say: LiteLLM's default.
const CHECK_WAIT: Duration = Duration::from_secs(60);

/// What holds for deployments that do not say.
pub(super) struct Defaults {
    pub(super) drop_params: bool,
    pub(super) connect_timeout: Duration,
    pub(super) first_byte_timeout: Duration,
    pub(super) idle_timeout: Duration,
    pub(super) timeout: Duration,
}

/// What the name of a model leads to.
pub(super) enum Route {
    /// A model at a provider.
    Model(&'static dyn Provider, String),
    /// `*`: whatever provider the client's model name tells.
    AnyProvider,
}

/// Finds the provider, and the model's name there.
pub(super) fn route(params: &FileParams, path: &str, report: &mut Report) -> Option<Route> {
    let at = format!("{path}.model");
    let Some(model) = params.model.as_deref() else {
        report.mistake(&at, "is missing: write `provider/model`, such as `openai/gpt-4o`");
        return None;
    };
    if let Some(name) = &params.provider {
        let own = model.strip_prefix(name.as_str()).and_then(|rest| rest.strip_prefix('/'));
        let at = format!("{path}.custom_llm_provider");
        return Some(Route::Model(provider(name, &at, report)?, own.unwrap_or(model).to_owned()));
    }
    if model == "*" {
        return Some(Route::AnyProvider);
    }
    if let Some((first, rest)) = model.split_once('/')
        && (find_provider(first).is_some() || is_known_elsewhere(first))
    {
        if rest.is_empty() {
            report.mistake(&at, format!("names the provider `{first}` and no model"));
            return None;
        }
        return Some(Route::Model(provider(first, &at, report)?, rest.to_owned()));
    }
    if let Some(name) = prices::infer_provider(model) {
        return Some(Route::Model(provider(name, &at, report)?, model.to_owned()));
    }
    let first = model.split_once('/').map_or("", |(first, _)| first);
    let hint = hint(first, names());
    let message = format!(
        "the provider of `{model}` cannot be told{hint}: write `provider/{model}` \
         (`openai/{model}` for an API like OpenAI's), or set custom_llm_provider"
    );
    report.mistake(&at, message);
    None
}

pub(super) fn find_provider(name: &str) -> Option<&'static dyn Provider> {
    presets::provider(name).or_else(|| default::demo(name))
}

fn names() -> impl Iterator<Item = &'static str> {
    presets::all().map(|provider| provider.name()).chain([default::DEMO])
}

/// Providers that LiteLLM has and we do not yet: those of its table, and those it prices otherwise.
fn is_known_elsewhere(name: &str) -> bool {
    let more =
        ["databricks", "predibase", "replicate", "sagemaker", "snowflake", "triton", "watsonx"];
    more.contains(&name) || prices::models_of(name).next().is_some()
}

fn provider(name: &str, path: &str, report: &mut Report) -> Option<&'static dyn Provider> {
    let found = find_provider(name);
    if found.is_none() {
        let message = match is_known_elsewhere(name) {
            true => format!("the provider `{name}` is not supported yet"),
            false => format!("there is no provider `{name}`{}", hint(name, names())),
        };
        report.mistake(path, message);
    }
    found
}

/// What a model of the file needs to become an entry.
pub(super) struct Context<'a> {
    pub(super) environment: &'a Environment,
    pub(super) defaults: &'a Defaults,
    pub(super) simulator_base: &'a str,
}

impl Context<'_> {
    /// The provider's credential: the entry's, or that of the environment.
    pub(super) fn api_key(
        &self,
        params: &FileParams,
        provider: &dyn Provider,
    ) -> Option<SecretString> {
        let variable = || {
            let mut names = provider.key_variables().iter();
            names.find_map(|name| self.environment.get(name)).map(SecretString::from)
        };
        params.api_key.clone().or_else(variable)
    }

    /// Makes the entry of a model at `provider`.
    pub(super) fn entry(
        &self,
        file: &FileModel,
        path: &str,
        provider: &'static dyn Provider,
        model: &str,
        report: &mut Report,
    ) -> Option<Entry> {
        let params = &file.params;
        let at = format!("{path}.litellm_params");
        let secret = self.api_key(params, provider);
        let own_credential = || {
            let names = ["authorization", "api-key", "x-api-key"];
            params.extra_headers.iter().any(|(name, _)| names.contains(&name.as_str()))
        };
        if secret.is_none() && provider.needs_key() && !own_credential() {
            let name = provider.name();
            let or_set = match provider.key_variables() {
                [] => String::new(),
                variables => format!(", or set {} in the environment", variables.join(" or ")),
            };
            let message = format!("is missing: `{name}` needs a key; write one here{or_set}");
            report.mistake(&format!("{at}.api_key"), message);
        }
        for name in params.settings.keys() {
            if !provider.settings().iter().any(|setting| setting.name == *name) {
                let message =
                    format!("is nothing that `{}` reads: it has no effect", provider.name());
                report.warning(&format!("{at}.{name}"), message);
            }
        }
        let access = EntryAccess {
            settings: self.settings(params, &at, provider, report),
            api_base: self.written_base(params, provider),
            api_key: secret,
            organization: params.organization.clone(),
            api_version: params.api_version.clone(),
        };
        let headers = provider.headers(&access.expose());
        if let Err(error) = &headers {
            report.mistake(&format!("{at}.{}", error.setting), error.message.clone());
        }
        let base = self.base(params, &at, provider, model, &access, report);
        let (base, mut headers) = (base?, headers.ok()?);
        for (name, value) in &params.extra_headers {
            headers.retain(|(have, _)| have != name);
            headers.push((name.clone(), value.clone()));
        }
        let id = match &file.info.id {
            Some(id) => id.as_str().into(),
            None => id(file, provider.name(), model, &base, &access).hex().into(),
        };
        let defaults = self.defaults;
        Some(Entry {
            path: path.to_owned(),
            id,
            provider,
            base,
            headers,
            access: Arc::new(access),
            drop_params: params.drop_params.unwrap_or(defaults.drop_params),
            connect_timeout: defaults.connect_timeout,
            first_byte_timeout: params.stream_timeout.unwrap_or(defaults.first_byte_timeout),
            idle_timeout: defaults.idle_timeout,
            timeout: params.timeout.unwrap_or(defaults.timeout),
            max_retries: params.max_retries,
            tags: params.tags.clone(),
            order: params.order.unwrap_or_default(),
            health: health(&file.info, provider),
        })
    }

    /// What the provider wants to know besides: the entry's, or that of the environment.
    fn settings(
        &self,
        params: &FileParams,
        path: &str,
        provider: &dyn Provider,
        report: &mut Report,
    ) -> BTreeMap<&'static str, SecretString> {
        let mut settings = BTreeMap::new();
        for Setting { name, variables, .. } in provider.settings() {
            let variable = || variables.iter().find_map(|name| self.environment.get(name));
            let written = params.settings.get(name).cloned();
            let Some(mut value) = written.or_else(|| variable().map(SecretString::from)) else {
                continue;
            };
            match with_file(name, value.expose_secret()) {
                Ok(Cow::Owned(json)) => value = json.into(),
                Ok(Cow::Borrowed(_)) => {}
                Err(error) => {
                    let message = format!("names a file that cannot be read: {error}");
                    report.mistake(&format!("{path}.{name}"), message);
                    continue;
                }
            }
            settings.insert(*name, value);
        }
        settings
    }

    /// The base as the entry or the environment has it.
    fn written_base(&self, params: &FileParams, provider: &dyn Provider) -> Option<String> {
        let variable = || {
            let mut names = provider.base_variables().iter();
            names.find_map(|name| self.environment.get(name)).map(str::to_owned)
        };
        params.api_base.as_ref().map(Base::to_string).or_else(variable)
    }

    fn base(
        &self,
        params: &FileParams,
        path: &str,
        provider: &'static dyn Provider,
        model: &str,
        access: &EntryAccess,
        report: &mut Report,
    ) -> Option<Base> {
        let at = format!("{path}.api_base");
        let name = provider.name();
        if let Some(base) = &params.api_base {
            return Some(below(base, provider));
        }
        let mut variables = provider.base_variables().iter();
        let variable = variables.find_map(|name| Some((*name, self.environment.get(name)?)));
        if let Some((variable, text)) = variable {
            return match text.parse() {
                Ok(base) => Some(below(&base, provider)),
                Err(error) => {
                    let error: super::base::BaseError = error;
                    report.mistake(&at, format!("the environment variable {variable} {error}"));
                    None
                }
            };
        }
        let demo = || (name == default::DEMO).then_some(self.simulator_base);
        let own = provider.model_base(model, &access.expose()).map(Cow::into_owned);
        let base = own.as_deref().or_else(demo).and_then(|base| base.parse().ok());
        if base.is_none() {
            let message = format!("is missing: `{name}` has no address of its own");
            report.mistake(&at, message);
        }
        Some(below(&base?, provider))
    }
}

/// The base that is left when the provider's own path is taken off the URL it would call. People
/// write the whole URL into `api_base`, or leave out a `/v1`; the provider knows.
fn below(base: &Base, provider: &dyn Provider) -> Base {
    provider.base(&base.to_string()).parse().unwrap_or_else(|_| base.clone())
}

/// A setting as its provider takes it. Credentials are JSON, or name a file of it, as Google's own
/// libraries take them.
pub(super) fn with_file<'v>(name: &str, value: &'v str) -> std::io::Result<Cow<'v, str>> {
    let text = value.trim();
    match name.ends_with("_credentials") && !text.is_empty() && !text.starts_with('{') {
        true => std::fs::read_to_string(text).map(Cow::Owned),
        false => Ok(Cow::Borrowed(value)),
    }
}

fn health(info: &FileInfo, provider: &dyn Provider) -> HealthSettings {
    // LiteLLM's users write the provider before it.
    let own = |model: &String| {
        let rest = model.strip_prefix(provider.name()).and_then(|rest| rest.strip_prefix('/'));
        rest.unwrap_or(model).to_owned()
    };
    HealthSettings {
        model: info.health_check_model.as_ref().map(own),
        timeout: info.health_check_timeout.unwrap_or(CHECK_WAIT),
        max_tokens: info.health_check_max_tokens.unwrap_or(1),
        in_background: !info.disable_background_health_check,
    }
}

/// A name made from what a deployment is, which stays the same for as long as that does. LiteLLM's
/// is as long.
fn id(file: &FileModel, provider: &str, model: &str, base: &Base, access: &EntryAccess) -> KeyHash {
    let mut hash = Sha256::new();
    let base = base.to_string();
    let name = file.model_name.as_deref().unwrap_or_default();
    let organization = file.params.organization.as_deref().unwrap_or_default();
    let version = file.params.api_version.as_deref().unwrap_or_default();
    for part in [name, provider, model, &base, organization, version] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    // Two deployments may differ in nothing but the account they belong to.
    if let Some(secret) = &access.api_key {
        hash.update(Sha256::digest(secret.expose_secret()));
    }
    for (name, value) in &access.settings {
        hash.update(Sha256::digest(name));
        hash.update(Sha256::digest(value.expose_secret()));
    }
    for (name, value) in &file.params.extra_headers {
        hash.update(Sha256::digest(name));
        hash.update(Sha256::digest(value));
    }
    KeyHash(hash.finalize().into())
}
