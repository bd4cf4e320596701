//! One counter as a node sees it: what it used itself, what it may use, what it knows of the others.
//!
//! The books: what Redis counts for a node is never less than what the node used and may still use
//! from its lease. A reservation moves an amount from the lease to what is used, so it needs no
//! call. What is given back goes to the lease again unless Redis has been told of it already:
//! then only Redis may hand it out, once it knows.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tollway_filter_api::limits::LimitUnit;

use super::script::{Answer, SLOT, SLOTS, Status};
use super::{IN_VAIN, LIFE, PLACES_LIFE, SETTLING, TICK, WINDOW, WINDOW_TICKS};

/// How far ahead a lease reaches where much is left, by the rate of late.
const PLENTY: f64 = LIFE.as_millis() as f64 / 1000.0;
/// The same where little is left.
const SOON: f64 = 0.5;
/// What a counter that was not in use is supposed to need: so many times what it is asked for.
const FIRST: u64 = 10;
/// The part of a rate that is kept for nodes that do not ask: 1 in so many.
const UNASKED: u64 = 100;
/// How long Redis is silent before what was never asked of it is shared out.
const SLOW_MAX: Duration = Duration::from_secs(2);
/// How much longer than this node knows of Redis may have served the others.
const MOMENT: Duration = Duration::from_secs(1);
/// How long a refusal is believed at least, before Redis is asked again.
const REFUSED_MIN: Duration = Duration::from_millis(400);
/// The same for places, which come free at any moment.
const REFUSED_PLACES: Duration = Duration::from_millis(150);
/// How long a refusal is believed at most, if what is counted may turn out to be less.
const REFUSED_TOKENS: Duration = Duration::from_secs(1);
/// The same if it does not.
const REFUSED_REQUESTS: Duration = Duration::from_secs(4);

/// Who a node is among how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) rank: u64,
    pub(super) nodes: u64,
}

/// How a node stands with the others.
#[derive(Clone, Copy)]
pub(super) struct View {
    pub(super) place: Place,
    /// Since when it has had this place.
    pub(super) placed: Option<Instant>,
    /// Since when Redis has not granted anything. `None` while it does.
    pub(super) away_since: Option<Instant>,
}

impl View {
    /// What of a limit this node may use without ever asking. Nothing before all others have gone
    /// by the same division for a whole window: what they used before must be forgotten.
    fn unasked(&self, limit: u64, now: Instant) -> u64 {
        let settled = |placed: Instant| now.saturating_duration_since(placed) > WINDOW + SETTLING;
        if self.placed.is_some_and(settled) { self.place.share(limit / UNASKED) } else { 0 }
    }
}

impl Place {
    /// The part of `whole` that is this node's. All parts together are the whole: what does not
    /// divide goes to those who come first, and where there is less than one for each, to few.
    pub(super) fn share(self, whole: u64) -> u64 {
        let nodes = self.nodes.max(1);
        whole / nodes + u64::from(self.rank < whole % nodes)
    }
}

/// Where a reservation is taken from.
#[derive(Clone, Copy, PartialEq)]
enum Source {
    Lease,
    /// The part of the limit for which nobody asks.
    Unasked,
    /// This node's share while Redis is away.
    Spare,
}

/// What a node used in a tick.
#[derive(Default)]
struct Bucket {
    tick: u32,
    used: u64,
    /// The most of it that Redis may have heard of.
    told: u64,
    /// What Redis has certainly heard.
    confirmed: u64,
    /// What of it was granted without a lease, because Redis was away.
    spare: u64,
    /// What was used beside it, of the part for which nobody asks.
    unasked: u64,
}

/// What Redis said last: when, and what frees itself in which five seconds from then.
#[derive(Clone, Copy)]
struct Known {
    at: Instant,
    /// What it granted to this node.
    granted: u64,
    slots: [u64; SLOTS],
}

/// A refusal of Redis, believed for a while.
#[derive(Clone, Copy)]
pub(super) struct Refused {
    until: Instant,
    /// Refused was this much, so more is refused as well.
    least: u64,
    fits_at: Instant,
}

