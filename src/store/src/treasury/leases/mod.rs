//! Budgets that several nodes share.
//!
//! A node may spend of a budget what it has **claimed** in Redis. All claims on a budget together, and
//! what was spent before, never exceed its limit: that is what one script on one key sees to
//! (`share.lua`). A claim grows by *leases*: a quarter of what is left, divided by the nodes, so
//! that most calls find room without asking. Near the end a lease is what the call needs, and what it
//! did not cost is given back at once.
//!
//! Redis is a cache of the ledger, and may lose everything or be gone:
//!
//! - A claim that Redis has not confirmed for [`Timings::ttl`] is not spent from. Then calls are
//!   refused, because nobody knows what is left. No call waits for Redis longer than [`WAIT_MAX`].
//! - A budget that Redis does not know begins with what the ledger says.
//! - A heartbeat tells every node in which *epoch* Redis is. A new one begins when it is empty, or is
//!   another server. Then nothing is granted ([`Timings::freeze`]) until all nodes that were there
//!   have said again what they hold: what they have reserved, and what they have spent that may not
//!   have been in the ledger when the epoch began. A node that does not come back is waited for
//!   longer than its leases can last.
//! - What a node that died has claimed stays claimed. When it is back, its journal proves what it has
//!   spent since it last said so, and the rest is free again (`prove`); if it does not come back
//!   soon, or its journal has not got it any more, all of the claim stays charged for the period.
//!
//! All that can go wrong leaves too much claimed, never too little.

mod keeper;
mod prove;
mod release;
mod script;
mod tell;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use tollway_filter_api::clock::millis;
use tollway_filter_api::ledger::Dimension;
use tollway_filter_api::treasury::{BudgetId, Unpaid};
use tollway_wire::price::PicoDollars;

use self::prove::Claimed;
pub use self::release::{Holding, ReleaseError, holdings, release};
use self::script::{Beat, Share, Shared, UNIT, down, up};
use super::windows::{Counter, SubjectRef, Window};
use super::{Inner, in_time};
pub use crate::redis_link::WAIT_MAX;
use crate::redis_link::{RedisError, RedisLink};

const AWAY: &str = "Redis cannot be asked what the other gateways have left of a budget";
const REBUILDING: &str = "Redis has lost its data: what is left of a budget is being found out";
const UNKNOWN: &str = "the ledger cannot be asked what has been spent";
/// The nodes' heartbeat.
const CLUSTER: &[u8] = b"tollway:{cluster}";
/// Budgets that are never full again are kept so long after their last call.
const KEPT: Duration = Duration::from_secs(400 * 86_400);
/// A lease is a part of what is left: this many for each node.
const PARTS: u64 = 4;

/// How budgets are shared.
#[derive(Clone)]
pub struct LeaseSettings {
    /// The Redis.
    pub link: RedisLink,
    /// How long things last.
    pub timings: Timings,
    /// A lease that is larger than its call is never more than this.
    pub largest: PicoDollars,
}

impl LeaseSettings {
    /// As it usually is.
    pub fn new(link: RedisLink) -> LeaseSettings {
        // A thousand dollars: a node that dies keeps no more than that from the others.
        let largest = PicoDollars(1_000_000_000_000_000);
        LeaseSettings { link, timings: Timings::default(), largest }
    }
}

/// How long things last.
#[derive(Clone, Copy, Debug)]
pub struct Timings {
    /// How long a lease may be used after Redis has confirmed it.
    pub ttl: Duration,
    /// How often it is confirmed.
    pub renew: Duration,
    /// The nodes' heartbeat.
    pub beat: Duration,
    /// For how long at least nothing is granted when an epoch begins: more than a few heartbeats.
    pub freeze: Duration,
    /// For how long nodes are waited for that do not say what they hold: longer than `ttl`.
    pub grace: Duration,
    /// How long old segments of the journal are kept after a start, to prove what was not spent.
    pub proof: Duration,
}

