//! What can be called: groups of deployments, and where a request will go.

use std::sync::Arc;

use tollway_wire::price::Price;

use crate::limits::RateLimits;

/// One model at one endpoint with one credential.
#[derive(Clone, Debug)]
pub struct Deployment {
    /// LiteLLM's `model_info.id`: given, or 64 hexadecimal digits made from the config.
    pub id: Arc<str>,
    /// The place of its entry in the config's `model_list`. Several deployments share an entry
    /// where it is a wildcard.
    pub entry: usize,
    /// The provider's name: `openai`, `anthropic` …
    pub provider: &'static str,
    /// The model's name at the provider.
    pub model: Arc<str>,
    /// `provider/model`, as LiteLLM writes it in labels and headers.
    pub litellm_model: Arc<str>,
    /// Where it is called, without query or credentials.
    pub api_base: Arc<str>,
    /// What it costs; `None` where a wildcard led to a model nobody knows the price of.
    pub price: Option<Arc<Price>>,
    /// How many tokens the model reads, where known.
    pub max_input_tokens: Option<u64>,
    /// How many tokens the model writes, where known.
    pub max_output_tokens: Option<u64>,
    /// What this deployment may be sent.
    pub limits: RateLimits,
    /// Its share of the group's traffic, relative to the others.
    pub weight: u32,
}

/// A name that clients call, and the deployments that serve it.
#[derive(Clone, Debug, Default)]
pub struct ModelGroup {
    /// The name.
    pub name: Arc<str>,
    /// Interchangeable deployments.
    pub deployments: Vec<Arc<Deployment>>,
    /// Groups to try, in this order, when all deployments have failed.
    pub fallbacks: Vec<Arc<str>>,
    /// The same where the request was larger than what the model reads; `fallbacks` where empty.
    pub context_window_fallbacks: Vec<Arc<str>>,
    /// The same where the provider would not take the content; `fallbacks` where empty.
    pub content_policy_fallbacks: Vec<Arc<str>>,
    /// Limits of the group as a whole.
    pub limits: RateLimits,
    /// Names by which keys may be given access to it.
    pub access_groups: Vec<String>,
    /// Left out of `GET /models`.
    pub hidden: bool,
    /// What it is for, as LiteLLM's `mode`: `chat`, `embedding`, `completion` …
    pub mode: Option<Arc<str>>,
}

/// Where a request will go.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The model name the client sent: answers carry it.
    pub requested: Arc<str>,
    /// The group that name means for this caller.
    pub group: Arc<ModelGroup>,
}

/// Knows the groups.
pub trait ModelDirectory: Send + Sync {
    /// The group of this exact name, alias of `router_settings`, or the wildcard it falls under
    /// (made for the name).
    fn resolve(&self, name: &str) -> Option<Arc<ModelGroup>>;

    /// All groups that have a name of their own, wildcards unexpanded, in the config's order.
    fn groups(&self) -> Vec<Arc<ModelGroup>>;
}
