//! One request's answer on its way: paced, watched, and broken where the script says so.

mod talk;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::answer::{Answer, Delta, answer, base_name, count_tokens};
use crate::ask::{Ask, Problem};
use crate::dialect::{Dialect, Meta, Usage};
use crate::encoding::crc32;
use crate::http::{Framing, Head, Sender, Stop, reason};
use crate::journal::{Received, Totals};
use crate::media::Transcript;
use crate::reply::{Content, Fault, Refusal, Reply};
use crate::responses;
use crate::serve::Shared;
use crate::store::Kind;

/// Longer waits are cut to this; it is far enough to mean never.
const WAIT_MAX: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Large fillers are sent in blocks of this size.
const BLOCK: usize = 64 << 10;

/// What a request amounts to, before a script has its say.
pub(crate) enum Job {
    Generate(Box<Ask>),
    Finished(Finished),
    Transcript(Transcript),
    /// A websocket, with the model it is for.
    Realtime(String),
    Problem(Problem),
}

/// An answer in which the model has no part.
pub(crate) struct Finished {
    pub(crate) status: u16,
    pub(crate) content_type: &'static str,
    pub(crate) body: Body,
    /// The tokens it costs, if it is billed at all.
    pub(crate) billed: Option<u64>,
    /// What the request was about, in which directives may stand.
    pub(crate) said: String,
}

/// The body of a finished answer.
pub(crate) enum Body {
    Whole(Bytes),
    /// Sent one by one, each as a content chunk.
    Pieces(Vec<Bytes>),
}

impl Finished {
    pub(crate) fn new(content_type: &'static str, body: Body) -> Finished {
        Finished { status: 200, content_type, body, billed: None, said: String::new() }
    }

    pub(crate) fn json(value: &Value) -> Finished {
        Finished::new("application/json", Body::Whole(value.to_string().into()))
    }
}

/// Why the events of a stream end early.
enum Halt {
    Stop(Stop),
    /// The body ends in good order, with events missing.
    EndBody,
}

impl From<Stop> for Halt {
    fn from(stop: Stop) -> Halt {
        Halt::Stop(stop)
    }
}

/// A request on its way to its answer.
pub(crate) struct Flight<'a, 'c> {
    shared: &'a Shared,
    received: &'a Received,
    /// Makes the ids of the answer; the request's, or in a websocket the event's.
    number: u64,
    dialect: Dialect,
    reply: Reply,
    sender: Sender<'c>,
    /// The connection ends with this answer.
    pub(crate) closes: bool,
    /// And with it the body, which has no other end.
    until_close: bool,
    /// Content chunks sent so far.
    pub(crate) chunks: u64,
    /// What it is billed so far.
    pub(crate) billed: Totals,
    /// When the first token was due.
    start: Instant,
    /// The stream consists of lines, which may be decorated.
    has_lines: bool,
}

impl<'a, 'c> Flight<'a, 'c> {
    pub(crate) fn new(
        shared: &'a Shared,
        received: &'a Received,
        head: &Head,
        dialect: Dialect,
        reply: Reply,
        stream: &'c mut TcpStream,
        early: &'c mut BytesMut,
    ) -> Flight<'a, 'c> {
        Flight {
            shared,
            received,
            number: received.id,
            dialect,
            closes: !head.keep_alive || reply.until_close,
            // HTTP/1.0 does not know chunks.
            until_close: head.http_10 || reply.until_close,
            sender: Sender::new(stream, early),
            chunks: 0,
            billed: Totals::default(),
            start: received.at,
            has_lines: false,
            reply,
        }
    }

