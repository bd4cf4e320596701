//! A model call that several requests may share, as one of them sees it.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use pingora_core::protocols::http::ServerSession;
use pingora_error::Result;
use tollway_filter_api::{Outcome, Reject, Rejection, RequestCtx};

use crate::coalesce::{Follower, Lead, Opening, Rest};
use crate::early::refuse;
use crate::exchange::{self, AnswerStream, Opened};
use crate::model_call::{broken_stream, gone_error, is_text, settled, told, whole};
use crate::respond;
use crate::state::{Gateway, Generation};

/// Makes a call that others may come to share.
pub(crate) async fn lead(
    session: &mut ServerSession,
    gateway: &Arc<Gateway>,
    ctx: &mut RequestCtx,
    call: Box<exchange::Call>,
    lead: Lead,
) -> Result<Outcome> {
    let generation = Arc::clone(&call.generation);
    let report = Arc::clone(&call.report);
    let mut opening: Opening = {
        let gateway = Arc::clone(gateway);
        Box::pin(async move { gateway.exchange.open(&call).await })
    };
    let opened = tokio::select! {
        biased;
        opened = &mut opening => opened,
        gone = session.read_body_or_idle(true) => {
            if lead.leaves(each_pays(ctx)) {
                // What it costs is theirs.
                lead.hand_over(Rest::Opening(opening, report), is_text(ctx));
            } else {
                told(&mut ctx.report, &mut report.lock());
            }
            return Err(gone_error(gone));
        }
    };
    drop(opening);
    told(&mut ctx.report, &mut report.lock());
    lead.opened(&opened, ctx.report.deployment.as_ref());
    match opened {
        Ok(Opened::Stream(mut stream)) => {
            let headers = stream.take_headers();
            let content_type = stream.content_type().cloned();
            ctx.recorded = Some(lead.recorded());
            let source = Source::Own(Box::new(Own { lead, stream }));
            pass_on(session, gateway, &generation, ctx, source, (headers, content_type)).await
        }
        Ok(Opened::Whole(answer)) => {
            ctx.held = Some(Box::new(lead));
            // It begins for us when it is complete.
            ctx.report.upstream_ended = ctx.report.first_byte;
            whole(session, &generation, ctx, answer.headers, answer.body).await
        }
        Err(reject) => {
            ctx.held = Some(Box::new(lead));
            refuse(session, &generation, ctx, reject).await
        }
    }
}

/// Gets what another request's call brings.
pub(crate) async fn follow(
    session: &mut ServerSession,
    gateway: &Gateway,
    generation: &Generation,
    ctx: &mut RequestCtx,
    mut follower: Follower,
) -> Result<Outcome> {
    let begun = tokio::select! {
        biased;
        begun = follower.begun(&mut ctx.report) => begun,
        gone = session.read_body_or_idle(true) => return Err(gone_error(gone)),
    };
    let begun = match begun {
        Ok(begun) => begun,
        Err(reject) => return refuse(session, generation, ctx, reject).await,
    };
    if let Some(body) = begun.whole {
        let each_pays = each_pays(ctx);
        follower.report(&mut ctx.report, each_pays);
        return whole(session, generation, ctx, begun.headers, body).await;
    }
    let head = (begun.headers, begun.content_type);
    pass_on(session, gateway, generation, ctx, Source::Shared(follower), head).await
}

fn each_pays(ctx: &RequestCtx) -> bool {
    ctx.coalesce.is_some_and(|coalesce| coalesce.each_pays)
}

/// Where a request gets the events of a shared call.
enum Source {
    /// It reads them itself, for as long as nobody else wants them.
    Own(Box<Own>),
    /// They are read by a task, for all.
    Shared(Follower),
    /// Neither, while it goes from one to the other.
    Changing,
}

struct Own {
    lead: Lead,
    stream: Box<AnswerStream>,
}

impl Source {
    async fn next(&mut self) -> Option<Result<Bytes, Rejection>> {
        match self {
            Source::Own(own) => {
                let next = own.stream.next().await;
                if let Some(Ok(events)) = &next {
                    own.lead.sent(events);
                }
                next
            }
            Source::Shared(follower) => follower.next().await,
            Source::Changing => None,
        }
    }

