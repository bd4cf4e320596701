//! Requests that are the same and come at once share one upstream call.
//!
//! The first one leads: it makes the call and writes down what comes. The others follow: they get
//! what was written so far and then each piece as it comes, whether it is a stream or not. When the
//! leader's client leaves, the call goes on by itself for as long as somebody follows.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use memchr::memmem;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tollway_filter_api::cache::CacheKey;
use tollway_filter_api::ctx::Report;
use tollway_filter_api::{Deployment, Reject, Rejection};
use tollway_wire::usage::Usage;

use crate::exchange::{AnswerStream, Opened};

/// An answer that has grown larger takes no more followers.
const OPEN_BYTES_MAX: usize = 4 << 20;
/// An answer that has grown larger is not kept for those who follow already, either.
const KEPT_BYTES_MAX: usize = 64 << 20;

/// What requests that may share a call have in common: all that can change what is written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FlightKey {
    /// The request itself, its group and its tenant.
    pub(crate) request: CacheKey,
    /// Whether events are wanted, and usage among them.
    pub(crate) form: (bool, bool),
    /// The name that answers carry.
    pub(crate) model: Arc<str>,
}

/// The calls in flight that can be shared.
#[derive(Default)]
pub(crate) struct Flights(Mutex<HashMap<FlightKey, Arc<Flight>>>);

/// A request's part in a call.
pub(crate) enum Seat {
    /// It makes the call.
    Lead(Lead),
    /// It waits for what the leader gets.
    Follow(Follower),
}

impl Flights {
    /// Finds the call of this request, or begins it.
    pub(crate) fn board(self: &Arc<Self>, key: FlightKey) -> Seat {
        let mut flights = self.0.lock();
        if let Some(flight) = flights.get(&key)
            && let Some(follower) = Follower::join(flight)
        {
            return Seat::Follow(follower);
        }
        let flight = Arc::new(Flight::default());
        flights.insert(key.clone(), Arc::clone(&flight));
        Seat::Lead(Lead { flight, listing: Listing { flights: Arc::clone(self), key } })
    }
}

/// One call and what has come of it.
#[derive(Default)]
struct Flight {
    state: Mutex<State>,
    /// Something was written down, or somebody left.
    changed: Notify,
}

#[derive(Default)]
struct State {
    head: Option<Head>,
    log: Vec<u8>,
    end: Option<End>,
    followers: usize,
    /// Not joined any more.
    closed: bool,
    /// The leader has left without paying: the first follower that ends does.
    unpaid: bool,
}

/// What is known when an answer begins.
#[derive(Clone)]
struct Head {
    headers: Vec<(HeaderName, HeaderValue)>,
    content_type: Option<HeaderValue>,
    is_stream: bool,
    deployment: Option<Arc<Deployment>>,
}

/// How the call ended.
enum End {
    Done {
        usage: Option<Usage>,
    },
    /// Before or within the answer.
    Failed {
        reject: Reject,
        usage: Option<Usage>,
    },
}

impl Flight {
    fn write(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock());
        self.changed.notify_waiters();
    }

    fn followers(&self) -> usize {
        self.state.lock().followers
    }
}

/// Keeps a call where others find it. Dropped when nobody can join any more.
struct Listing {
    flights: Arc<Flights>,
    key: FlightKey,
}

/// The request that makes the call.
pub(crate) struct Lead {
    flight: Arc<Flight>,
    listing: Listing,
}

/// A call on its way to its answer.
pub(crate) type Opening = Pin<Box<dyn Future<Output = Result<Opened, Rejection>> + Send>>;

impl Lead {
    /// The answer has begun, or has failed to.
    pub(crate) fn opened(
        &self,
        opened: &Result<Opened, Rejection>,
        deployment: Option<&Arc<Deployment>>,
    ) {
        let deployment = deployment.cloned();
        self.flight.write(|state| match opened {
            Ok(Opened::Whole(answer)) => {
                let headers = answer.headers.clone();
                state.head =
                    Some(Head { headers, content_type: None, is_stream: false, deployment });
                state.log.extend_from_slice(&answer.body);
                state.end = Some(End::Done { usage: answer.usage });
            }
            Ok(Opened::Stream(stream)) => {
                state.head = Some(Head {
                    headers: stream.headers().to_vec(),
                    content_type: stream.content_type().cloned(),
                    is_stream: true,
                    deployment,
                });
            }
            Err(reject) => {
                state.end = Some(End::Failed { reject: copy(reject), usage: None });
            }
        });
    }

