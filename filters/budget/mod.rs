//! `budget` lets nobody spend more than they may, and writes down what was spent.
//!
//! Place it after `model_alias`, which says what is called, and before `rate_limit` and
//! `response_cache`: an answer out of the cache costs nothing, and one that was made shorter for want
//! of money is nobody else's answer. List it in any case: it hands every call to the journal, which
//! the ledger is fed from, also where there are no budgets. What is handed on as it is (pass-through,
//! files, batches) has its line there, too, and costs a pass-through's `cost_per_request`. A batch is
//! billed when it has ended, whatever is left then; who has spent a budget may not begin one.
//!
//! All budgets that apply to a call must have room for the most it can cost: everybody's, those of
//! the providers, deployments and models that may come to serve it, of the team, the member in the
//! team, the user, the key, those of the three for that model, the end user, its tags, and its own
//! (`x-tollway-max-cost: 0.25`, or `max_cost` in the body). A deployment or provider whose own budget
//! has no room is left out, where others can serve the call. What does not fit is made smaller or
//! refused (`on_budget`). At the end, what is reserved is replaced by what it did cost: nothing for an
//! answer out of the cache or of a failed call.
//!
//! ```yaml
//! - filter: budget
//!   on_budget: clamp
//!   global:       { max_budget: 1000, budget_duration: 1mo }
//!   providers:    { openai: { max_budget: 50, budget_duration: 1d } }
//!   deployments:  { gpt-4o-eu: { max_budget: 20, budget_duration: 1d } }
//!   tags:         { nightly: { max_budget: 5, budget_duration: 1d } }
//!   per_end_user: { max_budget: 0.5, budget_duration: 1d }
//! ```

mod bound;
mod clamp;
mod config;
#[cfg(test)]
mod fake;
mod gauges;
mod headers;
mod known;
mod passed;
mod record;
mod refusal;
mod rules;
mod stream;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tollway_filter_api::ledger::SpendRecord;
use tollway_filter_api::treasury::{
    Budget, BudgetId, BudgetScope, Hold, Opened, Opening, Paid, Treasury, Unpaid,
};
use tollway_filter_api::{
    BuildFilter, Clock, ConfigError, Deps, Filter, Flow, ModelDirectory, Outcome, Phases,
    Rejection, RequestCtx, RequestHead, ResponseHead, Slot, Step,
};
use tollway_wire::operation::Operation;
use tollway_wire::price::{PicoDollars, cost};
use tollway_wire::usage::Usage;

use self::bound::{Bound, Input, Output, Servers};
pub use self::config::{Allowance, BudgetConfig, OnBudget, amount_mistake};
use self::headers::Wishes;
pub use self::known::{Known, Standing};
use self::record::Begun;
use self::rules::{Applying, Rules};
use self::stream::Watch;
use crate::settle::asked;

/// Holds calls to their budgets, and records them.
pub struct Budgets {
    clock: Clock,
    directory: Arc<dyn ModelDirectory>,
    treasury: Option<Arc<dyn Treasury>>,
    known: Option<Arc<Known>>,
    slot: Slot,
    policy: Policy,
    rules: Arc<Rules>,
}

/// What the config decides.
struct Policy {
    clamps: bool,
    status: u16,
    output_default: u64,
    output_min: u64,
    running_cost: bool,
    final_cost: bool,
    series_max: usize,
}

/// What is to be opened for a call.
struct Account {
    budgets: Applying,
    /// The request's own budget.
    cap: Option<PicoDollars>,
    servers: Servers,
    bound: Bound,
    most: PicoDollars,
    least: PicoDollars,
    /// The output ends where `most` has it.
    is_certain: bool,
    /// It is not made smaller yet: another deployment may have room for all of it.
    is_whole: bool,
    wishes: Wishes,
    begun: Begun,
    /// What is known of it so far.
    draft: SpendRecord,
}

