//! Looks after batches that have not ended: those that an answer has told of, at once, and all
//! others from time to time.
//!
//! Whoever looks at a batch holds its document for a while, so that of several nodes one asks and
//! one reads the output; that no two bill it, its version sees to.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tollway_filter_api::clock::millis;
use tollway_filter_api::documents::{Collection, Document, Documents, Wanted};
use tollway_filter_api::ledger::StoreError;
use tollway_wire::batch::Batch;

use super::bill::{Billed, bill};
use super::kept::{CLOSED, Kept, OPEN, document_id};
use super::{Event, LOOKED_AT, ask, put};
use crate::exchange::Endpoint;
use crate::state::{Gateway, Generation};

/// How many batches are looked at once, of those that answers tell of and of the others each.
const AT_ONCE: usize = 4;
/// How many documents are read at once.
const PAGE: u64 = 100;
/// How long a batch is held that is looked at: longer than looking may take.
const HELD: Duration = Duration::from_secs(20 * 60);
/// How long a provider may take to say how a batch stands.
const ASK_MAX: Duration = Duration::from_secs(120);
/// How often it is looked for batches that are due.
const ROUND: Duration = Duration::from_secs(60);
/// When something is tried again that failed here.
const AGAIN: Duration = Duration::from_secs(300);
/// After so long a provider that does not know a batch is believed.
const GONE_MS: u64 = 7 * 86_400_000;

/// Looks after batches, for ever.
pub(crate) async fn watch(gateway: Arc<Gateway>) {
    let Some(waiting) = gateway.batches.waiting.lock().take() else { return };
    tokio::join!(follow(&gateway, waiting), rounds(&gateway));
}

/// Does what answers have told of.
async fn follow(gateway: &Arc<Gateway>, waiting: mpsc::Receiver<Event>) {
    let events = stream::unfold(waiting, async |mut waiting| {
        waiting.recv().await.map(|event| (event, waiting))
    });
    events.for_each_concurrent(AT_ONCE, |event| told(gateway, event)).await;
}

async fn told(gateway: &Arc<Gateway>, event: Event) {
    let (endpoint, batch) = match event {
        Event::Begun(document) => return note(gateway, document).await,
        Event::Ended(endpoint, batch) => (endpoint, batch),
    };
    let id = document_id(endpoint.provider.name(), &endpoint.api_base(), &batch.id);
    match gateway.money.store().get(Collection::Batch, &id).await {
        Ok(Some(document)) if *document.state == *OPEN => {
            look(gateway, document, Some((endpoint, batch))).await;
        }
        Ok(_) => {}
        Err(error) => tracing::debug!(%error, "the store is away: a batch is billed later"),
    }
}

