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
use crate::ask::{Problem, texts};
use crate::dialect::Dialect;
use crate::flight::{Flight, Job};
use crate::http::{ReadError, Sender, Stop, Target, read_body, read_head, refuse};
use crate::journal::{End, Journal, Outcome, Received};
use crate::reply::Reply;
use crate::{Options, anthropic, openai};

/// The header that carries directives.
const DIRECTIVE_HEADER: &str = "x-tollway-sim";

/// What the connections of one simulator share.
pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) journal: Journal,
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
            shared.journal.bill(1, 0, 0);
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
    let (closes, chunks) = (flight.closes, flight.chunks);
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
    let path = received.path.split('?').next().unwrap_or_default();
    let path = path.strip_prefix("/v1").unwrap_or(path);
    let dialect = match path {
        "/messages" | "/messages/count_tokens" => Dialect::Messages,
        "/completions" => Dialect::Completion,
        _ => Dialect::Chat,
    };
    let problem = |problem| Plan { dialect, reply: Reply::default(), job: Job::Problem(problem) };
    if let Some(key) = &shared.options.required_key
        && !carries_key(received, key)
    {
        let message = "Incorrect API key provided to Tollway's simulated provider.";
        return problem(Problem::new(401, message));
    }
    let mut scripted = shared.next_reply(received);
    if scripted.is_none()
        && shared.options.directives
        && let Some(directives) = received.header(DIRECTIVE_HEADER)
    {
        match directives.parse() {
            Ok(reply) => scripted = Some(reply),
            Err(bad) => return problem(Problem::invalid(bad.to_string()).code("bad_directive")),
        }
    }
    let mut job = match job(shared, received, path) {
        Ok(job) => job,
        Err(problem) => Job::Problem(problem),
    };
    let (scripted, mut reply) = (scripted.is_some(), scripted.unwrap_or_default());
    let said = match &mut job {
        Job::Generate(ask) => Some(&mut ask.said),
        Job::Embeddings { said, .. } => Some(said),
        Job::Document(_) | Job::Problem(_) => None,
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

fn carries_key(received: &Received, key: &str) -> bool {
    let bearer = received.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
    bearer == Some(key)
        || received.header("x-api-key") == Some(key)
        || received.header("api-key") == Some(key)
}

fn job(shared: &Shared, received: &Received, path: &str) -> Result<Job, Problem> {
    let document = |value: Value| Ok(Job::Document(value.to_string()));
    match (received.method.as_str(), path) {
        ("GET", "/models") if received.header("anthropic-version").is_some() => {
            document(anthropic::models())
        }
        ("GET", "/models") => document(openai::models()),
        ("GET", path) if path.starts_with("/models/") => {
            let model = &path["/models/".len()..];
            known(shared, model)?;
            document(openai::model(model))
        }
        ("GET", "/" | "/health") => document(json!({"status": "ok", "simulated": true})),
        ("POST", "/chat/completions") => {
            let ask = openai::read_chat(&read_json(received)?)?;
            known(shared, &ask.model)?;
            Ok(Job::Generate(ask))
        }
        ("POST", "/completions") => {
            let ask = openai::read_completion(&read_json(received)?)?;
            known(shared, &ask.model)?;
            Ok(Job::Generate(ask))
        }
        ("POST", "/embeddings") => {
            let body = read_json(received)?;
            known(shared, body["model"].as_str().unwrap_or_default())?;
            let (answer, tokens) = openai::embeddings(&body)?;
            let said = texts(body.get("input")).join("\n");
            Ok(Job::Embeddings { body: answer, tokens, said })
        }
        ("POST", "/messages" | "/messages/count_tokens") => {
            if received.header("anthropic-version").is_none() {
                return Err(Problem::invalid("anthropic-version: header is required"));
            }
            let ask = anthropic::read(&read_json(received)?, path == "/messages")?;
            known(shared, &ask.model)?;
            match path {
                "/messages" => Ok(Job::Generate(ask)),
                _ => document(json!({"input_tokens": ask.prompt_tokens})),
            }
        }
        (
            _,
            "/models"
            | "/chat/completions"
            | "/completions"
            | "/embeddings"
            | "/messages"
            | "/messages/count_tokens",
        ) => Err(Problem::new(405, "The simulated provider does not offer this method here.")),
        _ => {
            let message = format!("The simulated provider has no {}.", received.path);
            Err(Problem::new(404, message).code("unknown_url"))
        }
    }
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
    fn next_reply(&self, received: &Received) -> Option<Reply> {
        let queued = self.queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        queued.or_else(|| self.options.script.as_ref().and_then(|script| script(received)))
    }
}
