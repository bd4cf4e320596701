//! Where alerts go.

use super::*;
use crate::config::{AlertFormat, AlertKind};

#[test]
fn alerts_go_where_the_file_and_the_environment_say() {
    let text = with_model(
        "general_settings:\n  alerting: [slack, webhook]\n  alert_to_webhook_url:\n    \
             budget_alerts: ['https://hooks.example/a/secret?x=1', 'http://127.0.0.1:9/b']\n\
             environment_variables:\n  SLACK_WEBHOOK_URL: https://hooks.example/c\n  \
             WEBHOOK_URL: http://here\n",
    );
    let alerts = config(&text).alerts;
    let told: Vec<_> = alerts.targets.iter().map(|t| (t.format, t.kinds.as_slice())).collect();
    let expect = [
        (AlertFormat::Slack, &[AlertKind::Budget][..]),
        (AlertFormat::Slack, &[AlertKind::Budget]),
        (AlertFormat::Slack, &[AlertKind::Spike]),
        (AlertFormat::Webhook, &[AlertKind::Budget, AlertKind::Spike]),
    ];
    assert_eq!(told, expect);
    let paths: Vec<&str> = alerts
        .targets
        .iter()
        .map(|target| secrecy::ExposeSecret::expose_secret(&target.path))
        .collect();
    assert_eq!(paths, ["/a/secret?x=1", "/b", "/c", "/"]);
    assert!(!format!("{alerts:?}").contains("secret?"), "{alerts:?}");
    assert_eq!((alerts.thresholds, alerts.spike_factor, alerts.spike_days), (vec![80, 95], 3, 7));
}

#[test]
fn receivers_that_cannot_be_are_mistakes_that_quote_nothing() {
    mistakes(
        &with_model(
            "general_settings:\n  alerting: [slack, smoke]\n  alert_types: [budget_alert, spend_spikes]\n  \
                 alert_to_webhook_url: {spend_spikes: ['ftp://secret', 'https://user:secret@x/']}\n\
                 alerts: {budget_thresholds: [0, 80, 100], spike_factor: 1, spike_min: -1}\n",
        ),
        &[
            "alerting[1]: must be `slack` or `webhook`",
            "alert_types[0]: there are no such alerts; did you mean `budget_alerts`?",
            "alert_to_webhook_url.spend_spikes[0]: must be a URL that begins with http",
            "alert_to_webhook_url.spend_spikes[1]: must not hold a user",
            "alerts.budget_thresholds[0]: must be a percentage",
            "alerts.budget_thresholds[2]: must be a percentage",
            "alerts.spike_factor: must be a whole number from 2 to 1000",
            "alerts.spike_min: cannot be negative",
        ],
    );
    mistakes(
        &with_model("general_settings: {alerting: [webhook]}\n"),
        &["alerting[0]: needs its URL as WEBHOOK_URL in the environment"],
    );
    warnings(
        &with_model(
            "general_settings:\n  alert_types: [llm_too_slow]\n  \
                 alert_to_webhook_url: {budget_alerts: http://x}\n",
        ),
        &["alert_types[0]: has no effect", "alert_to_webhook_url: has no effect"],
    );
}