    /// Answers.
    pub(crate) async fn fly(&mut self, job: Job) -> Result<(), Stop> {
        self.sender.split = self.reply.split;
        if let Job::Realtime(model) = &job
            && self.reply.status.is_none()
            && self.reply.refusal.is_none()
        {
            return self.realtime(model).await;
        }
        if let Some(delay) = self.reply.retry_after {
            let seconds = delay.as_millis().div_ceil(1000);
            self.reply.headers.push(("retry-after".to_owned(), seconds.to_string()));
            if delay.subsec_millis() != 0 {
                let millis = delay.as_millis().to_string();
                self.reply.headers.push(("retry-after-ms".to_owned(), millis));
            }
        }
        if let Some(delay) = self.reply.first_byte_delay {
            self.sender.pause(delay).await?;
        }
        if let Some(count) = self.reply.informational {
            for _ in 0..count {
                let head = b"HTTP/1.1 103 Early Hints\r\nlink: </simulated>; rel=preload\r\n\r\n";
                self.sender.raw(head).await?;
            }
        }
        match self.reply.refusal {
            None => {}
            Some(Refusal::Hang) => return Err(self.sender.hang().await),
            Some(Refusal::Close) => return Err(Stop::Close),
            Some(Refusal::Reset) => return Err(Stop::Reset),
            Some(Refusal::CutHead) => {
                self.sender.raw(b"HTTP/1.1 200 OK\r\ncontent-type: applic").await?;
                return Err(Stop::Close);
            }
        }
        let status = self.reply.status;
        match std::mem::take(&mut self.reply.content) {
            Content::Raw(bytes) => {
                self.closes = true;
                self.sender.raw(&bytes).await
            }
            Content::Body { content_type, body } => {
                self.document(status.unwrap_or(200), &content_type, &body).await
            }
            Content::Events(events) => self.raw_events(self.dialect.stream_type(), &events).await,
            Content::Html => {
                let page = "<!DOCTYPE html>\n<html><head><title>Simulated</title></head>\
                            <body><h1>Not the API you asked for</h1></body></html>\n";
                self.document(status.unwrap_or(200), "text/html", page.as_bytes()).await
            }
            Content::Redirect(location) => {
                self.reply.headers.push(("location".to_owned(), location));
                self.document(status.unwrap_or(302), "text/plain", b"Simulated redirect.").await
            }
            content => match (status, job) {
                (Some(status), _) => {
                    let message = self.reply.message.clone();
                    let message = message.unwrap_or_else(|| {
                        format!("Simulated error: this request was scripted to answer {status}.")
                    });
                    let (code, kind) = (self.reply.code.clone(), self.reply.kind.clone());
                    let retry_after = self.reply.retry_after;
                    self.problem(&Problem { status, message, code, kind, retry_after }).await
                }
                (None, Job::Problem(problem)) => self.problem(&problem).await,
                (None, Job::Finished(finished)) => self.finished(finished).await,
                (None, Job::Transcript(wanted)) => {
                    let finished = wanted.finish(&self.reply);
                    self.finished(finished).await
                }
                // Has been dealt with above.
                (None, Job::Realtime(_)) => Err(Stop::Close),
                (None, Job::Generate(ask)) => {
                    self.echo(&content);
                    self.generate(&ask).await
                }
            },
        }
    }

    /// Makes the request, or its headers, the text of the answer.
    fn echo(&mut self, content: &Content) {
        match content {
            Content::EchoBody => {
                self.reply.say = Some(String::from_utf8_lossy(&self.received.body).into_owned());
            }
            Content::EchoHeaders => {
                let mut text = String::new();
                for (name, value) in &self.received.headers {
                    text.push_str(&format!("{name}: {value}\n"));
                    let name = name.to_ascii_lowercase();
                    self.reply.headers.push((format!("x-echo-{name}"), value.clone()));
                    // Those that say how the answer is sent must stay true.
                    let framing = ["connection", "content-length", "content-type", "expect", "te"];
                    let framing = framing.contains(&name.as_str())
                        || ["transfer-encoding", "upgrade", "keep-alive", "host", "trailer"]
                            .contains(&name.as_str());
                    if !framing {
                        self.reply.headers.push((name, value.clone()));
                    }
                }
                self.reply.say = Some(text);
            }
            _ => {}
        }
    }

    fn bill(&mut self, more: Totals) {
        self.billed += more;
        self.shared.journal.bill(more);
    }

    async fn finished(&mut self, finished: Finished) -> Result<(), Stop> {
        if let Some(tokens) = finished.billed {
            self.bill(Totals::prompt(tokens, 0));
        }
        match finished.body {
            Body::Whole(body) => self.document(finished.status, finished.content_type, &body).await,
            Body::Pieces(pieces) => self.raw_events(finished.content_type, &pieces).await,
        }
    }