/// What the filter keeps of a call.
struct Open {
    account: Account,
    hold: Option<Box<dyn Hold>>,
    /// The maximum of output tokens that was written into the request.
    clamped: Option<u64>,
    /// Output tokens that are paid for; none where nobody needs to watch them.
    covered: Option<u64>,
    watch: Watch,
    /// The answer is a stream of events.
    is_stream: bool,
    /// When it was last written down what has come of it.
    noted: Instant,
}

/// How often it is written down what has come of a stream, for the case that the process dies.
const NOTED_EVERY: Duration = Duration::from_secs(1);

impl BuildFilter for Budgets {
    const NAME: &'static str = "budget";
    type Config = BudgetConfig;

    fn build(config: BudgetConfig, deps: &Deps, slot: Slot) -> Result<Self, ConfigError> {
        config.check()?;
        let policy = Policy {
            clamps: config.on_budget == OnBudget::Clamp,
            status: config.status,
            output_default: config.output_tokens_default.get(),
            output_min: config.output_tokens_min.get(),
            running_cost: config.running_cost,
            final_cost: config.final_cost,
            series_max: config.series_max,
        };
        let rules = Arc::new(Rules::new(config, Arc::clone(&deps.keys)));
        let known = match &deps.treasury {
            Some(treasury) => {
                let known = Known::of(&deps.metrics, treasury, &deps.clock)
                    .map_err(|error| ConfigError::new("", format!("metrics: {error}")))?;
                known.follow(Arc::clone(&rules));
                Some(known)
            }
            None => None,
        };
        Ok(Budgets {
            clock: deps.clock.clone(),
            directory: Arc::clone(&deps.models),
            treasury: deps.treasury.clone(),
            known,
            slot,
            policy,
            rules,
        })
    }
}

impl Allowance {
    /// The budget of somebody who may spend this.
    pub fn budget(self, scope: BudgetScope, subject: Arc<str>, owner: String) -> Budget {
        Budget {
            id: BudgetId { scope, subject, part: None, period: self.budget_duration },
            limit: self.max_budget,
            soft: self.soft_budget,
            owner: owner.into(),
        }
    }
}

impl Filter for Budgets {
    fn phases(&self) -> Phases {
        Phases::HEAD | Phases::BODY | Phases::CALL | Phases::RESPONSE | Phases::CHUNK | Phases::END
    }

