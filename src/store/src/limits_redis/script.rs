//! What a round sends to Redis and what comes back.

use std::time::Duration;

use redis::Cmd;
use tollway_filter_api::clock::millis;
use tollway_filter_api::limits::LimitUnit;

use super::counter::Sent;

/// The script. One call is one step of Redis, whatever it is about.
pub(super) const CODE: &str = include_str!("script.lua");

/// What frees itself is told in so many parts …
pub(super) const SLOTS: usize = 13;
/// … of this length.
pub(super) const SLOT: Duration = Duration::from_secs(5);

/// What a node is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    /// It says what it used and is not to be granted anything yet.
    Register,
    /// It has said all.
    Ready,
    /// It will not come again.
    Leave,
}

impl Verb {
    fn name(self) -> &'static str {
        match self {
            Verb::Register => "register",
            Verb::Ready => "ready",
            Verb::Leave => "leave",
        }
    }
}

/// What became of a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// A newer report was there already.
    Late,
    /// Done.
    Done,
    /// It does not fit.
    Refused,
    /// Noted, but nothing is granted yet.
    Later,
}

/// What Redis says about a counter.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: Status,
    pub(super) granted: u64,
    /// When it would fit. `None` where others hold it and may keep it.
    pub(super) fits: Option<Duration>,
    pub(super) slots: [u64; SLOTS],
}

/// What a call says of the node.
pub(super) struct Call<'a> {
    pub(super) sha: &'a str,
    /// What the keys start with.
    pub(super) prefix: &'a str,
    /// The time in ms where it is not the server's own.
    pub(super) time: Option<u64>,
    pub(super) node: &'a str,
    pub(super) era: &'a str,
    pub(super) run: &'a str,
    pub(super) nodes: u64,
    pub(super) verb: Verb,
    pub(super) mine: u64,
    pub(super) offset: Option<i64>,
    pub(super) since: u64,
    /// Which of the node's calls it is.
    pub(super) number: u64,
}

/// A counter in a call.
pub(super) struct Item<'a> {
    pub(super) name: &'a str,
    pub(super) unit: LimitUnit,
    pub(super) limit: u64,
    pub(super) life: Duration,
    pub(super) sent: &'a Sent,
}

/// What a call brings back.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) era: String,
    pub(super) now: u64,
    /// Nodes that are alive, this one included.
    pub(super) live: u64,
    /// Nodes among which a limit is shared: silent ones too.
    pub(super) nodes: u64,
    pub(super) rank: u64,
    pub(super) is_open: bool,
    pub(super) offset: i64,
    /// The counters of which others want more.
    pub(super) wanted: Vec<String>,
    /// As many as items were sent, or none where the era was not the right one.
    pub(super) answers: Vec<Answer>,
}

impl Call<'_> {
    pub(super) fn command(&self, items: &[Item<'_>]) -> Cmd {
        let mut command = redis::cmd("EVALSHA");
        command.arg(self.sha).arg(items.len() + 2);
        command.arg(format!("{}nodes", self.prefix)).arg(format!("{}wanted", self.prefix));
        for item in items {
            command.arg(item.name);
        }
        let text = |number: Option<i64>| number.map(|n| n.to_string()).unwrap_or_default();
        command.arg(self.time.map(|ms| ms.to_string()).unwrap_or_default());
        command.arg(self.node).arg(self.era).arg(self.run).arg(self.nodes);
        command.arg(self.verb.name()).arg(self.mine).arg(text(self.offset)).arg(self.since);
        command.arg(self.number);
        for Item { unit, limit, life, sent, .. } in items {
            command.arg(if *unit == LimitUnit::Parallel { "places" } else { "rate" });
            command.arg(*limit).arg(sent.need).arg(sent.least);
            command.arg(sent.plenty).arg(sent.soon).arg(sent.keep);
            command.arg(millis(*life));
            let mut report = String::with_capacity(sent.ticks.len() * 12);
            for (tick, used) in &sent.ticks {
                report.push_str(&format!("{tick} {used} "));
            }
            command.arg(report);
        }
        command
    }
}

/// A reply in the form in which `redis` reads it.
type Raw = (String, i64, i64, i64, i64, i64, i64, Vec<String>, Vec<Vec<i64>>);

/// Reads a reply. `None` where it is not of ours.
pub(super) fn read(value: redis::Value) -> Option<Reply> {
    let raw: Raw = redis::from_redis_value(value).ok()?;
    let (era, now, live, nodes, rank, open, offset, wanted, counters) = raw;
    let whole = |number: i64| u64::try_from(number).unwrap_or(0);
    let mut answers = Vec::with_capacity(counters.len());
    for counter in counters {
        let [status, granted, fits, slots @ ..] = counter.as_slice() else { return None };
        let status = match status {
            0 => Status::Late,
            1 => Status::Done,
            2 => Status::Refused,
            3 => Status::Later,
            _ => return None,
        };
        let fits = u64::try_from(*fits).ok().map(Duration::from_millis);
        let mut all = [0; SLOTS];
        for (to, from) in all.iter_mut().zip(slots) {
            *to = whole(*from);
        }
        answers.push(Answer { status, granted: whole(*granted), fits, slots: all });
    }
    let (live, nodes, rank) = (whole(live), whole(nodes).max(1), whole(rank));
    let (now, is_open) = (whole(now), open == 1);
    Some(Reply { era, now, live, nodes, rank, is_open, offset, wanted, answers })
}
