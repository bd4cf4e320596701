//! Requests that are the same and come at once share one upstream call.
//!
//! The first one leads: it makes the call and writes down what comes. The others follow: they get
//! what was written so far and then each piece as it comes, whether it is a stream or not. As soon as
//! a stream has a follower, a task of its own reads it, at nobody's pace, and the one that led
//! follows as well. The call goes on for as long as anybody is there.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::future::Future;
use std::hash::{Hash, Hasher};
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use foldhash::fast::RandomState;
use http::{HeaderName, HeaderValue};
use memchr::memmem;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, oneshot};
use tollway_filter_api::cache::{CacheKey, Recorded};
use tollway_filter_api::ctx::Report;
use tollway_filter_api::{Deployment, Reject, Rejection};
use tollway_wire::event_log::{Budget, EventLog, Packed, Reader};
use tollway_wire::usage::Usage;

use crate::exchange::{AnswerStream, Opened};

/// An answer that has grown larger takes no more followers.
const OPEN_BYTES_MAX: usize = 4 << 20;
/// What is kept of all shared answers together. One for which there is no room takes no followers,
/// and breaks for those it has.
const KEPT_BYTES_MAX: usize = 64 << 20;

/// What requests that may share a call have in common: all that can change what is written.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct FlightKey {
    /// The request itself, its group and its tenant.
    pub(crate) request: CacheKey,
    /// Whether events are wanted, and usage among them.
    pub(crate) form: (bool, bool),
    /// The name that answers carry.
    pub(crate) model: Arc<str>,
}

/// The calls in flight that can be shared.
pub(crate) struct Flights {
    listed: Mutex<HashSet<Listed, RandomState>>,
    budget: Arc<Budget>,
}

impl Default for Flights {
    fn default() -> Flights {
        Flights { listed: Mutex::default(), budget: Budget::new(KEPT_BYTES_MAX) }
    }
}

/// A call that is found by its key.
struct Listed(Arc<Flight>);

impl Borrow<FlightKey> for Listed {
    fn borrow(&self) -> &FlightKey {
        &self.0.key
    }
}

impl PartialEq for Listed {
    fn eq(&self, other: &Listed) -> bool {
        self.0.key == other.0.key
    }
}

impl Eq for Listed {}

impl Hash for Listed {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key.hash(state);
    }
}

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
        let mut listed = self.listed.lock();
        if let Some(Listed(flight)) = listed.get(&key)
            && let Some(follower) = Follower::join(flight)
        {
            return Seat::Follow(follower);
        }
        let (followed, joined) = oneshot::channel();
        let flight = Arc::new(Flight::new(self, key, followed));
        // In the place of one that takes no followers, if there is one.
        listed.replace(Listed(Arc::clone(&flight)));
        Seat::Lead(Lead { flight, joined })
    }
}

/// One call and what has come of it.
struct Flight {
    /// Where others find it, and by what.
    flights: Arc<Flights>,
    key: FlightKey,
    state: Mutex<State>,
    /// Something was written down, or somebody left.
    changed: Notify,
}

struct State {
    head: Option<Head>,
    /// A whole answer.
    whole: Bytes,
    /// What has come of a stream.
    log: EventLog,
    end: Option<End>,
    followers: usize,
    /// Those for whom it is still listed.
    listings: usize,
    /// Tells the one who leads of the first one who follows.
    followed: Option<oneshot::Sender<()>>,
    /// Not joined any more.
    closed: bool,
    /// The one who began has left without paying: the first follower that ends does.
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
struct End {
    /// Why it broke, before or within the answer.
    broken: Option<Reject>,
    usage: Option<Usage>,
    /// `usage` is our own count, because the provider's did not come.
    estimated: bool,
}

impl End {
    fn failed(reject: Reject) -> End {
        End { broken: Some(reject), usage: None, estimated: false }
    }
}

impl Flight {
    fn new(flights: &Arc<Flights>, key: FlightKey, followed: oneshot::Sender<()>) -> Flight {
        let state = State {
            head: None,
            whole: Bytes::new(),
            log: EventLog::new(&flights.budget),
            end: None,
            followers: 0,
            listings: 1,
            followed: Some(followed),
            closed: false,
            unpaid: false,
        };
        let flights = Arc::clone(flights);
        Flight { flights, key, state: Mutex::new(state), changed: Notify::new() }
    }

    fn write(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        // Only they wait for anything, and whoever reads for them.
        let has_followers = state.followers > 0;
        change(&mut state);
        drop(state);
        if has_followers {
            self.changed.notify_waiters();
        }
    }

    /// Somebody who kept it where others find it does so no longer. Nobody joins once the last one
    /// has gone.
    fn unlist(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        state.listings -= 1;
        if state.listings > 0 {
            return;
        }
        state.closed = true;
        drop(state);
        let mut listed = self.flights.listed.lock();
        // Another one may have begun since: one that takes no followers is replaced.
        if listed.get(&self.key).is_some_and(|Listed(listed)| Arc::ptr_eq(listed, self)) {
            listed.remove(&self.key);
        }
    }

