//! Runs as those see them who own them: one, many, step by step, event by event; and their end.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use tollway_filter_api::documents::{Append, Batch, Collection, Document, Wanted};
use tollway_filter_api::ledger::StoreError;
use tollway_filter_api::{Reject, Rejection};
use tollway_sandbox::Sandbox;

use crate::ports::Caller;
use crate::run::feed::{self, Follower};
use crate::run::journal::{self, Step};
use crate::run::{Status, view};
use crate::service::{Agents, Begun, JOURNAL_BYTES, LIST_MAX, not_found, unavailable, unreadable};
use crate::threads;

/// What a list is asked for with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListQuery {
    /// Runs of this status.
    pub status: Option<String>,
    /// Runs of this thread.
    pub thread_id: Option<String>,
    /// What comes behind this one.
    pub after: Option<String>,
    /// How many at most: 1 to 100.
    pub limit: Option<u64>,
}

impl ListQuery {
    pub(crate) fn limit(&self) -> u64 {
        self.limit.unwrap_or(20).clamp(1, LIST_MAX)
    }
}

impl Agents {
    /// A run, whole.
    pub async fn run(&self, caller: &Caller, id: &str) -> Result<Value, Rejection> {
        let document = self.owned(caller, Collection::Run, "run", id).await?;
        self.view(document).await
    }

    pub(crate) async fn view(&self, document: Document) -> Result<Value, Rejection> {
        let (state, _) = self.journal(&document.id).await?;
        let Some(plan) = &state.plan else { return Err(unreadable()) };
        let status = Status::from_name(&document.state).ok_or_else(unreadable)?;
        Ok(view::run(&document, status, plan, &state))
    }

    /// Runs of this caller, latest first.
    pub async fn runs(&self, caller: &Caller, asked: &ListQuery) -> Result<Value, Rejection> {
        let mut wanted = self.wanted(caller, Collection::Run, asked).await?;
        wanted.states = asked.status.iter().map(|status| status.as_str().into()).collect();
        wanted.parent = asked.thread_id.as_deref().map(Into::into);
        let found = self.shared.documents.list(wanted).await.map_err(unavailable)?;
        Ok(list(found.iter().map(view::item), asked.limit()))
    }

    pub(crate) async fn wanted(
        &self,
        caller: &Caller,
        collection: Collection,
        asked: &ListQuery,
    ) -> Result<Wanted, Rejection> {
        let mut wanted = Wanted::of(collection, asked.limit() + 1);
        wanted.owner = (!caller.sees_all).then(|| Arc::clone(&caller.owner));
        if let Some(after) = &asked.after {
            let found = self.shared.documents.get(collection, after).await.map_err(unavailable)?;
            let found = found.filter(|document| caller.sees(&document.owner));
            let Some(found) = found else {
                let message = "'after' is no id of this list.";
                return Err(Reject::invalid_request(message).with_param("after"));
            };
            wanted.after = Some((found.created_ms, found.id));
        }
        Ok(wanted)
    }

    /// A run that has stopped, for the one who began it: also one that is not kept.
    pub async fn ended(&self, caller: &Caller, begun: &Begun) -> Result<Value, Rejection> {
        if let Some(run) = begun.feed.outcome() {
            return Ok(run);
        }
        let found = self.shared.documents.get(Collection::Run, &begun.id).await;
        match found.map_err(unavailable)?.filter(|document| caller.sees(&document.owner)) {
            Some(document) => self.view(document).await,
            None => Err(not_found("run", &begun.id)),
        }
    }

    /// How the module is.
    pub fn status(&self, caller: &Caller) -> Value {
        let live = self.shared.live.load();
        let tools: Vec<&Arc<str>> =
            live.tools.allowed_by(&caller.tools).map(|tool| &tool.spec().name).collect();
        let missing: Map<String, Value> = live
            .tools
            .missing()
            .filter(|(name, _)| {
                caller.sees_all || caller.tools.iter().all(|list| list.allows(name))
            })
            .map(|(name, why)| {
                (name.to_string(), json!({"code": why.code, "message": why.message}))
            })
            .collect();
        let working = self.working();
        let running = usize::try_from(self.shared.metrics.running.get()).unwrap_or(0);
        json!({
            "object": "agent.status",
            "enabled": true,
            "running": running,
            "queued": working.saturating_sub(running),
            "tools": tools,
            "unavailable": missing,
            "mcp_servers": self.shared.servers.shown(caller, &live.tools),
            "sandbox": live.sandbox.as_ref().map(Sandbox::status),
        })
    }

