//! `router_settings` as written.

use std::time::Duration;

use super::super::mistake::hint;
use super::super::reader::Fields;
use super::super::redis::FileRedis;
use super::super::yaml::Value;
use super::super::{Strategy, litellm};
use super::money::{NamedBudget, Words};

/// Fallbacks as written: a model and what to try when it fails.
pub(crate) type FileFallbacks = Vec<FileFallback>;

/// One entry of a list of fallbacks.
#[derive(Debug)]
pub(crate) struct FileFallback {
    pub(in crate::config) path: String,
    /// The model that failed; `*` is any.
    pub(crate) model: String,
    /// What to try, in this order.
    pub(crate) fallbacks: Vec<String>,
}

/// `router_settings`
#[derive(Debug, Default)]
pub(crate) struct FileRouter {
    /// `num_retries`: tries after the first one. Default 2.
    pub(crate) num_retries: Option<u32>,
    /// `retry_after`: the shortest pause before a retry. Default 0.
    pub(crate) retry_after: Option<Duration>,
    /// `timeout`: the `timeout` of deployments that have none.
    pub(crate) timeout: Option<Duration>,
    /// `stream_timeout`: the `stream_timeout` of deployments that have none.
    pub(crate) stream_timeout: Option<Duration>,
    /// `allowed_fails`: how many failures within a minute a deployment may have before it rests.
    /// Default 3.
    pub(crate) allowed_fails: Option<u32>,
    /// `cooldown_time`: how long it rests. Default 5 seconds.
    pub(crate) cooldown_time: Option<Duration>,
    /// `disable_cooldowns`: it never rests.
    pub(crate) disable_cooldowns: bool,
    /// `fallbacks`: `[{gpt-4o: [claude, small]}]`: models to try when all deployments of one fail.
    pub(crate) fallbacks: FileFallbacks,
    /// `default_fallbacks`: models to try when one fails that has no fallbacks of its own.
    pub(crate) default_fallbacks: Vec<String>,
    /// `max_fallbacks`: how many of them are tried. Default 5.
    pub(crate) max_fallbacks: Option<u32>,
    /// `model_group_alias`: `{gpt-4: gpt-4o}`, or `{gpt-4: {model: gpt-4o, hidden: true}}` for a
    /// name that `GET /models` does not list.
    pub(crate) model_group_alias: Vec<FileAlias>,
    /// `retry_policy`: other numbers of retries for some kinds of failure.
    pub(crate) retry_policy: RetryPolicy,
    /// `routing_strategy`: which deployment of a group is asked first. `simple-shuffle` (default)
    /// draws by weight, `least-busy` takes the one with the fewest calls in flight,
    /// `latency-based-routing` the faster one of two, `cost-based-routing` the cheapest for the
    /// request, `usage-based-routing-v2` the one with most of its `rpm` and `tpm` left.
    pub(crate) strategy: Option<Strategy>,
    /// `enable_pre_call_checks`: requests larger than what a deployment reads, by an estimate, are
    /// not sent to it.
    pub(crate) pre_call_checks: bool,
    /// `enable_tag_filtering`: deployments with `tags` are kept for requests with such tags.
    pub(crate) tag_filtering: bool,
    /// `tag_filtering_match_any`: one tag in common is enough. Default: yes.
    pub(crate) tag_match_any: Option<bool>,
    /// `retry_budget`: `{percent: 20, min_per_second: 10}`, which is the default: how much of the
    /// traffic may be retries, and what is allowed in any case.
    pub(crate) retry_budget: Option<(Option<u32>, Option<u32>)>,
    /// `provider_budget_config`: `{openai: {budget_limit: 100, time_period: 1d}}`: what each provider
    /// may cost.
    pub(crate) provider_budgets: Vec<NamedBudget>,
    /// `context_window_fallbacks`: models to try when a request was too large for one, or is, by an
    /// estimate.
    pub(crate) context_window_fallbacks: FileFallbacks,
    /// `content_policy_fallbacks`: models to try when a provider would not take the content.
    pub(crate) content_policy_fallbacks: FileFallbacks,
    /// `default_max_parallel_requests`: the `max_parallel_requests` of deployments that have none.
    pub(crate) default_max_parallel_requests: Option<u64>,
    /// `redis_url`, or `redis_host`, `redis_port`, `redis_username`, `redis_password`, `redis_db`:
    /// other names of `general_settings.redis_url`.
    pub(crate) redis: FileRedis,
}

/// One entry of `model_group_alias`.
#[derive(Debug)]
pub(crate) struct FileAlias {
    /// The name clients use.
    pub(crate) name: String,
    /// The model it means.
    pub(crate) model: String,
    /// Not listed by `GET /models`.
    pub(crate) hidden: bool,
}

