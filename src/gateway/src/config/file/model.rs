//! `model_list` as written.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use secrecy::SecretString;
use tollway_providers::presets;
use tollway_wire::price::PicoDollars;

use super::super::base::Base;
use super::super::litellm;
use super::super::reader::Fields;
use super::super::yaml::Value;
use super::money::{FileBudget, Words};

/// One entry of `model_list`.
#[derive(Debug, Default)]
pub(crate) struct FileModel {
    /// `model_name`: what clients call it. With `*` in it (`openai/*`) it stands for all names of
    /// that form, and what the `*` stands for is put in the place of the `*` in `model`.
    pub(crate) model_name: Option<String>,
    /// `litellm_params`
    pub(crate) params: FileParams,
    /// `model_info`
    pub(crate) info: FileInfo,
}

/// `litellm_params`: one model at one endpoint with one credential.
#[derive(Debug, Default)]
pub(crate) struct FileParams {
    /// `model`: `provider/model`; or a model's name alone where that tells the provider.
    pub(crate) model: Option<String>,
    /// `custom_llm_provider`: the provider, where `model` does not begin with it.
    pub(crate) provider: Option<String>,
    /// `api_key`. Default: the provider's usual variable, such as `OPENAI_API_KEY`.
    pub(crate) api_key: Option<SecretString>,
    /// `api_base` or `base_url`: where to call it, if not where the provider usually is.
    pub(crate) api_base: Option<Base>,
    /// `api_version`, where the provider has versions.
    pub(crate) api_version: Option<String>,
    /// `organization`: OpenAI's.
    pub(crate) organization: Option<String>,
    /// What single providers want to know besides: `aws_region_name`, `vertex_project` …
    pub(crate) settings: BTreeMap<&'static str, SecretString>,
    /// `extra_headers`: sent with every call, besides the provider's own. Those that frame a
    /// message or belong to one connection cannot be set.
    pub(crate) extra_headers: Vec<(HeaderName, HeaderValue)>,
    /// `drop_params`: leave out parameters the provider lacks instead of refusing the call.
    /// Default: that of `litellm_settings`.
    pub(crate) drop_params: Option<bool>,
    /// `timeout`: how long an answer may take, from the request to its end.
    pub(crate) timeout: Option<Duration>,
    /// `stream_timeout`: how long a streamed answer may take to begin.
    pub(crate) stream_timeout: Option<Duration>,
    /// `max_retries` (also `num_retries`): tries after the first one, for calls that begin here.
    pub(crate) max_retries: Option<u32>,
    /// `weight`: the share of the group's load, relative to the others, in thousandths. Without any
    /// weight in the group, `rpm` or `tpm` take its place if all entries have them.
    pub(crate) weight: Option<u64>,
    /// `rpm`: requests in any 60 seconds. A limit, not only a weight.
    pub(crate) rpm: Option<u64>,
    /// `tpm`: tokens in any 60 seconds.
    pub(crate) tpm: Option<u64>,
    /// `max_parallel_requests`: requests at once.
    pub(crate) max_parallel_requests: Option<u64>,
    /// `max_budget`, `budget_duration`: what the deployment may cost. One whose budget is spent is
    /// left out, and the group's others are asked.
    pub(crate) budget: Option<FileBudget>,
    /// `tags`: the requests it is kept for, where `enable_tag_filtering` is on.
    pub(crate) tags: Vec<String>,
    /// `order`: deployments with a lower one are asked first. Default 0.
    pub(crate) order: Option<u32>,
    /// `input_cost_per_token`, `output_cost_per_token` and the like, in dollars; LiteLLM's names.
    pub(crate) prices: Vec<(String, PicoDollars)>,
}