    async fn problem(&mut self, problem: &Problem) -> Result<(), Stop> {
        self.reply.headers.extend(self.dialect.error_header(problem));
        let body = self.dialect.error(problem).to_string();
        self.document(problem.status, "application/json", body.as_bytes()).await
    }

    /// The head, with `framing` being the line that says how the body ends.
    fn head(&self, status: u16, content_type: &str, framing: &str) -> Vec<u8> {
        let mut head = format!(
            "HTTP/1.1 {status} {}\r\ncontent-type: {content_type}\r\n{framing}\
             x-tollway-simulated: true\r\nx-request-id: req_sim_{}\r\n",
            reason(status),
            self.received.id,
        );
        if self.closes {
            head.push_str("connection: close\r\n");
        }
        for (name, value) in &self.reply.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(size) = self.reply.big_header {
            head.push_str(&format!("x-simulated-big: {}\r\n", "a".repeat(size)));
        }
        head.push_str("\r\n");
        head.into_bytes()
    }

    /// Answers a whole body, with the faults that apply to one.
    async fn document(&mut self, status: u16, kind: &str, body: &[u8]) -> Result<(), Stop> {
        if let Some(bytes) = self.reply.cut_at_byte {
            self.reply.fault.get_or_insert((bytes, Fault::Cut));
        }
        let garbage = b"{\"id\":\"sim\",\"choices\":[\xff\xfe<garbage>\x00";
        let (mut body, mut compressed) = (body, Vec::new());
        if matches!(self.reply.fault, Some((_, Fault::Garbage | Fault::BadSum))) {
            body = garbage;
        }
        if self.reply.gzip {
            gzip(body, &mut compressed);
            body = &compressed;
            self.reply.headers.push(("content-encoding".to_owned(), "gzip".to_owned()));
        }
        // Blanks before JSON are JSON, so this one is long but not wrong.
        let padding = if self.reply.gzip { 0 } else { self.reply.huge_line.unwrap_or(0) };
        let length = padding.saturating_add(body.len() as u64);
        let length = match self.reply.wrong_content_length {
            Some(wrong) => {
                self.closes = true;
                length.saturating_add_signed(wrong)
            }
            None => length,
        };
        let bad_chunk = matches!(self.reply.fault, Some((_, Fault::BadChunk)));
        let framing = match (bad_chunk, self.until_close) {
            (true, _) => "transfer-encoding: chunked\r\n".to_owned(),
            (false, true) => {
                self.closes = true;
                String::new()
            }
            (false, false) => format!("content-length: {length}\r\n"),
        };
        let mut answer = self.head(status, kind, &framing);
        self.closes |= self.reply.close_after;
        if self.received.method == "HEAD" {
            // Its answer has no body, whatever the length says.
            return self.sender.raw(&answer).await;
        }
        if padding > 0 {
            self.sender.raw(&answer).await?;
            answer.clear();
            self.fill(padding, b' ').await?;
        }
        match self.reply.fault {
            Some((_, Fault::Garbage | Fault::BadSum | Fault::ErrorEvent)) | None => {
                answer.extend_from_slice(body);
                self.sender.raw(&answer).await
            }
            Some((after, fault)) => {
                let after = usize::try_from(after).unwrap_or(usize::MAX).min(body.len());
                if fault == Fault::BadChunk {
                    answer.extend_from_slice(format!("{after:x}\r\n").as_bytes());
                    answer.extend_from_slice(&body[..after]);
                    answer.extend_from_slice(b"\r\nzz\r\n");
                } else {
                    answer.extend_from_slice(&body[..after]);
                }
                self.sender.raw(&answer).await?;
                Err(match fault {
                    Fault::Reset => Stop::Reset,
                    Fault::Stall => self.sender.hang().await,
                    _ => Stop::Close,
                })
            }
        }
    }

    /// Sends so many of the same byte as body.
    async fn fill(&mut self, count: u64, byte: u8) -> Result<(), Stop> {
        let block = vec![byte; BLOCK];
        let mut left = count;
        while left > 0 {
            let now = left.min(BLOCK as u64);
            self.sender.body(&block[..now as usize]).await?;
            left -= now;
        }
        Ok(())
    }

