//! Why a call is not paid for, in LiteLLM's words.

use std::time::Duration;

use http::{HeaderName, HeaderValue};
use tollway_filter_api::treasury::{Budget, BudgetScope, OverBudget, Unpaid};
use tollway_filter_api::{Deployment, Reject, Rejection};
use tollway_wire::price::PicoDollars;

static SCOPE: HeaderName = HeaderName::from_static("x-tollway-budget-scope");

/// Whether the caller may know the amounts: those of a budget that others spend from as well are
/// theirs, too.
pub(super) fn is_callers_own(budget: &Budget) -> bool {
    !matches!(
        budget.id.scope,
        BudgetScope::Global
            | BudgetScope::Provider
            | BudgetScope::Model
            | BudgetScope::Deployment
            | BudgetScope::Tag
    )
}

/// The refusal of a call that a budget has no room for. `most` is what it could cost.
pub(super) fn over_budget(over: &OverBudget, most: PicoDollars, status: u16) -> Rejection {
    let OverBudget { budget, spent, reserved, resets_in } = over;
    let max = budget.limit.unwrap_or_default();
    let owner = match &*budget.owner {
        "" => String::new(),
        owner => format!(" {owner}"),
    };
    let mut message = format!("Budget has been exceeded!{owner}");
    if is_callers_own(budget) {
        let (spent_text, max_text) = (dollars(*spent), dollars(max));
        message.push_str(&format!(" Current cost: {spent_text}, Max budget: {max_text}"));
        // Beyond LiteLLM's words, where these alone would look wrong.
        if *spent < max {
            message.push_str(&format!(
                ". What is left is not enough: this call may cost up to {}",
                dollars(most)
            ));
            if *reserved > PicoDollars::ZERO {
                message.push_str(&format!(
                    ", and {} is reserved for calls under way",
                    dollars(*reserved)
                ));
            }
        }
    }
    refusal(message, status, budget, *resets_in)
}

/// The refusal of a call that may cost more than it was told to.
pub(super) fn over_cap(
    cap: PicoDollars,
    least: PicoDollars,
    budget: &Budget,
    status: u16,
) -> Rejection {
    let message = format!(
        "Budget has been exceeded! This call may cost {} at least, and {} is all it may cost.",
        dollars(least),
        dollars(cap)
    );
    refusal(message, status, budget, None)
}

fn refusal(
    message: String,
    status: u16,
    budget: &Budget,
    resets_in: Option<Duration>,
) -> Rejection {
    let mut reject = Reject::new(status, "budget_exceeded", message)
        .with_code("budget_exceeded")
        .with_header(SCOPE.clone(), HeaderValue::from_static(budget.id.scope.name()));
    reject.retry_after = resets_in;
    reject
}

/// The refusal of a call that cannot be paid for now.
pub(super) fn unpaid(unpaid: &Unpaid, most: PicoDollars, status: u16) -> Rejection {
    match unpaid {
        Unpaid::OverBudget(over) => over_budget(over, most, status),
        Unpaid::Unavailable(why) => {
            let message =
                "What is spent cannot be counted at the moment, so that nothing can be spent.";
            let mut reject =
                Reject::new(503, "internal_server_error", message).with_code("spend_not_recorded");
            reject.retry_after = Some(Duration::from_secs(1));
            reject.source = Some((*why).into());
            reject
        }
    }
}

/// The refusal of a call whose price nobody knows to a caller with a budget.
pub(super) fn unpriced(deployment: &Deployment) -> Rejection {
    let message = format!(
        "No price is known for {}, so that it cannot be called under a budget. Operators can set \
         input_cost_per_token and output_cost_per_token for it.",
        deployment.litellm_model
    );
    Reject::new(403, "permission_error", message).with_code("model_not_priced").with_param("model")
}

/// Dollars as Python writes a float: `10.0`.
pub(super) fn dollars(amount: PicoDollars) -> String {
    let text = amount.to_string();
    if text.contains('.') { text } else { text + ".0" }
}