/// Notes a batch as soon as the store is there.
async fn note(gateway: &Gateway, document: Document) {
    let mut pause = Duration::from_millis(200);
    while let Err(error) = put(gateway, document.clone()).await {
        match error {
            StoreError::Unavailable(_) => {}
            StoreError::Conflict(_) => return,
            StoreError::Invalid(_) => {
                let id = &document.id;
                tracing::error!(%id, %error, "a batch cannot be noted: it is not billed");
                return;
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(AGAIN);
    }
}

/// Asks for all batches that are due, again and again.
async fn rounds(gateway: &Arc<Gateway>) {
    // The first time all of them: nobody may have looked for a long time.
    let mut is_first = true;
    loop {
        match round(gateway, is_first).await {
            Ok(()) => is_first = false,
            Err(error) => tracing::debug!(%error, "the store is away: batches are billed later"),
        }
        let interval = gateway.live.load().config.batch_polling_interval;
        sleep(interval.min(ROUND)).await;
    }
}

async fn round(gateway: &Arc<Gateway>, is_first: bool) -> Result<(), StoreError> {
    let mut after = None;
    loop {
        let now_ms = gateway.clock.unix_ms();
        let wanted = Wanted {
            states: vec![OPEN.into()],
            free_at_ms: (!is_first).then_some(now_ms),
            is_latest_first: false,
            after: after.take(),
            ..Wanted::of(Collection::Batch, PAGE)
        };
        let found = gateway.money.store().list(wanted).await?;
        after = found.last().map(|last| (last.created_ms, Arc::clone(&last.id)));
        let is_last = (found.len() as u64) < PAGE;
        stream::iter(found)
            .for_each_concurrent(AT_ONCE, |document| look(gateway, document, None))
            .await;
        if is_last {
            return Ok(());
        }
    }
}

/// What became of a look at a batch.
enum Looked {
    /// It is billed.
    Done,
    /// It has not ended.
    Open,
    /// The provider does not know it.
    Gone,
    /// The config has nobody to ask.
    Lost,
    /// It is not known.
    Failed(String),
}

/// Looks at a batch, if nobody else does: `told` is what its provider has just said.
async fn look(
    gateway: &Arc<Gateway>,
    mut document: Document,
    told: Option<(Arc<Endpoint>, Batch)>,
) {
    let now_ms = gateway.clock.unix_ms();
    let holder = gateway.batches.holder(gateway);
    let is_held = document.holder.as_ref().is_some_and(|other| !is_dead(other, &holder));
    if is_held && document.held_until_ms > now_ms {
        return;
    }
    document.holder = Some(holder);
    document.held_until_ms = now_ms.saturating_add(millis(HELD));
    match put(gateway, document.clone()).await {
        Ok(version) => document.version = version,
        Err(error) => return tracing::debug!(%error, "a batch is looked at by somebody else"),
    }
    let Some(mut kept) = Kept::read(&document) else { return };
    let generation = gateway.live.load_full();
    let looked = Box::pin(looked(gateway, &generation, &kept, &document, told)).await;
    let (id, interval) = (&kept.batch.clone(), generation.config.batch_polling_interval);
    let now_ms = gateway.clock.unix_ms();
    let mut next = interval;
    match looked {
        Looked::Done => return,
        Looked::Open => kept.gone_ms = None,
        Looked::Gone => {
            let since = *kept.gone_ms.get_or_insert(now_ms);
            if now_ms.saturating_sub(since) >= GONE_MS {
                tracing::warn!(%id, "the provider does not know a batch any more: it is not billed");
                document.state = CLOSED.into();
                document.expires_ms = Some(now_ms.saturating_add(GONE_MS));
            }
        }
        Looked::Lost => {
            let provider = &kept.provider;
            tracing::warn!(%id, %provider, "no model of a batch's account is configured any more");
        }
        Looked::Failed(why) => {
            tracing::warn!(%id, %why, "it is not known what a batch has cost: it is looked at again");
            next = interval.min(AGAIN);
        }
    }
    document.holder = None;
    document.held_until_ms = now_ms.saturating_add(millis(next));
    document.body = kept.body();
    if let Err(error) = put(gateway, document).await {
        tracing::debug!(%error, "a batch stays held for a while");
    }
}

/// Whether a holder is an earlier process of the node that another one is of: there is one at a time.
fn is_dead(holder: &str, own: &str) -> bool {
    let node = |holder: &str| holder.rsplit_once(' ').map(|(node, _)| node.to_owned());
    holder != own && node(holder) == node(own)
}

async fn looked(
    gateway: &Gateway,
    generation: &Generation,
    kept: &Kept,
    document: &Document,
    told: Option<(Arc<Endpoint>, Batch)>,
) -> Looked {
    let (endpoint, batch) = match told {
        Some(told) => told,
        None => match timeout(ASK_MAX, asked(gateway, generation, kept)).await {
            Ok(Ok(found)) => found,
            Ok(Err(looked)) => return looked,
            Err(_) => return Looked::Failed(format!("no answer within {ASK_MAX:?}")),
        },
    };
    if !batch.is_over() {
        return Looked::Open;
    }
    match bill(gateway, generation, &endpoint, document.clone(), &batch).await {
        Billed::Done => Looked::Done,
        Billed::Gone => Looked::Gone,
        Billed::NotYet(why) => Looked::Failed(why),
    }
}

/// Asks the provider for a batch, by all credentials it may be found with.
async fn asked(
    gateway: &Gateway,
    generation: &Generation,
    kept: &Kept,
) -> Result<(Arc<Endpoint>, Batch), Looked> {
    let endpoints = kept.endpoints(generation);
    if endpoints.is_empty() {
        return Err(Looked::Lost);
    }
    let path = format!("/batches/{}", kept.batch);
    let mut last = Looked::Gone;
    for endpoint in endpoints.into_iter().take(AT_ONCE) {
        let answer = match ask::get(&gateway.exchange, &endpoint, &path).await {
            Ok(answer) => answer,
            Err(why) => return Err(Looked::Failed(why)),
        };
        match answer.status {
            200 => {
                let body = answer.whole(LOOKED_AT).await.map_err(Looked::Failed)?;
                let batch = Batch::read(&body).filter(|batch| *batch.id == *kept.batch);
                let unreadable = || Looked::Failed("the provider's answer is no batch".to_owned());
                return batch.map(|batch| (endpoint, batch)).ok_or_else(unreadable);
            }
            404 | 410 => {}
            status => last = Looked::Failed(format!("the provider answers with status {status}")),
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::is_dead;

    #[test]
    fn only_earlier_processes_of_a_node_are_dead() {
        assert!(is_dead("node a 1", "node a 2"));
        assert!(!is_dead("node a 1", "node a 1"));
        assert!(!is_dead("node b 1", "node a 1"));
    }
}
