//! What one call has reserved.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::yield_now;
use tollway_filter_api::ledger::SpendRecord;
use tollway_filter_api::treasury::{Budget, Hold, OverBudget, Paid, Unpaid};
use tollway_wire::price::PicoDollars;
use tollway_wire::usage::Usage;

use super::Inner;
use super::leases::{Lease, Use};
use super::windows::{SubjectRef, is_charged};
use crate::journal::Reserved;
use crate::journal::codec::{self, Event};

/// What had streamed is written at most so often.
const PROGRESS: Duration = Duration::from_secs(1);

/// One budget of a call.
pub(super) struct Held {
    pub(super) budget: Arc<Budget>,
    /// Its window.
    pub(super) window: usize,
    /// In which of the window's periods.
    pub(super) era: u32,
    /// This node's part of it, where several share it.
    pub(super) lease: Option<Arc<Lease>>,
}

/// A [`Hold`] of this node's.
pub(super) struct LocalHold {
    pub(super) inner: Arc<Inner>,
    /// What the journal was told; nothing yet of a call that may come to need none.
    pub(super) noted: Option<Reserved>,
    pub(super) granted: PicoDollars,
    pub(super) held: Vec<Held>,
    /// When it was opened.
    pub(super) opened_ms: u64,
    /// When the latest of its periods began: the call belongs to that, even if it began a little
    /// before.
    pub(super) floor_ms: u64,
    pub(super) progress_at: Option<Instant>,
    pub(super) state: HoldState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HoldState {
    /// It is not in the journal, or not known to be: nobody has made the call.
    Opening,
    Open,
    Closed,
}

impl LocalHold {
    async fn journaled(mut self: Box<Self>, at: u64, is_alone: bool) -> Paid {
        // If this future is dropped, so is the hold, which then takes everything back.
        let inner = Arc::clone(&self.inner);
        // Whoever else is ready on this thread opens its call first: one write does for them all. Where
        // nobody else is about, that would only be a turn of the scheduler.
        if !is_alone {
            yield_now().await;
        }
        if !inner.journal.has_written(at) {
            inner.journal.write_at_once();
        }
        inner.journal.written(at).await.map_err(Unpaid::Unavailable)?;
        self.state = HoldState::Open;
        Ok(self)
    }

    /// Gives back what is reserved, and charges what the record says, or nothing.
    fn end(&mut self, record: Option<SpendRecord>) {
        self.state = HoldState::Closed;
        let inner = Arc::clone(&self.inner);
        let mut state = inner.state.lock();
        let call = self.noted.as_ref().map(|noted| noted.call);
        if let Some(call) = call {
            state.open.remove(&call);
        }
        match record {
            Some(mut record) => {
                // The ledger goes by when a call began. It must find it in the period that pays.
                record.started_ms = record.started_ms.min(self.opened_ms).max(self.floor_ms);
                inner.charge(&mut state, &self.held, &record, self.opened_ms);
                if record.cost > self.granted {
                    state.over.calls += 1;
                    state.over.amount += u128::from(record.cost.0 - self.granted.0);
                }
                // With the lock still held: records are in the journal in the order in which they
                // are counted.
                inner.journal.settle(call, &record);
            }
            None => call.into_iter().for_each(|call| inner.journal.cancel(call)),
        }
        for held in &self.held {
            let window = &mut state.windows.list[held.window];
            let subject = SubjectRef::of(&held.budget.id);
            window.release(held.era, subject, self.granted);
            if let Some(lease) = &held.lease
                && let Some(counter) = window.get_in(held.era, subject)
            {
                inner.touched(lease, &counter, Use::End);
            }
        }
    }
}

impl Hold for LocalHold {
    fn written(
        mut self: Box<Self>,
        draft: &SpendRecord,
    ) -> Pin<Box<dyn Future<Output = Paid> + Send>> {
        // The record of a call says when it began, and its period pays for it.
        let started_ms = match draft.started_ms {
            0 => self.opened_ms,
            started_ms => started_ms.min(self.opened_ms).max(self.floor_ms),
        };
        let (at, is_alone) = {
            let mut state = self.inner.state.lock();
            let is_alone = state.open.is_empty();
            let journal = &self.inner.journal;
            let (noted, at) = journal.reserve(self.granted, self.opened_ms, draft, started_ms);
            state.open.insert(noted.call);
            self.noted = Some(noted);
            (at, is_alone)
        };
        Box::pin(self.journaled(at, is_alone))
    }