impl Default for Timings {
    fn default() -> Timings {
        Timings {
            ttl: Duration::from_secs(30),
            renew: Duration::from_secs(10),
            beat: Duration::from_millis(500),
            freeze: Duration::from_secs(2),
            grace: Duration::from_secs(35),
            proof: Duration::from_secs(600),
        }
    }
}

/// What is known of the other nodes.
#[derive(Debug, Default)]
struct View {
    /// 0: Redis has not been asked yet.
    epoch: u64,
    frozen: bool,
    members: Vec<String>,
    /// All leases are registered in this epoch.
    joined: u64,
}

/// What all leases share.
pub(super) struct Leases {
    settings: LeaseSettings,
    node: Arc<str>,
    /// This start of this node.
    holder: String,
    /// The first settlement that is not of an earlier start's calls.
    first_seq: u64,
    started: Instant,
    view: Mutex<View>,
    /// The view's epoch.
    epoch: AtomicU64,
    number: AtomicU64,
    /// Leases that want to ask for something.
    queue: Mutex<Vec<Arc<Lease>>>,
    /// Budgets that were found empty.
    starved: Mutex<HashSet<Vec<u8>>>,
    /// Claims of earlier starts.
    claimed: Mutex<Vec<Claimed>>,
    wake: Notify,
}

impl Leases {
    pub(super) fn new(
        settings: LeaseSettings,
        node: &Arc<str>,
        start: u64,
        first_seq: u64,
    ) -> Leases {
        Leases {
            settings,
            node: Arc::clone(node),
            holder: format!("{node}:{start:x}"),
            first_seq,
            started: Instant::now(),
            view: Mutex::default(),
            epoch: AtomicU64::new(0),
            number: AtomicU64::new(0),
            queue: Mutex::default(),
            starved: Mutex::default(),
            claimed: Mutex::default(),
            wake: Notify::new(),
        }
    }

    /// Whether a segment of the journal may be needed for a proof.
    pub(super) fn keeps(&self, next_seq: u64) -> bool {
        next_seq <= self.first_seq && self.started.elapsed() < self.settings.timings.proof
    }

    /// Puts a lease into the queue.
    fn enqueue(&self, lease: &Arc<Lease>, terms: &mut Terms) {
        if !std::mem::replace(&mut terms.queued, true) {
            self.queue.lock().push(Arc::clone(lease));
            self.wake.notify_one();
        }
    }

    fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Whether leases can be had.
    fn is_ready(&self) -> bool {
        let view = self.view.lock();
        view.epoch != 0 && !view.frozen
    }

    /// What a call can have of a lease at once.
    pub(super) fn room(&self, lease: &Lease, counter: &Counter, limit: PicoDollars) -> PicoDollars {
        let mut terms = lease.terms.lock();
        terms.limit = down(limit.0.into());
        let room = terms.room(counter, self.epoch());
        PicoDollars(u64::try_from(room).unwrap_or(u64::MAX))
    }

    /// A part of what is left is a lease: one of so many.
    fn parts(&self) -> u64 {
        PARTS * (self.view.lock().members.len() as u64).max(1)
    }
}

/// What one node has of one budget in one of its periods.
pub(super) struct Lease {
    id: BudgetId,
    window: usize,
    era: u32,
    start_ms: u64,
    end_ms: u64,
    dimension: Dimension,
    key: Vec<u8>,
    /// Whose turn it is to ask Redis.
    turn: tokio::sync::Mutex<()>,
    terms: Mutex<Terms>,
}

