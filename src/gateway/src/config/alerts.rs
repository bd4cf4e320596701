//! Where alerts go, and when there are any.

use http::uri::PathAndQuery;
use secrecy::{ExposeSecret, SecretString};
use tollway_wire::price::PicoDollars;

use super::base::{Base, BaseError};
use super::env::Environment;
use super::file::{FileAlerting, FileAlerts};
use super::mistake::{Report, hint};

/// What an alert is about, by its name in `alert_types`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AlertKind {
    /// A budget that is used up, or nearly.
    Budget,
    /// An hour that costs more than it did on other days.
    Spike,
}

impl AlertKind {
    const NAMES: [(&'static str, AlertKind); 2] =
        [("budget_alerts", AlertKind::Budget), ("spend_spikes", AlertKind::Spike)];
}

/// LiteLLM's `alert_types` that there is nothing for.
const OTHER_TYPES: &[&str] = &[
    "cooldown_deployment",
    "daily_reports",
    "db_exceptions",
    "failed_tracking_spend",
    "fallback_reports",
    "internal_user_created",
    "internal_user_deleted",
    "internal_user_updated",
    "llm_exceptions",
    "llm_requests_hanging",
    "llm_too_slow",
    "model_deprecation_warnings",
    "new_internal_user_created",
    "new_model_added",
    "new_team_created",
    "new_virtual_key_created",
    "outage_alerts",
    "region_outage_alerts",
    "spend_reports",
    "team_deleted",
    "team_updated",
    "virtual_key_deleted",
    "virtual_key_updated",
];

/// LiteLLM's `alerting` that there is nothing for.
const OTHER_WAYS: &[&str] = &["email", "pagerduty"];

/// How an alert is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AlertFormat {
    /// `{"text": …}`, which Slack, Mattermost and Discord (at `…/slack`) read.
    Slack,
    /// LiteLLM's event.
    Webhook,
}

impl AlertFormat {
    /// Its name in `alerting` and in metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            AlertFormat::Slack => "slack",
            AlertFormat::Webhook => "webhook",
        }
    }

    /// The variable of the environment that has its URL.
    fn variable(self) -> &'static str {
        match self {
            AlertFormat::Slack => "SLACK_WEBHOOK_URL",
            AlertFormat::Webhook => "WEBHOOK_URL",
        }
    }
}

/// Somebody who is told. Who knows the URL can write there as well: its path is a secret.
#[derive(Clone, Debug)]
pub(crate) struct AlertTarget {
    pub(crate) format: AlertFormat,
    pub(crate) kinds: Vec<AlertKind>,
    /// Without a path.
    pub(crate) place: Base,
    pub(crate) path: SecretString,
}

impl PartialEq for AlertTarget {
    fn eq(&self, other: &Self) -> bool {
        (self.format, &self.kinds, &self.place) == (other.format, &other.kinds, &other.place)
            && self.path.expose_secret() == other.path.expose_secret()
    }
}

/// Where alerts go, and when there are any.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AlertSettings {
    pub(crate) targets: Vec<AlertTarget>,
    /// Percentages of a budget, the lowest first.
    pub(crate) thresholds: Vec<u32>,
    pub(crate) spike_factor: u32,
    pub(crate) spike_min: PicoDollars,
    pub(crate) spike_days: u32,
}

/// What the file says, and what the environment knows.
pub(super) fn resolve(
    alerting: FileAlerting,
    alerts: FileAlerts,
    environment: &Environment,
    report: &mut Report,
) -> AlertSettings {
    let mut thresholds = alerts.budget_thresholds;
    if thresholds.is_empty() {
        thresholds = vec![80, 95];
    }
    thresholds.sort_unstable();
    thresholds.dedup();
    AlertSettings {
        targets: targets(alerting, environment, report),
        thresholds,
        spike_factor: alerts.spike_factor.unwrap_or(3),
        spike_min: alerts.spike_min.unwrap_or(PicoDollars(PicoDollars::PER_DOLLAR)),
        spike_days: alerts.spike_days.unwrap_or(7),
    }
}

