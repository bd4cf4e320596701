//! The events of a run, for those who follow it: numbered, so that whoever was cut off can go on
//! behind the last one it had.

use std::sync::Arc;

use bytes::Bytes;
use memchr::memmem;
use parking_lot::Mutex;
use serde_json::{Map, Value};
use tokio::sync::Notify;
use tollway_wire::event_log::{Budget, EventLog, Reader};

/// The events of one run may have so many bytes. It goes on all the same, and is not followed.
const EVENTS_BYTES_MAX: usize = 16 << 20;
/// Numbers that are left out when a run is taken up again: some of those that were told before are
/// not in the journal, and none may be given twice.
const GAP: u64 = 1_000_000;

/// What a run tells.
pub struct Feed {
    run: Arc<str>,
    /// The number of its first event.
    first: u64,
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    log: EventLog,
    next: u64,
    /// Events that are not in the journal yet.
    unsaved: Vec<u8>,
    /// The whole run, as it was when it stopped.
    outcome: Option<Value>,
    has_ended: bool,
}

impl Feed {
    /// A feed behind the event of number `after`, for a run that is new where that is 0.
    pub fn new(run: Arc<str>, after: u64, budget: &Arc<Budget>) -> Feed {
        let first = if after == 0 { 1 } else { (after / GAP + 1) * GAP };
        let state = State {
            log: EventLog::new(budget),
            next: first,
            unsaved: Vec::new(),
            outcome: None,
            has_ended: false,
        };
        Feed { run, first, state: Mutex::new(state), changed: Notify::new() }
    }

    /// Tells an event.
    pub fn push(&self, name: &str, mut data: Map<String, Value>) {
        let mut state = self.state.lock();
        let number = state.next;
        state.next += 1;
        data.insert("type".to_owned(), name.into());
        data.insert("sequence_number".to_owned(), number.into());
        data.insert("run_id".to_owned(), (*self.run).into());
        let data = Value::Object(data);
        let event = format!("id: {number}\nevent: {name}\ndata: {data}\n\n");
        state.unsaved.extend_from_slice(event.as_bytes());
        let log = &mut state.log;
        if log.is_whole()
            && (log.length() + event.len() > EVENTS_BYTES_MAX
                || log.push(event.as_bytes()).is_err())
        {
            log.clear();
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Takes what is not in the journal yet.
    pub fn take_unsaved(&self) -> Bytes {
        std::mem::take(&mut self.state.lock().unsaved).into()
    }

    /// Remembers the whole run, for those who wait for nothing else.
    pub fn conclude(&self, run: Value) {
        self.state.lock().outcome = Some(run);
    }

    /// The whole run as it was when it stopped, if it has.
    pub fn outcome(&self) -> Option<Value> {
        self.state.lock().outcome.clone()
    }

    /// There will be no more events here.
    pub fn end(&self) {
        self.state.lock().has_ended = true;
        self.changed.notify_waiters();
    }

    /// Waits for the end.
    pub async fn ended(&self) {
        loop {
            let changed = self.changed.notified();
            if self.state.lock().has_ended {
                return;
            }
            changed.await;
        }
    }

    /// The number of its first event: those before it are in the journal.
    pub fn first(&self) -> u64 {
        self.first
    }
}

/// One who follows a run.
pub struct Follower {
    feed: Arc<Feed>,
    reader: Reader,
}

/// What a follower gets next.
#[derive(Debug, PartialEq)]
pub enum Next {
    /// Whole events.
    Events(Bytes),
    /// There are no more.
    Ended,
    /// They are too many to be kept.
    Lost,
}

impl Follower {
    /// Follows behind the event of number `after`.
    pub fn new(feed: Arc<Feed>, after: u64) -> Follower {
        let skips = (after + 1).saturating_sub(feed.first);
        Follower { feed, reader: Reader::behind(skips) }
    }

    /// Waits for what comes next.
    pub async fn next(&mut self) -> Next {
        loop {
            let changed = self.feed.changed.notified();
            {
                let state = self.feed.state.lock();
                if !state.log.is_whole() {
                    return Next::Lost;
                }
                let new = state.log.read(&mut self.reader);
                if !new.is_empty() {
                    return Next::Events(new);
                }
                if state.has_ended {
                    return Next::Ended;
                }
            }
            changed.await;
        }
    }
}

/// The events behind the one of number `after`, out of events as the journal has them.
pub fn behind(events: &[u8], after: u64) -> &[u8] {
    let mut rest = events;
    while let Some(end) = memmem::find(rest, b"\n\n") {
        if number(rest).is_none_or(|number| number > after) {
            return rest;
        }
        rest = &rest[end + 2..];
    }
    rest
}

/// The number of the last event.
pub fn last_number(events: &[u8]) -> Option<u64> {
    let end = events.len().checked_sub(2)?;
    let start = memmem::rfind(&events[..end], b"\n\n").map_or(0, |at| at + 2);
    number(&events[start..])
}

/// The number of the event that stands first.
fn number(events: &[u8]) -> Option<u64> {
    let line = events.strip_prefix(b"id: ")?;
    let end = line.iter().position(|byte| *byte == b'\n')?;
    std::str::from_utf8(&line[..end]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(after: u64) -> Arc<Feed> {
        Arc::new(Feed::new("run_1".into(), after, &Budget::new(1 << 20)))
    }

    fn text(next: Next) -> String {
        match next {
            Next::Events(events) => String::from_utf8_lossy(&events).into_owned(),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn who_comes_back_gets_what_is_behind_the_last_event_it_had() {
        let feed = feed(0);
        for name in ["one", "two", "three"] {
            feed.push(name, Map::new());
        }
        let mut follower = Follower::new(Arc::clone(&feed), 2);
        let events = text(follower.next().await);
        assert!(events.starts_with("id: 3\nevent: three\ndata: {"), "{events}");
        feed.end();
        assert_eq!(follower.next().await, Next::Ended);
    }

    #[tokio::test]
    async fn numbers_of_a_run_that_was_taken_up_again_are_new_ones() {
        let before = feed(0);
        before.push("one", Map::new());
        let saved = before.take_unsaved();
        assert_eq!(last_number(&saved), Some(1));
        let after = feed(1);
        after.push("two", Map::new());
        // Somebody may have seen events that were not saved.
        let events = text(Follower::new(after, 37).next().await);
        assert!(events.starts_with("id: 1000000\n"), "{events}");
        assert_eq!(behind(&saved, 1), b"");
        assert_eq!(behind(&saved, 0), &saved[..]);
    }
}
