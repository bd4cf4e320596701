//! LiteLLM's metrics of deployments. They are made for each scrape, because deployments come and go
//! with the config.

use std::collections::HashSet;

use prometheus::core::Collector;
use prometheus::{IntCounterVec, IntGaugeVec, Opts, Result, proto};
use tollway_filter_api::ModelDirectory;

use crate::state::Gateway;

const LABELS: [&str; 4] = ["litellm_model_name", "model_id", "api_base", "api_provider"];
const LIMIT_LABELS: [&str; 5] =
    ["model_group", "litellm_model_name", "model_id", "api_base", "api_provider"];
const FAILED_LABELS: [&str; 5] =
    ["litellm_model_name", "model_id", "api_base", "api_provider", "exception_status"];

/// It does not work: LiteLLM's word for 2 is a complete outage, for 1 a partial one.
const DOWN: i64 = 2;
const SHAKY: i64 = 1;

pub(super) fn families(gateway: &Gateway) -> Result<Vec<proto::MetricFamily>> {
    let gauge = |name: &str, help: &str| IntGaugeVec::new(Opts::new(name, help), &LABELS);
    let counter = |name: &str, help: &str| IntCounterVec::new(Opts::new(name, help), &LABELS);
    let state = gauge(
        "litellm_deployment_state",
        "0 it works, 1 it failed last, 2 it failed several times in a row or its last check",
    )?;
    let rpm = gauge("litellm_deployment_rpm_limit", "Requests in any 60 seconds it may have")?;
    let tpm = gauge("litellm_deployment_tpm_limit", "Tokens in any 60 seconds it may have")?;
    let total = counter("litellm_deployment_total_requests_total", "Attempts")?;
    let answered = counter("litellm_deployment_success_responses_total", "Answered attempts")?;
    let rests = counter("litellm_deployment_cooled_down_total", "How often it was given a rest")?;
    let failed = IntCounterVec::new(
        Opts::new("litellm_deployment_failure_responses_total", "Failed attempts, broken answers"),
        &FAILED_LABELS,
    )?;
    let remaining = |name: &str, what: &str| {
        IntGaugeVec::new(
            Opts::new(name, format!("{what} that its provider says are left")),
            &LIMIT_LABELS,
        )
    };
    let requests = remaining("litellm_remaining_requests_metric", "Requests")?;
    let tokens = remaining("litellm_remaining_tokens_metric", "Tokens")?;

    let generation = gateway.live.load();
    let mut seen = HashSet::new();
    for group in generation.config.directory.groups() {
        for deployment in &group.deployments {
            if !seen.insert(std::sync::Arc::clone(&deployment.id)) {
                continue;
            }
            let labels = [
                &*deployment.litellm_model,
                &*deployment.id,
                &*deployment.api_base,
                deployment.provider,
            ];
            let endpoint = &generation.endpoints[deployment.entry];
            let figures = endpoint.cooldown.tally().figures();
            let by_calls = match figures.streak {
                0 => 0,
                streak if streak > endpoint.cooldown.allowed_fails() => DOWN,
                _ => SHAKY,
            };
            // A check that somebody asked for once says nothing of how things are now.
            let is_checked = generation.config.health_check_interval.is_some();
            let is_bad = is_checked && gateway.health.is_bad(&deployment.id);
            let by_check = if is_bad { DOWN } else { 0 };
            state.with_label_values(&labels).set(by_calls.max(by_check));
            for (gauge, limit) in [(&rpm, deployment.limits.rpm), (&tpm, deployment.limits.tpm)] {
                if let Some(limit) = limit {
                    gauge.with_label_values(&labels).set(i64::try_from(limit).unwrap_or(i64::MAX));
                }
            }
            total.with_label_values(&labels).inc_by(figures.attempts);
            answered.with_label_values(&labels).inc_by(figures.answered);
            rests.with_label_values(&labels).inc_by(figures.rests);
            let [model, id, base, provider] = labels;
            for (status, count) in &figures.failed {
                let status = status.to_string();
                failed.with_label_values(&[model, id, base, provider, &*status]).inc_by(*count);
            }
            let said =
                [(&requests, figures.remaining_requests), (&tokens, figures.remaining_tokens)];
            for (gauge, left) in said {
                if let Some(left) = left {
                    let left = i64::try_from(left).unwrap_or(i64::MAX);
                    let labels = [&*group.name, model, id, base, provider];
                    gauge.with_label_values(&labels).set(left);
                }
            }
        }
    }
    let gauges = [state, rpm, tpm, requests, tokens];
    let counters = [total, answered, rests, failed];
    let gauges = gauges.iter().flat_map(Collector::collect);
    let families = gauges.chain(counters.iter().flat_map(Collector::collect));
    // A family without a line is none.
    Ok(families.filter(|family| !family.get_metric().is_empty()).collect())
}
