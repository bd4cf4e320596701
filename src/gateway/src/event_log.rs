//! The events of a response that is being made, for those who follow it: each gets all of them, from
//! wherever it wants to go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use memchr::memmem;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// What the events of one response may take. Longer ones are made all the same, and not followed.
const LOG_BYTES_MAX: usize = 16 << 20;
/// And of all that are being made.
const LOGS_BYTES_MAX: usize = 64 << 20;

/// How much all logs hold.
#[derive(Clone, Default)]
pub(crate) struct Room(Arc<AtomicUsize>);

/// What has been told so far.
pub(crate) struct EventLog {
    state: Mutex<State>,
    changed: Notify,
    room: Room,
    /// Events come one by one, and not all at the end.
    pub(crate) is_live: bool,
}

#[derive(Default)]
struct State {
    events: Vec<u8>,
    /// They were too many.
    lost: bool,
    ended: bool,
}

impl EventLog {
    pub(crate) fn new(room: &Room, is_live: bool) -> EventLog {
        EventLog { state: Mutex::default(), changed: Notify::new(), room: room.clone(), is_live }
    }

    /// Adds whole events.
    pub(crate) fn push(&self, events: &[u8]) {
        let mut state = self.state.lock();
        if state.lost || events.is_empty() {
            return;
        }
        let all = self.room.0.fetch_add(events.len(), Ordering::Relaxed) + events.len();
        state.events.extend_from_slice(events);
        if all > LOGS_BYTES_MAX || state.events.len() > LOG_BYTES_MAX {
            self.room.0.fetch_sub(state.events.len(), Ordering::Relaxed);
            *state = State { lost: true, ..State::default() };
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
        Bytes::copy_from_slice(&self.state.lock().events)
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

impl Drop for EventLog {
    fn drop(&mut self) {
        self.room.0.fetch_sub(self.state.get_mut().events.len(), Ordering::Relaxed);
    }
}

/// One who follows a response.
pub(crate) struct Follower {
    log: Arc<EventLog>,
    /// How many events it has had elsewhere.
    skips: u64,
    /// How many bytes of the log are behind it.
    at: usize,
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
    pub(crate) fn new(log: Arc<EventLog>, skips: u64) -> Follower {
        Follower { log, skips, at: 0 }
    }

    /// Whether events come one by one. Else the end is all that there is to wait for.
    pub(crate) fn is_live(&self) -> bool {
        self.log.is_live
    }

    /// Waits for what comes next.
    pub(crate) async fn next(&mut self) -> Next {
        loop {
            let changed = self.log.changed.notified();
            {
                let state = self.log.state.lock();
                if state.lost {
                    return Next::Lost;
                }
                let mut new = state.events.get(self.at..).unwrap_or_default();
                while self.skips > 0
                    && let Some(end) = memmem::find(new, b"\n\n")
                {
                    new = &new[end + 2..];
                    self.skips -= 1;
                }
                self.at = state.events.len();
                if !new.is_empty() {
                    return Next::Events(Bytes::copy_from_slice(new));
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
        let log = Arc::new(EventLog::new(&Room::default(), true));
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
        let room = Room::default();
        let piece = vec![b'x'; 1 << 20];
        let logs: Vec<_> = (0..8).map(|_| Arc::new(EventLog::new(&room, true))).collect();
        for log in &logs {
            (0..15).for_each(|_| log.push(&piece));
            assert!(room.0.load(Ordering::Relaxed) <= LOGS_BYTES_MAX);
        }
        assert_eq!(logs[0].events().len(), 15 << 20);
        assert_eq!(Follower::new(Arc::clone(&logs[4]), 0).next().await, Next::Lost);
        assert!(logs[4].events().is_empty());
        (0..2).for_each(|_| logs[0].push(&piece));
        assert_eq!(Follower::new(Arc::clone(&logs[0]), 0).next().await, Next::Lost);
        drop(logs);
        assert_eq!(room.0.load(Ordering::Relaxed), 0);
    }
}
