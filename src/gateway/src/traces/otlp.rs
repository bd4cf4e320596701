//! Spans as OTLP's JSON (opentelemetry-proto 1.x): ids in hexadecimal, numbers of 64 bits as texts.

use serde_json::{Value, json};
use tollway_filter_api::trace::{Ended, SpanKind, SpanValue};

/// What is posted to `/v1/traces`.
pub(super) fn request(resource: &[(String, String)], spans: &[Box<Ended>]) -> Vec<u8> {
    let resource: Vec<Value> = resource
        .iter()
        .map(|(name, text)| json!({"key": name, "value": {"stringValue": text}}))
        .collect();
    let spans: Vec<Value> = spans.iter().map(|ended| span(ended)).collect();
    let scope = json!({"name": "tollway", "version": env!("CARGO_PKG_VERSION")});
    let body = json!({"resourceSpans": [{
        "resource": {"attributes": resource},
        "scopeSpans": [{"scope": scope, "spans": spans}],
    }]});
    body.to_string().into_bytes()
}

fn span(ended: &Ended) -> Value {
    let kind = match ended.kind {
        SpanKind::Internal => 1,
        SpanKind::Server => 2,
        SpanKind::Client => 3,
    };
    let attributes: Vec<Value> = ended
        .attributes
        .iter()
        .map(|(name, said)| json!({"key": name, "value": value(said)}))
        .collect();
    let mut span = json!({
        "traceId": format!("{:032x}", ended.trace),
        "spanId": format!("{:016x}", ended.id),
        "name": ended.name,
        "kind": kind,
        "startTimeUnixNano": ended.began.as_nanos().to_string(),
        "endTimeUnixNano": (ended.began + ended.took).as_nanos().to_string(),
        "attributes": attributes,
    });
    if ended.parent != 0 {
        span["parentSpanId"] = format!("{:016x}", ended.parent).into();
    }
    if ended.is_error {
        span["status"] = json!({"code": 2});
    }
    span
}

fn value(said: &SpanValue) -> Value {
    match said {
        SpanValue::Text(text) => json!({"stringValue": text}),
        SpanValue::Number(number) => json!({"intValue": number.to_string()}),
        SpanValue::Float(number) => json!({"doubleValue": number}),
    }
}
