//! Alerts: operators are told of budgets that run out, and of hours that cost more than usual.
//!
//! One task looks at the budgets once a second and at the ledger once a minute; calls know nothing
//! of it. Each finding becomes an [`Event`], is logged, and goes to a queue for each receiver
//! (`courier`), so that one that is slow or away holds up nobody else. What was told is remembered
//! by the process: each node tells, and tells again after a restart, but at most once for each
//! budget, period and threshold, and for each hour that is a spike.

mod budgets;
mod courier;
mod event;
mod spikes;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, timeout};
use tollway_filter_api::treasury::Treasury;
use tollway_filters::budget::Known;

use self::budgets::Told;
use self::courier::Couriers;
use self::event::Event;
use self::spikes::Spikes;
use crate::state::Gateway;

/// How often the budgets are looked at.
const EVERY: Duration = Duration::from_secs(1);
/// How often the ledger is, in units of that.
const SPIKES_EVERY: u64 = 60;
/// How long the ledger may take.
const LEDGER_PATIENCE: Duration = Duration::from_secs(30);

/// Tells operators, for ever.
pub(crate) async fn watch(gateway: Arc<Gateway>) {
    let treasury: Arc<dyn Treasury> = Arc::new(gateway.money.books.clone());
    let (known, mut couriers) = match Known::of(&gateway.metrics, &treasury, &gateway.clock)
        .and_then(|known| Ok((known, Couriers::new(&gateway)?)))
    {
        Ok(made) => made,
        Err(error) => {
            tracing::error!(%error, "there will be no alerts");
            return;
        }
    };
    let (mut told, mut spikes) = (Told::default(), Spikes::default());
    let mut every = interval(EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for tick in 0_u64.. {
        every.tick().await;
        let settings = gateway.live.load().config.alerts.clone();
        couriers.follow(&settings);
        let Some(keys) = known.keys() else { continue };
        let now = gateway.clock.unix();
        let mut events = told.look(&known.standings(), &settings, &*keys, now);
        if tick % SPIKES_EVERY == 0 {
            let look = spikes.look(gateway.money.store(), &settings, &*keys, now);
            match timeout(LEDGER_PATIENCE, look).await {
                Ok(Ok(found)) => events.extend(found),
                Ok(Err(error)) => {
                    tracing::warn!(%error, "spend cannot be compared with other days")
                }
                Err(_) => tracing::warn!("spend cannot be compared with other days in time"),
            }
        }
        for event in events {
            log(&event);
            couriers.send(&Arc::new(event));
        }
    }
}

fn log(event: &Event) {
    let max_budget = event.max_budget.map(|amount| amount.to_string()).unwrap_or_default();
    tracing::warn!(
        event = event.name,
        event_group = event.group,
        owner = %event.owner,
        spend = %event.spend,
        max_budget,
        "{}", event.title
    );
}
