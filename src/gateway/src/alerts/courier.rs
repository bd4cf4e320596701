//! Brings events to those who want to be told, each in a task of its own with a short queue. The
//! receivers are nobody we trust: what they answer is not read but for its status, redirects are not
//! followed, and everything ends in time. Who knows a URL can use it: it is in no message.

use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderValue, Method};
use pingora_core::protocols::http::v1::client::HttpSession as Http1Session;
use pingora_core::protocols::tls::ALPN;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_http::RequestHeader;
use prometheus::{IntCounterVec, Opts, Registry};
use secrecy::ExposeSecret;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::event::Event;
use crate::config::{AlertSettings, AlertTarget};
use crate::exchange::Pool;
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

/// Why an event did not arrive.
struct Failure {
    why: String,
    /// It may help to try again.
    is_passing: bool,
}

impl Failure {
    /// The words are ours: those of libraries may quote what was sent.
    fn passing(why: &str) -> Failure {
        Failure { why: why.to_owned(), is_passing: true }
    }
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
        let mut pauses = PAUSES.into_iter();
        loop {
            let posted = timeout(PATIENCE, self.post(&body)).await;
            let failure =
                match posted.unwrap_or_else(|_| Err(Failure::passing("no answer in time"))) {
                    Ok(()) => return Ok(()),
                    Err(failure) => failure,
                };
            match pauses.next().filter(|_| failure.is_passing) {
                Some(pause) => sleep(pause).await,
                None => return Err(failure),
            }
        }
    }

    async fn post(&self, body: &[u8]) -> Result<(), Failure> {
        let place = &self.target.place;
        let unreachable = |_| Failure::passing("it cannot be reached");
        let addresses = tokio::net::lookup_host((place.host.as_str(), place.port)).await;
        let address = addresses.ok().and_then(|mut addresses| addresses.next());
        let address = address.ok_or_else(|| Failure::passing("its name has no address"))?;
        let mut peer = HttpPeer::new(address, place.tls, place.host.clone());
        peer.options.alpn = ALPN::H1;
        peer.options.connection_timeout = Some(PATIENCE);
        peer.options.total_connection_timeout = Some(PATIENCE);
        let stream = self.pool.dial(&peer).await.map_err(unreachable)?;
        let mut session = Http1Session::new(stream);
        let head = self.head(body.len()).map_err(|_| Failure {
            why: "its URL cannot be asked for".to_owned(),
            is_passing: false,
        })?;
        let lost = |_| Failure::passing("the connection was lost");
        session.write_request_header(Box::new(head)).await.map_err(lost)?;
        session.write_body(body).await.map_err(lost)?;
        session.read_response().await.map_err(|_| Failure::passing("no answer that is HTTP"))?;
        let status = session.get_status().map_or(0, |status| status.as_u16());
        if (200..300).contains(&status) {
            return Ok(());
        }
        let is_passing = status >= 500 || matches!(status, 408 | 429);
        Err(Failure { why: format!("it answered {status}"), is_passing })
    }

    fn head(&self, length: usize) -> pingora_error::Result<RequestHeader> {
        let path = self.target.path.expose_secret().as_bytes();
        let mut head = RequestHeader::build_no_case(Method::POST, path, Some(4))?;
        head.insert_header(HOST, self.target.place.authority())?;
        head.insert_header(CONTENT_TYPE, HeaderValue::from_static("application/json"))?;
        head.insert_header(CONTENT_LENGTH, HeaderValue::from(length))?;
        head.insert_header(USER_AGENT, HeaderValue::from_static(crate::USER_AGENT))?;
        Ok(head)
    }
}
