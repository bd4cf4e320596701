//! Connections and the requests on them: read one, decide what it amounts to, let it fly.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::answer::is_known;
use crate::ask::{Ask, Problem, texts};
use crate::dialect::Dialect;
use crate::flight::{Body, Finished, Flight, Job};
use crate::http::{ReadError, Sender, Stop, Target, read_body, read_head, refuse};
use crate::journal::{End, Journal, Outcome, Received, Totals};
use crate::media::{self, Pictures, Transcript};
use crate::multipart::Form;
use crate::objects::Objects;
use crate::reply::Reply;
use crate::route::{Endpoint, Route, route};
use crate::store::Store;
use crate::token::token;
use crate::{Options, anthropic, bedrock, cohere, gemini, openai, responses};

/// The header that carries directives.
const DIRECTIVE_HEADER: &str = "x-tollway-sim";

/// What the connections of one simulator share.
pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) journal: Journal,
    pub(crate) store: Store,
    pub(crate) queue: Mutex<VecDeque<Reply>>,
}

/// Accepts connections until the task is aborted, which ends them too.
pub(crate) async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(Arc::clone(&shared), stream));
                }
                // Out of file descriptors, most likely; those in use may come back.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Counts a connection for as long as it lives, also if its task is aborted.
struct Open<'a>(&'a Journal);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.closed();
    }
}

async fn connection(shared: Arc<Shared>, stream: TcpStream) {
    let number = shared.journal.opened();
    let _open = Open(&shared.journal);
    // Declared after the guard, so that the socket closes before the counter says it has.
    let mut stream = stream;
    // Each event has to leave at once. Without the option it is late, not wrong.
    let _ = stream.set_nodelay(true);
    let mut buffer = BytesMut::with_capacity(16 << 10);
    loop {
        match request(&shared, &mut stream, &mut buffer, number).await {
            Ok(true) => {}
            Ok(false) | Err(ReadError::Gone) => break,
            Err(ReadError::Bad(bad)) => {
                refuse(&mut stream, bad).await;
                break;
            }
        }
    }
}

/// Serves one request; true if the connection can carry another.
async fn request(
    shared: &Shared,
    stream: &mut TcpStream,
    buffer: &mut BytesMut,
    connection: u64,
) -> Result<bool, ReadError> {
    let options = &shared.options;
    let mut head = read_head(stream, buffer, &options.fixed).await?;
    let (keep, max) = match head.target {
        Target::Fixed(_) => (false, options.fixed_body_bytes_max),
        Target::Other { .. } => (true, options.body_bytes_max),
    };
    let body = read_body(stream, buffer, &head, keep, max).await?;
    let (method, path, headers) = match std::mem::replace(&mut head.target, Target::Fixed(0)) {
        Target::Fixed(place) => {
            shared.journal.bill(Totals::prompt(0, 0));
            return Ok(fixed(options, stream, buffer, place).await.is_ok() && head.keep_alive);
        }
        Target::Other { method, path, headers } => (method, path, headers),
    };
    let id = shared.journal.next_id();
    let at = Instant::now();
    let received = Received { id, connection, at, method, path, headers, body };
    shared.journal.record(&received);
    let plan = plan(shared, &received);
    let mut flight =
        Flight::new(shared, &received, &head, plan.dialect, plan.reply, stream, buffer);
    let flown = flight.fly(plan.job).await;
    let (closes, chunks, billed) = (flight.closes, flight.chunks, flight.billed);
    if let Some(on_bill) = &options.on_bill
        && billed != Totals::default()
    {
        on_bill(&received, billed);
    }
    let end = match flown {
        Ok(()) => End::Complete,
        Err(Stop::ClientLeft) => End::ClientLeft,
        Err(Stop::Close | Stop::Reset) => End::Broken,
    };
    if flown == Err(Stop::Reset) {
        // Only turns the close into a reset; if it fails the connection closes all the same.
        let _ = stream.set_zero_linger();
    }
    shared.journal.end(Outcome { id, end, at: Instant::now(), chunks });
    Ok(flown.is_ok() && !closes)
}

async fn fixed(
    options: &Options,
    stream: &mut TcpStream,
    buffer: &mut BytesMut,
    place: usize,
) -> Result<(), Stop> {
    let Some(fixed) = options.fixed.get(place) else { return Ok(()) };
    match fixed.writes.as_slice() {
        [whole] => stream.write_all(whole).await.map_err(|_| Stop::ClientLeft),
        writes => {
            let mut sender = Sender::new(stream, buffer);
            let mut moment = Instant::now();
            for (index, write) in writes.iter().enumerate() {
                if index > 0 {
                    moment += fixed.interval;
                    sender.until(moment).await?;
                }
                sender.raw(write).await?;
            }
            Ok(())
        }
    }
}

