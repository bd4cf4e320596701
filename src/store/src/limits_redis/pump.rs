//! The one who calls Redis: brings what waits, and beats.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use tokio::sync::{Mutex, oneshot};
use tokio::time::timeout;
use tollway_filter_api::limits::LimitKey;

use super::counter::{Place, Sent};
use super::script::{self, Call, Item, Reply, Verb};
use super::{Ask, Core, DUE, LIFE, PLACES_DUE, PLACES_LIFE};
use crate::redis_link::{RedisError, RedisLink};

/// How often Redis hears of a node at least, and a node of what others want.
const BEAT: Duration = Duration::from_millis(1250);
/// The same while a new era waits for its nodes.
const BEAT_WAITING: Duration = Duration::from_millis(100);
/// What takes longer means that Redis is too slow to be waited for.
const CALL_MAX: Duration = Duration::from_millis(40);
/// How long calls may take for which nobody waits.
const JOIN_MAX: Duration = Duration::from_secs(2);
/// Counters in one call: what others wait behind.
const BATCH: usize = 128;
/// How often the difference of the clocks is measured afresh: they may drift apart.
const OFFSET_LIFE: Duration = Duration::from_secs(30);
/// How often counters are looked through for idle ones.
const SWEEP: Duration = Duration::from_secs(60);

/// Beats, and calls at once where somebody waits.
pub(super) async fn run(core: Arc<Core>, pump: Arc<Mutex<Pump>>) {
    loop {
        let pause = pump.lock().await.pause();
        let _ = timeout(pause, core.wake.notified()).await;
        pump.lock().await.round(&core).await;
    }
}

pub(super) struct Pump {
    link: RedisLink,
    simulated: Option<Arc<AtomicU64>>,
    /// Another one after each start: what an earlier process had counts by itself.
    node: String,
    /// Which of the link's connections the following holds for.
    connection: Option<u64>,
    sha: String,
    run: String,
    era: String,
    is_ready: bool,
    /// What others used is not known since the last start of an era.
    is_behind: bool,
    has_left: bool,
    offset: Option<(i64, Instant)>,
    /// Calls made.
    calls: u64,
    /// Up to when it is known what others want, by the time of Redis.
    since: u64,
    live: u64,
    called: Option<Instant>,
    swept: Option<Instant>,
    due: VecDeque<(Instant, LimitKey)>,
    places_due: VecDeque<(Instant, LimitKey)>,
}

/// A counter on its way to Redis.
struct Outgoing {
    key: LimitKey,
    name: Arc<str>,
    limit: u64,
    sent: Sent,
}

impl Pump {
    pub(super) fn new(link: RedisLink, simulated: Option<Arc<AtomicU64>>) -> Pump {
        let mut bytes = [0; 8];
        // Without randomness the address of something is as good as anything.
        if getrandom::fill(&mut bytes).is_err() {
            bytes = (&raw const bytes as usize as u64).to_le_bytes();
        }
        Pump {
            link,
            simulated,
            node: bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
            connection: None,
            sha: String::new(),
            run: String::new(),
            era: String::new(),
            is_ready: false,
            is_behind: false,
            has_left: false,
            offset: None,
            calls: 0,
            since: 0,
            live: 1,
            called: None,
            swept: None,
            due: VecDeque::new(),
            places_due: VecDeque::new(),
        }
    }

    fn pause(&self) -> Duration {
        if self.is_ready { BEAT } else { BEAT_WAITING }
    }

    pub(super) async fn round(&mut self, core: &Core) {
        let asks = std::mem::take(&mut *core.queue.lock());
        let now = core.clock.now();
        self.sweep(core, now);
        if self.has_left || !self.is_joined(core).await {
            away(core, now);
            for ask in asks {
                core.with_known(&ask.key, |counter| {
                    counter.is_queued = false;
                    counter.waiting_since = None;
                });
            }
            return;
        }
        let is_beat = self.called.is_none_or(|called| now - called >= BEAT);
        if asks.is_empty() && !is_beat && core.view.lock().away_since.is_none() {
            return;
        }
        let wants = self.collect(core, asks, now);
        let within = if self.simulated.is_some() { JOIN_MAX } else { CALL_MAX };
        let keys: Vec<LimitKey> = wants.keys().cloned().collect();
        let outgoing = keys.into_iter().filter_map(|key| {
            let amounts: Vec<u64> =
                wants.get(&key).into_iter().flatten().map(|(amount, _)| *amount).collect();
            Self::prepare(core, key, &amounts, false, now)
        });
        let outgoing: Vec<Outgoing> = outgoing.collect();
        self.call(core, Verb::Ready, &outgoing, now, within).await;
        for Outgoing { key, .. } in &outgoing {
            core.with_known(key, |counter| counter.waiting_since = None);
        }
        // Whoever waits tries again, whatever has become of it.
        drop(wants);
    }

