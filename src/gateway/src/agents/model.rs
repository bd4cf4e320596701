//! Agents as models: any client that can call a model can call `agent/<name>`, in any dialect.
//!
//! A run's events become the chunks of a chat completion, and from there what the client speaks. What
//! such a client has no word for stands beside it as `x_agent`. A run that waits for approval ends the
//! turn with a call of the function `approve_tool_call`; the answer to it, in the next request, lets
//! the run go on.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use pingora_core::protocols::http::ServerSession;
use pingora_error::Result;
use serde_json::{Value, json};
use tollway_agent::ports::Caller;
use tollway_agent::request::{OnDisconnect, RunRequest};
use tollway_agent::resume::{Decided, Resume, ToolOutput};
use tollway_agent::run::feed::{Follower, Next};
use tollway_agent::run::journal::Decision;
use tollway_agent::service::Begun;
use tollway_filter_api::{Outcome, Reject, Rejection, RequestCtx, RequestView};
use tollway_wire::client::{self, Encoder};
use tollway_wire::openai::replay;
use tollway_wire::operation::{Dialect, Operation};
use tollway_wire::sse::{self, Parser, TooLong};

use super::{caller, named};
use crate::background::Maker;
use crate::early::refuse;
use crate::model_call::{self, gone_error};
use crate::responses::Turn;
use crate::state::{Gateway, Generation};
use crate::{background, random, respond};

/// What models that are agents begin with.
pub(crate) const PREFIX: &str = "agent/";
/// What a client is asked to call where somebody must approve something.
const APPROVE: &str = "approve_tool_call";

/// The agent that a request is for, if its model is one.
pub(crate) fn asked_for(view: &RequestView) -> bool {
    view.operation == Operation::ChatCompletions
        && view.object.str(&view.body, "model").is_some_and(|model| model.starts_with(PREFIX))
}

/// Serves a call of a model that is an agent.
pub(crate) async fn serve(
    session: &mut ServerSession,
    gateway: &Arc<Gateway>,
    generation: &Arc<Generation>,
    ctx: &mut RequestCtx,
) -> Result<Outcome> {
    generation.chain.diverted(ctx);
    ctx.operation = None;
    let mut who = caller(gateway, generation, ctx.identity.clone());
    who.client = ctx.client;
    who.trace = ctx.span.as_deref().map(|span| span.trace().clone());
    who.end_user.clone_from(&ctx.end_user);
    let mut run = match begin(gateway, who, ctx).await {
        Ok(run) => run,
        Err(reject) => return refuse(session, generation, ctx, reject).await,
    };
    if let Some(view) = ctx.view.clone().filter(|view| background::is_wanted(view))
        && let Some(turn) = run.telling.turn.take()
    {
        let (id, model) = (run.telling.id.clone(), run.telling.model.clone());
        let asked = asked(&view, &id, &model, run.telling.created);
        let (turn, maker) = (Box::new(turn), Maker::Run(Box::new(run)));
        return background::promise(session, gateway, generation, ctx, &asked, turn, maker).await;
    }
    match run.telling.stream {
        true => stream(session, gateway, generation, ctx, &mut run).await,
        false => whole(session, gateway, generation, ctx, &mut run).await,
    }
}

/// What encoders have to know of a request.
fn asked<'a>(
    view: &'a RequestView,
    id: &'a str,
    model: &'a str,
    created: u64,
) -> client::Asked<'a> {
    client::Asked {
        operation: view.operation,
        model,
        stream: view.stream,
        body: &view.body,
        id,
        created,
    }
}

