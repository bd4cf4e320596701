//! Why an attempt failed, whose fault that is, and what the client is told in the end.

use std::borrow::Cow;
use std::time::Duration;

use tollway_filter_api::trace::Span;
use tollway_filter_api::{Reject, Rejection};
use tollway_providers::{AccessError, DecodeError, RequestError, UpstreamError};

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The request cannot be put to this provider.
    Request,
    /// No connection came about.
    Connect,
    /// A deadline passed.
    Timeout,
    /// The provider answered with an error.
    Status,
    /// The answer was cut short or is not what the provider's reference promises.
    Broken,
    /// Every deployment rests.
    Cooled,
    /// The deployment's own limits are used up.
    Full,
    /// There is nothing to try.
    Nothing,
}

/// One failed attempt.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) cause: Cause,
    /// The status the client gets if this is the last word.
    pub(crate) status: u16,
    pub(crate) retry_after: Option<Duration>,
    /// LiteLLM's name of the provider in messages: `OpenAIException`.
    provider: &'static str,
    /// Boxed, because results that carry a fault should stay small.
    error: Box<UpstreamError>,
    /// For the log only.
    detail: Option<String>,
}

impl Fault {
    fn new(cause: Cause, status: u16, message: impl Into<String>) -> Fault {
        Fault {
            cause,
            status,
            retry_after: None,
            provider: "",
            error: Box::new(UpstreamError {
                status,
                message: message.into(),
                ..Default::default()
            }),
            detail: None,
        }
    }

    /// No connection came about.
    pub(crate) fn connect(provider: &'static str, detail: impl Into<String>) -> Fault {
        let mut fault = Fault::new(Cause::Connect, 500, "Connection error.");
        fault.provider = provider;
        fault.detail = Some(detail.into());
        fault
    }

    /// The credentials cannot be used.
    pub(crate) fn credentials(provider: &'static str, error: &AccessError) -> Fault {
        let mut fault = Fault::new(Cause::Connect, 500, "The provider's credentials are unusable.");
        fault.provider = provider;
        fault.detail = Some(format!("{}: {error}", error.setting));
        fault
    }

    /// A deadline passed: which, for the client, and after how long.
    pub(crate) fn timeout(provider: &'static str, what: &str, after: Duration) -> Fault {
        let message = format!("Request timed out: {what} within {:.1} s.", after.as_secs_f64());
        let mut fault = Fault::new(Cause::Timeout, 408, message);
        fault.provider = provider;
        fault
    }

    /// The provider answered with an error.
    pub(crate) fn status(
        provider: &'static str,
        error: UpstreamError,
        retry_after: Option<Duration>,
    ) -> Fault {
        let mut fault = Fault::new(Cause::Status, error.status, "");
        fault.provider = provider;
        fault.retry_after = retry_after;
        fault.error = Box::new(error);
        fault
    }

    /// The connection or the answer broke.
    pub(crate) fn broken(provider: &'static str, message: impl Into<String>) -> Fault {
        let mut fault = Fault::new(Cause::Broken, 500, message);
        fault.provider = provider;
        fault
    }

    /// Says of an attempt's span what went wrong, in our own words: the provider's may repeat what
    /// was asked.
    pub(crate) fn tell(&self, span: &mut Span) {
        if self.cause == Cause::Status {
            span.set("http.response.status_code", u64::from(self.status));
        }
        span.fail(match self.cause {
            Cause::Request => "request",
            Cause::Connect => "connect",
            Cause::Timeout => "timeout",
            Cause::Status => "status",
            Cause::Broken => "broken",
            Cause::Cooled => "cooled",
            Cause::Full => "limits",
            Cause::Nothing => "nothing",
        });
    }

    /// Keeps what the transport said, for the log.
    pub(crate) fn with_detail(mut self, detail: impl Into<String>) -> Fault {
        self.detail = Some(detail.into());
        self
    }

    /// The answer could not be read.
    pub(crate) fn decode(provider: &'static str, error: DecodeError) -> Fault {
        match error {
            DecodeError::Reported(error) => {
                let status = if error.status < 400 { 500 } else { error.status };
                Fault::status(provider, UpstreamError { status, ..error }, None)
            }
            other => Fault::broken(provider, other.to_string()),
        }
    }

    /// The client's request cannot be put to this provider.
    pub(crate) fn request(error: RequestError) -> Fault {
        let param = match &error {
            RequestError::Invalid { param, .. } => param.clone(),
            RequestError::Unsupported { params, .. } => params.first().cloned(),
        };
        let mut fault = Fault::new(Cause::Request, 400, error.to_string());
        fault.error.param = param;
        fault
    }

    /// All deployments of the group rest.
    pub(crate) fn all_cooled(left: Duration) -> Fault {
        let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
        let message =
            format!("No deployments available for selected model, Try again in {seconds} seconds.");
        let mut fault = Fault::new(Cause::Cooled, 429, message);
        fault.retry_after = Some(left);
        fault
    }

    /// The deployment's own limits are used up.
    pub(crate) fn deployment_full(after: Duration) -> Fault {
        let mut fault = Fault::new(
            Cause::Full,
            429,
            "No deployments available for selected model: their configured rpm, tpm or \
             max_parallel_requests is used up.",
        );
        fault.retry_after = Some(after);
        fault
    }

    /// The request is larger than what any of the deployments reads, by our count.
    pub(crate) fn context_window(tokens: u64, window: u64) -> Fault {
        let message = format!(
            "This model's maximum context length is {window} tokens. However, your messages \
             resulted in about {tokens} tokens."
        );
        let mut fault = Fault::new(Cause::Status, 400, message);
        fault.error.code = Some("context_length_exceeded".into());
        fault
    }