/// `router_settings.retry_policy`: how often to retry after which failure. `None` is `num_retries`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RetryPolicy {
    /// `BadRequestErrorRetries`: the provider refused the request (400).
    pub(crate) bad_request: Option<u32>,
    /// `AuthenticationErrorRetries`: it refused the credentials (401).
    pub(crate) authentication: Option<u32>,
    /// `TimeoutErrorRetries`: it took too long.
    pub(crate) timeout: Option<u32>,
    /// `RateLimitErrorRetries`: it had enough (429).
    pub(crate) rate_limit: Option<u32>,
    /// `ContentPolicyViolationErrorRetries`: it refused the content.
    pub(crate) content_policy: Option<u32>,
    /// `InternalServerErrorRetries`: it failed (5xx).
    pub(crate) internal_server: Option<u32>,
}

pub(super) fn read_router(fields: &mut Fields<'_>) -> FileRouter {
    FileRouter {
        redis: FileRedis::read_prefixed(fields),
        strategy: read_strategy(fields),
        pre_call_checks: fields.flag("enable_pre_call_checks").unwrap_or_default(),
        tag_filtering: fields.flag("enable_tag_filtering").unwrap_or_default(),
        tag_match_any: fields.flag("tag_filtering_match_any"),
        retry_budget: fields.section("retry_budget", &[], |fields| {
            (fields.small_number("percent"), fields.small_number("min_per_second"))
        }),
        provider_budgets: fields.budgets("provider_budget_config", Words::OF_PART),
        context_window_fallbacks: read_fallbacks(fields, "context_window_fallbacks"),
        content_policy_fallbacks: read_fallbacks(fields, "content_policy_fallbacks"),
        num_retries: fields.small_number("num_retries"),
        retry_after: fields.duration("retry_after"),
        timeout: fields.timeout("timeout"),
        stream_timeout: fields.timeout("stream_timeout"),
        allowed_fails: fields.small_number("allowed_fails"),
        cooldown_time: fields.duration("cooldown_time"),
        disable_cooldowns: fields.flag("disable_cooldowns").unwrap_or_default(),
        fallbacks: read_fallbacks(fields, "fallbacks"),
        default_fallbacks: fields.texts("default_fallbacks"),
        max_fallbacks: fields.small_number("max_fallbacks"),
        model_group_alias: read_aliases(fields),
        retry_policy: fields.section("retry_policy", &[], read_policy).unwrap_or_default(),
        default_max_parallel_requests: fields.count("default_max_parallel_requests"),
    }
}

fn read_strategy(fields: &mut Fields<'_>) -> Option<Strategy> {
    let name = fields.text("routing_strategy")?;
    if let Some((_, strategy)) = Strategy::NAMES.iter().find(|(known, _)| *known == name) {
        return Some(*strategy);
    }
    if litellm::STRATEGIES.contains(&name.as_str()) {
        let path = fields.path("routing_strategy");
        let message = format!("`{name}` is not supported yet; `simple-shuffle` is used instead");
        fields.reader.report.warning(&path, message);
    } else {
        let hint = hint(&name, Strategy::NAMES.iter().map(|(known, _)| *known));
        fields.wrong("routing_strategy", format!("unknown strategy{hint}"));
    }
    None
}

fn read_policy(fields: &mut Fields<'_>) -> RetryPolicy {
    RetryPolicy {
        bad_request: fields.small_number("BadRequestErrorRetries"),
        authentication: fields.small_number("AuthenticationErrorRetries"),
        timeout: fields.small_number("TimeoutErrorRetries"),
        rate_limit: fields.small_number("RateLimitErrorRetries"),
        content_policy: fields.small_number("ContentPolicyViolationErrorRetries"),
        internal_server: fields.small_number("InternalServerErrorRetries"),
    }
}

/// `[{gpt-4o: [claude]}, {small: [tiny]}]`, as LiteLLM has it; one mapping is taken as well.
pub(super) fn read_fallbacks(fields: &mut Fields<'_>, name: &'static str) -> FileFallbacks {
    let Some(node) = fields.take(name) else { return Vec::new() };
    let path = fields.path(name);
    let maps = match &node.value {
        Value::Map(_) => vec![(node, path)],
        _ => fields.reader.items(node, &path),
    };
    let mut fallbacks = Vec::new();
    for (map, path) in maps {
        for (model, node, path) in fields.reader.entries(map, &path) {
            let names = fields.reader.texts(node, &path);
            fallbacks.push(FileFallback { path, model: model.to_owned(), fallbacks: names });
        }
    }
    fallbacks
}

fn read_aliases(fields: &mut Fields<'_>) -> Vec<FileAlias> {
    let mut aliases = Vec::new();
    for (name, node, path) in fields.entries("model_group_alias") {
        let name = name.to_owned();
        if let Value::Map(_) = node.value {
            let read = |fields: &mut Fields<'_>| {
                (fields.text("model"), fields.flag("hidden").unwrap_or_default())
            };
            match fields.reader.fields(node, &path, &[], read) {
                Some((Some(model), hidden)) => aliases.push(FileAlias { name, model, hidden }),
                _ => fields.reader.report.mistake(&path, "needs a `model`"),
            }
        } else if let Some(model) = fields.reader.text(node, &path) {
            aliases.push(FileAlias { name, model, hidden: false });
        }
    }
    aliases
}