async fn begin(gateway: &Gateway, who: Caller, ctx: &RequestCtx) -> Result<Run, Rejection> {
    let Some(view) = ctx.view.clone() else {
        return Err(Reject::internal("no request", "the body was not read"));
    };
    let model = view.object.str(&view.body, "model").unwrap_or_default().into_owned();
    let id = random::unguessable();
    let tenant = ctx.identity.as_ref().map(|key| key.hash);
    let turn = match view.dialect {
        Dialect::Responses => Some(Turn::read(&view, tenant, &gateway.responses, &id).await?),
        _ => None,
    };
    if background::is_wanted(&view) && !turn.as_ref().is_some_and(Turn::keeps) {
        return Err(background::needs_store(gateway));
    }
    let history = turn.as_ref().and_then(|turn| turn.history.clone());
    let body = client::to_openai(view.dialect, view.operation, &view.body, history.as_deref());
    let body = body.map_err(|invalid| {
        let reject = Reject::invalid_request(invalid.message);
        match invalid.param {
            Some(param) => reject.with_param(param),
            None => reject,
        }
    })?;
    let mut request = RunRequest::read_chat(&body)?;
    let created = gateway.clock.unix().as_secs();
    let encoder = client::encoder(view.dialect, &asked(&view, &id, &model, created));
    // What OpenAI's members mean there is not what ours mean: in the background it is followed here.
    request.background = false;
    request.store = Some(true);
    let telling = Telling {
        id,
        model,
        created,
        stream: view.stream,
        with_usage: view.include_usage || encoder.is_some(),
        encoder,
        turn,
        parser: Parser::default(),
        run: Arc::from(""),
        is_begun: false,
        has_text: false,
    };
    let agents = &gateway.agents;
    let begun = match resumed(&request.messages) {
        Some((run, resume)) => agents.resume(who, &run, resume, OnDisconnect::Cancel).await?,
        None => agents.begin(who, request).await?,
    };
    let telling = Telling { run: Arc::clone(&begun.id), ..telling };
    Ok(Run { follower: begun.follow(), begun, telling })
}

/// What the last messages say about a run that waits: which one, and what was decided or returned.
fn resumed(messages: &[Value]) -> Option<(String, Resume)> {
    let role = |message: &Value| message["role"].as_str().unwrap_or_default().to_owned();
    let results = messages.iter().rev().take_while(|message| role(message) == "tool").count();
    let (before, results) = messages.split_at(messages.len() - results);
    let asked = before.last().filter(|message| role(message) == "assistant")?;
    let calls = asked.get("tool_calls")?.as_array()?;
    let (mut run, mut resume) = (None, Resume::default());
    for result in results {
        let id = result["tool_call_id"].as_str()?;
        let (of_run, call_id) = id.split_once(':').filter(|(run, _)| run.starts_with("run_"))?;
        if run.get_or_insert_with(|| of_run.to_owned()) != of_run {
            return None;
        }
        let call = calls.iter().find(|call| call["id"] == id)?;
        let said = text(&result["content"]);
        let call_id = call_id.to_owned();
        if call["function"]["name"] != APPROVE {
            resume.tool_outputs.push(ToolOutput { call_id, output: said });
            continue;
        }
        let yes = matches!(
            said.trim().trim_matches('"').to_ascii_lowercase().as_str(),
            "approve" | "approved" | "yes" | "ok"
        );
        // Whatever is not a yes is a no.
        let (decision, reason) = match yes {
            true => (Decision::Approve, None),
            false => (Decision::Reject, Some(said)),
        };
        // What the client was shown is what it approves: its own copy of the arguments may differ.
        let shown = call["function"]["arguments"].as_str().unwrap_or_default();
        let shown: Value = serde_json::from_str(shown).unwrap_or_default();
        let seen = shown["arguments_sha256"].as_str().map(str::to_owned);
        resume.decisions.push(Decided {
            call_id,
            decision,
            arguments: None,
            arguments_sha256: Some(seen.unwrap_or_default()),
            reason,
        });
    }
    run.map(|run| (run, resume))
}

/// The text of a message, which may come in parts.
fn text(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            parts.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n")
        }
        _ => String::new(),
    }
}

/// A run that is told to a client of a model. Where nobody wants it any more, it ends.
pub(crate) struct Run {
    begun: Begun,
    follower: Follower,
    telling: Telling,
}

impl Run {
    /// Waits for more of it, in the client's dialect. `None` is its end.
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, Rejection>> {
        loop {
            let told = match self.follower.next().await {
                Next::Ended => return None,
                Next::Lost => Err(Failed(Reject::internal("Too many events.", "events are lost"))),
                Next::Events(events) => {
                    let chunks = self.telling.chunks(&events);
                    chunks.and_then(|chunks| self.telling.encoded(chunks))
                }
            };
            match told {
                Ok(events) if events.is_empty() => {}
                Ok(events) => return Some(Ok(events.into())),
                Err(Failed(reject)) => return Some(Err(reject)),
            }
        }
    }

