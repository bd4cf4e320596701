//! What this node had claimed before it was started anew.

use std::sync::Arc;

use tollway_filter_api::ledger::SpendRecord;

use super::script::{self, UNIT, up};
use super::{Inner, Lease, Leases};
use crate::journal::codec::{self, Event, Kind};
use crate::journal::reader::{Found, Pieces};
use crate::redis_link::BACKGROUND_MAX;

/// A claim of an earlier start of this node.
pub(super) struct Claimed {
    lease: Arc<Lease>,
    holder: String,
    /// As it is in Redis.
    value: String,
    /// What it had spent when it last said so, and with which settlement.
    spent: u64,
    seq: u64,
    /// What is claimed: nothing, if that start ended in order.
    claim: u64,
}

impl Leases {
    /// Takes note of what Redis still knows of earlier starts.
    pub(super) fn remember(&self, lease: &Arc<Lease>, old: Vec<(String, String)>) {
        let mut claimed = self.claimed.lock();
        for (holder, value) in old {
            let mut numbers = value.split(' ').map(str::parse);
            let (Some(Ok(claim)), Some(Ok(spent)), Some(Ok(seq))) =
                (numbers.next(), numbers.next(), numbers.next())
            else {
                continue;
            };
            let is_known = claimed
                .iter()
                .any(|known: &Claimed| known.holder == holder && known.lease.key == lease.key);
            if !is_known && holder != self.holder {
                let lease = Arc::clone(lease);
                claimed.push(Claimed { lease, holder, value, spent, seq, claim });
            }
        }
    }
}

impl Inner {
    /// Puts what earlier starts have spent in the place of what they had claimed, as far as the
    /// journal proves it.
    pub(super) async fn prove(self: &Arc<Self>, leases: &Leases) {
        let claimed = std::mem::take(&mut *leases.claimed.lock());
        if claimed.is_empty() {
            return;
        }
        let (inner, before) = (Arc::clone(self), leases.first_seq);
        let reading = tokio::task::spawn_blocking(move || {
            let spent = inner.spent_since(&claimed, before);
            spent.map(|spent| (claimed, spent))
        });
        let (claimed, spent) = match reading.await {
            Ok(Ok(read)) => read,
            Ok(Err(error)) => {
                return tracing::warn!(%error, "the journal cannot be read: what this node had claimed stays charged");
            }
            Err(_) => return,
        };
        for (claimed, spent) in claimed.into_iter().zip(spent) {
            let Some(spent) = spent else {
                tracing::warn!(
                    budget = ?claimed.lease.id,
                    "the journal does not go back far enough: what this node had claimed stays charged"
                );
                continue;
            };
            let args = [
                claimed.holder.clone().into_bytes(),
                claimed.value.clone().into_bytes(),
                up(spent.saturating_add(u128::from(claimed.spent) * UNIT)).to_string().into_bytes(),
            ];
            let link = &leases.settings.link;
            if link.run(&script::CLOSE, &claimed.lease.key, &args, BACKGROUND_MAX).await.is_err() {
                // Once more, with the next heartbeat.
                leases.claimed.lock().push(claimed);
            }
        }
    }

    /// What was settled of each claim's budget after it last said so, and before this process made
    /// calls. `None` where the journal does not go back as far.
    fn spent_since(&self, claimed: &[Claimed], before: u64) -> std::io::Result<Vec<Option<u128>>> {
        let mut spent: Vec<Option<u128>> = vec![Some(0); claimed.len()];
        let Some(after) =
            claimed.iter().filter(|claimed| claimed.claim > 0).map(|claimed| claimed.seq).min()
        else {
            return Ok(spent);
        };
        let (mut first, mut last) = (None, after);
        let mut scratches: Vec<_> = {
            let state = self.state.lock();
            claimed
                .iter()
                .map(|claimed| state.windows.list[claimed.lease.window].scratch())
                .collect()
        };
        for segment in self.journal.queue().segments() {
            let path = segment.path(self.journal.folder());
            let mut pieces = Pieces::open(&path, self.journal.salt(), 0)?;
            let mut add = |seq: u64, record: &SpendRecord| {
                for (claimed, scratch) in claimed.iter().zip(&mut scratches) {
                    let lease = &claimed.lease;
                    if seq > claimed.seq
                        && (lease.start_ms..lease.end_ms).contains(&record.started_ms)
                    {
                        scratch.add_record(scratch.era, record, &self.global);
                    }
                }
            };
            while pieces.next(segment.bytes, |found| {
                let Found::Record(payload) = found else { return };
                match codec::kind(payload) {
                    Some(Kind::Head) if first.is_none() => {
                        if let Some(Event::Head(head)) = codec::decode(payload) {
                            first = Some(head.next_seq);
                        }
                    }
                    Some(Kind::End { seq: Some(seq), .. }) if seq > last && seq < before => {
                        if let Some(Event::Settle { record, .. }) = codec::decode(payload) {
                            last = seq;
                            add(seq, &record);
                        }
                    }
                    _ => {}
                }
            })? {}
        }
        for ((claimed, scratch), spent) in claimed.iter().zip(&scratches).zip(&mut spent) {
            if claimed.claim == 0 {
                continue;
            }
            let is_whole = first.is_some_and(|first| first <= claimed.seq.saturating_add(1));
            *spent = is_whole.then(|| scratch.get(claimed.lease.subject()).spent);
        }
        Ok(spent)
    }
}
