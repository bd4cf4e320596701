//! What operators see: `/metrics`, and the gateway's own messages.

use prometheus::{Encoder, TextEncoder};
use tollway_filter_api::{Answer, AnswerBody, Reject, Rejection, RequestCtx};
use tollway_store::responses::Lost;

use crate::state::Gateway;

mod deployments;

/// Instruments of the gateway itself; filters register their own.
pub(crate) struct GatewayMetrics {
    in_flight: prometheus::IntGauge,
    resident: prometheus::IntGauge,
    responses_lost: prometheus::IntCounterVec,
}

impl GatewayMetrics {
    fn register(registry: &prometheus::Registry) -> prometheus::Result<GatewayMetrics> {
        let in_flight = prometheus::IntGauge::new(
            "litellm_in_flight_requests",
            "Requests that are being served at this moment",
        )?;
        let resident = prometheus::IntGauge::new(
            "process_resident_memory_bytes",
            "Resident memory size in bytes.",
        )?;
        let responses_lost = prometheus::IntCounterVec::new(
            prometheus::Opts::new(
                "tollway_responses_lost_total",
                "Responses of the Responses API that were answered and are not kept",
            ),
            &["reason"],
        )?;
        registry.register(Box::new(responses_lost.clone()))?;
        registry.register(Box::new(in_flight.clone()))?;
        registry.register(Box::new(resident.clone()))?;
        Ok(GatewayMetrics { in_flight, resident, responses_lost })
    }
}

/// `GET /metrics`
pub(crate) fn metrics(gateway: &Gateway) -> Result<Answer, Rejection> {
    let failed = |error: prometheus::Error| Reject::internal("metrics cannot be written", error);
    let own = gateway.metrics.get_or_make(GatewayMetrics::register).map_err(failed)?;
    own.in_flight.set(gateway.in_flight.count() as i64);
    if let Some(bytes) = resident_bytes() {
        own.resident.set(bytes);
    }
    for (why, name) in Lost::ALL {
        let counter = own.responses_lost.with_label_values(&[name]);
        counter.inc_by(gateway.responses.lost(why).saturating_sub(counter.get()));
    }
    let mut families = gateway.metrics.registry.gather();
    families.extend(deployments::families(gateway).map_err(failed)?);
    let mut text = Vec::with_capacity(16 * 1024);
    TextEncoder::new().encode(&families, &mut text).map_err(failed)?;
    Ok(Answer {
        status: 200,
        headers: Vec::new(),
        body: AnswerBody::Full {
            content_type: "text/plain; version=0.0.4; charset=utf-8",
            bytes: text.into(),
        },
    })
}

/// The second field of `/proc/self/statm` is the resident set in pages (proc(5)); pages are 4 KiB on
/// the machines we run on.
fn resident_bytes() -> Option<i64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: i64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * 4096)
}

/// Tells operators that an answer broke off after it had begun.
pub(crate) fn broken_stream(ctx: &RequestCtx, reject: &Reject) {
    let deployment = ctx.report.deployment.as_deref();
    let model = deployment.map_or("", |d| &*d.litellm_model);
    let detail = reject.source.as_ref().map(ToString::to_string).unwrap_or_default();
    tracing::warn!(
        request_id = %ctx.id, model, kind = %reject.kind, detail, "stream broke off"
    );
}