    /// What its answer has besides the usual headers.
    pub(crate) fn headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        named(&self.begun.id).into_iter().collect()
    }

    /// The whole response, once it has been told to its end, in a dialect that keeps it.
    pub(crate) fn response(&self) -> Option<&[u8]> {
        self.telling.encoder.as_ref()?.response()
    }
}

/// How a run is told to a client of a model.
struct Telling {
    id: String,
    model: String,
    created: u64,
    stream: bool,
    with_usage: bool,
    encoder: Option<Box<dyn Encoder>>,
    turn: Option<Turn>,
    parser: Parser,
    run: Arc<str>,
    is_begun: bool,
    has_text: bool,
}

/// Why a run cannot be told to its end.
struct Failed(Rejection);

impl From<TooLong> for Failed {
    fn from(error: TooLong) -> Self {
        Failed(Reject::internal("The run cannot be told.", error))
    }
}

impl Telling {
    /// The chunks for some events of the run, in OpenAI's form.
    fn chunks(&mut self, events: &[u8]) -> Result<Vec<u8>, Failed> {
        let mut out = Vec::new();
        let mut parser = std::mem::take(&mut self.parser);
        let told = parser.push(events, |event| {
            let Ok(data) = serde_json::from_slice::<Value>(event.data) else { return Ok(()) };
            self.tell(event.name, data, &mut out)
        });
        self.parser = parser;
        told.map(|()| out)
    }

    fn tell(&mut self, name: &[u8], mut data: Value, out: &mut Vec<u8>) -> Result<(), Failed> {
        const SILENT: &[&[u8]] = &[
            b"run.created",
            b"run.in_progress",
            b"step.started",
            b"step.retried",
            b"run.failed",
            b"run.cancelled",
        ];
        if !self.is_begun && !SILENT.contains(&name) {
            self.is_begun = true;
            self.chunk(json!({"role": "assistant", "content": ""}), None, None, out);
        }
        let delta = data["delta"].take();
        match name {
            b"message.delta" => {
                self.has_text = true;
                self.chunk(json!({"content": delta}), None, None, out);
            }
            b"reasoning.delta" => {
                self.chunk(json!({"reasoning_content": delta}), None, None, out);
            }
            b"refusal.delta" => self.chunk(json!({"refusal": delta}), None, None, out),
            b"tool_call.started" | b"tool_call.completed" | b"tool_call.failed" => {
                self.part(out);
                self.chunk(json!({}), None, Some(data), out);
            }
            b"step.retried" => self.part(out),
            b"run.completed" | b"run.incomplete" | b"run.requires_action" => {
                self.end(&data["run"], out);
            }
            b"run.failed" => return Err(Failed(failure(&data["run"]["error"]))),
            b"run.cancelled" => {
                let message = "The run was cancelled.";
                return Err(Failed(
                    Reject::new(409, "invalid_request_error", message).with_code("run_cancelled"),
                ));
            }
            b"run.interrupted" => {
                return Err(Failed(Reject::new(
                    503,
                    "internal_server_error",
                    "The run goes on elsewhere: ask for it by its id.",
                )));
            }
            _ => {}
        }
        Ok(())
    }

