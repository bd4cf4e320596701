//! The events of a response that is being made, for those who follow it: each gets all of them, from
//! wherever it wants to go on.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tollway_wire::event_log::{Budget, EventLog, Reader};

/// The events of one response may have so many bytes. Longer ones are made all the same, and not
/// followed.
const EVENTS_BYTES_MAX: usize = 16 << 20;
/// What the events of all that are being made may take, as a log keeps them: a tenth of that.
const LOGS_BYTES_MAX: usize = 16 << 20;

/// What all broadcasts share.
pub(crate) fn budget() -> Arc<Budget> {
    Budget::new(LOGS_BYTES_MAX)
}

/// What has been told so far.
pub(crate) struct Broadcast {
    state: Mutex<State>,
    changed: Notify,
    /// Events come one by one, and not all at the end.
    pub(crate) is_live: bool,
}

struct State {
    log: EventLog,
    ended: bool,
}

impl Broadcast {
    pub(crate) fn new(budget: &Arc<Budget>, is_live: bool) -> Broadcast {
        let state = State { log: EventLog::new(budget), ended: false };
        Broadcast { state: Mutex::new(state), changed: Notify::new(), is_live }
    }

    /// Adds whole events.
    pub(crate) fn push(&self, events: &[u8]) {
        let mut state = self.state.lock();
        let log = &mut state.log;
        if !log.is_whole() {
            return;
        }
        if log.length() + events.len() > EVENTS_BYTES_MAX || log.push(events).is_err() {
            log.clear();
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// There will be no more.
    pub(crate) fn end(&self) {
        self.state.lock().ended = true;
        self.changed.notify_waiters();
    }

    /// All of them; none where they were too many.
    pub(crate) fn events(&self) -> Bytes {
        self.state.lock().log.read(&mut Reader::default())
    }

    /// Waits for the end.
    pub(crate) async fn ended(&self) {
        loop {
            let changed = self.changed.notified();
            if self.state.lock().ended {
                return;
            }
            changed.await;
        }
    }
}

/// One who follows a response.
pub(crate) struct Follower {
    broadcast: Arc<Broadcast>,
    reader: Reader,
}

/// What a follower gets next.
#[derive(Debug, PartialEq)]
pub(crate) enum Next {
    Events(Bytes),
    Ended,
    /// They are too many to be kept.
    Lost,
}

impl Follower {
    /// Follows a response behind its first `skips` events.
    pub(crate) fn new(broadcast: Arc<Broadcast>, skips: u64) -> Follower {
        Follower { broadcast, reader: Reader::behind(skips) }
    }

    /// Whether events come one by one. Else the end is all that there is to wait for.
    pub(crate) fn is_live(&self) -> bool {
        self.broadcast.is_live
    }

    /// Waits for what comes next.
    pub(crate) async fn next(&mut self) -> Next {
        loop {
            let changed = self.broadcast.changed.notified();
            {
                let state = self.broadcast.state.lock();
                if !state.log.is_whole() {
                    return Next::Lost;
                }
                let new = state.log.read(&mut self.reader);
                if !new.is_empty() {
                    return Next::Events(new);
                }
                if state.ended {
                    return Next::Ended;
                }
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn follower_gets_what_is_behind_the_events_it_had() {
        let log = Arc::new(Broadcast::new(&budget(), true));
        let mut follower = Follower::new(Arc::clone(&log), 2);
        log.push(b"data: 0\n\n");
        log.push(b"data: 1\n\ndata: 2\n\n");
        assert_eq!(follower.next().await, Next::Events("data: 2\n\n".into()));
        log.push(b"data: 3\n\n");
        log.end();
        assert_eq!(follower.next().await, Next::Events("data: 3\n\n".into()));
        assert_eq!(follower.next().await, Next::Ended);
        let mut late = Follower::new(log, 9);
        assert_eq!(late.next().await, Next::Ended);
    }

    #[tokio::test]
    async fn there_is_a_bound_for_each_and_for_all() {
        let budget = budget();
        let piece = vec![b'x'; 1 << 20];
        let [first, second] = [(); 2].map(|()| Arc::new(Broadcast::new(&budget, true)));
        (0..15).for_each(|_| first.push(&piece));
        assert_eq!(first.events().len(), 15 << 20);
        // What one takes is not there for the other.
        (0..2).for_each(|_| second.push(&piece));
        assert_eq!(Follower::new(Arc::clone(&second), 0).next().await, Next::Lost);
        assert!(second.events().is_empty());
        (0..2).for_each(|_| first.push(&piece));
        assert_eq!(Follower::new(Arc::clone(&first), 0).next().await, Next::Lost);
        let third = Broadcast::new(&budget, true);
        (0..15).for_each(|_| third.push(&piece));
        assert_eq!(third.events().len(), 15 << 20);
    }
}