struct Plan {
    dialect: Dialect,
    reply: Reply,
    job: Job,
}

fn plan(shared: &Shared, received: &Received) -> Plan {
    let route = route(&received.path);
    let dialect = route.dialect;
    let problem = |problem| Plan { dialect, reply: Reply::default(), job: Job::Problem(problem) };
    if let Some(key) = &shared.options.required_key
        && route.endpoint != Endpoint::Token
        && !received.carries_key(key)
    {
        let message = "Incorrect API key provided to Tollway's simulated provider.";
        return problem(Problem::new(401, message));
    }
    // In a websocket it is the answers that are scripted, not the greeting.
    let mut scripted = match route.endpoint {
        Endpoint::Realtime => None,
        _ => shared.next_reply(received),
    };
    if scripted.is_none()
        && shared.options.directives
        && let Some(directives) = received.header(DIRECTIVE_HEADER)
    {
        match directives.parse() {
            Ok(reply) => scripted = Some(reply),
            Err(bad) => return problem(Problem::invalid(bad.to_string()).code("bad_directive")),
        }
    }
    let mut job = match job(shared, received, &route) {
        Ok(job) => job,
        Err(problem) => Job::Problem(problem),
    };
    let (scripted, mut reply) = (scripted.is_some(), scripted.unwrap_or_default());
    let said = match &mut job {
        Job::Generate(ask) => Some(&mut ask.said),
        Job::Finished(finished) => Some(&mut finished.said),
        Job::Transcript(wanted) => Some(&mut wanted.said),
        Job::Realtime(_) | Job::Problem(_) => None,
    };
    if let Some(said) = said.filter(|_| shared.options.directives) {
        match Reply::from_text(said) {
            Ok((directed, rest)) => {
                *said = rest;
                // What the test or the header says goes before what stands in the text.
                if !scripted {
                    reply = directed.unwrap_or_default();
                }
            }
            Err(bad) => {
                job = Job::Problem(Problem::invalid(bad.to_string()).code("bad_directive"));
            }
        }
    }
    Plan { dialect, reply, job }
}

fn job(shared: &Shared, received: &Received, route: &Route) -> Result<Job, Problem> {
    let method = received.method.as_str();
    let objects = Objects { store: &shared.store, number: received.id };
    let finished = |finished| Ok(Job::Finished(finished));
    let document = |value: Value| Ok(Job::Finished(Finished::json(&value)));
    let json = || read_json(received);
    match &route.endpoint {
        Endpoint::Unknown => {
            let message = format!("The simulated provider has no {}.", received.path);
            return Err(Problem::new(404, message).code("unknown_url"));
        }
        // These look at the method themselves.
        Endpoint::Response(id, what) => return finished(objects.response(method, id, what)?),
        Endpoint::Files => return finished(objects.files(method, || Form::read(received))?),
        Endpoint::File(id, content) => return finished(objects.file(method, id, *content)?),
        Endpoint::Batches => {
            let body = if method == "POST" { json()? } else { Value::Null };
            return finished(objects.batches(method, &body)?);
        }
        Endpoint::Batch(id, what) => return finished(objects.batch(method, id, what)?),
        Endpoint::Jobs => {
            let body = if method == "POST" { json()? } else { Value::Null };
            return finished(objects.jobs(method, &body)?);
        }
        Endpoint::Job(id, what) => return finished(objects.job(method, id, what)?),
        Endpoint::Token if matches!(method, "GET" | "POST") => {
            let key = shared.options.required_key.as_deref();
            return finished(token(received, key).unwrap_or_else(|refusal| refusal));
        }
        _ => {}
    }
    let is_gemini = matches!(route.dialect, Dialect::Gemini { .. });
    match (method, &route.endpoint) {
        ("GET", Endpoint::Models) if received.header("anthropic-version").is_some() => {
            document(anthropic::models())
        }
        // Google's SDK (3.4, 2026-11) asks below `/v1` as the others do.
        ("GET", Endpoint::Models) if is_gemini || received.header("x-goog-api-key").is_some() => {
            document(gemini::models())
        }
        ("GET", Endpoint::Models) => document(openai::models()),
        ("GET", Endpoint::Model(model)) => {
            known(shared, model)?;
            match is_gemini {
                true => document(gemini::model(model, "simulated")),
                false => document(openai::model(model)),
            }
        }
        ("GET", Endpoint::Health) => document(json!({"status": "ok", "simulated": true})),
        ("GET", Endpoint::Picture) => finished(media::picture()),
        ("GET", Endpoint::Realtime) => {
            let model = route.model.clone().unwrap_or_else(|| "realtime".to_owned());
            known(shared, &model)?;
            Ok(Job::Realtime(model))
        }
        ("POST", endpoint) => post(shared, received, route, endpoint),
        _ => Err(Problem::new(405, "The simulated provider does not offer this method here.")),
    }
}

