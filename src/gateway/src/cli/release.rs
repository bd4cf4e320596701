//! `tollway release`: what nodes hold of budgets, and letting go of it for one that is gone for good.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tollway_filter_api::Clock;
use tollway_filter_api::accounts::{Accounts, AuditEntry, Change, Kind};
use tollway_store::redis_link::RedisLink;
use tollway_store::sql::SqlStore;
use tollway_store::treasury::{Holding, holdings, release};
use tollway_wire::price::PicoDollars;

use super::say;
use crate::start::{Place, StartError};

/// How long Redis may take to be there.
const REDIS_MAX: Duration = Duration::from_secs(10);
/// Who does it, in the audit log.
const ACTOR: &str = "tollway release";

/// Which node.
#[derive(Debug, Args)]
#[command(after_help = "\
Gateways that share budgets claim parts of them before they spend. What a gateway had claimed when it
died stays charged until it is back: its journal tells what of that it has spent. Where it will never
be back, because its disk is gone, this command lets go of it: charged is what it last said it had
spent. Should it come back all the same, a budget can be overspent by as much as was freed, and no
more. A gateway that was heard from in the last 35 seconds is left alone. It is written down in the
audit log.

Without a node it shows what all of them hold, and changes nothing.")]
pub(crate) struct ReleaseArgs {
    /// The node, as it is called when this command is given without one
    node: Option<String>,
    /// The config file, for its Redis and its `database_url`
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// `tollway release`
pub(crate) fn run(args: &ReleaseArgs) -> Result<(), StartError> {
    let place = Place::find(args.config.as_deref(), None)?;
    super::block_on(work(&place, args.node.as_deref()))?
}

async fn work(place: &Place, node: Option<&str>) -> Result<(), StartError> {
    let refused = |error: &dyn std::fmt::Display| StartError::new(error.to_string());
    let (Some(server), Some(database)) = (&place.redis, &place.database_url) else {
        let message = "the config names no Redis and Postgres that gateways share: nothing is \
                       claimed from anybody";
        return Err(StartError::new(message.to_owned()));
    };
    let runtime = tokio::runtime::Handle::current();
    let link = RedisLink::connect(server, "claims are looked at", &runtime)
        .map_err(|error| refused(&error))?;
    if tokio::time::timeout(REDIS_MAX, link.up()).await.is_err() {
        return Err(StartError::new(format!("Redis has not answered within {REDIS_MAX:?}")));
    }
    let Some(node) = node else {
        let nodes = holdings(&link).await.map_err(|error| refused(&error))?;
        let mut text = String::new();
        for (name, holding) in &nodes {
            let _ = writeln!(text, "{name}\t{}", shown(holding));
        }
        say(if text.is_empty() { "No node holds anything." } else { text.trim_end() });
        return Ok(());
    };
    // First where it is written down: nothing is let go of that nobody could find out about.
    let store = SqlStore::postgres(database.clone()).await.map_err(|error| refused(&error))?;
    let released = release(&link, node).await.map_err(|error| refused(&error))?;
    let at_ms = Clock::system().unix_ms();
    let audit = AuditEntry {
        at_ms,
        actor: ACTOR.into(),
        action: "released".into(),
        kind: Kind::Budget,
        id: node.into(),
        before: Some(json!({"budgets": released.budgets, "claimed": dollars(released.claimed)})),
        after: Some(json!({"charged": dollars(released.spent)})),
    };
    let written = store.change(Change { audit: vec![audit], ..Change::default() }).await;
    store.close().await;
    let freed = released.claimed.saturating_sub(released.spent);
    say(&format!(
        "{node} had claimed {} dollars of {} budgets: {} stay charged, {} are free.",
        dollars(released.claimed),
        released.budgets,
        dollars(released.spent),
        dollars(freed)
    ));
    written.map(|_| ()).map_err(|error| {
        StartError::new(format!("it is done, but could not be written to the audit log: {error}"))
    })
}

fn shown(holding: &Holding) -> String {
    let heard = match holding.heard {
        Some(ago) => format!("heard from {} s ago", ago.as_secs()),
        None => "not heard from".to_owned(),
    };
    let Holding { budgets, claimed, spent, .. } = holding;
    format!(
        "{heard}\t{budgets} budgets\tclaimed {} dollars, spent {} of them",
        dollars(*claimed),
        dollars(*spent)
    )
}

fn dollars(pico: u128) -> String {
    PicoDollars(u64::try_from(pico).unwrap_or(u64::MAX)).to_string()
}
