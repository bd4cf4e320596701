//! What is handed on as it is: it leaves a line in the ledger like every call, and costs what the
//! config says.

use std::sync::Arc;

use tollway_filter_api::ledger::SpendRecord;
use tollway_filter_api::treasury::{Hold, Opening, Paid, Unpaid};
use tollway_filter_api::{Flow, Outcome, RequestCtx, Step};
use tollway_wire::price::{Cost, PicoDollars};

use super::bound::Servers;
use super::record::{self, Begun};
use super::rules::Applying;
use super::{Budgets, refusal};

/// What the filter keeps of it.
struct Passed {
    hold: Box<dyn Hold>,
    begun: Begun,
}

impl Budgets {
    /// Opens an account for what is handed on.
    pub(super) fn pass<'a>(&'a self, ctx: &'a mut RequestCtx) -> Step<'a> {
        let Some(passage) = &ctx.passage else { return Step::next() };
        let mut cost = passage.cost;
        if passage.is_billed_later {
            // Whoever has spent a budget has no room for the smallest amount there is.
            cost = cost.max(PicoDollars(1));
            name_payers(ctx);
        }
        // What costs nothing needs nobody's money.
        let budgets = match cost {
            PicoDollars::ZERO => Applying::new(),
            _ => self.rules.applying(ctx, &Servers::default()),
        };
        self.note(&budgets);
        let begun = Begun { at: self.clock.now(), unix: self.clock.unix() };
        let Some(treasury) = &self.treasury else {
            let is_limited = budgets.iter().any(|budget| budget.limit.is_some());
            let unpaid = Unpaid::Unavailable("there is no treasury");
            return match is_limited {
                true => Step::reject(refusal::unpaid(&unpaid, cost, self.policy.status)),
                false => Step::next(),
            };
        };
        let draft = passed(ctx, begun);
        let opened =
            treasury.open(Opening { budgets: &budgets, most: cost, least: cost, now: begun.unix });
        Step::Wait(Box::pin(async move {
            let written = match opened.paid().await {
                Ok(hold) => hold.written(&draft).await,
                Err(unpaid) => Err(unpaid),
            };
            self.keep(ctx, begun, cost, written)
        }))
    }

    fn keep(&self, ctx: &mut RequestCtx, begun: Begun, cost: PicoDollars, paid: Paid) -> Flow {
        match paid {
            Ok(hold) => ctx.set_slot(self.slot, Passed { hold, begun }),
            // A line that is missing is no reason to refuse what costs nothing.
            Err(Unpaid::Unavailable(_)) if cost == PicoDollars::ZERO => {}
            Err(unpaid) => return Flow::Reject(self.refused(&unpaid, cost)),
        }
        Flow::Next
    }

    /// Writes down what became of it.
    pub(super) fn end_passed(&self, ctx: &mut RequestCtx, outcome: Outcome) {
        let Some(kept) = ctx.take_slot::<Passed>(self.slot) else { return };
        let Passed { hold, begun } = *kept;
        let mut record = passed(ctx, begun);
        record.status = record::status(ctx, outcome);
        // Who has left meanwhile may well have had it done.
        let is_refused = record.status >= 400 && outcome != Outcome::ClientGone;
        record.cost = match &ctx.passage {
            Some(passage) if !is_refused => passage.cost,
            _ => PicoDollars::ZERO,
        };
        if record.cost > PicoDollars::ZERO {
            ctx.report.cost = Some(Cost { request: record.cost, ..Cost::default() });
        }
        record.ended_ms = begun.millis_at(ctx.ended(&self.clock));
        record.first_byte_ms = ctx.report.first_byte.map(|at| begun.millis_at(at));
        hold.close(record);
    }
}

/// Adds what a key says of its requests to what the head says of this one.
fn name_payers(ctx: &mut RequestCtx) {
    let Some(key) = &ctx.identity else { return };
    for tag in &key.settings.tags {
        if !ctx.tags.contains(tag) {
            ctx.tags.push(Arc::clone(tag));
        }
    }
    if let Some(signed) = key.token.as_ref().and_then(|token| token.end_user.clone()) {
        ctx.end_user = Some(signed);
    }
}

/// What is known of it.
fn passed(ctx: &RequestCtx, begun: Begun) -> SpendRecord {
    let mut record = record::draft(ctx, &Servers::default(), begun);
    if let Some(passage) = &ctx.passage {
        record.operation = passage.call_type.into();
        record.provider = passage.provider.into();
        record.api_base = Arc::clone(&passage.api_base);
        record.group = Arc::clone(&passage.name);
        record.model = Arc::clone(&passage.name);
    }
    record
}
