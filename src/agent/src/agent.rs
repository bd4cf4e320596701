//! Named agents: a model with instructions, tools and limits, under a name that clients call.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tollway_wire::price::PicoDollars;

use crate::run::Approval;

/// An agent as config and API define it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentSpec {
    /// By which clients call it: `agent/<name>`.
    pub name: String,
    /// What it is for, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The model that answers.
    pub model: String,
    /// What the model is told before everything else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instructions: Option<String>,
    /// The tools it may use: names, groups or `*`.
    #[serde(default)]
    pub tools: Vec<String>,
    /// How many model calls a run may make.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<u32>,
    /// What a run may spend.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "dollars")]
    pub max_cost_usd: Option<PicoDollars>,
    /// How long a run may be at work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_s: Option<u64>,
    /// Which tools have to be approved.
    #[serde(default)]
    pub approval: Approval,
}

/// The longest name, and instructions, of an agent.
const NAME_MAX: usize = 64;
const TEXT_BYTES_MAX: usize = 256 * 1024;

impl AgentSpec {
    /// What is wrong with it, and where.
    pub fn mistake(&self) -> Option<(&'static str, String)> {
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let name = &self.name;
        if name.is_empty() || name.len() > NAME_MAX || !name.chars().all(is_name) {
            let what = "1 to 64 letters, digits, dots, dashes and underscores";
            return Some(("name", format!("{name:?} is not a name: {what}")));
        }
        if self.model.is_empty() {
            return Some(("model", "an agent needs a model".to_owned()));
        }
        if self.model.starts_with("agent/") {
            return Some(("model", "an agent's model cannot be an agent".to_owned()));
        }
        let long = |text: &Option<String>| text.as_ref().is_some_and(|t| t.len() > TEXT_BYTES_MAX);
        if long(&self.instructions) {
            return Some(("instructions", format!("longer than {TEXT_BYTES_MAX} bytes")));
        }
        if long(&self.description) {
            return Some(("description", format!("longer than {TEXT_BYTES_MAX} bytes")));
        }
        if self.max_steps == Some(0) {
            return Some(("max_steps", "must be at least 1".to_owned()));
        }
        if self.deadline_s == Some(0) {
            return Some(("deadline_s", "must be at least 1".to_owned()));
        }
        None
    }
}

/// The agents of the config, by name.
pub type ConfigAgents = BTreeMap<String, AgentSpec>;

/// Dollars as a JSON number, exactly.
pub(crate) mod dollars {
    use super::*;
    use serde::de::Error as _;
    use serde::ser::Error as _;
    use serde::{Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(
        amount: &Option<PicoDollars>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        let text = amount.unwrap_or_default().to_string();
        RawValue::from_string(text).map_err(S::Error::custom)?.serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<PicoDollars>, D::Error> {
        // A number's shortest form is what was written, up to 15 digits; there are no more.
        let number = Option::<serde_json::Number>::deserialize(from)?;
        let amount = number.map(|number| PicoDollars::parse_rounding_up(&number.to_string()));
        amount.transpose().map_err(D::Error::custom)
    }
}