    fn head<'a>(&'a self, ctx: &'a mut RequestCtx, _head: &'a RequestHead) -> Step<'a> {
        self.pass(ctx)
    }

    fn body<'a>(&'a self, ctx: &'a mut RequestCtx, head: &'a RequestHead) -> Step<'a> {
        let account = match self.account(ctx, head) {
            Ok(Some(account)) => account,
            Ok(None) => return Step::next(),
            Err(refused) => return Step::reject(refused),
        };
        let Some(treasury) = &self.treasury else {
            return match account.is_limited() {
                // Nobody counts what is spent: nothing may be.
                true => Step::reject(refusal::unpaid(
                    &Unpaid::Unavailable("there is no treasury"),
                    account.most,
                    self.policy.status,
                )),
                false => Step::Ready(self.begin(ctx, account, None)),
            };
        };
        let mut account = account;
        loop {
            let wait = match treasury.open(account.opening()) {
                Opened::Wait(wait) => wait,
                Opened::Ready(paid) => match self.again(ctx, &mut account, &paid) {
                    Ok(true) => continue,
                    Ok(false) => return Step::Ready(self.concluded(ctx, account, paid)),
                    Err(refused) => return Step::reject(refused),
                },
            };
            return Step::Wait(Box::pin(async move {
                let mut paid = wait.await;
                loop {
                    match self.again(ctx, &mut account, &paid) {
                        Ok(true) => {}
                        Ok(false) => return self.concluded(ctx, account, paid),
                        Err(refused) => return Flow::Reject(refused),
                    }
                    paid = treasury.open(account.opening()).paid().await;
                }
            }));
        }
    }

    fn call<'a>(&'a self, ctx: &'a mut RequestCtx) -> Step<'a> {
        let Some(open) = ctx.slot_mut::<Open>(self.slot) else { return Step::next() };
        let Some(hold) = open.hold.take() else { return Step::next() };
        let written = hold.written(&open.account.draft);
        Step::Wait(Box::pin(async move {
            match written.await {
                Ok(hold) => {
                    if let Some(open) = ctx.slot_mut::<Open>(self.slot) {
                        open.hold = Some(hold);
                    }
                    Flow::Next
                }
                Err(unpaid) => {
                    let open = ctx.take_slot::<Open>(self.slot);
                    let most = open.map_or(PicoDollars::ZERO, |open| open.account.most);
                    Flow::Reject(self.refused(&unpaid, most))
                }
            }
        }))
    }

    fn response(&self, ctx: &mut RequestCtx, _head: &RequestHead, response: &mut ResponseHead) {
        if ctx.operation.is_none() {
            return;
        }
        self.add_headers(ctx, response);
        if let Some(open) = ctx.slot_mut::<Open>(self.slot) {
            open.is_stream = response.streaming;
        }
    }

    fn chunk(&self, ctx: &mut RequestCtx, chunk: &mut Bytes) -> Result<(), Rejection> {
        let operation = ctx.operation;
        let Some(open) = ctx.slot_mut::<Open>(self.slot).filter(|open| open.is_stream) else {
            return Ok(());
        };
        if operation == Some(Operation::Realtime) {
            return self.turn(ctx);
        }
        let wishes = open.account.wishes;
        open.watch.take(chunk);
        let tokens = open.watch.tokens();
        let now = self.clock.now();
        let is_noted = now.saturating_duration_since(open.noted) >= NOTED_EVERY;
        if open.covered.is_none() && !wishes.running_cost && !wishes.final_cost && !is_noted {
            return Ok(());
        }
        if let Some(covered) = open.covered
            && tokens > covered
        {
            self.extend(open, tokens)?;
        }
        let (view, deployment, dialect) =
            (ctx.view.clone(), ctx.report.deployment.clone(), ctx.dialect);
        let price = deployment.as_ref().and_then(|deployment| deployment.price.as_deref());
        let (Some(price), Some(open)) = (price, ctx.slot_mut::<Open>(self.slot)) else {
            return Ok(());
        };
        let bound = &mut open.account.bound;
        let (tier, served) = (bound.tier, bound.served);
        let usage = Usage {
            prompt_tokens: view.map_or(0, |view| bound.count(&view)),
            completion_tokens: tokens,
            served,
            ..Usage::default()
        };
        if is_noted && let Some(hold) = &mut open.hold {
            open.noted = now;
            hold.progress(&usage, cost(&usage, price, tier).total());
        }
        if wishes.final_cost
            && let Some(told) = stream::with_final_cost(chunk, dialect, price, served)
        {
            *chunk = told;
        }
        if wishes.running_cost {
            *chunk = stream::with_running_cost(chunk, cost(&usage, price, tier).total());
        }
        Ok(())
    }

    fn end(&self, ctx: &mut RequestCtx, outcome: Outcome) {
        if ctx.passage.is_some() {
            return self.end_passed(ctx, outcome);
        }
        let Some(open) = ctx.take_slot::<Open>(self.slot) else { return };
        let Open { account, hold, .. } = *open;
        let Account { servers, mut bound, begun, draft, .. } = account;
        let mut record = draft;
        let now = ctx.ended(&self.clock);
        record::fill(&mut record, ctx, outcome, &mut bound, &servers, begun, now);
        if let Some(hold) = hold {
            hold.close(record);
        }
    }
}

