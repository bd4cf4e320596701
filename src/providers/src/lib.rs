//! One file per provider: an OpenAI-shaped request to its request, its bytes back to OpenAI's.
//!
//! Pure and without I/O: the exchange, the agent loop and the tests use the same code. A provider
//! whose API is OpenAI's is a line in [`presets`], not code.

use std::fmt;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use tollway_wire::operation::{Dialect, Operation};
use tollway_wire::scan::Object;
use tollway_wire::usage::Usage;

pub mod anthropic;
pub mod openai;
pub mod presets;
pub mod prices;

/// A request of a client, as the exchange hands it to a provider.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// What is asked for.
    pub operation: Operation,
    /// The client's whole body: valid JSON in OpenAI's dialect.
    pub body: &'a Bytes,
    /// Where the top-level members of `body` are.
    pub object: &'a Object,
    /// Whether the client asked for a stream.
    pub stream: bool,
}

/// Where a call goes: what a provider needs to know of one deployment to write the request.
#[derive(Clone, Debug)]
pub struct Target {
    /// The model's name at the provider.
    pub model: String,
    /// Leave out parameters the provider does not have, instead of refusing the call.
    pub drop_params: bool,
    /// `max_tokens` where the provider demands one and the client gave none: the model's own limit.
    pub max_output_tokens: Option<u64>,
}

/// What a deployment's config says about how to reach the provider.
#[derive(Clone, Debug, Default)]
pub struct Access<'a> {
    /// The secret, if there is one.
    pub api_key: Option<&'a str>,
    /// OpenAI's `organization`.
    pub organization: Option<&'a str>,
    /// `api_version`, where the provider's API is versioned by header or query.
    pub api_version: Option<&'a str>,
}

/// The body that goes upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamBody {
    /// The bytes, or the first of them.
    pub bytes: Bytes,
    /// The others, of a large body that was not put together anew.
    pub rest: Vec<Bytes>,
    /// Usage is asked for in the stream although the client did not: the extra event is the
    /// gateway's, and must not reach the client.
    pub usage_added: bool,
    /// Headers this body needs besides [`Provider::headers`]: Anthropic's `anthropic-beta` for a
    /// feature it uses. A name that is there already is sent twice, which means a list.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

impl UpstreamBody {
    /// A body that needs nothing else.
    pub fn plain(bytes: Bytes) -> Self {
        UpstreamBody { bytes, rest: Vec::new(), usage_added: false, headers: Vec::new() }
    }

    /// How many bytes there are.
    pub fn length(&self) -> usize {
        self.bytes.len() + self.rest.iter().map(Bytes::len).sum::<usize>()
    }
}

/// Why a request cannot be put to this provider. The fault is the client's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The body is JSON, but not a request of this operation.
    #[error("{message}")]
    Invalid {
        /// What is wrong, for the client.
        message: String,
        /// The member at fault.
        param: Option<String>,
    },
    /// The provider lacks parameters that were sent.
    #[error(
        "litellm.UnsupportedParamsError: {provider} does not support parameters: {}, for model={model}. To drop these, set `litellm.drop_params=True` or for proxy:\n\n`litellm_settings:\n drop_params: true`\n. \n If you want to use these params dynamically send allowed_openai_params={} in your request.",
        python_list(params),
        python_list(params)
    )]
    Unsupported {
        /// The provider's name.
        provider: &'static str,
        /// The model's name at the provider.
        model: String,
        /// The parameters' names.
        params: Vec<String>,
    },
}

/// Writes a list the way LiteLLM's message has it: `['a', 'b']`.
fn python_list(items: &[String]) -> String {
    let quoted: Vec<String> = items.iter().map(|item| format!("'{item}'")).collect();
    format!("[{}]", quoted.join(", "))
}

/// Why a provider's answer cannot be used. The fault is the provider's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are not what the provider's reference promises.
    #[error("the provider's answer is malformed: {0}")]
    Malformed(String),
    /// The stream ended before its end was announced.
    #[error("the provider's stream ended before it was complete")]
    Truncated,
    /// The provider reported an error in the middle of the stream.
    #[error("{}", .0.message)]
    Reported(UpstreamError),
}