    /// The next events have come.
    pub(crate) fn sent(&self, events: &Bytes) {
        let mut state = self.flight.state.lock();
        if state.closed && state.followers == 0 {
            return;
        }
        if state.end.is_some() {
            // It was given up: a follower that does not read must not make it grow for ever.
            return;
        }
        state.log.extend_from_slice(events);
        state.closed |= state.log.len() > OPEN_BYTES_MAX;
        if state.log.len() > KEPT_BYTES_MAX {
            let reject = Reject::internal("The answer is too large to be shared.", "too large");
            state.end = Some(End::Failed { reject: *reject, usage: None });
        }
        if state.closed && state.followers == 0 {
            state.log = Vec::new();
        }
        let is_followed = state.followers > 0;
        drop(state);
        if is_followed {
            self.flight.changed.notify_waiters();
        }
    }

    /// The stream has ended: as it should, or not.
    pub(crate) fn ended(&self, usage: Option<Usage>, broken: Option<&Reject>) {
        self.flight.write(|state| {
            // One that was given up because of its size stays so.
            state.end.get_or_insert_with(|| match broken {
                None => End::Done { usage },
                Some(reject) => End::Failed { reject: copy(reject), usage },
            });
        });
    }

    /// The leader's client has left: whether the call goes on for others, to whom it is then to be
    /// handed over. One of them pays for it, unless `each_pays`.
    pub(crate) fn leaves(&self, each_pays: bool) -> bool {
        let mut state = self.flight.state.lock();
        let goes_on = state.followers > 0 && state.end.is_none();
        state.unpaid = goes_on && !each_pays;
        goes_on
    }

    /// Lets the call go on without its leader, for those who follow.
    pub(crate) fn hand_over(self, rest: Rest) {
        tokio::spawn(async move {
            let flight = Arc::clone(&self.flight);
            let work = self.carry_on(rest);
            tokio::pin!(work);
            loop {
                let changed = flight.changed.notified();
                if flight.followers() == 0 {
                    return;
                }
                tokio::select! {
                    () = &mut work => return,
                    () = changed => {}
                }
            }
        });
    }

    async fn carry_on(self, rest: Rest) {
        let opened = match rest {
            Rest::Opening(opening, report) => {
                let opened = opening.await;
                let deployment = report.lock().deployment.clone();
                self.opened(&opened, deployment.as_ref());
                opened
            }
            Rest::Stream(stream) => Ok(Opened::Stream(stream)),
        };
        let Ok(Opened::Stream(mut stream)) = opened else { return };
        let broken = loop {
            match stream.next().await {
                Some(Ok(events)) => self.sent(&events),
                Some(Err(reject)) => break Some(reject),
                None => break None,
            }
        };
        let mut report = Report::default();
        stream.report(&mut report, broken.is_none());
        self.ended(report.usage, broken.as_deref());
    }
}

/// A leader that goes without a word, as one that panics does, must not leave others waiting.
impl Drop for Lead {
    fn drop(&mut self) {
        self.listing.remove(&self.flight);
        self.flight.write(|state| {
            state.closed = true;
            if state.end.is_none() {
                let reject = Reject::internal("The shared call was given up.", "no leader");
                state.end = Some(End::Failed { reject: *reject, usage: None });
            }
        });
    }
}

impl Listing {
    fn remove(&self, flight: &Arc<Flight>) {
        let mut flights = self.flights.0.lock();
        // Another one may have begun since: one that takes no followers is replaced.
        if flights.get(&self.key).is_some_and(|listed| Arc::ptr_eq(listed, flight)) {
            flights.remove(&self.key);
        }
    }
}

/// What is left of a call when its leader's client leaves.
pub(crate) enum Rest {
    /// All of it, and where it says what it did.
    Opening(Opening, Arc<Mutex<Report>>),
    /// The rest of a stream.
    Stream(Box<AnswerStream>),
}

/// A request that gets another one's answer.
pub(crate) struct Follower {
    flight: Arc<Flight>,
    /// How much of the log it has had.
    at: usize,
    /// What the answer took is written down.
    is_settled: bool,
}

/// What a follower gets at first.
pub(crate) struct Begun {
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) content_type: Option<HeaderValue>,
    pub(crate) is_stream: bool,
}

/// What a follower gets next.
pub(crate) enum Next {
    Events(Bytes),
    Done,
    Failed(Rejection),
}

impl Follower {
    fn join(flight: &Arc<Flight>) -> Option<Follower> {
        let mut state = flight.state.lock();
        if state.closed || matches!(state.end, Some(End::Failed { .. })) {
            return None;
        }
        state.followers += 1;
        drop(state);
        Some(Follower { flight: Arc::clone(flight), at: 0, is_settled: false })
    }

    /// Waits for the answer to begin.
    ///
    /// # Errors
    /// The leader's.
    pub(crate) async fn begun(&self, report: &mut Report) -> Result<Begun, Rejection> {
        loop {
            let changed = self.flight.changed.notified();
            {
                let state = self.flight.state.lock();
                if let Some(head) = &state.head {
                    report.deployment = head.deployment.clone();
                    return Ok(Begun {
                        headers: head.headers.clone(),
                        content_type: head.content_type.clone(),
                        is_stream: head.is_stream,
                    });
                }
                if let Some(End::Failed { reject, .. }) = &state.end {
                    return Err(Box::new(copy(reject)));
                }
            }
            changed.await;
        }
    }

