//! Which way a request goes to a provider: as the client sent it, or put into OpenAI's form first.

use std::sync::OnceLock;

use bytes::Bytes;
use tollway_filter_api::RequestView;
use tollway_providers::{Provider, RequestError};
use tollway_wire::client;
use tollway_wire::operation::{Dialect, Operation};
use tollway_wire::scan::{self, Object};

use super::fault::Fault;

/// What one provider is asked for, and in which dialect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lane {
    /// The call at the provider: mostly the one the client made.
    pub(super) operation: Operation,
    /// The dialect of the provider's request and, once decoded, of its answer.
    pub(super) dialect: Dialect,
    /// Neither is the client's: both are translated.
    pub(super) translated: bool,
}

impl Lane {
    /// The way to `model` at `provider`; `None` if it has no such call.
    pub(super) fn of(provider: &dyn Provider, view: &RequestView, model: &str) -> Option<Lane> {
        let operation = view.operation;
        if let Some(dialect) = provider.dialect(operation, view.dialect, model) {
            let translated = dialect != view.dialect;
            // Only what has a middle form can be translated.
            let has_form = matches!(
                operation,
                Operation::ChatCompletions | Operation::Embeddings | Operation::CountTokens
            );
            return (!translated || has_form).then_some(Lane { operation, dialect, translated });
        }
        // A legacy completion is a chat of one turn.
        let chat = Operation::ChatCompletions;
        let as_chat = operation == Operation::Completions
            && provider.dialect(chat, Dialect::OpenAi, model) == Some(Dialect::OpenAi);
        as_chat.then_some(Lane { operation: chat, dialect: Dialect::OpenAi, translated: true })
    }
}

/// A request in OpenAI's form, written when the first provider needs it and kept for the next one.
#[derive(Default)]
pub(crate) struct Translated {
    kept: OnceLock<Result<(Bytes, Object), client::Invalid>>,
}

impl Translated {
    /// The request in OpenAI's form.
    pub(super) fn of(
        &self,
        view: &RequestView,
        history: Option<&[u8]>,
    ) -> Result<(&Bytes, &Object), Fault> {
        let kept = self.kept.get_or_init(|| {
            let json = client::to_openai(view.dialect, view.operation, &view.body, history)?;
            let json = Bytes::from(json);
            let object = scan::scan(&json, &scan::Limits::default())
                .map_err(|error| client::Invalid::new(error.to_string()))?;
            Ok((json, object))
        });
        match kept {
            Ok((json, object)) => Ok((json, object)),
            Err(invalid) => Err(Fault::request(RequestError::Invalid {
                message: invalid.message.clone(),
                param: invalid.param.clone(),
            })),
        }
    }
}
