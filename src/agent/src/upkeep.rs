//! What goes on beside the runs: they are held for this node, taken up where nobody works on them any
//! more, and forgotten when their time is over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt};
use tollway_filter_api::Rejection;
use tollway_filter_api::documents::{Batch, Collection, Document, Wanted};
use tollway_filter_api::ledger::StoreError;

use crate::ports::Caller;
use crate::run::Status;
use crate::service::{Agents, LIST_MAX, unavailable, unreadable};

/// How often a node says that it works on its runs.
const HOLD_AGAIN: Duration = Duration::from_secs(20);
/// How many of them at once.
const HELD_AT_ONCE: usize = 256;
/// How long a run that goes on waits for its tools. Less than a run is held.
const TOOLS_PATIENCE: Duration = Duration::from_secs(20);
/// How often runs are looked for that nobody works on any more, and documents that are past their time.
const LOOK: Duration = Duration::from_secs(15);

impl Agents {
    /// Holds this node's runs, takes up those that nobody works on any more, and forgets what is past
    /// its time. Never returns.
    pub async fn watch(&self) {
        let mut is_first = true;
        let mut held = Instant::now();
        loop {
            if let Err(error) = self.take_up(is_first).await {
                tracing::warn!(%error, "runs cannot be looked for");
            } else {
                is_first = false;
            }
            if let Err(error) = self.forget_expired().await {
                tracing::warn!(%error, "what is past its time cannot be removed");
            }
            tokio::time::sleep(if is_first { Duration::from_secs(1) } else { LOOK }).await;
            if held.elapsed() >= HOLD_AGAIN {
                held = Instant::now();
                self.hold_again().await;
            }
        }
    }

    /// Says again which runs this node holds. The store makes one transaction of those that come at once.
    async fn hold_again(&self) {
        let held: Vec<_> = {
            let working = self.shared.working.lock();
            working.iter().map(|(id, run)| (Arc::clone(id), Arc::clone(&run.document))).collect()
        };
        let again = |(id, document)| self.hold_one_again(id, document);
        stream::iter(held).for_each_concurrent(HELD_AT_ONCE, again).await;
    }

    async fn hold_one_again(&self, id: Arc<str>, document: Arc<tokio::sync::Mutex<Document>>) {
        let mut document = document.lock().await;
        if document.holder.is_none() {
            return;
        }
        let mut held = document.clone();
        held.held_until_ms = self.shared.held_until_ms();
        let batch = Batch { put: vec![held.clone()], ..Batch::default() };
        match self.shared.documents.write(batch).await {
            Ok(versions) => {
                held.version = versions.first().copied().unwrap_or(held.version);
                *document = held;
            }
            // Somebody has cancelled it elsewhere.
            Err(StoreError::Conflict(_)) => {
                self.shared.cancel_here(&id);
            }
            Err(_) => {}
        }
    }

    /// Takes up runs that nobody works on.
    async fn take_up(&self, own_as_well: bool) -> Result<(), StoreError> {
        let shared = &self.shared;
        let states = [Status::Queued, Status::InProgress].map(|status| status.name().into());
        let mut after = None;
        loop {
            let free_at_ms = (!own_as_well).then(|| shared.now_ms());
            let wanted = Wanted {
                states: states.to_vec(),
                free_at_ms,
                is_latest_first: false,
                after: after.take(),
                ..Wanted::of(Collection::Run, LIST_MAX)
            };
            let found = shared.documents.list(wanted).await?;
            let Some(last) = found.last() else { return Ok(()) };
            after = Some((last.created_ms, Arc::clone(&last.id)));
            for document in found {
                let is_free = document.held_until_ms <= shared.now_ms();
                let is_ours = own_as_well && document.holder.as_deref() == Some(&*shared.node);
                let is_here = shared.working.lock().contains_key(&document.id);
                if is_here || !(is_free || is_ours) {
                    continue;
                }
                let id = Arc::clone(&document.id);
                match self.take_one_up(document).await {
                    Ok(()) => tracing::info!(run = &*id, "a run goes on"),
                    Err(reject) => tracing::warn!(run = &*id, error = %reject, "a run stays"),
                }
            }
        }
    }

    async fn take_one_up(&self, mut document: Document) -> Result<(), Rejection> {
        let shared = &self.shared;
        document.holder = Some(Arc::clone(&shared.node));
        document.held_until_ms = shared.held_until_ms();
        let batch = Batch { put: vec![document.clone()], ..Batch::default() };
        let versions = shared.documents.write(batch).await.map_err(unavailable)?;
        document.version = versions.first().copied().unwrap_or_default();
        let (state, last_event) = self.journal(&document.id).await?;
        let Some(plan) = state.plan.clone() else { return Err(unreadable()) };
        let caller = shared.completions.caller(&document.owner, &plan.caller);
        let is_known = caller.is_some();
        let caller = caller.unwrap_or_else(|| Caller {
            owner: Arc::clone(&document.owner),
            identity: None,
            end_user: None,
            client: None,
            tools: vec![Default::default()],
            sees_all: false,
            is_admin: false,
            trace: None,
        });
        let (agents, caller) = (self.clone(), Arc::new(caller));
        tokio::spawn(async move {
            agents.await_tools(&plan.tools).await;
            agents.spawn(document, plan, state, caller, last_event, !is_known).let_go();
        });
        Ok(())
    }

    /// Waits for tools of servers that are being connected to, but not for ever: a run that goes on
    /// without them is told that they are gone.
    pub(crate) async fn await_tools(&self, names: &[Arc<str>]) {
        let until = Instant::now() + TOOLS_PATIENCE;
        let mut pause = Duration::from_millis(10);
        let are_there =
            || names.iter().all(|name| self.shared.live.load().tools.get(name).is_some());
        while !are_there() && Instant::now() < until {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    }

    async fn forget_expired(&self) -> Result<(), StoreError> {
        for collection in Collection::ALL {
            // Files have more than a document: whoever keeps them removes them.
            if collection == Collection::File {
                if let Some(files) = &self.live().files {
                    files.forget_expired().await?;
                }
                continue;
            }
            loop {
                let wanted = Wanted {
                    // Not at once: who has begun it may be about to ask how it ended.
                    expired_at_ms: Some(self.shared.now_ms().saturating_sub(60_000)),
                    is_latest_first: false,
                    ..Wanted::of(collection, LIST_MAX)
                };
                let expired = self.shared.documents.list(wanted).await?;
                if expired.is_empty() {
                    break;
                }
                let remove = expired.into_iter().map(|found| (collection, found.id)).collect();
                self.shared.documents.write(Batch { remove, ..Batch::default() }).await?;
            }
        }
        Ok(())
    }
}
