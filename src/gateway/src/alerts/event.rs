//! What operators are told, in LiteLLM's form and in Slack's.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tollway_filter_api::KeyHash;
use tollway_filter_api::accounts::Kind;
use tollway_filter_api::identity::KeyStore;
use tollway_filter_api::treasury::BudgetScope;
use tollway_wire::price::PicoDollars;

use crate::calendar;
use crate::config::{AlertFormat, AlertKind};

/// One thing to tell.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Event {
    pub(super) kind: AlertKind,
    /// LiteLLM's `event`.
    pub(super) name: &'static str,
    /// LiteLLM's `event_group`: whose it is.
    pub(super) group: &'static str,
    /// `Key Budget: 80% Threshold Crossed`
    pub(super) title: String,
    /// `Key=ci (sk-...AbCd)`
    pub(super) owner: Arc<str>,
    /// A sentence with the figures.
    pub(super) detail: String,
    pub(super) spend: PicoDollars,
    pub(super) max_budget: Option<PicoDollars>,
    pub(super) soft_budget: Option<PicoDollars>,
    pub(super) who: Who,
    /// When the budget will be used up, and what will have been spent at the end of its period.
    pub(super) projected: Option<(Duration, PicoDollars)>,
}

/// Whom it is about, as far as it is about somebody.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Who {
    token: Option<Arc<str>>,
    key_alias: Option<Arc<str>>,
    user_id: Option<Arc<str>>,
    user_email: Option<Arc<str>>,
    team_id: Option<Arc<str>>,
    team_alias: Option<Arc<str>>,
    customer_id: Option<Arc<str>>,
}

impl Who {
    /// Whoever that is in a scope.
    pub(super) fn of(scope: BudgetScope, subject: &Arc<str>, keys: &dyn KeyStore) -> Who {
        let mut who = Who::default();
        match scope {
            BudgetScope::Key | BudgetScope::KeyModel => {
                who.token = Some(Arc::clone(subject));
                if let Some(key) = KeyHash::from_hex(subject).and_then(|hash| keys.find(&hash)) {
                    who.key_alias.clone_from(&key.alias);
                    who.user_id.clone_from(&key.user);
                    who.team_id.clone_from(&key.team);
                }
            }
            BudgetScope::Team | BudgetScope::TeamModel | BudgetScope::TeamMember => {
                who.team_id = Some(Arc::clone(subject));
            }
            BudgetScope::User | BudgetScope::UserModel => who.user_id = Some(Arc::clone(subject)),
            BudgetScope::EndUser => who.customer_id = Some(Arc::clone(subject)),
            _ => {}
        }
        let team = who.team_id.as_ref().and_then(|id| keys.account(Kind::Team, id));
        who.team_alias = team.and_then(|team| team.alias.clone());
        let user = who.user_id.as_ref().and_then(|id| keys.account(Kind::User, id));
        who.user_email = user.and_then(|user| user.email.clone());
        who
    }

    /// The key's alias, or the beginning of its hash; the team's.
    pub(super) fn called(&self, scope: BudgetScope, subject: &str) -> String {
        let alias = match scope {
            BudgetScope::Team | BudgetScope::TeamModel | BudgetScope::TeamMember => {
                &self.team_alias
            }
            _ => &self.key_alias,
        };
        match alias {
            Some(alias) => alias.to_string(),
            None => subject.chars().take(12).collect(),
        }
    }
}

