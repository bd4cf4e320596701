//! A chat request as every provider with an API of its own reads it.

use std::fmt::Display;

use tollway_wire::openai::request::{ChatRequest, Stop};

use crate::RequestError;

/// Reads a chat request, which has messages.
pub(crate) fn read_chat(body: &[u8]) -> Result<ChatRequest, RequestError> {
    let request: ChatRequest = serde_json::from_slice(body).map_err(|error| {
        RequestError::Invalid { message: format!("not a chat request: {error}"), param: None }
    })?;
    if request.messages.is_empty() {
        return Err(RequestError::Invalid {
            message: "Missing required parameter: 'messages'.".into(),
            param: Some("messages".into()),
        });
    }
    Ok(request)
}

/// What is wrong with one item of a list.
pub(crate) fn invalid_item(list: &str, at: usize, what: impl Display) -> RequestError {
    let param = format!("{list}[{at}]");
    RequestError::Invalid { message: format!("{param}: {what}"), param: Some(param) }
}

/// A translated request that is no JSON.
pub(crate) fn unwritable(error: impl Display) -> RequestError {
    RequestError::Invalid {
        message: format!("the request cannot be written: {error}"),
        param: None,
    }
}

/// The sequences to stop at. Providers refuse empty ones.
pub(crate) fn stop_sequences(stop: Option<Stop>) -> Option<Vec<String>> {
    let mut all = match stop? {
        Stop::One(one) => vec![one],
        Stop::Several(several) => several,
    };
    all.retain(|sequence| !sequence.is_empty());
    (!all.is_empty()).then_some(all)
}