pub(super) struct Counter {
    /// Its key in Redis.
    pub(super) name: Arc<str>,
    unit: LimitUnit,
    limit: u64,
    buckets: VecDeque<Bucket>,
    /// What is left of the lease; of places all that are leased, taken or not.
    lease: u64,
    lease_until: Instant,
    /// The lease's size when it was given.
    lease_size: u64,
    /// Places taken.
    taken: u64,
    /// The most places that were taken since Redis was asked last.
    taken_max: u64,
    /// What was asked for since `asked_since`, granted or not.
    asked: u64,
    asked_since: Instant,
    /// What is asked for in a second.
    rate: f64,
    known: Option<Known>,
    refused: Option<Refused>,
    /// Others want what is not needed here.
    pub(super) is_wanted: bool,
    /// It waits in the queue to be brought to Redis.
    pub(super) is_queued: bool,
    /// When to look after it without being asked.
    pub(super) due: Option<Instant>,
    /// Since when requests wait for Redis.
    pub(super) waiting_since: Option<Instant>,
}

/// What a round brings to Redis about one counter, beside what is in [`super::script::Item`].
pub(super) struct Sent {
    /// The ticks that were reported, and what as.
    pub(super) ticks: Vec<(u32, u64)>,
    /// What is missing for all that wait, and for the one that wants least.
    pub(super) need: u64,
    pub(super) least: u64,
    /// The smallest amount that is waited for.
    smallest: u64,
    pub(super) plenty: u64,
    pub(super) soon: u64,
    pub(super) keep: u64,
}

/// A reservation that did not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Short {
    /// Redis may know more.
    Ask,
    /// There is no use in asking before this is over.
    Wait(Duration),
}

impl Counter {
    pub(super) fn new(name: Arc<str>, unit: LimitUnit, now: Instant) -> Counter {
        Counter {
            name,
            unit,
            limit: 0,
            buckets: VecDeque::new(),
            lease: 0,
            lease_until: now,
            lease_size: 0,
            taken: 0,
            taken_max: 0,
            asked: 0,
            asked_since: now,
            rate: 0.0,
            known: None,
            refused: None,
            is_wanted: false,
            is_queued: false,
            due: None,
            waiting_since: None,
        }
    }