    /// Texts of steps are apart from one another, so that no two make a third.
    fn part(&mut self, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.has_text) {
            self.chunk(json!({"content": "\n\n"}), None, None, out);
        }
    }

    fn chunk(&self, delta: Value, finish: Option<&str>, event: Option<Value>, out: &mut Vec<u8>) {
        let mut chunk = json!({
            "id": format!("chatcmpl-{}", self.id),
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        });
        if let Some(event) = event {
            chunk["x_agent"] = event;
        }
        sse::write_data(out, chunk.to_string().as_bytes());
    }

    /// The last chunks.
    fn end(&mut self, run: &Value, out: &mut Vec<u8>) {
        let calls = self.wanted(&run["required_action"]);
        let finish = run["choices"][0]["finish_reason"].as_str().unwrap_or("stop");
        let about = json!({
            "run_id": run["id"],
            "status": run["status"],
            "incomplete_details": run["incomplete_details"],
            "usage": run["usage"],
        });
        if !calls.is_empty() {
            self.chunk(json!({"tool_calls": calls}), None, None, out);
        }
        self.chunk(json!({}), Some(finish), Some(about), out);
        if self.with_usage || !self.stream {
            let mut usage = run["usage"].clone();
            if let Some(usage) = usage.as_object_mut() {
                usage.remove("steps");
            }
            let chunk = json!({
                "id": format!("chatcmpl-{}", self.id),
                "object": "chat.completion.chunk",
                "created": self.created,
                "model": self.model,
                "choices": [],
                "usage": usage,
            });
            sse::write_data(out, chunk.to_string().as_bytes());
        }
        sse::write_done(out);
    }

    /// The functions the client is asked to call: to approve, and its own.
    fn wanted(&self, action: &Value) -> Vec<Value> {
        let list = |name: &str| action[name].as_array().cloned().unwrap_or_default();
        let approvals = list("approvals").into_iter().map(|asked| {
            let arguments = json!({
                "run_id": self.run,
                "call_id": asked["call_id"],
                "tool": asked["tool"],
                "arguments": asked["arguments"],
                "arguments_sha256": asked["arguments_sha256"],
            });
            (asked["call_id"].clone(), APPROVE.into(), arguments.to_string().into())
        });
        let own = list("tool_outputs").into_iter().map(|call| {
            let function = &call["function"];
            (call["id"].clone(), function["name"].clone(), function["arguments"].clone())
        });
        let call = |(at, (id, name, arguments)): (usize, (Value, Value, Value))| {
            json!({
                "index": at,
                "id": format!("{}:{}", self.run, id.as_str().unwrap_or_default()),
                "type": "function",
                "function": {"name": name, "arguments": arguments},
            })
        };
        approvals.chain(own).enumerate().map(call).collect()
    }

    /// The same in the client's dialect.
    fn encoded(&mut self, chunks: Vec<u8>) -> Result<Vec<u8>, Failed> {
        let Some(encoder) = &mut self.encoder else { return Ok(chunks) };
        let mut out = Vec::new();
        encoder
            .stream(&chunks, &mut out)
            .map_err(|error| Failed(Reject::internal("The run cannot be told.", error.0)))?;
        Ok(out)
    }

    /// Keeps the answer, for dialects that refer to it later.
    fn keep(&self, gateway: &Gateway, whole: Option<&[u8]>) {
        let response = whole.or_else(|| self.encoder.as_ref()?.response());
        if let (Some(turn), Some(response)) = (&self.turn, response) {
            turn.keep(&gateway.responses, response, None);
        }
    }
}

/// What a failed run is to a client.
fn failure(error: &Value) -> Rejection {
    let text = |name: &str| error[name].as_str().map(str::to_owned);
    let status = error["status"].as_u64().and_then(|status| u16::try_from(status).ok());
    let message = text("message").unwrap_or_else(|| "The run has failed.".to_owned());
    let mut reject = Reject::new(status.unwrap_or(502), "api_error", message);
    if let Some(kind) = text("type") {
        reject.kind = kind.into();
    }
    if let Some(code) = text("code") {
        reject = reject.with_code(code);
    }
    reject
}

async fn stream(
    session: &mut ServerSession,
    gateway: &Gateway,
    generation: &Generation,
    ctx: &mut RequestCtx,
    run: &mut Run,
) -> Result<Outcome> {
    let mut has_begun = false;
    loop {
        let next = tokio::select! {
            biased;
            next = run.next() => next,
            gone = session.read_body_or_idle(true) => return Err(gone_error(gone)),
        };
        match next {
            None => {
                session.write_response_body(Bytes::new(), true).await?;
                return Ok(Outcome::Done);
            }
            Some(Ok(events)) => {
                if !has_begun {
                    has_begun = true;
                    let headers = run.headers();
                    respond::begin_stream(session, &generation.chain, ctx, headers, None).await?;
                }
                run.telling.keep(gateway, None);
                ctx.report.bytes_sent += events.len() as u64;
                session.write_response_body(events, false).await?;
            }
            // As long as nothing was said, the status can still tell.
            Some(Err(reject)) if !has_begun => {
                return refuse(session, generation, ctx, reject).await;
            }
            Some(Err(reject)) => {
                return broken(session, generation, ctx, &mut run.telling, &reject).await;
            }
        }
    }
}

