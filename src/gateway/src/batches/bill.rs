//! The bill of a batch that has ended.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tollway_filter_api::ctx::Passage;
use tollway_filter_api::documents::{Document, Documents};
use tollway_filter_api::identity::KeyStore;
use tollway_filter_api::ledger::{SpendRecord, StoreError};
use tollway_filter_api::treasury::{Budget, Treasury};
use tollway_filter_api::{KeyHash, Outcome, Plan, RequestCtx, VirtualKey};
use tollway_filters::budget::Known;
use tollway_store::treasury::BillError;
use tollway_wire::batch::Batch;
use tollway_wire::price::{Cost, PicoDollars};

use super::kept::{BILLED, Kept};
use super::tally::{Part, Prices, Tally, Unknown, tally};
use crate::directory::Joined;
use crate::exchange::Endpoint;
use crate::random;
use crate::state::{Gateway, Generation};

/// How long it may take to read an output.
const TALLY_MAX: Duration = Duration::from_secs(15 * 60);
/// How long a document is kept after its bill.
const KEPT_MS: u64 = 30 * 86_400_000;

/// What became of a bill.
pub(super) enum Billed {
    /// It is there, by us or by somebody else.
    Done,
    /// What is to be billed is not there any more.
    Gone,
    /// Later, perhaps.
    NotYet(String),
}

/// Bills a batch that is over, unless somebody else has.
pub(super) async fn bill(
    gateway: &Gateway,
    generation: &Generation,
    endpoint: &Arc<Endpoint>,
    document: Document,
    batch: &Batch,
) -> Billed {
    let Some(mut kept) = Kept::read(&document) else {
        return Billed::NotYet("what is kept of it cannot be read".to_owned());
    };
    let prices = Prices { generation, kept: &kept, endpoint };
    let Tally { parts, unread, .. } = match timeout(TALLY_MAX, tally(gateway, prices, batch)).await
    {
        Ok(Ok(tally)) => tally,
        Ok(Err(Unknown::Gone)) => return Billed::Gone,
        Ok(Err(Unknown::Unasked(why))) => return Billed::NotYet(why),
        Err(_) => return Billed::NotYet(format!("its output was not read within {TALLY_MAX:?}")),
    };
    let now_ms = gateway.clock.unix_ms();
    let mut calls: Vec<RequestCtx> =
        parts.iter().map(|part| call(gateway, generation, &kept, endpoint, part)).collect();
    let record = |part: &Part| record(&kept, part, unread > 0, now_ms);
    let records: Vec<SpendRecord> = parts.iter().map(record).collect();
    let spent: PicoDollars = records.iter().map(|record| record.cost).sum();
    kept.bill = Some(random::uuid(gateway.clock.unix()));
    let settled = Document {
        state: BILLED.into(),
        expires_ms: Some(now_ms.saturating_add(KEPT_MS)),
        body: kept.body(),
        ..document
    };
    let written = write(gateway, &settled, &kept, records.clone());
    match gateway.money.books.bill(&budgets(gateway, &calls), &records, written).await {
        Ok(()) => {}
        Err(BillError::Unwritten(StoreError::Conflict(_))) => return Billed::Done,
        Err(error) => return Billed::NotYet(error.to_string()),
    }
    let id = &batch.id;
    if unread > 0 {
        tracing::warn!(id, lines = unread, "lines of a batch's output cannot be read: not billed");
    }
    for unpriced in records.iter().filter(|record| record.unpriced) {
        let model = &unpriced.model;
        tracing::warn!(id, %model, "no price is known of a batch's model: it is billed as free");
    }
    tracing::info!(id, status = batch.status, %spent, "a batch is billed");
    for ctx in &mut calls {
        generation.chain.end(ctx, Outcome::Done);
    }
    Billed::Done
}

/// Changes the document and writes the ledger's lines.
async fn write(
    gateway: &Gateway,
    document: &Document,
    kept: &Kept,
    records: Vec<SpendRecord>,
) -> Result<(), StoreError> {
    let store = gateway.money.store();
    let written = store.bill(document, records).await;
    if let Err(StoreError::Unavailable(_)) = &written {
        // It may be there all the same.
        let found = store.get(document.collection, &document.id).await?;
        let is_ours = |found: Document| Kept::read(&found).is_some_and(|it| it.bill == kept.bill);
        if found.is_some_and(is_ours) {
            return Ok(());
        }
    }
    written
}

/// A model's part of a batch, to the filters that count.
fn call(
    gateway: &Gateway,
    generation: &Generation,
    kept: &Kept,
    endpoint: &Endpoint,
    part: &Part,
) -> RequestCtx {
    let id = Arc::clone(&kept.batch);
    let mut ctx = RequestCtx::new(id, gateway.clock.now(), "/v1/batches/{id}");
    ctx.identity = creator(gateway, generation, kept);
    ctx.end_user.clone_from(&kept.end_user);
    ctx.tags.clone_from(&kept.tags);
    let cost = part.cost;
    ctx.passage = Some(Box::new(Passage {
        call_type: "aretrieve_batch",
        provider: endpoint.provider.name(),
        api_base: Arc::clone(&kept.api_base),
        name: "".into(),
        cost: cost.unwrap_or_default(),
        is_billed_later: false,
    }));
    let group = Arc::clone(&part.group);
    ctx.plan = Some(Plan { requested: Arc::clone(&group.name), group });
    ctx.report.status = Some(200);
    ctx.report.deployment = Some(Arc::clone(&part.deployment));
    ctx.report.usage = Some(part.usage);
    ctx.report.cost = cost.map(|cost| Cost { request: cost, ..Cost::default() });
    ctx
}

/// Whoever began the batch, as far as they are still there.
fn creator(gateway: &Gateway, generation: &Generation, kept: &Kept) -> Option<Arc<VirtualKey>> {
    let hash = KeyHash::from_hex(&kept.key)?;
    let config = Arc::clone(&generation.config.keys);
    let keys = Joined { config, stored: gateway.admin.directory() };
    let mut key = match keys.find(&hash) {
        Some(key) => (*key).clone(),
        None => VirtualKey::new(hash),
    };
    // A key that has moved on has left the bill where it was.
    key.alias.clone_from(&kept.key_alias);
    key.user.clone_from(&kept.user);
    key.team.clone_from(&kept.team);
    Some(Arc::new(key))
}

/// The budgets that pay.
fn budgets(gateway: &Gateway, calls: &[RequestCtx]) -> Vec<Arc<Budget>> {
    let treasury: Arc<dyn Treasury> = Arc::new(gateway.money.books.clone());
    let Ok(known) = Known::of(&gateway.metrics, &treasury, &gateway.clock) else {
        return Vec::new();
    };
    let mut budgets: Vec<Arc<Budget>> = Vec::new();
    for budget in calls.iter().flat_map(|ctx| known.applying(ctx)) {
        if !budgets.iter().any(|have| have.id == budget.id) {
            budgets.push(budget);
        }
    }
    budgets
}

/// The line of the ledger that a model's part becomes.
fn record(kept: &Kept, part: &Part, is_estimated: bool, now_ms: u64) -> SpendRecord {
    SpendRecord {
        group: Arc::clone(&part.group.name),
        model: Arc::clone(&part.deployment.litellm_model),
        model_id: Arc::clone(&part.deployment.id),
        usage: part.usage,
        usage_estimated: is_estimated,
        cost: part.cost.unwrap_or_default(),
        unpriced: part.cost.is_none(),
        ..kept.record(now_ms)
    }
}
