//! The smallest call there is at one deployment, to see whether it works.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use serde_json::json;
use tokio::time::timeout;
use tollway_filter_api::limits::RateLimits;
use tollway_filter_api::{Deployment, ModelGroup, Plan, RequestView};
use tollway_wire::operation::{Dialect, Operation};
use tollway_wire::scan::{self, Limits};

use super::attempt::exception_name;
use super::fault::Fault;
use super::{Call, Exchange, Opened, Trying};
use crate::state::Generation;

/// How a deployment is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Condition {
    /// Why it does not work.
    pub(crate) error: Option<String>,
    /// What its provider says of the limits, as its answer's headers.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// It is only busy, which is no reason to leave it out: cooldown sees to that.
    is_busy: bool,
}

/// The smallest call of a mode, as operation, dialect and body; none where a call would make
/// something that costs real money, or needs a file.
fn request(mode: Option<&str>, max_tokens: u64) -> Option<(Operation, Dialect, serde_json::Value)> {
    let said = "Hi";
    Some(match mode {
        None | Some("chat") => (
            Operation::ChatCompletions,
            Dialect::OpenAi,
            json!({"messages": [{"role": "user", "content": said}], "max_tokens": max_tokens}),
        ),
        // The least this API takes (platform.openai.com/docs/api-reference/responses, 2026-11).
        Some("responses") => (
            Operation::ChatCompletions,
            Dialect::Responses,
            json!({"input": said, "max_output_tokens": max_tokens.max(16)}),
        ),
        Some("completion") => (
            Operation::Completions,
            Dialect::OpenAi,
            json!({"prompt": said, "max_tokens": max_tokens}),
        ),
        Some("embedding") => (Operation::Embeddings, Dialect::OpenAi, json!({"input": [said]})),
        Some("moderation") => (Operation::Moderations, Dialect::OpenAi, json!({"input": said})),
        Some("rerank") => {
            (Operation::Rerank, Dialect::OpenAi, json!({"query": said, "documents": [said]}))
        }
        Some(_) => return None,
    })
}

/// Whether deployments of this mode can be checked at all.
pub(crate) fn can_be_checked(mode: Option<&str>) -> bool {
    request(mode, 1).is_some()
}

impl Exchange {
    /// Calls a deployment. Nobody's limits are touched, and no filter sees it.
    pub(crate) async fn check(
        &self,
        generation: &Arc<Generation>,
        group: &Arc<ModelGroup>,
        deployment: &Arc<Deployment>,
    ) -> Condition {
        let entry = &generation.config.entries[deployment.entry];
        let endpoint = &generation.endpoints[deployment.entry];
        let wait = entry.health.timeout;
        let Some(call) = check_call(self, generation, group, entry.health.max_tokens) else {
            return Condition::default();
        };
        let deployment = match &entry.health.model {
            Some(model) => Cow::Owned(Arc::new(Deployment {
                model: model.as_str().into(),
                limits: RateLimits::default(),
                ..(**deployment).clone()
            })),
            // Its own limits are for callers.
            None if deployment.limits != RateLimits::default() => {
                let limits = RateLimits::default();
                Cow::Owned(Arc::new(Deployment { limits, ..(**deployment).clone() }))
            }
            None => Cow::Borrowed(deployment),
        };
        let now = self.clock.now();
        let trying = Trying { group, deployment: &deployment, now, span: None };
        let attempt = self.attempt(&call, &trying);
        let name = exception_name(endpoint.provider);
        let fault = match timeout(wait, Box::pin(attempt)).await {
            Ok(Ok(Opened::Whole(answer))) => {
                return Condition { headers: answer.headers, ..Condition::default() };
            }
            Ok(Ok(Opened::Stream(_))) => return Condition::default(),
            Ok(Err(fault)) => fault,
            Err(_) => Fault::timeout(name, "no answer to a health check", wait),
        };
        let is_busy = fault.status == 429;
        let message = fault.into_reject().message;
        // A model that thinks and had no room to say anything has worked.
        if message.contains("max_tokens or model output limit was reached") {
            return Condition::default();
        }
        Condition { error: Some(message), is_busy, ..Condition::default() }
    }

    /// Tells routing of a condition.
    pub(crate) fn mark(generation: &Generation, deployment: &Deployment, condition: &Condition) {
        let healthy = condition.error.is_none() || condition.is_busy;
        generation.endpoints[deployment.entry].set_healthy(healthy);
    }
}

fn check_call(
    exchange: &Exchange,
    generation: &Arc<Generation>,
    group: &Arc<ModelGroup>,
    max_tokens: u64,
) -> Option<Call> {
    let (operation, dialect, mut body) = request(group.mode.as_deref(), max_tokens)?;
    body["model"] = group.name.to_string().into();
    let body = Bytes::from(body.to_string());
    let object = scan::scan(&body, &Limits::default()).ok()?;
    let (stream, include_usage, form) = (false, false, None);
    let view = RequestView { operation, dialect, body, object, stream, include_usage, form };
    let plan = Plan { requested: Arc::clone(&group.name), group: Arc::clone(group) };
    let mut call = Call::new(Arc::new(view), plan, Arc::clone(generation), exchange.clock.now());
    call.retries = Some(0);
    call.fallbacks = Some(Vec::new());
    Some(call)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_cheap_is_called() {
        for mode in [None, Some("chat"), Some("embedding"), Some("responses"), Some("rerank")] {
            assert!(can_be_checked(mode), "{mode:?}");
        }
        for mode in ["image_generation", "audio_transcription", "realtime", "video_generation"] {
            assert!(!can_be_checked(Some(mode)), "{mode}");
        }
    }
}
