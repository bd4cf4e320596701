//! The upstream of both proxies: simulated, with answers made in advance.

use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::json;
use tokio::sync::oneshot;
use tollway_simulator::{Fixed, Options, Simulator};

use crate::Failure;

/// The text of the JSON answer, which makes the whole of it 1.4 KB.
const JSON_TEXT_BYTES: usize = 1080;

/// What the upstream can answer. Each is a model of `all-filters.yaml` and a path of the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A chat completion of 1.4 KB.
    Json,
    /// OpenAI's event stream, [`Pace::short`] chunks.
    OpenAiShort,
    /// OpenAI's event stream, [`Pace::long`] chunks.
    OpenAiLong,
    /// Anthropic's event stream of the same text as [`Reply::OpenAiShort`].
    AnthropicShort,
    /// Anthropic's event stream of the same text as [`Reply::OpenAiLong`].
    AnthropicLong,
}

impl Reply {
    /// All of them.
    pub const ALL: [Reply; 5] = [
        Reply::Json,
        Reply::OpenAiShort,
        Reply::OpenAiLong,
        Reply::AnthropicShort,
        Reply::AnthropicLong,
    ];

    /// The model's name in `all-filters.yaml`.
    pub fn name(self) -> &'static str {
        match self {
            Reply::Json => "json",
            Reply::OpenAiShort => "openai-short",
            Reply::OpenAiLong => "openai-long",
            Reply::AnthropicShort => "anthropic-short",
            Reply::AnthropicLong => "anthropic-long",
        }
    }

    /// The variable by which `all-filters.yaml` is told the model's `api_base`.
    pub fn variable(self) -> String {
        format!("BENCH_{}", self.name().to_ascii_uppercase().replace('-', "_"))
    }

    /// What stands in the path in front of the provider's own, as in an `api_base`.
    pub fn base_path(self) -> String {
        match self {
            Reply::AnthropicShort | Reply::AnthropicLong => format!("/{}", self.name()),
            _ => format!("/{}/v1", self.name()),
        }
    }

    /// Where the upstream answers this.
    pub fn path(self) -> String {
        match self {
            Reply::AnthropicShort | Reply::AnthropicLong => self.base_path() + "/v1/messages",
            _ => self.base_path() + "/chat/completions",
        }
    }

    /// Whether it is an event stream.
    pub fn streams(self) -> bool {
        self != Reply::Json
    }
}

/// How streams go: how many chunks of text they have, and how far apart they come.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The chunks of a short stream.
    pub short: u32,
    /// The chunks of a long stream.
    pub long: u32,
    /// The time between two chunks.
    pub interval: Duration,
}

/// A running upstream, on a thread of its own. Stops when dropped.
pub struct Upstream {
    simulator: Simulator,
    pace: Pace,
    _stop: oneshot::Sender<()>,
}

impl Upstream {
    /// Starts one on a free port.
    ///
    /// # Errors
    /// When there is no thread or port to be had.
    pub fn start(pace: Pace) -> Result<Upstream, Failure> {
        let fixed = [
            Fixed::completion(Reply::Json.path(), JSON_TEXT_BYTES),
            Fixed::completion_stream(Reply::OpenAiShort.path(), pace.short, pace.interval),
            Fixed::completion_stream(Reply::OpenAiLong.path(), pace.long, pace.interval),
            anthropic_stream(Reply::AnthropicShort, pace.short, pace.interval),
            anthropic_stream(Reply::AnthropicLong, pace.long, pace.interval),
        ];
        // Strict, so that what is sent to a wrong path gets a 404 and not some other answer.
        let options = Options { strict_models: true, ..Options::bench(fixed) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (started, start) = mpsc::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        thread::Builder::new().name("upstream".into()).spawn(move || {
            runtime.block_on(async {
                let simulator = Simulator::start(options).await;
                if started.send(simulator).is_ok() {
                    // Fails as soon as the other side is dropped, which is what it waits for.
                    let _ = stopped.await;
                }
            });
        })?;
        Ok(Upstream { simulator: start.recv()??, pace, _stop: stop })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.simulator.addr()
    }

    /// How its streams go.
    pub fn pace(&self) -> Pace {
        self.pace
    }

    /// How many requests it has answered so far.
    pub fn requests(&self) -> u64 {
        self.simulator.billed().requests
    }

    /// The text of an answer.
    pub fn text(&self, reply: Reply) -> String {
        match reply {
            Reply::Json => "sim ".repeat(JSON_TEXT_BYTES / 4),
            Reply::OpenAiShort | Reply::AnthropicShort => " sim".repeat(self.pace.short as usize),
            Reply::OpenAiLong | Reply::AnthropicLong => " sim".repeat(self.pace.long as usize),
        }
    }
}

/// Anthropic's events for the text of [`Fixed::completion_stream`].
fn anthropic_stream(reply: Reply, chunks: u32, interval: Duration) -> Fixed {
    let event = |event: serde_json::Value| {
        let name = event["type"].as_str().unwrap_or_default();
        format!("event: {name}\ndata: {event}\n\n")
    };
    let usage = json!({"input_tokens": 10, "output_tokens": 1});
    let mut events = vec![
        event(json!({"type": "message_start", "message": {
            "id": "msg_sim_fixed", "type": "message", "role": "assistant", "model": "fixed",
            "content": [], "stop_reason": null, "stop_sequence": null, "usage": usage,
        }})),
        event(json!({
            "type": "content_block_start", "index": 0,
            "content_block": {"type": "text", "text": ""},
        })),
    ];
    events.extend((0..chunks).map(|_| {
        event(json!({
            "type": "content_block_delta", "index": 0,
            "delta": {"type": "text_delta", "text": " sim"},
        }))
    }));
    events.extend([
        event(json!({"type": "content_block_stop", "index": 0})),
        event(json!({
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": null},
            "usage": {"output_tokens": chunks},
        })),
        event(json!({"type": "message_stop"})),
    ]);
    Fixed::events(reply.path(), events, interval)
}

#[cfg(test)]
mod tests {
    use crate::answer;
    use crate::client::Connection;
    use crate::request::Request;

    use super::*;

    #[tokio::test]
    async fn every_answer_has_the_text_it_should_have() {
        let pace = Pace { short: 2, long: 5, interval: Duration::from_millis(1) };
        let upstream = Upstream::start(pace).unwrap();
        let mut connection = Connection::open(upstream.address()).await.unwrap();
        for reply in Reply::ALL {
            let request = Request::new(&reply.path(), reply, 1 << 10, true);
            let answer = connection.ask(request.bytes()).await.unwrap();
            assert_eq!(answer.status, 200, "{reply:?}");
            assert_eq!(answer::text(answer.body).unwrap(), upstream.text(reply), "{reply:?}");
            if reply == Reply::Json {
                assert!((1390..1450).contains(&answer.body.len()), "{}", answer.body.len());
            }
        }
        assert_eq!(upstream.requests(), 5);
    }
}
