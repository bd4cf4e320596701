//! What a tool is.

use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tollway_wire::price::PicoDollars;

/// The longest text of a tool that reaches a model; a tool that has more says so and how to get it.
pub const CONTENT_BYTES_MAX: usize = 64 * 1024;

/// What a tool does to the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Risk {
    /// It looks at something. Calling it twice does no harm.
    Read,
    /// It changes something that stays, or tells somebody something.
    Write,
    /// It runs what the model has written.
    Exec,
}

/// What is told of a tool.
#[derive(Clone, Debug, Serialize)]
pub struct ToolSpec {
    /// By which people name it: `web_search`, `code.python`, `mcp.github.create_issue`. What has a dot
    /// belongs to the group before it: who may use `code` may use `code.python`.
    pub name: Arc<str>,
    /// What it does, for the model.
    pub description: Cow<'static, str>,
    /// Its arguments, as a JSON Schema of an object.
    pub parameters: Arc<Value>,
    /// What it does to the world.
    pub risk: Risk,
    /// Calling it again with the same [`Call::idempotency_key`] changes nothing more, so that a call
    /// of which nobody knows whether it was made can be made again.
    pub is_idempotent: bool,
}

/// For whom a tool works.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Whose files, memories and connections it may see: nothing of anybody else's.
    pub owner: Arc<str>,
    /// The run it works for; none for a call through the API.
    pub run: Option<Arc<str>>,
    /// What the caller said of itself: time zone, language …
    pub user_context: Arc<Value>,
}

/// One call of a tool.
pub struct Call<'a> {
    /// Its arguments. They fit the tool's schema.
    pub arguments: Value,
    /// For whom.
    pub scope: &'a Scope,
    /// The same whenever the same call is made again. It is sent along where somebody takes it.
    pub idempotency_key: &'a str,
    /// Takes what the tool prints while it works.
    pub progress: &'a (dyn Fn(&str) + Send + Sync),
}

/// What a tool has found or done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Output {
    /// For the model: what it reads as the tool's result. Data, never instructions. At most
    /// [`CONTENT_BYTES_MAX`]; what is longer is cut.
    pub content: String,
    /// For programs, where there is more than text.
    pub data: Option<Value>,
    /// Files that have come of it, by id.
    pub files: Vec<Arc<str>>,
    /// What it cost, beside model calls.
    pub cost: PicoDollars,
    /// It was remembered and not asked for again.
    pub is_cached: bool,
}

impl Output {
    /// Text alone.
    pub fn text(content: impl Into<String>) -> Output {
        Output { content: content.into(), ..Output::default() }
    }
}

/// Why a tool has not done what it was asked. All of it is told to the model, which may do better;
/// nothing of it holds a secret.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ToolError {
    /// The arguments are not what the tool takes.
    #[error("invalid arguments: {0}")]
    Arguments(String),
    /// It may not do that: a policy forbids it.
    #[error("not allowed: {0}")]
    Refused(String),
    /// It cannot work here, now or at all.
    #[error("{message}")]
    Unavailable {
        /// A word for programs: `sandbox_unavailable`, `not_configured` …
        code: &'static str,
        /// Why.
        message: String,
    },
    /// Too many calls.
    #[error("too many calls; try again in {} s", .0.as_secs().max(1))]
    RateLimited(Duration),
    /// It took too long.
    #[error("the tool did not finish within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// It was tried and went wrong.
    #[error("{0}")]
    Failed(String),
}

/// What becomes of a call.
pub type Called<'a> = Pin<Box<dyn Future<Output = Result<Output, ToolError>> + Send + 'a>>;

/// A tool. Dropping the future of a call stops what it does, processes included.
pub trait Tool: Send + Sync {
    /// What it is.
    fn spec(&self) -> &ToolSpec;

    /// What one call costs at most, beside model calls: set aside before it is made.
    fn cost_max(&self) -> PicoDollars {
        PicoDollars::ZERO
    }

    /// Does it.
    fn call<'a>(&'a self, call: Call<'a>) -> Called<'a>;
}
