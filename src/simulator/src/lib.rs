//! The simulated provider: an HTTP server that answers as OpenAI, Anthropic, Google, Amazon and
//! Cohere do, without a model, a key or a network, and that can break the protocol on purpose.
//!
//! The gateway starts one inside itself to serve `demo/…`; tests script one as their upstream;
//! the bench uses one that costs next to nothing ([`Fixed`]). It never pretends: its answers say
//! that no model was asked, each response has the header `x-tollway-simulated: true`, and OpenAI's
//! `system_fingerprint` is `simulated`.
//!
//! ```
//! use tollway_simulator::{Options, Reply, Simulator};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let simulator = Simulator::start(Options::default()).await?;
//! simulator.enqueue(Reply::text("one two three").rate(20.0).cut_after(2));
//! simulator.enqueue("status=429 retry_after=2".parse()?);
//! // … send two requests to simulator.base_url(), then:
//! assert_eq!(simulator.billed().requests, 0);
//! # Ok(())
//! # }
//! ```
//!
//! # What decides an answer
//!
//! In this order: a [`Fixed`] path; the key, if one is required; a reply that was enqueued;
//! [`Options::script`]; directives in the header `x-tollway-sim`; directives in the last user
//! message (see [`DIRECTIVES`]); and else the model's name: `chat`, `echo`, `slow`, `think`,
//! `tools`, with or without `demo/` in front. Any other name answers as `chat`, unless
//! [`Options::strict_models`] is set.
//!
//! # Endpoints
//!
//! OpenAI's, with or without `/v1`, below `/openai/deployments/{model}`, `/openai/v1` and `/openai`
//! as Azure has them, and the first three below Vertex AI's `…/endpoints/openapi`:
//! `/chat/completions`, `/completions`, `/embeddings`, `/responses` with `/{id}`, `/{id}/cancel`
//! and `/{id}/input_items`, `/moderations`, `/rerank`, `/images/generations`, `/images/edits`,
//! `/audio/speech`, `/audio/transcriptions`, `/audio/translations`, `/files`, `/batches`,
//! `/fine_tuning/jobs`, `/models`, `/health`, and the websocket `/realtime`.
//!
//! Anthropic's: `/messages`, `/messages/count_tokens`, `/models`.
//!
//! Google's: `/v1beta/models/{model}:VERB`, and in Vertex AI `…/publishers/google/models/{model}:VERB`
//! where the verb is `generateContent`, `streamGenerateContent`, `countTokens`, `embedContent`,
//! `batchEmbedContents` or `predict`; `…/publishers/anthropic/models/{model}:rawPredict` and
//! `:streamRawPredict`; and `/token`, where a credential is traded for a bearer token. The path of
//! Azure's (`/{tenant}/oauth2/v2.0/token`) and of a machine's metadata lead there as well.
//!
//! Bedrock's: `/model/{model}/converse`, `/converse-stream`, `/invoke`,
//! `/invoke-with-response-stream`, `/count-tokens`. Signatures are read, not verified.
//!
//! Cohere's: `/v2/chat`, `/v2/embed`, `/v2/rerank`.
//!
//! # Not for the open network
//!
//! It has no time limits on reading, so that a pooled connection may idle, and speaks no TLS: give
//! it a loopback address.
//!
//! # Tokens and the bill
//!
//! A token is up to four bytes of a word, and one content chunk of a stream. Counts are the same
//! on every run. [`Simulator::billed`] is what a provider would charge: errors nothing, a stream
//! that was cut what had been sent of it.

mod answer;
mod anthropic;
mod ask;
mod bedrock;
mod cohere;
mod dialect;
mod encoding;
mod fixed;
mod flight;
mod gemini;
mod http;
mod journal;
mod media;
mod multipart;
mod objects;
mod openai;
mod realtime;
mod reply;
mod responses;
mod route;
mod script;
mod serve;
mod store;
mod token;
mod websocket;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub use crate::fixed::{Fixed, Shape};
use crate::journal::Journal;
pub use crate::journal::{Connections, Credential, End, Outcome, Received, Signature, Totals};
pub use crate::reply::{Finish, Reply};
pub use crate::script::{BadDirective, DIRECTIVES, Directive};
use crate::serve::Shared;
use crate::store::Store;

/// Decides how a request is answered; `None` leaves it to directives and the model's name.
pub type Script = Arc<dyn Fn(&Received) -> Option<Reply> + Send + Sync>;

/// Is told of each request what it was billed, when it is over.
pub type OnBill = Arc<dyn Fn(&Received, Totals) + Send + Sync>;

/// The names of the simulated models, each with what it does, as the gateway lists them under
/// `demo/`.
pub fn models() -> &'static [(&'static str, &'static str)] {
    &answer::MODELS
}

/// How a simulator behaves.
#[derive(Clone)]
pub struct Options {
    /// The key a request must carry: as `authorization: Bearer`, `x-api-key`, `api-key`,
    /// `x-goog-api-key`, `?key=`, a websocket's protocol, or as the name of a key that signed.
    pub required_key: Option<String>,
    /// How fast tokens come when neither the model nor a script says; at once if not given.
    pub tokens_per_second: Option<f64>,
    /// The wait before the first token when neither the model nor a script says.
    pub first_token_delay: Duration,
    /// Whether directives inside a request act.
    pub directives: bool,
    /// Whether model names other than [`models`] are answered with a 404.
    pub strict_models: bool,
    /// Asked for each request for which nothing is enqueued.
    pub script: Option<Script>,
    /// Told what each request was billed.
    pub on_bill: Option<OnBill>,
    /// Prebuilt answers, found by path before anything else.
    pub fixed: Vec<Fixed>,
    /// How many requests the journal keeps, at most 64 MiB of bodies together; 0 for none.
    pub journal: usize,
    /// How many responses, files, batches and jobs are kept for later requests, at most 16 MiB of
    /// them together; 0 for none.
    pub store: usize,
    /// The largest body that is read for a path that is not fixed.
    pub body_bytes_max: u64,
    /// The largest body that is counted for a fixed path.
    pub fixed_body_bytes_max: u64,
}