/// How LiteLLM calls whose budget it is, in `event_group` and in messages.
pub(super) fn words(scope: BudgetScope) -> (&'static str, &'static str) {
    match scope {
        BudgetScope::Global | BudgetScope::Request => ("proxy", "Proxy"),
        BudgetScope::Provider => ("provider", "Provider"),
        BudgetScope::Model => ("model", "Model"),
        BudgetScope::Deployment => ("deployment", "Deployment"),
        BudgetScope::Team => ("team", "Team"),
        BudgetScope::TeamModel => ("team", "Team Model"),
        BudgetScope::TeamMember => ("team", "Team Member"),
        BudgetScope::User => ("user", "User"),
        BudgetScope::UserModel => ("user", "User Model"),
        BudgetScope::Key => ("key", "Key"),
        BudgetScope::KeyModel => ("key", "Key Model"),
        BudgetScope::EndUser => ("end_user", "Customer"),
        BudgetScope::Tag => ("tag", "Tag"),
    }
}

impl Event {
    /// The body of a request that tells it.
    pub(super) fn body(&self, format: AlertFormat) -> Vec<u8> {
        let body = match format {
            AlertFormat::Slack => json!({"text": self.slack_text()}),
            AlertFormat::Webhook => self.webhook(),
        };
        body.to_string().into_bytes()
    }

    fn webhook(&self) -> Value {
        let dollars = |amount: Option<PicoDollars>| amount.map(PicoDollars::as_dollars);
        let text = |text: &Option<Arc<str>>| text.as_deref().map(str::to_owned);
        let (date, projected) = self.projected.unzip();
        json!({
            "spend": self.spend.as_dollars(),
            "max_budget": dollars(self.max_budget),
            "soft_budget": dollars(self.soft_budget),
            "token": text(&self.who.token),
            "customer_id": text(&self.who.customer_id),
            "user_id": text(&self.who.user_id),
            "team_id": text(&self.who.team_id),
            "team_alias": text(&self.who.team_alias),
            "user_email": text(&self.who.user_email),
            "key_alias": text(&self.who.key_alias),
            "projected_exceeded_date": date.map(calendar::day_text),
            "projected_spend": dollars(projected),
            "event": self.name,
            "event_group": self.group,
            "event_message": format!("{}. {} {}", self.title, self.owner, self.detail),
        })
    }

    fn slack_text(&self) -> String {
        format!("*{}*\n{} {}", escaped(&self.title), escaped(&self.owner), escaped(&self.detail))
    }
}

/// Slack reads `<!channel>` and `<https://…>` as commands, and callers choose some names.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Event {
        Event {
            kind: AlertKind::Budget,
            name: "threshold_crossed",
            group: "end_user",
            title: "Customer Budget: 80% Threshold Crossed".to_owned(),
            owner: "End User=<!channel> & co".into(),
            detail: "has spent $8 of $10".to_owned(),
            spend: PicoDollars(8_000_000_000_000),
            max_budget: Some(PicoDollars(10_000_000_000_000)),
            soft_budget: None,
            who: Who { customer_id: Some("<!channel> & co".into()), ..Who::default() },
            projected: Some((Duration::from_secs(1_772_323_200), PicoDollars(12_500_000_000_000))),
        }
    }

    #[test]
    fn webhook_has_litellms_members() {
        let body: Value = serde_json::from_slice(&event().body(AlertFormat::Webhook)).unwrap();
        let expect = json!({
            "spend": 8.0, "max_budget": 10.0, "soft_budget": null, "token": null,
            "customer_id": "<!channel> & co", "user_id": null, "team_id": null, "team_alias": null,
            "user_email": null, "key_alias": null, "projected_exceeded_date": "2026-03-01",
            "projected_spend": 12.5, "event": "threshold_crossed", "event_group": "end_user",
            "event_message": "Customer Budget: 80% Threshold Crossed. End User=<!channel> & co has \
                              spent $8 of $10",
        });
        assert_eq!(body, expect);
    }

    #[test]
    fn names_command_nothing_in_slack() {
        let body: Value = serde_json::from_slice(&event().body(AlertFormat::Slack)).unwrap();
        let expect = "*Customer Budget: 80% Threshold Crossed*\nEnd User=&lt;!channel&gt; &amp; co \
                      has spent $8 of $10";
        assert_eq!(body, json!({ "text": expect }));
    }
}