impl Budgets {
    /// What a call may cost and who pays for it; `None` for what is no model call.
    fn account(
        &self,
        ctx: &mut RequestCtx,
        head: &RequestHead,
    ) -> Result<Option<Account>, Rejection> {
        let (Some(operation), Some(view)) = (ctx.operation, &ctx.view) else { return Ok(None) };
        let group = match &ctx.plan {
            Some(plan) => Arc::clone(&plan.group),
            None => {
                let name = view.object.str(&view.body, "model");
                match name.and_then(|name| self.directory.resolve(&name)) {
                    Some(group) => group,
                    // The exchange will say so.
                    None => return Ok(None),
                }
            }
        };
        let mut wishes = Wishes::read(head, view)?;
        wishes.running_cost |= self.policy.running_cost;
        wishes.final_cost |= self.policy.final_cost;
        let servers = self.servers(group, view);
        let budgets = self.rules.applying(ctx, &servers);
        self.note(&budgets);
        let cap = wishes.cap;
        let is_limited = cap.is_some() || budgets.iter().any(|budget| budget.limit.is_some());
        if is_limited && let Some(deployment) = servers.unpriced() {
            return Err(refusal::unpriced(deployment));
        }
        let input = match (is_limited, cap) {
            (false, _) => Input::Guessed,
            (true, None) if !wishes.running_cost => Input::Bounded,
            (true, _) => Input::Counted,
        };
        let bound = Bound::of(operation, view, asked(ctx), input);
        let begun = Begun { at: self.clock.now(), unix: self.clock.unix() };
        let draft = record::draft(ctx, &servers, begun);
        let (most, least, is_certain) = (PicoDollars::ZERO, PicoDollars::ZERO, false);
        let is_whole = budgets.iter().any(|budget| {
            matches!(budget.id.scope, BudgetScope::Provider | BudgetScope::Deployment)
        });
        let mut account = Account {
            budgets,
            cap,
            servers,
            bound,
            most,
            least,
            is_certain,
            is_whole,
            wishes,
            begun,
            draft,
        };
        self.weigh(ctx, &mut account)?;
        Ok(Some(account))
    }