impl Default for Options {
    /// For tests: directives act, any model answers, and 1000 requests are remembered.
    fn default() -> Options {
        Options {
            required_key: None,
            tokens_per_second: None,
            first_token_delay: Duration::ZERO,
            directives: true,
            strict_models: false,
            script: None,
            on_bill: None,
            fixed: Vec::new(),
            journal: 1000,
            store: 1000,
            body_bytes_max: 16 << 20,
            fixed_body_bytes_max: 256 << 20,
        }
    }
}

impl Options {
    /// For people: as the gateway serves `demo/…`. Tokens come at a readable pace, unknown models
    /// are refused, and no request is remembered, but files and batches are: they are of no use else.
    pub fn demo() -> Options {
        Options {
            tokens_per_second: Some(100.0),
            first_token_delay: Duration::from_millis(100),
            strict_models: true,
            journal: 0,
            body_bytes_max: 4 << 20,
            ..Options::default()
        }
    }

    /// For measuring: only these fixed answers, and nothing is remembered.
    pub fn bench(fixed: impl IntoIterator<Item = Fixed>) -> Options {
        Options { fixed: fixed.into_iter().collect(), journal: 0, ..Options::default() }
    }

    /// Sets the script.
    #[must_use]
    pub fn with_script(
        mut self,
        script: impl Fn(&Received) -> Option<Reply> + Send + Sync + 'static,
    ) -> Options {
        self.script = Some(Arc::new(script));
        self
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("required_key", &self.required_key.as_ref().map(|_| "[hidden]"))
            .field("tokens_per_second", &self.tokens_per_second)
            .field("first_token_delay", &self.first_token_delay)
            .field("directives", &self.directives)
            .field("strict_models", &self.strict_models)
            .field("script", &self.script.is_some())
            .field("on_bill", &self.on_bill.is_some())
            .field("fixed", &self.fixed.len())
            .field("journal", &self.journal)
            .field("store", &self.store)
            .field("body_bytes_max", &self.body_bytes_max)
            .field("fixed_body_bytes_max", &self.fixed_body_bytes_max)
            .finish()
    }
}

/// A running simulated provider. It stops, and closes its connections, when this is dropped.
pub struct Simulator {
    addr: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Simulator {
    /// Starts on a free port of 127.0.0.1, on the runtime this is called in.
    pub async fn start(options: Options) -> io::Result<Simulator> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        Simulator::serve(listener, options)
    }

    /// Serves on this listener, on the runtime this is called in; outside of one it panics, as
    /// `tokio::spawn` does.
    pub fn serve(listener: TcpListener, options: Options) -> io::Result<Simulator> {
        let addr = listener.local_addr()?;
        let journal = Journal::new(options.journal);
        let (store, queue) = (Store::new(options.store), Mutex::new(VecDeque::new()));
        let shared = Arc::new(Shared { options, journal, store, queue });
        let task = tokio::spawn(serve::accept(Arc::clone(&shared), listener));
        Ok(Simulator { addr, shared, task })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `http://127.0.0.1:PORT`, without `/v1`.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Answers the next request that has no reply yet with this one, whatever its path; only
    /// fixed paths, and requests without the required key, leave the queue as it is.
    pub fn enqueue(&self, reply: Reply) {
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner).push_back(reply);
    }

    /// The requests the journal holds, the oldest first.
    pub fn requests(&self) -> Vec<Received> {
        self.shared.journal.received()
    }

    /// The next request that this method has not returned yet; waits for it to arrive. Never
    /// returns without a journal; that holds for all methods here that wait for a request.
    pub async fn next_request(&self) -> Received {
        self.shared.journal.next_request().await
    }

    /// The first request in the journal that is wanted; waits for it to arrive.
    pub async fn wait_for(&self, wanted: impl FnMut(&Received) -> bool) -> Received {
        self.shared.journal.wait_for(wanted).await
    }

    /// How the request with this id ended; waits until it has.
    pub async fn outcome(&self, id: u64) -> Outcome {
        self.shared.journal.outcome(id).await
    }

    /// The next request whose client went away before its answer was complete, and that this
    /// method has not returned yet; waits for one.
    pub async fn next_cancelled(&self) -> Outcome {
        self.shared.journal.next_cancelled().await
    }

    /// How many connections are open, and how many ever were.
    pub fn connections(&self) -> Connections {
        self.shared.journal.connections()
    }

    /// Waits until the connections are as wanted, such as `|now| now.open == 0`.
    pub async fn wait_connections(
        &self,
        mut wanted: impl FnMut(Connections) -> bool,
    ) -> Connections {
        let journal = &self.shared.journal;
        journal.wait(|| Some(journal.connections()).filter(|now| wanted(*now))).await
    }

    /// What the provider itself would bill so far. Requests to fixed paths count, without tokens.
    pub fn billed(&self) -> Totals {
        self.shared.journal.totals()
    }

    /// Stops, and waits until the port and all connections are closed.
    pub async fn stop(mut self) {
        self.task.abort();
        // It ends with nothing but the news that it was aborted.
        let _ = (&mut self.task).await;
        self.wait_connections(|now| now.open == 0).await;
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for Simulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulator").field("addr", &self.addr).finish_non_exhaustive()
    }
}
