//! One file per provider: an OpenAI-shaped request to its request, its bytes back to OpenAI's.
//!
//! Pure and without I/O: the exchange, the agent loop and the tests use the same code. A provider
//! whose API is OpenAI's is a line in [`presets`], not code.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use tollway_wire::operation::{Dialect, Operation};
use tollway_wire::scan::Object;
use tollway_wire::sse::TooLong;
use tollway_wire::usage::Usage;

pub mod anthropic;
pub mod azure;
pub mod bedrock;
mod chunks;
pub mod cohere;
pub mod embeddings;
pub mod gemini;
mod media;
mod messages;
pub mod openai;
mod params;
pub mod presets;
pub mod prices;
mod request;
mod rerank;
mod response;
mod tool_blocks;
mod tools;
pub mod vertex;

/// A request, as the exchange hands it to a provider.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// What is asked for.
    pub operation: Operation,
    /// The dialect of `body`: what [`Provider::dialect`] said.
    pub dialect: Dialect,
    /// The whole body: valid JSON, an object. Besides what the dialect has, it always has `model`,
    /// and `stream` where a stream is asked for, also where the dialect has them in the path.
    pub body: &'a Bytes,
    /// Where the top-level members of `body` are.
    pub object: &'a Object,
    /// Whether a stream is asked for.
    pub stream: bool,
    /// `body` was put into OpenAI's form by us and not by a client: members that only help other
    /// providers (`thinking`, `cache_control` …) may be in it, and are to be left out where OpenAI's
    /// own API would refuse them.
    pub translated: bool,
    /// The client's `anthropic-beta` header, where it sent one: a list of tokens, checked and bounded
    /// by the gateway. It is meant for calls in Anthropic's own dialect.
    pub betas: Option<&'a str>,
    /// The body as the client sent it, where it is a form with files and not JSON; `body` then holds
    /// the form's text fields.
    pub form: Option<&'a Form>,
}

impl<'a> Call<'a> {
    /// A client's call that is not a stream.
    pub fn new(
        operation: Operation,
        dialect: Dialect,
        body: &'a Bytes,
        object: &'a Object,
    ) -> Call<'a> {
        Call {
            operation,
            dialect,
            body,
            object,
            stream: false,
            translated: false,
            betas: None,
            form: None,
        }
    }

    /// The same call, with or without a stream.
    #[must_use]
    pub fn streamed(self, stream: bool) -> Call<'a> {
        Call { stream, ..self }
    }
}

/// A `multipart/form-data` body.
#[derive(Clone, Debug)]
pub struct Form {
    /// Its `content-type`, boundary included.
    pub content_type: HeaderValue,
    /// The whole body.
    pub bytes: Bytes,
    /// Where the value of the field `model` is in `bytes`.
    pub model: Range<usize>,
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

/// What an operator may set for a provider besides key and address: a member of `litellm_params`,
/// or a variable of the environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// LiteLLM's name of it: `aws_region_name`.
    pub name: &'static str,
    /// The environment variables it is looked for in, first one first.
    pub variables: &'static [&'static str],
    /// Whether it must not be shown.
    pub secret: bool,
}

/// Finds settings by name.
pub trait Settings {
    /// The value of a setting, if the operator has set it.
    fn get(&self, name: &str) -> Option<&str>;
}

impl Settings for BTreeMap<String, String> {
    fn get(&self, name: &str) -> Option<&str> {
        BTreeMap::get(self, name).map(String::as_str)
    }
}

/// No settings.
#[derive(Debug)]
pub struct NoSettings;

impl Settings for NoSettings {
    fn get(&self, _name: &str) -> Option<&str> {
        None
    }
}

/// What a deployment's config says about how to reach the provider. It holds secrets and does not
/// print.
#[derive(Clone, Copy)]
pub struct Access<'a> {
    /// The secret, if there is one.
    pub api_key: Option<&'a str>,
    /// `api_base` as it was written, before [`Provider::base`]: where the form of the address says
    /// which of a provider's APIs is meant.
    pub api_base: Option<&'a str>,
    /// OpenAI's `organization`.
    pub organization: Option<&'a str>,
    /// `api_version`, where the provider's API is versioned by header or query.
    pub api_version: Option<&'a str>,
    /// What [`Provider::settings`] names.
    pub settings: &'a dyn Settings,
}

impl Default for Access<'_> {
    fn default() -> Self {
        Access {
            api_key: None,
            api_base: None,
            organization: None,
            api_version: None,
            settings: &NoSettings,
        }
    }
}

impl Access<'_> {
    /// The value of a setting, if the operator has set it.
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.settings.get(name).filter(|value| !value.is_empty())
    }
}

/// What the operator set does not lead to the provider.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct AccessError {
    /// The member of `litellm_params` at fault: `api_key`, `aws_region_name` …
    pub setting: &'static str,
    /// What is wrong with it, for the operator; never its value.
    pub message: String,
}