/// How a lease stands.
#[derive(Default)]
struct Terms {
    /// 0: nothing is claimed, and nothing was spent that Redis has to be told.
    epoch: u64,
    /// The budget's limit, and what it was when Redis was asked last.
    limit: u64,
    claimed_under: u64,
    claim: u64,
    /// The counter's `spent` when the claim began.
    origin: u128,
    /// Until when it may be used.
    until: Option<Instant>,
    /// What was left for everybody, what the others have claimed, and what of that is spent.
    free: u64,
    others: u64,
    others_spent: u64,
    /// What a call needs, or more.
    need: u128,
    /// What a stream asks for when it has to.
    extend: u128,
    /// It is time to ask for more when this is left.
    low: u128,
    /// What those who wait want together.
    wanted: u128,
    /// Counts the answers.
    answers: u64,
    queued: bool,
    /// Another node has found nothing left.
    is_wanted: bool,
    used: Option<Instant>,
    asked: Option<Instant>,
    /// What was spent with which settlement; and what the ledger is known to have.
    mark: Option<(u64, u128)>,
    confirmed: u128,
    /// `confirmed` when the last heartbeat was answered.
    confirmed_then: u128,
}

impl Terms {
    /// What may be spent. Nothing, if Redis has begun a new epoch and does not know of it, or if the
    /// limit has been lowered since.
    fn room(&self, counter: &Counter, epoch: u64) -> u128 {
        if self.epoch != epoch
            || self.limit < self.claimed_under
            || self.until.is_none_or(|until| Instant::now() >= until)
        {
            return 0;
        }
        let used = self.spent(counter).saturating_add(counter.reserved);
        (u128::from(self.claim) * UNIT).saturating_sub(used)
    }

    fn spent(&self, counter: &Counter) -> u128 {
        counter.spent.saturating_sub(self.origin)
    }

    /// So little is left that calls ask one by one.
    fn is_tight(&self, parts: u64) -> bool {
        u128::from(self.free / parts) * UNIT < self.need
    }
}

/// What is to be asked for.
#[derive(Clone, Copy, Debug)]
enum Wish {
    /// Room for a call: at least the one, at best the other.
    Grant(u128, u128),
    /// A lease for later, if there is plenty.
    Ahead,
    /// Nothing but to go on.
    Renew,
    /// What is not needed is given back, but for so much.
    Return(u128),
    /// The lease is not needed any more.
    Fold,
}

/// What Redis is asked.
struct Question {
    asked: Vec<Vec<u8>>,
    number: u64,
    /// Nothing is granted at present.
    frozen: bool,
    /// What is asked for in fact.
    wish: Wish,
}

impl Lease {
    pub(super) fn new(id: &BudgetId, at: usize, window: &Window, dimension: Dimension) -> Lease {
        let period = id.period.map(|period| period.to_string()).unwrap_or_default();
        let part = id.part.as_deref().unwrap_or_default();
        let mut hash = Sha256::new();
        // Lengths first, so that no two budgets look alike.
        for text in [id.scope.name(), &id.subject, part, &period] {
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text);
        }
        hash.update(window.start_ms.to_be_bytes());
        let digits: String =
            hash.finalize()[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        Lease {
            id: id.clone(),
            window: at,
            era: window.era,
            start_ms: window.start_ms,
            end_ms: window.end_ms,
            dimension,
            key: format!("tollway:budget:{{{digits}}}").into_bytes(),
            turn: tokio::sync::Mutex::default(),
            terms: Mutex::default(),
        }
    }

    pub(super) fn subject(&self) -> SubjectRef<'_> {
        SubjectRef::of(&self.id)
    }

    /// What is left for everybody, as far as is known; and what was spent and is reserved by all.
    fn seen(&self, counter: &Counter, epoch: u64) -> Seen {
        let terms = self.terms.lock();
        if terms.answers == 0 {
            return Seen { left: u128::MAX, spent: counter.spent, reserved: counter.reserved };
        }
        let (others, spent) =
            (u128::from(terms.others) * UNIT, u128::from(terms.others_spent) * UNIT);
        Seen {
            left: u128::from(terms.free) * UNIT + terms.room(counter, epoch),
            spent: spent.saturating_add(terms.spent(counter)).max(counter.spent),
            reserved: others.saturating_sub(spent).saturating_add(counter.reserved),
        }
    }
}