    async fn generate(&mut self, ask: &Ask) -> Result<(), Stop> {
        let (answer, usage) = self.prepare(ask);
        match ask.stream {
            true => self.stream(ask, &answer, usage).await,
            false => self.whole(ask, &answer, usage).await,
        }
    }

    /// Decides what is said, and bills what was asked.
    fn prepare(&mut self, ask: &Ask) -> (Answer, Usage) {
        let answer = answer(ask, &self.reply);
        let answer = answer.cut(ask.max_tokens.unwrap_or(u64::MAX));
        let mut usage = Usage { prompt: ask.prompt_tokens, ..Usage::default() };
        if let Some(prompt) = self.reply.prompt_tokens {
            usage.prompt = prompt;
        }
        usage.cached = self.reply.cached.unwrap_or(0).min(usage.prompt);
        self.bill(Totals::prompt(usage.prompt, usage.cached));
        if let Some(completion) = self.reply.completion_tokens {
            self.bill(Totals::generated(completion));
        }
        (answer, usage)
    }

    fn meta(&self, ask: &Ask) -> Meta {
        Meta {
            number: self.number,
            model: ask.model.clone(),
            choices: ask.choices.max(1),
            // Mistral's tell it unasked, and refuse to be asked.
            include_usage: ask.include_usage || ask.model.starts_with("mistral-"),
            no_usage: self.reply.no_usage,
            repeated: ask.repeated.clone(),
        }
    }

    /// Keeps an answer that may be asked for again.
    fn keep(&self, ask: &Ask, meta: &Meta, answer: &Answer, usage: &Usage) {
        if let Some(kept) = &ask.kept {
            let whole = self.dialect.whole(meta, answer, usage);
            let input = kept.input.to_string();
            self.shared.store.put(Kind::Response, &responses::id(meta), whole, input.into());
        }
    }

    fn first_token_delay(&self, ask: &Ask) -> Duration {
        let slow = base_name(&ask.model) == "slow";
        let default = self.shared.options.first_token_delay;
        let default = if slow { default.max(Duration::from_secs(1)) } else { default };
        self.reply.first_token_delay.unwrap_or(default)
    }

    /// How long after the first token so many more take.
    fn pace(&self, model: &str, tokens: u64) -> Duration {
        let slow = (base_name(model) == "slow").then_some(5.0);
        let rate = self.reply.rate.or(slow).or(self.shared.options.tokens_per_second);
        let seconds = rate.map_or(0.0, |rate| tokens as f64 / rate);
        Duration::try_from_secs_f64(seconds).unwrap_or(WAIT_MAX).min(WAIT_MAX)
    }

    async fn whole(&mut self, ask: &Ask, answer: &Answer, mut usage: Usage) -> Result<(), Stop> {
        let meta = self.meta(ask);
        let choices = u64::from(meta.choices);
        let generated = answer.tokens() * choices;
        let first = self.first_token_delay(ask);
        self.start = Instant::now() + first.min(WAIT_MAX);
        let last = generated.saturating_sub(1);
        // What is generated is billed, whether or not the client waits for it.
        let waited = self.sender.until(self.start + self.pace(&ask.model, last)).await;
        if self.reply.completion_tokens.is_none() {
            let done = match waited {
                Ok(()) => generated,
                Err(_) => self.generated_by_now(&ask.model, generated),
            };
            self.bill(Totals::generated(done));
        }
        waited?;
        usage.completion = self.reply.completion_tokens.unwrap_or(generated);
        usage.reasoning = count_tokens(&answer.thinking) * choices;
        self.keep(ask, &meta, answer, &usage);
        if self.dialect == Dialect::Invoke {
            let counts = [("input", usage.prompt), ("output", usage.completion)];
            self.reply.headers.extend(counts.map(|(what, count)| {
                (format!("x-amzn-bedrock-{what}-token-count"), count.to_string())
            }));
        }
        let body = match &ask.kept {
            Some(kept) if kept.background => responses::queued(&meta),
            _ => self.dialect.whole(&meta, answer, &usage),
        };
        self.document(200, "application/json", body.to_string().as_bytes()).await
    }

