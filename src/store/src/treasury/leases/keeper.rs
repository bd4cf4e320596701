//! What happens to leases in the background: heartbeats, renewal, more room before it runs out.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream;
use tollway_filter_api::treasury::Unpaid;

use super::script::Beat;
use super::{Inner, Lease, Leases, WAIT_MAX, Wish};

/// How long Redis may take in the background.
const PATIENCE: Duration = Duration::from_millis(500);
/// So many leases ask at once.
const AT_ONCE: usize = 32;

impl Inner {
    /// Keeps the leases until `shutdown` resolves; then gives back what is not used.
    pub(in crate::treasury) async fn run_leases(
        self: &Arc<Self>,
        shutdown: impl Future<Output = ()> + Send,
    ) {
        let Some(leases) = &self.leases else { return };
        let mut shutdown = pin!(shutdown);
        let (mut due, mut last) = (Instant::now(), Instant::now());
        loop {
            let is_over = tokio::select! {
                () = &mut shutdown => true,
                () = leases.wake.notified() => false,
                () = tokio::time::sleep_until(due.into()) => false,
            };
            if is_over {
                return self.leave(leases).await;
            }
            self.serve_queue(leases).await;
            if !leases.starved.lock().is_empty() {
                // The others are to know soon, but not of every refusal.
                due = due.min(last + leases.settings.timings.beat / 5);
            }
            if Instant::now() >= due {
                last = Instant::now();
                if self.tick(leases).await.is_err() {
                    tracing::debug!("a heartbeat was not answered");
                }
                self.prove(leases).await;
                due = Instant::now() + leases.settings.timings.beat;
            }
        }
    }

    /// Waits until leases can be had, but not for ever.
    pub(in crate::treasury) async fn leases_ready(&self, within: Duration) -> bool {
        let Some(leases) = &self.leases else { return true };
        let ready = async {
            while !leases.is_ready() {
                tokio::time::sleep(WAIT_MAX / 2).await;
            }
        };
        tokio::time::timeout(within, ready).await.is_ok()
    }

    fn all_leases(&self) -> Vec<Arc<Lease>> {
        let state = self.state.lock();
        state.windows.list.iter().flat_map(|window| window.leases().cloned()).collect()
    }

    /// Those of which Redis knows.
    fn registered(&self) -> Vec<Arc<Lease>> {
        let all = self.all_leases().into_iter();
        all.filter(|lease| lease.terms.lock().epoch != 0).collect()
    }

    async fn serve_queue(&self, leases: &Leases) {
        let queue = std::mem::take(&mut *leases.queue.lock());
        let wishes = queue.into_iter().filter_map(|lease| {
            let wish = self.wish(leases, &lease)?;
            Some((lease, wish))
        });
        let wishes = wishes.collect();
        self.ask_all(leases, wishes).await;
    }

    /// Asks for many leases. Whether all were answered.
    async fn ask_all(&self, leases: &Leases, wishes: Vec<(Arc<Lease>, Wish)>) -> bool {
        let asking = stream::iter(wishes).map(|(lease, wish)| async move {
            let _turn = lease.turn.lock().await;
            self.ask(leases, &lease, wish, &mut PATIENCE.clone()).await.is_ok()
        });
        asking.buffer_unordered(AT_ONCE).all(async |is_answered| is_answered).await
    }

    /// What a lease from the queue needs.
    fn wish(&self, leases: &Leases, lease: &Lease) -> Option<Wish> {
        let state = self.state.lock();
        let counter = state.windows.list[lease.window].get_in(lease.era, lease.subject())?;
        let mut terms = lease.terms.lock();
        terms.queued = false;
        let is_wanted = std::mem::take(&mut terms.is_wanted);
        let (room, ahead) = (terms.room(&counter, leases.epoch()), terms.extend * 2);
        if is_wanted || terms.is_tight(leases.parts()) {
            return (room != ahead).then_some(Wish::Return(ahead));
        }
        (room < terms.low.max(terms.need).max(ahead)).then_some(Wish::Ahead)
    }