impl Leases {
    /// A budget as all nodes together see it, as far as this one knows.
    pub(super) fn seen(&self, lease: &Lease, counter: &Counter) -> Seen {
        lease.seen(counter, self.epoch())
    }
}

/// A budget as all nodes together see it.
pub(super) struct Seen {
    pub(super) left: u128,
    pub(super) spent: u128,
    pub(super) reserved: u128,
}

/// Room that a call lacks.
pub(super) struct Short {
    pub(super) lease: Arc<Lease>,
    /// It could do with the one and would like the other, beyond what there is.
    pub(super) least: u128,
    pub(super) most: u128,
}

impl Inner {
    /// Takes note that a call has reserved something, or given it back. With the state's lock held.
    pub(super) fn touched(&self, lease: &Arc<Lease>, counter: &Counter, use_of: Use) {
        let Some(leases) = &self.leases else { return };
        let mut terms = lease.terms.lock();
        terms.used = Some(Instant::now());
        match use_of {
            Use::Open(need) => terms.need = need.max(terms.need - terms.need / 16),
            Use::Extend(more) => terms.extend = more,
            Use::End if counter.reserved == 0 => terms.extend = 0,
            Use::End => {}
        }
        let (room, ahead) = (terms.room(counter, leases.epoch()), terms.extend * 2);
        let is_tight = terms.is_tight(leases.parts());
        let gives_back = is_tight && matches!(use_of, Use::End) && room > ahead;
        let wants_more = match is_tight {
            true => room < ahead && terms.free > 0,
            false => room < terms.low.max(terms.need).max(ahead),
        };
        if gives_back || wants_more {
            leases.enqueue(lease, &mut terms);
        }
    }

    /// Asks for what a call lacks of a budget, within a time from which it takes what it needs. False
    /// if others have been answered meanwhile, and there may be room now.
    pub(super) async fn ask_room(
        &self,
        short: &Short,
        patience: &mut Duration,
    ) -> Result<bool, Unpaid> {
        let Some(leases) = &self.leases else { return Ok(true) };
        let lease = &short.lease;
        let before = {
            let mut terms = lease.terms.lock();
            terms.wanted = terms.wanted.saturating_add(short.most);
            terms.answers
        };
        let since = Instant::now();
        let turn = tokio::time::timeout(*patience, lease.turn.lock()).await;
        *patience = patience.saturating_sub(since.elapsed());
        let Ok(turn) = turn else { return Err(Unpaid::Unavailable(AWAY)) };
        if lease.terms.lock().answers != before {
            return Ok(false);
        }
        let wanted = std::mem::take(&mut lease.terms.lock().wanted).max(short.most);
        let wish = Wish::Grant(short.least, wanted);
        let answer = self.ask(leases, lease, wish, patience).await;
        drop(turn);
        answer.map(|()| true)
    }

    /// Asks Redis about a lease. Only one does so at a time.
    async fn ask(
        &self,
        leases: &Leases,
        lease: &Arc<Lease>,
        wish: Wish,
        patience: &mut Duration,
    ) -> Result<(), Unpaid> {
        let mut base = None;
        // New, then in another epoch, then once more: more often is a Redis that loses everything
        // again and again.
        for _ in 0..4 {
            let Some(Question { asked, number, frozen, wish }) =
                self.question(leases, lease, wish, base)
            else {
                return Err(Unpaid::Unavailable(AWAY));
            };
            let since = Instant::now();
            let link = &leases.settings.link;
            let answer = link.run(&script::SHARE, &lease.key, &asked, *patience).await;
            *patience = patience.saturating_sub(since.elapsed());
            let answer = match answer {
                Ok(answer) => Shared::read(answer),
                Err(error) => {
                    tracing::debug!(%error, "a budget cannot be shared");
                    None
                }
            };
            match answer {
                Some(Shared::Done { claim, free, others, spent, old }) => {
                    let claims =
                        self.answered(leases, lease, wish, since, (claim, free, others, spent));
                    if claims {
                        leases.remember(lease, old);
                    }
                    let is_refused = frozen && matches!(wish, Wish::Grant(..));
                    return if is_refused { Err(Unpaid::Unavailable(REBUILDING)) } else { Ok(()) };
                }
                Some(Shared::New) => {
                    // Is it new, or is everything gone?
                    let epoch = leases.view.lock().epoch;
                    self.beat(leases, patience).await?;
                    if leases.view.lock().epoch == epoch {
                        base = Some(self.spent_before(lease).await?);
                    }
                }
                Some(Shared::Epoch) => self.beat(leases, patience).await?,
                Some(Shared::Late) => tracing::debug!(number, "Redis was asked twice at once"),
                None => return Err(Unpaid::Unavailable(AWAY)),
            }
        }
        Err(Unpaid::Unavailable(REBUILDING))
    }