    /// What a run has done, step by step.
    pub async fn steps(&self, caller: &Caller, id: &str) -> Result<Value, Rejection> {
        let document = self.owned(caller, Collection::Run, "run", id).await?;
        let (state, _) = self.journal(&document.id).await?;
        let mut results = state.done.iter();
        let mut steps = Vec::new();
        for (at, answer) in state.answers.iter().enumerate() {
            let calls: Vec<Value> = answer
                .calls
                .iter()
                .map(|call| {
                    let open = || state.calls.iter().find(|open| open.asked.id == call.id);
                    let result = match results.as_slice().first() {
                        Some((done, result)) if done.id == call.id => {
                            results.next();
                            Some(result)
                        }
                        _ => open().and_then(|open| open.result.as_ref()),
                    };
                    let mut shown = view::function_call(call);
                    shown["risk"] = json!(call.risk);
                    if let Some(result) = result {
                        shown["result"] = json!({
                            "ok": result.is_ok,
                            "content": result.content,
                            "duration_ms": result.duration_ms,
                        });
                    }
                    shown
                })
                .collect();
            steps.push(json!({
                "step": at + 1,
                "message": answer.message,
                "finish_reason": answer.finish_reason,
                "usage": view::took(&answer.took),
                "tool_calls": calls,
            }));
        }
        Ok(json!({"object": "list", "run_id": id, "data": steps}))
    }

    /// Ends a run, if it is not over.
    pub async fn cancel(&self, caller: &Caller, id: &str) -> Result<Value, Rejection> {
        let mut document = self.ruled(caller, Collection::Run, "run", id).await?;
        for _ in 0..3 {
            let status = Status::from_name(&document.state).ok_or_else(unreadable)?;
            if status.is_final() {
                break;
            }
            let feed = self.shared.working.lock().get(id).map(|run| Arc::clone(&run.feed));
            if let Some(feed) = feed {
                self.shared.cancel_here(id);
                feed.ended().await;
            } else if let Err(error) = self.cancel_stored(&document).await
                && !matches!(error, StoreError::Conflict(_))
            {
                return Err(unavailable(error));
            }
            document = self.ruled(caller, Collection::Run, "run", id).await?;
        }
        self.view(document).await
    }

    /// Ends a run that waits, or that another node works on, which notices.
    async fn cancel_stored(&self, document: &Document) -> Result<(), StoreError> {
        let Ok((state, _)) = self.journal(&document.id).await else { return Ok(()) };
        let mut cancelled = document.clone();
        cancelled.state = Status::Cancelled.name().into();
        cancelled.holder = None;
        cancelled.held_until_ms = 0;
        cancelled.expires_ms = Some(self.shared.expires_ms());
        let step = Step::Stopped { status: Status::Cancelled, reason: None, error: None };
        let append = Append {
            collection: Collection::Run,
            id: Arc::clone(&document.id),
            from: state.entries,
            entries: vec![step.entry()],
        };
        let mut batch = Batch { put: vec![cancelled], append: vec![append], ..Batch::default() };
        if let Some(plan) = &state.plan {
            let closed =
                threads::close(&self.shared, plan, &state, Status::Cancelled, &mut batch).await;
            if closed.is_err() {
                return Err(StoreError::Unavailable("the thread cannot be given back".to_owned()));
            }
        }
        self.shared.documents.write(batch).await.map(|_| ())
    }

    /// The events of a run behind the one of number `after`: those that are stored, and a follower
    /// of the rest where it is at work here.
    pub async fn events(
        &self,
        caller: &Caller,
        id: &str,
        after: u64,
    ) -> Result<(Vec<u8>, Option<Follower>), Rejection> {
        let document = self.owned(caller, Collection::Run, "run", id).await?;
        let feed = self.shared.working.lock().get(id).map(|run| Arc::clone(&run.feed));
        let mut stored = Vec::new();
        // What is told live need not be read.
        let until = feed.as_ref().map_or(u64::MAX, |feed| feed.first());
        let mut at = 0;
        let mut is_read = after + 1 >= until;
        while !is_read {
            let entries = self
                .shared
                .documents
                .entries(Collection::Run, &document.id, at, JOURNAL_BYTES)
                .await
                .map_err(unavailable)?;
            is_read = entries.is_empty();
            at += entries.len() as u64;
            for entry in entries.iter().filter(|entry| &*entry.kind == journal::EVENTS) {
                let is_live = feed::last_number(&entry.body).is_some_and(|last| last >= until);
                if !is_live {
                    stored.extend_from_slice(feed::behind(&entry.body, after));
                }
            }
        }
        Ok((stored, feed.map(|feed| Follower::new(feed, after))))
    }
}

/// A list in OpenAI's form. One more than `limit` means that there are more.
pub(crate) fn list(items: impl Iterator<Item = Value>, limit: u64) -> Value {
    let mut items: Vec<Value> = items.collect();
    let has_more = items.len() as u64 > limit;
    items.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let id = |item: Option<&Value>| item.and_then(|item| item.get("id")).cloned();
    json!({
        "object": "list",
        "first_id": id(items.first()),
        "last_id": id(items.last()),
        "has_more": has_more,
        "data": items,
    })
}
