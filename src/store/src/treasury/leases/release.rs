//! What nodes hold of budgets, seen from outside; and letting go of it for one that is gone for good.
//!
//! What a dead node has claimed stays charged, because its journal may hold calls that nobody else
//! has heard of. Where an operator knows that it will not come back, its claims are replaced by what
//! it last said it had spent. If it comes back all the same, what it had not said by then (a few
//! seconds' calls, and those that were open) is spent beyond the budget: never more than was freed.

use std::collections::BTreeMap;
use std::time::Duration;

use redis::from_redis_value;

use super::script::{self, UNIT};
use super::{CLUSTER, Timings};
use crate::redis_link::{BACKGROUND_MAX, RedisError, RedisLink, Script};

/// What budgets are called in Redis.
const BUDGETS: &str = "tollway:budget:*";
static READ: Script = Script::new(include_str!("read.lua"));

/// What one node holds of all budgets together, in pico-dollars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// How long ago it was last heard from. `None`: not for a long time.
    pub heard: Option<Duration>,
    /// Of how many budgets.
    pub budgets: u64,
    /// What it has claimed of them: nobody else can spend that.
    pub claimed: u128,
    /// What of that it has said it has spent.
    pub spent: u128,
}

/// Why claims are not let go of.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// It may be spending.
    #[error(
        "the node was heard from {0:?} ago: one that may be alive keeps what it has claimed (it \
         counts as dead after {1:?})"
    )]
    Alive(Duration, Duration),
    /// There is nothing to let go of.
    #[error("no node of this name holds anything")]
    Unknown,
    /// Redis cannot be asked.
    #[error(transparent)]
    Redis(#[from] RedisError),
}

/// A claim as it stands.
struct Claim {
    key: Vec<u8>,
    holder: String,
    value: String,
    claimed: u64,
    spent: u64,
}

/// What every node holds, by its name.
///
/// # Errors
/// When Redis cannot be asked.
pub async fn holdings(link: &RedisLink) -> Result<BTreeMap<String, Holding>, RedisError> {
    let mut nodes = BTreeMap::<String, Holding>::new();
    for claim in claims(link).await? {
        let Some(node) = node_of(&claim.holder) else { continue };
        let holding = nodes.entry(node.to_owned()).or_default();
        holding.budgets += 1;
        holding.claimed += u128::from(claim.claimed) * UNIT;
        holding.spent += u128::from(claim.spent) * UNIT;
    }
    let (now, beats) = read(link, CLUSTER).await?;
    for (field, at) in &beats {
        let Some(node) = field.strip_prefix("m:") else { continue };
        let ago = Duration::from_millis(now.saturating_sub(at.parse().unwrap_or(0)));
        nodes.entry(node.to_owned()).or_default().heard = Some(ago);
    }
    Ok(nodes)
}

/// Puts what a node that is gone has said it had spent in the place of all it has claimed. What it
/// held until then.
///
/// # Errors
/// When it may be alive, holds nothing, or Redis cannot be asked.
pub async fn release(link: &RedisLink, node: &str) -> Result<Holding, ReleaseError> {
    let grace = Timings::default().grace;
    let holding = holdings(link).await?.remove(node).ok_or(ReleaseError::Unknown)?;
    if let Some(heard) = holding.heard.filter(|heard| *heard < grace) {
        return Err(ReleaseError::Alive(heard, grace));
    }
    let mut released = Holding { heard: holding.heard, ..Holding::default() };
    for claim in claims(link).await? {
        if node_of(&claim.holder) != Some(node) {
            continue;
        }
        let args = [
            claim.holder.into_bytes(),
            claim.value.into_bytes(),
            claim.spent.to_string().into_bytes(),
        ];
        let done = link.run(&script::CLOSE, &claim.key, &args, BACKGROUND_MAX).await?;
        // Where it has changed meanwhile, somebody else has seen to it.
        if from_redis_value::<u64>(done).is_ok_and(|done| done == 1) {
            released.budgets += 1;
            released.claimed += u128::from(claim.claimed) * UNIT;
            released.spent += u128::from(claim.spent) * UNIT;
        }
    }
    match released.budgets {
        0 => Err(ReleaseError::Unknown),
        _ => Ok(released),
    }
}

/// The node of `node:start`.
fn node_of(holder: &str) -> Option<&str> {
    holder.rsplit_once(':').map(|(node, _)| node)
}

async fn claims(link: &RedisLink) -> Result<Vec<Claim>, RedisError> {
    let mut claims = Vec::new();
    for key in link.script_keys(BUDGETS, BACKGROUND_MAX).await? {
        let (_, fields) = read(link, &key).await?;
        for (field, value) in fields {
            let Some(holder) = field.strip_prefix("h:") else { continue };
            let mut numbers = value.split(' ').map(str::parse);
            let (Some(Ok(claimed)), Some(Ok(spent))) = (numbers.next(), numbers.next()) else {
                continue;
            };
            let (key, holder) = (key.clone(), holder.to_owned());
            claims.push(Claim { key, holder, value, claimed, spent });
        }
    }
    Ok(claims)
}

/// The time in milliseconds, and what a hash has.
async fn read(link: &RedisLink, key: &[u8]) -> Result<(u64, Vec<(String, String)>), RedisError> {
    let told = link.run(&READ, key, &[], BACKGROUND_MAX).await?;
    // What is not of ours has nothing of ours.
    let (now, flat): (String, Vec<String>) = from_redis_value(told).unwrap_or_default();
    let pairs = flat.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone()));
    Ok((now.parse().unwrap_or_default(), pairs.collect()))
}
