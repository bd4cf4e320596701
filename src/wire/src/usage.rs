//! The tokens of one model call, as the provider counted them.

/// Token counts of one call, in OpenAI's inclusive convention: `prompt_tokens` holds every input
/// token, cached ones included, and `completion_tokens` every output token, reasoning included. The
/// other fields say how many of those are of a kind that has its own price.
///
/// Providers that count exclusively (Anthropic, Bedrock) are converted when they are decoded, so
/// that cost, limits and metrics need to know one convention only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// All input tokens.
    pub prompt_tokens: u64,
    /// All output tokens.
    pub completion_tokens: u64,
    /// Input tokens read from the provider's prompt cache; part of `prompt_tokens`.
    pub cache_read_tokens: u64,
    /// Input tokens written to a prompt cache that lives five minutes (or the provider's only kind
    /// of cache); part of `prompt_tokens`.
    pub cache_write_tokens: u64,
    /// Input tokens written to a prompt cache that lives one hour; part of `prompt_tokens`.
    pub cache_write_1h_tokens: u64,
    /// Input tokens that are audio; part of `prompt_tokens`.
    pub audio_prompt_tokens: u64,
    /// Output tokens that are audio; part of `completion_tokens`.
    pub audio_completion_tokens: u64,
    /// Output tokens spent on thinking; part of `completion_tokens`.
    pub reasoning_tokens: u64,
    /// Web searches the provider ran by itself and bills apiece.
    pub web_searches: u64,
}

impl Usage {
    /// Input and output tokens together.
    pub fn total_tokens(&self) -> u64 {
        self.prompt_tokens.saturating_add(self.completion_tokens)
    }
}
