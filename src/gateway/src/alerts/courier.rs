//! Brings events to those who want to be told, each in a task of its own with a short queue. The
//! receivers are nobody we trust: what they answer is not read but for its status, redirects are not
//! followed, and everything ends in time. Who knows a URL can use it: it is in no message.

use std::sync::Arc;
use std::time::Duration;

use prometheus::{IntCounterVec, Opts, Registry};
use secrecy::ExposeSecret;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::event::Event;
use crate::config::{AlertSettings, AlertTarget};
use crate::exchange::Pool;
use crate::post::{Failure, Letterbox, post};
use crate::state::Gateway;

/// How many events may wait for one receiver.
const QUEUE: usize = 256;
/// How long a receiver may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The pauses before it is tried again.
const PAUSES: [Duration; 3] =
    [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(25)];

/// Counts what became of alerts.
#[derive(Clone)]
struct Counts {
    delivered: IntCounterVec,
    failed: IntCounterVec,
}

impl Counts {
    fn register(registry: &Registry) -> prometheus::Result<Counts> {
        let register = |name, help| {
            let vector = IntCounterVec::new(Opts::new(name, help), &["callback_name"])?;
            registry.register(Box::new(vector.clone()))?;
            Ok::<_, prometheus::Error>(vector)
        };
        Ok(Counts {
            delivered: register("tollway_alerts_delivered_total", "Alerts that were delivered")?,
            failed: register(
                "litellm_callback_logging_failures_metric_total",
                "Alerts that could not be delivered",
            )?,
        })
    }
}

/// Everybody who is told.
pub(super) struct Couriers {
    pool: Arc<Pool>,
    counts: Counts,
    receivers: Vec<(AlertTarget, mpsc::Sender<Arc<Event>>)>,
}

impl Couriers {
    pub(super) fn new(gateway: &Gateway) -> prometheus::Result<Couriers> {
        let counts = gateway.metrics.get_or_make(Counts::register)?;
        let counts = Counts::clone(&counts);
        Ok(Couriers { pool: Arc::clone(&gateway.pool), counts, receivers: Vec::new() })
    }

    /// Tells those that are configured now. One that is so no longer gets what waits for it.
    pub(super) fn follow(&mut self, settings: &AlertSettings) {
        if self.receivers.iter().map(|(target, _)| target).eq(&settings.targets) {
            return;
        }
        self.receivers.retain(|(target, _)| settings.targets.contains(target));
        for target in &settings.targets {
            if !self.receivers.iter().any(|(have, _)| have == target) {
                let (sender, queue) = mpsc::channel(QUEUE);
                let courier = Courier {
                    pool: Arc::clone(&self.pool),
                    counts: self.counts.clone(),
                    target: target.clone(),
                };
                tokio::spawn(courier.run(queue));
                self.receivers.push((target.clone(), sender));
            }
        }
    }

    /// Hands an event to those who want it. Never waits.
    pub(super) fn send(&self, event: &Arc<Event>) {
        for (target, sender) in &self.receivers {
            if target.kinds.contains(&event.kind) && sender.try_send(Arc::clone(event)).is_err() {
                let format = target.format.name();
                self.counts.failed.with_label_values(&[format]).inc();
                tracing::warn!(format, "too many alerts wait for a receiver: one is left out");
            }
        }
    }
}

/// The way to one receiver.
struct Courier {
    pool: Arc<Pool>,
    counts: Counts,
    target: AlertTarget,
}

impl Courier {
    async fn run(self, mut queue: mpsc::Receiver<Arc<Event>>) {
        let format = self.target.format.name();
        while let Some(event) = queue.recv().await {
            match self.deliver(&event).await {
                Ok(()) => self.counts.delivered.with_label_values(&[format]).inc(),
                Err(failure) => {
                    self.counts.failed.with_label_values(&[format]).inc();
                    let why = failure.why;
                    tracing::warn!(format, event = event.name, why, "an alert was not delivered");
                }
            }
        }
    }

    async fn deliver(&self, event: &Event) -> Result<(), Failure> {
        let body = event.body(self.target.format);
        let to = Letterbox {
            place: &self.target.place,
            path: self.target.path.expose_secret().as_bytes(),
            headers: &[],
            patience: PATIENCE,
        };
        let mut pauses = PAUSES.into_iter();
        loop {
            let Err(failure) = post(&self.pool, &to, &body).await else { return Ok(()) };
            match pauses.next().filter(|_| failure.is_passing) {
                Some(pause) => sleep(pause).await,
                None => return Err(failure),
            }
        }
    }
}