/// An error as the provider told it, in OpenAI's terms.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UpstreamError {
    /// The HTTP status the provider answered, or one that fits an error inside a stream.
    pub status: u16,
    /// OpenAI's `type`, if the provider gave something like it.
    pub kind: Option<String>,
    /// OpenAI's machine-readable `code`: `context_length_exceeded`, `rate_limit_exceeded` …
    pub code: Option<String>,
    /// The text for humans.
    pub message: String,
    /// The parameter at fault.
    pub param: Option<String>,
}

/// Translates one answer of a provider that does not speak the client's dialect.
pub trait Decoder: Send {
    /// Translates a whole answer that is not a stream: the provider's JSON in, OpenAI's JSON out.
    ///
    /// # Errors
    /// When the body is not what the provider's reference promises.
    fn whole(&mut self, body: &[u8]) -> Result<Vec<u8>, DecodeError>;

    /// Takes the next bytes of a stream, cut anywhere, and appends OpenAI server-sent events to
    /// `out`: whole ones only, ready to be sent.
    ///
    /// # Errors
    /// When the bytes are malformed or the provider reports an error. What was appended to `out`
    /// before is good and should be sent first.
    fn stream(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError>;

    /// The provider has closed the stream: appends what is still owed to the client (`[DONE]`).
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] when the provider had not announced the end.
    fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), DecodeError>;

    /// What the provider has reported so far, if anything.
    fn usage(&self) -> Option<Usage>;
}

/// What the decoder needs to know of the request it decodes the answer of.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The model name the client used; the answer carries it.
    pub model: String,
    /// Whether the client asked for `stream_options.include_usage`.
    pub include_usage: bool,
    /// When the answer is made, in seconds since the Unix epoch: OpenAI's `created`.
    pub created: u64,
}

/// A provider: how to call it, and how to read it.
pub trait Provider: fmt::Debug + Send + Sync {
    /// LiteLLM's name of it: `openai`, `anthropic`, `groq` …
    fn name(&self) -> &'static str;

    /// The dialect it speaks for `operation`, or `None` if it has no such call. Where it is the
    /// client's own dialect, bytes pass through and [`Provider::decoder`] is not asked.
    fn dialect(&self, operation: Operation) -> Option<Dialect>;

    /// Where it lives when the config names no `api_base`.
    fn default_base(&self) -> Option<&'static str>;

    /// The path of `operation` below the base.
    fn path(&self, operation: Operation) -> &'static str;

    /// The whole URL of `operation` at `base`, which is the config's `api_base` or the default.
    /// Forgives what people write there: a slash at the end, or the path itself.
    fn url(&self, base: &str, operation: Operation) -> String {
        let base = base.trim_end_matches('/');
        let path = self.path(operation);
        if base.ends_with(path) { base.to_owned() } else { format!("{base}{path}") }
    }

    /// The environment variables its key is looked for in, first one first.
    fn key_variables(&self) -> &'static [&'static str];

    /// The environment variables its base is looked for in, where the config names none.
    fn base_variables(&self) -> &'static [&'static str] {
        &[]
    }

    /// Runs on the operator's own machines: costs nothing and needs no key unless told otherwise.
    fn is_free(&self) -> bool {
        false
    }

    /// The headers every call to this deployment carries, credentials included (marked sensitive).
    ///
    /// # Errors
    /// When a value cannot be a header.
    fn headers(
        &self,
        access: &Access<'_>,
    ) -> Result<Vec<(HeaderName, HeaderValue)>, http::header::InvalidHeaderValue>;

    /// Writes the body for one attempt at `target`.
    ///
    /// # Errors
    /// When the client's request cannot be put to this provider.
    fn request(&self, call: &Call<'_>, target: &Target) -> Result<UpstreamBody, RequestError>;

    /// Starts to decode one answer. The exchange only asks where [`Provider::dialect`] is not the
    /// client's; where it is, this copies and watches.
    fn decoder(&self, operation: Operation, asked: Asked) -> Box<dyn Decoder>;

    /// Reads an answer whose status says error. With a `status` below 400 the body is an error that
    /// came inside a stream, and the status is found in it.
    fn error(&self, status: u16, body: &[u8]) -> UpstreamError;
}