impl AccessError {
    /// A fault of one setting.
    pub fn new(setting: &'static str, message: impl Into<String>) -> AccessError {
        AccessError { setting, message: message.into() }
    }
}

/// A header value of what an operator wrote.
///
/// # Errors
/// When it holds what no header can: a line feed, say.
pub fn header(setting: &'static str, value: &str) -> Result<HeaderValue, AccessError> {
    HeaderValue::from_str(value)
        .map_err(|_| AccessError::new(setting, "holds what no header can: a line feed, say"))
}

/// The same for a credential: marked sensitive.
///
/// # Errors
/// As [`header`].
pub fn secret_header(setting: &'static str, value: &str) -> Result<HeaderValue, AccessError> {
    let mut value = header(setting, value)?;
    value.set_sensitive(true);
    Ok(value)
}

/// Which call of a provider's API.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// What is asked for.
    pub operation: Operation,
    /// What [`Provider::dialect`] said.
    pub dialect: Dialect,
    /// The model's name at the provider.
    pub model: &'a str,
    /// Whether a stream is asked for.
    pub stream: bool,
}

/// A request that is ready but for its signature.
#[derive(Clone, Copy, Debug)]
pub struct Unsigned<'a> {
    /// The `host` header.
    pub host: &'a str,
    /// Path and query, as they go on the wire.
    pub path_and_query: &'a str,
    /// The body.
    pub body: &'a [u8],
    /// The time, since the Unix epoch.
    pub now: Duration,
}

/// How a short-lived token is asked for: a `POST` of a form.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenRequest {
    /// Where.
    pub url: String,
    /// The body, `application/x-www-form-urlencoded`. It holds a secret.
    pub body: Vec<u8>,
}

/// A short-lived token. It does not print.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// The token.
    pub bearer: String,
    /// How long it lives from now on.
    pub lifetime: Duration,
}

impl Token {
    /// Reads an OAuth answer (RFC 6749, 5.1). The error does not quote it.
    ///
    /// # Errors
    /// When it holds no token.
    pub fn of_answer(answer: &[u8]) -> Result<Token, DecodeError> {
        #[derive(serde::Deserialize)]
        struct Answer {
            access_token: String,
            expires_in: Option<serde_json::Value>,
        }
        let answer: Answer = serde_json::from_slice(answer)
            .map_err(|_| DecodeError::Malformed("not the answer of a token server".into()))?;
        // Entra's first version writes the number as text.
        let seconds = answer.expires_in.and_then(|value| match value {
            serde_json::Value::String(text) => text.parse().ok(),
            value => value.as_u64(),
        });
        // RFC 6749 leaves it out where it is known otherwise; an hour is what everybody means.
        let lifetime = Duration::from_secs(seconds.unwrap_or(3600));
        Ok(Token { bearer: answer.access_token, lifetime })
    }
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
    /// The body's type, where it is not `application/json`.
    pub content_type: Option<HeaderValue>,
}

impl UpstreamBody {
    /// A body that needs nothing else.
    pub fn plain(bytes: Bytes) -> Self {
        UpstreamBody {
            bytes,
            rest: Vec::new(),
            usage_added: false,
            headers: Vec::new(),
            content_type: None,
        }
    }

