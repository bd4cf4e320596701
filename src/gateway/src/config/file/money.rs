//! Budgets as they are written: dollars, and how long they last.

use tollway_filter_api::treasury::Period;
use tollway_filters::budget::{Allowance, amount_mistake};
use tollway_wire::price::PicoDollars;

use super::super::reader::Fields;

/// What may be spent, with its place in the file.
#[derive(Clone, Debug)]
pub(crate) struct FileBudget {
    /// Where it stands: `keys[0].max_budget`.
    pub(crate) path: String,
    /// How much, and for how long.
    pub(crate) allowance: Allowance,
}

/// A budget of something that has a name.
#[derive(Clone, Debug)]
pub(crate) struct NamedBudget {
    /// The name: of a provider, a model, a tag.
    pub(crate) name: String,
    /// The budget.
    pub(crate) budget: FileBudget,
}

/// How LiteLLM calls the two parts of a budget.
#[derive(Clone, Copy)]
pub(super) struct Words {
    max: &'static str,
    soft: Option<&'static str>,
    period: Option<&'static str>,
}

impl Words {
    /// Of keys, teams, users.
    pub(super) const OF_OWNER: Words =
        Words { max: "max_budget", soft: Some("soft_budget"), period: Some("budget_duration") };
    /// Of everything else.
    pub(super) const USUAL: Words = Words { soft: None, ..Words::OF_OWNER };
    /// Of a member in `members` of a team.
    pub(super) const OF_MEMBER: Words =
        Words { max: "max_budget_in_team", soft: None, period: Some("budget_duration") };
    /// What each member of a team may spend that has no budget of its own.
    pub(super) const OF_EACH_MEMBER: Words = Words {
        max: "team_member_budget",
        soft: None,
        period: Some("team_member_budget_duration"),
    };
    /// Within `model_max_budget` and `provider_budget_config`.
    pub(super) const OF_PART: Words =
        Words { max: "budget_limit", soft: None, period: Some("time_period") };
    /// What each user may spend that has no budget of its own.
    pub(super) const OF_EACH_USER: Words = Words {
        max: "max_internal_user_budget",
        soft: None,
        period: Some("internal_user_budget_duration"),
    };
    /// The same of end users.
    pub(super) const OF_EACH_END_USER: Words =
        Words { max: "max_end_user_budget", soft: None, period: None };
}

impl Fields<'_> {
    pub(super) fn dollars(&mut self, name: &'static str) -> Option<PicoDollars> {
        let text = self.text(name)?;
        match text.trim().parse() {
            Ok(amount) => Some(amount),
            Err(error) => {
                self.wrong(name, amount_mistake(error));
                None
            }
        }
    }

    fn period(&mut self, name: &'static str) -> Option<Period> {
        let text = self.text(name)?;
        match text.trim().parse::<Period>() {
            Ok(period) => Some(period),
            Err(error) => {
                self.wrong(name, error.to_string());
                None
            }
        }
    }

    /// A budget, if there is one here.
    pub(super) fn budget(&mut self, words: Words) -> Option<FileBudget> {
        let max_budget = self.dollars(words.max);
        let soft_budget = words.soft.and_then(|name| self.dollars(name));
        let budget_duration = words.period.and_then(|name| self.period(name));
        if let (Some(name), Some(soft), Some(max)) = (words.soft, soft_budget, max_budget)
            && soft > max
        {
            self.wrong(name, format!("is above {}, so that nothing can reach it", words.max));
        }
        let name = match (max_budget, soft_budget, words.soft) {
            (Some(_), _, _) => words.max,
            (None, Some(_), Some(soft)) => soft,
            _ => {
                if let (Some(_), Some(period)) = (budget_duration, words.period) {
                    self.wrong(period, format!("needs a {} beside it", words.max));
                }
                return None;
            }
        };
        let allowance = Allowance { max_budget, soft_budget, budget_duration };
        Some(FileBudget { path: self.path(name), allowance })
    }

    /// `{name: budget}`
    pub(super) fn budgets(&mut self, name: &'static str, words: Words) -> Vec<NamedBudget> {
        let mut budgets = Vec::new();
        for (name, node, path) in self.entries(name) {
            let read = |fields: &mut Fields<'_>| fields.budget(words);
            let Some(budget) = self.reader.fields(node, &path, &[], read) else { continue };
            match budget {
                Some(budget) => {
                    let budget = FileBudget { path: path.clone(), ..budget };
                    budgets.push(NamedBudget { name: name.to_owned(), budget });
                }
                None if !self.reader.report.has_mistake(&format!("{path}.{}", words.max)) => {
                    self.reader.report.mistake(&path, format!("needs a {}", words.max));
                }
                None => {}
            }
        }
        budgets
    }
}
