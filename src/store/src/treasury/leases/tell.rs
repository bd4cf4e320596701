//! Telling the other nodes what was spent without a call that was opened for it.

use std::sync::Arc;
use std::time::Instant;

use tollway_filter_api::treasury::{Budget, Unpaid};

use super::{AWAY, Inner, Lease, Wish};
use crate::redis_link::BACKGROUND_MAX;
use crate::treasury::windows::SubjectRef;

impl Inner {
    /// What this node has of those budgets that it shares with others.
    pub(in crate::treasury) fn leases_of(&self, budgets: &[Arc<Budget>]) -> Vec<Arc<Lease>> {
        let Some(leases) = &self.leases else { return Vec::new() };
        let now_ms = self.clock.unix_ms();
        let mut state = self.state.lock();
        let mut found = Vec::new();
        for budget in budgets {
            let Some(limit) = budget.limit else { continue };
            let at = state.windows.of(&budget.id, now_ms, &self.clock);
            let window = &mut state.windows.list[at];
            if let Some(lease) = window.lease(at, &budget.id) {
                let counter = window.get(SubjectRef::of(&budget.id));
                leases.room(&lease, &counter, limit);
                found.push(lease);
            }
        }
        found
    }

    /// Says what this node has spent of a budget; for the first time, where it has begun to do so
    /// only now.
    pub(in crate::treasury) async fn tell(&self, lease: &Arc<Lease>) -> Result<(), Unpaid> {
        let Some(leases) = &self.leases else { return Ok(()) };
        let turn = tokio::time::timeout(BACKGROUND_MAX, lease.turn.lock()).await;
        let _turn = turn.map_err(|_| Unpaid::Unavailable(AWAY))?;
        lease.terms.lock().used = Some(Instant::now());
        self.ask(leases, lease, Wish::Renew, &mut BACKGROUND_MAX.clone()).await
    }
}