async fn broken(
    session: &mut ServerSession,
    generation: &Generation,
    ctx: &mut RequestCtx,
    telling: &mut Telling,
    reject: &Reject,
) -> Result<Outcome> {
    let codes = generation.config.error_codes;
    let error = respond::error_object(reject, ctx, codes);
    ctx.report.error_kind = Some(reject.kind.to_string());
    let event = match &mut telling.encoder {
        Some(encoder) => {
            let mut event = Vec::new();
            encoder.error(reject.status, &error, &mut event);
            event.into()
        }
        None => respond::error_event(reject, ctx, codes),
    };
    session.write_response_body(event, true).await?;
    Ok(Outcome::Broken)
}

async fn whole(
    session: &mut ServerSession,
    gateway: &Gateway,
    generation: &Generation,
    ctx: &mut RequestCtx,
    run: &mut Run,
) -> Result<Outcome> {
    let mut chunks = Vec::new();
    let made = loop {
        let next = tokio::select! {
            biased;
            next = run.follower.next() => next,
            gone = session.read_body_or_idle(true) => return Err(gone_error(gone)),
        };
        match next {
            Next::Events(events) => match run.telling.chunks(&events) {
                Ok(more) => chunks.extend(more),
                Err(Failed(reject)) => break Err(reject),
            },
            Next::Ended => break completion(&mut run.telling, &chunks),
            Next::Lost => break Err(Reject::internal("Too many events.", "events are lost")),
        }
    };
    match made {
        Ok(body) => {
            run.telling.keep(gateway, Some(&body));
            let headers = run.headers();
            model_call::whole(session, generation, ctx, headers, body.into()).await
        }
        Err(reject) => refuse(session, generation, ctx, reject).await,
    }
}

/// The whole answer, put together from its chunks.
fn completion(telling: &mut Telling, chunks: &[u8]) -> Result<Vec<u8>, Rejection> {
    let unreadable = || Reject::internal("The run cannot be told.", "its chunks make no answer");
    let whole = replay::completion_from_events(chunks).ok_or_else(unreadable)?;
    match &mut telling.encoder {
        Some(encoder) => encoder
            .whole(&whole)
            .map_err(|error| Reject::internal("The run cannot be told.", error.0)),
        None => Ok(whole),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(id: &str, name: &str, digest: &str) -> Vec<Value> {
        let arguments = json!({"arguments_sha256": digest}).to_string();
        vec![
            json!({"role": "user", "content": "Hi"}),
            json!({"role": "assistant", "content": null, "tool_calls": [
                {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}},
            ]}),
        ]
    }

    #[test]
    fn answer_to_an_approval_leads_to_its_run() {
        let mut messages = asked("run_1:call_1", APPROVE, "abc");
        messages
            .push(json!({"role": "tool", "tool_call_id": "run_1:call_1", "content": "approve"}));
        let (run, resume) = resumed(&messages).expect("it is one");
        assert_eq!(run, "run_1");
        assert_eq!(resume.decisions[0].call_id, "call_1");
        assert_eq!(resume.decisions[0].decision, Decision::Approve);
        assert_eq!(resume.decisions[0].arguments_sha256.as_deref(), Some("abc"));
        messages[2]["content"] = "approve it not".into();
        let (_, resume) = resumed(&messages).expect("it is one");
        assert_eq!(resume.decisions[0].decision, Decision::Reject);
    }

    #[test]
    fn results_of_other_calls_are_a_new_conversation() {
        let mut messages = asked("call_1", "weather", "");
        messages.push(json!({"role": "tool", "tool_call_id": "call_1", "content": "sunny"}));
        assert!(resumed(&messages).is_none());
        assert!(resumed(&asked("run_1:call_1", APPROVE, "")).is_none());
    }
}
