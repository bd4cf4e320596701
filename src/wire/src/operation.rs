//! What a caller asks for, and in which dialect.

/// One kind of model call. The same operation may be asked for in several [`Dialect`]s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// A turn of a conversation: `POST /v1/chat/completions`, `/v1/responses`, `/v1/messages`,
    /// Gemini's `:generateContent`.
    ChatCompletions,
    /// `POST /v1/completions`, OpenAI's legacy text completion.
    Completions,
    /// `POST /v1/embeddings`, Gemini's `:embedContent`.
    Embeddings,
    /// How many tokens a request would take: Anthropic's `/v1/messages/count_tokens`, Gemini's
    /// `:countTokens`.
    CountTokens,
    /// `POST /v1/moderations`
    Moderations,
    /// `POST /v1/rerank`, as Cohere and Jina have it.
    Rerank,
    /// `POST /v1/images/generations`
    ImageGeneration,
    /// `POST /v1/images/edits`, multipart.
    ImageEdit,
    /// `POST /v1/images/variations`, multipart.
    ImageVariation,
    /// `POST /v1/audio/speech`: JSON in, audio out.
    Speech,
    /// `POST /v1/audio/transcriptions`, multipart.
    Transcription,
    /// `POST /v1/audio/translations`, multipart.
    Translation,
    /// `GET /v1/realtime`: a websocket, which has no body to be asked by.
    Realtime,
}

impl Operation {
    /// Every operation that is asked for by a body.
    pub const ALL: [Operation; 12] = [
        Operation::ChatCompletions,
        Operation::Completions,
        Operation::Embeddings,
        Operation::CountTokens,
        Operation::Moderations,
        Operation::Rerank,
        Operation::ImageGeneration,
        Operation::ImageEdit,
        Operation::ImageVariation,
        Operation::Speech,
        Operation::Transcription,
        Operation::Translation,
    ];

    /// The path below `/v1` in OpenAI's dialect, which is also how OpenAI-compatible providers call
    /// it.
    pub fn path(self) -> &'static str {
        match self {
            Operation::ChatCompletions => "/chat/completions",
            Operation::Completions => "/completions",
            Operation::Embeddings => "/embeddings",
            Operation::CountTokens => "/messages/count_tokens",
            Operation::Moderations => "/moderations",
            Operation::Rerank => "/rerank",
            Operation::ImageGeneration => "/images/generations",
            Operation::ImageEdit => "/images/edits",
            Operation::ImageVariation => "/images/variations",
            Operation::Speech => "/audio/speech",
            Operation::Transcription => "/audio/transcriptions",
            Operation::Translation => "/audio/translations",
            Operation::Realtime => "/realtime",
        }
    }

    /// The path below `/v1` by which clients of `dialect` call it, for messages.
    pub fn path_in(self, dialect: Dialect) -> &'static str {
        match (self, dialect) {
            (Operation::ChatCompletions, Dialect::Responses) => "/responses",
            (Operation::ChatCompletions, Dialect::Anthropic) => "/messages",
            (Operation::ChatCompletions, Dialect::Gemini) => ":generateContent",
            (Operation::CountTokens, Dialect::Gemini) => ":countTokens",
            (Operation::Embeddings, Dialect::Gemini) => ":embedContent",
            _ => self.path(),
        }
    }

    /// LiteLLM's `call_type`, used as the value of metric labels and log fields.
    pub fn name(self) -> &'static str {
        match self {
            Operation::ChatCompletions => "chat_completions",
            Operation::Completions => "completions",
            Operation::Embeddings => "embeddings",
            Operation::CountTokens => "count_tokens",
            Operation::Moderations => "moderations",
            Operation::Rerank => "rerank",
            Operation::ImageGeneration => "image_generation",
            Operation::ImageEdit => "image_edit",
            Operation::ImageVariation => "image_variation",
            Operation::Speech => "audio_speech",
            Operation::Transcription => "audio_transcription",
            Operation::Translation => "audio_translation",
            Operation::Realtime => "realtime",
        }
    }

    /// The member of the request without which the call makes no sense in this dialect, if there is
    /// such a one.
    pub fn required(self, dialect: Dialect) -> Option<&'static str> {
        Some(match (self, dialect) {
            (Operation::ChatCompletions, Dialect::OpenAi) => "messages",
            // `prompt` or `previous_response_id` may stand for it.
            (Operation::ChatCompletions, Dialect::Responses) => return None,
            (Operation::ChatCompletions | Operation::CountTokens, Dialect::Anthropic) => "messages",
            (Operation::ChatCompletions, _) => "contents",
            // Gemini's holds `contents` or a whole request.
            (Operation::CountTokens, _) => return None,
            (Operation::Completions | Operation::ImageGeneration, _) => "prompt",
            // Gemini's holds `content` or `requests`.
            (Operation::Embeddings, Dialect::Gemini) => return None,
            (Operation::Embeddings | Operation::Moderations | Operation::Speech, _) => "input",
            (Operation::Rerank, _) => "query",
            // The files of a form are not members of the view.
            (
                Operation::ImageEdit
                | Operation::ImageVariation
                | Operation::Transcription
                | Operation::Translation
                | Operation::Realtime,
                _,
            ) => return None,
        })
    }
}

/// The API a client or a provider speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// OpenAI's API, and what everybody copied from it. Also the middle form: what is translated
    /// between two other dialects passes through it.
    OpenAi,
    /// OpenAI's Responses API.
    Responses,
    /// Anthropic's Messages API.
    Anthropic,
    /// Google's Gemini API.
    Gemini,
}

impl Dialect {
    /// Its name in logs.
    pub fn name(self) -> &'static str {
        match self {
            Dialect::OpenAi => "openai",
            Dialect::Responses => "responses",
            Dialect::Anthropic => "anthropic",
            Dialect::Gemini => "gemini",
        }
    }
}