fn targets(file: FileAlerting, environment: &Environment, report: &mut Report) -> Vec<AlertTarget> {
    let kinds = kinds(&file.alert_types, report);
    let mut urls = Vec::new();
    for (name, theirs) in file.urls {
        let path = format!("general_settings.alert_to_webhook_url.{name}");
        urls.push((kind(&name, &path, report), path, theirs));
    }
    if !urls.is_empty() && !file.alerting.iter().any(|name| name == "slack") {
        let message = "has no effect: `alerting` does not list `slack`";
        report.warning("general_settings.alert_to_webhook_url", message);
    }
    let mut targets = Vec::new();
    for (at, name) in file.alerting.iter().enumerate() {
        let path = format!("general_settings.alerting[{at}]");
        let format = match name.as_str() {
            "slack" => AlertFormat::Slack,
            "webhook" => AlertFormat::Webhook,
            other if OTHER_WAYS.contains(&other) => {
                report.warning(&path, "has no effect yet: nothing is sent that way");
                continue;
            }
            _ => {
                report.mistake(&path, "must be `slack` or `webhook`");
                continue;
            }
        };
        let mut left = kinds.clone();
        if format == AlertFormat::Slack {
            for (kind, path, theirs) in &urls {
                let Some(kind) = kind.filter(|kind| left.contains(kind)) else { continue };
                left.retain(|other| *other != kind);
                for (at, url) in theirs.iter().enumerate() {
                    let path = format!("{path}[{at}]");
                    targets.extend(target(format, vec![kind], url.expose_secret(), &path, report));
                }
            }
        }
        if left.is_empty() {
            continue;
        }
        match environment.get(format.variable()) {
            Some(url) => targets.extend(target(format, left, url, format.variable(), report)),
            None => {
                let message = format!("needs its URL as {} in the environment", format.variable());
                report.mistake(&path, message);
            }
        }
    }
    targets
}

fn kinds(names: &[String], report: &mut Report) -> Vec<AlertKind> {
    let all = || AlertKind::NAMES.into_iter().map(|(_, kind)| kind);
    if names.is_empty() {
        return all().collect();
    }
    let path = |at| format!("general_settings.alert_types[{at}]");
    let named = names.iter().enumerate().filter_map(|(at, name)| kind(name, &path(at), report));
    let named: Vec<AlertKind> = named.collect();
    all().filter(|kind| named.contains(kind)).collect()
}

fn kind(name: &str, path: &str, report: &mut Report) -> Option<AlertKind> {
    let found = AlertKind::NAMES.iter().find(|(have, _)| *have == name);
    if found.is_none() {
        let known = AlertKind::NAMES.iter().map(|(name, _)| *name);
        match OTHER_TYPES.contains(&name) {
            true => report.warning(path, "has no effect: there are no such alerts yet"),
            false => {
                let hint = hint(name, known);
                report.mistake(path, format!("there are no such alerts{hint}"));
            }
        }
    }
    found.map(|(_, kind)| *kind)
}

/// Takes a URL apart. What is wrong is said without quoting it.
fn target(
    format: AlertFormat,
    kinds: Vec<AlertKind>,
    url: &str,
    path: &str,
    report: &mut Report,
) -> Option<AlertTarget> {
    let url = url.trim();
    let origin = url.split(['?', '#']).next().unwrap_or_default();
    let place = origin.parse::<Base>();
    let rest = url.parse::<http::Uri>().ok();
    let rest = rest.as_ref().and_then(http::Uri::path_and_query).map(PathAndQuery::as_str);
    match (place, rest) {
        (Ok(place), Some(rest)) => {
            let place = Base { path: String::new(), ..place };
            Some(AlertTarget { format, kinds, place, path: rest.into() })
        }
        (Err(error), _) => {
            report.mistake(path, error.to_string());
            None
        }
        (Ok(_), None) => {
            report.mistake(path, BaseError::Malformed.to_string());
            None
        }
    }
}