fn post(
    shared: &Shared,
    received: &Received,
    route: &Route,
    endpoint: &Endpoint,
) -> Result<Job, Problem> {
    let model = route.model.as_deref();
    if let Some(model) = model {
        known(shared, model)?;
    }
    let generate = |ask: Ask| {
        known(shared, &ask.model)?;
        Ok(Job::Generate(Box::new(ask)))
    };
    let document = |value: Value| Ok(Job::Finished(Finished::json(&value)));
    let json = || read_json(received);
    // A body whose model, if it names one, is known.
    let named = || {
        let body = json()?;
        body["model"].as_str().map_or(Ok(()), |model| known(shared, model))?;
        Ok::<Value, Problem>(body)
    };
    match endpoint {
        Endpoint::Chat => generate(openai::read_chat(&json()?, model)?),
        Endpoint::Completion => generate(openai::read_completion(&json()?, model)?),
        Endpoint::Responses => generate(responses::read(&json()?, model, &shared.store)?),
        Endpoint::CohereChat => generate(cohere::read(&json()?)?),
        Endpoint::Embeddings => {
            let body = json()?;
            known(shared, &openai::model_of(&body, model)?)?;
            let (answer, tokens) = openai::embeddings(&body, model)?;
            let said = texts(body.get("input")).join("\n");
            Ok(billed(answer, said, tokens))
        }
        Endpoint::CohereEmbed => {
            let body = json()?;
            known(shared, body["model"].as_str().unwrap_or_default())?;
            let (answer, said, tokens) = cohere::embed(&body)?;
            Ok(billed(answer.to_string(), said, tokens))
        }
        Endpoint::Messages | Endpoint::CountMessages => {
            if received.header("anthropic-version").is_none() {
                return Err(Problem::invalid("anthropic-version: header is required"));
            }
            match endpoint {
                Endpoint::Messages => generate(anthropic::read(&json()?, model, true)?),
                _ => {
                    let ask = anthropic::read(&json()?, model, false)?;
                    known(shared, &ask.model)?;
                    document(json!({"input_tokens": ask.prompt_tokens}))
                }
            }
        }
        Endpoint::Moderations => Ok(Job::Finished(media::moderation(&named()?)?)),
        Endpoint::Rerank => Ok(Job::Finished(media::rerank(&named()?, route.dialect)?)),
        Endpoint::Images => {
            let wanted = Pictures::from_json(&named()?)?;
            let host = received.header("host").unwrap_or("localhost");
            Ok(Job::Finished(wanted.finish("image_generation", host)?))
        }
        Endpoint::ImageEdits => {
            let form = Form::read(received)?;
            form.text("model").map_or(Ok(()), |model| known(shared, &model))?;
            let wanted = Pictures::from_form(&form)?;
            let host = received.header("host").unwrap_or("localhost");
            Ok(Job::Finished(wanted.finish("image_edit", host)?))
        }
        Endpoint::Speech => Ok(Job::Finished(media::speech(&named()?, model)?)),
        Endpoint::Transcription | Endpoint::Translation => {
            let task = match endpoint {
                Endpoint::Translation => "translate",
                _ => "transcribe",
            };
            let wanted = Transcript::read(&Form::read(received)?, model, task)?;
            known(shared, &wanted.model)?;
            Ok(Job::Transcript(wanted))
        }
        Endpoint::Gemini(verb) => gemini_job(&json()?, route, verb),
        Endpoint::VertexAnthropic => {
            let body = json()?;
            if model == Some("count-tokens") {
                let ask = anthropic::read(&body, None, false)?;
                return document(json!({"input_tokens": ask.prompt_tokens}));
            }
            generate(hosted(&body, route, &["model"])?)
        }
        Endpoint::Bedrock(verb) => bedrock_job(&json()?, route, verb),
        _ => Err(Problem::new(405, "The simulated provider does not offer this method here.")),
    }
}

