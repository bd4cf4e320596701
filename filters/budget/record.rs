//! The line of the ledger that a call becomes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tollway_filter_api::clock::millis;
use tollway_filter_api::ledger::SpendRecord;
use tollway_filter_api::{ModelGroup, Outcome, RequestCtx};
use tollway_wire::operation::Operation;
use tollway_wire::price::PicoDollars;
use tollway_wire::usage::Usage;

use super::bound::{Bound, Servers};
use crate::settle::settle;
use crate::text::address;

/// The status that counts for a client that left before it got one, as in LiteLLM.
const CLIENT_LEFT: u16 = 499;
/// ... and for an answer that broke off after its head was sent.
const BROKEN: u16 = 500;

/// When the call was opened, by both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begun {
    pub(super) at: Instant,
    /// Since the Unix epoch. The period it is charged to is that of this moment.
    pub(super) unix: Duration,
}

impl Begun {
    pub(super) fn millis_at(self, moment: Instant) -> u64 {
        let since = moment.saturating_duration_since(self.at);
        millis(self.unix.saturating_add(since))
    }
}

/// What is known of a call before it is made.
pub(super) fn draft(ctx: &RequestCtx, servers: &Servers, begun: Begun) -> SpendRecord {
    let key = ctx.identity.as_deref();
    let group = servers.groups.first();
    // Where it will most likely go: what is charged to it if nobody lives to say more.
    let deployment = group.and_then(|group| group.deployments.first());
    let said = |text: Option<&Arc<str>>| text.map(Arc::clone).unwrap_or_default();
    // Without `..`: a default that is replaced is counted up and down for nothing.
    SpendRecord {
        request_id: Arc::clone(&ctx.id),
        operation: ctx.operation.map_or("", Operation::name).into(),
        key: said(key.map(|key| &key.hash_hex)),
        key_alias: key.and_then(|key| key.alias.clone()),
        user: key.and_then(|key| key.user.clone()),
        team: key.and_then(|key| key.team.clone()),
        end_user: ctx.end_user.clone(),
        tags: ctx.tags.clone(),
        group: said(group.map(|group| &group.name)),
        model: said(deployment.map(|deployment| &deployment.litellm_model)),
        model_id: said(deployment.map(|deployment| &deployment.id)),
        provider: deployment.map_or("", |deployment| deployment.provider).into(),
        api_base: said(deployment.map(|deployment| &deployment.api_base)),
        started_ms: millis(begun.unix),
        first_byte_ms: None,
        ended_ms: 0,
        usage: Usage::default(),
        usage_estimated: false,
        cost: PicoDollars::ZERO,
        unpriced: false,
        cache_hit: false,
        status: 0,
        client: ctx.client.map(address),
    }
}

/// Writes down what became of a call. What it took is known now, or never.
pub(super) fn fill(
    record: &mut SpendRecord,
    ctx: &mut RequestCtx,
    outcome: Outcome,
    bound: &mut Bound,
    servers: &Servers,
    begun: Begun,
    now: Instant,
) {
    let status = self::status(ctx, outcome);
    count_ourselves(ctx, outcome, status, bound);
    settle(ctx);
    let report = &ctx.report;
    record.first_byte_ms = report.first_byte.map(|at| begun.millis_at(at));
    record.ended_ms = begun.millis_at(now);
    record.usage = report.usage.unwrap_or_default();
    record.usage_estimated = report.usage_estimated;
    record.cost = report.cost.map(|cost| cost.total()).unwrap_or_default();
    record.unpriced = report.usage.is_some() && report.cost.is_none();
    record.cache_hit = report.cache_hit;
    record.status = status;
    if let Some(deployment) = &report.deployment
        // Mostly it went where it was thought to go.
        && !(Arc::ptr_eq(&deployment.id, &record.model_id)
            && Arc::ptr_eq(&deployment.litellm_model, &record.model))
    {
        let has = |group: &&Arc<ModelGroup>| {
            group.deployments.iter().any(|other| other.id == deployment.id)
        };
        if let Some(group) = servers.groups.iter().find(has) {
            record.group = Arc::clone(&group.name);
        }
        record.model = Arc::clone(&deployment.litellm_model);
        record.model_id = Arc::clone(&deployment.id);
        record.provider = deployment.provider.into();
        record.api_base = Arc::clone(&deployment.api_base);
    }
}

/// The status that counts.
pub(super) fn status(ctx: &RequestCtx, outcome: Outcome) -> u16 {
    match (ctx.report.status, outcome) {
        (Some(_), Outcome::Broken) => BROKEN,
        (Some(status), _) => status,
        (None, Outcome::ClientGone) => CLIENT_LEFT,
        // A response that was made in the background.
        (None, Outcome::Done) if ctx.report.error_kind.is_none() => 200,
        (None, _) => BROKEN,
    }
}

/// Counts what a provider did and did not tell of: a server that has no usage in its answers, and a
/// client that hung up before the answer was there. Neither is free for that.
fn count_ourselves(ctx: &mut RequestCtx, outcome: Outcome, status: u16, bound: &mut Bound) {
    let report = &ctx.report;
    if report.usage.is_some() || report.cache_hit || report.deployment.is_none() {
        return;
    }
    // Of a call that several may share, those who stay pay for one that leaves.
    if outcome != Outcome::Done && ctx.coalesce.is_some() {
        return;
    }
    let is_answered = status < 400 && report.first_byte.is_some();
    let was_abandoned = outcome == Outcome::ClientGone && report.upstream_started.is_some();
    if !is_answered && !was_abandoned || ctx.operation == Some(Operation::CountTokens) {
        return;
    }
    let counted = ctx.view.as_ref().map_or(0, |view| bound.count(view));
    let report = &mut ctx.report;
    let mut usage = Usage { prompt_tokens: counted, ..Usage::default() };
    if is_answered {
        usage = Usage { prompt_tokens: usage.prompt_tokens, ..bound.units };
        if matches!(ctx.operation, Some(Operation::ChatCompletions | Operation::Completions)) {
            usage.completion_tokens = report.bytes_sent.div_ceil(4);
        }
        // What is billed by its length is not billed by tokens as well.
        if usage.characters > 0 || usage.audio_ms > 0 {
            usage.prompt_tokens = 0;
        }
    }
    report.usage = Some(usage);
    report.usage_estimated = true;
}
