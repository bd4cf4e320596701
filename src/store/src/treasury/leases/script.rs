//! What is said to Redis about budgets, and what it answers.
//!
//! Amounts there are counted in [`UNIT`]s, because Lua has only doubles: a limit is rounded down,
//! everything else up. The largest limit, 18 million dollars, is a fifth of what a double holds
//! exactly.

use redis::{Value, from_redis_value};

use crate::redis_link::Script;

/// In pico-dollars: a hundred-millionth of a dollar.
pub(in crate::treasury) const UNIT: u128 = 10_000;
/// More than any limit, and still exact when several are added.
const UNITS_MAX: u128 = 1 << 51;

/// Changes one holder's claim.
pub(super) static SHARE: Script = Script::new(include_str!("share.lua"));
/// Puts what a holder has spent in the place of its claim.
pub(super) static CLOSE: Script = Script::new(include_str!("close.lua"));
/// Says that a node is there.
pub(super) static BEAT: Script = Script::new(include_str!("beat.lua"));

/// So many whole units are in it.
pub(super) fn down(amount: u128) -> u64 {
    (amount / UNIT).min(UNITS_MAX) as u64
}

/// So many units hold it.
pub(super) fn up(amount: u128) -> u64 {
    amount.div_ceil(UNIT).min(UNITS_MAX) as u64
}

/// A question about one budget.
#[derive(Clone, Debug)]
pub(super) struct Share<'a> {
    pub(super) epoch: u64,
    pub(super) holder: &'a str,
    /// Growing: an earlier one that comes later has no effect.
    pub(super) number: u64,
    pub(super) limit: u64,
    /// What the holder keeps of what it has claimed.
    pub(super) keep: u64,
    /// What of that it has spent, and with which of its settlements.
    pub(super) spent: u64,
    pub(super) seq: u64,
    /// Nothing is granted if this is not there.
    pub(super) least: u64,
    /// At least this is granted if it is there.
    pub(super) most: u64,
    /// Else a part of what is left, but not more than this.
    pub(super) cap: u64,
    pub(super) parts: u64,
    pub(super) ttl_ms: u64,
    /// What was spent before, for a budget that Redis does not know.
    pub(super) base: Option<u64>,
    /// The holder is done with it.
    pub(super) fold: bool,
}

impl Share<'_> {
    pub(super) fn args(&self) -> Vec<Vec<u8>> {
        let number = |number: u64| number.to_string().into_bytes();
        vec![
            number(self.epoch),
            self.holder.as_bytes().to_vec(),
            number(self.number),
            number(self.limit),
            number(self.keep),
            number(self.spent),
            number(self.seq),
            number(self.least),
            number(self.most),
            number(self.cap),
            number(self.parts.max(1)),
            number(self.ttl_ms),
            self.base.map(number).unwrap_or_default(),
            number(self.fold.into()),
        ]
    }
}

/// What Redis says to a [`Share`].
#[derive(Debug, PartialEq)]
pub(super) enum Shared {
    /// It does not know the budget.
    New,
    /// The question is of an earlier epoch than the budget.
    Epoch,
    /// A later question was answered before.
    Late,
    /// It is done.
    Done {
        /// What the holder has claimed now.
        claim: u64,
        /// What is left for everybody.
        free: u64,
        /// What all others have claimed, or spent before.
        others: u64,
        /// What of that is known to be spent.
        spent: u64,
        /// Claims of the same node from before it was started, and what they say.
        old: Vec<(String, String)>,
    },
}

impl Shared {
    /// Understands an answer.
    pub(super) fn read(answer: Value) -> Option<Shared> {
        let words: Vec<String> = from_redis_value(answer).ok()?;
        match (words.first()?.as_str(), &words[1..]) {
            ("new", _) => Some(Shared::New),
            ("epoch", _) => Some(Shared::Epoch),
            ("late", _) => Some(Shared::Late),
            ("ok", [claim, free, others, spent, old @ ..]) => Some(Shared::Done {
                claim: claim.parse().ok()?,
                free: free.parse().ok()?,
                others: others.parse().ok()?,
                spent: spent.parse().ok()?,
                old: old.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect(),
            }),
            _ => None,
        }
    }
}

/// What Redis says to a heartbeat.
#[derive(Debug, Default)]
pub(super) struct Beat {
    pub(super) epoch: u64,
    pub(super) frozen: bool,
    pub(super) members: Vec<String>,
    /// Budgets that somebody has found empty.
    pub(super) wanted: Vec<Vec<u8>>,
}

impl Beat {
    /// Understands an answer.
    pub(super) fn read(answer: Value) -> Option<Beat> {
        let (epoch, frozen, members, wanted): (String, String, _, _) =
            from_redis_value(answer).ok()?;
        Some(Beat { epoch: epoch.parse().ok()?, frozen: frozen == "1", members, wanted })
    }
}