    /// The group is empty, or none of its deployments serves this call.
    pub(crate) fn no_deployment(model: &str) -> Fault {
        let message = format!("There are no healthy deployments for this model: {model}");
        Fault::new(Cause::Nothing, 400, message)
    }

    /// The provider has no such call: an embedding asked of a chat model, say.
    pub(crate) fn not_served(provider: &'static str, call: &str, model: &str) -> Fault {
        let message = format!("{provider} does not serve {call} for this model: {model}");
        Fault::new(Cause::Nothing, 400, message)
    }

    /// Whether another attempt may help at all. A request that one provider finds wrong, another
    /// of the group would find wrong as well.
    pub(crate) fn retries(&self) -> bool {
        match self.cause {
            Cause::Request | Cause::Nothing | Cause::Cooled => false,
            Cause::Connect | Cause::Timeout | Cause::Broken | Cause::Full => true,
            Cause::Status => {
                matches!(self.status, 401 | 403 | 404 | 408 | 409 | 429) || self.status >= 500
            }
        }
    }

    /// Whether asking the same deployment again may help: not where it does not know our
    /// credentials or the model.
    pub(crate) fn same_deployment_may_help(&self) -> bool {
        !matches!(
            (self.cause, self.status),
            (Cause::Status, 401 | 403 | 404) | (Cause::Full, _) | (Cause::Timeout, _)
        )
    }

    /// Whether the request was larger than the model's window.
    pub(crate) fn is_context_window(&self) -> bool {
        self.cause == Cause::Status && self.error.code.as_deref() == Some("context_length_exceeded")
    }

    /// Whether the provider would not take the content.
    pub(crate) fn is_content_policy(&self) -> bool {
        let codes = ["content_policy_violation", "content_filter"];
        self.cause == Cause::Status
            && self.error.code.as_deref().is_some_and(|code| codes.contains(&code))
    }

    /// Whether another group may help.
    pub(crate) fn falls_back(&self) -> bool {
        self.retries() || matches!(self.cause, Cause::Cooled | Cause::Nothing)
    }

    /// Whether the deployment is to blame, and nobody's request.
    pub(crate) fn is_the_deployments(&self) -> bool {
        match self.cause {
            Cause::Connect | Cause::Timeout | Cause::Broken => true,
            Cause::Status => self.status == 429 || self.status >= 500,
            Cause::Request | Cause::Cooled | Cause::Full | Cause::Nothing => false,
        }
    }

    /// What the client is told: LiteLLM's status, type and message, OpenAI's code.
    pub(crate) fn into_reject(self) -> Rejection {
        let (class, kind, code): (_, _, Option<&'static str>) = match self.cause {
            Cause::Request if self.error.message.starts_with("litellm.") => {
                ("", "invalid_request_error", Some("unsupported_parameter"))
            }
            Cause::Request => ("BadRequestError", "invalid_request_error", None),
            Cause::Nothing => ("BadRequestError", "invalid_request_error", Some("model_not_found")),
            Cause::Cooled | Cause::Full => {
                ("", "all_deployments_in_cooldown", Some("rate_limit_exceeded"))
            }
            Cause::Connect | Cause::Broken => {
                ("APIConnectionError", "internal_server_error", Some("upstream_error"))
            }
            Cause::Timeout => ("Timeout", "invalid_request_error", Some("timeout")),
            Cause::Status => self.class_of_status(),
        };
        let said = &self.error.message;
        let message = match (class, self.provider) {
            ("", _) => said.clone(),
            (class, "") => format!("litellm.{class}: {said}"),
            (class, provider) => format!("litellm.{class}: {provider}Exception - {said}"),
        };
        // A status that is no HTTP error status would make the answer look like a success.
        let status = if (400..=599).contains(&self.status) { self.status } else { 500 };
        let mut reject = Reject::new(status, kind, message);
        reject.code = self.error.code.map(Cow::Owned).or_else(|| code.map(Cow::Borrowed));
        reject.param = self.error.param.map(Cow::Owned);
        reject.retry_after = self.retry_after;
        reject.source = self.detail.map(Into::into);
        reject
    }

    fn class_of_status(&self) -> (&'static str, &'static str, Option<&'static str>) {
        match (self.status, self.error.code.as_deref()) {
            (400, Some("context_length_exceeded")) => {
                ("ContextWindowExceededError", "invalid_request_error", None)
            }
            (400, Some("content_policy_violation" | "content_filter")) => {
                ("ContentPolicyViolationError", "invalid_request_error", None)
            }
            (401, _) => ("AuthenticationError", "authentication_error", Some("invalid_api_key")),
            (403, _) => ("PermissionDeniedError", "permission_error", None),
            (404, _) => ("NotFoundError", "invalid_request_error", Some("model_not_found")),
            (408, _) => ("Timeout", "invalid_request_error", Some("timeout")),
            (422, _) => ("UnprocessableEntityError", "invalid_request_error", None),
            (429, _) => ("RateLimitError", "throttling_error", Some("rate_limit_exceeded")),
            (503, _) => ("ServiceUnavailableError", "internal_server_error", None),
            (500.., _) => ("InternalServerError", "internal_server_error", None),
            _ => ("BadRequestError", "invalid_request_error", None),
        }
    }

    #[cfg(test)]
    pub(crate) fn for_test(status: u16) -> Fault {
        let error = UpstreamError { status, message: "no".into(), ..Default::default() };
        Fault::status("OpenAI", error, None)
    }
}