    fn granted(&self) -> PicoDollars {
        self.granted
    }

    fn extend(&mut self, more: PicoDollars) -> Result<(), OverBudget> {
        let mut state = self.inner.state.lock();
        for held in &self.held {
            let window = &state.windows.list[held.window];
            let Some(limit) = held.budget.limit else { continue };
            let counter = window.get_in(held.era, SubjectRef::of(&held.budget.id));
            // What a period had that is long over is not known any more: nothing more of it.
            let left = counter.map(|counter| self.inner.left(held, &counter, limit));
            if left.is_none_or(|left| left < more) {
                if let (Some(lease), Some(counter)) = (&held.lease, &counter) {
                    self.inner.touched(lease, counter, Use::Extend(more.0.into()));
                }
                return Err(self.inner.over(held, &counter.unwrap_or_default(), window));
            }
        }
        let total = PicoDollars(self.granted.0.saturating_add(more.0));
        let more = PicoDollars(total.0 - self.granted.0);
        for held in &self.held {
            let window = &mut state.windows.list[held.window];
            let subject = SubjectRef::of(&held.budget.id);
            window.reserve(held.era, subject, more, self.opened_ms);
            if let Some(lease) = &held.lease
                && let Some(counter) = window.get_in(held.era, subject)
            {
                self.inner.touched(lease, &counter, Use::Extend(more.0.into()));
            }
        }
        self.granted = total;
        if let Some(noted) = &self.noted {
            self.inner.journal.extend(noted.call, total);
        }
        Ok(())
    }

    fn progress(&mut self, usage: &Usage, cost: PicoDollars) {
        let now = self.inner.clock.now();
        let since = self.progress_at.map(|at| now.saturating_duration_since(at));
        if since.is_none_or(|since| since >= PROGRESS) {
            self.progress_at = Some(now);
            if let Some(noted) = &self.noted {
                self.inner.journal.progress(noted.call, cost, usage);
            }
        }
    }

    fn left(&self) -> Vec<(Arc<Budget>, PicoDollars)> {
        let state = self.inner.state.lock();
        let mut left: Vec<_> = self
            .held
            .iter()
            .filter_map(|held| {
                let window = &state.windows.list[held.window];
                let counter = window.get_in(held.era, SubjectRef::of(&held.budget.id));
                let (left, _) = self.inner.left_for_all(held, &counter?, held.budget.limit?);
                Some((Arc::clone(&held.budget), left))
            })
            .collect();
        drop(state);
        left.sort_by_key(|(_, left)| *left);
        left
    }

    fn close(mut self: Box<Self>, record: SpendRecord) {
        self.end(Some(record));
    }
}

impl Drop for LocalHold {
    fn drop(&mut self) {
        match self.state {
            HoldState::Closed => {}
            HoldState::Opening => self.end(None),
            HoldState::Open => {
                let payload = self.noted.as_ref().map(|noted| &noted.payload[..]);
                let mut record = match payload.and_then(codec::decode) {
                    Some(Event::Reserve { draft, .. }) => *draft,
                    // It is charged in any case.
                    _ => SpendRecord::default(),
                };
                record.cost = self.granted;
                record.usage_estimated = true;
                record.ended_ms = self.inner.clock.unix_ms();
                self.inner.dropped.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                self.end(Some(record));
            }
        }
    }
}

impl Inner {
    /// Counts what a call has cost, everywhere.
    pub(super) fn charge(
        &self,
        state: &mut super::State,
        held: &[Held],
        record: &SpendRecord,
        opened_ms: u64,
    ) {
        for (at, window) in state.windows.list.iter_mut().enumerate() {
            let era = match held.iter().find(|held| held.window == at) {
                Some(held) => held.era,
                None => {
                    window.turn(opened_ms, &self.clock);
                    if record.started_ms < window.start_ms {
                        continue;
                    }
                    window.era
                }
            };
            window.add_record(era, record, &self.global);
        }
        for held in held {
            // The record does not name somebody whose budget was asked: they pay all the same.
            if !is_charged(&held.budget.id, record) {
                let window = &mut state.windows.list[held.window];
                let cost = u128::from(record.cost.0);
                window.spend(held.era, SubjectRef::of(&held.budget.id), cost);
            }
        }
    }
}
