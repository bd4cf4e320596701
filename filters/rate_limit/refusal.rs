//! The 429, in LiteLLM's words.

use std::fmt;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use tollway_filter_api::{Reject, Rejection};

static LIMIT_TYPE: HeaderName = HeaderName::from_static("rate_limit_type");
static RESET_AT: HeaderName = HeaderName::from_static("reset_at");

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
#[error(
    "Rate limit exceeded for {scope}: {subject}. Limit type: {kind}. Current limit: {limit}, \
     Remaining: {remaining}. Limit resets at: {resets_at}{hint}"
)]
pub(super) struct OverLimit {
    /// LiteLLM's name for whose limit it is.
    pub(super) scope: &'static str,
    /// Whose limit it is.
    pub(super) subject: String,
    /// What is limited, also in the header `rate_limit_type`.
    pub(super) kind: &'static str,
    pub(super) limit: u64,
    pub(super) remaining: u64,
    /// When it is worth trying again: whole seconds.
    pub(super) retry_after: Duration,
    /// The same as a date.
    pub(super) resets_at: Utc,
    /// What else there is to say.
    pub(super) hint: Hint,
}

/// What a caller should know beyond LiteLLM's words.
#[derive(Clone, Copy, Debug)]
pub(super) enum Hint {
    /// Waiting helps.
    None,
    /// Waiting does not help.
    NeverFits {
        /// What the request asks for.
        amount: u64,
    },
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Hint::None => Ok(()),
            Hint::NeverFits { amount } => write!(
                f,
                ". This request needs {amount}, which never fits: shorten it or lower its maximum \
                 of output tokens"
            ),
        }
    }
}

/// Whole seconds, rounded up, and never "at once": what a `retry-after` can say.
pub(super) fn whole_seconds(wait: Duration) -> Duration {
    let up = u64::from(wait.subsec_nanos() > 0);
    Duration::from_secs(wait.as_secs().saturating_add(up).max(1))
}

impl From<OverLimit> for Rejection {
    fn from(over: OverLimit) -> Rejection {
        let mut reject = Reject::too_many_requests(over.to_string(), over.retry_after);
        reject.headers.push((LIMIT_TYPE.clone(), HeaderValue::from_static(over.kind)));
        if let Ok(date) = HeaderValue::try_from(over.resets_at.to_string()) {
            reject.headers.push((RESET_AT.clone(), date));
        }
        reject
    }
}

/// A moment, as `2026-11-22 10:00:00 UTC`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Utc {
    /// Seconds since the Unix epoch.
    pub(super) seconds: u64,
}

impl Utc {
    /// The first whole second that is `wait` or more after `now`.
    pub(super) fn after(now: Duration, wait: Duration) -> Utc {
        let then = now.saturating_add(wait);
        Utc { seconds: then.as_secs().saturating_add(u64::from(then.subsec_nanos() > 0)) }
    }
}

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut date = Vec::with_capacity(24);
        crate::text::push_date(&mut date, Duration::from_secs(self.seconds));
        // 2026-11-22T10:00:00.000Z
        let date = String::from_utf8_lossy(&date);
        let (day, time) = date.split_once('T').unwrap_or_default();
        let (time, _) = time.split_once('.').unwrap_or_default();
        write!(f, "{day} {time} UTC")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_as_litellm_writes_them() {
        fn check(seconds: u64, expect: &str) {
            assert_eq!(Utc { seconds }.to_string(), expect);
        }
        check(0, "1970-01-01 00:00:00 UTC");
        check(951_782_400, "2000-02-29 00:00:00 UTC");
        check(1_795_341_600, "2026-11-22 10:00:00 UTC");
    }

    #[test]
    fn waiting_is_rounded_up_to_whole_seconds() {
        fn check(millis: u64, expect: u64) {
            assert_eq!(whole_seconds(Duration::from_millis(millis)).as_secs(), expect);
        }
        check(0, 1);
        check(1, 1);
        check(1_000, 1);
        check(1_001, 2);
        check(60_500, 61);
    }
}