    /// The question to Redis.
    fn question(
        &self,
        leases: &Leases,
        lease: &Lease,
        wish: Wish,
        base: Option<u64>,
    ) -> Option<Question> {
        let state = self.state.lock();
        let counter = state.windows.list[lease.window].get_in(lease.era, lease.subject());
        let counter = counter.unwrap_or_default();
        // Somebody has begun to use it since it was found idle: what they hold must stay claimed.
        let wish = match wish {
            Wish::Fold if counter.reserved > 0 => Wish::Renew,
            wish => wish,
        };
        // With the lock held: what is counted is what has been settled up to here.
        let seq = self.journal.queue().end().0.seq.saturating_sub(1);
        let mut terms = lease.terms.lock();
        let (epoch, frozen) = {
            let view = leases.view.lock();
            (view.epoch, view.frozen)
        };
        if epoch == 0 {
            return None;
        }
        if terms.epoch != epoch {
            // What was spent before is in the ledger, from which Redis begins.
            terms.origin = match terms.epoch {
                0 => counter.spent,
                _ => terms.origin.max(terms.confirmed_then),
            };
            (terms.epoch, terms.claim, terms.until) = (epoch, 0, None);
            (terms.mark, terms.confirmed) = (None, terms.origin);
            terms.confirmed_then = terms.origin;
        }
        let spent = terms.spent(&counter);
        let used = spent.saturating_add(counter.reserved);
        let keep = match wish {
            Wish::Fold => up(used),
            // What is given back cannot be used from here on.
            Wish::Return(but) => up(used.saturating_add(but)).min(terms.claim.max(up(used))),
            // Under a lower limit it is not what it was.
            _ if terms.limit < terms.claimed_under => up(used),
            _ => terms.claim.max(up(used)),
        };
        (terms.claim, terms.claimed_under) = (keep, terms.limit);
        if matches!(wish, Wish::Fold) {
            terms.until = None;
        }
        let (mut least, mut most, mut cap) = (0, 0, 0);
        match wish {
            _ if frozen => {}
            Wish::Grant(wants_least, wants) => {
                // A call's room lies beyond what this question keeps, rounded.
                (least, most) = (up(wants_least), up(wants));
                cap = down(u128::from(leases.settings.largest.0));
            }
            Wish::Ahead => cap = down(u128::from(leases.settings.largest.0)),
            Wish::Return(but) => {
                let lacks = up(used.saturating_add(but)).saturating_sub(keep);
                (least, most) = (lacks, lacks);
            }
            Wish::Renew | Wish::Fold => {}
        }
        let number = leases.number.fetch_add(1, Ordering::Relaxed) + 1;
        let share = Share {
            epoch,
            holder: &leases.holder,
            number,
            limit: terms.limit,
            keep,
            spent: up(spent),
            seq,
            least,
            most,
            cap,
            parts: leases.parts(),
            ttl_ms: self.ttl_ms(lease),
            base,
            fold: matches!(wish, Wish::Fold),
        };
        Some(Question { asked: share.args(), number, frozen, wish })
    }