fn billed(answer: String, said: String, tokens: u64) -> Job {
    let body = Body::Whole(answer.into());
    let mut finished = Finished::new("application/json", body);
    (finished.said, finished.billed) = (said, Some(tokens));
    Job::Finished(finished)
}

fn gemini_job(body: &Value, route: &Route, verb: &str) -> Result<Job, Problem> {
    let model = route.model.as_deref().unwrap_or_default();
    match verb {
        "generateContent" | "streamGenerateContent" => {
            let ask = gemini::read(body, model, verb == "streamGenerateContent")?;
            Ok(Job::Generate(Box::new(ask)))
        }
        "countTokens" => Ok(Job::Finished(Finished::json(&gemini::count(body, model)?))),
        "predict" if body["instances"][0].get("prompt").is_some() => {
            let said = body["instances"][0]["prompt"].as_str().unwrap_or_default().to_owned();
            Ok(billed(gemini::draw(body).to_string(), said, 0))
        }
        "embedContent" | "batchEmbedContents" | "predict" => {
            let (answer, said, tokens) = gemini::embed(body, verb)?;
            Ok(billed(answer.to_string(), said, tokens))
        }
        _ => {
            let message = format!("The simulated provider has no verb {verb}.");
            Err(Problem::new(404, message))
        }
    }
}

fn bedrock_job(body: &Value, route: &Route, verb: &str) -> Result<Job, Problem> {
    let model = route.model.as_deref().unwrap_or_default();
    let stream = route.stream == Some(true);
    match verb {
        "converse" | "converse-stream" => {
            Ok(Job::Generate(Box::new(bedrock::read(body, model, stream)?)))
        }
        "count-tokens" => Ok(Job::Finished(Finished::json(&bedrock::count(body, model)?))),
        "invoke" if let Some(other) = bedrock::invoke_other(body) => {
            let (answer, said, tokens) = other?;
            Ok(billed(answer.to_string(), said, tokens))
        }
        "invoke" | "invoke-with-response-stream" => {
            let ask = hosted(body, route, &["model", "stream"])?;
            Ok(Job::Generate(Box::new(ask)))
        }
        _ => Err(Problem::new(404, "UnknownOperationException")),
    }
}

/// Reads Anthropic's messages as other providers take them: with the version in the body, and
/// without what the path says. The version was a name of each provider's once
/// (`bedrock-2023-05-31`, `vertex-2023-10-16`); Anthropic's SDK sends a date (2.12, 2026-11).
fn hosted(body: &Value, route: &Route, refused: &[&str]) -> Result<Ask, Problem> {
    if body["anthropic_version"].as_str().is_none_or(str::is_empty) {
        return Err(Problem::invalid("anthropic_version: Field required"));
    }
    if let Some(extra) = refused.iter().find(|name| body.get(**name).is_some()) {
        let message = format!("{extra}: Extra inputs are not permitted");
        return Err(Problem::invalid(message));
    }
    let mut ask = anthropic::read(body, route.model.as_deref(), true)?;
    ask.stream = route.stream == Some(true);
    Ok(ask)
}

fn read_json(received: &Received) -> Result<Value, Problem> {
    serde_json::from_slice(&received.body)
        .map_err(|error| Problem::invalid(format!("the body is not valid JSON: {error}")))
}

fn known(shared: &Shared, model: &str) -> Result<(), Problem> {
    match shared.options.strict_models && !is_known(model) {
        true => {
            let message = format!("The simulated provider has no model `{model}`.");
            Err(Problem::new(404, message).code("model_not_found"))
        }
        false => Ok(()),
    }
}

impl Shared {
    pub(crate) fn next_reply(&self, received: &Received) -> Option<Reply> {
        let queued = self.queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        queued.or_else(|| self.options.script.as_ref().and_then(|script| script(received)))
    }

    /// The reply to one event of a websocket: what a test has enqueued, or what directives in the
    /// text say, which are taken from it.
    pub(crate) fn reply_to(
        &self,
        received: &Received,
        said: &mut String,
    ) -> Result<Option<Reply>, Problem> {
        let scripted = self.next_reply(received);
        if !self.options.directives {
            return Ok(scripted);
        }
        let (directed, rest) = Reply::from_text(said)
            .map_err(|bad| Problem::invalid(bad.to_string()).code("bad_directive"))?;
        *said = rest;
        Ok(scripted.or(directed))
    }
}