    fn generated_by_now(&self, model: &str, all: u64) -> u64 {
        let now = Instant::now();
        if now < self.start {
            return 0;
        }
        let per_token = self.pace(model, 1).as_secs_f64();
        match per_token > 0.0 {
            true => all.min((now.duration_since(self.start).as_secs_f64() / per_token) as u64 + 1),
            false => all,
        }
    }

    async fn stream(&mut self, ask: &Ask, answer: &Answer, mut usage: Usage) -> Result<(), Stop> {
        self.begin_stream(self.dialect.stream_type()).await?;
        let halted = self.events(ask, answer, &mut usage).await;
        self.end_stream(halted).await
    }

    async fn raw_events(&mut self, content_type: &str, events: &[Bytes]) -> Result<(), Stop> {
        self.begin_stream(content_type).await?;
        let halted = async {
            self.start = Instant::now();
            for event in events {
                self.step("", event).await?;
            }
            self.at_fault(true).await
        }
        .await;
        self.end_stream(halted).await
    }

    async fn begin_stream(&mut self, content_type: &str) -> Result<(), Stop> {
        let framing = if let Some(length) = self.reply.wrong_content_length {
            self.closes = true;
            format!("content-length: {}\r\n", length.unsigned_abs())
        } else if self.until_close {
            self.closes = true;
            String::new()
        } else {
            self.sender.framing = Framing::Chunked;
            "transfer-encoding: chunked\r\ncache-control: no-cache\r\n".to_owned()
        };
        let head = self.head(200, content_type, &framing);
        self.has_lines = content_type.starts_with("text/event-stream");
        self.sender.left = self.reply.cut_at_byte;
        self.closes |= self.reply.close_after;
        self.sender.raw(&head).await?;
        if self.reply.coalesce {
            self.sender.gathered = Some(Vec::new());
        }
        Ok(())
    }

    async fn end_stream(&mut self, halted: Result<(), Halt>) -> Result<(), Stop> {
        match halted {
            Ok(()) | Err(Halt::EndBody) => self.sender.finish().await,
            Err(Halt::Stop(stop)) => Err(stop),
        }
    }

    async fn events(&mut self, ask: &Ask, answer: &Answer, usage: &mut Usage) -> Result<(), Halt> {
        let meta = self.meta(ask);
        let choices = meta.choices;
        let mut writer = self.dialect.events(meta.clone());
        let calls_only = answer.text.is_empty() && !answer.calls.is_empty();
        for event in writer.open(0, usage, calls_only) {
            self.event_bytes(&event).await?;
        }
        if let Some(bytes) = self.reply.huge_line {
            self.huge_line(bytes).await?;
        }
        self.sender.pause(self.first_token_delay(ask)).await?;
        self.start = Instant::now();
        for choice in 0..choices {
            if choice > 0 {
                for event in writer.open(choice, usage, calls_only) {
                    self.event_bytes(&event).await?;
                }
            }
            for delta in answer.deltas() {
                let tokens = delta.tokens();
                // Counted first: some dialects say in each event what it has come to.
                let mut now = *usage;
                now.completion += tokens;
                if matches!(delta, Delta::Thinking(_)) {
                    now.reasoning += tokens;
                }
                let events = writer.delta(choice, &delta, &now).concat();
                self.step(&ask.model, &events).await?;
                *usage = now;
                if self.reply.completion_tokens.is_none() {
                    self.bill(Totals::generated(tokens));
                }
            }
            if choice + 1 < choices {
                for event in writer.finish(choice, answer, usage, self.reply.no_finish) {
                    self.event_bytes(&event).await?;
                }
            }
        }
        self.at_fault(true).await?;
        usage.completion = self.reply.completion_tokens.unwrap_or(usage.completion);
        let mut last = writer.finish(choices - 1, answer, usage, self.reply.no_finish);
        last.extend(writer.usage(usage));
        if !self.reply.no_done {
            last.push(writer.done());
        }
        for event in last {
            self.event_bytes(&event).await?;
        }
        self.keep(ask, &meta, answer, usage);
        Ok(())
    }