    fn followers(&self) -> usize {
        self.state.lock().followers
    }
}

impl Recorded for Flight {
    fn events(&self, bytes_max: usize) -> Option<Packed> {
        let state = self.state.lock();
        let is_good = state.end.as_ref().is_some_and(|end| end.broken.is_none());
        let fits = state.log.is_whole() && state.log.length() <= bytes_max;
        (is_good && fits).then(|| state.log.packed())
    }
}

/// Keeps a call where others find it, after its leader has gone.
struct Listing(Arc<Flight>);

impl Listing {
    fn new(flight: Arc<Flight>) -> Listing {
        flight.state.lock().listings += 1;
        Listing(flight)
    }
}

impl Drop for Listing {
    fn drop(&mut self) {
        self.0.unlist(self.0.state.lock());
    }
}

/// The request that makes the call.
pub(crate) struct Lead {
    flight: Arc<Flight>,
    joined: oneshot::Receiver<()>,
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
                state.whole = answer.body.clone();
                state.end = Some(End { broken: None, usage: answer.usage, estimated: false });
            }
            Ok(Opened::Stream(stream)) => {
                state.head = Some(Head {
                    headers: stream.headers().to_vec(),
                    content_type: stream.content_type().cloned(),
                    is_stream: true,
                    deployment,
                });
            }
            Err(reject) => state.end = Some(End::failed(copy(reject))),
        });
    }

    /// What the stream says, for whoever wants to keep it.
    pub(crate) fn recorded(&self) -> Arc<dyn Recorded> {
        Arc::clone(&self.flight) as _
    }

    /// Waits until somebody follows.
    pub(crate) async fn followed(&mut self) {
        // The other end is in the flight, which is here.
        let _ = (&mut self.joined).await;
    }

    /// Whether anybody follows.
    pub(crate) fn is_followed(&self) -> bool {
        self.flight.followers() > 0
    }

    /// The next events have come.
    pub(crate) fn sent(&self, events: &Bytes) {
        let mut state = self.flight.state.lock();
        if state.end.is_some() || (state.closed && state.followers == 0) {
            return;
        }
        let is_full = state.log.push(events).is_err();
        state.closed |= is_full || state.log.held() > OPEN_BYTES_MAX;
        if state.followers > 0 {
            if is_full {
                let reject = Reject::internal("The answer is too large to be shared.", "too large");
                state.end = Some(End::failed(*reject));
            }
            drop(state);
            self.flight.changed.notify_waiters();
        } else if state.closed {
            state.log.clear();
        }
    }

    /// The stream has ended: as it should, or not. What it took is what `report` says.
    pub(crate) fn ended(&self, report: &Report, broken: Option<&Reject>) {
        self.flight.write(|state| {
            // One that was given up because of its size stays so.
            state.end.get_or_insert_with(|| End {
                broken: broken.map(copy),
                usage: report.usage,
                estimated: report.usage_estimated,
            });
        });
    }

    /// The leader's client has left before the answer began: whether the call goes on for others, to
    /// whom it is then to be handed over. One of them pays for it, unless `each_pays`.
    pub(crate) fn leaves(&self, each_pays: bool) -> bool {
        let mut state = self.flight.state.lock();
        let goes_on = state.followers > 0;
        state.unpaid = goes_on && !each_pays;
        goes_on
    }

    /// Lets the call go on by itself, and follows it from the end of what has come. Whoever leads
    /// pays for the call, as before.
    pub(crate) fn step_back(self, stream: Box<AnswerStream>, is_text: bool) -> Follower {
        let mut reader = Reader::default();
        {
            let mut state = self.flight.state.lock();
            state.followers += 1;
            state.log.read(&mut reader);
        }
        let flight = Arc::clone(&self.flight);
        let _listing = Some(Listing::new(Arc::clone(&flight)));
        self.hand_over(Rest::Stream(stream), is_text);
        Follower { flight, _listing, reader, has_left: false, began_it: true }
    }

    /// Lets the call go on without its leader, for those who follow. `is_text`: what comes is text,
    /// and is counted even where the provider does not.
    pub(crate) fn hand_over(self, rest: Rest, is_text: bool) {
        tokio::spawn(async move {
            let flight = Arc::clone(&self.flight);
            let work = self.carry_on(rest, is_text);
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

    async fn carry_on(self, rest: Rest, is_text: bool) {
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
        stream.settle(&mut report, broken.is_none(), is_text);
        self.ended(&report, broken.as_deref());
    }
}

/// A leader that goes without a word, as one that panics does, must not leave others waiting.
impl Drop for Lead {
    fn drop(&mut self) {
        let mut state = self.flight.state.lock();
        if state.end.is_none() {
            state.closed = true;
            let reject = Reject::internal("The shared call was given up.", "no leader");
            state.end = Some(End::failed(*reject));
            // They cannot do anything before the lock is given back.
            self.flight.changed.notify_waiters();
        }
        self.flight.unlist(state);
    }
}

/// What is left of a call when its leader's client leaves.
pub(crate) enum Rest {
    /// All of it, and where it says what it did.
    Opening(Opening, Arc<Mutex<Report>>),
    /// The rest of a stream.
    Stream(Box<AnswerStream>),
}

/// A request that gets what a call brings, be it another one's or its own.
pub(crate) struct Follower {
    flight: Arc<Flight>,
    /// Until the cache has the answer, those who come find it here.
    _listing: Option<Listing>,
    /// How much of the log it has had.
    reader: Reader,
    /// Not one of those who follow any more.
    has_left: bool,
    /// The call was its own, and is paid for by it.
    began_it: bool,
}

/// What a follower gets at first.
pub(crate) struct Begun {
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) content_type: Option<HeaderValue>,
    /// All of it, if it is not a stream.
    pub(crate) whole: Option<Bytes>,
}

impl Follower {
    fn join(flight: &Arc<Flight>) -> Option<Follower> {
        let mut state = flight.state.lock();
        if state.closed || state.end.as_ref().is_some_and(|end| end.broken.is_some()) {
            return None;
        }
        state.followers += 1;
        if let Some(followed) = state.followed.take() {
            // Fails where the leader has gone: there is nobody to tell.
            let _ = followed.send(());
        }
        drop(state);
        let flight = Arc::clone(flight);
        let reader = Reader::default();
        Some(Follower { flight, _listing: None, reader, has_left: false, began_it: false })
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
                        whole: (!head.is_stream).then(|| state.whole.clone()),
                    });
                }
                if let Some(End { broken: Some(reject), .. }) = &state.end {
                    return Err(Box::new(copy(reject)));
                }
            }
            changed.await;
        }
    }

    /// Waits for what comes next of a stream: events, or `None` at its end.
    ///
    /// # Errors
    /// What broke it.
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, Rejection>> {
        loop {
            let changed = self.flight.changed.notified();
            {
                let state = self.flight.state.lock();
                if state.log.length() > self.reader.length() {
                    return Some(Ok(state.log.read(&mut self.reader)));
                }
                if let Some(end) = &state.end {
                    return end.broken.as_ref().map(|reject| Err(Box::new(copy(reject))));
                }
            }
            changed.await;
        }
    }

    /// Writes down what the answer took, once it has ended. All but one of those who share it get
    /// it as they would get it from the cache, unless `each_pays`.
    pub(crate) fn report(&mut self, report: &mut Report, each_pays: bool) {
        let mut state = self.flight.state.lock();
        let has_ended = state.end.is_some();
        let pays = self.began_it || each_pays || (has_ended && std::mem::take(&mut state.unpaid));
        self.write_down(report, pays);
        if let Some(end) = &state.end {
            report.usage = end.usage;
            report.usage_estimated = end.estimated;
        }
    }

    fn write_down(&self, report: &mut Report, pays: bool) {
        report.coalesced = !self.began_it;
        report.cache_hit = !pays && !self.began_it;
    }

    /// Its client leaves before the end. It pays for what it was sent where each one does; else the
    /// last one to leave pays for what came, if nobody else has.
    pub(crate) fn leaves(&mut self, report: &mut Report, each_pays: bool) {
        if std::mem::replace(&mut self.has_left, true) {
            return;
        }
        let mut state = self.flight.state.lock();
        state.unpaid |= self.began_it && !each_pays;
        state.followers -= 1;
        self.flight.changed.notify_waiters();
        let is_last = state.followers == 0 && std::mem::take(&mut state.unpaid);
        // Nobody would pay for what one gets who comes now.
        state.closed |= is_last;
        self.write_down(report, each_pays || is_last);
        if !(each_pays || is_last) {
            return;
        }
        if let Some(End { usage: Some(usage), estimated, .. }) = state.end {
            report.usage = Some(usage);
            report.usage_estimated = estimated;
            return;
        }
        let had = state.log.read(&mut Reader::default());
        let had = if is_last { &had[..] } else { &had[..self.reader.length()] };
        // About a token each.
        let events = memmem::find_iter(had, b"\n\n").count() as u64;
        let usage = report.usage.get_or_insert_default();
        usage.completion_tokens = usage.completion_tokens.max(events);
        report.usage_estimated = true;
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        if !self.has_left {
            self.flight.write(|state| state.followers -= 1);
        }
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
        for _ in 0..200 {
            lead.sent(&events);
            assert!(lead.flight.state.lock().log.held() <= KEPT_BYTES_MAX);
        }
        lead.ended(&Report::default(), None);
        let had = follower.next().await.expect("it has not ended").expect("it has not broken");
        assert!(had.len() <= KEPT_BYTES_MAX);
        assert!(follower.next().await.is_some_and(|next| next.is_err()), "it is not complete");
    }

    #[test]
    fn answer_that_is_too_large_is_not_kept_where_nobody_follows() {
        let flights = Arc::new(Flights::default());
        let Seat::Lead(lead) = flights.board(key()) else { panic!("the first one leads") };
        for _ in 0..5 {
            lead.sent(&Bytes::from(vec![b'x'; 1 << 20]));
        }
        assert_eq!(lead.flight.state.lock().log.held(), 0);
        assert!(matches!(flights.board(key()), Seat::Lead(_)));
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