    /// How long Redis is to keep a budget: a day longer than its period.
    fn ttl_ms(&self, lease: &Lease) -> u64 {
        let now_ms = self.clock.unix_ms();
        match lease.id.period {
            Some(_) => lease.end_ms.saturating_sub(now_ms).saturating_add(86_400_000),
            None => millis(KEPT),
        }
    }

    /// Takes note of what Redis says. True where a claim has begun.
    fn answered(
        &self,
        leases: &Leases,
        lease: &Lease,
        wish: Wish,
        since: Instant,
        (claim, free, others, spent): (u64, u64, u64, u64),
    ) -> bool {
        let mut terms = lease.terms.lock();
        let is_new = terms.until.is_none();
        let granted = claim.saturating_sub(terms.claim);
        (terms.claim, terms.free, terms.others, terms.others_spent) = (claim, free, others, spent);
        terms.answers += 1;
        terms.asked = Some(since);
        if let Wish::Fold = wish {
            (terms.epoch, terms.claim, terms.until) = (0, 0, None);
            return false;
        }
        terms.until = Some(since + leases.settings.timings.ttl);
        if granted > 0 {
            terms.low = u128::from(granted) * UNIT / 2;
        }
        if let Wish::Grant(least, _) = wish
            && granted == 0
            && least > 0
        {
            leases.starved.lock().insert(lease.key.clone());
            leases.wake.notify_one();
        }
        is_new
    }

    /// What the ledger has of a budget, for one that Redis does not know.
    async fn spent_before(&self, lease: &Lease) -> Result<u64, Unpaid> {
        let subject = match &lease.id.part {
            Some(part) => format!("{}\0{part}", lease.id.subject),
            None => lease.id.subject.to_string(),
        };
        let (from_ms, to_ms) = (lease.start_ms, lease.end_ms);
        let sum = in_time(self.ledger.sum_of(lease.dimension, &subject, from_ms, to_ms)).await;
        let sum = sum.map_err(|error| {
            tracing::warn!(%error, "what was spent cannot be learnt: calls with budgets are refused");
            Unpaid::Unavailable(UNKNOWN)
        })?;
        Ok(up(sum.map_or(0, |sum| sum.cost)))
    }

    /// Says that this node is there, and learns of the others.
    async fn beat(&self, leases: &Leases, patience: &mut Duration) -> Result<(), Unpaid> {
        let since = Instant::now();
        let beaten = leases.beat(*patience, false).await;
        *patience = patience.saturating_sub(since.elapsed());
        let beat = beaten.ok_or(Unpaid::Unavailable(AWAY))?;
        self.heard(leases, beat);
        Ok(())
    }
}

/// What a call does with a lease.
#[derive(Clone, Copy, Debug)]
pub(super) enum Use {
    Open(u128),
    Extend(u128),
    End,
}

impl Leases {
    /// Sends a heartbeat.
    async fn beat(&self, within: Duration, leaves: bool) -> Option<Beat> {
        let timings = self.settings.timings;
        let number = |number: u64| number.to_string().into_bytes();
        let mut args = {
            let view = self.view.lock();
            let mut args = vec![
                self.node.as_bytes().to_vec(),
                number(view.epoch),
                number(view.joined),
                number(millis(timings.freeze)),
                number(millis(timings.grace)),
                number(leaves.into()),
                number(view.members.len() as u64),
            ];
            args.extend(view.members.iter().map(|name| name.as_bytes().to_vec()));
            args
        };
        args.extend(std::mem::take(&mut *self.starved.lock()));
        match self.settings.link.run(&script::BEAT, CLUSTER, &args, within).await {
            Ok(answer) => Beat::read(answer),
            Err(RedisError::Refused(error)) => {
                tracing::warn!(%error, "budgets cannot be shared: calls with budgets are refused");
                None
            }
            Err(RedisError::Away) => None,
        }
    }
}
