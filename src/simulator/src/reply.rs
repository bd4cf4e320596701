//! How one request is answered, as a test decides it.

use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

/// What the answer consists of.
#[derive(Clone, Debug, Default)]
pub(crate) enum Content {
    /// What the model would have said, or an error if there is a status.
    #[default]
    Natural,
    EchoHeaders,
    EchoBody,
    Html,
    Redirect(String),
    /// A whole body, sent as it is.
    Body {
        content_type: String,
        body: Bytes,
    },
    /// Server-sent events, sent as they are.
    Events(Vec<Bytes>),
    /// Bytes written to the socket in place of a head and a body.
    Raw(Bytes),
}

/// What happens instead of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Hang,
    Close,
    Reset,
    CutHead,
}

/// What happens in the middle of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Cut,
    Reset,
    Stall,
    BadChunk,
    ErrorEvent,
    Garbage,
    BadSum,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model had said all.
    Stop,
    /// `max_tokens` was reached.
    Length,
    /// The model calls tools.
    ToolCalls,
    /// The provider's content filter stopped it.
    ContentFilter,
}

/// A tool call the simulated model makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) name: String,
    pub(crate) arguments: String,
}

/// How one request is answered. The default is the natural answer: what the model would say.
///
/// ```
/// use tollway_simulator::Reply;
///
/// let cut = Reply::text("one two three").rate(20.0).cut_after(2);
/// let busy: Reply = "status=429 retry_after=2".parse()?;
/// # Ok::<(), tollway_simulator::BadDirective>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Reply {
    pub(crate) content: Content,
    pub(crate) status: Option<u16>,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) message: Option<String>,
    pub(crate) code: Option<String>,
    pub(crate) kind: Option<String>,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) say: Option<String>,
    pub(crate) think: Option<String>,
    /// Rounds of tool calls; the last one may still be empty.
    pub(crate) rounds: Vec<Vec<Call>>,
    pub(crate) forever: bool,
    pub(crate) finish: Option<Finish>,
    pub(crate) cached: Option<u64>,
    pub(crate) prompt_tokens: Option<u64>,
    pub(crate) completion_tokens: Option<u64>,
    pub(crate) no_usage: bool,
    pub(crate) first_byte_delay: Option<Duration>,
    pub(crate) first_token_delay: Option<Duration>,
    pub(crate) rate: Option<f64>,
    pub(crate) refusal: Option<Refusal>,
    pub(crate) fault: Option<(u64, Fault)>,
    pub(crate) cut_at_byte: Option<u64>,
    pub(crate) no_done: bool,
    pub(crate) no_finish: bool,
    pub(crate) huge_line: Option<u64>,
    pub(crate) crlf: bool,
    pub(crate) comments: bool,
    pub(crate) coalesce: bool,
    pub(crate) split: Option<usize>,
    pub(crate) big_header: Option<usize>,
    pub(crate) informational: Option<u32>,
    pub(crate) wrong_content_length: Option<i64>,
    pub(crate) until_close: bool,
    pub(crate) close_after: bool,
    pub(crate) gzip: bool,
}

impl Reply {
    /// Answers this text, in the dialect and the form (JSON or stream) the request asks for.
    pub fn text(text: impl Into<String>) -> Reply {
        Reply { say: Some(text.into()), ..Reply::default() }
    }

    /// Answers exactly this many tokens, one content chunk each when streamed.
    pub fn tokens(count: u32) -> Reply {
        Reply { say: Some(filler(count)), ..Reply::default() }
    }

    /// Calls a tool with these arguments. Unlike the directive `tool`, it does so whatever the
    /// conversation already holds.
    pub fn tool(name: impl Into<String>, arguments: impl Into<String>) -> Reply {
        Reply { forever: true, ..Reply::default() }.and_tool(name, arguments)
    }

    /// Calls one more tool in the same turn.
    #[must_use]
    pub fn and_tool(mut self, name: impl Into<String>, arguments: impl Into<String>) -> Reply {
        let call = Call { name: name.into(), arguments: arguments.into() };
        match self.rounds.last_mut() {
            Some(round) => round.push(call),
            None => self.rounds.push(vec![call]),
        }
        self
    }

    /// Answers an error with this status, in the dialect's own shape.
    pub fn error(status: u16) -> Reply {
        Reply { status: Some(status), ..Reply::default() }
    }

    /// Answers this body as it is.
    pub fn body(status: u16, content_type: &str, body: impl Into<Bytes>) -> Reply {
        let content = Content::Body { content_type: content_type.to_owned(), body: body.into() };
        Reply { content, status: Some(status), ..Reply::default() }
    }

    /// Answers this JSON as it is.
    pub fn json(status: u16, body: &Value) -> Reply {
        Reply::body(status, "application/json", body.to_string())
    }

