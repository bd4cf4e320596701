//! The one way out: why a request is refused or failed, before it is put into a client's dialect.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

/// A boxed [`Reject`]: it is rare and large, and results that carry it should stay small.
pub type Rejection = Box<Reject>;

/// Why a request ends without the answer it asked for.
///
/// `message` is for the caller; `source` is for the log and never leaves the process. Status and
/// `kind` follow LiteLLM's table, the machine-readable `code` OpenAI's.
#[derive(Debug)]
pub struct Reject {
    /// The HTTP status.
    pub status: u16,
    /// OpenAI's `type`: `invalid_request_error`, `rate_limit_error`, `auth_error` …
    pub kind: Cow<'static, str>,
    /// OpenAI's `code`: `model_not_found`, `rate_limit_exceeded`, `invalid_api_key` …
    pub code: Option<Cow<'static, str>>,
    /// The member of the request at fault.
    pub param: Option<Cow<'static, str>>,
    /// What went wrong, for the caller. Never holds a secret or another tenant's data.
    pub message: String,
    /// When it is worth trying again.
    pub retry_after: Option<Duration>,
    /// Headers that explain the refusal, such as `x-ratelimit-*`.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// What went wrong, for our log.
    pub source: Option<Box<dyn Error + Send + Sync>>,
}

impl Reject {
    /// A refusal with nothing but the essentials.
    pub fn new(status: u16, kind: &'static str, message: impl Into<String>) -> Rejection {
        Box::new(Reject {
            status,
            kind: Cow::Borrowed(kind),
            code: None,
            param: None,
            message: message.into(),
            retry_after: None,
            headers: Vec::new(),
            source: None,
        })
    }

    /// 400: the request is not one we can serve.
    pub fn invalid_request(message: impl Into<String>) -> Rejection {
        Reject::new(400, "invalid_request_error", message)
    }

    /// 401: nobody we know.
    pub fn unauthorized(kind: &'static str, message: impl Into<String>) -> Rejection {
        Reject::new(401, kind, message)
    }

    /// 429: too much, come back later.
    pub fn too_many_requests(message: impl Into<String>, retry_after: Duration) -> Rejection {
        let mut reject = Reject::new(429, "rate_limit_error", message);
        reject.code = Some(Cow::Borrowed("rate_limit_exceeded"));
        reject.retry_after = Some(retry_after);
        reject
    }

    /// 500: our own fault.
    pub fn internal(
        message: impl Into<String>,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Rejection {
        let mut reject = Reject::new(500, "internal_server_error", message);
        reject.source = Some(source.into());
        reject
    }

    /// Sets OpenAI's machine-readable `code`.
    pub fn with_code(mut self: Box<Self>, code: impl Into<Cow<'static, str>>) -> Rejection {
        self.code = Some(code.into());
        self
    }

    /// Sets the member at fault.
    pub fn with_param(mut self: Box<Self>, param: impl Into<Cow<'static, str>>) -> Rejection {
        self.param = Some(param.into());
        self
    }

    /// Adds a header to the refusal.
    pub fn with_header(mut self: Box<Self>, name: HeaderName, value: HeaderValue) -> Rejection {
        self.headers.push((name, value));
        self
    }
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.status, self.kind, self.message)
    }
}

impl Error for Reject {}