    /// Whether a call that a budget has no room for is to be opened again, and how: its input
    /// counted, without the deployments whose budget that is, or smaller.
    fn again(
        &self,
        ctx: &RequestCtx,
        account: &mut Account,
        paid: &Paid,
    ) -> Result<bool, Rejection> {
        let Err(Unpaid::OverBudget(over)) = paid else { return Ok(false) };
        if account.bound.input == Input::Bounded {
            self.count(ctx, account)?;
        } else if account.servers.leave_out(&over.budget.id) {
            account.budgets = self.rules.applying(ctx, &account.servers);
            self.weigh(ctx, account)?;
        } else if account.is_whole && account.least < account.most {
            account.is_whole = false;
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    /// Bounds a call by its tokens: by its length it does not fit.
    fn count(&self, ctx: &RequestCtx, account: &mut Account) -> Result<(), Rejection> {
        if let (Some(operation), Some(view)) = (ctx.operation, &ctx.view) {
            account.bound = Bound::of(operation, view, account.bound.served, Input::Counted);
        }
        self.weigh(ctx, account)
    }

    /// What a call costs within its bound, and how small it can be made.
    fn weigh(&self, ctx: &RequestCtx, account: &mut Account) -> Result<(), Rejection> {
        let bound = &account.bound;
        let (most, is_certain) = account.servers.most(bound, self.policy.output_default);
        (account.most, account.least, account.is_certain) = (most, most, is_certain);
        if self.policy.clamps
            && matches!(bound.output, Output::Text { is_ours: true, .. })
            // It is not made smaller for a bound that is too large.
            && bound.input != Input::Bounded
        {
            let min = self.policy.output_min.saturating_add(bound.thinking);
            account.least = account.servers.with_output(bound, min).min(most);
        }
        if let Some(cap) = account.cap {
            if account.least > cap {
                let own =
                    Allowance { max_budget: Some(cap), soft_budget: None, budget_duration: None }
                        .budget(BudgetScope::Request, Arc::clone(&ctx.id), String::new());
                return Err(refusal::over_cap(cap, account.least, &own, self.policy.status));
            }
            account.most = account.most.min(cap);
        }
        Ok(())
    }

    /// All groups that may come to serve a call.
    fn servers(
        &self,
        group: Arc<tollway_filter_api::ModelGroup>,
        view: &tollway_filter_api::RequestView,
    ) -> Servers {
        let own = view.object.raw(&view.body, "fallbacks");
        let own: Vec<String> =
            own.and_then(|json| serde_json::from_slice(json).ok()).unwrap_or_default();
        let mut servers = Servers::default();
        servers.add(Some(Arc::clone(&group)));
        // The request's own take the place of the usual ones.
        let usual = if own.is_empty() { &group.fallbacks[..] } else { &[] };
        let special = [&group.context_window_fallbacks, &group.content_policy_fallbacks];
        own.iter().for_each(|name| servers.add(self.directory.resolve(name)));
        usual.iter().for_each(|name| servers.add(self.directory.resolve(name)));
        servers.usual = servers.groups.len();
        let others = special.into_iter().flatten().chain(&group.fallbacks);
        others.for_each(|name| servers.add(self.directory.resolve(name)));
        servers
    }

    /// What becomes of a call that has been opened, or not.
    fn concluded(&self, ctx: &mut RequestCtx, account: Account, paid: Paid) -> Flow {
        match paid {
            Ok(hold) => self.begin(ctx, account, Some(hold)),
            Err(unpaid) => Flow::Reject(self.refused(&unpaid, account.most)),
        }
    }

    /// The refusal of a call, which operators hear of.
    fn refused(&self, unpaid: &Unpaid, most: PicoDollars) -> Rejection {
        if let (Some(known), Unpaid::OverBudget(over)) = (&self.known, unpaid) {
            known.refused(&over.budget.id);
        }
        refusal::unpaid(unpaid, most, self.policy.status)
    }

    /// Makes the budgets of a call known.
    fn note(&self, budgets: &Applying) {
        if let Some(known) = &self.known {
            budgets.iter().for_each(|budget| known.note(&budget.id, self.policy.series_max));
        }
    }

    /// The call is paid for: it is made as small as what was granted.
    fn begin(&self, ctx: &mut RequestCtx, account: Account, hold: Option<Box<dyn Hold>>) -> Flow {
        let granted = hold.as_ref().map_or(account.most, |hold| hold.granted());
        let (is_limited, begun) = (account.is_limited(), account.begun);
        if !account.servers.left_out.is_empty() {
            ctx.left_out.clone_from(&account.servers.left_out);
        }
        let mut open = Open {
            account,
            hold,
            clamped: None,
            covered: None,
            watch: Watch::default(),
            is_stream: false,
            noted: begun.at,
        };
        let Account { servers, bound, is_certain, wishes, .. } = &open.account;
        let mut edited = Ok(None);
        if let (true, Output::Text { asked, is_ours }) = (is_limited, bound.output) {
            let is_stream = ctx.view.as_ref().is_some_and(|view| view.stream);
            let default = self.policy.output_default;
            let limit = match asked {
                Some(asked) => asked,
                None => servers.most_output(default),
            };
            let fits = servers.output_for(bound, granted, limit);
            if is_ours && (fits < limit || (!is_certain && !is_stream)) {
                edited = clamp::clamped(ctx, Some(fits), wishes.is_in_body);
                open.clamped = Some(fits);
            } else if !is_certain && ctx.operation != Some(Operation::Realtime) {
                open.covered = Some(fits.saturating_mul(bound.answers));
            }
        }
        if open.clamped.is_none() && wishes.is_in_body {
            edited = clamp::clamped(ctx, None, true);
        }
        match edited {
            Ok(None) => {}
            Ok(Some(view)) => ctx.view = Some(Arc::new(view)),
            Err(refused) => {
                // Its hold must be closed like any other.
                ctx.set_slot(self.slot, open);
                return Flow::Reject(refused);
            }
        }
        ctx.set_slot(self.slot, open);
        Flow::Next
    }

    /// A turn of a realtime session is over: another one like it must be paid for, or the session
    /// ends here.
    fn turn(&self, ctx: &mut RequestCtx) -> Result<(), Rejection> {
        let (usage, deployment) = (ctx.report.usage, ctx.report.deployment.clone());
        let price = deployment.as_ref().and_then(|deployment| deployment.price.as_deref());
        let (Some(usage), Some(price), Some(open)) =
            (usage, price, ctx.slot_mut::<Open>(self.slot))
        else {
            return Ok(());
        };
        let bound = &open.account.bound;
        let usage = Usage { served: usage.served.or(bound.served), ..usage };
        let spent = cost(&usage, price, bound.tier).total();
        let needed = spent.saturating_add(open.account.most);
        open.extend_to(needed, needed).map_err(|over| self.over(&over, needed))
    }

    /// Pays for more of a stream: as much again as is usual, else what has come.
    fn extend(&self, open: &mut Open, tokens: u64) -> Result<(), Rejection> {
        let answers = open.account.bound.answers.max(1);
        let each = |tokens: u64| tokens.div_ceil(answers);
        let usual = tokens.saturating_add(self.policy.output_default);
        let Account { servers, bound, .. } = &open.account;
        let wanted = servers.with_output(bound, each(usual));
        let needed = servers.with_output(bound, each(tokens));
        open.extend_to(wanted, needed).map_err(|over| self.over(&over, needed))?;
        let Account { servers, bound, .. } = &open.account;
        let granted = open.granted();
        let covered = servers.output_for(bound, granted, each(usual)).saturating_mul(answers);
        open.covered = Some(covered.max(tokens));
        Ok(())
    }

    fn over(&self, over: &Over, most: PicoDollars) -> Rejection {
        match over {
            Over::Budget(over) => refusal::over_budget(over, most, self.policy.status),
            Over::Cap(cap, budget) => refusal::over_cap(*cap, most, budget, self.policy.status),
        }
    }
}

/// Why a stream cannot go on.
enum Over {
    Budget(Box<tollway_filter_api::treasury::OverBudget>),
    Cap(PicoDollars, Box<Budget>),
}

impl Account {
    fn is_limited(&self) -> bool {
        self.cap.is_some() || self.budgets.iter().any(|budget| budget.limit.is_some())
    }

    fn opening(&self) -> Opening<'_> {
        Opening {
            budgets: &self.budgets,
            most: self.most,
            least: if self.is_whole { self.most } else { self.least.min(self.most) },
            now: self.begun.unix,
        }
    }
}

impl Open {
    fn granted(&self) -> PicoDollars {
        self.hold.as_ref().map_or(self.account.most, |hold| hold.granted())
    }

    /// Reserves up to `wanted` altogether, or up to `needed` if that is too much.
    fn extend_to(&mut self, wanted: PicoDollars, needed: PicoDollars) -> Result<(), Over> {
        let granted = self.granted();
        if granted >= needed {
            return Ok(());
        }
        let mut wanted = wanted;
        if let Some(cap) = self.account.cap {
            if needed > cap {
                let own =
                    Allowance { max_budget: Some(cap), soft_budget: None, budget_duration: None };
                let own = own.budget(BudgetScope::Request, "".into(), String::new());
                return Err(Over::Cap(cap, Box::new(own)));
            }
            wanted = wanted.min(cap);
        }
        let Some(hold) = &mut self.hold else { return Ok(()) };
        hold.extend(wanted.saturating_sub(granted))
            .or_else(|_| hold.extend(needed.saturating_sub(granted)))
            .map_err(|over| Over::Budget(Box::new(over)))
    }
}