    /// Waits for somebody to follow, where that changes anything.
    async fn followed(&mut self) {
        match self {
            Source::Own(own) => own.lead.followed().await,
            Source::Shared(_) | Source::Changing => std::future::pending().await,
        }
    }

    /// The stream, where it is its own.
    fn stream(&mut self) -> Option<&mut AnswerStream> {
        match self {
            Source::Own(own) => Some(&mut own.stream),
            Source::Shared(_) | Source::Changing => None,
        }
    }

    /// From now on a task reads, so that nobody waits for another one's client.
    fn share(&mut self, is_text: bool) {
        *self = match std::mem::replace(self, Source::Changing) {
            Source::Own(own) => Source::Shared(own.lead.step_back(own.stream, is_text)),
            shared => shared,
        };
    }

    /// The last event has come, or what broke the stream.
    fn ended(&mut self, ctx: &mut RequestCtx, broken: Option<&Reject>) {
        let (is_text, each_pays) = (is_text(ctx), each_pays(ctx));
        match self {
            Source::Own(own) => {
                own.stream.settle(&mut ctx.report, broken.is_none(), is_text);
                own.lead.ended(&ctx.report, broken);
            }
            Source::Shared(follower) => follower.report(&mut ctx.report, each_pays),
            Source::Changing => {}
        }
    }

    /// The request ends before the stream does.
    fn left(&mut self, ctx: &mut RequestCtx) {
        let (is_text, each_pays) = (is_text(ctx), each_pays(ctx));
        if let Source::Own(own) = self
            && !own.lead.is_followed()
        {
            return own.stream.settle(&mut ctx.report, false, is_text);
        }
        self.share(is_text);
        if let Source::Shared(follower) = self {
            follower.leaves(&mut ctx.report, each_pays);
        }
    }
}

/// Passes a stream on, each event as it comes.
async fn pass_on(
    session: &mut ServerSession,
    gateway: &Gateway,
    generation: &Generation,
    ctx: &mut RequestCtx,
    mut source: Source,
    head: (Vec<(HeaderName, HeaderValue)>, Option<HeaderValue>),
) -> Result<Outcome> {
    let mut has_ended = false;
    let result = relay(session, generation, ctx, &mut source, head, &mut has_ended).await;
    if !has_ended {
        source.left(ctx);
    }
    settled(gateway, ctx);
    match source {
        Source::Own(own) => ctx.held = Some(Box::new(own.lead)),
        Source::Shared(follower) => ctx.held = Some(Box::new(follower)),
        Source::Changing => {}
    }
    result
}

async fn relay(
    session: &mut ServerSession,
    generation: &Generation,
    ctx: &mut RequestCtx,
    source: &mut Source,
    (headers, content_type): (Vec<(HeaderName, HeaderValue)>, Option<HeaderValue>),
    has_ended: &mut bool,
) -> Result<Outcome> {
    let (chain, is_text) = (&generation.chain, is_text(ctx));
    respond::begin_stream(session, chain, ctx, headers, content_type).await?;
    loop {
        let next = tokio::select! {
            biased;
            next = source.next() => next,
            gone = session.read_body_or_idle(true) => return Err(gone_error(gone)),
        };
        let Some(next) = next else {
            *has_ended = true;
            source.ended(ctx, None);
            session.write_response_body(Bytes::new(), true).await?;
            return Ok(Outcome::Done);
        };
        let broken = match next {
            Ok(mut events) => match chain.chunk(ctx, &mut events) {
                Ok(()) => {
                    ctx.report.bytes_sent += events.len() as u64;
                    let mut write = std::pin::pin!(session.write_response_body(events, false));
                    tokio::select! {
                        biased;
                        written = &mut write => written?,
                        // Not only between two events: this client may never read this one.
                        () = source.followed() => {
                            source.share(is_text);
                            write.await?;
                        }
                    }
                    continue;
                }
                Err(reject) => reject,
            },
            Err(reject) => {
                *has_ended = true;
                source.ended(ctx, Some(&reject));
                reject
            }
        };
        return broken_stream(session, generation, ctx, source.stream(), &broken).await;
    }
}