    /// Waits for what comes next.
    pub(crate) async fn next(&mut self) -> Next {
        loop {
            let changed = self.flight.changed.notified();
            {
                let state = self.flight.state.lock();
                if let Some(new) = state.log.get(self.at..).filter(|new| !new.is_empty()) {
                    let events = Bytes::copy_from_slice(new);
                    self.at = state.log.len();
                    return Next::Events(events);
                }
                match &state.end {
                    Some(End::Done { .. }) => return Next::Done,
                    Some(End::Failed { reject, .. }) => {
                        return Next::Failed(Box::new(copy(reject)));
                    }
                    None => {}
                }
            }
            changed.await;
        }
    }

    /// Writes down what the answer took, once it has ended. All but one of those who share it get
    /// it as they would get it from the cache, unless `each_pays`.
    pub(crate) fn report(&mut self, report: &mut Report, each_pays: bool) {
        self.is_settled = true;
        let mut state = self.flight.state.lock();
        report.coalesced = true;
        report.usage = match &state.end {
            Some(End::Done { usage } | End::Failed { usage, .. }) => *usage,
            None => None,
        };
        let pays = each_pays || (state.end.is_some() && std::mem::take(&mut state.unpaid));
        report.cache_hit = !pays;
    }

    /// Its client leaves before the end. It pays for what it was sent where each one does; else the
    /// last one to leave pays for what came, if nobody else has.
    pub(crate) fn leaves(&mut self, report: &mut Report, each_pays: bool) {
        if std::mem::replace(&mut self.is_settled, true) {
            return;
        }
        let mut state = self.flight.state.lock();
        let is_last = state.followers == 1 && std::mem::take(&mut state.unpaid);
        // Nobody would pay for what one gets who comes now.
        state.closed |= is_last;
        report.coalesced = true;
        report.cache_hit = !(each_pays || is_last);
        if !report.cache_hit {
            if let Some(End::Done { usage } | End::Failed { usage, .. }) = &state.end
                && usage.is_some()
            {
                report.usage = *usage;
                return;
            }
            let had =
                if is_last { &state.log[..] } else { state.log.get(..self.at).unwrap_or(&[]) };
            // About a token each.
            let events = memmem::find_iter(had, b"\n\n").count() as u64;
            let usage = report.usage.get_or_insert_default();
            usage.completion_tokens = usage.completion_tokens.max(events);
            report.usage_estimated = true;
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.flight.write(|state| state.followers -= 1);
    }
}

/// The same refusal for another client. What was meant for the log stays with the first.
fn copy(reject: &Reject) -> Reject {
    Reject {
        status: reject.status,
        kind: reject.kind.clone(),
        code: reject.code.clone(),
        param: reject.param.clone(),
        message: reject.message.clone(),
        retry_after: reject.retry_after,
        headers: reject.headers.clone(),
        source: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> FlightKey {
        FlightKey { request: CacheKey([7; 32]), form: (true, false), model: "m".into() }
    }

    #[tokio::test]
    async fn answer_that_is_too_large_is_given_up_although_a_follower_does_not_read() {
        let flights = Arc::new(Flights::default());
        let Seat::Lead(lead) = flights.board(key()) else { panic!("the first one leads") };
        let Seat::Follow(mut follower) = flights.board(key()) else { panic!("it follows") };
        let events = Bytes::from(vec![b'x'; 1 << 20]);
        let most = KEPT_BYTES_MAX + events.len();
        for _ in 0..200 {
            lead.sent(&events);
            assert!(lead.flight.state.lock().log.len() <= most);
        }
        lead.ended(None, None);
        assert!(matches!(follower.next().await, Next::Events(had) if had.len() <= most));
        assert!(matches!(follower.next().await, Next::Failed(_)), "it is not complete");
    }

    #[test]
    fn nobody_joins_after_the_last_one_has_paid() {
        let flights = Arc::new(Flights::default());
        let Seat::Lead(lead) = flights.board(key()) else { panic!("the first one leads") };
        let Seat::Follow(mut follower) = flights.board(key()) else { panic!("it follows") };
        lead.sent(&Bytes::from_static(b"data: 1\n\ndata: 2\n\n"));
        assert!(lead.leaves(false));
        let mut report = Report::default();
        follower.leaves(&mut report, false);
        assert!(!report.cache_hit && report.usage_estimated);
        assert_eq!(report.usage.map(|usage| usage.completion_tokens), Some(2));
        assert!(matches!(flights.board(key()), Seat::Lead(_)));
    }
}