    /// All of it in one piece.
    pub fn joined(&self) -> Bytes {
        let pieces: Vec<&[u8]> =
            [&self.bytes].into_iter().chain(&self.rest).map(|piece| &**piece).collect();
        pieces.concat().into()
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

impl From<TooLong> for DecodeError {
    fn from(error: TooLong) -> Self {
        DecodeError::Malformed(error.to_string())
    }
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

/// Translates one answer into the dialect that [`Provider::dialect`] said: mostly OpenAI's.
pub trait Decoder: Send {
    /// Translates a whole answer that is not a stream: the provider's JSON in, the dialect's out.
    ///
    /// # Errors
    /// When the body is not what the provider's reference promises.
    fn whole(&mut self, body: &[u8]) -> Result<Vec<u8>, DecodeError>;

    /// Takes the next bytes of a stream, cut anywhere, and appends the dialect's server-sent events
    /// to `out`: whole ones only, ready to be sent. In OpenAI's dialect `data: [DONE]` is appended
    /// as soon as the provider has announced the end.
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
    /// A number that no other answer has, for the ids of answers whose provider gives none.
    pub nonce: u64,
}

/// A provider: how to call it, and how to read it.
pub trait Provider: fmt::Debug + Send + Sync {
    /// LiteLLM's name of it: `openai`, `anthropic`, `groq` …
    fn name(&self) -> &'static str;

    /// The dialect in which it takes `operation` for this model and answers it, when the client
    /// speaks `client`: the client's own where it can, so that bytes pass, else OpenAI's. `None` if
    /// it has no such call.
    fn dialect(&self, operation: Operation, client: Dialect, model: &str) -> Option<Dialect>;

    /// Where it lives when the config names no `api_base`.
    fn default_base(&self, access: &Access<'_>) -> Option<Cow<'static, str>>;

    /// The same for one model as the operator named it, where such a name may say where the model
    /// lives: a region, an ARN. Never asked with a name that came from a client.
    fn model_base(&self, model: &str, access: &Access<'_>) -> Option<Cow<'static, str>> {
        let _ = model;
        self.default_base(access)
    }

    /// What is left of an `api_base` that people wrote when the provider's own paths are taken off
    /// it, or what it lacks is added. No slash at its end.
    fn base<'b>(&self, written: &'b str) -> Cow<'b, str> {
        Cow::Borrowed(written.trim_end_matches('/'))
    }

    /// Path and query of a call below the base; with a slash in front.
    fn path(&self, place: &Place<'_>, access: &Access<'_>) -> Cow<'static, str>;

    /// How many inputs one call may have, where the provider takes fewer than OpenAI does: a request
    /// with more is sent in several, each in OpenAI's form.
    fn inputs_per_call(&self, operation: Operation, model: &str) -> Option<usize> {
        let _ = (operation, model);
        None
    }

    /// Path and query, below the base, of what is stored at the provider in OpenAI's way: `path` is
    /// OpenAI's own, such as `/files/file-1/content`, without a query. `None` if it stores nothing
    /// that way.
    fn stored_path(&self, path: &str, access: &Access<'_>) -> Option<String> {
        let _ = (path, access);
        None
    }

    /// Path and query, below the base, of a websocket that speaks OpenAI's realtime events with a
    /// model. `None` if it has none.
    fn realtime_path(&self, model: &str, access: &Access<'_>) -> Option<String> {
        let _ = (model, access);
        None
    }

    /// The environment variables its key is looked for in, first one first.
    fn key_variables(&self) -> &'static [&'static str];

    /// The environment variables its base is looked for in, where the config names none.
    fn base_variables(&self) -> &'static [&'static str] {
        &[]
    }

    /// What else an operator may set.
    fn settings(&self) -> &'static [Setting] {
        &[]
    }

    /// Runs on the operator's own machines: costs nothing and needs no key unless told otherwise.
    fn is_free(&self) -> bool {
        false
    }

    /// Whether it cannot be called without an `api_key`. Where settings may stand for one,
    /// [`Provider::headers`] says what is missing.
    fn needs_key(&self) -> bool {
        !self.is_free()
    }

    /// The headers every call to this deployment carries, credentials included (marked sensitive).
    ///
    /// # Errors
    /// When a setting is missing or cannot be used: found when the config is read.
    fn headers(&self, access: &Access<'_>) -> Result<Vec<(HeaderName, HeaderValue)>, AccessError>;

    /// The headers that depend on the whole request: its signature. They replace those of
    /// [`Provider::headers`].
    ///
    /// # Errors
    /// When the credentials cannot be used.
    fn sign(
        &self,
        request: &Unsigned<'_>,
        access: &Access<'_>,
    ) -> Result<Vec<(HeaderName, HeaderValue)>, AccessError> {
        let _ = (request, access);
        Ok(Vec::new())
    }

    /// Whether [`Provider::sign`] has anything to add.
    fn signs(&self, access: &Access<'_>) -> bool {
        let _ = access;
        false
    }

    /// How to get the bearer token that calls carry, where it is neither a key nor lasting. The
    /// exchange keeps it for as long as it lives.
    ///
    /// # Errors
    /// When the credentials cannot be used.
    fn token_request(
        &self,
        access: &Access<'_>,
        now: Duration,
    ) -> Result<Option<TokenRequest>, AccessError> {
        let _ = (access, now);
        Ok(None)
    }

    /// Writes the body for one attempt at `target`.
    ///
    /// # Errors
    /// When the client's request cannot be put to this provider.
    fn request(&self, call: &Call<'_>, target: &Target) -> Result<UpstreamBody, RequestError>;

    /// Starts to decode one answer into the dialect that [`Provider::dialect`] said; `None` where it
    /// is in it already, byte by byte.
    fn decoder(&self, place: &Place<'_>, asked: Asked) -> Option<Box<dyn Decoder>>;

    /// Reads an answer whose status says error. With a `status` below 400 the body is an error that
    /// came inside a stream, and the status is found in it.
    fn error(&self, status: u16, body: &[u8]) -> UpstreamError;

    /// How long an error's body says to wait, where the provider sends no `retry-after`.
    fn retry_after(&self, body: &[u8]) -> Option<Duration> {
        let _ = body;
        None
    }
}
