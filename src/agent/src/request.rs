//! What a request asks of agents: the body of `POST /chat/agent`, and of a chat or response whose
//! model is an agent.

use serde::Deserialize;
use serde_json::{Map, Value};
use tollway_filter_api::{Reject, Rejection};
use tollway_wire::price::PicoDollars;

use crate::agent::dollars;
use crate::run::Approval;

/// The most messages, tools and bytes of metadata that one request may bring.
const MESSAGES_MAX: usize = 2_048;
const TOOLS_MAX: usize = 256;
const METADATA_BYTES_MAX: usize = 16 * 1024;

/// Members of a chat request that go to the model as they are.
const SAMPLING: &[&str] = &[
    "temperature",
    "top_p",
    "max_tokens",
    "max_completion_tokens",
    "seed",
    "stop",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "reasoning_effort",
    "verbosity",
    "response_format",
    "service_tier",
    "user",
    "thinking",
    "safety_identifier",
    "prompt_cache_key",
];

/// The body of `POST /chat/agent`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct RunRequest {
    /// The conversation so far, as OpenAI's messages.
    pub messages: Vec<Value>,
    /// Names of tools, or functions of the caller's. Left out, those of the agent.
    pub tools: Option<Vec<Value>>,
    /// Whether the answer comes as events.
    pub stream: bool,
    /// What the caller says of itself: time zone, language, place …
    pub user_context: Option<Map<String, Value>>,
    /// The model that answers, or `agent/<name>`.
    pub model: Option<String>,
    /// The agent's name.
    pub agent: Option<String>,
    /// What the model is told beside what its agent says.
    pub instructions: Option<String>,
    /// The conversation it goes on with.
    pub thread_id: Option<String>,
    /// Answers at once; the run is asked for later.
    pub background: bool,
    /// What happens where nobody listens any more.
    pub on_disconnect: OnDisconnect,
    /// How many model calls it may make.
    pub max_steps: Option<u32>,
    /// What it may spend.
    #[serde(with = "dollars")]
    pub max_cost_usd: Option<PicoDollars>,
    /// How long it may be at work.
    pub deadline_s: Option<u64>,
    /// As OpenAI has it.
    pub tool_choice: Option<Value>,
    /// As OpenAI has it.
    pub parallel_tool_calls: Option<bool>,
    /// Which tools have to be approved, beside those that must anyway.
    pub approval: Option<Approval>,
    /// What the caller notes about the run.
    pub metadata: Option<Map<String, Value>>,
    /// Whether it can be asked for when it is over.
    pub store: Option<bool>,
    /// How events are told, as OpenAI has it.
    pub stream_options: Option<Value>,
    /// How many answers are wanted: one.
    pub n: Option<u64>,
    /// Everything else.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// What happens to a run where nobody listens any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDisconnect {
    /// It ends.
    #[default]
    Cancel,
    /// It goes on.
    Continue,
}

impl RunRequest {
    /// Reads the body of `POST /chat/agent`.
    ///
    /// # Errors
    /// Where it is not what it should be.
    pub fn read(body: &[u8]) -> Result<RunRequest, Rejection> {
        let request = read_json::<RunRequest>(body)?;
        if let Some(unknown) = request.rest.keys().find(|name| !SAMPLING.contains(&name.as_str())) {
            let message = format!("Unknown parameter: '{unknown}'.");
            return Err(Reject::invalid_request(message)
                .with_param(unknown.clone())
                .with_code("unknown_parameter"));
        }
        request.checked()
    }

    /// Reads a chat request of OpenAI's whose model is an agent. Members that agents do not know go to
    /// the model.
    ///
    /// # Errors
    /// Where it is not what it should be.
    pub fn read_chat(body: &[u8]) -> Result<RunRequest, Rejection> {
        read_json::<RunRequest>(body)?.checked()
    }

    fn checked(self) -> Result<RunRequest, Rejection> {
        let wrong = |param: &'static str, message: &str| {
            Err(Reject::invalid_request(message.to_owned()).with_param(param))
        };
        if self.messages.is_empty() {
            return wrong("messages", "'messages' must have at least one message.");
        }
        if self.messages.len() > MESSAGES_MAX {
            return wrong("messages", "Too many messages.");
        }
        for message in &self.messages {
            let role = message.get("role").and_then(Value::as_str);
            const ROLES: &[&str] = &["system", "developer", "user", "assistant", "tool"];
            if !role.is_some_and(|role| ROLES.contains(&role)) {
                return wrong(
                    "messages",
                    "Each message needs a 'role': system, developer, user, assistant or tool.",
                );
            }
        }
        if self.tools.as_ref().is_some_and(|tools| tools.len() > TOOLS_MAX) {
            return wrong("tools", "Too many tools.");
        }
        if self.n.is_some_and(|n| n != 1) {
            return wrong("n", "An agent gives one answer: 'n' must be 1.");
        }
        if self.max_steps == Some(0) {
            return wrong("max_steps", "'max_steps' must be at least 1.");
        }
        if self.deadline_s == Some(0) {
            return wrong("deadline_s", "'deadline_s' must be at least 1.");
        }
        let large = |map: &Option<Map<String, Value>>| {
            map.as_ref().is_some_and(|map| {
                serde_json::to_vec(map).is_ok_and(|b| b.len() > METADATA_BYTES_MAX)
            })
        };
        if large(&self.metadata) {
            return wrong("metadata", "'metadata' is larger than 16 KiB.");
        }
        if large(&self.user_context) {
            return wrong("user_context", "'user_context' is larger than 16 KiB.");
        }
        if self.background && self.store == Some(false) {
            return wrong(
                "store",
                "Background runs require store=true: there would be nothing to ask for later.",
            );
        }
        Ok(self)
    }
}

/// Reads JSON, and says where it is wrong.
///
/// # Errors
/// Where it is not what it should be.
pub fn read_json<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Rejection> {
    let from = &mut serde_json::Deserializer::from_slice(body);
    serde_path_to_error::deserialize(from).map_err(|error| {
        let path = error.path().to_string();
        let error = error.into_inner();
        if error.is_syntax() || error.is_eof() {
            return Reject::invalid_request(format!("Invalid JSON payload: {error}"))
                .with_param("request_body")
                .with_code("invalid_json");
        }
        let param = if path == "." { "request_body".to_owned() } else { path };
        Reject::invalid_request(format!("Invalid value for '{param}': {error}."))
            .with_param(param)
            .with_code("invalid_type")
    })
}