    pub(super) fn is_places(&self) -> bool {
        self.unit == LimitUnit::Parallel
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    fn life(&self) -> Duration {
        if self.is_places() { PLACES_LIFE } else { LIFE }
    }

    /// What may be taken from the lease.
    fn at_hand(&self, now: Instant) -> u64 {
        match () {
            () if now >= self.lease_until => 0,
            () if self.is_places() => self.lease.saturating_sub(self.taken),
            () => self.lease,
        }
    }

    /// Whether so little of the lease is left that it is time for another.
    pub(super) fn runs_low(&self) -> bool {
        self.lease_size >= 4 && !self.is_places() && self.lease < self.lease_size / 4
    }

    /// Reserves from the lease, or without one where Redis is away.
    pub(super) fn reserve(
        &mut self,
        limit: u64,
        amount: u64,
        now: Instant,
        tick: u32,
        view: View,
    ) -> Result<(), Short> {
        // Redis counts the limit without the part for which it is not asked.
        self.limit = if self.is_places() { limit } else { limit - limit / UNASKED };
        self.asked = self.asked.saturating_add(amount);
        if amount > limit {
            return Err(Short::Wait(WINDOW));
        }
        let at_hand = self.at_hand(now);
        if at_hand >= amount {
            self.take(amount, tick, Source::Lease);
            return Ok(());
        }
        if !self.is_places() {
            self.forget(tick);
            let unasked: u64 = self.buckets.iter().map(|bucket| bucket.unasked).sum();
            let unasked = view.unasked(limit, now).saturating_sub(unasked);
            if at_hand.saturating_add(unasked) >= amount {
                self.take(amount - at_hand, tick, Source::Unasked);
                if at_hand > 0 {
                    self.take(at_hand, tick, Source::Lease);
                }
                return Ok(());
            }
        }
        let in_vain =
            self.waiting_since.filter(|since| now.saturating_duration_since(*since) >= IN_VAIN);
        if let Some(since) = view.away_since.or(in_vain) {
            return self.reserve_spare(amount, now, tick, view.place, since);
        }
        match self.refused_for(amount, now) {
            Some(wait) => Err(Short::Wait(wait)),
            None => Err(Short::Ask),
        }
    }

    /// Notes that a request waits for Redis, and for how much. `None` where there is no use in it.
    pub(super) fn is_asked_for(&mut self, amount: u64, now: Instant) -> Option<u64> {
        if self.refused_for(amount, now).is_some() {
            return None;
        }
        self.is_queued = true;
        self.waiting_since.get_or_insert(now);
        // What is larger may fit together with what is there without asking.
        Some(amount.min(self.limit))
    }

    /// How long there is no use in asking Redis for this much.
    pub(super) fn refused_for(&self, amount: u64, now: Instant) -> Option<Duration> {
        let refused =
            self.refused.filter(|no| amount.min(self.limit) >= no.least && now < no.until)?;
        let wait = refused.fits_at.saturating_duration_since(now);
        Some(if self.is_places() { Duration::ZERO } else { wait.max(Duration::from_millis(1)) })
    }

    /// Notes what was granted.
    fn take(&mut self, amount: u64, tick: u32, source: Source) {
        if self.is_places() {
            self.taken = self.taken.saturating_add(amount);
            self.taken_max = self.taken_max.max(self.taken);
            return;
        }
        if source == Source::Lease {
            self.lease -= amount;
        }
        // Time does not go back for a counter, whichever of two threads gets the lock first.
        let tick = self.buckets.back().map_or(tick, |last| last.tick.max(tick));
        if self.buckets.back().is_none_or(|last| last.tick < tick) {
            self.buckets.push_back(Bucket { tick, ..Bucket::default() });
        }
        if let Some(bucket) = self.buckets.back_mut() {
            let part = match source {
                Source::Unasked => &mut bucket.unasked,
                Source::Lease | Source::Spare => &mut bucket.used,
            };
            *part = part.saturating_add(amount);
            if source == Source::Spare {
                bucket.spare = bucket.spare.saturating_add(amount);
            }
        }
        self.forget(tick);
    }

    /// The tick in which the last reservation was counted.
    pub(super) fn last_tick(&self) -> Option<u32> {
        self.buckets.back().map(|bucket| bucket.tick)
    }

    /// Without Redis: this node's share of what nobody had used when Redis was last heard. What was
    /// used then counts until it is a minute old, whoever used it.
    fn reserve_spare(
        &mut self,
        amount: u64,
        now: Instant,
        tick: u32,
        place: Place,
        away_since: Instant,
    ) -> Result<(), Short> {
        self.forget(tick);
        if self.is_places() {
            // What others have leased since Redis was last heard is not known: they may use it for as
            // long as places are leased.
            if now.saturating_duration_since(away_since) < PLACES_LIFE {
                return Err(Short::Wait(Duration::ZERO));
            }
            // Nothing is known of when the others' calls end; a minute is what they are given.
            let (others, mine) = self.places_known(now);
            let allowed = match others {
                Some(others) => {
                    mine + place.share(self.limit.saturating_sub(others.saturating_add(mine)))
                }
                None => place.share(self.limit),
            };
            if self.taken.saturating_add(amount) > allowed {
                return Err(Short::Wait(Duration::ZERO));
            }
            self.take(amount, tick, Source::Spare);
            return Ok(());
        }
        // A slow moment of Redis is not its end: of a counter of which nothing was heard, others may
        // have been granted everything just now.
        let silent = now.saturating_duration_since(away_since);
        if self.known.is_none() && silent < SLOW_MAX {
            return Err(Short::Wait(SLOW_MAX - silent));
        }
        let spare: u64 = self.buckets.iter().map(|bucket| bucket.spare).sum();
        let mine: u64 = self.buckets.iter().map(|bucket| bucket.used - bucket.spare).sum();
        let used = self.used_at(now).max(mine).saturating_add(self.unheard(now, place, away_since));
        let share = place.share(self.limit.saturating_sub(used));
        if spare.saturating_add(amount) > share {
            return Err(Short::Wait(if amount > place.share(self.limit) {
                WINDOW
            } else {
                self.spare_returns(now, tick)
            }));
        }
        self.take(amount, tick, Source::Spare);
        Ok(())
    }

    /// When something of what holds up a reservation without Redis is forgotten.
    fn spare_returns(&self, now: Instant, tick: u32) -> Duration {
        let first = self.buckets.front().map(|bucket| {
            TICK * (bucket.tick.saturating_add(1 + WINDOW_TICKS)).saturating_sub(tick)
        });
        let heard = self.known.map(|known| {
            let slot = (0..SLOTS)
                .filter(|slot| known.slots[*slot] > 0)
                .map(|slot| known.at + SLOT * (slot as u32 + 1))
                .find(|end| *end > now);
            slot.map_or(WINDOW, |end| end - now)
        });
        first.unwrap_or(WINDOW).min(heard.unwrap_or(WINDOW))
    }

    /// What was used of the limit, by all nodes and open leases included, as far as is known.
    fn used_at(&self, now: Instant) -> u64 {
        let Some(known) = self.known else { return 0 };
        let age = now.saturating_duration_since(known.at);
        let counts = |slot: &usize| SLOT * (*slot as u32 + 1) > age;
        (0..SLOTS).filter(counts).map(|slot| known.slots[slot]).fold(0, u64::saturating_add)
    }

    /// What others may have taken between the last word of Redis and its end. They are taken to be
    /// like this node, and each to have taken what it took, and all that is asked of this node in that
    /// time and a moment; or all together to have gone on as in the five seconds before, at twice that
    /// pace, and at the least as if it had all been in one.
    fn unheard(&self, now: Instant, place: Place, away_since: Instant) -> u64 {
        let Some(known) = self.known else { return 0 };
        if now.saturating_duration_since(away_since.max(known.at)) > WINDOW {
            return 0;
        }
        let others = place.nodes.saturating_sub(1);
        let unheard = away_since.saturating_duration_since(known.at).as_secs_f64();
        let pace = known.slots[SLOTS - 2] as f64 * unheard.min(1.0).max(unheard * 2.0 / 5.0);
        let rate = self.rate.max(self.rate_of_late(now));
        let asked = rate * others as f64 * (unheard + MOMENT.as_secs_f64());
        (pace.max(asked) as u64).max(known.granted.saturating_mul(others))
    }

    /// Places of the others and of this node when Redis was last heard, if that is not long ago.
    fn places_known(&self, now: Instant) -> (Option<u64>, u64) {
        let fresh = self.known.filter(|known| now.saturating_duration_since(known.at) < WINDOW);
        let Some(known) = fresh else { return (None, 0) };
        let all: u64 = known.slots.iter().fold(0, |sum, more| sum.saturating_add(*more));
        (Some(all.saturating_sub(self.lease)), self.lease)
    }

    /// Forgets what counts no more.
    fn forget(&mut self, tick: u32) {
        while let Some(first) = self.buckets.front()
            && first.tick.saturating_add(1 + WINDOW_TICKS) <= tick
        {
            self.buckets.pop_front();
        }
        if self.buckets.capacity() > 16 && self.buckets.capacity() / 4 > self.buckets.len() {
            self.buckets.shrink_to(self.buckets.len() * 2);
        }
    }

    /// Replaces what was reserved by what was used. True where Redis should hear of it soon.
    pub(super) fn settle(&mut self, tick: u32, reserved: u64, used: u64, now: Instant) -> bool {
        if self.is_places() {
            self.taken = self.taken.saturating_sub(reserved).saturating_add(used);
            return false;
        }
        let Ok(at) = self.buckets.binary_search_by_key(&tick, |bucket| bucket.tick) else {
            return false;
        };
        let bucket = &mut self.buckets[at];
        let (less, more) = (reserved.saturating_sub(used), used.saturating_sub(reserved));
        // It does not matter which part it was taken from, as long as all of it comes back.
        bucket.unasked = bucket.unasked.saturating_sub(less.saturating_sub(bucket.used));
        let less = less.min(bucket.used);
        let spare = less.min(bucket.spare);
        bucket.spare -= spare;
        // What Redis has heard of as used, only Redis may hand out again.
        let free = (less - spare).min(bucket.used.saturating_sub(bucket.told));
        bucket.used = (bucket.used - less).saturating_add(more);
        if now < self.lease_until {
            self.lease = self.lease.saturating_add(free).saturating_sub(more);
        }
        more > 0
    }

    /// What is left of the limit as far as is known, for headers.
    pub(super) fn remaining(&self, now: Instant) -> u64 {
        let free = self.limit.saturating_sub(self.used_at(now));
        if self.is_places() {
            let (others, _) = self.places_known(now);
            return self.limit.saturating_sub(others.unwrap_or(0)).saturating_sub(self.taken);
        }
        free.saturating_add(self.at_hand(now)).min(self.limit)
    }

    /// What to bring to Redis: `wants` are the amounts that requests wait for.
    pub(super) fn send(&mut self, wants: &[u64], is_all: bool, now: Instant, tick: u32) -> Sent {
        self.forget(tick);
        let elapsed = now.saturating_duration_since(self.asked_since).as_secs_f64();
        let rate = self.rate_of_late(now);
        self.rate = if rate > self.rate { rate } else { self.rate };
        let is_idle = self.asked == 0;
        if elapsed >= 0.25 {
            self.rate = f64::midpoint(self.rate, rate);
            self.asked = 0;
            self.asked_since = now;
        }
        if now >= self.lease_until && !self.is_places() {
            self.lease = 0;
        }
        let sum = wants.iter().fold(0, |sum: u64, more| sum.saturating_add(*more));
        let min = wants.iter().min().copied().unwrap_or(0);
        let (need, least, plenty, soon, keep);
        if self.is_places() {
            let at_hand = self.at_hand(now);
            need = sum.saturating_sub(at_hand);
            least = min.saturating_sub(at_hand);
            let peak = self.taken_max.max(self.taken).saturating_add(sum);
            // Others want what is idle; otherwise what was needed of late is kept.
            let wish = if self.is_wanted { self.taken.saturating_add(sum) } else { peak };
            keep = if need > 0 {
                self.lease.max(self.taken)
            } else {
                self.lease.min(wish).max(self.taken)
            };
            soon = 0;
            plenty = if need > 0 { peak } else { 0 };
            self.taken_max = self.taken;
            self.lease = keep;
        } else {
            let horizon = |seconds: f64| (self.rate * seconds) as u64;
            if self.is_wanted || (is_idle && wants.is_empty()) {
                // A lease that is not used is of use to others.
                let wish = if self.is_wanted { (rate * SOON) as u64 } else { 0 };
                self.lease = self.lease.min(wish);
            }
            need = sum.saturating_sub(self.lease);
            least = min.saturating_sub(self.lease);
            let first = sum.saturating_mul(FIRST);
            let idle = is_idle && wants.is_empty() || self.is_wanted && wants.is_empty();
            plenty = if idle { 0 } else { horizon(PLENTY).max(first).saturating_sub(self.lease) };
            soon = if idle { 0 } else { horizon(SOON).saturating_sub(self.lease) };
            keep = self.lease;
        }
        self.is_wanted = false;
        let mut ticks = Vec::new();
        for bucket in &mut self.buckets {
            if is_all || bucket.used != bucket.confirmed {
                bucket.told = bucket.told.max(bucket.used);
                ticks.push((bucket.tick, bucket.used));
            }
        }
        Sent { ticks, need, least, smallest: min, plenty, soon, keep }
    }

    /// Takes what Redis answered to what was sent at `at`.
    pub(super) fn receive(&mut self, sent: &Sent, answer: &Answer, at: Instant) {
        self.waiting_since = None;
        if answer.status == Status::Late {
            return;
        }
        for (tick, used) in &sent.ticks {
            if let Ok(found) = self.buckets.binary_search_by_key(tick, |bucket| bucket.tick) {
                self.buckets[found].confirmed = *used;
            }
        }
        if answer.status == Status::Later {
            // Others may not have said yet what they used: what was known before is more.
            return;
        }
        for bucket in &mut self.buckets {
            bucket.spare = bucket.spare.min(bucket.used.saturating_sub(bucket.confirmed));
        }
        self.known = Some(Known { at, granted: answer.granted, slots: answer.slots });
        self.lease = self.lease.saturating_add(answer.granted);
        self.lease_size = self.lease;
        self.lease_until = at + self.life();
        self.refused = (answer.status == Status::Refused).then(|| {
            let fits = answer.fits;
            let (least, most) = match self.unit {
                LimitUnit::Requests => (REFUSED_MIN, REFUSED_REQUESTS),
                LimitUnit::Tokens => (REFUSED_MIN, REFUSED_TOKENS),
                LimitUnit::Parallel => (REFUSED_PLACES, REFUSED_PLACES),
            };
            Refused {
                until: at + fits.unwrap_or(least).clamp(least, most),
                least: sent.smallest,
                fits_at: at + fits.unwrap_or(Duration::from_secs(1)),
            }
        });
    }

    /// Whether others could do with some of what is leased here.
    pub(super) fn has_surplus(&self, now: Instant) -> bool {
        let needed = if self.is_places() { 0.0 } else { self.rate_of_late(now) * SOON };
        self.at_hand(now) > needed as u64
    }

    /// What was asked for in a second since Redis was called last.
    fn rate_of_late(&self, now: Instant) -> f64 {
        let elapsed = now.saturating_duration_since(self.asked_since).as_secs_f64();
        self.asked as f64 / elapsed.max(0.25)
    }

    /// Nothing more is taken from the lease.
    pub(super) fn give_up(&mut self) {
        self.lease = 0;
    }

    /// Whether there is nothing to remember.
    pub(super) fn is_idle(&mut self, now: Instant, tick: u32) -> bool {
        self.forget(tick);
        self.buckets.is_empty() && self.taken == 0 && (self.lease == 0 || now >= self.lease_until)
    }

    /// Whether Redis need not hear of it.
    pub(super) fn is_settled(&self, now: Instant) -> bool {
        let told = self.buckets.iter().all(|bucket| bucket.used == bucket.confirmed);
        told && self.taken == 0 && (self.lease == 0 || now >= self.lease_until)
    }
}
