//! Where alerts go, and when there are any, as it is written.

use secrecy::SecretString;
use tollway_wire::price::PicoDollars;

use super::super::reader::Fields;

/// `general_settings.alerting` and what belongs to it.
#[derive(Debug, Default)]
pub(crate) struct FileAlerting {
    /// `alerting`: `slack` (to `SLACK_WEBHOOK_URL` of the environment), `webhook` (to
    /// `WEBHOOK_URL`). Default: none, alerts are only logged.
    pub(crate) alerting: Vec<String>,
    /// `alert_types`: which alerts are sent: `budget_alerts`, `spend_spikes`. Default: all.
    pub(crate) alert_types: Vec<String>,
    /// `alert_to_webhook_url`: where Slack's alerts of a type go instead.
    pub(crate) urls: Vec<(String, Vec<SecretString>)>,
}

/// `alerts`: when there are any.
#[derive(Debug, Default)]
pub(crate) struct FileAlerts {
    /// `budget_thresholds`: at how many percent of a budget operators are told. Default 80 and 95.
    pub(crate) budget_thresholds: Vec<u32>,
    /// `spike_factor`: an hour is a spike that costs so many times as much as the same hour did on
    /// any of the days before. Default 3.
    pub(crate) spike_factor: Option<u32>,
    /// `spike_min`: what costs less is no spike, in dollars. Default 1.
    pub(crate) spike_min: Option<PicoDollars>,
    /// `spike_days`: how many days before are looked at. Default 7.
    pub(crate) spike_days: Option<u32>,
}

pub(super) fn read_alerting(fields: &mut Fields<'_>) -> FileAlerting {
    let (alerting, alert_types) = (fields.texts("alerting"), fields.texts("alert_types"));
    let mut urls = Vec::new();
    for (name, node, path) in fields.entries("alert_to_webhook_url") {
        let texts = fields.reader.texts(node, &path);
        urls.push((name.to_owned(), texts.into_iter().map(SecretString::from).collect()));
    }
    FileAlerting { alerting, alert_types, urls }
}

pub(super) fn read_alerts(fields: &mut Fields<'_>) -> FileAlerts {
    let mut budget_thresholds = Vec::new();
    for (node, path) in fields.items("budget_thresholds") {
        let percent =
            |text: &str| text.parse::<u32>().ok().filter(|percent| (1..=99).contains(percent));
        let wanted = "a percentage from 1 to 99";
        budget_thresholds.extend(fields.reader.parsed(node, &path, wanted, percent));
    }
    let mut number = |name, wanted, from: u32, to: u32| {
        let number = |text: &str| text.parse().ok().filter(|number| (from..=to).contains(number));
        fields.parsed(name, wanted, number)
    };
    let spike_factor = number("spike_factor", "a whole number from 2 to 1000", 2, 1000);
    let spike_days = number("spike_days", "a whole number from 1 to 90", 1, 90);
    FileAlerts {
        budget_thresholds,
        spike_factor,
        spike_min: fields.dollars("spike_min"),
        spike_days,
    }
}
