//! What requests say about cost, and what answers do.

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use tollway_filter_api::header::number;
use tollway_filter_api::treasury::{Budget, BudgetId, BudgetScope};
use tollway_filter_api::{Reject, Rejection, RequestCtx, RequestHead, RequestView, ResponseHead};
use tollway_wire::price::PicoDollars;

use super::config::amount_mistake;
use super::refusal::is_callers_own;
use super::{Budgets, Open};
use crate::text::push_dollars;

/// What a request may cost, as a member of its body.
pub(super) const MAX_COST_MEMBER: &str = "max_cost";
static MAX_COST: HeaderName = HeaderName::from_static("x-tollway-max-cost");
static STREAM_COST: HeaderName = HeaderName::from_static("x-tollway-stream-cost");

static KEY_SPEND: HeaderName = HeaderName::from_static("x-litellm-key-spend");
static KEY_MAX_BUDGET: HeaderName = HeaderName::from_static("x-litellm-key-max-budget");
static REMAINING: HeaderName = HeaderName::from_static("x-tollway-budget-remaining");
static SCOPE: HeaderName = HeaderName::from_static("x-tollway-budget-scope");
static CLAMPED: HeaderName = HeaderName::from_static("x-tollway-max-tokens-clamped");
static ESTIMATE: HeaderName = HeaderName::from_static("x-tollway-cost-estimate");
static MOST: HeaderName = HeaderName::from_static("x-tollway-cost-max");

/// What a request says about cost.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wishes {
    /// It must not cost more than this.
    pub(super) cap: Option<PicoDollars>,
    /// The body says so.
    pub(super) is_in_body: bool,
    /// Its stream is to carry what it costs as it goes.
    pub(super) running_cost: bool,
    /// Its stream's usage is to carry what it cost.
    pub(super) final_cost: bool,
}

impl Wishes {
    pub(super) fn read(head: &RequestHead, view: &RequestView) -> Result<Wishes, Rejection> {
        let mut wishes = Wishes::default();
        if let Some(value) = head.headers.get(&MAX_COST) {
            wishes.cap = Some(cap(value.to_str().unwrap_or_default(), MAX_COST.as_str())?);
        }
        if let Some(json) =
            view.object.raw(&view.body, MAX_COST_MEMBER).filter(|_| view.form.is_none())
        {
            let text = std::str::from_utf8(json).unwrap_or_default();
            let cap = cap(text.trim_matches('"'), MAX_COST_MEMBER)?;
            wishes.cap = Some(wishes.cap.map_or(cap, |other| other.min(cap)));
            wishes.is_in_body = true;
        }
        if let Some(value) = head.headers.get(&STREAM_COST) {
            let value = value.to_str().unwrap_or_default();
            for word in value.split(',').map(str::trim) {
                wishes.running_cost |= word == "running";
                wishes.final_cost |= word == "final";
            }
        }
        Ok(wishes)
    }
}

fn cap(text: &str, name: &'static str) -> Result<PicoDollars, Rejection> {
    text.trim().parse().map_err(|error| {
        Reject::invalid_request(format!("Invalid value for '{name}': {}.", amount_mistake(error)))
            .with_param(name)
            .with_code("invalid_value")
    })
}

impl Budgets {
    pub(super) fn add_headers(&self, ctx: &mut RequestCtx, response: &mut ResponseHead) {
        if !response.streaming {
            crate::settle::settle(ctx);
        }
        let cost = ctx.report.cost.filter(|_| response.status < 400);
        let cost = cost.map(|cost| cost.total()).unwrap_or_default();
        if let (Some(key), Some(treasury)) = (&ctx.identity, &self.treasury) {
            let budget = key.budgets.iter().find(|b| b.id.scope == BudgetScope::Key);
            let (spent, _) = match budget {
                Some(budget) => treasury.spent(&budget.id, self.clock.unix()),
                // What keys spend altogether is counted in any case.
                None => treasury.spent(&BudgetId::of_key(&key.hash_hex), self.clock.unix()),
            };
            response.headers.push((KEY_SPEND.clone(), amount(spent.saturating_add(cost))));
            if let Some(limit) = budget.and_then(|budget| budget.limit) {
                response.headers.push((KEY_MAX_BUDGET.clone(), amount(limit)));
            }
        }
        let Some(open) = ctx.slot::<Open>(self.slot) else { return };
        if let Some(tokens) = open.clamped {
            response.headers.push((CLAMPED.clone(), number(tokens)));
        }
        if response.streaming {
            let estimate =
                open.account.servers.estimate(&open.account.bound, self.policy.output_default);
            let most = open.granted();
            response.headers.push((ESTIMATE.clone(), amount(estimate.min(most))));
            response.headers.push((MOST.clone(), amount(most)));
        }
        let is_shown = |budget: &Budget| budget.limit.is_some() && is_callers_own(budget);
        if open.account.budgets.iter().any(|budget| is_shown(budget))
            && let Some(hold) = &open.hold
        {
            // What is reserved for this call and will not be used is left as well.
            let unused = match response.streaming {
                true => PicoDollars::ZERO,
                false => open.granted().saturating_sub(cost),
            };
            if let Some((budget, left)) =
                hold.left().into_iter().find(|(budget, _)| is_shown(budget))
            {
                response.headers.push((REMAINING.clone(), amount(left.saturating_add(unused))));
                let scope = HeaderValue::from_static(budget.id.scope.name());
                response.headers.push((SCOPE.clone(), scope));
            }
        }
    }
}

fn amount(amount: PicoDollars) -> HeaderValue {
    let mut text = Vec::with_capacity(16);
    push_dollars(&mut text, amount);
    value(text)
}

fn value(text: Vec<u8>) -> HeaderValue {
    // With nothing to spare, for which `Bytes` would allocate once more.
    let text = Bytes::from(text.into_boxed_slice());
    HeaderValue::from_maybe_shared(text).unwrap_or(HeaderValue::from_static(""))
}