    /// Answers a stream of these writes, each with its own blank line: `data: …\n\n`. Each counts
    /// as one content chunk for `rate`, `cut_after` and the like.
    pub fn events<E: Into<Bytes>>(events: impl IntoIterator<Item = E>) -> Reply {
        let events = events.into_iter().map(Into::into).collect();
        Reply { content: Content::Events(events), ..Reply::default() }
    }

    /// Writes these bytes in place of a head and a body, and closes the connection.
    pub fn raw(bytes: impl Into<Bytes>) -> Reply {
        Reply { content: Content::Raw(bytes.into()), ..Reply::default() }
    }

    /// Accepts the request and never answers.
    pub fn hang() -> Reply {
        Reply { refusal: Some(Refusal::Hang), ..Reply::default() }
    }

    /// Closes the connection without an answer.
    pub fn close() -> Reply {
        Reply { refusal: Some(Refusal::Close), ..Reply::default() }
    }

    /// Resets the connection without an answer.
    pub fn reset() -> Reply {
        Reply { refusal: Some(Refusal::Reset), ..Reply::default() }
    }

    /// Thinks this aloud before the answer.
    #[must_use]
    pub fn thinking(mut self, text: impl Into<String>) -> Reply {
        self.think = Some(text.into());
        self
    }

    /// Finishes for this reason.
    #[must_use]
    pub fn finish(mut self, finish: Finish) -> Reply {
        self.finish = Some(finish);
        self
    }

    /// The error's message.
    #[must_use]
    pub fn message(mut self, message: impl Into<String>) -> Reply {
        self.message = Some(message.into());
        self
    }

    /// The error's code, such as `context_length_exceeded`.
    #[must_use]
    pub fn code(mut self, code: impl Into<String>) -> Reply {
        self.code = Some(code.into());
        self
    }

    /// Sends a `retry-after` header.
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Reply {
        self.retry_after = Some(delay);
        self
    }

    /// Adds a response header. Line breaks in it are sent as they are.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Reply {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Reports, and bills, these counts instead of the real ones.
    #[must_use]
    pub fn usage(mut self, prompt_tokens: u64, completion_tokens: u64) -> Reply {
        self.prompt_tokens = Some(prompt_tokens);
        self.completion_tokens = Some(completion_tokens);
        self
    }

    /// Waits before the head.
    #[must_use]
    pub fn first_byte_delay(mut self, delay: Duration) -> Reply {
        self.first_byte_delay = Some(delay);
        self
    }

    /// Waits between the head and the first token.
    #[must_use]
    pub fn first_token_delay(mut self, delay: Duration) -> Reply {
        self.first_token_delay = Some(delay);
        self
    }

    /// Tokens per second.
    #[must_use]
    pub fn rate(mut self, tokens_per_second: f64) -> Reply {
        self.rate = Some(tokens_per_second);
        self
    }

    /// Closes the connection after this many content chunks.
    #[must_use]
    pub fn cut_after(mut self, chunks: u64) -> Reply {
        self.fault = Some((chunks, Fault::Cut));
        self
    }

    /// Resets the connection after this many content chunks.
    #[must_use]
    pub fn reset_after(mut self, chunks: u64) -> Reply {
        self.fault = Some((chunks, Fault::Reset));
        self
    }

    /// Closes the connection after this many bytes of the body, wherever that is in an event.
    #[must_use]
    pub fn cut_at_byte(mut self, bytes: u64) -> Reply {
        self.cut_at_byte = Some(bytes);
        self
    }

    /// Stops sending after this many content chunks, the connection staying open.
    #[must_use]
    pub fn stall_after(mut self, chunks: u64) -> Reply {
        self.fault = Some((chunks, Fault::Stall));
        self
    }

    /// Cuts each write into pieces of this many bytes.
    #[must_use]
    pub fn split(mut self, bytes: usize) -> Reply {
        self.split = Some(bytes.max(1));
        self
    }
}

/// Arguments of exactly this many tokens, which are a JSON object: as in `filler`, each word is a
/// token. There is no object of no tokens, so that is one as well.
pub(crate) fn filler_arguments(count: u32) -> String {
    match count {
        0 | 1 => "{}".to_owned(),
        2 => "{ }".to_owned(),
        _ => {
            let ones = vec!["1"; count as usize - 3].join(", ");
            let blank = if ones.is_empty() { "" } else { " " };
            format!(r#"{{"t" :[{blank}{ones} ]}}"#)
        }
    }
}

/// A text of exactly this many tokens: short words, which `Pieces` never cuts.
pub(crate) fn filler(count: u32) -> String {
    const WORDS: [&str; 8] = ["one", "more", "word", "and", "then", "this", "too", "now"];
    let mut text = String::new();
    for (index, word) in WORDS.iter().cycle().take(count as usize).enumerate() {
        if index > 0 {
            text.push(' ');
        }
        text.push_str(word);
    }
    text
}