    /// Sends one content chunk when it is due, or the fault in its place.
    async fn step(&mut self, model: &str, event: &[u8]) -> Result<(), Halt> {
        self.at_fault(false).await?;
        let delay = self.pace(model, self.chunks);
        if !delay.is_zero() {
            self.sender.until(self.start + delay).await?;
        }
        self.event_bytes(event).await?;
        self.chunks += 1;
        Ok(())
    }

    /// Commits the fault if this is its place, or if the answer is at its end and it has yet to
    /// happen.
    async fn at_fault(&mut self, at_end: bool) -> Result<(), Halt> {
        let Some((after, fault)) = self.reply.fault else { return Ok(()) };
        if self.chunks < after && !at_end {
            return Ok(());
        }
        self.reply.fault = None;
        // Events that were gathered have to be seen before the fault is.
        if let Some(gathered) = self.sender.gathered.take() {
            self.sender.body(&gathered).await?;
        }
        match fault {
            Fault::Cut => Err(Stop::Close.into()),
            Fault::Reset => Err(Stop::Reset.into()),
            Fault::Stall => Err(self.sender.hang().await.into()),
            Fault::BadChunk => {
                self.sender.raw(b"zz\r\n").await?;
                Err(Stop::Close.into())
            }
            Fault::ErrorEvent => {
                let message = self.reply.message.clone();
                let message = message.unwrap_or_else(|| "Simulated error in a stream.".to_owned());
                let problem = Problem {
                    status: 500,
                    message,
                    code: self.reply.code.clone(),
                    kind: self.reply.kind.clone(),
                    retry_after: self.reply.retry_after,
                };
                let event = self.dialect.error_event(&problem);
                self.event_bytes(&event).await?;
                Err(Halt::EndBody)
            }
            Fault::Garbage => Ok(self.sender.body(&self.dialect.garbage()).await?),
            Fault::BadSum => Ok(self.sender.body(&self.dialect.bad_sum()).await?),
        }
    }

    async fn event_bytes(&mut self, event: &[u8]) -> Result<(), Stop> {
        if event.is_empty() || !self.has_lines || !(self.reply.crlf || self.reply.comments) {
            return self.sender.body(event).await;
        }
        let mut bytes = Vec::new();
        if self.reply.comments {
            bytes.extend_from_slice(b": simulated keep-alive\n\n");
        }
        bytes.extend_from_slice(event);
        if self.reply.crlf {
            let mut lines = Vec::with_capacity(bytes.len() + 8);
            for byte in bytes {
                if byte == b'\n' {
                    lines.push(b'\r');
                }
                lines.push(byte);
            }
            bytes = lines;
        }
        self.sender.body(&bytes).await
    }

    /// A line far longer than any event. It is never gathered: nobody should have the memory.
    async fn huge_line(&mut self, bytes: u64) -> Result<(), Stop> {
        let gathered = self.sender.gathered.take();
        self.sender.body(gathered.as_deref().unwrap_or_default()).await?;
        let (head, (byte, count), tail) = self.dialect.huge(bytes);
        self.sender.body(&head).await?;
        self.fill(count, byte).await?;
        self.sender.body(tail).await?;
        self.sender.gathered = gathered.map(|_| Vec::new());
        Ok(())
    }
}

/// Wraps bytes as gzip without compressing them: the encoding is the point, not the size.
fn gzip(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]);
    for block in bytes.chunks(usize::from(u16::MAX)) {
        let length = block.len() as u16;
        out.push(0);
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&(!length).to_le_bytes());
        out.extend_from_slice(block);
    }
    // An empty block that is marked as the last.
    out.extend_from_slice(&[1, 0, 0, 0xff, 0xff]);
    out.extend_from_slice(&crc32(bytes).to_le_bytes());
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_ends_with_the_standard_check_value() {
        let mut out = Vec::new();
        gzip(b"123456789", &mut out);
        assert_eq!(out[out.len() - 8..], [0x26, 0x39, 0xf4, 0xcb, 9, 0, 0, 0]);
    }
}
