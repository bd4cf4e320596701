//! What a caller asks for, and in which dialect.

/// One kind of model call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// `POST /v1/chat/completions`
    ChatCompletions,
    /// `POST /v1/completions`, OpenAI's legacy text completion.
    Completions,
    /// `POST /v1/embeddings`
    Embeddings,
}

impl Operation {
    /// The path below `/v1`, which is also how OpenAI-compatible providers call it.
    pub fn path(self) -> &'static str {
        match self {
            Operation::ChatCompletions => "/chat/completions",
            Operation::Completions => "/completions",
            Operation::Embeddings => "/embeddings",
        }
    }

    /// LiteLLM's `call_type`, used as the value of metric labels and log fields.
    pub fn name(self) -> &'static str {
        match self {
            Operation::ChatCompletions => "chat_completions",
            Operation::Completions => "completions",
            Operation::Embeddings => "embeddings",
        }
    }

    /// The member of the request without which the call makes no sense.
    pub fn required(self) -> &'static str {
        match self {
            Operation::ChatCompletions => "messages",
            Operation::Completions => "prompt",
            Operation::Embeddings => "input",
        }
    }
}

/// The API a client or a provider speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// OpenAI's API, and what everybody copied from it.
    OpenAi,
    /// Anthropic's Messages API.
    Anthropic,
}