    /// What waits, by counter, as much as one call takes.
    fn collect(
        &mut self,
        core: &Core,
        asks: Vec<Ask>,
        now: Instant,
    ) -> HashMap<LimitKey, Vec<(u64, oneshot::Sender<()>)>> {
        let mut wants: HashMap<LimitKey, Vec<_>> = HashMap::new();
        let mut rest = Vec::new();
        for ask in asks {
            if wants.len() >= BATCH && !wants.contains_key(&ask.key) {
                rest.push(ask);
                continue;
            }
            wants.entry(ask.key).or_default().extend(ask.want);
        }
        for due in [&mut self.due, &mut self.places_due] {
            while wants.len() < BATCH
                && let Some((at, _)) = due.front()
                && *at <= now
                && let Some((_, key)) = due.pop_front()
            {
                core.with_known(&key, |counter| counter.due = None);
                wants.entry(key).or_default();
            }
        }
        if !rest.is_empty() {
            core.queue.lock().append(&mut rest);
            core.wake.notify_one();
        }
        wants
    }

    fn prepare(
        core: &Core,
        key: LimitKey,
        wants: &[u64],
        is_all: bool,
        now: Instant,
    ) -> Option<Outgoing> {
        core.with_known(&key, |counter| {
            counter.is_queued = false;
            let sent = counter.send(wants, is_all, now, core.tick(now));
            (Arc::clone(&counter.name), counter.limit(), sent)
        })
        .map(|(name, limit, sent)| Outgoing { key, name, limit, sent })
    }

    /// Whether this node has said all that it used to the Redis there is. Says it if not.
    async fn is_joined(&mut self, core: &Core) -> bool {
        let Some(connection) = self.link.connection() else { return false };
        if self.connection == Some(connection) && self.is_ready {
            return true;
        }
        self.is_ready = false;
        if self.connection != Some(connection) || self.sha.is_empty() {
            let mut load = redis::cmd("SCRIPT");
            load.arg("LOAD").arg(script::CODE);
            let Some(sha) = self.ask(core, &load).await else { return false };
            let mut info = redis::cmd("INFO");
            info.arg("server");
            let Some(info) = self.ask(core, &info).await else { return false };
            let run = info.lines().find_map(|line| line.strip_prefix("run_id:"));
            self.run = run.unwrap_or("unknown").trim().to_owned();
            self.sha = sha;
            self.connection = Some(connection);
            self.offset = None;
        }
        // Which era it is; then all that was used, then that this is all.
        if !self.call(core, Verb::Register, &[], core.clock.now(), JOIN_MAX).await {
            return false;
        }
        let mut keys = self.unsettled(core);
        while !keys.is_empty() {
            let rest = keys.split_off(keys.len().min(BATCH));
            let now = core.clock.now();
            let outgoing = keys.into_iter();
            let outgoing: Vec<_> =
                outgoing.filter_map(|key| Self::prepare(core, key, &[], true, now)).collect();
            if !self.call(core, Verb::Register, &outgoing, now, JOIN_MAX).await {
                return false;
            }
            keys = rest;
        }
        self.is_ready = true;
        self.is_behind = true;
        tracing::debug!(era = self.era, "limits are shared through Redis");
        true
    }

    /// Asks the server that has the counters.
    async fn ask(&self, core: &Core, command: &redis::Cmd) -> Option<String> {
        let answer = self.link.ask_at(core.prefix.as_bytes(), command, JOIN_MAX).await.ok()?;
        redis::from_redis_value(answer).ok()
    }

    /// The counters Redis has to hear of.
    fn unsettled(&self, core: &Core) -> Vec<LimitKey> {
        let mut keys = Vec::new();
        let now = core.clock.now();
        let tick = core.tick(now);
        for shard in &core.shards {
            let mut shard = shard.lock();
            let used = shard
                .iter_mut()
                .filter_map(|(key, counter)| (!counter.is_idle(now, tick)).then(|| key.clone()));
            keys.extend(used);
        }
        keys
    }