    /// One heartbeat, and what it brings with it.
    async fn tick(&self, leases: &Leases) -> Result<(), Unpaid> {
        let all = self.all_leases();
        let confirmed = self.confirm(&all);
        let before = leases.epoch();
        self.beat(leases, &mut PATIENCE.clone()).await?;
        if leases.epoch() == before {
            for (lease, confirmed) in all.iter().zip(confirmed) {
                lease.terms.lock().confirmed_then = confirmed;
            }
        }
        if leases.view.lock().joined != leases.epoch() {
            let epoch = leases.epoch();
            let registered = self.registered();
            let registered = registered.into_iter().map(|lease| (lease, Wish::Renew)).collect();
            if self.ask_all(leases, registered).await && leases.epoch() == epoch {
                leases.view.lock().joined = epoch;
                self.beat(leases, &mut PATIENCE.clone()).await?;
            }
        }
        let renew = leases.settings.timings.renew;
        let due = all.into_iter().filter_map(|lease| {
            let wish = self.renewal(&lease, renew)?;
            Some((lease, wish))
        });
        let due: Vec<_> = due.collect();
        let idle: Vec<_> =
            due.iter().filter(|(_, wish)| matches!(wish, Wish::Fold)).cloned().collect();
        self.ask_all(leases, due).await;
        let mut state = self.state.lock();
        for (lease, _) in idle {
            if lease.terms.lock().epoch == 0 {
                state.windows.list[lease.window].drop_lease(&lease);
            }
        }
        Ok(())
    }

    /// What the ledger is known to have of what was spent of each lease.
    fn confirm(&self, all: &[Arc<Lease>]) -> Vec<u128> {
        let place = self.feed.brought();
        let state = self.state.lock();
        let seq = self.journal.queue().end().0.seq.saturating_sub(1);
        let of = |lease: &Arc<Lease>| {
            let counter = state.windows.list[lease.window].get_in(lease.era, lease.subject());
            let mut terms = lease.terms.lock();
            match terms.mark {
                Some((at, spent)) if at <= place => {
                    terms.confirmed = spent;
                    terms.mark = None;
                }
                _ => {}
            }
            if let Some(counter) = counter
                && terms.mark.is_none()
            {
                terms.mark = Some((seq, counter.spent));
            }
            terms.confirmed
        };
        all.iter().map(of).collect()
    }

    /// Whether a lease has to be renewed, and what becomes of one that nobody uses.
    fn renewal(&self, lease: &Lease, renew: Duration) -> Option<Wish> {
        let state = self.state.lock();
        let counter = state.windows.list[lease.window].get_in(lease.era, lease.subject());
        let counter = counter.unwrap_or_default();
        let terms = lease.terms.lock();
        if terms.epoch == 0 || terms.asked.is_some_and(|asked| asked.elapsed() < renew) {
            return None;
        }
        let idle = terms.used.map_or(renew * 3, |used| used.elapsed());
        Some(if counter.reserved == 0 && idle >= renew * 2 {
            Wish::Fold
        } else if idle >= renew {
            Wish::Return(0)
        } else {
            Wish::Renew
        })
    }

    /// Takes note of what a heartbeat tells.
    pub(super) fn heard(&self, leases: &Leases, beat: Beat) {
        {
            let mut view = leases.view.lock();
            if view.epoch != 0 && view.epoch != beat.epoch {
                tracing::warn!("Redis has lost its data, or is another one: budgets are rebuilt");
            }
            view.frozen = beat.frozen;
            view.members = beat.members;
            view.epoch = beat.epoch;
            leases.epoch.store(beat.epoch, std::sync::atomic::Ordering::Release);
        }
        if beat.wanted.is_empty() {
            return;
        }
        for lease in self.all_leases() {
            let mut terms = lease.terms.lock();
            if terms.epoch != 0 && beat.wanted.contains(&lease.key) {
                terms.is_wanted = true;
                leases.enqueue(&lease, &mut terms);
            }
        }
    }

    /// Gives back what is not used.
    async fn leave(&self, leases: &Leases) {
        let wishes = self.registered().into_iter().map(|lease| {
            let wish = match self.is_idle(&lease) {
                true => Wish::Fold,
                false => Wish::Return(0),
            };
            (lease, wish)
        });
        let wishes = wishes.collect();
        if !self.ask_all(leases, wishes).await {
            tracing::warn!("not all of what this node has claimed of budgets could be given back");
        }
        leases.beat(PATIENCE, true).await;
    }

    fn is_idle(&self, lease: &Lease) -> bool {
        let state = self.state.lock();
        let counter = state.windows.list[lease.window].get_in(lease.era, lease.subject());
        counter.is_none_or(|counter| counter.reserved == 0)
    }
}
