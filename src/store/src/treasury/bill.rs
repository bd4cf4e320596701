//! What was spent without a call that was opened for it, and is known only now: a batch's cost.
//!
//! It is not in the journal. Whoever bills writes the ledger's lines in a transaction of its own, and
//! they are counted here, too, once that is done: a process that dies in between has lost its counters
//! anyway, and the next one reads the ledger.

use std::future::Future;
use std::sync::Arc;

use tollway_filter_api::ledger::SpendRecord;
use tollway_filter_api::treasury::{Budget, Unpaid};

use super::{Books, LEDGER_PATIENCE};

/// Why a bill was not counted.
#[derive(Debug, thiserror::Error)]
pub enum BillError<E> {
    /// What was spent before is not known, or the other nodes cannot be told: nothing was written.
    #[error("{0}")]
    Unready(Unpaid),
    /// It could not be written.
    #[error("{0}")]
    Unwritten(E),
}

impl Books {
    /// Has `write` bring records to the ledger, and counts them in all budgets, those with a limit
    /// among `budgets` also for the other nodes. Nothing is refused, and a budget may be passed.
    ///
    /// # Errors
    /// When they cannot be counted, or `write` fails: then they are not counted.
    pub async fn bill<E>(
        &self,
        budgets: &[Arc<Budget>],
        records: &[SpendRecord],
        write: impl Future<Output = Result<(), E>>,
    ) -> Result<(), BillError<E>> {
        let inner = &self.inner;
        let ids: Vec<_> = budgets.iter().map(|budget| budget.id.clone()).collect();
        self.prepare(&ids).await.map_err(BillError::Unready)?;
        let leases = inner.leases_of(budgets);
        for lease in &leases {
            // What they learn is what was spent since they know of this node.
            inner.tell(lease).await.map_err(BillError::Unready)?;
        }
        {
            // Nobody asks the ledger meanwhile, and counts what is counted below for a second time.
            let feeding = tokio::time::timeout(LEDGER_PATIENCE, inner.feed.lock()).await;
            let unready = |_| Unpaid::Unavailable("the ledger is being written");
            let _feeding = feeding.map_err(unready).map_err(BillError::Unready)?;
            write.await.map_err(BillError::Unwritten)?;
            // Not by when they began: no window goes back to a period that has ended meanwhile.
            let now_ms = inner.clock.unix_ms();
            let mut state = inner.state.lock();
            for record in records {
                inner.charge(&mut state, &[], record, now_ms);
            }
        }
        for lease in &leases {
            // If that fails, they hear of it when the lease is renewed.
            let _ = inner.tell(lease).await;
        }
        Ok(())
    }
}