    /// Makes one call. True where it was understood.
    async fn call(
        &mut self,
        core: &Core,
        verb: Verb,
        outgoing: &[Outgoing],
        now: Instant,
        within: Duration,
    ) -> bool {
        let fresh = |(_, at): &(i64, Instant)| now - *at < OFFSET_LIFE;
        self.offset = self.offset.filter(fresh);
        self.calls += 1;
        let call = Call {
            sha: &self.sha,
            prefix: &core.prefix,
            time: self.simulated.as_ref().map(|time| time.load(Ordering::Relaxed)),
            node: &self.node,
            era: &self.era,
            run: &self.run,
            nodes: self.live,
            verb,
            mine: core.millis(now),
            offset: self.offset.map(|(offset, _)| offset),
            since: self.since,
            number: self.calls,
        };
        let items: Vec<_> = outgoing
            .iter()
            .map(|Outgoing { key, name, limit, sent }| {
                let is_places = key.unit == tollway_filter_api::limits::LimitUnit::Parallel;
                let life = if is_places { PLACES_LIFE } else { LIFE };
                Item { name, unit: key.unit, limit: *limit, life, sent }
            })
            .collect();
        let answer = self.link.ask(&call.command(&items), within).await;
        self.called = Some(now);
        let reply = match answer.map(script::read) {
            Ok(Some(reply)) => reply,
            Ok(None) => {
                tracing::warn!("Redis answered something else than was asked about limits");
                away(core, now);
                return false;
            }
            Err(error) => {
                if let RedisError::Refused(why) = &error {
                    // It has forgotten the script, or does not run any: it is given to it again.
                    tracing::debug!(%why, "Redis refused to count");
                    self.sha.clear();
                    self.is_ready = false;
                }
                away(core, now);
                return false;
            }
        };
        self.take(&reply, now);
        if reply.era != self.era {
            // Another Redis than before, or an emptied one.
            self.is_ready = false;
            self.era = reply.era;
            away(core, now);
            core.wake.notify_one();
            return verb == Verb::Register && outgoing.is_empty();
        }
        for (outgoing, answer) in outgoing.iter().zip(&reply.answers) {
            core.with_known(&outgoing.key, |counter| {
                counter.receive(&outgoing.sent, answer, now);
                if counter.due.is_none() && !counter.is_settled(now) {
                    let (list, after) = match counter.is_places() {
                        true => (&mut self.places_due, PLACES_DUE),
                        false => (&mut self.due, DUE),
                    };
                    counter.due = Some(now + after);
                    list.push_back((now + after, outgoing.key.clone()));
                }
            });
        }
        for name in &reply.wanted {
            let key = core.names.lock().get(name.as_str()).cloned();
            let Some(key) = key else { continue };
            core.with_known(&key, |counter| {
                if counter.has_surplus(now) {
                    counter.is_wanted = true;
                    core.enqueue(&key, counter);
                }
            });
        }
        if verb == Verb::Ready && reply.is_open && std::mem::take(&mut self.is_behind) {
            // By now all have said what they used: that has to be known before Redis goes again.
            let behind = self.unsettled(core).into_iter().map(|key| Ask { key, want: None });
            core.queue.lock().extend(behind);
            core.wake.notify_one();
        }
        let mut view = core.view.lock();
        let place = Place { rank: reply.rank, nodes: reply.nodes };
        // In a new era not all may be there yet.
        if reply.is_open && (view.place != place || view.placed.is_none()) {
            view.place = place;
            view.placed = Some(now);
        }
        if verb == Verb::Ready && reply.is_open {
            view.away_since = None;
            core.shared.send_if_modified(|shared| !std::mem::replace(shared, true));
        } else {
            view.away_since.get_or_insert(now);
        }
        true
    }

    /// Takes what a reply says of the cluster.
    fn take(&mut self, reply: &Reply, now: Instant) {
        let measured = self.offset.map_or(now, |(_, at)| at);
        self.offset = Some((reply.offset, measured));
        self.since = reply.now;
        if reply.is_open {
            self.live = reply.live;
        }
    }

    /// Gives everything back.
    pub(super) async fn leave(&mut self, core: &Core) {
        self.has_left = true;
        if self.link.connection() != self.connection || !self.is_ready {
            return;
        }
        let mut keys = self.unsettled(core);
        loop {
            let rest = keys.split_off(keys.len().min(BATCH));
            let now = core.clock.now();
            let outgoing = keys.into_iter().filter_map(|key| {
                core.with_known(&key, |counter| counter.give_up());
                Self::prepare(core, key, &[], true, now)
            });
            let outgoing: Vec<_> = outgoing.collect();
            if !self.call(core, Verb::Leave, &outgoing, now, JOIN_MAX).await || rest.is_empty() {
                return;
            }
            keys = rest;
        }
    }

    /// Removes idle counters, from time to time.
    fn sweep(&mut self, core: &Core, now: Instant) {
        if now - *self.swept.get_or_insert(now) < SWEEP {
            return;
        }
        self.swept = Some(now);
        let tick = core.tick(now);
        for shard in &core.shards {
            shard.lock().retain(|_, counter| {
                let is_idle = counter.is_idle(now, tick) && !counter.is_queued;
                if is_idle {
                    core.names.lock().remove(&counter.name);
                }
                !is_idle
            });
        }
    }
}

/// Redis does not grant anything from now on.
fn away(core: &Core, now: Instant) {
    core.view.lock().away_since.get_or_insert(now);
}
