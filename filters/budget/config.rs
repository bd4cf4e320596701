//! The settings of `budget`.

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use serde::de::Error;
use serde::{Deserialize, Deserializer};
use tollway_filter_api::ConfigError;
use tollway_filter_api::treasury::Period;
use tollway_wire::price::{AmountError, PicoDollars};

/// The `budget` entry of a filter list. Most of it comes from elsewhere in the config: `max_budget`
/// of `litellm_settings`, `provider_budget_config` of `router_settings`, and what deployments, keys,
/// teams and users may cost or spend; what is written here wins.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BudgetConfig {
    /// What happens to a call whose worst case does not fit into what is left: `clamp` lowers the
    /// maximum of its output tokens to what fits and says so in `x-tollway-max-tokens-clamped`;
    /// `refuse` refuses it.
    pub on_budget: OnBudget,
    /// The status of a refusal: 422 as in LiteLLM, or 429 or 400.
    pub status: u16,
    /// Output tokens to reserve for an answer where neither the request nor what is known of the
    /// model says how many there may be. Under a budget such a call is told this maximum; a stream
    /// is not, but reserves as much again whenever it needs it.
    pub output_tokens_default: NonZeroU64,
    /// A call that could not answer with as many output tokens is refused and not clamped.
    pub output_tokens_min: NonZeroU64,
    /// Whether streams carry what they cost so far, as comments (`: cost 0.00012`). Requests can
    /// ask for it by `x-tollway-stream-cost: running`.
    pub running_cost: bool,
    /// Whether a stream's usage carries what it cost, as `usage.cost`. Requests can ask for it by
    /// `x-tollway-stream-cost: final`.
    pub final_cost: bool,
    /// How many budgets have gauges of their own.
    pub series_max: usize,
    /// What everybody together may spend.
    pub global: Option<Allowance>,
    /// What each provider may cost, by name. One whose budget is spent is left out, where others
    /// can serve a call.
    pub providers: BTreeMap<String, Allowance>,
    /// What each model group may cost, by name.
    pub models: BTreeMap<String, Allowance>,
    /// What each deployment may cost, by its `model_info.id`. One whose budget is spent is left out:
    /// the group's others go on.
    pub deployments: BTreeMap<String, Allowance>,
    /// What requests with a tag may cost, by tag.
    pub tags: BTreeMap<String, Allowance>,
    /// What each user may spend that has no budget of its own.
    pub per_user: Option<Allowance>,
    /// What each end user may spend that has no budget of its own.
    pub per_end_user: Option<Allowance>,
}

impl Default for BudgetConfig {
    fn default() -> Self {
        const DEFAULT: NonZeroU64 = NonZeroU64::new(4_096).expect("it is not zero");
        const MIN: NonZeroU64 = NonZeroU64::new(16).expect("it is not zero");
        BudgetConfig {
            on_budget: OnBudget::Clamp,
            status: 422,
            output_tokens_default: DEFAULT,
            output_tokens_min: MIN,
            running_cost: false,
            final_cost: false,
            series_max: 10_000,
            global: None,
            providers: BTreeMap::new(),
            models: BTreeMap::new(),
            deployments: BTreeMap::new(),
            tags: BTreeMap::new(),
            per_user: None,
            per_end_user: None,
        }
    }
}

impl BudgetConfig {
    /// Whether the settings make sense together.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if ![422, 429, 400].contains(&self.status) {
            return Err(ConfigError::new("status", "must be 422, 429 or 400"));
        }
        let named = |section: &'static str, entries: &BTreeMap<String, Allowance>| {
            let path = move |name: &String| format!("{section}.{name}");
            entries.iter().map(|(name, allowance)| (path(name), *allowance)).collect::<Vec<_>>()
        };
        let single = |path: &str, allowance: Option<Allowance>| {
            allowance.map(|allowance| (path.to_owned(), allowance)).into_iter().collect::<Vec<_>>()
        };
        [
            single("global", self.global),
            named("providers", &self.providers),
            named("models", &self.models),
            named("deployments", &self.deployments),
            named("tags", &self.tags),
            single("per_user", self.per_user),
            single("per_end_user", self.per_end_user),
        ]
        .into_iter()
        .flatten()
        .try_for_each(|(path, allowance)| allowance.check(&path))
    }
}

/// What happens to a call that does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnBudget {
    /// It is made smaller where that helps.
    Clamp,
    /// It is refused.
    Refuse,
}

/// What may be spent, and how long until it may be spent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allowance {
    /// Dollars, exactly.
    #[serde(default, alias = "budget_limit", deserialize_with = "amount")]
    pub max_budget: Option<PicoDollars>,
    /// From here on operators are told.
    #[serde(default, deserialize_with = "amount")]
    pub soft_budget: Option<PicoDollars>,
    /// How long it lasts: `1d` until midnight, `7d` or `1w` until Monday, `30d` or `1mo` until the
    /// first, all in UTC. Without it, for ever.
    #[serde(default, alias = "time_period", deserialize_with = "period")]
    pub budget_duration: Option<Period>,
}

impl Allowance {
    fn check(self, path: &str) -> Result<(), ConfigError> {
        if self.max_budget.is_none() && self.soft_budget.is_none() {
            return Err(ConfigError::new(path, "needs a `max_budget` (in dollars)"));
        }
        if let (Some(soft), Some(max)) = (self.soft_budget, self.max_budget)
            && soft > max
        {
            let message = "is above max_budget, so that nothing can reach it";
            return Err(ConfigError::new(format!("{path}.soft_budget"), message));
        }
        Ok(())
    }
}

/// Reads dollars from a number or a text, exactly.
fn amount<'de, D: Deserializer<'de>>(from: D) -> Result<Option<PicoDollars>, D::Error> {
    let text = match serde_json::Value::deserialize(from)? {
        serde_json::Value::Null => return Ok(None),
        serde_json::Value::Number(number) => number.to_string(),
        serde_json::Value::String(text) => text,
        _ => return Err(D::Error::custom("must be an amount of dollars, such as 10 or 0.25")),
    };
    text.trim().parse().map(Some).map_err(|error| D::Error::custom(amount_mistake(error)))
}

/// What to say of an amount of dollars that is none.
pub fn amount_mistake(error: AmountError) -> String {
    match error {
        AmountError::NotANumber => "must be an amount of dollars, such as 10 or 0.25".to_owned(),
        AmountError::Negative => "cannot be negative".to_owned(),
        AmountError::TooMuch | AmountError::TooFine => format!("is {error}"),
    }
}

fn period<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Period>, D::Error> {
    let text = Option::<String>::deserialize(from)?;
    text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
}
