//! A request with more inputs than the provider takes in one call: several calls, whose answers are
//! one.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use tollway_filter_api::{Deployment, RequestView};
use tollway_providers::embeddings;
use tollway_wire::operation::{Dialect, Operation};
use tollway_wire::scan::{self, Limits};
use tollway_wire::usage::Usage;

use super::answer::{Opened, WholeAnswer};
use super::attempt::exception_name;
use super::fault::Fault;
use super::lane::Lane;
use super::{Call, Exchange, Trying};

/// How many calls of one request may be under way at once.
const AT_ONCE: usize = 4;
/// What the answers may hold together.
const ANSWERS_BYTES_MAX: usize = 256 << 20;

impl Exchange {
    /// The calls that a request takes at a deployment, if it takes more than one.
    pub(super) fn parts(&self, call: &Call, deployment: &Deployment) -> Option<Vec<RequestView>> {
        let (view, provider) = (&*call.view, call.endpoint(deployment).provider);
        if view.operation != Operation::Embeddings {
            return None;
        }
        let most = provider.inputs_per_call(view.operation, &deployment.model)?;
        // What passes as the client wrote it is the provider's own form, with its own limits.
        let lane = Lane::of(provider, view, &deployment.model)?;
        if lane.dialect != Dialect::OpenAi {
            return None;
        }
        let (body, object) = match lane.translated {
            // What is wrong with it, the attempt itself will tell.
            true => call.translated.of(view, None).ok()?,
            false => (&view.body, &view.object),
        };
        let parts = embeddings::split(body, object, most)?.into_iter().map(|body| {
            let object = scan::scan(&body, &Limits::default()).ok()?;
            Some(RequestView { body, object, dialect: Dialect::OpenAi, ..view.clone() })
        });
        parts.collect()
    }

    /// Tries one deployment with all of them. The fault of one is that of the whole.
    pub(super) async fn attempt_in_parts(
        &self,
        call: &Call,
        trying: &Trying<'_>,
        parts: Vec<RequestView>,
    ) -> Result<Opened, Fault> {
        let deployment = trying.deployment;
        let name = exception_name(call.endpoint(deployment).provider);
        let asked = parts.into_iter().map(|view| async move {
            let generation = Arc::clone(&call.generation);
            let mut part = Call::new(Arc::new(view), call.plan.clone(), generation, call.arrived);
            part.deadline = call.deadline;
            match self.attempt(&part, trying).await? {
                Opened::Whole(answer) => Ok(*answer),
                Opened::Stream(_) => Err(Fault::broken(name, "Embeddings are no stream.")),
            }
        });
        let mut held = 0;
        let answers: Vec<WholeAnswer> = stream::iter(asked)
            .buffered(AT_ONCE)
            .and_then(|answer| {
                held += answer.body.len();
                let fits = held <= ANSWERS_BYTES_MAX;
                let large = || Fault::broken(name, "The answers are too large together.");
                std::future::ready(fits.then_some(answer).ok_or_else(large))
            })
            .try_collect()
            .await?;
        let usage = answers.iter().filter_map(|answer| answer.usage).reduce(|a, b| Usage {
            prompt_tokens: a.prompt_tokens.saturating_add(b.prompt_tokens),
            completion_tokens: a.completion_tokens.saturating_add(b.completion_tokens),
            ..a
        });
        let bodies: Vec<Bytes> = answers.iter().map(|answer| answer.body.clone()).collect();
        let joined = embeddings::join(&bodies)
            .ok_or_else(|| Fault::broken(name, "The answers are no embeddings."))?;
        let lane = Lane::of(call.endpoint(deployment).provider, &call.view, &deployment.model);
        let encoder = lane.and_then(|lane| self.encoder(call, &lane));
        let body = match encoder {
            Some(mut encoder) => {
                encoder.whole(&joined).map_err(|error| Fault::broken(name, error.to_string()))?
            }
            None => joined,
        };
        let headers = answers.into_iter().next().map(|answer| answer.headers).unwrap_or_default();
        let answer =
            WholeAnswer { headers, body: body.into(), usage, kept: None, is_native: false };
        Ok(Opened::Whole(Box::new(answer)))
    }
}
