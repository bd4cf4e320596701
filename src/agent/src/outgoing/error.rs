//! Why a request has no answer.

use std::error::Error;
use std::time::Duration;

use crate::outgoing::Refused;
use crate::tool::ToolError;

/// Why a request has no answer. Never has the URL: there may be a key in it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum OutgoingError {
    /// A policy forbids it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// It took too long.
    #[error("no answer within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// The answer is larger than was asked for.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    /// The answer is nothing that was asked for.
    #[error("the answer is {0}, which cannot be read here")]
    MediaType(String),
    /// From here to there, and from there to yet another place.
    #[error("redirected more than {0} times")]
    TooManyRedirects(usize),
    /// No connection, or none that lasted.
    #[error("{0}")]
    Failed(String),
}

impl OutgoingError {
    pub(super) fn of(error: &reqwest::Error) -> OutgoingError {
        let mut innermost: &dyn Error = error;
        while let Some(source) = innermost.source() {
            innermost = source;
        }
        if let Some(refused) = innermost.downcast_ref::<Refused>() {
            return OutgoingError::Refused(refused.clone());
        }
        OutgoingError::Failed(if error.is_connect() {
            // What the system or TLS says: there is no URL in that.
            format!("no connection: {innermost}")
        } else if error.is_builder() {
            "the request cannot be written".to_owned()
        } else if error.is_body() || error.is_decode() {
            "the answer was cut short or is garbled".to_owned()
        } else {
            "the connection was lost, or what came over it is not HTTP".to_owned()
        })
    }
}

impl From<OutgoingError> for ToolError {
    fn from(error: OutgoingError) -> ToolError {
        match error {
            OutgoingError::Refused(Refused(message)) => ToolError::Refused(message),
            OutgoingError::TimedOut(after) => ToolError::TimedOut(after),
            error => ToolError::Failed(error.to_string()),
        }
    }
}