/// `model_info`: what is known of a deployment.
#[derive(Debug, Default)]
pub(crate) struct FileInfo {
    /// `id`: its name in metrics, logs and headers. Default: 64 hexadecimal digits made from the
    /// entry.
    pub(crate) id: Option<String>,
    /// `mode`: `chat`, `embedding`, `completion` … Default: what the price table says.
    pub(crate) mode: Option<String>,
    /// `base_model`: the model whose price and limits hold, where `model` is a name of your own.
    pub(crate) base_model: Option<String>,
    /// `access_groups`: names by which keys may be given access to several models.
    pub(crate) access_groups: Vec<String>,
    /// `max_input_tokens`: how much the model reads. Default: what the price table says.
    pub(crate) max_input_tokens: Option<u64>,
    /// `max_output_tokens`, or `max_tokens`: how much the model writes.
    pub(crate) max_output_tokens: Option<u64>,
    /// `health_check_model`: what a health check calls instead of the entry's own model. A wildcard
    /// is checked only where it is set.
    pub(crate) health_check_model: Option<String>,
    /// `health_check_timeout`: how long a check may take. Default one minute.
    pub(crate) health_check_timeout: Option<Duration>,
    /// `health_check_max_tokens`: how much the model may say to it. Default 1.
    pub(crate) health_check_max_tokens: Option<u64>,
    /// `disable_background_health_check`: it is checked only when `/health` is asked.
    pub(crate) disable_background_health_check: bool,
    /// Prices, as in `litellm_params`, which wins.
    pub(crate) prices: Vec<(String, PicoDollars)>,
}

pub(super) fn read_model(fields: &mut Fields<'_>) -> FileModel {
    FileModel {
        model_name: fields.text("model_name"),
        params: fields.section("litellm_params", litellm::PARAMS, read_params).unwrap_or_default(),
        info: match fields.take("model_info") {
            Some(node) => {
                let path = fields.path("model_info");
                fields.reader.fields(node, &path, litellm::INFO, read_info).unwrap_or_default()
            }
            None => FileInfo::default(),
        },
    }
}

fn read_params(fields: &mut Fields<'_>) -> FileParams {
    let api_base = fields.base("api_base");
    let base_url = fields.base("base_url");
    if api_base.is_some() && base_url.is_some() {
        fields.wrong("base_url", "is another name of api_base, which is set as well");
    }
    FileParams {
        model: fields.text("model"),
        provider: fields.text("custom_llm_provider"),
        api_key: fields.secret("api_key"),
        api_base: api_base.or(base_url),
        api_version: fields.text("api_version"),
        organization: fields.text("organization"),
        settings: read_settings(fields),
        extra_headers: fields.headers("extra_headers"),
        drop_params: fields.flag("drop_params"),
        timeout: fields.timeout("timeout"),
        stream_timeout: fields.timeout("stream_timeout"),
        max_retries: fields.either("max_retries", "num_retries", Fields::small_number),
        weight: fields.parsed("weight", "a number that is not negative", weight),
        rpm: fields.count("rpm"),
        tpm: fields.count("tpm"),
        max_parallel_requests: fields.count("max_parallel_requests"),
        budget: fields.budget(Words::USUAL),
        tags: fields.texts("tags"),
        order: fields.small_number("order"),
        prices: fields.prices(),
    }
}

/// The settings of all providers: which of them this entry's provider reads is its own affair.
fn read_settings(fields: &mut Fields<'_>) -> BTreeMap<&'static str, SecretString> {
    let names: BTreeSet<&'static str> = presets::all()
        .flat_map(|provider| provider.settings())
        .map(|setting| setting.name)
        .collect();
    let mut settings = BTreeMap::new();
    for name in names {
        let Some(node) = fields.take(name) else { continue };
        let path = fields.path(name);
        // A service account may stand in the file as it is.
        let value = match node.value {
            Value::Map(_) => Some(fields.reader.json(node, &path, true).to_string()),
            _ => fields.reader.text(node, &path),
        };
        settings.extend(value.map(|value| (name, SecretString::from(value))));
    }
    settings
}

/// Thousandths, so that `0.5` is a weight as well.
fn weight(text: &str) -> Option<u64> {
    let weight: f64 = text.parse().ok()?;
    (0.0..=1e6).contains(&weight).then_some((weight * 1000.0).round() as u64)
}

fn read_info(fields: &mut Fields<'_>) -> FileInfo {
    let max_output_tokens = fields.count("max_output_tokens");
    let max_tokens = fields.count("max_tokens");
    let info = FileInfo {
        id: fields.text("id"),
        mode: fields.text("mode"),
        base_model: fields.text("base_model"),
        access_groups: fields.texts("access_groups"),
        max_input_tokens: fields.count("max_input_tokens"),
        max_output_tokens: max_output_tokens.or(max_tokens),
        health_check_model: fields.text("health_check_model"),
        health_check_timeout: fields.timeout("health_check_timeout"),
        health_check_max_tokens: fields.count("health_check_max_tokens"),
        disable_background_health_check: fields
            .flag("disable_background_health_check")
            .unwrap_or_default(),
        prices: fields.prices(),
    };
    fields.anything_else(litellm::INFO);
    info
}
